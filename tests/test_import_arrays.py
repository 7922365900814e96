"""`data import` of files of arrays: HDF5 (Minari, robomimic, D4RL), Parquet, ArrayRecord, LeRobot."""

import io
import json
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.import_helpers import error_of, imported, refused

SIZE = 12
LENGTHS = (5, 7)


def frames_of(seed: int, count: int) -> np.ndarray:
    """Frames (count, h, w, 3)."""
    return np.random.default_rng(seed).integers(0, 255, (count, SIZE, SIZE, 3), np.uint8)


def actions_of(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed + 100).integers(0, 4, count)


def rewards_of(count: int) -> np.ndarray:
    return np.arange(count, dtype=np.float32) / 2


def png(frame: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "png")
    return buffer.getvalue()


# Each writes two episodes, of 5 and 7 frames, with an action and a reward for each frame or for all but the last.


def write_minari(root: Path) -> Path:
    h5py = pytest.importorskip("h5py")
    (root / "data").mkdir(parents=True)
    with h5py.File(root / "data" / "main_data.hdf5", "w") as file:
        for i, count in enumerate(LENGTHS):
            episode = file.create_group(f"episode_{i}")
            episode["observations/image"] = frames_of(i, count)
            episode["actions"], episode["rewards"] = actions_of(i, count - 1), rewards_of(count - 1)
            episode["terminations"] = np.arange(count - 1) == count - 2
    metadata = {"dataset_id": "toy/test-v0", "action_space": json.dumps({"type": "Discrete", "n": 6, "start": 0})}
    (root / "data" / "metadata.json").write_text(json.dumps(metadata))
    return root


def write_robomimic(root: Path) -> Path:
    h5py = pytest.importorskip("h5py")
    root.mkdir()
    with h5py.File(root / "demo.hdf5", "w") as file:
        for i, count in enumerate(LENGTHS):
            file[f"data/demo_{i}/obs/agentview_image"] = frames_of(i, count)
            file[f"data/demo_{i}/obs/joints"] = np.zeros((count, 7))
            file[f"data/demo_{i}/actions"] = np.eye(4)[actions_of(i, count)]
            file[f"data/demo_{i}/rewards"] = rewards_of(count)
    return root


def write_flat(root: Path) -> Path:
    """All episodes in a row, channels first."""
    h5py = pytest.importorskip("h5py")
    root.mkdir()
    with h5py.File(root / "flat.h5", "w") as file:
        file["observations"] = np.concatenate([frames_of(i, n) for i, n in enumerate(LENGTHS)]).transpose(0, 3, 1, 2)
        file["actions"] = np.concatenate([actions_of(i, n) for i, n in enumerate(LENGTHS)])
        file["rewards"] = np.concatenate([rewards_of(n) for n in LENGTHS])
        file["terminals"] = np.arange(sum(LENGTHS)) == LENGTHS[0] - 1
        file["timeouts"] = np.arange(sum(LENGTHS)) == sum(LENGTHS) - 1
    return root


def write_steps(root: Path) -> Path:
    """A row per step, in row groups that end within episodes."""
    parquet, pa = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    root.mkdir()
    rows = [
        {
            "image": {"bytes": png(frame), "path": None},
            "action": int(action),
            "reward": float(reward),
            "episode_index": i,
        }
        for i, n in enumerate(LENGTHS)
        for frame, action, reward in zip(frames_of(i, n), actions_of(i, n), rewards_of(n), strict=True)
    ]
    parquet.write_table(pa.Table.from_pylist(rows), root / "train-0.parquet", row_group_size=4)
    return root


def write_rows(root: Path) -> Path:
    """A row per episode, and a file for each."""
    parquet, pa = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    root.mkdir()
    for i, n in enumerate(LENGTHS):
        row = {"frames": [png(frame) for frame in frames_of(i, n)], "actions": actions_of(i, n - 1).tolist()}
        row["rewards"] = rewards_of(n - 1).tolist()
        parquet.write_table(pa.Table.from_pylist([row]), root / f"{i}.parquet")
    return root


