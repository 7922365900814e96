"""The agent's rewards: the world model's uncertainty (arXiv 2504.02515, section 4), and other measures of novelty."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from auto_explore.config import RewardConfig
from auto_explore.src.models.novelty import (
    ActionEmbedding,
    Disagreement,
    FrameVae,
    RandomDistillation,
    RandomFeatures,
)
from data_generation.data.errors import FieldError
from data_generation.generator.connector_base import EnvironmentSpec
from models.checkpoint import load_strictly
from models.components.transfer import to_device
from models.genie_redux import GenieRedux
from training.episodic_memory import EllipticalMemory, EpisodicMemory, NeighbourMemory, StreamMoments
from training.optimizer import restore_optimizer

# Real frames that the world model sees before those that it predicts.
NUM_PRIME = 2
# No reward for an episode's first steps: the world model has seen too little of it (arXiv 2504.02515, section A.3).
NUM_UNREWARDED = 4
WORLD_MODEL_REWARDS = ("entropy", "cnn-mse", "vae-mse", "disagreement")


@dataclass
class RewardInputs:
    """Some steps; those of one environment are in the order in which they were played.

    The newest frames of each (B, T, C, H, W) uint8, the actions between them (B, T - 1), and of the last ones the
    environment's rewards (B,), its number among those played, whether the step is the first of its episode, and the
    position that it has reached (`training.coverage.position_of`).
    """

    frames: Tensor
    actions: Tensor
    env_reward: Tensor
    environments: list[int]
    is_first: list[bool]
    positions: list[int | None]

    def to(self, device: torch.device) -> "RewardInputs":
        """With the tensors on another device."""
        frames, actions, env_reward = (to_device(v, device) for v in (self.frames, self.actions, self.env_reward))
        return replace(self, frames=frames, actions=actions, env_reward=env_reward)


@dataclass
class RewardContext:
    """What a reward computes with."""

    config: RewardConfig
    n_preds: int
    device: torch.device
    autocast: Callable[[], AbstractContextManager]
    world_model: GenieRedux | None

    def expected_frames(self, inputs: RewardInputs) -> "ExpectedFrames":
        """What the world model expects after two real frames: `n_preds` frames, predicted in one round."""
        model = self.world_model
        assert model is not None
        video = inputs.frames.float() / 255
        actions = inputs.actions if model.lam is None else model.infer_actions(video)
        prime_ids = model.tokenizer.encode(video[:, :NUM_PRIME])
        return ExpectedFrames(prime_ids, model.masked_features(prime_ids, actions, self.n_preds))


@dataclass
class ExpectedFrames:
    """Ids (B, 2, h, w) of the prime frames, and hidden tokens (B, n_preds, h, w, width) of the expected ones."""

    prime_ids: Tensor
    hidden: Tensor


class Reward(ABC):
    """Rewards steps by their newest `num_frames` frames. Networks that it trains are part of its state."""

    # Whether the same play always has the same reward, so that returns of different epochs can be compared.
    is_fixed = False

    def __init__(self, context: RewardContext):
        self.context = context
        self.num_frames = NUM_PRIME + context.n_preds
        # More than the usual number where many predicted frames need more steps.
        self.num_unrewarded = max(NUM_UNREWARDED, context.n_preds)
        self.networks = nn.Module()
        self.optimizer: torch.optim.Adam | None = None

    @abstractmethod
    def __call__(self, inputs: RewardInputs, learn: bool) -> Tensor:
        """Rewards (B,) float32; `learn`: networks that train while playing make a step."""

    def state_dict(self) -> dict[str, Any]:
        optimizer = self.optimizer.state_dict() if self.optimizer else None
        return {"networks": self.networks.state_dict(), "optimizer": optimizer}

    def load_state_dict(self, state: dict[str, Any], path: Path) -> None:
        """Take the networks over that a run has kept at `path`. Raises many kinds of errors for others."""
        load_strictly(self.networks, state["networks"], path)
        if self.optimizer is not None:
            restore_optimizer(self.optimizer, state["optimizer"], path)

    def train_networks(self, networks: nn.Module) -> None:
        """Set this reward's networks, with an optimiser for those parameters that train."""
        self.networks = networks.to(self.context.device)
        trained = [p for p in networks.parameters() if p.requires_grad]
        if trained:
            self.optimizer = torch.optim.Adam(trained, lr=self.context.config.learning_rate, fused=True)

    def descend(self, loss: Tensor) -> None:
        """A step of the networks that train."""
        assert self.optimizer is not None
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()


