"""Levels, and the environment in which their episodes are played.

The generator, an agent that learns and a person who plays all open environments through `LevelEnv`, so that an episode
is the same whoever plays it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import gymnasium as gym
import numpy as np

from data_generation.generator.connector_base import Connector

_NUMBERS = (Real, np.bool_)
# Asked first, because an abstract class such as Real needs much longer to tell whether a value is one.
_PLAIN_NUMBERS = {int, float, bool}


@dataclass(frozen=True)
class Level:
    """What an episode starts from: a game at one of its instances (start states of a retro game, levels of CoinRun)."""

    game: str
    instance: int


def list_levels(connector: Connector, games: Sequence[str], n_instances: int) -> list[Level]:
    """The first `n_instances` levels of each game, game by game; a game with fewer instances gives all it has."""
    limits = {game: connector.num_instances(game) for game in games}
    counts = {game: n_instances if limit is None else min(n_instances, limit) for game, limit in limits.items()}
    return [Level(game, instance) for game in games for instance in range(counts[game])]


@dataclass(frozen=True)
class Transition:
    """One step of an episode: the action, what came of it, and the frame (C, H, W) uint8 after it."""

    action: int
    frame: np.ndarray
    env_reward: float
    terminated: bool
    truncated: bool
    numbers: dict[str, float]  # values of the environment's info that are numbers

    @property
    def is_last(self) -> bool:
        return self.terminated or self.truncated


class LevelEnv:
    """Plays episodes of any level, one after the other; keeps the environment open while the level stays the same."""

    def __init__(self, connector: Connector, n_steps_max: int):
        """An episode is truncated after `n_steps_max` steps."""
        self._connector = connector
        self._n_steps_max = n_steps_max
        self._env: gym.Env[np.ndarray, Any] | None = None
        self._level: Level | None = None
        self._num_steps = 0

    def open(self, level: Level) -> None:
        """Open the level's environment unless it is open; raises whatever `Connector.make_env` raises."""
        if self._env is None or self._level != level:
            # Before the next one is made: an emulator needs the process for itself.
            self.close()
            self._env, self._level = self._connector.make_env(level.game, level.instance), level

    def start(self, level: Level, seed: int) -> np.ndarray:
        """Start an episode of a level; its first frame (C, H, W) uint8. `seed` is that of the environment's reset."""
        self.open(level)
        assert self._env is not None
        self._num_steps = 0
        frame, _ = self._env.reset(seed=seed)
        return frame

    def step(self, action: int) -> Transition:
        """Play one action of the episode."""
        assert self._env is not None, "start() comes first"
        frame, reward, terminated, truncated, info = self._env.step(action)
        self._num_steps += 1
        truncated = truncated or (self._num_steps >= self._n_steps_max and not terminated)
        numbers = {
            key: float(value)
            for key, value in info.items()
            if type(value) in _PLAIN_NUMBERS or isinstance(value, _NUMBERS)
        }
        return Transition(action, frame, float(reward), bool(terminated), bool(truncated), numbers)

    def replay(self, level: Level, seed: int, actions: Sequence[int]) -> np.ndarray:
        """Start an episode and play recorded actions; its frames (len(actions) + 1, C, H, W), the last one being now.

        The next `step` continues the episode.
        """
        frames = [self.start(level, seed)]
        frames += [self.step(action).frame for action in actions]
        return np.stack(frames)

    def close(self) -> None:
        """Close the environment; the next episode opens one again."""
        if self._env is not None:
            self._env.close()
        self._env, self._level = None, None
