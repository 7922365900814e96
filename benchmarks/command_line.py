"""Command lines of benchmarks: the user's mistakes are one line and exit code 2, as those of the project's commands."""

import argparse
import math
import sys
from collections.abc import Callable, Sequence

from data_generation.arguments import OneLineParser, whole_number
from launcher.errors import INTERRUPTED, SUCCESS, exit_code_of

read_count = whole_number(1_000_000)
read_seed = whole_number(1_000_000, least=0)


def make_parser(name: str, description: str | None) -> OneLineParser:
    """A parser of `python -m benchmarks.<name>`; `description`: the module's docstring."""
    form = argparse.RawDescriptionHelpFormatter
    return OneLineParser(prog=f"python -m benchmarks.{name}", description=description, formatter_class=form)


def positive_number(text: str) -> float:
    """A number that is positive and finite."""
    try:
        value = float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number") from error
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not positive and finite")
    return value


def distinct(values: Sequence) -> list:
    """Each value once, in the order in which they first come: what is given twice would count twice."""
    return list(dict.fromkeys(values))


def run_command(run: Callable[[Sequence[str]], int | None], words: Sequence[str] | None = None) -> int:
    """Run a benchmark with the words of its command line; the exit code, which it may return itself."""

    try:
        return exit_code_of(lambda: run(sys.argv[1:] if words is None else words) or SUCCESS)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
