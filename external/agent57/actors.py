"""Actors: processes that play environments, all driven by one batched pass of the networks (Espeholt et al. 2020)."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from data_generation.generator.levels import Transition
from data_generation.generator.vector import LevelVectorEnv
from external.agent57.bandit import SlidingWindowUcb
from external.agent57.config import Agent57TrainingConfig
from external.agent57.family import betas
from external.agent57.intrinsic import Curiosity
from external.agent57.networks import AgentInputs, AgentNetworks, QValues
from external.agent57.replay import PlayedEpisode, ReplaySequence, new_starts
from external.agent57.targets import combine
from training.agent.player import PlayedSteps, RecordedAs, VectorPlayer, under_connector
from training.agent.testing import mean_sum
from training.throughput import OperationMeter


def actor_epsilons(num_actors: int, epsilon: float, power: float) -> np.ndarray:
    """Probabilities (L,) of a random action, ε^(1 + α l / (L − 1)) (R2D2, appendix); one actor has the middle one."""
    places = np.linspace(0, 1, num_actors) if num_actors > 1 else np.array([0.5])
    return epsilon ** (1 + power * places)


@dataclass
class ActorSteps(PlayedSteps[PlayedEpisode]):
    """What was played, and the sequences that became complete."""

    sequences: list[ReplaySequence] = field(default_factory=list)
    int_reward_sum: float = 0.0

    def summary(self) -> dict[str, float]:
        values = {**super().summary(), "intrinsic_reward": self.int_reward_sum / self.num_steps}
        if self.finished:
            values["mean_return"] = mean_sum(self.finished, "env_rewards")
            values["mean_policy"] = float(np.mean([episode.policy for episode in self.finished]))
        return values


@dataclass(frozen=True)
class ActorSetting:
    """How actors choose: probabilities (E,) of a random action, and the policy of all; None = the bandits'."""

    epsilons: np.ndarray
    policy: int | None = None


