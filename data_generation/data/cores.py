"""The cores that are there to compute on."""

import os


def num_cores() -> int:
    """Cores that this process may use: of the machine's, those that `taskset` or a cluster's job has left it."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
