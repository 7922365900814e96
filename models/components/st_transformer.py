"""Space-time transformer (ST-transformer; arXiv 2409.06445, section 3)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from data_generation.data.errors import FieldError
from models.components.attention import Attention, attend
from models.components.position import PEG, causal_alibi
from models.components.recompute import CHECKPOINTING, recompute
from models.config import TransformerConfig


class _GatedContraction(torch.autograd.Function):
    """(value * GELU(gate)) W^T of values and gates (..., n) and W (D, n), which alone are kept for the backward pass.

    Autograd would keep GELU(gate) and the product as well: half as much again.
    """

    @staticmethod
    def forward(ctx: Any, value: Tensor, gate: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(value, gate, weight)
        return F.linear(F.gelu(gate).mul_(value), weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        value, gate, weight = ctx.saved_tensors
        active = F.gelu(gate)
        of_weight = gradients[0].flatten(0, -2).t() @ (value * active).flatten(0, -2)
        of_product = gradients[0] @ weight
        of_value = active.mul_(of_product)
        return of_value, torch.ops.aten.gelu_backward(of_product.mul_(value), gate), of_weight


class FeedForward(nn.Module):
    """LayerNorm, then GEGLU: first half x GELU(second half)."""

    def __init__(self, dim: int, mult: float):
        super().__init__()
        inner = int(mult * (2 / 3) * dim)
        self.norm = nn.LayerNorm(dim)
        self.expand = nn.Linear(dim, 2 * inner, bias=False)
        self.contract = nn.Linear(inner, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        if x.device.type == "cpu":  # GELU takes a third of the time where gates lie together in memory
            value, gate = (F.linear(x, half) for half in self.expand.weight.chunk(2))
        else:
            value, gate = self.expand(x).chunk(2, dim=-1)
        return _GatedContraction.apply(value, gate, self.contract.weight.to(value.dtype))


@dataclass
class LayerCache:
    """The KV cache of one layer: what later frames need of the frames before.

    The PEG's last two inputs (B, 2, h, w, D) and, for temporal attention, keys and values (B, hw, heads, t, dim_head).
    """

    peg: Tensor
    keys: Tensor | None = None
    values: Tensor | None = None

    def newest(self, num_frames: int) -> "LayerCache":
        """The same with the keys and values of the newest frames alone."""
        if self.keys is None or self.values is None:
            return self
        first = max(0, self.keys.shape[-2] - num_frames)
        return LayerCache(self.peg, self.keys[..., first:, :], self.values[..., first:, :])


@dataclass
class Cache:
    """The KV cache of an ST-transformer after `num_frames` frames. A value: extending it returns a new one."""

    num_frames: int = 0
    layers: list[LayerCache] = field(default_factory=list)

    def newest(self, num_frames: int) -> "Cache":
        """What later frames need if they see this many frames before them."""
        return Cache(min(self.num_frames, num_frames), [layer.newest(num_frames) for layer in self.layers])


class Layer(nn.Module):
    """PEG, attention and feed-forward, each a residual update."""

    def __init__(self, config: TransformerConfig, dim: int):
        super().__init__()
        self.peg = PEG(dim)
        self.attention = Attention(config, dim)
        self.feed_forward = FeedForward(dim, config.ff_mult)


class SpatialLayer(Layer):
    """Attention among the tokens of one frame, with a position bias."""

    def forward(self, x: Tensor, bias: Tensor, past: LayerCache | None = None) -> tuple[Tensor, LayerCache]:
        """Update x (B, T, h, w, D) with bias (heads, hw, hw)."""
        cache = LayerCache(_last_two(x, past))
        x = x + self.peg(x, past.peg if past else None)
        q, k, v = (rearrange(part, "b t h w n d -> b t n (h w) d") for part in self.attention.project(x))
        out = rearrange(attend(q, k, v, bias), "b t n (h w) d -> b t h w (n d)", h=x.shape[2])
        x = x + self.attention.to_out(out)
        return x + self.feed_forward(x), cache


class TemporalLayer(Layer):
    """Causal attention of one position over frames, with ALiBi."""

    def forward(self, x: Tensor, bias: Tensor, past: LayerCache | None = None) -> tuple[Tensor, LayerCache]:
        """Update x (B, T, h, w, D) with bias (heads, T, past + T)."""
        peg = _last_two(x, past)
        x = x + self.peg(x, past.peg if past else None)
        q, k, v = (rearrange(part, "b t h w n d -> b (h w) n t d") for part in self.attention.project(x))
        if past is not None:
            k, v = torch.cat([past.keys, k], dim=-2), torch.cat([past.values, v], dim=-2)  # type: ignore[list-item]
        out = rearrange(attend(q, k, v, bias), "b (h w) n t d -> b t h w (n d)", h=x.shape[2])
        x = x + self.attention.to_out(out)
        return x + self.feed_forward(x), LayerCache(peg, k, v)


def _last_two(x: Tensor, past: LayerCache | None) -> Tensor:
    """The two newest frames (B, 2, h, w, D), zeros where there are none."""
    if x.shape[1] >= 2:
        return x[:, -2:]
    before = past.peg[:, -1:] if past else torch.zeros_like(x)
    return torch.cat([before, x], dim=1)


class STTransformer(nn.Module):
    """Blocks of a spatial and a temporal layer, and a final LayerNorm.

    `order` "st" runs space first (encoders, dynamics), "ts" time first (decoders). `dim` is the width where it is
    not the config's. Every so many blocks, `temporal_every`, one has its temporal layer, and the last one always.
    """

    def __init__(self, config: TransformerConfig, order: str, dim: int | None = None, temporal_every: int = 1):
        super().__init__()
        if order not in ("st", "ts"):
            raise ValueError(f"order must be 'st' or 'ts', got '{order}'")
        dim = config.dim if dim is None else dim
        self.heads = config.heads
        self.gradient_checkpointing = config.gradient_checkpointing
        if self.gradient_checkpointing not in CHECKPOINTING:
            raise FieldError(
                "gradient_checkpointing", config.gradient_checkpointing, "is unknown", f"use {', '.join(CHECKPOINTING)}"
            )
        both = [SpatialLayer if letter == "s" else TemporalLayer for letter in order]
        kinds: list[type[Layer]] = []
        for block in range(1, config.num_blocks + 1):
            kinds += both if block % temporal_every == 0 or block == config.num_blocks else [SpatialLayer]
        # Called "halves" (of blocks) in all checkpoints.
        self.halves = nn.ModuleList([kind(config, dim) for kind in kinds])
        self.norm = nn.LayerNorm(dim, bias=False)

    def reach(self, window: int) -> int:
        """Frames before one on which its output depends, where attention sees `window` frames, its own included."""
        return sum(2 + (window - 1 if isinstance(layer, TemporalLayer) else 0) for layer in self.halves)

    def forward(self, x: Tensor, spatial_bias: Tensor) -> Tensor:
        """Transform tokens (B, T, h, w, D) with the spatial bias (heads, hw, hw)."""
        temporal_bias = causal_alibi(self.heads, x.shape[1], x.shape[1], x.device)
        run = recompute(_without_cache, self.gradient_checkpointing if torch.is_grad_enabled() else "none")
        for layer in self.halves:
            x = run(layer, x, spatial_bias if isinstance(layer, SpatialLayer) else temporal_bias)
        return self.norm(x)

    def extend(self, x: Tensor, spatial_bias: Tensor, cache: Cache) -> tuple[Tensor, Cache]:
        """Transform further frames x (B, T, h, w, D) after those in `cache`; equal to `forward` on all at once."""
        num_frames = cache.num_frames + x.shape[1]
        temporal_bias = causal_alibi(self.heads, x.shape[1], num_frames, x.device)
        x, layers = self.run_layers(x, spatial_bias, temporal_bias, cache.layers or [None] * len(self.halves))
        return x, Cache(num_frames, layers)

    def run_layers(
        self, x: Tensor, spatial_bias: Tensor, temporal_bias: Tensor, past: Sequence[LayerCache | None]
    ) -> tuple[Tensor, list[LayerCache]]:
        """As `extend`, with the temporal bias (..., heads, T, past + T) and what each layer keeps given."""
        layers = []
        for layer, cache in zip(self.halves, past, strict=True):
            x, state = layer(x, spatial_bias if isinstance(layer, SpatialLayer) else temporal_bias, cache)
            layers.append(state)
        return self.norm(x), layers


def _without_cache(layer: Layer, x: Tensor, bias: Tensor) -> Tensor:
    return layer(x, bias)[0]
