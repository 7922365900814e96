"""What train and eval share: devices, the world model, the environments, the reward."""

import logging
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins.environments import TorchElasticEnvironment
from lightning.fabric.strategies import DDPStrategy

from auto_explore.config import CollectionConfig, CommonConfig, WorldModelConfig
from auto_explore.src.agent import AgentInfo
from auto_explore.src.collector import Collector
from auto_explore.src.construct_reward import make_reward
from auto_explore.src.reward import WORLD_MODEL_REWARDS, Reward, RewardContext
from auto_explore.src.world_model import check_environment, load_world_model
from data_generation.config import ConnectorConfig
from data_generation.data.data import DatasetInfo, EpisodeMeta
from data_generation.data.errors import UNSET, FieldError, MissingPathError, under
from data_generation.generator.connector_base import Connector, make_connector
from data_generation.generator.episode import dataset_info, environment_dname, environment_dnames, episode_meta
from data_generation.generator.levels import Level, list_levels
from data_generation.generator.schedule import EndlessSchedule, take_turns
from data_generation.generator.vector import LevelVectorEnv
from models.config import ModelConfig
from models.genie_redux import GenieRedux
from models.precision import cast_matmul_weights
from training.agent.player import under_connector
from training.allocator import keep_freed_memory
from training.runtime import choose_device, choose_precision

# What AutoExplore reads of the connector's config; the rest, which selects games and says who plays, is `generate`'s.
_CONNECTOR_FIELDS = (
    *("name", "version", "image_size", "n_skip_frames", "n_skip_start_frames", "valid_action_combos"),
    *("env_kwargs", "max_last_frames"),
    *("roi_annotation_fpath", "rom_dpath", "start_level", "distribution_mode", "paint_vel_info", "generator_config"),
)
# Added to the seed of test episodes, so that they are not those of training.
_TEST_SEED = 1_000_003


@dataclass
class RunContext:
    """Everything that stays as it is while an agent learns or plays."""

    common: CommonConfig
    collection: CollectionConfig
    fabric: Fabric
    connector: Connector
    # In the order in which they are played.
    levels: tuple[Level, ...]
    # None where the reward needs none.
    world_model: GenieRedux | None
    autocast: Callable[[], AbstractContextManager]
    # In which `autocast` computes; None = float32.
    amp_dtype: torch.dtype | None

    def make_reward(self, n_preds: int) -> Reward:
        """A fresh reward of the configured kind."""
        context = RewardContext(self.collection.reward, n_preds, self.fabric.device, self.autocast, self.world_model)
        return make_reward(context, self.connector.spec, self.common.seed)

    def collector(self, num_envs: int, reward: Reward, episodes_dpath: Path, is_test: bool) -> Collector:
        """Environments of this process with the reward of their steps; a test's are not learned from."""
        config = self.collection
        seed = self.common.seed + (_TEST_SEED if is_test else 0)
        first = 0 if is_test else self.fabric.global_rank * num_envs
        total = num_envs if is_test else self.fabric.world_size * num_envs
        schedules = [EndlessSchedule(self.levels, seed, first + i, total) for i in range(num_envs)]
        envs = LevelVectorEnv(self.connector, schedules, config.connector.generator_config.n_steps_max)
        recorded_as = partial(self._recorded_as, schedules, episodes_dpath)
        return Collector(envs, recorded_as, reward, config.reward.batch_size, learn_reward=not is_test)

    def _recorded_as(
        self, schedules: list[EndlessSchedule], episodes_dpath: Path, env: int, number: int
    ) -> tuple[Path, EpisodeMeta]:
        """Environment folder and meta data of an environment's episode."""
        episode = schedules[env].episode(number)
        meta = episode_meta(self.connector, episode, "AutoExplore", {"reward": self.collection.reward.type})
        return episodes_dpath / environment_dname(self.connector, episode.level.game), meta

    def infos(self) -> dict[str, DatasetInfo]:
        """Name of each game's environment folder -> its `info.json`."""
        settings = {"variant": "auto_explore", "seed": self.common.seed}
        dnames = environment_dnames(self.connector, self.games)
        return {dname: dataset_info(self.connector, game, settings) for game, dname in dnames.items()}

    @property
    def games(self) -> list[str]:
        """Names of the games that are played, sorted."""
        return sorted({level.game for level in self.levels})

    def check_agent(self, info: AgentInfo, checkpoint: Path) -> None:
        """FieldError (of `collection`) if the agent of a checkpoint cannot play here."""
        with under("collection"), under_connector():
            self.connector.spec.check_agent(info.spec, checkpoint)

    def gather(self, value: Any) -> list[Any]:
        """One value of every process, on all of them."""
        if self.fabric.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.fabric.world_size
        torch.distributed.all_gather_object(values, value)
        return values


