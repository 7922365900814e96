"""ST-ViViT video tokenizer (arXiv 2409.06445, section 3; Genie: Bruce et al. 2024, section 2.1)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from data_generation.data.errors import FieldError, UserError
from models.base import Model, Output, Prediction, Rollout
from models.components.finite_scalar_quantize import FiniteScalarQuantizer
from models.components.patch_embedding import PatchEmbedding, PixelHead
from models.components.pixel_loss import pixel_loss
from models.components.position import ContinuousPositionBias
from models.components.st_transformer import Cache, STTransformer
from models.components.vector_quantize import CodeAges, Quantized, VectorQuantizer, perplexity, used_share
from models.config import TokenizerConfig

# A codebook counts as collapsed when a smaller share of the codes was used in so many batches.
COLLAPSE_SHARE, COLLAPSE_STEPS = 0.1, 200


def make_quantizer(config: TokenizerConfig) -> VectorQuantizer | FiniteScalarQuantizer:
    """The quantiser that `config.quantizer` names; FieldError for an unknown one."""
    if config.quantizer == "fsq":
        return FiniteScalarQuantizer(config.dim, config.fsq_levels)
    if config.quantizer == "vq":
        return VectorQuantizer(
            config.dim, config.codebook_size, config.codebook_dim, config.commitment_weight, config.dead_code_threshold
        )
    raise FieldError("quantizer", config.quantizer, "is unknown", "use vq or fsq")


@dataclass
class Decoded:
    """Frames (B, T, C, H, W), not clamped, and the decoder's state after them."""

    video: Tensor
    cache: Cache


def check_patches(config: TokenizerConfig) -> None:
    """FieldError if patches do not cover the frames."""
    if config.image_size % config.patch_size:
        problem = f"does not divide {{image_size}}={config.image_size}"
        raise FieldError("patch_size", config.patch_size, problem, "choose a divisor")


