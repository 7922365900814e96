"""Tables and plots of the experiment."""

import io
import json
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.exploration.commands import Experiment
from benchmarks.exploration.coverage import Curve, curve_of
from benchmarks.exploration.settings import AGENTS, FINE_TUNED_ON
from benchmarks.exploration.statistics import interval
from data_generation.data.files import write_atomically

_LABELS = {
    "auto_explore": "AutoExplore (entropy)",
    "rnd": "RND",
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
_TESTS = {
    "psnr": "PSNR",
    "pooled_psnr": "pooled PSNR",
    "ssim": "SSIM",
    "delta_psnr": "ΔPSNR",
    "tokenizer_psnr": "tokenizer alone, PSNR",
    "fid": "FID",
}


def report_coverage(experiment: Experiment) -> str:
    """Write coverage.png and coverage.json; returns the table."""
    seeds = range(experiment.scale.seeds)
    curves = {agent: [curve_of(experiment, agent, seed) for seed in seeds] for agent in AGENTS}
    names = [name for name in _PANELS if name in curves["random"][0].values]
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
    return _table(head, body)


def report_fine_tuning(experiment: Experiment) -> str:
    """Write fine_tuning.png and fine_tuning.json; returns the table."""
    results = {"before": [_read_test(experiment.evaluation("before"))]}
    for agent in FINE_TUNED_ON:
        runs = [f"{agent}_seed{seed}" for seed in range(experiment.scale.data_seeds)]
        results[agent] = [_read_test(experiment.evaluation(run)) for run in runs]
    names = [name for name in _TESTS if name in results["before"][0]]
    intervals = {
        agent: {name: interval(np.array([row[name] for row in rows])) for name in names}
        for agent, rows in results.items()
    }
    content = {agent: {name: vars(value) for name, value in row.items()} for agent, row in intervals.items()}
    write_atomically(experiment.root / "fine_tuning.json", json.dumps(content, indent=2) + "\n")
    _save_figure(_fine_tuning_figure(results, names, experiment.game.name), experiment.root / "fine_tuning.png")
    labels = {"before": "not fine-tuned", "auto_explore": "AutoExplore's data", "random": "random data"}
    body = [[labels[agent], *(str(row[name]) for name in names)] for agent, row in intervals.items()]
    return _table(["world model fine-tuned on", *(_TESTS[name] for name in names)], body)


def _read_test(path: Path) -> dict[str, float]:
    metrics: dict[str, float] = json.loads(path.read_text())["metrics"]
    return metrics


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


def _fine_tuning_figure(results: dict[str, list[dict[str, float]]], names: list[str], title: str) -> Figure:
    figure = Figure(figsize=(3.5 * len(names), 4), layout="constrained")
    figure.suptitle(f"{title}: world model on a third policy's play, by what it was fine-tuned on")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for place, (agent, rows) in enumerate(results.items()):
            values = [row[name] for row in rows]
            axes.scatter([place] * len(values), values, label=agent)
        axes.set_xticks(range(len(results)), list(results), rotation=15)
        axes.set_title(_TESTS[name])
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
