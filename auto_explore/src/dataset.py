"""The replay: what was played, in memory for the updates and on disk as ordinary episodes."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_generation.data.data import EpisodeMeta, EpisodeReader, EpisodeWriter, episode_path

# An episode's lists, one entry a step, and the names of two of them in a file, among the environment's numbers.
EPISODE_COLUMNS = ("actions", "rewards", "log_probabilities", "environment_rewards", "infos")
LOG_PROBABILITY, ENVIRONMENT_REWARD = "log_probability", "environment_reward"


@dataclass
class Place:
    """Where an episode belongs: its environment's folder, instance and session, and what it was played with."""

    env_dpath: Path
    meta: EpisodeMeta

    @property
    def path(self) -> Path:
        return episode_path(self.env_dpath, self.meta.instance, self.meta.session)


class Episode:
    """An episode in memory, complete or growing: T + 1 frames, T steps.

    `rewards` are the agent's, filled in as they become known; what the environment paid is in `environment_rewards`.
    """

    def __init__(self, place: Place, first_frame: np.ndarray):
        self.place = place
        self._frames = np.empty((64, *first_frame.shape), np.uint8)
        self._frames[0] = first_frame
        self.num_steps = 0
        self.actions: list[int] = []
        self.rewards: list[float] = []
        self.log_probabilities: list[float] = []
        self.environment_rewards: list[float] = []
        self.infos: list[dict[str, float]] = []
        self.terminated = self.truncated = False

    @property
    def frames(self) -> np.ndarray:
        """Frames (T + 1, C, H, W) uint8."""
        return self._frames[: self.num_steps + 1]

    @property
    def is_over(self) -> bool:
        return self.terminated or self.truncated

    def append(self, step: "Step") -> None:
        """Add a step; its reward is 0 until it is known."""
        if self.num_steps + 1 == len(self._frames):
            self._frames = np.concatenate([self._frames, np.empty_like(self._frames)])
        self.num_steps += 1
        self._frames[self.num_steps] = step.frame
        self.actions.append(step.action)
        self.rewards.append(0.0)
        self.log_probabilities.append(step.log_probability)
        self.environment_rewards.append(step.environment_reward)
        self.infos.append(step.info)
        self.terminated, self.truncated = step.terminated, step.truncated

    def save(self) -> Path:
        """Write it in the episode format: the reward column is the agent's."""
        place = self.place
        with EpisodeWriter(place.path, place.meta, self._frames.shape[1:]) as writer:
            writer.start(self._frames[0])
            for t in range(self.num_steps):
                own = {
                    LOG_PROBABILITY: self.log_probabilities[t],
                    ENVIRONMENT_REWARD: self.environment_rewards[t],
                }
                is_last = t == self.num_steps - 1
                ends = (self.terminated and is_last, self.truncated and is_last)
                frame = self._frames[t + 1]
                writer.step(self.actions[t], self.rewards[t], *ends, {**self.infos[t], **own}, frame)
            return writer.commit()

    @classmethod
    def load(cls, path: Path) -> "Episode":
        """Read an episode that `save` wrote. EpisodeError for a damaged file, ValueError for another's episode."""
        with EpisodeReader(path) as reader:
            if LOG_PROBABILITY not in reader.infos:
                raise ValueError(f"'{path}' is not an episode of this agent's replay: it tells no {LOG_PROBABILITY}")
            frames = reader.frames()
            episode = cls(Place(path.parent.parent, reader.meta), frames[0])
            own = (LOG_PROBABILITY, ENVIRONMENT_REWARD)
            for t in range(reader.num_actions):
                numbers = {key: float(column[t]) for key, column in reader.infos.items()}
                info = {key: value for key, value in numbers.items() if key not in own and not np.isnan(value)}
                paid, probability = numbers[ENVIRONMENT_REWARD], numbers[LOG_PROBABILITY]
                ends = bool(reader.terminated[t]), bool(reader.truncated[t])
                episode.append(Step(int(reader.actions[t]), probability, paid, *ends, info, frames[t + 1]))
                episode.rewards[t] = float(reader.rewards[t])
        return episode

    def columns(self) -> dict[str, Any]:
        """All but the frames, as plain values; `from_columns` with the frames makes the episode again."""
        return {name: list(getattr(self, name)) for name in EPISODE_COLUMNS}

    @classmethod
    def from_columns(cls, place: Place, columns: dict[str, Any], frames: np.ndarray) -> "Episode":
        """An episode in progress from `columns()` and its frames (T + 1, C, H, W)."""
        episode = cls(place, frames[0])
        for t, action in enumerate(columns["actions"]):
            probability, paid = columns["log_probabilities"][t], columns["environment_rewards"][t]
            episode.append(Step(action, probability, paid, False, False, columns["infos"][t], frames[t + 1]))
        episode.rewards = list(columns["rewards"])
        return episode


@dataclass
class Step:
    """One step: log-probability with which the action was drawn, what came of it, and the frame (C, H, W) after it."""

    action: int
    log_probability: float
    environment_reward: float
    terminated: bool
    truncated: bool
    info: dict[str, float]
    frame: np.ndarray


@dataclass
class Segments:
    """A batch for an update, S trained steps after a burn-in.

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

    def to(self, device: torch.device) -> "Segments":
        """On another device, without waiting where the memory is pinned."""
        pin = device.type == "cuda"
        moved = {
            name: (value.pin_memory() if pin else value).to(device, non_blocking=True)
            for name, value in vars(self).items()
        }
        return Segments(**moved)

    def part(self, start: int, stop: int) -> "Segments":
        """Some of the rows."""
        return Segments(**{name: value[start:stop] for name, value in vars(self).items()})


@dataclass
class Replay:
    """The newest episodes, growing ones included, up to `capacity` steps (whole episodes, at least one)."""

    capacity: int
    episodes: deque[Episode] = field(default_factory=deque)

    def add(self, episode: Episode) -> None:
        """Take an episode in; it may go on growing."""
        self.episodes.append(episode)

    def trim(self) -> None:
        """Let go of the oldest complete episodes beyond the capacity; their files stay."""
        total = self.num_steps
        while len(self.episodes) > 1 and total > self.capacity and self.episodes[0].is_over:
            total -= self.episodes.popleft().num_steps

    @property
    def num_steps(self) -> int:
        return sum(episode.num_steps for episode in self.episodes)

    def sample(self, batch: int, burn_in: int, num_steps: int, rng: np.random.Generator) -> Segments:
        """Segments of `num_steps` steps, every recorded step in one equally often.

        A segment that reaches over an end of its episode is cut there, and padded: padding is marked as not valid.
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
        return Segments(**{name: torch.from_numpy(np.stack([row[name] for row in rows])) for name in rows[0]})


def _cut(episode: Episode, start: int, burn_in: int, num_steps: int) -> dict[str, np.ndarray]:
    """One row of `Segments`: the steps from `start` to `start + num_steps` that the episode has."""
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


def load_replay(paths: Iterable[Path], capacity: int) -> Replay:
    """A replay of complete episodes from their files, oldest first."""
    return Replay(capacity, deque(Episode.load(path) for path in paths))
