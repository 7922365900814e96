"""Where CoinRun's character was: the game does not tell, but its saved state holds it, so episodes are played again."""

import struct
from functools import cache

import numpy as np

from data_generation.generator.connector_coinrun import CoinRunLevel, native_action

BLOCK = 16  # units of the returned places in a block of the level, as in the console games' pixels
_LEVEL_BLOCKS = 64 * 64
_HERO = struct.Struct("<ii6fi")  # blocks of the level, number of things, then the first one: x, y, …, its kind (0)
_MOST_THINGS = 1000


def hero_places(level: int, actions: list[str]) -> dict[str, np.ndarray]:
    """x and y (T,) float64 after each of the named actions (T) in a hard level, in sixteenths of a block; y grows up.

    An action that ends the episode has the place before it, since the next episode has begun.
    """
    game = _open(level)
    game.reset()
    place = place_in(game.saved_state())
    places = []
    for action in actions:
        _, _, terminated, truncated, _ = game.step(native_action(action))
        if not terminated and not truncated:
            place = place_in(game.saved_state())
        places.append(place)
    x, y = np.array(places).reshape(-1, 2).T * BLOCK
    return {"x": x, "y": y}


def place_in(state: bytes) -> tuple[float, float]:
    """(x, y) of the character in blocks. ValueError if the state has another form than expected."""
    sign = struct.pack("<i", _LEVEL_BLOCKS)
    start = state.find(sign)
    while 0 <= start <= len(state) - _HERO.size:
        _, count, x, y, *_, kind = _HERO.unpack_from(state, start)
        if 0 < count < _MOST_THINGS and kind == 0 and 0 < x < 64 and 0 < y < 64:
            return x, y
        start = state.find(sign, start + 1)
    raise ValueError("no character in CoinRun's saved state: it was made by another version of the game")


@cache
def _open(level: int) -> CoinRunLevel:
    options = {"start_level": level, "distribution_mode": "hard", "paint_vel_info": False}
    return CoinRunLevel(options, is_large=False)
