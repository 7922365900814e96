"""Files and folders that are written whole or not at all: under a temporary name, then renamed.

A killed process leaves at most a temporary next to where the result would be. Its name, `.<name>.<machine>-<process
id>-<random>.tmp`, says who wrote it, so that the next process which writes to the folder removes it.
"""

import errno
import os
import re
import secrets
import shutil
import socket
import stat
import time
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from data_generation.data.errors import UserError

# The name of a temporary. Older versions of this project wrote no machine and no process id.
_TEMPORARY = re.compile(r"\..+\.(?:(?P<machine>[0-9a-f]{8})-(?P<pid>\d+)-)?[0-9a-f]+\.tmp")
# After so long without a change, the temporary of a process on another machine is taken for abandoned.
_ABANDONED_SECONDS = 24 * 3600.0
_swept: set[Path] = set()
# What file managers put into each folder that they show.
SYSTEM_FILES = (".DS_Store", "Thumbs.db", "desktop.ini")


def temporary_path(path: Path) -> Path:
    """Where to write a file or folder that `replace` turns into `path`. Missing parent folders are made.

    The first call for a folder removes what killed processes have left in it. `UserError` for `.`, `..` and `/`.
    """
    if path.name in ("", ".."):
        raise UserError(f"'{path}' cannot be replaced as a whole: name a folder in it")
    path.parent.mkdir(parents=True, exist_ok=True)
    if (folder := path.parent.absolute()) not in _swept:
        _swept.add(folder)
        remove_temporaries_in(path.parent)
    return path.with_name(f".{path.name}.{_machine()}-{os.getpid()}-{secrets.token_hex(4)}.tmp")


def replace(temporary: Path, path: Path, durable: bool = False) -> None:
    """Turn a complete temporary into `path`: in one step for a file, just after an older folder was moved away.

    `durable`: both the content and the name survive a power cut once this returns; otherwise a cut within about 30 s
    may leave an empty file. `UserError` where something of another kind stands there: a folder in place of a file, a
    file in place of a folder, a device.
    """
    _check_kind(temporary, path)
    if durable:
        _sync_all(temporary)
    older = None
    if path.is_dir() and not path.is_symlink():
        # Not removed in place: a process that is killed meanwhile would leave a part of it.
        older = temporary_path(path)
        os.replace(path, older)
    os.replace(temporary, path)
    if durable:
        _sync(path.parent)
    if older is not None:
        remove(older)


def _check_kind(temporary: Path, path: Path) -> None:
    """UserError unless a temporary may take the place of what is at `path`."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(mode) != temporary.is_dir() or not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
        found = "a folder" if stat.S_ISDIR(mode) else "a file" if stat.S_ISREG(mode) else "a device"
        raise UserError(f"'{path}' is {found}, which stays: remove it, or write to another path")


@contextmanager
def atomic_path(path: Path, durable: bool = False) -> Iterator[Path]:
    """A temporary path to write a file or folder to; it becomes `path` when the block ends without an exception.

    `durable` as in `replace`; folders that had to be made for `path` survive a power cut then, too.
    """
    made = _missing(path.parent) if durable else []
    temporary = temporary_path(path)
    try:
        yield temporary
        replace(temporary, path, durable)
        for folder in made:
            _sync(folder.parent)
    finally:
        remove(temporary)


def make_durable_folder(folder: Path) -> None:
    """Make a folder, and those above it, unless they exist; they survive a power cut once this returns."""
    made = _missing(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for path in made:
        _sync(path.parent)


def _missing(folder: Path) -> list[Path]:
    return [path for path in (folder, *folder.parents) if not path.exists()]


def check_writable(path: Path) -> None:
    """OSError where `path` could not be written now; leaves nothing, not even the folders that it needs."""
    above = next(folder for folder in path.absolute().parents if os.path.lexists(folder))
    if not above.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(above))
    temporary = temporary_path(above / path.name)
    temporary.mkdir()
    temporary.rmdir()


def write_atomically(path: Path, data: bytes | str, durable: bool = False) -> None:
    """Write a whole file; text as UTF-8. `durable` as in `replace`."""
    with atomic_path(path, durable) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


def remove(path: Path) -> None:
    """Remove a file or a folder with its content, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def first_foreign(folder: Path, own: Collection[str]) -> Path | None:
    """The first file in a folder, relative to it, that is none of its `own`: patterns, as in `images/*.png`.

    None = there is none, and the folder may be replaced. A link is a file, wherever it leads. What file managers leave
    does not count.
    """
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        is_own = any(len(relative.parts) == len(Path(name).parts) and relative.match(name) for name in own)
        if (path.is_symlink() or not path.is_dir()) and not is_own and path.name not in SYSTEM_FILES:
            return relative
    return None


def is_temporary(name: str) -> bool:
    """Whether a file name is that of a temporary, which only a running or killed process leaves."""
    return name.startswith(".") and name.endswith(".tmp")


def remove_temporaries_in(folder: Path) -> None:
    """Remove what killed processes have left in a folder.

    The temporaries of running processes stay. Where the folder may not be changed, everything stays.
    """
    with suppress(OSError), os.scandir(folder) as entries:
        found = [match for entry in entries if (match := _TEMPORARY.fullmatch(entry.name))]
        for match in found:
            if _is_abandoned(folder / match[0], match["machine"], match["pid"]):
                remove(folder / match[0])


def _is_abandoned(temporary: Path, machine: str | None, pid: str | None) -> bool:
    if machine is None or pid is None:
        return True
    if machine != _machine():
        newest = max(path.lstat().st_mtime for path in (temporary, *temporary.rglob("*")))
        return time.time() - newest > _ABANDONED_SECONDS
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    # A dead process keeps its number until its parent asks for its end.
    with suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] in "ZX"
    return False


@cache
def _machine() -> str:
    """Where this process's id is valid: a machine, or one container of it."""
    namespace = 0
    with suppress(OSError):
        namespace = os.stat("/proc/self/ns/pid").st_ino
    return f"{zlib.crc32(f'{socket.gethostname()} {namespace}'.encode()):08x}"


def sync(path: Path) -> None:
    """Bring a file's content and its name to the disk, so that they survive a power cut."""
    _sync(path)
    _sync(path.parent)


def _sync_all(path: Path) -> None:
    """Write the content of a file, or of a folder and everything in it, through to the disk."""
    if path.is_dir():
        for child in path.iterdir():
            _sync_all(child)
    _sync(path)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    except OSError as error:
        # Some network file systems cannot sync a folder.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(fd)
