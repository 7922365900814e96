"""The episode format: exact round trips, nothing half-written visible, every damage found."""

import os
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_generation.data import index as index_module
from data_generation.data.data import (
    DatasetInfo,
    Environment,
    EpisodeError,
    EpisodeMeta,
    EpisodeReader,
    EpisodeWriter,
    episode_path,
    list_environments,
    split_episodes,
    split_sessions,
)

SHAPE = (3, 8, 10)


def make_frames(num_frames: int, seed: int = 0, shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (num_frames, *shape), dtype=np.uint8)


def write_episode(
    env_dpath: Path, session: int, num_frames: int = 40, seed: int = 0, instance: int = 0, **writer
) -> Path:
    frames = make_frames(num_frames, seed)
    meta = EpisodeMeta(seed, instance, session, "random", {"epsilon": 0.5}, "Pong", {"retro": "1"})
    with EpisodeWriter(episode_path(env_dpath, instance, session), meta, SHAPE, **writer) as episode:
        episode.start(frames[0])
        for t in range(1, num_frames):
            episode.step((t + seed) % 3, 0.25 * t, False, t == num_frames - 1, {"x": t}, frames[t])
        return episode.commit()


def make_environment(dpath: Path, num_sessions: int, num_frames: int = 40) -> Path:
    DatasetInfo(dpath.name, "Pong", ["A", "B", "C"], SHAPE).save(dpath)
    for session in range(num_sessions):
        write_episode(dpath, session, num_frames, seed=session)
    return dpath


# --- round trip


@settings(max_examples=25, deadline=None)
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
    with pytest.raises(ValueError, match="output_mode='avi'"):
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
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert list(env_dpath.rglob("*.tmp")), "the killed writer was to leave its temporary file"
    assert not episode_path(env_dpath, 0, 7).exists()
    assert Environment(env_dpath).sessions.tolist() == [0, 1]
    write_episode(env_dpath, 7)
    assert not list(env_dpath.rglob("*.tmp")), "the next writer of the episode cleans up"
    assert Environment(env_dpath).sessions.tolist() == [0, 1, 7]


def test_an_exception_while_playing_leaves_nothing_and_keeps_the_old_episode(tmp_path):
    path = write_episode(tmp_path, 0)
    before = path.read_bytes()
    with pytest.raises(RuntimeError), EpisodeWriter(path, EpisodeMeta(), SHAPE) as writer:  # noqa: PT012
        writer.start(make_frames(1)[0])
        raise RuntimeError("the emulator crashed")
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_two_writers_of_one_episode_do_not_mix(tmp_path):
    path = tmp_path / "000000" / "000000.episode"
    frames = make_frames(2)
    first = EpisodeWriter(path, EpisodeMeta(seed=1), SHAPE)
    first.start(frames[0])
    with EpisodeWriter(path, EpisodeMeta(seed=2), SHAPE) as second:
        second.start(frames[1])
        second.commit()
    with pytest.raises(ValueError, match="another process"):
        first.commit()
    assert EpisodeReader(path).meta.seed == 2


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


# --- info.json and environments


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


# --- the index


def count_reads(monkeypatch) -> list:
    reads: list = []
    original = index_module.read_entry
    monkeypatch.setattr(index_module, "read_entry", lambda dpath, key: reads.append(key) or original(dpath, key))
    return reads


def age(env_dpath: Path, seconds: float = 100.0) -> None:
    """Make the episodes older than any index, as they are in real life."""
    for path in env_dpath.rglob("*.episode"):
        status = path.stat()
        os.utime(path, ns=(status.st_mtime_ns - int(seconds * 1e9),) * 2)


def test_an_unchanged_environment_is_opened_without_reading_its_episodes(tmp_path, monkeypatch):
    make_environment(tmp_path, 5)
    age(tmp_path)
    first = Environment(tmp_path)
    reads = count_reads(monkeypatch)
    monkeypatch.setattr(index_module, "read_header", lambda path: pytest.fail("header read"))
    second = Environment(tmp_path)
    assert reads == []
    assert np.array_equal(first.num_frames, second.num_frames)
    assert all(np.array_equal(first.actions(i), second.actions(i)) for i in range(5))


def test_added_removed_and_rewritten_episodes_are_noticed(tmp_path, monkeypatch):
    make_environment(tmp_path, 4)
    age(tmp_path)
    Environment(tmp_path)
    reads = count_reads(monkeypatch)
    write_episode(tmp_path, 9, num_frames=33)
    assert Environment(tmp_path).num_frames.tolist() == [40, 40, 40, 40, 33]
    assert [key[1] for key in reads] == [9], "only the new one is read"
    episode_path(tmp_path, 0, 1).unlink()
    assert Environment(tmp_path).sessions.tolist() == [0, 2, 3, 9]
    assert Environment(tmp_path).sessions.tolist() == [0, 2, 3, 9]
    write_episode(tmp_path, 2, num_frames=17)
    assert Environment(tmp_path).num_frames.tolist() == [40, 17, 40, 33]


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


def test_a_renamed_dataset_keeps_its_index_and_a_damaged_index_is_replaced(tmp_path, monkeypatch):
    make_environment(tmp_path / "old", 3)
    age(tmp_path)
    Environment(tmp_path / "old")
    (tmp_path / "old").rename(tmp_path / "new")
    reads = count_reads(monkeypatch)
    assert Environment(tmp_path / "new").num_episodes == 3
    assert reads == []
    index = tmp_path / "new" / index_module.INDEX_FNAME
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
    assert not (tmp_path / index_module.INDEX_FNAME).exists()


def test_one_bad_episode_is_an_error_or_counted(tmp_path, caplog):
    make_environment(tmp_path, 3)
    path = episode_path(tmp_path, 0, 1)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"000001\.episode' is truncated.*on_bad_episode=skip") as error:
        Environment(tmp_path)
    assert "\n" not in str(error.value)
    for _ in range(2):
        caplog.clear()
        environment = Environment(tmp_path, on_bad_episode="skip")
        assert environment.sessions.tolist() == [0, 2]
        assert len(environment.bad_episodes) == 1
        assert "1 bad episodes" in caplog.text
    write_episode(tmp_path, 1)
    assert Environment(tmp_path).num_episodes == 3
    with pytest.raises(ValueError, match="on_bad_episode='maybe'"):
        Environment(tmp_path, on_bad_episode="maybe")


def test_opening_ten_thousand_episodes_takes_less_than_a_second(tmp_path):
    """The scan and the index of 10 000 episodes; the files here are links to one, as only names and headers matter."""
    make_environment(tmp_path, 0)
    source = write_episode(tmp_path, 0, num_frames=17)
    age(tmp_path)
    for session in range(1, 10_000):
        os.link(source, source.with_name(f"{session:06d}.episode"))
    Environment(tmp_path)
    start = time.perf_counter()
    assert Environment(tmp_path).num_episodes == 10_000
    assert time.perf_counter() - start < 1.0


# --- splits


@settings(max_examples=100, deadline=None)
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
    with pytest.raises(ValueError, match="split='dev'"):
        split_sessions(np.arange(3), "dev")


def test_all_instances_of_a_session_are_in_one_split(tmp_path):
    make_environment(tmp_path, 0)
    for instance in range(3):
        for session in range(4):
            write_episode(tmp_path, session, num_frames=2, instance=instance)
    environment = Environment(tmp_path)
    chosen = split_episodes(environment, "validation")
    assert environment.sessions[chosen].tolist() == [2, 2, 2]
    assert environment.instances[chosen].tolist() == [0, 1, 2]
