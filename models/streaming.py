"""Interactive use: one frame a step, at the cost of one frame."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from models.components.st_transformer import Cache, LayerCache
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


@dataclass(frozen=True)
class StreamStep:
    """A new frame (B, C, H, W), not clamped, the logits (B, h, w, V) of its tokens, and the state after it."""

    frame: Tensor
    logits: Tensor
    state: StreamState


def step(model: Streamable, state: StreamState, action_input: Tensor) -> StreamStep:
    """The next frame under action input (B, 1, ...).

    The first frame after known ones does not depend on masked tokens (the shift): one pass gives the argmax.
    When the history is full, its newer half becomes the whole of it, as if play had started there.
    """
    if state.ids.shape[1] >= state.window:
        keep = max(1, state.window // 2)
        kept_actions = state.actions[:, state.actions.shape[1] - (keep - 1) :]
        state = start(model, state.ids[:, -keep:], kept_actions, state.window)
    logits, dynamics = model.append_frames(state.ids[:, -1:], action_input, state.dynamics)
    ids = logits.argmax(dim=-1)
    decoded = model.tokenizer.decode_next(ids, state.decoder)
    history = torch.cat([state.ids, ids], dim=1)
    actions = torch.cat([state.actions, action_input], dim=1)
    after = StreamState(history, actions, dynamics, decoded.cache, state.window)
    return StreamStep(decoded.video[:, 0], logits[:, 0], after)


# ---- several rollouts in one pass -----------------------------------------------------------------------------------


def join(states: Sequence[StreamState]) -> StreamState:
    """The rollouts of several states, whose histories are equally long, as one batch."""
    first = states[0]
    if len(states) == 1:
        return first
    dynamics = _join_caches([state.dynamics for state in states])
    decoder = _join_caches([state.decoder for state in states])
    ids, actions = torch.cat([state.ids for state in states]), torch.cat([state.actions for state in states])
    return StreamState(ids, actions, dynamics, decoder, first.window)


def split(state: StreamState) -> list[StreamState]:
    """Each rollout of a batch on its own. Copies, so that one which is kept does not keep the others' memory."""
    if len(state.ids) == 1:
        return [state]
    return [
        StreamState(
            state.ids[i : i + 1],
            state.actions[i : i + 1],
            _row(state.dynamics, i),
            _row(state.decoder, i),
            state.window,
        )
        for i in range(len(state.ids))
    ]


def _join_caches(caches: Sequence[Cache]) -> Cache:
    layers = [_join_layers(layers) for layers in zip(*(cache.layers for cache in caches), strict=True)]
    return Cache(caches[0].num_frames, layers)


def _join_layers(layers: Sequence[LayerCache]) -> LayerCache:
    keys = [layer.keys for layer in layers if layer.keys is not None]
    values = [layer.values for layer in layers if layer.values is not None]
    peg = torch.cat([layer.peg for layer in layers])
    return LayerCache(peg, torch.cat(keys), torch.cat(values)) if keys else LayerCache(peg)


def _row(cache: Cache, i: int) -> Cache:
    return Cache(cache.num_frames, [_layer_row(layer, slice(i, i + 1)) for layer in cache.layers])


def _layer_row(layer: LayerCache, row: slice) -> LayerCache:
    if layer.keys is None or layer.values is None:
        return LayerCache(layer.peg[row].clone())
    return LayerCache(layer.peg[row].clone(), layer.keys[row].clone(), layer.values[row].clone())
