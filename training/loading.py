"""What a run starts from: the dataset's clips, and a model whose sizes and facts agree with them."""

import logging
from copy import deepcopy
from dataclasses import dataclass, fields
from pathlib import Path

from data.data import ClipDataset
from data_generation.data.errors import UNSET, FieldError, MissingPathError, UserError, under
from models.base import Model
from models.checkpoint import StoredModel, load_strictly, load_tokenizer, read_lam, read_model
from models.components.history import check_history
from models.config import ModelConfig
from models.construct_model import build_model, kind_of
from training.config import EvalConfig, TrainConfig, WeightPaths

logger = logging.getLogger(__name__)

# What a new run may choose for weights that were trained with another choice; all else is a size of the weights.
TRAIN_ONLY_FIELDS = {
    "gradient_checkpointing",
    "commitment_weight",
    "vq_loss_weight",
    "recons_loss_weight",
    "reconstruction_weight",
    "changed_pixel_weight",
    "change_floor",
    "frozen",
    "persistence",
    "loss",
    "tdce_weight",
    "decoder_loss_weight",
    "min_mask_rate",
    "history",
    "sample_temperature",
    "mask_schedule",
    "unmask_order",
    "history_tokens",
    "reconstructed_share",
}
# Settings of a LAM's frames, which must be those of the tokenizer.
FRAME_SETTINGS = ("image_size", "channels", "patch_size", "temporal_patch_size")


@dataclass
class ModelAndConfig:
    """A model to train and the configuration that its checkpoints will hold."""

    model: Model
    config: ModelConfig


@dataclass(frozen=True)
class ClipChoice:
    """Which clips of a dataset: their split, frames per clip, and frames between the starts of two."""

    split: str
    num_frames: int
    seq_step: int
    n_envs: int = 0


def open_clips(source: TrainConfig | EvalConfig, choice: ClipChoice, on_bad_episode: str) -> ClipDataset:
    """Clips of the dataset that `source.dataset_name` names; a FieldError of `source` where there is none."""
    root = Path(source.dataset_root_dpath)
    if not source.dataset_name:
        have = ", ".join(sorted(path.name for path in root.iterdir() if path.is_dir())) if root.is_dir() else ""
        remedy = f"name a folder below '{root}' (there: {have or 'none'})"
        raise FieldError("dataset_name", UNSET, "is not set", remedy)
    path = root / source.dataset_name
    if not path.is_dir():
        remedy = "run 'python run.py generate config=…' or set {dataset_root_dpath}"
        raise MissingPathError("dataset_name", source.dataset_name, f"not found under '{root}'", remedy)
    return ClipDataset(path, choice.split, choice.num_frames, choice.seq_step, choice.n_envs, on_bad_episode)


def prepare_model(
    config: ModelConfig, weights: WeightPaths, train: TrainConfig, dataset: ClipDataset, resumes: bool = False
) -> ModelAndConfig:
    """The model that `config` and `weights` ask for: loaded, then given other parts, or fresh.

    Weights bring their sizes; the dataset brings the actions. UserError if they do not agree, if a world model would
    train on an untrained tokenizer, or on histories that cannot be. `resumes`: the weights are of this very run.
    """
    config = deepcopy(config)
    # For a tokenizer, `tokenizer_fpath` and `model_fpath` mean the same.
    own = weights.of_part(config.model) or weights.model
    _check_weights(config, weights, train, own)
    if "dynamics" in kind_of(config).parts:
        with under("dynamics.history"):
            check_history(config.dynamics.history, train.num_frames)
    if train.use_decoder_loss and config.dynamics.decoder_loss_weight == 0:
        config.dynamics.decoder_loss_weight = 1.0
    model = _fresh(config, weights, dataset) if own is None else _trained(config, weights, dataset, own, resumes)
    if train.train_decoder_only:
        model.train_decoder_only()
    check_frames(config, dataset)
    config.action_names, config.roi_table = list(dataset.action_names), dataset.roi_table
    config.n_skip_frames, config.levels = dataset.n_skip_frames, dataset.levels
    return ModelAndConfig(model, config)


