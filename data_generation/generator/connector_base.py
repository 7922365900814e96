"""What the generator needs to know of an environment family.

A family (retro games, CoinRun, any Gymnasium environments) is a subclass of `Connector` and a line in `CONNECTORS`. It
says which games there are and makes a Gymnasium environment of one; everything else, from worker processes to files, is
common. A minimal one:

    class MyConnector(Connector):  # of MyEnv: observations (h, w, 3) uint8, a number for each of the action names
        def select(self):
            return Selection(games=["my_game"])

        def make_env(self, game, instance):
            actions = range(len(self.action_names))
            env = MyEnv(level=instance)
            return ImageEnv(env, np.asarray, actions, ImageSettings(self.config.n_skip_frames, self.frame_shape[1:]))
"""

import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from data_generation.config import ConnectorConfig
from data_generation.data.errors import FieldError
from data_generation.generator.resolve import load_class

logger = logging.getLogger(__name__)

CONNECTORS: dict[str, str] = {
    "coinrun": "data_generation.generator.connector_coinrun:CoinRunConnector",
    "gymnasium": "data_generation.generator.connector_gymnasium:GymnasiumConnector",
    "procgen": "data_generation.generator.connector_coinrun:ProcgenConnector",
    "retro_act": "data_generation.generator.connector_retro_act:RetroActConnector",
}
# Fields that only one family reads.
RETRO_FIELDS = (
    *("view", "motion", "genre", "platform", "action_map", "rom_dpath", "n_skip_start_frames"),
    *("annotation_behavior_fpath", "annotation_control_fpath"),
)
PROCGEN_FIELDS = ("start_level", "distribution_mode", "paint_vel_info")
GYMNASIUM_FIELDS = ("env_kwargs",)


@dataclass
class Selection:
    """Games to play, in order, and games that are meant but cannot be played here, with the reason."""

    games: list[str]
    skipped: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class EnvironmentSpec:
    """What an agent sees and does: names of its actions in index order, and the shape (C, H, W) of its frames."""

    action_names: list[str]
    frame_shape: tuple[int, int, int]
    # The table around whose characters is recorded; "" = whole images.
    roi_table: str = ""
    # For how many emulator frames an action is held; None = unknown, and compared with nothing.
    n_skip_frames: int | None = None

    def check_agent(self, trained_on: "EnvironmentSpec", checkpoint: Path) -> None:
        """FieldError (of a `ConnectorConfig`) unless an agent that was trained on other environments can play here."""
        known, own = trained_on.action_names, self.action_names
        if known != own:
            problem = f"'{checkpoint}' was trained on the actions {', '.join(known)}, these are {', '.join(own)}"
            remedy = f"set {{valid_action_combos}}=[{','.join(known)}]"
            raise FieldError("valid_action_combos", f"[{','.join(own)}]", problem, remedy)
        if trained_on.frame_shape != self.frame_shape:
            problem = f"'{checkpoint}' was trained on frames {trained_on.frame_shape}, these are {self.frame_shape}"
            size = list(trained_on.frame_shape[1:])
            raise FieldError("image_size", list(self.frame_shape[1:]), problem, f"set {{image_size}}={size}")
        if trained_on.roi_table != self.roi_table:
            seen = "images around a character" if trained_on.roi_table else "whole images"
            remedy = f"set {{roi_annotation_fpath}}={trained_on.roi_table or 'null'}"
            problem = f"'{checkpoint}' was trained on {seen}"
            raise FieldError("roi_annotation_fpath", self.roi_table or "null", problem, remedy)
        self.check_frame_skip(trained_on.n_skip_frames, f"'{checkpoint}'")

    def check_frame_skip(self, trained_with: int | None, model: str) -> None:
        """FieldError (of a `ConnectorConfig`) if an agent or a world model was trained with another one."""
        if None not in (trained_with, self.n_skip_frames) and trained_with != self.n_skip_frames:
            problem = f"{model} was trained with {trained_with}: its actions would last another time here"
            raise FieldError("n_skip_frames", self.n_skip_frames, problem, f"set {{n_skip_frames}}={trained_with}")