def write_jasmine(root: Path, records: list[Any] | None = None) -> Path:
    module = pytest.importorskip("array_record.python.array_record_module")
    (root / "train").mkdir(parents=True)
    writer = module.ArrayRecordWriter(str(root / "train" / "data_0000.array_record"), "group_size:1")
    if records is None:
        videos = [(frames_of(i, n).tobytes(), n, actions_of(i, n)) for i, n in enumerate(LENGTHS)]
        records = [dict(zip(("raw_video", "sequence_length", "actions"), video, strict=True)) for video in videos]
    for record in records:
        writer.write(pickle.dumps(record))
    writer.close()
    (root / "metadata.json").write_text(json.dumps({"env": "coinrun", "num_actions": 15}))
    return root


FORMATS: dict[str, tuple[Callable[[Path], Path], int]] = {
    "minari": (write_minari, 6),
    "robomimic": (write_robomimic, 4),
    "flat": (write_flat, 4),
    "steps": (write_steps, 4),
    "rows": (write_rows, 4),
    "jasmine": (write_jasmine, 15),
}


@pytest.mark.parametrize("name", list(FORMATS))
def test_frames_actions_and_rewards_are_those_of_the_file(tmp_path, name):
    write, num_actions = FORMATS[name]
    environment = imported(write(tmp_path / "toy"))
    assert environment.num_frames.tolist() == list(LENGTHS)
    assert environment.info.action_names == [f"ACTION_{i}" for i in range(num_actions)]
    for i, count in enumerate(LENGTHS):
        with environment.open(i) as episode:
            np.testing.assert_array_equal(episode.frames(), frames_of(i, count).transpose(0, 3, 1, 2))
            np.testing.assert_array_equal(episode.actions, actions_of(i, count)[: count - 1])
            expected = np.zeros(count - 1) if name == "jasmine" else rewards_of(count - 1)
            np.testing.assert_array_equal(episode.rewards, expected)


@pytest.mark.parametrize("name", list(FORMATS))
def test_an_import_is_continued_and_can_leave_the_actions_out(tmp_path, name, capsys):
    source = FORMATS[name][0](tmp_path / "toy")
    environment = imported(source, "--without-actions", "--image-size", "8")
    assert environment.info.action_names == [] and environment.info.frame_shape == (3, 8, 8)
    path = environment.episode_path(1)
    whole = path.read_bytes()
    path.unlink()
    imported(source, "--without-actions", "--image-size", "8")
    assert path.read_bytes() == whole
    assert "imported 1 episodes" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["rows", "steps", "minari"])
def test_a_folder_that_has_grown_gives_each_episode_once(tmp_path, name, capsys):
    source = FORMATS[name][0](tmp_path / "toy")
    paths = sorted(path for path in source.rglob("*") if path.suffix in (".hdf5", ".parquet"))
    # What sorts first comes last; a format whose episodes are all in one file gets another file.
    late = paths[0] if len(paths) > 1 else Path(shutil.copy(paths[0], paths[0].with_name("early" + paths[0].suffix)))
    late.rename(tmp_path / late.name)
    first = imported(source)
    before = [first.episode_path(i).read_bytes() for i in range(first.num_episodes)]
    (tmp_path / late.name).rename(late)
    whole, grown = imported(source, name="whole"), imported(source)
    assert sorted(grown.num_frames) == sorted(whole.num_frames) and grown.num_episodes > first.num_episodes
    assert [grown.episode_path(i).read_bytes() for i in range(first.num_episodes)] == before
    capsys.readouterr()
    imported(source)
    assert "imported 0 episodes" in capsys.readouterr().out


