"""CoinRun's character is found in the game's saved state."""

import struct

import pytest

from benchmarks.exploration.places import BLOCK, hero_places, place_in


def test_what_looks_like_a_level_but_has_no_hero_is_passed_over() -> None:
    false = struct.pack("<ii6fi", 4096, 0, *[1.0] * 6, 0)
    true = struct.pack("<ii6fi", 4096, 7, 2.5, 3.5, *[0.0] * 4, 0)
    assert place_in(b"odd" + false + b"length" + true + bytes(40)) == (2.5, 3.5)
    with pytest.raises(ValueError, match="no character"):
        place_in(b"odd" + false)


def test_the_hero_moves_as_the_actions_say() -> None:
    pytest.importorskip("procgen")
    places = hero_places(0, ["NOOP"] * 4 + ["RIGHT"] * 8 + ["LEFT"] * 16 + ["ACTION_JUMP"] * 4)
    x, y = places["x"], places["y"]
    assert (x[:4] == x[0]).all() and (y[:4] == y[0]).all()
    assert x[11] > x[3] + BLOCK and x[27] < x[11]
    assert abs(y[27] - y[0]) < BLOCK / 4 and y[31] > y[27] + BLOCK / 2
