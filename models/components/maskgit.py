"""MaskGIT: masks for training, iterative decoding for sampling (Chang et al. 2022; arXiv 2409.06445, section 3)."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from data_generation.data.errors import FieldError
from models.components.transfer import to_device


def random_mask(
    shape: tuple[int, ...], min_rate: float, device: torch.device, generator: torch.Generator | None
) -> Tensor:
    """Boolean mask of `shape`, True = masked; one rate for the whole batch, uniform in [min_rate, 1).

    Drawn on the CPU so that a seed gives the same masks on every device.
    """
    rate = torch.rand((), generator=generator) * (1 - min_rate) + min_rate
    mask = torch.rand(shape, generator=generator) < rate
    # A tiny input may draw no mask; there is always something to predict.
    if not mask.any():
        mask.view(-1)[0] = True
    return to_device(mask, device)


def mask_fraction(schedule: str, ratio: float) -> float:
    """Fraction of tokens that stay masked when the share `ratio` of the rounds is done."""
    if schedule == "cosine":
        fraction = math.cos(math.pi / 2 * ratio)
    elif schedule == "uniform":
        fraction = 1 - ratio
    elif re.fullmatch(r"pow(\d+\.?\d*|\.\d+)", schedule, re.ASCII):
        fraction = 1 - ratio ** float(schedule[3:])
    elif schedule == "log":
        fraction = -math.log2(max(ratio, 1e-12)) / math.log2(1e6)
    elif schedule == "exp":
        fraction = 1 - math.exp(math.log(1e6) * (ratio - 1))
    else:
        raise FieldError("mask_schedule", schedule, "is unknown", "use cosine, uniform, pow<number>, log or exp")
    return min(max(fraction, 1e-6), 1.0)


# One generator for the whole batch, or one per sample, so that a sample does not depend on its neighbours.
Generators = torch.Generator | Sequence[torch.Generator] | None


def uniform_noise(shape: torch.Size, device: torch.device, generators: Generators) -> Tensor:
    """Uniform numbers (B, ...) in [0, 1) on `device`."""
    if generators is None:
        return torch.rand(shape, device=device)
    if isinstance(generators, torch.Generator):
        return torch.rand(shape, generator=generators, device=generators.device).to(device)
    rows = [torch.rand(shape[1:], generator=g, device=g.device) for g in generators]
    assert len(rows) == shape[0], f"{len(rows)} generators for {shape[0]} samples"
    return torch.stack(rows).to(device)


def gumbel_sample(logits: Tensor, temperature: float, generators: Generators) -> Tensor:
    """Draw ids (B, ...) from logits (B, ..., V) at a temperature; 0 is the argmax."""
    if temperature <= 0:
        return logits.argmax(dim=-1)
    return gumbel_argmax(logits, temperature, uniform_noise(logits.shape, logits.device, generators))


def gumbel_argmax(logits: Tensor, temperature: float, noise: Tensor) -> Tensor:
    """As `gumbel_sample`, with uniform `noise` (B, ..., V) in [0, 1) given and a temperature above 0."""
    gumbel = -torch.log((-torch.log(noise.clamp_min(1e-20))).clamp_min(1e-20))
    return (logits.float() / temperature + gumbel).argmax(dim=-1)


@dataclass(frozen=True)
class DecodeSettings:
    """How `iterative_decode` samples: rounds, temperature, mask schedule, order of unmasking.

    The temperature falls to 0: of n rounds, the first has (n - 1) / n of it.
    """

    inference_steps: int
    temperature: float
    schedule: str
    order: str = "confidence"


def iterative_decode(
    first_logits: Tensor,
    num_frames: int,
    later_logits: Callable[[Tensor, Tensor], Tensor],
    settings: DecodeSettings,
    generators: Generators,
) -> tuple[Tensor, Tensor]:
    """Decode N = `num_frames` frames in `inference_steps` rounds; a pure function of its arguments.

    Logits at frame t predict frame t + 1, so the first new frame's logits `first_logits` (B, 1, h, w, V) depend on
    known frames only and never change. `later_logits(ids, mask)` maps the first N - 1 new frames' ids (B, N-1, h, w)
    and their mask (True = masked) to the logits (B, N-1, h, w, V) of new frames 1..N-1; it is not called when N = 1,
    where rounds cannot change anything.

    Each round samples every token again, at a temperature that falls linearly to 0 (an argmax) in the last round.
    Before each round but the first, a share of the tokens, which the schedule names, is masked again: those of least
    confidence, or those that come last in an order that is known in advance (`unmask_ranks`).
    Returns ids (B, N, h, w) and the last round's logits (B, N, h, w, V).
    """
    if num_frames == 1:
        return first_logits.argmax(dim=-1), first_logits
    steps = settings.inference_steps
    batch, _, height, width, _ = first_logits.shape
    ids = torch.zeros(batch, num_frames, height, width, dtype=torch.int64, device=first_logits.device)
    mask = torch.ones_like(ids, dtype=torch.bool)
    logits = first_logits
    ranks = unmask_ranks(settings.order, num_frames, height, width)
    if ranks is not None:
        ranks = to_device(ranks, first_logits.device)
    for step in range(steps):
        if step > 0:
            fraction = mask_fraction(settings.schedule, (step + 1) / steps)
            mask = least_confident(logits, ids, fraction) if ranks is None else last_ranked(ranks, fraction, batch)
        logits = torch.cat([first_logits, later_logits(ids[:, :-1], mask[:, :-1])], dim=1)
        ids = gumbel_sample(logits, settings.temperature * (steps - 1 - step) / steps, generators)
    return ids, logits


def least_confident(logits: Tensor, ids: Tensor, fraction: float) -> Tensor:
    """Mask (B, N, h, w) of the `fraction` of tokens whose softmax probability is lowest, at least one."""
    log_probability = logits.float().gather(-1, ids.unsqueeze(-1)).squeeze(-1) - logits.float().logsumexp(dim=-1)
    confidence = log_probability.flatten(1)
    count = max(1, round(fraction * confidence.shape[1]))
    lowest = confidence.topk(count, dim=1, largest=False).indices
    return torch.zeros_like(confidence, dtype=torch.bool).scatter_(1, lowest, True).view(ids.shape)


UNMASK_ORDERS = ("confidence", "halton", "frames")


def unmask_ranks(order: str, num_frames: int, height: int, width: int) -> Tensor | None:
    """When each token (N, h, w) is unmasked, 0 first; None where confidence decides.

    halton: in every frame alike, spread over it as a Halton sequence is (Besnier et al. 2025, arXiv 2503.17076).
    frames: all of a frame before the next one. FieldError for an unknown order.
    """
    if order == "confidence":
        return None
    places = halton_ranks(height, width).view(-1)
    frames = torch.arange(num_frames)
    if order == "halton":
        ranks = places * num_frames + frames[:, None]
    elif order == "frames":
        ranks = places + frames[:, None] * height * width
    else:
        raise FieldError("unmask_order", order, "is unknown", f"use {', '.join(UNMASK_ORDERS)}")
    return ranks.view(num_frames, height, width)


@lru_cache
def halton_ranks(height: int, width: int) -> Tensor:
    """Ranks (h, w) of a grid's places by when the Halton sequence of bases 2 and 3 first falls into them."""
    ranks = torch.full((height, width), -1, dtype=torch.int64)
    found = index = 0
    while found < height * width:
        index += 1
        y, x = int(_radical_inverse(index, 2) * height), int(_radical_inverse(index, 3) * width)
        if ranks[y, x] < 0:
            ranks[y, x] = found
            found += 1
    return ranks


