"""`data import` as a user runs it."""

from pathlib import Path

import pytest

from data_generation.data.data import Environment, list_environments
from run import main


def imported(source: Path, *options: str, name: str = "imported", target: Path | None = None) -> Environment:
    """The environment that is made of a source, in a folder next to it, or in another dataset."""
    target = target or source.parent / name
    assert main(["data", "import", str(source), "--to", str(target), *options]) == 0
    return Environment(list_environments(target)[0])


def refused(capsys: pytest.CaptureFixture[str], source: Path, target: Path, *options: str) -> str:
    """The one line of an import into a dataset that is there, which changes nothing."""
    before = {path: path.read_bytes() for path in target.rglob("*") if path.is_file()}
    line = error_of(capsys, source, "--to", str(target), *options)
    assert {path: path.read_bytes() for path in target.rglob("*") if path.is_file()} == before
    return line


def error_of(capsys: pytest.CaptureFixture[str], source: Path, *options: str) -> str:
    """The one line of a failing import."""
    capsys.readouterr()
    assert main(["data", "import", str(source), "--to", str(source.parent / "imported"), *options]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return line
