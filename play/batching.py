"""Rollouts of one model, of environments and visitors alike, each step of which is one forward pass for all."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.genie_redux import GenieRedux
from play.fixed_step import PREDICT, FixedStep, RolloutState, join, split
from play.starts import Start


@dataclass(frozen=True)
class Simulated:
    """A step's frame (C, H, W) uint8, the entropy (h, w) of its tokens as a share of the greatest, the state after."""

    frame: np.ndarray
    entropy: np.ndarray
    state: RolloutState


class Simulator:
    """Starts and steps rollouts. A rollout is its state, a value, which is kept by whoever plays."""

    def __init__(self, model: GenieRedux, window: int | None = None):
        """`window`: frames of history, None = as many as the model takes."""
        self.model, self._step = model, FixedStep(model, window)
        self._device = next(model.parameters()).device

    @property
    def window(self) -> int:
        """The greatest number of frames in a history."""
        return self._step.window

    def start(self, start: Start) -> RolloutState:
        """The state after a start's frames."""
        return self.follow(*self.encode(start))

    @torch.no_grad()
    def encode(self, start: Start) -> tuple[np.ndarray, np.ndarray]:
        """Token ids (P, h, w) of a start's frames, and the actions (P-1,) between them, as the model understands them.

        The actions that a dataset names mean nothing to a model with latent ones, which infers its own.
        """
        frames = torch.tensor(start.frames, device=self._device).float().unsqueeze(0) / 255
        actions = start.actions
        if not self.model.takes_actions and len(start.frames) > 1:
            actions = self.model.infer_actions(frames)[0].cpu().numpy()
        return self.model.tokenizer.encode(frames)[0].to(torch.int32).cpu().numpy(), actions

    def follow(self, ids: np.ndarray, actions: np.ndarray) -> RolloutState:
        """The state after frames of known ids (P, h, w) and the actions (P-1,) between them; the newest ones count."""
        state = self.empty()
        for action, known in self.history(ids, actions):
            state = self.step([state], [action], [known])[0].state
        return state

    def empty(self) -> RolloutState:
        """The state before any frame."""
        return self._step.start()

    def history(self, ids: np.ndarray, actions: np.ndarray) -> list[tuple[int, np.ndarray]]:
        """The steps that lead from no frame to those of `follow`: actions and known ids (h, w)."""
        ids = ids[-self.window :]
        return list(zip([0, *actions[len(actions) + 1 - len(ids) :].tolist()], ids, strict=True))

    def step(
        self, states: Sequence[RolloutState], actions: Sequence[int], known: Sequence[np.ndarray | None] | None = None
    ) -> list[Simulated]:
        """Step rollouts in one pass. known: of each, the ids (h, w) of a recorded frame; None = it is predicted."""
        made = self._step.advance(join(states), torch.tensor(actions, device=self._device), self._given(known))
        frames, entropy = to_uint8(made.frame), entropy_share(made.logits).cpu().numpy()
        return [Simulated(frames[i], entropy[i], state) for i, state in enumerate(split(made.state))]

    def _given(self, known: Sequence[np.ndarray | None] | None) -> Tensor | None:
        """Ids (B, h, w) of frames, some of them not known; None = none of them."""
        if known is None or all(ids is None for ids in known):
            return None
        predict = np.full((self._step.grid, self._step.grid), PREDICT, np.int32)
        return torch.from_numpy(np.stack([predict if ids is None else ids for ids in known])).to(self._device)


def to_uint8(frames: Tensor) -> np.ndarray:
    """Frames (B, C, H, W) float, not clamped, as uint8."""
    return (frames.float().clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()


def entropy_share(logits: Tensor) -> Tensor:
    """Entropy of logits (..., V) as a share of log V: 0 = certain, 1 = no idea."""
    log_probability = torch.log_softmax(logits.float(), dim=-1)
    entropy = -(log_probability.exp() * log_probability).sum(dim=-1)
    return entropy / np.log(logits.shape[-1])
