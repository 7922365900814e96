"""Large tensors on the CPU without page faults."""

import ctypes
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -2, -3, -8  # of mallopt(3)


def keep_freed_memory() -> bool:
    """Let the C library keep what large tensors free, for the next ones; False where it cannot (it is not glibc's).

    By default glibc maps every block of 32 MB and more anew and gives it back when it is freed. The kernel then fills
    each page with zeros when it is first touched, which takes several times as long as an elementwise operation that
    writes it (benchmarks/models.py). The process keeps its peak memory until it ends.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return False
    # One arena: those of threads other than the first cannot hold such blocks.
    settings = {_MMAP_THRESHOLD: 2**30, _TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: 2**26, _ARENA_MAX: 1}
    return min(mallopt(name, value) for name, value in settings.items()) == 1
