"""The networks. Their tensors have the names and, by default, the shapes of published checkpoints (Deep RL Zoo)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from external.agent57.config import NetworkConfig
from external.agent57.view import VIEW_SHAPE

# Kernel and stride of the convolutions (Mnih et al. 2015).
_CONVOLUTIONS = ((8, 4), (4, 2), (3, 1))
# Recurrent state of an agent: hidden and cell of the extrinsic, then of the intrinsic network.
NUM_STATES = 4


def _convolutions(channels: Sequence[int], activation: type[nn.Module]) -> nn.Sequential:
    layers: list[nn.Module] = []
    before = VIEW_SHAPE[0]
    for width, (kernel, stride) in zip(channels, _CONVOLUTIONS, strict=True):
        layers += [nn.Conv2d(before, width, kernel, stride), activation()]
        before = width
    # In this memory format convolutions are faster, on CPUs too.
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _num_features(channels: Sequence[int]) -> int:
    size = VIEW_SHAPE[1]
    for kernel, stride in _CONVOLUTIONS:
        size = (size - kernel) // stride + 1
    return channels[-1] * size**2


def _pixels(frames: Tensor) -> Tensor:
    """Frames (..., 1, 84, 84) uint8 as (N, 1, 84, 84) in [0, 1]."""
    return frames.flatten(0, -4).contiguous(memory_format=torch.channels_last).float().div_(255)


class GreyBody(nn.Module):
    """Convolutions and ReLU."""

    def __init__(self, channels: Sequence[int]):
        super().__init__()
        self.net = _convolutions(channels, nn.ReLU)

    def forward(self, pixels: Tensor) -> Tensor:
        """Features (N, F) of pixels (N, 1, 84, 84) in [0, 1]."""
        return self.net(pixels).flatten(1)


@dataclass
class AgentInputs:
    """What an agent sees: frames (B, T, 1, 84, 84) uint8; of the step before each, its action (B, T) int64 and rewards

    (B, T), 0 at an episode's start; and the policies (B,) int64 that play.
    """

    frames: Tensor
    actions: Tensor
    ext_rewards: Tensor
    int_rewards: Tensor
    policies: Tensor

    def steps(self, start: int, stop: int) -> "AgentInputs":
        """A part in time."""
        frames, actions = self.frames[:, start:stop], self.actions[:, start:stop]
        return AgentInputs(
            frames, actions, self.ext_rewards[:, start:stop], self.int_rewards[:, start:stop], self.policies
        )


class RecurrentQNetwork(nn.Module):
    """Values of one of the two rewards for every action: convolutions, an LSTM and a dueling head (R2D2)."""

    def __init__(self, num_actions: int, num_policies: int, config: NetworkConfig):
        super().__init__()
        self.num_actions, self.num_policies = num_actions, num_policies
        self.body = GreyBody(config.channels)
        num_features, self.projection = _num_features(config.channels), nn.Sequential()
        if config.normalize:
            self.projection = nn.Sequential(nn.Linear(num_features, config.lstm), nn.LayerNorm(config.lstm), nn.ReLU())
            num_features = config.lstm
        num_inputs = num_features + 1 + num_actions + 1 + num_policies
        self.lstm = nn.LSTM(num_inputs, config.lstm, batch_first=True)
        self.advantage_head = _head(config.lstm, config.head, num_actions)
        self.value_head = _head(config.lstm, config.head, 1)

    def forward(
        self, pixels: Tensor, inputs: AgentInputs, state: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Squashed values (B, T, A), and the LSTM's state (1, B, H) twice after them.

        pixels (BT, 1, 84, 84): those of the inputs' frames, in [0, 1].
        """
        features = self.projection(self.body(pixels)).unflatten(0, inputs.actions.shape)
        actions = F.one_hot(inputs.actions, self.num_actions).to(features.dtype)
        policies = F.one_hot(inputs.policies, self.num_policies).to(features.dtype)
        policies = policies.unsqueeze(1).expand(-1, features.shape[1], -1)
        rewards = [values.unsqueeze(-1).to(features.dtype) for values in (inputs.ext_rewards, inputs.int_rewards)]
        hidden, state = self.lstm(torch.cat([features, rewards[0], actions, rewards[1], policies], dim=-1), state)
        advantages, values = self.advantage_head(hidden).float(), self.value_head(hidden).float()
        return values + advantages - advantages.mean(dim=-1, keepdim=True), state