def _radical_inverse(index: int, base: int) -> float:
    """The digits of `index`, mirrored at the point: a number in [0, 1)."""
    value, weight = 0.0, 1.0 / base
    while index:
        index, digit = divmod(index, base)
        value, weight = value + digit * weight, weight / base
    return value


def last_ranked(ranks: Tensor, fraction: float, batch: int) -> Tensor:
    """Mask (B, N, h, w) of the `fraction` of tokens with the highest ranks (N, h, w), at least one."""
    count = max(1, round(fraction * ranks.numel()))
    return (ranks >= ranks.numel() - count).expand(batch, *ranks.shape)


def token_distance(logits: Tensor, targets: Tensor, codebook: Tensor) -> Tensor:
    """Expected cosine distance between the predicted and the target code, per token.

    The distance part of the Token Distance Cross-Entropy: sum_j softmax(logits)_j (1 - cos(code_target, code_j)).
    logits (..., V), targets (...), codebook (V, d) -> (...).
    """
    codes = F.normalize(codebook.float(), dim=-1)
    # sum_j p_j code_j: the same sum without a V x V matrix
    with torch.autocast(logits.device.type, enabled=False):
        expected = torch.softmax(logits.float(), dim=-1) @ codes
    return 1 - (expected * F.embedding(targets, codes)).sum(dim=-1)
