"""Entry points of `python run.py agent57 train|eval`."""

import json
import logging
from contextlib import nullcontext, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from tqdm import tqdm

from data_generation.data.errors import under
from data_generation.data.files import write_atomically
from data_generation.data.lock import locked
from external.agent57.actors import ActorGroup
from external.agent57.checkpoint import Agent57Info, read_agent57
from external.agent57.config import Agent57Config, Agent57TrainingConfig
from external.agent57.setup import AgentSetup, check_test, check_training, make_setup
from external.agent57.testing import play_test
from external.agent57.trainer import FIXED, Agent57Trainer
from training.agent_folder import AgentFolder, AgentKind, find_folder, folder_to_resume, make_folder
from training.episode_gif import remove_gifs, save_gifs
from training.run_record import (
    ENVIRONMENTS,
    check_resumed,
    make_record,
    other_environments,
    overrides_to_repeat,
    repeating,
)
from training.run_report import RunReport, make_facts, write_agent_evaluation
from training.throughput import Played, rates
from training.tracker import MetricsLogger, TrackerSettings, WandbSettings

logger = logging.getLogger(__name__)

KIND = AgentKind("agent57", read_agent57)


def train(cfg: Agent57Config) -> Path:
    """Train an agent and return its folder. The user's mistakes are UserErrors.

    A run may be killed at any time: `common.resume=true` resumes from its last checkpoint, exactly.
    """
    common = cfg.common
    folder = folder_to_resume(KIND, common)
    run = folder.settings() if folder else {}
    overrides = overrides_to_repeat(cfg, run, FIXED)
    if folder is not None:
        check_resumed(cfg, run, FIXED, overrides, folder.path.name)
    check_training(cfg.collection, cfg.training)
    with repeating(overrides, folder.path.name) if folder else nullcontext():
        setup = make_setup(common, cfg.collection)
        if folder is not None:
            folder.check_environments(setup.infos())
    resumes = folder is not None
    folder = folder or make_folder(KIND, Path(common.root_dpath), common.name)
    try:
        with locked(folder.path, "wait for it or stop it, or name another run by common.resume_id"):
            return _train(cfg, setup, folder, resumes)
    finally:
        # A run that cannot start leaves nothing.
        with suppress(OSError):
            folder.path.rmdir()


def _train(cfg: Agent57Config, setup: AgentSetup, folder: AgentFolder, resumes: bool) -> Path:
    trainer = Agent57Trainer(setup, cfg.training, cfg.evaluation, folder)
    try:
        trainer.record = make_record(cfg, {}, {})
        if resumes:
            trainer.load()
        _log_start(trainer)
        with under("wandb", trackers="common.trackers"):
            wandb = WandbSettings(cfg.wandb.mode, cfg.wandb.project, cfg.wandb.name, cfg.wandb.dpath)
            settings = TrackerSettings(cfg.common.trackers, wandb)
            tracker = MetricsLogger(folder.path, settings, asdict(cfg), trainer.epoch, True)
        # Not before: a run that cannot start leaves nothing, or the folder as it was.
        _write_config(folder, cfg)
        folder.write_infos(setup.infos())
        report = _make_report(cfg, setup, folder.path, trainer.amp_dtype)
        report.facts.parameters = sum(p.numel() for p in trainer.networks.parameters() if p.requires_grad)
        trainer.report = report.resumed() if resumes else report
    except BaseException:
        trainer.close()
        raise
    trainer.run(tracker)
    logger.info("done: %s", folder.path)
    return folder.path


