"""Strips, animations and plots to look at. Everything is written whole or not at all."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import torch
from einops import rearrange
from matplotlib.figure import Figure  # not pyplot, which keeps figures in a global list and may open a display
from matplotlib.ticker import MaxNLocator
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from data_generation.data.files import write_atomically
from training.metrics import SampleTable

SCALE = 4  # frames are small; enlarged by whole pixels
GIF_FPS = 8
_BACKGROUND = (24, 24, 28)
_TEXT = (235, 235, 235)
_GIVEN = (90, 170, 255)  # border of frames that the model was given
_GAP = 4
RECORDED, PREDICTED = "pictures_recorded", "pictures_predicted"  # names in a SampleTable


@dataclass
class Row:
    """Frames (T, H, W, C) uint8 under a label; the first `num_given` are marked as given to the model."""

    label: str
    frames: np.ndarray
    num_given: int = 0


def to_pixels(video: Tensor) -> np.ndarray:
    """Frames (T, C, H, W) float → (T, H, W, C) uint8; values outside [0, 1] are clamped."""
    pixels = (video.detach().float().clamp(0, 1) * 255).round().byte().cpu().numpy()
    return rearrange(pixels, "t c h w -> t h w c")


def keep_pictures(
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
                table.add(name, [index], torch.from_numpy(to_pixels(frames))[None])


def strip(rows: Sequence[Row], scale: int = SCALE) -> np.ndarray:
    """Rows of frames below each other, time to the right, labels above each row: (H, W, 3) uint8."""
    parts = [_labelled(row.label, _film(row, scale)) for row in rows]
    return _stack(parts)


def stack_strips(strips: Sequence[np.ndarray]) -> np.ndarray:
    """Several strips below each other on one sheet."""
    space = np.full((3 * _GAP, 1, 3), _BACKGROUND, np.uint8)
    return _stack([part for item in strips for part in (item, space)][:-1])


def animation(columns: Sequence[Row], scale: int = SCALE) -> np.ndarray:
    """Rows' frames beside each other, one picture per time step: (T, H, W, 3) uint8."""
    length = min(len(column.frames) for column in columns)
    pictures = []
    for t in range(length):
        parts = [_labelled(column.label, _tile(column.frames[t], t < column.num_given, scale)) for column in columns]
        pictures.append(_beside(parts))
    return np.stack(pictures)


def stack_animations(animations: Sequence[np.ndarray]) -> np.ndarray:
    """Animations of the same length and size below each other."""
    return np.concatenate(list(animations), axis=1)


def save_png(picture: np.ndarray, path: Path) -> None:
    """Write a picture (H, W, 3) uint8."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, iio.imwrite("<bytes>", picture, extension=".png"))


def save_gif(pictures: np.ndarray, path: Path, fps: float = GIF_FPS) -> None:
    """Write pictures (T, H, W, 3) uint8 as an endless animation."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = iio.imwrite("<bytes>", pictures, extension=".gif", duration=1000 / fps, loop=0)
    write_atomically(path, data)


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
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, buffer.getvalue())


def _tile(frame: np.ndarray, given: bool, scale: int) -> np.ndarray:
    """One enlarged frame with a border of `_GAP` pixels, coloured if the frame was given."""
    enlarged = np.repeat(np.repeat(frame, scale, axis=0), scale, axis=1)
    if enlarged.shape[-1] == 1:
        enlarged = np.repeat(enlarged, 3, axis=-1)
    height, width, _ = enlarged.shape
    tile = np.full((height + 2 * _GAP, width + 2 * _GAP, 3), _GIVEN if given else _BACKGROUND, np.uint8)
    tile[_GAP:-_GAP, _GAP:-_GAP] = enlarged
    return tile


def _film(row: Row, scale: int) -> np.ndarray:
    return _beside([_tile(frame, t < row.num_given, scale) for t, frame in enumerate(row.frames)])


def _labelled(label: str, picture: np.ndarray) -> np.ndarray:
    """A picture below a line of text; the text decides the width where it is wider."""
    font = ImageFont.load_default(size=16)
    width = max(picture.shape[1], int(font.getlength(label)) + 2 * _GAP)
    head = Image.new("RGB", (width, 24), _BACKGROUND)
    ImageDraw.Draw(head).text((_GAP, 3), label, fill=_TEXT, font=font)
    return _stack([np.asarray(head), picture])


def _stack(parts: Sequence[np.ndarray]) -> np.ndarray:
    width = max(part.shape[1] for part in parts)
    return np.concatenate([_pad(part, part.shape[0], width) for part in parts], axis=0)


def _beside(parts: Sequence[np.ndarray]) -> np.ndarray:
    height = max(part.shape[0] for part in parts)
    return np.concatenate([_pad(part, height, part.shape[1]) for part in parts], axis=1)


def _pad(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    padded = np.full((height, width, 3), _BACKGROUND, np.uint8)
    padded[: picture.shape[0], : picture.shape[1]] = picture
    return padded
