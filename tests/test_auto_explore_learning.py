"""AutoExplore's learning: returns, the recurrent actor-critic, how actions are drawn, one update."""

import math

import numpy as np
import pytest
import torch
from lightning.fabric import Fabric
from torch import Tensor

from auto_explore.config import ActorCriticConfig
from auto_explore.src.agent import draw_actions, mixture
from auto_explore.src.dataset import ClipBatch, Replay
from auto_explore.src.learner import Learner, RunningMoments
from auto_explore.src.models.actor_critic import ActorCritic, PolicyOutput, State
from auto_explore.src.returns import Targets, Trajectories, vtrace
from tests.auto_explore_helpers import FRAME_SHAPE, make_episode


def trajectories(rewards: list[list[float]], discount: float = 0.9, **changes: Tensor) -> Trajectories:
    r = torch.tensor(rewards, dtype=torch.float64)
    parts = {"discounts": torch.full_like(r, discount), "log_ratios": torch.zeros_like(r), "valid": torch.ones_like(r)}
    return Trajectories(rewards=r, **{**parts, **changes})


def frames_of(batch: int, count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (batch, count, *FRAME_SHAPE), generator=generator, dtype=torch.uint8)


def network_of(seed: int = 0, encoder: str = "conv") -> ActorCritic:
    """Fresh weights with heads that say something."""
    torch.manual_seed(seed)
    network = ActorCritic(3, FRAME_SHAPE, encoder)
    for head in (network.to_logits, network.to_value):
        torch.nn.init.normal_(head.weight)
    return network


# Returns


def test_lambda_returns_equal_a_hand_computation() -> None:
    values = torch.tensor([[0.5, 1.0, -1.0, 2.0]], dtype=torch.float64)
    targets = vtrace(trajectories([[1.0, 2.0, 3.0]]), values, lambda_=0.8)
    third = 3 + 0.9 * 2.0
    second = 2 + 0.9 * (0.2 * -1.0 + 0.8 * third)
    first = 1 + 0.9 * (0.2 * 1.0 + 0.8 * second)
    assert targets.values.tolist() == [pytest.approx([first, second, third])]


def test_on_policy_advantages_are_those_of_generalised_advantage_estimation() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(2, 6, generator=generator, dtype=torch.float64)
    steps = trajectories(torch.randn(2, 5, generator=generator).tolist())
    deltas = steps.rewards + 0.9 * values[:, 1:] - values[:, :-1]
    expected = sum(
        (0.9 * 0.7) ** k * torch.cat([deltas[:, k:], torch.zeros(2, k, dtype=torch.float64)], dim=1) for k in range(5)
    )
    targets = vtrace(steps, values, lambda_=0.7)
    assert torch.allclose(targets.advantages, expected)
    assert torch.allclose(targets.values - values[:, :-1], expected)


def test_off_policy_targets_equal_a_hand_computation_with_clipped_weights() -> None:
    ratios = torch.tensor([[0.5, 4.0, 0.25]], dtype=torch.float64)
    values = torch.tensor([[1.0, 2.0, 3.0, 4.0]], dtype=torch.float64)
    targets = vtrace(trajectories([[1.0, -1.0, 2.0]], log_ratios=ratios.log()), values, lambda_=0.9, clip=1.0)
    rho = [0.5, 1.0, 0.25]
    deltas = [rho[0] * (1 + 0.9 * 2 - 1), rho[1] * (-1 + 0.9 * 3 - 2), rho[2] * (2 + 0.9 * 4 - 3)]
    third = 3 + deltas[2]
    second = 2 + deltas[1] + 0.9 * (0.9 * rho[1]) * deltas[2]
    first = 1 + deltas[0] + 0.9 * (0.9 * rho[0]) * (deltas[1] + 0.9 * (0.9 * rho[1]) * deltas[2])
    assert targets.values.tolist() == [pytest.approx([first, second, third])]
    following = [0.9 * second + 0.1 * 2, 0.9 * third + 0.1 * 3, 4.0]
    rewards, before = [1.0, -1.0, 2.0], [1.0, 2.0, 3.0]
    advantages = [rewards[t] + 0.9 * following[t] - before[t] for t in range(3)]
    assert targets.weights.tolist() == [pytest.approx(rho)]
    assert targets.advantages.tolist() == [pytest.approx(advantages)]


