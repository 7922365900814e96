"""Cosine-similarity attention of the ST-transformer."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.config import TransformerConfig

SCALE = 8.0  # of the cosine similarities


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """Softmax attention over (..., heads, n, d) with an additive bias (heads, n, m).

    The one place that chooses the kernel: on CPU plain products are faster than the fused kernel, at these lengths and
    above all in bf16 (docs/results/benchmarks.md); everywhere else it is SDPA.
    """
    if q.device.type == "cpu":
        return _PlainAttention.apply(q, k, v, bias)
    return fused_attention(q, k, v, bias)


def fused_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """As `attend`, by SDPA. Its fused kernels take four axes: with five it would store all scores instead."""
    joined = [part.flatten(0, -4) for part in (q, k, v)]
    out = F.scaled_dot_product_attention(joined[0], joined[1], joined[2], attn_mask=bias.to(q.dtype), scale=SCALE)
    return out.unflatten(0, q.shape[:-3])


class _PlainAttention(torch.autograd.Function):
    """softmax(q k^T * SCALE + bias) v, with its inputs and the probabilities in their precision kept for backward.

    Autograd would keep the probabilities in float32 too, and contiguous copies of q, k and v.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        scores = (q * SCALE) @ k.transpose(-2, -1) + bias.float()  # a power of two rounds nothing; sum in float32
        probabilities = scores.softmax(dim=-1).to(v.dtype)
        ctx.save_for_backward(q, k, v, probabilities)
        return probabilities @ v

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        q, k, v, probabilities = ctx.saved_tensors
        of_v = probabilities.transpose(-2, -1) @ gradients[0]
        of_probabilities = gradients[0] @ v.transpose(-2, -1)
        of_scores = torch._softmax_backward_data(of_probabilities, probabilities, -1, q.dtype)
        needs_bias = ctx.needs_input_grad[3]
        of_bias = of_scores.flatten(0, -4).sum(dim=0, dtype=torch.float32) if needs_bias else None
        of_q = (of_scores @ k).mul_(SCALE)
        return of_q, of_scores.transpose(-2, -1) @ (q * SCALE), of_v, of_bias


class _UnitVectors(torch.autograd.Function):
    """x / |x| * scale along the last axis, in float32, with x alone kept for the backward pass.

    What autograd makes of `F.normalize` keeps four float32 tensors of x's size and passes over them eight times.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor) -> Tensor:
        wide = x.float()
        inverse = wide.norm(dim=-1, keepdim=True).clamp_min(1e-12).reciprocal_()
        ctx.save_for_backward(x, scale, inverse)
        return (wide * inverse).mul_(scale).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        x, scale, inverse = ctx.saved_tensors
        unit = x.float() * inverse
        along = gradients[0].float() * unit
        of_scale = along.flatten(0, -2).sum(dim=0)
        projection = along.mul_(scale).sum(dim=-1, keepdim=True)
        of_x = (gradients[0] * scale).sub_(unit.mul_(projection)).mul_(inverse)
        return of_x.to(x.dtype), of_scale


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
        return _UnitVectors.apply(q, self.q_scale), _UnitVectors.apply(k, self.k_scale), v
