"""An environment that shows images, as the generator records it: held actions and small frames."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from data_generation.generator.faults import EnvironmentFault, foreign
from data_generation.generator.frames import FrameFitter
from data_generation.generator.images import ImageKind
from data_generation.generator.values import flag_of, kind_of, reward_of

_RGB = ImageKind()


@dataclass(frozen=True)
class ImageSettings:
    """How images are recorded: see `ConnectorConfig`; `frame_size` is (height, width)."""

    n_skip_frames: int
    frame_size: tuple[int, int]
    max_last_frames: bool = False


class ImageEnv(gym.Env[np.ndarray, Any]):
    """Some actions of `env`, each held for `n_skip_frames` of its steps; observations uint8 (3, height, width).

    `to_image` turns an observation of `env` into an image of `kind`; it is called for the last step of an action only,
    unless `max_last_frames` asks for the maximum of the last two. Rewards of the steps are summed, the info is that of
    the last one. Whatever `env` raises, and images of another kind or size than before, are EnvironmentFaults.
    """

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 (Gymnasium's interface)
    render_mode = "rgb_array"

    def __init__(
        self,
        env: gym.Env[Any, Any],
        to_image: Callable[[Any], Any],
        actions: Sequence[int],
        settings: ImageSettings,
        kind: ImageKind = _RGB,
    ):
        self._env, self._to_image, self._kind = env, to_image, kind
        self._actions = list(actions)
        self._settings = settings
        self._fit = FrameFitter(*settings.frame_size)
        # Of the last step, and (only for `max_last_frames`) of the one before it.
        self._image: np.ndarray = np.zeros((0, 0, 3), np.uint8)
        self._before: np.ndarray | None = None
        self.action_space = gym.spaces.Discrete(len(self._actions))
        self.observation_space = gym.spaces.Box(0, 255, (3, *settings.frame_size), np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Start an episode; the seed goes to `env`."""
        observation, info = reset_env(self._env, seed, options)
        self._before, self._image = None, self._rgb(observation)
        return self._fit(self.render()), info

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Hold an action, at most to the end of the episode."""
        total, last = 0.0, self._settings.n_skip_frames - 1
        for k in range(last + 1):
            observation, reward, terminated, truncated, info = step_env(self._env, self._actions[action])
            total += reward_of(reward)
            is_over = terminated or truncated
            if is_over or k == last or self._settings.max_last_frames:
                self._see(observation)
            if is_over:
                break
        return self._fit(self.render()), total, terminated, truncated, info

    def _see(self, observation: Any) -> None:
        image = self._rgb(observation)
        if image.shape != self._image.shape:
            raise EnvironmentFault("render", f"gave {kind_of(image)}, before {self._image.shape}")
        if self._settings.max_last_frames:
            self._before = self._image
        self._image = image

    def _rgb(self, observation: Any) -> np.ndarray:
        with foreign("render"):
            image = self._kind.rgb(self._to_image(observation))
        # It may be drawn over in the next step.
        return image.copy() if self._settings.max_last_frames else image

    def render(self) -> np.ndarray:
        """The image (h, w, 3) uint8 that is recorded, in the environment's own size."""
        return self._image if self._before is None else np.maximum(self._image, self._before)

    def close(self) -> None:
        """Close `env`."""
        with foreign("close"):
            self._env.close()


def reset_env(env: gym.Env[Any, Any], seed: int | None, options: dict[str, Any] | None) -> tuple[Any, Any]:
    """Observation and info of a reset. EnvironmentFault for whatever else comes of it."""
    with foreign("reset"):
        result = env.reset(seed=seed, options=options)
    if not isinstance(result, tuple) or len(result) != 2:
        raise EnvironmentFault("reset", f"gave {_what(result)}, not (observation, info)")
    return result


def step_env(env: gym.Env[Any, Any], action: int) -> tuple[Any, Any, bool, bool, Any]:
    """Observation, reward, the two ends and info of a step. EnvironmentFault for whatever else comes of it."""
    with foreign("step"):
        result: Any = env.step(action)
    if not isinstance(result, tuple) or len(result) != 5:
        raise EnvironmentFault("step", f"gave {_what(result)}, not (observation, reward, terminated, truncated, info)")
    observation, reward, terminated, truncated, info = result
    return observation, reward, flag_of(terminated, "terminated"), flag_of(truncated, "truncated"), info


def _what(result: Any) -> str:
    return f"{len(result)} values" if isinstance(result, tuple) else kind_of(result)
