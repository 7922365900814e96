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
            return PictureEnv(env, np.asarray, actions, self.config.n_skip_frames, self.frame_shape[1:])
"""

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from data_generation.config import ConnectorConfig
from data_generation.generator.resolve import load_class

_KEY = "config.connector"

CONNECTORS: dict[str, str] = {
    "coinrun": "data_generation.generator.connector_coinrun:CoinRunConnector",
    "gymnasium": "data_generation.generator.connector_gymnasium:GymnasiumConnector",
    "retro_act": "data_generation.generator.connector_retro_act:RetroActConnector",
}


@dataclass
class Selection:
    """Games to play, in order, and games that are meant but cannot be played here, with the reason."""

    games: list[str]
    skipped: dict[str, str] = field(default_factory=dict)


class Connector(ABC):
    """An environment family, made from `config.connector`; cheap to construct, holds no emulator, can be pickled."""

    # Python packages whose version may change what a game shows; recorded with every episode.
    packages: tuple[str, ...] = ("gymnasium", "numpy", "opencv-python-headless")
    skips_start_frames = True  # whether it knows `n_skip_start_frames`

    def __init__(self, config: ConnectorConfig):
        _check_common_keys(config, self.skips_start_frames)
        self.config = config
        self.frame_shape: tuple[int, int, int] = (3, *_image_size(config.image_size))
        self.action_names = self.name_actions()
        if not self.action_names or len(set(self.action_names)) < len(self.action_names):
            raise ValueError(f"{_KEY}.valid_action_combos={self.action_names}: name at least one action, none twice")

    def name_actions(self) -> list[str]:
        """Names of the actions in index order: what the configuration says, unless a family has names of its own."""
        return [str(name) for name in self.config.valid_action_combos]

    @property
    def recorded_around(self) -> str:
        """Name of the table around whose characters it records; "" = whole pictures."""
        return Path(self.config.roi_annotation_fpath or "").name

    @abstractmethod
    def select(self) -> Selection:
        """The games that the configuration means. ValueError / FileNotFoundError if there are none to play."""

    @abstractmethod
    def make_env(self, game: str, instance: int) -> gym.Env[np.ndarray, Any]:
        """An environment with actions Discrete(len(action_names)) and observations uint8 of `frame_shape` (C, H, W).

        A reset with the same seed followed by the same actions must show the same frames, whatever was played before.
        The info values of `step` that are numbers are recorded.
        """

    def num_instances(self, game: str) -> int | None:
        """How many instances (start states, levels) a game has; None = as many as one likes."""
        return None

    def environment_name(self, game: str) -> str:
        """Name of the game's environment folder, without version and dname."""
        return f"{self.config.name}_{re.sub(r'[^a-z0-9.-]+', '_', game.lower())}"

    def recipe(self) -> dict[str, Any]:
        """The settings that decide what an episode looks like: kept in info.json and compared before resuming."""
        config = self.config
        return {
            "name": config.name,
            "version": config.version,
            "image_size": list(self.frame_shape[1:]),
            "n_skip_frames": config.n_skip_frames,
            "n_skip_start_frames": config.n_skip_start_frames,
            "valid_action_combos": self.action_names,
        }

    def versions(self) -> dict[str, str]:
        """Software versions that the pictures depend on."""
        return {package: _version(package) for package in self.packages}


def make_connector(config: ConnectorConfig) -> Connector:
    """The connector of `config.name`; ValueError names the known ones."""
    if config.name not in CONNECTORS:
        raise ValueError(f"{_KEY}.name={config.name}: unknown; one of {', '.join(sorted(CONNECTORS))}")
    connector: Connector = load_class(CONNECTORS[config.name], f"{_KEY}.name")(config)
    return connector


def _check_common_keys(config: ConnectorConfig, skips_start_frames: bool) -> None:
    for name, least in (("n_skip_frames", 1), ("n_skip_start_frames", 0), ("limit_games", 0)):
        if getattr(config, name) < least:
            raise ValueError(f"{_KEY}.{name}={getattr(config, name)}: must be at least {least}")
    if config.n_skip_start_frames and not skips_start_frames:
        raise ValueError(f"{_KEY}.n_skip_start_frames={config.n_skip_start_frames}: must be 0 with {config.name}")
    if config.roi_annotation_fpath is not None and config.name != "retro_act":
        raise ValueError(
            f"{_KEY}.roi_annotation_fpath={config.roi_annotation_fpath}: characters are followed in retro games only; "
            f"leave the key out with {config.name}"
        )


def _image_size(value: Any) -> tuple[int, int]:
    sizes = list(value) if isinstance(value, list | tuple) else [value, value]
    if len(sizes) != 2 or not all(isinstance(size, int) and size > 0 for size in sizes):
        raise ValueError(f"{_KEY}.image_size={value}: expected a number of pixels, or [height, width]")
    return sizes[0], sizes[1]


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "none"