@pytest.mark.parametrize(("function", "most"), [("frames_of", 255), ("actions_of", 3), ("rewards_of", 7)])
@pytest.mark.parametrize("name", list(FORMATS))
def test_files_of_the_same_name_are_told_apart_by_what_they_hold(tmp_path, name, function, most, capsys, monkeypatch):
    write = FORMATS[name][0]
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    target = imported(write(tmp_path / "toy")).env_dpath.parent
    (tmp_path / "toy").rename(tmp_path / "a" / "toy")
    capsys.readouterr()
    imported(tmp_path / "a" / "toy", target=target)
    assert "imported 0 episodes" in capsys.readouterr().out
    values = globals()[function]
    monkeypatch.setitem(globals(), function, lambda *arguments: most - values(*arguments))
    other = write(tmp_path / "b" / "toy")
    if (name, function) != ("jasmine", "rewards_of"):  # which has none
        assert "000000.episode' was made of another recording than" in refused(capsys, other, target)


@pytest.mark.parametrize("name", list(FORMATS))
def test_damaged_files_are_one_line_that_names_them(tmp_path, name, capsys):
    source = FORMATS[name][0](tmp_path / "toy")
    (path,) = [path for path in source.rglob("*") if path.suffix in (".hdf5", ".h5", ".array_record", ".parquet")][:1]
    whole = path.read_bytes()
    for spoilt in (b"", b"hello" * 100, whole[: len(whole) // 2]):
        path.write_bytes(spoilt)
        assert path.name in error_of(capsys, source)


def test_continuous_actions_are_refused_with_the_remedy(tmp_path, capsys):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "arm.h5", "w") as file:
        file["images"], file["actions"] = frames_of(0, 5), np.random.default_rng(0).normal(size=(5, 7))
    line = error_of(capsys, tmp_path / "arm.h5", "--action-names", "A,B")
    assert "its actions, float64 (5, 7), are not action numbers" in line and "--without-actions" in line


@pytest.mark.parametrize("name", list(FORMATS))
def test_actions_that_are_not_there_are_one_line_and_nothing_is_made(tmp_path, name, capsys):
    source = FORMATS[name][0](tmp_path / "toy")
    key = "action" if name == "steps" else "actions"
    for options in ((), ("--action-names", "A,B,C,D"), ("--on-bad-episode", "skip")):
        line = error_of(capsys, source, "--actions-key", "nope", *options)
        if "skip" not in options:
            assert "no actions named 'nope'; there are " in line and key in line.partition("there are ")[2]
        assert not (tmp_path / "imported").exists()
    assert imported(source, "--actions-key", key).info.action_names


def write_unusual(root: Path) -> Path:
    """Actions of an unusual name."""
    h5py = pytest.importorskip("h5py")
    root.mkdir()
    with h5py.File(root / "ep.hdf5", "w") as file:
        file["frames"], file["act"], file["reward"] = frames_of(0, 5), actions_of(0, 4), rewards_of(4)
    return root


def test_names_for_actions_that_are_not_there_are_refused(tmp_path, capsys):
    source = write_unusual(tmp_path / "toy")
    line = error_of(capsys, source, "--action-names", "A,B,C,D")
    assert "no actions named 'actions' or 'action'; there are act, reward: name one with --actions-key" in line
    with imported(source, "--action-names", "A,B,C,D", "--actions-key", "act").open(0) as episode:
        np.testing.assert_array_equal(episode.actions, actions_of(0, 4))


@pytest.mark.parametrize("stated", [True, False])
def test_an_episode_without_the_actions_that_others_have_is_refused(tmp_path, capsys, stated):
    """Where the dataset says how many actions there are, the first episode may be the one without."""
    source = write_minari(tmp_path / "toy")
    if not stated:
        (source / "data" / "metadata.json").unlink()
    h5py = pytest.importorskip("h5py")
    with h5py.File(source / "data" / "main_data.hdf5", "r+") as file:
        del file["episode_0" if stated else "episode_1"]["actions"]
    assert "no actions named 'actions' or 'action'" in error_of(capsys, source)
    assert imported(source, "--without-actions", name="without").num_episodes == 2
    assert imported(source, "--on-bad-episode", "skip").sessions.tolist() == [1 if stated else 0]


@pytest.mark.parametrize(
    "rewards",
    [
        np.ones((5, 2)),
        np.array([0, 1, np.nan, 1, 1]),
        np.array([0, 1, np.inf, 1, 1]),
        np.array([0, 1, 1e39, 1, 1]),
        np.array([b"one"] * 5),
        np.ones(5, np.complex64),
    ],
    ids=str,
)
def test_odd_rewards_are_one_line(tmp_path, capsys, rewards):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "toy.h5", "w") as file:
        for i, column in enumerate((rewards, rewards_of(5)[:, None])):
            file[f"{i}/frames"], file[f"{i}/actions"], file[f"{i}/rewards"] = frames_of(i, 5), actions_of(i, 5), column
    line = error_of(capsys, tmp_path / "toy.h5")
    assert f"its rewards, {rewards.dtype} {rewards.shape}, are not" in line
    environment = imported(tmp_path / "toy.h5", "--on-bad-episode", "skip")
    assert environment.sessions.tolist() == [1]
    with environment.open(0) as episode:
        np.testing.assert_array_equal(episode.rewards, rewards_of(4))


