"""What Agent57 does in an epoch: actors play with the networks of its start while the learner makes its updates."""

import copy
import logging
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data_generation.data.errors import under
from external.agent57.actors import ActorGroup, ActorSteps
from external.agent57.checkpoint import Agent57Info, StoredAgent, save_agent57
from external.agent57.config import Agent57EvaluationConfig, Agent57TrainingConfig
from external.agent57.learner import Agent57Learner
from external.agent57.replay import PlayedEpisode, SequenceReplay
from external.agent57.setup import Context57, check_agent, make_actors
from external.agent57.testing import play_test
from training.agent.episodes import episode_names, read_episodes
from training.agent.loop import AgentLoop
from training.agent.testing import Tested
from training.agent_folder import AgentFolder
from training.coverage import Coverage
from training.rollout import seed_of

logger = logging.getLogger(__name__)

# What a resumed run cannot change, by what its keys begin with.
FIXED = (
    *("common.seed", "collection.games", "collection.connector.", "collection.train.num_envs"),
    *("training.network.", "training.family.", "training.intrinsic.memory", "training.intrinsic.num_neighbours"),
    *("training.replay.num_steps", "training.replay.burn_in", "training.replay.sequence", "training.replay.period"),
)
# Purposes of random numbers; added to the streams of `training.rollout`.
_PLAY, _SAMPLE, _TEST = 200, 201, 202


class Agent57Trainer(AgentLoop):
    """Trains one agent in one folder: value networks, which learn from sequences that a family of policies plays."""

    FIXED = FIXED
    RATE_KEY = "training.learner.learning_rate"

    def __init__(
        self,
        context: Context57,
        config: Agent57TrainingConfig,
        evaluation: Agent57EvaluationConfig,
        folder: AgentFolder,
        record: dict[str, Any],
    ):
        super().__init__(context, evaluation, folder, record)
        self.config, self.collection = config, context.collection
        names, skip = list(context.connector.action_names), context.connector.spec.n_skip_frames
        self.info = Agent57Info(names, len(names), config.network, config.family, config.intrinsic, n_skip_frames=skip)
        # Only fresh weights come from the global generator.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.common.seed)
            self.network = self.info.build().to(context.device)
        self.learner = Agent57Learner(self.network, config, context.amp_dtype)
        self.player = self._actors(is_test=False)
        self.replay = SequenceReplay(config.replay)
        self._thread = ThreadPoolExecutor(1, "actors")
        # Files of episodes that were written since `last`, and those that it and the one before it name.
        self._written: list[Path] = []
        self._named: list[set[Path]] = [set(), set()]

    def _actors(self, is_test: bool) -> ActorGroup:
        """They play with a copy of the networks."""
        playing = copy.deepcopy(self.network).requires_grad_(False)
        return make_actors(self.context, playing, self.config, self.folder.episodes, is_test)

    def log_start(self) -> None:
        logger.info(
            "training an agent of %d policies (%.1f M parameters) on %s: epoch %d to %d, %d actors, %s, into %s",
            self.config.family.num_policies,
            sum(p.numel() for p in self.network.parameters()) / 1e6,
            ", ".join(self.context.games),
            self.epoch,
            self.common.epochs,
            self.player.envs.num_envs,
            self.context.device.type,
            self.folder.path,
        )

    # ---- an epoch ---------------------------------------------------------------------------------------------------

    def _rng(self, purpose: int, epoch: int | None = None) -> np.random.Generator:
        return np.random.default_rng(seed_of(self.common.seed, purpose, 1 + (self.epoch if epoch is None else epoch)))

    def _start(self) -> None:
        self.player.start(self._rng(_PLAY, -1))

    def _play_and_learn(self) -> tuple[ActorSteps, dict[str, float]]:
        self.player.networks.load_state_dict(self.network.state_dict())
        num_steps = self.collection.train.num_steps
        playing = self._thread.submit(self.player.play, self._rng(_PLAY), lambda so_far: so_far.num_steps >= num_steps)
        learned = self._learn()
        with under("collection"):
            played: ActorSteps = playing.result()
        self._keep_played(played)
        self._written += [episode.path for episode in played.finished]
        for sequence in played.sequences:
            self.replay.add(sequence)
        return played, learned

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

    def _shown(self, values: dict[str, float]) -> str:
        shown = f"{values['steps_per_second']:.0f} steps/s"
        return shown + (f", return {values['mean_return']:.3g}" if "mean_return" in values else "")

    def _play_test(self) -> Tested[PlayedEpisode]:
        if self._tester is None:
            self._tester = self._actors(is_test=True)
        self._tester.networks.load_state_dict(self.network.state_dict())
        self._tester.curiosity.set_moments(*self._moments())
        seed = seed_of(self.common.seed, _TEST, self.epoch)
        return play_test(self._tester, self.collection.test.num_episodes, seed)

    def _moments(self) -> tuple[Any, Any]:
        """Of errors and of distances, those of the first actor for all."""
        seen = self.player.curiosity
        return seen.errors.state_dict(), seen.distances[0].state_dict()

    # ---- checkpoints ------------------------------------------------------------------------------------------------

    def _write(self, path: Path, mean_return: float | None = None, state: dict[str, Any] | None = None) -> None:
        errors, distances = self._moments()
        info = replace(self.info, epoch=self.epoch, mean_return=mean_return, errors=errors, distances=distances)
        save_agent57(path, self.network, info, state)

    def _state(self) -> dict[str, Any]:
        growing = self.player.episodes
        name_of = episode_names(growing, self.folder.path)
        complete = [episode for episode in self.replay.episodes if episode not in growing]
        return {
            "actors": self.player.state_dict(),
            "coverage": self.coverage.state_dict(),
            "replay": self.replay.state_dict(name_of),
            "episode_states": {name_of(episode): episode.stored_states() for episode in complete},
        }

    def save(self) -> None:
        super().save()
        self._forget_files()

    def _forget_files(self) -> None:
        """Remove the files of episodes that no sequence is from any more."""
        named = {episode.path for episode in self.replay.episodes if episode.is_over}
        candidates = {*self._written, *self._named[0]}
        self._named = [self._named[1], named]
        for path in candidates - self._named[0] - named:
            path.unlink(missing_ok=True)
        self._written = []

    def _checked(self, stored: StoredAgent, path: Path) -> tuple[Mapping[str, torch.Tensor], dict[str, Any] | None]:
        check_agent(self.context, stored.info, path)
        return stored.tensors, stored.state

    def _load_state(self, state: dict[str, Any], path: Path) -> None:
        self.coverage = Coverage.from_state(state["coverage"])
        growing, states = self._resume_episodes(state["actors"]), state["episode_states"]
        with under("common"):
            episodes, bad = read_episodes(PlayedEpisode, states, growing, self.folder)
        for name in states.keys() & episodes.keys():
            episodes[name].restore_states(states[name])
        before, now = state["actors"]["numbers"], self.player.envs.episode_numbers
        # What was in progress and could not be played again is lost.
        for number in range(len(growing)):
            if before[number] != now[number]:
                del episodes[number]
        self.replay.load_state_dict(state["replay"], episodes.get)
        named = {episode.path for episode in self.replay.episodes if episode.is_over}
        # What could not be read may be whole, as where a file server was away for a moment.
        self._named = [set(self.folder.episodes.rglob("*.episode")) - named - bad.keys(), named]

    def close(self) -> None:
        self._thread.shutdown()
        super().close()
