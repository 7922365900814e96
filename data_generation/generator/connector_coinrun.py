"""CoinRun, Procgen's platformer of generated levels, and Procgen's other games."""

import importlib.util
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np

from data_generation.config import ConnectorConfig
from data_generation.data.errors import UNSET, FieldError
from data_generation.generator.connector_base import (
    GYMNASIUM_FIELDS,
    RETRO_FIELDS,
    Connector,
    Selection,
    warn_of_equal_actions,
)
from data_generation.generator.image_env import ImageEnv, ImageSettings

GAME = "coinrun"
# Procgen's games are played by people at that speed.
FPS = 15.0
# The actions of the presets.
ACTIONS = ("NOOP", "RIGHT", "LEFT", "ACTION_JUMP", "RIGHT+ACTION_JUMP", "LEFT+ACTION_JUMP", "DOWN")
# Pixels of Procgen's observations, and of its images for people.
NATIVE_SIZE, LARGE_SIZE = 64, 512
# All of Procgen (Cobbe et al. 2020).
PROCGEN_GAMES = (
    *("bigfish", "bossfight", "caveflyer", "chaser", "climber", "coinrun", "dodgeball", "fruitbot", "heist", "jumper"),
    *("leaper", "maze", "miner", "ninja", "plunder", "starpilot"),
)
# Steps after which Procgen ends an episode, where they are not 1000.
TIMEOUT, TIMEOUTS = 1000, {"bigfish": 6000, "bossfight": 4000, "leaper": 500, "maze": 500, "plunder": 4000}
MAX_LEVEL = 2**31 - 1
# Keys of Procgen's two joysticks: (right - left, up - down). Jumping is up.
_KEYS = {"RIGHT": (1, 0), "LEFT": (-1, 0), "UP": (0, 1), "DOWN": (0, -1), "ACTION_JUMP": (0, 1), "NOOP": (0, 0)}
# Its other keys, which some games use and CoinRun does not: above all to shoot, like the second button of retro games.
_BUTTONS = {"KEY_D": 9, "KEY_A": 10, "KEY_W": 11, "KEY_S": 12, "KEY_Q": 13, "KEY_E": 14, "ACTION_SECONDARY": 9}


def native_action(name: str) -> int:
    """Procgen's number of an action: RIGHT 7, LEFT 1, DOWN 3, UP and ACTION_JUMP 5, NOOP 4, RIGHT+ACTION_JUMP 8, …"""
    if name in _BUTTONS:
        return _BUTTONS[name]
    parts = set(name.split("+"))
    if unknown := sorted(parts - _KEYS.keys()):
        remedy = f"known are {', '.join(_KEYS)} and combinations with '+', and {', '.join(_BUTTONS)}"
        raise FieldError("valid_action_combos", UNSET, f"'{unknown[0]}' is unknown in Procgen", remedy)
    horizontal, vertical = (int(np.clip(sum(_KEYS[part][axis] for part in parts), -1, 1)) for axis in (0, 1))
    return 3 * (1 + horizontal) + 1 + vertical


