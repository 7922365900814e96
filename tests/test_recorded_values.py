"""Numbers and images of environments: what is recorded of them, and what is refused."""

import enum
from decimal import Decimal
from fractions import Fraction
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from data_generation.generator.faults import EnvironmentFault
from data_generation.generator.images import UnknownKindError, kind_of_images
from data_generation.generator.values import flag_of, number_of, numbers_of, reward_of

Colour = enum.Enum("Colour", "RED")


@pytest.mark.parametrize(
    ("value", "number"),
    [
        *((True, 1.0), (3, 3.0), (0.5, 0.5), (Fraction(1, 4), 0.25), (np.array(3), 3.0)),
        *((dtype(1), 1.0) for dtype in (np.bool_, np.int8, np.uint64, np.float16, np.float32, np.longdouble)),
        *((value, None) for value in (None, "1", b"1", 1j, [1], {"a": 1}, 10**400, Decimal(1), Colour.RED)),
        *((value, None) for value in (np.str_("5"), np.bytes_(b"1"), np.void(b"1"), np.complex64(1))),
        *((value, None) for value in (np.datetime64("2020"), np.timedelta64(1, "s"), np.arange(1), np.array("a"))),
    ],
)
def test_numbers_are_recorded_and_nothing_else(value: Any, number: float | None) -> None:
    omitted: list[tuple[str, str]] = []
    assert number_of(value) == number
    found = numbers_of({"key": value}, lambda *what: omitted.append(what))
    assert found == ({} if number is None else {"key": number})
    assert bool(omitted) == (number is None)


@pytest.mark.parametrize("info", [None, [1], "text", 3])
def test_an_info_that_is_no_mapping_has_no_numbers(info: Any) -> None:
    omitted: list[tuple[str, str]] = []
    assert numbers_of(info, lambda *what: omitted.append(what)) == {}
    assert len(omitted) == 1


def test_keys_of_an_info_become_text_or_are_omitted() -> None:
    omitted: list[tuple[str, str]] = []
    info = {3: 1, "a/b": 2, np.str_("c"): 3, Colour.RED: 4, object(): 5, "k" * 10_000: 6, (1, 2): 7}
    found = numbers_of(info, lambda *what: omitted.append(what))
    assert found == {"3": 1, "a/b": 2, "c": 3, "Colour.RED": 4}
    assert len(omitted) == 3
    assert all(len(problem) < 200 for _, problem in omitted)


@pytest.mark.parametrize("value", [1, True, 1.0, np.float32(1), np.array(1.0), np.array([[1.0]]), torch.tensor(1.0)])
def test_rewards_of_one_number(value: Any) -> None:
    assert reward_of(value) == 1.0


@pytest.mark.parametrize(
    "value", [None, "1", np.zeros(2), float("nan"), float("inf"), 1e300, 10**400, 1j, [1.0], np.zeros(0)]
)
def test_rewards_that_are_none_cost_the_episode(value: Any) -> None:
    with pytest.raises(EnvironmentFault, match=r"^step gave .* as reward$"):
        reward_of(value)


def test_ends_are_true_or_false() -> None:
    assert [flag_of(value, "x") for value in (True, np.bool_(False), 1, np.array([True]))] == [True, False, True, True]
    for value in (None, "False", 2, np.array([True, False]), [True]):
        with pytest.raises(EnvironmentFault, match="as 'terminated'"):
            flag_of(value, "terminated")


IMAGE = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
BOUNDS = {limit: gym.spaces.Box(0, limit, (4, 5, 3), np.float32) for limit in (1, 255, 7)}


@pytest.mark.parametrize(
    ("image", "space", "expected"),
    [
        (IMAGE, None, IMAGE),
        (np.dstack([IMAGE, IMAGE[..., :1]]), None, IMAGE),
        (IMAGE[..., 0], None, np.repeat(IMAGE[..., :1], 3, axis=2)),
        (IMAGE[..., :1], None, np.repeat(IMAGE[..., :1], 3, axis=2)),
        (IMAGE / 255.0, None, IMAGE),
        ((IMAGE / 255.0).astype(np.float16), None, IMAGE),
        (IMAGE.astype(np.float32), None, IMAGE),
        ((IMAGE > 9).astype(np.float32), None, (IMAGE > 9) * np.uint8(255)),
        ((IMAGE > 9).astype(np.float32), BOUNDS[255], (IMAGE > 9) * np.uint8(1)),
        (np.zeros((4, 5, 3)), BOUNDS[1], np.zeros_like(IMAGE)),
    ],
)
def test_images_of_known_kinds_become_rgb(image: np.ndarray, space: gym.Space | None, expected: np.ndarray) -> None:
    rgb = kind_of_images([image], space).rgb(image)
    assert rgb.dtype == np.uint8
    assert np.array_equal(rgb, expected)


@pytest.mark.parametrize(
    ("image", "space"),
    [
        *((value, None) for value in (None, [IMAGE], "ansi", IMAGE[..., 0, 0], IMAGE[:0], IMAGE.transpose(2, 0, 1))),
        *((IMAGE.astype(dtype), None) for dtype in (bool, np.uint16, np.int64, np.int8, np.complex64, object)),
        *((IMAGE / scale, None) for scale in (-255.0, 0.1, 40.0)),
        (np.zeros((4, 5, 3)), None),
        (np.full((4, 5, 3), np.nan), None),
        (IMAGE * 1.0, BOUNDS[1]),
        (np.zeros((4, 5, 3)), BOUNDS[7]),
        (np.zeros((4, 5, 5), np.uint8), None),
    ],
)
def test_images_of_other_kinds_are_refused(image: Any, space: gym.Space | None) -> None:
    with pytest.raises(UnknownKindError) as raised:
        kind_of_images([image], space)
    assert "\n" not in str(raised.value)


def test_an_image_of_another_kind_in_the_middle_of_an_episode_costs_it() -> None:
    kind = kind_of_images([IMAGE / 255.0], None)
    for image in (IMAGE, None, IMAGE / 20.0, np.full(IMAGE.shape, np.nan), (IMAGE / 255.0)[..., 0]):
        with pytest.raises(EnvironmentFault, match=r"^render gave"):
            kind.rgb(image)
