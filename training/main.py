"""Entry points of `python run.py genie_redux train|eval`."""

import logging
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn

from data.data import ClipDataset
from data_generation.data.errors import UserError, under
from models.genie_redux import GenieRedux
from training.clips import ClipSource, FrameSource, TrainingBatches
from training.config import GenieReduxConfig, TrainConfig
from training.evaluation import Evaluation
from training.loading import WindowChoice, open_windows, prepare_model
from training.report import summary
from training.run_folder import RunFolder
from training.runtime import Runtime, make_runtime
from training.token_cache import TokenCache, check_cache
from training.tracker import Tracker, WandbSettings
from training.trainer import Trainer
from training.validation import Validator

logger = logging.getLogger(__name__)


def train(cfg: GenieReduxConfig) -> Path:
    """Train the model that `cfg` names and return its last checkpoint (model-<step>.pt).

    Runs in every process of a launcher alike, or alone. User errors are ValueError or FileNotFoundError in one line;
    a stop by signal is SystemExit after saving.
    """
    check_train_config(cfg)
    runtime = make_runtime(cfg.device, cfg.precision, cfg.train.grad_accum)
    folder = RunFolder(run_dpath(cfg))
    point = folder.resume_point(cfg.train.resume_ckpt)
    windows = open_windows(cfg.train, "train", _choice(cfg, "train"), cfg.data)
    torch.manual_seed(cfg.seed)
    prepared = prepare_model(cfg, windows, point.model if point else None)
    source_of = _clip_sources(cfg, prepared.model, runtime)
    batches = TrainingBatches(source_of(windows), cfg.train, cfg.seed, runtime)
    trainer = Trainer(cfg, runtime, prepared, batches, folder)
    if point:
        trainer.load_state(point.state)
    trainer.validator = _validator(cfg, runtime, folder, source_of)
    if runtime.is_main:
        logger.info("%s", _start_line(trainer, windows))
    tracker = Tracker(folder.path, _wandb_settings(cfg.train), asdict(cfg), trainer.step, runtime.is_main)
    runtime.accelerator.wait_for_everyone()
    trainer.run(tracker)
    return folder.checkpoint(trainer.step)


def evaluate(cfg: GenieReduxConfig) -> Path:
    """Evaluate `eval.model_fpath` (or `model_fpath`) and return the folder with metrics.json, plots and pictures."""
    if cfg.eval.enable_cache:
        logger.warning("eval.enable_cache has no effect: an evaluation encodes each clip once, so nothing is kept")
    runtime = make_runtime(cfg.device, cfg.precision)
    folder = Evaluation(cfg, runtime).run()
    if runtime.is_main:
        print(summary(folder))
    return folder


def _wandb_settings(train: TrainConfig) -> WandbSettings:
    names = (train.wandb_mode, train.wandb_project, train.wandb_name, train.wandb_dpath)
    return WandbSettings(*names, mode_key="train.wandb_mode")


def run_dpath(cfg: GenieReduxConfig) -> Path:
    """Folder of a training run: `<save_root_dpath>/<model>/<wandb_name>`."""
    return Path(cfg.train.save_root_dpath) / cfg.model / (cfg.train.wandb_name or cfg.model)


def check_train_config(cfg: GenieReduxConfig) -> None:
    """ValueError for numbers that cannot work."""
    for name in ("batch_size", "grad_accum", "num_train_steps", "num_frames", "log_every"):
        if (value := getattr(cfg.train, name)) < 1:
            raise ValueError(f"train.{name}={value} must be at least 1")
    check_cache(cfg)


def _choice(cfg: GenieReduxConfig, split: str) -> WindowChoice:
    train = cfg.train
    # Validation windows do not overlap: the whole set counts once.
    seq_step = cfg.data.seq_step if split == "train" else max(cfg.data.seq_step, train.num_frames)
    return WindowChoice(split, train.num_frames, seq_step, train.n_envs)


def _clip_sources(cfg: GenieReduxConfig, model: nn.Module, runtime: Runtime) -> Callable[[ClipDataset], ClipSource]:
    """How windows become a model's inputs: with cached token ids under `train.enable_cache`, else as frames."""
    if cfg.train.enable_cache and isinstance(model, GenieRedux):
        with under("train"):
            return TokenCache(cfg.train, model, runtime).source
    return lambda windows: FrameSource(windows, runtime.device)


def _validator(
    cfg: GenieReduxConfig, runtime: Runtime, folder: RunFolder, source_of: Callable[[ClipDataset], ClipSource]
) -> Validator | None:
    if cfg.train.validate_every <= 0:
        return None
    try:
        windows = open_windows(cfg.train, "train", _choice(cfg, "validation"), cfg.data)
    except ValueError as error:
        raise UserError(f"{error}; or train without validation: train.validate_every=0") from error
    return Validator(cfg, runtime, windows, folder.path, source_of(windows))


def _start_line(trainer: Trainer, windows: ClipDataset) -> str:
    if trainer.step >= trainer.cfg.train.num_train_steps:
        return f"trained already: {trainer.folder.checkpoint(trainer.step)}"
    parameters = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    runtime, train = trainer.runtime, trainer.cfg.train
    precision = "bf16" if runtime.amp_dtype else "fp32"
    return (
        f"training {trainer.config.model} ({parameters / 1e6:.1f} M parameters) on {len(windows)} clips from step "
        f"{trainer.step} to {train.num_train_steps}: {runtime.num_processes} × {train.batch_size} × {train.grad_accum} "
        f"clips a step, {runtime.device.type} {precision}, into {trainer.folder.path}"
    )
