"""The loop of an agent's training: play, learn, test, save; and what resuming a run needs."""

import logging
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from data_generation.data.errors import UNSET, FieldError, UserError, under
from data_generation.data.files import sync
from models.tensor_file import check_keys
from training.agent.context import AgentContext
from training.agent.player import OtherEpisodes, PlayedSteps
from training.agent.testing import Tested
from training.agent_folder import AgentFolder, check_epochs_left
from training.coverage import Coverage, add_episode
from training.episode_gif import save_gifs
from training.run_record import changes, resume_remedy
from training.run_report import RunReport
from training.stop import StopRequest
from training.tracker import MetricsLogger

logger = logging.getLogger(__name__)


class EvaluationFields(Protocol):
    """What the `evaluation` group of an agent's configuration says of the tests of its training."""

    every: int
    n_gifs: int


class AgentLoop(ABC):
    """Trains one agent in one folder. All processes construct and run it alike.

    What an epoch does depends on nothing but its start, so a resumed run equals one that was never stopped.
    A subclass makes `network`, `learner` and `player`, and says what they do in an epoch.
    FieldErrors name the configs by `common`, `collection` and `training`.
    """

    # What a resumed run cannot change, by what its keys begin with.
    FIXED: ClassVar[tuple[str, ...]]
    # The key of what to lower where training diverges.
    RATE_KEY: ClassVar[str]

    # A module; what updates it, with `state_dict()`, `load_state_dict(state, path)` and `meter`.
    network: Any
    learner: Any
    # A `VectorPlayer` with `load_state_dict(state)`, and another one that plays tests, made at the first.
    player: Any
    _tester: Any = None

    def __init__(
        self, context: AgentContext[Any], evaluation: EvaluationFields, folder: AgentFolder, record: dict[str, Any]
    ):
        """`record`: what the run is, for those that resume it."""
        self.context, self.evaluation, self.folder, self.record = context, evaluation, folder, record
        self.common = context.common
        self.coverage = Coverage()
        self.epoch, self.num_steps, self.best_score = 0, 0, -math.inf
        # Of the first process.
        self.report: RunReport | None = None
        self._resumed_from: Path | None = None
        self._saved_epoch = 0
        # Files of episodes that a power cut could still empty.
        self._unsynced: list[Path] = []

    # ---- what an agent does in an epoch -----------------------------------------------------------------------------

    @abstractmethod
    def log_start(self) -> None:
        """Say what is trained, on what and how far."""

    @abstractmethod
    def _start(self) -> None:
        """Begin the first episodes."""

    @abstractmethod
    def _play_and_learn(self) -> tuple[PlayedSteps[Any], dict[str, float]]:
        """An epoch: what was played, and means of the updates' logs, empty if there were none."""

    @abstractmethod
    def _shown(self, values: dict[str, float]) -> str:
        """What the bar shows of an epoch's measures."""

    @abstractmethod
    def _play_test(self) -> Tested[Any]:
        """Play test episodes, on the first process. FieldErrors name `collection`."""

    def _score(self, values: dict[str, float]) -> float:
        """Of a test's measures, that by which the best agent is chosen."""
        return values["mean_return"]

    # ---- what an agent keeps ----------------------------------------------------------------------------------------

    @abstractmethod
    def _write(self, path: Path, mean_return: float | None = None, state: dict[str, Any] | None = None) -> None:
        """Write a checkpoint of this epoch whole; `state` is a training state to keep with the weights."""

    @abstractmethod
    def _checked(self, stored: Any, path: Path) -> tuple[Mapping[str, torch.Tensor], dict[str, Any] | None]:
        """Weights and training state of what was read from `path`. FieldError if its agent cannot play here."""

    @abstractmethod
    def _state(self) -> dict[str, Any]:
        """The training state besides what `save` knows. Called on all processes."""

    @abstractmethod
    def _load_state(self, state: dict[str, Any], path: Path) -> None:
        """From `_state`; `_resume_episodes` is a part of it."""

    # ---- the loop ---------------------------------------------------------------------------------------------------

    def run(self, tracker: MetricsLogger) -> None:
        """Train up to `epochs`, logging, testing and saving regularly.

        SIGINT, SIGTERM, SIGUSR1 and SIGUSR2 let the epoch end, save and raise SystemExit.
        """
        common, context = self.common, self.context
        stop = StopRequest(context.num_processes, context.device, self.epoch, "epoch")
        bar = tqdm(total=common.epochs, initial=self.epoch, unit="epoch", desc=common.name, disable=not context.is_main)
        with stop, closing(tracker), closing(self), logging_redirect_tqdm(), bar:
            if not self.player.episodes:
                with under("collection"):
                    self._start()
            if self.epoch and self._tests_now and not any(context.gather(tracker.has(self.epoch, "test"))):
                # The run was stopped between its last epoch and the test of that.
                self._test(tracker)
            while self.epoch < common.epochs:
                bar.set_postfix_str(self._run_epoch(tracker, stop), refresh=False)
                bar.update()

    def _run_epoch(self, tracker: MetricsLogger, stop: StopRequest) -> str:
        began = time.perf_counter()
        played, learned = self._play_and_learn()
        values = self._describe(played, time.perf_counter() - began)
        self.epoch += 1
        tracker.log(self.epoch, "play", values)
        if learned:
            self._check_finite(learned)
            tracker.log(self.epoch, "train", learned)
        if self.context.is_main and self.common.keep_every > 0 and self.epoch % self.common.keep_every == 0:
            self._write(self.folder.checkpoint(f"{self.epoch:06d}"))
        # Before the test, too, which may take longer than there is time.
        self._stop_if_asked(stop)
        if self._tests_now:
            self._test(tracker)
        if self._is_due(self.common.save_every):
            self.save()
        self._stop_if_asked(stop)
        return self._shown(values)

    def _stop_if_asked(self, stop: StopRequest) -> None:
        """Save and end the run where a signal asks for it; after its last epoch it ends in any case."""
        if self.epoch < self.common.epochs and (number := stop.agreed(self.epoch, asks=True)):
            if self._saved_epoch != self.epoch:
                self.save()
            logger.info("stopped and saved at epoch %d: resume by adding %s", self.epoch, self.folder.resume_keys)
            # As a shell expects; not 0, so that `a && b` stops here.
            raise SystemExit(128 + number)

    @property
    def _tests_now(self) -> bool:
        return self._is_due(self.evaluation.every)

    def _is_due(self, every: int) -> bool:
        """Every `every` epochs (0: never), and at the end."""
        return self.epoch == self.common.epochs or (every > 0 and self.epoch % every == 0)

    def _keep_played(self, played: PlayedSteps[Any]) -> None:
        """Count what was played; its complete episodes are on disk afterwards."""
        for episode in played.finished:
            self._unsynced.append(episode.save())
            add_episode(self.coverage, episode)
        self.num_steps += played.num_steps * self.context.num_processes

    def _describe(self, played: PlayedSteps[Any], seconds: float) -> dict[str, float]:
        """What to log of an epoch's play: what was covered and the steps over all processes, the rest of this one."""
        values = {
            **played.summary(),
            "total_steps": self.num_steps,
            "epoch_seconds": seconds,
            "operations_per_second": (played.operations + self.learner.meter.take()) / seconds,
        }
        parts = self.context.gather(self.coverage)
        # What one process has covered is not copied: it may be much.
        covered = parts[0] if len(parts) == 1 else Coverage.united(parts)
        return values | {name: value for name, value in covered.summary().items() if name != "steps"}

    def _check_finite(self, values: dict[str, float]) -> None:
        if not all(math.isfinite(value) for value in values.values()):
            problem = f"loss or gradient is not finite in epoch {self.epoch}"
            remedy = f"lower it, or set {{common.precision}}=fp32; '{self.folder.last}' is from before it"
            raise FieldError(self.RATE_KEY, self.record[self.RATE_KEY], problem, remedy)

    def _test(self, tracker: MetricsLogger) -> None:
        """Test on the first process; keep the best agent."""
        if self.context.is_main:
            with under("collection"):
                tested = self._play_test()
            tracker.log(self.epoch, "test", tested.values)
            shown = tested.episodes[: self.evaluation.n_gifs]
            save_gifs(self.folder.gifs, self.epoch, shown, self.context.connector)
            listing = ", ".join(f"{name} {value:.4g}" for name, value in tested.values.items())
            logger.info("epoch %d: test %s", self.epoch, listing)
            score = self._score(tested.values)
            if score > self.best_score:
                self.best_score = score
                self._write(self.folder.best, tested.values["mean_return"])
        self.context.barrier()

    # ---- checkpoints ------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write `last` with all that resuming needs.

        All of it is on the disk afterwards. The `last` before stays, as `previous`.
        """
        for path in self._unsynced:
            if path.exists():
                sync(path)
        self._unsynced = []
        own = self._state()
        if self.context.is_main:
            state = {
                "epoch": self.epoch,
                "num_steps": self.num_steps,
                "best_return": self.best_score,  # a return, but where AutoExplore's reward changes
                "learner": self.learner.state_dict(),
                **own,
                "run": self.record,
            }
            self.folder.make_room(self._resumed_from)
            self._resumed_from = None
            self._write(self.folder.last, state=state)
            if self.report is not None:
                self.report.write()
        self.context.barrier()
        self._saved_epoch = self.epoch

    def load(self) -> None:
        """Resume from `last`, or the checkpoint before it, exactly.

        UserError if the configuration is not that of the run, or if both are damaged.
        """
        path, stored = self.folder.newest()
        self._resumed_from = path
        try:
            weights, state = self._checked(stored, path)
            if state is None:
                raise UserError(f"'{path}' holds no training state to resume from")
            self._check_record(state.get("run"))
            check_keys(state, path, "training state", epoch=int, num_steps=int, best_return=float, learner=dict)
            self.network.load_state_dict(weights)
            self.learner.load_state_dict(state["learner"], path)
            self.epoch, self.num_steps, self.best_score = state["epoch"], state["num_steps"], state["best_return"]
            self._saved_epoch = self.epoch
            with under("common"):
                check_epochs_left(self.common, self.epoch, self.folder)
            self._load_state(state, path)
        except (AttributeError, LookupError, TypeError, RuntimeError) as error:
            problem = f"'{path}' holds no valid training state ({type(error).__name__}: {error!s:.100})"
            raise UserError(f"{problem}: restore the file, or start another run") from error

    def _check_record(self, stored: Any) -> None:
        """FieldError for settings that the run cannot change; others are said."""
        if isinstance(stored, dict):
            fixed = {key for key in self.record if key.startswith(self.FIXED)}
            changed = changes(self.record, stored, fixed, resume_remedy(self.folder.path.name))
            if changed and self.context.is_main:
                logger.info("resuming with other settings: %s", changed)

    def _resume_episodes(self, state: dict[str, Any]) -> list[Any]:
        """Play the episodes in progress again; returns them."""
        try:
            with under("collection"):
                episodes: list[Any] = self.player.load_state_dict(state)
                return episodes
        except OtherEpisodes as error:
            problem = f"the environments do not replay the run's episodes ({error})"
            remedy = "resume with its {collection.games}, {common.seed} and {collection.connector}"
            raise FieldError("collection", UNSET, problem, remedy) from error

    def close(self) -> None:
        """End all environments' processes."""
        self.player.close()
        if self._tester is not None:
            self._tester.close()
