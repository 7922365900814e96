"""Playing episodes: the one rollout loop, and the process around it."""

import os
import signal
import sys
import threading
import traceback
from dataclasses import dataclass
from functools import cached_property
from multiprocessing import parent_process
from multiprocessing.connection import Connection
from numbers import Number
from typing import Any

import cv2
import gymnasium as gym
import numpy as np

from data_generation.config import DatasetConfig
from data_generation.data.data import EpisodeMeta, EpisodeWriter, episode_path
from data_generation.generator.connector_base import Connector
from data_generation.generator.plan import EpisodeTask, episode_seed
from data_generation.generator.policy import Policy, make_policy

USER_ERRORS = (ValueError, FileNotFoundError)
_NUMBERS = (Number, np.generic)
_PLAIN = {int, float, bool}  # asked first: an abstract class such as Number takes its time to say who belongs to it


@dataclass(frozen=True)
class Report:
    """What a worker says of one episode: its number of frames, or what went wrong."""

    num_frames: int = 0
    error: str = ""  # one line; empty = the episode is complete
    is_user_error: bool = False  # the configuration is at fault: no other episode would fare better
    is_unplayable: bool = False  # the game cannot be opened: none of its episodes would fare better
    details: str = ""  # traceback


class Unplayable(Exception):
    """A game's environment cannot be opened."""


def play_episode(
    env: gym.Env[np.ndarray, Any],
    policy: Policy,
    writer: EpisodeWriter,
    seeds: np.random.SeedSequence,
    n_steps_max: int,
) -> int:
    """Play and write one episode of at most `n_steps_max` actions; returns its number of frames (actions + 1)."""
    policy_seed, env_seed = seeds.spawn(2)
    rng = np.random.default_rng(policy_seed)
    observation, _ = env.reset(seed=int(env_seed.generate_state(1)[0]))
    writer.start(observation)
    carry = policy.initial_carry()
    for step in range(1, n_steps_max + 1):
        carry, action = policy(carry, observation, rng)
        observation, reward, terminated, truncated, info = env.step(action)
        truncated = truncated or (step == n_steps_max and not terminated)
        numbers = {key: value for key, value in info.items() if type(value) in _PLAIN or isinstance(value, _NUMBERS)}
        writer.step(action, float(reward), terminated, truncated, numbers, observation)
        if terminated or truncated:
            break
    return step + 1


class Player:
    """Plays episodes one after the other; keeps the environment open while the world stays the same."""

    def __init__(self, config: DatasetConfig, connector: Connector):
        self._config = config
        self._connector = connector
        self._versions = connector.versions()
        self._env: gym.Env[np.ndarray, Any] | None = None
        self._world: tuple[str, int] | None = None

    @cached_property
    def _policy(self) -> Policy:
        return make_policy(self._connector)

    def play(self, task: EpisodeTask) -> int:
        """Make one episode's file; returns its number of frames. Raises Unplayable if the game cannot be opened."""
        policy = self._policy  # first: what is wrong with it is wrong with every game
        env = self._open(task)
        generator = self._config.connector.generator_config
        seeds = episode_seed(self._config.seed, task.game, task.instance, task.session)
        path = episode_path(task.env_dpath, task.instance, task.session)
        shape = self._connector.frame_shape
        with EpisodeWriter(path, self._meta(task), shape, output_mode=generator.output_mode) as writer:
            num_frames = play_episode(env, policy, writer, seeds, generator.n_steps_max)
            writer.commit()
        return num_frames

    def close(self) -> None:
        """Close the environment; the next episode opens one again."""
        if self._env is not None:
            self._env.close()
        self._env, self._world = None, None

    def _open(self, task: EpisodeTask) -> gym.Env[np.ndarray, Any]:
        if self._env is None or self._world != task.world:
            self.close()  # before the next: an emulator wants the process for itself
            try:
                self._env = self._connector.make_env(task.game, task.instance)
            except Exception as error:  # a broken ROM may raise anything
                raise Unplayable(_one_line(error)) from error
            self._world = task.world
        return self._env

    def _meta(self, task: EpisodeTask) -> EpisodeMeta:
        return EpisodeMeta(
            seed=self._config.seed,
            instance=task.instance,
            session=task.session,
            policy=type(self._policy).__name__,
            policy_parameters=self._policy.parameters,
            game=task.game,
            versions=self._versions,
        )


def report_of(player: Player, task: EpisodeTask) -> Report:
    """Play an episode; a failure becomes a report, and the environment is opened anew for the next one."""
    try:
        return Report(player.play(task))
    except Exception as error:
        player.close()
        return _failure(error)


def _failure(error: Exception) -> Report:
    """The report of an exception that is being handled."""
    details = traceback.format_exc()
    if isinstance(error, Unplayable):
        return Report(0, str(error), is_unplayable=True, details=details)
    return Report(0, _one_line(error), is_user_error=isinstance(error, USER_ERRORS), details=details)


def _one_line(error: Exception) -> str:
    line = " ".join(str(error).split()) or type(error).__name__
    return line if isinstance(error, USER_ERRORS) else f"{type(error).__name__}: {line}"


def worker_main(connection: Connection, config: DatasetConfig, connector: Connector) -> None:
    """Body of a worker process: play the tasks that come through `connection`, report each, end at None."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends its workers
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # an exception, so that the writer removes its temporary file
    _die_with_parent()
    cv2.setNumThreads(1)
    player = Player(config, connector)
    while (task := connection.recv()) is not None:
        connection.send(report_of(player, task))
    player.close()


def _die_with_parent() -> None:
    """A killed parent cannot end its workers, and a new run may already be writing the same episodes."""
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
