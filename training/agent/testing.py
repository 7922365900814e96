"""Test episodes: how an agent plays without learning."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic

import numpy as np
from tqdm import tqdm

from data_generation.generator.vector import LevelVectorEnv
from training.agent.episodes import EpisodeT, LearnedEpisode
from training.agent.player import PlayedSteps
from training.coverage import Coverage, add_episode
from training.throughput import Played


@dataclass
class Tested(Generic[EpisodeT]):
    """The test's episodes by number, its measures by name, and all that was played for it."""

    episodes: list[EpisodeT]
    values: dict[str, float]
    played: Played


def play_episodes(
    envs: LevelVectorEnv,
    first: int,
    num_episodes: int,
    play: Callable[[Callable[[PlayedSteps[EpisodeT]], bool]], PlayedSteps[EpisodeT]],
    returns: Mapping[str, str],
) -> Tested[EpisodeT]:
    """Play `num_episodes` episodes of a schedule that was started at session `first`; `play(is_enough)` plays.

    Which episodes count does not depend on how long they are: with several environments the first ones to end would
    be the short ones. Where an environment fails in one of them, the next one of the schedule counts.
    `returns`: measure -> the column of the episodes that it is the mean sum of.
    """

    def wanted() -> set[int]:
        following = itertools.count(first)
        sessions = (session for session in following if session not in envs.dropped_sessions)
        return set(itertools.islice(sessions, num_episodes))

    def is_enough(played: PlayedSteps[EpisodeT]) -> bool:
        done = wanted() & {episode.meta.session for episode in played.finished}
        bar.set_postfix_str(f"{played.num_steps} steps", refresh=False)
        bar.update(len(done) - bar.n)
        return len(done) == num_episodes

    # Steps are shown while no episode is complete, too.
    with tqdm(total=num_episodes, unit="episode", desc="test", leave=False, miniters=0) as bar:
        played = play(is_enough)
    counted = wanted()
    episodes = [episode for episode in played.finished if episode.meta.session in counted]
    episodes.sort(key=lambda episode: episode.meta.session)
    total = Played(played.num_steps, played.seconds["total"], played.operations)
    return Tested(episodes, _measures(episodes, returns), total)


def mean_sum(episodes: Sequence[LearnedEpisode], column: str) -> float:
    """The mean over episodes of the sum of a column, such as the return of `env_rewards`."""
    return float(np.mean([np.sum(getattr(episode, column)) for episode in episodes]))


def _measures(episodes: Sequence[LearnedEpisode], returns: Mapping[str, str]) -> dict[str, float]:
    """Mean returns and length, and what the episodes cover."""
    values = {name: mean_sum(episodes, column) for name, column in returns.items()}
    values["mean_length"] = float(np.mean([episode.num_steps for episode in episodes]))
    coverage = Coverage()
    for episode in episodes:
        add_episode(coverage, episode)
    return values | coverage.summary()
