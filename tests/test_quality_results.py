"""Which results of `benchmarks.quality` are reported, and how."""

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from benchmarks.presets import composed
from benchmarks.quality import comparison
from benchmarks.quality.__main__ import run, write_report
from benchmarks.quality.arms import ARMS
from benchmarks.quality.comparison import Comparison
from benchmarks.quality.data import ALL_DATA
from benchmarks.quality.report import differences, table
from data_generation.data.errors import FieldError, UserError
from data_generation.data.fields import check_fields
from launcher.errors import USER_ERROR, exit_code_of
from tests.test_equal_compute import keep_run
from training.config import TrainConfig
from training.run_record import flattened

FOLDERS = {"tokenizer": ("tokenizer", "recipe=tuned+0.4-seed0"), "dynamics": ("genie_redux_guided", "tuned-seed0")}


def a_result(psnr: float, steps: int = 200, **more: Any) -> dict[str, Any]:
    cost = {"steps": steps, "operations": 1e12, "cpu_seconds": 5.0}
    measured = {"pooled_psnr": psnr, "delta_psnr": 1.0, "copy_last_pooled_psnr": 9.0}
    parts = {part: {"autoregressive": measured} for part in ("seen", "unseen")}
    return {"tokenizer": cost, "dynamics": cost, **parts, **more}


def keep(root: Path, arm: str, seed: int, psnr: float = 30, **more: Any) -> Comparison:
    """A result's file."""
    kept = Comparison(root, ALL_DATA["one_level"], arm, minutes=1, seed=seed)
    kept.result_path.parent.mkdir(parents=True, exist_ok=True)
    kept.result_path.write_text(json.dumps(a_result(psnr, **more)))
    return kept


def keep_evaluation(kept: Comparison, method: str, **changed: Any) -> None:
    """The record of an evaluation, with other settings."""
    folder = kept.dpath / "evaluation" / f"tuned-seed{kept.seed}" / method / "genie_redux_guided" / "data" / "mode"
    folder.mkdir(parents=True)
    given = ("recipe=tuned", *comparison.EVALUATIONS[method], "eval.n_total_samples=128", "eval.seq_step=8")
    config = flattened(asdict(composed("genie_redux eval", "config=demo", *given, "eval.fid_weights=none")))
    config |= {name.replace("__", "."): value for name, value in changed.items()}
    (folder / "run.json").write_text(json.dumps({"config": config}))
    (folder / "metrics.json").touch()


@pytest.mark.parametrize("part", ["tokenizer", "dynamics"])
def test_results_of_another_recipe_are_not_reported(part: str, tmp_path: Path) -> None:
    kept = keep(tmp_path, "tuned", 0)
    assert kept.run()["seed"] == 0
    keep_run(kept.dpath.joinpath(*FOLDERS[part]), part, ("recipe=tuned",), optimizer__weight_decay=0.5)
    with pytest.raises(UserError, match=r"weight_decay"):
        kept.run()


def test_results_that_were_evaluated_otherwise_are_not_reported(tmp_path: Path) -> None:
    """The network that reads actions had learned for fewer steps, for instance; the figure has the same name."""
    kept = keep(tmp_path, "tuned", 0)
    keep_evaluation(kept, "one_go")
    assert kept.run()["seed"] == 0
    keep_evaluation(kept, "autoregressive", eval__drift_frames=0, eval__n_gifs=9, eval__dataset_name="elsewhere")
    with pytest.raises(UserError, match=r"evaluated otherwise \(eval\.drift_frames=60 \(was 0\)\)"):
        kept.run()


@pytest.mark.parametrize("name", ["tokenizer", "dynamics", "eval autoregressive"])
def test_a_result_names_the_overrides_of_its_trainings_and_evaluations(name: str, tmp_path: Path) -> None:
    """So that those of others are known where only the result is left."""
    kept = keep(tmp_path, "tuned", 0, overrides={"tokenizer": ["recipe=tuned"]})
    assert kept.run()["seed"] == 0
    kept = keep(tmp_path, "tuned", 0, overrides={name: ["recipe=other"]})
    with pytest.raises(UserError, match=rf"is of recipe=other \({name}\), not of recipe=tuned"):
        kept.run()


