"""A small Agent57 and a quick configuration for its tests."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from data_generation.config import ConnectorConfig, GeneratorConfig
from data_generation.data.data import EpisodeMeta
from data_generation.generator.levels import Transition
from external.agent57.config import (
    ActorsConfig,
    Agent57CollectionConfig,
    Agent57CommonConfig,
    Agent57Config,
    Agent57EvaluationConfig,
    Agent57TrainingConfig,
    Agent57WandbConfig,
    FamilyConfig,
    IntrinsicConfig,
    LearnerConfig,
    NetworkConfig,
    ReplayConfig,
    TestersConfig,
)
from external.agent57.networks import AgentInputs, AgentNetworks
from external.agent57.replay import PlayedEpisode
from external.agent57.view import VIEW_SHAPE
from tests.toy_game import SIZE, WALK

NUM_ACTIONS, NUM_POLICIES = 3, 4
REPLAY = ReplayConfig(num_steps=60, burn_in=2, sequence=4, period=2, min_steps=20)


def small_network() -> NetworkConfig:
    return NetworkConfig(channels=[4, 4, 4], lstm=8, head=8, embedding=4, inverse=8, rnd=8, rnd_outputs=4)


def small_training() -> Agent57TrainingConfig:
    return Agent57TrainingConfig(
        network=small_network(),
        family=FamilyConfig(num_policies=NUM_POLICIES),
        intrinsic=IntrinsicConfig(num_neighbours=2, memory=20, num_frames=3),
        replay=ReplayConfig(**vars(REPLAY)),
        learner=LearnerConfig(batch_size=4, updates_per_epoch=2, target_every=3),
    )


def small_networks(seed: int = 0) -> AgentNetworks:
    torch.manual_seed(seed)
    return AgentNetworks(NUM_ACTIONS, NUM_POLICIES, small_network())


def quick_config(root: Path, **common: Any) -> Agent57Config:
    """Four epochs of twenty steps in two environments of the toy game."""
    connector = ConnectorConfig(
        name="gymnasium",
        n_skip_frames=1,
        valid_action_combos=[],
        image_size=SIZE,
        generator_config=GeneratorConfig(n_instances=1, n_steps_max=11),
    )
    settings = {"epochs": 4, "device": "cpu", "precision": "fp32", "save_every": 1, "keep_every": 0}
    return Agent57Config(
        common=Agent57CommonConfig(**{**settings, "root_dpath": str(root / "agents"), **common}),
        collection=Agent57CollectionConfig(
            games=[WALK],
            connector=connector,
            train=ActorsConfig(num_envs=2, num_steps=20),
            test=TestersConfig(num_envs=1, num_episodes=2),
        ),
        training=small_training(),
        evaluation=Agent57EvaluationConfig(every=2, n_gifs=1),
        wandb=Agent57WandbConfig(mode="disabled"),
    )


def random_episode(num_steps: int, ends: str = "") -> PlayedEpisode:
    """Random frames; step t has action t % 3, rewards t + 0.5 and t / 10, probability 0.5; states of small networks.

    `ends`: "", "terminated", "truncated".
    """
    rng = np.random.default_rng(num_steps)
    frames = rng.integers(0, 256, (num_steps + 1, *VIEW_SHAPE), np.uint8)
    episode = PlayedEpisode(Path("nowhere"), EpisodeMeta(), frames[0], policy=1)
    for t in range(num_steps):
        episode.keep_state(np.full((4, 8), t, np.float32), REPLAY)
        is_end = t == num_steps - 1
        step = Transition(
            t % 3, frames[t + 1], t + 0.5, is_end and ends == "terminated", is_end and ends == "truncated", {}
        )
        episode.add(step, t / 10, 0.5)
    return episode


def inputs_at(episode: PlayedEpisode, t: int) -> AgentInputs:
    """What the agent sees before step t."""
    last = [0.0, 0.0, 0.0] if t == 0 else [column[t - 1] for column in _columns(episode)]
    frame = torch.from_numpy(episode.frames[t].copy())[None, None]
    action, ext_reward, int_reward = (torch.tensor([[value]]) for value in last)
    return AgentInputs(frame, action.long(), ext_reward.float(), int_reward.float(), torch.tensor([episode.policy]))


def _columns(episode: PlayedEpisode) -> tuple[list[Any], ...]:
    return episode.actions, episode.env_rewards, episode.int_rewards
