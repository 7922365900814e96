"""How well the world model that rewards predicts each agent's play: what it predicts badly, it can learn from.

As in table 6 of arXiv 2504.02515, where AutoExplore's play is harder to predict than that of curiosity about features.
"""

import json
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.exploration.commands import Experiment
from benchmarks.exploration.report import LABELS, MEASURES, read_metrics
from benchmarks.exploration.settings import REWARDING
from benchmarks.exploration.statistics import interval_over_seeds
from benchmarks.exploration.steps import Stage
from data_generation.data.files import write_atomically
from data_generation.data.markdown import markdown_table
from training.images import save_figure

_METHOD, _PRESET = "one_go", "exploration"
_MEASURED = ("psnr", "pooled_psnr", "changed_pooled_psnr", "ssim", "delta_psnr")


def prediction_stages(experiment: Experiment) -> list[Stage]:
    """Train the agents, record the play of each (`data_frames`), evaluate the world model of random play on it."""
    evaluations = [
        [experiment.evaluate(REWARDING, _METHOD, experiment.paying, play, f", {agent}, seed {seed}", _PRESET)]
        for seed in experiment.data_seeds
        for agent in experiment.agents
        for play in [_play(experiment, agent, seed)]
    ]
    return [*experiment.explored_data(experiment.agents), evaluations]


def report_prediction(experiment: Experiment) -> str:
    """Write prediction.json, .png and .md; returns the table, hardest play first."""
    runs = {agent: [_metrics(experiment, agent, seed) for seed in experiment.data_seeds] for agent in experiment.agents}
    rows = {
        agent: {name: interval_over_seeds(np.array([run[name] for run in own])) for name in _MEASURED}
        for agent, own in runs.items()
    }
    rows = dict(sorted(rows.items(), key=lambda item: item[1]["psnr"].center))
    measured = {agent: runs[agent] for agent in rows}
    content = {
        agent: {name: {**vars(found), "seeds": [run[name] for run in measured[agent]]} for name, found in row.items()}
        for agent, row in rows.items()
    }
    write_atomically(experiment.root / "prediction.json", json.dumps(content, indent=2) + "\n")
    save_figure(prediction_figure(measured, experiment.game.name), experiment.root / "prediction.png")
    head = ["play of", *(MEASURES[name] for name in _MEASURED)]
    table = markdown_table(head, [[LABELS[agent], *map(str, row.values())] for agent, row in rows.items()])
    write_atomically(experiment.root / "prediction.md", table + "\n")
    return table


def prediction_figure(measured: dict[str, list[dict[str, float]]], game: str) -> Figure:
    """Of each agent's runs: a point for each, a row for each agent in the given order, a panel for each measure."""
    figure = Figure(figsize=(3 * len(_MEASURED), 1.2 + 0.25 * len(measured)), layout="constrained")
    figure.suptitle(f"{game}: the world model of random play, evaluated on each agent's play")
    grid = figure.subplots(1, len(_MEASURED), sharey=True, squeeze=False)
    for name, axes in zip(_MEASURED, grid[0], strict=True):
        for place, runs in enumerate(measured.values()):
            axes.scatter([run[name] for run in runs], [place] * len(runs))
        axes.set_title(MEASURES[name])
        axes.grid(alpha=0.3)
    grid[0, 0].set_yticks(range(len(measured)), [LABELS[agent] for agent in measured])
    grid[0, 0].invert_yaxis()
    return figure


def _metrics(experiment: Experiment, agent: str, seed: int) -> dict[str, float]:
    return read_metrics(experiment, REWARDING, _METHOD, _play(experiment, agent, seed))


def _play(experiment: Experiment, agent: str, seed: int) -> Path:
    return experiment.dataset(f"{agent}_seed{seed}")
