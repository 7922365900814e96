"""The episode format: exact round trips, nothing half-written visible, every damage found."""

import os
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_generation.data.data import (
    Environment,
    EpisodeError,
    EpisodeMeta,
    EpisodeReader,
    EpisodeWriter,
    episode_path,
    is_whole,
)
from data_generation.data.errors import UserError
from tests.episode_helpers import SHAPE, make_environment, make_frames, write_episode

# --- round trip


@settings(max_examples=25)
@given(
    num_frames=st.integers(1, 70),
    shape=st.tuples(st.integers(1, 4), st.integers(1, 20), st.integers(1, 20)),
    seed=st.integers(0, 1 << 40),
)
def test_what_is_written_is_read_back_exactly(tmp_path_factory, num_frames, shape, seed):
    path = tmp_path_factory.mktemp("episode") / "000000.episode"
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 256, (num_frames, *shape), dtype=np.uint8)
    actions = rng.integers(0, 1000, num_frames - 1)
    rewards = rng.normal(size=num_frames - 1).astype(np.float32)
    ends = rng.integers(0, 2, (2, num_frames - 1)).astype(bool)
    lives = rng.normal(size=num_frames - 1)
    meta = EpisodeMeta(seed, 3, 4, "p", {"a": [1, 2.5, None], "b": {"c": "ü"}}, "game", {"x": "1.0"})
    with EpisodeWriter(path, meta, shape) as writer:
        writer.start(frames[0])
        for t in range(num_frames - 1):
            writer.step(int(actions[t]), rewards[t], ends[0, t], ends[1, t], {"lives": lives[t]}, frames[t + 1])
        writer.commit()
    with EpisodeReader(path) as episode:
        assert episode.meta == meta
        assert (episode.num_frames, episode.num_actions, episode.lossless) == (num_frames, num_frames - 1, True)
        assert np.array_equal(episode.frames(), frames)
        assert np.array_equal(episode.actions, actions)
        assert episode.actions.dtype == np.int64
        assert np.array_equal(episode.rewards, rewards)
        assert episode.rewards.dtype == np.float32
        assert np.array_equal(episode.terminated, ends[0])
        assert np.array_equal(episode.truncated, ends[1])
        assert num_frames == 1 or np.array_equal(episode.infos["lives"], lives)
        start = int(rng.integers(0, num_frames + 1))
        stop = int(rng.integers(start, num_frames + 1))
        assert np.array_equal(episode.frames(start, stop), frames[start:stop])
        episode.verify()


def test_equal_episodes_are_equal_bytes(tmp_path):
    first, second = write_episode(tmp_path / "a", 1), write_episode(tmp_path / "b", 1)
    os.utime(second, (0, 0))
    assert first.read_bytes() == second.read_bytes()


def test_info_keys_may_come_late_and_go_missing(tmp_path):
    frames = make_frames(4)
    with EpisodeWriter(tmp_path / "e.episode", EpisodeMeta(), SHAPE) as writer:
        writer.start(frames[0])
        writer.step(0, 0, False, False, {}, frames[1])
        writer.step(0, 0, False, False, {"score": 5, "on": True}, frames[2])
        writer.step(0, 0, False, True, {"score": np.int64(6)}, frames[3])
        writer.commit()
    infos = EpisodeReader(tmp_path / "e.episode").infos
    assert np.array_equal(infos["score"], [np.nan, 5, 6], equal_nan=True)
    assert np.array_equal(infos["on"], [np.nan, 1, np.nan], equal_nan=True)


def test_video_mode_is_readable_through_the_same_reader_and_close(tmp_path):
    y, x = np.mgrid[0:32, 0:48]
    frames = np.stack([np.stack([(x * 4 + t) % 200, y * 5 % 200, x + y + t]).astype(np.uint8) for t in range(70)])
    with EpisodeWriter(tmp_path / "e.episode", EpisodeMeta(), (3, 32, 48), output_mode="video") as writer:
        writer.start(frames[0])
        for frame in frames[1:]:
            writer.step(1, 0, False, False, {}, frame)
        writer.commit()
    with EpisodeReader(tmp_path / "e.episode") as episode:
        assert not episode.lossless
        read = episode.frames()
        assert np.abs(read.astype(int) - frames).mean() < 4
        # Chunks stay independent: a part reads as it does within the whole.
        assert np.array_equal(episode.frames(30, 50), read[30:50])
        episode.verify()


def test_memory_stays_flat_while_writing(tmp_path):
    frame = make_frames(1, shape=(3, 64, 64))[0]
    with EpisodeWriter(tmp_path / "e.episode", EpisodeMeta(), (3, 64, 64)) as writer:
        writer.start(frame)
        for _ in range(100):
            writer.step(0, 0, False, False, {"x": 1}, frame)
        tracemalloc.start()
        for _ in range(500):
            writer.step(0, 0, False, False, {"x": 1}, frame)
        grown, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert grown < 10 * frame.nbytes  # 500 frames would be 500


