"""Entry points of `python run.py auto_explore train|eval`."""

import json
import logging
from contextlib import nullcontext, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf
from tqdm import tqdm

from auto_explore.config import AutoExploreConfig
from auto_explore.src.agent import agent_of, read_agent
from auto_explore.src.checks import check_train_config
from auto_explore.src.evaluation import test_episodes
from auto_explore.src.models.actor_critic import ActorCritic
from auto_explore.src.reward import WORLD_MODEL_REWARDS, Reward, load_reward
from auto_explore.src.run_context import RunContext, make_context
from auto_explore.src.trainer import FIXED, AgentTrainer
from auto_explore.src.world_model import checkpoint_path
from data_generation.data.errors import UNSET, FieldError, UserError, under
from data_generation.data.files import write_atomically
from data_generation.data.invocation import invocation_of
from data_generation.data.lock import locked
from models.tensor_file import digest
from training.agent_folder import AgentFolder, AgentKind, find_folder, folder_to_resume, make_folder
from training.episode_gif import remove_gifs, save_gifs
from training.run_record import (
    ENVIRONMENTS,
    check_resumed,
    make_record,
    other_environments,
    other_settings,
    overrides_to_repeat,
    repeating,
)
from training.run_report import RunReport, make_facts, write_agent_evaluation
from training.throughput import Played, rates
from training.tracker import MetricsLogger, TrackerSettings, WandbSettings

logger = logging.getLogger(__name__)

KIND = AgentKind("auto_explore", read_agent)
# What `evaluate.yaml` sets for all runs.
_LENGTH = "collection.connector.generator_config.n_steps_max"
# Of the reward's settings: what an evaluation, which learns nothing, measures alike with any value.
_NO_MEASURE = ("collection.reward.batch_size", "collection.reward.learning_rate")


def train(cfg: AutoExploreConfig) -> Path:
    """Train an agent and return its folder.

    Runs in every process of a launcher alike, or alone. The user's mistakes are UserErrors.
    A run may be killed at any time: `common.resume=true` resumes from its last complete epoch, exactly.
    """
    folder = folder_to_resume(KIND, cfg.common)
    check_train_config(cfg)
    if folder is not None:
        check_resumed(cfg, folder.settings(), FIXED, _to_repeat(cfg, folder), folder.path.name)
    n_preds = max(cfg.collection.train.config.n_preds, cfg.collection.test.config.n_preds)
    with repeating(_to_repeat(cfg, folder), folder.path.name) if folder else nullcontext():
        context = make_context(cfg.common, cfg.collection, cfg.world_model, n_preds)
        if folder is not None:
            folder.check_environments(context.infos())
    fabric, resumes = context.fabric, folder is not None
    if folder is None and fabric.is_global_zero:
        folder = make_folder(KIND, Path(cfg.common.root_dpath), cfg.common.name)
    folder = AgentFolder(fabric.broadcast(folder.path if folder else Path()), KIND)
    remedy = "wait for it or stop it, or name another run by common.resume_id"
    try:
        with locked(folder.path, remedy) if fabric.is_global_zero else nullcontext():
            return _train(cfg, context, folder, resumes)
    finally:
        _remove_empty(folder)


def _train(cfg: AutoExploreConfig, context: RunContext, folder: AgentFolder, resumes: bool) -> Path:
    fabric, trainer = context.fabric, None
    try:
        trainer = AgentTrainer(context, cfg.training, cfg.evaluation, folder)
        trainer.record = _record(cfg, fabric.world_size)
        if resumes:
            with repeating(_to_repeat(cfg, folder), folder.path.name):
                trainer.load()
        _log_start(trainer)
        tracker = _make_tracker(cfg, folder, trainer.epoch, fabric.is_global_zero)
        # Not before: a run that cannot start leaves nothing, or the folder as it was.
        if fabric.is_global_zero:
            _write_config(folder, cfg)
            folder.write_infos(context.infos())
            report = _make_report(cfg, context, folder.path)
            report.facts.parameters = sum(p.numel() for p in trainer.network.parameters())
            trainer.report = report.resumed() if resumes else report
        fabric.barrier()
    except BaseException:
        if trainer is not None:
            trainer.close()
        raise
    trainer.run(tracker)
    if fabric.is_global_zero:
        logger.info("done: %s", folder.path)
    return folder.path


