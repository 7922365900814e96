"""What train and eval share: devices, the world model, the environments, the reward."""

import logging
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric

from auto_explore.config import AutoExploreConfig
from auto_explore.src.agent import AgentInfo, different_part
from auto_explore.src.collector import Collector
from auto_explore.src.dataset import Place
from auto_explore.src.envs import Schedule, World, list_worlds, make_vector_env, open_connector
from auto_explore.src.models.actor_critic import ENCODERS
from auto_explore.src.reward import WORLD_MODEL_REWARDS, Reward, Tools, check_reward, make_reward
from auto_explore.src.world_model import check_actions, load_world_model
from data_generation.data.data import DatasetInfo, EpisodeMeta
from data_generation.generator.connector_base import Connector
from models.checkpoint import LoadedModel
from models.genie_redux import GenieRedux
from models.precision import cast_products
from training.allocator import keep_freed_memory
from training.runtime import choose_device, choose_precision

_TEST_SEED = 1_000_003  # added to the seed of test episodes, so that they are not those of training


@dataclass
class Setting:
    """Everything that stays as it is while an agent learns or plays."""

    cfg: AutoExploreConfig
    fabric: Fabric
    connector: Connector
    worlds: tuple[World, ...]
    world_model: LoadedModel | None
    autocast: Callable[[], AbstractContextManager]

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        return self.connector.frame_shape

    def make_reward(self, n_preds: int) -> Reward:
        """A fresh reward of the configured kind."""
        model = self.world_model.model if self.world_model else None
        assert model is None or isinstance(model, GenieRedux)
        tools = Tools(self.cfg.collection.reward, n_preds, self.fabric.device, self.autocast, model)
        return make_reward(tools, self.frame_shape, self.cfg.common.seed)

    def collector(self, num_envs: int, reward: Reward, episodes_dpath: Path, is_test: bool) -> Collector:
        """Environments of this process with the reward that pays them; a test's are not learned from."""
        cfg = self.cfg.collection
        seed = self.cfg.common.seed + (_TEST_SEED if is_test else 0)
        first, total = (0, num_envs) if is_test else (self.fabric.global_rank * num_envs, self._total(num_envs))
        schedules = [Schedule(self.worlds, seed, first + i, total) for i in range(num_envs)]
        envs = make_vector_env(self.connector, schedules, cfg.connector.generator_config.n_steps_max)
        place_of = partial(self._place, schedules, episodes_dpath)
        return Collector(envs, place_of, reward, cfg.reward.batch_size, learn_reward=not is_test)

    def _total(self, num_envs: int) -> int:
        return num_envs * self.fabric.world_size

    def _place(self, schedules: list[Schedule], episodes_dpath: Path, env: int, episode: int) -> Place:
        schedule = schedules[env]
        world = schedule.world(episode)
        meta = EpisodeMeta(
            seed=schedule.env_seed(episode),
            instance=world.instance,
            session=schedule.session(episode),
            policy="AutoExplore",
            policy_parameters={"reward": self.cfg.collection.reward.type},
            game=world.game,
            versions=self.connector.versions(),
        )
        return Place(env_dpath(self.connector, world.game, episodes_dpath), meta)

    def write_infos(self, episodes_dpath: Path) -> None:
        """`info.json` of each game's environment folder."""
        for game in sorted({world.game for world in self.worlds}):
            info = DatasetInfo(
                name=self.connector.environment_name(game),
                game=game,
                action_names=self.connector.action_names,
                frame_shape=self.frame_shape,
                connector=self.connector.recipe(),
                generator={"variant": "auto_explore", "seed": self.cfg.common.seed},
                versions=self.connector.versions(),
            )
            info.save(env_dpath(self.connector, game, episodes_dpath))

    def check_agent(self, info: AgentInfo, path: Path) -> None:
        """ValueError if the agent of a checkpoint cannot play here."""
        own = self.connector.action_names
        if info.action_names != own:
            raise ValueError(
                f"'{path}' was trained on the actions {', '.join(info.action_names)}, the environment has "
                f"{', '.join(own)}: set collection.connector.valid_action_combos"
            )
        if info.frame_shape != self.frame_shape:
            raise ValueError(f"'{path}' was trained on frames {info.frame_shape}, these are {self.frame_shape}")
        if info.recorded_around != self.connector.recorded_around:
            raise ValueError(different_part(path, info.recorded_around, "collection.connector"))

    def gather(self, value: Any) -> list[Any]:
        """One value of every process, on all of them."""
        if self.fabric.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.fabric.world_size
        torch.distributed.all_gather_object(values, value)
        return values


def env_dpath(connector: Connector, game: str, episodes_dpath: Path) -> Path:
    """Folder of a game's episodes in a run."""
    return episodes_dpath / f"{connector.environment_name(game)}_v{connector.config.version}"


