"""Several environments stepped at once, each playing its own schedule in a process of its own.

Stable-Retro allows one emulator a process. Imports no torch: worker processes start in a second.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import parent_process
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode

from data_generation.data.errors import FieldError, UserError
from data_generation.generator.connector_base import Connector
from data_generation.generator.levels import LevelEnv, Transition
from data_generation.generator.process import set_up_worker_process, single_threaded_children
from data_generation.generator.schedule import EndlessSchedule


@dataclass(frozen=True)
class EpisodeProgress:
    """An episode in progress: its number among those of its environment, and the actions played so far."""

    episode: int
    actions: list[int]


class ScheduledEnv(gym.Env[np.ndarray, Any]):
    """Plays the episodes of its schedule one after the other: every reset starts the next one, with its own seed.

    The info holds the game's numbers as ("numbers", ((name, value), …)), because a vector environment would take
    dictionaries apart at every step.
    """

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 (Gymnasium's interface)
    render_mode = "rgb_array"

    def __init__(self, connector: Connector, schedule: EndlessSchedule, n_steps_max: int):
        self._env = LevelEnv(connector, n_steps_max)
        self._schedule = schedule
        self._next_episode = 0
        self._is_set_up = False
        self.action_space = gym.spaces.Discrete(len(connector.action_names))
        self.observation_space = gym.spaces.Box(0, 255, connector.frame_shape, np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Start the next episode of the schedule."""
        return self._play_again([])[-1], {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        with _errors_cross_processes():
            step = self._env.step(int(action))
        return step.frame, step.env_reward, step.terminated, step.truncated, {"numbers": tuple(step.numbers.items())}

    def resume(self, progress: Sequence[EpisodeProgress]) -> np.ndarray:
        """Play this environment's episode in progress again: its frames (n + 1, C, H, W), the last one being now."""
        own = progress[self._schedule.index % len(progress)]
        self._next_episode = own.episode
        return self._play_again(own.actions)

    def _play_again(self, actions: list[int]) -> np.ndarray:
        """Start the next episode and play `actions`; its frames."""
        if parent_process() is not None and not self._is_set_up:
            set_up_worker_process()
            self._is_set_up = True
        episode = self._schedule.episode(self._next_episode)
        self._next_episode += 1
        with _errors_cross_processes():
            return self._env.replay(episode.level, episode.env_seed, actions)

    def close(self) -> None:
        self._env.close()


class LevelVectorEnv:
    """The environments of some schedules. An episode's end starts the environment's next one in the same step."""

    def __init__(self, connector: Connector, schedules: Sequence[EndlessSchedule], n_steps_max: int):
        makers = [partial(ScheduledEnv, connector, schedule, n_steps_max) for schedule in schedules]
        with single_threaded_children():
            self._envs = AsyncVectorEnv(makers, context="spawn", autoreset_mode=AutoresetMode.SAME_STEP, copy=True)
        self.num_envs = len(schedules)

    def resume(self, progress: Sequence[EpisodeProgress]) -> list[np.ndarray]:
        """Play every environment's episode in progress again; its frames (n + 1, C, H, W) so far."""
        with _errors_of_children():
            return list(self._envs.call("resume", progress))

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, list[Transition]]:
        """Play an action (E,) in every environment: the frames (E, C, H, W) to act on next, and what was played.

        Where an episode has ended, the next frame is the first one of the following episode.
        """
        with _errors_of_children():
            frames, rewards, terminated, truncated, infos = self._envs.step(actions)
        steps = []
        for i, action in enumerate(actions):
            is_last = terminated[i] or truncated[i]
            numbers = infos["final_info"]["numbers"][i] if is_last else infos["numbers"][i]
            frame = infos["final_obs"][i] if is_last else frames[i]
            ends = bool(terminated[i]), bool(truncated[i])
            steps.append(Transition(int(action), frame, float(rewards[i]), *ends, dict(numbers)))
        return frames, steps

    def close(self) -> None:
        """End the environments' processes."""
        self._envs.close()


@contextmanager
def _errors_cross_processes() -> Iterator[None]:
    """AsyncVectorEnv raises a child's error anew, as `type(error)(error)`, which a FieldError does not take."""
    try:
        yield
    except FieldError as error:
        raise UserError(error) from error


@contextmanager
def _errors_of_children() -> Iterator[None]:
    """The FieldError that `_errors_cross_processes` has wrapped."""
    try:
        yield
    except UserError as error:
        inner: BaseException = error
        while inner.args and isinstance(inner.args[0], UserError):
            inner = inner.args[0]
        raise inner from None