def _check_weights(config: ModelConfig, weights: WeightPaths, train: TrainConfig, own: Path | None) -> None:
    """FieldError for weights and ways of training that are not for this kind of model."""
    kind = kind_of(config)
    if train.train_decoder_only and not kind.model.decoder_trains_alone:
        problem = f"is for a tokenizer, not for model={config.model}"
        raise FieldError("train.train_decoder_only", "true", problem, "leave it out")
    for name in ("fine_tune", "train_decoder_only"):
        if getattr(train, name) and own is None:
            problem = f"needs a trained {config.model}"
            raise FieldError(f"train.{name}", "true", problem, "set model_fpath=<…/model-<step>.pt>")
    if weights.lam and not kind.lam_prefix:
        remedy = "leave it out" if kind.lam_prefix is None else "set model_fpath"
        raise FieldError("lam_fpath", weights.lam, f"is for genie_redux, not for model={config.model}", remedy)
    # Super-resolution trains on what a tokenizer makes of a share of its inputs.
    makes_inputs = config.super_resolution.reconstructed_share > 0 and "super_resolution" in kind.parts
    if not makes_inputs and weights.tokenizer != own:
        check_tokenizer(config, weights)


def check_tokenizer(config: ModelConfig, weights: WeightPaths) -> None:
    """FieldError for a tokenizer for a model that has none."""
    if weights.tokenizer and "tokenizer" not in kind_of(config).model.frozen_parts:
        raise FieldError("tokenizer_fpath", weights.tokenizer, f"is not for model={config.model}", "leave it out")


def _fresh(config: ModelConfig, weights: WeightPaths, dataset: ClipDataset) -> Model:
    """A model with fresh weights, but for the parts that `weights` names; what they bring goes into `config`."""
    kind, tokenizer = kind_of(config), None
    if "tokenizer" in kind.model.frozen_parts:
        if weights.tokenizer is None:
            raise UserError(
                f"model={config.model} needs a trained tokenizer: set tokenizer_fpath=<…/model-<step>.pt> "
                "(train one with 'python run.py genie_redux train config=tokenizer')"
            )
        if kind.takes_actions:
            _take_action_count(config, dataset)
        with under("", path="tokenizer_fpath"):
            tokenizer = load_tokenizer(weights.tokenizer)
        _adopt_part(config, tokenizer.config, "tokenizer")
        config.tokenizer = tokenizer.config
    lam = _given_lam(weights.lam, config) if weights.lam else None
    if lam is None and kind.lam_prefix and config.lam.frozen:
        remedy = "set lam_fpath=<…/model-<step>.pt> of 'genie_redux train config=lam', or {lam.frozen}=false"
        raise FieldError("lam.frozen", "true", "needs a trained latent action model", remedy)
    model = build_model(config, tokenizer)
    if lam is not None:
        load_strictly(model.get_submodule("lam"), lam.state, lam.path)
    return model


def _trained(config: ModelConfig, weights: WeightPaths, dataset: ClipDataset, own: Path, resumes: bool) -> Model:
    """The model of the checkpoint `own`, with the tokenizer and the LAM of `weights` in place of its own.

    The checkpoint's sizes go into `config`, which decides how it is trained.
    """
    with under("", path="model_fpath" if own == weights.model else f"{config.model}_fpath"):
        stored = read_model(own, weights.tokenizer)
    _check_kind(config, stored)
    _adopt_sizes(config, stored.config)
    if resumes:
        config.lam.frozen = stored.config.lam.frozen
    elif kind_of(config).lam_prefix and config.lam.frozen != stored.config.lam.frozen:
        logger.info("lam.frozen=%s: in '%s' it was %s", config.lam.frozen, own, stored.config.lam.frozen)
    check_actions(config, dataset, f"'{own}'")
    if weights.lam:
        lam = _given_lam(weights.lam, config, config.lam.num_actions if config.dynamics.latent_embeddings else None)
        others = {name: tensor for name, tensor in stored.state.items() if not name.startswith("lam.")}
        stored.state = others | {f"lam.{name}": tensor for name, tensor in lam.state.items()}
    stored.config = config
    return stored.build()


