"""What a run starts from: the dataset's windows, and a model whose sizes and facts agree with them."""

import logging
from copy import deepcopy
from dataclasses import dataclass, fields
from pathlib import Path

from torch import nn

from data.data import ClipDataset
from data_generation.data.errors import under
from models.checkpoint import LoadedModel, load_lam, load_model, load_strictly, load_tokenizer
from models.config import ModelConfig
from models.construct_model import GUIDED, WORLD_MODELS, build_model, build_world_model
from models.genie_redux import GenieRedux
from models.lam import LatentActionModel
from models.tokenizer import Tokenizer
from training.config import DataConfig, EvalConfig, GenieReduxConfig, TrainConfig

logger = logging.getLogger(__name__)

# Settings that a new run may choose for weights that were trained otherwise; all else is a size of the weights.
_FREE_SETTINGS = {
    "gradient_checkpointing",
    "commitment_weight",
    "vq_loss_weight",
    "recons_loss_weight",
    "reconstruction_weight",
    "loss",
    "tdce_weight",
    "decoder_loss_weight",
    "min_mask_rate",
    "sample_temperature",
    "mask_schedule",
}


@dataclass
class Prepared:
    """A model to train and the configuration that its checkpoints will hold."""

    model: nn.Module
    config: ModelConfig


@dataclass(frozen=True)
class WindowChoice:
    """Which windows of a dataset: their split, frames per window, and frames between the starts of two."""

    split: str
    num_frames: int
    seq_step: int
    n_envs: int = 0


def open_windows(
    source: TrainConfig | EvalConfig, prefix: str, choice: WindowChoice, config: DataConfig
) -> ClipDataset:
    """Windows of the dataset that `<prefix>.dataset_name` names. ValueError/FileNotFoundError with the remedy."""
    root = Path(source.dataset_root_dpath)
    if not source.dataset_name:
        have = ", ".join(sorted(path.name for path in root.iterdir() if path.is_dir())) if root.is_dir() else ""
        raise ValueError(f"{prefix}.dataset_name is not set: name a folder below '{root}' (there: {have or 'none'})")
    path = root / source.dataset_name
    if not path.is_dir():
        raise FileNotFoundError(
            f"dataset '{source.dataset_name}' not found under '{root}': run 'python run.py generate config=…' "
            f"or set {prefix}.dataset_root_dpath"
        )
    seq_step = "data.seq_step" if prefix == "train" else "eval.seq_step"
    with under(prefix, on_bad_episode="data.on_bad_episode", seq_step=seq_step):
        return ClipDataset(path, choice.split, choice.num_frames, choice.seq_step, choice.n_envs, config.on_bad_episode)


def prepare_model(cfg: GenieReduxConfig, dataset: ClipDataset, resumed: Path | None) -> Prepared:
    """The model that `cfg` asks for: resumed, loaded (`model_fpath`, then `tokenizer_fpath` and `lam_fpath`) or
    fresh.

    Weights bring their sizes; the dataset brings the actions. ValueError if they do not agree, or if a world model
    would train on an untrained tokenizer.
    """
    config = own_model_config(cfg)
    if cfg.train.train_decoder_only and config.model != "tokenizer":
        raise ValueError(
            f"train.train_decoder_only=true is for a tokenizer, not for model={config.model}: leave it out"
        )
    for name in ("fine_tune", "train_decoder_only"):
        if getattr(cfg.train, name) and not resumed and _given_weights(cfg) is None:
            raise ValueError(f"train.{name}=true needs a trained {config.model}: set model_fpath=<…/model-<step>.pt>")
    if cfg.lam_fpath and config.model != "genie_redux":
        remedy = "set model_fpath" if config.model == "lam" else "leave it out"
        raise ValueError(f"lam_fpath={cfg.lam_fpath} is for genie_redux, not for model={config.model}: {remedy}")
    if cfg.train.use_decoder_loss and config.dynamics.decoder_loss_weight == 0:
        config.dynamics.decoder_loss_weight = 1.0
    if config.model in WORLD_MODELS:
        prepared = _world_model(cfg, config, dataset, resumed)
    else:
        prepared = _plain_model(cfg, config, resumed)
    check_frames(prepared.config, dataset)
    prepared.config.action_names = list(dataset.action_names)
    prepared.config.recorded_around = dataset.roi_table
    return prepared


def _given_weights(cfg: GenieReduxConfig) -> Path | None:
    """The model that training starts from. For a tokenizer, `tokenizer_fpath` and `model_fpath` mean the same."""
    given = (cfg.tokenizer_fpath if cfg.model == "tokenizer" else None) or cfg.model_fpath
    return Path(given) if given else None


def own_model_config(cfg: GenieReduxConfig) -> ModelConfig:
    """The model's part of a run's configuration, as a copy of its own."""
    return ModelConfig(**{field.name: deepcopy(getattr(cfg, field.name)) for field in fields(ModelConfig)})


def check_frames(config: ModelConfig, dataset: ClipDataset) -> None:
    """ValueError if the dataset's frames are not what the tokenizer takes; a warning if they show another part."""
    channels, height, width = dataset.frame_shape
    size = config.tokenizer.image_size
    if (channels, height, width) != (config.tokenizer.channels, size, size):
        raise ValueError(
            f"dataset frames are {width}x{height} with {channels} channels, the tokenizer takes {size}x{size} with "
            f"{config.tokenizer.channels}: set tokenizer.image_size for a new tokenizer, or generate with "
            f"config.connector.image_size={size}"
        )
    if config.action_names and config.recorded_around != dataset.roi_table:  # a trained model
        ours, theirs = (
            f"pictures around a character ({table})" if table else "whole pictures"
            for table in (config.recorded_around, dataset.roi_table)
        )
        logger.warning("the model was trained on %s, the dataset has %s", ours, theirs)


