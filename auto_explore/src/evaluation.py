"""Test episodes: how the agent plays without learning."""

import itertools
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from auto_explore.config import TestPlayConfig
from auto_explore.src.collector import ActionSampling, Collected, Collector
from auto_explore.src.coverage import Coverage
from auto_explore.src.dataset import AgentEpisode
from auto_explore.src.models.actor_critic import ActorCritic
from auto_explore.src.videos import save_episode_gif
from data_generation.generator.connector_base import Connector


@dataclass
class Tested:
    """The test's episodes by number, and its measures by name."""

    episodes: list[AgentEpisode]
    values: dict[str, float]


def test_episodes(collector: Collector, network: ActorCritic, config: TestPlayConfig, seed: int) -> Tested:
    """Play the first `num_episodes` episodes of the collector's schedule, the same levels each time.

    Which episodes count does not depend on how long they are: with several environments the first ones to end would
    be the short ones. Where an environment fails in one of them, the next one of the schedule counts.
    """

    def wanted() -> set[int]:
        sessions = (session for session in itertools.count() if session not in collector.envs.dropped_sessions)
        return set(itertools.islice(sessions, config.num_episodes))

    def is_enough(collected: Collected) -> bool:
        done = wanted() & {episode.meta.session for episode in collected.finished}
        bar.set_postfix_str(f"{collected.num_steps} steps", refresh=False)
        bar.update(len(done) - bar.n)
        return len(done) == config.num_episodes

    collector.start(network)
    sampling = ActionSampling(config.temperature, config.epsilon, config.should_sample)
    # Steps are shown while no episode is complete, too.
    with tqdm(total=config.num_episodes, unit="episode", desc="test", leave=False, miniters=0) as bar:
        collected = collector.collect(network, sampling, torch.Generator().manual_seed(seed), is_enough)
    counted = wanted()
    episodes = [episode for episode in collected.finished if episode.meta.session in counted]
    episodes.sort(key=lambda episode: episode.meta.session)
    return Tested(episodes, measure(episodes))


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


def add_episode(coverage: Coverage, episode: AgentEpisode) -> None:
    """Count a complete episode in the measures of coverage."""
    names = {name for info in episode.infos for name in info}
    infos = {name: np.array([info.get(name, np.nan) for info in episode.infos]) for name in names}
    # Equal instances of two games are two levels.
    level = zlib.crc32(f"{episode.meta.game}/{episode.meta.instance}".encode())
    coverage.add(level, episode.frames, infos, np.array(episode.actions, np.int64))


def save_gifs(
    folder: Path, epoch: int, episodes: list[AgentEpisode], connector: Connector, say: Callable[[str], None]
) -> None:
    """A GIF of each episode."""
    for number, episode in enumerate(episodes):
        path = folder / f"epoch-{epoch:06d}_episode-{number}.gif"
        save_episode_gif(path, episode, connector.action_names, connector.fps(episode.meta.game))
        say(str(path))
