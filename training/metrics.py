"""Image metrics per frame, and their exact average over samples, batches and processes."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from einops import rearrange
from torch import Tensor, distributed
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

PSNR_CAP = 100.0  # dB; what equal frames count as
# Pixels: the window has 11, of which half may lie in the reflection of the frame at its border.
_SSIM_MIN_SIDE = 6
# A pixel has changed where a channel differs by more than 8 of 255: more than lossy recording and rounding do. The half
# keeps float32 from deciding on differences of exactly 8.
CHANGE_THRESHOLD = 8.5 / 255
_CHANGED_SHARE, _CHANGED_MSE = "changed_share", "changed_mse"


def psnr_per_frame(prediction: Tensor, target: Tensor) -> Tensor:
    """PSNR in dB of each frame, (B, T, C, H, W) twice → (B, T) float32.

    Predictions are clamped to [0, 1]; the value is capped at 100 dB, which equal frames get.
    """
    prediction, target = prediction.float().clamp(0, 1), target.float()
    psnr = peak_signal_noise_ratio(prediction, target, data_range=1.0, reduction="none", dim=(2, 3, 4))
    assert isinstance(psnr, Tensor)
    return psnr.clamp(max=PSNR_CAP)


def ssim_per_frame(prediction: Tensor, target: Tensor) -> Tensor:
    """SSIM of each frame (Wang et al. 2004, Gaussian window), (B, T, C, H, W) twice → (B, T) float32.

    In float32 also under autocast: variances as differences of large means are lost in bf16. NaN for frames that are
    too small for the window.
    """
    if min(target.shape[-2:]) < _SSIM_MIN_SIDE:
        return torch.full(target.shape[:2], torch.nan, device=target.device)
    pair = [rearrange(x.float().clamp(0, 1), "b t c h w -> (b t) c h w") for x in (prediction, target)]
    with torch.autocast(target.device.type, enabled=False):
        ssim = structural_similarity_index_measure(pair[0], pair[1], data_range=1.0, reduction="none")
    assert isinstance(ssim, Tensor)
    return rearrange(ssim.reshape(-1), "(b t) -> b t", b=target.shape[0])


def squared_error_per_frame(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of each frame, (B, T, C, H, W) twice → (B, T) float32; predictions are clamped to [0, 1]."""
    return (prediction.float().clamp(0, 1) - target.float()).square().mean(dim=(2, 3, 4))


@dataclass(frozen=True)
class GroundTruth:
    """What predictions of clips are compared with: recorded frames (B, T, C, H, W) of the samples `indices`.

    `changed` (B, T, 1, H, W) bool: where they differ from a frame that was known before.
    """

    indices: list[int]
    frames: Tensor
    changed: Tensor


def changed_pixels(frames: Tensor, reference: Tensor) -> Tensor:
    """Where frames (B, T, C, H, W) differ visibly from the frames `reference` (B, T or 1, C, H, W): (B, T, 1, H, W)."""
    return ((frames - reference).abs() > CHANGE_THRESHOLD).any(dim=2, keepdim=True)


def changed_error_per_frame(prediction: Tensor, truth: GroundTruth) -> Tensor:
    """Mean squared error over the changed pixels of each frame, (B, T) float32; 0 for frames without any."""
    error = (prediction.float().clamp(0, 1) - truth.frames.float()).square().mean(dim=2, keepdim=True)
    count = truth.changed.sum(dim=(2, 3, 4))
    return (error * truth.changed).sum(dim=(2, 3, 4)) / count.clamp_min(1)


class SampleTable:
    """Values per sample, by the sample's index in its dataset.

    Averages over it do not depend on how samples were spread over batches and processes.
    """

    def __init__(self) -> None:
        self._rows: dict[str, dict[int, np.ndarray]] = {}

    def add(self, name: str, indices: list[int], values: Tensor) -> None:
        """Store values (B, ...) of the samples `indices` (length B)."""
        rows = self._rows.setdefault(name, {})
        for index, row in zip(indices, values.detach().cpu().numpy(), strict=True):
            rows[index] = row

    def gather(self) -> dict[str, np.ndarray]:
        """Rows of all processes, (N, ...) per name, in the order of the samples' indices. Call on every process."""
        tables = gather_object([self._rows])
        names = dict.fromkeys(name for table in tables for name in table)
        return {name: _joined([table.get(name, {}) for table in tables]) for name in names}

    def gather_on_main(self) -> dict[str, np.ndarray]:
        """As `gather`, on the main process alone; {} on the others, which take no memory for it."""
        names = dict.fromkeys(name for own in gather_object([list(self._rows)]) for name in own)
        found = {}
        # One after the other: they pass through the GPU.
        for name in names:
            if parts := _sent_to_main(self._rows.get(name, {})):
                found[name] = _joined(parts)
        return found