class ActorGroup(VectorPlayer[PlayedEpisode]):
    """Plays a vector of environments with the policies of a family."""

    def __init__(
        self,
        envs: LevelVectorEnv,
        recorded_as: RecordedAs,
        networks: AgentNetworks,
        config: Agent57TrainingConfig,
        setting: ActorSetting,
    ):
        super().__init__(envs, recorded_as)
        self.networks, self.config, self._setting = networks, config, setting
        self._device = networks.network.device
        self._betas = torch.from_numpy(betas(config.family)).to(self._device)
        count = envs.num_envs
        self.bandits = [SlidingWindowUcb(config.family.num_policies, config.bandit) for _ in range(count)]
        self.curiosity = Curiosity(config.intrinsic, config.network.embedding, count)
        self._states = networks.network.initial_state(count)
        # Action and rewards of the step before.
        self._last = np.zeros((3, count), np.float32)
        self._meter = OperationMeter()

    # ---- state ------------------------------------------------------------------------------------------------------

    def start(self, rng: np.random.Generator, session: int = 0) -> None:
        """Begin the episodes of the schedule from `session` on, one in every environment."""
        self._begin(session, lambda i: self._new_episode(i, self._choose(i, rng)))
        self._forget(np.ones(self.envs.num_envs, bool))

    def state_dict(self) -> dict[str, Any]:
        """The episodes in progress and all that the actors remember, as plain values and tensors."""
        return {
            **super().state_dict(),
            "states": self._states.cpu(),
            "last": torch.from_numpy(self._last.copy()),
            "bandits": [bandit.state_dict() for bandit in self.bandits],
            "curiosity": self.curiosity.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> list[PlayedEpisode]:
        """Resume; returns the episodes in progress."""
        columns = state["episodes"]
        is_same = self._resume(state, PlayedEpisode, lambda i: self._new_episode(i, columns[i]["policy"]))
        self._states = state["states"].to(self._device)
        self._last = state["last"].numpy().copy()
        self.curiosity.load_state_dict(state["curiosity"])
        for bandit, stored in zip(self.bandits, state["bandits"], strict=True):
            bandit.load_state_dict(stored)
        self._forget(~is_same)
        return self.episodes

    # ---- playing ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def play(self, rng: np.random.Generator, is_enough: Callable[[ActorSteps], bool]) -> ActorSteps:
        """Play until `is_enough(what was played)`; all randomness from `rng`."""
        played, num_dropped = ActorSteps(), len(self.envs.dropped_sessions)
        started = time.perf_counter()
        while not is_enough(played):
            began = time.perf_counter()
            with self._meter.counting("policy"):
                actions, probabilities = self._act(rng)
            began = _clock(played, "policy", began)
            with under_connector():
                self._frames, steps = self.envs.step(actions)
            began = _clock(played, "emulators", began)
            # A failed environment's frame is the next episode's first one: its reward is not used.
            reached = [self._frames[i] if step is None else step.frame for i, step in enumerate(steps)]
            frames = torch.from_numpy(np.stack(reached)).to(self._device)
            with self._meter.counting("curiosity"):
                int_rewards = self.curiosity.rewards(self.networks, frames)
            _clock(played, "curiosity", began)
            self._record(steps, int_rewards, probabilities, played, rng)
        played.num_dropped = len(self.envs.dropped_sessions) - num_dropped
        played.add_seconds("total", time.perf_counter() - started)
        played.operations = self._meter.take()
        return played

    def _act(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Actions (E,) of the environments and their probabilities; advances the recurrent states."""
        states = self._states.cpu().numpy()
        for episode, state in zip(self.episodes, states, strict=True):
            episode.keep_state(state, self.config.replay)
        policies = torch.tensor([episode.policy for episode in self.episodes], device=self._device)
        last = torch.from_numpy(self._last).to(self._device).unsqueeze(-1)
        frames = torch.from_numpy(self._frames).to(self._device).unsqueeze(1)
        inputs = AgentInputs(frames, last[0].long(), last[1], last[2], policies)
        values, self._states = self.networks.network(inputs, self._states)
        best = best_actions(values, self._betas[policies])[:, 0].cpu().numpy()
        return epsilon_greedy(best, values.ext.shape[-1], self._setting.epsilons, rng)

    def _record(
        self,
        steps: Sequence[Transition | None],
        int_rewards: np.ndarray,
        probabilities: np.ndarray,
        played: ActorSteps,
        rng: np.random.Generator,
    ) -> None:
        """Append a step to each episode, and begin new ones where one is over."""
        played.num_steps += len(steps)
        for i, (episode, step) in enumerate(zip(self.episodes, steps, strict=True)):
            if step is not None:
                episode.add(step, float(int_rewards[i]), float(probabilities[i]))
                played.int_reward_sum += float(int_rewards[i])
                self._last[:, i] = step.action, step.env_reward, int_rewards[i]
                if step.is_last:
                    self.bandits[i].add(episode.policy, float(np.sum(episode.env_rewards)))
            else:
                # What was played before the environment failed is experience, too.
                episode.truncate()
            starts = new_starts(episode.num_steps - (step is not None), episode, self.config.replay)
            played.sequences += [ReplaySequence(episode, start) for start in starts]
            if episode.is_over:
                played.finished += [episode] * (episode.num_steps > 0)
                self.episodes[i] = self._new_episode(i, self._choose(i, rng))
        self._forget(np.array([step is None or step.is_last for step in steps]))

    def _choose(self, i: int, rng: np.random.Generator) -> int:
        chosen = self.bandits[i].choose(rng)
        return chosen if self._setting.policy is None else self._setting.policy

    def _new_episode(self, i: int, policy: int) -> PlayedEpisode:
        """The episode that an environment has just begun."""
        return PlayedEpisode(*self._place(i), policy)

    def _forget(self, begins: np.ndarray) -> None:
        """What must not reach the episodes that begin (E,)."""
        if begins.any():
            self._last[:, begins] = 0
            self._states = self._states * torch.from_numpy(~begins).to(self._device)[:, None, None]
            for i in np.flatnonzero(begins):
                self.curiosity.restart(int(i))


def best_actions(values: QValues, weights: torch.Tensor) -> torch.Tensor:
    """The greedy actions (B, T) of policies whose weights of the intrinsic reward are (B,)."""
    return combine(values.ext, values.int_, weights[:, None, None]).argmax(dim=-1)


def epsilon_greedy(
    best: np.ndarray, num_actions: int, epsilons: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Actions (E,), the best ones or with probabilities `epsilons` (E,) random ones; and their probabilities (E,)."""
    uniform, drawn = rng.random(len(best)), rng.integers(num_actions, size=len(best))
    actions = np.where(uniform < epsilons, drawn, best)
    return actions, np.where(actions == best, 1 - epsilons + epsilons / num_actions, epsilons / num_actions)


def _clock(played: ActorSteps, part: str, began: float) -> float:
    now = time.perf_counter()
    played.add_seconds(part, now - began)
    return now
