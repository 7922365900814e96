"""Atari's Pitfall! with the place of its character, which the game holds in its memory.

    python run.py generate config=gymnasium/ale \\
        'config.connector.game=[benchmarks.exploration.pitfall:PitfallPositions-v0]'

The jungle is a ring of 255 screens, each named by a byte; the next one's follows by a shift register with feedback.
Where the bytes are: Anand et al. 2019 (arXiv 1906.08226), table of RAM annotations.
"""

from functools import cache
from typing import Any

import gymnasium as gym

# Bytes of the memory.
_SCREEN, _X, _Y = 1, 97, 105
# Name of the screen on which the game begins.
_FIRST = 0xC4
_NUM_SCREENS = 255
SCREEN_WIDTH = 160  # pixels
# y in play, from the top of a jump to the tunnel's floor. After a death he falls in, through values around 0 (or 256).
_Y_IN_PLAY = range(21, 101)


class Positions(gym.Wrapper[Any, Any, Any, Any]):
    """Adds to the info of each step of `ALE/Pitfall-v5` the screen (`level`, 0 is the first, -1 left of it), x and y.

    x grows to the right over all screens, y downwards; both in the game's pixels. While a new life falls in from above,
    the place is still that of the death: dying reaches nothing.
    """

    def __init__(self, env: gym.Env[Any, Any]):
        super().__init__(env)
        self._place: dict[str, int] = {}

    def reset(self, **arguments: Any) -> tuple[Any, dict[str, Any]]:
        self._place = {}
        return self.env.reset(**arguments)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        memory = self.env.unwrapped.ale.getRAM()  # type: ignore[attr-defined]
        screen, y = screen_number(int(memory[_SCREEN])), int(memory[_Y])
        if y in _Y_IN_PLAY or not self._place:
            self._place = {"level": screen, "x": screen * SCREEN_WIDTH + int(memory[_X]), "y": y}
        return observation, reward, terminated, truncated, {**info, **self._place}


def make_pitfall(**arguments: Any) -> Positions:
    """The environment, with arguments of `ALE/Pitfall-v5`. ImportError where the package is missing."""
    try:
        import ale_py
    except ImportError as error:
        raise ImportError("Pitfall needs ale-py: bash install.sh --with atari") from error
    gym.register_envs(ale_py)
    return Positions(gym.make("ALE/Pitfall-v5", disable_env_checker=True, **arguments))


def screen_number(name: int) -> int:
    """Of a screen's byte: how far it is to the right of the first, -127 to 127."""
    return (_order()[name] + _NUM_SCREENS // 2) % _NUM_SCREENS - _NUM_SCREENS // 2


@cache
def _order() -> dict[int, int]:
    """Screens to the right of the first, by the byte."""
    order, name = {}, _FIRST
    for number in range(_NUM_SCREENS):
        order[name] = number
        bit = (name >> 7 ^ name >> 5 ^ name >> 4 ^ name >> 3) & 1
        name = (name << 1 | bit) & 0xFF
    return order


gym.register("PitfallPositions-v0", entry_point=make_pitfall)
