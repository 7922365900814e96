"""Frames that a model predicts for recorded clips. Each clip's random numbers depend on the seed and its index alone,
so batches and processes do not change a result."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from models.genie_redux import GenieRedux, SampleSettings
from models.lam import LatentActionModel
from models.tokenizer import Tokenizer

# What a random number is for: keeps streams with the same seed and index apart.
TRAINING, VALIDATION, SAMPLING, RANDOM_ACTIONS = range(4)


@dataclass(frozen=True)
class Rollout:
    """Continue `num_prime` frames by `num_frames`."""

    num_prime: int
    num_frames: int
    settings: SampleSettings
    seed: int

    @property
    def length(self) -> int:
        return self.num_prime + self.num_frames


@dataclass
class Prediction:
    """Predicted frames (B, N, C, H, W), not clamped, and the recorded ones; `num_given` frames came before them."""

    frames: Tensor
    target: Tensor
    num_given: int


def seed_of(seed: int, purpose: int, *position: int) -> int:
    """A 63-bit seed for one purpose and position, unrelated to its neighbours'."""
    return int(np.random.SeedSequence([seed, purpose, *position]).generate_state(1, np.uint64)[0] >> 1)


def predict(model: nn.Module, video: Tensor, actions: Tensor, indices: Sequence[int], rollout: Rollout) -> Prediction:
    """What `model` makes of clips (B, T, C, H, W) with actions (B, T-1): a reconstruction, or a continuation."""
    if isinstance(model, Tokenizer):
        return Prediction(model.reconstruct(video).float(), video, 0)
    if isinstance(model, LatentActionModel):
        return Prediction(model.reconstruct(video).float(), video[:, 1:], 1)
    assert isinstance(model, GenieRedux)
    video, actions = video[:, : rollout.length], actions[:, : rollout.length - 1]
    frames = sample_clips(model, video, rollout_actions(model, video, actions), indices, rollout)
    return Prediction(frames, video[:, rollout.num_prime :], rollout.num_prime)


def rollout_actions(model: GenieRedux, video: Tensor, actions: Tensor) -> Tensor:
    """Action ids (B, T-1) that drive a replication: the recorded ones, or the latent ones seen in the whole clip."""
    return actions if model.lam is None else model.infer_actions(video)


def random_actions(model: GenieRedux, actions: Tensor, indices: Sequence[int], rollout: Rollout) -> Tensor:
    """As `actions` (B, T-1) up to the last prime frame, then drawn uniformly, per clip."""
    drawn = actions.clone()
    for row, index in zip(drawn, indices, strict=True):
        generator = torch.Generator().manual_seed(seed_of(rollout.seed, RANDOM_ACTIONS, index))
        row[rollout.num_prime - 1 :] = torch.randint(model.num_actions, (rollout.num_frames,), generator=generator)
    return drawn


def held_action(actions: Tensor, action: int, rollout: Rollout) -> Tensor:
    """As `actions` (B, T-1) up to the last prime frame, then `action` in every step."""
    held = actions.clone()
    held[:, rollout.num_prime - 1 :] = action
    return held


def sample_clips(model: GenieRedux, video: Tensor, actions: Tensor, indices: Sequence[int], rollout: Rollout) -> Tensor:
    """Frames (B, N, C, H, W) float32 that follow the clips' prime frames under `actions` (B, P-1+N)."""
    # A generator per clip: noise drawn for a batch would make a clip's result depend on its neighbours.
    generators = [torch.Generator(video.device).manual_seed(seed_of(rollout.seed, SAMPLING, i)) for i in indices]
    prime = video[:, : rollout.num_prime]
    return model.sample(prime, actions, rollout.num_frames, rollout.settings, generators).float()
