"""Configurations as the project's commands compose them, so that benchmarks measure what users run."""

from typing import Any

from launcher.commands import COMMANDS
from launcher.job import to_dataclasses
from launcher.session import open_session


def composed(title: str, *overrides: str) -> Any:
    """The configuration that a command's entry point gets, for example of "genie_redux train", "config=demo"."""
    (command,) = (command for command in COMMANDS if command.title == title)
    with open_session(command) as session:
        return to_dataclasses(session.compose(overrides)[0])