def evaluate(cfg: AutoExploreConfig) -> Path:
    """Let a trained agent play `common.epochs` times `num_episodes` episodes; returns the JSON file with the measures.

    Nothing is learned. Each episode becomes a GIF (`evaluation.n_gifs` of each epoch).
    """
    with under("common"):
        folder = find_folder(KIND, Path(cfg.common.root_dpath), cfg.common.resume_id)
        path = folder.chosen_checkpoint(cfg.common.resume_ckpt_id)
    network, info = agent_of(read_agent(path))
    run = _run_to_compare(cfg, folder)
    uses_model = cfg.collection.reward.type in WORLD_MODEL_REWARDS
    keys = (*ENVIRONMENTS, "world_model.") if uses_model else ENVIRONMENTS
    with repeating(overrides_to_repeat(cfg, run, keys), folder.path.name):
        context = make_context(cfg.common, cfg.collection, cfg.world_model, cfg.collection.test.config.n_preds)
        context.check_agent(info, path)
    if context.fabric.world_size > 1:
        problem = "an evaluation takes one process"
        raise FieldError("common.num_processes", UNSET, problem, "use {collection.test.num_envs}")
    target = folder.path / "outputs" / f"evaluation_{path.stem}.json"
    with locked(folder.evaluations, "wait for that evaluation or stop it"):
        if others := other_environments(cfg, run, folder.other_files(context.infos())):
            logger.warning("the environments are not those of the run: %s", others)
        world_model = str(checkpoint_path(cfg.world_model)) if uses_model else None
        if other_model := _other_world_model(cfg, folder, run):
            logger.warning("the world model is not that of the run: %s", other_model)
        if other_reward := _other_reward(cfg, run):
            logger.warning("the reward is not measured as in the run: %s", other_reward)
        result, parts = _play_epochs(cfg, context, folder, network.to(context.fabric.device))
        content = {"checkpoint": str(path), "epoch": info.epoch, "reward": cfg.collection.reward.type}
        content |= {"world_model": world_model, "other_world_model": other_model, "other_reward": other_reward}
        content |= {"games": context.games, "other_environments": others, **result}
        write_atomically(target, json.dumps(content, indent=2) + "\n")
        report = _make_report(cfg, context, folder.evaluations)
        report.facts.throughput = rates(parts)
        write_agent_evaluation(report, content)
    print(_summary(content, folder, target, run.get("collection.reward.type")))
    return target


def _run_to_compare(cfg: AutoExploreConfig, folder: AgentFolder) -> dict[str, Any]:
    """The settings of the run; without the length of its episodes, unless the user has chosen another one."""
    run, invocation = folder.settings(), invocation_of(cfg)
    if invocation.command and not any(text.startswith(f"{_LENGTH}=") for text in invocation.overrides):
        run.pop(_LENGTH, None)
    return run


def _other_world_model(cfg: AutoExploreConfig, folder: AgentFolder, run: dict[str, Any]) -> str:
    """In what the world model that rewards differs from the one that the run was trained with; "" for nothing.

    Weights are compared by content, and by place where the run's training state is gone.
    """
    if not {cfg.collection.reward.type, run.get("collection.reward.type")} <= set(WORLD_MODEL_REWARDS):
        return ""
    path, weights = checkpoint_path(cfg.world_model), None
    keys = ("world_model.root_dpath", "world_model.model_dname", "world_model.model_fname")
    before = Path(*(run[key] for key in keys if run.get(key)))
    with suppress(UserError):
        weights = ((folder.newest()[1].get("state") or {}).get("run") or {}).get("world_model_weights")
    if weights is not None:
        return f"'{path}' has other weights than '{before}' had" if weights != digest(path) else ""
    return f"'{path}' instead of '{before}'" if overrides_to_repeat(cfg, run, keys) else ""


def _other_reward(cfg: AutoExploreConfig, run: dict[str, Any]) -> str:
    """In which settings a reward of the run's type differs from the run's; "" for nothing, and for another type."""
    if run.get("collection.reward.type") != cfg.collection.reward.type:
        return ""
    compared = {key: value for key, value in run.items() if key not in _NO_MEASURE}
    return other_settings(cfg, compared, ("collection.reward.", "collection.test.config.n_preds"))


def _to_repeat(cfg: AutoExploreConfig, folder: AgentFolder) -> str:
    """The overrides that a command lacks to resume the run of the folder."""
    return overrides_to_repeat(cfg, folder.settings(), (*FIXED, "world_model."))


def _record(cfg: AutoExploreConfig, num_processes: int) -> dict[str, Any]:
    """What this run is, as its checkpoints keep it."""
    weights = checkpoint_path(cfg.world_model) if cfg.collection.reward.type in WORLD_MODEL_REWARDS else None
    return make_record(cfg, {"world_model_weights": weights}, {"common.num_processes": num_processes})


def _make_tracker(cfg: AutoExploreConfig, folder: AgentFolder, epoch: int, is_main: bool) -> MetricsLogger:
    wandb = cfg.wandb
    settings = TrackerSettings(cfg.common.trackers, WandbSettings(wandb.mode, wandb.project, wandb.name, wandb.dpath))
    with under("wandb", trackers="common.trackers"):
        return MetricsLogger(folder.path, settings, asdict(cfg), epoch, is_main)


