"""AutoExplore's bonuses for what is new in an episode, and for rare positions, against values computed by hand."""

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch

from auto_explore.config import RewardConfig
from auto_explore.src.checks import check_train_config
from auto_explore.src.collector import RewardThread
from auto_explore.src.construct_reward import make_reward
from auto_explore.src.models.novelty import ActionEmbedding
from auto_explore.src.reward import Reward, RewardContext
from data_generation.data.errors import FieldError, under
from data_generation.generator.connector_base import EnvironmentSpec
from tests.auto_explore_helpers import ACTIONS, FRAME_SHAPE, make_episode, make_inputs, quick_config
from training.config import EpisodicBonusConfig
from training.episodic_memory import EllipticalMemory, NeighbourMemory, StreamMoments


def reward_of(kind: str, num_neighbours: int = 1) -> Reward:
    config = RewardConfig(type=kind, ngu=EpisodicBonusConfig(num_neighbours=num_neighbours))
    context = RewardContext(config, 3, torch.device("cpu"), nullcontext, None)
    return make_reward(context, EnvironmentSpec(ACTIONS, FRAME_SHAPE), seed=3)


def bonuses(reward: Reward, *steps: tuple[int, int, bool], learn: bool = False) -> list[float]:
    """Of steps in one batch: the grey level that each shows, its environment, and whether it is its episode's first."""
    greys, environments, is_first = (list(column) for column in zip(*steps, strict=True))
    after = torch.tensor(greys, dtype=torch.uint8).view(-1, 1, 1, 1, 1).expand(-1, 1, *FRAME_SHAPE)
    frames = torch.cat([torch.zeros_like(after), after], dim=1)
    count = len(steps)
    inputs = make_inputs(frames, torch.zeros(count, 1, dtype=torch.int64), torch.zeros(count))
    inputs.environments, inputs.is_first = environments, is_first
    rewards: list[float] = reward(inputs, learn).tolist()
    return rewards


# E3B


def test_the_elliptical_bonus_by_hand() -> None:
    memory = EllipticalMemory(ridge=0.1, num_features=2)
    found = [memory.bonus(np.array(place, np.float32)) for place in ([1, 0], [1, 0], [0, 2], [1, 1])]
    # C is 0.1 · I, then diag(1.1, 0.1), diag(2.1, 0.1), diag(2.1, 4.1).
    assert found == pytest.approx([10, 1 / 1.1, 40, 1 / 2.1 + 1 / 4.1])


def test_the_elliptical_bonus_is_that_of_the_inverse_over_a_long_episode() -> None:
    rng, memory = np.random.default_rng(0), EllipticalMemory(ridge=0.1, num_features=8)
    covariance = 0.1 * np.eye(8)
    for _ in range(1000):
        place = rng.normal(size=8)
        assert memory.bonus(place) == pytest.approx(place @ np.linalg.inv(covariance) @ place, rel=1e-6)
        covariance += np.outer(place, place)


# Rewards


def test_elliptical_rewards_are_of_the_episode() -> None:
    """What was seen before pays b, then b / (1 + b); other environments and the next episode pay b again."""
    first, again, other, next_again, new = bonuses(
        reward_of("e3b"), (90, 0, True), (90, 0, False), (90, 1, True), (90, 1, False), (90, 0, True)
    )
    assert [again, next_again] == pytest.approx([first / (1 + first)] * 2, rel=1e-4)
    assert [other, new] == pytest.approx([first] * 2) and first > 0


def test_a_first_step_that_shows_the_frame_of_the_reset_pays_no_more_than_a_later_one() -> None:
    """Without that frame in the memory it paid all that is new to an empty one, most of an episode's return."""
    reward = reward_of("e3b")
    for parameter in reward.networks.parameters():
        torch.nn.init.uniform_(parameter, -0.5, 0.5, generator=torch.Generator().manual_seed(0))
    still, moved = bonuses(reward, (0, 0, True), (255, 1, True))
    assert 0 < still < 1 < moved


def test_a_neighbour_memory_has_the_frame_of_the_reset() -> None:
    assert bonuses(reward_of("ngu"), (0, 0, True), (0, 1, True)) == pytest.approx([1 / 1.001] * 2)


def test_episodes_go_on_from_batch_to_batch() -> None:
    steps = [(90, 0, True), (20, 1, True), (90, 1, False), (91, 0, False), (90, 0, False), (200, 1, False)]
    for kind in ("e3b", "ngu"):
        whole, parts = bonuses(reward_of(kind), *steps), reward_of(kind)
        assert bonuses(parts, *steps[:3]) + bonuses(parts, *steps[3:]) == pytest.approx(whole, rel=1e-4), kind


def test_neighbour_rewards_are_those_of_the_memory() -> None:
    """With two neighbours: none yet but the frame of the reset, the same frame, one that has moved, a new episode."""
    reward = reward_of("ngu", num_neighbours=2)
    found = bonuses(reward, (0, 0, True), (0, 0, False), (255, 0, False), (0, 1, True), (0, 0, True))
    assert found[:2] + found[3:] == pytest.approx([0, 1 / (2**0.5 + 0.001), 0, 0])
    embed = reward.networks.embed
    assert isinstance(reward.networks, ActionEmbedding)
    frames = torch.stack([torch.full(FRAME_SHAPE, grey) for grey in (-1.0, -1.0, -1.0, 1.0)])
    memory = NeighbourMemory(EpisodicBonusConfig(num_neighbours=2), 32, StreamMoments())
    expected = [memory.bonus(embedding) for embedding in embed(frames).detach().numpy()]
    assert found[:3] == pytest.approx(expected[1:], rel=1e-3) and found[2] > 10


