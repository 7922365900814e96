"""Stopping on request: Ctrl-C and SIGTERM let the current step finish."""

import logging
import os
import signal
import threading
from types import FrameType, TracebackType

import torch

from training.runtime import Runtime

logger = logging.getLogger(__name__)

_AGREE_EVERY = 10  # steps between two questions to the other processes; each question waits for the device


class StopRequest:
    """Context in which SIGINT and SIGTERM only set a mark. A second one acts as usual."""

    def __init__(self, runtime: Runtime):
        self._runtime = runtime
        self._signal, self._pid = 0, os.getpid()
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():  # Python allows handlers there only
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._mark)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._restore()

    def agreed(self, step: int) -> int:
        """The signal's number if any process got one, else 0; equal on all processes, which must all ask."""
        if self._runtime.num_processes == 1:
            return self._signal
        if step % _AGREE_EVERY:
            return 0
        mark = torch.tensor([self._signal], device=self._runtime.device)
        return int(self._runtime.accelerator.gather(mark).max())

    def _mark(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:
            # A forked data worker, which Ctrl-C reaches too: it continues until this process ends it.
            return
        self._signal = number
        self._restore()
        logger.info("stopping after this step; the same signal again stops at once")

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._previous = {}
