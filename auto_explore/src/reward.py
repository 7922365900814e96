"""The agent's rewards: the world model's uncertainty (arXiv 2504.02515, section 4), and other measures of novelty."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from auto_explore.config import RewardConfig
from auto_explore.src.models.novelty import Disagreement, FrameVae, RandomDistillation, RandomFeatures
from data_generation.data.errors import FieldError
from models.checkpoint import load_strictly
from models.components.transfer import to_device
from models.genie_redux import GenieRedux
from training.optimizer import restore_optimizer

# Real frames that the world model sees before those that it predicts.
NUM_PRIME = 2
WORLD_MODEL_REWARDS = ("entropy", "cnn-mse", "vae-mse", "disagreement")


@dataclass
class RewardInputs:
    """The newest frames of some steps.

    Frames (B, T, C, H, W) uint8, the actions between them (B, T - 1), and the environment's rewards (B,) for the last
    ones.
    """

    frames: Tensor
    actions: Tensor
    env_reward: Tensor

    def to(self, device: torch.device) -> "RewardInputs":
        return RewardInputs(*(to_device(value, device) for value in (self.frames, self.actions, self.env_reward)))


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

    def __init__(self, context: RewardContext):
        self.context = context
        self.num_frames = NUM_PRIME + context.n_preds
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


class NoReward(Reward):
    """The environment's own reward."""

    def __init__(self, context: RewardContext):
        super().__init__(context)
        self.num_frames = 2

    def __call__(self, inputs: RewardInputs, learn: bool) -> Tensor:
        return inputs.env_reward


class EntropyReward(Reward):
    """Mean entropy, scaled to [0, 2], of the `entropy_top_fraction` of the last frame's tokens that are least sure."""

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
        self.features = FrameVae(channels) if context.config.type == "vae-mse" else RandomFeatures(channels)
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
        """The frame (B, C, H, W) in [0, 1] that the world model draws for the last step."""
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


class NormalizedReward(Reward):
    """Another reward divided by the running root mean square of its values while learning."""

    def __init__(self, inner: Reward):
        super().__init__(inner.context)
        self.inner, self.num_frames = inner, inner.num_frames
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


def make_reward(context: RewardContext, frame_shape: tuple[int, int, int], seed: int) -> Reward:
    """The reward of `config.type`; its fixed random networks come from `seed`."""
    kind = context.config.type
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        reward: Reward
        if kind == "none":
            reward = NoReward(context)
        elif kind == "entropy":
            reward = EntropyReward(context)
        elif kind in ("cnn-mse", "vae-mse"):
            reward = FrameErrorReward(context, frame_shape[0], seed)
        else:
            reward = LearnedReward(context, frame_shape)
    return NormalizedReward(reward) if context.config.normalize else reward


def load_reward(reward: Reward, state: dict[str, Any], config: RewardConfig, path: Path) -> None:
    """Give a reward the networks of a run, kept at `path`: learned novelty must not start anew.

    FieldError if they differ.
    """
    try:
        reward.load_state_dict(state, path)
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError, OverflowError) as error:
        problem = f"the run was trained with another reward, or '{path}' is damaged: its networks do not fit"
        raise FieldError("type", config.type, problem) from error
