"""The agent's reward: the world model's uncertainty (arXiv 2504.02515, section 4), or another one without networks."""

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from auto_explore.config import RewardConfig
from data_generation.data.errors import FieldError
from models.checkpoint import load_strictly
from models.components.transfer import to_device
from models.genie_redux import GenieRedux
from training.episodic_memory import StreamMoments
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
        actions = model.conditioning_actions(video, inputs.actions)
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

    def set_networks(self, networks: nn.Module) -> None:
        """Set this reward's networks, with an optimiser for those parameters that train."""
        self.networks = networks.to(self.context.device)
        trained = [p for p in networks.parameters() if p.requires_grad]
        if trained:
            self.optimizer = torch.optim.Adam(trained, lr=self.context.config.learning_rate, fused=True)

    @torch.no_grad()
    def unite(self, gather: Callable[[Any], list[Any]]) -> None:
        """Average over the processes what each has learned apart; `gather` gives what all of them pass.

        All processes call it, between epochs: what one of them has seen is not new to the others either.
        """
        if self.optimizer is None:
            return
        weights = [parameter for parameter in self.networks.parameters() if parameter.requires_grad]
        averages = [value for state in self.optimizer.state.values() for value in state.values()]
        own = [*weights, *self.networks.buffers(), *averages]
        # The optimiser's averages come last: a process that has made no step yet has none.
        for tensor, *values in zip(own, *gather([tensor.cpu() for tensor in own]), strict=False):
            # In float64, so that what is equal stays as it is.
            tensor.copy_(torch.stack(values).double().mean(dim=0))

    def optimizer_step(self, loss: Tensor) -> None:
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


class CountReward(StepReward):
    """1/√N at the N-th visit to the position that a step has reached, over all episodes (counts).

    A step without a position, as where a game shows something between two levels, gets nothing.
    Count-based exploration (Bellemare et al. 2016) that knows the state: what the other rewards are compared with.
    """

    def __init__(self, context: RewardContext):
        super().__init__(context)
        self._visits: dict[int, int] = {}
        # Of all processes, when they were last united.
        self._united: dict[int, int] = {}

    def unite(self, gather: Callable[[Any], list[Any]]) -> None:
        """Add up the visits of all processes."""
        before = Counter(self._united)
        united = sum((Counter(visits) - before for visits in gather(self._visits)), before)
        self._visits, self._united = dict(united), dict(united)

    def __call__(self, inputs: RewardInputs, learn: bool) -> Tensor:
        if not self._visits and all(position is None for position in inputs.positions):
            problem = "the environment reports no position (x and y in its info)"
            raise FieldError("type", "counts", problem, "choose a reward that needs none, such as e3b or rnd")
        rewards = []
        for position in inputs.positions:
            if position is None:
                rewards.append(0.0)
                continue
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
        self._united = dict(self._visits)


class NormalizedReward(Reward):
    """Another reward divided by the running root mean square of its values while learning.

    Of the newest ones, since rewards for what is new fall as it is learned.
    """

    def __init__(self, inner: Reward):
        super().__init__(inner.context)
        self.inner, self.num_frames, self.num_unrewarded = inner, inner.num_frames, inner.num_unrewarded
        self._squares = StreamMoments()

    def __call__(self, inputs: RewardInputs, learn: bool) -> Tensor:
        rewards = self.inner(inputs, learn)
        if learn:
            self._squares.add(rewards.square().tolist())
        return rewards / (math.sqrt(self._squares.mean) if self._squares.mean > 0 else 1.0)

    def unite(self, gather: Callable[[Any], list[Any]]) -> None:
        self.inner.unite(gather)
        self._squares.unite(gather)

    def state_dict(self) -> dict[str, Any]:
        return {"inner": self.inner.state_dict(), "squares": self._squares.state_dict()}

    def load_state_dict(self, state: dict[str, Any], path: Path) -> None:
        self.inner.load_state_dict(state["inner"], path)
        if "sum" in state:
            # Of an earlier version: the sum over the whole run.
            count, mean, square = state["count"], state["sum"] / max(1, state["count"]), 0.0
        else:
            count, mean, square = state["squares"]
        if not (math.isfinite(mean) and math.isfinite(square)) or mean < 0 or count < (mean > 0):
            raise ValueError(f"a mean square of {mean} over {count} rewards")
        self._squares.load_state_dict((count, mean, square))


def load_reward(reward: Reward, state: dict[str, Any], config: RewardConfig, path: Path) -> None:
    """Give a reward the networks of a run, kept at `path`: learned novelty must not start anew.

    FieldError if they differ.
    """
    try:
        reward.load_state_dict(state, path)
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError, OverflowError) as error:
        problem = f"the run was trained with another reward, or '{path}' is damaged: its networks do not fit"
        remedy = "restore the file, or repeat the settings of the run's reward"
        raise FieldError("type", config.type, problem, remedy) from error
