"""Processes that end with the one that started them: whoever is killed cannot end them."""

import ctypes
import os
import signal
import sys
import threading
from multiprocessing import parent_process

# prctl's option "send me this signal when my parent ends" (linux/prctl.h).
_PR_SET_PDEATHSIG = 1
# Loaded here: between the fork and the start of a program little is safe.
_C_LIBRARY = ctypes.CDLL(None) if sys.platform == "linux" else None


def be_signalled_with_parent(number: signal.Signals) -> None:
    """The system sends this process a signal when the thread that has started it ends (on Linux)."""
    if _C_LIBRARY is not None:
        _C_LIBRARY.prctl(_PR_SET_PDEATHSIG, number)


def end_with_parent() -> None:
    """This process of multiprocessing ends when its parent does."""
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
