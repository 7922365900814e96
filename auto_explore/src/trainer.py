"""What AutoExplore does in an epoch: play, learn, test (arXiv 2504.02515, section 4)."""

import logging
import math
import sys
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from auto_explore.config import EvaluationConfig, TrainingConfig
from auto_explore.src.agent import AgentInfo, save_agent
from auto_explore.src.collector import ActionSampling, Collected
from auto_explore.src.dataset import AgentEpisode, Replay
from auto_explore.src.evaluation import test_episodes
from auto_explore.src.learner import Learner
from auto_explore.src.reward import load_reward
from auto_explore.src.run_context import RunContext
from data_generation.data.errors import FieldError, under
from models.components.transfer import on_cpu
from models.tensor_file import check_keys
from training.agent.episodes import episode_names, read_episodes
from training.agent.loop import AgentLoop
from training.agent.testing import Tested
from training.agent_folder import AgentFolder
from training.coverage import Coverage
from training.rollout import seed_of

logger = logging.getLogger(__name__)

# What a resumed run cannot change, by what its keys begin with.
FIXED = ("common.seed", "collection.games", "collection.connector.", "collection.reward.", "world_model_weights")
# Purposes of random numbers; added to the streams of `training.rollout`.
_PLAY, _SAMPLE, _TEST = 100, 101, 102


