"""The recurrent actor-critic (arXiv 2504.02515, section A.3)."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data_generation.data.errors import FieldError

HIDDEN = 512


class State(NamedTuple):
    """Recurrent state: hidden and cell (B, 512). A value: acting returns a new one."""

    hidden: Tensor
    cell: Tensor

    def masked(self, keep: Tensor) -> "State":
        """Zero where `keep` (B,) is False: an episode starts there."""
        return State(self.hidden * keep.unsqueeze(1), self.cell * keep.unsqueeze(1))


@dataclass
class PolicyOutput:
    """Logits (..., A) and values (...)."""

    logits: Tensor
    values: Tensor


class ConvEncoder(nn.Sequential):
    """Four 3×3 convolutions (32, 32, 64, 64), each with ReLU and 2×2 max-pooling; 64×64 pixels become 1024 features."""

    def __init__(self, channels: int):
        layers: list[nn.Module] = []
        for width in (32, 32, 64, 64):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
            channels = width
        super().__init__(*layers, nn.Flatten())


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions added to their input."""

    def __init__(self, width: int):
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.relu(self.first(F.relu(x))))


class ImpalaEncoder(nn.Sequential):
    """IMPALA's residual network (Espeholt et al. 2018, figure 3): 16, 32, 32 channels, halved three times."""

    def __init__(self, channels: int):
        layers: list[nn.Module] = []
        for width in (16, 32, 32):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.MaxPool2d(3, stride=2, padding=1)]
            layers += [ResidualBlock(width), ResidualBlock(width)]
            channels = width
        super().__init__(*layers, nn.ReLU(), nn.Flatten())


class NatureEncoder(nn.Sequential):
    """The three strided convolutions of DQN (Mnih et al. 2015): a sixth of the paper's encoder's operations."""

    def __init__(self, channels: int):
        layers: list[nn.Module] = []
        for width, kernel, stride in ((32, 8, 4), (64, 4, 2), (64, 3, 1)):
            layers += [nn.Conv2d(channels, width, kernel, stride), nn.ReLU()]
            channels = width
        super().__init__(*layers, nn.Flatten())


ENCODERS: dict[str, type[nn.Module]] = {"conv": ConvEncoder, "impala": ImpalaEncoder, "nature": NatureEncoder}


class ActorCritic(nn.Module):
    """Frames to action logits and values, through an encoder and an LSTM."""

    def __init__(self, num_actions: int, frame_shape: tuple[int, int, int], encoder: str = "conv"):
        """`frame_shape` is (C, H, W). FieldError for an unknown encoder."""
        super().__init__()
        if encoder not in ENCODERS:
            raise FieldError("encoder", encoder, "unknown", f"use one of {', '.join(sorted(ENCODERS))}")
        self.num_actions = num_actions
        self.encoder = ENCODERS[encoder](frame_shape[0])
        try:
            with torch.no_grad():
                num_features = self.encoder(torch.zeros(1, *frame_shape)).shape[1]
        except RuntimeError as error:
            size = "x".join(map(str, frame_shape[1:]))
            raise FieldError("encoder", encoder, f"frames of {size} pixels are too small for it") from error
        self.lstm = nn.LSTM(num_features, HIDDEN)
        self.to_logits = nn.Linear(HIDDEN, num_actions)
        self.to_value = nn.Linear(HIDDEN, 1)
        # Values are value_mean + value_std · (the head's output): see `rescale_values`.
        self.value_mean: Tensor
        self.value_std: Tensor
        self.register_buffer("value_mean", torch.zeros(()))
        self.register_buffer("value_std", torch.ones(()))
        # A fresh policy is (nearly) uniform, a fresh value (nearly) zero: neither may mislead the first updates.
        for head in (self.to_logits, self.to_value):
            nn.init.normal_(head.weight, std=1e-3)
            nn.init.zeros_(head.bias)
        # torch's own initialisation halves the differences between frames with each layer, until only colour is left.
        for module in self.encoder.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.orthogonal_(module.weight, gain=nn.init.calculate_gain("relu"))
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        # In this memory format convolutions are two to three times faster, on CPUs too.
        self.encoder = self.encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def initial_state(self, batch: int) -> State:
        """State (B, 512) before an episode's first frame."""
        zeros = torch.zeros(batch, HIDDEN, device=self.to_value.weight.device)
        return State(zeros, zeros)

    def features(self, frames: Tensor) -> Tensor:
        """Encoder features (N, F) of frames (N, C, H, W) uint8; the network sees [-1, 1]."""
        pixels = frames.contiguous(memory_format=torch.channels_last).float() / 127.5 - 1
        return self.encoder(pixels)

    @torch.no_grad()
    def rescale_values(self, mean: Tensor, std: Tensor) -> None:
        """Let the value head work in units of `std` around `mean` (scalars) without changing any value.

        PopArt (van Hasselt et al. 2016): rewards of any size, sparse or dense, train alike.
        """
        self.to_value.weight.mul_(self.value_std / std)
        self.to_value.bias.mul_(self.value_std).add_(self.value_mean - mean).div_(std)
        self.value_mean.copy_(mean)
        self.value_std.copy_(std)

    def step(self, frames: Tensor, state: State) -> tuple[PolicyOutput, State]:
        """Act on frames (B, C, H, W) uint8: logits (B, A), values (B,), and the state after them."""
        output, state = self.unroll(self.features(frames).unsqueeze(0), state)
        return PolicyOutput(output.logits[0], output.values[0]), state

    def unroll(self, features: Tensor, state: State) -> tuple[PolicyOutput, State]:
        """Run over features (T, B, F) from a state: logits (T, B, A), values (T, B), and the last state."""
        # Under autocast the LSTM needs its state in the features' precision.
        hx = (state.hidden.unsqueeze(0).to(features.dtype), state.cell.unsqueeze(0).to(features.dtype))
        hidden, (last_hidden, last_cell) = self.lstm(features, hx)
        values = self.value_mean + self.value_std * self.to_value(hidden).squeeze(-1).float()
        output = PolicyOutput(self.to_logits(hidden).float(), values)
        return output, State(last_hidden[0].float(), last_cell[0].float())

    def forward(self, frames: Tensor, valid: Tensor, burn_in: int) -> PolicyOutput:
        """Logits (B, S, A) and values (B, S) of the frames after the first `burn_in` ones, which warm up the state.

        frames (B, burn_in + S, C, H, W) uint8; `valid` (B, burn_in) is False where a burn-in frame is before its
        episode's start: the state stays zero there. No gradient goes through the burn-in (Kapturowski et al. 2019).
        """
        with torch.no_grad():
            state = self._burn_in(frames[:, :burn_in], valid)
        trained = frames[:, burn_in:].flatten(0, 1)
        features = self.features(trained).unflatten(0, (len(frames), -1))
        output, _ = self.unroll(features.transpose(0, 1), state)
        return PolicyOutput(output.logits.transpose(0, 1), output.values.transpose(0, 1))

    def _burn_in(self, frames: Tensor, valid: Tensor) -> State:
        state = self.initial_state(len(frames))
        if not frames.shape[1]:
            return state
        features = self.features(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
        for t in range(frames.shape[1]):
            _, state = self.unroll(features[:, t].unsqueeze(0), state)
            state = state.masked(valid[:, t])
        return state