def _head(num_inputs: int, hidden: int, num_outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(num_inputs, hidden), nn.ReLU(), nn.Linear(hidden, num_outputs))


class QValues(NamedTuple):
    """Squashed values (B, T, A) of the extrinsic and of the intrinsic reward."""

    ext: Tensor
    int_: Tensor


class Agent57Network(nn.Module):
    """Two separate value networks, one for each reward (Agent57, section 3.1)."""

    def __init__(self, num_actions: int, num_policies: int, config: NetworkConfig):
        super().__init__()
        self.num_units = config.lstm
        self.num_actions = num_actions
        self.ext_q = RecurrentQNetwork(num_actions, num_policies, config)
        self.int_q = RecurrentQNetwork(num_actions, num_policies, config)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def initial_state(self, batch: int) -> Tensor:
        """The recurrent state (B, 4, H) at an episode's start."""
        return torch.zeros(batch, NUM_STATES, self.num_units, device=self.device)

    def forward(self, inputs: AgentInputs, state: Tensor) -> tuple[QValues, Tensor]:
        """Values (B, T, A) of both rewards from a state (B, 4, H), and the state after them."""
        before, pixels = state.transpose(0, 1).contiguous(), _pixels(inputs.frames)
        ext, (ext_hidden, ext_cell) = self.ext_q(pixels, inputs, (before[0:1], before[1:2]))
        int_, (int_hidden, int_cell) = self.int_q(pixels, inputs, (before[2:3], before[3:4]))
        after = torch.cat([ext_hidden, ext_cell, int_hidden, int_cell]).float()
        return QValues(ext, int_), after.transpose(0, 1)


class EmbeddingNetwork(nn.Module):
    """What an action can change of a frame: features of an inverse-dynamics model (NGU)."""

    def __init__(self, num_actions: int, config: NetworkConfig):
        super().__init__()
        self.net = GreyBody(config.channels)
        self.fc = nn.Linear(_num_features(config.channels), config.embedding)
        self.inverse_head = _head(2 * config.embedding, config.inverse, num_actions)

    def forward(self, frames: Tensor) -> Tensor:
        """Embeddings (N, D) of frames (N, 1, 84, 84) uint8."""
        return F.relu(self.fc(self.net(_pixels(frames))))

    def action_logits(self, before: Tensor, after: Tensor) -> Tensor:
        """Logits (N, A) of the actions between two frames (N, 1, 84, 84) uint8."""
        return self.inverse_head(torch.cat([self(before), self(after)], dim=-1))


class DistillationNetwork(nn.Module):
    """The random network, or the one that learns to predict it (Burda et al. 2019)."""

    def __init__(self, config: NetworkConfig):
        super().__init__()
        self.body = _convolutions(config.channels, nn.LeakyReLU)
        num_features, hidden, num_outputs = _num_features(config.channels), config.rnd, config.rnd_outputs
        self.head: nn.Module = nn.Linear(num_features, num_outputs)
        if config.deep_rnd:
            layers = (nn.Linear(num_features, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, num_outputs))
            self.head = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])

    def forward(self, frames: Tensor) -> Tensor:
        """Outputs (N, O) of frames (N, 1, 84, 84) uint8."""
        return self.head(self.body(_pixels(frames)).flatten(1))


class AgentNetworks(nn.Module):
    """All that an agent consists of, under the names of published checkpoints."""

    def __init__(self, num_actions: int, num_policies: int, config: NetworkConfig):
        super().__init__()
        self.network = Agent57Network(num_actions, num_policies, config)
        self.embedding_network = EmbeddingNetwork(num_actions, config)
        self.rnd_target_network = DistillationNetwork(config).requires_grad_(False)
        self.rnd_predictor_network = DistillationNetwork(config)

    @property
    def curious_parameters(self) -> list[nn.Parameter]:
        """Those that the intrinsic reward learns with."""
        return [*self.embedding_network.parameters(), *self.rnd_predictor_network.parameters()]

    def novelty(self, frames: Tensor) -> Tensor:
        """Squared errors (N,) of the prediction of the random network's outputs for frames (N, 1, 84, 84) uint8."""
        target = self.rnd_target_network(frames)
        return (self.rnd_predictor_network(frames).float() - target.float()).square().sum(dim=1)
