"""AutoExplore's rewards: the world model's uncertainty, and the other measures of novelty."""

import copy
import math
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from auto_explore.config import RewardConfig
from auto_explore.src.construct_reward import make_reward
from auto_explore.src.models.novelty import RandomDistillation
from auto_explore.src.reward import NormalizedReward, Reward, RewardContext, RewardInputs, load_reward, top_entropy
from data_generation.data.errors import FieldError
from data_generation.generator.connector_base import EnvironmentSpec
from models.genie_redux import SampleSettings
from tests.auto_explore_helpers import ACTIONS, FRAME_SHAPE, make_inputs, world_model
from training.config import EpisodicBonusConfig

LAST = Path("last.pt")
REWARDS = ("entropy", "cnn-mse", "vae-mse", "disagreement", "rnd", "e3b", "ngu", "counts", "none")
LEARNING = ("vae-mse", "disagreement", "rnd", "e3b", "ngu")


def inputs_of(batch: int, num_frames: int = 5, seed: int = 0) -> RewardInputs:
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randint(256, (batch, num_frames, *FRAME_SHAPE), generator=generator, dtype=torch.uint8)
    actions = torch.randint(3, (batch, num_frames - 1), generator=generator)
    return make_inputs(frames, actions, torch.rand(batch, generator=generator))


def reward_of(kind: str, guided: bool = True, n_preds: int = 3, **settings: Any) -> Reward:
    config = RewardConfig(type=kind, **settings)
    tools = RewardContext(config, n_preds, torch.device("cpu"), nullcontext, world_model(guided))
    return make_reward(tools, EnvironmentSpec(ACTIONS, FRAME_SHAPE), seed=3)


def rows(inputs: RewardInputs, start: int, stop: int) -> RewardInputs:
    return RewardInputs(**{name: value[start:stop] for name, value in vars(inputs).items()})


def test_a_reward_that_nothing_constructs_is_no_other_one() -> None:
    tools = RewardContext(RewardConfig(type="mine"), 3, torch.device("cpu"), nullcontext, None)
    with pytest.raises(NotImplementedError, match="nothing constructs the reward 'mine'"):
        make_reward(tools, EnvironmentSpec(ACTIONS, FRAME_SHAPE), seed=0)


def test_uniform_logits_pay_two_and_certain_ones_nothing() -> None:
    assert top_entropy(torch.zeros(2, 4, 4, 16), 0.25).tolist() == pytest.approx([2.0, 2.0])
    certain = torch.zeros(1, 4, 4, 16)
    certain[..., 3] = 1e4
    assert top_entropy(certain, 0.25).tolist() == [0.0]


def test_the_least_sure_tokens_count_alone() -> None:
    logits = torch.zeros(1, 4, 4, 16)
    logits[:, 1:, :, 0] = 1e4
    assert float(top_entropy(logits, 0.25)) == pytest.approx(2.0)
    assert float(top_entropy(logits, 0.5)) == pytest.approx(1.0)
    assert float(top_entropy(logits, 1.0)) == pytest.approx(0.5)
    assert float(top_entropy(logits, 1e-6)) == pytest.approx(2.0)  # one token at least


def test_two_equally_likely_tokens_pay_their_entropy() -> None:
    logits = torch.full((1, 1, 1, 16), -1e4)
    logits[..., :2] = 0
    assert float(top_entropy(logits, 1.0)) == pytest.approx(2 * math.log(2) / math.log(16))


@pytest.mark.parametrize("guided", [True, False])
def test_entropy_equals_a_plain_computation_from_the_models_first_guess(guided: bool) -> None:
    """The first round of the model's own decoding sees all tokens of the new frames masked."""
    inputs, model = inputs_of(3), world_model(guided)
    video = inputs.frames.float() / 255
    actions = inputs.actions if guided else model.infer_actions(video)
    prime_ids = model.tokenizer.encode(video[:, :2])
    (chunk,) = model.sample_chunks(prime_ids, actions, 3, SampleSettings("one_go", inference_steps=1))
    probabilities = chunk.logits[:, -1].double().softmax(dim=-1)
    entropies = 2 * -(probabilities * probabilities.log()).sum(dim=-1) / math.log(16)
    expected = entropies.flatten(1).sort(dim=1).values[:, -4:].mean(dim=1)
    found = reward_of("entropy", guided)(inputs, learn=False)
    assert torch.allclose(found, expected.float(), atol=1e-5)
    assert found.dtype == torch.float32 and found.std() > 1e-4


