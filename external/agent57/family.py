"""The family of policies: weights β of the intrinsic reward and discounts γ (Agent57, appendix A and figure 5)."""

import math

import numpy as np

from external.agent57.config import FamilyConfig

# Policies from 1 to 6 fall from the largest discount to that of policy 7; the others follow.
_NUM_FAR = 7


def betas(config: FamilyConfig) -> np.ndarray:
    """Weights (N,) float32: 0, then along a sigmoid to `beta`."""
    last = config.num_policies - 1
    inner = [_sigmoid(10 * (2 * i - (last - 1)) / (last - 1)) for i in range(1, last)]
    return np.array([0.0, *(config.beta * share for share in inner), config.beta], np.float32)


def gammas(config: FamilyConfig) -> np.ndarray:
    """Discounts (N,) float32 from `gamma_max` to `gamma_min`.

    1 - γ grows geometrically from policy 8 on; along a sigmoid before, which only families of more than 9 have (in
    smaller ones it grows geometrically throughout, as in NGU, appendix A).
    """
    count, low, mid, high = config.num_policies, config.gamma_min, config.gamma_mid, config.gamma_max
    if count <= _NUM_FAR + 2:
        return _geometric(high, low, count)
    far = [high + (mid - high) * _sigmoid(10 * (2 * i - 6) / 6) for i in range(1, _NUM_FAR)]
    return np.array([high, *far, mid, *_geometric(mid, low, count - _NUM_FAR - 1)], np.float32)


def _geometric(first: float, last: float, count: int) -> np.ndarray:
    return (1 - np.geomspace(1 - first, 1 - last, count)).astype(np.float32)


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))