class Tokenizer(Model):
    """Frames to discrete tokens and back; causal in time on both ways."""

    suits_muon: ClassVar[bool] = True
    decoder_trains_alone: ClassVar[bool] = True

    def __init__(self, config: TokenizerConfig):
        super().__init__()
        check_patches(config)
        if config.temporal != "both" and config.temporal_patch_size != 1:
            problem = f"takes each frame alone, {{temporal_patch_size}}={config.temporal_patch_size} several together"
            raise FieldError("temporal", config.temporal, problem, "set {temporal_patch_size}=1")
        self.config = config
        # Of single frames the weights of later ones would learn nothing.
        self.min_frames = 1 if config.temporal == "none" else 2
        self.patch_embedding = PatchEmbedding(config, config.dim)
        self.position_bias = ContinuousPositionBias(config.dim, config.heads)  # shared by encoder and decoder
        self.encoder = STTransformer(config, "st")
        self.quantizer = make_quantizer(config)
        self.code_ages = CodeAges(config.codebook_size)
        self.decoder = STTransformer(config, "ts")
        self.to_pixels = PixelHead(config, config.dim)
        self.decoder_only = False

    @property
    def grid(self) -> int:
        """Tokens along each side of a frame."""
        return self.config.image_size // self.config.patch_size

    @property
    def takes_frames_alone(self) -> bool:
        """Whether a frame's ids depend on that frame alone, wherever in a clip it is."""
        return self.config.temporal != "both"

    def _bias(self) -> Tensor:
        return self.position_bias(self.grid, self.grid)

    def _check(self, video: Tensor) -> None:
        size, pt = self.config.image_size, self.config.temporal_patch_size
        if video.shape[-2:] != (size, size):
            raise UserError(
                f"frames are {video.shape[-1]}x{video.shape[-2]}, the tokenizer was built for {size}x{size}"
            )
        if (video.shape[1] - 1) % pt:
            raise UserError(
                f"num_frames={video.shape[1]}: num_frames - 1 must be a multiple of temporal_patch_size={pt}"
            )

    def train_decoder_only(self) -> None:
        """Train decoder and pixel heads only, from now on: all that a world model sees of the tokenizer stays.

        The position bias is frozen, since the encoder uses it too: learning it would change the ids. So is the
        quantiser's output projection: with `dynamics.use_token` it is an input of the dynamics.
        """
        self.decoder_only = True
        self.requires_grad_(False)
        self.decoder.requires_grad_(True)
        self.to_pixels.requires_grad_(True)

    def _encoded(self, video: Tensor, bias: Tensor) -> Tensor:
        """Tokens (B, t, h, w, D) of frames (B, T, C, H, W)."""
        if not self.takes_frames_alone:
            return self.encoder(self.patch_embedding(video), bias)
        # Clips of one frame: no layer sees another.
        tokens = self.encoder(self.patch_embedding(video.flatten(0, 1).unsqueeze(1)), bias)
        return tokens.view(*video.shape[:2], *tokens.shape[2:])

    def _decoded(self, tokens: Tensor, bias: Tensor) -> Tensor:
        """Frames (B, T, C, H, W) of quantised tokens (B, t, h, w, D)."""
        if self.config.temporal != "none":
            return self.to_pixels(self.decoder(tokens, bias))
        video = self.to_pixels(self.decoder(tokens.flatten(0, 1).unsqueeze(1), bias))
        return video.view(*tokens.shape[:2], *video.shape[2:])

    def has_unused_parameters(self, num_frames: int) -> bool:
        """The weights of later frames, where each frame is taken alone."""
        return self.takes_frames_alone or super().has_unused_parameters(num_frames)

    def _quantize(self, video: Tensor, bias: Tensor, generator: torch.Generator | None) -> Quantized:
        if not self.decoder_only:
            return self.quantizer(self._encoded(video, bias), generator)
        # Without a gradient, and without dead-code reset.
        ids = self.encode(video)
        return Quantized(self.quantizer.decode(ids), ids, torch.zeros((), device=video.device))

    def forward(
        self,
        video: Tensor | None,
        actions: Tensor | None = None,
        generator: torch.Generator | None = None,
        ids: Tensor | None = None,
        transition_errors: Tensor | None = None,
    ) -> Output:
        """Training loss of frames (B, T, C, H, W) in [0, 1]: vq_loss_weight * vq + recons_loss_weight * mse.

        There is no vq loss with fsq nor after `train_decoder_only`.
        """
        assert video is not None
        self._check(video)
        bias = self._bias()
        quantized = self._quantize(video, bias, generator)
        reconstruction = self._decoded(quantized.output, bias)
        if self.training:
            self.code_ages.update(quantized.ids)
        recons_loss = pixel_loss(reconstruction, video, self.config.changed_pixel_weight)
        loss = self.config.vq_loss_weight * quantized.loss + self.config.recons_loss_weight * recons_loss
        logs = {
            "loss": loss.detach(),
            "recons_loss": recons_loss.detach(),
            "vq_loss": quantized.loss.detach(),
            "codebook_perplexity": perplexity(quantized.ids, self.config.codebook_size),
            "codebook_used": used_share(quantized.ids, self.config.codebook_size),
        }
        return Output(loss, logs)

    def collapse_warning(self) -> str:
        """A codebook that has collapsed: nearly all of the frames are encoded with few codes."""
        share = self.code_ages.used_share(COLLAPSE_STEPS)
        if self.decoder_only or share >= COLLAPSE_SHARE:
            return ""
        remedy = "tokenizer.quantizer=fsq cannot collapse" if self.config.quantizer == "vq" else "check the frames"
        return (
            f"the codebook has collapsed: {share:.0%} of {self.config.codebook_size} codes were used in the last "
            f"{COLLAPSE_STEPS} batches. Unless the frames hardly vary, start again with a lower "
            f"optimizer.learning_rate; {remedy}"
        )

    @torch.no_grad()
    def encode(self, video: Tensor) -> Tensor:
        """Encode frames (B, T, C, H, W) into token ids (B, t, h, w)."""
        self._check(video)
        return self.quantizer.encode(self._encoded(video, self._bias()))

    def decode(self, ids: Tensor) -> Tensor:
        """Decode token ids (B, t, h, w) into frames (B, T, C, H, W), not clamped."""
        return self._decoded(self.quantizer.decode(ids), self._bias())

    def decode_codes(self, codes: Tensor) -> Tensor:
        """Decode codes (B, t, h, w, codebook_dim), which may carry a gradient, into frames (B, T, C, H, W)."""
        return self._decoded(self.quantizer.project_out(codes), self._bias())

    def decode_next(self, ids: Tensor, cache: Cache) -> Decoded:
        """Decode further ids (B, t, h, w) after those that `cache` has seen; equal to `decode` of all at once."""
        if self.config.temporal == "none":
            return Decoded(self.decode(ids), Cache(cache.num_frames + ids.shape[1]))
        tokens, extended = self.decoder.extend(self.quantizer.decode(ids), self._bias(), cache)
        return Decoded(self.to_pixels(tokens, continued=cache.num_frames > 0), extended)

    @torch.no_grad()
    def reconstruct(self, video: Tensor) -> Tensor:
        """Frames (B, T, C, H, W) through the codes and back, not clamped."""
        return self.decode(self.encode(video))

    def predict(
        self, video: Tensor, actions: Tensor, rollout: Rollout, generators: Sequence[torch.Generator]
    ) -> Prediction:
        """The clips (B, T, C, H, W) through the codes and back."""
        return Prediction(self.reconstruct(video).float(), video, num_given=0)
