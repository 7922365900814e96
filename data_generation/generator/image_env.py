"""An environment that shows images, as the generator records it: held actions and small frames."""

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from data_generation.generator.frames import FrameFitter


class ImageEnv(gym.Env[np.ndarray, Any]):
    """Some actions of `env`, each held for `n_skip_frames` of its steps; observations uint8 (3, height, width).

    `to_image` turns an observation of `env` into an image (h, w, 3) uint8; it is called for the last step of an action
    only. Rewards of the steps are summed, the info is that of the last one.
    """

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 (Gymnasium's interface)
    render_mode = "rgb_array"

    def __init__(
        self,
        env: gym.Env[Any, Any],
        to_image: Callable[[Any], np.ndarray],
        actions: Sequence[int],
        n_skip_frames: int,
        frame_size: tuple[int, int],
    ):
        self._env = env
        self._to_image = to_image
        self._actions = list(actions)
        self._n_skip_frames = n_skip_frames
        self._fit = FrameFitter(*frame_size)
        self._observation: Any = None
        self.action_space = gym.spaces.Discrete(len(self._actions))
        self.observation_space = gym.spaces.Box(0, 255, (3, *frame_size), np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Start an episode; the seed goes to `env`."""
        self._observation, info = self._env.reset(seed=seed, options=options)
        return self._fit(self.render()), info

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Hold an action, at most to the end of the episode."""
        total = 0.0
        for _ in range(self._n_skip_frames):
            self._observation, reward, terminated, truncated, info = self._env.step(self._actions[action])
            total += float(reward)
            if terminated or truncated:
                break
        return self._fit(self.render()), total, bool(terminated), bool(truncated), info

    def render(self) -> np.ndarray:
        """The environment's own image (h, w, 3) uint8."""
        return self._to_image(self._observation)

    def close(self) -> None:
        """Close `env`."""
        self._env.close()
