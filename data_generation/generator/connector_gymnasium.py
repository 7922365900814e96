"""Any Gymnasium environment with discrete actions that shows RGB pictures."""

from collections.abc import Callable
from importlib import metadata
from typing import Any

import gymnasium as gym
import numpy as np

from data_generation.generator.connector_base import Connector, Selection
from data_generation.generator.picture_env import PictureEnv

_KEY = "config.connector"


class GymnasiumConnector(Connector):
    """Environments by id, "module:id" for one that a module registers; the actions are called action_0, action_1, …

    Pictures are the observations where these are RGB images, else what `render_mode="rgb_array"` gives. An id is one
    instance: where an episode starts depends on the seed of its reset.
    """

    skips_start_frames = False

    def name_actions(self) -> list[str]:
        """All actions, or those of `valid_action_combos`. Several environments need the same number of actions."""
        games = self._games()
        looks = {game: _look_at(game) for game in games}
        distributions = metadata.packages_distributions()
        own = {name for _, package in looks.values() for name in distributions.get(package, [])}
        self.packages = tuple(sorted({*type(self).packages, *own}))
        counts = {game: count for game, (count, _) in looks.items()}
        if len(set(counts.values())) > 1:
            raise ValueError(f"{_KEY}.game: the environments differ in their number of actions, {counts}: name one")
        known = [f"action_{index}" for index in range(counts[games[0]])]
        names = [str(name) for name in self.config.valid_action_combos] or known
        if unknown := [name for name in names if name not in known]:
            raise ValueError(
                f"{_KEY}.valid_action_combos: {unknown[0]} is not an action of {games[0]}, which has "
                f"{known[0]} to {known[-1]}; [] means all, as in config=gymnasium/any"
            )
        return names

    def select(self) -> Selection:
        """All of `game`; shows a picture of each, so that a missing package is told before anything is written."""
        games = self._games()
        for game in games:
            env = self.make_env(game, 0)
            try:
                env.reset(seed=0)
            except (gym.error.Error, ImportError) as error:
                raise ValueError(f"{_KEY}.game={game}: {_one_line(error)}") from error
            finally:
                env.close()
        return Selection(games)

    def make_env(self, game: str, instance: int) -> PictureEnv:
        env, picture = _open(game)
        assert isinstance(env.action_space, gym.spaces.Discrete)
        start = int(env.action_space.start)
        actions = [start + int(name.removeprefix("action_")) for name in self.action_names]
        return PictureEnv(env, picture, actions, self.config.n_skip_frames, self.frame_shape[1:])

    def num_instances(self, game: str) -> int:
        return 1

    def _games(self) -> list[str]:
        game = self.config.game
        games = [str(name) for name in game] if isinstance(game, list | tuple) else [str(game)]
        if games in ([], ["all"]):
            raise ValueError(f"{_KEY}.game={game}: name the id of a Gymnasium environment, such as CartPole-v1")
        return games


def _look_at(game: str) -> tuple[int, str]:
    """Number of actions of an environment, and the top-level package of its class."""
    env = _make(game)
    env.close()
    if not isinstance(env.action_space, gym.spaces.Discrete):
        raise ValueError(f"{_KEY}.game={game}: its actions are {env.action_space}; only discrete ones can be recorded")
    return int(env.action_space.n), type(env.unwrapped).__module__.partition(".")[0]


def _open(game: str) -> tuple[gym.Env[Any, Any], Callable[[Any], np.ndarray]]:
    """The environment, and how an observation of it becomes a picture (h, w, 3) uint8."""
    env = _make(game)
    space = env.observation_space
    if isinstance(space, gym.spaces.Box) and space.dtype == np.uint8 and len(space.shape) == 3 and space.shape[2] == 3:
        return env, lambda observation: observation
    modes = env.metadata.get("render_modes") or []
    env.close()
    if "rgb_array" not in modes:
        raise ValueError(f"{_KEY}.game={game}: its observations, {space}, are no RGB images and it draws none")
    env = _make(game, render_mode="rgb_array")
    return env, lambda observation: env.render()  # type: ignore[return-value]


def _make(game: str, render_mode: str | None = None) -> gym.Env[Any, Any]:
    """`gymnasium.make`; ValueError (one line) if there is no such environment or a package of it is missing."""
    settings: dict[str, Any] = {} if render_mode is None else {"render_mode": render_mode}  # not all take the key
    try:
        return gym.make(game, disable_env_checker=True, **settings)
    except (gym.error.Error, ImportError) as error:
        raise ValueError(f"{_KEY}.game={game}: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
