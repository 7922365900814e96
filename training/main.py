"""Entry points of `python run.py genie_redux train|eval` and `python run.py super_resolution train|eval`.

The root configuration is taken apart here, and only here.
"""

import logging
from collections.abc import Callable
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, cast

import torch
from accelerate.utils import gather_object

from data.data import ClipDataset
from data_generation.data.errors import FieldError, UserError, under
from data_generation.data.invocation import invocation_of
from data_generation.data.lock import locked
from models.base import Model
from models.config import ModelConfig
from models.construct_model import kind_of
from models.world_model import WorldModel
from training import evaluation
from training.clip_cache import ClipCache, kept_outputs
from training.clips import ClipSource, FrameSource, TrainingBatches
from training.compiled_code import CompiledCode, kept_code
from training.config import (
    EvaluationSetup,
    GenieReduxConfig,
    TrainConfig,
    TrainerConfig,
    ValidationConfig,
    WeightPaths,
)
from training.loading import TRAIN_ONLY_FIELDS, ClipChoice, attach_tokenizer, check_length, open_clips, prepare_model
from training.optimizer import schedule_notes
from training.report import summary
from training.run_folder import RunFolder, read_state
from training.run_record import changes, check_all_resume, flattened, make_record, overrides_to_repeat, resume_remedy
from training.run_report import RunFacts, RunReport, make_facts
from training.runtime import Runtime, make_runtime
from training.tracker import MetricsLogger, TrackerSettings, WandbSettings
from training.trainer import Trainer
from training.validation import Validator, check_validation, sampling_of

logger = logging.getLogger(__name__)

# The clips of a run, in its record.
_CONTENT = "clips"
# Of a model's parts: what a run may choose for weights, but cannot change when it is resumed.
_CHOSEN_ONCE = {"frozen"}
# What a resumed run cannot change, besides the sizes of what it trains.
_FIXED = {
    *("model", "seed", "model_fpath", "tokenizer_fpath", "lam_fpath", "data.seq_step"),
    *("train.num_frames", "train.n_envs", "train.train_decoder_only"),
}


def train(cfg: GenieReduxConfig) -> Path:
    """Train the model that `cfg` names and return its last checkpoint (model-<step>.pt).

    Runs in every process of a launcher alike, or alone. User errors are UserError in one line; a stop by signal is
    SystemExit after saving.
    """
    train = cfg.train
    runtime = make_runtime(cfg.device, cfg.precision, train.grad_accum, train.process_timeout, train.sharded)
    folder = RunFolder(run_dpath(cfg))
    remedy = "wait for it or stop it, or give this run another train.wandb_name"
    with locked(folder.path, remedy) if runtime.is_main else nullcontext():
        code_dpath = Path(cfg.train.save_root_dpath) / "compiled"
        with kept_code(code_dpath, runtime) if cfg.compile else nullcontext() as code:
            return _train(cfg, runtime, folder, code)


def _train(cfg: GenieReduxConfig, runtime: Runtime, folder: RunFolder, code: CompiledCode | None) -> Path:
    with under("train", model_fpath="model_fpath"):
        point = folder.resume_point(cfg.train.resume_ckpt)
        found = gather_object([f"step {point.step}" if point else "nothing"])
        check_all_resume(found, folder.path, "resume_ckpt", cfg.train.resume_ckpt, "save_root_dpath")
    clips = _open_clips(cfg, "train")
    record, state = run_record(cfg, clips, runtime.num_processes), read_state(point.state) if point else None
    if point and state is not None and runtime.is_main:
        if point.state.parent.resolve() == folder.path.resolve():
            _check_job(cfg, record, state.get("run"), folder.path.name)
        _check_record(cfg, record, state.get("run"), point.state.parent.name)
    if state is not None and isinstance(before := state.get("run"), dict):
        # Weights that are not named again are those of the run.
        record = {**before, **{key: value for key, value in record.items() if value is not None}}
    weights = WeightPaths(point.model) if point else weight_paths(cfg)
    # Only fresh weights come from the global generator, which training leaves alone.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(cfg.seed)
        prepared = prepare_model(model_config(cfg), weights, cfg.train, clips, resumes=point is not None)
    attach_tokenizer(prepared.model, weight_paths(cfg).tokenizer)
    with under("train"):
        _check_clips(cfg.train, prepared.model)
        source_of = _clip_sources(cfg.train, prepared.model, runtime)
    batches = TrainingBatches(source_of(clips), cfg.train, cfg.seed, runtime)
    trainer_config = TrainerConfig(cfg.train, cfg.optimizer, cfg.seed, cfg.compile)
    trainer = Trainer(trainer_config, runtime, prepared, batches, folder)
    trainer.record, trainer.compiled_code = record, code
    if point and state is not None:
        trainer.load_state(state, point.state)
    trainer.validator = _validator(cfg, trainer, source_of)
    if runtime.is_main:
        report = RunReport(folder.path, _facts(cfg, trainer), runtime.device, runtime.amp_dtype)
        trainer.report = report.resumed() if point else report
        logger.info("%s", _start_line(trainer, clips))
        for note in schedule_notes(cfg.optimizer, cfg.train.num_train_steps):
            logger.info("%s", note)
    with under("train", mode="train.wandb_mode"):
        metrics = MetricsLogger(folder.path, _tracker_settings(cfg.train), asdict(cfg), trainer.step, runtime.is_main)
    runtime.wait_for_everyone()
    trainer.run(metrics)
    return folder.checkpoint(trainer.step)


