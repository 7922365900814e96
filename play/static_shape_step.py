"""The step that play makes: one more frame of each of several rollouts, with tensors whose shapes never change.

So rollouts with histories of any length are stepped in one pass, each step takes the same time, and the step can be
written as an ONNX file. It equals `GenieRedux.step` (models/streaming.py): a history slides, or, when it is full, its
older half is dropped, as if play had started with the other. The KV cache of the remaining half is not recomputed at
that moment: a second cache, the successor, is filled frame by frame next to the first.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from data_generation.data.errors import FieldError
from models.components.maskgit import gumbel_argmax
from models.components.position import alibi_slopes
from models.components.st_transformer import LayerCache, STTransformer, TemporalLayer
from models.config import TransformerConfig
from models.dynamics import SLIDING_FRAMES
from models.genie_redux import GenieRedux
from models.streaming import num_kept

PREDICT = -1  # in place of the ids of a known frame


class RolloutState(NamedTuple):
    """Where B rollouts stand. A value: a step makes a new one, so a player can go back or branch off.

    ids (B, h, w) int32: the last frame, which waits for its action. surplus (B, h, w, D): what is added to its
    embeddings (`GenieRedux.history_surplus`); without one, (B, 1). num_frames (B,) int32: of the history, that frame
    included. The caches are those of `StaticShapeTransformer`, of the history and of its successor: (B, 2, …). A
    history that slides has no successor: (B, 1, …).
    """

    ids: Tensor
    surplus: Tensor
    num_frames: Tensor
    dynamics_attention: Tensor
    dynamics_peg: Tensor
    decoder_attention: Tensor
    decoder_peg: Tensor


def join(states: Sequence[RolloutState]) -> RolloutState:
    """The rollouts of several states as one batch."""
    return RolloutState(*(torch.cat(parts) for parts in zip(*states, strict=True)))


def split(state: RolloutState) -> list[RolloutState]:
    """Each rollout on its own. Copies, so that one which is kept does not keep the others' memory."""
    return [RolloutState(*(part[i : i + 1].clone() for part in state)) for i in range(len(state.ids))]


