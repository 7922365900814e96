"""Finite scalar quantisation (Mentzer et al. 2023): a fixed grid in place of a learned codebook."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data_generation.data.errors import FieldError
from models.components.vector_quantize import Quantized


class FiniteScalarQuantizer(nn.Module):
    """Linear D -> d channels, squash, round channel i to one of `levels[i]` values, Linear back.

    Offers what `VectorQuantizer` offers. There is no codebook to learn and hence no loss for it: codes cannot die.
    Levels are evenly spaced in [-1, 1], ends included, symmetric for even numbers too (the paper shifts those by half
    a level to have zero among them).
    """

    codebook: Tensor
    _half: Tensor
    _basis: Tensor

    def __init__(self, dim: int, levels: Sequence[int]):
        super().__init__()
        if not levels or min(levels) < 2:
            raise FieldError("fsq_levels", list(levels), "each channel needs 2 or more levels", "as in [8,5,5,5]")
        self.project_in = nn.Linear(dim, len(levels))
        self.project_out = nn.Linear(len(levels), dim)
        sizes = torch.tensor(list(levels))
        # The first channel counts fastest.
        basis = torch.cat([sizes.new_ones(1), sizes[:-1]]).cumprod(0)
        digits = torch.arange(math.prod(levels)).unsqueeze(-1) // basis % sizes
        half = (sizes - 1) / 2
        # Follow from the levels, so no checkpoint holds them.
        self.register_buffer("_half", half, persistent=False)
        self.register_buffer("_basis", basis, persistent=False)
        self.register_buffer("codebook", digits / half - 1, persistent=False)

    @property
    def codebook_size(self) -> int:
        return self.codebook.shape[0]

    @property
    def directions(self) -> Tensor:
        """Unit vectors (V, 2d) for comparing codes by cosine: each channel is an angle of a half circle.

        1 - cos is the channels' mean of 1 - cos(pi/2 * difference). The codes themselves would not do: the code of
        zeros has no direction, and (1, 1) and (0.5, 0.5) have the same.
        """
        angle = self.codebook * (math.pi / 2)
        return torch.cat([angle.cos(), angle.sin()], dim=-1) / math.sqrt(self.codebook.shape[-1])

    def _bounded(self, x: Tensor) -> Tensor:
        """Channels (..., d) in [-1, 1] of vectors (..., D)."""
        # float32 from here on, also under autocast: rounding decides the ids.
        return torch.tanh(self.project_in(x).float())

    def _digits(self, bounded: Tensor) -> Tensor:
        return torch.round((bounded + 1) * self._half)

    def _ids(self, digits: Tensor) -> Tensor:
        return (digits.long() * self._basis).sum(dim=-1)

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """Ids (...) of vectors (..., D)."""
        return self._ids(self._digits(self._bounded(x)))

    def decode(self, ids: Tensor) -> Tensor:
        """Vectors (..., D) of ids (...): the codes, projected."""
        return self.project_out(F.embedding(ids, self.codebook))

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Quantized:
        """Quantise vectors (..., D) with a straight-through gradient; the loss is zero and nothing is drawn."""
        bounded = self._bounded(x)
        digits = self._digits(bounded.detach())
        straight_through = bounded + (digits / self._half - 1 - bounded).detach()
        return Quantized(self.project_out(straight_through), self._ids(digits), bounded.new_zeros(()))
