"""Entry points of `python run.py genie_redux train|eval`. The root configuration is taken apart here, and only here."""

import logging
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, fields
from pathlib import Path
from typing import cast

import torch

from data.data import ClipDataset
from data_generation.data.errors import FieldError, UserError, under
from models.base import Model
from models.config import ModelConfig
from models.genie_redux import GenieRedux
from training import evaluation
from training.clips import ClipSource, FrameSource, TrainingBatches
from training.config import (
    EvaluationSetup,
    GenieReduxConfig,
    TrainConfig,
    TrainerConfig,
    ValidationConfig,
    WeightPaths,
)
from training.loading import ClipChoice, open_clips, prepare_model
from training.report import summary
from training.run_folder import RunFolder
from training.runtime import Runtime, make_runtime
from training.token_cache import TokenCache
from training.tracker import MetricsLogger, WandbSettings
from training.trainer import Trainer
from training.validation import Validator, check_validation

logger = logging.getLogger(__name__)


def train(cfg: GenieReduxConfig) -> Path:
    """Train the model that `cfg` names and return its last checkpoint (model-<step>.pt).

    Runs in every process of a launcher alike, or alone. User errors are UserError in one line; a stop by signal is
    SystemExit after saving.
    """
    runtime = make_runtime(cfg.device, cfg.precision, cfg.train.grad_accum)
    folder = RunFolder(run_dpath(cfg))
    with under("train", model_fpath="model_fpath"):
        point = folder.resume_point(cfg.train.resume_ckpt)
    clips = _open_clips(cfg, "train")
    torch.manual_seed(cfg.seed)
    weights = WeightPaths(point.model) if point else weight_paths(cfg)
    prepared = prepare_model(model_config(cfg), weights, cfg.train, clips)
    with under("train"):
        _check_clips(cfg.train, prepared.model)
        source_of = _clip_sources(cfg.train, prepared.model, runtime)
    batches = TrainingBatches(source_of(clips), cfg.train, cfg.seed, runtime)
    trainer_config = TrainerConfig(cfg.train, cfg.optimizer, cfg.seed, cfg.compile)
    trainer = Trainer(trainer_config, runtime, prepared, batches, folder)
    if point:
        trainer.load_state(point.state)
    trainer.validator = _validator(cfg, trainer, source_of)
    if runtime.is_main:
        logger.info("%s", _start_line(trainer, clips))
    with under("train", mode="train.wandb_mode"):
        metrics = MetricsLogger(folder.path, _wandb_settings(cfg.train), asdict(cfg), trainer.step, runtime.is_main)
    runtime.accelerator.wait_for_everyone()
    trainer.run(metrics)
    return folder.checkpoint(trainer.step)


def evaluate(cfg: GenieReduxConfig) -> Path:
    """Evaluate `eval.model_fpath` (or `model_fpath`) and return the folder with metrics.json, plots and images."""
    if cfg.eval.enable_cache:
        logger.warning("eval.enable_cache has no effect: an evaluation encodes each clip once, so nothing is kept")
    runtime = make_runtime(cfg.device, cfg.precision)
    folder = evaluation.evaluate(evaluation_setup(cfg), runtime)
    if runtime.is_main:
        print(summary(folder))
    return folder


# ---- the configuration's parts --------------------------------------------------------------------------------------


def model_config(cfg: GenieReduxConfig) -> ModelConfig:
    """The model's part of a run's configuration, as a copy of its own."""
    return ModelConfig(**{field.name: deepcopy(getattr(cfg, field.name)) for field in fields(ModelConfig)})


def weight_paths(cfg: GenieReduxConfig) -> WeightPaths:
    """The trained weights that the configuration names."""
    names = (cfg.model_fpath, cfg.tokenizer_fpath, cfg.lam_fpath)
    return WeightPaths(*(Path(name) if name else None for name in names))


