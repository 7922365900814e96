"""What train and eval share: devices, the world model, the environments, the reward."""

import logging
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path

import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins.environments import TorchElasticEnvironment
from lightning.fabric.strategies import DDPStrategy

from auto_explore.config import CollectionConfig, CommonConfig, WorldModelConfig
from auto_explore.src.agent import KIND, AgentInfo
from auto_explore.src.collector import Collector
from auto_explore.src.construct_reward import make_reward
from auto_explore.src.reward import WORLD_MODEL_REWARDS, Reward, RewardContext
from auto_explore.src.world_model import check_environment, load_world_model
from data_generation.data.errors import under
from data_generation.generator.connector_base import Connector
from models.config import ModelConfig
from models.genie_redux import GenieRedux
from models.precision import cast_matmul_weights
from training.agent.context import AgentContext, agent_device, connector_config, playable_connector
from training.agent.player import under_connector
from training.runtime import choose_precision


@dataclass
class RunContext(AgentContext[CollectionConfig]):
    """What AutoExplore needs besides: the world model, and what spreads the learning over processes."""

    fabric: Fabric
    # None where the reward needs none.
    world_model: GenieRedux | None
    autocast: Callable[[], AbstractContextManager]

    def make_reward(self, n_preds: int) -> Reward:
        """A fresh reward of the configured kind."""
        context = RewardContext(self.collection.reward, n_preds, self.device, self.autocast, self.world_model)
        return make_reward(context, self.connector.spec, self.common.seed)

    def collector(self, num_envs: int, reward: Reward, episodes_dpath: Path, is_test: bool) -> Collector:
        """Environments of this process with the reward of their steps; a test's are not learned from."""
        config = self.collection.reward
        envs, recorded_as = self.environments(num_envs, episodes_dpath, is_test, reward=config.type)
        return Collector(envs, recorded_as, reward, config.batch_size, learn_reward=not is_test)

    def check_agent(self, info: AgentInfo, checkpoint: Path) -> None:
        """FieldError (of `collection`) if the agent of a checkpoint cannot play here."""
        with under("collection"), under_connector():
            self.connector.spec.check_agent(info.spec, checkpoint)


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
    autocast = partial(torch.autocast, fabric.device.type, dtype=precision, enabled=precision is not None)
    return RunContext(
        *(KIND, common, collection, fabric.device, connector, fabric, model, autocast),
        amp_dtype=precision,
        num_processes=fabric.world_size,
        rank=fabric.global_rank,
    )


def open_connector(config: CollectionConfig, world_model: ModelConfig | None) -> Connector:
    """The environment family of `config.connector` for `config.games`, with frames as the world model knows them.

    They have its size, and are cropped around a character if its dataset was recorded so. FieldError (of `config`) for
    a game that cannot be played here.
    """
    own = connector_config(config, "image_size", "roi_annotation_fpath")
    if world_model is not None:
        own.image_size = world_model.tokenizer.image_size
        own.roi_annotation_fpath = own.roi_annotation_fpath or world_model.roi_table or None
    return playable_connector(own)


class _OneDevice(TorchElasticEnvironment):
    """To Fabric, each process is a machine of one device.

    Its own view of Slurm refuses jobs without `--ntasks-per-node`, and it takes the GPU of a process's number on its
    machine, where a task of Slurm may see its own alone.
    """

    def local_rank(self) -> int:
        return 0


def make_fabric(common: CommonConfig) -> tuple[Fabric, torch.dtype | None]:
    """Lightning Fabric on `device`, joined with the processes that the launcher started, and the precision."""
    device = agent_device(common)
    precision = choose_precision(common.precision, device)
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