def test_without_weights_above_the_clip_a_higher_clip_changes_nothing() -> None:
    values = torch.randn(1, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    steps = trajectories([[1.0, 2.0, 3.0]], log_ratios=torch.full((1, 3), -0.5, dtype=torch.float64))
    assert torch.equal(vtrace(steps, values, 0.9, 1.0).values, vtrace(steps, values, 0.9, 5.0).values)


def test_an_end_cuts_the_return_and_what_comes_after_it() -> None:
    discounts = torch.tensor([[0.9, 0.0, 0.9]], dtype=torch.float64)

    def targets(last_reward: float, last_value: float) -> Targets:
        values = torch.tensor([[0.0, 0.0, last_value, last_value]], dtype=torch.float64)
        return vtrace(trajectories([[1.0, 2.0, last_reward]], discounts=discounts), values, 0.95)

    assert targets(3.0, 7.0).values[0, :2].tolist() == targets(-9.0, 1.0).values[0, :2].tolist()
    assert targets(3.0, 7.0).values[0, 1] == 2.0


def test_a_row_that_ends_earlier_bootstraps_from_the_frame_after_its_last_step() -> None:
    valid = torch.tensor([[1.0, 1.0, 0.0, 0.0]], dtype=torch.float64)
    values = torch.tensor([[1.0, 2.0, 3.0, 99.0, -99.0]], dtype=torch.float64)
    padded = vtrace(trajectories([[1.0, 2.0, 50.0, 60.0]], valid=valid), values, 0.9)
    short = vtrace(trajectories([[1.0, 2.0]]), values[:, :3], 0.9)
    assert torch.equal(padded.values[:, :2], short.values)
    assert torch.equal(padded.advantages[:, :2], short.advantages)


# The actor-critic


@pytest.mark.parametrize("encoder", ["conv", "impala"])
def test_unrolling_equals_repeated_steps(encoder: str) -> None:
    network, frames = network_of(encoder=encoder), frames_of(2, 5)
    state = network.initial_state(2)
    logits, values = [], []
    for t in range(5):
        output, state = network.step(frames[:, t], state)
        logits.append(output.logits)
        values.append(output.values)
    output = network(frames, torch.ones(2, 0, dtype=torch.bool), burn_in=0)
    assert torch.allclose(output.logits, torch.stack(logits, dim=1), atol=1e-5)
    assert torch.allclose(output.values, torch.stack(values, dim=1), atol=1e-5)


def test_acting_leaves_the_state_that_it_was_given_alone() -> None:
    network, frames = network_of(), frames_of(2, 1)[:, 0]
    _, state = network.step(frames, network.initial_state(2))
    before = State(state.hidden.clone(), state.cell.clone())
    first, later = network.step(frames, state)
    again, _ = network.step(frames, state)
    assert torch.equal(first.logits, again.logits)
    assert torch.equal(state.hidden, before.hidden) and torch.equal(state.cell, before.cell)
    assert not torch.equal(later.hidden, state.hidden)


def test_burn_in_over_the_whole_episode_equals_running_it_from_its_start() -> None:
    network, frames = network_of(), frames_of(2, 7)
    whole = network(frames, torch.ones(2, 0, dtype=torch.bool), burn_in=0)
    warmed = network(frames, torch.ones(2, 4, dtype=torch.bool), burn_in=4)
    assert torch.allclose(warmed.logits, whole.logits[:, 4:], atol=1e-5)
    assert torch.allclose(warmed.values, whole.values[:, 4:], atol=1e-5)


def test_an_episode_that_starts_inside_the_burn_in_sees_nothing_from_before() -> None:
    network, frames = network_of(), frames_of(2, 7)
    valid = torch.tensor([[False, False, True, True], [False] * 4])
    output = network(frames, valid, burn_in=4)
    fresh = network(frames[:, 2:], torch.ones(2, 2, dtype=torch.bool), burn_in=2)
    assert torch.allclose(output.logits[0], fresh.logits[0], atol=1e-5)
    fresh = network(frames[:, 4:], torch.ones(2, 0, dtype=torch.bool), burn_in=0)
    assert torch.allclose(output.logits[1], fresh.logits[1], atol=1e-5)


def test_no_gradient_goes_through_the_burn_in() -> None:
    """With one trained frame, the recurrent weights' gradient is that of one step from a constant state."""
    network, frames = network_of(), frames_of(1, 4)
    network(frames, torch.ones(1, 3, dtype=torch.bool), burn_in=3).values.sum().backward()
    found = [p.grad.clone() for p in network.parameters() if p.grad is not None]
    network.zero_grad()
    with torch.no_grad():
        state = network.initial_state(1)
        for t in range(3):
            _, state = network.step(frames[:, t], state)
    network.step(frames[:, 3], state)[0].values.sum().backward()
    expected = [p.grad for p in network.parameters() if p.grad is not None]
    assert len(found) == len(expected)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found, expected, strict=True))