class Connector(ABC):
    """An environment family, made from its configuration; cheap to construct, holds no emulator, can be pickled.

    Errors of the user are FieldErrors of `ConnectorConfig`.
    """

    # Python packages whose version may change what a game shows; recorded with every episode.
    packages: tuple[str, ...] = ("gymnasium", "numpy", "opencv-python-headless")
    # Fields that have no effect on it: they must be left at their defaults.
    unread_fields: tuple[str, ...] = GYMNASIUM_FIELDS

    def __init__(self, config: ConnectorConfig):
        self._check_common_keys(config)
        self.config = config
        self.frame_shape: tuple[int, int, int] = (3, *_image_size(config.image_size))
        self.action_names = self.name_actions()
        if not self.action_names or len(set(self.action_names)) < len(self.action_names):
            raise FieldError("valid_action_combos", self.action_names, "name at least one action, none twice")

    def _check_common_keys(self, config: ConnectorConfig) -> None:
        if config.roi_annotation_fpath is not None and config.name != "retro_act":
            problem, remedy = "characters are followed in retro games only", f"leave the key out with {config.name}"
            raise FieldError("roi_annotation_fpath", config.roi_annotation_fpath, problem, remedy)
        defaults = ConnectorConfig()
        for name in self.unread_fields:
            value, default = getattr(config, name), getattr(defaults, name)
            # Nothing is nothing: {} and null.
            if value != default and (value or default):
                raise FieldError(name, value, f"has no effect with {config.name}", "leave it out")

    def first_of(self, games: list[str]) -> list[str]:
        """The first `limit_games` of some games, without repetitions; 0 = all."""
        return list(dict.fromkeys(games))[: self.config.limit_games or None]

    def name_actions(self) -> list[str]:
        """Names of the actions in index order: what the configuration says, unless a family has names of its own."""
        return [str(name) for name in self.config.valid_action_combos]

    @property
    def roi_table(self) -> str:
        """Name of the table around whose characters it records; "" = whole images."""
        return Path(self.config.roi_annotation_fpath or "").name

    @property
    def spec(self) -> EnvironmentSpec:
        """What an agent sees and does in the environments."""
        return EnvironmentSpec(self.action_names, self.frame_shape, self.roi_table, self.config.n_skip_frames)

    @abstractmethod
    def select(self) -> Selection:
        """The games that the configuration means. UserError if there are none to play."""

    @abstractmethod
    def make_env(self, game: str, instance: int) -> gym.Env[np.ndarray, Any]:
        """An environment with actions Discrete(len(action_names)) and observations uint8 of `frame_shape` (C, H, W).

        A reset with the same seed followed by the same actions must show the same frames, whatever was played before.
        The info values of `step` that are numbers are recorded. `render` gives the game's own image (h, w, 3) uint8, on
        which some agents act.
        """

    def num_instances(self, game: str) -> int | None:
        """How many instances (start states, levels) a game has; None = without a limit."""
        return None

    def native_fps(self, game: str) -> float | None:
        """Frames per second of a game at the speed at which people play; None where nobody knows it."""
        return None

    def fps(self, game: str) -> float | None:
        """Frames per second of what is recorded."""
        native = self.native_fps(game)
        return None if native is None else round(native / self.config.n_skip_frames, 6)

    def environment_name(self, game: str) -> str:
        """Name of the game's environment folder, without version and dname."""
        return f"{self.config.name}_{re.sub(r'[^a-z0-9.-]+', '_', game.lower())}"

    def recipe(self) -> dict[str, Any]:
        """The settings that decide what an episode looks like: kept in info.json and compared before resuming."""
        config = self.config
        # Named only where they are used, so that older datasets can be extended.
        rare = {"env_kwargs": config.env_kwargs, "max_last_frames": config.max_last_frames}
        return {
            "name": config.name,
            "version": config.version,
            "image_size": list(self.frame_shape[1:]),
            "n_skip_frames": config.n_skip_frames,
            "n_skip_start_frames": config.n_skip_start_frames,
            "valid_action_combos": self.action_names,
            **{key: value for key, value in rare.items() if value},
        }

    def game_recipe(self, game: str) -> dict[str, Any]:
        """What `recipe` says besides of one game."""
        return {}

    def versions(self) -> dict[str, str]:
        """Software versions that the frames depend on."""
        return {package: _version(package) for package in self.packages}


def make_connector(config: ConnectorConfig) -> Connector:
    """The connector of `config.name`. FieldError for an unknown one, and for settings that it cannot use."""
    if config.name not in CONNECTORS:
        raise FieldError("name", config.name, "unknown", f"one of {', '.join(sorted(CONNECTORS))}")
    connector: Connector = load_class(CONNECTORS[config.name], "name")(config)
    return connector


def warn_of_equal_actions(effects: Mapping[str, Hashable], where: str) -> None:
    """Warn of actions that do the same and are recorded under two numbers. `effects`: action -> what it does."""
    first: dict[Hashable, str] = {}
    for name, effect in effects.items():
        if (other := first.setdefault(effect, name)) != name:
            logger.warning("%s does the same as %s on %s: models learn them as two actions", name, other, where)


def _image_size(value: Any) -> tuple[int, int]:
    """(height, width) of the key's value."""
    height, width = value if isinstance(value, list | tuple) else (value, value)
    return height, width


@cache
def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "none"
