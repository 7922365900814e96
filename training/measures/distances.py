"""Fréchet and kernel distance between predicted and recorded frames, on the features of `lite0.py`.

They are computed like FID and KID but on another network: their values can be compared with each other, never with
published ones.
"""

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from training.measures.lite0 import Lite0
from training.metrics import SampleTable

_PREDICTED, _RECORDED = "lite0_predicted", "lite0_recorded"
# Frames at a time in the kernel distance, as in KID (Bińkowski et al. 2018).
_KERNEL_BLOCK = 1000


def update_distances(
    table: SampleTable, indices: list[int], network: Lite0, predicted: Tensor, recorded: Tensor
) -> None:
    """Store the features (B, N, D) of predicted and of recorded frames (B, N, 3, H, W)."""
    for name, frames in ((_PREDICTED, predicted), (_RECORDED, recorded)):
        features = network(rearrange(frames, "b n c h w -> (b n) c h w"))
        table.add(name, indices, rearrange(features, "(b n) d -> b n d", b=len(indices)))


def compute_distances(rows: dict[str, np.ndarray]) -> dict[str, float]:
    """Take what `update_distances` stored out of `rows`: distances by name, {} for fewer than two frames."""
    if _PREDICTED not in rows:
        return {}
    sets = [torch.from_numpy(rows.pop(name)).flatten(0, 1).double() for name in (_PREDICTED, _RECORDED)]
    if len(sets[0]) < 2:
        return {}
    return {"lite0_frechet": frechet_distance(*sets), "lite0_kernel": kernel_distance(*sets)}


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """|μ1 - μ2|² + tr(Σ1 + Σ2 - 2 (Σ1 Σ2)^½) of two sets of features (N, D) float64 (Heusel et al. 2017, eq. 6).

    With Σ = AᵀA, tr (Σ1 Σ2)^½ is the sum of the singular values of A1 A2ᵀ: exact also with fewer frames than features.
    """
    means = [features.mean(dim=0) for features in (first, second)]
    roots = [
        torch.linalg.qr((features - mean) / (len(features) - 1) ** 0.5, mode="r").R
        for features, mean in zip((first, second), means, strict=True)
    ]
    traces = sum(float(root.square().sum()) for root in roots)
    common = float(torch.linalg.svdvals(roots[0] @ roots[1].T).sum())
    return max(0.0, float((means[0] - means[1]).square().sum()) + traces - 2 * common)


def kernel_distance(first: Tensor, second: Tensor) -> float:
    """Unbiased squared maximum mean discrepancy of two sets of features (N, D), with KID's kernel (x·y / D + 1)³.

    Averaged over blocks of the sets; a little below 0 for sets of one distribution, exactly 0 for equal sets.
    """
    num_blocks = -(-max(len(first), len(second)) // _KERNEL_BLOCK)
    blocks = [(first[i::num_blocks], second[i::num_blocks]) for i in range(num_blocks)]
    return float(np.mean([_discrepancy(x, y) for x, y in blocks if min(len(x), len(y)) > 1]))


def _discrepancy(x: Tensor, y: Tensor) -> float:
    if len(x) == len(y):
        # The unbiased form of pairs: without the terms of a frame and its own prediction.
        sums = _kernel(x, x) + _kernel(y, y) - _kernel(x, y) - _kernel(y, x)
        return float((sums.sum() - sums.diagonal().sum()) / (len(x) * (len(x) - 1)))
    own = sum(float(k.sum() - k.diagonal().sum()) / (len(k) * (len(k) - 1)) for k in (_kernel(x, x), _kernel(y, y)))
    return own - 2 * float(_kernel(x, y).mean())


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3
