"""Agent57's replay: sequences, stored states, and what an update does with them."""

import numpy as np
import pytest
import torch

from external.agent57.config import ReplayConfig
from external.agent57.learner import Agent57Learner
from external.agent57.replay import PlayedEpisode, ReplaySequence, SequenceReplay, cut, new_starts
from tests.agent57_helpers import REPLAY, inputs_at, random_episode, small_networks, small_training

# burn_in 2, sequence 4, period 2


@pytest.mark.parametrize(
    ("num_steps", "ends", "expected"),
    [
        (3, "", []),
        (4, "", [0]),
        (7, "", [0, 2]),
        (8, "", [0, 2, 4]),
        (7, "terminated", [0, 2, 4]),
        (8, "terminated", [0, 2, 4]),
        (3, "truncated", [0]),
        (1, "truncated", [0]),
    ],
)
def test_sequences_cover_an_episode_and_end_with_it(num_steps, ends, expected):
    whole = random_episode(num_steps, ends)
    assert new_starts(0, whole, REPLAY) == expected
    # Step by step, as it grows.
    starts = []
    for count in range(1, num_steps + 1):
        starts += new_starts(count - 1, random_episode(count, ends if count == num_steps else ""), REPLAY)
    assert starts == expected


def held(episode: PlayedEpisode) -> int:
    """Frames that the memory of an episode has room for."""
    whole = episode.frames.base
    return len(episode.frames if whole is None else whole)


@pytest.mark.parametrize("num_steps", [10, 64, 200])
def test_an_episode_that_is_over_takes_no_more_memory_than_its_frames(tmp_path, num_steps):
    episode, failed = random_episode(num_steps, "terminated"), random_episode(num_steps)
    failed.truncate()
    assert failed.is_over and held(episode) == held(failed) == num_steps + 1
    episode.env_dpath = tmp_path
    loaded = PlayedEpisode.load(episode.save())
    assert held(loaded) == num_steps + 1 and (loaded.frames == episode.frames).all()


def test_a_sequence_in_the_middle_of_an_episode():
    episode = random_episode(9, "terminated")
    values = cut(ReplaySequence(episode, 4), REPLAY)
    assert values["is_warm"] and (values["states"] == 2).all()
    assert (values["frames"] == episode.frames[2:9]).all()
    assert values["last_actions"].tolist() == [1, 2, 0, 1, 2, 0, 1]
    assert values["last_ext_rewards"].tolist() == [1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.5]
    assert values["actions"].tolist() == [1, 2, 0, 1]
    assert values["ext_rewards"].tolist() == [4.5, 5.5, 6.5, 7.5]
    assert not values["ended"].any() and values["valid"].all()


def test_a_sequence_at_the_start_of_an_episode_is_not_warmed_up():
    values = cut(ReplaySequence(random_episode(9), 0), REPLAY)
    assert not values["is_warm"] and (values["states"] == 0).all()
    assert (values["frames"][2:] == random_episode(9).frames[:5]).all() and (values["frames"][:2] == 0).all()
    assert values["last_actions"].tolist() == [0, 0, 0, 0, 1, 2, 0]
    assert values["last_int_rewards"].tolist() == pytest.approx([0, 0, 0, 0, 0.1, 0.2, 0.3])


@pytest.mark.parametrize(("ends", "expected"), [("terminated", True), ("truncated", False)])
def test_a_sequence_at_the_end_of_an_episode_is_padded(ends, expected):
    values = cut(ReplaySequence(random_episode(9, ends), 6), REPLAY)
    assert values["valid"].tolist() == [True, True, True, False]
    assert values["ended"].tolist() == [False, False, expected, False]
    assert values["probabilities"].tolist() == [0.5, 0.5, 0.5, 1]
    assert (values["frames"][:6] == random_episode(9, ends).frames[4:10]).all() and (values["frames"][6] == 0).all()


def test_the_oldest_sequences_are_replaced_and_draws_weighted():
    replay = SequenceReplay(ReplayConfig(num_steps=6, burn_in=2, sequence=4, period=2, importance_power=0.5))
    episode = random_episode(12)
    for start in (0, 2, 4, 6):
        replay.add(ReplaySequence(episode, start))
    assert [item.start for item in replay.sequences] == [6, 2, 4]
    replay.set_priorities(np.arange(3), np.array([1.0, 2.0, 3.0]))
    assert replay.priorities() == pytest.approx(np.array([1.0, 2.0, 3.0]) ** 0.9)
    batch = replay.sample(64, np.random.default_rng(0))
    shares = replay.priorities() / replay.priorities().sum()
    expected = (3 * shares[batch.slots]) ** -0.5
    assert batch.weights.numpy() == pytest.approx(expected / expected.max())
    assert set(batch.slots) == {0, 1, 2}
    # A new one is drawn soon.
    replay.add(ReplaySequence(episode, 8))
    assert replay.priorities()[1] == replay.priorities().max()


def test_a_sequence_is_unrolled_from_the_state_in_which_it_was_played():
    """Values of the middle of an episode equal those that acting computed step by step, burn-in and start included."""
    networks, episode = small_networks(), random_episode(9, "terminated")
    state = networks.network.initial_state(1)
    values = []
    with torch.no_grad():
        for t in range(9):
            if t in episode.states:
                episode.states[t] = state[0].numpy().copy()
            played, state = networks.network(inputs_at(episode, t), state)
            values.append(played.int_[0, 0])
    learner = Agent57Learner(networks, small_training())
    replay = SequenceReplay(REPLAY)
    for start in (0, 4, 6):
        replay.add(ReplaySequence(episode, start))
    batch = replay.sample(30, np.random.default_rng(0))
    unrolled = learner._unroll(networks.network, batch).int_
    for row, slot in enumerate(batch.slots):
        start = (0, 4, 6)[slot]
        count = min(4, 9 - start)
        assert torch.allclose(unrolled[row, :count], torch.stack(values[start : start + count]), atol=1e-6)


def test_updates_lower_the_errors_of_a_fixed_batch():
    networks = small_networks()
    config = small_training()
    config.learner.learning_rate, config.learner.target_every = 3e-3, 1000
    config.intrinsic.learning_rate = 1e-2
    learner, replay = Agent57Learner(networks, config), SequenceReplay(REPLAY)
    episode = random_episode(9, "terminated")
    for start in (0, 2, 4, 6):
        replay.add(ReplaySequence(episode, start))
    batch = replay.sample(4, np.random.default_rng(0))
    before = {name: value.clone() for name, value in networks.state_dict().items()}
    logs = [learner.update(batch) for _ in range(40)]
    for name in ("ext_loss", "int_loss", "inverse_loss", "distillation_loss"):
        assert logs[-1][1][name] < 0.7 * logs[0][1][name], name
    assert (logs[-1][0] > 0).all() and logs[-1][0].mean() < logs[0][0].mean()
    after = networks.state_dict()
    changed = {name.partition(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"network", "embedding_network", "rnd_predictor_network"}


def test_the_target_networks_follow_now_and_then():
    config = small_training()
    config.learner.target_every = 2
    networks = small_networks()
    learner, replay = Agent57Learner(networks, config), SequenceReplay(REPLAY)
    replay.add(ReplaySequence(random_episode(9), 2))
    for number in range(1, 5):
        learner.update(replay.sample(2, np.random.default_rng(0)))
        own, copied = networks.network.state_dict(), learner.target.state_dict()
        assert all(torch.equal(own[name], copied[name]) for name in own) is (number % 2 == 0)
