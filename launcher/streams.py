"""Standard streams as a command may find them: closed, or in an encoding that lacks characters."""

import io
import os
import sys


def make_streams_usable() -> None:
    """Let closed streams (`>&-`) lead nowhere, and print what an encoding lacks as `\\u2026` and the like.

    The first three descriptors are taken then: a file that had one of them would get what is printed.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            number = os.open(os.devnull, os.O_RDWR)
            # Processes that are started from here have them, too.
            os.set_inheritable(number, True)
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8"))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
