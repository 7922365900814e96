"""A tiny world model and a quick configuration for the tests of AutoExplore."""

import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from torch import Tensor

from auto_explore.config import (
    ActorCriticConfig,
    AutoExploreConfig,
    CollectionConfig,
    CommonConfig,
    EvaluationConfig,
    RewardConfig,
    TestCollectionConfig,
    TestPlayConfig,
    TrainCollectionConfig,
    TrainingConfig,
    TrainPlayConfig,
    WandbConfig,
    WorldModelConfig,
)
from auto_explore.main import train
from auto_explore.src.dataset import AgentEpisode
from auto_explore.src.reward import RewardInputs
from data_generation.config import ConnectorConfig, GeneratorConfig
from data_generation.data.data import EpisodeMeta
from data_generation.generator.levels import Transition
from models.checkpoint import save_model
from models.config import DynamicsConfig, LamConfig, ModelConfig, TokenizerConfig
from models.construct_model import build_model
from models.genie_redux import GenieRedux
from tests.toy_game import SIZE, WALK

FRAME_SHAPE = (3, SIZE, SIZE)
ACTIONS = ["action_0", "action_1", "action_2"]
SIZES = {"dim": 16, "num_blocks": 2, "heads": 2, "dim_head": 8}


def model_config(guided: bool = True, names: list[str] | None = None) -> ModelConfig:
    config = ModelConfig(
        model="genie_redux_guided" if guided else "genie_redux",
        tokenizer=TokenizerConfig(**SIZES, image_size=SIZE, patch_size=4, codebook_size=16, codebook_dim=8),
        lam=LamConfig(**SIZES, num_actions=3, codebook_dim=8),
        dynamics=DynamicsConfig(**SIZES, max_seq_len=16 * 8),
        action_names=ACTIONS if names is None else names,
    )
    config.dynamics.action_dim = len(config.action_names) or 3
    return config


def world_model(guided: bool = True, seed: int = 1) -> GenieRedux:
    """A frozen world model with random weights, which are large enough for its logits to differ."""
    torch.manual_seed(seed)
    model = build_model(model_config(guided)).eval().requires_grad_(False)
    assert isinstance(model, GenieRedux)
    model.dynamics.to_logits.weight.mul_(4)
    return model


def save_world_model(root: Path, guided: bool = True, names: list[str] | None = None) -> Path:
    """`<root>/demo/model-7.pt`."""
    path = root / "demo" / "model-7.pt"
    save_model(path, world_model(guided), model_config(guided, names), 7)
    return path


def quick_config(root: Path, reward: str = "entropy", **common: Any) -> AutoExploreConfig:
    """Two epochs of twenty steps in two environments; the world model is `save_world_model(root / "models")`'s."""
    connector = ConnectorConfig(
        name="gymnasium",
        n_skip_frames=1,
        valid_action_combos=[],
        image_size=SIZE,
        generator_config=GeneratorConfig(n_instances=1, n_steps_max=11),
    )
    actor_critic = ActorCriticConfig(batch_num_samples=4, steps_per_epoch=2, burn_in=3, num_steps=4)
    return AutoExploreConfig(
        common=CommonConfig(
            **{"epochs": 2, "device": "cpu", "precision": "fp32", "root_dpath": str(root / "agents"), **common}
        ),
        world_model=WorldModelConfig(root_dpath=str(root / "models")),
        collection=CollectionConfig(
            games=[WALK],
            connector=connector,
            reward=RewardConfig(type=reward, batch_size=4),
            train=TrainCollectionConfig(num_envs=2, config=TrainPlayConfig(num_steps=20)),
            test=TestCollectionConfig(num_envs=1, config=TestPlayConfig(num_episodes=2)),
        ),
        training=TrainingConfig(replay_steps=60, actor_critic=actor_critic),
        evaluation=EvaluationConfig(every=2, n_gifs=1),
        wandb=WandbConfig(mode="disabled"),
    )


def make_inputs(frames: Tensor, actions: Tensor, env_reward: Tensor, **changes: Any) -> RewardInputs:
    """Every row is the first step of another environment's episode, in a position of its own."""
    count = len(frames)
    rest = {"environments": list(range(count)), "is_first": [True] * count, "positions": list(range(count))}
    return RewardInputs(frames, actions, env_reward, **{**rest, **changes})


def make_episode(num_steps: int, root: Path = Path("nowhere"), session: int = 0, is_over: str = "") -> AgentEpisode:
    """Frame t is filled with t, step t has action t % 3, reward t + 0.5; `is_over`: "", "terminated", "truncated"."""
    meta = EpisodeMeta(instance=0, session=session, game="toy")
    episode = AgentEpisode(root, meta, np.zeros(FRAME_SHAPE, np.uint8))
    for t in range(num_steps):
        ends = {name: is_over == name and t == num_steps - 1 for name in ("terminated", "truncated")}
        frame = np.full(FRAME_SHAPE, t + 1, np.uint8)
        step = Transition(t % 3, frame, env_reward=float(t), numbers={"x": t / 3}, **ends)
        episode.add(step, log_probability=-0.1 * t - 0.1)
        episode.rewards[t] = t + 0.5
    return episode


def run_at(root: Path, change: Callable[[AutoExploreConfig], None] = lambda cfg: None, **changes: Any) -> Path:
    cfg = quick_config(root, **changes)
    change(cfg)
    return train(cfg)


def copy_of(trained: Path, tmp_path: Path) -> Path:
    """The run's root with all that belongs to it, to change."""
    shutil.copytree(trained.parent.parent, tmp_path / "copy")
    return tmp_path / "copy"


def config_file(root: Path, cfg: AutoExploreConfig) -> list[str]:
    """Arguments of the command that make this configuration."""
    content = asdict(cfg)
    content.pop("wandb")
    path = root / "presets" / "config" / "quick.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("# @package _global_\n" + OmegaConf.to_yaml(OmegaConf.create(content)))
    return ["config=quick", "--config-dir", str(root / "presets"), "wandb.mode=disabled"]
