"""Tables and plots of the experiment."""

import io
import json
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.exploration.commands import METHODS, Experiment
from benchmarks.exploration.coverage import Curve, curve_of
from benchmarks.exploration.settings import FINE_TUNED_ON
from benchmarks.exploration.statistics import Interval, interval
from data_generation.data.files import write_atomically

LABELS = {
    "auto_explore": "AutoExplore (entropy)",
    "disagreement": "AutoExplore (disagreement)",
    "rnd": "RND",
    "e3b": "E3B",
    "ngu": "NGU's episodic bonus",
    "counts": "position counts (oracle)",
    "none": "environment's reward",
    "random": "random",
    "sticky_random": "sticky random",
}
_PANELS = {
    "cells": "cells seen",
    "positions": "level positions",
    "max_x": "largest x",
    "action_entropy": "action entropy",
}
# Measures whose mean over the steps is shown, too.
AREAS = ("cells", "positions")
# Columns of the table: what of a run, and which measure.
_COVERAGE = {
    **{("whole", name): name for name in ("cells", "positions", "levels", "goals", "max_x", "action_entropy")},
    **{("area", name): f"area: {name}" for name in AREAS},
    ("late", "cells"): "last quarter: cells",
    ("late", "mean_max_x"): "last quarter: mean max x",
    ("late", "max_x"): "last quarter: max x",
    ("late", "action_entropy"): "last quarter: action_entropy",
}
_ROWS = {"before": "not fine-tuned", "auto_explore": "AutoExplore's data", "random": "random data"}
_MEASURES = {
    "psnr": "PSNR",
    "ssim": "SSIM",
    "delta_psnr": "ΔPSNR",
    "lite0_frechet": "`lite0_frechet`",
}
# What is tested, and which of its measures: one action or another makes no difference to a tokenizer.
COLUMNS = [(m, name) for m in METHODS for name in _MEASURES if (m, name) != ("tokenizer", "delta_psnr")]
# Of one run: measures by method and name, NaN for those that could not be taken.
Measured = dict[tuple[str, str], float]


def report_coverage(experiment: Experiment) -> str:
    """Write coverage.png, coverage.json and coverage.md; returns the table."""
    seeds = experiment.coverage_seeds
    curves = {agent: [curve_of(experiment, agent, seed) for seed in seeds] for agent in experiment.agents}
    panels = [name for name in _PANELS if name in curves[experiment.agents[0]][0].values]
    _save_figure(_coverage_figure(curves, panels, experiment.game.name), experiment.root / "coverage.png")
    rows = {agent: _coverage_intervals(runs) for agent, runs in curves.items()}
    content = {
        agent: {kind: {name: vars(found) for name, found in row[kind].items()} for kind in row}
        for agent, row in rows.items()
    }
    write_atomically(experiment.root / "coverage.json", json.dumps(content, indent=2) + "\n")
    table = _coverage_table(rows)
    write_atomically(experiment.root / "coverage.md", table + "\n")
    return table


def _coverage_intervals(runs: list[Curve]) -> dict[str, dict[str, Interval]]:
    """Measures by name: at the end of the `whole`, their `area`, and those of the `late` steps alone."""
    names, late = runs[0].values, runs[0].late
    return {
        "whole": {name: interval(np.array([run.final(name) for run in runs])) for name in names},
        "area": {name: interval(np.array([run.area(name) for run in runs])) for name in AREAS if name in names},
        "late": {name: interval(np.array([run.late[name] for run in runs])) for name in late},
    }


def _coverage_table(rows: dict[str, dict[str, dict[str, Interval]]]) -> str:
    columns = [(kind, name) for kind, name in _COVERAGE if all(name in row[kind] for row in rows.values())]
    head = ["agent", *(_COVERAGE[column] for column in columns)]
    body = [[LABELS[agent], *(str(row[kind][name]) for kind, name in columns)] for agent, row in rows.items()]
    return markdown_table(head, body)


