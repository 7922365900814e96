"""AutoExplore's play: the replay, episodes on disk, schedules, environments in processes, rewards in a thread."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from auto_explore_helpers import ACTIONS, FRAME_SHAPE, SHORT_WALK, WALK, make_episode, quick_config, world_model

from auto_explore.config import CommonConfig, RewardConfig
from auto_explore.src.agent import mixture
from auto_explore.src.collector import Collected, Collector, PlayStyle, RewardThread
from auto_explore.src.coverage import Coverage, cell_of
from auto_explore.src.dataset import Episode, Place, Replay, Step, load_replay
from auto_explore.src.envs import Resumed, Schedule, World, WorldEnv, list_worlds, make_vector_env, open_connector
from auto_explore.src.evaluation import add_episode
from auto_explore.src.models.actor_critic import ActorCritic
from auto_explore.src.reward import Reward, Tools, Windows, make_reward
from auto_explore.src.run_folder import make_folder
from data_generation.data.data import DatasetInfo, Environment, EpisodeMeta, EpisodeWriter

STYLE = PlayStyle(temperature=1.0, epsilon=0.1, should_sample=True)
COLUMNS = ("actions", "rewards", "log_probabilities", "environment_rewards", "infos", "terminated", "truncated")


def connector_of(games: list[str], n_steps_max: int = 11):
    config = quick_config(Path("nowhere")).collection
    config.games, config.connector.generator_config.n_steps_max = games, n_steps_max
    return open_connector(config, None)


def schedules_of(count: int, games: tuple[str, ...] = (WALK,), seed: int = 0) -> list[Schedule]:
    return [Schedule(tuple(World(game, 0) for game in games), seed, i, count) for i in range(count)]


class CountingReward(Reward):
    """Pays the green channel of the newest frame: the number of steps so far (times 8). Remembers its batches."""

    def __init__(self, n_preds: int = 3, kind: str = "entropy"):
        super().__init__(Tools(RewardConfig(type=kind), n_preds, torch.device("cpu"), nullcontext, None))
        self.batches: list[Windows] = []

    def __call__(self, windows: Windows, learn: bool) -> torch.Tensor:
        self.batches.append(windows)
        return windows.frames[:, -1, 1, 0, 0].float()


def place_of(schedules: list[Schedule], env: int, episode: int) -> Place:
    schedule = schedules[env]
    meta = EpisodeMeta(seed=schedule.env_seed(episode), session=schedule.session(episode))
    return Place(Path("nowhere") / schedule.world(episode).game, meta)


@contextmanager
def collector_of(
    count: int, reward: Reward, games: tuple[str, ...] = (WALK,), n_steps_max: int = 11, batch: int = 4
) -> Iterator[Collector]:
    schedules = schedules_of(count, games)
    envs = make_vector_env(connector_of(list(games)), schedules, n_steps_max)
    collector = Collector(envs, partial(place_of, schedules), reward, batch, learn_reward=True)
    try:
        yield collector
    finally:
        collector.close()


def play(collector: Collector, network: ActorCritic, num_steps: int, seed: int, replay: Replay | None = None):
    uniform = torch.Generator().manual_seed(seed)
    return collector.collect(network, STYLE, uniform, lambda count, _: count >= num_steps, replay)


def network_of() -> ActorCritic:
    torch.manual_seed(0)
    return ActorCritic(len(ACTIONS), FRAME_SHAPE)


def assert_same(a: Episode, b: Episode) -> None:
    assert np.array_equal(a.frames, b.frames)
    for name in COLUMNS:
        assert getattr(a, name) == getattr(b, name), name


# Replay and files


@pytest.mark.parametrize("is_over", ["terminated", "truncated"])
def test_an_episode_comes_back_from_its_file_exactly(tmp_path: Path, is_over: str) -> None:
    episode = make_episode(70, tmp_path, session=3, is_over=is_over)
    path = episode.save()
    assert path == episode.place.path
    loaded = Episode.load(path)
    assert_same(loaded, episode)
    assert loaded.place == episode.place
    assert [len(item.frames) for item in load_replay([path], 10).episodes] == [71]


def test_an_episode_in_progress_comes_back_from_its_columns_exactly() -> None:
    episode = make_episode(9)
    assert_same(Episode.from_columns(episode.place, episode.columns(), episode.frames.copy()), episode)


def test_an_episode_of_another_policy_is_refused(tmp_path: Path) -> None:
    with EpisodeWriter(tmp_path / "0.episode", EpisodeMeta(), FRAME_SHAPE) as writer:
        writer.start(np.zeros(FRAME_SHAPE, np.uint8))
        path = writer.commit()
    with pytest.raises(ValueError, match="is not an episode of this agent's replay"):
        Episode.load(path)


def test_every_step_is_sampled_equally_often_and_no_segment_crosses_an_episode() -> None:
    replay, lengths = Replay(1000), (1, 9, 3)
    for session, length in enumerate(lengths):
        episode = make_episode(length, session=session, is_over="terminated")
        episode.infos = [{"number": float(session)}] * length
        episode._frames[: length + 1, 1] = session
        replay.add(episode)
    segments = replay.sample(24_000, burn_in=2, num_steps=4, rng=np.random.default_rng(0))
    counts: Counter[tuple[int, int]] = Counter()
    for frames, valid, rewards, ended in zip(
        segments.frames.numpy(), segments.valid.numpy(), segments.rewards.numpy(), segments.ended.numpy(), strict=True
    ):
        steps, session = rewards[valid] - 0.5, int(frames[2, 1, 0, 0])
        assert np.array_equal(np.diff(steps), np.ones(len(steps) - 1))
        shown = frames[2 : 3 + valid.sum()]
        assert (shown[:, 1] == session).all() and (shown[:, 0, 0, 0] == np.append(steps, steps[-1] + 1)).all()
        assert ended.any() == (steps[-1] == lengths[session] - 1)
        counts.update((session, int(step)) for step in steps)
    assert len(counts) == sum(lengths)
    expected = 24_000 * 4 / (4 + 12 + 6)  # starts: each length + 3
    assert all(count == pytest.approx(expected, rel=0.06) for count in counts.values())


def test_burn_in_shows_the_frames_before_a_segment_and_stops_at_the_episodes_start() -> None:
    replay = Replay(1000)
    replay.add(make_episode(6))
    segments = replay.sample(200, burn_in=3, num_steps=2, rng=np.random.default_rng(0))
    for frames, known, rewards in zip(segments.frames, segments.burn_in_valid, segments.rewards, strict=True):
        first = int(rewards[0] - 0.5)
        assert known.tolist() == [first >= 3, first >= 2, first >= 1]
        assert frames[:3, 0, 0, 0][known].tolist() == [first - k for k in (3, 2, 1) if first >= k]


@pytest.mark.parametrize(("is_over", "ended"), [("terminated", True), ("truncated", False), ("", False)])
def test_only_an_end_for_good_cuts_the_return(is_over: str, ended: bool) -> None:
    """Otherwise the frame after the last step is there to bootstrap from."""
    replay = Replay(1000)
    replay.add(make_episode(3, is_over=is_over))
    segments = replay.sample(100, burn_in=0, num_steps=5, rng=np.random.default_rng(0))
    last = segments.valid.sum(dim=1) - 1
    whole = segments.rewards.gather(1, last.unsqueeze(1)).squeeze(1) == 2.5
    assert whole.any()
    assert (segments.ended.gather(1, last.unsqueeze(1)).squeeze(1)[whole] == ended).all()
    assert int(segments.ended.sum()) == (int(whole.sum()) if ended else 0)
    assert (segments.frames[whole, (last + 1)[whole], 0, 0, 0] == 3).all()


def test_old_episodes_leave_the_replay_and_growing_ones_stay() -> None:
    replay = Replay(capacity=10)
    for session, length in enumerate((4, 5, 6)):
        replay.add(make_episode(length, session=session, is_over="truncated"))
    replay.add(make_episode(2, session=3))
    replay.trim()
    assert [episode.place.meta.session for episode in replay.episodes] == [2, 3]
    growing = Replay(capacity=1)
    growing.add(make_episode(8))
    growing.add(make_episode(8, session=1, is_over="terminated"))
    growing.trim()
    assert growing.num_steps == 16


# Rewards in their thread


def test_rewards_are_stored_with_the_step_that_earned_them() -> None:
    reward = CountingReward()
    thread = RewardThread(reward, torch.device("cpu"), learn=True)
    episodes = [Episode(make_episode(0).place, np.zeros(FRAME_SHAPE, np.uint8)) for _ in range(2)]
    for t in range(9):
        for k, episode in enumerate(episodes[: 1 + (t > 2)]):
            step = make_episode(t + 1)
            source = Episode.from_columns(episode.place, step.columns(), step.frames)
            episode._frames[episode.num_steps + 1] = 0
            _append(episode, source, len(episode.actions), value=10 * k + len(episode.actions) + 1)
            thread.add(episode, batch_size=3)
    thread.flush()
    thread.close()
    assert episodes[0].rewards == [0, 0, 0, 0, 5, 6, 7, 8, 9]
    assert episodes[1].rewards == [0, 0, 0, 0, 15, 16]
    assert [len(batch.frames) for batch in reward.batches] == [3, 3, 1]
    for batch in reward.batches:
        assert (batch.frames[:, 1:, 1, 0, 0].int() - batch.frames[:, :-1, 1, 0, 0].int() == 1).all()


def _append(episode: Episode, source: Episode, t: int, value: int) -> None:
    frame = np.full(FRAME_SHAPE, value, np.uint8)
    episode.append(Step(source.actions[t], 0.0, 0.0, False, False, {}, frame))


def test_an_error_of_the_thread_comes_out_of_flush() -> None:
    class Broken(CountingReward):
        def __call__(self, windows: Windows, learn: bool) -> torch.Tensor:
            raise ValueError("the world model is on fire")

    thread = RewardThread(Broken(), torch.device("cpu"), learn=True)
    thread.add(make_episode(6), batch_size=1)
    with pytest.raises(ValueError, match="on fire"):
        thread.flush()
    thread.close()


def test_many_predicted_frames_wait_until_the_episode_has_them() -> None:
    """The window of 2 + 6 frames is longer than the four unpaid steps."""
    reward = CountingReward(n_preds=6)
    thread = RewardThread(reward, torch.device("cpu"), learn=True)
    for length in range(1, 10):
        thread.add(make_episode(length), batch_size=1)
    thread.flush()
    thread.close()
    assert [batch.frames.shape[1] for batch in reward.batches] == [8] * 3
    assert [batch.actions.shape[1] for batch in reward.batches] == [7] * 3


# Schedules


def test_sessions_are_unique_over_environments_and_processes() -> None:
    schedules = schedules_of(3)
    sessions = [schedule.session(episode) for schedule in schedules for episode in range(50)]
    assert sorted(sessions) == list(range(150))
    assert len({schedule.env_seed(episode) for schedule in schedules for episode in range(50)}) == 150


def test_games_and_instances_take_turns() -> None:
    class Few:
        def select(self):
            return type("Selection", (), {"games": ["a", "b"]})

        def num_instances(self, game: str) -> int | None:
            return {"a": 2, "b": None}[game]

    worlds = list_worlds(Few(), 3)  # type: ignore[arg-type]
    assert worlds == [World("a", 0), World("b", 0), World("a", 1), World("b", 1), World("b", 2)]
    played = [Schedule(tuple(worlds), 0, i, 2).world(episode) for episode in range(5) for i in range(2)]
    assert Counter(played) == dict.fromkeys(worlds, 2)


# Environments


def test_restoring_plays_an_episode_to_the_same_frames_and_goes_on_alike() -> None:
    schedule = schedules_of(2)[1]
    env = WorldEnv(connector_of([WALK]), schedule, n_steps_max=11)
    env.reset()
    first, _ = env.reset()
    frames = [first] + [env.step(action)[0] for action in (0, 0, 1, 2)]
    other = WorldEnv(connector_of([WALK]), schedule, n_steps_max=11)
    restored = other.restore([Resumed(0, []), Resumed(1, [0, 0, 1, 2])])
    assert np.array_equal(restored, np.stack(frames))
    for action in (0, 2):
        a, b = env.step(action), other.step(action)
        assert np.array_equal(a[0], b[0]) and a[1:] == b[1:]
    assert np.array_equal(env.reset()[0], other.reset()[0])


def test_an_episode_is_cut_after_its_most_steps() -> None:
    env = WorldEnv(connector_of([WALK]), schedules_of(1)[0], n_steps_max=4)
    env.reset()
    assert [env.step(2)[3] for _ in range(4)] == [False, False, False, True]
    env.reset()
    assert [env.step(2)[3] for _ in range(4)] == [False, False, False, True]


@pytest.fixture(scope="module")
def played() -> tuple[Collected, list[Episode], list[Episode], CountingReward]:
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
        assert (episode.frames[:, 0, 0, 0] == episode.place.meta.seed % 256).all()
    assert all(episode.is_over for episode in finished) and not any(episode.is_over for episode in growing)


def test_an_episodes_last_frame_is_the_one_in_which_it_ended(played) -> None:
    ends = [episode for episode in played[1] if episode.terminated]
    assert ends
    for episode in ends:
        x = episode.infos[-1]["x"]
        assert x == (9 if WALK in str(episode.place.env_dpath) else 3)
        assert episode.environment_rewards[-1] == x / 10
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
    assert (seen[:, 1:] - seen[:, :-1] == 8).all()  # windows never cross episodes
    assert len(seen) == sum(value > 0 for value in everything)


def test_worlds_and_sessions_follow_the_schedule(played) -> None:
    sessions = [episode.place.meta.session for episode in [*played[1], *played[2]]]
    assert len(set(sessions)) == len(sessions)
    for episode in [*played[1], *played[2]]:
        width = SHORT_WALK if episode.place.meta.session % 2 else WALK
        assert str(episode.place.env_dpath).endswith(width)


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


def test_playing_on_from_a_saved_state_equals_playing_without_a_break() -> None:
    network, models = network_of(), world_model()

    def reward() -> Reward:
        tools = Tools(RewardConfig(), 3, torch.device("cpu"), nullcontext, models)
        return make_reward(tools, FRAME_SHAPE, 0)

    def episodes(collected: list[Collected], collector: Collector) -> list[Episode]:
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


def test_resuming_in_environments_that_show_other_frames_is_refused() -> None:
    network = network_of()
    with collector_of(1, CountingReward()) as collector:
        collector.start(network)
        play(collector, network, 3, seed=1)
        state = collector.state_dict()
        for changes in ({"numbers": [5]}, {"frames": state["frames"] + 1}):  # another episode; other pictures
            with pytest.raises(ValueError, match=r"do not play the episodes of the run on: go on with its coll"):
                collector.load_state_dict({**state, **changes})


# Coverage


def test_coverage_counts_what_is_new() -> None:
    coverage = Coverage()
    episode = make_episode(6, is_over="terminated")
    for k, info in enumerate(episode.infos):
        info |= {"x": 20.0 * k, "y": 3.0, "level": float(k // 3), "goal": float(k == 5)}
    add_episode(coverage, episode)
    once = coverage.summary()
    assert (once["positions"], once["levels"], once["goals"], once["max_x"]) == (6, 2, 1, 100)
    add_episode(coverage, episode)
    assert coverage.summary() == once | {"steps": 12}
    assert Coverage.from_state(coverage.state_dict()).summary() == coverage.summary()


def test_what_processes_cover_is_counted_once() -> None:
    frames = [np.full(FRAME_SHAPE, 60 * i, np.uint8) for i in range(4)]
    infos = {name: np.array([0.0, 20.0, 40.0]) for name in ("x", "y")}
    whole, parts = Coverage(), [Coverage(), Coverage()]
    for part, last, action in ((parts[0], 4, 1), (parts[1], 3, 2)):
        for coverage in (part, whole):
            some = {name: column[: last - 1] for name, column in infos.items()}
            coverage.add(0, frames[:last], some, np.full(last - 1, action))
    assert Coverage.united(parts).summary() == whole.summary()
    assert whole.summary()["cells"] == 4 and Coverage.united([]).summary()["cells"] == 0


def test_runs_that_start_at_one_moment_have_different_numbers(tmp_path: Path) -> None:
    (tmp_path / "004_old").mkdir()
    commons = [CommonConfig(root_dpath=str(tmp_path), name=f"run{i % 3}") for i in range(60)]
    with ThreadPoolExecutor(12) as pool:
        folders = list(pool.map(make_folder, commons))
    numbers = sorted(int(folder.path.name[:3]) for folder in folders)
    assert len(set(numbers)) == 60 and numbers[0] == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["004_old", *(f.path.name for f in folders)])


def test_equal_positions_of_two_games_are_two_positions() -> None:
    coverage = Coverage()
    for game in ("a", "b"):
        episode = make_episode(2, is_over="terminated")
        episode.place.meta.game = game
        for info in episode.infos:
            info |= {"x": 1.0, "y": 1.0}
        add_episode(coverage, episode)
    assert coverage.summary()["positions"] == coverage.summary()["levels"] == 2


def test_cells_are_coarse() -> None:
    frame = np.full((3, 64, 64), 100, np.uint8)
    other = frame.copy()
    other[:, 3, 3] = 120  # one pixel
    brighter = np.full((3, 64, 64), 200, np.uint8)
    assert cell_of(frame) == cell_of(other) != cell_of(brighter)


def test_an_environment_folder_lists_the_episodes(tmp_path: Path) -> None:
    DatasetInfo("toy", "toy", ACTIONS, FRAME_SHAPE).save(tmp_path)
    for session in range(2):
        make_episode(5, tmp_path, session, "terminated").save()
    environment: Any = Environment(tmp_path)
    assert environment.num_frames.tolist() == [6, 6]
