"""Vector quantisation with a learned codebook compared by direction."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.components.transfer import to_device

# Rate of the running mean of how often each code is used.
USAGE_RATE = 0.05


@dataclass
class Quantized:
    """`output` (..., D) with straight-through gradient, `ids` (...), scalar `loss`."""

    output: Tensor
    ids: Tensor
    loss: Tensor


class VectorQuantizer(nn.Module):
    """Linear D -> codebook_dim, l2-normalise, nearest code by dot product with the codebook as stored, Linear back."""

    def __init__(
        self,
        dim: int,
        codebook_size: int,
        codebook_dim: int,
        commitment_weight: float,
        dead_code_threshold: float,
    ):
        super().__init__()
        self.dead_code_threshold = dead_code_threshold
        self.commitment_weight = commitment_weight
        self.project_in = nn.Linear(dim, codebook_dim)
        self.project_out = nn.Linear(codebook_dim, dim)
        codebook = torch.empty(codebook_size, codebook_dim)
        nn.init.kaiming_uniform_(codebook)
        self.codebook = nn.Parameter(F.normalize(codebook, dim=-1))
        # Absent from the published checkpoints, which revive no codes.
        if dead_code_threshold > 0:
            self.register_buffer("usage", torch.ones(codebook_size))

    @property
    def codebook_size(self) -> int:
        return self.codebook.shape[0]

    @property
    def directions(self) -> Tensor:
        """Vectors (V, codebook_dim) for comparing codes by cosine."""
        return self.codebook

    def _direction(self, x: Tensor) -> Tensor:
        # float32 from here on, also under autocast: the nearest of many codes is decided by small differences.
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

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Quantized:
        """Quantise vectors (..., D). In training, `generator` (on the CPU) draws what dead codes are reset to.

        The loss is mse(codes, sg[x]) + commitment_weight * mse(sg[codes], x) on the normalised vectors.
        """
        direction = self._direction(x)
        ids = self._nearest(direction.detach())
        codes = F.embedding(ids, self.codebook)
        if self.training and self.dead_code_threshold > 0:
            self._revive_dead_codes(direction.detach().flatten(0, -2), ids.flatten(), generator)
        loss = F.mse_loss(codes, direction.detach()) + self.commitment_weight * F.mse_loss(codes.detach(), direction)
        straight_through = direction + (codes - direction).detach()
        return Quantized(self.project_out(straight_through), ids, loss)

    @torch.no_grad()
    def _revive_dead_codes(self, directions: Tensor, ids: Tensor, generator: torch.Generator | None) -> None:
        """Reset codes that are hardly used to vectors (n, codebook_dim) of this batch that their codes (ids) fit badly.

        A code is dead when it is used less than `dead_code_threshold` times the mean, averaged over about the last
        1 / USAGE_RATE steps. Replacements are drawn in proportion to the squared error, as in k-means++, so that rare
        content gets codes of its own.
        """
        usage: Tensor = self.usage  # type: ignore[assignment]
        count = torch.zeros_like(usage).scatter_add_(0, ids, torch.ones_like(ids, dtype=usage.dtype))
        usage.lerp_(count * (self.codebook_size / ids.numel()), USAGE_RATE)
        error = (directions - F.embedding(ids, self.codebook)).square().sum(dim=-1)
        candidates = directions[_draw(error + 1e-12, self.codebook_size, generator)]
        # Every process must reset the same codes to the same vectors.
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.broadcast(candidates, 0)
            torch.distributed.broadcast(usage, 0)
        dead = usage < self.dead_code_threshold
        self.codebook.copy_(torch.where(dead.unsqueeze(-1), candidates, self.codebook))
        usage.copy_(torch.where(dead, 1.0, usage))


def _draw(weights: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    """Indices (count,) of weights (n,), each drawn in proportion to its weight.

    Not multinomial: numbers from the CPU give the same draws on every device, and weights that are not finite pass,
    so that the trainer can say at which step the loss diverged.
    """
    uniform = to_device(torch.rand(count, generator=generator), weights.device)
    limits = weights.cumsum(dim=0)
    return torch.searchsorted(limits, uniform * limits[-1], right=True).clamp(max=len(weights) - 1)


def perplexity(ids: Tensor, codebook_size: int) -> Tensor:
    """Effective number of codes in use: exp of the entropy of the ids' histogram (scalar)."""
    return _effective_number(_histogram(ids, codebook_size))


def used_share(ids: Tensor, codebook_size: int) -> Tensor:
    """Share of the codes that occur in ids at least once (scalar)."""
    return (_histogram(ids, codebook_size) > 0).float().mean()


class CodeAges(nn.Module):
    """For each code, the training batches since it was last used; all 0 at first and after loading."""

    steps: Tensor

    def __init__(self, codebook_size: int):
        super().__init__()
        # No checkpoint holds it: it tells the user something, and nothing that is computed depends on it.
        self.register_buffer("steps", torch.zeros(codebook_size, dtype=torch.int32), persistent=False)

    @torch.no_grad()
    def update(self, ids: Tensor) -> None:
        """Count a batch with these ids (...)."""
        self.steps.add_(1)
        self.steps.index_fill_(0, ids.flatten(), 0)

    def used_share(self, num_steps: int) -> float:
        """Share of the codes that were used in the last `num_steps` batches."""
        return (self.steps < num_steps).float().mean().item()


class CodeShares(nn.Module):
    """How often each code is used, averaged over about the last `num_steps` training batches; equally at first."""

    mean: Tensor

    def __init__(self, codebook_size: int, num_steps: int):
        super().__init__()
        self._rate = 1 / num_steps
        # In no checkpoint, as `CodeAges`.
        self.register_buffer("mean", torch.full((codebook_size,), 1 / codebook_size), persistent=False)

    @torch.no_grad()
    def update(self, ids: Tensor) -> None:
        """Count a batch with these ids (...)."""
        self.mean.lerp_(_histogram(ids, len(self.mean)), self._rate)

    def perplexity(self) -> float:
        """The effective number of codes in use."""
        return _effective_number(self.mean).item()


def _effective_number(share: Tensor) -> Tensor:
    """Of shares (V,): exp of their entropy (scalar)."""
    return torch.exp(-(share * torch.log(share.clamp_min(1e-12))).sum())


def _histogram(ids: Tensor, codebook_size: int) -> Tensor:
    # Not bincount, which waits for the GPU.
    count = torch.zeros(codebook_size, device=ids.device)
    return count.scatter_add_(0, ids.flatten(), torch.ones(ids.numel(), device=ids.device)) / ids.numel()
