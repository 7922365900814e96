"""AutoExplore's replay: episodes in files and in memory, and what is sampled from them."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from auto_explore.src.dataset import AgentEpisode, Replay
from data_generation.data.data import DatasetInfo, Environment, EpisodeMeta, EpisodeWriter
from tests.auto_explore_helpers import ACTIONS, FRAME_SHAPE, make_episode
from tests.auto_explore_play_helpers import (
    assert_same,
)

# Replay and files


@pytest.mark.parametrize("is_over", ["terminated", "truncated"])
def test_an_episode_comes_back_from_its_file_exactly(tmp_path: Path, is_over: str) -> None:
    episode = make_episode(70, tmp_path, session=3, is_over=is_over)
    path = episode.save()
    assert path == episode.path
    loaded = AgentEpisode.load(path)
    assert_same(loaded, episode)
    assert (loaded.path, loaded.meta) == (episode.path, episode.meta)


def test_an_episode_in_progress_comes_back_from_its_columns_exactly() -> None:
    episode = make_episode(9)
    copy = AgentEpisode.from_columns(episode.env_dpath, episode.meta, episode.columns(), episode.frames.copy())
    assert_same(copy, episode)


def test_an_episode_of_another_policy_is_refused(tmp_path: Path) -> None:
    with EpisodeWriter(tmp_path / "0.episode", EpisodeMeta(), FRAME_SHAPE) as writer:
        writer.start(np.zeros(FRAME_SHAPE, np.uint8))
        path = writer.commit()
    with pytest.raises(ValueError, match="is not an episode of this agent's replay"):
        AgentEpisode.load(path)


def test_every_step_is_sampled_equally_often_and_no_clip_crosses_an_episode() -> None:
    replay, lengths = Replay(1000), (1, 9, 3)
    for session, length in enumerate(lengths):
        episode = make_episode(length, session=session, is_over="terminated")
        episode.infos = [{"number": float(session)}] * length
        episode.frames[:, 1] = session
        replay.add(episode)
    clips = replay.sample(24_000, burn_in=2, num_steps=4, rng=np.random.default_rng(0))
    counts: Counter[tuple[int, int]] = Counter()
    for frames, valid, rewards, ended in zip(
        clips.frames.numpy(), clips.valid.numpy(), clips.rewards.numpy(), clips.ended.numpy(), strict=True
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


def test_burn_in_shows_the_frames_before_a_clip_and_stops_at_the_episodes_start() -> None:
    replay = Replay(1000)
    replay.add(make_episode(6))
    clips = replay.sample(200, burn_in=3, num_steps=2, rng=np.random.default_rng(0))
    for frames, known, rewards in zip(clips.frames, clips.burn_in_valid, clips.rewards, strict=True):
        first = int(rewards[0] - 0.5)
        assert known.tolist() == [first >= 3, first >= 2, first >= 1]
        assert frames[:3, 0, 0, 0][known].tolist() == [first - k for k in (3, 2, 1) if first >= k]


@pytest.mark.parametrize(("is_over", "ended"), [("terminated", True), ("truncated", False), ("", False)])
def test_only_an_end_for_good_cuts_the_return(is_over: str, ended: bool) -> None:
    """Otherwise the frame after the last step is there to bootstrap from."""
    replay = Replay(1000)
    replay.add(make_episode(3, is_over=is_over))
    clips = replay.sample(100, burn_in=0, num_steps=5, rng=np.random.default_rng(0))
    last = clips.valid.sum(dim=1) - 1
    whole = clips.rewards.gather(1, last.unsqueeze(1)).squeeze(1) == 2.5
    assert whole.any()
    assert (clips.ended.gather(1, last.unsqueeze(1)).squeeze(1)[whole] == ended).all()
    assert int(clips.ended.sum()) == (int(whole.sum()) if ended else 0)
    assert (clips.frames[whole, (last + 1)[whole], 0, 0, 0] == 3).all()


def test_old_episodes_leave_the_replay_and_growing_ones_stay() -> None:
    replay = Replay(capacity=10)
    for session, length in enumerate((4, 5, 6)):
        replay.add(make_episode(length, session=session, is_over="truncated"))
    replay.add(make_episode(2, session=3))
    replay.trim()
    assert [episode.meta.session for episode in replay.episodes] == [2, 3]
    # A long one that grows does not keep those after it.
    replay = Replay(capacity=20)
    replay.add(make_episode(8))
    for session in range(1, 5):
        replay.add(make_episode(6, session=session, is_over="terminated"))
    replay.trim()
    assert [episode.meta.session for episode in replay.episodes] == [0, 3, 4]
    # One episode at least.
    replay = Replay(capacity=1)
    replay.add(make_episode(8, is_over="terminated"))
    replay.trim()
    assert replay.num_steps == 8


def test_an_environment_folder_lists_the_episodes(tmp_path: Path) -> None:
    DatasetInfo("toy", "toy", ACTIONS, FRAME_SHAPE).save(tmp_path)
    for session in range(2):
        make_episode(5, tmp_path, session, "terminated").save()
    environment: Any = Environment(tmp_path)
    assert environment.num_frames.tolist() == [6, 6]
