"""Targets of the critic and advantages of the actor."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Targets:
    """Value targets, advantages, and the clipped importance weights ρ of the policy gradient, (B, T) each."""

    values: Tensor
    advantages: Tensor
    weights: Tensor


@dataclass
class Trajectories:
    """Recorded steps, each field (B, T).

    `discounts`: γ, or 0 where the episode ended for good; `log_ratios`: log π(a)/μ(a) of the recorded actions;
    `valid`: False in padding, which follows a row's last step.
    """

    rewards: Tensor
    discounts: Tensor
    log_ratios: Tensor
    valid: Tensor


def vtrace(steps: Trajectories, values: Tensor, lambda_: float, clip: float = 1.0) -> Targets:
    """V-trace targets (Espeholt et al. 2018, equation 1, with the λ of their appendix C.1).

    values (B, T + 1): those of the frames before each step and after the last one, which bootstrap; a row whose steps
    end earlier bootstraps from the frame after its last valid step. On-policy (log_ratios 0) the value targets are the
    λ-returns G_t = r_t + γ_t ((1 - λ) V_{t+1} + λ G_{t+1}).
    """
    rewards, discounts = steps.rewards, steps.discounts
    ratios = steps.log_ratios.exp().clamp(max=clip)
    deltas = steps.valid * ratios * (rewards + discounts * values[:, 1:] - values[:, :-1])
    correction = torch.zeros_like(values[:, 0])
    corrections = []
    for t in reversed(range(rewards.shape[1])):
        correction = deltas[:, t] + discounts[:, t] * lambda_ * ratios[:, t] * correction
        corrections.append(correction)
    targets = values[:, :-1] + torch.stack(corrections[::-1], dim=1)
    next_targets = torch.cat([targets[:, 1:], values[:, -1:]], dim=1)
    # The bootstrapped part of a λ-return: with λ = 1 the next target alone.
    following = lambda_ * next_targets + (1 - lambda_) * values[:, 1:]
    return Targets(targets, rewards + discounts * following - values[:, :-1], ratios)
