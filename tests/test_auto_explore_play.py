"""AutoExplore's play: schedules, environments in processes, rewards in a thread."""

import os
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from multiprocessing import active_children
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from auto_explore.config import RewardConfig
from auto_explore.src.agent import mixture
from auto_explore.src.collector import Collected, Collector, RewardThread
from auto_explore.src.construct_reward import make_reward
from auto_explore.src.dataset import AgentEpisode, Replay
from auto_explore.src.reward import Reward, RewardContext, RewardInputs
from data_generation.data.errors import UserError
from data_generation.generator.connector_base import EnvironmentSpec
from data_generation.generator.levels import Level, Transition, list_levels
from data_generation.generator.schedule import EndlessSchedule, take_turns
from data_generation.generator.vector import EpisodeProgress, LevelVectorEnv
from tests.auto_explore_helpers import ACTIONS, FRAME_SHAPE, make_episode, world_model
from tests.auto_explore_play_helpers import (
    CountingReward,
    assert_same,
    collector_of,
    connector_of,
    envs_of,
    network_of,
    play,
    schedules_of,
)
from tests.odd_environments import NUM_STEPS, cannot_be_made, odd
from tests.thread_children import children_in_threads
from tests.toy_game import SHORT_WALK, WALK
from training.agent.player import OtherEpisodes

# Rewards in their thread


def test_rewards_are_stored_with_the_step_that_earned_them() -> None:
    reward = CountingReward()
    thread = RewardThread(reward, torch.device("cpu"), learn=True)
    episodes = [make_episode(0) for _ in range(2)]
    for t in range(9):
        for k, episode in enumerate(episodes[: 1 + (t > 2)]):
            step = make_episode(t + 1)
            _append(episode, step, len(episode.actions), value=10 * k + len(episode.actions) + 1)
            thread.add(k, episode, batch_size=3)
    thread.flush()
    thread.close()
    assert episodes[0].rewards == [0, 0, 0, 0, 5, 6, 7, 8, 9]
    assert episodes[1].rewards == [0, 0, 0, 0, 15, 16]
    assert [len(batch.frames) for batch in reward.batches] == [3, 3, 1]
    for batch in reward.batches:
        assert (batch.frames[:, 1:, 1, 0, 0].int() - batch.frames[:, :-1, 1, 0, 0].int() == 1).all()


def _append(episode: AgentEpisode, source: AgentEpisode, t: int, value: int) -> None:
    frame = np.full(FRAME_SHAPE, value, np.uint8)
    episode.add(Transition(source.actions[t], frame, 0.0, False, False, {}), log_probability=0.0)


def test_an_error_of_the_thread_comes_out_of_flush() -> None:
    class Broken(CountingReward):
        def __call__(self, inputs: RewardInputs, learn: bool) -> torch.Tensor:
            raise ValueError("the world model is on fire")

    thread = RewardThread(Broken(), torch.device("cpu"), learn=True)
    thread.add(0, make_episode(6), batch_size=1)
    with pytest.raises(ValueError, match="on fire"):
        thread.flush()
    thread.close()


def test_many_predicted_frames_wait_until_the_episode_has_them() -> None:
    """The 2 + 6 frames of a reward are more than the first four steps, which get none."""
    reward = CountingReward(n_preds=6)
    thread = RewardThread(reward, torch.device("cpu"), learn=True)
    for length in range(1, 10):
        thread.add(0, make_episode(length), batch_size=1)
    thread.flush()
    thread.close()
    assert [batch.frames.shape[1] for batch in reward.batches] == [8] * 3
    assert [batch.actions.shape[1] for batch in reward.batches] == [7] * 3


# Schedules


def test_sessions_are_unique_over_environments_and_processes() -> None:
    schedules = schedules_of(3)
    episodes = [schedule.episode(number) for schedule in schedules for number in range(50)]
    assert sorted(episode.session for episode in episodes) == list(range(150))
    assert len({episode.env_seed for episode in episodes}) == 150


