"""Test episodes: how the agent plays without learning."""

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from auto_explore.config import TestPlayConfig
from auto_explore.src.collector import ActionSampling, Collected, Collector
from auto_explore.src.dataset import AgentEpisode
from auto_explore.src.models.actor_critic import ActorCritic
from training.coverage import Coverage, add_episode
from training.throughput import Played


@dataclass
class Tested:
    """The test's episodes by number, its measures by name, and all that was played for it."""

    episodes: list[AgentEpisode]
    values: dict[str, float]
    played: Played


def test_episodes(
    collector: Collector, network: ActorCritic, config: TestPlayConfig, seed: int, repetition: int
) -> Tested:
    """Play the first `num_episodes` episodes of the collector's schedule; in a `repetition` above 0 those that follow.

    Which episodes count does not depend on how long they are: with several environments the first ones to end would
    be the short ones. Where an environment fails in one of them, the next one of the schedule counts.
    """

    first = repetition * config.num_episodes

    def wanted() -> set[int]:
        following = itertools.count(first)
        sessions = (session for session in following if session not in collector.envs.dropped_sessions)
        return set(itertools.islice(sessions, config.num_episodes))

    def is_enough(collected: Collected) -> bool:
        done = wanted() & {episode.meta.session for episode in collected.finished}
        bar.set_postfix_str(f"{collected.num_steps} steps", refresh=False)
        bar.update(len(done) - bar.n)
        return len(done) == config.num_episodes

    collector.start(network, first)
    sampling = ActionSampling(config.temperature, config.epsilon, config.should_sample)
    # Steps are shown while no episode is complete, too.
    with tqdm(total=config.num_episodes, unit="episode", desc="test", leave=False, miniters=0) as bar:
        collected = collector.collect(network, sampling, torch.Generator().manual_seed(seed), is_enough)
    counted = wanted()
    episodes = [episode for episode in collected.finished if episode.meta.session in counted]
    episodes.sort(key=lambda episode: episode.meta.session)
    played = Played(collected.num_steps, collected.clock.total, collected.operations)
    return Tested(episodes, measure(episodes), played)


def measure(episodes: list[AgentEpisode]) -> dict[str, float]:
    """Mean return and length, and what the episodes cover."""
    returns = [float(np.sum(episode.rewards)) for episode in episodes]
    env_returns = [float(np.sum(episode.env_rewards)) for episode in episodes]
    values = {
        "mean_return": float(np.mean(returns)),
        "mean_environment_return": float(np.mean(env_returns)),
        "mean_length": float(np.mean([episode.num_steps for episode in episodes])),
    }
    coverage = Coverage()
    for episode in episodes:
        add_episode(coverage, episode)
    return values | coverage.summary()
