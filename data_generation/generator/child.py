"""A process that answers requests one at a time, and is ended when it gives no sign of life.

Environments are played in such processes only: one that crashes, hangs or is stopped costs what it was asked for.
"""

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator
from ctypes import c_char, c_double
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

from data_generation.data.errors import UserError
from data_generation.generator.faults import EnvironmentFault
from data_generation.generator.process import set_up_worker_process, single_threaded_children

# Seconds for what is no call of an environment: starting Python, loading an agent and asking it, waiting for a disk.
_OTHER_SECONDS = 600.0
# Seconds for a process to end.
_PATIENCE = 10.0
_MAX_POLL_SECONDS = 0.5
_MAX_CALL_BYTES = 32
# This process itself must have been stopped if it looks that much later than it meant to.
_STOPPED_SECONDS = 5.0


@dataclass
class ChildEnd:
    """The child's side: requests, answers, and signs of life."""

    connection: Connection
    # When to give it up (`time.monotonic`, which all processes share), and what it is doing.
    deadline: Any
    call: Any
    seconds: float

    def beat(self, call: str = "") -> None:
        """A sign of life. `call`: of an environment, which begins and may last so many seconds; "" = it has ended."""
        self.call.value = call.encode()
        self.deadline.value = time.monotonic() + (self.seconds if call else _OTHER_SECONDS)

    def requests(self) -> Iterator[Any]:
        """What the parent asks for, up to None."""
        with contextlib.suppress(EOFError):
            while (request := self.connection.recv()) is not None:
                self.beat()
                yield request

    def send(self, answer: Any) -> None:
        """Answer. The process has all the time then until it is asked again, whenever the answer is taken."""
        self.deadline.value = math.inf
        self.connection.send(answer)


class Child:
    """The parent's side of a process that runs `main(end, *args)`."""

    def __init__(self, name: str, seconds: float, main: Callable[..., None], *args: Any):
        """`seconds`: the longest that a call of its environment may last (see `ChildEnd.beat`)."""
        # An emulator cannot be forked, so processes start from scratch (spawn).
        context = get_context("spawn")
        self.connection, other_end = context.Pipe()
        self._seconds = seconds
        self._deadline = context.RawValue(c_double, math.inf)
        self._call = context.RawArray(c_char, _MAX_CALL_BYTES)
        end = ChildEnd(other_end, self._deadline, self._call, seconds)
        self._process = context.Process(target=_run, args=(main, end, *args), daemon=True, name=name)
        with single_threaded_children():
            self._process.start()
        other_end.close()
        self._has_answered = False
        # Why it was ended.
        self._reason = ""
        self._is_closed = threading.Event()
        threading.Thread(target=self._watch, daemon=True, name=f"watch {name}").start()

    def send(self, request: Any) -> None:
        """Ask for something. A process that has died is noticed by `receive`."""
        # Then it waits for nothing else: one that does not take the request has been stopped.
        self._deadline.value = time.monotonic() + (self._seconds if self._has_answered else _OTHER_SECONDS)
        with contextlib.suppress(OSError):
            self.connection.send(request)

    def receive(self) -> Any:
        """The next answer. EnvironmentFault if there is none, since the process has ended or was silent too long."""
        try:
            answer = self.connection.recv()
        except (EOFError, OSError):
            self._process.join()
            if self._reason:
                raise EnvironmentFault(self._call.value.decode() or "its worker process", self._reason) from None
            raise EnvironmentFault("its worker process", f"died ({self._cause()})") from None
        self._has_answered = True
        return answer

    def _cause(self) -> str:
        exitcode = self._process.exitcode
        if exitcode is not None and exitcode < 0:
            return f"signal {-exitcode}" + (", perhaps out of memory" if exitcode == -9 else "")
        return f"exit code {exitcode}"

    def _watch(self) -> None:
        """Kill the process when its deadline has passed; `receive` then finds its end of the pipe closed."""
        poll = min(_MAX_POLL_SECONDS, self._seconds / 4)
        looked = time.monotonic()
        while not self._is_closed.wait(poll):
            now = time.monotonic()
            if now - looked > poll + _STOPPED_SECONDS:
                self._deadline.value += now - looked
            looked = now
            if now > self._deadline.value:
                limit = f" for {self._seconds:g} s (step_seconds)" if self._call.value else ""
                self._reason = f"gave no sign of life{limit} and was ended"
                self._process.kill()
                return

    def terminate(self) -> None:
        """Ask it to end now."""
        self._process.terminate()

    def close(self) -> None:
        """Wait for its end, which it was asked for, and make sure of it."""
        self._process.join(_PATIENCE)
        self._is_closed.set()
        self._process.kill()
        self._process.join()
        self.connection.close()


def call_in_child(seconds: float, function: Callable[..., Any], *args: Any) -> Any:
    """The answer of `function(beat, *args)`, called in a process of its own.

    The function gives its answer and what that process does afterwards, whatever becomes of it. Raises the UserError or
    EnvironmentFault that the function raises, and EnvironmentFault where the process dies or hangs before it answers.
    """
    return end_call(begin_call(seconds, function, *args))


def begin_call(seconds: float, function: Callable[..., Any], *args: Any) -> Child:
    """Begin what `call_in_child` does: several calls at once are to be ended by `end_call`, or closed."""
    child = Child("environment-look", seconds, _answer_calls)
    child.send((function, args))
    return child


def end_call(child: Child) -> Any:
    """Wait for the answer of a call. Raises as `call_in_child` says."""
    try:
        answer = child.receive()
        child.send(None)
    except BaseException:
        child.terminate()
        raise
    finally:
        child.close()
    if isinstance(answer, Exception):
        raise answer
    return answer


def _answer_calls(end: ChildEnd) -> None:
    for function, args in end.requests():
        try:
            answer, afterwards = function(end.beat, *args)
        except (UserError, EnvironmentFault) as error:
            end.send(error)
            continue
        end.send(answer)
        with contextlib.suppress(EnvironmentFault):
            afterwards()


def _run(main: Callable[..., None], end: ChildEnd, *args: Any) -> None:
    set_up_worker_process()
    main(end, *args)
