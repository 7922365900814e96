"""Pitfall's character: where it is stands in the game's memory."""

import sys
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from benchmarks.exploration.pitfall import SCREEN_WIDTH, Positions, make_pitfall, screen_number


class Memory(gym.Env[np.ndarray, int]):
    """Of a game whose screen, x and y are given."""

    def __init__(self, screen: int, x: int, y: int):
        memory = np.zeros(128, np.uint8)
        memory[[1, 97, 105]] = screen, x, y
        self.ale = SimpleNamespace(getRAM=lambda: memory)

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        return np.zeros((2, 2, 3), np.uint8), 0.0, False, False, {"lives": 3}


def test_screens_are_numbered_by_their_way_from_the_first() -> None:
    # As the emulated game shows them: 137 right of the first, 226 and 113 left of it.
    assert [screen_number(name) for name in (113, 226, 196, 137)] == [-2, -1, 0, 1]
    assert sorted(map(screen_number, range(1, 256))) == list(range(-127, 128))


def test_x_grows_over_the_screens() -> None:
    infos = [Positions(Memory(screen, 40, 32)).step(0)[-1] for screen in (226, 196, 137)]
    assert [info["x"] for info in infos] == [40 - SCREEN_WIDTH, 40, 40 + SCREEN_WIDTH]
    assert infos[0] == {"lives": 3, "level": -1, "x": 40 - SCREEN_WIDTH, "y": 32}


def test_a_new_life_that_falls_in_is_at_no_new_place() -> None:
    env = Positions(Memory(196, 107, 54))
    died = env.step(0)[-1]
    for y in (224, 255, 0, 20):
        env.env = Memory(226, 20, y)
        assert env.step(0)[-1] == died
    env.env = Memory(226, 20, 32)
    assert env.step(0)[-1] == {"lives": 3, "level": -1, "x": 20 - SCREEN_WIDTH, "y": 32}


def test_the_missing_package_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ale_py", None)
    with pytest.raises(ImportError, match=r"needs ale-py: bash install.sh --with atari"):
        make_pitfall()


def test_the_hero_runs_to_the_right() -> None:
    pytest.importorskip("ale_py", reason="install.sh --with atari")
    env = make_pitfall(full_action_space=True)
    env.reset(seed=0)
    places = [env.step(action)[-1] for action in [0] * 10 + [3] * 20]
    assert places[-1]["x"] > places[9]["x"] + 16 and {info["level"] for info in places} == {0}
