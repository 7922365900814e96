"""Which episodes are played, and the seeds of each: pure functions of the configuration, whoever plays them and when.

A dataset has `n_sessions` episodes of every level. An agent that learns plays without an end, its environments taking
turns at the levels.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data_generation.generator.levels import Level


@dataclass(frozen=True)
class ScheduledEpisode:
    """One episode to play."""

    level: Level
    session: int
    # Recorded with the episode (`EpisodeMeta.seed`).
    seed: int
    # Of the environment's reset.
    env_seed: int
    # Of the policy's random numbers; None where the policy has a generator of its own.
    policy_seed: np.random.SeedSequence | None = None


def episode_seed(seed: int, level: Level, session: int) -> np.random.SeedSequence:
    """The source of a dataset episode's randomness: the same on every machine and in whatever order it is played."""
    digest = hashlib.sha256(level.game.encode()).digest()
    words = [int.from_bytes(digest[i : i + 4], "little") for i in range(0, 16, 4)]
    return np.random.SeedSequence([seed, *words, level.instance, session])


def dataset_episode(seed: int, level: Level, session: int) -> ScheduledEpisode:
    """The episode of a level and session in the dataset of `seed`."""
    policy_seed, env_seed = episode_seed(seed, level, session).spawn(2)
    return ScheduledEpisode(level, session, seed, _first_word(env_seed), policy_seed)


def _first_word(seed: np.random.SeedSequence) -> int:
    return int(seed.generate_state(1)[0])


@dataclass(frozen=True)
class EndlessSchedule:
    """The episodes of environment `index` of `num_envs`, which together take turns at the levels."""

    levels: tuple[Level, ...]
    seed: int
    index: int
    # Over all processes.
    num_envs: int

    def episode(self, number: int) -> ScheduledEpisode:
        """The environment's episode of that number, from 0. Its session is unique over all environments."""
        session = number * self.num_envs + self.index
        env_seed = _first_word(np.random.SeedSequence([self.seed, session]))
        return ScheduledEpisode(self.levels[session % len(self.levels)], session, seed=env_seed, env_seed=env_seed)

    def first_from(self, session: int) -> int:
        """The number of the environment's first episode whose session is `session` or a later one."""
        return -((self.index - session) // self.num_envs)


def take_turns(levels: Sequence[Level]) -> tuple[Level, ...]:
    """Levels in an order in which games take turns: the first instance of every game, then the second, …"""
    return tuple(sorted(levels, key=lambda level: level.instance))
