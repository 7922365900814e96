"""What the history of a training clip looks like: which tokens are masked or wrong, and which the loss is computed on.

The published models mask all frames of a batch at one rate. Play conditions on a complete history with some wrong
tokens; `HistoryConfig` can train on that as well.
"""

import torch
from torch import Tensor

from data_generation.data.errors import FieldError
from models.components.maskgit import random_mask
from models.components.processes import BatchShare
from models.components.transfer import to_device
from models.config import HistoryConfig


def check_history(config: HistoryConfig, num_frames: int) -> None:
    """FieldError for shares of more than all training clips, or if no token of clips of `num_frames` is a target."""
    if config.complete + config.prefix > 1 + 1e-9:
        problem = f"with {{prefix}}={config.prefix:g} these are more than all training clips"
        remedy = (
            f"both are shares of them: set {{prefix}}={1 - config.complete:g} or {{complete}}={1 - config.prefix:g}"
        )
        raise FieldError("complete", config.complete, problem, remedy)
    # With one input frame, a prefix is the whole of it.
    without_mask = config.complete + (config.prefix if num_frames <= 2 else 0)
    if config.loss_at == "masked" and without_mask > 1 - 1e-9:
        problem = "no training clip has masked tokens, so there is nothing to learn"
        raise FieldError("loss_at", config.loss_at, problem, "set {loss_at}=all, or lower {complete} or {prefix}")


def history_mask(
    shape: tuple[int, ...],
    config: HistoryConfig,
    min_rate: float,
    device: torch.device,
    generator: torch.Generator | None,
) -> Tensor:
    """Boolean mask (B, T, h, w) of a batch of training clips, True = masked.

    A share `complete` of the clips has no mask. A share `prefix` has 1 to T-1 complete frames, then tokens that are
    masked at a rate in [prefix_min_mask_rate, 1). The others are masked throughout, at a rate in [min_rate, 1). With
    neither share, one rate holds for the whole batch, as published. Drawn on the CPU: a seed gives the same masks on
    every device.
    """
    if config.complete + config.prefix == 0:
        return random_mask(shape, min_rate, device, generator)
    batch, num_frames = shape[:2]
    kind, rate, start = torch.rand(3, batch, generator=generator)
    is_prefix = (kind >= config.complete) & (kind < config.complete + config.prefix)
    least = torch.where(is_prefix, config.prefix_min_mask_rate, min_rate)
    rate = torch.where(kind < config.complete, 0.0, least + (1 - least) * rate)
    num_complete = torch.where(is_prefix, 1 + (start * max(1, num_frames - 1)).long(), 0)
    masked_frames = torch.arange(num_frames) >= num_complete[:, None]
    mask = torch.rand(shape, generator=generator) < (rate[:, None] * masked_frames)[:, :, None, None]
    return to_device(mask, device)


def corrupt(
    ids: Tensor,
    rate: float,
    codebook_size: int,
    generator: torch.Generator | None,
    share: BatchShare | None = None,
) -> Tensor:
    """Token ids (B, T, h, w) of which some are replaced by random ones, more of them later in a clip.

    The share of a clip's last frame is uniform in [0, rate] and falls linearly to 0 before its first frame, as errors
    grow along a rollout (compare GameNGen, arXiv 2408.14837, section 3.2.1). `share`: which clips of a batch over all
    processes these are; None = all of it.
    """
    if rate == 0:
        return ids
    share = share or BatchShare.whole(len(ids))
    shape = (share.total, *ids.shape[1:])
    growth = torch.linspace(0, 1, shape[1] + 1)[1:]
    rates = rate * torch.rand(share.total, 1, generator=generator) * growth
    replaced = share.own(torch.rand(shape, generator=generator) < rates[:, :, None, None])
    random = share.own(torch.randint(codebook_size, shape, generator=generator))
    return torch.where(to_device(replaced, ids.device), to_device(random, ids.device), ids)


def loss_weights(
    mask: Tensor, inputs: Tensor, targets: Tensor, config: HistoryConfig, share: BatchShare | None = None
) -> Tensor:
    """Weights (B, T, h, w) of the tokens' losses; their sum is 1, its mean over the processes with a `share`.

    Less than 1 where the weights add up to less, 0 where no place counts.

    Masked places count, or all (`loss_at`); tokens that differ from the frame before count `changed_weight` times.
    """
    weights = _targets(mask, config)
    if config.changed_weight != 1:
        weights = torch.where(inputs == targets, weights, weights * config.changed_weight)
    return _shares(weights, share)


def target_shares(mask: Tensor, config: HistoryConfig, share: BatchShare | None = None) -> Tensor:
    """As `loss_weights`, with every token that counts alike."""
    return _shares(_targets(mask, config), share)


def _targets(mask: Tensor, config: HistoryConfig) -> Tensor:
    return mask.float() if config.loss_at == "masked" else torch.ones_like(mask, dtype=torch.float32)


def _shares(weights: Tensor, share: BatchShare | None) -> Tensor:
    total = weights.sum()
    return weights / (total if share is None else share.mean(total)).clamp_min(1)
