"""Position information: PEG, continuous position bias, causal ALiBi."""

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from models.components.transfer import to_device


class PEG(nn.Module):
    """Position-encoding generator: a causal depthwise 3x3x3 convolution over (t, h, w).

    The 3-D kernel is applied as three depthwise 2-D convolutions, one per time offset, shifted in time and summed:
    the same numbers, without the slow paths that depthwise Conv3d takes on CPU and CUDA alike.
    """

    def __init__(self, dim: int):
        super().__init__()
        reference = nn.Conv3d(dim, dim, 3, groups=dim)  # for its initialisation
        self.weight = nn.Parameter(reference.weight.detach().clone())  # (D, 1, 3, 3, 3)
        self.bias = nn.Parameter(reference.bias.detach().clone())  # type: ignore[union-attr]

    def forward(self, x: Tensor, past: Tensor | None = None) -> Tensor:
        """Convolve frames x (B, T, h, w, D) -> (B, T, h, w, D).

        `past` (B, 2, h, w, D): the two frames before, None = zeros.
        """
        if past is not None:
            x = torch.cat([past.to(x.dtype), x], dim=1)
        if torch.is_autocast_enabled(x.device.type):  # once, not in each of the three convolutions
            x = x.to(torch.get_autocast_dtype(x.device.type))
        if past is not None:
            return self._convolve(x[:, 2:], 2) + self._convolve(x[:, 1:-1], 1) + self._convolve(x[:, :-2], 0)
        newest, middle, oldest = (self._convolve(x, k) for k in (2, 1, 0))
        # functional form of: out[:, 1:] += middle[:, :-1]; out[:, 2:] += oldest[:, :-2]
        middle = F.pad(middle[:, :-1], (0, 0, 0, 0, 0, 0, 1, 0))
        oldest = F.pad(oldest[:, :-2], (0, 0, 0, 0, 0, 0, min(2, x.shape[1]), 0))
        return newest + middle + oldest

    def _convolve(self, x: Tensor, k: int) -> Tensor:
        """Frames (B, T, h, w, D) under the kernel's time offset k; 2 is the newest, with which the bias goes."""
        images = rearrange(x, "b t h w d -> (b t) d h w")  # channels-last in memory: no copy
        bias = self.bias if k == 2 else None
        out = F.conv2d(images, self.weight[:, :, k], bias, padding=1, groups=images.shape[1])
        return rearrange(out, "(b t) d h w -> b t h w d", b=x.shape[0])


class ContinuousPositionBias(nn.Module):
    """Bias of spatial attention from row and column offsets, through an MLP 2 -> d -> d -> heads.

    The MLP runs once for each of the (2h-1)(2w-1) different offsets, not for each of the (hw)^2 pairs.
    """

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(2, dim), nn.Linear(dim, dim), nn.Linear(dim, heads)])

    def forward(self, height: int, width: int) -> Tensor:
        """Bias (heads, hw, hw) for a grid of height x width tokens; entry (i, j) is of query i and key j."""
        device = next(self.parameters()).device
        rows = torch.arange(1 - height, height, device=device)
        columns = torch.arange(1 - width, width, device=device)
        offsets = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).flatten(0, 1).float()
        x = torch.sign(offsets) * torch.log(offsets.abs() + 1)
        for layer in self.layers[:-1]:
            x = F.leaky_relu(layer(x), 0.1)
        table = self.layers[-1](x)  # ((2h-1)(2w-1), heads)
        row, column = torch.arange(height, device=device), torch.arange(width, device=device)
        row_index = row[:, None] - row[None, :] + height - 1
        column_index = column[:, None] - column[None, :] + width - 1
        index = row_index[:, None, :, None] * (2 * width - 1) + column_index[None, :, None, :]  # (h, w, h, w)
        return rearrange(table[index.flatten()], "(i j) heads -> heads i j", i=height * width)


@lru_cache(maxsize=8)
def alibi_slopes(heads: int) -> tuple[float, ...]:
    """Slopes of ALiBi (Press et al. 2022): 2^(-8k/heads) for a power of two, else the usual interpolation."""

    def power_of_two(n: int) -> list[float]:
        return [2.0 ** (-8.0 * k / n) for k in range(1, n + 1)]

    closest = 2 ** math.floor(math.log2(heads))
    slopes = power_of_two(closest)
    if closest < heads:
        slopes += power_of_two(2 * closest)[0::2][: heads - closest]
    return tuple(slopes)


def causal_alibi(heads: int, num_queries: int, num_keys: int, device: torch.device) -> Tensor:
    """Additive mask (heads, num_queries, num_keys) of the last `num_queries` of `num_keys` time steps.

    -slope |i - j| for the past, -inf for the future.
    """
    slopes = to_device(torch.tensor(alibi_slopes(heads)), device)
    query = torch.arange(num_keys - num_queries, num_keys, device=device)
    distance = query[:, None] - torch.arange(num_keys, device=device)[None, :]
    bias = -slopes[:, None, None] * distance.abs()
    return bias.masked_fill(distance < 0, float("-inf"))
