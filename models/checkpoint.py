"""Saving and loading of weights with their configuration. Files of the original code are read too.

A checkpoint is `model-<step>.pt`: plain tensors and the configuration, loaded with `weights_only`. `config.yaml` next
to it is for people; `tokenizer.pt` next to a world model holds the tokenizer that it was trained with. In the form in
which models are shared, a folder of `model.safetensors` and `config.json`, a world model's tokenizer is in the weights.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor, nn

from data_generation.data.errors import UNSET, FieldError, MissingPathError, UserError, under
from data_generation.data.fields import check_fields
from data_generation.data.files import write_atomically
from models.base import Model
from models.config import ModelConfig, SuperResolutionConfig, TokenizerConfig
from models.construct_model import build_model, kind_of
from models.genie_redux import GenieRedux
from models.original import OriginalFacts, convert_checkpoint, is_original
from models.provenance import code_commit
from models.super_resolution import SuperResolution
from models.tensor_file import check_format, check_keys, misfit, read_content, shapes_only, write_file, written
from models.tokenizer import Tokenizer
from models.weights_folder import write_weights_folder

logger = logging.getLogger(__name__)

FORMAT = "genieredux-model"
FORMAT_VERSION = 1
NO_FACTS = OriginalFacts()
# Settings that decide which token ids a frame gets.
_CODE_SETTINGS = ("quantizer", "codebook_size", "fsq_levels", "image_size", "channels", "patch_size", "temporal")
# What the names of its tensors begin with that do not.
DECODER_NAMES = ("decoder.", "to_pixels.")
# Configuration keys under the names that older checkpoints have.
_OLD_NAMES = {"recorded_around": "roi_table"}

# What foreign values raise where sizes are computed and layers are made.
_UNFIT = (TypeError, ValueError, KeyError, AttributeError, ArithmeticError, RuntimeError, MemoryError, RecursionError)

M = TypeVar("M", bound=Model)


@dataclass
class LoadedModel(Generic[M]):
    """A model with trained weights, in eval mode, its configuration and its training step."""

    model: M
    config: ModelConfig
    step: int


# ---- models ---------------------------------------------------------------------------------------------------------


def save_model(path: Path, model: Model, config: ModelConfig, step: int) -> None:
    """Write `path` (model-<step>.pt) and, next to it, `config.yaml` and the model's frozen parts (`tokenizer.pt`)."""
    path = Path(path)
    plain, state = stored_config(config), model.state_dict()
    for part in model.frozen_parts:
        inner = getattr(model, part)
        plain[part] = asdict(inner.config)
        state = {name: tensor for name, tensor in state.items() if not name.startswith(f"{part}.")}
        _write_model(path.parent / f"{part}.pt", {**plain, "model": part}, step, inner.state_dict())
    with written(path.parent / "config.yaml"):
        write_atomically(path.parent / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(plain)), durable=True)
    _write_model(path, plain, step, state)


def _write_model(path: Path, config: dict[str, Any], step: int, state: dict[str, Tensor]) -> None:
    content = {"kind": config["model"], "step": step, "config": config, "model": state}
    write_file(path, FORMAT, FORMAT_VERSION, content)


def export_model(folder: Path, model: Model, config: ModelConfig, step: int) -> None:
    """Write `model.safetensors` (frozen parts included) and `config.json` into a folder that exists."""
    plain = stored_config(config) | {part: asdict(getattr(model, part).config) for part in model.frozen_parts}
    head: dict[str, Any] = {"format": FORMAT, "format_version": FORMAT_VERSION, "commit": code_commit()}
    write_weights_folder(folder, {**head, "kind": plain["model"], "step": step, "config": plain}, model.state_dict())


def stored_config(config: ModelConfig) -> dict[str, Any]:
    """The model's part of a configuration, as plain values."""
    return {name: value for name, value in asdict(config).items() if name in ModelConfig.__dataclass_fields__}