class StaticShapeTransformer(nn.Module):
    """An ST-transformer that appends one frame to histories of up to `num_slots` frames.

    Its caches have a fixed size. Attention: keys and values (R, L, 2, hw, heads, num_slots, dim_head) of the L layers
    over time, the newest frame last. PEG: the last two inputs (R, 2L, 2, h, w, D). Slots of no frame may hold anything
    finite.
    """

    def __init__(self, transformer: STTransformer, config: TransformerConfig, spatial_bias: Tensor, num_slots: int):
        super().__init__()
        self.transformer, self.dim_head, self.num_slots = transformer, config.dim_head, num_slots
        age = torch.arange(num_slots, -1, -1)  # of a frame in the cache; the one that is appended is 0
        distance = torch.tensor(alibi_slopes(transformer.heads))[:, None, None] * age
        self.age, self.spatial_bias, self.alibi = (
            nn.Buffer(tensor, persistent=False) for tensor in (age, spatial_bias, -distance)
        )
        self.peg_age = nn.Buffer(torch.tensor([2, 1]), persistent=False)

    def forward(self, x: Tensor, num_past: Tensor, attention: Tensor, peg: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Transform tokens (R, 1, h, w, D) of a frame after `num_past` (R,) others; also the caches after it."""
        is_known = self.age <= rearrange(num_past, "r -> r 1 1 1 1")
        temporal_bias = torch.where(is_known, self.alibi, float("-inf"))
        is_known = rearrange(self.peg_age, "two -> two 1 1 1") <= rearrange(num_past, "r -> r 1 1 1 1 1")
        peg = torch.where(is_known, peg, 0.0)
        caches = iter(attention.unbind(dim=1))
        past = [
            LayerCache(layer_peg, *(next(caches).unbind(dim=1) if isinstance(layer, TemporalLayer) else ()))
            for layer, layer_peg in zip(self.transformer.halves, peg.unbind(dim=1), strict=True)
        ]
        x, layers = self.transformer.run_layers(x, self.spatial_bias, temporal_bias, past)
        pairs = [
            torch.stack([layer.keys[..., 1:, :], layer.values[..., 1:, :]], dim=1)
            for layer in layers
            if layer.keys is not None and layer.values is not None
        ]
        return x, torch.stack(pairs, dim=1), torch.stack([layer.peg for layer in layers], dim=1)

    def empty(self, grid: int, batch: int, num_caches: int) -> tuple[Tensor, Tensor]:
        """Caches (B, num_caches, …) of histories and successors without frames, of grid x grid tokens."""
        heads, width = self.transformer.heads, self.transformer.norm.weight.shape[0]
        num_layers, device = len(self.transformer.halves), self.age.device
        num_temporal = sum(isinstance(layer, TemporalLayer) for layer in self.transformer.halves)
        attention = (batch, num_caches, num_temporal, 2, grid**2, heads, self.num_slots, self.dim_head)
        peg = (batch, num_caches, num_layers, 2, grid, grid, width)
        return torch.zeros(attention, device=device), torch.zeros(peg, device=device)


class StepResult(NamedTuple):
    """New frames (B, C, H, W), not clamped, the logits (B, h, w, V) of their tokens, and the state after them."""

    frame: Tensor
    logits: Tensor
    state: RolloutState


class StaticShapeStep(nn.Module):
    """The step of a world model whose weights no longer change.

    `window`: frames of history; None = what the model takes. `temperature` > 0 samples the tokens with noise that is
    given; 0 takes the likeliest ones, as `GenieRedux.step` does. FieldError of `window` where it is too long.
    There are no MaskGIT rounds, since a single next frame does not depend on masked tokens (models/streaming.py).
    """

    def __init__(self, model: GenieRedux, window: int | None = None, temperature: float = 0.0):
        super().__init__()
        self.model = model.eval()
        self.temperature = temperature
        # Tokens that are sampled are not the model's expectation.
        self.has_surplus = model.dynamics.config.history_tokens == "expected" and temperature == 0
        tokenizer, dynamics = model.tokenizer, model.dynamics
        self.grid = tokenizer.grid
        self.slides = model.history_slides
        # Without its successor, a history of two frames would become one of one frame at once.
        least = SLIDING_FRAMES if self.slides else 2
        if window is not None and window > dynamics.max_frames:
            raise FieldError("window", window, f"the model takes {dynamics.max_frames} frames", "lower it, or omit it")
        self.window = max(least, window or dynamics.max_frames)
        self.num_caches = 1 if self.slides else 2
        with torch.no_grad():
            bias = dynamics.position_bias(self.grid, self.grid)
            # What is full loses frames before a step, what slides after it.
            num_slots = self.window - (1 if self.slides else 2)
            self.dynamics = StaticShapeTransformer(dynamics.transformer, dynamics.config, bias, num_slots)
            bias = tokenizer.position_bias(self.grid, self.grid)
            self.decoder = StaticShapeTransformer(tokenizer.decoder, tokenizer.config, bias, self.window - 1)
        self.to(next(model.parameters()).device)

    @property
    def reach(self) -> int:
        """The newest frames that lead to a rollout's state again, however long it is."""
        if not self.slides:
            return self.window
        decoder = 0 if self.model.tokenizer.config.temporal == "none" else self.decoder.transformer.reach(self.window)
        return max(1 + self.dynamics.transformer.reach(self.window), decoder)

    def start(self, batch: int = 1) -> RolloutState:
        """The state before any frame. Frames that are known are appended first."""
        device = self.dynamics.age.device
        ids = torch.zeros(batch, self.grid, self.grid, dtype=torch.int32, device=device)
        num_frames = torch.zeros(batch, dtype=torch.int32, device=device)
        # Tensors without numbers are none of ONNX's.
        width = self.model.dynamics.config.dim
        surplus = torch.zeros(batch, *((self.grid, self.grid, width) if self.has_surplus else (1,)), device=device)
        decoder = self.decoder.empty(self.grid, batch, self.num_caches)
        if self.model.tokenizer.config.temporal == "none":
            # It keeps nothing.
            decoder = torch.zeros(batch, 1, device=device), torch.zeros(batch, 1, device=device)
        dynamics = self.dynamics.empty(self.grid, batch, self.num_caches)
        return RolloutState(ids, surplus, num_frames, *dynamics, *decoder)

    @torch.no_grad()
    def advance(
        self,
        state: RolloutState,
        action: Tensor,
        known: Tensor | None = None,
        noise: Tensor | None = None,
        known_surplus: Tensor | None = None,
    ) -> StepResult:
        """The next frame of each rollout after action ids (B,).

        known (B, h, w): its ids where a known frame is appended, else PREDICT. noise (B, h, w, V): uniform in [0, 1).
        known_surplus: as in the state, of known frames that were predicted; None = all of them were recorded.
        """
        num_frames = self._of_caches(state.num_frames)
        x = self._embed(state, action, (num_frames - 1).clamp_min(0))
        caches = state.dynamics_attention, state.dynamics_peg
        x, *dynamics = self._extend(self.dynamics, x, (num_frames - 1).clamp_min(0), *caches)
        logits = self.model.dynamics.to_logits(x[:: self.num_caches, 0])
        ids = logits.argmax(dim=-1) if noise is None else gumbel_argmax(logits, self.temperature, noise)
        ids = ids.to(torch.int32)
        surplus = self.model.history_surplus(logits, ids.long()) if self.has_surplus else None
        if known is not None:
            given = 0.0 if known_surplus is None else known_surplus
            surplus = None if surplus is None else torch.where(known.unsqueeze(-1) >= 0, given, surplus)
            ids = torch.where(known >= 0, known, ids)
        frame, *decoder = self._decode(ids, num_frames, state.decoder_attention, state.decoder_peg)
        surplus = state.surplus if surplus is None else surplus
        return StepResult(frame, logits, self._after(ids, surplus, state.num_frames + 1, [*dynamics, *decoder]))

    def forward(self, action: Tensor, known: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        """`advance` as ONNX holds it: `rest` is the state and, with a temperature, the noise.

        Pixels (B, H, W, 4) uint8, as a canvas takes them, and the state after it.
        """
        num_parts = len(RolloutState._fields)
        frame, _, state = self.advance(RolloutState(*rest[:num_parts]), action, known, *rest[num_parts:])
        return _pixels(frame), *state

    def _after(self, ids: Tensor, surplus: Tensor, num_frames: Tensor, caches: list[Tensor]) -> RolloutState:
        """The state of histories with a frame more, `num_frames`, as its caches were left by the step."""
        is_full = num_frames >= self.window
        num_left = self.window if self.slides else num_kept(self.window)
        num_frames = torch.where(is_full, num_left, num_frames).to(torch.int32)
        if not self.slides:
            caches = [_succeeded(cache, is_full) for cache in caches]
        return RolloutState(ids, surplus, num_frames, *caches)

    def _of_caches(self, num_frames: Tensor) -> Tensor:
        """Frames (2B,) of each history and of its successor, which begins in time to be the newer half."""
        if self.slides:
            return num_frames
        successor = (num_frames - (self.window - num_kept(self.window))).clamp_min(0)
        return torch.stack([num_frames, successor], dim=1).flatten()

    def _embed(self, state: RolloutState, action: Tensor, position: Tensor) -> Tensor:
        """Tokens (2B, 1, h, w, D) of the last frames at their positions (2B,) in histories and successors."""
        n = self.num_caches
        ids = repeat(state.ids.long(), "b h w -> (b n) 1 h w", n=n)
        surplus = repeat(state.surplus, "b h w d -> (b n) 1 h w d", n=n) if self.has_surplus else None
        action_input = self.model.action_input(repeat(action.long(), "b -> (b n) 1", n=n))
        positions = self.model.dynamics.frame_positions.index_select(0, position).unsqueeze(1)
        mask = torch.zeros_like(ids, dtype=torch.bool)
        token_input = self.model.token_input(ids)
        return self.model.dynamics.embed_at(ids, mask, action_input, token_input, positions, surplus)

    def _decode(self, ids: Tensor, num_past: Tensor, attention: Tensor, peg: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Frames (B, C, H, W) of ids (B, h, w) after `num_past` (2B,) others; also the decoder's caches after them."""
        tokenizer, shown = self.model.tokenizer, ids.long().unsqueeze(1)
        if tokenizer.config.temporal == "none":
            return tokenizer.decode(shown)[:, 0], attention, peg
        tokens = repeat(tokenizer.quantizer.decode(shown), "b ... -> (b n) ...", n=self.num_caches)
        tokens, attention, peg = self._extend(self.decoder, tokens, num_past, attention, peg)
        return tokenizer.to_pixels(tokens[:: self.num_caches], continued=True)[:, 0], attention, peg

    def _extend(
        self, transformer: StaticShapeTransformer, x: Tensor, num_past: Tensor, attention: Tensor, peg: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`transformer` on x (2B, 1, h, w, D), with caches (B, 2, …)."""
        x, *caches = transformer(x, num_past, attention.flatten(0, 1), peg.flatten(0, 1))
        attention, peg = (cache.unflatten(0, (-1, self.num_caches)) for cache in caches)
        return x, attention, peg


def _succeeded(cache: Tensor, is_full: Tensor) -> Tensor:
    """A cache (B, 2, …) in which the successors of full histories have taken their places."""
    if cache.dim() == 2:
        return cache
    is_full = is_full.view(-1, *[1] * (cache.dim() - 2))
    return torch.stack([torch.where(is_full, cache[:, 1], cache[:, 0]), cache[:, 1]], dim=1)


def _pixels(frame: Tensor) -> Tensor:
    """RGBA (B, H, W, 4) uint8 of frames (B, C, H, W)."""
    colour = (frame.clamp(0, 1) * 255).round().expand(-1, 3, -1, -1)
    opaque = torch.full_like(colour[:, :1], 255)
    return rearrange(torch.cat([colour, opaque], dim=1), "b c h w -> b h w c").to(torch.uint8)
