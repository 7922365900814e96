"""How a configuration was asked for. It travels with the configuration, so that a run can write it down."""

from dataclasses import dataclass
from typing import Any

_NAME = "_invocation"


@dataclass(frozen=True)
class Invocation:
    """A command, its preset, and what was set beside it (`key=value`); all empty where code made the configuration.

    `swept`: the keys of which each job of a multirun has another value.
    """

    command: str = ""
    preset: str = ""
    overrides: tuple[str, ...] = ()
    swept: tuple[str, ...] = ()


def note_invocation(config: Any, invocation: Invocation) -> None:
    """Attach it to a configuration (a dataclass). It is no field: neither compared, nor written, nor a key."""
    vars(config)[_NAME] = invocation


def invocation_of(config: Any) -> Invocation:
    """What was attached to the configuration, which may have been copied or pickled since."""
    found: Invocation = vars(config).get(_NAME, Invocation())
    return found
