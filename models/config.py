"""Configuration of the models. Sizes default to the published ones (arXiv 2504.02515)."""

import math
from dataclasses import dataclass, field
from typing import Annotated

from data_generation.data.fields import (
    Count,
    CountOrZero,
    Fraction,
    FractionBelow1,
    Items,
    NotNegative,
    NumFrames,
    NumLayers,
    OneOf,
    Pixels,
    Positive,
    Range,
    Size,
)


@dataclass
class TransformerConfig:
    """Sizes of one ST-transformer (used by encoder and decoder alike)."""

    dim: Size = 512
    num_blocks: NumLayers = 8
    heads: Size = 8
    dim_head: Size = 64
    ff_mult: Positive = 4.0
    # The published models take keys and values from the un-normalised input; True is the usual pre-norm form.
    normalize_kv: bool = False
    # Recompute activations in the backward pass, for less memory.
    gradient_checkpointing: Annotated[str, OneOf("none", "selective", "full")] = "none"

    @property
    def num_weights(self) -> int:
        """Weights of the blocks' matrices, near enough."""
        attention = 4 * self.dim * self.heads * self.dim_head
        return 2 * self.num_blocks * (attention + int(2 * self.ff_mult * self.dim**2))


@dataclass
class TokenizerConfig(TransformerConfig):
    """ST-ViViT video tokenizer. Image and patch sizes live here; LAM and dynamics take them from here."""

    image_size: Pixels = 64
    channels: Size = 3
    patch_size: Pixels = 4
    temporal_patch_size: NumFrames = 1
    # Which of encoder and decoder sees the frames before: both, decoder or none. Where the encoder does not, equal
    # frames have equal token ids.
    temporal: Annotated[str, OneOf("both", "decoder", "none")] = "both"
    # A learned codebook, or finite scalar quantisation: a fixed grid.
    quantizer: Annotated[str, OneOf("vq", "fsq")] = "vq"
    # fsq only: values per channel. Their product is the codebook's size and their number its width, in place of
    # codebook_size and codebook_dim.
    fsq_levels: Annotated[list[Annotated[int, Range(2, 65_536)]], Items(1, 16)] = field(
        default_factory=lambda: [8, 5, 5, 5]
    )
    codebook_size: Annotated[int, Range(2, 2**24)] = 1024
    codebook_dim: Size = 32
    commitment_weight: NotNegative = 0.25  # vq only
    # Dead-code reset (vq only): codes used less than this fraction of the mean usage are re-initialised to poorly
    # quantised encoder outputs of the batch; 0 = off.
    dead_code_threshold: NotNegative = 0.0
    vq_loss_weight: NotNegative = 1.0  # vq only
    recons_loss_weight: NotNegative = 1.0
    changed_pixel_weight: Positive = 1.0  # weight of pixels that differ visibly from the frame before

    def __post_init__(self) -> None:
        if self.quantizer == "fsq":
            self.codebook_size, self.codebook_dim = math.prod(self.fsq_levels), len(self.fsq_levels)


@dataclass
class LamConfig(TransformerConfig):
    """Latent action model: an ST-ViViT with `num_actions` codes, one per frame transition."""

    num_actions: Size = 7
    codebook_dim: Size = 32
    # These three: `assignment` encoder only.
    commitment_weight: NotNegative = 0.25
    dead_code_threshold: NotNegative = 0.0  # as the tokenizer's
    vq_loss_weight: NotNegative = 1.0
    reconstruction_weight: NotNegative = 1.0
    # Predict the residual to the previous frame; the published decoder predicts the whole frame.
    predict_change: bool = False
    # Divide each transition's error by its own change plus this share of the batch's mean change, so that a walking
    # character counts as much as a scrolling scene. None = the plain error, as published.
    change_floor: Positive | None = None
    # Which code is a transition's action: the encoder's, as published, or the one of all that predicts it best, without
    # an encoder (after ILPO, Edwards et al. 2019, arXiv 1805.07914). Training gives every code about an equal share of
    # a batch by Sinkhorn's algorithm (as SwAV, Caron et al. 2020, arXiv 2006.09882).
    assignment: Annotated[str, OneOf("encoder", "best")] = "encoder"
    frozen: bool = False  # genie_redux only: stays as lam_fpath brings it instead of training on with the dynamics
    # `assignment` best: probability that an action lasts for another step. The latent actions of a clip are then the
    # likeliest of each transition given all of the clip (forward-backward algorithm). 0 = each transition alone.
    persistence: FractionBelow1 = 0.0


@dataclass
class HistoryConfig:
    """What a training clip's history looks like and which tokens the loss is computed on; by default as published.

    Play conditions on complete frames, which the published masking never trains (docs/results/recipe.md).
    """

    complete: Fraction = 0.0  # share of training clips without masks
    prefix: Fraction = 0.0  # share of training clips with complete first frames and masked later ones
    prefix_min_mask_rate: FractionBelow1 = 0.2  # mask rate of these later frames: uniform in [this, 1)
    loss_at: Annotated[str, OneOf("masked", "all")] = "masked"  # tokens whose prediction is trained
    changed_weight: Positive = 1.0  # weight of tokens that change from one frame to the next
    # Random token replacement in the history (noise augmentation, as in GameNGen): largest rate, in the last frame.
    corruption: Fraction = 0.0
    # Fraction of training clips whose history is the model's own prediction (scheduled sampling, Bengio et al. 2015).
    continued: Fraction = 0.0


