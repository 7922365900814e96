"""Interactive use: one frame a step, at the cost of one frame."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
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
    greatest number of frames in the history. `anchors`: what a full history forgets (see `step`).
    """

    ids: Tensor
    actions: Tensor
    dynamics: Cache
    decoder: Cache
    window: int
    anchors: int | None = None


class Streamable(Protocol):
    """What streaming needs of a world model."""

    @property
    def tokenizer(self) -> Tokenizer: ...

    def append_frames(self, ids: Tensor, action_input: Tensor, cache: Cache) -> tuple[Tensor, Cache]: ...


def start(
    model: Streamable, prime_ids: Tensor, action_input: Tensor, window: int, anchors: int | None = None
) -> StreamState:
    """State after frames with ids (B, P, h, w) and the action inputs (B, P-1, ...) between them."""
    if prime_ids.shape[1] > window:
        prime_ids, action_input = prime_ids[:, -window:], action_input[:, prime_ids.shape[1] - window :]
    dynamics = Cache()
    if prime_ids.shape[1] > 1:
        dynamics = model.append_frames(prime_ids[:, :-1], action_input, dynamics)[1]
    decoder = model.tokenizer.decode_next(prime_ids, Cache()).cache
    return StreamState(prime_ids, action_input, dynamics, decoder, window, anchors)


@dataclass(frozen=True)
class StreamStep:
    """A new frame (B, C, H, W), not clamped, the logits (B, h, w, V) of its tokens, and the state after it."""

    frame: Tensor
    logits: Tensor
    state: StreamState


def step(model: Streamable, state: StreamState, action_input: Tensor) -> StreamStep:
    """The next frame under action input (B, 1, ...).

    The first frame after known ones does not depend on masked tokens (the shift): one pass gives the argmax.
    When the history is full, its newer half becomes the whole of it, as if play had started there. With `anchors`, the
    oldest frame after the first `anchors` ones is forgotten instead: nothing is computed anew, so that each step takes
    the same time; but the picture comes to rest sooner (docs/results/play.md).
    """
    if state.ids.shape[1] >= state.window:
        state = _newer_half(model, state) if state.anchors is None or state.window < 2 else _without_oldest(state)
    logits, dynamics = model.append_frames(state.ids[:, -1:], action_input, state.dynamics)
    ids = logits.argmax(dim=-1)
    decoded = model.tokenizer.decode_next(ids, state.decoder)
    history = torch.cat([state.ids, ids], dim=1)
    actions = torch.cat([state.actions, action_input], dim=1)
    after = StreamState(history, actions, dynamics, decoded.cache, state.window, state.anchors)
    return StreamStep(decoded.video[:, 0], logits[:, 0], after)


def _newer_half(model: Streamable, state: StreamState) -> StreamState:
    keep = max(1, state.window // 2)
    kept_actions = state.actions[:, state.actions.shape[1] - (keep - 1) :]
    return start(model, state.ids[:, -keep:], kept_actions, state.window)


def _without_oldest(state: StreamState) -> StreamState:
    """A full history without its oldest frame that is no anchor."""
    assert state.anchors is not None
    frame = min(state.anchors, state.ids.shape[1] - 2)
    ids, actions = (torch.cat([x[:, :frame], x[:, frame + 1 :]], dim=1) for x in (state.ids, state.actions))
    dynamics, decoder = _without_frame(state.dynamics, frame), _without_frame(state.decoder, frame)
    return replace(state, ids=ids, actions=actions, dynamics=dynamics, decoder=decoder)


def _without_frame(cache: Cache, frame: int) -> Cache:
    def cut(x: Tensor | None) -> Tensor | None:
        return None if x is None else torch.cat([x[..., :frame, :], x[..., frame + 1 :, :]], dim=-2)

    layers = [LayerCache(layer.peg, cut(layer.keys), cut(layer.values)) for layer in cache.layers]
    return Cache(cache.num_frames - 1, layers)


# ---- several rollouts in one pass -----------------------------------------------------------------------------------


def join(states: Sequence[StreamState]) -> StreamState:
    """The rollouts of several states, whose histories are equally long, as one batch."""
    first = states[0]
    if len(states) == 1:
        return first
    dynamics = _join_caches([state.dynamics for state in states])
    decoder = _join_caches([state.decoder for state in states])
    ids, actions = torch.cat([state.ids for state in states]), torch.cat([state.actions for state in states])
    return StreamState(ids, actions, dynamics, decoder, first.window, first.anchors)


def split(state: StreamState) -> list[StreamState]:
    """Each rollout of a batch on its own. Copies, so that one which is kept does not keep the others' memory."""
    if len(state.ids) == 1:
        return [state]
    return [
        replace(
            state,
            ids=state.ids[i : i + 1],
            actions=state.actions[i : i + 1],
            dynamics=_row(state.dynamics, i),
            decoder=_row(state.decoder, i),
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
