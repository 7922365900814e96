"""Craftax (Matthews et al. 2024), a game written in JAX, as a Gymnasium environment that `generate` can record.

    .venv/bin/pip install -c constraints.txt craftax==1.6.1 jax==0.10.2
    python run.py generate config=gymnasium/any config.connector.game=examples.craftax_env:Craftax-Classic-v0 \\
        config.connector.generator_config.step_seconds=600

The first step takes long, since JAX compiles it in each process. `Craftax-v0` is the full game.
"""

from typing import Any

import gymnasium as gym
import jax
import numpy as np
from craftax.craftax.constants import Action as FullAction
from craftax.craftax_classic.constants import Action as ClassicAction
from craftax.craftax_env import make_craftax_env_from_name


class CraftaxEnv(gym.Env[np.ndarray, Any]):
    """Observations (H, W, 3) float32 in [0, 1]; all randomness comes from the seed of `reset`."""

    def __init__(self, name: str):
        self._game = make_craftax_env_from_name(name, auto_reset=False)
        self._settings = self._game.default_params
        self._reset, self._step = jax.jit(self._game.reset), jax.jit(self._game.step)
        actions: Any = ClassicAction if "Classic" in name else FullAction
        self._names = [action.name for action in actions]
        self.action_space = gym.spaces.Discrete(len(self._names))
        shape = self._game.observation_space(self._settings).shape
        self.observation_space = gym.spaces.Box(0.0, 1.0, shape, np.float32)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self._key = jax.random.key(int(self.np_random.integers(2**31)))
        image, self._state = self._reset(self._next_key(), self._settings)
        return np.asarray(image), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        image, self._state, reward, is_over, _ = self._step(self._next_key(), self._state, action, self._settings)
        return np.asarray(image), float(reward), bool(is_over), False, {}

    def get_action_meanings(self) -> list[str]:
        """What `valid_action_combos` takes."""
        return self._names

    def _next_key(self) -> jax.Array:
        self._key, key = jax.random.split(self._key)
        return key


for _id, _name in (("Craftax-v0", "Craftax-Pixels-v1"), ("Craftax-Classic-v0", "Craftax-Classic-Pixels-v1")):
    gym.register(_id, entry_point=f"{__name__}:CraftaxEnv", kwargs={"name": _name})
