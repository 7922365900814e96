"""The loop: play, learn, test (arXiv 2504.02515, section 4)."""

import logging
import math
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from auto_explore.config import EvaluationConfig, TrainingConfig
from auto_explore.src.agent import AgentInfo, agent_of, save_agent
from auto_explore.src.collector import ActionSampling, Collected, Collector
from auto_explore.src.dataset import AgentEpisode, Replay, read_replay
from auto_explore.src.evaluation import test_episodes
from auto_explore.src.learner import Learner
from auto_explore.src.reward import load_reward
from auto_explore.src.run_context import RunContext
from data_generation.data.errors import UNSET, FieldError, UserError, under
from data_generation.data.files import sync
from models.components.transfer import on_cpu
from models.tensor_file import check_keys
from training.agent.episodes import episode_names
from training.agent.player import OtherEpisodes
from training.agent_folder import AgentFolder, check_epochs_left
from training.coverage import Coverage, add_episode
from training.episode_gif import save_gifs
from training.rollout import seed_of
from training.run_record import changes, resume_remedy
from training.run_report import RunReport
from training.stop import StopRequest
from training.tracker import MetricsLogger

logger = logging.getLogger(__name__)

# What a resumed run cannot change, by what its keys begin with.
FIXED = ("common.seed", "collection.games", "collection.connector.", "collection.reward.", "world_model_weights")
# Purposes of random numbers; added to the streams of `training.rollout`.
_PLAY, _SAMPLE, _TEST = 100, 101, 102


