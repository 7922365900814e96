"""Environments of a dataset: info.json, their list, and splits by session."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.data import ClipDataset
from data_generation.data.data import (
    DatasetInfo,
    Environment,
    episode_path,
    list_environments,
    split_episodes,
    split_sessions,
)
from tests.episode_helpers import make_environment, write_episode


def test_info_round_trip_and_its_errors(tmp_path):
    info = DatasetInfo("e", "g", ["A"], (3, 4, 5), {"name": "c"}, {"n": 1}, {"v": "2"})
    info.save(tmp_path / "e")
    assert DatasetInfo.load(tmp_path / "e") == info
    with pytest.raises(FileNotFoundError, match=r"no info\.json"):
        DatasetInfo.load(tmp_path)
    (tmp_path / "e" / "info.json").write_text('{"format_version": 9}')
    with pytest.raises(ValueError, match="format_version 9"):
        DatasetInfo.load(tmp_path / "e")
    for text in ("{", "[]", '{"format_version": 1, "name": "x"}'):
        (tmp_path / "e" / "info.json").write_text(text)
        with pytest.raises(ValueError, match=r"info\.json"):
            DatasetInfo.load(tmp_path / "e")


def test_environments_are_listed_and_their_absence_explained(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"dataset 'nothing' not found.*run 'python run.py generate"):
        list_environments(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="holds no environments"):
        list_environments(tmp_path)
    second, first = make_environment(tmp_path / "b", 1), make_environment(tmp_path / "a", 1)
    (tmp_path / "previews").mkdir()
    assert list_environments(tmp_path) == [first, second]
    assert list_environments(first) == [first]
    (first / "info.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"a' has no info\.json"):
        list_environments(tmp_path)


def test_environment_lists_episodes_by_instance_and_session(tmp_path):
    make_environment(tmp_path, 0)
    for instance, session in [(1, 0), (0, 2), (0, 10), (1_000_000, 1), (0, 1)]:
        write_episode(tmp_path, session, num_frames=20 + session, instance=instance)
    environment = Environment(tmp_path)
    assert environment.instances.tolist() == [0, 0, 0, 1, 1_000_000]
    assert environment.sessions.tolist() == [1, 2, 10, 0, 1]
    assert environment.num_frames.tolist() == [21, 22, 30, 20, 21]
    for i in range(5):
        with environment.open(i) as episode:
            assert episode.num_frames == environment.num_frames[i]
            assert np.array_equal(episode.actions, environment.actions(i))
            assert environment.reward_sums[i] == episode.rewards.sum()
            out = np.empty((6, 8, 10, 3), np.uint8)
            environment.read(i, 12, out)
            assert np.array_equal(out.transpose(0, 3, 1, 2), episode.frames(12, 18))


# --- splits


@settings(max_examples=100)
@given(total=st.integers(0, 3000))
def test_splits_are_disjoint_in_order_and_complete(total):
    sessions = np.arange(total) * 2 + 5
    parts = [split_sessions(np.repeat(sessions, 2), split) for split in ("train", "validation", "test")]
    assert np.array_equal(np.concatenate(parts), sessions)
    assert np.array_equal(split_sessions(sessions, "all"), sessions)
    if total >= 3:
        assert all(len(part) for part in parts)
    if total >= 12:
        assert abs(len(parts[0]) - 0.9 * total) <= 1
        assert len(parts[2]) == max(1, total // 100)


def test_known_splits():
    counts = {n: [len(split_sessions(np.arange(n), s)) for s in ("train", "validation", "test")] for n in (1, 2, 3, 10)}
    assert counts == {1: [1, 0, 0], 2: [1, 1, 0], 3: [1, 1, 1], 10: [8, 1, 1]}
    assert [len(split_sessions(np.arange(100), s)) for s in ("train", "validation", "test")] == [90, 9, 1]
    with pytest.raises(ValueError, match="split=dev"):
        split_sessions(np.arange(3), "dev")


@pytest.mark.parametrize("bad", [0, 8, 9])
def test_a_bad_episode_that_is_skipped_moves_no_other_into_another_split(tmp_path, bad):
    make_environment(tmp_path, 10, num_frames=2)

    def splits() -> dict[str, list[int]]:
        environment = Environment(tmp_path, on_bad_episode="skip")
        names = ("train", "validation", "test", "all")
        return {name: environment.sessions[split_episodes(environment, name)].tolist() for name in names}

    whole = splits()
    episode_path(tmp_path, 0, bad).write_bytes(b"")
    expected = {name: [session for session in own if session != bad] for name, own in whole.items()}
    assert splits() == expected
    # From the stored index, too.
    assert splits() == expected


def test_a_split_of_bad_episodes_alone_is_said_to_be_one(tmp_path):
    env_dpath = make_environment(tmp_path / "e", 10)
    episode_path(env_dpath, 0, 9).write_bytes(b"")
    with pytest.raises(ValueError, match=r"split 'test' .*its episodes are bad; 'python run.py data check .*' names"):
        ClipDataset(tmp_path, "test", 16, on_bad_episode="skip")


def test_all_instances_of_a_session_are_in_one_split(tmp_path):
    make_environment(tmp_path, 0)
    for instance in range(3):
        for session in range(4):
            write_episode(tmp_path, session, num_frames=2, instance=instance)
    environment = Environment(tmp_path)
    chosen = split_episodes(environment, "validation")
    assert environment.sessions[chosen].tolist() == [2, 2, 2]
    assert environment.instances[chosen].tolist() == [0, 1, 2]
