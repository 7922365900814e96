"""The intrinsic reward: new in this episode × new at all (NGU, section 2 and algorithm 1)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from external.agent57.config import IntrinsicConfig
from external.agent57.networks import AgentNetworks
from training.episodic_memory import NeighbourMemory, StreamMoments


class Curiosity:
    """Intrinsic rewards of some episodes that are played at the same time, each with a memory of its own."""

    def __init__(self, config: IntrinsicConfig, num_features: int, num_episodes: int):
        self._config, self._num_features = config, num_features
        self.errors = StreamMoments()
        self.distances = [StreamMoments() for _ in range(num_episodes)]
        self.memories = [self._new_memory(i) for i in range(num_episodes)]

    def _new_memory(self, i: int) -> NeighbourMemory:
        return NeighbourMemory(self._config, self._num_features, self.distances[i])

    def restart(self, i: int) -> None:
        """Forget an episode that is over."""
        self.memories[i] = self._new_memory(i)

    @torch.no_grad()
    def rewards(self, networks: AgentNetworks, frames: torch.Tensor) -> np.ndarray:
        """Rewards (E,) of the frames (E, 1, 84, 84) uint8 that the episodes have reached."""
        embeddings = networks.embedding_network(frames).float().cpu().numpy()
        errors = networks.novelty(frames).cpu().numpy()
        self.errors.add(errors)
        lifelong = 1 + (errors - self.errors.mean) / max(self.errors.std, 1e-8)
        lifelong = np.clip(lifelong, 1.0, self._config.max_lifelong)
        episodic = [memory.bonus(embedding) for memory, embedding in zip(self.memories, embeddings, strict=True)]
        return (np.array(episodic) * lifelong).astype(np.float32)

    def set_moments(self, errors: Sequence[float], distances: Sequence[float]) -> None:
        """Measure by what was seen before: the state of the errors' moments, and of the distances' in any episode."""
        self.errors.load_state_dict(errors)
        for moments in self.distances:
            moments.load_state_dict(distances)

    def state_dict(self) -> dict[str, Any]:
        return {
            "errors": self.errors.state_dict(),
            "distances": [moments.state_dict() for moments in self.distances],
            "memories": [memory.state_dict() for memory in self.memories],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.errors.load_state_dict(state["errors"])
        for moments, values in zip(self.distances, state["distances"], strict=True):
            moments.load_state_dict(values)
        for memory, stored in zip(self.memories, state["memories"], strict=True):
            memory.load_state_dict(stored)