def attach_tokenizer(model: Model, tokenizer_fpath: Path | None) -> None:
    """Give the model the tokenizer of its `reconstructed_share`, if it has one. FieldError if none is named then.

    The tokenizer stays outside of the checkpoints, so a resumed run names it again.
    """
    if model.reconstructed_share and tokenizer_fpath is None:
        problem = "needs the tokenizer that makes these inputs"
        remedy = "set tokenizer_fpath=<…/model-<step>.pt>"
        raise FieldError("super_resolution.reconstructed_share", model.reconstructed_share, problem, remedy)
    if model.reconstructed_share and tokenizer_fpath is not None:
        with under("", path="tokenizer_fpath"):
            model.reconstruct_with(load_tokenizer(tokenizer_fpath))


def _given_lam(path: Path, config: ModelConfig, num_embeddings: int | None = None) -> StoredModel:
    """The latent action model in `path`, which must fit the tokenizer and the dynamics; its sizes go into `config`.

    `num_embeddings`: of latent actions that the dynamics has learnt; None = it has learnt none.
    """
    with under("", path="lam_fpath"):
        lam = read_lam(path)
    for name in FRAME_SETTINGS:
        ours, theirs = getattr(config.tokenizer, name), getattr(lam.config.tokenizer, name)
        if ours != theirs:
            problem = f"was trained with tokenizer.{name}={theirs}, the tokenizer has {ours}"
            remedy = f"train a LAM with tokenizer.{name}={ours} or give another tokenizer_fpath"
            raise FieldError("lam_fpath", path, problem, remedy)
    own, dim = lam.config.lam, config.dynamics.dim
    if own.dim != dim and not config.dynamics.latent_embeddings:
        problem = f"has lam.dim={own.dim}, which must equal dynamics.dim={dim}"
        remedy = f"set dynamics.dim={own.dim} for new dynamics, or train a LAM with lam.dim={dim}"
        raise FieldError("lam_fpath", path, problem, remedy)
    if num_embeddings not in (None, own.num_actions):
        problem = (
            f"has {own.num_actions} latent actions, the dynamics of model_fpath has embeddings of {num_embeddings}"
        )
        remedy = f"train a LAM with lam.num_actions={num_embeddings}, or new dynamics (without model_fpath)"
        raise FieldError("lam_fpath", path, problem, remedy)
    _adopt_part(config, own, "lam")
    return lam


# ---- does it fit the dataset? ---------------------------------------------------------------------------------------


def check_length(num_frames: int, model: Model, longest: int | None = None) -> None:
    """FieldError if clips are too short for the model, or have more frames than `longest` (None = any number)."""
    if longest is not None and num_frames > longest:
        problem = f"must be at most {longest} for this model, by its dynamics.max_seq_len"
        raise FieldError("num_frames", num_frames, problem, "use shorter clips")
    if num_frames < model.min_frames:
        remedy = "use longer clips (single frames are for a tokenizer with temporal=none)"
        raise FieldError("num_frames", num_frames, f"must be at least {model.min_frames} for this model", remedy)


def check_frames(config: ModelConfig, dataset: ClipDataset) -> None:
    """UserError if the dataset's frames are not what the tokenizer takes; a warning if they show another part."""
    channels, height, width = dataset.frame_shape
    part = kind_of(config).frames_of
    wanted = getattr(config, part)
    size = wanted.image_size
    if height != width:
        raise UserError(
            f"dataset frames are {width}x{height}, and models take square ones: generate with "
            f"config.connector.image_size={size}, or import with --image-size {size}"
        )
    if (channels, height, width) != (wanted.channels, size, size):
        name = part.replace("_", " ")
        others = f"{part}.image_size" if height != size else f"{part}.channels={channels}"
        generated = f", or generate with config.connector.image_size={size}" if height != size else ""
        raise UserError(
            f"dataset frames are {width}x{height} with {channels} channels, the {name} takes {size}x{size} with "
            f"{wanted.channels}: set {others} for a new {name}{generated}"
        )
    # Only a trained model has names of actions.
    if config.action_names and config.roi_table != dataset.roi_table:
        ours, theirs = (
            f"frames around a character ({table})" if table else "whole frames"
            for table in (config.roi_table, dataset.roi_table)
        )
        logger.warning("the model was trained on %s, the dataset has %s", ours, theirs)
    skips = config.n_skip_frames, dataset.n_skip_frames
    predicts_frames = {"lam", "dynamics"} & set(kind_of(config).parts)
    if predicts_frames and None not in skips and skips[0] != skips[1]:
        logger.warning("the model was trained on steps of %s emulator frames, the dataset has steps of %s", *skips)