def evaluation_setup(cfg: GenieReduxConfig) -> EvaluationSetup:
    """What is evaluated: `eval.model_fpath` or `model_fpath`; for a tokenizer, `tokenizer_fpath` means the same."""
    given = weight_paths(cfg)
    named = Path(cfg.eval.model_fpath) if cfg.eval.model_fpath else given.model
    own = named or given.of_part(cfg.model)
    return EvaluationSetup(
        eval=cfg.eval,
        weights=WeightPaths(own, given.tokenizer, given.lam),
        on_bad_episode=cfg.data.on_bad_episode,
        sample_temperature=cfg.dynamics.sample_temperature,
        mask_schedule=cfg.dynamics.mask_schedule,
        seed=cfg.seed,
        settings={"device": cfg.device, "precision": cfg.precision},
    )


def validation_config(cfg: GenieReduxConfig) -> ValidationConfig:
    """Validation samples and measures as `eval` says."""
    sampling = (cfg.eval.num_first_frames, cfg.eval.inference_steps, cfg.eval.fid_weights)
    return ValidationConfig(cfg.train, *sampling, seed=cfg.seed)


def _wandb_settings(train: TrainConfig) -> WandbSettings:
    return WandbSettings(train.wandb_mode, train.wandb_project, train.wandb_name, train.wandb_dpath)


def run_dpath(cfg: GenieReduxConfig) -> Path:
    """Folder of a training run: `<save_root_dpath>/<model>/<wandb_name>`."""
    return Path(cfg.train.save_root_dpath) / cfg.model / (cfg.train.wandb_name or cfg.model)


# ---- the run's parts ------------------------------------------------------------------------------------------------


def _open_clips(cfg: GenieReduxConfig, split: str) -> ClipDataset:
    train = cfg.train
    # Validation clips do not overlap: the whole set counts once.
    seq_step = cfg.data.seq_step if split == "train" else max(cfg.data.seq_step, train.num_frames)
    choice = ClipChoice(split, train.num_frames, seq_step, train.n_envs)
    with under("train", seq_step="data.seq_step", on_bad_episode="data.on_bad_episode"):
        return open_clips(train, choice, cfg.data.on_bad_episode)


def _check_clips(train: TrainConfig, model: Model) -> None:
    """FieldError if clips are too short for the model; a warning if it has no use for cached token ids."""
    if train.num_frames < model.min_frames:
        raise FieldError("num_frames", train.num_frames, f"must be at least {model.min_frames} for this model")
    if train.enable_cache and not model.takes_token_ids:
        kind = type(model).__name__
        logger.warning("train.enable_cache has no effect: a %s trains on frames, not on token ids", kind)


def _clip_sources(train: TrainConfig, model: Model, runtime: Runtime) -> Callable[[ClipDataset], ClipSource]:
    """How clips become a model's inputs: with cached token ids under `enable_cache`, else as frames."""
    if train.enable_cache and model.takes_token_ids:
        return TokenCache(train, cast(GenieRedux, model), runtime).source
    return lambda clips: FrameSource(clips, runtime.device)


def _validator(
    cfg: GenieReduxConfig, trainer: Trainer, source_of: Callable[[ClipDataset], ClipSource]
) -> Validator | None:
    if cfg.train.validate_every <= 0:
        return None
    config = validation_config(cfg)
    check_validation(config, trainer.model)
    try:
        clips = _open_clips(cfg, "validation")
    except UserError as error:
        raise UserError(f"{error}; or train without validation: train.validate_every=0") from error
    return Validator(config, trainer.runtime, clips, trainer.folder.path, source_of(clips))


def _start_line(trainer: Trainer, clips: ClipDataset) -> str:
    if trainer.step >= trainer.cfg.train.num_train_steps:
        return f"trained already: {trainer.folder.checkpoint(trainer.step)}"
    parameters = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    runtime, train = trainer.runtime, trainer.cfg.train
    precision = "bf16" if runtime.amp_dtype else "fp32"
    return (
        f"training {trainer.config.model} ({parameters / 1e6:.1f} M parameters) on {len(clips)} clips from step "
        f"{trainer.step} to {train.num_train_steps}: {runtime.num_processes} × {train.batch_size} × {train.grad_accum} "
        f"clips a step, {runtime.device.type} {precision}, into {trainer.folder.path}"
    )
