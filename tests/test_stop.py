"""Stopping on request: which signals count, and when several processes ask each other."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from torch import distributed

from data_generation.data.fields import PathText
from tests.distributed_helpers import run_together
from tests.training_helpers import renamed, rows, tiny_config
from training import trainer
from training.main import run_dpath, train
from training.run_folder import RunFolder
from training.runtime import make_runtime
from training.stop import StopRequest

SIGNALS = [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2]


@pytest.fixture
def unmarked():
    """Signals that came as usual; the handlers of before are put back afterwards."""
    came: list[int] = []
    before = {number: signal.signal(number, lambda n, _: came.append(n)) for number in (*SIGNALS, signal.SIGINT)}
    yield came
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_that_several_processes_get_twice_counts_once(unmarked, number):
    """Directly, since it is sent to the whole group, and from their launcher."""
    with StopRequest(2):
        signal.raise_signal(number)
        signal.raise_signal(number)
        signal.raise_signal(signal.SIGTERM)
        assert unmarked == []
        signal.raise_signal(signal.SIGINT)
        assert unmarked == [signal.SIGINT]
    signal.raise_signal(number)
    assert unmarked == [signal.SIGINT, number]


@pytest.mark.parametrize("num_processes", [1, 2])
def test_a_second_ctrl_c_stops_at_once(unmarked, num_processes):
    with StopRequest(num_processes):
        signal.raise_signal(signal.SIGINT)
        assert unmarked == []
        signal.raise_signal(signal.SIGINT)
        assert unmarked == [signal.SIGINT]


def test_a_second_signal_ends_one_process_at_once(unmarked):
    with StopRequest(1) as request:
        signal.raise_signal(signal.SIGTERM)
        assert (request.agreed(1), unmarked) == (signal.SIGTERM, [])
        signal.raise_signal(signal.SIGTERM)
    assert unmarked == [signal.SIGTERM]


@pytest.mark.parametrize("number", [*SIGNALS, signal.SIGINT])
def test_a_signal_that_is_ignored_stays_ignored(unmarked, number):
    """As Ctrl-C is for what a script runs in the background."""
    signal.signal(number, signal.SIG_IGN)
    with StopRequest(1) as request:
        signal.raise_signal(number)
        assert request.agreed(1) == 0
    assert signal.getsignal(number) == signal.SIG_IGN


@dataclass
class Job:
    """What the entry point below is given."""

    out_dpath: PathText
    # Of each rank, by a clock of its own.
    seconds_per_step: list[float]


def stop_one_of_two(job: Job) -> None:
    """Entry point: rank 0 is asked to stop in step 12; writes when both stop, and how often they have asked."""
    rank = int(os.environ["RANK"])
    runtime = make_runtime("cpu", "fp32", timeout=10)
    seconds, questions = 0.0, []
    time.monotonic = lambda: seconds
    reduce = distributed.all_reduce
    distributed.all_reduce = lambda *arguments: questions.append(arguments) or reduce(*arguments)
    with StopRequest(runtime.num_processes, runtime.device) as request:
        for step in range(1, 100):
            seconds += job.seconds_per_step[rank]
            if (rank, step) == (0, 12):
                signal.raise_signal(signal.SIGTERM)
            if request.agreed(step):
                Path(job.out_dpath, f"{rank}").write_text(f"{step} {len(questions)}")
                return


@pytest.mark.parametrize(
    ("seconds", "stopped"), [([0.01, 0.01], "21 3"), ([0.01, 3.0], "12 12"), ([40.0, 0.01], "12 12")]
)
def test_several_processes_ask_each_other_more_often_where_one_is_slow(tmp_path, seconds, stopped):
    assert run_together(2, "tests.test_stop:stop_one_of_two", Job(str(tmp_path), seconds)) == [0, 0]
    assert [(tmp_path / rank).read_text() for rank in "01"] == [stopped, stopped]


def test_a_stop_that_is_asked_for_while_saving_does_not_wait_for_the_validation(root, monkeypatch):
    cfg = renamed(tiny_config(root), "run", save_model_every=2, validate_every=2)
    real = trainer.Trainer.save

    def save(self):
        signal.raise_signal(signal.SIGTERM)
        real(self)

    monkeypatch.setattr(trainer.Trainer, "save", save)
    with pytest.raises(SystemExit):
        train(cfg)
    assert RunFolder(run_dpath(cfg)).steps() == [2]
    assert rows(cfg, "validation") == []
    monkeypatch.undo()
    train(renamed(cfg, "run", resume_ckpt="latest"))
    assert [row["step"] for row in rows(cfg, "validation")] == [2, 4]
