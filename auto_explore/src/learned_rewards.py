"""Rewards with networks: of the world model's errors, or of what networks that train while playing do not know yet."""

from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from auto_explore.src.models.novelty import (
    ActionEmbedding,
    Disagreement,
    FrameVae,
    RandomDistillation,
    RandomFeatures,
)
from auto_explore.src.reward import Reward, RewardContext, RewardInputs, StepReward
from data_generation.generator.connector_base import EnvironmentSpec
from training.episodic_memory import EllipticalMemory, EpisodicMemory, NeighbourMemory, StreamMoments


class FrameErrorReward(Reward):
    """Squared error between features of the frame that followed and of the one that was expected."""

    def __init__(self, context: RewardContext, features: RandomFeatures | FrameVae, seed: int):
        super().__init__(context)
        self._features = features
        self.set_networks(features)
        # Of what the features learn with; also stored where they are fixed.
        self._noise = torch.Generator().manual_seed(seed)

    def __call__(self, inputs: RewardInputs, learn: bool) -> Tensor:
        seen = inputs.frames[:, -1].float() / 255
        with torch.no_grad():
            error = (self._features.embed(seen) - self._features.embed(self._expected(inputs))).square().mean(dim=1)
        if learn:
            self._learn(seen)
        return error

    def _learn(self, frames: Tensor) -> None:
        """Train the features, where they learn, on frames (B, C, H, W) in [0, 1]."""

    def _expected(self, inputs: RewardInputs) -> Tensor:
        """The frame (B, C, H, W) in [0, 1] that the world model predicts for the last step."""
        model = self.context.world_model
        assert model is not None
        with self.context.autocast():
            expected = self.context.expected_frames(inputs)
            ids = model.dynamics.to_logits(expected.hidden).argmax(dim=-1)
            frames = model.tokenizer.decode(torch.cat([expected.prime_ids, ids], dim=1))
        return frames[:, -1].float().clamp(0, 1)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "noise": self._noise.get_state()}

    def load_state_dict(self, state: dict[str, Any], path: Path) -> None:
        super().load_state_dict(state, path)
        self._noise.set_state(state["noise"])


class CnnErrorReward(FrameErrorReward):
    """With features of a fixed random network (cnn-mse)."""

    is_fixed = True

    def __init__(self, context: RewardContext, channels: int, seed: int):
        super().__init__(context, RandomFeatures(channels), seed)


class VaeErrorReward(FrameErrorReward):
    """With the latents of an autoencoder that is trained while playing (vae-mse)."""

    def __init__(self, context: RewardContext, channels: int, seed: int):
        vae = FrameVae(channels)
        super().__init__(context, vae, seed)
        self._vae = vae

    def _learn(self, frames: Tensor) -> None:
        self.optimizer_step(self._vae.loss(frames, self._noise))


class LearnedReward(Reward):
    """The error or the variance of networks that learn to predict what is seen."""

    def __init__(self, context: RewardContext, model: Disagreement | RandomDistillation):
        super().__init__(context)
        self._model = model
        self.set_networks(model)

    def __call__(self, inputs: RewardInputs, learn: bool) -> Tensor:
        with torch.no_grad():
            seen = self._seen(inputs)
            reward = self._model.novelty(*seen)
        if learn:
            self._observe(*seen)
            self.optimizer_step(self._model.loss(*seen))
        return reward

    @abstractmethod
    def _seen(self, inputs: RewardInputs) -> tuple[Tensor, ...]:
        """Inputs of the networks."""

    def _observe(self, *seen: Tensor) -> None:
        """Learn what the networks' inputs look like, where that is needed."""


