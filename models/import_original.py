"""Reading checkpoints of the original GenieRedux code: names mapped strictly, sizes inferred from tensors where no
config is beside.

A file is {"step", "model", "optim", "scaler"}; "model" is the tokenizer's flat state dict, or {"dynamics": …} and,
for GenieRedux,
{"latent_action_model": …}. Nothing in a file is executed (`weights_only`).
"""

import logging
import math
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from torch import Tensor

from models.config import DynamicsConfig, LamConfig, ModelConfig, TokenizerConfig

logger = logging.getLogger(__name__)

StateDict = dict[str, Tensor]

# (pattern, replacement), applied in order; None drops the tensor.
_RENAMES: list[tuple[str, str | None]] = [
    (r"\.context_norm\.(gamma|beta)$", None),  # unused in self-attention
    (r"^(?:.*\.)?(?:norm|norm_out)\.beta$", None),  # a buffer of zeros
    (r"^vq\._codebook\.(initted|cluster_size|embed_avg)$", None),
    (r"^maskgit\.", ""),
    (r"_(peg)\.dsconv\.", r"_\1."),
    (r"_ff\.0\.", "_feed_forward.norm."),
    (r"_ff\.1\.", "_feed_forward.expand."),
    (r"_ff\.4\.", "_feed_forward.contract."),
    (r"\b(norm)(?:_out)?\.gamma$", r"\1.weight"),
    (r"^(?:spatial_rel_pos_bias|continuous_pos_bias)\.net\.(\d)(?:\.0)?\.", r"position_bias.layers.\1."),
    (r"^token_emb\.", "token_embedding."),
    (r"^pos_emb\.", "position_embedding."),
    (r"^vq\._codebook\.embed$", "quantizer.codebook"),
    (r"^vq\.", "quantizer."),
]
_INDEXED = {
    "to_patch_emb_first_frame": ("patch_embedding.first", 1),
    "to_patch_emb": ("patch_embedding.rest", 1),
    "to_action_emb": ("to_action", 1),
}
_INFERRED = (
    *("dim", "num_blocks", "heads", "dim_head", "ff_mult", "patch_size", "temporal_patch_size", "codebook_size"),
    *("codebook_dim", "num_actions", "max_seq_len", "action_dim", "use_action_embeddings", "use_token"),
)
_HALF = re.compile(r"^(encoder|decoder|transformer)\.layers\.(\d+)\.0\.(spatial|temporal)_(.*)$")


def is_original(checkpoint: Any) -> bool:
    """Whether a loaded file has the original's layout."""
    return (
        isinstance(checkpoint, dict) and "model" in checkpoint and "optim" in checkpoint and "format" not in checkpoint
    )


def map_name(name: str) -> str | None:
    """This project's name of an original tensor, None for one that carries nothing. An unknown name comes back
    unchanged."""
    for pattern, replacement in _RENAMES:
        if replacement is None:
            if re.search(pattern, name):
                return None
        else:
            name = re.sub(pattern, replacement, name)
    half = _HALF.match(name)
    if half:
        stack, block, kind, rest = half.groups()
        order = "ts" if stack == "decoder" else "st"
        return f"{stack}.halves.{2 * int(block) + order.index(kind[0])}.{rest}"
    head, _, tail = name.partition(".")
    if head in _INDEXED:
        target, offset = _INDEXED[head]
        index, _, leaf = tail.partition(".")
        return f"{target}.{int(index) - offset}.{leaf}"
    if head in ("to_pixels_first_frame", "to_pixels"):
        return f"to_pixels.{'first' if head.endswith('first_frame') else 'rest'}.{tail.partition('.')[2]}"
    return name


def convert(state: StateDict) -> StateDict:
    """One part's original state dict (tokenizer, dynamics or LAM) under this project's names."""
    converted = {}
    for name, tensor in state.items():
        target = map_name(name)
        if target is None:
            if name.endswith(".beta") and bool(tensor.any()):
                raise ValueError(
                    f"tensor '{name}' should be a buffer of zeros and is not: this is not a GenieRedux checkpoint"
                )
            continue
        converted[target] = tensor[0] if target == "quantizer.codebook" and tensor.dim() == 3 else tensor
    return converted


@dataclass(frozen=True)
class OriginalFacts:
    """What an original file's tensors cannot tell; None = as in the config.yaml beside it, if there, else a guess."""

    image_size: int | None = None
    action_dim: int | None = None  # of a guided model with action embeddings


@dataclass
class OriginalCheckpoint:
    """An original file's content under this project's names: `tokenizer` is empty for world models (their tokenizer
    is another file)."""

    config: ModelConfig
    step: int
    tokenizer: StateDict
    dynamics: StateDict
    lam: StateDict


