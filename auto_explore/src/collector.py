"""Playing: many environments at once, with rewards computed while the emulators step."""

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from auto_explore.src.agent import draw_actions
from auto_explore.src.dataset import AgentEpisode, Replay
from auto_explore.src.models.actor_critic import ActorCritic, State
from auto_explore.src.reward import Reward, RewardInputs
from data_generation.data.errors import under
from data_generation.generator.levels import Transition
from data_generation.generator.vector import LevelVectorEnv
from models.components.transfer import to_device
from training.agent.player import PlayedSteps, RecordedAs, VectorPlayer, under_connector
from training.agent.testing import mean_sum
from training.coverage import position_of
from training.throughput import OperationMeter

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ActionSampling:
    """How actions are drawn from the policy."""

    temperature: float
    epsilon: float
    should_sample: bool


@dataclass
class Collected(PlayedSteps[AgentEpisode]):
    """What was played. Seconds of "reward" are those of its thread, next to the others."""

    # How often each was taken.
    action_counts: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    reward_mean: float = 0.0

    def summary(self) -> dict[str, float]:
        values = {"reward": self.reward_mean, **super().summary()}
        share = self.action_counts[self.action_counts > 0] / self.action_counts.sum()
        values["epoch_action_entropy"] = float(-(share * np.log(share)).sum())
        if self.finished:
            values["mean_return"] = mean_sum(self.finished, "rewards")
            values["mean_environment_return"] = mean_sum(self.finished, "env_rewards")
            places = [[info["x"] for info in episode.infos if "x" in info] for episode in self.finished]
            if reached := [max(xs) for xs in places if xs]:
                values["epoch_mean_max_x"] = float(np.mean(reached))
        return values


@dataclass
class _Pending:
    """Steps that wait for their reward, who played them, and the newest frames and actions of each."""

    steps: list[tuple[AgentEpisode, int]] = field(default_factory=list)
    environments: list[int] = field(default_factory=list)
    frames: list[np.ndarray] = field(default_factory=list)
    actions: list[list[int]] = field(default_factory=list)

    def inputs(self) -> RewardInputs:
        env_rewards = [episode.env_rewards[t] for episode, t in self.steps]
        return RewardInputs(
            torch.from_numpy(np.stack(self.frames)),
            torch.tensor(self.actions, dtype=torch.int64),
            torch.tensor(env_rewards, dtype=torch.float32),
            self.environments,
            is_first=[t == 0 for _, t in self.steps],
            positions=[position_of(episode.meta, episode.infos[t]) for episode, t in self.steps],
        )


class RewardThread:
    """Computes rewards in batches, in a thread of its own and in order, and writes them into their episodes.

    The policy does not need them, so emulators and policy run at the same time (torch releases Python's lock).
    """

    def __init__(self, reward: Reward, device: torch.device, learn: bool):
        self._reward, self._device, self._learn = reward, device, learn
        self._pending = _Pending()
        self._futures: list[Future[None]] = []
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="reward")
        self.seconds = 0.0
        self.meter = OperationMeter()
        # Of an episode, at its start.
        self.num_unrewarded = reward.num_unrewarded

    def add(self, environment: int, episode: AgentEpisode, batch_size: int) -> None:
        """Compute the reward of the episode's last step, with those of other steps, unless it gets none.

        `environment`: the number of the one that plays the episode.
        """
        t, size = episode.num_steps - 1, self._reward.num_frames
        if t < self.num_unrewarded:
            return
        pending = self._pending
        pending.steps.append((episode, t))
        pending.environments.append(environment)
        pending.frames.append(episode.frames[t + 2 - size : t + 2].copy())
        pending.actions.append(episode.actions[t + 2 - size : t + 1])
        if len(pending.steps) >= batch_size:
            self._submit()

    def flush(self) -> None:
        """Wait until every reward is known. An error of the thread is raised here."""
        if self._pending.steps:
            self._submit()
        futures, self._futures = self._futures, []
        for future in futures:
            future.result()

    def _submit(self) -> None:
        # An error of the thread ends play soon, not only with the epoch.
        while self._futures and self._futures[0].done():
            self._futures.pop(0).result()
        pending, self._pending = self._pending, _Pending()
        self._futures.append(self._thread.submit(self._compute, pending))

    def _compute(self, pending: _Pending) -> None:
        start = time.perf_counter()
        with self.meter.counting("reward", len(pending.steps)), under("reward"):
            rewards = self._reward(pending.inputs().to(self._device), self._learn).tolist()
        for (episode, t), reward in zip(pending.steps, rewards, strict=True):
            episode.rewards[t] = reward
        self.seconds += time.perf_counter() - start

    def close(self) -> None:
        self._thread.shutdown(cancel_futures=True)


