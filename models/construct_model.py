"""Configuration to model, with fresh weights."""

import os
from collections.abc import Callable
from dataclasses import dataclass

from data_generation.data.errors import FieldError, under
from models.base import Model
from models.causal import CausalTransformer, CausalWorldModel
from models.config import ModelConfig, SuperResolutionConfig, TokenizerConfig, TransformerConfig
from models.dynamics import Dynamics
from models.genie_redux import GenieRedux
from models.lam import LatentActionModel
from models.super_resolution import SuperResolution
from models.tokenizer import Tokenizer, check_patches

# Of a frame: attention within a frame grows with their square.
_MAX_PATCHES = 16_384


@dataclass(frozen=True)
class Kind:
    """What a value of `ModelConfig.model` stands for. Models of one `architecture` take each other's weights."""

    architecture: str
    model: type[Model]
    # Arguments: the configuration, and the trained tokenizer around which a world model is built.
    build: Callable[[ModelConfig, Tokenizer | None], Model]
    # The parts of the configuration that give its sizes.
    parts: tuple[str, ...]
    takes_actions: bool = False
    # What the names of a latent action model's tensors begin with; None where there is none.
    lam_prefix: str | None = None
    # The part with `image_size` and `channels` of the frames that it is trained on.
    frames_of: str = "tokenizer"


def build_model(config: ModelConfig, tokenizer: Tokenizer | None = None) -> Model:
    """A `Tokenizer`, `LatentActionModel`, `WorldModel` or `SuperResolution` with fresh weights.

    `tokenizer`: the trained one around which a world model is built, whose config replaces `config.tokenizer`; without
    it, a world model's tokenizer is fresh too. Raises FieldError for an unknown model or sizes that do not fit.
    """
    kind = kind_of(config)
    for name in kind.parts:
        if name != "tokenizer" or tokenizer is None:
            with under(name):
                _check_size(getattr(config, name))
    return kind.build(config, tokenizer)


def _check_size(config: TransformerConfig | SuperResolutionConfig) -> None:
    """FieldError for sizes that are fine one by one, but whose product no memory holds."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if 4 * config.num_weights > memory:
        problem = f"with {{num_blocks}}={config.num_blocks} it makes {config.num_weights / 1e9:.1f} billion weights"
        raise FieldError("dim", config.dim, problem, "they do not fit into memory: use smaller sizes")
    if isinstance(config, TokenizerConfig) and (config.image_size // config.patch_size) ** 2 > _MAX_PATCHES:
        problem = f"makes more than {_MAX_PATCHES} patches of a frame of {{image_size}}={config.image_size} pixels"
        raise FieldError("patch_size", config.patch_size, problem, "use larger patches")


def kind_of(config: ModelConfig) -> Kind:
    """What `config.model` stands for; FieldError for an unknown one."""
    if config.model not in KINDS:
        raise FieldError("model", config.model, "is unknown", f"use one of {', '.join(KINDS)}")
    return KINDS[config.model]


def _tokenizer(config: ModelConfig, _tokenizer: Tokenizer | None = None) -> Tokenizer:
    with under("tokenizer"):
        return Tokenizer(config.tokenizer)


def _lam(config: ModelConfig, tokenizer: Tokenizer | None = None) -> LatentActionModel:
    sizes = tokenizer.config if tokenizer else config.tokenizer
    _check_steps(sizes)
    with under("tokenizer"):
        check_patches(sizes)
    with under("lam"):
        return LatentActionModel(config.lam, sizes)


def _super_resolution(config: ModelConfig, _tokenizer: Tokenizer | None = None) -> SuperResolution:
    with under("super_resolution"):
        return SuperResolution(config.super_resolution)


def _guided(config: ModelConfig, tokenizer: Tokenizer | None) -> GenieRedux:
    return _world_model(config, tokenizer or _tokenizer(config), guided=True)


def _unguided(config: ModelConfig, tokenizer: Tokenizer | None) -> GenieRedux:
    return _world_model(config, tokenizer or _tokenizer(config), guided=False)


def _causal(config: ModelConfig, tokenizer: Tokenizer | None) -> CausalWorldModel:
    tokenizer = tokenizer or _tokenizer(config)
    _check_steps(tokenizer.config)
    with under("dynamics"):
        return CausalWorldModel(tokenizer, CausalTransformer(config.dynamics, tokenizer.config))


def _check_steps(sizes: TokenizerConfig) -> None:
    if sizes.temporal_patch_size != 1:
        problem = "must be 1 for a world model or a LAM: one action moves one frame"
        raise FieldError("tokenizer.temporal_patch_size", sizes.temporal_patch_size, problem)


def _world_model(config: ModelConfig, tokenizer: Tokenizer, guided: bool) -> GenieRedux:
    sizes = tokenizer.config
    _check_steps(sizes)
    if not guided and not config.dynamics.latent_embeddings and config.lam.dim != config.dynamics.dim:
        problem = f"must equal {{dynamics.dim}}={config.dynamics.dim}, since the LAM's vectors are added to tokens"
        raise FieldError(
            "lam.dim", config.lam.dim, problem, "set both to the same, or {dynamics.latent_embeddings}=true"
        )
    lam = None if guided else _lam(config, tokenizer)
    with under("dynamics"):
        return GenieRedux(tokenizer, Dynamics(config.dynamics, sizes, guided, config.lam.num_actions), lam)


_PART = "super_resolution"
_GUIDED = Kind("genie_redux_guided", GenieRedux, _guided, ("tokenizer", "dynamics"), takes_actions=True)
# The guided model has two names, the second for what is trained on many games.
KINDS = {
    "tokenizer": Kind("tokenizer", Tokenizer, _tokenizer, ("tokenizer",)),
    "lam": Kind("lam", LatentActionModel, _lam, ("tokenizer", "lam"), lam_prefix=""),
    "genie_redux_guided": _GUIDED,
    "genie_redux_guided_pretrain": _GUIDED,
    "genie_redux": Kind("genie_redux", GenieRedux, _unguided, ("tokenizer", "lam", "dynamics"), lam_prefix="lam."),
    "causal_guided": Kind("causal_guided", CausalWorldModel, _causal, ("tokenizer", "dynamics"), takes_actions=True),
    _PART: Kind(_PART, SuperResolution, _super_resolution, (_PART,), frames_of=_PART),
}
