"""Arguments of the commands without a configuration: mistakes in one line, home folders, numbers in a range."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from data_generation.data.errors import UserError
from data_generation.data.fields import HUB, Range, expand_home


class OneLineParser(argparse.ArgumentParser):
    """A parser that raises UserError instead of printing its usage and ending the process."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (`{self.prog} --help` explains the command line)")


def read_path(text: str) -> Path:
    """A path with `~` and `~user` at its start as home folders."""
    if not text or not text.isprintable():
        raise argparse.ArgumentTypeError(f"'{text}' is not a path")
    try:
        return Path(expand_home("", text))
    except UserError as error:
        raise argparse.ArgumentTypeError(f"'{text}': that home folder is unknown") from error


def path_or_place(text: str) -> Path | str:
    """A path; the text itself where it names a place on the hub."""
    return text if text.startswith(HUB) else read_path(text)


def whole_number(most: int, least: int = 1) -> Callable[[str], int]:
    """A reader of whole numbers from `least` to `most`."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"'{text}' is not a whole number") from error
        if problem := Range(least, most).problem(value):
            raise argparse.ArgumentTypeError(f"{value} {problem}")
        return value

    return read
