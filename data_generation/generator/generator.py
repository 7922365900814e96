"""Make the missing episodes of a dataset, in this process or in several."""

import contextlib
import logging
import os
import time
from collections import Counter
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from tqdm import tqdm

from data_generation.data.errors import UserError
from data_generation.generator.levels import Level
from data_generation.generator.plan import EpisodeQueue, EpisodeTask
from data_generation.generator.process import one_opencv_thread, single_threaded_children
from data_generation.generator.worker import EpisodeOutcome, GenerationJob, Player, worker_main

logger = logging.getLogger(__name__)

# This many failed episodes without a complete one between them: the fault is not in single episodes of a game, or not
# in single games.
MAX_FAILURES_OF_A_GAME = 3
MAX_FAILURES_IN_A_ROW = 9
# Seconds for a worker to end.
_PATIENCE = 10.0


class GenerationFailed(UserError):
    """Some episodes could not be made; those that are complete stay."""


@dataclass
class Outcome:
    """What a run made."""

    num_episodes: int = 0
    num_frames: int = 0
    seconds: float = 0.0
    failures: list[tuple[EpisodeTask, str]] = field(default_factory=list)
    # Episodes that were not tried any more, of games that failed again and again.
    num_dropped: int = 0
    # Game that could not be opened -> why.
    unplayable: dict[str, str] = field(default_factory=dict)
    num_workers: int = 1
    # The longest that a worker had nothing to do before the last one had finished.
    idle_seconds: float = 0.0


def run(job: GenerationJob, tasks: list[EpisodeTask]) -> Outcome:
    """Make the episodes of `tasks`, each visible as soon as it is complete.

    An episode that fails (its worker died, the emulator raised) is reported and omitted; the others are still made. So
    are those of other games where one cannot be opened, or fails again and again.
    GenerationFailed if the configuration is at fault or nothing works any more.
    """
    if not tasks:
        return Outcome()
    n_workers = min(job.config.connector.generator_config.n_workers or _num_cores(), len(tasks))
    progress = _Progress(EpisodeQueue(tasks), n_workers)
    try:
        # An emulator that crashes ends its process, which must not end the other games.
        if n_workers == 1 and len({task.level.game for task in tasks}) == 1:
            _run_here(job, progress)
        else:
            _Pool(job, progress).run(n_workers)
    except KeyboardInterrupt:
        done = progress.outcome.num_episodes
        logger.warning("stopped: %d of %d episodes made; the same command resumes from there", done, len(tasks))
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
        # Failures of a game since its last complete episode.
        self._of_game: Counter[str] = Counter()
        self._bar = tqdm(total=len(queue), desc="generate", unit="episode")

    def add(self, task: EpisodeTask, result: EpisodeOutcome) -> None:
        """Count an episode. Raises as `run` says."""
        outcome, game = self.outcome, task.level.game
        outcome.seconds = time.perf_counter() - self._start
        if not result.error:
            self._in_a_row = self._of_game[game] = 0
            outcome.num_episodes += 1
            outcome.num_frames += result.num_frames
            self._bar.set_postfix_str(f"{outcome.num_frames / outcome.seconds:.0f} frames/s", refresh=False)
            self._bar.update()
            return
        logger.debug("%s: %s", task, result.details)
        if result.is_user_error:
            raise GenerationFailed(result.error)
        if result.is_unplayable:
            outcome.unplayable[game] = result.error
            self._give_up(game, result.error)
            return
        outcome.failures.append((task, result.error))
        logger.warning("episode failed (%s): %s", task, result.error)
        self._in_a_row += 1
        self._of_game[game] += 1
        if self._in_a_row == MAX_FAILURES_IN_A_ROW:
            raise GenerationFailed(f"{self._in_a_row} episodes in a row failed, the last ({task}): {result.error}")
        if self._of_game[game] == MAX_FAILURES_OF_A_GAME:
            outcome.num_dropped += self._give_up(game, f"{MAX_FAILURES_OF_A_GAME} episodes in a row failed")

    def _give_up(self, game: str, reason: str) -> int:
        """Play a game no more; returns how many of its episodes are dropped."""
        if dropped := self.queue.drop(game):
            self._bar.total -= dropped
            logger.warning("%s: given up: %s", game, reason)
        return dropped

    def close(self) -> None:
        self.outcome.seconds = time.perf_counter() - self._start
        self._bar.close()


def _run_here(job: GenerationJob, progress: _Progress) -> None:
    """One worker needs no process of its own."""
    player = Player(job)
    task = progress.queue.next(None)
    try:
        with one_opencv_thread():
            while task is not None:
                progress.add(task, player.outcome_of(task))
                task = progress.queue.next(task.level)
    finally:
        player.close()


@dataclass
class _Worker:
    process: BaseProcess
    connection: Connection
    task: EpisodeTask | None = None
    # When there was nothing left for it.
    time_finished: float = 0.0


class _Pool:
    """Worker processes, each with a pipe of its own, so that one that dies cannot take a shared queue with it."""

    def __init__(self, job: GenerationJob, progress: _Progress):
        self._job = job
        self._queue = progress.queue
        self._progress = progress
        self._workers: list[_Worker] = []
        # Workers that have no more to do and are ending.
        self._finished: list[_Worker] = []

    def run(self, n_workers: int) -> None:
        """Play all tasks; on the way out, for whatever reason, no worker process is left."""
        try:
            for _ in range(n_workers):
                self._add_worker(None)
            while self._workers:
                ready = wait([worker.connection for worker in self._workers])
                for worker in [worker for worker in self._workers if worker.connection in ready]:
                    self._serve(worker)
            if self._finished:
                waiting = time.perf_counter() - min(worker.time_finished for worker in self._finished)
                self._progress.outcome.idle_seconds = waiting
        finally:
            self._end_workers()

    def _add_worker(self, level: Level | None) -> None:
        task = self._queue.next(level)
        if task is None:
            return
        # An emulator cannot be forked, so workers start from scratch (spawn).
        context = get_context("spawn")
        connection, other_end = context.Pipe()
        process = context.Process(target=worker_main, args=(other_end, self._job), daemon=True, name="generator-worker")
        with single_threaded_children():
            process.start()
        other_end.close()
        worker = _Worker(process, connection)
        self._workers.append(worker)
        _send(worker, task)

    def _serve(self, worker: _Worker) -> None:
        """Take a worker's outcome, or notice its death (its end of the pipe closes), and hand out the next episode."""
        task = worker.task
        assert task is not None
        try:
            outcome: EpisodeOutcome = worker.connection.recv()
        except (EOFError, ConnectionResetError):
            worker.process.join()
            self._workers.remove(worker)
            self._progress.add(
                task, EpisodeOutcome(error=f"its worker process died ({_cause(worker.process.exitcode)})")
            )
            self._add_worker(task.level)
            return
        self._progress.add(task, outcome)
        _send(worker, self._queue.next(task.level))
        if worker.task is None:
            worker.time_finished = time.perf_counter()
            self._workers.remove(worker)
            self._finished.append(worker)

    def _end_workers(self) -> None:
        for worker in self._workers:
            worker.process.terminate()
        for worker in [*self._workers, *self._finished]:
            worker.process.join(_PATIENCE)
            worker.process.kill()
            worker.process.join()


def _send(worker: _Worker, task: EpisodeTask | None) -> None:
    worker.task = task
    # A worker that died just now is noticed by its closed end of the pipe.
    with contextlib.suppress(BrokenPipeError):
        worker.connection.send(task)


def _cause(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        return f"signal {-exitcode}" + (", perhaps out of memory" if exitcode == -9 else "")
    return f"exit code {exitcode}"
