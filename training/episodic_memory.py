"""What is new in its episode, by embeddings of the frames that the episode has shown: the bonuses of NGU and E3B."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from data_generation.data.errors import FieldError
from models.tensor_file import misfit
from training.config import EpisodicBonusConfig

# Values that running means look back on.
_HORIZON = 10_000


class StreamMoments:
    """Mean and deviation of a stream of numbers: of all of it, later of its newest part, as networks change."""

    def __init__(self) -> None:
        self.count, self.mean, self.square = 0, 0.0, 0.0

    def add(self, values: Sequence[float] | np.ndarray) -> None:
        for value in values:
            self.count += 1
            rate = max(1 / self.count, 1 / _HORIZON)
            self.mean += rate * (float(value) - self.mean)
            self.square += rate * (float(value) ** 2 - self.square)

    @property
    def std(self) -> float:
        return math.sqrt(max(0.0, self.square - self.mean**2))

    def unite(self, gather: Callable[[Any], list[Any]]) -> None:
        """Take the weighted means of all processes' streams, of which `gather` gives what each one passes."""
        counts, means, squares = (np.array(column) for column in zip(*gather(self.state_dict()), strict=True))
        if counts.any():
            self.mean, self.square = (float(np.average(column, weights=counts)) for column in (means, squares))
            self.count = int(counts.max())

    def state_dict(self) -> tuple[float, float, float]:
        return self.count, self.mean, self.square

    def load_state_dict(self, state: Sequence[float]) -> None:
        self.count, self.mean, self.square = int(state[0]), float(state[1]), float(state[2])


class EpisodicMemory(ABC):
    """What is remembered of one episode's frames."""

    @abstractmethod
    def bonus(self, embedding: np.ndarray) -> float:
        """The bonus of a frame's embedding (D,) float32, which is remembered then."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Plain values and tensors."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave. Raises many kinds of errors for anything else."""


class NeighbourMemory(EpisodicMemory):
    """NGU's episodic memory: the newest embeddings, and how near the nearest of them are (algorithm 1)."""

    def __init__(self, config: EpisodicBonusConfig, num_features: int, distances: StreamMoments):
        """`distances`: of the squared distances to neighbours so far, over all episodes."""
        self._config, self._distances = config, distances
        self._embeddings = np.zeros((config.memory, num_features), np.float32)
        self._num_added = 0

    def bonus(self, embedding: np.ndarray) -> float:
        """0 before there are enough neighbours."""
        config = self._config
        known = self._known(self._num_added)
        squared = np.square(known - embedding).sum(axis=1)
        self._embeddings[self._num_added % config.memory] = embedding
        self._num_added += 1
        if len(known) < config.num_neighbours:
            return 0.0
        nearest = np.partition(squared, config.num_neighbours - 1)[: config.num_neighbours]
        # In order, as their sum in the running mean depends on it.
        nearest.sort()
        self._distances.add(nearest)
        normalised = nearest / max(self._distances.mean, 1e-12)
        kernel = config.kernel_epsilon / (np.maximum(normalised - config.cluster_distance, 0.0) + config.kernel_epsilon)
        similarity = math.sqrt(float(kernel.sum())) + config.constant
        return 0.0 if similarity > config.max_similarity else 1 / similarity

    def _known(self, num_added: int) -> np.ndarray:
        """The part of the memory that so many embeddings have filled."""
        return self._embeddings[: min(num_added, self._config.memory)]

    def state_dict(self) -> dict[str, Any]:
        return {"embeddings": torch.from_numpy(self._known(self._num_added).copy()), "num_added": self._num_added}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._num_added = state["num_added"]
        _fill(self._known(self._num_added), state["embeddings"])


def check_neighbours(
    config: EpisodicBonusConfig, own: str, num_steps: int, steps: str, knows_first: bool = True
) -> None:
    """FieldError where every bonus would be 0 in episodes of so many steps, as no frame has enough frames before it.

    `own` and `steps` are the fields that hold the two. `knows_first`: whether the frame of the reset is remembered.
    """
    before_last = num_steps if knows_first else num_steps - 1
    for name, value, most in ((f"{own}.memory", config.memory, config.memory), (steps, num_steps, before_last)):
        if config.num_neighbours > most:
            problem = f"with {{{name}}}={value} no frame has so many before it, so that every reward is 0"
            remedy = f"lower it, or raise {{{name}}}"
            raise FieldError(f"{own}.num_neighbours", config.num_neighbours, problem, remedy)


class EllipticalMemory(EpisodicMemory):
    """E3B's elliptical bonus φᵀ C⁻¹ φ, with C = ridge · I + Σ φ φᵀ over the frames before (arXiv 2210.05805)."""

    def __init__(self, ridge: float, num_features: int):
        # In float64, as rounding adds up over an episode.
        self._inverse = np.eye(num_features) / ridge

    def bonus(self, embedding: np.ndarray) -> float:
        projected = self._inverse @ embedding
        bonus = float(embedding @ projected)
        # The inverse of C + φ φᵀ (Sherman and Morrison 1950).
        self._inverse -= np.outer(projected, projected) / (1 + bonus)
        return bonus

    def state_dict(self) -> dict[str, Any]:
        return {"inverse": torch.from_numpy(self._inverse.copy())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        _fill(self._inverse, state["inverse"])


def _fill(own: np.ndarray, stored: Any) -> None:
    """Take a stored tensor over. RuntimeError for one of another form."""
    if reason := misfit(torch.from_numpy(own), stored):
        raise RuntimeError(f"a memory has {reason}")
    own[...] = stored.numpy()
