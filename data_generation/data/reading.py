"""Files that others wrote, read with care: a right value or one line (`UserError`) with the path.

Whatever stands at the path: a folder, a FIFO or a device, a file without permission, one of absurd size, or content of
other types.
"""

import errno
import hashlib
import json
import os
import stat
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from data_generation.data.errors import UserError, one_line

T = TypeVar("T")

# Of a text file: JSON, CSV. The largest that this project writes has a few megabytes.
MAX_TEXT_BYTES = 64 << 20


class UnreadableFileError(UserError):
    """A file that cannot be read. The message is one line with the path and the remedy."""


@contextmanager
def opened(path: Path | str) -> Iterator[int]:
    """`open_file` for a block; OSError of reading there becomes `UnreadableFileError`."""
    fd = open_file(path)
    try:
        yield fd
    except OSError as error:
        raise UnreadableFileError(f"'{path}' cannot be read ({error.strerror}): restore or remove it") from None
    finally:
        os.close(fd)


def open_file(path: Path | str) -> int:
    """A descriptor to read a regular file; opening never waits, as it would for a FIFO.

    FileNotFoundError where there is nothing, `UnreadableFileError` for anything else that is not a readable file, other
    OSErrors where the process has too many files open.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        if os.path.islink(path):
            raise UnreadableFileError(f"'{path}' is a link to nothing: restore the file or remove the link") from None
        raise
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            raise
        reason = error.strerror if isinstance(error, OSError) else error
        raise UnreadableFileError(f"'{path}' cannot be read ({reason}): check its permissions or remove it") from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise UnreadableFileError(f"'{path}' is not a file: move it away, or name another")
    return fd


def read_file(path: Path | str, max_bytes: int = MAX_TEXT_BYTES) -> bytes:
    """The content of a file. Errors as `open_file`, and `UnreadableFileError` for more than `max_bytes`."""
    with opened(path) as fd:
        if (size := os.fstat(fd).st_size) > max_bytes:
            raise UnreadableFileError(f"'{path}' has {size} bytes, too many for such a file: restore or remove it")
        return b"".join(iter(lambda: os.read(fd, size + 1), b""))


@contextmanager
def readable(path: Path, *kinds: type[Exception]) -> Iterator[None]:
    """UserError for errors of these `kinds`, which a library raises in the block where a file is damaged."""
    try:
        yield
    except UserError:
        raise
    except kinds as error:
        raise UserError(f"'{path}' cannot be read ({one_line(error, 150)}): restore or remove it") from None


def parse_json(data: bytes | str) -> Any:
    """The value of a JSON text. ValueError for anything else, one nested too deeply included."""
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_json(path: Path | str, remedy: str) -> Any:
    """The value in a JSON file. Errors as `read_file`, and `UnreadableFileError` with the remedy for other content."""
    try:
        return parse_json(read_file(path))
    except UnreadableFileError:
        raise
    except ValueError as error:
        raise UnreadableFileError(f"'{path}' is not valid JSON ({error}): {remedy}") from None


def from_mapping(cls: type[T], values: Mapping[str, Any]) -> T:
    """A dataclass from values that came through JSON. ValueError names the field and what its value should be."""
    hints = _hints(cast(Any, cls))
    converted = {}
    for name, value in values.items():
        if name not in hints:
            raise ValueError(f"unknown field '{name}'")
        converted[name] = _converted(name, value, hints[name])
    try:
        return cls(**converted)
    except TypeError as error:
        raise ValueError(str(error).split(") ", 1)[-1]) from None


@cache
def _hints(cls: type[Any]) -> dict[str, Any]:
    return get_type_hints(cls)


def _converted(name: str, value: Any, hint: Any) -> Any:
    if not _matches(value, hint):
        raise ValueError(f"'{name}' is {shortened(value)}, not of type {_spelled(hint)}")
    return tuple(value) if get_origin(hint) is tuple else value


def _matches(value: Any, hint: Any) -> bool:
    """Whether a value from JSON is of a type: numbers are no truth values, floats finite, tuples lists."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(_matches(value, argument) for argument in arguments)
    if origin is dict:
        return isinstance(value, dict) and all(_matches(item, arguments[1]) for item in value.values())
    if origin is list:
        return isinstance(value, list) and all(_matches(item, arguments[0]) for item in value)
    if origin is tuple:
        return isinstance(value, list | tuple) and len(value) == len(arguments) and all(map(_matches, value, arguments))
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def _spelled(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint).replace("typing.", "")


def shortened(value: Any, length: int = 60) -> str:
    """A value as text in an error's line, cut after `length` characters."""
    text = repr(value)
    return text if len(text) <= length else f"{text[:length]}…"


def short_digest(data: bytes) -> str:
    """16 hexadecimal digits that tell some bytes from others."""
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def content_digest(path: Path) -> str:
    """That of a file's bytes, or of the files in a folder and their names. OSError, or `UnreadableFileError`."""

    def digest_of(file_path: Path) -> str:
        with os.fdopen(open_file(file_path), "rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8)).hexdigest()

    if not path.is_dir():
        return digest_of(path)
    files = sorted(found for found in path.rglob("*") if found.is_file())
    return short_digest(repr([(str(file.relative_to(path)), digest_of(file)) for file in files]).encode())
