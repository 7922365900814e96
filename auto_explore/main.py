"""Entry points of `python run.py auto_explore train|eval`."""

import json
import logging
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np
from omegaconf import OmegaConf
from tqdm import tqdm

from auto_explore.config import AutoExploreConfig
from auto_explore.src.agent import AgentInfo, agent_of, read_agent
from auto_explore.src.evaluation import save_gifs, test_episodes
from auto_explore.src.models.actor_critic import ActorCritic
from auto_explore.src.reward import load_reward
from auto_explore.src.run_folder import AgentFolder, find_folder, make_folder
from auto_explore.src.setting import Setting, make_setting
from auto_explore.src.trainer import Trainer
from data_generation.data.files import write_atomically
from training.tracker import Tracker, WandbSettings

logger = logging.getLogger(__name__)


def train(cfg: AutoExploreConfig) -> Path:
    """Train an agent and return its folder.

    Runs in every process of a launcher alike, or alone. User errors are ValueError or FileNotFoundError in one line.
    A run may be killed at any time: `common.resume=true` goes on from its last complete epoch, exactly.
    """
    folder = find_folder(cfg.common) if cfg.common.resume else None
    if cfg.common.resume and cfg.common.resume_ckpt_id != "last":
        raise ValueError(
            f"common.resume_ckpt_id={cfg.common.resume_ckpt_id}: training goes on from 'last' only; leave it out"
        )
    if folder is not None:
        read_agent(folder.last)  # a missing checkpoint is told before anything is loaded
    setting = make_setting(cfg)
    fabric = setting.fabric
    if folder is None and fabric.is_global_zero:
        folder = make_folder(cfg.common)
    folder = AgentFolder(fabric.broadcast(folder.path if folder else Path()))
    trainer = None
    try:
        trainer = Trainer(setting, folder)
        if cfg.common.resume:
            trainer.load()
        _say_start(trainer)
        names = (cfg.wandb.mode, cfg.wandb.project, cfg.wandb.name, cfg.wandb.dpath)
        settings = WandbSettings(*names, mode_key="wandb.mode")
        tracker = Tracker(folder.path, settings, asdict(cfg), trainer.epoch, fabric.is_global_zero)
        if fabric.is_global_zero:  # not before: a run that cannot start leaves nothing, or the folder as it was
            _write_config(folder, cfg)
            setting.write_infos(folder.episodes)
        fabric.barrier()
    except BaseException:
        if trainer is not None:
            trainer.close()
        _remove_empty(folder)
        raise
    trainer.run(tracker)
    if fabric.is_global_zero:
        logger.info("done: %s", folder.path)
    return folder.path


def evaluate(cfg: AutoExploreConfig) -> Path:
    """Let a trained agent play `common.epochs` times `num_episodes` episodes; returns the JSON file with the measures.

    Nothing is learned. Each episode becomes a GIF (`evaluation.n_gifs` of each epoch).
    """
    folder = find_folder(cfg.common)
    path = folder.checkpoint(_checkpoint_name(cfg.common.resume_ckpt_id))
    network, info = agent_of(read_agent(path))
    setting = make_setting(cfg)
    if setting.fabric.world_size > 1:
        raise ValueError("common.num_processes: an evaluation takes one process; use collection.test.num_envs")
    setting.check_agent(info, path)
    result = _play_epochs(setting, folder, network.to(setting.fabric.device), info)
    target = folder.path / "outputs" / f"evaluation_{path.stem}.json"
    content = {"checkpoint": str(path), "epoch": info.epoch, **result}
    write_atomically(target, json.dumps(content, indent=2) + "\n")
    print(_summary(content, folder, target))
    return target


def _remove_empty(folder: AgentFolder) -> None:
    """A run that cannot start leaves nothing."""
    with suppress(OSError):
        folder.path.rmdir()


def _play_epochs(setting: Setting, folder: AgentFolder, network: ActorCritic, info: AgentInfo) -> dict:
    """The measures of every epoch, and their means."""
    cfg = setting.cfg
    config = cfg.collection.test
    reward = setting.make_reward(config.config.n_preds)
    state = read_agent(folder.last).get("state") if folder.last.is_file() else None
    if state is not None and (cfg.collection.reward.type not in ("entropy", "none") or cfg.collection.reward.normalize):
        load_reward(reward, state["ranks"][0]["reward"], cfg.collection.reward)
    collector = setting.collector(config.num_envs, reward, folder.episodes, is_test=True)
    rows = []
    try:
        for epoch in tqdm(range(cfg.common.epochs), unit="epoch", desc="evaluate"):
            tested = test_episodes(collector, network, config.config, cfg.common.seed + epoch)
            rows.append(tested.values)
            shown = tested.episodes[: cfg.evaluation.n_gifs]
            save_gifs(folder.path / "outputs" / "evaluation", epoch, shown, info.action_names, logger.debug)
    finally:
        collector.close()
    names = sorted({name for row in rows for name in row})
    means = {name: float(np.mean([row[name] for row in rows if name in row])) for name in names}
    return {"mean": means, "epochs": rows}


def _checkpoint_name(name: str) -> str:
    """An epoch may be written with or without its leading zeros."""
    return f"{int(name):06d}" if name.isdecimal() else name


def _write_config(folder: AgentFolder, cfg: AutoExploreConfig) -> None:
    path = folder.path / "config" / "trainer.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, OmegaConf.to_yaml(OmegaConf.create(asdict(cfg))))


def _say_start(trainer: Trainer) -> None:
    setting = trainer.setting
    if not setting.fabric.is_global_zero:
        return
    cfg = setting.cfg
    parameters = sum(p.numel() for p in trainer.network.parameters())
    logger.info(
        "training an agent (%.1f M parameters) on %s for %s: epoch %d to %d, %d × %d environments, %s, into %s",
        parameters / 1e6,
        ", ".join(sorted({world.game for world in setting.worlds})),
        f"reward {cfg.collection.reward.type}",
        trainer.epoch,
        cfg.common.epochs,
        setting.fabric.world_size,
        cfg.collection.train.num_envs,
        setting.fabric.device.type,
        trainer.folder.path,
    )


def _summary(content: dict, folder: AgentFolder, target: Path) -> str:
    mean = content["mean"]
    lines = [f"agent         {content['checkpoint']} (epoch {content['epoch']})"]
    lines += [f"{name:<24}{value:.4g}" for name, value in mean.items()]
    return "\n".join([*lines, f"GIFs          {folder.path / 'outputs' / 'evaluation'}", f"all figures   {target}"])
