"""The loop's table."""

import json
from pathlib import Path

import numpy as np

from benchmarks.exploration.commands import METHODS, Experiment
from benchmarks.exploration.report import COLUMNS, loop_table, report_loop
from benchmarks.exploration.settings import GAMES, TRIAL


def cells(line: str) -> list[str]:
    return line.strip("|").split("|")


def test_the_table_has_the_columns_of_the_published_one() -> None:
    measured = dict.fromkeys(COLUMNS, 1.0)
    head, _, *rows = loop_table(
        {"before": [measured], "auto_explore": [measured] * 3, "random": [measured] * 3},
        {"before": [0], "auto_explore": [12001, 12100, 12050], "random": [12030]},
    ).splitlines()
    frames, control = ["PSNR", "pooled PSNR", "of changed pixels", "SSIM"], "counterfactual ΔPSNR"
    names = [f"tokenizer: {name}" for name in (*frames, "`lite0_frechet`")]  # it takes no actions
    names += [f"one_go: {name}" for name in (*frames, "ΔPSNR", "`lite0_frechet`")]
    names += [f"autoregressive: {name}" for name in (*frames, "ΔPSNR", control, "`lite0_frechet`")]
    assert [cell.strip() for cell in cells(head)] == ["fine-tuned on", "frames", *names]
    found = [[cell.strip() for cell in cells(row)] for row in rows]
    assert [row[0] for row in found] == ["not fine-tuned", "AutoExplore's data", "random data"]
    assert [row[1] for row in found] == ["–", "12 001 to 12 100", "12 030"]
    assert {cell for row in found for cell in row[2:]} == {"1", "1 (1 to 1)"}


def test_intervals_are_over_the_seeds_and_what_was_not_measured_is_a_dash(tmp_path: Path) -> None:
    """Without the package of its weights, evaluation gives no `lite0_frechet`."""
    experiment = Experiment(GAMES["cinderfoot"], TRIAL, tmp_path, "agent57")
    for number, run in enumerate(("before", "auto_explore_seed1", "random_seed1")):
        for method in METHODS.values():
            path = experiment.evaluation(run, method, experiment.test_dataset())
            path.parent.mkdir(parents=True)
            path.write_text(json.dumps({"metrics": {"psnr": 20 + number, "ssim": 0.5, "delta_psnr": -0.5}}))
    rows = report_loop(experiment).splitlines()[2:]
    assert [cells(row)[2].strip() for row in rows] == ["20", "21", "22"]
    assert {cells(row)[6].strip() for row in rows} == {"–"}
    folder = tmp_path / "loop_agent57"
    assert {path.name for path in folder.iterdir()} == {"table.md", "results.json", "plot.png"}
    content = json.loads((folder / "results.json").read_text())
    assert content["random"]["one_go"]["psnr"] == {"center": 22, "low": 22, "high": 22, "count": 1, "seeds": [22]}
    assert np.isclose(content["before"]["autoregressive"]["delta_psnr"]["center"], -0.5)