# --- mistakes of the caller


def test_wrong_calls_are_errors_that_say_what_to_do(tmp_path):
    frames = make_frames(2)
    with EpisodeWriter(tmp_path / "e.episode", EpisodeMeta(), SHAPE) as writer:
        with pytest.raises(ValueError, match=r"call start\(frame\) before step"):
            writer.step(0, 0, False, False, {}, frames[0])
        with pytest.raises(ValueError, match=r"no frames: call start"):
            writer.commit()
        with pytest.raises(ValueError, match=r"give uint8 \(3, 8, 10\)"):
            writer.start(frames[0].transpose(1, 2, 0))
        with pytest.raises(ValueError, match="give uint8"):
            writer.start(frames[0].astype(np.float32))
        writer.start(frames[0])
        with pytest.raises(ValueError, match="call start"):
            writer.start(frames[0])
        with pytest.raises(ValueError, match=r"info\['name'\]"):
            writer.step(0, 0, False, False, {"name": "Mario"}, frames[1])
    with pytest.raises(ValueError, match="output_mode=avi"):
        EpisodeWriter(tmp_path / "e.episode", EpisodeMeta(), SHAPE, output_mode="avi")
    with pytest.raises(IndexError, match="3:99"):
        EpisodeReader(write_episode(tmp_path, 0)).frames(3, 99)
    assert not list(tmp_path.rglob("*.tmp"))


# --- nothing half-written is visible

_KILLED_WRITER = """
import sys, numpy as np
from data_generation.data.data import EpisodeMeta, EpisodeWriter, episode_path
frame = np.random.default_rng(0).integers(0, 256, (3, 8, 10), dtype=np.uint8)
writer = EpisodeWriter(episode_path(sys.argv[1], 0, 7), EpisodeMeta(), (3, 8, 10))
writer.start(frame)
for t in range(10**9):
    writer.step(0, 0.0, False, False, {}, frame)
    if t == 200: print("writing", flush=True)
"""


def test_a_killed_writer_leaves_nothing_visible(tmp_path):
    env_dpath = make_environment(tmp_path / "env", 2)
    root = str(Path(__file__).parent.parent)
    process = subprocess.Popen(
        [sys.executable, "-c", _KILLED_WRITER, str(env_dpath)], cwd=root, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    process.kill()
    process.wait()
    process.stdout.close()
    assert list(env_dpath.rglob("*.tmp")), "the killed writer was to leave its temporary file"
    assert not episode_path(env_dpath, 0, 7).exists()
    assert Environment(env_dpath).sessions.tolist() == [0, 1]
    write = f"from tests.episode_helpers import *; write_episode(Path({str(env_dpath)!r}), 8)"
    subprocess.run([sys.executable, "-c", write], cwd=root, check=True)
    assert not list(env_dpath.rglob("*.tmp")), "the next process that writes to the folder cleans up"
    assert Environment(env_dpath).sessions.tolist() == [0, 1, 8]


def test_a_folder_is_listed_once_however_many_episodes_are_written_to_it(tmp_path, monkeypatch):
    listed = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(Path(path)) or scandir(path))
    for session in range(5):
        write_episode(tmp_path, session, num_frames=2)
    assert listed.count(tmp_path / "000000") == 1


def test_an_exception_while_playing_leaves_nothing_and_keeps_the_old_episode(tmp_path):
    path = write_episode(tmp_path, 0)
    before = path.read_bytes()
    with pytest.raises(RuntimeError), EpisodeWriter(path, EpisodeMeta(), SHAPE) as writer:  # noqa: PT012
        writer.start(make_frames(1)[0])
        raise RuntimeError("the emulator crashed")
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


_FULL_DISK = """
import resource, sys
from tests.episode_helpers import *
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    write_episode(Path(sys.argv[1]), 0)
except OSError as error:
    print(error.strerror)
"""


@pytest.mark.parametrize("num_bytes", [0, 5000, 9000])
def test_an_episode_for_which_the_disk_has_no_place_leaves_nothing(tmp_path, num_bytes):
    """Whether a chunk, or what is buffered at the end, is refused."""
    root = str(Path(__file__).parent.parent)
    command = [sys.executable, "-c", _FULL_DISK, str(tmp_path), str(num_bytes)]
    done = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True)
    assert done.stdout == "File too large\n"
    assert os.listdir(tmp_path / "000000") == []


def test_an_episode_whose_place_is_taken_by_a_folder_leaves_nothing(tmp_path):
    path = episode_path(tmp_path, 0, 0)
    path.mkdir(parents=True)
    with pytest.raises(UserError, match="is a folder, which stays"):
        write_episode(tmp_path, 0)
    assert os.listdir(path.parent) == [path.name]


