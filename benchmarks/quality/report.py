"""The comparison's table and plots: means over seeds with intervals, a row per dataset, arm, part and method."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

# Two-sided 95 % quantiles of Student's t for 1, 2, … degrees of freedom; for more, the last one is too large by 4 %.
_T = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131),
    *(2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
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
_HEAD = ("data", "arm", "seeds", "steps", "TFLOP", "CPU s", "levels", "method")

# The results of all seeds by dataset and arm.
Results = dict[tuple[str, str], list[dict[str, Any]]]


def interval(values: list[float]) -> str:
    """The mean, with the half-width of its 95 % interval (Student's t) from two values on; "" for none."""
    if not values:
        return ""
    mean = np.mean(values)
    if len(values) < 2:
        return f"{mean:.2f}"
    half = _T[min(len(values) - 1, len(_T)) - 1] * np.std(values, ddof=1) / math.sqrt(len(values))
    return f"{mean:.2f} ± {half:.2f}"


def shown_seconds(seconds: float) -> str:
    """Of a cost; a dash where they are not known, since a training was killed on the way."""
    return "–" if math.isnan(seconds) else f"{seconds:.0f}"


def _different(texts: Iterable[str]) -> str:
    return " or ".join(dict.fromkeys(texts))


def table(results: Results) -> str:
    """The results as Markdown."""
    lines = ["| " + " | ".join((*_HEAD, *COLUMNS.values())) + " |", "|" + " --- |" * (len(_HEAD) + len(COLUMNS))]
    for (data, arm), seeds in results.items():
        parts = [part for part in PARTS if part in seeds[0]]
        # Of runs of different versions of the code, these may differ.
        steps = _different(" + ".join(str(seed[part]["steps"]) for part in parts) for seed in seeds)
        operations = _different(f"{sum(seed[part]['operations'] for part in parts) / 1e12:.0f}" for seed in seeds)
        seconds = np.mean([sum(seed[part]["cpu_seconds"] for part in parts) for seed in seeds])
        head = f"| {data} | {arm} | {len(seeds)} | {steps} | {operations} | {shown_seconds(seconds)}"
        for part in ("seen", "unseen"):
            for method in seeds[0][part]:
                measured = [seed[part][method] for seed in seeds]
                cells = [interval([m[name] for m in measured if name in m]) for name in COLUMNS]
                lines.append(f"{head} | {part} | {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def plot(results: Results, path: Path) -> None:
    """Pooled PSNR and ΔPSNR of the arms on each dataset (autoregressive, seen levels), a point per seed, as PNG."""
    datasets = list(dict.fromkeys(data for data, _ in results))
    figure, axes = plt.subplots(len(datasets), 2, figsize=(11, 0.6 + 2.6 * len(datasets)), squeeze=False)
    for row, data in enumerate(datasets):
        arms = {arm: seeds for (name, arm), seeds in results.items() if name == data}
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
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
