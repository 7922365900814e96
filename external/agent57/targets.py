"""Targets of the value networks: Retrace under a transformed Bellman operator.

Functions that name no shapes are elementwise.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

_EPSILON = 1e-3


def signed_hyperbolic(x: Tensor) -> Tensor:
    """h(x) = sign(x)(√(|x| + 1) − 1) + εx, which squashes large values (Pohlen et al. 2018)."""
    return x.sign() * ((x.abs() + 1).sqrt() - 1) + _EPSILON * x


def signed_parabolic(x: Tensor) -> Tensor:
    """h⁻¹(x), in a form that float32 bears: the textbook's subtracts nearly equal numbers."""
    magnitude = x.abs()
    # Solves |x| = s − 1 + ε(s² − 1) for s = √(h⁻¹ + 1): s − 1 = 2|x| / (1 + 2ε + √(…)).
    root = (1 + 4 * _EPSILON * (magnitude + 1 + _EPSILON)).sqrt()
    s = 1 + 2 * magnitude / (1 + 2 * _EPSILON + root)
    return x.sign() * (s.square() - 1)


def combine(ext: Tensor, int_: Tensor, beta: Tensor) -> Tensor:
    """Squashed values of both rewards together: h(h⁻¹(ext) + β h⁻¹(int)) (Agent57, equation 3)."""
    return signed_hyperbolic(signed_parabolic(ext) + beta * signed_parabolic(int_))


@dataclass
class RecordedSteps:
    """What was played, each field (B, T).

    `discounts`: γ, or 0 where the episode ended for good; `traces`: λ min(1, π(a)/μ(a)) of the actions that were taken;
    `valid`: False in padding, which follows a row's last step.
    """

    rewards: Tensor
    discounts: Tensor
    traces: Tensor
    valid: Tensor


def retrace(steps: RecordedSteps, taken: Tensor, following: Tensor) -> Tensor:
    """Targets (B, T), squashed, for the values of the actions that were taken (Munos et al. 2016; NGU, appendix C).

    taken (B, T): squashed values Q(x_t, a_t); following (B, T): expected plain values Σ_a π(a|x) h⁻¹(Q(x, a)) of the
    frame x after each step. Both are the target networks'.
    """
    plain = signed_parabolic(taken)
    errors = steps.valid * (steps.rewards + steps.discounts * following - plain)
    correction = torch.zeros_like(errors[:, 0])
    corrections = []
    traces = torch.cat([steps.traces[:, 1:], torch.zeros_like(steps.traces[:, :1])], dim=1)
    for t in reversed(range(errors.shape[1])):
        correction = errors[:, t] + steps.discounts[:, t] * traces[:, t] * correction
        corrections.append(correction)
    return signed_hyperbolic(plain + torch.stack(corrections[::-1], dim=1))


def almost_best(values: Tensor, actions: Tensor, tolerance: float) -> Tensor:
    """Whether actions (B, T) have values that are lower than the best ones by no more than a share; values (B, T, A).

    Where several actions are worth the same, each update makes another one the greedy one. If traces are not cut by
    that, Retrace of the greedy policy becomes soft Watkins Q(λ) (Kapturowski et al. 2023, arXiv 2209.07550).
    """
    best = values.amax(dim=-1)
    return value_of(values, actions) >= best - tolerance * best.abs()


def value_of(values: Tensor, actions: Tensor) -> Tensor:
    """Values (B, T) of actions (B, T), from (B, T, A)."""
    return values.gather(-1, actions.unsqueeze(-1)).squeeze(-1)


def priorities(errors: Tensor, valid: Tensor, max_share: float) -> Tensor:
    """Priorities (B,) of sequences from absolute errors (B, T): η max + (1 − η) mean (R2D2, section 2.3)."""
    errors = errors * valid
    mean = errors.sum(dim=1) / valid.sum(dim=1)
    return max_share * errors.amax(dim=1) + (1 - max_share) * mean