@dataclass
class DynamicsConfig(TransformerConfig):
    """MaskGIT dynamics over the tokenizer's ids.

    causal_guided, a causal transformer, has the sizes, `normalize_kv`, `max_seq_len`, `action_dim` and
    `gradient_checkpointing` alone.
    """

    num_blocks: NumLayers = 12
    # Every so many blocks one has a temporal layer, and the last one always (1: all, as published). Dreamer 4, arXiv
    # 2509.24527, has every fourth.
    temporal_every: Count = 1
    max_seq_len: Count = 4096
    # Number of actions; None takes it from the dataset's info.
    action_dim: Size | None = None
    # Guided (GenieRedux-G) only: a learned D-wide action embedding, or the one-hot action.
    use_action_embeddings: bool = True
    # Unguided only: learn an embedding of each latent action; published, the LAM's vector is added, which is small.
    latent_embeddings: bool = False
    # Guided only: add the token's code to its embedding (the paper's token input).
    use_token: bool = True
    loss: Annotated[str, OneOf("cross_entropy", "tdce")] = "cross_entropy"
    tdce_weight: NotNegative = 1.0  # of the distances in `loss` tdce
    # Weight of the decoded prediction's pixel error; train.use_decoder_loss=true makes 0 a 1.
    decoder_loss_weight: NotNegative = 0.0
    # Mask rate of training inputs, drawn uniformly once a step.
    min_mask_rate: FractionBelow1 = 0.5
    history: HistoryConfig = field(default_factory=HistoryConfig)
    # Guided only: append the action's vector to each token, which doubles the width of the transformer, or add it.
    action_conditioning: Annotated[str, OneOf("concatenate", "add")] = "concatenate"
    # This, `mask_schedule` and `unmask_order` have no effect where one frame is predicted at a time.
    sample_temperature: NotNegative = 1.0
    # How a predicted frame enters the history when frames are predicted one at a time: as its likeliest tokens, or as
    # the expectation of their embeddings, which keeps what the model is unsure of (docs/results/recipe.md).
    history_tokens: Annotated[str, OneOf("likeliest", "expected")] = "likeliest"
    mask_schedule: str = "cosine"  # cosine | uniform | pow<x> | log | exp
    # Order in which tokens are unmasked: most confident first, a fixed Halton order over positions, or frame by frame.
    unmask_order: Annotated[str, OneOf("confidence", "halton", "frames")] = "confidence"
    # All frames have the same position embeddings, so that nothing depends on how long ago a rollout began: while it is
    # played its history slides. Published: each frame of the history has its own.
    shared_positions: bool = False


@dataclass
class SuperResolutionConfig:
    """U-Net that upsamples single frames. Its sizes: Dhariwal and Nichol 2021 (arXiv 2105.05233), 64 → 256 pixels."""

    image_size: Pixels = 256  # of the frames that it makes
    scale: Annotated[int, Range(2, 64)] = 4  # how many times larger they are than those that it is given
    channels: Size = 3
    # Pixels a side that become one position of the U-Net: 1 = full resolution; scale = the small frame's own, faster.
    patch_size: Pixels = 1
    dim: Size = 192
    # Width of each level, times dim; a level has half the resolution of the one before.
    multipliers: Annotated[list[Size], Items(1, 10)] = field(default_factory=lambda: [1, 1, 2, 2, 4, 4])
    num_blocks: NumLayers = 2  # residual blocks a level
    heads: Size = 4
    attention_size: CountOrZero = 32  # self-attention in levels of at most so many positions a side; 0 = none
    # Share of training inputs that went through the tokenizer of tokenizer_fpath, as a world model's frames do.
    reconstructed_share: Fraction = 0.0

    @property
    def grid(self) -> int:
        """Positions a side of the first level."""
        return self.image_size // self.patch_size

    @property
    def num_weights(self) -> int:
        """Weights of the convolutions, near enough."""
        widths = [self.dim * multiplier for multiplier in self.multipliers]
        return sum((2 * self.num_blocks + 1) * 2 * 9 * width**2 for width in widths)


@dataclass
class ModelConfig:
    """Which model, and the sizes of its parts. What a checkpoint's `config.yaml` holds, with the dataset's facts."""

    # tokenizer | lam | genie_redux | genie_redux_guided | genie_redux_guided_pretrain | causal_guided
    # | super_resolution
    model: str = "genie_redux_guided"
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    lam: LamConfig = field(default_factory=LamConfig)
    dynamics: DynamicsConfig = field(default_factory=DynamicsConfig)
    # Names of the actions that the model was trained with; empty until a dataset is known.
    action_names: list[str] = field(default_factory=list)
    # Name of the ROI table around whose characters that dataset was recorded; "" = whole frames.
    roi_table: str = ""
    super_resolution: SuperResolutionConfig = field(default_factory=SuperResolutionConfig)
    # Game → its levels in the dataset that it was trained on, as 0-11, 15.
    levels: dict[str, str] = field(default_factory=dict)
    # Emulator frames of one of that dataset's steps; None = unknown, or not the same in all of its environments.
    n_skip_frames: Count | None = None


@dataclass(frozen=True)
class SampleSettings:
    """How a world model samples new frames: all at once (`one_go`) or `dream_length` at a time (`autoregressive`)."""

    method: str = "one_go"
    # MaskGIT rounds per group of frames.
    inference_steps: int = 25
    dream_length: int = 2
    # None = dynamics.sample_temperature.
    temperature: float | None = None
