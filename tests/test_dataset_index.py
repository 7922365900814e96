"""The index of an environment: opened without reading episodes, never out of date."""

import os
from pathlib import Path

import numpy as np
import pytest

from data.data import ClipDataset
from data_generation.data import index as index_module
from data_generation.data.data import (
    Environment,
    EpisodeError,
    EpisodeReader,
    EpisodeWriter,
    episode_path,
)
from data_generation.data.errors import FieldError
from data_generation.data.index import INDEX_FNAME
from tests.episode_helpers import SHAPE, age, make_environment, make_frames, opened_files, write_episode


def test_an_unchanged_environment_is_opened_by_its_index_alone(tmp_path):
    """However many episodes there are; most of these are links to one, as only names and headers matter."""
    make_environment(tmp_path, 5)
    source = episode_path(tmp_path, 0, 0)
    for session in range(5, 1000):
        os.link(source, source.with_name(f"{session:06d}.episode"))
    age(tmp_path)
    first = Environment(tmp_path)
    with opened_files() as names:
        second = Environment(tmp_path)
    assert sorted(names) == [INDEX_FNAME, "info.json"]
    assert second.num_episodes == 1000
    assert np.array_equal(first.num_frames, second.num_frames)
    assert all(np.array_equal(first.actions(i), second.actions(i)) for i in range(10))


def test_added_removed_and_rewritten_episodes_are_noticed(tmp_path):
    make_environment(tmp_path, 4)
    age(tmp_path)
    Environment(tmp_path)
    write_episode(tmp_path, 9, num_frames=33)
    with opened_files() as names:
        assert Environment(tmp_path).num_frames.tolist() == [40, 40, 40, 40, 33]
    assert [name for name in names if name.endswith(".episode")] == ["000009.episode"], "only the new one is read"
    episode_path(tmp_path, 0, 1).unlink()
    assert Environment(tmp_path).sessions.tolist() == [0, 2, 3, 9]
    assert Environment(tmp_path).sessions.tolist() == [0, 2, 3, 9]
    write_episode(tmp_path, 2, num_frames=17)
    assert Environment(tmp_path).num_frames.tolist() == [40, 17, 40, 33]


def age_folders(env_dpath: Path) -> None:
    """Make the folders of episodes older than any index, as they are in real life."""
    for path in env_dpath.iterdir():
        if path.is_dir():
            os.utime(path, ns=(path.stat().st_mtime_ns - 100_000_000_000,) * 2)


