"""U-Net (Ronneberger et al. 2015) with residual blocks: Dhariwal and Nichol's (2021) without the timestep embedding."""

import math

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, cat, nn

from models.config import SuperResolutionConfig

# Of a group norm, where the width is a multiple of it.
_MAX_GROUPS = 32


class UNetBlock(nn.Module):
    """Two convolutions around which the input is added; (N, dim_in, h, w) → (N, dim_out, h, w)."""

    def __init__(self, dim_in: int, dim_out: int):
        super().__init__()
        self.norm_in, self.conv_in = _norm(dim_in), nn.Conv2d(dim_in, dim_out, 3, padding=1)
        self.norm_out, self.conv_out = _norm(dim_out), _zeroed(nn.Conv2d(dim_out, dim_out, 3, padding=1))
        self.shortcut = nn.Identity() if dim_in == dim_out else nn.Conv2d(dim_in, dim_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.conv_in(F.silu(self.norm_in(x)))
        hidden = self.conv_out(F.silu(self.norm_out(hidden)))
        return self.shortcut(x) + hidden


class SelfAttention2d(nn.Module):
    """Each position of (N, dim, h, w) attends to all of its image."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads, self.norm = heads, _norm(dim)
        self.to_qkv, self.to_out = nn.Conv2d(dim, 3 * dim, 1), _zeroed(nn.Conv2d(dim, dim, 1))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = rearrange(self.to_qkv(self.norm(x)), "n (p k d) h w -> p n k (h w) d", p=3, k=self.heads)
        out = F.scaled_dot_product_attention(q, k, v)
        return x + self.to_out(rearrange(out, "n k (h w) d -> n (k d) h w", h=x.shape[2]))


class UNet(nn.Module):
    """Images (N, dim_in, h, w) → (N, dim_out, h, w), zero at first. Sides are multiples of 2^(levels - 1)."""

    def __init__(self, config: SuperResolutionConfig, dim_in: int, dim_out: int):
        super().__init__()
        widths = [config.dim * multiplier for multiplier in config.multipliers]
        sizes = [config.grid // 2**level for level in range(len(widths))]
        self.conv_in = nn.Conv2d(dim_in, widths[0], 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        width, skips = widths[0], [widths[0]]

        def block(dim: int, dim_out: int, size: int) -> nn.Sequential:
            attention = [SelfAttention2d(dim_out, config.heads)] if size <= config.attention_size else []
            return nn.Sequential(UNetBlock(dim, dim_out), *attention)

        for level, (own, size) in enumerate(zip(widths, sizes, strict=True)):
            for _ in range(config.num_blocks):
                self.down.append(block(width, own, size))
                width = own
                skips.append(width)
            if level < len(widths) - 1:
                self.down.append(nn.Conv2d(width, width, 3, stride=2, padding=1))
                skips.append(width)
        self.middle = nn.Sequential(block(width, width, sizes[-1]), UNetBlock(width, width))
        for level, (own, size) in reversed(list(enumerate(zip(widths, sizes, strict=True)))):
            for number in range(config.num_blocks + 1):
                parts: list[nn.Module] = [block(width + skips.pop(), own, size)]
                width = own
                if level and number == config.num_blocks:
                    parts += [nn.Upsample(scale_factor=2), nn.Conv2d(width, width, 3, padding=1)]
                self.up.append(nn.Sequential(*parts))
        self.norm_out, self.conv_out = _norm(width), _zeroed(nn.Conv2d(width, dim_out, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        skips = [x]
        for layer in self.down:
            x = layer(x)
            skips.append(x)
        x = self.middle(x)
        for layer in self.up:
            x = layer(cat([x, skips.pop()], dim=1))
        return self.conv_out(F.silu(self.norm_out(x)))


def _norm(dim: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(_MAX_GROUPS, dim), dim)


def _zeroed(layer: nn.Conv2d) -> nn.Conv2d:
    """A layer that adds nothing at first."""
    nn.init.zeros_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer
