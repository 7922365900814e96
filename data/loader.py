"""Batches of clips, read by this process or by worker processes, with every failure of those in one line.

A worker hands its batches over in shared memory (/dev/shm), which is small in containers. PyTorch alone waits for ever
when it is full, and when a worker is stopped; and a worker that is killed ends the main process at any line of it.
"""

import atexit
import math
import os
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from data.sampler import ClipSampler
from data_generation.data.errors import UNSET, FieldError, UserError
from models.components.transfer import to_device

_SHARED_MEMORY = "/dev/shm"
_REMEDY = "read in the main process with {n_data_workers}=0, or give the container more (docker run --shm-size=8g)"


@dataclass
class Batch:
    """Clips: frames (B, T, C, H, W) uint8, actions (B, T-1) int64 between them."""

    frames: Tensor
    actions: Tensor

    def to(self, device: torch.device) -> Self:
        """The batch on `device`."""
        return self._map(lambda tensor: to_device(tensor, device))

    def pin_memory(self) -> Self:
        """The batch in page-locked memory."""
        return self._map(Tensor.pin_memory)

    def share_memory(self) -> Self:
        """The batch in memory that other processes see. RuntimeError where there is not enough."""
        return self._map(Tensor.share_memory_)

    def _map(self, function: Callable[[Tensor], Tensor]) -> Self:
        tensors = {name: function(value) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **tensors)

    def __len__(self) -> int:
        return len(self.actions)


class BatchDataset(Dataset[Any]):
    """What a `ClipLoader` takes: a dataset that gives whole batches of its clips.

    Attributes: `clips_per_env`, and `clip_bytes`, the memory that a clip takes in a batch at least.
    """

    clips_per_env: list[int]
    clip_bytes: int = 0

    def __len__(self) -> int:
        return sum(self.clips_per_env)

    def __getitems__(self, indices: list[int]) -> Any:
        """The batch of these clips (what DataLoader asks for).

        In a worker, the user's mistakes are the result, which `ClipLoader` raises: torch would add the worker's
        traceback to an exception.
        """
        if get_worker_info() is None:
            return self.read(indices)
        try:
            batch = self.read(indices)
            # Here, because PyTorch would do it in a thread whose errors nobody sees.
            return batch.share_memory() if isinstance(batch, Batch) else batch
        except UserError as error:
            return error
        except RuntimeError as error:
            if "shared memory" not in str(error):
                raise
            return _no_shared_memory(str(error).rsplit(": ", 1)[-1])

    def read(self, indices: list[int]) -> Any:
        """The batch of these clips."""
        raise NotImplementedError


class ClipLoader(DataLoader):
    """A DataLoader of a dataset's batches. It draws from no global random generator.

    Where worker processes fail (killed, stopped, out of shared memory): `FieldError` of `n_data_workers`; damaged
    files: `EpisodeError`.
    """

    def __init__(
        self,
        dataset: BatchDataset,
        batch_sampler: Any,
        num_workers: int = 0,
        worker_seconds: float = math.inf,
        **options: Any,
    ) -> None:
        """`worker_seconds`: how long to wait for a batch of the workers."""
        self._worker_seconds = worker_seconds
        super().__init__(
            dataset,
            batch_sampler=batch_sampler,
            collate_fn=_as_is,
            num_workers=num_workers,
            generator=torch.Generator(),
            **options,
        )

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        if not self.num_workers:
            yield from super().__iter__()
            return
        batches = self._start_workers()
        try:
            with _Watch(batches._workers, self._worker_seconds) as watch:
                while (batch := self._next(batches, watch)) is not None:
                    yield batch
        finally:
            if not self.persistent_workers:
                _kill(batches._workers)

    def _start_workers(self) -> Any:
        check_shared_memory(self.dataset, self.batch_sampler, self.num_workers)
        before = signal.getsignal(signal.SIGCHLD)
        try:
            batches: Any = super().__iter__()
        except OSError as error:
            raise _no_shared_memory(error.strerror or str(error)) from None
        finally:
            # PyTorch's handler raises wherever the main process is when a worker dies; waiting for it notices as well.
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGCHLD, before if before is not None else signal.SIG_DFL)
        _kill_at_exit(batches._workers)
        return batches

    def _next(self, batches: Iterator[Any], watch: "_Watch") -> Any:
        """The next batch, None at the end."""
        try:
            with watch.waiting():
                batch = next(batches, None)
        except (RuntimeError, ConnectionError, EOFError) as error:
            if watch.has_ended_workers:
                problem = f"the data workers have given no batch for {self._worker_seconds:g} s"
                remedy = "were they stopped, or does the disk hang? Raise {data_worker_seconds}, or set"
            elif isinstance(error, RuntimeError) and not str(error).startswith("DataLoader worker"):
                raise
            else:
                problem, remedy = "a data worker was killed, by hand or for want of memory", "set"
            remedy += " {n_data_workers}=0, which reads in the main process"
            raise FieldError("n_data_workers", self.num_workers, problem, remedy) from None
        if isinstance(batch, UserError):
            raise batch
        return batch


