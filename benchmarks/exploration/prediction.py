"""How well the world model that rewards predicts each agent's play: what it predicts badly, it can learn from.

As in table 6 of arXiv 2504.02515, where AutoExplore's play is harder to predict than that of curiosity about features.
"""

import json
from pathlib import Path

import numpy as np

from benchmarks.exploration.commands import Experiment
from benchmarks.exploration.report import LABELS, MEASURES, markdown_table, read_metrics
from benchmarks.exploration.statistics import interval
from benchmarks.exploration.steps import Stage
from data_generation.data.files import write_atomically

_RUN, _METHOD, _PRESET = "rewarding", "one_go", "exploration"
_MEASURED = ("psnr", "pooled_psnr", "changed_pooled_psnr", "ssim", "delta_psnr")


def prediction_stages(experiment: Experiment) -> list[Stage]:
    """Train the agents, record the play of each (`data_frames`), evaluate the world model of random play on it."""
    evaluations = [
        [experiment.evaluate(_RUN, _METHOD, experiment.paying, play, f", {agent}, seed {seed}", _PRESET)]
        for seed in experiment.data_seeds
        for agent in experiment.agents
        for play in [_play(experiment, agent, seed)]
    ]
    return [*experiment.explored_data(experiment.agents), evaluations]


def report_prediction(experiment: Experiment) -> str:
    """Write prediction.json and prediction.md; returns the table, hardest play first."""
    measured = {
        agent: [
            read_metrics(experiment, _RUN, _METHOD, _play(experiment, agent, seed)) for seed in experiment.data_seeds
        ]
        for agent in experiment.agents
    }
    rows = {
        agent: {name: interval(np.array([run[name] for run in runs])) for name in _MEASURED}
        for agent, runs in sorted(measured.items(), key=lambda item: np.mean([run["psnr"] for run in item[1]]))
    }
    content = {
        agent: {name: {**vars(found), "seeds": [run[name] for run in measured[agent]]} for name, found in row.items()}
        for agent, row in rows.items()
    }
    write_atomically(experiment.root / "prediction.json", json.dumps(content, indent=2) + "\n")
    head = ["play of", *(MEASURES[name] for name in _MEASURED)]
    table = markdown_table(head, [[LABELS[agent], *map(str, row.values())] for agent, row in rows.items()])
    write_atomically(experiment.root / "prediction.md", table + "\n")
    return table


def _play(experiment: Experiment, agent: str, seed: int) -> Path:
    return experiment.dataset(f"{agent}_seed{seed}")
