"""A toy connector and small configurations for the tests of the generator."""

import os
import shutil
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import data_generation
from data_generation.config import ConnectorConfig, DatasetConfig, GenerateConfig, GeneratorConfig
from data_generation.data.data import DatasetInfo
from data_generation.generator.connector_base import CONNECTORS, Connector, Selection
from data_generation.generator.connector_retro_act import RetroActConnector
from data_generation.generator.retro_games import OWN_GAMES_DPATH
from tests.process_helpers import wait_until

ROOT = Path(data_generation.__file__).parent.parent
FRAME = np.zeros((3, 8, 8), np.uint8)
HOLD_AT_STEP = 40
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


class BrokenConnector(CountingConnector):
    """Its games cannot be made."""

    def make_env(self, game: str, instance: int) -> CountingEnv:
        raise RuntimeError("no display")


class HoldingEnv(gym.Wrapper):
    """Stops in the middle of an episode until the test lets it continue.

    Only from this process's episode number HOLD_FROM_EPISODE on, and until the file HOLD_UNTIL exists.
    """

    num_episodes = 0
    num_steps = 0

    def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict]:
        HoldingEnv.num_episodes += 1
        self.num_steps = 0
        return self.env.reset(**kwargs)

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.num_steps += 1
        if self.num_steps == HOLD_AT_STEP and HoldingEnv.num_episodes >= int(os.environ["HOLD_FROM_EPISODE"]):
            wait_until(Path(os.environ["HOLD_UNTIL"]).exists)
        return self.env.step(action)


class HoldingConnector(RetroActConnector):
    """Retro games that stop where a test wants to kill them."""

    def make_env(self, game: str, instance: int) -> HoldingEnv:
        return HoldingEnv(super().make_env(game, instance))


def hold(monkeypatch: pytest.MonkeyPatch, until: Path, from_episode: int = 1) -> None:
    """Retro games of the processes to come stop as HoldingEnv says."""
    monkeypatch.setitem(CONNECTORS, "retro_act", f"{__name__}:HoldingConnector")
    monkeypatch.setenv("HOLD_UNTIL", str(until))
    monkeypatch.setenv("HOLD_FROM_EPISODE", str(from_episode))


def num_begun(dpath: Path) -> int:
    """How many episodes are being written."""
    return len(list(dpath.rglob(".*.episode.*.tmp")))


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


def make_own_game(root: Path) -> Path:
    """The folder of a game of the user's, with three start states more than the default one."""
    folder = root / "Mine-Nes"
    folder.mkdir(parents=True)
    shipped = OWN_GAMES_DPATH / "platformer" / "integration" / "Cinderfoot-Nes-v0"
    states = [f"Level{number:02}.state" for number in range(4)]
    for name in ("rom.nes", "data.json", "scenario.json", "metadata.json", *states):
        shutil.copy(shipped / name, folder)
    (folder / "own.lua").write_text("-- a reward")
    return folder


def change_info(dpath: Path, key: str) -> None:
    """Make it that of an older version, which did not record a key."""
    for env_dpath in (path.parent for path in dpath.rglob("info.json")):
        info = DatasetInfo.load(env_dpath)
        info.generator.pop(key, None)
        info.connector.pop(key, None)
        info.save(env_dpath)


def episodes(dpath: Path) -> dict[str, bytes]:
    """Name -> bytes of every file besides the index (which holds the files' times)."""
    files = [path for path in dpath.rglob("*") if path.is_file() and path.name != "index.bin"]
    return {str(path.relative_to(dpath)): path.read_bytes() for path in files}