def test_entropy_sees_the_actions_and_the_two_first_frames_only() -> None:
    inputs, reward = inputs_of(2), reward_of("entropy")
    before = reward(inputs, learn=False)
    others = copy.deepcopy(inputs)
    others.frames[:, 2:] = 0
    assert torch.equal(reward(others, learn=False), before)
    for changed in ("frame", "action"):
        others = copy.deepcopy(inputs)
        if changed == "frame":
            others.frames[:, 1] = 255 - others.frames[:, 1]
        else:
            others.actions[:, -1] = (others.actions[:, -1] + 1) % 3
        assert not torch.allclose(reward(others, learn=False), before, atol=1e-6), changed


@pytest.mark.parametrize("kind", [kind for kind in REWARDS if kind != "none"])
def test_a_reward_does_not_depend_on_what_is_next_to_it_in_the_batch(kind: str) -> None:
    inputs, reward = inputs_of(5), reward_of(kind)
    whole = reward(inputs, learn=False)
    parts = torch.cat([reward(rows(inputs, start, start + 1), learn=False) for start in range(5)])
    assert torch.allclose(whole, parts, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("n_preds", [1, 2, 4])
def test_any_number_of_predicted_frames_works(n_preds: int) -> None:
    reward = reward_of("entropy", n_preds=n_preds)
    assert reward.num_frames == 2 + n_preds
    assert reward(inputs_of(2, reward.num_frames), learn=False).shape == (2,)


@pytest.mark.parametrize("guided", [True, False])
@pytest.mark.parametrize("kind", REWARDS)
def test_every_reward_pays_finite_amounts_and_trains_only_when_it_may(kind: str, guided: bool) -> None:
    reward = reward_of(kind, guided, learning_rate=1e-2)
    inputs = inputs_of(4, reward.num_frames)
    before = copy.deepcopy(reward.networks.state_dict())
    first = reward(inputs, learn=False)
    assert first.shape == (4,) and first.isfinite().all() and (first >= 0).all() and not first.requires_grad
    assert torch.equal(reward(inputs, learn=False), first)
    assert all(torch.equal(value, before[name]) for name, value in reward.networks.state_dict().items())
    rewards = reward(inputs, learn=True)
    assert torch.equal(rewards, first)  # what was known before this step
    changed = [name for name, value in reward.networks.state_dict().items() if not torch.equal(value, before[name])]
    assert bool(changed) == (kind in LEARNING)


@pytest.mark.parametrize("kind", ["disagreement", "rnd"])
def test_novelty_wears_off_where_one_has_been(kind: str) -> None:
    reward = reward_of(kind, learning_rate=3e-3)
    known, new = inputs_of(4), inputs_of(4, seed=9)
    first = reward(known, learn=False)
    for _ in range(40):
        reward(known, learn=True)
    assert (reward(known, learn=False) / first).mean() < 0.6
    assert reward(known, learn=False).mean() < reward(new, learn=False).mean()


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("kind", REWARDS)
def test_a_reward_goes_on_exactly_from_its_state(kind: str, normalize: bool) -> None:
    """Episodes in progress included."""
    ngu = EpisodicBonusConfig(num_neighbours=2)
    first, second = (reward_of(kind, normalize=normalize, ngu=ngu) for _ in range(2))

    def steps(seed: int) -> RewardInputs:
        return replace(inputs_of(4, first.num_frames, seed), is_first=[seed == 0] * 4)

    for seed in range(3):
        first(steps(seed), learn=True)
    load_reward(second, copy.deepcopy(first.state_dict()), second.context.config, LAST)
    for seed in range(3, 6):
        rewards = first(steps(seed), learn=True)
        assert torch.equal(rewards, second(steps(seed), learn=True)) and (rewards > 0).all()


def test_pixels_are_seen_as_deviations_from_what_they_usually_are() -> None:
    """A pixel that hardly ever changes says more when it does than one that always does; tests teach nothing."""
    reward = reward_of("rnd")
    frames = RandomDistillation((3, 32, 32))
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        batch = torch.zeros(4, 3, 32, 32)
        batch[..., :16, :] = torch.rand(4, 3, 16, 32, generator=generator) * 2 - 1
        frames.observe(batch)
    assert torch.allclose(frames.mean[..., 16:, :], torch.zeros(3, 16, 32))
    seen = frames._whitened(torch.full((1, 3, 32, 32), 0.5))[0]
    assert seen[..., 16:, :].min() == 5 and seen[..., :16, :].max() < 1.5
    state = copy.deepcopy(reward.state_dict())
    reward(inputs_of(4), learn=False)
    assert torch.equal(state["networks"]["count"], reward.state_dict()["networks"]["count"])
    reward(inputs_of(4), learn=True)
    assert reward.state_dict()["networks"]["count"] == 1


def test_a_run_of_an_earlier_version_goes_on_as_it_was() -> None:
    """Without deviations of pixels, and with the root mean square of the whole run."""
    old, resumed = (reward_of("rnd", normalize=True) for _ in range(2))
    state = copy.deepcopy(old.state_dict())
    for name in ("count", "mean", "square"):
        del state["inner"]["networks"][name]
    del state["squares"]
    state |= {"sum": 8.0, "count": 2}
    load_reward(resumed, state, resumed.context.config, LAST)
    old.load_state_dict(copy.deepcopy(old.state_dict()) | {"squares": (2, 4.0, 0.0)}, LAST)
    inputs = inputs_of(4)
    assert torch.equal(old(inputs, learn=False), resumed(inputs, learn=False))
    resumed(inputs, learn=True)
    assert resumed.state_dict()["inner"]["networks"]["count"] == -1


def _change_moment(change: Callable[[Tensor], Any]) -> Callable[[dict[str, Any]], None]:
    def spoil(state: dict[str, Any]) -> None:
        moments = state["inner"]["optimizer"]["state"][0]
        moments["exp_avg"] = change(moments["exp_avg"])

    return spoil


@pytest.mark.parametrize(
    "spoil",
    [
        _change_moment(lambda moment: torch.zeros(0)),
        _change_moment(lambda moment: moment > 0),
        _change_moment(lambda moment: moment / 0),
        lambda state: state["inner"]["optimizer"].pop("state"),
        lambda state: state["inner"]["networks"].popitem(),
        lambda state: state.update(squares=(1, math.nan, 0.0)),
        lambda state: state.update(squares=(1, "many", 0.0)),
        lambda state: state.update(squares=(0, 1.0, 0.0)),
        lambda state: state.update(squares=()),
        lambda state: state.update(sum=math.nan, count=1),
        lambda state: state.update(sum=1.0, count=[]),
    ],
)
def test_a_rewards_state_that_is_not_its_own_is_one_line_that_names_the_file(
    spoil: Callable[[dict[str, Any]], None],
) -> None:
    first, second = (reward_of("rnd", normalize=True) for _ in range(2))
    first(inputs_of(4, first.num_frames), learn=True)
    state = copy.deepcopy(first.state_dict())
    spoil(state)
    with pytest.raises(
        FieldError, match=r"^type=rnd: the run was trained with another reward, or 'last\.pt' is damaged"
    ):
        load_reward(second, state, second.context.config, LAST)


def test_a_normalised_reward_forgets_what_it_was_worth_at_first() -> None:
    inner = reward_of("none")
    reward = NormalizedReward(inner)
    inputs = inputs_of(1000, 2)
    reward(replace(inputs, env_reward=torch.full((1000,), 100.0)), learn=True)
    for _ in range(100):
        found = reward(replace(inputs, env_reward=torch.full((1000,), 0.1)), learn=True)
    assert 0.1 < float(found[0]) <= 1.0


def test_a_normalised_reward_has_a_root_mean_square_of_one() -> None:
    plain, reward = reward_of("none"), reward_of("none", normalize=True)
    inputs = inputs_of(8, 2)
    rewards = reward(inputs, learn=True)
    assert float(rewards.square().mean()) == pytest.approx(1.0)
    scale = float(plain(inputs, learn=False).square().mean().sqrt())
    later = inputs_of(8, 2, seed=1)
    assert torch.allclose(reward(later, learn=False), later.env_reward / scale)


def test_features_that_stay_are_the_same_in_every_run() -> None:
    inputs = inputs_of(3)
    torch.manual_seed(5)
    first = reward_of("cnn-mse")(inputs, learn=False)
    torch.manual_seed(6)
    assert torch.equal(reward_of("cnn-mse")(inputs, learn=False), first)


def test_frame_errors_are_zero_for_the_frame_that_was_expected() -> None:
    model, inputs = world_model(), inputs_of(2)
    video = inputs.frames.float() / 255
    chunks = model.sample_chunks(
        model.tokenizer.encode(video[:, :2]), inputs.actions, 3, SampleSettings("one_go", inference_steps=1)
    )
    ids = torch.cat([model.tokenizer.encode(video[:, :2]), *(chunk.logits.argmax(dim=-1) for chunk in chunks)], dim=1)
    expected: Tensor = model.tokenizer.decode(ids)[:, -1].clamp(0, 1)
    reward = reward_of("cnn-mse")
    rewards = reward(inputs, learn=False)
    inputs.frames[:, -1] = (expected * 255).round().byte()
    assert (reward(inputs, learn=False) < 1e-3 * rewards).all()


def united(*rewards: Reward) -> None:
    """Unite rewards as those of as many processes, each in a thread of its own."""
    passed: list[Any] = [None] * len(rewards)
    barrier = threading.Barrier(len(rewards))

    def unite(rank: int) -> None:
        def gather(value: Any) -> list[Any]:
            passed[rank] = copy.deepcopy(value)
            barrier.wait()
            values = list(passed)
            barrier.wait()
            return values

        rewards[rank].unite(gather)

    with ThreadPoolExecutor(len(rewards)) as pool:
        list(pool.map(unite, range(len(rewards))))


@pytest.mark.parametrize("kind", [*LEARNING, "counts"])
@pytest.mark.parametrize("settings", [{}, {"normalize": True}], ids=["plain", "normalised"])
def test_processes_learn_one_reward(kind: str, settings: dict[str, Any]) -> None:
    """What one of them has seen is as well known to the others; a process that has seen nothing changes no scale."""
    rewards = [reward_of(kind, **settings) for _ in range(3)]
    alike = inputs_of(4, seed=9)
    for _ in range(2):
        for rank, reward in enumerate(rewards[:2]):
            for seed in range(3):
                reward(replace(inputs_of(4, seed=10 * rank + seed), positions=[rank, 5, 5, None]), learn=True)
        before = [copy.deepcopy(reward)(alike, learn=False) for reward in rewards[:2]]
        united(*rewards)
        after = [copy.deepcopy(reward)(alike, learn=False) for reward in rewards]
        assert torch.equal(after[0], after[1]) and torch.equal(after[1], after[2])
        assert kind in ("e3b", "ngu") or not torch.equal(before[0], before[1])


def test_visits_of_all_processes_are_counted_once() -> None:
    rewards = [reward_of("counts"), reward_of("counts")]
    for _ in range(3):
        for reward in rewards:
            reward(replace(inputs_of(2), positions=[7, 7]), learn=True)
        united(*rewards)
    assert rewards[0].state_dict()["visits"].tolist() == rewards[1].state_dict()["visits"].tolist() == [12]


def test_fixed_networks_stay_exactly_as_they_are_when_processes_unite() -> None:
    rewards = [reward_of("rnd") for _ in range(3)]
    inputs = inputs_of(4)
    for reward in rewards:
        reward(inputs, learn=True)
    before = {name: value.clone() for name, value in rewards[0].networks.state_dict().items()}
    united(*rewards)
    # All have learned the same, so nothing changes, not even by rounding.
    assert all(torch.equal(value, before[name]) for name, value in rewards[1].networks.state_dict().items())
