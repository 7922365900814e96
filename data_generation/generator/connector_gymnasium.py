"""Any Gymnasium environment with discrete actions that shows RGB images."""

from collections.abc import Callable
from importlib import metadata
from typing import Any

import gymnasium as gym
import numpy as np

from data_generation.data.errors import UNSET, FieldError
from data_generation.generator.connector_base import Connector, Selection
from data_generation.generator.image_env import ImageEnv


class GymnasiumConnector(Connector):
    """Environments by id, "module:id" for one that a module registers; the actions are called action_0, action_1, …

    Images are the observations where these are RGB images, else what `render_mode="rgb_array"` gives. An id is one
    instance: where an episode starts depends on the seed of its reset.
    """

    skips_start_frames = False

    def name_actions(self) -> list[str]:
        """All actions, or those of `valid_action_combos`. Several environments need the same number of actions."""
        games = self._games()
        found = {game: _inspect(game) for game in games}
        distributions = metadata.packages_distributions()
        own = {name for _, package in found.values() for name in distributions.get(package, [])}
        self.packages = tuple(sorted({*type(self).packages, *own}))
        counts = {game: count for game, (count, _) in found.items()}
        if len(set(counts.values())) > 1:
            raise FieldError("game", UNSET, f"the environments differ in their number of actions, {counts}", "name one")
        known = [f"action_{index}" for index in range(counts[games[0]])]
        names = [str(name) for name in self.config.valid_action_combos] or known
        if unknown := [name for name in names if name not in known]:
            problem = f"{unknown[0]} is not an action of {games[0]}, which has {known[0]} to {known[-1]}"
            raise FieldError("valid_action_combos", UNSET, problem, "[] means all of them")
        return names

    def select(self) -> Selection:
        """All of `game`; resets each once, so that a missing package is reported before anything is written."""
        games = self._games()
        for game in games:
            env = self.make_env(game, 0)
            try:
                env.reset(seed=0)
            except (gym.error.Error, ImportError) as error:
                raise FieldError("game", game, _one_line(error)) from error
            finally:
                env.close()
        return Selection(games)

    def make_env(self, game: str, instance: int) -> ImageEnv:
        env, to_image = _open(game)
        assert isinstance(env.action_space, gym.spaces.Discrete)
        start = int(env.action_space.start)
        actions = [start + int(name.removeprefix("action_")) for name in self.action_names]
        return ImageEnv(env, to_image, actions, self.config.n_skip_frames, self.frame_shape[1:])

    def num_instances(self, game: str) -> int:
        return 1

    def _games(self) -> list[str]:
        game = self.config.game
        games = [str(name) for name in game] if isinstance(game, list | tuple) else [str(game)]
        if games in ([], ["all"]):
            raise FieldError("game", game, "name the id of a Gymnasium environment, such as CartPole-v1")
        return games


def _inspect(game: str) -> tuple[int, str]:
    """Number of actions of an environment, and the top-level package of its class."""
    env = _make(game)
    env.close()
    if not isinstance(env.action_space, gym.spaces.Discrete):
        raise FieldError("game", game, f"its actions are {env.action_space}; only discrete ones can be recorded")
    return int(env.action_space.n), type(env.unwrapped).__module__.partition(".")[0]


def _open(game: str) -> tuple[gym.Env[Any, Any], Callable[[Any], np.ndarray]]:
    """The environment, and how an observation of it becomes an image (h, w, 3) uint8."""
    env = _make(game)
    space = env.observation_space
    if isinstance(space, gym.spaces.Box) and space.dtype == np.uint8 and len(space.shape) == 3 and space.shape[2] == 3:
        return env, lambda observation: observation
    modes = env.metadata.get("render_modes") or []
    env.close()
    if "rgb_array" not in modes:
        raise FieldError("game", game, f"its observations, {space}, are not RGB images, and it renders none")
    env = _make(game, render_mode="rgb_array")
    return env, lambda _observation: env.render()  # type: ignore[return-value]


def _make(game: str, render_mode: str | None = None) -> gym.Env[Any, Any]:
    """`gymnasium.make`; FieldError if there is no such environment or a package of it is missing."""
    # Not every environment takes the key.
    settings: dict[str, Any] = {} if render_mode is None else {"render_mode": render_mode}
    try:
        return gym.make(game, disable_env_checker=True, **settings)
    except (gym.error.Error, ImportError) as error:
        raise FieldError("game", game, _one_line(error)) from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