@pytest.mark.parametrize("changes", [{"rewards": [1.0, None]}, {"rewards": None}, {"actions": None}, {"frames": None}])
def test_values_that_a_row_lacks_are_one_line(tmp_path, capsys, changes):
    parquet, pa = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    whole = {"frames": [png(frame) for frame in frames_of(0, 3)], "actions": [0, 1], "rewards": [0.0, 1.0]}
    parquet.write_table(pa.Table.from_pylist([whole | changes, whole]), tmp_path / "toy.parquet")
    assert "toy.parquet', episode 0: it" in error_of(capsys, tmp_path / "toy.parquet")
    assert imported(tmp_path / "toy.parquet", "--on-bad-episode", "skip").sessions.tolist() == [1]


@pytest.mark.parametrize("first", [True, False])
def test_a_row_without_frames_is_one_line_and_skipped_if_asked(tmp_path, first, capsys):
    parquet, pa = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    whole = {"frames": [png(frame) for frame in frames_of(0, 3)], "actions": [0, 1], "rewards": [0.0, 1.0]}
    empty: dict[str, list[Any]] = {name: [] for name in whole}
    parquet.write_table(pa.Table.from_pylist([empty, whole] if first else [whole, empty]), tmp_path / "toy.parquet")
    line = error_of(capsys, tmp_path / "toy.parquet")
    assert f"toy.parquet', episode {0 if first else 1}: it holds no frames: restore the file, or remove" in line
    shutil.rmtree(tmp_path / "imported", ignore_errors=True)
    environment = imported(tmp_path / "toy.parquet", "--on-bad-episode", "skip")
    assert environment.num_frames.tolist() == [3]


def test_a_reward_that_a_step_lacks_is_one_line(tmp_path, capsys):
    parquet, pa = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    images = [png(frame) for frame in frames_of(0, 3)]
    parquet.write_table(
        pa.table({"image": images, "action": [0, 1, 0], "reward": [1.0, None, 1.0]}), tmp_path / "toy.parquet"
    )
    assert "its rewards, object (3,), are not" in error_of(capsys, tmp_path / "toy.parquet")


def test_actions_of_several_lengths_are_one_line(tmp_path, capsys):
    record = {"raw_video": frames_of(0, 2).tobytes(), "sequence_length": 2, "actions": [[1], [1, 2]]}
    assert "its actions have several lengths" in error_of(capsys, write_jasmine(tmp_path / "toy", [record]))