def _sent_to_main(rows: dict[int, np.ndarray]) -> list[dict[int, np.ndarray]]:
    """Those of all processes on the main one, [] on the others."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return [rows]
    found: list[Any] | None = [None] * distributed.get_world_size() if distributed.get_rank() == 0 else None
    distributed.gather_object(rows, found)
    return found or []


def _joined(parts: list[dict[int, np.ndarray]]) -> np.ndarray:
    rows = {index: row for part in parts for index, row in part.items()}
    return np.stack([rows[i] for i in sorted(rows)])


def add_frame_metrics(table: SampleTable, prefix: str, indices: list[int], frames: Tensor, target: Tensor) -> None:
    """Store PSNR, SSIM and squared error per frame of frames (B, T, C, H, W) under `<prefix>psnr`, …"""
    table.add(f"{prefix}psnr", indices, psnr_per_frame(frames, target))
    table.add(f"{prefix}ssim", indices, ssim_per_frame(frames, target))
    table.add(f"{prefix}mse", indices, squared_error_per_frame(frames, target))


def add_quality(table: SampleTable, prefix: str, frames: Tensor, truth: GroundTruth) -> None:
    """As `add_frame_metrics`, and the squared error of the pixels that change."""
    add_frame_metrics(table, prefix, truth.indices, frames, truth.frames)
    table.add(f"{prefix}{_CHANGED_MSE}", truth.indices, changed_error_per_frame(frames, truth))
    table.add(_CHANGED_SHARE, truth.indices, truth.changed.float().mean(dim=(2, 3, 4)))


def averages(rows: dict[str, np.ndarray]) -> dict[str, float]:
    """Average of each of a table's rows, in float64; of a squared error `<…>mse`, the PSNR of it: `<…>pooled_psnr`.

    The two PSNRs answer different questions: equal frames count 100 dB in the mean of PSNRs, so a still scene
    flatters whatever repeats a frame; the PSNR of the mean error weighs every pixel alike. `<…>changed_pooled_psnr`
    weighs alike every pixel that changes, and no other. Where none changes, it is NaN, as is then the share of them.
    """
    return {_averaged(name): float(_average(rows, name)) for name in rows}


def averages_per_frame(rows: dict[str, np.ndarray]) -> dict[str, list[float]]:
    """As `averages`, for each frame of rows (N, T)."""
    return {_averaged(n): _average(rows, n, axis=0).tolist() for n, values in rows.items() if values.ndim == 2}


def _averaged(name: str) -> str:
    return f"{name.removesuffix('mse')}pooled_psnr" if name.endswith("mse") else name


def _average(rows: dict[str, np.ndarray], name: str, axis: int | None = None) -> np.ndarray:
    average = np.asarray(np.mean(rows[name], axis=axis, dtype=np.float64))
    if name.endswith(_CHANGED_MSE):
        share = rows[_CHANGED_SHARE].astype(np.float64)
        total = (rows[name] * share).sum(axis=axis)
        changed = share.sum(axis=axis)
        average = np.divide(total, changed, out=np.full_like(total, np.nan), where=changed > 0)
    if name == _CHANGED_SHARE and axis is None and average == 0:
        return np.asarray(np.nan)
    if not name.endswith("mse"):
        return average
    return np.asarray(-10 * np.log10(np.maximum(average, 10 ** (-PSNR_CAP / 10))))


def own_indices(indices: np.ndarray, accelerator: Accelerator) -> list[int]:
    """The share of this process: every index is in exactly one share, so nothing counts twice."""
    return [int(i) for i in indices[accelerator.process_index :: accelerator.num_processes]]


def evenly_spaced(size: int, limit: int) -> np.ndarray:
    """At most `limit` indices (0: all), spread over range(size), always the same ones."""
    count = size if limit <= 0 else min(limit, size)
    return np.linspace(0, size, count, endpoint=False).astype(np.int64)