@pytest.mark.parametrize("num_envs", [1, 2, 4, 8])
def test_environments_that_begin_at_a_session_play_all_from_there_on(num_envs: int) -> None:
    schedules = schedules_of(num_envs)
    for start in range(20):
        numbers = [schedule.first_from(start) for schedule in schedules]
        played = [schedule.episode(n).session for schedule, n in zip(schedules, numbers, strict=True)]
        assert sorted(played) == list(range(start, start + num_envs))


def test_games_and_instances_take_turns() -> None:
    class Few:
        def num_instances(self, game: str) -> int | None:
            return {"a": 2, "b": None}[game]

    levels = take_turns(list_levels(Few(), ["a", "b"], 3))  # type: ignore[arg-type]
    assert levels == (Level("a", 0), Level("b", 0), Level("a", 1), Level("b", 1), Level("b", 2))
    played = [EndlessSchedule(levels, 0, i, 2).episode(number).level for number in range(5) for i in range(2)]
    assert Counter(played) == dict.fromkeys(levels, 2)


# Environments


@pytest.fixture
def threads() -> Iterator[None]:
    with children_in_threads():
        yield


@pytest.mark.usefixtures("threads")
def test_resuming_plays_an_episode_to_the_same_frames_and_continues_alike() -> None:
    schedules = schedules_of(2)
    with envs_of(schedules) as env, envs_of(schedules) as other:
        frames = env.resume([EpisodeProgress(0, []), EpisodeProgress(1, [])])
        frames = [[video[-1]] for video in frames]
        for action in (0, 0, 1, 2):
            for video, frame in zip(frames, env.step(np.full(2, action))[0], strict=True):
                video.append(frame)
        progress = [EpisodeProgress(k, [0, 0, 1, 2]) for k in (0, 1)]
        for video, resumed in zip(frames, other.resume(progress), strict=True):
            assert np.array_equal(resumed, np.stack(video))
        for action in (0, 2):
            a, b = env.step(np.full(2, action)), other.step(np.full(2, action))
            assert np.array_equal(a[0], b[0])
            assert [step.numbers for step in a[1] if step] == [step.numbers for step in b[1] if step]


def test_signals_of_the_process_group_do_not_reach_environments() -> None:
    """Ctrl-C and a cluster's warnings go to the whole group; the epoch that is being played is played to its end."""
    with envs_of(schedules_of(2)) as envs:
        envs.resume([EpisodeProgress(0, [])] * 2)
        groups = [os.getpgid(child.pid or 0) for child in active_children()]
        assert len(groups) == 2 and os.getpgid(0) not in groups


@pytest.mark.usefixtures("threads")
def test_an_episode_is_cut_after_its_most_steps() -> None:
    with envs_of(schedules_of(1), n_steps_max=4) as env:
        env.resume([EpisodeProgress(0, [])])
        ends = [env.step(np.array([2]))[1][0] for _ in range(8)]
        assert [step.truncated for step in ends if step] == [False, False, False, True] * 2
        assert env.episode_numbers == [2]


