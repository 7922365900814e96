"""`data import` as a user runs it."""

from pathlib import Path

import pytest

from data_generation.data.data import Environment, list_environments
from run import main


def imported(source: Path, *options: str, name: str = "imported") -> Environment:
    """The environment that is made of a source, in a folder next to it."""
    target = source.parent / name
    assert main(["data", "import", str(source), "--to", str(target), *options]) == 0
    return Environment(list_environments(target)[0])


def error_of(capsys: pytest.CaptureFixture[str], source: Path, *options: str) -> str:
    """The one line of a failing import."""
    capsys.readouterr()
    assert main(["data", "import", str(source), "--to", str(source.parent / "imported"), *options]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return line