@dataclass
class StoredModel:
    """A checkpoint that is read but not yet built into a model, so that its configuration can still be changed.

    `tokenizer`: the trained one of a world model. `fresh` names tensors that keep their initial values.
    """

    path: Path
    config: ModelConfig
    step: int
    state: dict[str, Tensor]
    tokenizer: Tokenizer | None = None
    fresh: Sequence[str] = ()

    def build(self) -> Model:
        """The model of `config` with the stored weights; UserError where they do not fit."""
        # First without memory: the sizes in a file may be absurd, the tensors in it are as large as the file at most.
        with shapes_only(), _explained(self.path):
            self._check_depth()
            check_fit(build_model(self.config, self.tokenizer), self.state, self.path, self._optional)
        model = build_model(self.config, self.tokenizer)
        model.load_state_dict(self.state, strict=False)
        return model

    def take_part(self, part: str) -> "StoredModel":
        """A part with the tensors whose names begin with its own, without them; this model keeps the others."""
        prefix = f"{part}."
        inner = {name.removeprefix(prefix): tensor for name, tensor in self.state.items() if name.startswith(prefix)}
        self.state = {name: tensor for name, tensor in self.state.items() if not name.startswith(prefix)}
        return StoredModel(self.path, replace(self.config, model=part), self.step, inner)

    @property
    def _optional(self) -> list[str]:
        frozen = [f"{part}." for part in kind_of(self.config).model.frozen_parts] if self.tokenizer else []
        return [*frozen, *self.fresh]

    def _check_depth(self) -> None:
        for part in kind_of(self.config).parts:
            blocks = getattr(self.config, part).num_blocks
            if not f"{part}.".startswith(tuple(self._optional)) and blocks > len(self.state):
                problem = f"'{self.path}' has {len(self.state)} tensors and {part}.num_blocks={blocks}"
                raise UserError(f"{problem}: restore the file")


def read_model(path: Path, tokenizer_path: Path | None = None, facts: OriginalFacts = NO_FACTS) -> StoredModel:
    """Read a checkpoint of any kind, and the tokenizer of a world model; see `load_model`."""
    path = Path(path)
    content = read_checkpoint(path, facts)
    stored = StoredModel(path, parse_config(content["config"], path), content["step"], content["model"])
    stored.fresh = content["fresh"]
    if "tokenizer" in kind_of(stored.config).model.frozen_parts:
        stored.tokenizer = _frozen_tokenizer(stored, content["config"].get("tokenizer", {}), tokenizer_path)
        stored.config.tokenizer = stored.tokenizer.config
    return stored


def read_lam(path: Path) -> StoredModel:
    """Read a latent action model from its own checkpoint, or the one within a world model's."""
    path = Path(path)
    content = read_checkpoint(path, NO_FACTS)
    config = parse_config(content["config"], path)
    prefix = kind_of(config).lam_prefix
    if prefix is None:
        problem = f"holds a {config.model}, which has no latent action model"
        raise FieldError("path", path, problem, "give a checkpoint of config=lam or config=genie_redux")
    state = {name.removeprefix(prefix): t for name, t in content["model"].items() if name.startswith(prefix)}
    return StoredModel(path, replace(config, model="lam"), content["step"], state)


def load_model(
    path: Path, tokenizer_path: Path | None = None, facts: OriginalFacts = NO_FACTS, seed: int = 0
) -> LoadedModel[Any]:
    """Load a model of any kind with everything that it needs.

    `path`: a model-<step>.pt, of this project or of the original. `tokenizer_path` replaces the tokenizer next to a
    world model; `facts` are for original files that lack them. Raises UserError with a remedy, in particular where a
    world model has no trained tokenizer; its fields are `path` and `tokenizer_fpath`. Tensors that an original file
    lacks are drawn from `seed`.
    """
    stored = read_model(path, tokenizer_path, facts)
    with torch.random.fork_rng(devices=[], enabled=bool(stored.fresh)):
        if stored.fresh:
            torch.manual_seed(seed)
        model = stored.build()
    return LoadedModel(model.eval(), stored.config, stored.step)


