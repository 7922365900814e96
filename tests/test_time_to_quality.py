"""`benchmarks.time_to_quality`: what of the original's code is taken as it is there."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.time_to_quality import __main__ as command
from benchmarks.time_to_quality import original
from benchmarks.time_to_quality.__main__ import NAMES, measured, run
from benchmarks.time_to_quality.original import OriginalRun, write_clips
from data_generation.data.errors import UserError
from tests.episode_helpers import make_environment


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name in ("models/construct_model.py", "models/parts/layer.py", "training/optimizer.py"):
        path = tmp_path / "checkout" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("pass")
    return tmp_path / "checkout"


def a_run(root: Path, checkout: Path) -> OriginalRun:
    (root / "clips").mkdir(parents=True, exist_ok=True)
    (root / "clips" / "action_names.json").write_text('["A", "B"]')
    return OriginalRun(root, checkout, 1e12, seed=0)


def keep_costs(root: Path, checkout: Path, monkeypatch: pytest.MonkeyPatch, without: str = "") -> None:
    """What two trainings leave; `without`: a setting that was not recorded."""

    def train(checkout: Path, folder: Path, settings: dict) -> tuple[dict, float]:
        folder.mkdir(parents=True)
        places = {"optimizer_fpath": str(checkout / "training" / "optimizer.py")}
        stored = {name: value for name, value in settings.items() if name != without}
        (folder / "settings.json").write_text(json.dumps({**stored, **places}))
        return {"steps": 100, "operations": 1e12}, 5.0

    monkeypatch.setattr(original, "run_original", train)
    kept = a_run(root, checkout)
    for part in ("tokenizer", "dynamics"):
        kept._train(part)


def test_what_other_code_has_trained_is_not_taken(
    tmp_path: Path, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_costs(tmp_path / "root", checkout, monkeypatch)
    a_run(tmp_path / "root", checkout).check()
    moved = checkout.rename(tmp_path / "moved")
    a_run(tmp_path / "root", moved).check()
    (moved / "models" / "parts" / "layer.py").write_text("something else")
    with pytest.raises(UserError, match=r"tokenizer' was trained with another code: .*--root"):
        a_run(tmp_path / "root", moved).check()


def test_of_earlier_trainings_the_checkouts_folder_is_compared(
    tmp_path: Path, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_costs(tmp_path / "root", checkout, monkeypatch, without="code")
    a_run(tmp_path / "root", checkout).check()
    with pytest.raises(UserError, match=r"another code"):
        a_run(tmp_path / "root", checkout.rename(tmp_path / "moved")).check()


def test_a_result_is_not_taken_where_its_training_had_other_settings(
    tmp_path: Path, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "root"
    keep_costs(root, checkout, monkeypatch)
    path = root / "evaluation" / "name" / "result.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"code": "original"}')
    assert measured(root, "name", NAMES["original"], a_run(root, checkout)) == {"code": "original"}
    stored = json.loads((root / "original-1tflop-seed0" / "dynamics" / "settings.json").read_text())
    stored["optimizer"]["learning_rate"] = 7.0
    (root / "original-1tflop-seed0" / "dynamics" / "settings.json").write_text(json.dumps(stored))
    with pytest.raises(UserError, match=r"dynamics' was trained with another optimizer\.learning_rate"):
        measured(root, "name", NAMES["original"], a_run(root, checkout))


def test_a_wrong_checkout_is_refused_before_anything_is_made(
    tmp_path: Path, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "generate", lambda *_, **__: pytest.fail("too late"))
    (checkout / "models" / "construct_model.py").unlink()
    words = ["--original", str(checkout), "--root", str(tmp_path / "root")]
    with pytest.raises(UserError, match=r"--original=.*: there is no models/construct_model\.py"):
        run(words)


def test_clips_that_were_not_written_completely_are_written_again(tmp_path: Path) -> None:
    make_environment(tmp_path / "dataset" / "game", 6)
    write_clips(tmp_path / "dataset", tmp_path / "clips", num_frames=2)
    whole = {path.name: path.read_bytes() for path in (tmp_path / "clips").iterdir()}
    # As where it was killed on the way.
    (tmp_path / "clips" / "action_names.json").unlink()
    (tmp_path / "clips" / "frames.npy").write_bytes(b"half")
    write_clips(tmp_path / "dataset", tmp_path / "clips", num_frames=2)
    assert {path.name: path.read_bytes() for path in (tmp_path / "clips").iterdir()} == whole
    assert len(np.load(tmp_path / "clips" / "frames.npy")) > 0
