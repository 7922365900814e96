"""Test episodes: how the agent plays without learning."""

import torch

from auto_explore.config import TestPlayConfig
from auto_explore.src.collector import ActionSampling, Collector
from auto_explore.src.dataset import AgentEpisode
from auto_explore.src.models.actor_critic import ActorCritic
from training.agent.testing import Tested, play_episodes

_RETURNS = {"mean_return": "rewards", "mean_environment_return": "env_rewards"}


def test_episodes(
    collector: Collector, network: ActorCritic, config: TestPlayConfig, seed: int, repetition: int
) -> Tested[AgentEpisode]:
    """Play the first `num_episodes` episodes of the collector's schedule; in a `repetition` above 0 those after."""
    first = repetition * config.num_episodes
    collector.start(network, first)
    sampling = ActionSampling(config.temperature, config.epsilon, config.should_sample)
    uniform = torch.Generator().manual_seed(seed)
    return play_episodes(
        collector.envs,
        first,
        config.num_episodes,
        lambda is_enough: collector.collect(network, sampling, uniform, is_enough),
        _RETURNS,
    )
