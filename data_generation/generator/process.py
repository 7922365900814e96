"""What a process is set up with before it plays: its threads and signals."""

import contextlib
import os
import signal
from collections.abc import Iterator

import cv2

from data_generation.data.parent import end_with_parent
from data_generation.generator.resolve import find_modules_here

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Terminated(SystemExit):
    """The parent ends this process. An exception, so that a writer removes its temporary file."""


def set_up_worker_process() -> None:
    """A process that plays has one core, leaves Ctrl-C to its parent, and ends with it."""
    # Ctrl-C reaches the whole process group; the parent ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _terminate)
    # After a killed parent, a new run may already be writing the same episodes.
    end_with_parent()
    cv2.setNumThreads(1)
    find_modules_here()


def _terminate(*_: object) -> None:
    raise Terminated(1)


@contextlib.contextmanager
def single_threaded_children() -> Iterator[None]:
    """Processes started in the block use one thread each for numerics.

    Numerical libraries read their number of threads from the environment when they are loaded.
    """
    before = {name: os.environ.get(name) for name in _THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
