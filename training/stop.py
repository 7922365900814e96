"""Stopping on request: Ctrl-C, SIGTERM and a cluster's warning let the current step finish."""

import logging
import os
import signal
import threading
import time
from types import FrameType, TracebackType

import torch
from torch import distributed

logger = logging.getLogger(__name__)

# Several processes ask each other after so many steps, since each question waits for the device; earlier where that
# takes more than so many seconds, of the 30 or so that a launcher or a cluster leaves for saving.
_MOST_STEPS, _MOST_SECONDS = 10, 2.0
# What clusters send some time before they end a job.
_WARNINGS = (signal.SIGUSR1, signal.SIGUSR2)
# Seconds until the job is back in the queue, which ends this process, too.
_REQUEUE_SECONDS = 60.0


class StopRequest:
    """Context in which SIGINT, SIGTERM, SIGUSR1 and SIGUSR2 only set a mark. A second one acts as usual.

    One of several processes gets a signal of the whole group twice, directly and from its launcher, which ends it in
    time in any case: there, only a second Ctrl-C acts, and other signals do nothing after the first.
    At the end, a warning that somebody waits for (submitit, which puts the job back into the queue) is passed on.
    """

    def __init__(self, num_processes: int = 1, device: torch.device | None = None, step: int = 0, unit: str = "step"):
        """`device`: of this process, one of several; `step`: the number of steps that were made before.

        `unit`: what a step is called.
        """
        self._num_processes, self._device, self._unit = num_processes, device, unit
        self._signal, self._pid = 0, os.getpid()
        self._previous: dict[int, object] = {}
        # The last question to the other processes, and the step of the next one.
        self._asked_step, self._asked_at, self._next_step = step, time.monotonic(), step + 1

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():  # Python allows handlers there only
            for number in (signal.SIGINT, signal.SIGTERM, *_WARNINGS):
                # What a script runs in the background ignores SIGINT; None: a handler that is not Python's.
                if (previous := signal.getsignal(number)) not in (signal.SIG_IGN, None):
                    self._previous[number] = previous
                    signal.signal(number, self._mark)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._restore(*self._previous)
        if isinstance(error, SystemExit):
            pass_on(self._signal)

    def agreed(self, step: int, asks: bool = False) -> int:
        """The signal's number if any process got one, else 0; equal on all processes, which must all call it alike.

        `asks`: whether the processes must ask each other now, as before something long.
        """
        if self._num_processes == 1:
            return self._signal
        if step < self._next_step and not asks:
            return 0
        now = time.monotonic()
        seconds = (now - self._asked_at) / max(1, step - self._asked_step)
        most = torch.tensor([self._signal, seconds], device=self._device)
        # The slowest process's time a step, so that all ask again at the same step.
        distributed.all_reduce(most, distributed.ReduceOp.MAX)
        number, seconds = most.tolist()
        steps = min(_MOST_STEPS, max(1, int(_MOST_SECONDS / max(seconds, 1e-9))))
        self._asked_step, self._asked_at, self._next_step = step, now, step + steps
        return int(number)

    def _mark(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:
            # A forked data worker, which Ctrl-C reaches too: it continues until this process ends it.
            return
        if self._signal:
            return
        self._signal = number
        if self._num_processes == 1:
            self._restore(*self._previous)
            logger.info("stopping after this %s; the same signal again stops at once", self._unit)
        else:
            self._restore(signal.SIGINT)
            logger.info("stopping after this %s; Ctrl-C again stops at once", self._unit)

    def _restore(self, *numbers: int) -> None:
        for number in numbers:
            if (handler := self._previous.pop(number, None)) is not None:
                signal.signal(number, handler)  # type: ignore[arg-type]


def pass_on(number: int) -> None:
    """Give a signal that has ended a run to somebody else who waits for it, if it is a cluster's warning."""
    if number in _WARNINGS and callable(signal.getsignal(number)):
        signal.raise_signal(number)
        # Only the first process of a job asks for its requeueing, and one that ended now would end that one.
        time.sleep(_REQUEUE_SECONDS)
