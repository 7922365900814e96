"""Test episodes: how the agent plays without learning."""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from auto_explore.config import TestPlayConfig
from auto_explore.src.collector import Collector, PlayStyle
from auto_explore.src.coverage import Coverage
from auto_explore.src.dataset import Episode
from auto_explore.src.models.actor_critic import ActorCritic
from auto_explore.src.videos import save_episode_gif


@dataclass
class Tested:
    """The test's episodes by number, and its measures by name."""

    episodes: list[Episode]
    values: dict[str, float]


def test_episodes(collector: Collector, network: ActorCritic, config: TestPlayConfig, seed: int) -> Tested:
    """Play the first `num_episodes` episodes of the collector's schedule, the same worlds each time.

    Which episodes count does not depend on how long they are: with several environments the first ones to end would
    be the short ones.
    """
    wanted = set(range(config.num_episodes))

    def is_enough(num_steps: int, finished: list[Episode]) -> bool:
        return wanted <= {episode.place.meta.session for episode in finished}

    collector.start(network)
    style = PlayStyle(config.temperature, config.epsilon, config.should_sample)
    collected = collector.collect(network, style, torch.Generator().manual_seed(seed), is_enough)
    episodes = [episode for episode in collected.finished if episode.place.meta.session in wanted]
    episodes.sort(key=lambda episode: episode.place.meta.session)
    return Tested(episodes, measure(episodes))


def measure(episodes: list[Episode]) -> dict[str, float]:
    """Mean return and length, and what the episodes cover."""
    returns = [float(np.sum(episode.rewards)) for episode in episodes]
    paid = [float(np.sum(episode.environment_rewards)) for episode in episodes]
    values = {
        "mean_return": float(np.mean(returns)),
        "mean_environment_return": float(np.mean(paid)),
        "mean_length": float(np.mean([episode.num_steps for episode in episodes])),
    }
    coverage = Coverage()
    for episode in episodes:
        add_episode(coverage, episode)
    return values | coverage.summary()


def add_episode(coverage: Coverage, episode: Episode) -> None:
    """Take a complete episode into the measures of coverage."""
    names = {name for info in episode.infos for name in info}
    infos = {name: np.array([info.get(name, np.nan) for info in episode.infos]) for name in names}
    meta = episode.place.meta
    world = zlib.crc32(f"{meta.game}/{meta.instance}".encode())  # instances of two games are two worlds
    coverage.add(world, episode.frames, infos, np.array(episode.actions, np.int64))


def save_gifs(
    folder: Path, epoch: int, episodes: list[Episode], action_names: list[str], say: Callable[[str], None]
) -> None:
    """A GIF of each episode."""
    for number, episode in enumerate(episodes):
        path = folder / f"epoch-{epoch:06d}_episode-{number}.gif"
        save_episode_gif(path, episode, action_names)
        say(str(path))