def _make_report(cfg: AutoExploreConfig, context: RunContext, folder: Path) -> RunReport:
    device = context.fabric.device
    return RunReport(folder, make_facts(cfg, device, context.fabric.world_size), device, context.amp_dtype)


def _remove_empty(folder: AgentFolder) -> None:
    """A run that cannot start leaves nothing."""
    with suppress(OSError):
        folder.path.rmdir()


def _play_epochs(
    cfg: AutoExploreConfig, context: RunContext, folder: AgentFolder, network: ActorCritic
) -> tuple[dict[str, Any], list[Played]]:
    """The measures of every epoch and their means; what was played in each."""
    test = cfg.collection.test
    reward = context.make_reward(test.config.n_preds)
    collector = context.collector(test.num_envs, reward, folder.episodes, is_test=True)
    rows, parts = [], []
    try:
        for epoch in tqdm(range(context.common.epochs), unit="epoch", desc="evaluate"):
            # What a reward learns from a test's episodes is not for the next ones.
            _load_reward_of_run(cfg, folder, reward)
            with under("collection"):
                tested = test_episodes(collector, network, test.config, context.common.seed + epoch, epoch)
            rows.append(tested.values)
            parts.append(tested.played)
            if epoch == 0:
                # The page shows those that are there.
                remove_gifs(folder.evaluations)
            save_gifs(folder.evaluations, epoch, tested.episodes[: cfg.evaluation.n_gifs], context.connector)
    finally:
        collector.close()
    names = sorted({name for row in rows for name in row})
    means = {name: float(np.mean([row[name] for row in rows if name in row])) for name in names}
    return {"mean": means, "epochs": rows}, parts


def _load_reward_of_run(cfg: AutoExploreConfig, folder: AgentFolder, reward: Reward) -> None:
    """Give the reward what it has learned in the run, if it learns.

    FieldError (of `collection`) if the run has learned another one, or if that is missing.
    """
    config, run = cfg.collection.reward, folder.settings()
    others = overrides_to_repeat(cfg, run, ("collection.reward.type", "collection.reward.normalize"))
    # What never changes needs nothing of the run, but for the random features that it has drawn.
    if reward.is_fixed and (others or config.type != "cnn-mse"):
        return
    with under("collection.reward"):
        if others:
            problem = "the run was trained with another reward, and this one would know nothing"
            raise FieldError("type", config.type, problem, f"repeat {others}, or set {{type}}=none {{normalize}}=false")
        if not (folder.last.exists() or folder.previous.exists()):
            problem = f"what it learned in the run is missing: there is no '{folder.last}'"
            raise FieldError("type", config.type, problem, "restore that file, or measure by {type}=none")
        path, content = folder.newest()
        if (state := content.get("state")) is None:
            raise UserError(f"'{path}' holds no training state with what the reward learned: restore the file")
        load_reward(reward, state["ranks"][0]["reward"], config, path)


def _write_config(folder: AgentFolder, cfg: AutoExploreConfig) -> None:
    folder.config.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(folder.config, OmegaConf.to_yaml(OmegaConf.create(asdict(cfg))))


def _log_start(trainer: AgentTrainer) -> None:
    context = trainer.context
    if not context.fabric.is_global_zero:
        return
    if trainer.epoch >= trainer.common.epochs:
        logger.info("trained already: %s", trainer.folder.path)
        return
    logger.info(
        "training an agent (%.1f M parameters) on %s for reward %s: epoch %d to %d, %d × %d environments, %s, into %s",
        sum(p.numel() for p in trainer.network.parameters()) / 1e6,
        ", ".join(context.games),
        context.collection.reward.type,
        trainer.epoch,
        context.common.epochs,
        context.fabric.world_size,
        context.collection.train.num_envs,
        context.fabric.device.type,
        trainer.folder.path,
    )
    _, height, width = context.connector.frame_shape
    if height != width:
        logger.warning("frames are %dx%d: models, which take square ones, cannot train on the episodes", width, height)


def _summary(content: dict, folder: AgentFolder, target: Path, trained_for: str | None) -> str:
    """`trained_for`: the reward of the run, where that is known."""
    mean, reward = content["mean"], content["reward"]
    if trained_for not in (None, reward):
        reward += f" (trained for {trained_for}: collection.reward.type={trained_for} measures that)"
    lines = [f"agent         {content['checkpoint']} (epoch {content['epoch']})"]
    lines += [f"reward        {reward}"]
    if content["world_model"]:
        lines += [f"world model   {content['world_model']}"]
    lines += [f"games         {', '.join(content['games'])}"]
    lines += [f"{name:<24}{value:.4g}" for name, value in mean.items()]
    return "\n".join([*lines, f"GIFs          {folder.evaluations}", f"all figures   {target}"])