def check_actions(config: ModelConfig, dataset: ClipDataset, source: str) -> None:
    """ValueError if a guided model's number of actions is not the dataset's; a warning if only their names differ."""
    if config.model not in GUIDED:
        return
    names = list(dataset.action_names)
    if config.dynamics.action_dim != len(names):
        raise ValueError(
            f"{source} has {config.dynamics.action_dim} actions, the dataset has {len(names)} ({', '.join(names)}): "
            "use a dataset with the model's actions or a model trained on this one"
        )
    if config.action_names and config.action_names != names:
        logger.warning("%s names its actions %s, the dataset %s", source, config.action_names, names)


def _world_model(cfg: GenieReduxConfig, config: ModelConfig, dataset: ClipDataset, resumed: Path | None) -> Prepared:
    source = resumed or _given_weights(cfg)
    tokenizer_path = Path(cfg.tokenizer_fpath) if cfg.tokenizer_fpath and not resumed else None
    if source is None:
        if tokenizer_path is None:
            raise ValueError(
                f"model={config.model} needs a trained tokenizer: set tokenizer_fpath=<…/model-<step>.pt> "
                "(train one with 'python run.py genie_redux train config=tokenizer')"
            )
        _take_action_count(config, dataset)
        tokenizer = load_tokenizer(tokenizer_path)
        _keep_sizes(config, tokenizer.config, "tokenizer")
        config.tokenizer = tokenizer.config
    else:
        loaded = load_model(source, tokenizer_path=tokenizer_path)
        _check_kind(config, loaded, source)
        _adopt_sizes(config, loaded.config)
        check_actions(config, dataset, f"'{source}'")
        assert isinstance(loaded.model, GenieRedux)
        tokenizer = loaded.model.tokenizer
    lam = _given_lam(Path(cfg.lam_fpath), config) if cfg.lam_fpath and not resumed else None
    model = build_world_model(config, tokenizer)
    if source is not None:
        state = loaded.model.state_dict()
        if lam is not None:
            state = {name: tensor for name, tensor in state.items() if not name.startswith("lam.")}
        load_strictly(model, state, source, optional=None if lam is None else "lam.")
    if lam is not None:
        assert model.lam is not None
        model.lam.load_state_dict(lam.state_dict())
    return Prepared(model, config)


def _given_lam(path: Path, config: ModelConfig) -> LatentActionModel:
    """The latent action model in `path`, which must fit the tokenizer and the dynamics; its sizes go into `config`."""
    lam = load_lam(path)
    for name in ("image_size", "channels", "patch_size", "temporal_patch_size"):
        ours, theirs = getattr(config.tokenizer, name), getattr(lam.frames, name)
        if ours != theirs:
            raise ValueError(
                f"lam_fpath='{path}' was trained with tokenizer.{name}={theirs}, the tokenizer has {ours}: train a LAM "
                f"with tokenizer.{name}={ours} or give another tokenizer_fpath"
            )
    if lam.config.dim != config.dynamics.dim:
        raise ValueError(
            f"lam_fpath='{path}' has lam.dim={lam.config.dim}, which must equal dynamics.dim={config.dynamics.dim}: "
            f"set dynamics.dim={lam.config.dim} for new dynamics, or train a LAM with lam.dim={config.dynamics.dim}"
        )
    _keep_sizes(config, lam.config, "lam")
    return lam


def _plain_model(cfg: GenieReduxConfig, config: ModelConfig, resumed: Path | None) -> Prepared:
    """A tokenizer or a LAM by itself."""
    source = resumed or _given_weights(cfg)
    if source is None:
        return Prepared(build_model(config), config)
    loaded = load_model(source)
    _check_kind(config, loaded, source)
    _adopt_sizes(config, loaded.config)
    model = build_model(config)
    load_strictly(model, loaded.model.state_dict(), source)
    if cfg.train.train_decoder_only:
        assert isinstance(model, Tokenizer)
        model.train_decoder_only()
    return Prepared(model, config)


def _take_action_count(config: ModelConfig, dataset: ClipDataset) -> None:
    """The dataset tells the number of actions; a different one in the configuration is an error."""
    if config.model not in GUIDED:
        return
    count = len(dataset.action_names)
    if config.dynamics.action_dim not in (None, count):
        raise ValueError(
            f"dynamics.action_dim={config.dynamics.action_dim}, but the dataset has {count} actions "
            f"({', '.join(dataset.action_names)}): leave dynamics.action_dim unset"
        )
    config.dynamics.action_dim = count


def _check_kind(config: ModelConfig, loaded: LoadedModel, source: Path) -> None:
    ours, theirs = (GUIDED[0] if name in GUIDED else name for name in (config.model, loaded.config.model))
    if ours != theirs:
        kind = loaded.config.model
        raise ValueError(f"'{source}' holds a {kind}, not a {config.model}: set model={kind} or give another file")


def _adopt_sizes(config: ModelConfig, loaded: ModelConfig) -> None:
    """Put the sizes of loaded weights into `config`, whose free settings stay."""
    for part in ("tokenizer", "lam", "dynamics"):
        _keep_sizes(config, getattr(loaded, part), part)
    config.action_names, config.recorded_around = list(loaded.action_names), loaded.recorded_around


def _keep_sizes(config: ModelConfig, loaded: object, part: str) -> None:
    own = getattr(config, part)
    for field in fields(own):
        if field.name in _FREE_SETTINGS:
            continue
        theirs, ours = getattr(loaded, field.name), getattr(own, field.name)
        if theirs != ours and ours is not None:
            logger.info("%s.%s=%s comes from the checkpoint (configured: %s)", part, field.name, theirs, ours)
        setattr(own, field.name, theirs)
