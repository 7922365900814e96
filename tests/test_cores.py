"""The cores that count: not those that a container or a cluster keeps from this process."""

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from data_generation.data import cores


@pytest.fixture(autouse=True)
def groups(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The control groups of a machine with 64 cores and without limits."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    monkeypatch.setattr(cores, "_OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(cores, "_GROUPS", tmp_path / "groups")
    return tmp_path


def write(groups: Path, own: str, files: dict[str, str]) -> None:
    (groups / "own").write_text(own)
    for name, text in files.items():
        path = groups / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.mark.parametrize(
    ("own", "files", "number"),
    [
        ("0::/\n", {"cpu.max": "max 100000\n"}, 64),
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 1),
        ("0::/job/task\n", {"job/task/cpu.max": "max 100000\n", "job/cpu.max": "250000 100000\n"}, 3),
        ("0::/not/mounted/here\n", {"cpu.max": "400000 100000\n"}, 4),
        ("0::/../..\n", {}, 64),
        ("4:memory:/m\n3:cpu,cpuacct:/job\n0::/\n", {"cpu/job/cpu.cfs_quota_us": "300000\n",
                                                  "cpu/job/cpu.cfs_period_us": "100000\n"}, 3),
        ("3:cpu:/job\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 64),
        ("4:cpuset:/job\n", {"cpuset/job/cpu.max": "100000 100000\n"}, 64),
    ],
)  # fmt: skip
def test_a_containers_quota_limits_the_cores(groups: Path, own: str, files: dict[str, str], number: int) -> None:
    write(groups, own, files)
    assert cores.num_cores() == number


def test_without_control_groups_the_cores_are_those_of_the_process() -> None:
    assert cores.num_cores() == 64


def test_a_ray_task_has_the_cores_that_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"CPU": 8.0, "node:1": 1.0}
    context = SimpleNamespace(get_assigned_resources=lambda: given)
    ray = SimpleNamespace(is_initialized=lambda: True, get_runtime_context=lambda: context)
    monkeypatch.setitem(sys.modules, "ray", ray)  # type: ignore[arg-type]
    assert cores.num_cores() == 8
    given.clear()
    assert cores.num_cores() == 64

    def driver() -> dict[str, float]:
        raise AssertionError("only available when the process is a worker")

    context.get_assigned_resources = driver
    assert cores.num_cores() == 64
    ray.is_initialized = lambda: False
    del ray.get_runtime_context
    assert cores.num_cores() == 64