def evaluate(cfg: GenieReduxConfig) -> Path:
    """Evaluate `eval.model_fpath` (or `model_fpath`) and return the folder with metrics.json, plots and images."""
    if cfg.eval.enable_cache:
        logger.warning("eval.enable_cache has no effect: an evaluation encodes each clip once, so nothing is kept")
    runtime = make_runtime(cfg.device, cfg.precision, timeout=cfg.eval.process_timeout)
    facts = make_facts(cfg, runtime.device, runtime.num_processes)
    folder = evaluation.evaluate(evaluation_setup(cfg), runtime)
    if runtime.is_main:
        RunReport(folder, facts, runtime.device, runtime.amp_dtype).write()
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
    keys = {"eval.model_fpath": Path(cfg.eval.model_fpath) if cfg.eval.model_fpath else None}
    keys |= {"model_fpath": given.model, f"{cfg.model}_fpath": given.of_part(cfg.model)}
    key = next((key for key, path in keys.items() if path), "eval.model_fpath")
    return EvaluationSetup(
        eval=cfg.eval,
        weights=WeightPaths(keys.get(key), given.tokenizer, given.lam),
        super_resolution=Path(cfg.super_resolution_fpath) if cfg.super_resolution_fpath else None,
        on_bad_episode=cfg.data.on_bad_episode,
        sample_temperature=cfg.dynamics.sample_temperature,
        mask_schedule=cfg.dynamics.mask_schedule,
        unmask_order=cfg.dynamics.unmask_order,
        history_tokens=cfg.dynamics.history_tokens,
        seed=cfg.seed,
        model_key=key,
        settings={
            "device": cfg.device,
            "precision": cfg.precision,
            "tokenizer_fpath": cfg.tokenizer_fpath,
            "super_resolution_fpath": cfg.super_resolution_fpath,
        },
    )


def validation_config(cfg: GenieReduxConfig) -> ValidationConfig:
    """Validation samples and measures as `eval` says."""
    names = ("num_first_frames", "inference_method", "inference_steps", "dream_length", "fid_weights")
    return ValidationConfig(cfg.train, seed=cfg.seed, **{name: getattr(cfg.eval, name) for name in names})


def _tracker_settings(train: TrainConfig) -> TrackerSettings:
    wandb = WandbSettings(train.wandb_mode, train.wandb_project, train.wandb_name, train.wandb_dpath)
    return TrackerSettings(train.trackers, wandb)


def run_dpath(cfg: GenieReduxConfig) -> Path:
    """Folder of a training run: `<save_root_dpath>/<model>/<wandb_name>`."""
    return Path(cfg.train.save_root_dpath) / cfg.model / (cfg.train.wandb_name or cfg.model)


def run_record(cfg: GenieReduxConfig, clips: ClipDataset, num_processes: int) -> dict[str, Any]:
    """What this run is, as its training states keep it."""
    files = {name: getattr(cfg, name) for name in ("model_fpath", "tokenizer_fpath", "lam_fpath")}
    return make_record(cfg, files, {"train.num_processes": num_processes, _CONTENT: clips.digest()})


