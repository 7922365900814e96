"""Interactive use: one frame a step, at the cost of one frame.

`play/static_shape_step.py` makes the same steps for rollouts of different lengths together, and at an even pace.
"""

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from models.components.st_transformer import Cache
from models.tokenizer import Tokenizer


@dataclass(frozen=True)
class StreamState:
    """Where an interactive rollout stands. A value: stepping returns a new one, so a player can go back or branch off.

    `ids` (B, T, h, w) and `actions` (B, T-1, ...) are the frames and action inputs of the history; the dynamics' cache
    holds all frames but the last, which waits for its action; the decoder's cache holds all. `window` is the greatest
    number of frames in the history (2 where it is 1), and in what a frame of it has seen. `surplus` (B, T, h, w, D) is
    added to the frames' embeddings; None where there is none.
    """

    ids: Tensor
    actions: Tensor
    dynamics: Cache
    decoder: Cache
    window: int
    surplus: Tensor | None = None


class Streamable(Protocol):
    """What streaming needs of a world model."""

    @property
    def tokenizer(self) -> Tokenizer: ...

    @property
    def history_slides(self) -> bool: ...

    def append_frames(
        self, ids: Tensor, action_input: Tensor, cache: Cache, surplus: Tensor | None = None
    ) -> tuple[Tensor, Cache]: ...

    def history_surplus(self, logits: Tensor, ids: Tensor) -> Tensor | None: ...


def start(
    model: Streamable, prime_ids: Tensor, action_input: Tensor, window: int, surplus: Tensor | None = None
) -> StreamState:
    """State after frames with ids (B, P, h, w), the action inputs (B, P-1, ...) between them, and their surplus."""
    if prime_ids.shape[1] > window:
        prime_ids, action_input = prime_ids[:, -window:], action_input[:, prime_ids.shape[1] - window :]
        surplus = None if surplus is None else surplus[:, -window:]
    dynamics = Cache()
    if prime_ids.shape[1] > 1:
        known = None if surplus is None else surplus[:, :-1]
        dynamics = model.append_frames(prime_ids[:, :-1], action_input, dynamics, known)[1]
    decoder = model.tokenizer.decode_next(prime_ids, Cache()).cache
    return _newest(model, StreamState(prime_ids, action_input, dynamics, decoder, window, surplus))


def step(model: Streamable, state: StreamState, action_input: Tensor) -> tuple[Tensor, StreamState]:
    """The next frame (B, C, H, W), not clamped, under action input (B, 1, ...), and the state after it.

    The first frame after known ones does not depend on masked tokens (the shift): one pass gives the argmax.
    Where the history slides (`dynamics.shared_positions`), its oldest frame is dropped when it is longer than the
    window. Otherwise, when it is full, its older half is dropped, as if play had started with the other: every history
    is one that training has seen, which keeps rollouts recognisable longest (docs/results/play.md).
    """
    if not model.history_slides and state.ids.shape[1] >= state.window:
        state = _newer_half(model, state)
    last = None if state.surplus is None else state.surplus[:, -1:]
    logits, dynamics = model.append_frames(state.ids[:, -1:], action_input, state.dynamics, last)
    ids = logits.argmax(dim=-1)
    decoded = model.tokenizer.decode_next(ids, state.decoder)
    history = torch.cat([state.ids, ids], dim=1)
    actions = torch.cat([state.actions, action_input], dim=1)
    surplus = _longer(state, model.history_surplus(logits, ids))
    longer = StreamState(history, actions, dynamics, decoded.cache, state.window, surplus)
    return decoded.video[:, 0], _newest(model, longer)


def _longer(state: StreamState, surplus: Tensor | None) -> Tensor | None:
    """The surplus of the history and of one more frame (B, 1, h, w, D); recorded frames have none."""
    if surplus is None:
        return None
    before = state.surplus
    if before is None:
        before = surplus.new_zeros(len(surplus), state.ids.shape[1], *surplus.shape[2:])
    return torch.cat([before, surplus], dim=1)


def _newest(model: Streamable, state: StreamState) -> StreamState:
    """Where the history slides, what the next frame sees of it. The KV cache stays as it was computed."""
    if not model.history_slides:
        return state
    window = state.window
    return replace(
        state,
        ids=state.ids[:, -window:],
        actions=state.actions[:, 1 - window :],
        dynamics=state.dynamics.newest(window - 1),
        decoder=state.decoder.newest(window - 1),
        surplus=None if state.surplus is None else state.surplus[:, -window:],
    )


def _newer_half(model: Streamable, state: StreamState) -> StreamState:
    keep = num_kept(state.window)
    kept_actions = state.actions[:, state.actions.shape[1] - (keep - 1) :]
    surplus = None if state.surplus is None else state.surplus[:, -keep:]
    return start(model, state.ids[:, -keep:], kept_actions, state.window, surplus)


def num_kept(window: int) -> int:
    """Frames that remain of a full history."""
    return max(1, window // 2)
