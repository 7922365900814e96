"""Configuration to model, with fresh weights."""

from torch import nn

from models.config import ModelConfig
from models.dynamics import Dynamics
from models.genie_redux import GenieRedux
from models.lam import LatentActionModel
from models.tokenizer import Tokenizer

GUIDED = ("genie_redux_guided", "genie_redux_guided_pretrain")  # two names, one architecture
WORLD_MODELS = (*GUIDED, "genie_redux")
MODELS = ("tokenizer", "lam", *WORLD_MODELS)


def build_model(config: ModelConfig) -> nn.Module:
    """A `Tokenizer`, `LatentActionModel` or `GenieRedux` with fresh weights.

    A world model's tokenizer is fresh too: load a trained one before use. Raises ValueError for an unknown model or
    sizes that do not fit.
    """
    if config.model == "tokenizer":
        return Tokenizer(config.tokenizer)
    if config.model == "lam":
        return LatentActionModel(config.lam, config.tokenizer)
    if config.model in WORLD_MODELS:
        return build_world_model(config, Tokenizer(config.tokenizer))
    raise ValueError(f"model '{config.model}' is unknown: use one of {', '.join(MODELS)}")


def build_world_model(config: ModelConfig, tokenizer: Tokenizer) -> GenieRedux:
    """A world model with fresh dynamics (and LAM) around a given tokenizer, whose config wins over
    `config.tokenizer`."""
    guided = config.model in GUIDED
    frames = tokenizer.config
    dims = {"tokenizer.dim": frames.dim, "dynamics.dim": config.dynamics.dim}
    if frames.temporal_patch_size != 1:
        raise ValueError("tokenizer.temporal_patch_size must be 1 for a world model: one action moves one frame")
    if guided and config.dynamics.use_token and frames.dim != config.dynamics.dim:
        raise ValueError(f"{dims}: the token input (dynamics.use_token) needs equal widths")
    lam = None if guided else LatentActionModel(config.lam, frames)
    if lam is not None and config.lam.dim != config.dynamics.dim:
        raise ValueError(
            f"lam.dim {config.lam.dim} must equal dynamics.dim {config.dynamics.dim}, since actions are added to "
            "tokens: set both to the same"
        )
    return GenieRedux(tokenizer, Dynamics(config.dynamics, frames, guided), lam)