class AgentTrainer(AgentLoop):
    """Trains one agent in one folder: an actor-critic, which learns from a replay what a reward makes of its play."""

    FIXED = FIXED
    RATE_KEY = "training.learning_rate"

    context: RunContext
    evaluation: EvaluationConfig

    def __init__(
        self,
        context: RunContext,
        training: TrainingConfig,
        evaluation: EvaluationConfig,
        folder: AgentFolder,
        record: dict[str, Any],
    ):
        super().__init__(context, evaluation, folder, record)
        self.training, self.collection, fabric = training, context.collection, context.fabric
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
        self.player = context.collector(train.num_envs, self.reward, folder.episodes, is_test=False)
        self.replay = Replay(training.replay_steps)

    def log_start(self) -> None:
        logger.info(
            "training an agent (%.1f M parameters) on %s for reward %s: "
            "epoch %d to %d, %d × %d environments, %s, into %s",
            sum(p.numel() for p in self.network.parameters()) / 1e6,
            ", ".join(self.context.games),
            self.collection.reward.type,
            self.epoch,
            self.common.epochs,
            self.context.num_processes,
            self.collection.train.num_envs,
            self.context.device.type,
            self.folder.path,
        )
        _, height, width = self.context.connector.frame_shape
        if height != width:
            problem = "models, which take square ones, cannot train on the episodes"
            logger.warning("frames are %dx%d: %s", width, height, problem)

    # ---- playing ----------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        for episode in self.player.start(self.network):
            self.replay.add(episode)

    def _play_and_learn(self) -> tuple[Collected, dict[str, float]]:
        played = self._play()
        if self.context.num_processes > 1:
            self.reward.unite(self.context.gather)
        return played, self._learn()

    def _play(self) -> Collected:
        """Collect `num_steps` steps into the replay; complete episodes are on disk afterwards."""
        config = self.collection.train.config
        sampling = ActionSampling(config.temperature, self.epsilon, config.should_sample)
        uniform = torch.Generator().manual_seed(self._seed(_PLAY))
        is_shown = self.context.is_main and sys.stderr.isatty()
        bar = tqdm(total=config.num_steps, unit="step", desc="play", leave=False, disable=not is_shown)
        with bar, under("collection"):
            played: Collected = self.player.collect(
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
        self._keep_played(played)
        self.replay.trim()
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
        return seed_of(self.common.seed, purpose, self.epoch, self.context.rank)

    @property
    def epsilon(self) -> float:
        """Probability of a random action in this epoch: linear from `epsilon` to `min_epsilon` over all epochs."""
        config = self.collection.train.config
        progress = min(1.0, self.epoch / max(1, self.common.epochs - 1))
        return config.epsilon + (config.min_epsilon - config.epsilon) * progress

    def _describe(self, played: Any, seconds: float) -> dict[str, float]:
        return {**super()._describe(played, seconds), "epsilon": self.epsilon}

    def _shown(self, values: dict[str, float]) -> str:
        shown = f"reward {values['reward']:.3f}, {values['steps_per_second']:.0f} steps/s"
        # Counted in complete episodes.
        shown += f", {values['cells']:.0f} cells" if values["cells"] else ""
        return shown + (f", max x {values['max_x']:.0f}" if "max_x" in values else "")

    # ---- learning ---------------------------------------------------------------------------------------------------

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

    # ---- testing ----------------------------------------------------------------------------------------------------

    @property
    def _tests_now(self) -> bool:
        return self.evaluation.should and super()._tests_now

    def _play_test(self) -> Tested[AgentEpisode]:
        """In environments and with a reward of their own, whose networks are the training reward's."""
        test = self.collection.test
        if self._tester is None:
            self._tester = self.context.collector(test.num_envs, self._test_reward, self.folder.episodes, is_test=True)
        self._test_reward.load_state_dict(self.reward.state_dict(), self.folder.last)
        seed = seed_of(self.common.seed, _TEST, self.epoch)
        return test_episodes(self._tester, self.network, test.config, seed, repetition=0)

    def _score(self, values: dict[str, float]) -> float:
        """The mean return, or the number of cells that are seen.

        Where the reward changes as it learns, returns of two epochs cannot be compared.
        """
        return super()._score(values) if self.reward.is_fixed else float(values["cells"])

    # ---- checkpoints ------------------------------------------------------------------------------------------------

    def _write(self, path: Path, mean_return: float | None = None, state: dict[str, Any] | None = None) -> None:
        info = replace(self.info, epoch=self.epoch, mean_return=mean_return)
        save_agent(path, self.network, info, None if state is None else {"state": state})

    def _state(self) -> dict[str, Any]:
        # Not as a GPU's tensors: each process would put those of all others on theirs.
        return {"ranks": self.context.gather(on_cpu(self._rank_state()))}

    def _rank_state(self) -> dict[str, Any]:
        """The state of this process."""
        name_of = episode_names(self.player.episodes, self.folder.path)
        return {
            "replay": [name_of(episode) for episode in self.replay.episodes],
            "collector": self.player.state_dict(),
            "reward": self.reward.state_dict(),
            "coverage": self.coverage.state_dict(),
        }

    def _checked(self, stored: dict[str, Any], path: Path) -> tuple[Mapping[str, torch.Tensor], dict[str, Any] | None]:
        info = AgentInfo.from_stored(stored["info"])
        self.context.check_agent(info, path)
        if info.encoder != self.info.encoder:
            problem = f"the run in '{self.folder.path}' has {info.encoder}"
            raise FieldError("training.actor_critic.encoder", self.info.encoder, problem)
        if state := stored.get("state"):
            self._check_numbers(state["ranks"])
        return stored["model"], state

    def _load_state(self, state: dict[str, Any], path: Path) -> None:
        check_keys(state, path, "training state", ranks=list)
        own: dict[str, Any] = state["ranks"][self.context.rank]
        with under("collection.reward"):
            load_reward(self.reward, own["reward"], self.collection.reward, path)
        self.coverage = Coverage.from_state(own["coverage"])
        growing = self._resume_episodes(own["collector"])
        with under("common"):
            known, _ = read_episodes(AgentEpisode, own["replay"], growing, self.folder)
        self.replay.episodes = deque(known[name] for name in own["replay"] if name in known)

    def _check_numbers(self, ranks: list[dict[str, Any]]) -> None:
        """FieldError if the run had other numbers of processes or environments."""
        for key, value, saved in (
            ("common.num_processes", self.context.num_processes, len(ranks)),
            ("collection.train.num_envs", self.player.envs.num_envs, len(ranks[0]["collector"]["numbers"])),
        ):
            if value != saved:
                raise FieldError(key, value, f"the run in '{self.folder.path}' has {saved}", "resume with as many")
