"""Make the missing episodes of a dataset, in this process or in several."""

import contextlib
import logging
import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

import cv2
from tqdm import tqdm

from data_generation.config import DatasetConfig
from data_generation.generator.connector_base import Connector
from data_generation.generator.plan import EpisodeQueue, EpisodeTask
from data_generation.generator.worker import Player, Report, report_of, worker_main

logger = logging.getLogger(__name__)

# This many failed episodes without a complete one between them: the fault is not in single episodes of a game, or not
# in single games.
MAX_FAILURES_OF_A_GAME = 3
MAX_FAILURES_IN_A_ROW = 9
_PATIENCE = 10.0  # seconds for a worker to end
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class GenerationFailed(ValueError):
    """Some episodes could not be made; those that are complete stay. A ValueError so that one line is shown."""


@dataclass
class Outcome:
    """What a run made."""

    num_episodes: int = 0
    num_frames: int = 0
    seconds: float = 0.0
    failures: list[tuple[EpisodeTask, str]] = field(default_factory=list)
    num_dropped: int = 0  # episodes that were not tried any more, of games that failed again and again
    unplayable: dict[str, str] = field(default_factory=dict)  # game that could not be opened -> why
    num_workers: int = 1
    idle_seconds: float = 0.0  # the longest that a worker had nothing to do before the last one was through


def run(config: DatasetConfig, connector: Connector, tasks: list[EpisodeTask]) -> Outcome:
    """Make the episodes of `tasks`, each visible as soon as it is complete.

    An episode that fails (its worker died, the emulator raised) is reported and left out, the others go on. So do the
    other games where one cannot be opened, or fails again and again.
    GenerationFailed if the configuration is at fault or nothing works any more.
    """
    if not tasks:
        return Outcome()
    n_workers = min(config.connector.generator_config.n_workers or _num_cores(), len(tasks))
    progress = _Progress(EpisodeQueue(tasks), n_workers)
    try:
        # An emulator may take its process with it, which shall not end the other games.
        if n_workers == 1 and len({task.game for task in tasks}) == 1:
            _run_here(config, connector, progress)
        else:
            _Pool(config, connector, progress).run(n_workers)
    except KeyboardInterrupt:
        done = progress.outcome.num_episodes
        logger.warning("stopped: %d of %d episodes made; the same command goes on from there", done, len(tasks))
        raise
    finally:
        progress.close()
    return progress.outcome


def _num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Progress:
    """What is still to be played and what is made; shows it, and decides when failures are too many."""

    def __init__(self, queue: EpisodeQueue, n_workers: int):
        self.queue = queue
        self.outcome = Outcome(num_workers=n_workers)
        self._start = time.perf_counter()
        self._in_a_row = 0
        self._of_game: Counter[str] = Counter()  # failures of a game since its last complete episode
        self._bar = tqdm(total=len(queue), desc="generate", unit="episode")

    def add(self, task: EpisodeTask, report: Report) -> None:
        """Count an episode. Raises as `run` says."""
        outcome = self.outcome
        outcome.seconds = time.perf_counter() - self._start
        if not report.error:
            self._in_a_row = self._of_game[task.game] = 0
            outcome.num_episodes += 1
            outcome.num_frames += report.num_frames
            self._bar.set_postfix_str(f"{outcome.num_frames / outcome.seconds:.0f} frames/s", refresh=False)
            self._bar.update()
            return
        logger.debug("%s: %s", task, report.details)
        if report.is_user_error:
            raise GenerationFailed(report.error)
        if report.is_unplayable:
            outcome.unplayable[task.game] = report.error
            self._give_up(task.game, report.error)
            return
        outcome.failures.append((task, report.error))
        logger.warning("episode failed (%s): %s", task, report.error)
        self._in_a_row += 1
        self._of_game[task.game] += 1
        if self._in_a_row == MAX_FAILURES_IN_A_ROW:
            raise GenerationFailed(f"{self._in_a_row} episodes in a row failed, the last ({task}): {report.error}")
        if self._of_game[task.game] == MAX_FAILURES_OF_A_GAME:
            outcome.num_dropped += self._give_up(task.game, f"{MAX_FAILURES_OF_A_GAME} episodes in a row failed")

    def _give_up(self, game: str, reason: str) -> int:
        """Play a game no more; returns how many of its episodes are dropped."""
        if dropped := self.queue.drop(game):
            self._bar.total -= dropped
            logger.warning("%s: given up: %s", game, reason)
        return dropped

    def close(self) -> None:
        self.outcome.seconds = time.perf_counter() - self._start
        self._bar.close()


