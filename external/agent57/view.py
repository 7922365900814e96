"""What the agent sees of a game: its own image in 84×84 grey pixels, whatever is recorded.

Imports no torch: worker processes start in a second.
"""

from typing import Any

import cv2
import gymnasium as gym
import numpy as np

from data_generation.generator.connector_base import Connector, Selection

VIEW_SHAPE = (1, 84, 84)


def grey_view(image: np.ndarray) -> np.ndarray:
    """An image (h, w, 3) uint8 as (1, 84, 84) uint8: grey, then stretched by area averaging (Mnih et al. 2015)."""
    grey = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
    return cv2.resize(grey, VIEW_SHAPE[:0:-1], interpolation=cv2.INTER_AREA)[None]


class GreyEnv(gym.Env[np.ndarray, Any]):
    """A connector's environment whose frames are what the agent sees."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 (Gymnasium's interface)
    render_mode = "rgb_array"

    def __init__(self, env: gym.Env[np.ndarray, Any]):
        self._env = env
        self.action_space = env.action_space
        self.observation_space = gym.spaces.Box(0, 255, VIEW_SHAPE, np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        _, info = self._env.reset(seed=seed, options=options)
        return self._view(), info

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        _, reward, terminated, truncated, info = self._env.step(action)
        return self._view(), float(reward), terminated, truncated, info

    def _view(self) -> np.ndarray:
        return grey_view(self.render())

    def render(self) -> np.ndarray:
        """The game's own image (h, w, 3) uint8."""
        image: np.ndarray = self._env.render()  # type: ignore[assignment]
        return image

    def close(self) -> None:
        self._env.close()


class GreyConnector(Connector):
    """Another connector's environments, whose frames are what the agent sees."""

    def __init__(self, inner: Connector):
        self._inner = inner
        self.config, self.action_names, self.packages = inner.config, inner.action_names, inner.packages
        self.frame_shape = VIEW_SHAPE

    def select(self) -> Selection:
        return self._inner.select()

    def make_env(self, game: str, instance: int) -> GreyEnv:
        return GreyEnv(self._inner.make_env(game, instance))

    def num_instances(self, game: str) -> int | None:
        return self._inner.num_instances(game)

    def native_fps(self, game: str) -> float | None:
        return self._inner.native_fps(game)

    def environment_name(self, game: str) -> str:
        return self._inner.environment_name(game)

    def recipe(self) -> dict[str, Any]:
        return {**self._inner.recipe(), "image_size": list(VIEW_SHAPE[1:]), "view": "grey"}

    def game_recipe(self, game: str) -> dict[str, Any]:
        return self._inner.game_recipe(game)
