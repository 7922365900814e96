"""What a failed command prints and returns."""

import os
import sys
import traceback
from collections.abc import Callable

from data_generation.data.errors import UserError

# One line is printed for these, no traceback. UserError is the type for mistakes of the user; the others are read as
# such wherever code does not raise it yet.
USER_ERRORS = (UserError, ValueError, FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError)
SUCCESS, FAILURE, USER_ERROR, INTERRUPTED = 0, 1, 2, 130


def one_line(error: BaseException) -> str:
    """The error's message on a single line; its class name if it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def exit_code_of(action: Callable[[], int]) -> int:
    """Run `action` and return its exit code; exceptions are printed and become 2 (the user's mistakes) or 1 (others).

    With HYDRA_FULL_ERROR=1 in the environment the user's mistakes come with their traceback, too.
    """
    try:
        return action()
    except USER_ERRORS as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            traceback.print_exc()
        print(f"error: {one_line(error)}", file=sys.stderr)
        return USER_ERROR
    except Exception:
        traceback.print_exc()
        return FAILURE


def code_of_exit(error: SystemExit) -> int:
    """The exit code that a SystemExit stands for."""
    if error.code is None:
        return SUCCESS
    return error.code if isinstance(error.code, int) else FAILURE
