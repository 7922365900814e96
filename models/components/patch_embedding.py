"""Frames to tokens and back. The first frame and the rest have weights of their own."""

import torch
from einops import rearrange
from torch import Tensor, nn

from models.config import TokenizerConfig


class PatchEmbedding(nn.Module):
    """Flatten patches (c, pt, p1, p2), then LayerNorm, Linear, LayerNorm."""

    def __init__(self, config: TokenizerConfig, dim: int):
        super().__init__()
        self.patch = config.patch_size
        self.temporal_patch = config.temporal_patch_size
        pixels = config.channels * config.patch_size**2
        self.first = self._layers(pixels, dim)
        self.rest = self._layers(pixels * self.temporal_patch, dim)

    @staticmethod
    def _layers(pixels: int, dim: int) -> nn.Sequential:
        return nn.Sequential(nn.LayerNorm(pixels), nn.Linear(pixels, dim), nn.LayerNorm(dim))

    def forward(self, video: Tensor) -> Tensor:
        """Tokens (B, t, h, w, D) of frames (B, T, C, H, W); T - 1 must be a multiple of the temporal patch size."""
        patch = self.patch
        first, rest = video[:, :1], video[:, 1:]
        parts = [self.first(rearrange(first, "b t c (h p1) (w p2) -> b t h w (c p1 p2)", p1=patch, p2=patch))]
        if rest.shape[1]:
            pattern = "b (t pt) c (h p1) (w p2) -> b t h w (c pt p1 p2)"
            parts.append(self.rest(rearrange(rest, pattern, pt=self.temporal_patch, p1=patch, p2=patch)))
        return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]


class PixelHead(nn.Module):
    """Tokens to pixels, the inverse of the patch embedding."""

    def __init__(self, config: TokenizerConfig, dim: int):
        super().__init__()
        self.patch = config.patch_size
        self.temporal_patch = config.temporal_patch_size
        pixels = config.channels * config.patch_size**2
        self.first = nn.Linear(dim, pixels)
        self.rest = nn.Linear(dim, pixels * self.temporal_patch)

    def forward(self, tokens: Tensor, continued: bool = False) -> Tensor:
        """Pixels (B, T, C, H, W) of tokens (B, t, h, w, D).

        `continued`: the tokens follow others, so none of them is of a first frame.
        """
        patch = self.patch
        first, rest = tokens[:, : 0 if continued else 1], tokens[:, 0 if continued else 1 :]
        parts = []
        if first.shape[1]:
            pixels = self.first(first)
            parts.append(rearrange(pixels, "b t h w (c p1 p2) -> b t c (h p1) (w p2)", p1=patch, p2=patch))
        if rest.shape[1]:
            pattern = "b t h w (c pt p1 p2) -> b (t pt) c (h p1) (w p2)"
            pixels = self.rest(rest)
            parts.append(rearrange(pixels, pattern, pt=self.temporal_patch, p1=patch, p2=patch))
        return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]
