"""Waiting for what other processes do, and watching them, for tests that stop or kill them."""

import time
from collections.abc import Callable
from pathlib import Path

# Seconds. Only ends a test that hangs; no test may need it.
LIMIT = 300.0


def wait_until(condition: Callable[[], object]) -> None:
    """Until the condition holds; AssertionError if it never does."""
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline, "what the test waits for does not happen"
        time.sleep(0.005)


def children_of(pid: int) -> list[int]:
    """Process ids of a running process's children."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_alive(pid: int) -> bool:
    """Whether a process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
