"""Super-resolution: a U-Net that adds to bicubic interpolation what is missing, in one pass.

The U-Nets of the published 64 → 256 models are those of diffusion, which takes many passes a frame; here they are
trained as SR3's regression (Saharia et al. 2021, arXiv 2104.07636, section 4), so that a game stays playable.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from data_generation.data.errors import FieldError, UserError
from models.base import Model, Output, Prediction, Rollout
from models.components.processes import BatchShare
from models.components.transfer import to_device
from models.components.unet import UNet, UNetBlock
from models.config import SuperResolutionConfig
from models.tokenizer import Tokenizer

# Prefix of the measures of what it is compared with.
BICUBIC = "bicubic_"


class SuperResolution(Model):
    """Frames `scale` times as large, each on its own; learnt from large frames, whose small ones are made here."""

    def __init__(self, config: SuperResolutionConfig):
        super().__init__()
        _check(config)
        self.config = config
        dim = config.channels * config.patch_size**2
        self.unet = UNet(config, dim, dim)
        # Not a part of the model: it is neither trained nor saved.
        self._tokenizer: tuple[Tokenizer, ...] = ()

    @property
    def small_size(self) -> int:
        """Pixels a side of the frames that it is given."""
        return self.config.image_size // self.config.scale

    @property
    def reconstructed_share(self) -> float:
        return self.config.reconstructed_share

    def reconstruct_with(self, tokenizer: Tokenizer) -> None:
        """Let this tokenizer make the inputs of `reconstructed_share`. FieldError if its frames are of another size."""
        if tokenizer.config.image_size != self.small_size:
            problem = f"takes frames of {tokenizer.config.image_size} pixels, these are {self.small_size}"
            raise FieldError("tokenizer_fpath", "the tokenizer", problem, "give one of that size")
        self._tokenizer = (tokenizer.requires_grad_(False).eval(),)

    def has_unused_parameters(self, num_frames: int) -> bool:
        """None: frames are taken alone."""
        return False

    def shrink(self, video: Tensor) -> Tensor:
        """Frames (B, T, C, H, W) → (B, T, C, H/scale, W/scale), what recording at that size gives.

        To the digit where the large frames are the console's own pixels and `scale` is above 2, else to 1 of 255.
        """
        small = F.avg_pool2d((video.flatten(0, 1) * 255).round(), self.config.scale)
        return (small.round() / 255).unflatten(0, video.shape[:2])

    def bicubic(self, video: Tensor) -> Tensor:
        """Frames (B, T, C, h, w) upsampled by interpolation alone, not clamped."""
        large = F.interpolate(video.flatten(0, 1).float(), scale_factor=self.config.scale, mode="bicubic")
        return large.unflatten(0, video.shape[:2])

    def enlarge(self, video: Tensor) -> Tensor:
        """Frames (B, T, C, h, w) in [0, 1] → (B, T, C, h·scale, w·scale), not clamped."""
        blurred, patch = self.bicubic(video), self.config.patch_size
        missing = F.pixel_shuffle(self.unet(F.pixel_unshuffle(blurred.flatten(0, 1), patch)), patch)
        return blurred + missing.unflatten(0, video.shape[:2])

    def forward(
        self,
        video: Tensor | None,
        actions: Tensor | None = None,
        generator: torch.Generator | None = None,
        ids: Tensor | None = None,
        transition_errors: Tensor | None = None,
    ) -> Output:
        """Mean absolute error of upsampled frames; `video` (B, T, C, H, W) are the large ones."""
        assert video is not None
        if video.shape[-2:] != (self.config.image_size,) * 2:
            problem = f"frames are {video.shape[-1]}x{video.shape[-2]}"
            raise UserError(f"{problem}, the model makes {self.config.image_size}x{self.config.image_size}")
        loss = F.l1_loss(self.enlarge(self._inputs(video, generator)).float(), video)
        return Output(loss, {"loss": loss.detach()})

    def _inputs(self, video: Tensor, generator: torch.Generator | None) -> Tensor:
        """The small frames of clips, some of which have gone through the tokenizer."""
        small = self.shrink(video)
        if not self._tokenizer or not self.reconstructed_share:
            return small
        tokenizer = self._tokenizer[0].to(video.device)
        # Validation draws for the clips of one process; training for the batch of all of them.
        share = BatchShare.of_process(len(video)) if self.training else BatchShare.whole(len(video))
        drawn = share.own(torch.rand(share.total, generator=generator))
        # As numbers and on the CPU: neither the question nor the indexing waits for the device.
        chosen = (drawn < self.reconstructed_share).nonzero().flatten()
        if len(chosen):
            chosen = to_device(chosen, video.device)
            small[chosen] = tokenizer.reconstruct(small[chosen]).clamp(0, 1).to(small.dtype)
        return small

    def predict(
        self, video: Tensor, actions: Tensor, rollout: Rollout, generators: Sequence[torch.Generator]
    ) -> Prediction:
        """The clips (B, T, C, H, W), downsampled and upsampled again; compared with bicubic interpolation."""
        small = self.shrink(video)
        return Prediction(self.enlarge(small).float(), video, num_given=0, others={BICUBIC: self.bicubic(small)})

    def compile_layers(self) -> None:
        """Compile the residual blocks."""
        for module in self.modules():
            if isinstance(module, UNetBlock):
                module.compile()


def _check(config: SuperResolutionConfig) -> None:
    """FieldError for sizes that do not fit together."""
    if config.image_size % config.scale:
        raise FieldError("scale", config.scale, f"does not divide {{image_size}}={config.image_size}")
    if config.image_size % config.patch_size:
        raise FieldError("patch_size", config.patch_size, f"does not divide {{image_size}}={config.image_size}")
    if config.grid % 2 ** (halvings := len(config.multipliers) - 1):
        problem = f"{config.grid} positions a side cannot be halved {halvings} times"
        raise FieldError("multipliers", config.multipliers, problem, "use fewer levels")
    if odd := [m for m in config.multipliers if config.dim * m % config.heads]:
        raise FieldError("heads", config.heads, f"does not divide the width {config.dim * odd[0]}")
