"""Rollouts of one model, of environments and visitors alike, each step of which is one forward pass for all."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.genie_redux import GenieRedux
from play.starts import Start
from play.static_shape_step import PREDICT, RolloutState, StaticShapeStep, join, split


@dataclass(frozen=True)
class Simulated:
    """A step's frame (C, H, W) uint8, the entropy (h, w) of its tokens as a share of the greatest, the state after."""

    frame: np.ndarray
    entropy: np.ndarray
    state: RolloutState


@dataclass(frozen=True)
class KnownFrame:
    """A frame that is appended as it is: its token ids (h, w), and its surplus (h, w, D) if it was predicted."""

    ids: np.ndarray
    surplus: np.ndarray | None = None

    @classmethod
    def last_of(cls, state: RolloutState) -> "KnownFrame":
        """The frame that was predicted last, of one rollout. Without its surplus the model would read another frame."""
        ids, surplus = state.ids[0].cpu().numpy(), state.surplus[0].cpu().numpy()
        return cls(ids, surplus if surplus.ndim == 3 else None)


class Simulator:
    """Starts and steps rollouts. A rollout is its state, a value, which is kept by whoever plays."""

    def __init__(self, model: GenieRedux, window: int | None = None):
        """`window`: frames of history, None = as many as the model takes."""
        self.model, self._step = model, StaticShapeStep(model, window)
        self._device = next(model.parameters()).device

    @property
    def window(self) -> int:
        """The greatest number of frames in a history."""
        return self._step.window

    def num_read(self, state: RolloutState, num_frames: int) -> int:
        """How many of the newest of a rollout's `num_frames` frames lead to its `state` again."""
        return min(num_frames, self.reach) if self.model.history_slides else int(state.num_frames[0])

    @property
    def reach(self) -> int:
        """The greatest number of frames that lead to a rollout's state."""
        return self._step.reach

    def start(self, start: Start) -> RolloutState:
        """The state after a start's frames."""
        return self.follow(*self.encode(start))

    @torch.no_grad()
    def encode(self, start: Start) -> tuple[list[KnownFrame], np.ndarray]:
        """A start's P newest frames as the model reads them, and the actions between its frames as it understands them.

        P: as many as a history takes.
        The actions that a dataset names mean nothing to a model with latent ones, which infers its own.
        """
        frames = torch.tensor(start.frames, device=self._device).float().unsqueeze(0) / 255
        actions = start.actions
        if not self.model.takes_actions and len(start.frames) > 1:
            actions = self.model.infer_actions(frames)[0].cpu().numpy()
        ids = self.model.tokenizer.encode(frames)[0].to(torch.int32).cpu().numpy()
        return [KnownFrame(frame) for frame in ids[-self.window :]], actions

    def follow(self, frames: Sequence[KnownFrame], actions: np.ndarray) -> RolloutState:
        """The state after P known frames and the actions between them, of which the newest P-1 count."""
        state = self.empty()
        for action, known in self.history(frames, actions):
            state = self.step([state], [action], [known])[0].state
        return state

    def empty(self) -> RolloutState:
        """The state before any frame."""
        return self._step.start()

    def history(self, frames: Sequence[KnownFrame], actions: np.ndarray) -> list[tuple[int, KnownFrame]]:
        """The steps that lead from no frame to those of `follow`: actions and frames."""
        return list(zip([0, *actions[len(actions) + 1 - len(frames) :].tolist()], frames, strict=True))

    def step(
        self, states: Sequence[RolloutState], actions: Sequence[int], known: Sequence[KnownFrame | None] | None = None
    ) -> list[Simulated]:
        """Step rollouts in one pass. known: of each, the frame that it leads to; None = it is predicted."""
        before = join(states)
        ids, surplus = self._given(known, before)
        made = self._step.advance(before, torch.tensor(actions, device=self._device), ids, known_surplus=surplus)
        frames, entropy = to_uint8(made.frame), entropy_share(made.logits).cpu().numpy()
        return [Simulated(frames[i], entropy[i], state) for i, state in enumerate(split(made.state))]

    def _given(
        self, known: Sequence[KnownFrame | None] | None, state: RolloutState
    ) -> tuple[Tensor | None, Tensor | None]:
        """Ids and surplus of frames, some of them not known, as in `state`; None = none of them, none has any."""
        if known is None or all(frame is None for frame in known):
            return None, None
        ids, surplus = torch.full_like(state.ids, PREDICT), torch.zeros_like(state.surplus)
        for i, frame in enumerate(known):
            if frame is not None:
                ids[i] = torch.from_numpy(frame.ids)
                if frame.surplus is not None:
                    surplus[i] = torch.from_numpy(frame.surplus)
        return ids, surplus


def to_uint8(frames: Tensor) -> np.ndarray:
    """Frames (B, C, H, W) float, not clamped, as uint8."""
    return (frames.float().clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()


def entropy_share(logits: Tensor) -> Tensor:
    """Entropy of logits (..., V) as a share of log V: 0 = certain, 1 = no idea."""
    log_probability = torch.log_softmax(logits.float(), dim=-1)
    entropy = -(log_probability.exp() * log_probability).sum(dim=-1)
    return entropy / np.log(logits.shape[-1])