def test_values_stay_when_their_units_change() -> None:
    network, frames = network_of(), frames_of(3, 1)[:, 0]
    before = network.step(frames, network.initial_state(3))[0].values
    for mean, std in ((3.0, 20.0), (-1.0, 0.01)):
        network.rescale_values(torch.tensor(mean), torch.tensor(std))
        after = network.step(frames, network.initial_state(3))[0].values
        assert torch.allclose(before, after, atol=1e-4)
    assert float(network.value_std) == pytest.approx(0.01)


# Drawing actions


def drawn(output: PolicyOutput, epsilon: float, temperature: float = 1.0, should_sample: bool = True) -> Tensor:
    """Actions of many draws over the whole range of random numbers."""
    uniform = (torch.arange(20_000) + 0.5) / 20_000
    many = PolicyOutput(output.logits.expand(len(uniform), -1), output.values.expand(len(uniform)))
    draw = draw_actions(many, temperature, epsilon, should_sample, uniform)
    expected = mixture(output.logits, temperature, epsilon, should_sample)[0].log()
    assert torch.allclose(draw.log_probabilities, expected[draw.actions])
    return torch.bincount(draw.actions, minlength=output.logits.shape[1]) / len(uniform)


LOGITS = PolicyOutput(torch.tensor([[2.0, 0.0, -1.0, 0.5]]), torch.zeros(1))


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_actions_are_as_frequent_as_the_mixture_says(epsilon: float, temperature: float) -> None:
    policy = (LOGITS.logits[0] / temperature).softmax(dim=0)
    expected = (1 - epsilon) * policy + epsilon / 4
    assert torch.allclose(drawn(LOGITS, epsilon, temperature), expected, atol=2e-4)


def test_without_sampling_the_likeliest_action_is_taken() -> None:
    assert drawn(LOGITS, 0.0, should_sample=False).tolist() == [1.0, 0.0, 0.0, 0.0]
    assert torch.allclose(drawn(LOGITS, 0.2, should_sample=False), torch.tensor([0.85, 0.05, 0.05, 0.05]), atol=2e-4)


def test_each_environment_has_a_random_action_of_its_own() -> None:
    output = PolicyOutput(torch.zeros(1000, 3), torch.zeros(1000))
    uniform = torch.rand(1000, generator=torch.Generator().manual_seed(0))
    assert len(draw_actions(output, 1.0, 1.0, True, uniform).actions.unique()) == 3
    row = draw_actions(PolicyOutput(torch.zeros(1, 3), torch.zeros(1)), 1.0, 1.0, True, uniform[7:8])
    assert row.actions[0] == draw_actions(output, 1.0, 1.0, True, uniform).actions[7]


# One update


def learner_of(seed: int = 0, **changes: object) -> Learner:
    network = network_of(seed)
    fabric = Fabric(accelerator="cpu", devices=1)
    module, optimizer = fabric.setup(network, torch.optim.Adam(network.parameters(), lr=2e-3))
    return Learner(fabric, network, module, optimizer, ActorCriticConfig(burn_in=2, num_steps=5, **changes))  # type: ignore[arg-type]


def clips_of(lengths: tuple[int, ...] = (3, 11, 4, 2), batch: int = 16) -> ClipBatch:
    episodes = [make_episode(length, is_over="terminated", session=k) for k, length in enumerate(lengths)]
    replay = Replay(10_000)
    for episode in episodes:
        replay.add(episode)
    return replay.sample(batch, 2, 5, np.random.default_rng(0))


def gradients(learner: Learner, clips: ClipBatch) -> tuple[float, list[Tensor]]:
    learner.network.zero_grad()
    losses = learner.losses(clips)
    losses.total.backward()
    return float(losses.total.detach()), [p.grad.clone() for p in learner.network.parameters() if p.grad is not None]


