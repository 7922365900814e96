"""Several processes: none outlives its launcher, and none waits for ever for one that was killed or stopped."""

import atexit
import errno
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
import torch

import run
from data_generation.data.errors import UserError
from data_generation.data.fields import PathText
from launcher.processes import start
from tests.process_helpers import is_alive, wait_until
from training.runtime import make_runtime

ROOT_DPATH = Path(__file__).parent.parent


@dataclass
class Job:
    """What the entry points below, in processes of their own, are given."""

    out_dpath: PathText
    # Of rank 1: the signal that it sends itself, 0 for none.
    ends_by: int = 0


def write_pid_and_wait(job: Job) -> None:
    """Entry point: rank 1 sends itself a signal, and both wait."""
    rank = os.environ["RANK"]
    Path(job.out_dpath, f"{rank}.writing").write_text(str(os.getpid()))
    Path(job.out_dpath, f"{rank}.writing").rename(Path(job.out_dpath, f"{rank}.pid"))
    if rank == "1" and job.ends_by:
        os.kill(os.getpid(), job.ends_by)
    time.sleep(120)


def lose_the_other(job: Job) -> None:
    """Entry point: rank 1 fails, by a signal or a user's mistake, while the others wait for it; slow to end."""
    runtime = make_runtime("cpu", "fp32", timeout=10)
    runtime.wait_for_everyone()
    if os.environ["RANK"] == "1":
        if job.ends_by:
            os.kill(os.getpid(), job.ends_by)
        # Closes the connections well before the process ends.
        atexit.register(time.sleep, 3)
        atexit.register(torch.distributed.destroy_process_group)
        raise UserError("of rank 1")
    runtime.wait_for_everyone()


def fill_the_disk(job: Job) -> None:
    """Entry point: rank 1 finds the disk full."""
    if os.environ["RANK"] == "1":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(Path(job.out_dpath, "model-1.pt")))
    time.sleep(120)


def wait_for_the_other(job: Job) -> None:
    """Entry point: both meet, then rank 1 does not come to where rank 0 waits for it for a second."""
    runtime = make_runtime("cpu", "fp32", timeout=10)
    runtime.wait_for_everyone()
    if os.environ["RANK"] == "1":
        time.sleep(120)
    torch.distributed.distributed_c10d._set_pg_timeout(timedelta(seconds=1))
    runtime.wait_for_everyone()


def wait_for_one_that_does_not_join(job: Job) -> None:
    """Entry point: rank 1 does not join the group."""
    if os.environ["RANK"] == "1":
        time.sleep(120)
    make_runtime("cpu", "fp32", timeout=1 / 60)


ENTRY = "tests.test_processes_end:write_pid_and_wait"


def test_a_killed_process_is_one_line_that_names_it(tmp_path):
    """Also where no other one notices it. Of SIGKILL: `test_the_first_that_fails…`."""
    with pytest.raises(UserError, match=r"^process 1 of 2 was ended by SIGSEGV"):
        start(ENTRY, Job(str(tmp_path), signal.SIGSEGV), num_processes=2, timeout=10)


def test_a_stopped_process_does_not_hold_up_the_others_for_ever(tmp_path, capfd):
    with pytest.raises(UserError, match=r"^process 1 of 2 was stopped \(SIGSTOP\)"):
        start(ENTRY, Job(str(tmp_path), signal.SIGSTOP), num_processes=2, timeout=2 / 60)
    assert not any(is_alive(int(path.read_text())) for path in tmp_path.glob("*.pid"))


@pytest.mark.parametrize("entry", ["wait_for_the_other", "wait_for_one_that_does_not_join"])
def test_a_process_that_hangs_is_not_waited_for_for_ever(tmp_path, entry):
    line = r"^process 0 of 2 timed out waiting for another one, which hangs or was cut off"
    with pytest.raises(UserError, match=line):
        start(f"tests.test_processes_end:{entry}", Job(str(tmp_path)), num_processes=2)


@pytest.mark.parametrize("num_processes", [2, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("ends_by", "line"), [(0, "of rank 1"), (signal.SIGKILL, "process 1 of . was ended by SIGKILL")]
)
def test_the_first_that_fails_is_reported_not_those_that_lose_it(tmp_path, num_processes, ends_by, line):
    with pytest.raises(UserError, match=f"^{line}"):
        start("tests.test_processes_end:lose_the_other", Job(str(tmp_path), ends_by), num_processes)


def test_a_full_disk_in_one_of_several_processes_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"^out_dpath=.*model-1.pt': No space left on device; free some space"):
        start("tests.test_processes_end:fill_the_disk", Job(str(tmp_path)), num_processes=2)


def test_a_killed_launcher_takes_its_processes_with_it(tmp_path):
    """Also one that is stopped."""
    script = (
        "from launcher.processes import start; from tests.test_processes_end import Job\n"
        f"if __name__ == '__main__': start({ENTRY!r}, Job({str(tmp_path)!r}, {int(signal.SIGSTOP)}), 2)"
    )
    (tmp_path / "main.py").write_text(script)
    environment = {**os.environ, "PYTHONPATH": str(ROOT_DPATH)}
    launcher = subprocess.Popen([sys.executable, str(tmp_path / "main.py")], env=environment)
    try:
        wait_until(lambda: len(list(tmp_path.glob("*.pid"))) == 2)
    finally:
        launcher.kill()
        launcher.wait()
    pids = [int(path.read_text()) for path in tmp_path.glob("*.pid")]
    wait_until(lambda: not any(map(is_alive, pids)))


@pytest.mark.parametrize("error", [None, UserError("a mistake")])
def test_a_process_leaves_its_group_unless_it_has_failed(entries, monkeypatch, error):
    """Where one ends without, NCCL warns of what it leaves; where one has failed, others may wait in the group."""

    def train(_config: object) -> None:
        torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
        if error is not None:
            raise error

    monkeypatch.setattr(entries, "generate", train)
    try:
        assert run.main(["generate"]) == (2 if error else 0)
        assert torch.distributed.is_initialized() == (error is not None)
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
