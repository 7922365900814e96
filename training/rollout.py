"""Random numbers of training and evaluation, and what evaluation compares a rollout with.

Each clip's numbers depend on the seed and its index alone, so batches and processes do not change a result.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from models.base import Prediction, Rollout
from training.metrics import GroundTruth, changed_pixels

# What a random number is for: keeps streams with the same seed and index apart.
TRAINING, VALIDATION, SAMPLING, RANDOM_ACTIONS = range(4)


def seed_of(seed: int, purpose: int, *position: int) -> int:
    """A 63-bit seed for one purpose and position, unrelated to its neighbours'."""
    return int(np.random.SeedSequence([seed, purpose, *position]).generate_state(1, np.uint64)[0] >> 1)


def clip_generators(seed: int, indices: Sequence[int], device: torch.device) -> list[torch.Generator]:
    """A generator per clip: noise drawn for a batch would make a clip's result depend on its neighbours."""
    return [torch.Generator(device).manual_seed(seed_of(seed, SAMPLING, index)) for index in indices]


def random_actions(actions: Tensor, num_actions: int, rollout: Rollout, seed: int, indices: Sequence[int]) -> Tensor:
    """As `actions` (B, T-1) up to the last prime frame, then drawn uniformly, per clip."""
    drawn = actions.clone()
    for row, index in zip(drawn, indices, strict=True):
        generator = torch.Generator().manual_seed(seed_of(seed, RANDOM_ACTIONS, index))
        row[rollout.num_prime - 1 :] = torch.randint(num_actions, (rollout.num_frames,), generator=generator)
    return drawn


def held_action(actions: Tensor, action: int, rollout: Rollout) -> Tensor:
    """As `actions` (B, T-1) up to the last prime frame, then `action` in every step."""
    held = actions.clone()
    held[:, rollout.num_prime - 1 :] = action
    return held


def copy_last(video: Tensor, prediction: Prediction) -> Tensor:
    """The last frame of the clips (B, T, C, H, W) that the model was given, as often as it predicts frames."""
    return video[:, prediction.num_given - 1, None].expand_as(prediction.target)


def ground_truth(indices: list[int], video: Tensor, prediction: Prediction) -> GroundTruth:
    """What the prediction of the clips (B, T, C, H, W) `indices` is compared with.

    Pixels have changed that differ from the prediction's reference.
    """
    reference = prediction.reference
    if reference is None:
        reference = video[:, max(prediction.num_given - 1, 0), None]
    return GroundTruth(indices, prediction.target, changed_pixels(prediction.target, reference))
