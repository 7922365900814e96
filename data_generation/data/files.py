"""Files and folders that are written whole or not at all: under a temporary name, then renamed.

A killed process leaves at most a temporary, `.<name>.<random>.tmp`, next to where the result would be.
"""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def temporary_path(path: Path) -> Path:
    """Where to write a file or folder that `replace` turns into `path`. Missing parent folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


def replace(temporary: Path, path: Path) -> None:
    """Turn a complete temporary into `path`: in one step for a file, just after removing an older folder."""
    if path.is_dir():
        shutil.rmtree(path)
    os.replace(temporary, path)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path to write a file or folder to; it becomes `path` when the block ends without an exception."""
    temporary = temporary_path(path)
    try:
        yield temporary
        replace(temporary, path)
    finally:
        remove(temporary)


def write_atomically(path: Path, data: bytes | str) -> None:
    """Write a whole file; text as UTF-8."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


def remove(path: Path) -> None:
    """Remove a file or a folder with its content, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def is_temporary(name: str) -> bool:
    """Whether a file name is that of a temporary, which only a running or killed process leaves."""
    return name.startswith(".") and name.endswith(".tmp")


def remove_temporaries(path: Path) -> None:
    """Remove what killed processes have left of their attempts to write `path`."""
    for temporary in path.parent.glob(f".{path.name}.*.tmp"):
        remove(temporary)
