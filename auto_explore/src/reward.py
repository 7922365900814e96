"""What the agent is paid: the world model's uncertainty (arXiv 2504.02515, section 4), and other signs of novelty."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from auto_explore.config import RewardConfig
from auto_explore.src.models.novelty import Disagreement, FrameVae, RandomDistillation, RandomFeatures
from models.genie_redux import GenieRedux

NUM_PRIME = 2  # real frames that the world model sees before those that it predicts
WORLD_MODEL_REWARDS = ("entropy", "cnn-mse", "vae-mse", "disagreement")
REWARDS = (*WORLD_MODEL_REWARDS, "rnd", "none")


@dataclass
class Windows:
    """The newest frames of some steps: frames (B, W, C, H, W) uint8, the actions between them (B, W - 1), and what
    the environment paid for the last one (B,)."""

    frames: Tensor
    actions: Tensor
    paid: Tensor

    def to(self, device: torch.device) -> "Windows":
        return Windows(*(value.to(device, non_blocking=True) for value in (self.frames, self.actions, self.paid)))


@dataclass
class Tools:
    """What a reward computes with."""

    config: RewardConfig
    n_preds: int
    device: torch.device
    autocast: Callable[[], AbstractContextManager]
    world_model: GenieRedux | None

    def prediction(self, windows: Windows) -> "Prediction":
        """The world model's view of the windows: two real frames, then `n_preds` expected ones, in one round."""
        model = self.world_model
        assert model is not None
        video = windows.frames.float() / 255
        actions = windows.actions if model.lam is None else model.infer_actions(video)
        prime_ids = model.tokenizer.encode(video[:, :NUM_PRIME])
        return Prediction(prime_ids, model.masked_features(prime_ids, actions, self.n_preds))


@dataclass
class Prediction:
    """Ids (B, 2, h, w) of the prime frames, and hidden tokens (B, n_preds, h, w, width) of the expected ones."""

    prime_ids: Tensor
    hidden: Tensor


class Reward(ABC):
    """Pays for steps, seen as windows of `num_frames` frames. Networks that it trains are part of its state."""

    def __init__(self, tools: Tools):
        self.tools = tools
        self.num_frames = NUM_PRIME + tools.n_preds
        self.networks = nn.Module()
        self.optimizer: torch.optim.Adam | None = None

    @abstractmethod
    def __call__(self, windows: Windows, learn: bool) -> Tensor:
        """Rewards (B,) float32 of windows; `learn`: networks that train while playing make a step."""

    def state_dict(self) -> dict[str, Any]:
        optimizer = self.optimizer.state_dict() if self.optimizer else None
        return {"networks": self.networks.state_dict(), "optimizer": optimizer}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.networks.load_state_dict(state["networks"])
        if self.optimizer is not None:
            self.optimizer.load_state_dict(state["optimizer"])

    def train_networks(self, networks: nn.Module) -> None:
        """From now on these are this reward's networks, with an optimiser for what trains of them."""
        self.networks = networks.to(self.tools.device)
        trained = [p for p in networks.parameters() if p.requires_grad]
        if trained:
            self.optimizer = torch.optim.Adam(trained, lr=self.tools.config.learning_rate, fused=True)

    def descend(self, loss: Tensor) -> None:
        """A step of the networks that train."""
        assert self.optimizer is not None
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()


class NoReward(Reward):
    """The environment's own reward."""

    def __init__(self, tools: Tools):
        super().__init__(tools)
        self.num_frames = 2

    def __call__(self, windows: Windows, learn: bool) -> Tensor:
        return windows.paid


class EntropyReward(Reward):
    """Mean entropy, scaled to [0, 2], of the `entropy_top_fraction` of the last frame's tokens that are least sure."""

    @torch.no_grad()
    def __call__(self, windows: Windows, learn: bool) -> Tensor:
        tools = self.tools
        assert tools.world_model is not None
        with tools.autocast():
            last = tools.prediction(windows).hidden[:, -1]
            logits = tools.world_model.dynamics.to_logits(last)
        return top_entropy(logits, tools.config.entropy_top_fraction)


def top_entropy(logits: Tensor, top_fraction: float) -> Tensor:
    """Rewards (B,) of logits (B, h, w, V): mean of the highest entropies 2 H / ln V, in [0, 2]."""
    log_probabilities = logits.float().log_softmax(dim=-1)
    entropies = -(log_probabilities.exp() * log_probabilities).sum(dim=-1) * (2 / math.log(logits.shape[-1]))
    flat = entropies.flatten(1)
    count = max(1, round(top_fraction * flat.shape[1]))
    return flat.topk(count, dim=1).values.mean(dim=1)


