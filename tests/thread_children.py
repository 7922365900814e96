"""Environments and workers of the generator in threads: for tests of which their processes are not the subject."""

import math
import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import Pipe
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest

from data_generation.generator import child, generator, look, vector
from data_generation.generator.child import Child, ChildEnd
from data_generation.generator.faults import EnvironmentFault
from play import game

_MODULES = (child, generator, look, vector, game)


class ThreadChild:
    """Stands in for `Child`: the same requests and answers through a pipe, without a process that takes a second."""

    def __init__(self, name: str, seconds: float, main: Callable[..., None], *args: Any):
        self.connection, other_end = Pipe()
        end = ChildEnd(other_end, SimpleNamespace(value=math.inf), SimpleNamespace(value=b""), seconds)
        # As a process would get them.
        copied = pickle.loads(pickle.dumps(args))
        self._thread = Thread(target=_run, args=(main, end, *copied), daemon=True, name=name)
        self._thread.start()

    def send(self, request: Any) -> None:
        with suppress(OSError):
            self.connection.send(request)

    def receive(self) -> Any:
        try:
            return self.connection.recv()
        except (EOFError, OSError):
            raise EnvironmentFault("its worker process", "died") from None

    def terminate(self) -> None:
        self.connection.close()

    def close(self) -> None:
        self._thread.join()
        self.connection.close()


def _run(main: Callable[..., None], end: ChildEnd, *args: Any) -> None:
    with end.connection, suppress(OSError):
        main(end, *args)


@contextmanager
def children_in_threads() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module in _MODULES:
            patch.setattr(module, "Child", ThreadChild)
        # Of an environment's process.
        patch.setattr(os, "setpgrp", lambda: None)
        yield


@contextmanager
def children_in_processes() -> Iterator[None]:
    """Within `children_in_threads`: as without it."""
    with pytest.MonkeyPatch.context() as patch:
        for module in _MODULES:
            patch.setattr(module, "Child", Child)
        yield