def load_world_model(path: Path, tokenizer_path: Path | None = None) -> LoadedModel[GenieRedux]:
    """As `load_model`; UserError where the file holds something else than a world model with MaskGIT dynamics."""
    loaded = load_model(path, tokenizer_path=tokenizer_path)
    if not isinstance(loaded.model, GenieRedux):
        reason = "which is only trained and evaluated" if loaded.model.is_world_model else "not a world model"
        remedy = "give the model-<step>.pt of a genie_redux or genie_redux_guided"
        raise FieldError("path", path, f"holds a {loaded.config.model}, {reason}", remedy)
    return loaded


def load_tokenizer(path: Path, facts: OriginalFacts = NO_FACTS) -> Tokenizer:
    """Load a tokenizer from a tokenizer's checkpoint, or from the tokenizer.pt next to a world model."""
    loaded = load_model(path, facts=facts)
    if not isinstance(loaded.model, Tokenizer):
        problem = f"holds a {loaded.config.model}, not a tokenizer"
        raise FieldError("path", path, problem, "give the path of a tokenizer's model-<step>.pt")
    return loaded.model


def load_super_resolution(path: Path, frames: TokenizerConfig | SuperResolutionConfig) -> SuperResolution:
    """Load a model that upsamples the frames of another one. FieldError of `path` for another kind or another size."""
    loaded = load_model(path)
    if not isinstance(loaded.model, SuperResolution):
        problem = f"holds a {loaded.config.model}, which upsamples nothing"
        raise FieldError("path", path, problem, "give the model-<step>.pt of 'python run.py super_resolution train'")
    own = (loaded.model.small_size, loaded.model.config.channels)
    if own != (frames.image_size, frames.channels):
        problem = f"upsamples frames of {own[0]} pixels and {own[1]} channels, those of the model have"
        problem += f" {frames.image_size} and {frames.channels}"
        raise FieldError("path", path, problem, "train one with another super_resolution.image_size")
    return loaded.model


def read_checkpoint(path: Path, facts: OriginalFacts = NO_FACTS) -> dict[str, Any]:
    """A checkpoint's content in this project's form; a file of the original is converted, with the help of `facts`.

    Keys: `step`, `config`, `model` (tensors by name) and `fresh`, names of tensors that keep their initial values.
    """
    content = read_content(path, "checkpoint", "model-*.pt")
    what = "model checkpoint"
    if is_original(content):
        content = convert_checkpoint(path, content, facts)
    else:
        content = {**check_format(content, path, FORMAT, FORMAT_VERSION, what), "fresh": []}
    check_keys(content, path, what, step=int, config=dict, model=dict)
    if content["step"] < 0 or not all(type(name) is str for name in content["model"]):
        raise UserError(f"'{path}' is not a valid {what}: its step or a tensor's name is wrong; restore the file")
    return content


def parse_config(plain: dict[str, Any], path: Path) -> ModelConfig:
    """A `ModelConfig` of a checkpoint's plain values; UserError where a key is unknown or a value cannot be.

    Text is taken as it is: what OmegaConf would interpolate is refused.
    """
    renamed = {_OLD_NAMES.get(name, name): value for name, value in plain.items()}
    with _explained(path):
        if (found := _interpolation(renamed)) is not None:
            raise UserError(f"'{found:.60}' in the configuration in '{path}' is not a value: restore the file")
        config = OmegaConf.to_object(OmegaConf.merge(_schema(), renamed))
        assert isinstance(config, ModelConfig)
        check_fields(config)
        kind_of(config)
    return config


@cache
def _schema() -> DictConfig:
    """`ModelConfig` as OmegaConf merges values into it, which leaves it as it is."""
    schema: DictConfig = OmegaConf.structured(ModelConfig)
    return schema


