"""The loop: actors play with the networks of the epoch's start while the learner makes its updates; then both meet.

What an epoch does depends on nothing but its start, so a resumed run equals one that was never stopped.
"""

import copy
import logging
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from data_generation.data.errors import UNSET, FieldError, UserError, under
from data_generation.data.files import sync
from external.agent57.actors import ActorGroup, ActorSteps
from external.agent57.checkpoint import Agent57Info, StoredAgent, save_agent57
from external.agent57.config import Agent57TrainingConfig, TestingConfig
from external.agent57.learner import Agent57Learner
from external.agent57.replay import PlayedEpisode, SequenceReplay
from external.agent57.setup import AgentSetup
from external.agent57.testing import play_test
from models.tensor_file import check_keys
from training.agent.episodes import episode_names
from training.agent.player import OtherEpisodes
from training.agent_folder import AgentFolder, check_epochs_left
from training.coverage import Coverage, add_episode
from training.episode_gif import save_gifs
from training.rollout import seed_of
from training.run_record import changes, resume_remedy
from training.run_report import RunReport
from training.runtime import choose_precision
from training.stop import StopRequest
from training.tracker import MetricsLogger

logger = logging.getLogger(__name__)

# What a resumed run cannot change, by what its keys begin with.
FIXED = (
    *("common.seed", "collection.games", "collection.connector.", "collection.train.num_envs"),
    *("training.network.", "training.family.", "training.intrinsic.memory", "training.intrinsic.num_neighbours"),
    *("training.replay.num_steps", "training.replay.burn_in", "training.replay.sequence", "training.replay.period"),
)
# Purposes of random numbers; added to the streams of `training.rollout`.
_PLAY, _SAMPLE, _TEST = 200, 201, 202


