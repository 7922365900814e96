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

_LABELS = {
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
_LATE = {"cells": "cells", "mean_max_x": "mean max x", "max_x": "max x", "action_entropy": "action entropy"}
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
    seeds = range(experiment.scale.seeds)
    curves = {agent: [curve_of(experiment, agent, seed) for seed in seeds] for agent in experiment.agents}
    names = [name for name in _PANELS if name in curves[experiment.agents[0]][0].values]
    _save_figure(_coverage_figure(curves, names, experiment.game.name), experiment.root / "coverage.png")
    rows = []
    for agent, runs in curves.items():
        whole = {name: interval(np.array([run.values[name][-1] for run in runs])) for name in runs[0].values}
        late = {name: interval(np.array([run.late[name] for run in runs])) for name in runs[0].late}
        rows.append((agent, whole, late))
    content = {
        agent: {"whole": {n: vars(v) for n, v in whole.items()}, "late": {n: vars(v) for n, v in late.items()}}
        for agent, whole, late in rows
    }
    write_atomically(experiment.root / "coverage.json", json.dumps(content, indent=2) + "\n")
    shown = [
        name for name in ("cells", "positions", "levels", "goals", "max_x", "action_entropy") if name in rows[0][1]
    ]
    late_names = [name for name in _LATE if name in rows[0][2]]
    head = ["agent", *shown, *(f"last quarter: {_LATE[name]}" for name in late_names)]
    body = [[_LABELS[a], *(str(w[n]) for n in shown), *(str(late[n]) for n in late_names)] for a, w, late in rows]
    table = _table(head, body)
    write_atomically(experiment.root / "coverage.md", table + "\n")
    return table


def report_loop(experiment: Experiment) -> str:
    """Write results.json, plot.png and table.md into the folder of the test policy; returns the table."""
    seeds = range(experiment.scale.data_seeds)
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
    return _table(head, body)


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
            line = axes.plot(steps, [item.center for item in intervals], label=_LABELS[agent])[0]
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


def _table(head: list[str], body: list[list[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " --: |" * (len(head) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in body)])
