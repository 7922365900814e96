"""Interactive use: one frame a step, at the cost of one frame.

`play/fixed_step.py` makes the same steps for rollouts of different lengths together, and at an even pace.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from models.components.st_transformer import Cache
from models.tokenizer import Tokenizer


@dataclass(frozen=True)
class StreamState:
    """Where an interactive rollout stands. A value: stepping returns a new one, so a player can go back or branch off.

    `ids` (B, T, h, w) and `actions` (B, T-1, ...) are the frames and action inputs of the history; the dynamics'
    cache holds all frames but the last, which waits for its action; the decoder's cache holds all. `window` is the
    greatest number of frames in the history.
    """

    ids: Tensor
    actions: Tensor
    dynamics: Cache
    decoder: Cache
    window: int


class Streamable(Protocol):
    """What streaming needs of a world model."""

    @property
    def tokenizer(self) -> Tokenizer: ...

    def append_frames(self, ids: Tensor, action_input: Tensor, cache: Cache) -> tuple[Tensor, Cache]: ...


def start(model: Streamable, prime_ids: Tensor, action_input: Tensor, window: int) -> StreamState:
    """State after frames with ids (B, P, h, w) and the action inputs (B, P-1, ...) between them."""
    if prime_ids.shape[1] > window:
        prime_ids, action_input = prime_ids[:, -window:], action_input[:, prime_ids.shape[1] - window :]
    dynamics = Cache()
    if prime_ids.shape[1] > 1:
        dynamics = model.append_frames(prime_ids[:, :-1], action_input, dynamics)[1]
    decoder = model.tokenizer.decode_next(prime_ids, Cache()).cache
    return StreamState(prime_ids, action_input, dynamics, decoder, window)


def step(model: Streamable, state: StreamState, action_input: Tensor) -> tuple[Tensor, StreamState]:
    """The next frame (B, C, H, W), not clamped, under action input (B, 1, ...), and the state after it.

    The first frame after known ones does not depend on masked tokens (the shift): one pass gives the argmax.
    When the history is full, its newer half becomes the whole of it, as if play had started there: every history is
    one that training has seen, which keeps the picture alive longest (docs/results/play.md).
    """
    if state.ids.shape[1] >= state.window:
        state = _newer_half(model, state)
    logits, dynamics = model.append_frames(state.ids[:, -1:], action_input, state.dynamics)
    ids = logits.argmax(dim=-1)
    decoded = model.tokenizer.decode_next(ids, state.decoder)
    history = torch.cat([state.ids, ids], dim=1)
    actions = torch.cat([state.actions, action_input], dim=1)
    return decoded.video[:, 0], StreamState(history, actions, dynamics, decoded.cache, state.window)


def _newer_half(model: Streamable, state: StreamState) -> StreamState:
    keep = num_kept(state.window)
    kept_actions = state.actions[:, state.actions.shape[1] - (keep - 1) :]
    return start(model, state.ids[:, -keep:], kept_actions, state.window)


def num_kept(window: int) -> int:
    """Frames that remain of a full history."""
    return max(1, window // 2)