def make_context(
    common: CommonConfig, collection: CollectionConfig, world_model: WorldModelConfig, n_preds: int
) -> RunContext:
    """Load the world model, open the environments, join the processes.

    `n_preds`: the greatest number of frames that the world model predicts at a time.
    FieldErrors name fields of the three configs by `common`, `collection` and `world_model`.
    """
    model, model_config = None, None
    if collection.reward.type in WORLD_MODEL_REWARDS:
        with under("world_model"):
            model, model_config = load_world_model(world_model, n_preds)
    with under("collection"):
        connector = open_connector(collection, model_config)
        if model is not None and model_config is not None:
            with under_connector():
                check_environment(model, model_config, connector)
    with under("common"):
        fabric, precision = make_fabric(common)
    if model is not None:
        model.to(fabric.device)
        if precision is not None:
            cast_matmul_weights(model, precision)
    levels = list_levels(connector, connector.select().games, collection.connector.generator_config.n_instances)
    autocast = partial(torch.autocast, fabric.device.type, dtype=precision, enabled=precision is not None)
    return RunContext(common, collection, fabric, connector, take_turns(levels), model, autocast, precision)


def open_connector(config: CollectionConfig, world_model: ModelConfig | None) -> Connector:
    """The environment family of `config.connector` for `config.games`, with frames as the world model knows them.

    They have its size, and are cropped around a character if its dataset was recorded so. FieldError (of `config`) for
    a game that cannot be played here.
    """
    own = ConnectorConfig(**{name: getattr(config.connector, name) for name in _CONNECTOR_FIELDS})
    own.game = list(config.games) if own.name != "coinrun" else "all"
    if world_model is not None:
        own.image_size = world_model.tokenizer.image_size
        own.roi_annotation_fpath = own.roi_annotation_fpath or world_model.roi_table or None
    with under_connector():
        connector = make_connector(own)
        selection = connector.select()
        environment_dnames(connector, selection.games)
        skipped = selection.skipped
    if skipped:
        reasons = ", ".join(f"{game} ({reason})" for game, reason in skipped.items())
        raise MissingPathError("games", UNSET, reasons, "omit it, or import its ROM")
    return connector


class _OneDevice(TorchElasticEnvironment):
    """To Fabric, each process is a machine of one device.

    Its own view of Slurm refuses jobs without `--ntasks-per-node`, and it takes the GPU of a process's number on its
    machine, where a task of Slurm may see its own alone.
    """

    def local_rank(self) -> int:
        return 0


def make_fabric(common: CommonConfig) -> tuple[Fabric, torch.dtype | None]:
    """Lightning Fabric on `device`, joined with the processes that the launcher started, and the precision."""
    try:
        device = choose_device({"gpu": "cuda"}.get(common.device, common.device))
    except FieldError as error:
        raise FieldError("device", common.device, error.problem, error.remedy) from error
    precision = choose_precision(common.precision, device)
    if device.type == "cpu":
        keep_freed_memory()
    num_processes = int(os.environ.get("WORLD_SIZE", "1"))
    if num_processes > 1 and device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    # It announces every choice, twice; through the logger of its sibling `pytorch` where that is loaded, too.
    for name in ("lightning.fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.WARNING)
    fabric = Fabric(
        accelerator=device.type,
        devices=1 if device.index is None else [device.index],
        num_nodes=num_processes,
        plugins=[_OneDevice()],
        strategy=DDPStrategy(timeout=timedelta(minutes=common.process_timeout)) if num_processes > 1 else "auto",
        precision="32-true" if precision is None else "bf16-mixed",
    )
    fabric.launch()
    return fabric, precision