class StepReward(Reward):
    """A reward of single steps, the first ones included: of two frames and the action between them."""

    def __init__(self, context: RewardContext):
        super().__init__(context)
        self.num_frames, self.num_unrewarded = 2, 0


class NoReward(StepReward):
    """The environment's own reward."""

    is_fixed = True

    def __call__(self, inputs: RewardInputs, learn: bool) -> Tensor:
        return inputs.env_reward


class EntropyReward(Reward):
    """Mean entropy, scaled to [0, 2], of the `entropy_top_fraction` of the last frame's tokens that are least sure."""

    is_fixed = True

    @torch.no_grad()
    def __call__(self, inputs: RewardInputs, learn: bool) -> Tensor:
        context = self.context
        assert context.world_model is not None
        with context.autocast():
            last = context.expected_frames(inputs).hidden[:, -1]
            logits = context.world_model.dynamics.to_logits(last)
        return top_entropy(logits, context.config.entropy_top_fraction)


def top_entropy(logits: Tensor, top_fraction: float) -> Tensor:
    """Rewards (B,) of logits (B, h, w, V): mean of the highest entropies 2 H / ln V, in [0, 2]."""
    log_probabilities = logits.float().log_softmax(dim=-1)
    entropies = -(log_probabilities.exp() * log_probabilities).sum(dim=-1) * (2 / math.log(logits.shape[-1]))
    flat = entropies.flatten(1)
    count = max(1, round(top_fraction * flat.shape[1]))
    return flat.topk(count, dim=1).values.mean(dim=1)


class FrameErrorReward(Reward):
    """Squared error between features of the frame that followed and of the one that was expected (cnn-mse, vae-mse)."""

    def __init__(self, context: RewardContext, channels: int, seed: int):
        super().__init__(context)
        self.is_fixed = context.config.type == "cnn-mse"
        self.features = RandomFeatures(channels) if self.is_fixed else FrameVae(channels)
        self.train_networks(self.features)
        self._noise = torch.Generator().manual_seed(seed)

    def __call__(self, inputs: RewardInputs, learn: bool) -> Tensor:
        seen = inputs.frames[:, -1].float() / 255
        with torch.no_grad():
            error = (self.features.embed(seen) - self.features.embed(self._expected(inputs))).square().mean(dim=1)
        if learn and isinstance(self.features, FrameVae):
            self.descend(self.features.loss(seen, self._noise))
        return error

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


class LearnedReward(Reward):
    """The error or the variance of networks that learn to predict what is seen (disagreement, rnd)."""

    def __init__(self, context: RewardContext, frame_shape: tuple[int, int, int]):
        super().__init__(context)
        self._model: Disagreement | RandomDistillation
        if context.config.type == "disagreement":
            assert context.world_model is not None
            self._model = Disagreement(context.world_model, context.config.num_heads)
        else:
            self._model = RandomDistillation(frame_shape)
        self.train_networks(self._model)

    def __call__(self, inputs: RewardInputs, learn: bool) -> Tensor:
        with torch.no_grad():
            seen = self._seen(inputs)
            reward = self._model.novelty(*seen)
        if learn:
            self.descend(self._model.loss(*seen))
        return reward

    def _seen(self, inputs: RewardInputs) -> tuple[Tensor, ...]:
        """Inputs of the networks: frames, or the frozen world model's features of them."""
        model = self.context.world_model
        if isinstance(self._model, RandomDistillation):
            return (inputs.frames[:, -1].float() / 127.5 - 1,)
        assert model is not None
        with self.context.autocast():
            video = inputs.frames.float() / 255
            actions = inputs.actions if model.lam is None else model.infer_actions(video)
            ids = model.tokenizer.encode(video)
            hidden = model.known_features(ids[:, :-1], actions)[:, -1]
        return hidden.float().mean(dim=(1, 2)), self._model.target(ids[:, -1])