def _check_job(cfg: GenieReduxConfig, record: dict[str, Any], stored: Any, run: str) -> None:
    """FieldError where the folder holds the `run` of another job of a multirun.

    Its jobs are named by their number, which is another one where values were put before those of the last time.
    """
    swept = invocation_of(cfg).swept
    for key, value in record.items() if isinstance(stored, dict) else ():
        is_swept = key in swept or key.startswith(tuple(f"{name}." for name in swept))
        # Of files, the record knows only what they hold.
        if is_swept and not key.endswith("_fpath") and (before := stored.get(key, value)) != value:
            problem = f"'{run}' was trained with {before}, and jobs are named by their number"
            remedy = f"put new values last, or name runs by value: train.wandb_name='run-${{{{{key}}}}}'"
            raise FieldError(key, value, problem, remedy)


def _check_record(cfg: GenieReduxConfig, record: dict[str, Any], stored: Any, run: str) -> None:
    """FieldError where the `run` that is resumed was another; what else has changed is logged.

    `stored`: None for a run from before runs had records.
    """
    if not isinstance(stored, dict):
        return
    kind = kind_of(model_config(cfg))
    sizes = {
        f"{part}.{field.name}"
        for part in kind.parts
        if part not in kind.model.frozen_parts
        for field in fields(getattr(cfg, part))
        if field.name not in TRAIN_ONLY_FIELDS - _CHOSEN_ONCE
    }
    # What the code of that time could not choose, it did as the defaults do.
    defaults = {key: value for key, value in flattened(asdict(ModelConfig())).items() if key in sizes}
    stored = defaults | stored
    has_other_clips = stored.get(_CONTENT, record[_CONTENT]) != record[_CONTENT]
    fixed = sizes | _FIXED | ({"train.dataset_name"} if has_other_clips else set())
    # Of files, the record knows only what they hold.
    before = {key: stored[key] for key in fixed & stored.keys() if not key.endswith("_fpath")}
    remedy = resume_remedy(run, overrides_to_repeat(cfg, before), "(train.resume_ckpt=no, another train.wandb_name)")
    changed = changes(record, stored, fixed, remedy)
    if has_other_clips:
        problem = "its episodes are not those of the run"
        raise FieldError("train.dataset_name", cfg.train.dataset_name, problem, remedy)
    if changed:
        logger.info("resuming with other settings: %s", changed)


# ---- the run's parts ------------------------------------------------------------------------------------------------


def _open_clips(cfg: GenieReduxConfig, split: str) -> ClipDataset:
    train = cfg.train
    # Validation clips do not overlap: the whole set counts once.
    seq_step = cfg.data.seq_step if split == "train" else max(cfg.data.seq_step, train.num_frames)
    choice = ClipChoice(split, train.num_frames, seq_step, train.n_envs)
    with under("train", seq_step="data.seq_step", on_bad_episode="data.on_bad_episode"):
        return open_clips(train, choice, cfg.data.on_bad_episode)


def _check_clips(train: TrainConfig, model: Model) -> None:
    """FieldError if clips are too short or too long for the model; a warning if nothing is kept of them."""
    check_length(train.num_frames, model, model.max_frames)
    if train.enable_cache and not model.takes_token_ids:
        kind = type(model).__name__
        logger.warning("train.enable_cache has no effect: a %s trains on frames, not on token ids", kind)


def _clip_sources(train: TrainConfig, model: Model, runtime: Runtime) -> Callable[[ClipDataset], ClipSource]:
    """How clips become a model's inputs: with what is kept of them where `enable_cache` says so, else as frames."""
    if kept_outputs(train, model):
        return ClipCache(train, cast(WorldModel, model), runtime).source
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


def _facts(cfg: GenieReduxConfig, trainer: Trainer) -> RunFacts:
    """What the run's page says of it."""
    facts = make_facts(cfg, trainer.runtime.device, trainer.runtime.num_processes)
    facts.parameters = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    facts.first_step = trainer.step
    facts.validation = sampling_of(validation_config(cfg), trainer.model) if trainer.validator else None
    return facts


def _start_line(trainer: Trainer, clips: ClipDataset) -> str:
    if trainer.step >= trainer.cfg.train.num_train_steps:
        return f"trained already: {trainer.folder.checkpoint(trainer.step)}"
    parameters = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    runtime, train = trainer.runtime, trainer.cfg.train
    precision = ("bf16" if runtime.amp_dtype else "fp32") + (", sharded" if runtime.is_sharded else "")
    return (
        f"training {trainer.config.model} ({parameters / 1e6:.1f} M parameters) on {len(clips)} clips from step "
        f"{trainer.step} to {train.num_train_steps}: {runtime.num_processes} × {train.batch_size} × {train.grad_accum} "
        f"clips a step, {runtime.device.type} {precision}, into {trainer.folder.path}"
    )