@pytest.mark.parametrize("kind", ["e3b", "ngu"])
def test_embeddings_learn_to_tell_the_action(kind: str) -> None:
    """The action is what has changed between the two frames."""
    reward = reward_of(kind)
    assert reward.optimizer is not None
    reward.optimizer.param_groups[0]["lr"] = 3e-3
    generator = torch.Generator().manual_seed(0)
    actions = torch.randint(3, (32, 1), generator=generator)
    frames = torch.zeros(32, 2, *FRAME_SHAPE, dtype=torch.uint8)
    for row, action in enumerate(actions[:, 0].tolist()):
        frames[row, 1, action] = 255
    model, inputs = reward.networks, make_inputs(frames, actions, torch.zeros(32))
    assert isinstance(model, ActionEmbedding)

    def loss() -> float:
        before, after = (frames[:, t].float() / 127.5 - 1 for t in (0, 1))
        return model.loss(before, after, actions[:, 0]).item()

    assert loss() > 0.9
    for _ in range(20):
        reward(inputs, learn=True)
    assert loss() < 0.3


def test_counts_are_of_all_episodes() -> None:
    reward = reward_of("counts")
    frames, nothing = torch.zeros(4, 2, *FRAME_SHAPE, dtype=torch.uint8), torch.zeros(4, 1, dtype=torch.int64)

    def rewards(positions: list[int | None], learn: bool) -> list[float]:
        inputs = make_inputs(frames, nothing, torch.zeros(4), positions=positions)
        values: list[float] = reward(inputs, learn).tolist()
        return values

    assert rewards([7, 7, 8, 7], learn=True) == pytest.approx([1, 2**-0.5, 1, 3**-0.5])
    # A test's visits are not counted.
    for _ in range(2):
        assert rewards([7, 7, 8, 9], learn=False) == pytest.approx([0.5, 0.5, 2**-0.5, 1])
    assert rewards([7, 7, 8, 9], learn=True) == pytest.approx([0.5, 5**-0.5, 2**-0.5, 1])


def test_steps_without_a_position_count_nothing_where_others_have_one() -> None:
    reward = reward_of("counts")
    frames, nothing = torch.zeros(3, 2, *FRAME_SHAPE, dtype=torch.uint8), torch.zeros(3, 1, dtype=torch.int64)
    for positions, expected in (([None, 7, 7], [0, 1, 2**-0.5]), ([None] * 3, [0, 0, 0])):
        inputs = make_inputs(frames, nothing, torch.zeros(3), positions=positions)
        assert reward(inputs, learn=True).tolist() == pytest.approx(expected)


# Mistakes


def test_an_environment_without_positions_is_one_line_that_helps() -> None:
    """It is said while the first epoch is played."""
    thread, episode = RewardThread(reward_of("counts"), torch.device("cpu"), learn=True), make_episode(1)

    def play() -> None:
        with under("collection"):
            while True:
                thread.add(0, episode, batch_size=1)

    with pytest.raises(FieldError) as raised:
        play()
    thread.close()
    assert str(raised.value) == (
        "collection.reward.type=counts: the environment reports no position (x and y in its info); choose a reward "
        "that needs none, such as e3b or rnd"
    )


@pytest.mark.parametrize(("kind", "n_preds", "num_steps"), [("rnd", 3, 4), ("entropy", 6, 6), ("disagreement", 1, 4)])
def test_episodes_too_short_for_a_reward_are_refused(kind: str, n_preds: int, num_steps: int) -> None:
    cfg = quick_config(Path("nowhere"), kind)
    cfg.collection.train.config.n_preds = n_preds
    cfg.collection.connector.generator_config.n_steps_max = num_steps + 1
    check_train_config(cfg)
    cfg.collection.connector.generator_config.n_steps_max = num_steps
    line = rf"n_steps_max={num_steps}: with collection\.reward\.type={kind} the first {num_steps} steps"
    with pytest.raises(FieldError, match=rf"^collection\.connector\.generator_config\.{line}"):
        check_train_config(cfg)
    cfg.collection.reward.type = "e3b"
    check_train_config(cfg)


@pytest.mark.parametrize(
    ("memory", "num_steps", "line"),
    [
        (9, 11, r"num_neighbours=10: with collection.reward.ngu.memory=9 no frame"),
        (10, 9, r"num_neighbours=10: with collection.connector.generator_config.n_steps_max=9 no frame has so many"),
    ],
)
def test_more_neighbours_than_there_can_be_are_refused(memory: int, num_steps: int, line: str) -> None:
    cfg = quick_config(Path("nowhere"), "ngu")
    # The last frame has ten before it, that of the reset included.
    cfg.collection.connector.generator_config.n_steps_max = 10
    check_train_config(cfg)
    cfg.collection.reward.ngu.memory, cfg.collection.connector.generator_config.n_steps_max = memory, num_steps
    with pytest.raises(FieldError, match=f"^collection.reward.ngu.{line}"):
        check_train_config(cfg)
    cfg.collection.reward.type = "e3b"
    check_train_config(cfg)
