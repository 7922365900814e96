"""Several processes and signals: Ctrl-C ends all, what is ignored stays ignored, and handlers are given back."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

from data_generation.data.fields import PathText
from launcher.processes import start
from tests.process_helpers import wait_until
from training import stop
from training.runtime import make_runtime
from training.stop import StopRequest

ROOT_DPATH = Path(__file__).parent.parent
# The launcher's process. In those that it starts, `__name__` is another, and this file is imported first.
MAIN = """
import sys, time
from pathlib import Path
from launcher.processes import start
from tests.test_processes_signals import Job
out_dpath, entry, is_slow = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "slow"
if __name__ == "__main__":
    start(f"tests.test_processes_signals:{entry}", Job(str(out_dpath)), 2, timeout=10)
elif is_slow:
    out_dpath.joinpath(f"{time.monotonic_ns()}.up").touch()
    while not out_dpath.joinpath("go").exists():
        time.sleep(0.05)
"""


@dataclass
class Job:
    """What the entry points below, in processes of their own, are given."""

    out_dpath: PathText


def up(job: Job) -> None:
    Path(job.out_dpath, f"{os.environ['RANK']}.up").touch()


def save_alone(job: Job) -> None:
    """Entry point: rank 0 writes while the other waits for it, as when a training saves."""
    runtime = make_runtime("cpu", "fp32", timeout=10)
    runtime.wait_for_everyone()
    if not runtime.is_main:
        # What torch waits for, Ctrl-C does not end: here from the start.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    up(job)
    if runtime.is_main:
        time.sleep(300)
    runtime.wait_for_everyone()


def train(job: Job) -> None:
    """Entry point: steps until a signal comes; then rank 0 saves."""
    runtime = make_runtime("cpu", "fp32", timeout=10)
    with StopRequest(runtime.num_processes, runtime.device) as request:
        up(job)
        for step in range(1, 6000):
            time.sleep(0.05)
            Path(job.out_dpath, f"{step}.step").touch()
            if number := request.agreed(step):
                if runtime.is_main:
                    Path(job.out_dpath, "saved").touch()
                runtime.wait_for_everyone()
                raise SystemExit(128 + number)


class Launched:
    """A launcher with two processes, in a process group of its own."""

    def __init__(self, out_dpath: Path, entry: str, speed: str = "fast", ignored: Iterable[signal.Signals] = ()):
        self.out_dpath = out_dpath
        (out_dpath / "main.py").write_text(MAIN)
        with (out_dpath / "stderr").open("w") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, str(out_dpath / "main.py"), str(out_dpath), entry, speed],
                env={**os.environ, "PYTHONPATH": str(ROOT_DPATH)},
                stderr=stderr,
                start_new_session=True,
                preexec_fn=lambda: [signal.signal(number, signal.SIG_IGN) for number in ignored],
            )
        wait_until(lambda: len(list(out_dpath.glob("*.up"))) == 2 or self.process.poll() is not None)

    def send(self, number: signal.Signals) -> None:
        """To all processes of the group."""
        os.killpg(self.process.pid, number)

    def ended(self) -> tuple[int, str]:
        """Exit code and what was written to stderr."""
        try:
            wait_until(lambda: self.process.poll() is not None)
        finally:
            self.process.kill()
        return self.process.wait(), (self.out_dpath / "stderr").read_text()


def test_ctrl_c_ends_a_process_that_waits_for_another_one(tmp_path):
    launched = Launched(tmp_path, "save_alone")
    launched.send(signal.SIGINT)
    code, errors = launched.ended()
    assert (code, "Traceback" in errors) == (130, False), errors


def test_ctrl_c_while_processes_start_ends_them_without_a_traceback(tmp_path):
    launched = Launched(tmp_path, "save_alone", "slow")
    launched.send(signal.SIGINT)
    (tmp_path / "go").touch()
    code, errors = launched.ended()
    assert (code, "Traceback" in errors) == (130, False), errors


def test_ignored_signals_are_ignored_and_one_to_all_processes_saves(tmp_path):
    """As `nohup` ignores SIGHUP and a script's shell SIGINT for what runs in the background."""
    launched = Launched(tmp_path, "train", ignored=[signal.SIGHUP, signal.SIGINT])
    launched.send(signal.SIGHUP)
    launched.send(signal.SIGINT)
    later = len(list(tmp_path.glob("*.step"))) + 25
    wait_until(lambda: len(list(tmp_path.glob("*.step"))) > later or launched.process.poll() is not None)
    assert not (tmp_path / "saved").exists() and launched.process.poll() is None
    launched.send(signal.SIGTERM)
    code, errors = launched.ended()
    assert (code, (tmp_path / "saved").exists()) == (128 + signal.SIGTERM, True), errors


def test_handlers_are_those_of_before_and_a_warning_is_passed_on(tmp_path, monkeypatch):
    """To submitit, which waits for SIGUSR2 and puts the job back into the queue."""
    monkeypatch.setattr(stop, "_REQUEUE_SECONDS", 0.0)
    came: list[int] = []
    waiting = signal.signal(signal.SIGUSR2, lambda number, _: came.append(number))
    numbers = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
    before = {number: signal.getsignal(number) for number in numbers}

    def warn() -> None:
        wait_until(lambda: len(list(tmp_path.glob("*.up"))) == 2)
        os.kill(os.getpid(), signal.SIGUSR2)

    thread = threading.Thread(target=warn)
    thread.start()
    try:
        with pytest.raises(SystemExit) as ended:
            start("tests.test_processes_signals:train", Job(str(tmp_path)), num_processes=2, timeout=10)
        assert {number: signal.getsignal(number) for number in numbers} == before
        assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    finally:
        signal.signal(signal.SIGUSR2, waiting)
        thread.join()
    assert (ended.value.code, came) == (128 + signal.SIGUSR2, [signal.SIGUSR2])
