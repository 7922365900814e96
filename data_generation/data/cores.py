"""The cores that are there to compute on."""

import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path

# Which control groups of Linux this process is in, and where they are.
_OWN_GROUPS, _GROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def num_cores() -> int:
    """Cores that this process may use: of the machine's, those that `taskset`, a container or a cluster has left it."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(cores, _of_ray_task(), *_quotas())))


def _quotas() -> Iterator[float]:
    """Cores' worth of time that each control group allows, such as a container's (`docker run --cpus`)."""
    try:
        lines = _OWN_GROUPS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, name = line.split(":", 2)
        # Version 2 has one tree for all controllers, version 1 one for each.
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = _GROUPS / "cpu" if controllers else _GROUPS
        group = root / name.lstrip("/")
        for folder in (group, *group.parents):
            if folder.is_relative_to(root):
                yield _quota(folder)


def _quota(group: Path) -> float:
    for files in (["cpu.max"], ["cpu.cfs_quota_us", "cpu.cfs_period_us"]):
        try:
            quota, period = " ".join((group / name).read_text(encoding="utf-8") for name in files).split()
        except OSError:
            continue
        # Microseconds in each so many; "max" and -1 are no limit.
        return math.inf if quota in ("max", "-1") else int(quota) / int(period)
    return math.inf


def _of_ray_task() -> float:
    """Cores of the Ray task that runs this (`hydra.launcher.ray.remote.num_cpus`)."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return math.inf
    try:
        return float(ray.get_runtime_context().get_assigned_resources().get("CPU", math.inf))
    # The process that has started the tasks.
    except AssertionError:
        return math.inf
