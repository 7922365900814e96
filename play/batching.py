"""Rollouts of one model, of environments and visitors alike, each step of which is one forward pass for many."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models import streaming
from models.genie_redux import GenieRedux
from models.streaming import StreamState
from play.starts import Start


@dataclass(frozen=True)
class Simulated:
    """A step's frame (C, H, W) uint8, the entropy (h, w) of its tokens as a share of the greatest, the state after."""

    frame: np.ndarray
    entropy: np.ndarray
    state: StreamState


class Simulator:
    """Starts and steps rollouts. A rollout is its state, a value, which is kept by whoever plays."""

    def __init__(self, model: GenieRedux, window: int | None = None, anchors: int | None = None):
        """`window`: frames of history, None = as many as the model takes. `anchors`: as in `models.streaming.step`."""
        self.model, self._window, self._anchors = model, window, anchors
        self._device = next(model.parameters()).device

    def start(self, start: Start) -> StreamState:
        """The state after a start's frames."""
        frames = torch.tensor(start.frames, device=self._device).float().unsqueeze(0) / 255
        # The actions that a dataset names mean nothing to a model with latent ones, which infers its own.
        actions = None
        if self.model.takes_actions:
            actions = torch.tensor(start.actions, dtype=torch.int64, device=self._device).unsqueeze(0)
        return self.model.start(frames, actions, self._window, self._anchors)

    def step(self, states: Sequence[StreamState], actions: Sequence[int]) -> list[Simulated]:
        """Step rollouts, those with equally long histories in one pass."""
        groups: dict[int, list[int]] = defaultdict(list)
        for i, state in enumerate(states):
            groups[state.ids.shape[1]].append(i)
        steps: dict[int, Simulated] = {}
        for rows in groups.values():
            chosen = torch.tensor([actions[i] for i in rows], device=self._device)
            step = self.model.advance(streaming.join([states[i] for i in rows]), chosen)
            frames, entropy = to_uint8(step.frame), entropy_share(step.logits).cpu().numpy()
            steps |= {
                i: Simulated(frames[k], entropy[k], state)
                for k, (i, state) in enumerate(zip(rows, streaming.split(step.state), strict=True))
            }
        return [steps[i] for i in range(len(states))]


def to_uint8(frames: Tensor) -> np.ndarray:
    """Frames (B, C, H, W) float, not clamped, as uint8."""
    return (frames.float().clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()


def entropy_share(logits: Tensor) -> Tensor:
    """Entropy of logits (..., V) as a share of log V: 0 = certain, 1 = no idea."""
    log_probability = torch.log_softmax(logits.float(), dim=-1)
    entropy = -(log_probability.exp() * log_probability).sum(dim=-1)
    return entropy / np.log(logits.shape[-1])
