"""The replay: sequences of episodes, drawn by priority, with the recurrent state from which each was played (R2D2)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from data_generation.data.data import EpisodeMeta
from data_generation.generator.levels import Transition
from external.agent57.config import ReplayConfig
from external.agent57.networks import AgentInputs
from external.agent57.sum_tree import SumTree
from models.components.transfer import to_device
from training.agent.episodes import LearnedEpisode, StepColumn, placed

# The policy that played, among a file's `policy_parameters`.
POLICY = "policy"


class PlayedEpisode(LearnedEpisode):
    """An episode that an agent learns from.

    `int_rewards`: intrinsic ones; `probabilities` with which the actions were drawn; `states` (4, H) by the step
    before which they were the recurrent state: that of step 0, and those in which sequences begin to warm up.
    A file holds the environment's rewards as its rewards, and no states.
    """

    COLUMNS = (
        StepColumn("env_rewards", in_file="", in_checkpoint="env_rewards"),
        StepColumn("int_rewards", in_file="intrinsic_reward", in_checkpoint="int_rewards"),
        StepColumn("probabilities", in_file="probability", in_checkpoint="probabilities"),
    )
    int_rewards: list[float]
    probabilities: list[float]

    def __init__(self, env_dpath: Path, meta: EpisodeMeta, first_frame: np.ndarray, policy: int | None = None):
        """`policy`: the one that plays; None = that of `meta`."""
        super().__init__(env_dpath, meta, first_frame)
        if policy is not None:
            meta.policy_parameters[POLICY] = policy
        self.policy: int = meta.policy_parameters[POLICY]
        self.states: dict[int, np.ndarray] = {}

    def add(self, step: Transition, int_reward: float, probability: float) -> None:
        """Append a step."""
        self.extend(step, {"int_rewards": int_reward, "probabilities": probability})

    def columns(self) -> dict[str, Any]:
        return {**super().columns(), "policy": self.policy, "states": self.stored_states()}

    @classmethod
    def from_columns(cls, env_dpath: Path, meta: EpisodeMeta, columns: dict[str, Any], frames: np.ndarray) -> Self:
        meta.policy_parameters[POLICY] = columns["policy"]
        episode = super().from_columns(env_dpath, meta, columns, frames)
        episode.restore_states(columns["states"])
        return episode

    def keep_state(self, state: np.ndarray, config: ReplayConfig) -> None:
        """Keep the recurrent state (4, H) before the next step, if a sequence will begin to warm up there."""
        t = self.num_steps
        if t == 0 or (t + config.burn_in) % config.period == 0:
            self.states[t] = state.copy()

    def stored_states(self) -> dict[int, Tensor]:
        """`states` as tensors (4, H) by step, for a checkpoint."""
        return {t: torch.from_numpy(state) for t, state in self.states.items()}

    def restore_states(self, stored: dict[int, Tensor]) -> None:
        """Take over what `stored_states` returned."""
        self.states = {t: state.numpy() for t, state in stored.items()}


@dataclass(frozen=True)
class ReplaySequence:
    """The steps of an episode from `start` on that are learned from."""

    episode: PlayedEpisode
    start: int


@dataclass
class SequenceBatch:
    """S steps each that are learned from, after `burn_in` steps that only warm up the state (B, 4, H) before them.

    `inputs`: (B, burn_in + S + 1, …); `is_warm` (B,): False where an episode starts after the burn-in, which is padding
    there; the others (B, S), `valid` False after a row's last step.
    """

    inputs: AgentInputs
    states: Tensor
    is_warm: Tensor
    actions: Tensor
    ext_rewards: Tensor
    int_rewards: Tensor
    probabilities: Tensor
    ended: Tensor
    valid: Tensor
    # Of the draw: (B,) weights, and (not moved between devices) the slots.
    weights: Tensor
    slots: np.ndarray

    @property
    def burn_in(self) -> int:
        return self.inputs.frames.shape[1] - self.valid.shape[1] - 1

    def to(self, device: torch.device) -> "SequenceBatch":
        inputs = AgentInputs(**{name: to_device(value, device) for name, value in vars(self.inputs).items()})
        others = {name: to_device(value, device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return SequenceBatch(inputs=inputs, slots=self.slots, **others)


class SequenceReplay:
    """The newest sequences, as many as their capacity in steps allows."""

    def __init__(self, config: ReplayConfig):
        self.config = config
        self.num_slots = max(1, -(-config.num_steps // config.period))
        self.sequences: list[ReplaySequence] = []
        self.num_added = 0
        self._tree = SumTree(self.num_slots)

    def add(self, sequence: ReplaySequence) -> None:
        """Add a sequence in the place of the oldest one, with the largest priority that there is."""
        slot = self.num_added % self.num_slots
        highest = self.priorities().max(initial=0.0) or 1.0
        if slot == len(self.sequences):
            self.sequences.append(sequence)
        else:
            self.sequences[slot] = sequence
        self._tree.set(np.array([slot]), np.array([highest]))
        self.num_added += 1

    def priorities(self) -> np.ndarray:
        """Priorities (N,) by which sequences are drawn: already raised to the configured power."""
        return self._tree[np.arange(len(self.sequences))]

    def set_priorities(self, slots: np.ndarray, values: np.ndarray) -> None:
        """Set the priorities of slots (B,) to values (B,), raised to the configured power."""
        self._tree.set(slots, np.maximum(values, 1e-6) ** self.config.priority_power)

    def sample(self, batch: int, rng: np.random.Generator) -> SequenceBatch:
        """Sequences by priority, with weights (N P)^-β, the largest of which is 1 (Schaul et al. 2016)."""
        slots = self._tree.draw(rng.random(batch))
        shares = self._tree[slots] / self._tree.total
        weights = (len(self.sequences) * shares) ** -self.config.importance_power
        rows = [cut(self.sequences[slot], self.config) for slot in slots]
        return _stacked(rows, (weights / weights.max()).astype(np.float32), slots)

    def state_dict(self, name_of: Any) -> dict[str, Any]:
        """Plain values and tensors; `name_of(episode)` names an episode, whose columns are kept elsewhere."""
        return {
            "sequences": [[name_of(item.episode), item.start] for item in self.sequences],
            "priorities": torch.from_numpy(self.priorities()),
            "num_added": self.num_added,
        }

    def load_state_dict(self, state: dict[str, Any], episode_of: Any) -> None:
        """From `state_dict`; `episode_of(name)` gives the episodes, None for one that is lost: left out."""
        named = [(episode_of(name), start) for name, start in state["sequences"]]
        self.sequences = [ReplaySequence(episode, start) for episode, start in named if episode is not None]
        kept = np.array([episode is not None for episode, _ in named], bool)
        priorities = state["priorities"].numpy()[kept]
        self._tree = SumTree(self.num_slots)
        if len(priorities):
            self._tree.set(np.arange(len(priorities)), priorities)
        # With some left out the ring is filled up from its end.
        self.num_added = state["num_added"] if kept.all() else len(self.sequences)

    @property
    def episodes(self) -> list[PlayedEpisode]:
        """Those that sequences are from."""
        return list({id(item.episode): item.episode for item in self.sequences}.values())


def new_starts(num_before: int, episode: PlayedEpisode, config: ReplayConfig) -> list[int]:
    """Starts of the sequences that became complete since the episode had `num_before` steps.

    A sequence is complete when it has all its steps; at the episode's end also one that has a step that no other has.
    """
    length, period, count = config.sequence, config.period, episode.num_steps
    starts = [start for start in range(0, count, period) if num_before < start + length <= count]
    if episode.is_over:
        num_full = 0 if count < length else (count - length) // period + 1
        end_of_last = (num_full - 1) * period + length if num_full else 0
        if end_of_last < count:
            starts.append(num_full * period)
    return starts


def cut(sequence: ReplaySequence, config: ReplayConfig) -> dict[str, Any]:
    """One row of `SequenceBatch`, its inputs next to the others."""
    episode, start, burn_in, length = sequence.episode, sequence.start, config.burn_in, config.sequence
    is_warm = start > 0
    first, stop = start - burn_in * is_warm, min(start + length, episode.num_steps)
    size, offset = burn_in + length + 1, burn_in * (not is_warm)
    ended = np.zeros(length, bool)
    ended[stop - start - 1] = episode.terminated and stop == episode.num_steps
    before = slice(max(first - 1, 0), stop)
    shift = offset + (first == 0)
    return {
        "frames": placed(episode.frames[first : stop + 1], size, offset, np.uint8),
        "last_actions": placed(episode.actions[before], size, shift, np.int64),
        "last_ext_rewards": placed(episode.env_rewards[before], size, shift, np.float32),
        "last_int_rewards": placed(episode.int_rewards[before], size, shift, np.float32),
        "policies": np.int64(episode.policy),
        "states": episode.states[first if is_warm else 0],
        "is_warm": np.bool_(is_warm),
        "actions": placed(episode.actions[start:stop], length, 0, np.int64),
        "ext_rewards": placed(episode.env_rewards[start:stop], length, 0, np.float32),
        "int_rewards": placed(episode.int_rewards[start:stop], length, 0, np.float32),
        "probabilities": placed(episode.probabilities[start:stop], length, 0, np.float32, fill=1),
        "ended": ended,
        "valid": np.arange(length) < stop - start,
    }


def _stacked(rows: list[dict[str, Any]], weights: np.ndarray, slots: np.ndarray) -> SequenceBatch:
    columns = {name: torch.from_numpy(np.stack([row[name] for row in rows])) for name in rows[0]}
    names = ("frames", "last_actions", "last_ext_rewards", "last_int_rewards", "policies")
    inputs = AgentInputs(*(columns.pop(name) for name in names))
    return SequenceBatch(inputs=inputs, weights=torch.from_numpy(weights), slots=slots, **columns)
