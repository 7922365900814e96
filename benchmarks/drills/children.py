"""Cases in forked children of limited time and memory: what ends badly there cannot harm the drill.

A child shares all imports with its parent, so a case costs milliseconds. Its streams go to files, and whatever it
started is killed with it.
"""

import contextlib
import os
import pickle
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

GIB = 1 << 30
_MEMORY = re.compile(r"MemoryError|Cannot allocate memory|can't allocate memory|DefaultCPUAllocator|bad_alloc")
# Address space is more than memory: threads' stacks and allocators reserve some that is never touched.
_RESERVED = GIB // 2


# A process that waits for ever uses no CPU time; one on a busy machine gets its share late.
_CLOCK_FACTOR = 30


@dataclass(frozen=True)
class Limits:
    # Of CPU time, of all threads and of what it started and has ended; thirty times as many by the clock.
    seconds: float = 10.0
    memory: int = GIB  # bytes beyond what the parent has


@dataclass
class Case:
    """`action` runs in the child, in an empty folder that is removed afterwards; its result must be picklable."""

    name: str
    action: Callable[[], Any]
    limits: Limits = field(default_factory=Limits)


@dataclass
class Ended:
    """How a case ended. `value` is the action's result; `died` says why there is none."""

    case: Case
    value: Any = None
    died: str = ""  # "" | hang | out of memory | signal <n> | exit <n>
    stdout: str = ""
    stderr: str = ""
    seconds: float = 0.0  # by the clock
    memory: int = 0  # bytes beyond the parent's at most; of the child alone, not of what it started

    @property
    def is_out_of_memory(self) -> bool:
        """Whether it took too much, or was refused it."""
        return self.died == "out of memory" or _MEMORY.search(self.stderr) is not None

    @property
    def last_line(self) -> str:
        """Of what it printed as errors; at most 300 characters."""
        return (self.stderr.strip().splitlines() or [""])[-1][:300]


@dataclass
class _RunningCase:
    case: Case
    pid: int
    folder: Path
    start: float


def run_cases(cases: Iterable[Case], jobs: int = 1) -> Iterator[Ended]:
    """Run cases, `jobs` at a time; yields them as they end."""
    waiting = iter(cases)
    running: list[_RunningCase] = []
    base = _resident()
    root = Path(tempfile.mkdtemp(prefix="drill-"))
    try:
        more = True
        while more or running:
            while more and len(running) < jobs:
                case = next(waiting, None)
                more = case is not None
                if case is not None:
                    running.append(_start(case, root))
            ended = [(child, found) for child in running if (found := _poll(child)) is not None]
            for child, (status, peak) in ended:
                running.remove(child)
                yield _collect(child, status, max(0, peak - base))
            if not ended:
                time.sleep(0.002)
    finally:
        for child in running:
            _kill(child.pid)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(child.pid, 0)
        shutil.rmtree(root, ignore_errors=True)


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _start(case: Case, root: Path) -> _RunningCase:
    folder = Path(tempfile.mkdtemp(dir=root))
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        _be_child(case, folder)
    return _RunningCase(case, pid, folder, time.monotonic())


def _be_child(case: Case, folder: Path) -> None:
    code = 70
    try:
        os.setsid()
        for number, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT, 0o600), number)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        work = folder / "work"
        work.mkdir()
        os.chdir(work)
        result = os.open(folder / "value", os.O_WRONLY | os.O_CREAT, 0o600)  # now: the case may give up its rights
        used = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (used + case.limits.memory + _RESERVED,) * 2)
        value = case.action()
        with os.fdopen(result, "wb") as file:
            pickle.dump(value, file)
        code = 0
    except MemoryError:
        code = 71
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _poll(child: _RunningCase) -> tuple[int | None, int] | None:
    """Exit status (None: it was killed for its time) and peak of resident bytes, once it has ended."""
    pid, status, usage = os.wait4(child.pid, os.WNOHANG)
    if pid:
        return status, usage.ru_maxrss * 1024
    limit = child.case.limits.seconds
    if _processor_seconds(child.pid) < limit and time.monotonic() - child.start < _CLOCK_FACTOR * limit:
        return None
    _kill(child.pid)
    _, _, usage = os.wait4(child.pid, 0)
    return None, usage.ru_maxrss * 1024


def _processor_seconds(pid: int) -> float:
    """Of a child that has not been waited for, and of its children that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def _kill(pid: int) -> None:
    """The child and what it started: it leads a session of its own."""
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)


def _collect(child: _RunningCase, status: int | None, memory: int) -> Ended:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)  # what it has left behind
    stdout, stderr = (_text(child.folder / name) for name in ("stdout", "stderr"))
    ended = Ended(child.case, None, "", stdout, stderr, time.monotonic() - child.start, memory)
    path = child.folder / "value"
    if status is None:
        ended.died = "hang"
    elif os.WIFSIGNALED(status):
        ended.died = f"signal {os.WTERMSIG(status)}"
    elif os.WEXITSTATUS(status) == 71:
        ended.died = "out of memory"
    elif os.WEXITSTATUS(status) or not path.is_file():
        ended.died = f"exit {os.WEXITSTATUS(status)}"
    else:
        ended.value = pickle.loads(path.read_bytes())
    if not ended.died and memory > child.case.limits.memory:
        ended.died = "out of memory"
    shutil.rmtree(child.folder, ignore_errors=True)
    return ended


def _text(path: Path) -> str:
    return path.read_text(errors="replace", encoding="utf-8")[-20_000:] if path.is_file() else ""