@pytest.mark.parametrize("name", ["Raising", "Dying"])
def test_a_failed_episode_is_dropped_and_play_continues_in_the_next_one(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    games = (odd(name),)
    schedules = schedules_of(2, games)
    with envs_of(schedules, games) as envs:
        envs.resume([EpisodeProgress(0, [])] * 2)
        finished = 0
        for _ in range(3 * NUM_STEPS):
            frames, steps = envs.step(np.zeros(2, np.int64))
            assert frames.shape == (2, *FRAME_SHAPE)
            finished += sum(step is not None and step.is_last for step in steps)
        assert sum(envs.episode_numbers) == finished + len(envs.dropped_sessions)
        assert finished and envs.dropped_sessions
        said = [record.getMessage() for record in caplog.records if "episode dropped" in record.getMessage()]
        assert [f"session {session})" in line for session, line in zip(envs.dropped_sessions, said, strict=True)]
        # Playing a failed episode again fails again.
        dropped = envs.dropped_sessions[0]
        number, index = divmod(dropped, 2)
        progress = [EpisodeProgress(number if i == index else 0, [0] * NUM_STEPS) for i in range(2)]
        assert len(envs.resume(progress)[index]) == 1
        assert envs.episode_numbers[index] > number


def test_an_environment_that_hangs_is_ended_and_made_again() -> None:
    """SIGSTOP of a process that is waiting for its next action."""
    with envs_of(schedules_of(2), step_seconds=5) as envs:
        envs.resume([EpisodeProgress(0, [])] * 2)
        envs.step(np.zeros(2, np.int64))
        os.kill(next(child.pid or 0 for child in active_children()), signal.SIGSTOP)
        steps = envs.step(np.zeros(2, np.int64))[1]
        assert None in steps
        # On a busy machine the other one may be late, too.
        assert any(all(envs.step(np.zeros(2, np.int64))[1]) for _ in range(20))


def test_an_environment_in_which_nothing_works_ends_the_run_in_one_line() -> None:
    games = (odd("ResetRaises"),)
    connector = SimpleNamespace(make_env=cannot_be_made, config=connector_of([WALK]).config, frame_shape=FRAME_SHAPE)
    envs = LevelVectorEnv(connector, schedules_of(1, games), 11)  # type: ignore[arg-type]
    try:
        with pytest.raises(UserError, match=r"10 episodes in a row failed, the last \(.*session 9\): make raised"):
            envs.resume([EpisodeProgress(0, [])])
    finally:
        envs.close()


@pytest.fixture(scope="module")
def played() -> tuple[Collected, list[AgentEpisode], list[AgentEpisode], CountingReward]:
    """Sixty steps of two games in two environments: what was collected, complete episodes, and growing ones."""
    reward, replay = CountingReward(), Replay(10_000)
    with collector_of(2, reward, (WALK, SHORT_WALK), n_steps_max=20) as collector:
        for episode in collector.start(network_of()):
            replay.add(episode)
        collected = play(collector, network_of(), 60, seed=1, replay=replay)
        return collected, collected.finished, collector.episodes, reward


def test_the_end_of_one_environments_episode_does_not_reset_the_others(played) -> None:
    collected, finished, growing, _ = played
    assert collected.num_steps == 60 == sum(episode.num_steps for episode in [*finished, *growing])
    assert len({episode.num_steps for episode in finished}) > 1
    for episode in [*finished, *growing]:
        assert (episode.frames[:, 1, 0, 0] == 8 * np.arange(episode.num_steps + 1)).all()
        assert (episode.frames[:, 0, 0, 0] == episode.meta.seed % 256).all()
    assert all(episode.is_over for episode in finished) and not any(episode.is_over for episode in growing)


def test_an_episodes_last_frame_is_the_one_in_which_it_ended(played) -> None:
    ends = [episode for episode in played[1] if episode.terminated]
    assert ends
    for episode in ends:
        x = episode.infos[-1]["x"]
        assert x == (9 if WALK in str(episode.env_dpath) else 3)
        assert episode.env_rewards[-1] == x / 10
        assert (episode.frames[-1, 2, 4, int(x) : int(x) + 4] == 255).all()


def test_actions_move_the_square_of_the_step_that_they_are_stored_with(played) -> None:
    for episode in [*played[1], *played[2]]:
        places = episode.frames[:, 2, 4].argmax(axis=1)
        moved = np.maximum(places[:-1] + np.array([1, -1, 0])[episode.actions], 0)
        assert np.array_equal(moved, places[1:])


def test_every_step_has_its_reward_and_the_first_four_have_none(played) -> None:
    collected, finished, growing, reward = played
    for episode in [*finished, *growing]:
        expected = [0.0 if t < 4 else 8.0 * (t + 1) for t in range(episode.num_steps)]
        assert episode.rewards == expected
    everything = [value for episode in [*finished, *growing] for value in episode.rewards]
    assert collected.reward_mean == pytest.approx(np.mean(everything))
    seen = torch.cat([batch.frames[:, :, 1, 0, 0].int() for batch in reward.batches])
    assert (seen[:, 1:] - seen[:, :-1] == 8).all()  # no reward sees two episodes
    assert len(seen) == sum(value > 0 for value in everything)


@pytest.mark.usefixtures("threads")
def test_play_in_which_nothing_has_a_reward_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    with collector_of(1, CountingReward(), n_steps_max=4) as collector:
        collector.start(network_of())
        for seed in range(2):
            assert play(collector, network_of(), 10, seed).reward_mean == 0
    (warning,) = (record.message for record in caplog.records if "has a reward" in record.message)
    assert "first 4 steps" in warning


def test_levels_and_sessions_follow_the_schedule(played) -> None:
    sessions = [episode.meta.session for episode in [*played[1], *played[2]]]
    assert len(set(sessions)) == len(sessions)
    for episode in [*played[1], *played[2]]:
        width = SHORT_WALK if episode.meta.session % 2 else WALK
        assert str(episode.env_dpath).endswith(width)


def test_recorded_probabilities_are_those_of_playing_the_episode_again(played) -> None:
    """The recurrent state starts at zero in every episode and follows it from one collection to the next."""
    network = network_of()
    for episode in played[1][:3]:
        state = network.initial_state(1)
        for t in range(episode.num_steps):
            with torch.no_grad():
                output, state = network.step(torch.from_numpy(episode.frames[t : t + 1].copy()), state)
            expected = mixture(output.logits, 1.0, 0.1, True)[0, episode.actions[t]].log()
            assert episode.log_probabilities[t] == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.usefixtures("threads")
def test_resuming_from_a_saved_state_equals_playing_without_a_break() -> None:
    network, models = network_of(), world_model()

    def reward() -> Reward:
        context = RewardContext(RewardConfig(), 3, torch.device("cpu"), nullcontext, models)
        return make_reward(context, EnvironmentSpec(ACTIONS, FRAME_SHAPE), 0)

    def episodes(collected: list[Collected], collector: Collector) -> list[AgentEpisode]:
        return [*(episode for part in collected for episode in part.finished), *collector.episodes]

    with collector_of(2, reward(), (WALK, SHORT_WALK)) as first:
        first.start(network)
        before = play(first, network, 14, seed=1)
        state = first.state_dict()
        whole = episodes([before, play(first, network, 20, seed=2)], first)
    with collector_of(2, reward(), (WALK, SHORT_WALK)) as second:
        second.load_state_dict(state)
        resumed = episodes([before, play(second, network, 20, seed=2)], second)
    assert len(whole) == len(resumed)
    for a, b in zip(whole, resumed, strict=True):
        assert_same(a, b)


@pytest.mark.usefixtures("threads")
def test_resuming_drops_the_episodes_that_are_not_the_same_again(caplog: pytest.LogCaptureFixture) -> None:
    """Others, by level or seed, are refused: nothing of that run can be continued there."""
    network = network_of()
    with collector_of(2, CountingReward()) as collector:
        collector.start(network)
        play(collector, network, 6, seed=1)
        state = collector.state_dict()
        with pytest.raises(OtherEpisodes):
            collector.load_state_dict({**state, "numbers": [5, 0]})
        frames = state["frames"].clone()
        frames[1] += 1
        first, second = collector.load_state_dict({**state, "frames": frames})
        assert (first.num_steps, first.meta.session) == (3, 0) and (second.num_steps, second.meta.session) == (0, 3)
        assert play(collector, network, 20, seed=2).finished
    (warning,) = (record.message for record in caplog.records if "unfinished episodes" in record.message)
    assert warning.startswith("1 of 2 unfinished episodes dropped")
