"""Locks of folders, which end with their process, however that ends: of a whole run, and of a short step."""

import fcntl
import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from data_generation.data.errors import UserError
from data_generation.data.reading import UnreadableFileError

logger = logging.getLogger(__name__)

LOCK_FNAME = ".lock"
# Locks of this process: the system refuses a lock to other processes only.
_held: set[Path] = set()


class FolderInUseError(UserError):
    """Another run writes to the folder. The message names its process and when it started."""


@contextmanager
def locked(folder: Path, remedy: str) -> Iterator[None]:
    """Hold the folder's lock for a block; the folder is made if need be, and removed again if it is empty at the end.

    FolderInUseError, with the `remedy`, while another process holds it. The lock belongs to this process, not to
    those that it starts. Where the file system has no locks, a warning says so and the block runs without.
    """
    missing = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    path = folder.absolute() / LOCK_FNAME
    folder.mkdir(parents=True, exist_ok=True)
    fd = _acquire(path, remedy)
    process = os.getpid()
    _held.add(path)
    try:
        yield
    finally:
        # A forked child that leaves the block has no lock to give back.
        if os.getpid() == process:
            _held.discard(path)
            # Before the lock is given back, so that nobody waits for a file without a name.
            path.unlink(missing_ok=True)
            os.close(fd)
            with suppress(OSError):
                for parent in missing:
                    parent.rmdir()


@contextmanager
def step_lock(folder: Path, shared: bool = False) -> Iterator[None]:
    """Wait for a folder's lock of short steps and hold it for a block: alone, or with others that hold it `shared`.

    It leaves no file. Where the file system has no such locks, and between machines that share a network file system,
    the block may run next to others.
    """
    fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with suppress(OSError):
            fcntl.flock(fd, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _acquire(path: Path, remedy: str) -> int:
    """A descriptor of the file at `path` that holds its lock."""
    while True:
        if path in _held:
            raise FolderInUseError(f"'{path.parent}' is in use by this process already: {remedy}")
        if path.exists() and not path.is_file():
            raise UnreadableFileError(f"'{path}' is not a file: remove it")
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o666)
        try:
            # Not flock, which children that are forked later would hold, too.
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            owner = _owner(os.pread(fd, 1000, 0))
            os.close(fd)
            raise FolderInUseError(f"'{path.parent}' is in use by {owner}: {remedy}") from None
        except OSError as error:
            logger.warning("'%s' cannot be locked (%s): start no second run there", path.parent, error.strerror)
            return fd
        # The run before may have removed the name between the two calls.
        if path.exists() and os.path.samestat(os.fstat(fd), os.stat(path)):
            break
        os.close(fd)
    started = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    os.ftruncate(fd, 0)
    os.pwrite(fd, json.dumps({"process": os.getpid(), "machine": socket.gethostname(), "started": started}).encode(), 0)
    return fd


def _owner(content: bytes) -> str:
    try:
        values = json.loads(content)
        return f"process {values['process']} on {values['machine']}, started {values['started']}"
    except (ValueError, KeyError, TypeError):
        return "another process, which is just starting"