def test_two_writers_of_one_episode_do_not_mix(tmp_path):
    path = tmp_path / "000000" / "000000.episode"
    frames = make_frames(2)
    with EpisodeWriter(path, EpisodeMeta(seed=1), SHAPE) as first:
        first.start(frames[0])
        with EpisodeWriter(path, EpisodeMeta(seed=2), SHAPE) as second:
            second.start(frames[1])
            second.commit()
        with EpisodeReader(path) as episode:
            assert episode.meta.seed == 2
            np.testing.assert_array_equal(episode.frames(), frames[1:2])
        first.commit()
    with EpisodeReader(path) as episode:
        assert episode.meta.seed == 1
        np.testing.assert_array_equal(episode.frames(), frames[:1])
    assert os.listdir(path.parent) == [path.name]


# --- damage


def read_all(path: Path) -> None:
    with EpisodeReader(path) as episode:
        episode.verify()


@pytest.mark.parametrize("output_mode", ["lossless", "video"])
def test_every_flipped_byte_is_found(tmp_path, output_mode):
    path = write_episode(tmp_path, 0, num_frames=36, output_mode=output_mode)
    good = path.read_bytes()
    read_all(path)
    step = max(1, len(good) // 400)
    positions = [*range(64), *range(64, len(good) - 300, step), *range(len(good) - 300, len(good))]
    for position in positions:
        bad = bytearray(good)
        bad[position] ^= 0x10
        path.write_bytes(bad)
        with pytest.raises(EpisodeError, match=r"000000\.episode"):
            read_all(path)


def test_every_truncation_and_growth_is_found_on_opening(tmp_path):
    path = write_episode(tmp_path, 0)
    good = path.read_bytes()
    for size in [*range(70), *range(70, len(good), 97), len(good) - 1]:
        path.write_bytes(good[:size])
        with pytest.raises(EpisodeError) as error:
            EpisodeReader(path)
        assert "\n" not in str(error.value)
    path.write_bytes(good + b"\0")
    with pytest.raises(EpisodeError, match="has grown"):
        EpisodeReader(path)


def test_damaged_pixels_are_never_returned(tmp_path):
    path = write_episode(tmp_path, 0, num_frames=64)
    data = bytearray(path.read_bytes())
    data[64 + 5] ^= 1  # in the first chunk
    path.write_bytes(data)
    with EpisodeReader(path) as episode:
        assert np.array_equal(episode.frames(16, 64), make_frames(64)[16:]), "other chunks are not concerned"
        with pytest.raises(EpisodeError, match="chunk 0"):
            episode.frames(10, 20)


def test_foreign_files_and_other_versions_say_what_they_are(tmp_path):
    path = write_episode(tmp_path, 0)
    good = path.read_bytes()
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + good[8:])
    with pytest.raises(EpisodeError, match="not an episode file"):
        EpisodeReader(path)
    path.write_bytes(good[:8] + b"\x02\0\0\0" + good[12:])
    with pytest.raises(EpisodeError, match="format version 2, not 1"):
        EpisodeReader(path)
    with pytest.raises(FileNotFoundError):
        EpisodeReader(tmp_path / "none.episode")


def test_what_a_power_cut_leaves_is_not_whole(tmp_path):
    path = write_episode(tmp_path, 0)
    whole = path.read_bytes()
    assert is_whole(path)
    for left in (b"", bytes(len(whole)), whole[:64], whole[:-1], whole[:64] + bytes(len(whole) - 64), whole + b"\0"):
        path.write_bytes(left)
        assert not is_whole(path)


def test_what_is_no_file_is_not_whole(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("link")
    for name in ("fifo", "link", "missing", "."):
        assert not is_whole(tmp_path / name)


def test_the_folder_of_a_running_writer_is_deleted(tmp_path):
    env_dpath = tmp_path / "env"
    with EpisodeWriter(episode_path(env_dpath, 0, 0), EpisodeMeta(), SHAPE) as writer:
        writer.start(make_frames(1)[0])
        shutil.rmtree(env_dpath)
        with pytest.raises(UserError, match=r"env/000000' was deleted while an episode was written to it: run the"):
            writer.commit()


def test_the_folder_is_deleted_before_the_writer_opens_its_file(tmp_path, monkeypatch):
    def and_delete(path):
        shutil.rmtree(path.parent, ignore_errors=True)
        return path.with_name("temporary")

    monkeypatch.setattr("data_generation.data.episode.temporary_path", and_delete)
    with pytest.raises(UserError, match=r"env/000000' was deleted while an episode was written to it: run the"):
        EpisodeWriter(episode_path(tmp_path / "env", 0, 0), EpisodeMeta(), SHAPE)
