"""A toy connector and small configurations for the tests of the generator."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

import data_generation
from data_generation.config import ConnectorConfig, DatasetConfig, GenerateConfig, GeneratorConfig
from data_generation.generator.connector_base import Connector, Selection

ROOT = Path(data_generation.__file__).parent.parent


FRAME = np.zeros((3, 8, 8), np.uint8)
ACTIONS = ["RIGHT", "LEFT", "ACTION_SECONDARY"]


class CountingEnv(gym.Env[np.ndarray, Any]):
    """Shows how many steps were made; ends after ten. Its first frame shows the seed of the reset."""

    def __init__(self, game: str):
        self.action_space, self.game = gym.spaces.Discrete(3), game
        self.observation_space = gym.spaces.Box(0, 255, (3, 8, 8), np.uint8)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        self.steps = 0
        return np.full((3, 8, 8), (seed or 0) % 256, np.uint8), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        if self.game == "broken":
            raise RuntimeError("the emulator is on fire")
        self.steps += 1
        return (
            np.full((3, 8, 8), self.steps, np.uint8),
            1.0,
            self.steps == 10,
            False,
            {"steps": self.steps, "text": "a"},
        )


class CountingConnector(Connector):
    """A family of its own: what another one has to bring."""

    def select(self) -> Selection:
        return Selection(games=list(self.config.game))

    def make_env(self, game: str, instance: int) -> CountingEnv:
        return CountingEnv(game)


def retro_config(dpath: Path, n_sessions: int = 3, n_workers: int = 1, n_steps_max: int = 40) -> GenerateConfig:
    connector = ConnectorConfig(
        game="Airstriker-Genesis-v0",
        valid_action_combos=list(ACTIONS),
        generator_config=GeneratorConfig(n_sessions=n_sessions, n_workers=n_workers, n_steps_max=n_steps_max),
    )
    return GenerateConfig(DatasetConfig(connector, data_dpath=str(dpath), dname="t"))


def counting_config(dpath: Path, games: list[str], n_sessions: int = 2) -> GenerateConfig:
    cfg = retro_config(dpath, n_sessions)
    cfg.config.connector.name, cfg.config.connector.game, cfg.config.connector.image_size = "counting", games, 8
    return cfg


def episodes(dpath: Path) -> dict[str, bytes]:
    """Name -> bytes of every file besides the index (which holds the files' times)."""
    files = [path for path in dpath.rglob("*") if path.is_file() and path.name != "index.bin"]
    return {str(path.relative_to(dpath)): path.read_bytes() for path in files}