def check_actions(config: ModelConfig, dataset: ClipDataset, source: str) -> None:
    """UserError if the dataset has another number of actions than a model takes, or one of them in another place.

    A warning if names differ otherwise: a model is fine-tuned to other buttons.
    """
    if not kind_of(config).takes_actions:
        return
    names = list(dataset.action_names)
    _check_has_actions(config, dataset)
    if config.dynamics.action_dim != len(names):
        raise UserError(
            f"{source} has {config.dynamics.action_dim} actions, the dataset has {len(names)} ({', '.join(names)}): "
            "use a dataset with the model's actions or a model trained on this one"
        )
    if config.action_names == names:
        return
    known = config.action_names
    if moved := [name for name in names if name in known and known.index(name) != names.index(name)]:
        raise UserError(
            f"{source} has the actions {', '.join(known)}, the dataset has {', '.join(moved)} in another order "
            f"({', '.join(names)}), so that one would be taken for another: generate with 'config.connector."
            f"valid_action_combos=[{','.join(_in_order_of(known, names))}]', or use a model trained on this dataset"
        )
    if known:
        logger.warning("%s names its actions %s, the dataset %s", source, config.action_names, names)


def _in_order_of(known: list[str], names: list[str]) -> list[str]:
    """`names`, each that a model knows in its place there."""
    others = iter([name for name in names if name not in known])
    return [name if name in names else next(others) for name in known]


def _check_has_actions(config: ModelConfig, dataset: ClipDataset) -> None:
    if not dataset.action_names:
        raise FieldError(
            "model",
            config.model,
            f"it takes recorded actions, and dataset '{dataset.dataset_dpath}' has none",
            "use a dataset with actions, or set {model} to tokenizer, lam or genie_redux, which learns its own",
        )


def _take_action_count(config: ModelConfig, dataset: ClipDataset) -> None:
    """The dataset brings the number of actions; a different one in the configuration is an error."""
    _check_has_actions(config, dataset)
    count, configured = len(dataset.action_names), config.dynamics.action_dim
    if configured not in (None, count):
        problem = f"the dataset has {count} actions ({', '.join(dataset.action_names)})"
        raise FieldError("dynamics.action_dim", configured, problem, "leave it unset")
    config.dynamics.action_dim = count


# ---- what weights bring into a configuration ------------------------------------------------------------------------


def _check_kind(config: ModelConfig, stored: StoredModel) -> None:
    if kind_of(config).architecture != kind_of(stored.config).architecture:
        kind = stored.config.model
        raise UserError(f"'{stored.path}' holds a {kind}, not a {config.model}: set model={kind} or give another file")


def _adopt_sizes(config: ModelConfig, stored: ModelConfig) -> None:
    """Put the sizes of stored weights into `config`, whose `TRAIN_ONLY_FIELDS` stay."""
    for part in ("tokenizer", "lam", "dynamics", "super_resolution"):
        _adopt_part(config, getattr(stored, part), part)
    config.action_names, config.roi_table = list(stored.action_names), stored.roi_table
    config.n_skip_frames = stored.n_skip_frames


def _adopt_part(config: ModelConfig, stored: object, part: str) -> None:
    own = getattr(config, part)
    for field in fields(own):
        if field.name in TRAIN_ONLY_FIELDS:
            continue
        theirs, ours = getattr(stored, field.name), getattr(own, field.name)
        if theirs != ours and ours is not None:
            logger.info("%s.%s=%s comes from the checkpoint (configured: %s)", part, field.name, theirs, ours)
        setattr(own, field.name, theirs)