class EpisodicReward(StepReward):
    """New in this episode, by embeddings that tell which action was taken (e3b, ngu)."""

    def __init__(self, context: RewardContext, spec: EnvironmentSpec):
        super().__init__(context)
        self._model = ActionEmbedding(spec.frame_shape, len(spec.action_names))
        self.train_networks(self._model)
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
        with torch.no_grad():
            embeddings = self._model.embed(after).float().cpu().numpy()
        bonuses = []
        for environment, is_first, embedding in zip(inputs.environments, inputs.is_first, embeddings, strict=True):
            if is_first:
                self._memories[environment] = self._new_memory()
            bonuses.append(self._memories[environment].bonus(embedding))
        if learn:
            self.descend(self._model.loss(before, after, inputs.actions[:, -1]))
        return torch.tensor(bonuses, dtype=torch.float32, device=after.device)

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


class CountReward(StepReward):
    """1/√N at the N-th visit to the position that a step has reached, over all episodes (counts).

    Count-based exploration (Bellemare et al. 2016) that knows the state: what the other rewards are compared with.
    """

    def __init__(self, context: RewardContext):
        super().__init__(context)
        self._visits: dict[int, int] = {}

    def __call__(self, inputs: RewardInputs, learn: bool) -> Tensor:
        rewards = []
        for position in inputs.positions:
            if position is None:
                problem = "the environment reports no position (x and y in its info)"
                raise FieldError("type", "counts", problem, "choose a reward that needs none, such as e3b or rnd")
            visits = self._visits.get(position, 0) + 1
            rewards.append(visits**-0.5)
            if learn:
                self._visits[position] = visits
        return torch.tensor(rewards, dtype=torch.float32, device=inputs.frames.device)

    def state_dict(self) -> dict[str, Any]:
        positions, visits = (torch.tensor([*v], dtype=torch.int64) for v in (self._visits, self._visits.values()))
        return {**super().state_dict(), "positions": positions, "visits": visits}

    def load_state_dict(self, state: dict[str, Any], path: Path) -> None:
        super().load_state_dict(state, path)
        self._visits = dict(zip(state["positions"].tolist(), state["visits"].tolist(), strict=True))


class NormalizedReward(Reward):
    """Another reward divided by the running root mean square of its values while learning."""

    def __init__(self, inner: Reward):
        super().__init__(inner.context)
        self.inner, self.num_frames, self.num_unrewarded = inner, inner.num_frames, inner.num_unrewarded
        self._sum, self._count = 0.0, 0

    def __call__(self, inputs: RewardInputs, learn: bool) -> Tensor:
        rewards = self.inner(inputs, learn)
        if learn:
            self._sum += float(rewards.square().sum())
            self._count += len(rewards)
        scale = math.sqrt(self._sum / self._count) if self._sum > 0 else 1.0
        return rewards / scale

    def state_dict(self) -> dict[str, Any]:
        return {"inner": self.inner.state_dict(), "sum": self._sum, "count": self._count}

    def load_state_dict(self, state: dict[str, Any], path: Path) -> None:
        self.inner.load_state_dict(state["inner"], path)
        total, count = float(state["sum"]), int(state["count"])
        if not math.isfinite(total) or total < 0 or count < (total > 0):
            raise ValueError(f"a sum of {total} over {count} rewards")
        self._sum, self._count = total, count


def make_reward(context: RewardContext, spec: EnvironmentSpec, seed: int) -> Reward:
    """The reward of `config.type` in environments of `spec`; its fixed random networks come from `seed`."""
    kind = context.config.type
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        reward: Reward
        if kind == "none":
            reward = NoReward(context)
        elif kind == "entropy":
            reward = EntropyReward(context)
        elif kind in ("cnn-mse", "vae-mse"):
            reward = FrameErrorReward(context, spec.frame_shape[0], seed)
        elif kind in ("e3b", "ngu"):
            reward = EpisodicReward(context, spec)
        elif kind == "counts":
            reward = CountReward(context)
        else:
            reward = LearnedReward(context, spec.frame_shape)
    return NormalizedReward(reward) if context.config.normalize else reward


def load_reward(reward: Reward, state: dict[str, Any], config: RewardConfig, path: Path) -> None:
    """Give a reward the networks of a run, kept at `path`: learned novelty must not start anew.

    FieldError if they differ.
    """
    try:
        reward.load_state_dict(state, path)
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError, OverflowError) as error:
        problem = f"the run was trained with another reward, or '{path}' is damaged: its networks do not fit"
        raise FieldError("type", config.type, problem) from error