def report_loop(experiment: Experiment) -> str:
    """Write results.json, plot.png and table.md into the folder of the test policy; returns the table."""
    seeds = experiment.data_seeds
    runs = {"before": ["before"], **{agent: [f"{agent}_seed{seed}" for seed in seeds] for agent in FINE_TUNED_ON}}
    results = {row: [_measured(experiment, run) for run in names] for row, names in runs.items()}
    frames = {row: [int(experiment.num_frames(run).sum()) for run in names] for row, names in runs.items()}
    folder = report_folder(experiment)
    content = {row: {"frames": frames[row], **_intervals_by_method(measured)} for row, measured in results.items()}
    write_atomically(folder / "results.json", json.dumps(content, indent=2) + "\n")
    title = f"{experiment.game.name}: tested on {experiment.test_policy}'s play, by what was fine-tuned on"
    _save_figure(_loop_figure(results, title), folder / "plot.png")
    table = loop_table(results, frames)
    write_atomically(folder / "table.md", table + "\n")
    return table


def report_folder(experiment: Experiment) -> Path:
    """Of the loop's results."""
    return experiment.root / f"loop_{experiment.test_policy}"


def loop_table(results: dict[str, list[Measured]], frames: dict[str, list[int]]) -> str:
    """The loop's table as Markdown: a row for each kind of data, a column for each measure of each method."""
    head = ["fine-tuned on", "frames", *(f"{method}: {_MEASURES[name]}" for method, name in COLUMNS)]
    body = []
    for row, runs in results.items():
        counts = sorted({f"{count:,}".replace(",", " ") for count in (min(frames[row]), max(frames[row])) if count})
        cells = [_cell(_interval_of(runs, column)) for column in COLUMNS]
        body.append([_ROWS[row], " to ".join(counts) or "–", *cells])
    return markdown_table(head, body)


def _measured(experiment: Experiment, run: str) -> Measured:
    found = {}
    for method, name in COLUMNS:
        metrics = json.loads(experiment.evaluation(run, METHODS[method]).read_text())["metrics"]
        # Without the package of its weights there is no Fréchet distance.
        found[method, name] = float(metrics.get(name, np.nan))
    return found


def _interval_of(runs: list[Measured], column: tuple[str, str]) -> Interval | None:
    """None where a run lacks the measure."""
    values = np.array([run[column] for run in runs])
    return None if np.isnan(values).any() else interval(values)


def _cell(found: Interval | None) -> str:
    return "–" if found is None else str(found)


def _intervals_by_method(runs: list[Measured]) -> dict[str, dict[str, dict[str, object]]]:
    content: dict[str, dict[str, dict[str, object]]] = {method: {} for method in METHODS}
    for method, name in COLUMNS:
        if found := _interval_of(runs, (method, name)):
            content[method][name] = {**vars(found), "seeds": [run[method, name] for run in runs]}
    return content


def _coverage_figure(curves: dict[str, list[Curve]], names: list[str], title: str) -> Figure:
    figure = Figure(figsize=(5 * len(names), 4), layout="constrained")
    figure.suptitle(f"{title}: interquartile mean over seeds, 95 % confidence")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for agent, runs in curves.items():
            values = np.array([run.values[name] for run in runs])
            intervals = [interval(column) for column in values.T]
            steps = runs[0].steps
            line = axes.plot(steps, [item.center for item in intervals], label=LABELS[agent])[0]
            low, high = [item.low for item in intervals], [item.high for item in intervals]
            axes.fill_between(steps, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
        axes.set(xlabel="environment steps", title=_PANELS[name])
        axes.grid(alpha=0.3)
    axes.legend()
    return figure


def _loop_figure(results: dict[str, list[Measured]], title: str) -> Figure:
    """A point for each run, a row of panels for each method."""
    figure = Figure(figsize=(3.5 * len(_MEASURES), 3 * len(METHODS)), layout="constrained")
    figure.suptitle(title)
    grid = figure.subplots(len(METHODS), len(_MEASURES), squeeze=False)
    for method, panels in zip(METHODS, grid, strict=True):
        for name, axes in zip(_MEASURES, panels, strict=True):
            if (method, name) not in COLUMNS:
                axes.set_axis_off()
                continue
            for place, runs in enumerate(results.values()):
                axes.scatter([place] * len(runs), [run[method, name] for run in runs])
            axes.set_xticks(range(len(results)), [_ROWS[row] for row in results], rotation=15)
            axes.set_title(f"{method}: {_MEASURES[name]}".replace("`", ""))
            axes.margins(x=0.3, y=0.2)
            axes.grid(alpha=0.3)
    return figure


def _save_figure(figure: Figure, path: Path) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, buffer.getvalue())


def markdown_table(head: list[str], body: list[list[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " --: |" * (len(head) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in body)])
