"""`data import` of LeRobot datasets: this project's own exports, and videos that hold several episodes."""

import json
from pathlib import Path

import numpy as np
import pytest

from data_generation.data.data import Environment
from data_generation.data.media import write_mp4
from run import main
from tests.import_helpers import error_of, imported, refused
from tests.training_helpers import DATASET, write_dataset

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
CAMERA = "observation.images.front"


def test_an_export_is_imported_as_it_was(tmp_path):
    original = Environment(
        write_dataset(tmp_path / "root", sessions=2, size=32) and next((tmp_path / "root").glob("*/*"))
    )
    assert (
        main(["data", "export", str(original.env_dpath), "--to", str(tmp_path / "lerobot"), "--format", "lerobot"]) == 0
    )
    again = imported(tmp_path / "lerobot", name="again")
    assert again.info.action_names == original.info.action_names
    assert again.info.frame_rate == original.info.frame_rate
    assert again.num_frames.tolist() == original.num_frames.tolist()
    for i in range(2):
        with original.open(i) as one, again.open(i) as other:
            np.testing.assert_array_equal(one.actions, other.actions)
            np.testing.assert_array_equal(one.rewards, other.rewards)
            # H.264 is lossy.
            assert np.abs(one.frames().astype(int) - other.frames()).mean() < 4


def test_an_unknown_name_of_actions_is_one_line_with_those_that_are_there(tmp_path, capsys):
    dataset = write_dataset(tmp_path, sessions=1, size=32) / DATASET
    assert main(["data", "export", str(dataset), "--to", str(tmp_path / "lerobot"), "--format", "lerobot"]) == 0
    assert "no actions named 'nope'; there are action, " in error_of(
        capsys, tmp_path / "lerobot", "--actions-key", "nope"
    )


def write_shared_video(root: Path, version: str = "v3.0", fps: int = 10, darkest: int = 20) -> np.ndarray:
    """Two episodes of 5 and 7 steps in one video, whose frames (12, h, w, 3) have a grey level of their own each."""
    lengths = (5, 7)
    levels = np.arange(darkest, darkest + 12 * 15, 15, dtype=np.uint8)
    frames = np.broadcast_to(levels[:, None, None, None], (12, 32, 32, 3))
    write_mp4(root / "videos" / CAMERA / "chunk-000" / "file-000.mp4", list(frames), fps, pix_fmt="yuv444p")
    steps = {"action": [[a % 3] for a in range(12)], "next.reward": [0.5] * 12, "index": list(range(12))}
    (root / "data" / "chunk-000").mkdir(parents=True)
    parquet.write_table(pa.table(steps), root / "data" / "chunk-000" / "file-000.parquet")
    episodes, first = [], 0
    for i, length in enumerate(lengths):
        place = {f"videos/{CAMERA}/chunk_index": 0, f"videos/{CAMERA}/file_index": 0}
        times = {
            f"videos/{CAMERA}/from_timestamp": first / fps,
            f"videos/{CAMERA}/to_timestamp": (first + length) / fps,
        }
        rows = {"dataset_from_index": first, "dataset_to_index": first + length}
        episodes.append({"episode_index": i, "data/chunk_index": 0, "data/file_index": 0, **rows, **place, **times})
        first += length
    (root / "meta" / "episodes" / "chunk-000").mkdir(parents=True)
    parquet.write_table(pa.Table.from_pylist(episodes), root / "meta" / "episodes" / "chunk-000" / "file-000.parquet")
    features = {CAMERA: {"dtype": "video", "shape": [32, 32, 3]}, "action": {"dtype": "int64", "shape": [1]}}
    info = {"codebase_version": version, "fps": fps, "robot_type": "toy", "features": features}
    info["data_path"] = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
    info["video_path"] = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
    (root / "meta" / "info.json").write_text(json.dumps(info))
    return levels


def test_episodes_that_share_a_video_get_their_own_frames(tmp_path):
    levels = write_shared_video(tmp_path / "toy")
    environment = imported(tmp_path / "toy")
    assert environment.num_frames.tolist() == [5, 7]
    assert (environment.info.game, environment.info.frame_rate) == ("toy", 10)
    for i, (start, stop) in enumerate([(0, 5), (5, 12)]):
        with environment.open(i) as episode:
            np.testing.assert_allclose(episode.frames().mean((1, 2, 3)), levels[start:stop], atol=3)
            np.testing.assert_array_equal(episode.actions, np.arange(start, stop - 1) % 3)
            assert (episode.rewards == 0.5).all()


@pytest.mark.parametrize(
    ("changes", "problem"),
    [({"fps": 5}, "has fps 10.0, not 5.0"), ({"darkest": 40}, "000000.episode' was made of another recording than")],
)
def test_another_recording_of_the_same_name_changes_nothing(tmp_path, capsys, changes, problem):
    write_shared_video(tmp_path / "toy")
    target = imported(tmp_path / "toy").env_dpath.parent
    write_shared_video(tmp_path / "another" / "toy", **changes)
    assert problem in refused(capsys, tmp_path / "another" / "toy", target)
    assert main(["data", "import", str(tmp_path / "toy"), "--to", str(target)]) == 0
    assert "imported 0 episodes" in capsys.readouterr().out


def test_what_is_wrong_is_one_line(tmp_path, capsys):
    root = tmp_path / "toy"
    write_shared_video(root, version="v2.1")
    assert "version 'v2.1': convert it to v3.0" in error_of(capsys, root)
    info = json.loads((root / "meta" / "info.json").read_text())
    path = root / "meta" / "info.json"
    path.write_text(json.dumps(info | {"codebase_version": "v3.0", "video_path": "../../{file_index}.mp4"}))
    assert "video_path leads out of the folder" in error_of(capsys, root)
    path.write_text(json.dumps(info | {"codebase_version": "v3.0", "features": {}}))
    assert "choose one of its cameras" in error_of(capsys, root)
    path.write_text(json.dumps(info | {"codebase_version": "v3.0"}))
    (root / "videos" / CAMERA / "chunk-000" / "file-000.mp4").write_bytes(b"no video")
    assert "file-000.mp4" in error_of(capsys, root)
