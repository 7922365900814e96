"""Checkpoints of the original GenieRedux code, converted into this project's form before anything loads them.

A file is {"step", "model", "optim", "scaler"}; "model" is the tokenizer's flat state dict, or {"dynamics": …} and, for
GenieRedux, {"latent_action_model": …}. Names are mapped strictly; sizes are inferred from the tensors.
"""

import logging
import math
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from data_generation.data.errors import UserError, one_line
from data_generation.data.reading import read_file
from models.config import DynamicsConfig, LamConfig, TokenizerConfig

logger = logging.getLogger(__name__)

StateDict = dict[str, Tensor]
_GUESSED_IMAGE_SIZE = 64
# Of the configuration next to an original file, which has about 2 kB, and of a size in it.
_MAX_YAML_BYTES = 1 << 20
_MAX_SIZE = 1 << 16

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
    *("codebook_dim", "num_actions", "max_seq_len", "action_dim", "use_action_embeddings", "use_token", "image_size"),
)
_LAYER = re.compile(r"^(encoder|decoder|transformer)\.layers\.(\d+)\.0\.(spatial|temporal)_(.*)$")


def is_original(checkpoint: Any) -> bool:
    """Whether a loaded file has the original's layout."""
    return (
        isinstance(checkpoint, dict) and "model" in checkpoint and "optim" in checkpoint and "format" not in checkpoint
    )


def map_name(name: str) -> str | None:
    """This project's name of an original tensor, None for one without information; an unknown name is kept."""
    for pattern, replacement in _RENAMES:
        if replacement is None:
            if re.search(pattern, name):
                return None
        else:
            name = re.sub(pattern, replacement, name)
    if layer := _LAYER.match(name):
        stack, block, kind, rest = layer.groups()
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
                raise UserError(
                    f"tensor '{name}' should be a buffer of zeros and is not: this is not a GenieRedux checkpoint"
                )
            continue
        converted[target] = tensor[0] if target == "quantizer.codebook" and tensor.dim() == 3 else tensor
    return converted


@dataclass(frozen=True)
class OriginalFacts:
    """What an original file's tensors cannot tell; None = as in the config.yaml next to it, if there, else a guess."""

    image_size: int | None = None
    # Number of actions of a guided model with action embeddings.
    action_dim: int | None = None


def convert_checkpoint(path: Path, checkpoint: dict[str, Any], facts: OriginalFacts) -> dict[str, Any]:
    """A loaded original checkpoint as the content of one of this project.

    Sizes come from the tensors; `facts` and the `config.yaml` next to the file, if there, add what tensors cannot
    tell. A world model's `config.tokenizer` holds only what is known of its tokenizer, which is another file. `fresh`
    names tensors that the file lacks and that keep their initial values. UserError for a file that is not understood.
    """
    sidecar = path.parent / "config.yaml"
    published = _read_published(sidecar) if sidecar.exists() else {}
    known = (part["image_size"] for part in published.values() if part["image_size"])
    image_size = facts.image_size or next(known, None)
    try:
        if "dynamics" in checkpoint["model"]:
            converted = _world_model(path, checkpoint["model"], published.get("dynamics", {}), image_size, facts)
        else:
            state = convert(checkpoint["model"])
            sizes = asdict(tokenizer_config(state, image_size or _GUESSED_IMAGE_SIZE))
            converted = {"config": {"model": "tokenizer", "tokenizer": sizes}, "model": state, "fresh": []}
    except UserError:
        raise
    except (AttributeError, TypeError, ValueError, LookupError, ArithmeticError, RuntimeError) as error:
        problem = f"'{path}' is not a valid GenieRedux checkpoint ({type(error).__name__}: {error!s:.100})"
        raise UserError(f"{problem}: restore the file") from error
    if not published:
        _log_sizes(path, converted["config"])
    return {"step": checkpoint.get("step", 0), **converted}


class _PlainLoader(yaml.SafeLoader):
    """YAML without aliases, of which a small file can hold more than memory does."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it has aliases")
        return super().compose_node(parent, index)


def _read_published(path: Path) -> dict[str, Any]:
    """The original's configuration by part; of each part, the facts that tensors do not tell, if they are there."""
    try:
        content = yaml.load(read_file(path, _MAX_YAML_BYTES), _PlainLoader)
        if content is None:
            return {}
        return {name: _facts_of(part) for name, part in content.items() if isinstance(part, dict)}
    except UserError:
        raise
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, AttributeError, TypeError, ValueError) as error:
        line = f"'{path}' is not the configuration of a model ({one_line(error, 120)}): restore or remove it"
        raise UserError(line) from error


