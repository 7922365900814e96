"""Small networks that measure how new a frame is."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from models.components.transfer import to_device
from models.genie_redux import GenieRedux

_WIDTHS = (32, 64, 64)
# Of the running mean and deviation of each pixel: the least rate, a batch, and the least variance in frames in [-1, 1].
_PIXEL_RATE, _LEAST_VARIANCE = 1e-3, 1e-4


def _convolutions(channels: int) -> nn.Sequential:
    """Three strided 3×3 convolutions: (B, C, H, W) to (B, 64, H/8, W/8)."""
    layers: list[nn.Module] = []
    for width in _WIDTHS:
        layers += [nn.Conv2d(channels, width, 3, stride=2, padding=1), nn.LeakyReLU(0.1)]
        channels = width
    return nn.Sequential(*layers)


def _num_features(frame_shape: tuple[int, int, int]) -> int:
    """Of the convolutions."""
    _, height, width = frame_shape
    return _WIDTHS[-1] * -(-height // 8) * -(-width // 8)


class RandomFeatures(nn.Module):
    """Features of a fixed random network (arXiv 2504.02515, the cnn-mse reward)."""

    def __init__(self, channels: int):
        super().__init__()
        self.network = _convolutions(channels)
        for module in self.network:
            if isinstance(module, nn.Conv2d):
                nn.init.orthogonal_(module.weight, gain=nn.init.calculate_gain("leaky_relu", 0.1))
        self.requires_grad_(False)

    def embed(self, frames: Tensor) -> Tensor:
        """Features (B, F) of frames (B, C, H, W) in [0, 1]."""
        return self.network(2 * frames - 1).flatten(1)


class FrameVae(nn.Module):
    """A variational autoencoder of frames (Kingma and Welling 2014), trained while playing (the vae-mse reward)."""

    def __init__(self, channels: int, num_latents: int = 64, kl_weight: float = 1e-3):
        super().__init__()
        self.kl_weight = kl_weight
        self.encoder = nn.Sequential(_convolutions(channels), nn.AdaptiveAvgPool2d(8), nn.Flatten())
        self.to_moments = nn.Linear(_WIDTHS[-1] * 64, 2 * num_latents)
        self.from_latents = nn.Linear(num_latents, _WIDTHS[-1] * 64)
        layers: list[nn.Module] = []
        for width, following in zip(reversed(_WIDTHS), (*reversed(_WIDTHS[:-1]), channels), strict=True):
            layers += [nn.LeakyReLU(0.1), nn.Upsample(scale_factor=2), nn.Conv2d(width, following, 3, padding=1)]
        self.decoder = nn.Sequential(*layers)

    def embed(self, frames: Tensor) -> Tensor:
        """Mean (B, 64) of the latents of frames (B, C, H, W) in [0, 1]."""
        return self._moments(frames)[0]

    def _moments(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_variance = self.to_moments(self.encoder(2 * frames - 1)).chunk(2, dim=1)
        return mean, log_variance.clamp(-10, 5)

    def loss(self, frames: Tensor, noise: torch.Generator) -> Tensor:
        """Squared error of the reconstruction plus the weighted KL divergence from the unit Gaussian: a scalar.

        frames (B, C, H, W) in [0, 1]; `noise` draws the latents, on the CPU.
        """
        mean, log_variance = self._moments(frames)
        drawn = to_device(torch.randn(mean.shape, generator=noise), mean.device)
        latents = mean + drawn * (log_variance / 2).exp()
        grid = rearrange(self.from_latents(latents), "b (c h w) -> b c h w", h=8, w=8)
        reconstruction = F.interpolate(self.decoder(grid), frames.shape[-2:])
        divergence = (mean.square() + log_variance.exp() - 1 - log_variance).mean() / 2
        return F.mse_loss(reconstruction, frames) + self.kl_weight * divergence


class RandomDistillation(nn.Module):
    """Random network distillation (Burda et al. 2019): the error in predicting a fixed random network's output.

    The networks see each pixel's deviation from its running mean, in running standard deviations, clipped to ±5
    (section 2.4), which are learned by `observe`. In runs from before there were any, they see the frames.
    """

    def __init__(self, frame_shape: tuple[int, int, int], num_outputs: int = 128):
        super().__init__()
        # Batches that were observed; -1 = of an earlier version's run.
        self.count: Tensor
        self.mean: Tensor
        self.square: Tensor
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(frame_shape))
        self.register_buffer("square", torch.ones(frame_shape))
        channels, size = frame_shape[0], _num_features(frame_shape)
        self.target = nn.Sequential(_convolutions(channels), nn.Flatten(), nn.Linear(size, num_outputs))
        hidden = nn.Linear(size, 256)
        self.predictor = nn.Sequential(
            _convolutions(channels), nn.Flatten(), hidden, nn.ReLU(), nn.Linear(256, num_outputs)
        )
        self.target.requires_grad_(False)

    @torch.no_grad()
    def observe(self, frames: Tensor) -> None:
        """Take frames (B, C, H, W) in [-1, 1] into the mean and deviation of each pixel."""
        if self.count < 0:
            return
        self.count += 1
        rate = (1 / self.count).clamp_min(_PIXEL_RATE)
        self.mean.lerp_(frames.mean(dim=0), rate)
        self.square.lerp_(frames.square().mean(dim=0), rate)

    def _whitened(self, frames: Tensor) -> Tensor:
        if self.count <= 0:
            return frames
        deviation = (self.square - self.mean.square()).clamp_min(_LEAST_VARIANCE).sqrt()
        return ((frames - self.mean) / deviation).clamp(-5, 5)

    def novelty(self, frames: Tensor) -> Tensor:
        """Squared errors (B,) at frames (B, C, H, W) in [-1, 1]."""
        frames = self._whitened(frames)
        return (self.predictor(frames) - self.target(frames)).square().mean(dim=1)

    def loss(self, frames: Tensor) -> Tensor:
        """Mean squared error, a scalar, at frames (B, C, H, W) in [-1, 1]."""
        return self.novelty(frames).mean()


class ActionEmbedding(nn.Module):
    """Embeddings of frames from which the action between two of them can be predicted (Pathak et al. 2017).

    They hold what an action can change, and not what changes by itself.
    """

    def __init__(self, frame_shape: tuple[int, int, int], num_actions: int, num_features: int = 32):
        super().__init__()
        self.num_features = num_features
        size = _num_features(frame_shape)
        self.encoder = nn.Sequential(_convolutions(frame_shape[0]), nn.Flatten(), nn.Linear(size, num_features))
        self.head = nn.Sequential(nn.Linear(2 * num_features, 128), nn.ReLU(), nn.Linear(128, num_actions))

    def embed(self, frames: Tensor) -> Tensor:
        """Embeddings (B, num_features) of frames (B, C, H, W) in [-1, 1]."""
        return self.encoder(frames)

    def loss(self, before: Tensor, after: Tensor, actions: Tensor) -> Tensor:
        """Cross-entropy, a scalar, of the actions (B,) int64 between frames (B, C, H, W) in [-1, 1] each."""
        logits = self.head(torch.cat([self.embed(before), self.embed(after)], dim=1))
        return F.cross_entropy(logits, actions)


class Disagreement(nn.Module):
    """An ensemble of one-step heads on a frozen world model's features (Plan2Explore, Sekar et al. 2020).

    The heads learn to predict the next frame's codes; where they were not trained, they differ. Unlike entropy, their
    variance falls with every visit, also where the world is noisy: all heads come to predict the same mean.
    """

    def __init__(self, world_model: GenieRedux, num_heads: int, pooled: int = 2):
        super().__init__()
        width = world_model.dynamics.to_logits.in_features
        codebook = world_model.tokenizer.quantizer.codebook.detach()
        self.codebook: Tensor
        self.register_buffer("codebook", F.normalize(codebook.float(), dim=-1), persistent=False)
        self.pooled = pooled
        num_outputs = pooled**2 * codebook.shape[1]
        self.heads = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 256), nn.ReLU(), nn.Linear(256, num_outputs))
            for _ in range(num_heads)
        )

    def target(self, ids: Tensor) -> Tensor:
        """What a head predicts of ids (B, h, w): their codes, averaged over a coarse grid (B, outputs)."""
        codes = rearrange(F.embedding(ids, self.codebook), "b h w d -> b d h w")
        return F.adaptive_avg_pool2d(codes, self.pooled).flatten(1)

    def _predictions(self, features: Tensor) -> Tensor:
        return torch.stack([head(features) for head in self.heads])

    def novelty(self, features: Tensor, target: Tensor) -> Tensor:
        """Variance (B,) over the heads' predictions from features (B, width); the target is not used."""
        return self._predictions(features).var(dim=0).mean(dim=1)

    def loss(self, features: Tensor, target: Tensor) -> Tensor:
        """Mean squared error of all heads, a scalar: features (B, width), target (B, outputs)."""
        return (self._predictions(features) - target).square().mean()