def test_files_in_folders_that_have_not_changed_are_not_looked_at(tmp_path, monkeypatch):
    make_environment(tmp_path, 4)
    age(tmp_path)
    age_folders(tmp_path)
    Environment(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(index_module, "scan", lambda _: pytest.fail("the files were listed"))
        environment = Environment(tmp_path)
    assert environment.num_frames.tolist() == [40] * 4
    assert environment.actions(3).tolist() == EpisodeReader(episode_path(tmp_path, 0, 3)).actions.tolist()
    # Whatever happens to a file shows in its folder.
    write_episode(tmp_path, 9, num_frames=33)
    assert Environment(tmp_path).num_frames.tolist() == [40, 40, 40, 40, 33]
    age_folders(tmp_path)
    episode_path(tmp_path, 0, 0).unlink()
    assert Environment(tmp_path).sessions.tolist() == [1, 2, 3, 9]
    age_folders(tmp_path)
    write_episode(tmp_path, 0, num_frames=5, instance=1)
    assert Environment(tmp_path).instances.tolist() == [0, 0, 0, 0, 1]


def test_a_bad_episode_is_named_each_time(tmp_path):
    make_environment(tmp_path, 3)
    path = episode_path(tmp_path, 0, 1)
    path.write_bytes(path.read_bytes()[:-1])
    age_folders(tmp_path)
    assert Environment(tmp_path, on_bad_episode="skip").num_episodes == 2
    with pytest.raises(ValueError, match="is truncated"):
        Environment(tmp_path)


def write_other_frames(path: Path, size: int) -> None:
    """The episode with other frames, in a file of exactly `size` bytes (random pixels do not compress)."""
    with EpisodeReader(path) as episode:
        meta, actions = episode.meta, episode.actions
    for seed in range(1000, 1100):
        frames = make_frames(len(actions) + 1, seed)
        with EpisodeWriter(path, meta, SHAPE) as writer:
            writer.start(frames[0])
            for t, action in enumerate(actions, 1):
                writer.step(action, 0.25 * t, False, t == len(actions), {"x": t}, frames[t])
            writer.commit()
        if path.stat().st_size == size:
            return
    raise AssertionError("no file of this size")


def test_an_episode_rewritten_at_once_with_the_same_size_and_time_is_noticed(tmp_path):
    make_environment(tmp_path, 1)
    old = Environment(tmp_path)
    path = episode_path(tmp_path, 0, 0)
    status = path.stat()
    # Stored at once after the episode was written, however slow this machine is.
    os.utime(tmp_path / INDEX_FNAME, ns=(status.st_mtime_ns, status.st_mtime_ns + 1_000_000))
    write_other_frames(path, status.st_size)
    os.utime(path, ns=(status.st_mtime_ns, status.st_mtime_ns))
    out = np.empty((40, 8, 10, 3), np.uint8)
    with pytest.raises(EpisodeError, match="has changed since the dataset was opened"):
        old.read(0, 0, out)
    Environment(tmp_path).read(0, 0, out)
    assert np.array_equal(out.transpose(0, 3, 1, 2), EpisodeReader(path).frames())


def test_regenerated_dataset_is_not_read_by_its_old_index(tmp_path):
    env_dpath = make_environment(tmp_path / "env", 3)
    age(env_dpath)
    Environment(env_dpath)
    for session in range(3):
        write_episode(env_dpath, session, num_frames=40, seed=100 + session)
    environment = Environment(env_dpath)
    for i in range(3):
        assert np.array_equal(environment.actions(i), EpisodeReader(environment.episode_path(i)).actions)
        out = np.empty((40, 8, 10, 3), np.uint8)
        environment.read(i, 0, out)
        assert np.array_equal(out.transpose(0, 3, 1, 2), make_frames(40, 100 + i))


def test_a_renamed_dataset_keeps_its_index_and_a_damaged_index_is_replaced(tmp_path):
    make_environment(tmp_path / "old", 3)
    age(tmp_path)
    Environment(tmp_path / "old")
    (tmp_path / "old").rename(tmp_path / "new")
    with opened_files() as names:
        assert Environment(tmp_path / "new").num_episodes == 3
    assert sorted(names) == [INDEX_FNAME, "info.json"]
    index = tmp_path / "new" / INDEX_FNAME
    good = index.read_bytes()
    for bad in (b"", good[:50], good[:-9], b"\0" * len(good), good[:100] + b"\xff" + good[101:]):
        index.write_bytes(bad)
        assert Environment(tmp_path / "new").num_frames.tolist() == [40, 40, 40]
        assert index.read_bytes() == good


def test_a_read_only_dataset_works_without_a_stored_index(tmp_path, monkeypatch):
    make_environment(tmp_path, 2)

    def refuse(path, data):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(index_module, "write_atomically", refuse)
    assert Environment(tmp_path).num_episodes == 2
    assert not (tmp_path / INDEX_FNAME).exists()


def test_one_bad_episode_is_an_error_or_counted(tmp_path, caplog):
    make_environment(tmp_path, 3)
    path = episode_path(tmp_path, 0, 1)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(
        ValueError, match=r"000001\.episode' is truncated .*: delete it and generate it again$"
    ) as error:
        Environment(tmp_path)
    assert "\n" not in str(error.value)
    with pytest.raises(FieldError, match=r"on_bad_episode=error: .*000001\.episode' is.*set on_bad_episode=skip"):
        ClipDataset(tmp_path, "train", 16)
    for _ in range(2):
        caplog.clear()
        environment = Environment(tmp_path, on_bad_episode="skip")
        assert environment.sessions.tolist() == [0, 2]
        assert len(environment.bad_episodes) == 1
        assert "1 bad episodes" in caplog.text
    write_episode(tmp_path, 1)
    assert Environment(tmp_path).num_episodes == 3
    with pytest.raises(ValueError, match="on_bad_episode=maybe"):
        Environment(tmp_path, on_bad_episode="maybe")
