"""Vector quantisation with a learned codebook compared by direction."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass
class Quantized:
    """`output` (..., D) with straight-through gradient, `ids` (...), scalar `loss`."""

    output: Tensor
    ids: Tensor
    loss: Tensor


class VectorQuantizer(nn.Module):
    """Linear D -> codebook_dim, l2-normalise, nearest code by dot product with the codebook as stored, Linear back."""

    def __init__(self, dim: int, codebook_size: int, codebook_dim: int, commitment_weight: float):
        super().__init__()
        self.commitment_weight = commitment_weight
        self.project_in = nn.Linear(dim, codebook_dim)
        self.project_out = nn.Linear(codebook_dim, dim)
        codebook = torch.empty(codebook_size, codebook_dim)
        nn.init.kaiming_uniform_(codebook)
        self.codebook = nn.Parameter(F.normalize(codebook, dim=-1))

    @property
    def codebook_size(self) -> int:
        return self.codebook.shape[0]

    def _direction(self, x: Tensor) -> Tensor:
        # float32 also under autocast: the nearest code must not depend on the compute precision of 32 channels
        return F.normalize(self.project_in(x).float(), dim=-1)

    def _nearest(self, direction: Tensor) -> Tensor:
        with torch.autocast(direction.device.type, enabled=False):
            return (direction @ self.codebook.float().t()).argmax(dim=-1)

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """Ids (...) of vectors (..., D)."""
        return self._nearest(self._direction(x))

    def decode(self, ids: Tensor) -> Tensor:
        """Vectors (..., D) of ids (...): the stored codes, projected."""
        return self.project_out(F.embedding(ids, self.codebook))

    def forward(self, x: Tensor) -> Quantized:
        """Quantise vectors (..., D); loss = mse(codes, sg[x]) + commitment_weight * mse(sg[codes], x) on the normalised vectors."""
        direction = self._direction(x)
        ids = self._nearest(direction.detach())
        codes = F.embedding(ids, self.codebook)
        loss = F.mse_loss(codes, direction.detach()) + self.commitment_weight * F.mse_loss(codes.detach(), direction)
        straight_through = direction + (codes - direction).detach()
        return Quantized(self.project_out(straight_through), ids, loss)


def perplexity(ids: Tensor, codebook_size: int) -> Tensor:
    """Effective number of codes in use: exp of the entropy of the ids' histogram (scalar)."""
    count = torch.zeros(codebook_size, device=ids.device)  # not bincount, which waits for the GPU
    share = count.scatter_add_(0, ids.flatten(), torch.ones(ids.numel(), device=ids.device)) / ids.numel()
    return torch.exp(-(share * torch.log(share.clamp_min(1e-12))).sum())
