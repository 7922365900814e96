"""Small networks that read off frames what the game did, trained once on a dataset's recorded play and kept.

They stand for a person who watches a rollout.
"""

import hashlib
import logging
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from data.data import ClipDataset, ClipSampler
from data_generation.data.files import atomic_path
from training.runtime import Runtime

logger = logging.getLogger(__name__)

_LEARNING_RATE, _WEIGHT_DECAY, _WARM_UP = 4e-3, 1e-2, 0.2
_GROUPS = 8


@dataclass(frozen=True)
class ReaderSettings:
    """`num_steps` of training; the folder that keeps the trained network."""

    num_steps: int
    cache_dpath: Path


class FrameReader(nn.Module, ABC):
    """A network and what it is trained on: `batch_clips` clips of `clip_frames` frames, `clip_step` apart.

    `version` is part of the cache's key: raise it where the network or its training changes.
    """

    title: str
    version: int
    clip_frames: int
    clip_step: int
    batch_clips: int

    @abstractmethod
    def loss(self, clips: ClipDataset, indices: list[int]) -> Tensor:
        """Loss () of the clips `indices`."""

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device


Reader = TypeVar("Reader", bound=FrameReader)


def convolution(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
    """A 3×3 convolution with normalization and activation."""
    return [nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1), nn.GroupNorm(_GROUPS, outputs), nn.SiLU()]


def training_clips(kind: type[FrameReader], evaluated: ClipDataset) -> ClipDataset:
    """The clips that such a network is trained on: of the train split of the evaluated clips' dataset.

    `UserError` where there are none.
    """
    return ClipDataset(evaluated.dataset_dpath, "train", kind.clip_frames, kind.clip_step, on_bad_episode="skip")


def what_is_read(measure: str, evaluated: ClipDataset, indices: np.ndarray) -> str:
    """One line that says of which of the clips `indices` a measure is, if not of all."""
    known = ~held_out(evaluated)[indices]
    if not known.any():
        return ""
    number = f"{(~known).sum()} of {len(known)} clips" if not known.all() else "no clip"
    return f"{measure}: of {number}; the network that reads frames is trained on the train split"


def held_out(evaluated: ClipDataset) -> np.ndarray:
    """Which of the evaluated clips (N,), truth values, are not of the episodes that such a network is trained on."""
    return ~evaluated.in_split("train")


def prepare_reader(
    network: Reader, clips: ClipDataset, targets: str, settings: ReaderSettings, runtime: Runtime
) -> Reader:
    """The network with trained weights, on the device of this run.

    It is trained once: the result is kept under a name that depends on the episodes, the settings and `targets`, which
    says what is read. Call it on every process; the main one trains.
    """
    path = settings.cache_dpath / f"{_key(network.version, settings.num_steps, clips, targets)}.pt"
    if runtime.is_main and not path.is_file():
        logger.info("training the %s for %d steps, once for this dataset", network.title, settings.num_steps)
        trained = train_reader(network, clips, settings.num_steps, runtime.device)
        with atomic_path(path) as temporary:
            torch.save(trained.state_dict(), temporary)
    runtime.wait_for_everyone()
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return network.to(runtime.device).eval().requires_grad_(False)


def train_reader(network: Reader, clips: ClipDataset, num_steps: int, device: torch.device) -> Reader:
    """Train fresh weights on clips, always in the same way."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear | nn.GroupNorm):
                module.reset_parameters()
    network.to(device).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=_LEARNING_RATE, weight_decay=_WEIGHT_DECAY)
    # It divides by zero where the warm-up is exactly one step.
    warm_up = _WARM_UP if num_steps * _WARM_UP != 1 else 1.5 / num_steps
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _LEARNING_RATE, num_steps, pct_start=warm_up)
    sampler = ClipSampler(clips.clips_per_env, min(network.batch_clips, len(clips)), 0, 0, 1, 0)
    step = 0
    with torch.enable_grad():
        while step < num_steps:
            for indices in sampler:
                loss = network.loss(clips, indices)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                step += 1
                if step == num_steps:
                    break
            sampler.set_epoch(sampler.epoch + 1)
    return network.eval()


def _key(version: int, num_steps: int, clips: ClipDataset, targets: str) -> str:
    content = f"{version} {num_steps} {clips.digest()} {targets}"
    return hashlib.blake2b(content.encode(), digest_size=8).hexdigest()