class DisagreementReward(LearnedReward):
    """The variance of predictors of the next frame, on the frozen world model's features (disagreement)."""

    def __init__(self, context: RewardContext):
        assert context.world_model is not None
        heads = Disagreement(context.world_model, context.config.num_heads)
        super().__init__(context, heads)
        self._heads, self._world_model = heads, context.world_model

    def _seen(self, inputs: RewardInputs) -> tuple[Tensor, Tensor]:
        """The features, and what the predictors should have said."""
        model = self._world_model
        with self.context.autocast():
            video = inputs.frames.float() / 255
            actions = model.conditioning_actions(video, inputs.actions)
            ids = model.tokenizer.encode(video)
            hidden = model.known_features(ids[:, :-1], actions)[:, -1]
        return hidden.float().mean(dim=(1, 2)), self._heads.target(ids[:, -1])


class RndReward(LearnedReward):
    """The error in predicting a fixed random network's output for the newest frame (rnd)."""

    def __init__(self, context: RewardContext, frame_shape: tuple[int, int, int]):
        distillation = RandomDistillation(frame_shape)
        super().__init__(context, distillation)
        self._distillation = distillation

    def _observe(self, *seen: Tensor) -> None:
        self._distillation.observe(*seen)

    def load_state_dict(self, state: dict[str, Any], path: Path) -> None:
        networks = state["networks"]
        if "count" not in networks:
            own = {"count": -torch.ones(()), "mean": self._distillation.mean, "square": self._distillation.square}
            state = {**state, "networks": own | networks}
        super().load_state_dict(state, path)

    def _seen(self, inputs: RewardInputs) -> tuple[Tensor]:
        """The newest frames."""
        return (inputs.frames[:, -1].float() / 127.5 - 1,)


class EpisodicReward(StepReward):
    """New in this episode, by embeddings that tell which action was taken (e3b, ngu)."""

    def __init__(self, context: RewardContext, spec: EnvironmentSpec):
        super().__init__(context)
        self._model = ActionEmbedding(spec.frame_shape, len(spec.action_names))
        self.set_networks(self._model)
        # Of the episode that each environment plays.
        self._memories: dict[int, EpisodicMemory] = {}
        # Between neighbours, over all episodes; e3b has none.
        self._distances = StreamMoments()

    def _new_memory(self) -> EpisodicMemory:
        config, num_features = self.context.config, self._model.num_features
        if config.type == "e3b":
            return EllipticalMemory(config.ridge, num_features)
        return NeighbourMemory(config.ngu, num_features, self._distances)

    def __call__(self, inputs: RewardInputs, learn: bool) -> Tensor:
        before, after = (inputs.frames[:, t].float() / 127.5 - 1 for t in (-2, -1))
        embeddings, starts = self._embed(after), iter(self._embed(before[inputs.is_first]))
        bonuses = []
        for environment, is_first, embedding in zip(inputs.environments, inputs.is_first, embeddings, strict=True):
            if is_first:
                memory = self._memories[environment] = self._new_memory()
                # The frame of the reset is remembered and pays nothing: to E3B's memory all is new at first.
                memory.bonus(next(starts))
            bonuses.append(self._memories[environment].bonus(embedding))
        if learn:
            self.optimizer_step(self._model.loss(before, after, inputs.actions[:, -1]))
        return torch.tensor(bonuses, dtype=torch.float32, device=after.device)

    def unite(self, gather: Callable[[Any], list[Any]]) -> None:
        super().unite(gather)
        self._distances.unite(gather)

    @torch.no_grad()
    def _embed(self, frames: Tensor) -> np.ndarray:
        """Embeddings (B, D) float32 of frames (B, C, H, W) in [-1, 1]."""
        embeddings: np.ndarray = self._model.embed(frames).float().cpu().numpy()
        return embeddings

    def state_dict(self) -> dict[str, Any]:
        memories = {environment: memory.state_dict() for environment, memory in self._memories.items()}
        return {**super().state_dict(), "memories": memories, "distances": self._distances.state_dict()}

    def load_state_dict(self, state: dict[str, Any], path: Path) -> None:
        super().load_state_dict(state, path)
        self._distances.load_state_dict(state["distances"])
        self._memories = {}
        for environment, stored in state["memories"].items():
            self._memories[environment] = self._new_memory()
            self._memories[environment].load_state_dict(stored)
