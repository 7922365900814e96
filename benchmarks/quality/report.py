"""The comparison's table and plots: means over seeds with intervals, a row per dataset, arm, part and method."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.intervals import mean_and_interval
from data_generation.data.markdown import markdown_table
from training.images import save_figure

PARTS = ("tokenizer", "lam", "dynamics")
COLUMNS = {
    "pooled_psnr": "pooled PSNR",
    "changed_pooled_psnr": "of changed pixels",
    "ssim": "SSIM",
    "delta_psnr": "ΔPSNR",
    "action_following": "action accuracy",
    "action_following_ceiling": "(ceiling)",
    "drift_pooled_psnr_60": "frame 60",
    "drift_copy_last_pooled_psnr_60": "(copy-last)",
    "copy_last_pooled_psnr": "copy-last",
    "tokenizer_pooled_psnr": "tokenizer",
}
# Of which a difference between two arms on the same clips says something.
_COMPARED = ("pooled_psnr", "changed_pooled_psnr", "ssim", "delta_psnr", "action_following", "drift_pooled_psnr_60")
_HEAD = ("data", "arm", "seeds", "steps", "TFLOP", "CPU s", "levels", "method")

# The results of all seeds by dataset, arm and steps: runs of different versions of the code may differ in these, and
# are not averaged.
Results = dict[tuple[str, str, str], list[dict[str, Any]]]


def shown_seconds(seconds: float) -> str:
    """Of a cost; a dash where they are not known, since a training was killed on the way."""
    return "–" if math.isnan(seconds) else f"{seconds:.0f}"


def steps_of(result: dict[str, Any]) -> str:
    """Of each part's training."""
    return " + ".join(str(result[part]["steps"]) for part in PARTS if part in result)


def seeds_of(results: list[dict[str, Any]]) -> str:
    """Which they are."""
    return " ".join(str(result["seed"]) for result in results)


def table(results: Results) -> str:
    """The results as Markdown."""
    body = []
    for (data, arm, steps), seeds in results.items():
        parts = [part for part in PARTS if part in seeds[0]]
        operations = np.mean([sum(seed[part]["operations"] for part in parts) for seed in seeds]) / 1e12
        seconds = np.mean([sum(seed[part]["cpu_seconds"] for part in parts) for seed in seeds])
        head = [data, arm, seeds_of(seeds), steps, f"{operations:.0f}", shown_seconds(seconds)]
        for part in ("seen", "unseen"):
            for method in seeds[0][part]:
                measured = [seed[part][method] for seed in seeds]
                cells = [mean_and_interval([m[name] for m in measured if name in m]) for name in COLUMNS]
                body.append([*head, part, method, *cells])
    return markdown_table([*_HEAD, *COLUMNS.values()], body)


def differences(results: Results, reference: str) -> str:
    """Each arm's results minus those of the arm `reference` with the same seed, as Markdown; "" without a pair."""
    body = []
    for (data, arm, steps), seeds in results.items():
        for (other_data, other, other_steps), references in results.items():
            pairs = [(own, ref) for own in seeds for ref in references if own["seed"] == ref["seed"]]
            if arm == reference or (other_data, other) != (data, reference) or not pairs:
                continue
            head = [data, f"{arm} − {reference}", seeds_of([own for own, _ in pairs]), f"{steps}; {other_steps}"]
            body += [[*head, *row] for row in _difference_rows(pairs)]
    names = ("data", "arms", "seeds", "steps", "levels", "method", *(COLUMNS[name] for name in _COMPARED))
    return markdown_table(names, body) if body else ""


def _difference_rows(pairs: list[tuple[dict[str, Any], dict[str, Any]]]) -> Iterator[list[str]]:
    """Of each part and method that both have."""
    for part in ("seen", "unseen"):
        for method in (name for name in pairs[0][0][part] if name in pairs[0][1][part]):
            both = [(own[part][method], ref[part][method]) for own, ref in pairs]
            cells = [
                mean_and_interval([own[name] - ref[name] for own, ref in both if name in own and name in ref])
                for name in _COMPARED
            ]
            yield [part, method, *cells]


def plot(results: Results, path: Path) -> None:
    """Pooled PSNR and ΔPSNR of the arms on each dataset (autoregressive, seen levels), a point per seed, as PNG."""
    datasets = list(dict.fromkeys(data for data, _, _ in results))
    figure = Figure(figsize=(11, 0.6 + 2.6 * len(datasets)), layout="constrained")
    axes = figure.subplots(len(datasets), 2, squeeze=False)
    for row, data in enumerate(datasets):
        arms = {f"{arm}, {steps} steps": seeds for (name, arm, steps), seeds in results.items() if name == data}
        for axis, column in zip(axes[row], ("pooled_psnr", "delta_psnr"), strict=True):
            for height, seeds in enumerate(arms.values()):
                values = [seed["seen"]["autoregressive"][column] for seed in seeds]
                axis.plot(values, [height] * len(values), "o", alpha=0.6, color="C0")
                axis.plot([np.mean(values)], [height], "|", markersize=16, color="C1")
            axis.set_yticks(range(len(arms)), list(arms) if column == "pooled_psnr" else [])
            axis.set_ylim(len(arms) - 0.5, -0.5)
            axis.set_title(f"{data}: {COLUMNS[column]} [dB]", fontsize=9)
            axis.grid(alpha=0.3)
        measured = next(iter(arms.values()))[0]["seen"]["autoregressive"]
        axes[row][0].axvline(measured["copy_last_pooled_psnr"], color="grey", linestyle=":")
    save_figure(figure, path)