class Collector(VectorPlayer[AgentEpisode]):
    """Plays a vector of environments with one policy."""

    # Levels were once called worlds.
    LEVELS_KEY = "worlds"

    def __init__(
        self, envs: LevelVectorEnv, recorded_as: RecordedAs, reward: Reward, reward_batch: int, learn_reward: bool
    ):
        super().__init__(envs, recorded_as)
        self._device, self._autocast = reward.context.device, reward.context.autocast
        self._rewards = RewardThread(reward, self._device, learn_reward)
        self._reward_batch = reward_batch
        self._meter = OperationMeter()
        self._state: State | None = None
        self._is_warned = False

    # ---- state ------------------------------------------------------------------------------------------------------

    def start(self, network: ActorCritic, session: int = 0) -> list[AgentEpisode]:
        """Begin the episodes of the schedule from `session` on, one in every environment; returns them."""
        self._begin(session, self._new_episode)
        self._state = network.initial_state(self.envs.num_envs)
        return self.episodes

    def state_dict(self) -> dict[str, Any]:
        assert self._state is not None
        return {**super().state_dict(), "state": list(self._state)}

    def load_state_dict(self, state: dict[str, Any]) -> list[AgentEpisode]:
        """Resume; returns the episodes in progress."""
        is_same = self._resume(state, AgentEpisode, self._new_episode)
        self._state = State(*(part.to(self._device) for part in state["state"]))
        self._restart_state(~is_same)
        return self.episodes

    # ---- playing ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def collect(
        self,
        network: ActorCritic,
        sampling: ActionSampling,
        uniform: torch.Generator,
        is_enough: Callable[[Collected], bool],
        replay: Replay | None = None,
        progress: Callable[[int], None] = lambda _count: None,
    ) -> Collected:
        """Play until `is_enough(what was collected)`, all randomness from `uniform`; then every reward is known.

        New episodes go into `replay`, finished ones keep their place in it. `progress` is told the steps.
        """
        assert self._state is not None, "start() or load_state_dict() comes first"
        began, seconds_before = time.perf_counter(), self._rewards.seconds
        collected = Collected(action_counts=np.zeros(network.num_actions, np.int64))
        num_dropped_before = len(self.envs.dropped_sessions)
        played: list[tuple[AgentEpisode, int]] = []
        while not is_enough(collected):
            start = time.perf_counter()
            with self._meter.counting("policy"):
                actions, log_probabilities = self._act(network, sampling, uniform)
            collected.add_seconds("policy", time.perf_counter() - start)
            start = time.perf_counter()
            with under_connector():
                self._frames, steps = self.envs.step(actions)
            collected.add_seconds("emulators", time.perf_counter() - start)
            played += [(episode, episode.num_steps) for episode, step in zip(self.episodes, steps, strict=True) if step]
            self._record(steps, log_probabilities, replay, collected)
            collected.num_steps += len(actions)
            collected.action_counts += np.bincount(actions, minlength=network.num_actions)
            progress(len(actions))
        self._rewards.flush()
        collected.num_dropped = len(self.envs.dropped_sessions) - num_dropped_before
        collected.add_seconds("total", time.perf_counter() - began)
        collected.add_seconds("reward", self._rewards.seconds - seconds_before)
        collected.operations = self._meter.take() + self._rewards.meter.take()
        self._warn_if_unrewarded(collected)
        if played:
            collected.reward_mean = float(np.mean([episode.rewards[t] for episode, t in played]))
        return collected

    def _warn_if_unrewarded(self, collected: Collected) -> None:
        """Say once that all that was played of some episodes is too short for a reward."""
        longest = max(episode.num_steps for episode in [*collected.finished, *self.episodes])
        if self._is_warned or not collected.finished or longest > self._rewards.num_unrewarded:
            return
        self._is_warned = True
        first = f"an episode's first {self._rewards.num_unrewarded} steps have none, and no episode is longer"
        logger.warning("nothing that was played has a reward: %s; choose another reward, such as e3b or none", first)

    def _act(
        self, network: ActorCritic, sampling: ActionSampling, uniform: torch.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Actions (E,) of the environments, and their log-probabilities; advances the recurrent state."""
        assert self._state is not None
        frames = to_device(torch.from_numpy(self._frames), self._device)
        with self._autocast():
            output, self._state = network.step(frames, self._state)
        numbers = to_device(torch.rand(len(frames), generator=uniform), self._device)
        draw = draw_actions(output, sampling.temperature, sampling.epsilon, sampling.should_sample, numbers)
        # One transfer: the environments wait for it in any case. Not in float64, which Metal has not.
        both = torch.stack([draw.actions.float(), draw.log_probabilities.float()]).cpu().numpy()
        return both[0].astype(np.int64), both[1].astype(np.float64)

    def _record(
        self,
        steps: Sequence[Transition | None],
        log_probabilities: np.ndarray,
        replay: Replay | None,
        collected: Collected,
    ) -> None:
        """Append a step to each episode, have its reward computed, and begin new episodes where one is over."""
        for i, (episode, step) in enumerate(zip(self.episodes, steps, strict=True)):
            if step is None:
                if replay is not None:
                    replay.remove(episode)
            else:
                episode.add(step, float(log_probabilities[i]))
                self._rewards.add(i, episode, self._reward_batch)
                if step.is_last:
                    collected.finished.append(episode)
            if step is None or step.is_last:
                self.episodes[i] = self._new_episode(i)
                if replay is not None:
                    replay.add(self.episodes[i])
        self._restart_state(np.array([step is None or step.is_last for step in steps]))

    def _new_episode(self, i: int) -> AgentEpisode:
        """The episode that an environment has just begun."""
        return AgentEpisode(*self._place(i))

    def _restart_state(self, begins: np.ndarray) -> None:
        """The recurrent state where new episodes begin (E,)."""
        if begins.any():
            assert self._state is not None
            self._state = self._state.masked(torch.from_numpy(~begins).to(self._device))

    def close(self) -> None:
        """End the environments' processes and the thread."""
        self._rewards.close()
        super().close()