def test_several_cameras_are_named(tmp_path, capsys):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "arm.h5", "w") as file:
        file["obs/left"], file["obs/right"] = frames_of(0, 5), frames_of(1, 5)
    assert "--frames-key (obs/left, obs/right)" in error_of(capsys, tmp_path / "arm.h5")
    with imported(tmp_path / "arm.h5", "--frames-key", "obs/right").open(0) as episode:
        np.testing.assert_array_equal(episode.frames(), frames_of(1, 5).transpose(0, 3, 1, 2))


def test_a_bad_episode_is_skipped_if_asked(tmp_path, capsys):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "toy.h5", "w") as file:
        for i, num_actions in enumerate((4, 9)):
            file[f"{i}/frames"], file[f"{i}/actions"] = frames_of(i, 5), actions_of(i, num_actions)
    assert "'/1' has actions (9,) for 5 frames" in error_of(capsys, tmp_path / "toy.h5")
    assert imported(tmp_path / "toy.h5", "--on-bad-episode", "skip").sessions.tolist() == [0]


def test_a_file_without_episodes_is_one_line(tmp_path, capsys):
    parquet, pa = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    schema = pa.schema([("image", pa.binary()), ("action", pa.int64())])
    parquet.write_table(schema.empty_table(), tmp_path / "none.parquet")
    assert "'none' holds no episodes" in error_of(capsys, tmp_path / "none.parquet")


def mark_success(group: Any, count: int) -> None:
    """Robomimic's `dones`, which are 1 in every step of success."""
    group["dones"] = (np.arange(count) >= count - 3).astype(int)


@pytest.mark.parametrize("num_episodes", [2, 1])
def test_a_group_for_each_episode_is_never_cut(tmp_path, num_episodes):
    h5py = pytest.importorskip("h5py")
    source = write_robomimic(tmp_path / "toy")
    with h5py.File(source / "demo.hdf5", "r+") as file:
        for i in range(2):
            mark_success(file[f"data/demo_{i}"], LENGTHS[i])
        if num_episodes == 1:
            del file["data/demo_1"]
    assert imported(source).num_frames.tolist() == list(LENGTHS[:num_episodes])


@pytest.mark.parametrize("ends", [np.ones(()), np.array([b"no"] * 5), np.ones((5, 2)), np.ones(9)], ids=str)
def test_columns_that_cannot_say_where_episodes_end_say_nothing(tmp_path, ends):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "toy.h5", "w") as file:
        file["frames"], file["actions"], file["done"] = frames_of(0, 5), actions_of(0, 5), ends
    assert imported(tmp_path / "toy.h5").num_frames.tolist() == [5]


class Evil:
    def __reduce__(self) -> Any:
        return print, ("executed",)


def test_a_record_never_executes_code(tmp_path, capsys):
    line = error_of(capsys, write_jasmine(tmp_path / "toy", [{"raw_video": Evil(), "sequence_length": 1}]))
    assert "it names builtins.print" in line


def test_frames_that_are_not_square_need_their_size(tmp_path, capsys):
    video = np.random.default_rng(0).integers(0, 255, (5, 6, 10, 3), np.uint8)
    source = write_jasmine(tmp_path / "toy", [{"raw_video": video.tobytes(), "sequence_length": 5}])
    assert "--frame-size <height>x<width>" in error_of(capsys, source)
    with imported(source, "--frame-size", "6x10", "--without-actions").open(0) as episode:
        np.testing.assert_array_equal(episode.frames(), video.transpose(0, 3, 1, 2))


@pytest.mark.parametrize(
    ("name", "package"), [("a.h5", "h5py"), ("a.parquet", "pyarrow"), ("a.array_record", "array_record")]
)
def test_a_missing_package_is_one_line_with_its_extra(tmp_path, monkeypatch, capsys, name, package):
    for module in [module for module in sys.modules if module.partition(".")[0] == package]:
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, package, None)
    (tmp_path / name).write_bytes(b"content")
    line = error_of(capsys, tmp_path / name)
    assert f"needs the package {package}: bash install.sh --with formats" in line
