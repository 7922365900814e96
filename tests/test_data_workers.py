"""Processes that read clips, and how their failures show: killed, stopped, out of shared memory or of descriptors."""

import os
import resource
import signal
import subprocess
import sys
from collections import namedtuple
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pytest
import torch

from data.data import ClipDataset, ClipLoader, make_loader
from data_generation.data.errors import FieldError
from tests.episode_helpers import make_environment
from tests.process_helpers import is_alive, wait_until


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> ClipDataset:
    return ClipDataset(make_environment(tmp_path_factory.mktemp("env"), 4), "all", num_frames=4)


def batches_of(clips: ClipDataset, num_workers: int, worker_seconds: float = 60.0, **options) -> ClipLoader:
    batches = np.arange(len(clips)).reshape(-1, 2).tolist()
    return ClipLoader(clips, batches, num_workers, worker_seconds, **options)


def signal_workers(number: int) -> list[int]:
    """Signal the workers that run; their ids."""
    workers = [worker.pid for worker in active_children()]
    for worker in workers:
        os.kill(worker, number)
    return workers


@pytest.mark.parametrize("persistent", [False, True])
def test_a_killed_worker_is_one_line(clips, persistent):
    batches = iter(batches_of(clips, 2, persistent_workers=persistent))
    next(batches)
    signal_workers(signal.SIGKILL)
    with pytest.raises(FieldError, match=r"n_data_workers=2: a data worker was killed.*n_data_workers=0"):
        list(batches)


def test_a_stopped_worker_is_one_line_and_is_ended(clips):
    batches = iter(batches_of(clips, 1, worker_seconds=3))
    next(batches)
    workers = signal_workers(signal.SIGSTOP)
    with pytest.raises(FieldError, match=r"no batch for 3 s; .*data_worker_seconds.*n_data_workers=0"):
        list(batches)
    wait_until(lambda: not any(map(is_alive, workers)))


def test_a_worker_that_dies_interrupts_the_main_process_nowhere_else(clips):
    """PyTorch's handler of SIGCHLD would raise in the middle of a training step."""
    before = signal.getsignal(signal.SIGCHLD)
    batches = iter(batches_of(clips, 1))
    next(batches)
    assert signal.getsignal(signal.SIGCHLD) == before
    workers = signal_workers(signal.SIGKILL)
    wait_until(lambda: not any(map(is_alive, workers)))


def test_shared_memory_that_cannot_hold_the_batches_is_said_before_any_is_read(clips, monkeypatch):
    status = namedtuple("status", ["f_bavail", "f_frsize"])(0, 4096)
    monkeypatch.setattr(os, "statvfs", lambda path: status)
    with pytest.raises(FieldError, match=r"n_data_workers=2: .*n_data_workers=0.*--shm-size"):
        next(iter(batches_of(clips, 2)))
    assert len(list(batches_of(clips, 0))) == len(clips) // 2


def test_shared_memory_that_runs_out_is_one_line(clips, monkeypatch):
    def refuse(tensor):
        raise RuntimeError(
            "unable to allocate shared memory(shm) for file </torch_1_2_3>: No space left on device (28)"
        )

    monkeypatch.setattr(torch.Tensor, "share_memory_", refuse)
    with pytest.raises(FieldError, match=r"n_data_workers: .*No space left.*n_data_workers=0.*--shm-size"):
        next(iter(batches_of(clips, 1)))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_loading_draws_from_no_global_generator(clips, num_workers):
    before = torch.get_rng_state()
    list(batches_of(clips, num_workers))
    next(iter(make_loader(clips, 2, n_workers=num_workers)))
    assert torch.equal(torch.get_rng_state(), before)


SCRIPT = """
import resource, sys
from pathlib import Path
from data.data import ClipDataset, ClipLoader

if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    datasets = [ClipDataset(Path(sys.argv[1]), split, num_frames=2) for split in ("train", "validation", "all")]
    readers = [iter(ClipLoader(clips, [[i] for i in range(len(clips))], int(sys.argv[2]))) for clips in datasets]
    for _ in range(150):
        for reader in readers:
            next(reader, None)
    print("read")
"""


@pytest.mark.parametrize("num_workers", [0, 1])
def test_few_file_handles_are_enough_for_any_number_of_episodes(tmp_path, num_workers):
    make_environment(tmp_path / "env", 150, num_frames=2)
    (tmp_path / "read.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "read.py"), str(tmp_path / "env"), str(num_workers)]
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True, text=True)
    assert done.stdout == "read\n", done.stderr


def test_no_limit_of_file_handles_is_exceeded_when_others_hold_them(tmp_path, clips):
    """All descriptors but two are in use: files that were read are closed for those that are read now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 40, hard))
    held = []
    try:
        clips.read([0])
        try:
            while True:
                held.append(os.open(os.devnull, os.O_RDONLY))
        except OSError:
            os.close(held.pop())
        for index in range(len(clips)):
            clips.read([index])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in held:
            os.close(descriptor)