class AgentTrainer:
    """Trains one agent in one folder. All processes construct and run it alike.

    FieldErrors name the configs that it was given by `common`, `collection` and `training`.
    """

    def __init__(
        self, context: RunContext, training: TrainingConfig, evaluation: EvaluationConfig, folder: AgentFolder
    ):
        self.context, self.training, self.evaluation, self.folder = context, training, evaluation, folder
        self.common, self.collection, fabric = context.common, context.collection, context.fabric
        spec, actor_critic = context.connector.spec, training.actor_critic
        self.info = AgentInfo(
            spec.action_names,
            spec.frame_shape,
            actor_critic.encoder,
            epoch=0,
            roi_table=spec.roi_table,
            n_skip_frames=spec.n_skip_frames,
        )
        # Only fresh weights come from the global generator.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.common.seed)
            self.network = self.info.build().to(fabric.device)
        optimizer = torch.optim.Adam(self.network.parameters(), lr=training.learning_rate, fused=True)
        module, optimizer = fabric.setup(self.network, optimizer)
        self.learner = Learner(fabric, self.network, module, optimizer, actor_critic)
        train, test = self.collection.train, self.collection.test
        self.reward = context.make_reward(train.config.n_preds)
        self._test_reward = context.make_reward(test.config.n_preds)
        self.collector = context.collector(train.num_envs, self.reward, folder.episodes, is_test=False)
        self.replay = Replay(training.replay_steps)
        self.coverage = Coverage()
        self.epoch, self.num_steps, self.best_score = 0, 0, -math.inf
        self._test_collector: Collector | None = None
        self._resumed_from: Path | None = None
        self._saved_epoch = 0
        # What the run is, for those that resume it.
        self.record: dict[str, Any] = {}
        # Of the first process.
        self.report: RunReport | None = None
        # Episodes that a power cut could still empty.
        self._unsynced: list[Path] = []

    # ---- the loop -------------------------------------------------------------------------------------------------

    def run(self, tracker: MetricsLogger) -> None:
        """Train up to `epochs`, logging, testing and saving regularly.

        SIGINT, SIGTERM, SIGUSR1 and SIGUSR2 let the epoch end, save and raise SystemExit.
        """
        common, fabric = self.common, self.context.fabric
        stop = StopRequest(fabric.world_size, fabric.device, self.epoch, "epoch")
        bar = tqdm(
            total=common.epochs, initial=self.epoch, unit="epoch", desc=common.name, disable=not fabric.is_global_zero
        )
        with stop, closing(tracker), closing(self), logging_redirect_tqdm(), bar:
            if not self.collector.episodes:
                with under("collection"):
                    episodes = self.collector.start(self.network)
                for episode in episodes:
                    self.replay.add(episode)
            if self.epoch and self._tests_now and not any(self.context.gather(tracker.has(self.epoch, "test"))):
                # The run was stopped between its last epoch and the test of that.
                self._test(tracker)
            while self.epoch < common.epochs:
                bar.set_postfix_str(self._run_epoch(tracker, stop), refresh=False)
                bar.update()

    def _run_epoch(self, tracker: MetricsLogger, stop: StopRequest) -> str:
        start, epsilon = time.perf_counter(), self.epsilon
        played = self._play()
        learned = self._learn()
        self.epoch += 1
        seconds = time.perf_counter() - start
        values = {**self._describe(played, seconds), "epsilon": epsilon}
        tracker.log(self.epoch, "play", values)
        if learned:
            self._check_finite(learned)
            tracker.log(self.epoch, "train", learned)
        self._keep()
        # Before the test, too, which may take longer than there is time.
        self._stop_if_asked(stop)
        if self._tests_now:
            self._test(tracker)
        if self._is_due(self.common.save_every):
            self.save()
        self._stop_if_asked(stop)
        shown = f"reward {values['reward']:.3f}, {values['steps_per_second']:.0f} steps/s"
        # Counted in complete episodes.
        shown += f", {values['cells']:.0f} cells" if values["cells"] else ""
        return shown + (f", max x {values['max_x']:.0f}" if "max_x" in values else "")

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
        return self.evaluation.should and self._is_due(self.evaluation.every)

    def _is_due(self, every: int) -> bool:
        """Every `every` epochs (0: never), and at the end."""
        return self.epoch == self.common.epochs or (every > 0 and self.epoch % every == 0)

    def _play(self) -> Collected:
        """Collect `num_steps` steps into the replay; complete episodes are on disk afterwards."""
        config = self.collection.train.config
        sampling = ActionSampling(config.temperature, self.epsilon, config.should_sample)
        uniform = torch.Generator().manual_seed(self._seed(_PLAY))
        bar = tqdm(total=config.num_steps, unit="step", desc="play", leave=False, disable=not self._shows_steps)
        with bar, under("collection"):
            played = self.collector.collect(
                self.network,
                sampling,
                uniform,
                lambda so_far: so_far.num_steps >= config.num_steps,
                self.replay,
                bar.update,
            )
        if not math.isfinite(played.reward_mean):
            problem = f"a reward is not finite in epoch {self.epoch + 1}"
            raise self._not_finite(problem)
        for episode in played.finished:
            episode.save()
            self._unsynced.append(episode.path)
            add_episode(self.coverage, episode)
        self.replay.trim()
        self.num_steps += played.num_steps * self.context.fabric.world_size
        return played

    def _not_finite(self, problem: str) -> FieldError:
        """What makes a reward like that: networks that learn too fast, or else too few digits."""
        reward = self.collection.reward
        if self.reward.optimizer is not None:
            remedy = "start another run with a lower one"
            return FieldError("collection.reward.learning_rate", reward.learning_rate, problem, remedy)
        return FieldError(
            "collection.reward.type", reward.type, problem, "start another run with {common.precision}=fp32"
        )

    def _seed(self, purpose: int) -> int:
        """A seed of this epoch and process."""
        return seed_of(self.common.seed, purpose, self.epoch, self.context.fabric.global_rank)

    @property
    def _shows_steps(self) -> bool:
        return self.context.fabric.is_global_zero and sys.stderr.isatty()

    @property
    def epsilon(self) -> float:
        """Probability of a random action in this epoch: linear from `epsilon` to `min_epsilon` over all epochs."""
        config = self.collection.train.config
        progress = min(1.0, self.epoch / max(1, self.common.epochs - 1))
        return config.epsilon + (config.min_epsilon - config.epsilon) * progress

    def _learn(self) -> dict[str, float]:
        """This epoch's updates; means of their logs, empty if there were none."""
        actor_critic, is_early = self.training.actor_critic, self.epoch < self.training.actor_critic.start_after_epochs
        if not self.training.should or is_early or actor_critic.steps_per_epoch < 1:
            return {}
        rng = np.random.default_rng(self._seed(_SAMPLE))
        sums: dict[str, torch.Tensor] = {}
        shape = (actor_critic.batch_num_samples, actor_critic.burn_in, actor_critic.num_steps)
        start = time.perf_counter()
        for _ in range(actor_critic.steps_per_epoch):
            logs = self.learner.update(self.replay.sample(*shape, rng))
            sums = {name: sums.get(name, 0) + value for name, value in logs.items()}
        names = sorted(sums)
        means = (torch.stack([sums[name] for name in names]) / actor_critic.steps_per_epoch).tolist()
        seconds = (time.perf_counter() - start) / actor_critic.steps_per_epoch
        return {**dict(zip(names, means, strict=True)), "seconds_per_update": seconds}

    def _describe(self, played: Collected, seconds: float) -> dict[str, float]:
        """What to log of an epoch's play: what was covered and the steps over all processes, the rest of this one."""
        values = {
            **played.summary(),
            "total_steps": self.num_steps,
            "epoch_seconds": seconds,
            "operations_per_second": (played.operations + self.learner.meter.take()) / seconds,
        }
        covered = Coverage.united(self.context.gather(self.coverage)).summary()
        return values | {name: value for name, value in covered.items() if name != "steps"}

    def _check_finite(self, values: dict[str, float]) -> None:
        if not math.isfinite(values["loss"] + values["gradient_norm"]):
            problem = f"loss or gradient is not finite in epoch {self.epoch}"
            remedy = f"lower it, or set {{common.precision}}=fp32; '{self.folder.last}' is from before it"
            raise FieldError("training.learning_rate", self.training.learning_rate, problem, remedy)

    # ---- testing ----------------------------------------------------------------------------------------------------

    def _test(self, tracker: MetricsLogger) -> None:
        """Test on the first process; keep the agent with the best mean return.

        Where the reward changes as it learns, returns of two epochs cannot be compared: the one that sees most cells.
        """
        fabric = self.context.fabric
        if fabric.is_global_zero:
            seed = seed_of(self.common.seed, _TEST, self.epoch)
            with under("collection"):
                tested = test_episodes(self._tester(), self.network, self.collection.test.config, seed, repetition=0)
            tracker.log(self.epoch, "test", tested.values)
            shown = tested.episodes[: self.evaluation.n_gifs]
            save_gifs(self.folder.gifs, self.epoch, shown, self.context.connector)
            mean_return = tested.values["mean_return"]
            logger.info("epoch %d: test %s", self.epoch, _listing(tested.values))
            score = mean_return if self.reward.is_fixed else float(tested.values["cells"])
            if score > self.best_score:
                self.best_score = score
                save_agent(self.folder.best, self.network, self._info_now(mean_return))
        fabric.barrier()

    def _tester(self) -> Collector:
        """The test's own environments and reward, made at the first test; the networks are the training reward's."""
        if self._test_collector is None:
            num_envs = self.collection.test.num_envs
            self._test_collector = self.context.collector(
                num_envs, self._test_reward, self.folder.episodes, is_test=True
            )
        self._test_reward.load_state_dict(self.reward.state_dict(), self.folder.last)
        return self._test_collector

    def _info_now(self, mean_return: float | None = None) -> AgentInfo:
        return replace(self.info, epoch=self.epoch, mean_return=mean_return)

    # ---- checkpoints ------------------------------------------------------------------------------------------------

    def _keep(self) -> None:
        """Write the agent of an epoch that `keep_every` names."""
        keep = self.common.keep_every
        if self.context.fabric.is_global_zero and keep > 0 and self.epoch % keep == 0:
            save_agent(self.folder.checkpoint(f"{self.epoch:06d}"), self.network, self._info_now())

    def save(self) -> None:
        """Write `last` with all that resuming needs.

        All of it is on the disk afterwards. The `last` before stays, as `previous`.
        """
        for path in self._unsynced:
            sync(path)
        self._unsynced = []
        # Not as a GPU's tensors: each process would put those of all others on theirs.
        states = self.context.gather(on_cpu(self._rank_state()))
        if self.context.fabric.is_global_zero:
            state = {
                "epoch": self.epoch,
                "num_steps": self.num_steps,
                "best_return": self.best_score,  # a return where the reward is fixed
                "learner": self.learner.state_dict(),
                "ranks": states,
                "run": self.record,
            }
            self.folder.make_room(self._resumed_from)
            self._resumed_from = None
            save_agent(self.folder.last, self.network, self._info_now(), {"state": state})
            if self.report is not None:
                self.report.write()
        self.context.fabric.barrier()
        self._saved_epoch = self.epoch

    def _rank_state(self) -> dict[str, Any]:
        """The state of this process. Complete episodes are named, not copied: they have files."""
        name_of = episode_names(self.collector.episodes, self.folder.path)
        return {
            "replay": [name_of(episode) for episode in self.replay.episodes],
            "collector": self.collector.state_dict(),
            "reward": self.reward.state_dict(),
            "coverage": self.coverage.state_dict(),
        }

    def load(self) -> None:
        """Resume from `last`, or the checkpoint before it, exactly.

        UserError if the configuration is not that of the run, or if both are damaged.
        """
        path, content = self.folder.newest()
        self._resumed_from = path
        try:
            _, info = agent_of(content)
            self._check_same_run(info, content)
            own = self._load_state(content, path)
            with under("common"):
                check_epochs_left(self.common, self.epoch, self.folder)
            growing = self._resume_episodes(own["collector"])
            with under("common"):
                self.replay.episodes = read_replay(own["replay"], growing, self.folder)
        except (AttributeError, LookupError, TypeError) as error:
            problem = f"'{path}' holds no valid training state ({type(error).__name__}: {error!s:.100})"
            raise UserError(f"{problem}: restore the file, or start another run") from error

    def _load_state(self, content: dict[str, Any], path: Path) -> dict[str, Any]:
        """All but the episodes; returns this process's part of the state."""
        state = content["state"]
        check_keys(state, path, "training state", epoch=int, num_steps=int, best_return=float, learner=dict, ranks=list)
        own: dict[str, Any] = state["ranks"][self.context.fabric.global_rank]
        self.network.load_state_dict(content["model"])
        self.learner.load_state_dict(state["learner"], path)
        with under("collection.reward"):
            load_reward(self.reward, own["reward"], self.collection.reward, path)
        self.coverage = Coverage.from_state(own["coverage"])
        self.epoch, self.num_steps, self.best_score = state["epoch"], state["num_steps"], state["best_return"]
        self._saved_epoch = self.epoch
        return own

    def _check_same_run(self, info: AgentInfo, content: dict[str, Any]) -> None:
        self.context.check_agent(info, self.folder.last)
        run = f"the run in '{self.folder.path}' has"
        if info.encoder != self.info.encoder:
            raise FieldError("training.actor_critic.encoder", self.info.encoder, f"{run} {info.encoder}")
        state = content.get("state")
        if state is None:
            raise UserError(f"'{self.folder.last}' holds no training state to resume from")
        if isinstance(stored := state.get("run"), dict):
            fixed = {key for key in self.record if key.startswith(FIXED)}
            remedy = resume_remedy(self.folder.path.name)
            if (changed := changes(self.record, stored, fixed, remedy)) and self.context.fabric.is_global_zero:
                logger.info("resuming with other settings: %s", changed)
        num_processes, num_envs = self.context.fabric.world_size, self.collector.envs.num_envs
        if len(state["ranks"]) != num_processes:
            problem = f"{run} {len(state['ranks'])}"
            raise FieldError("common.num_processes", num_processes, problem, "resume with as many")
        saved = len(state["ranks"][0]["collector"]["numbers"])
        if saved != num_envs:
            raise FieldError("collection.train.num_envs", num_envs, f"{run} {saved}", "resume with as many")

    def _resume_episodes(self, state: dict[str, Any]) -> list[AgentEpisode]:
        """Play the episodes in progress again."""
        try:
            with under("collection"):
                return self.collector.load_state_dict(state)
        except OtherEpisodes as error:
            problem = f"the environments do not replay the run's episodes ({error})"
            remedy = "resume with its {collection.games}, {common.seed} and {collection.connector}"
            raise FieldError("collection", UNSET, problem, remedy) from error

    def close(self) -> None:
        """End all environments' processes."""
        self.collector.close()
        if self._test_collector is not None:
            self._test_collector.close()


def _listing(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in values.items())
