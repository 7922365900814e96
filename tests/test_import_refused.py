"""`data import` that is refused: the corrected command works, and the line names what to correct."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_generation.data.data import list_environments
from data_generation.data.info import MissingDatasetError
from tests.import_helpers import error_of, imported


def write_original(root: Path, num_sessions: int = 2, num_frames: int = 4) -> Path:
    """An environment of three actions in the original's layout; the first session takes the first two."""
    for session in range(num_sessions):
        dpath = root / "0" / str(session)
        (dpath / "frames").mkdir(parents=True)
        for i in range(num_frames):
            Image.fromarray(np.full((8, 8, 3), 10 * i, np.uint8)).save(dpath / "frames" / f"{i:06d}.png")
        one_hot = np.eye(3, dtype=int)[np.arange(num_frames) % (2 + session)].tolist()
        entries = [{"src_id": i - 1, "tgt_id": i, "action": one_hot[i]} for i in range(num_frames)]
        (dpath / "actions.json").write_text(json.dumps({"actions": entries}))
    return root


@pytest.mark.parametrize("options", [(), ("--on-bad-episode", "skip")], ids=str)
def test_too_few_action_names_are_named_and_the_corrected_command_works(tmp_path, capsys, options):
    source = write_original(tmp_path / "toy")
    line = error_of(capsys, source, "--action-names", "A,B", *options)
    assert line == "error: --action-names=A,B: names 2 of 3 actions; name them all"
    assert not (tmp_path / "imported").exists()
    assert imported(source, "--action-names", "A,B,C", *options).num_episodes == 2


def test_actions_without_names_in_files_of_arrays_say_how_to_give_them(tmp_path, capsys):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "toy.h5", "w") as file:
        file["frames"], file["actions"] = np.zeros((4, 8, 8, 3), np.uint8), np.arange(4)
    line = error_of(capsys, tmp_path / "toy.h5", "--action-names", "A,B")
    assert "action 3 is not one of 2: " in line and "give all actions names, --action-names A,B,…" in line
    assert not (tmp_path / "imported").exists()
    assert imported(tmp_path / "toy.h5", "--action-names", "A,B,C,D").info.num_actions == 4


@pytest.mark.parametrize("options", [(), ("--on-bad-episode", "skip")], ids=str)
def test_an_import_that_made_nothing_leaves_nothing(tmp_path, capsys, options):
    """What is wrong shows only when the episode is written."""
    source = write_original(tmp_path / "toy", num_sessions=1)
    (source / "0/0/frames/000003.png").unlink()
    if not options:
        error_of(capsys, source, "--action-names", "A,B,D")
        assert not list((tmp_path / "imported").rglob("*.json"))
    else:
        with pytest.raises(MissingDatasetError):
            imported(source, "--action-names", "A,B,D", *options)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(source / "0/0/frames/000003.png")
    assert imported(source, "--action-names", "A,B,C").info.action_names == ["A", "B", "C"]


def test_a_failed_import_keeps_an_environment_that_was_there(tmp_path, capsys):
    source = write_original(tmp_path / "toy", num_sessions=1)
    target = imported(source).env_dpath.parent
    write_original(tmp_path / "other" / "toy")
    (tmp_path / "other/toy/0/1/frames/000003.png").unlink()
    error_of(capsys, tmp_path / "other/toy", "--to", str(target))
    assert list_environments(target)


@pytest.mark.parametrize("is_first", [True, False])
def test_stacked_grey_frames_are_not_taken_for_colours(tmp_path, capsys, is_first):
    h5py = pytest.importorskip("h5py")
    stacks = np.random.default_rng(0).integers(0, 255, (5, 8, 8, 4), np.uint8)
    stacks = stacks.transpose(0, 3, 1, 2) if is_first else stacks
    colours = np.random.default_rng(1).integers(0, 255, (5, 8, 8, 4), np.uint8)
    colours[..., 3] = 255
    for name, frames in (("stacks", stacks), ("colours", colours)):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file["frames"], file["actions"] = frames, np.zeros(5, int)
    line = error_of(capsys, tmp_path / "stacks.h5")
    assert "looks like 4 stacked grey frames, not colours: store one of each four" in line
    with imported(tmp_path / "colours.h5").open(0) as episode:
        np.testing.assert_array_equal(episode.frames(), colours[..., :3].transpose(0, 3, 1, 2))


def write_hdf5(path: Path) -> Path:
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        file["frames"], file["actions"] = np.zeros((4, 8, 8, 3), np.uint8), np.zeros(4, int)
    return path


@pytest.mark.parametrize(
    ("kind", "option", "value"),
    [
        *(("images", option, "x") for option in ("--action-names", "--actions-key", "--frames-key")),
        *(("original", option, "x") for option in ("--actions-key", "--frames-key")),
        *((kind, "--frame-size", "8x8") for kind in ("images", "original", "hdf5")),
    ],
)
def test_options_that_a_format_does_not_use_are_refused(tmp_path, capsys, kind, option, value):
    source = write_hdf5(tmp_path / "toy.h5") if kind == "hdf5" else write_original(tmp_path / "toy")
    source = source / "0/0/frames" if kind == "images" else source
    line = error_of(capsys, source, option, value)
    assert line.startswith(f"error: '{source}' holds ") and line.endswith(f": leave out {option}")
    assert not (source.parent / "imported").exists()


@pytest.mark.parametrize("options", [("--action-names", "A,B,C"), ("--actions-key", "actions")], ids=str)
def test_actions_are_not_both_described_and_left_out(tmp_path, capsys, options):
    line = error_of(capsys, write_hdf5(tmp_path / "toy.h5"), "--without-actions", *options)
    assert line.endswith(f"holds .h5 files, of which --without-actions imports no actions: leave out {options[0]}")


def write_records(root: Path, *videos: np.ndarray, metadata: dict[str, Any]) -> Path:
    """Videos (T, h, w, 3) as Jasmine writes them."""
    module = pytest.importorskip("array_record.python.array_record_module")
    root.mkdir()
    writer = module.ArrayRecordWriter(str(root / "data.array_record"), "group_size:1")
    for video in videos:
        actions = np.arange(len(video))
        writer.write(pickle.dumps({"raw_video": video.tobytes(), "sequence_length": len(video), "actions": actions}))
    writer.close()
    (root / "metadata.json").write_text(json.dumps(metadata))
    return root


def test_a_dataset_that_states_no_number_of_actions_has_those_that_are_in_it(tmp_path):
    source = write_records(tmp_path / "doom", np.zeros((4, 8, 8, 3), np.uint8), metadata={"num_buttons": 7})
    assert imported(source).info.num_actions == 4


@pytest.mark.parametrize("count", [-1, "4", 1.5, 1 << 16])
def test_an_odd_number_of_actions_is_one_line(tmp_path, capsys, count):
    source = write_records(tmp_path / "doom", np.zeros((4, 8, 8, 3), np.uint8), metadata={"num_actions": count})
    assert "metadata.json' says num_actions=" in error_of(capsys, source)


def test_a_record_with_an_empty_video_is_one_line_and_skipped_if_asked(tmp_path, capsys):
    videos = np.zeros((4, 8, 8, 3), np.uint8), np.zeros((3, 0, 0, 3), np.uint8)
    source = write_records(tmp_path / "toy", *videos, metadata={})
    assert "its record has no raw_video and sequence_length" in error_of(capsys, source)
    assert imported(source, "--on-bad-episode", "skip", name="skipped").num_episodes == 1
