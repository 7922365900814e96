"""Rewards, ends and infos as environments give them, brought to the numbers that are recorded."""

import enum
import math
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

import numpy as np

from data_generation.generator.faults import EnvironmentFault, shortened

# Asked first, because an abstract class such as Real needs much longer to tell whether a value is one.
_PLAIN_NUMBERS = {int, float, bool}
_NUMERIC_KINDS = "biuf"
_MAX_REWARD = float(np.finfo(np.float32).max)
_MAX_KEY_LENGTH = 200
_KEYS = (str, int, float, np.generic, enum.Enum)


def number_of(value: Any) -> float | None:
    """The value of a number: of Python's, of NumPy's, or of an array without axes. None for everything else."""
    if type(value) not in _PLAIN_NUMBERS:
        if isinstance(value, np.ndarray | np.generic):
            if value.ndim or value.dtype.kind not in _NUMERIC_KINDS:
                return None
        elif not isinstance(value, Real):
            return None
    try:
        return float(value)
    except (OverflowError, TypeError, ValueError):
        return None


def numbers_of(info: Any, omit: Callable[[str, str], None]) -> dict[str, float]:
    """The numbers of an info by name. `omit(name, what it is)` is called for everything else."""
    if not isinstance(info, Mapping):
        omit("", f"the info is {kind_of(info)}, no mapping")
        return {}
    numbers = {}
    for key, value in info.items():
        number = number_of(value)
        name = key if type(key) is str else _name(key)
        if name is None or len(name) > _MAX_KEY_LENGTH:
            omit(shortened(str(type(key))), f"a key of the info is {kind_of(key)}, no name")
        elif number is None:
            omit(name, f"info['{name}'] is {kind_of(value)}, no number")
        else:
            numbers[name] = number
    return numbers


def _name(key: Any) -> str | None:
    return str(key) if isinstance(key, _KEYS) else None


def reward_of(value: Any) -> float:
    """A reward; one element of any shape will do. EnvironmentFault for what is no finite number of float32."""
    reward = number_of(_single(value))
    if reward is None:
        raise EnvironmentFault("step", f"gave {kind_of(value)} as reward")
    if not abs(reward) <= _MAX_REWARD:
        problem = "NaN" if math.isnan(reward) else f"{reward:g}"
        raise EnvironmentFault("step", f"gave {problem} as reward")
    return reward


def flag_of(value: Any, name: str) -> bool:
    """Whether an episode is terminated or truncated. EnvironmentFault for what is neither true nor false."""
    if type(value) is bool:
        return value
    number = number_of(_single(value))
    if number not in (0.0, 1.0):
        raise EnvironmentFault("step", f"gave {kind_of(value)} as '{name}'")
    return bool(number)


def _single(value: Any) -> Any:
    """The element of an array that has only one."""
    if getattr(value, "shape", ()) and getattr(value, "size", 0) == 1:
        return np.asarray(value).reshape(())
    # Another library's number, such as a tensor.
    if not isinstance(value, np.generic) and getattr(value, "shape", None) == () and hasattr(value, "item"):
        return value.item()
    return value


def kind_of(value: Any) -> str:
    """What a value is, in a few words, for messages."""
    if value is None:
        return "None"
    if isinstance(value, np.ndarray):
        return f"an array {value.dtype} {value.shape}"
    shown = f" ({shortened(repr(value), 60)})" if isinstance(value, _SHOWN) else ""
    return type(value).__name__ + shown


_SHOWN = (str, bytes, int, float, complex, np.generic, enum.Enum)
