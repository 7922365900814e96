"""The environments in which the agent plays, each in a process of its own (Stable-Retro allows one emulator a process).

Imports no torch: worker processes start in a second.
"""

import signal
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import parent_process
from typing import Any, SupportsFloat

import cv2
import gymnasium as gym
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode

from auto_explore.config import CollectionConfig
from data_generation.generator.connector_base import Connector, make_connector
from models.config import ModelConfig

_KEY = "collection.connector"


@dataclass(frozen=True)
class World:
    """What an episode is played in: a game at one of its instances (start states, levels)."""

    game: str
    instance: int


@dataclass(frozen=True)
class Resumed:
    """An episode in progress: which one of its environment it is, and the actions played so far."""

    episode: int
    actions: list[int]


def open_connector(config: CollectionConfig, world_model: ModelConfig | None) -> Connector:
    """The environment family of `collection.connector` for `collection.games`, with frames as the world model knows
    them: of its size, and around a character if its dataset was recorded so.

    ValueError / FileNotFoundError in one line for a game that cannot be played here.
    """
    own = replace(config.connector, game=list(config.games) if config.connector.name != "coinrun" else "all")
    if world_model is not None:
        own.image_size = world_model.tokenizer.image_size
        own.roi_annotation_fpath = own.roi_annotation_fpath or world_model.recorded_around or None
    try:
        connector = make_connector(own)
        skipped = connector.select().skipped
    except (ValueError, FileNotFoundError) as error:
        raise type(error)(_own_keys(str(error))) from error
    if skipped:
        reasons = ", ".join(f"{game} ({reason})" for game, reason in skipped.items())
        raise FileNotFoundError(f"collection.games: {reasons}: leave it out, or import its ROM")
    return connector


def _own_keys(message: str) -> str:
    """A message of the generator with this command's names of its keys."""
    return message.replace("config.connector.game", "collection.games").replace("config.connector", _KEY)


def list_worlds(connector: Connector, n_instances: int) -> list[World]:
    """The worlds of the connector's games, games taking turns; a game with fewer instances gives those it has."""
    games = connector.select().games
    limits = {game: connector.num_instances(game) for game in games}
    counts = {game: n_instances if (limit := limits[game]) is None else min(n_instances, limit) for game in games}
    return [World(game, k) for k in range(n_instances) for game in games if k < counts[game]]


@dataclass(frozen=True)
class Schedule:
    """Which world and seed the k-th episode of environment `index` has: a pure function, whoever plays it."""

    worlds: tuple[World, ...]
    seed: int
    index: int
    num_envs: int  # over all processes

    def session(self, episode: int) -> int:
        """A number of its own for every episode of the run."""
        return episode * self.num_envs + self.index

    def world(self, episode: int) -> World:
        return self.worlds[self.session(episode) % len(self.worlds)]

    def env_seed(self, episode: int) -> int:
        return int(np.random.SeedSequence([self.seed, self.session(episode)]).generate_state(1)[0])


class WorldEnv(gym.Env[np.ndarray, Any]):
    """Plays its schedule's episodes one after the other; an episode is cut after `n_steps_max` steps.

    Every reset is the next episode. The emulator is opened at the first one. The info holds the game's numbers as
    ("numbers", ((name, value), …)), since a vector environment would take dictionaries apart at every step.
    """

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 (Gymnasium's interface)
    render_mode = "rgb_array"

    def __init__(self, connector: Connector, schedule: Schedule, n_steps_max: int):
        self._connector = connector
        self._schedule = schedule
        self._n_steps_max = n_steps_max
        self._env: gym.Env[np.ndarray, Any] | None = None
        self._world: World | None = None
        self._next_episode = 0
        self._num_steps = 0
        self.action_space = gym.spaces.Discrete(len(connector.action_names))
        self.observation_space = gym.spaces.Box(0, 255, connector.frame_shape, np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Start the next episode of the schedule, which has its own seed."""
        episode, self._next_episode, self._num_steps = self._next_episode, self._next_episode + 1, 0
        env = self._open(self._schedule.world(episode))
        observation, _ = env.reset(seed=self._schedule.env_seed(episode))
        return observation, {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        assert self._env is not None
        observation, reward, terminated, truncated, info = self._env.step(int(action))
        self._num_steps += 1
        truncated = truncated or (self._num_steps >= self._n_steps_max and not terminated)
        numbers = tuple((key, float(value)) for key, value in info.items() if isinstance(value, SupportsFloat))
        return observation, float(reward), terminated, truncated, {"numbers": numbers}

    def restore(self, resumed: Sequence[Resumed]) -> np.ndarray:
        """Play this environment's episode in progress again: its frames (n + 1, C, H, W), the last one being now."""
        own = resumed[self._schedule.index % len(resumed)]
        self._next_episode = own.episode
        frames = [self.reset()[0]]
        frames += [self.step(action)[0] for action in own.actions]
        return np.stack(frames)

    def _open(self, world: World) -> gym.Env[np.ndarray, Any]:
        if self._env is None:
            _settle_in()
        if self._env is None or self._world != world:
            self.close()  # before the next: an emulator wants the process for itself
            self._env, self._world = self._connector.make_env(world.game, world.instance), world
        return self._env

    def close(self) -> None:
        if self._env is not None:
            self._env.close()
        self._env, self._world = None, None


def _settle_in() -> None:
    """A worker process has one core, and leaves Ctrl-C, which reaches the whole group, to its parent."""
    if parent_process() is not None:
        cv2.setNumThreads(1)
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def make_vector_env(connector: Connector, schedules: Sequence[Schedule], n_steps_max: int) -> AsyncVectorEnv:
    """The schedules' environments, stepped at once. An episode's end resets its environment in the same step."""
    makers = [partial(WorldEnv, connector, schedule, n_steps_max) for schedule in schedules]
    return AsyncVectorEnv(makers, context="spawn", autoreset_mode=AutoresetMode.SAME_STEP, copy=True)
