"""Test episodes: how one policy of the family plays without learning."""

import itertools
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from external.agent57.actors import ActorGroup, PlayedSteps
from external.agent57.replay import PlayedEpisode
from training.coverage import Coverage, add_episode
from training.throughput import Played


@dataclass
class Agent57Test:
    """The test's episodes by number, its measures by name, and all that was played for it."""

    episodes: list[PlayedEpisode]
    values: dict[str, float]
    played: Played


def play_test(actors: ActorGroup, num_episodes: int, seed: int, repetition: int = 0) -> Agent57Test:
    """Play the first `num_episodes` episodes of the actors' schedule, or in a `repetition` above 0 those that follow.

    Which episodes count does not depend on how long they are: with several environments the first ones to end would
    be the short ones. Where an environment fails in one of them, the next one of the schedule counts.
    """

    first = repetition * num_episodes

    def wanted() -> set[int]:
        following = itertools.count(first)
        sessions = (session for session in following if session not in actors.envs.dropped_sessions)
        return set(itertools.islice(sessions, num_episodes))

    def is_enough(played: PlayedSteps) -> bool:
        done = wanted() & {episode.meta.session for episode in played.finished}
        bar.update(len(done) - bar.n)
        return len(done) == num_episodes

    rng = np.random.default_rng(seed)
    actors.start(rng, first)
    with tqdm(total=num_episodes, unit="episode", desc="test", leave=False) as bar:
        played = actors.play(rng, is_enough)
    counted = wanted()
    episodes = [episode for episode in played.finished if episode.meta.session in counted]
    episodes.sort(key=lambda episode: episode.meta.session)
    total = Played(played.num_steps, played.seconds["total"], played.operations)
    return Agent57Test(episodes, measures_of(episodes), total)


def measures_of(episodes: list[PlayedEpisode]) -> dict[str, float]:
    """Means of the returns and of the length of some episodes, and what they cover."""
    values = {
        "mean_return": float(np.mean([np.sum(episode.env_rewards) for episode in episodes])),
        "mean_intrinsic_return": float(np.mean([np.sum(episode.int_rewards) for episode in episodes])),
        "mean_length": float(np.mean([episode.num_steps for episode in episodes])),
    }
    coverage = Coverage()
    for episode in episodes:
        add_episode(coverage, episode)
    return values | coverage.summary()
