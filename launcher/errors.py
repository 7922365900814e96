"""What a failed command prints and returns."""

import errno
import logging
import os
import select
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data_generation.data.errors import UserError, one_line
from data_generation.data.fields import path_fields

SUCCESS, FAILURE, USER_ERROR, INTERRUPTED = 0, 1, 2, 130
# What a shell reports of a program whose reader went away (128 + SIGPIPE).
READER_GONE = 141

_ELSEWHERE = "set another {place}"
_PERMISSION = "change its permissions, or " + _ELSEWHERE
_KIND = "move it away, or " + _ELSEWHERE
# What a disk or the system refuses → what to do.
_REMEDIES = {
    errno.ENOSPC: "free some space, or " + _ELSEWHERE,
    errno.EDQUOT: "free some of your quota, or " + _ELSEWHERE,
    errno.EROFS: _ELSEWHERE,
    errno.EACCES: _PERMISSION,
    errno.EPERM: _PERMISSION,
    errno.ENOENT: "check that it exists and that nobody removes it",
    errno.ENAMETOOLONG: "use a shorter name",
    errno.ENOTDIR: _KIND,
    errno.EISDIR: _KIND,
    errno.EEXIST: _KIND,
    errno.ENOTEMPTY: _KIND,
    errno.ELOOP: "its symbolic links run in a circle: remove one",
    errno.EIO: "the disk or the network fails: check it, then give the same command again",
    errno.ESTALE: "the network disk was cut off: check it, then give the same command again",
    errno.ENXIO: _ELSEWHERE,
    errno.ENODEV: _ELSEWHERE,
    errno.ESPIPE: _ELSEWHERE,
    errno.EBADF: _ELSEWHERE,
    errno.EINVAL: _ELSEWHERE,
    errno.EFBIG: _ELSEWHERE,
    errno.ETXTBSY: _KIND,
    errno.EBUSY: _KIND,
    errno.EXDEV: _ELSEWHERE,
    errno.EMLINK: _ELSEWHERE,
    errno.EMFILE: "raise the limit of open files (ulimit -n 4096)",
    errno.ENFILE: "close other programs: the whole system's files are used up",
    errno.ENOMEM: "free some memory, or use fewer processes and smaller batches",
    errno.EAGAIN: "raise the limit of processes (ulimit -u), or use fewer processes and workers",
}


def as_user_error(error: BaseException, paths: Mapping[str, str] | None = None) -> UserError | None:
    """The one line for an error that the user can do something about; None for a fault of the code.

    UserError is the type for mistakes of the user. What disk and system refuse is told likewise, and so is a lack of
    memory. `paths`: key → path of the configuration; the line names the one that is concerned.
    """
    if isinstance(error, UserError):
        return error
    if isinstance(error, OSError) and error.errno in _REMEDIES and not isinstance(error, ConnectionError):
        return disk_error(error, paths or {})
    if _is_out_of_memory(error):
        problem = one_line(error).partition(". ")[0]
        return UserError(f"out of memory ({problem}): use smaller batches, clips or models, or fewer processes")
    return None


def disk_error(error: OSError, paths: Mapping[str, str]) -> UserError:
    """What the disk refused, as one line with path, problem and remedy, and the key that holds the path."""
    place, head = "folder", ""
    name = error.filename2 or error.filename
    if isinstance(name, str | bytes | os.PathLike):
        path = os.fsdecode(name)
        key = _key_of(path, paths)
        place, head = key or place, f"{f'{key}={paths[key]}: ' if key else ''}'{path}': "
    assert error.errno is not None
    remedy = _REMEDIES.get(error.errno, _ELSEWHERE).format(place=place)
    return UserError(f"{head}{error.strerror or os.strerror(error.errno)}; {remedy}")


@contextmanager
def explained(config: Any) -> Iterator[None]:
    """Raise what the user can do something about as UserError, with the key of `config` that holds the path."""
    try:
        yield
    except Exception as error:
        told = as_user_error(error, dict(path_fields(config)))
        if told is None or told is error:
            raise
        raise told from error


def _key_of(path: str, paths: Mapping[str, str]) -> str | None:
    """The key whose path is, or holds, the given one; the nearest of several."""
    place = Path(os.path.abspath(path))
    above = (place, *place.parents)
    depths = {key: above.index(Path(os.path.abspath(value))) for key, value in paths.items() if _is_among(value, above)}
    return min(depths, key=depths.__getitem__, default=None)


def _is_among(path: str, folders: tuple[Path, ...]) -> bool:
    # The file system's root and the current folder hold everything, so they say nothing.
    return Path(os.path.abspath(path)) in folders and path not in ("", ".", "/")


def _is_out_of_memory(error: BaseException) -> bool:
    # torch's exception types are not imported: they may not be loaded.
    is_torch = type(error).__name__ == "OutOfMemoryError" or "DefaultCPUAllocator" in str(error)
    return isinstance(error, MemoryError) or is_torch


def exit_code_of(action: Callable[[], int]) -> int:
    """Run `action` and return its exit code; exceptions are printed and become 2 (the user's mistakes) or 1 (others).

    With HYDRA_FULL_ERROR=1 in the environment the user's mistakes come with their traceback, too.
    """
    try:
        return action()
    except Exception as error:
        if isinstance(error, BrokenPipeError) and silence_lost_stdout():
            return READER_GONE
        told = as_user_error(error)
        if told is None or os.environ.get("HYDRA_FULL_ERROR") == "1":
            traceback.print_exc()
        if told is None:
            return FAILURE
        print(f"error: {one_line(told)}", file=sys.stderr)
        return USER_ERROR


def code_of_exit(error: SystemExit) -> int:
    """The exit code that a SystemExit stands for."""
    if error.code is None:
        return SUCCESS
    return error.code if isinstance(error.code, int) else FAILURE


def flush_stdout() -> None:
    """Write what was printed. If that fails, nothing is written any more, not even when Python ends."""
    try:
        sys.stdout.flush()
    except OSError:
        _send_nowhere(sys.stdout.fileno())
        raise


def silence_lost_stdout() -> bool:
    """Whether nobody reads standard output any more (`… | head`); what is printed from now on goes nowhere then."""
    try:
        number = sys.stdout.fileno()
    except (OSError, ValueError):
        # Not a file, as under pytest.
        return False
    poll = select.poll()
    poll.register(number, 0)
    if any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0)):
        _send_nowhere(number)
    return os.path.samestat(os.fstat(number), os.stat(os.devnull))


def _send_nowhere(number: int) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, number)
    os.close(nowhere)


# Matplotlib says at length, when it is imported, that its cache is elsewhere where there is no home folder.
QUIET_LOGGERS = ("matplotlib",)


class ConsoleHandler(logging.StreamHandler):
    """Log lines on standard output; a run continues when nobody reads them any more."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not silence_lost_stdout():
            super().handleError(record)


class RecordHandler(logging.FileHandler):
    """Log lines in Hydra's record; a run continues when they cannot be written, and says so once."""

    is_lost = False

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self.is_lost:
            self.is_lost = True
            print(f"note: '{self.baseFilename}' cannot be written: {error.strerror}", file=sys.stderr)