class CoinRunConnector(Connector):
    """Levels as instances: instance k is level `start_level` + k, which is the same level everywhere."""

    packages = (*Connector.packages, "procgen-mirror")
    unread_fields = (*RETRO_FIELDS, *GYMNASIUM_FIELDS)
    games: ClassVar[tuple[str, ...]] = (GAME,)

    def __init__(self, config: ConnectorConfig):
        super().__init__(config)
        last_level = config.start_level + config.generator_config.n_instances - 1
        if last_level >= MAX_LEVEL:
            raise FieldError("start_level", config.start_level, f"levels are 0 to {MAX_LEVEL - 1}")
        if unknown := [game for game in self._chosen() if game not in self.games]:
            raise FieldError("game", unknown[0], f"the connector {config.name} has {', '.join(self.games)}")
        self._actions = [native_action(name) for name in self.action_names]

    def _chosen(self) -> list[str]:
        game = self.config.game
        names = game if isinstance(game, list | tuple) else [game]
        return list(self.games) if "all" in names else [str(name) for name in names]

    def select(self) -> Selection:
        """The games of `game`. FieldError if Procgen is not installed."""
        if importlib.util.find_spec("procgen") is None:
            problem, remedy = "Procgen is not installed", "run 'bash install.sh --with coinrun'"
            raise FieldError("name", self.config.name, problem, remedy)
        numbers = dict(zip(self.action_names, self._actions, strict=True))
        warn_of_equal_actions({"NOOP": native_action("NOOP"), **numbers}, "Procgen")
        return Selection(self.first_of(self._chosen()))

    def make_env(self, game: str, instance: int) -> ImageEnv:
        config = self.config
        options = {
            "start_level": config.start_level + instance,
            "distribution_mode": config.distribution_mode,
            "paint_vel_info": config.paint_vel_info,
        }
        height, width = self.frame_shape[1:]
        env = CoinRunLevel(options, max(height, width) > NATIVE_SIZE, game)
        settings = ImageSettings(config.n_skip_frames, (height, width), config.max_last_frames)
        return ImageEnv(env, np.asarray, self._actions, settings)

    def native_fps(self, game: str) -> float:
        return FPS

    def environment_name(self, game: str) -> str:
        return GAME

    def recipe(self) -> dict[str, Any]:
        config = self.config
        own = {key: getattr(config, key) for key in ("start_level", "distribution_mode", "paint_vel_info")}
        return {**super().recipe(), **own}


class ProcgenConnector(CoinRunConnector):
    """All of Procgen's games, whose levels are instances as CoinRun's are."""

    games = PROCGEN_GAMES

    def environment_name(self, game: str) -> str:
        return Connector.environment_name(self, game)


class CoinRunLevel(gym.Env[np.ndarray, Any]):
    """One level of a game, with Procgen's 15 actions; observations uint8 (h, w, 3) of 64 pixels, or 512 if `is_large`.

    At an episode's end Procgen immediately starts the next one, and shows its first image in place of the last one of
    the episode, which is lost: the image before it is shown once more.
    """

    def __init__(self, options: dict[str, Any], is_large: bool, game: str = GAME):
        # An extra, which not every installation has.
        from procgen import ProcgenGym3Env

        size = LARGE_SIZE if is_large else NATIVE_SIZE
        self.action_space = gym.spaces.Discrete(15)
        self.observation_space = gym.spaces.Box(0, 255, (size, size, 3), np.uint8)
        self._is_large, self._timeout = is_large, TIMEOUTS.get(game, TIMEOUT)
        self._level: int = options["start_level"]
        self._game = ProcgenGym3Env(
            num=1,
            env_name=game,
            num_levels=1,
            num_threads=0,
            rand_seed=0,
            render_mode="rgb_array" if is_large else None,
            **options,
        )
        self._start = self._game.get_state()
        self._image = self._observe()
        self._num_steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Back to the level's start. A level has no randomness of its own: the seed changes nothing."""
        self._game.set_state(self._start)
        self._image = self._observe()
        self._num_steps = 0
        return self._image, {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Ends at the coin (reward 10, `level_complete` 1), with the character's death, or truncated after 1000 steps.

        Other games have other aims and limits.
        """
        self._game.act(np.array([action]))
        self._num_steps += 1
        reward, observation, is_first = self._game.observe()
        is_end = bool(is_first[0])
        is_complete = is_end and bool(self._game.get_info()[0]["prev_level_complete"])
        truncated = is_end and not is_complete and self._num_steps >= self._timeout
        if not is_end:
            self._image = self._image_of(observation)
        numbers = {"level_seed": self._level, "level_complete": int(is_complete)}
        return self._image, float(reward[0]), is_end and not truncated, truncated, numbers

    def _observe(self) -> np.ndarray:
        return self._image_of(self._game.observe()[1])

    def _image_of(self, observation: dict[str, np.ndarray]) -> np.ndarray:
        image: np.ndarray = self._game.get_info()[0]["rgb"] if self._is_large else observation["rgb"][0]
        return image

    def saved_state(self) -> bytes:
        """The game's complete state, in Procgen's own form."""
        state: bytes = self._game.get_state()[0]
        return state

    def close(self) -> None:
        """Free the game."""
        self._game.close()