def _facts_of(part: dict[str, Any]) -> dict[str, Any]:
    """The values of a part that are used, of their types; ValueError for others. Nothing is interpolated."""
    kept: dict[str, Any] = {"image_size": None, "action_dim": None, "use_token": False, "sample_temperature": 1.0}
    for name in kept:
        value = part.get(name)
        if value is None:
            continue
        if name == "use_token":
            valid = isinstance(value, bool)
        elif name == "sample_temperature":
            # YAML 1.1 takes 1e-3 for a text.
            value = float(value) if isinstance(value, str) else value
            valid = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf
        else:
            valid = type(value) is int and 0 <= value <= _MAX_SIZE
        if not valid:
            raise ValueError(f"{name}={value!r:.40}")
        kept[name] = value
    return kept


def _world_model(
    path: Path, model: dict[str, StateDict], published: dict, image_size: int | None, facts: OriginalFacts
) -> dict[str, Any]:
    """`config`, `model` and `fresh` of a world model."""
    dynamics, lam = convert(model["dynamics"]), convert(model.get("latent_action_model", {}))
    config: dict[str, Any] = {"model": "genie_redux" if lam else "genie_redux_guided"}
    tokenizer: dict[str, Any] = {"codebook_size": dynamics["token_embedding.weight"].shape[0] - 1}
    if lam:
        config["lam"] = asdict(_lam_config(lam))
        tokenizer["patch_size"], tokenizer["temporal_patch_size"] = _patch_sizes(lam)
        image_size = image_size or _image_size_of_lam(lam, tokenizer["patch_size"])
    if image_size is not None:
        tokenizer["image_size"] = image_size
    sizes = _dynamics_config(dynamics, published, guided=not lam)
    sizes.action_dim = facts.action_dim or sizes.action_dim
    if not lam and sizes.action_dim is None:
        raise UserError(
            f"'{path}' does not tell its number of actions: put its config.yaml next to it, or run "
            "'python run.py genie_redux import source=… target=… action_dim=<number>'"
        )
    state = {f"{part}.{name}": t for part, own in (("dynamics", dynamics), ("lam", lam)) for name, t in own.items()}
    fresh = []
    if not lam and sizes.use_action_embeddings:
        logger.warning(
            "'%s' holds no action embeddings (the original did not save them): random ones take their place", path
        )
        fresh.append("dynamics.action_embedding.weight")
    config |= {"tokenizer": tokenizer, "dynamics": asdict(sizes)}
    return {"config": config, "model": state, "fresh": fresh}


def _log_sizes(path: Path, config: dict[str, Any]) -> None:
    logger.info("'%s' has no config.yaml next to it; inferred from its tensors:", path)
    for part in ("lam", "dynamics", "tokenizer"):
        for name, value in config.get(part, {}).items():
            if name in _INFERRED:
                logger.info("  %s.%s: %s", part, name, value)


def _transformer_sizes(state: StateDict, stack: str) -> dict[str, Any]:
    dim_head = state[f"{stack}.halves.0.attention.q_scale"].shape[0]
    inner, dim = state[f"{stack}.halves.0.attention.to_q.weight"].shape
    hidden = state[f"{stack}.halves.0.feed_forward.contract.weight"].shape[1]
    layers = {int(name.split(".")[2]) for name in state if name.startswith(f"{stack}.halves.")}
    return {
        "dim_head": dim_head,
        "heads": inner // dim_head,
        "num_blocks": len(layers) // 2,
        "ff_mult": _ff_mult(hidden, dim),
    }


def _ff_mult(hidden: int, dim: int) -> float:
    for mult in (4.0, 2.0, 8.0, 1.0, 3.0, 6.0):
        if int(mult * (2 / 3) * dim) == hidden:
            return mult
    raise UserError(f"feed-forward width {hidden} of model width {dim} fits no ff_mult of 1, 2, 3, 4, 6, 8")


def tokenizer_config(state: StateDict, image_size: int) -> TokenizerConfig:
    """Sizes of a tokenizer from its tensors (this project's names)."""
    codebook_size, codebook_dim = state["quantizer.codebook"].shape
    patch_size, temporal_patch_size = _patch_sizes(state)
    return TokenizerConfig(
        dim=state["quantizer.project_in.weight"].shape[1],
        codebook_size=codebook_size,
        codebook_dim=codebook_dim,
        image_size=image_size,
        patch_size=patch_size,
        temporal_patch_size=temporal_patch_size,
        **_transformer_sizes(state, "encoder"),
    )


def _patch_sizes(state: StateDict) -> tuple[int, int]:
    """Patch size in space and in time of a tokenizer or LAM, whose frames have 3 channels."""
    first, rest = state["to_pixels.first.bias"].shape[0], state["to_pixels.rest.bias"].shape[0]
    return math.isqrt(first // 3), rest // first


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
        config.action_dim = published.get("action_dim") or (None if config.use_action_embeddings else action_width)
    return config
