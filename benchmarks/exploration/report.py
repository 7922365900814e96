"""Tables and plots of the experiment."""

import json
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.exploration.commands import METHODS, Experiment
from benchmarks.exploration.coverage import Curve, curve_of
from benchmarks.exploration.second_round import CONTROL, ROUND_TWO
from benchmarks.exploration.settings import EXPLORED
from benchmarks.exploration.statistics import Interval, interval_over_seeds
from data_generation.data.files import write_atomically
from data_generation.data.markdown import markdown_table
from training.images import save_figure

LABELS = {
    "auto_explore": "AutoExplore (entropy)",
    "disagreement": "AutoExplore (disagreement)",
    "rnd": "RND",
    "e3b": "E3B",
    "ngu": "NGU's episodic bonus",
    "counts": "position counts (oracle)",
    "none": "environment's reward",
    "random_features": "curiosity, random features",
    "autoencoder": "curiosity, an autoencoder's features",
    "random": "random",
    "sticky_random": "sticky random",
    ROUND_TWO: "AutoExplore, second round",
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
ROWS = {
    "before": "not fine-tuned",
    "auto_explore": "AutoExplore's data",
    "random": "random data",
    "none": "data of the environment's reward",
    "mixed": "AutoExplore's and random data",
    ROUND_TWO: "… then the second round's",
    CONTROL: "… then more of the first's",
}
MEASURES = {
    "psnr": "PSNR",
    "pooled_psnr": "pooled PSNR",
    "changed_pooled_psnr": "of changed pixels",
    "ssim": "SSIM",
    "delta_psnr": "ΔPSNR",
    "counterfactual_delta_psnr": "counterfactual ΔPSNR",
    "lite0_frechet": "`lite0_frechet`",
}
# One action or another makes no difference to a tokenizer; counterfactuals are of one frame at a time.
_OMITTED = {"tokenizer": ("delta_psnr", "counterfactual_delta_psnr"), "one_go": ("counterfactual_delta_psnr",)}
# What is tested, and which of its measures.
COLUMNS = [(method, name) for method in METHODS for name in MEASURES if name not in _OMITTED.get(method, ())]
# Of one run: measures by method and name, NaN for those that could not be taken.
Measured = dict[tuple[str, str], float]


def report_coverage(experiment: Experiment, name: str = "coverage") -> str:
    """Write <name>.png, .json and .md; returns the table."""
    seeds = experiment.coverage_seeds
    curves = {agent: [curve_of(experiment, agent, seed) for seed in seeds] for agent in experiment.agents}
    panels = [panel for panel in _PANELS if panel in curves[experiment.agents[0]][0].values]
    save_figure(_coverage_figure(curves, panels, experiment.game.name), experiment.root / f"{name}.png")
    rows = {agent: _coverage_intervals(runs) for agent, runs in curves.items()}
    content = {
        agent: {kind: {name: vars(found) for name, found in row[kind].items()} for kind in row}
        for agent, row in rows.items()
    }
    write_atomically(experiment.root / f"{name}.json", json.dumps(content, indent=2) + "\n")
    table = _coverage_table(rows)
    write_atomically(experiment.root / f"{name}.md", table + "\n")
    return table


def _coverage_intervals(runs: list[Curve]) -> dict[str, dict[str, Interval]]:
    """Measures by name: at the end of the `whole`, their `area`, and those of the `late` steps alone."""
    names, late = runs[0].values, runs[0].late
    return {
        "whole": {name: interval_over_seeds(np.array([run.final(name) for run in runs])) for name in names},
        "area": {
            name: interval_over_seeds(np.array([run.area(name) for run in runs])) for name in AREAS if name in names
        },
        "late": {name: interval_over_seeds(np.array([run.late[name] for run in runs])) for name in late},
    }


def _coverage_table(rows: dict[str, dict[str, dict[str, Interval]]]) -> str:
    columns = [(kind, name) for kind, name in _COVERAGE if all(name in row[kind] for row in rows.values())]
    head = ["agent", *(_COVERAGE[column] for column in columns)]
    body = [[LABELS[agent], *(str(row[kind][name]) for kind, name in columns)] for agent, row in rows.items()]
    return markdown_table(head, body)


def report_loop(experiment: Experiment, rounds: int = 1) -> str:
    """Write results.json, plot.png and table.md for each kind of test levels; returns the tables."""
    return "\n\n".join(_report_test(experiment, rounds, levels) for levels in experiment.test_levels)


def _report_test(experiment: Experiment, rounds: int, levels: str) -> str:
    seeds = experiment.data_seeds
    rows = (*experiment.fine_tuned_on, *((ROUND_TWO, CONTROL) if rounds == 2 else ()))
    runs = {"before": ["before"], **{row: [f"{row}_seed{seed}" for seed in seeds] for row in rows}}
    test = experiment.test_dataset(levels)
    results = {row: [_measured(experiment, run, test) for run in names] for row, names in runs.items()}
    frames = {row: [int(experiment.num_frames(run).sum()) for run in names] for row, names in runs.items()}
    folder = report_folder(experiment, rounds, levels)
    content = {row: {"frames": frames[row], **_intervals_by_method(measured)} for row, measured in results.items()}
    write_atomically(folder / "results.json", json.dumps(content, indent=2) + "\n")
    where = "" if levels == EXPLORED else ", levels that no model has seen"
    title = f"{experiment.game.name}, by what was fine-tuned on; test play: {experiment.test_policy}{where}"
    save_figure(_loop_figure(results, title), folder / "plot.png")
    table = loop_table(results, frames)
    write_atomically(folder / "table.md", table + "\n")
    return table


def report_folder(experiment: Experiment, rounds: int = 1, levels: str = EXPLORED) -> Path:
    """Of the loop's results."""
    name = {1: "loop", 2: "twice"}[rounds]
    return experiment.root / f"{name}_{experiment.test_policy}{'' if levels == EXPLORED else f'_{levels}'}"


def loop_table(results: dict[str, list[Measured]], frames: dict[str, list[int]]) -> str:
    """The loop's table as Markdown: a row for each kind of data, a column for each measure of each method."""
    head = ["fine-tuned on", "frames", *(f"{method}: {MEASURES[name]}" for method, name in COLUMNS)]
    body = []
    for row, runs in results.items():
        counts = sorted({f"{count:,}".replace(",", " ") for count in (min(frames[row]), max(frames[row])) if count})
        cells = [_cell(_interval_of(runs, column)) for column in COLUMNS]
        body.append([ROWS[row], " to ".join(counts) or "–", *cells])
    return markdown_table(head, body)


def _measured(experiment: Experiment, run: str, test: Path) -> Measured:
    found = {method: read_metrics(experiment, run, method, test) for method in METHODS}
    # Without the package of its weights there is no Fréchet distance.
    return {(method, name): float(found[method].get(name, np.nan)) for method, name in COLUMNS}


def read_metrics(experiment: Experiment, run: str, method: str, test: Path) -> dict[str, float]:
    """What evaluating a run's models by one method found on a dataset."""
    metrics: dict[str, float] = json.loads(
        experiment.evaluation(run, METHODS[method], test).read_text(encoding="utf-8")
    )["metrics"]
    return metrics


def _interval_of(runs: list[Measured], column: tuple[str, str]) -> Interval | None:
    """None where a run lacks the measure."""
    values = np.array([run[column] for run in runs])
    return None if np.isnan(values).any() else interval_over_seeds(values)


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
    kinds: dict[str, None] = {}
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for agent, runs in curves.items():
            values = np.array([run.values[name] for run in runs])
            intervals = [interval_over_seeds(column) for column in values.T]
            kinds[intervals[0].kind] = None
            steps = runs[0].steps
            line = axes.plot(steps, [item.center for item in intervals], label=LABELS[agent])[0]
            low, high = [item.low for item in intervals], [item.high for item in intervals]
            axes.fill_between(steps, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
        axes.set(xlabel="environment steps", title=_PANELS[name])
        axes.grid(alpha=0.3)
    figure.suptitle(f"{title}: interquartile mean over seeds, {' or '.join(kinds)}")
    axes.legend()
    return figure


def _loop_figure(results: dict[str, list[Measured]], title: str) -> Figure:
    """A point for each run, a row of panels for each method."""
    figure = Figure(figsize=(3.5 * len(MEASURES), 4 * len(METHODS)), layout="constrained")
    figure.suptitle(title)
    grid = figure.subplots(len(METHODS), len(MEASURES), squeeze=False)
    for method, panels in zip(METHODS, grid, strict=True):
        for name, axes in zip(MEASURES, panels, strict=True):
            if (method, name) not in COLUMNS:
                axes.set_axis_off()
                continue
            for place, runs in enumerate(results.values()):
                axes.scatter([place] * len(runs), [run[method, name] for run in runs])
            axes.set_xticks(range(len(results)), [ROWS[row] for row in results], rotation=30, ha="right")
            axes.set_title(f"{method}: {MEASURES[name]}".replace("`", ""))
            axes.margins(x=0.3, y=0.2)
            axes.grid(alpha=0.3)
    return figure