class Agent57Trainer:
    """Trains one agent in one folder. FieldErrors name the configs by `common`, `collection` and `training`."""

    def __init__(self, setup: AgentSetup, config: Agent57TrainingConfig, testing: TestingConfig, folder: AgentFolder):
        self.setup, self.config, self.testing, self.folder = setup, config, testing, folder
        self.common = setup.common
        with under("common"):
            self.amp_dtype = choose_precision(self.common.precision, setup.device)
        names, skip = list(setup.connector.action_names), setup.connector.spec.n_skip_frames
        self.info = Agent57Info(names, len(names), config.network, config.family, config.intrinsic, n_skip_frames=skip)
        # Only fresh weights come from the global generator.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.common.seed)
            self.networks = self.info.build().to(setup.device)
        self.learner = Agent57Learner(self.networks, config, self.amp_dtype)
        playing = copy.deepcopy(self.networks).requires_grad_(False)
        self.actors = setup.actors(playing, config, folder.episodes, is_test=False)
        self.replay = SequenceReplay(config.replay)
        self.coverage = Coverage()
        self.epoch, self.num_steps, self.best_return = 0, 0, -math.inf
        # What the run is, for those that resume it.
        self.record: dict[str, Any] = {}
        self.report: RunReport | None = None
        self._testers: ActorGroup | None = None
        self._resumed_from: Path | None = None
        self._saved_epoch = 0
        # Files of episodes that a power cut could still empty, and those that `last` and the one before it name.
        self._unsynced: list[Path] = []
        self._named: list[set[Path]] = [set(), set()]

    # ---- the loop ---------------------------------------------------------------------------------------------------

    def run(self, tracker: MetricsLogger) -> None:
        """Train up to `epochs`, logging, testing and saving regularly.

        SIGINT, SIGTERM, SIGUSR1 and SIGUSR2 let the epoch end, save and raise SystemExit.
        """
        stop = StopRequest(step=self.epoch, unit="epoch")
        bar = tqdm(total=self.common.epochs, initial=self.epoch, unit="epoch", desc=self.common.name)
        with stop, closing(tracker), closing(self), logging_redirect_tqdm(), bar:
            if not self.actors.episodes:
                with under("collection"):
                    self.actors.start(self._rng(_PLAY, -1))
            if self.epoch and self._is_due(self.testing.every) and not tracker.has(self.epoch, "test"):
                # The run was stopped between its last epoch and the test of that.
                self._test(tracker)
            with ThreadPoolExecutor(1, "actors") as thread:
                while self.epoch < self.common.epochs:
                    bar.set_postfix_str(self._run_epoch(tracker, thread, stop), refresh=False)
                    bar.update()

    def _run_epoch(self, tracker: MetricsLogger, thread: ThreadPoolExecutor, stop: StopRequest) -> str:
        began = time.perf_counter()
        self.actors.networks.load_state_dict(self.networks.state_dict())
        playing = thread.submit(self._play)
        learned = self._learn()
        with under("collection"):
            played = playing.result()
        self._take(played)
        self.epoch += 1
        values = self._describe(played, time.perf_counter() - began)
        tracker.log(self.epoch, "play", values)
        if learned:
            self._check_finite(learned)
            tracker.log(self.epoch, "train", learned)
        if self.common.keep_every > 0 and self.epoch % self.common.keep_every == 0:
            save_agent57(self.folder.checkpoint(f"{self.epoch:06d}"), self.networks, self._info_now())
        # Before the test, too, which may take longer than there is time.
        self._stop_if_asked(stop)
        if self._is_due(self.testing.every):
            self._test(tracker)
        if self._is_due(self.common.save_every):
            self.save()
        self._stop_if_asked(stop)
        shown = f"{values['steps_per_second']:.0f} steps/s"
        return shown + (f", return {values['mean_return']:.3g}" if "mean_return" in values else "")

    def _stop_if_asked(self, stop: StopRequest) -> None:
        """Save and end the run where a signal asks for it; after its last epoch it ends in any case."""
        if self.epoch < self.common.epochs and (number := stop.agreed(self.epoch)):
            if self._saved_epoch != self.epoch:
                self.save()
            logger.info("stopped and saved at epoch %d: resume by adding %s", self.epoch, self.folder.resume_keys)
            # As a shell expects; not 0, so that `a && b` stops here.
            raise SystemExit(128 + number)

    def _is_due(self, every: int) -> bool:
        """Every `every` epochs (0: never), and at the end."""
        return self.epoch == self.common.epochs or (every > 0 and self.epoch % every == 0)

    def _rng(self, purpose: int, epoch: int | None = None) -> np.random.Generator:
        return np.random.default_rng(seed_of(self.common.seed, purpose, 1 + (self.epoch if epoch is None else epoch)))

    def _play(self) -> ActorSteps:
        num_steps = self.setup.collection.train.num_steps
        return self.actors.play(self._rng(_PLAY), lambda so_far: so_far.num_steps >= num_steps)

    def _learn(self) -> dict[str, float]:
        """This epoch's updates; means of their logs, empty if there were none."""
        learner, count = self.config.learner, self.config.learner.updates_per_epoch
        if self.num_steps < self.config.replay.min_steps or not self.replay.sequences or not count:
            return {}
        rng, sums, began = self._rng(_SAMPLE), dict[str, torch.Tensor](), time.perf_counter()
        for _ in range(count):
            batch = self.replay.sample(learner.batch_size, rng)
            priorities, logs = self.learner.update(batch)
            self.replay.set_priorities(batch.slots, priorities.cpu().numpy())
            sums = {name: sums.get(name, 0) + value for name, value in logs.items()}
        means = {name: float(value) / count for name, value in sums.items()}
        return {**means, "updates_per_second": count / (time.perf_counter() - began)}

    def _take(self, played: ActorSteps) -> None:
        """What was played goes into the replay, complete episodes to the disk."""
        for episode in played.finished:
            self._unsynced.append(episode.save())
            add_episode(self.coverage, episode)
        for sequence in played.sequences:
            self.replay.add(sequence)
        self.num_steps += played.num_steps

    def _describe(self, played: ActorSteps, seconds: float) -> dict[str, float]:
        """What to log of an epoch's play."""
        values = {
            **played.summary(),
            "total_steps": self.num_steps,
            "epoch_seconds": seconds,
            "operations_per_second": (played.operations + self.learner.meter.take()) / seconds,
        }
        return values | {name: value for name, value in self.coverage.summary().items() if name != "steps"}

    def _check_finite(self, values: dict[str, float]) -> None:
        if not all(math.isfinite(value) for value in values.values()):
            problem = f"loss or gradient is not finite in epoch {self.epoch}"
            remedy = f"lower it, or set {{common.precision}}=fp32; '{self.folder.last}' is from before it"
            raise FieldError("training.learner.learning_rate", self.config.learner.learning_rate, problem, remedy)

    def _test(self, tracker: MetricsLogger) -> None:
        """Test; keep the agent with the best mean return."""
        if self._testers is None:
            networks = copy.deepcopy(self.networks).requires_grad_(False)
            self._testers = self.setup.actors(networks, self.config, self.folder.episodes, is_test=True)
        self._testers.networks.load_state_dict(self.networks.state_dict())
        seen = self.actors.curiosity
        # The first actor's distances count for all.
        self._testers.curiosity.set_moments(seen.errors.state_dict(), seen.distances[0].state_dict())
        seed = seed_of(self.common.seed, _TEST, self.epoch)
        with under("collection"):
            tested = play_test(self._testers, self.setup.collection.test.num_episodes, seed)
        tracker.log(self.epoch, "test", tested.values)
        save_gifs(self.folder.gifs, self.epoch, tested.episodes[: self.testing.n_gifs], self.setup.connector)
        logger.info("epoch %d: test %s", self.epoch, _listing(tested.values))
        if tested.values["mean_return"] > self.best_return:
            self.best_return = tested.values["mean_return"]
            save_agent57(self.folder.best, self.networks, self._info_now(self.best_return))

    def _info_now(self, mean_return: float | None = None) -> Agent57Info:
        curiosity = self.actors.curiosity
        return replace(
            self.info,
            epoch=self.epoch,
            mean_return=mean_return,
            errors=curiosity.errors.state_dict(),
            distances=curiosity.distances[0].state_dict(),
        )

    # ---- checkpoints ------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write `last` with all that resuming needs.

        All of it is on the disk afterwards. The `last` before stays, as `previous`; episodes that neither needs go.
        """
        for path in self._unsynced:
            if path.exists():
                sync(path)
        state = {
            "epoch": self.epoch,
            "num_steps": self.num_steps,
            "best_return": self.best_return,
            "learner": self.learner.state_dict(),
            "actors": self.actors.state_dict(),
            "coverage": self.coverage.state_dict(),
            "run": self.record,
            **self._replay_state(),
        }
        self.folder.make_room(self._resumed_from)
        self._resumed_from = None
        save_agent57(self.folder.last, self.networks, self._info_now(), state)
        self._forget_files()
        self._saved_epoch = self.epoch
        if self.report is not None:
            self.report.write()

    def _replay_state(self) -> dict[str, Any]:
        """Complete episodes are named, not copied: they have files. Those in progress are numbers."""
        growing = self.actors.episodes
        name_of = episode_names(growing, self.folder.path)
        complete = [episode for episode in self.replay.episodes if episode not in growing]
        states = {name_of(episode): episode.stored_states() for episode in complete}
        return {"replay": self.replay.state_dict(name_of), "episode_states": states}

    def _forget_files(self) -> None:
        """Remove the files of episodes that no sequence is from any more."""
        named = {episode.path for episode in self.replay.episodes if episode.is_over}
        candidates = {*self._unsynced, *self._named[0]}
        self._named = [self._named[1], named]
        for path in candidates - self._named[0] - named:
            path.unlink(missing_ok=True)
        self._unsynced = []

    def load(self) -> None:
        """Resume from `last`, or the checkpoint before it, exactly.

        UserError if the configuration is not that of the run, or if both are damaged.
        """
        path, stored = self.folder.newest()
        self._resumed_from = path
        self._check_same_run(stored, path)
        try:
            self._load_state(stored, path)
        except (AttributeError, LookupError, TypeError, RuntimeError) as error:
            problem = f"'{path}' holds no valid training state ({type(error).__name__}: {error!s:.100})"
            raise UserError(f"{problem}: restore the file, or start another run") from error

    def _load_state(self, stored: StoredAgent, path: Path) -> None:
        state = stored.state
        assert state is not None
        check_keys(state, path, "training state", epoch=int, num_steps=int, best_return=float, learner=dict)
        self.networks.load_state_dict(stored.tensors)
        self.learner.load_state_dict(state["learner"], path)
        self.coverage = Coverage.from_state(state["coverage"])
        self.epoch, self.num_steps, self.best_return = state["epoch"], state["num_steps"], state["best_return"]
        self._saved_epoch = self.epoch
        with under("common"):
            check_epochs_left(self.common, self.epoch, self.folder)
        try:
            with under("collection"):
                lost = self.actors.load_state_dict(state["actors"])
        except OtherEpisodes as error:
            problem = f"the environments do not replay the run's episodes ({error})"
            remedy = "resume with its {collection.games}, {common.seed} and {collection.connector}"
            raise FieldError("collection", UNSET, problem, remedy) from error
        states, bad = state["episode_states"], dict[Path, Exception]()
        self.replay.load_state_dict(state["replay"], self._reader_of(states, lost, bad))
        with under("common"):
            self.folder.check_replay(bad.values(), len(states))
        named = {episode.path for episode in self.replay.episodes if episode.is_over}
        # What could not be read may be whole, as where a file server was away for a moment.
        self._named = [set(self.folder.episodes.rglob("*.episode")) - named - bad.keys(), named]

    def _reader_of(
        self, states: dict[str, Any], lost: set[int], bad: dict[Path, Exception]
    ) -> Callable[[int | str], PlayedEpisode | None]:
        """What gives the replay's episodes by name: those in progress, or from their files.

        None for those that cannot be read, which `bad` collects, and of the environments that have `lost` theirs.
        """
        known: dict[int | str, PlayedEpisode | None] = dict(enumerate(self.actors.episodes))
        known.update(dict.fromkeys(lost))

        def episode_of(name: int | str) -> PlayedEpisode | None:
            if name not in known:
                path = self.folder.path / str(name)
                try:
                    known[name] = episode = PlayedEpisode.load(path)
                    episode.restore_states(states[str(name)])
                except (UserError, OSError) as error:
                    known[name], bad[path] = None, error
            return known[name]

        return episode_of

    def _check_same_run(self, stored: StoredAgent, path: Path) -> None:
        self.setup.check_agent(stored.info, path)
        if stored.state is None:
            raise UserError(f"'{path}' holds no training state to resume from")
        run = stored.state.get("run")
        if isinstance(run, dict):
            fixed = {key for key in self.record if key.startswith(FIXED)}
            if changed := changes(self.record, run, fixed, resume_remedy(self.folder.path.name)):
                logger.info("resuming with other settings: %s", changed)

    def close(self) -> None:
        """End all environments' processes."""
        self.actors.close()
        if self._testers is not None:
            self._testers.close()


def _listing(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in values.items())