def make_setting(cfg: AutoExploreConfig) -> Setting:
    """Check the configuration, load the world model, join the processes. User errors are one line."""
    check_config(cfg)
    world_model = None
    if cfg.collection.reward.type in WORLD_MODEL_REWARDS:
        preds = max(cfg.collection.train.config.n_preds, cfg.collection.test.config.n_preds)
        world_model = load_world_model(cfg.world_model, preds)
    connector = open_connector(cfg.collection, world_model.config if world_model else None)
    if world_model is not None:
        check_actions(world_model, connector)
    fabric, precision = make_fabric(cfg)
    if world_model is not None:
        world_model.model.to(fabric.device)
        if precision is not None:
            cast_products(world_model.model, precision)
    worlds = list_worlds(connector, cfg.collection.connector.generator_config.n_instances)
    return Setting(
        cfg,
        fabric,
        connector,
        tuple(worlds),
        world_model,
        partial(torch.autocast, fabric.device.type, dtype=precision, enabled=precision is not None),
    )


def make_fabric(cfg: AutoExploreConfig) -> tuple[Fabric, torch.dtype | None]:
    """Lightning Fabric on `common.device`, joined with the processes that the launcher started, and the precision."""
    name = {"gpu": "cuda"}.get(cfg.common.device, cfg.common.device)
    try:
        device = choose_device(name)
    except ValueError as error:
        raise ValueError(f"common.{str(error).replace('device=cuda', f'device={cfg.common.device}')}") from error
    precision = choose_precision(cfg.common.precision, device)
    if device.type == "cpu":
        keep_freed_memory()
    num_processes = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)  # it announces every choice, twice
    fabric = Fabric(
        accelerator=device.type,
        devices=local if device.index is None else [device.index],
        num_nodes=num_processes // local,
        strategy="ddp" if num_processes > 1 else "auto",
        precision="32-true" if precision is None else "bf16-mixed",
    )
    fabric.launch()
    return fabric, precision


def check_config(cfg: AutoExploreConfig) -> None:
    """ValueError for numbers that cannot work."""
    check_reward(cfg.collection.reward)
    train, test, actor_critic = cfg.collection.train, cfg.collection.test, cfg.training.actor_critic
    least_one = {
        "common.epochs": cfg.common.epochs,
        "collection.train.num_envs": train.num_envs,
        "collection.test.num_envs": test.num_envs,
        "collection.train.config.num_steps": train.config.num_steps,
        "collection.test.config.num_episodes": test.config.num_episodes,
        "collection.connector.generator_config.n_steps_max": cfg.collection.connector.generator_config.n_steps_max,
        "collection.connector.generator_config.n_instances": cfg.collection.connector.generator_config.n_instances,
        "collection.train.config.n_preds": train.config.n_preds,
        "collection.test.config.n_preds": test.config.n_preds,
        "training.replay_steps": cfg.training.replay_steps,
        "training.actor_critic.batch_num_samples": actor_critic.batch_num_samples,
        "training.actor_critic.grad_acc_steps": actor_critic.grad_acc_steps,
        "training.actor_critic.num_steps": actor_critic.num_steps,
    }
    least_zero = {
        "common.save_every": cfg.common.save_every,
        "common.keep_every": cfg.common.keep_every,
        "training.actor_critic.start_after_epochs": actor_critic.start_after_epochs,
        "training.actor_critic.steps_per_epoch": actor_critic.steps_per_epoch,
        "training.actor_critic.burn_in": actor_critic.burn_in,
        "evaluation.every": cfg.evaluation.every,
        "evaluation.n_gifs": cfg.evaluation.n_gifs,
    }
    for least, values in enumerate((least_zero, least_one)):
        for key, value in values.items():
            if value < least:
                raise ValueError(f"{key}={value}: must be at least {least}")
    _check_learning(cfg)
    for mode, config in (("train", train.config), ("test", test.config)):
        if config.temperature <= 0:
            raise ValueError(f"collection.{mode}.config.temperature={config.temperature}: must be positive")
        if not 0 <= config.epsilon <= 1:
            raise ValueError(f"collection.{mode}.config.epsilon={config.epsilon}: must be in [0, 1]")
    if not 0 <= train.config.min_epsilon <= train.config.epsilon:
        key = "collection.train.config"
        raise ValueError(
            f"{key}.min_epsilon={train.config.min_epsilon}: must be in [0, {key}.epsilon={train.config.epsilon}]"
        )
    if not train.config.should_sample and train.config.epsilon == 0:
        raise ValueError("collection.train.config: should_sample=false with epsilon=0 plays one episode over and over")


def _check_learning(cfg: AutoExploreConfig) -> None:
    key, actor_critic = "training.actor_critic", cfg.training.actor_critic
    positive = {
        "training.learning_rate": cfg.training.learning_rate,
        "collection.reward.learning_rate": cfg.collection.reward.learning_rate,
        f"{key}.max_grad_norm": actor_critic.max_grad_norm,
        f"{key}.importance_clip": actor_critic.importance_clip,
    }
    for name, value in positive.items():
        if not value > 0:
            raise ValueError(f"{name}={value}: must be positive")
    for name, value in ((f"{key}.gamma", actor_critic.gamma), (f"{key}.lambda_", actor_critic.lambda_)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name}={value}: must be in [0, 1]")
    if actor_critic.encoder not in ENCODERS:
        raise ValueError(f"{key}.encoder={actor_critic.encoder} is unknown: use one of {', '.join(sorted(ENCODERS))}")