@pytest.mark.parametrize("normalize_returns", [False, True])
def test_padding_never_enters_the_loss_nor_its_gradient(normalize_returns: bool) -> None:
    clips = clips_of()
    assert not clips.valid.all() and not clips.burn_in_valid.all()
    changed = ClipBatch(**{name: value.clone() for name, value in vars(clips).items()})
    changed.rewards[~clips.valid] = 1e3
    changed.log_probabilities[~clips.valid] = -3
    changed.actions[~clips.valid] = 2
    changed.ended[:, 1:] |= ~clips.valid[:, 1:] & ~clips.valid[:, :-1]
    for row in range(len(clips.valid)):
        after = 2 + int(clips.valid[row].sum()) + 1
        changed.frames[row, after:] = 77
        changed.frames[row, :2][~clips.burn_in_valid[row]] = 55
    loss, grads = gradients(learner_of(normalize_returns=normalize_returns), clips)
    changed_loss, changed_grads = gradients(learner_of(normalize_returns=normalize_returns), changed)
    assert changed_loss == pytest.approx(loss, rel=1e-6)
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in zip(grads, changed_grads, strict=True))


@pytest.mark.parametrize("normalize_returns", [False, True])
def test_a_batch_in_parts_makes_the_same_update(normalize_returns: bool) -> None:
    clips = clips_of(batch=10)
    whole = learner_of(normalize_returns=normalize_returns)
    parts = learner_of(normalize_returns=normalize_returns, grad_acc_steps=3)
    for _ in range(3):
        logs, part_logs = whole.update(clips), parts.update(clips)
        for name in logs.keys() - {"explained_variance"}:  # a mean of the parts' own
            assert float(part_logs[name]) == pytest.approx(float(logs[name]), rel=1e-3, abs=1e-5), name
    for a, b in zip(whole.network.state_dict().values(), parts.network.state_dict().values(), strict=True):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-4)


def test_the_actor_comes_to_prefer_what_pays() -> None:
    clips = clips_of((8,) * 4, batch=16)
    clips.actions = torch.randint(3, clips.actions.shape, generator=torch.Generator().manual_seed(0))
    clips.rewards = (clips.actions == 1).float()
    learner = learner_of(entropy_weight=0.0, gamma=0.0)
    for head in (learner.network.to_logits, learner.network.to_value):
        torch.nn.init.zeros_(head.weight)
    clips.log_probabilities[:] = math.log(1 / 3)
    for _ in range(40):
        learner.update(clips)
    output = learner.network(clips.frames, clips.burn_in_valid, clips.burn_in)
    probabilities = output.logits[:, :-1].softmax(dim=-1)[clips.valid]
    assert probabilities[:, 1].mean() > 0.5


def test_values_learn_returns_of_any_size() -> None:
    for scale in (1e-3, 1e3):
        clips = clips_of((8,) * 4, batch=8)
        clips.rewards = scale * clips.actions.float()
        clips.log_probabilities[:] = math.log(1 / 3)
        learner = learner_of(gamma=0.0)
        for head in (learner.network.to_logits, learner.network.to_value):
            torch.nn.init.zeros_(head.weight)
        logs = [learner.update(clips) for _ in range(40)]
        assert max(float(log["explained_variance"]) for log in logs[-10:]) > 0.3, scale


def test_running_moments_are_those_of_valid_entries() -> None:
    moments = RunningMoments(torch.device("cpu"))
    assert (float(moments.mean), float(moments.std)) == (0.0, 1.0)
    values, valid = torch.tensor([[1.0, 3.0, 500.0]]), torch.tensor([[1.0, 1.0, 0.0]])
    for _ in range(3):
        moments.add(values, valid, Fabric(accelerator="cpu", devices=1))
    assert float(moments.mean) == pytest.approx(2.0)
    assert float(moments.std) == pytest.approx(1.0)


def test_what_the_policy_no_longer_does_is_not_pushed_further_away() -> None:
    """Standardising after the importance weights gave steps of weight 0 an advantage: policies collapsed."""
    clips = clips_of((8,) * 4, batch=8)
    learner = learner_of(gamma=0.0)
    learner.update(clips)  # now there are moments whose mean is not 0
    clips.log_probabilities = torch.full_like(clips.log_probabilities, 60.0)  # weights of e^-60
    losses = learner.losses(clips)
    assert abs(float(losses.logs["policy_loss"])) < 1e-12
