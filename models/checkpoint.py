"""Saving and loading of weights with their configuration. Files of the original code are read too.

A checkpoint is `model-<step>.pt`: plain tensors and the configuration, loaded with `weights_only`. `config.yaml`
beside it is for
people; `tokenizer.pt` beside a world model holds the tokenizer that it was trained with.
"""

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from data_generation.data.files import atomic_path, write_atomically
from models.config import ModelConfig
from models.construct_model import WORLD_MODELS, build_model, build_world_model
from models.genie_redux import GenieRedux
from models.import_original import OriginalFacts, is_original, read_original
from models.lam import LatentActionModel
from models.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

FORMAT = "genieredux-model"
FORMAT_VERSION = 1
NO_FACTS = OriginalFacts()


@dataclass
class LoadedModel:
    """A model with trained weights, in eval mode, its configuration and its training step."""

    model: nn.Module
    config: ModelConfig
    step: int


def save_atomically(content: Any, path: Path) -> None:
    """torch.save to a temporary name, then rename: a killed run leaves no half file under `path`."""
    with atomic_path(path) as temporary:
        torch.save(content, temporary)


def save_model(path: Path, model: nn.Module, config: ModelConfig, step: int) -> None:
    """Write `path` (model-<step>.pt), `config.yaml` and, for a world model, `tokenizer.pt` beside it, each whole or
    not at all."""
    path = Path(path)
    plain = model_config(config)
    if isinstance(model, GenieRedux):
        plain["tokenizer"] = asdict(model.tokenizer.config)
        tokenizer_path = path.parent / "tokenizer.pt"
        save_atomically(
            _content("tokenizer", {**plain, "model": "tokenizer"}, step, model.tokenizer.state_dict()), tokenizer_path
        )
        state = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("tokenizer.")}
    else:
        state = model.state_dict()
    write_atomically(path.parent / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(plain)))
    save_atomically(_content(config.model, plain, step, state), path)


def _content(kind: str, config: dict, step: int, state: dict[str, Tensor]) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "kind": kind,
        "step": step,
        "config": config,
        "model": state,
    }


def model_config(config: ModelConfig) -> dict[str, Any]:
    """The model's part of a configuration, as plain values."""
    plain = asdict(config)
    return {name: plain[name] for name in ("model", "tokenizer", "lam", "dynamics", "action_names", "recorded_around")}


def load_model(
    path: Path, device: str = "cpu", tokenizer_path: Path | None = None, facts: OriginalFacts = NO_FACTS
) -> LoadedModel:
    """Load a model with everything that it needs.

    `path`: a model-<step>.pt, of this project or of the original. `tokenizer_path` replaces the tokenizer beside a
    world model; `facts` are for original files that cannot tell them. Raises FileNotFoundError and ValueError with a
    remedy, in particular where a world model has no trained tokenizer.
    """
    path = Path(path)
    checkpoint = read_checkpoint(path)
    if is_original(checkpoint):
        return _load_original(path, checkpoint, device, tokenizer_path, facts)
    config = parse_config(checkpoint["config"], path)
    if config.model not in WORLD_MODELS:
        model = build_model(config)
        load_strictly(model, checkpoint["model"], path)
    else:
        tokenizer = load_tokenizer(_tokenizer_beside(path, tokenizer_path))
        model = build_world_model(config, tokenizer)
        _check_codes(config, tokenizer, path)
        config.tokenizer = tokenizer.config
        load_strictly(model, checkpoint["model"], path, optional="tokenizer.")
    return LoadedModel(model.to(device).eval(), config, int(checkpoint["step"]))


def load_tokenizer(path: Path, facts: OriginalFacts = NO_FACTS) -> Tokenizer:
    """Load a tokenizer from a tokenizer's checkpoint, or from the tokenizer.pt beside a world model."""
    path = Path(path)
    loaded = load_model(path, facts=facts)
    if not isinstance(loaded.model, Tokenizer):
        raise ValueError(
            f"'{path}' holds a {loaded.config.model}, not a tokenizer: give the path of a tokenizer's model-<step>.pt"
        )
    return loaded.model


def load_lam(path: Path, facts: OriginalFacts = NO_FACTS) -> LatentActionModel:
    """Load a latent action model from its own checkpoint, or the one within a world model's."""
    path = Path(path)
    checkpoint = read_checkpoint(path)
    if is_original(checkpoint):
        original = read_original(path, checkpoint, facts)
        config, state = original.config, original.lam
    else:
        config = parse_config(checkpoint["config"], path)
        prefix = "" if config.model == "lam" else "lam."
        state = {n.removeprefix(prefix): t for n, t in checkpoint["model"].items() if n.startswith(prefix)}
    if config.model not in ("lam", "genie_redux"):
        raise ValueError(
            f"'{path}' holds a {config.model}, which has no latent action model: give a checkpoint of config=lam or "
            "config=genie_redux"
        )
    lam = LatentActionModel(config.lam, config.tokenizer)
    load_strictly(lam, state, path)
    return lam.eval()


