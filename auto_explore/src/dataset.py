"""The replay: what was played, in memory for the updates and on disk as ordinary episodes."""

from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_generation.data.data import EpisodeMeta, EpisodeReader
from data_generation.data.errors import UserError
from data_generation.generator.episode import Episode
from data_generation.generator.levels import Transition
from models.components.transfer import to_device
from training.agent_folder import AgentFolder

# Names of an agent's own numbers in a file, among those of the environment.
LOG_PROBABILITY, ENVIRONMENT_REWARD = "log_probability", "environment_reward"


class AgentEpisode(Episode):
    """An episode that an agent learns from.

    `rewards` are the agent's, filled in as they become known; `log_probabilities` those with which its actions were
    drawn. A file holds the agent's rewards as its rewards.
    """

    def __init__(self, env_dpath: Path, meta: EpisodeMeta, first_frame: np.ndarray):
        super().__init__(env_dpath, meta, first_frame)
        self.rewards: list[float] = []
        self.log_probabilities: list[float] = []

    def add(self, step: Transition, log_probability: float) -> None:
        """Append a step; its reward is 0 until it is known."""
        self.append(step)
        self.rewards.append(0.0)
        self.log_probabilities.append(log_probability)

    def recorded(self, t: int) -> tuple[float, dict[str, float]]:
        own = {LOG_PROBABILITY: self.log_probabilities[t], ENVIRONMENT_REWARD: self.env_rewards[t]}
        return self.rewards[t], {**self.infos[t], **own}

    @classmethod
    def load(cls, path: Path) -> "AgentEpisode":
        """Read an episode that `save` wrote. UserError for a damaged file or another policy's episode."""
        with EpisodeReader(path) as reader:
            if LOG_PROBABILITY not in reader.infos:
                raise UserError(f"'{path}' is not an episode of this agent's replay: it has no {LOG_PROBABILITY}")
            frames = reader.frames()
            episode = cls(path.parent.parent, reader.meta, frames[0])
            for t, action in enumerate(reader.actions.tolist()):
                numbers = {name: float(column[t]) for name, column in reader.infos.items()}
                env_reward, probability = numbers.pop(ENVIRONMENT_REWARD), numbers.pop(LOG_PROBABILITY)
                numbers = {name: value for name, value in numbers.items() if not np.isnan(value)}
                ends = bool(reader.terminated[t]), bool(reader.truncated[t])
                episode.add(Transition(action, frames[t + 1], env_reward, *ends, numbers), probability)
            episode.rewards = reader.rewards.astype(float).tolist()
        return episode

    def columns(self) -> dict[str, Any]:
        """All but the frames, as plain values; `from_columns` with the frames makes the episode again."""
        return {
            "actions": list(self.actions),
            "rewards": list(self.rewards),
            "log_probabilities": list(self.log_probabilities),
            "environment_rewards": list(self.env_rewards),
            "infos": list(self.infos),
        }

    @classmethod
    def from_columns(
        cls, env_dpath: Path, meta: EpisodeMeta, columns: dict[str, Any], frames: np.ndarray
    ) -> "AgentEpisode":
        """An episode in progress from `columns()` (empty at its start) and its frames (T + 1, C, H, W)."""
        episode = cls(env_dpath, meta, frames[0])
        for t, action in enumerate(columns.get("actions", [])):
            step = Transition(
                action, frames[t + 1], columns["environment_rewards"][t], False, False, columns["infos"][t]
            )
            episode.add(step, columns["log_probabilities"][t])
        episode.rewards = list(columns.get("rewards", []))
        return episode


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


def read_replay(stored: list[int | str], growing: list[AgentEpisode], folder: AgentFolder) -> deque[AgentEpisode]:
    """A replay's episodes: `growing` ones by number, complete ones from their files, a few damaged ones left out.

    FieldError (of `common`) where many are.
    """
    episodes: deque[AgentEpisode] = deque()
    bad: list[UserError | OSError] = []
    for item in stored:
        try:
            episodes.append(growing[item] if isinstance(item, int) else AgentEpisode.load(folder.path / item))
        except (UserError, OSError) as error:
            bad.append(error)
    folder.check_replay(bad, sum(isinstance(item, str) for item in stored))
    return episodes


def _cut(episode: AgentEpisode, start: int, burn_in: int, num_steps: int) -> dict[str, np.ndarray]:
    """One row of `ClipBatch`: the steps from `start` to `start + num_steps` that the episode has."""
    first, stop = max(start, 0), min(start + num_steps, episode.num_steps)
    before, count = min(burn_in, first), stop - first
    frames = np.zeros((burn_in + num_steps + 1, *episode.frames.shape[1:]), np.uint8)
    frames[burn_in - before : burn_in + count + 1] = episode.frames[first - before : stop + 1]
    ended = np.zeros(num_steps, bool)
    ended[count - 1] = episode.terminated and stop == episode.num_steps
    return {
        "frames": frames,
        "burn_in_valid": np.arange(burn_in) >= burn_in - before,
        "actions": _padded(episode.actions[first:stop], num_steps, np.int64),
        "rewards": _padded(episode.rewards[first:stop], num_steps, np.float32),
        "log_probabilities": _padded(episode.log_probabilities[first:stop], num_steps, np.float32),
        "ended": ended,
        "valid": np.arange(num_steps) < count,
    }


def _padded(values: list[Any], length: int, dtype: Any) -> np.ndarray:
    out = np.zeros(length, dtype)
    out[: len(values)] = values
    return out
