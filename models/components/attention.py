"""Cosine-similarity attention of the ST-transformer."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.config import TransformerConfig

SCALE = 8.0  # of the cosine similarities


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """Softmax attention over (..., heads, n, d) with an additive bias (heads, n, m).

    The one place that chooses the kernel: on CPU in bf16, plain products are faster than the fused kernel;
    everywhere else it is SDPA.
    """
    if q.device.type == "cpu" and q.dtype == torch.bfloat16:
        scores = (q @ k.transpose(-2, -1)).float() * SCALE + bias
        return scores.softmax(dim=-1).to(v.dtype) @ v
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype), scale=SCALE)


class Attention(nn.Module):
    """Multi-head attention with l2-normalised, per-channel scaled queries and keys.

    Keys and values come from the input before the norm (as in the published models) unless `normalize_kv`.
    """

    def __init__(self, config: TransformerConfig, dim: int):
        super().__init__()
        inner = config.heads * config.dim_head
        self.heads = config.heads
        self.normalize_kv = config.normalize_kv
        self.norm = nn.LayerNorm(dim, bias=False)
        self.to_q = nn.Linear(dim, inner, bias=False)
        self.to_kv = nn.Linear(dim, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, dim, bias=False)
        self.q_scale = nn.Parameter(torch.ones(config.dim_head))
        self.k_scale = nn.Parameter(torch.ones(config.dim_head))

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (..., n, heads, dim_head) of tokens (..., n, D)."""
        normed = self.norm(x)
        q = self.to_q(normed)
        k, v = self.to_kv(normed if self.normalize_kv else x).chunk(2, dim=-1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)) for part in (q, k, v))
        q = (F.normalize(q, dim=-1) * self.q_scale).to(v.dtype)
        k = (F.normalize(k, dim=-1) * self.k_scale).to(v.dtype)
        return q, k, v
