"""Make the missing episodes of a dataset, in worker processes."""

import logging
import time
from collections import Counter
from dataclasses import dataclass, field
from multiprocessing.connection import wait

from tqdm import tqdm

from data_generation.data.cores import num_cores
from data_generation.data.errors import UserError
from data_generation.generator.child import Child
from data_generation.generator.faults import EnvironmentFault
from data_generation.generator.levels import Level
from data_generation.generator.plan import EpisodeQueue, EpisodeTask, has_episodes
from data_generation.generator.worker import EpisodeOutcome, GenerationJob, worker_main

logger = logging.getLogger(__name__)

# A level is given up when so many of its episodes have failed and none was complete. A game is given up when so many
# have failed in at least so many of its levels and none was complete.
MAX_FAILURES, MIN_FAILED_LEVELS = 10, 3


class GenerationFailed(UserError):
    """Some episodes could not be made; those that are complete stay."""


@dataclass
class Outcome:
    """What a run made."""

    num_episodes: int = 0
    num_frames: int = 0
    seconds: float = 0.0
    failures: list[tuple[EpisodeTask, str]] = field(default_factory=list)
    # Episodes that were not tried any more, of levels and games of which nothing works.
    num_dropped: int = 0
    # Game that could never be opened, and of which there is no episode -> why.
    unplayable: dict[str, str] = field(default_factory=dict)
    num_workers: int = 1
    # The longest that a worker had nothing to do before the last one had finished.
    idle_seconds: float = 0.0


def run(job: GenerationJob, tasks: list[EpisodeTask]) -> Outcome:
    """Make the episodes of `tasks`, each visible as soon as it is complete.

    An episode that fails (the environment raised or hangs, its worker died) is reported and omitted; the others are
    still made. A level or a game of which nothing works is given up. GenerationFailed if the configuration is at fault,
    OSError where the disk refuses something.
    """
    if not tasks:
        return Outcome()
    n_workers = min(job.config.connector.generator_config.n_workers or num_cores(), len(tasks))
    progress = _Progress(EpisodeQueue(tasks), n_workers)
    try:
        _Pool(job, progress).run(n_workers)
    except KeyboardInterrupt:
        done = progress.outcome.num_episodes
        logger.warning("stopped: %d of %d episodes made; the same command resumes from there", done, len(tasks))
        raise
    finally:
        progress.close()
    progress.set_unopened_apart()
    return progress.outcome


class _Progress:
    """What is still to be played and what is made; shows it, and decides when a level or a game is given up."""

    def __init__(self, queue: EpisodeQueue, n_workers: int):
        self.queue = queue
        self.outcome = Outcome(num_workers=n_workers)
        self._start = time.perf_counter()
        self._made: set[Level] = set()
        self._num_failed: Counter[Level] = Counter()
        # By game.
        self._num_unopened: Counter[str] = Counter()
        self._num_dropped: Counter[str] = Counter()
        self._notes: set[str] = set()
        self._bar = tqdm(total=len(queue), desc="generate", unit="episode")

    def add(self, task: EpisodeTask, result: EpisodeOutcome) -> None:
        """Count an episode. Raises as `run` says."""
        outcome, game = self.outcome, task.level.game
        outcome.seconds = time.perf_counter() - self._start
        self._say(result.notes)
        if not result.error:
            self._made.add(task.level)
            outcome.num_episodes += 1
            outcome.num_frames += result.num_frames
            self._bar.set_postfix_str(f"{outcome.num_frames / outcome.seconds:.0f} frames/s", refresh=False)
            self._bar.update()
            return
        logger.debug("%s: %s", task, result.details)
        if result.disk_error is not None:
            raise result.disk_error
        if result.is_fatal:
            raise GenerationFailed(result.error)
        outcome.failures.append((task, result.error))
        logger.warning("episode failed (%s): %s", task, result.error)
        self._num_failed[task.level] += 1
        self._num_unopened[game] += result.is_unopened
        self._give_up_hopeless(task.level)

    def _say(self, notes: tuple[str, ...]) -> None:
        """Each once, whichever worker it comes from."""
        for note in notes:
            if note not in self._notes:
                self._notes.add(note)
                logger.warning("%s", note)

    def _give_up_hopeless(self, level: Level) -> None:
        """After a failure in `level`: play the level, or its game, no more if nothing of it works."""
        failed = {other: count for other, count in self._num_failed.items() if other.game == level.game}
        plays = any(made.game == level.game for made in self._made)
        if not plays and sum(failed.values()) >= MAX_FAILURES and len(failed) >= MIN_FAILED_LEVELS:
            dropped, count, name = self.queue.drop_game(level.game), sum(failed.values()), level.game
        elif level not in self._made and failed[level] >= MAX_FAILURES:
            dropped, count, name = self.queue.drop(level), failed[level], f"{level.game}, instance {level.instance}"
        else:
            return
        if dropped:
            self._num_dropped[level.game] += dropped
            self.outcome.num_dropped += dropped
            self._bar.total -= dropped
            logger.warning("%s: given up: the first %d episodes failed", name, count)

    def set_unopened_apart(self) -> None:
        """Games that could never be opened, neither now nor in an earlier run, are no failed episodes."""
        outcome = self.outcome
        for game, count in self._num_unopened.items():
            task, error = next(item for item in outcome.failures if item[0].level.game == game)
            num_failed = sum(failed for level, failed in self._num_failed.items() if level.game == game)
            if count == num_failed and not has_episodes(task.env_dpath):
                outcome.unplayable[game] = error
                outcome.num_dropped -= self._num_dropped[game]
        outcome.failures = [item for item in outcome.failures if item[0].level.game not in outcome.unplayable]

    def close(self) -> None:
        self.outcome.seconds = time.perf_counter() - self._start
        self._bar.close()


@dataclass
class _Worker:
    child: Child
    task: EpisodeTask
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
                self._add_worker()
            while self._workers:
                ready = wait([worker.child.connection for worker in self._workers])
                for worker in [worker for worker in self._workers if worker.child.connection in ready]:
                    self._serve(worker)
            if self._finished:
                waiting = time.perf_counter() - min(worker.time_finished for worker in self._finished)
                self._progress.outcome.idle_seconds = waiting
        finally:
            self._end_workers()

    def _add_worker(self) -> None:
        task = self._queue.next(None)
        if task is None:
            return
        seconds = self._job.config.connector.generator_config.step_seconds
        worker = _Worker(Child("generator-worker", seconds, worker_main, self._job), task)
        self._workers.append(worker)
        worker.child.send(task)

    def _serve(self, worker: _Worker) -> None:
        """Take a worker's outcome, or notice its death, and hand out the next episode."""
        task = worker.task
        try:
            outcome: EpisodeOutcome = worker.child.receive()
        except EnvironmentFault as fault:
            self._workers.remove(worker)
            worker.child.close()
            self._progress.add(task, EpisodeOutcome(error=str(fault)))
            self._add_worker()
            return
        self._progress.add(task, outcome)
        # After a failure another level, so that a bad one does not hold up those that work.
        following = self._queue.next(None if outcome.error else task.level)
        worker.child.send(following)
        if following is not None:
            worker.task = following
            return
        worker.time_finished = time.perf_counter()
        self._workers.remove(worker)
        self._finished.append(worker)

    def _end_workers(self) -> None:
        for worker in self._workers:
            worker.child.terminate()
        for worker in [*self._workers, *self._finished]:
            worker.child.close()