def test_a_report_leaves_out_and_names_what_is_of_another_recipe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All files are checked, not only those of the command."""
    keep(tmp_path, "tuned", 0, 30)
    keep(tmp_path, "tuned", 2, 31)
    keep(tmp_path, "tuned", 3, 99, overrides={"dynamics": ["recipe=other"]})
    keep(tmp_path, "tuned_plain", 2, 30)
    write_report(tmp_path, 1, against="tuned_plain")
    out, err = capsys.readouterr()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in out.splitlines()]
    found = [row[1:4] + row[8:9] for row in rows if row[:1] == ["one_level"] and len(row) > 15 and row[6] == "seen"]
    assert found == [["tuned", "0 2", "200 + 200", "30.50 ± 6.35"], ["tuned_plain", "2", "200 + 200", "30.00"]]
    assert any(row[1:3] == ["tuned − tuned_plain", "2"] and row[6] == "1.00" for row in rows if len(row) > 6)
    assert "left out" in err and "tuned-seed3.json" in err
    assert (tmp_path / "1min" / "plot.png").stat().st_size > 1000


def test_runs_of_different_steps_are_not_averaged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, steps in ((0, 200), (1, 300), (2, 200)):
        keep(tmp_path, "tuned", seed, 30 + seed, steps=steps)
    write_report(tmp_path, 1, against=None)
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if " seen | " in line]
    assert [(row[2], row[3], row[8]) for row in rows] == [
        ("0 2", "200 + 200", "31.00 ± 12.71"),
        ("1", "300 + 300", "31.00"),
    ]


def test_differences_are_of_the_same_seed() -> None:
    """Seeds differ by more than recipes do."""
    own = [{"seed": seed, **a_result(30.0 + 3 * seed)} for seed in range(4)]
    reference = [{"seed": seed, **a_result(29.0 + 3 * seed)} for seed in (2, 3, 1, 7)]
    results = {("data", "tuned", "s"): own, ("data", "plain", "s"): reference, ("other", "plain", "s"): reference}
    (row,) = (line for line in differences(results, "plain").splitlines() if " seen " in line)
    assert row.split(" | ")[2] == "1 2 3" and "1.00 ± 0.00" in row
    assert differences(results, "elsewhere") == ""
    assert table(results).count("tuned") == 2


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("--seeds -1", r"--seeds: -1 must be at least 0"),
        ("--minutes nan", r"--minutes: nan is not positive and finite"),
        ("--minutes -3", r"--minutes: -3 is not positive and finite"),
        ("--minutes x", r"--minutes: 'x' is not a number"),
        ("--report --root {folder}", r"--root=.*: has no results of --minutes 10"),
        ("--arms tuned", r"--arms tuned does not suit --data hero \(max_seq_len=960: too many frames\)"),
    ],
)
def test_mistakes_are_one_line(
    words: str, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of an arm that cannot be trained, too, before anything is recorded."""

    def refuse(*_: Any) -> None:
        raise FieldError("max_seq_len", 960, "too many frames")

    monkeypatch.setattr(comparison, "count_operations", refuse)
    arguments = words.format(folder=tmp_path).split()
    root = [] if "--root" in arguments else ["--root", str(tmp_path / "new")]

    def action() -> int:
        run([*arguments, *root])
        return 0

    assert exit_code_of(action) == USER_ERROR
    (found,) = capsys.readouterr().err.splitlines()
    assert re.search(line, found), found
    assert not (tmp_path / "new").exists()


def test_every_arm_has_folders_with_names_that_training_takes(tmp_path, monkeypatch):
    """And arms share a tokenizer's folder only if they share its recipe."""
    recipes: dict[str, set[Any]] = {}

    def train(command, *_):
        check_fields(TrainConfig(wandb_name=command.name))
        if command.part == "tokenizer":
            recipes.setdefault(command.name, set()).add((command.overrides, command.operations))
        return tmp_path / "model.pt", {}

    monkeypatch.setattr(comparison, "train", train)
    for arm in ARMS:
        Comparison(tmp_path, ALL_DATA["one_level"], arm, minutes=10, seed=1).train()
    assert len(recipes) > 5 and all(len(different) == 1 for different in recipes.values())
