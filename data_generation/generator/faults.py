"""The boundary to code that is not this project's: whatever an environment does costs its episode, and no more."""

from multiprocessing import parent_process
from types import TracebackType

from data_generation.data.errors import FieldError, UserError, one_line
from data_generation.generator.process import Terminated

_MAX_LENGTH = 300


class EnvironmentFault(Exception):
    """What an environment did wrong: `call` (make, reset, step, render, close) and what became of it, in one line."""

    def __init__(self, call: str, what: str):
        super().__init__(call, what)
        self.call, self.what = call, what

    def __str__(self) -> str:
        return f"{self.call} {self.what}"


class GameError(FieldError):
    """A field whose value does not suit one game, though it may suit others."""


class foreign:
    """In the block an environment's `call` runs: whatever it raises, SystemExit included, becomes an EnvironmentFault.

    `checked`: a wrapper of this project is called, whose UserErrors are the user's mistakes and pass. So do SIGTERM
    and, in the command's own process, Ctrl-C.
    """

    def __init__(self, call: str, checked: bool = False):
        self._call, self._checked = call, checked

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None or isinstance(error, EnvironmentFault | Terminated):
            return
        if self._checked and isinstance(error, UserError):
            return
        if isinstance(error, KeyboardInterrupt) and parent_process() is None:
            return
        raise EnvironmentFault(self._call, f"raised {described(error)}") from error


def described(error: BaseException) -> str:
    """An exception of foreign code as one line of limited length."""
    name = type(error).__name__
    try:
        line = one_line(error)
    # Foreign code again.
    except Exception:
        line = name
    return shortened(name if line == name else f"{name}: {line}")


def shortened(text: str, length: int = _MAX_LENGTH) -> str:
    """The beginning of a text that may be long."""
    return text if len(text) <= length else f"{text[:length]} …"
