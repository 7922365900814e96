"""Levels, and the environment in which their episodes are played.

The generator, an agent that learns and a person who plays all open environments through `LevelEnv`, so that an episode
is the same whoever plays it.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from data_generation.generator.connector_base import Connector
from data_generation.generator.faults import EnvironmentFault, foreign
from data_generation.generator.values import flag_of, kind_of, numbers_of, reward_of

# Values that an environment names anew at every step are not listed without an end.
_MAX_NOTES = 100


@dataclass(frozen=True)
class Level:
    """What an episode starts from: a game at one of its instances (start states of a retro game, levels of CoinRun)."""

    game: str
    instance: int


def num_levels(connector: Connector, game: str, n_instances: int) -> int:
    """How many levels of a game `n_instances` means: at most all that there are."""
    limit = connector.num_instances(game)
    return n_instances if limit is None else min(n_instances, limit)


def list_levels(connector: Connector, games: Sequence[str], n_instances: int) -> list[Level]:
    """The first `n_instances` levels of each game, game by game; a game with fewer instances gives all it has."""
    return [Level(game, instance) for game in games for instance in range(num_levels(connector, game, n_instances))]


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
    """Plays episodes of any level, one after the other; keeps the environment open while the level stays the same.

    Whatever an environment raises or gives that cannot be recorded is an EnvironmentFault: close it then, and the next
    episode opens a fresh one. UserErrors of this project's own wrappers pass.
    """

    def __init__(self, connector: Connector, n_steps_max: int, beat: Callable[[str], None] = lambda _: None):
        """An episode is truncated after `n_steps_max` steps. `beat(call)` comes before a call, `beat("")` after it."""
        self._connector = connector
        self._n_steps_max = n_steps_max
        self._beat = beat
        self._env: gym.Env[np.ndarray, Any] | None = None
        self._level: Level | None = None
        self._num_steps = 0
        self._is_over = False
        self._noted: set[tuple[str, str]] = set()
        self._notes: list[str] = []

    def open(self, level: Level) -> None:
        """Open the level's environment unless it is open."""
        if self._env is None or self._level != level:
            # Before the next one is made: an emulator needs the process for itself.
            self.close()
            self._level = level
            with self._calling("make"):
                self._env = self._connector.make_env(level.game, level.instance)

    def start(self, level: Level, seed: int) -> np.ndarray:
        """Start an episode of a level; its first frame (C, H, W) uint8. `seed` is that of the environment's reset."""
        self.open(level)
        assert self._env is not None
        self._num_steps, self._is_over = 0, False
        with self._calling("reset"):
            frame, _ = self._env.reset(seed=seed)
            return self._checked("reset", frame)

    def step(self, action: int) -> Transition:
        """Play one action of the episode."""
        assert self._env is not None, "start() comes first"
        with self._calling("step"):
            frame, reward, terminated, truncated, info = self._env.step(action)
            self._num_steps += 1
            is_end, is_cut = flag_of(terminated, "terminated"), flag_of(truncated, "truncated")
            is_cut = is_cut or (self._num_steps >= self._n_steps_max and not is_end)
            numbers = numbers_of(info, self._omit)
            self._is_over = is_end or is_cut
            return Transition(action, self._checked("step", frame), reward_of(reward), is_end, is_cut, numbers)

    @property
    def is_over(self) -> bool:
        """Whether the last step ended the episode."""
        return self._is_over

    def image(self) -> np.ndarray:
        """The game's own image (h, w, 3) uint8 of the last frame."""
        assert self._env is not None
        with self._calling("render"):
            image: np.ndarray = self._env.render()  # type: ignore[assignment]
        return image

    @contextmanager
    def _calling(self, call: str) -> Iterator[None]:
        self._beat(call)
        try:
            with foreign(call, checked=True):
                yield
        finally:
            self._beat("")

    def _checked(self, call: str, frame: np.ndarray) -> np.ndarray:
        if frame.dtype != np.uint8 or frame.shape != self._connector.frame_shape:
            expected = f"uint8 {self._connector.frame_shape}"
            raise EnvironmentFault(call, f"gave {kind_of(frame)} as frame, expected {expected}")
        return frame

    def _omit(self, name: str, problem: str) -> None:
        """Note, once per game and name, what is not recorded."""
        assert self._level is not None
        game = self._level.game
        if (game, name) not in self._noted and len(self._noted) < _MAX_NOTES:
            self._noted.add((game, name))
            self._notes.append(f"{game}: {problem}: omitted")

    def take_notes(self) -> list[str]:
        """What the user should hear, once each: values that are omitted, environments that cannot be closed."""
        notes, self._notes = self._notes, []
        return notes

    def replay(self, level: Level, seed: int, actions: Sequence[int]) -> np.ndarray:
        """Start an episode and play recorded actions; its frames (len(actions) + 1, C, H, W), the last one being now.

        Fewer where the episode ends before the last action: then `is_over`. Else the next `step` continues it.
        """
        frames = [self.start(level, seed)]
        for action in actions:
            if self.is_over:
                break
            frames.append(self.step(action).frame)
        return np.stack(frames)

    def close(self) -> None:
        """Close the environment; the next episode opens one again."""
        env, self._env = self._env, None
        if env is None:
            return
        try:
            with self._calling("close"):
                env.close()
        except EnvironmentFault as fault:
            assert self._level is not None
            self._notes.append(f"{self._level.game}: {fault}")