def evaluate(cfg: Agent57Config) -> Path:
    """Let a trained agent play `common.epochs` times `num_episodes` episodes; returns the JSON file with the measures.

    Nothing is learned. Each episode becomes a GIF (`evaluation.n_gifs` of each epoch).
    """
    with under("common"):
        folder = find_folder(KIND, Path(cfg.common.root_dpath), cfg.common.resume_id)
        path = folder.chosen_checkpoint(cfg.common.resume_ckpt_id)
    stored = read_agent57(path)
    check_test(cfg.collection, stored.info.family.num_policies)
    run = folder.settings()
    with repeating(overrides_to_repeat(cfg, run, ENVIRONMENTS), folder.path.name):
        setup = make_setup(cfg.common, cfg.collection)
        setup.check_agent(stored.info, path)
    target = folder.path / "outputs" / f"evaluation_{path.stem}.json"
    networks = stored.load().eval().requires_grad_(False).to(setup.device)
    info = stored.info
    config = Agent57TrainingConfig(network=info.network, family=info.family, intrinsic=info.intrinsic)
    with locked(folder.evaluations, "wait for that evaluation or stop it"):
        if others := other_environments(cfg, run, folder.other_files(setup.infos())):
            logger.warning("the environments are not those of the run: %s", others)
        actors = setup.actors(networks, config, folder.episodes, is_test=True)
        try:
            result, parts = _play_epochs(cfg, setup, actors, folder, info)
        finally:
            actors.close()
        content = {"checkpoint": str(path), "epoch": info.epoch, "games": setup.games}
        content |= {"other_environments": others, **result}
        write_atomically(target, json.dumps(content, indent=2) + "\n")
        report = _make_report(cfg, setup, folder.evaluations)
        report.facts.throughput = rates(parts)
        write_agent_evaluation(report, content)
    print(_summary(content, folder, target))
    return target


def _play_epochs(
    cfg: Agent57Config, setup: AgentSetup, actors: ActorGroup, folder: AgentFolder, info: Agent57Info
) -> tuple[dict[str, Any], list[Played]]:
    """The measures of every epoch and their means; what was played in each."""
    rows, parts = [], []
    for epoch in tqdm(range(cfg.common.epochs), unit="epoch", desc="evaluate"):
        actors.curiosity.set_moments(info.errors, info.distances)
        with under("collection"):
            tested = play_test(actors, cfg.collection.test.num_episodes, cfg.common.seed + epoch, epoch)
        rows.append(tested.values)
        parts.append(tested.played)
        if epoch == 0:
            # The page shows those that are there.
            remove_gifs(folder.evaluations)
        save_gifs(folder.evaluations, epoch, tested.episodes[: cfg.evaluation.n_gifs], setup.connector)
    names = sorted({name for row in rows for name in row})
    means = {name: float(np.mean([row[name] for row in rows if name in row])) for name in names}
    return {"mean": means, "epochs": rows}, parts


def _write_config(folder: AgentFolder, cfg: Agent57Config) -> None:
    folder.config.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(folder.config, OmegaConf.to_yaml(OmegaConf.create(asdict(cfg))))


def _make_report(
    cfg: Agent57Config, setup: AgentSetup, folder: Path, amp_dtype: torch.dtype | None = None
) -> RunReport:
    return RunReport(folder, make_facts(cfg, setup.device), setup.device, amp_dtype)


def _log_start(trainer: Agent57Trainer) -> None:
    setup = trainer.setup
    if trainer.epoch >= trainer.common.epochs:
        logger.info("trained already: %s", trainer.folder.path)
        return
    logger.info(
        "training an agent of %d policies (%.1f M parameters) on %s: epoch %d to %d, %d actors, %s, into %s",
        trainer.config.family.num_policies,
        sum(p.numel() for p in trainer.networks.parameters()) / 1e6,
        ", ".join(setup.games),
        trainer.epoch,
        trainer.common.epochs,
        trainer.actors.envs.num_envs,
        setup.device.type,
        trainer.folder.path,
    )


def _summary(content: dict[str, Any], folder: AgentFolder, target: Path) -> str:
    lines = [f"agent         {content['checkpoint']} (epoch {content['epoch']})"]
    lines += [f"games         {', '.join(content['games'])}"]
    lines += [f"{name:<24}{value:.4g}" for name, value in content["mean"].items()]
    return "\n".join([*lines, f"GIFs          {folder.evaluations}", f"all figures   {target}"])
