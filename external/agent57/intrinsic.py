"""The intrinsic reward: new in this episode × new at all (NGU, section 2 and algorithm 1)."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from external.agent57.config import IntrinsicConfig
from external.agent57.networks import AgentNetworks

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

    def state_dict(self) -> tuple[float, float, float]:
        return self.count, self.mean, self.square

    @classmethod
    def from_state(cls, state: Sequence[float]) -> "StreamMoments":
        moments = cls()
        moments.count, moments.mean, moments.square = int(state[0]), float(state[1]), float(state[2])
        return moments


class EpisodicMemory:
    """Embeddings of an episode's newest frames."""

    def __init__(self, config: IntrinsicConfig, num_features: int):
        self._config = config
        self._embeddings = np.zeros((config.memory, num_features), np.float32)
        self._num_added = 0

    def bonus(self, embedding: np.ndarray, distances: StreamMoments) -> float:
        """The bonus of a frame's embedding (D,), which is remembered then; 0 before there are enough neighbours.

        `distances`: of the squared distances to neighbours so far, over all episodes.
        """
        config = self._config
        known = self._embeddings[: min(self._num_added, config.memory)]
        squared = np.square(known - embedding).sum(axis=1)
        self._embeddings[self._num_added % config.memory] = embedding
        self._num_added += 1
        if len(known) < config.num_neighbours:
            return 0.0
        nearest = np.partition(squared, config.num_neighbours - 1)[: config.num_neighbours]
        # In order, as their sum in the running mean depends on it.
        nearest.sort()
        distances.add(nearest)
        normalised = nearest / max(distances.mean, 1e-12)
        kernel = config.kernel_epsilon / (np.maximum(normalised - config.cluster_distance, 0.0) + config.kernel_epsilon)
        similarity = math.sqrt(float(kernel.sum())) + config.constant
        return 0.0 if similarity > config.max_similarity else 1 / similarity

    def state_dict(self) -> dict[str, Any]:
        known = self._embeddings[: min(self._num_added, self._config.memory)]
        return {"embeddings": torch.from_numpy(known.copy()), "num_added": self._num_added}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._num_added = state["num_added"]
        self._embeddings[: len(state["embeddings"])] = state["embeddings"].numpy()


class Curiosity:
    """Intrinsic rewards of some episodes that are played at the same time, each with a memory of its own."""

    def __init__(self, config: IntrinsicConfig, num_features: int, num_episodes: int):
        self._config, self._num_features = config, num_features
        self.errors = StreamMoments()
        self.distances = [StreamMoments() for _ in range(num_episodes)]
        self.memories = [self._new_memory() for _ in range(num_episodes)]

    def _new_memory(self) -> EpisodicMemory:
        return EpisodicMemory(self._config, self._num_features)

    def restart(self, i: int) -> None:
        """Forget an episode that is over."""
        self.memories[i] = self._new_memory()

    @torch.no_grad()
    def rewards(self, networks: AgentNetworks, frames: torch.Tensor) -> np.ndarray:
        """Rewards (E,) of the frames (E, 1, 84, 84) uint8 that the episodes have reached."""
        embeddings = networks.embedding_network(frames).float().cpu().numpy()
        errors = networks.novelty(frames).cpu().numpy()
        self.errors.add(errors)
        lifelong = 1 + (errors - self.errors.mean) / max(self.errors.std, 1e-8)
        lifelong = np.clip(lifelong, 1.0, self._config.max_lifelong)
        episodic = [
            memory.bonus(embedding, distances)
            for memory, embedding, distances in zip(self.memories, embeddings, self.distances, strict=True)
        ]
        return (np.array(episodic) * lifelong).astype(np.float32)

    def load_moments(self, other: "Curiosity") -> None:
        """Measure by what another one has seen so far: its first episode's distances count for all."""
        self.errors = StreamMoments.from_state(other.errors.state_dict())
        state = other.distances[0].state_dict()
        self.distances = [StreamMoments.from_state(state) for _ in self.distances]

    def state_dict(self) -> dict[str, Any]:
        return {
            "errors": self.errors.state_dict(),
            "distances": [moments.state_dict() for moments in self.distances],
            "memories": [memory.state_dict() for memory in self.memories],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.errors = StreamMoments.from_state(state["errors"])
        self.distances = [StreamMoments.from_state(moments) for moments in state["distances"]]
        for memory, stored in zip(self.memories, state["memories"], strict=True):
            memory.load_state_dict(stored)
