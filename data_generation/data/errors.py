"""Errors that name a setting without knowing how the command line spells it.

A component is given its own config and names a field of that. Each caller that holds the config in a field of its own
adds that name with `under`, so the complete key is spelled where it is known:

    def open_camera(config: CameraConfig):
        raise FieldError("fps", config.fps, "must be positive")

    with under("camera"):
        open_camera(root.camera)          # error: camera.fps=0: must be positive
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final


class _Unset:
    def __reduce__(self) -> str:
        # The same object in every process.
        return "UNSET"


UNSET: Final = _Unset()
_REFERENCE = re.compile(r"\{([A-Za-z_][\w.]*)\}")


class UserError(ValueError):
    """What the user has to change, in one line. Anything else that is raised is a fault of the code."""


class FieldError(UserError):
    """A field whose value cannot be used, what is wrong with it, and what to do instead.

    `field` is dotted and relative to the config that the raising code was given. `{name}` in `problem` and `remedy`
    stands for another field of the same config and is spelled in the same way. Without a value (`UNSET`), the line
    starts with the field alone. The message is `<key>=<value>: <problem>; <remedy>`.
    """

    def __init__(self, field: str, value: object, problem: str, remedy: str = ""):
        super().__init__(field, value, problem, remedy)
        self.field, self.value, self.problem, self.remedy = field, value, problem, remedy
        self._outer: list[tuple[str, dict[str, str]]] = []

    def add_prefix(self, prefix: str, renamed: dict[str, str]) -> None:
        """Note that the config is the field `prefix` of an outer one, which holds the `renamed` fields itself."""
        self._outer.append((prefix, renamed))

    def key(self, name: str) -> str:
        """The complete key of a field of the innermost config, as far as the callers have named it."""
        for prefix, renamed in self._outer:
            name = renamed.get(name) or ".".join(part for part in (prefix, name) if part)
        return name

    def __str__(self) -> str:
        head = self.key(self.field) + ("" if self.value is UNSET else f"={self.value}")
        text = "; ".join(part for part in (self.problem, self.remedy) if part)
        return f"{head}: {_REFERENCE.sub(lambda match: self.key(match[1]), text)}"

    def __reduce__(self) -> Any:
        return type(self), (self.field, self.value, self.problem, self.remedy), {"_outer": self._outer}


def one_line(error: BaseException, most: int | None = None) -> str:
    """The message of an error on a single line, of at most so many characters; the name of its class without one."""
    return " ".join(str(error).split())[:most] or type(error).__name__


class MissingPathError(FieldError, FileNotFoundError):
    """A field that names a file or folder which does not exist."""


@contextmanager
def under(prefix: str, **renamed: str) -> Iterator[None]:
    """Errors of the block name fields of the config that is held in the field `prefix` of the caller's config.

    `renamed`: fields that the caller's config holds elsewhere, by their name there.
    """
    try:
        yield
    except FieldError as error:
        error.add_prefix(prefix, renamed)
        raise
