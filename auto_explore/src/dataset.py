"""The replay: what was played, in memory for the updates and on disk as ordinary episodes."""

from collections import deque
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from data_generation.generator.levels import Transition
from models.components.transfer import to_device
from training.agent.episodes import LearnedEpisode, StepColumn, placed


class AgentEpisode(LearnedEpisode):
    """An episode that the agent learns from.

    `rewards` are the agent's, filled in as they become known; `log_probabilities` those with which its actions were
    drawn. A file holds the agent's rewards as its rewards.
    """

    COLUMNS = (
        StepColumn("rewards", in_file="", in_checkpoint="rewards"),
        StepColumn("log_probabilities", in_file="log_probability", in_checkpoint="log_probabilities"),
        StepColumn("env_rewards", in_file="environment_reward", in_checkpoint="environment_rewards"),
    )
    rewards: list[float]
    log_probabilities: list[float]

    def add(self, step: Transition, log_probability: float) -> None:
        """Append a step; its reward is 0 until it is known."""
        self.extend(step, {"rewards": 0.0, "log_probabilities": log_probability})


@dataclass
class ClipBatch:
    """A batch of sequences for an update: S trained steps each, after a burn-in.

    frames (B, burn_in + S + 1, C, H, W) uint8; burn_in_valid (B, burn_in), False before an episode's start; actions,
    rewards, log_probabilities, ended (for good), valid (B, S), `valid` False after a row's last step.
    """

    frames: Tensor
    burn_in_valid: Tensor
    actions: Tensor
    rewards: Tensor
    log_probabilities: Tensor
    ended: Tensor
    valid: Tensor

    @property
    def burn_in(self) -> int:
        return self.burn_in_valid.shape[1]

    def to(self, device: torch.device) -> "ClipBatch":
        """On another device."""
        return ClipBatch(**{name: to_device(value, device) for name, value in vars(self).items()})

    def part(self, start: int, stop: int) -> "ClipBatch":
        """Some of the rows."""
        return ClipBatch(**{name: value[start:stop] for name, value in vars(self).items()})


@dataclass
class Replay:
    """The newest episodes, growing ones included, up to `capacity` steps (whole episodes, at least one)."""

    capacity: int
    episodes: deque[AgentEpisode] = field(default_factory=deque)

    def add(self, episode: AgentEpisode) -> None:
        """Add an episode, which may still grow."""
        self.episodes.append(episode)

    def remove(self, episode: AgentEpisode) -> None:
        """Forget an episode, if it is there."""
        self.episodes = deque(known for known in self.episodes if known is not episode)

    def trim(self) -> None:
        """Drop the oldest complete episodes beyond the capacity; their files stay."""
        excess = self.num_steps - self.capacity
        for episode in [episode for episode in self.episodes if episode.is_over]:
            if excess <= 0 or len(self.episodes) == 1:
                break
            self.remove(episode)
            excess -= episode.num_steps

    @property
    def num_steps(self) -> int:
        return sum(episode.num_steps for episode in self.episodes)

    def sample(self, batch: int, burn_in: int, num_steps: int, rng: np.random.Generator) -> ClipBatch:
        """Sequences of `num_steps` steps; every recorded step is drawn equally often.

        A sequence that extends beyond an end of its episode is cut there and padded: padding is marked as not valid.
        """
        episodes = [episode for episode in self.episodes if episode.num_steps]
        # A start may lie up to num_steps - 1 before the episode, so that its first steps are not drawn less often.
        starts = np.cumsum([0] + [episode.num_steps + num_steps - 1 for episode in episodes])
        drawn = rng.integers(starts[-1], size=batch)
        which = np.searchsorted(starts, drawn, side="right") - 1
        rows = [
            _cut(episodes[k], int(position - starts[k]) - (num_steps - 1), burn_in, num_steps)
            for k, position in zip(which, drawn, strict=True)
        ]
        return ClipBatch(**{name: torch.from_numpy(np.stack([row[name] for row in rows])) for name in rows[0]})


def _cut(episode: AgentEpisode, start: int, burn_in: int, num_steps: int) -> dict[str, np.ndarray]:
    """One row of `ClipBatch`: the steps from `start` to `start + num_steps` that the episode has."""
    first, stop = max(start, 0), min(start + num_steps, episode.num_steps)
    before, count = min(burn_in, first), stop - first
    ended = np.zeros(num_steps, bool)
    ended[count - 1] = episode.terminated and stop == episode.num_steps
    return {
        "frames": placed(
            episode.frames[first - before : stop + 1], burn_in + num_steps + 1, burn_in - before, np.uint8
        ),
        "burn_in_valid": np.arange(burn_in) >= burn_in - before,
        "actions": placed(episode.actions[first:stop], num_steps, 0, np.int64),
        "rewards": placed(episode.rewards[first:stop], num_steps, 0, np.float32),
        "log_probabilities": placed(episode.log_probabilities[first:stop], num_steps, 0, np.float32),
        "ended": ended,
        "valid": np.arange(num_steps) < count,
    }