class _Watch(threading.Thread):
    """Ends workers that have given no batch for too long. Whoever waits for one of them is then told so by PyTorch.

    PyTorch's own time limit does not hold where a worker is stopped after it has announced a batch.
    """

    def __init__(self, workers: list[Any], seconds: float) -> None:
        super().__init__(name="data worker watch", daemon=True)
        self._workers, self._seconds = workers, seconds
        self._deadline, self._ended = math.inf, threading.Event()
        self.has_ended_workers = False

    def run(self) -> None:
        while not self._ended.wait(min(1.0, self._seconds / 4)):
            if time.monotonic() > self._deadline:
                self.has_ended_workers = True
                _kill(self._workers)
                return

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """The time limit holds in this block."""
        self._deadline = time.monotonic() + self._seconds
        try:
            yield
        finally:
            self._deadline = math.inf

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()


_running: weakref.WeakSet[Any] = weakref.WeakSet()


def _kill_at_exit(workers: list[Any]) -> None:
    """PyTorch asks workers to end and waits for them, which a stopped one never does."""
    if not _running:
        atexit.register(lambda: _kill(list(_running)))
    _running.update(workers)


def _kill(workers: list[Any]) -> None:
    for worker in workers:
        with suppress(ValueError):  # closed already
            worker.kill()


def _as_is(batch: Any) -> Any:
    """The dataset gives whole batches: nothing is left to collate."""
    return batch


def _no_shared_memory(reason: str) -> FieldError:
    problem = f"no shared memory is left for the data workers' batches ({reason} in {_SHARED_MEMORY})"
    return FieldError("n_data_workers", UNSET, problem, _REMEDY)


def check_shared_memory(dataset: Any, batches: Any, n_workers: int) -> None:
    """FieldError where the shared memory that is free now cannot even take one batch of each worker."""
    batch_size = batches.batch_size if isinstance(batches, ClipSampler) else max(map(len, batches), default=0)
    try:
        status = os.statvfs(_SHARED_MEMORY)
    except OSError:  # another system
        return
    free, needed = status.f_bavail * status.f_frsize, n_workers * batch_size * dataset.clip_bytes
    if needed > free:
        problem = f"a batch of each worker takes {needed / 1e6:.1f} MB of shared memory, and {_SHARED_MEMORY} has"
        raise FieldError("n_data_workers", n_workers, f"{problem} {free / 1e6:.1f} MB", _REMEDY)


def make_loader(
    dataset: BatchDataset,
    batch_size: int,
    seed: int = 0,
    n_workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
    start_sample: int = 0,
    pin_memory: bool = False,
    worker_seconds: float = math.inf,
) -> ClipLoader:
    """A loader of shuffled batches, in the order of `ClipSampler`.

    It shards by rank, so Accelerate must not prepare it. `start_sample`: samples that all ranks together have consumed
    since training began. `worker_seconds` as in `ClipLoader`.
    """
    return ClipLoader(
        dataset,
        batch_sampler=ClipSampler(dataset.clips_per_env, batch_size, seed, rank, world_size, start_sample),
        num_workers=n_workers,
        worker_seconds=worker_seconds,
        pin_memory=pin_memory,
        persistent_workers=n_workers > 0,
    )


def iterate_epochs(loader: ClipLoader) -> Iterator[Any]:
    """Batches without end, epoch after epoch, from the loader's `start_sample` on."""
    sampler = loader.batch_sampler
    assert isinstance(sampler, ClipSampler)
    while True:
        yield from loader
        sampler.set_epoch(sampler.epoch + 1)