class FrameErrorReward(Reward):
    """Squared error between features of the frame that came and of the one that was expected (cnn-mse, vae-mse)."""

    def __init__(self, tools: Tools, channels: int, seed: int):
        super().__init__(tools)
        self.features = FrameVae(channels) if tools.config.type == "vae-mse" else RandomFeatures(channels)
        self.train_networks(self.features)
        self._noise = torch.Generator().manual_seed(seed)

    def __call__(self, windows: Windows, learn: bool) -> Tensor:
        seen = windows.frames[:, -1].float() / 255
        with torch.no_grad():
            error = (self.features.embed(seen) - self.features.embed(self._expected(windows))).square().mean(dim=1)
        if learn and isinstance(self.features, FrameVae):
            self.descend(self.features.loss(seen, self._noise))
        return error

    def _expected(self, windows: Windows) -> Tensor:
        """The frame (B, C, H, W) in [0, 1] that the world model draws for the last step."""
        model = self.tools.world_model
        assert model is not None
        with self.tools.autocast():
            prediction = self.tools.prediction(windows)
            ids = model.dynamics.to_logits(prediction.hidden).argmax(dim=-1)
            frames = model.tokenizer.decode(torch.cat([prediction.prime_ids, ids], dim=1))
        return frames[:, -1].float().clamp(0, 1)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "noise": self._noise.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._noise.set_state(state["noise"])


class LearnedReward(Reward):
    """Pays the error or the variance of networks that learn to predict what is seen (disagreement, rnd)."""

    def __init__(self, tools: Tools, frame_shape: tuple[int, int, int]):
        super().__init__(tools)
        self._model: Disagreement | RandomDistillation
        if tools.config.type == "disagreement":
            assert tools.world_model is not None
            self._model = Disagreement(tools.world_model, tools.config.num_heads)
        else:
            self._model = RandomDistillation(frame_shape)
        self.train_networks(self._model)

    def __call__(self, windows: Windows, learn: bool) -> Tensor:
        with torch.no_grad():
            inputs = self._inputs(windows)
            reward = self._model.novelty(*inputs)
        if learn:
            self.descend(self._model.loss(*inputs))
        return reward

    def _inputs(self, windows: Windows) -> tuple[Tensor, ...]:
        """What the networks look at: frames, or the frozen world model's features of them."""
        model = self.tools.world_model
        if isinstance(self._model, RandomDistillation):
            return (windows.frames[:, -1].float() / 127.5 - 1,)
        assert model is not None
        with self.tools.autocast():
            video = windows.frames.float() / 255
            actions = windows.actions if model.lam is None else model.infer_actions(video)
            ids = model.tokenizer.encode(video)
            hidden = model.known_features(ids[:, :-1], actions)[:, -1]
        return hidden.float().mean(dim=(1, 2)), self._model.target(ids[:, -1])


class NormalizedReward(Reward):
    """Another reward divided by the running root mean square of what it has paid while learning."""

    def __init__(self, inner: Reward):
        super().__init__(inner.tools)
        self.inner, self.num_frames = inner, inner.num_frames
        self._sum, self._count = 0.0, 0

    def __call__(self, windows: Windows, learn: bool) -> Tensor:
        rewards = self.inner(windows, learn)
        if learn:
            self._sum += float(rewards.square().sum())
            self._count += len(rewards)
        scale = math.sqrt(self._sum / self._count) if self._sum > 0 else 1.0
        return rewards / scale

    def state_dict(self) -> dict[str, Any]:
        return {"inner": self.inner.state_dict(), "sum": self._sum, "count": self._count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.inner.load_state_dict(state["inner"])
        self._sum, self._count = state["sum"], state["count"]


def make_reward(tools: Tools, frame_shape: tuple[int, int, int], seed: int) -> Reward:
    """The reward that `collection.reward.type` names; its fixed random networks come from `seed`."""
    kind = tools.config.type
    check_reward(tools.config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        reward: Reward
        if kind == "none":
            reward = NoReward(tools)
        elif kind == "entropy":
            reward = EntropyReward(tools)
        elif kind in ("cnn-mse", "vae-mse"):
            reward = FrameErrorReward(tools, frame_shape[0], seed)
        else:
            reward = LearnedReward(tools, frame_shape)
    return NormalizedReward(reward) if tools.config.normalize else reward


def load_reward(reward: Reward, state: dict[str, Any], config: RewardConfig) -> None:
    """Give a reward the networks of a run; without them a learned novelty would be that of the first moment."""
    try:
        reward.load_state_dict(state)
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"collection.reward.type={config.type}: the run was trained with another reward, whose networks do not fit"
        ) from error


def check_reward(config: RewardConfig) -> None:
    """ValueError for a reward that there is not, or numbers that cannot work."""
    key = "collection.reward"
    if config.type not in REWARDS:
        raise ValueError(f"{key}.type={config.type} is unknown: use one of {', '.join(REWARDS)}")
    if not 0 < config.entropy_top_fraction <= 1:
        raise ValueError(f"{key}.entropy_top_fraction={config.entropy_top_fraction}: must be in (0, 1]")
    if config.batch_size < 1:
        raise ValueError(f"{key}.batch_size={config.batch_size}: must be at least 1")
    if config.num_heads < 2:
        raise ValueError(f"{key}.num_heads={config.num_heads}: must be at least 2, for something to disagree")
