"""Recorded clips in the order that training and evaluation need."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from data.data import ClipDataset, ClipSampler
from data.loader import Batch, BatchDataset, ClipLoader, iterate_epochs, make_loader
from data_generation.data.errors import under
from training.config import EvalConfig, TrainConfig
from training.runtime import Runtime


@dataclass
class Inputs:
    """What a training loss takes: frames (B, T, C, H, W) float in [0, 1], actions (B, T-1), token ids (B, T, h, w).

    Also a frozen LAM's `transition_errors` (B, T-1, K+1). `ids` and these are None where the model computes them from
    the frames, `video` where they are enough.
    """

    video: Tensor | None
    actions: Tensor
    ids: Tensor | None = None
    transition_errors: Tensor | None = None


class ClipSource(Protocol):
    """A dataset to load, and how to turn a loaded batch into a model's inputs in the main process."""

    @property
    def clips(self) -> BatchDataset: ...

    def inputs(self, batch: Any) -> Inputs: ...


class FrameSource:
    """Frames, which the model itself encodes."""

    def __init__(self, clips: ClipDataset, device: torch.device):
        self.clips: BatchDataset = clips
        self._device = device

    def inputs(self, batch: Batch) -> Inputs:
        """The batch on the device."""
        batch = batch.to(self._device)
        return Inputs(frames_to_float(batch.frames), batch.actions)


class TrainingBatches:
    """Shuffled batches without end.

    `samples`, consumed by all processes since training began, is the state: set it before iterating to resume.
    """

    def __init__(self, source: ClipSource, config: TrainConfig, seed: int, runtime: Runtime):
        self._source, self._config, self._seed, self._runtime = source, config, seed, runtime
        self.per_batch = config.batch_size * runtime.num_processes
        self.samples = 0

    def __iter__(self) -> Iterator[Inputs]:
        """Inputs on the device. `samples` counts what was taken, not what worker processes have read ahead."""
        accelerator = self._runtime.accelerator
        with under("train", on_bad_episode="data.on_bad_episode"):
            loader = make_loader(
                self._source.clips,
                batch_size=self._config.batch_size,
                seed=self._seed,
                n_workers=self._config.n_data_workers,
                worker_seconds=self._config.data_worker_seconds,
                rank=accelerator.process_index,
                world_size=accelerator.num_processes,
                start_sample=self.samples,
                pin_memory=self._runtime.device.type == "cuda",
            )
            sampler = loader.batch_sampler
            assert isinstance(sampler, ClipSampler)
            for batch in iterate_epochs(loader):
                self.samples = sampler.samples_after(self.samples)
                yield self._source.inputs(batch)


@dataclass
class Clips:
    """Clips of known places in their dataset: frames (B, T, C, H, W) float in [0, 1], actions (B, T-1)."""

    indices: list[int]
    video: Tensor
    actions: Tensor


def read_clips(
    dataset: ClipDataset, indices: list[int], config: TrainConfig | EvalConfig, device: torch.device
) -> Iterator[Clips]:
    """The dataset's clips `indices` in this order, in batches, loaded as the config says."""
    for chunk, batch in _read(dataset, indices, config):
        batch = batch.to(device)
        yield Clips(chunk, frames_to_float(batch.frames), batch.actions)


def read_inputs(
    source: ClipSource, indices: list[int], config: TrainConfig | EvalConfig
) -> Iterator[tuple[list[int], Inputs]]:
    """As `read_clips`, for a loss: the clips' indices and the inputs made of them."""
    for chunk, batch in _read(source.clips, indices, config):
        yield chunk, source.inputs(batch)


def _read(clips: BatchDataset, indices: list[int], config: TrainConfig | EvalConfig) -> Iterator[tuple[list[int], Any]]:
    batches = [indices[start : start + config.batch_size] for start in range(0, len(indices), config.batch_size)]
    section = "train" if isinstance(config, TrainConfig) else "eval"
    with under(section, on_bad_episode="data.on_bad_episode"):
        loader = ClipLoader(clips, batches, config.n_data_workers, config.data_worker_seconds)
        yield from zip(batches, loader, strict=True)


def frames_to_float(frames: Tensor) -> Tensor:
    """Frames as stored, uint8 0..255 → float32 in [0, 1], as models take them."""
    return frames.to(torch.float32) / 255