def read_original(path: Path, checkpoint: dict, facts: OriginalFacts) -> OriginalCheckpoint:
    """Map a loaded original checkpoint. Sizes come from the tensors; `facts` and the `config.yaml` beside it, if there,
    add what tensors cannot tell."""
    model = checkpoint["model"]
    config = ModelConfig()
    sidecar = path.parent / "config.yaml"
    published: Any = OmegaConf.to_container(OmegaConf.load(sidecar)) if sidecar.exists() else {}
    parts = [part for part in published.values() if isinstance(part, dict)]
    image_size = facts.image_size or next((part["image_size"] for part in parts if "image_size" in part), None)
    dynamics: StateDict = {}
    lam: StateDict = {}
    tokenizer: StateDict = {}
    if "dynamics" in model:
        dynamics = convert(model["dynamics"])
        lam = convert(model["latent_action_model"]) if "latent_action_model" in model else {}
        config.model = "genie_redux" if lam else "genie_redux_guided"
        if lam:
            config.lam = _lam_config(lam)
            first, rest = (lam[f"to_pixels.{name}.bias"].shape[0] for name in ("first", "rest"))
            config.tokenizer.patch_size = math.isqrt(first // 3)
            config.tokenizer.temporal_patch_size = rest // first
            image_size = image_size or _image_size_of_lam(lam, config.tokenizer.patch_size)
        config.dynamics = _dynamics_config(dynamics, published.get("dynamics", {}), guided=not lam)
        config.dynamics.action_dim = facts.action_dim or config.dynamics.action_dim
    else:
        tokenizer = convert(model)
        config.model = "tokenizer"
        config.tokenizer = tokenizer_config(tokenizer, image_size or 64)
    config.tokenizer.image_size = image_size or 64
    if not published:
        _tell_sizes(path, config)
    return OriginalCheckpoint(config, int(checkpoint.get("step", 0)), tokenizer, dynamics, lam)


def _tell_sizes(path: Path, config: ModelConfig) -> None:
    logger.info("'%s' has no config.yaml beside it; inferred from its tensors:", path)
    kinds = {"tokenizer": ["tokenizer"], "genie_redux": ["lam", "dynamics"]}.get(config.model, ["dynamics"])
    for kind in kinds:
        part = getattr(config, kind)
        for field in fields(part):
            if field.name in _INFERRED:
                logger.info("  %s.%s: %s", kind, field.name, getattr(part, field.name))
    logger.info("  tokenizer.image_size: %s", config.tokenizer.image_size)


def _transformer_sizes(state: StateDict, stack: str) -> dict[str, Any]:
    dim_head = state[f"{stack}.halves.0.attention.q_scale"].shape[0]
    inner, dim = state[f"{stack}.halves.0.attention.to_q.weight"].shape
    hidden = state[f"{stack}.halves.0.feed_forward.contract.weight"].shape[1]
    halves = {int(name.split(".")[2]) for name in state if name.startswith(f"{stack}.halves.")}
    return {
        "dim_head": dim_head,
        "heads": inner // dim_head,
        "num_blocks": len(halves) // 2,
        "ff_mult": _ff_mult(hidden, dim),
    }


def _ff_mult(hidden: int, dim: int) -> float:
    for mult in (4.0, 2.0, 8.0, 1.0, 3.0, 6.0):
        if int(mult * (2 / 3) * dim) == hidden:
            return mult
    raise ValueError(f"feed-forward width {hidden} of model width {dim} fits no ff_mult of 1, 2, 3, 4, 6, 8")


def tokenizer_config(state: StateDict, image_size: int) -> TokenizerConfig:
    """Sizes of a tokenizer from its tensors (this project's names)."""
    codebook_size, codebook_dim = state["quantizer.codebook"].shape
    first, rest = state["to_pixels.first.bias"].shape[0], state["to_pixels.rest.bias"].shape[0]
    return TokenizerConfig(
        dim=state["quantizer.project_in.weight"].shape[1],
        codebook_size=codebook_size,
        codebook_dim=codebook_dim,
        image_size=image_size,
        patch_size=math.isqrt(first // 3),
        temporal_patch_size=rest // first,
        **_transformer_sizes(state, "encoder"),
    )


def _lam_config(state: StateDict) -> LamConfig:
    num_actions, codebook_dim = state["quantizer.codebook"].shape
    dim = state["quantizer.project_in.weight"].shape[1]
    return LamConfig(
        dim=dim, num_actions=num_actions, codebook_dim=codebook_dim, **_transformer_sizes(state, "encoder")
    )


def _image_size_of_lam(state: StateDict, patch_size: int) -> int:
    dim, grid_dim = state["to_action.0.weight"].shape
    return math.isqrt(grid_dim // dim) * patch_size


def _dynamics_config(state: StateDict, published: dict, guided: bool) -> DynamicsConfig:
    max_seq_len, dim = state["position_embedding.weight"].shape
    action_width = state["to_logits.weight"].shape[1] - dim
    config = DynamicsConfig(dim=dim, max_seq_len=max_seq_len, **_transformer_sizes(state, "transformer"))
    config.ff_mult = _ff_mult(state["transformer.halves.0.feed_forward.contract.weight"].shape[1], dim + action_width)
    config.sample_temperature = float(published.get("sample_temperature", 1.0))
    config.use_token = guided and bool(published.get("use_token", False))
    if guided:
        config.use_action_embeddings = action_width == dim
        config.action_dim = int(published.get("action_dim", 0)) or (
            None if config.use_action_embeddings else action_width
        )
    return config