def _interpolation(value: Any) -> str | None:
    """A text in plain values that OmegaConf would replace by something else."""
    if isinstance(value, str):
        return value if "${" in value else None
    inner = [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return next((found for item in inner if (found := _interpolation(item)) is not None), None)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """What a configuration that another program wrote may lead to is a UserError that names its file."""
    try:
        yield
    except FieldError as error:
        raise UserError(f"configuration in '{path}': {error}; restore the file") from error
    except UserError:
        raise
    except (OmegaConfBaseException, *_UNFIT) as error:
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        problem = f"configuration in '{path}' is not understood: {reason:.200}"
        raise UserError(f"{problem}; restore the file") from error


def check_fit(model: nn.Module, state: dict[str, Tensor], path: Path, optional: Sequence[str] = ()) -> None:
    """UserError that names an unknown or missing tensor, or one of another shape or type or with odd values.

    Tensors whose names begin with one of `optional` may be missing.
    """
    own = model.state_dict()
    unknown = sorted(set(state) - set(own))
    missing = sorted(name for name in set(own) - set(state) if not name.startswith(tuple(optional)))
    unfit = [f"{n}: {reason}" for n in own if n in state and (reason := misfit(own[n], state[n]))]
    for kind, names in (("unknown", unknown), ("missing", missing), ("unusable", unfit)):
        if names:
            raise UserError(f"'{path}' does not fit the model: {len(names)} {kind} tensors, first '{names[0]:.200}'")


def load_strictly(model: nn.Module, state: dict[str, Tensor], path: Path, optional: Sequence[str] = ()) -> None:
    """Load a state dict that fits as `check_fit` says; UserError otherwise."""
    check_fit(model, state, path, optional)
    model.load_state_dict(state, strict=False)


def _frozen_tokenizer(stored: StoredModel, trained_with: dict[str, Any], tokenizer_path: Path | None) -> Tokenizer:
    """The tokenizer at `tokenizer_path`, within a world model's weights, or next to them.

    UserError if its ids mean something else, a warning if it has other weights than the one in or next to the model.
    `trained_with`: what is known of the configuration of the tokenizer that the world model was trained with.
    """
    inner, path = stored.take_part("tokenizer"), stored.path
    if tokenizer_path is None and inner.state:
        tokenizer = inner.build()
        assert isinstance(tokenizer, Tokenizer)
        return tokenizer
    next_to = path.parent / "tokenizer.pt"
    if tokenizer_path is None and not next_to.is_file():
        problem = f"world model '{path}' has no tokenizer.pt next to it"
        raise MissingPathError("tokenizer_fpath", UNSET, problem, "put its tokenizer there or set {tokenizer_fpath}")
    with under("", path="tokenizer_fpath"):
        tokenizer = load_tokenizer(tokenizer_path or next_to, OriginalFacts(trained_with.get("image_size")))
    for name in _CODE_SETTINGS:
        ours, theirs = trained_with.get(name), getattr(tokenizer.config, name)
        has_it = name in trained_with and (name != "fsq_levels" or tokenizer.config.quantizer == "fsq")
        if has_it and ours != theirs:
            raise UserError(f"'{path}' was trained with tokenizer.{name}={ours}, the tokenizer given has {theirs}")
    if tokenizer_path is not None and not _encodes_as(tokenizer, inner.state or _tensors_of(next_to)):
        problem = f"'{path}' was trained with another tokenizer than '{tokenizer_path}', whose tokens mean other things"
        logger.warning("%s: fine-tune on them, or leave it out to take the model's own", problem)
    return tokenizer


def _encodes_as(tokenizer: Tokenizer, state: dict[str, Tensor]) -> bool:
    """Whether a tokenizer gives the same token ids as the one with the tensors `state`, as far as they are known."""
    own = tokenizer.state_dict()
    encoder = {name: tensor for name, tensor in state.items() if not name.startswith(DECODER_NAMES)}
    return all(name in own and torch.equal(own[name], tensor.to(own[name].dtype)) for name, tensor in encoder.items())


def _tensors_of(path: Path) -> dict[str, Tensor]:
    """Of a checkpoint; none where it cannot be read."""
    try:
        tensors: dict[str, Tensor] = read_checkpoint(path)["model"]
    except (OSError, UserError):
        return {}
    return tensors