def _run_here(config: DatasetConfig, connector: Connector, progress: _Progress) -> None:
    """One worker needs no process of its own."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    player = Player(config, connector)
    task = progress.queue.next(None)
    try:
        while task is not None:
            progress.add(task, report_of(player, task))
            task = progress.queue.next(task.world)
    finally:
        player.close()
        cv2.setNumThreads(threads)


@dataclass
class _Worker:
    process: BaseProcess
    connection: Connection
    task: EpisodeTask | None = None
    time_through: float = 0.0  # when there was nothing left for it


class _Pool:
    """Worker processes, each with a pipe of its own, so that one that dies cannot take a shared queue with it."""

    def __init__(self, config: DatasetConfig, connector: Connector, progress: _Progress):
        self._config = config
        self._connector = connector
        self._queue = progress.queue
        self._progress = progress
        self._workers: list[_Worker] = []
        self._through: list[_Worker] = []  # they have no more to do and end by themselves

    def run(self, n_workers: int) -> None:
        """Play all tasks; on the way out, for whatever reason, no worker process is left."""
        try:
            for _ in range(n_workers):
                self._add_worker(None)
            while self._workers:
                ready = wait([worker.connection for worker in self._workers])
                for worker in [worker for worker in self._workers if worker.connection in ready]:
                    self._serve(worker)
            if self._through:
                waiting = time.perf_counter() - min(worker.time_through for worker in self._through)
                self._progress.outcome.idle_seconds = waiting
        finally:
            self._end_workers()

    def _add_worker(self, world: tuple[str, int] | None) -> None:
        task = self._queue.next(world)
        if task is None:
            return
        # An emulator cannot be forked, so workers start from scratch (spawn).
        context = get_context("spawn")
        connection, other_end = context.Pipe()
        process = context.Process(
            target=worker_main, args=(other_end, self._config, self._connector), daemon=True, name="generator-worker"
        )
        with _single_threaded_children():
            process.start()
        other_end.close()
        worker = _Worker(process, connection)
        self._workers.append(worker)
        _send(worker, task)

    def _serve(self, worker: _Worker) -> None:
        """Take a worker's report, or notice its death (its end of the pipe closes), and give out the next episode."""
        task = worker.task
        assert task is not None
        try:
            report: Report = worker.connection.recv()
        except (EOFError, ConnectionResetError):
            worker.process.join()
            self._workers.remove(worker)
            self._progress.add(task, Report(error=f"its worker process died ({_cause(worker.process.exitcode)})"))
            self._add_worker(task.world)
            return
        self._progress.add(task, report)
        _send(worker, self._queue.next(task.world))
        if worker.task is None:
            worker.time_through = time.perf_counter()
            self._workers.remove(worker)
            self._through.append(worker)

    def _end_workers(self) -> None:
        for worker in self._workers:
            worker.process.terminate()
        for worker in [*self._workers, *self._through]:
            worker.process.join(_PATIENCE)
            worker.process.kill()
            worker.process.join()


def _send(worker: _Worker, task: EpisodeTask | None) -> None:
    worker.task = task
    with contextlib.suppress(BrokenPipeError):  # it died just now: its end of the pipe tells
        worker.connection.send(task)


def _cause(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        return f"signal {-exitcode}" + (", perhaps out of memory" if exitcode == -9 else "")
    return f"exit code {exitcode}"


@contextlib.contextmanager
def _single_threaded_children() -> Iterator[None]:
    """Numerical libraries of a child process read their number of threads when they load: one, as each has its core."""
    before = {name: os.environ.get(name) for name in _THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