def load_plain(path: Path, name: str, remedy: str) -> Any:
    """What torch.save wrote, without executing anything in it; ValueError with `name` and `remedy` if unreadable."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many kinds: a foreign or cut file is one user error
        raise ValueError(f"{name} cannot be read ({type(error).__name__}): {remedy}") from error


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint's content, tensors mapped from the file, without executing anything in it."""
    if not path.is_file():
        there = sorted(entry.name for entry in path.parent.glob("model-*.pt")) if path.parent.is_dir() else []
        hint = f"the folder has {', '.join(there)}" if there else "no checkpoint is in that folder"
        raise FileNotFoundError(f"checkpoint '{path}' not found: {hint}")
    content = load_plain(path, f"checkpoint '{path}'", "it is cut, or not a checkpoint")
    if is_original(content):
        return content
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"'{path}' is not a model checkpoint of this project or of the original GenieRedux")
    if content["format_version"] > FORMAT_VERSION:
        raise ValueError(
            f"'{path}' has format version {content['format_version']}; this code reads up to {FORMAT_VERSION}"
        )
    return content


def parse_config(plain: dict[str, Any], path: Path) -> ModelConfig:
    """A `ModelConfig` of a checkpoint's plain values; ValueError where a key is unknown."""
    try:
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(ModelConfig), plain))
    except Exception as error:
        raise ValueError(f"configuration in '{path}' is not understood: {str(error).splitlines()[0]}") from error
    assert isinstance(config, ModelConfig)
    return config


def load_strictly(model: nn.Module, state: dict[str, Tensor], path: Path, optional: str | None = None) -> None:
    """Load a state dict; an unknown, missing or misshapen tensor is an error that names it. Names that begin with
    `optional` may be missing."""
    own = model.state_dict()
    unknown = sorted(set(state) - set(own))
    missing = sorted(name for name in set(own) - set(state) if not (optional and name.startswith(optional)))
    shapes = [
        f"{n} {tuple(state[n].shape)} instead of {tuple(own[n].shape)}"
        for n in own
        if n in state and own[n].shape != state[n].shape
    ]
    for kind, names in (("unknown", unknown), ("missing", missing), ("misshapen", shapes)):
        if names:
            raise ValueError(f"'{path}' does not fit the model: {len(names)} {kind} tensors, first '{names[0]}'")
    model.load_state_dict(state, strict=False)


def _tokenizer_beside(path: Path, tokenizer_path: Path | None) -> Path:
    if tokenizer_path is not None:
        return Path(tokenizer_path)
    beside = path.parent / "tokenizer.pt"
    if not beside.is_file():
        raise FileNotFoundError(
            f"world model '{path}' has no tokenizer.pt beside it: put its tokenizer there or set tokenizer_fpath"
        )
    return beside


def _check_codes(config: ModelConfig, tokenizer: Tokenizer, path: Path) -> None:
    for name in ("quantizer", "codebook_size", "image_size", "patch_size"):
        ours, theirs = getattr(config.tokenizer, name), getattr(tokenizer.config, name)
        if ours != theirs:
            raise ValueError(f"'{path}' was trained with tokenizer.{name} {ours}, the tokenizer given has {theirs}")


def _load_original(
    path: Path, checkpoint: dict[str, Any], device: str, tokenizer_path: Path | None, facts: OriginalFacts
) -> LoadedModel:
    original = read_original(path, checkpoint, facts)
    config = original.config
    if original.tokenizer:
        model = build_model(config)
        load_strictly(model, original.tokenizer, path)
        return LoadedModel(model.to(device).eval(), config, original.step)
    tokenizer = load_tokenizer(_tokenizer_beside(path, tokenizer_path), OriginalFacts(config.tokenizer.image_size))
    config.tokenizer = tokenizer.config
    if config.model != "genie_redux" and config.dynamics.action_dim is None:
        raise ValueError(
            f"'{path}' does not tell its number of actions: put its config.yaml beside it, or run "
            "'python run.py genie_redux import source=… target=… action_dim=<number>'"
        )
    world_model = build_world_model(config, tokenizer)
    state = {f"dynamics.{name}": tensor for name, tensor in original.dynamics.items()}
    state |= {f"lam.{name}": tensor for name, tensor in original.lam.items()}
    embedding = world_model.dynamics.action_embedding
    if embedding is not None:
        logger.warning(
            "'%s' holds no action embeddings (the original did not save them): they start from the seed", path
        )
        state["dynamics.action_embedding.weight"] = embedding.weight.detach()
    load_strictly(world_model, state, path, optional="tokenizer.")
    return LoadedModel(world_model.to(device).eval(), config, original.step)
