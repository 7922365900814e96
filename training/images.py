"""Which frames training and evaluation keep to show, and plots of metrics over time."""

from pathlib import Path

import torch
from matplotlib.figure import Figure  # not pyplot, which keeps figures in a global list and may open a display
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from data_generation.data.files import atomic_path
from data_generation.data.media import to_pixels
from training.metrics import SampleTable

GIF_FPS = 8
RECORDED, PREDICTED = "frames_recorded", "frames_predicted"  # names in a SampleTable


def keep_frames(
    table: SampleTable, wanted: set[int], indices: list[int], video: Tensor, predicted: Tensor, num_given: int
) -> None:
    """Store in `table`, for the clips `wanted`, the frames (T, H, W, C) uint8 as recorded, and as given + predicted.

    video (B, T, C, H, W) are the recorded clips of `indices`, predicted (B, N, C, H, W) what follows their first
    `num_given` frames.
    """
    for row, index in enumerate(indices):
        if index in wanted:
            shown = torch.cat([video[row, :num_given], predicted[row]])
            for name, frames in ((RECORDED, video[row, : len(shown)]), (PREDICTED, shown)):
                pixels = to_pixels(frames.detach().float().cpu().numpy())
                table.add(name, [index], torch.from_numpy(pixels)[None])


def save_curves(panels: dict[str, dict[str, list[float]]], title: str, path: Path) -> None:
    """Plot PSNR in dB per predicted frame (1, 2, …): curves by name, in panels by title."""
    figure = Figure(figsize=(6 * len(panels), 4), layout="constrained")
    figure.suptitle(title)
    for axes, (heading, curves) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for name, values in curves.items():
            axes.plot(range(1, len(values) + 1), values, marker="o", markersize=3, label=name)
        axes.set(xlabel="predicted frame", ylabel="PSNR [dB]", title=heading)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend()
    save_figure(figure, path)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG, and the folders that it needs."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
