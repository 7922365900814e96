"""One step of a world model as a function of tensors whose shapes never change, which ONNX can hold.

It equals `GenieRedux.step` with anchors (models/streaming.py): a full history forgets its oldest frame but the first
ones, so play never ends and each step takes the same time. `python run.py play` goes on with the newer half instead.
"""

import torch
from einops import rearrange
from torch import Tensor, nn

from models.components.maskgit import gumbel_argmax
from models.components.position import alibi_slopes
from models.components.st_transformer import LayerCache, STTransformer, TemporalLayer
from models.config import TransformerConfig
from models.genie_redux import GenieRedux

ANCHORS = 1  # first frames that a full history keeps
MIN_WINDOW = ANCHORS + 2
PREDICT = -1  # in place of the ids of a known frame
STATE = ("num_frames", "dynamics_attention", "dynamics_peg", "decoder_attention", "decoder_peg")


class FixedTransformer(nn.Module):
    """An ST-transformer that appends one frame to a history, which has `window` frames then at most.

    Its caches have a fixed size. Attention: keys and values (1, L, 2, hw, heads, window - 1, dim_head) of the L layers
    over time, the newest frame last. PEG: the last two inputs (1, 2L, 2, h, w, D). Slots of no frame may hold anything
    finite.
    """

    def __init__(self, transformer: STTransformer, config: TransformerConfig, spatial_bias: Tensor, window: int):
        super().__init__()
        self.transformer, self.dim_head, self.window = transformer, config.dim_head, window
        age = torch.arange(window - 1, -1, -1)  # of a frame in the cache; the one that is appended is 0
        distance = torch.tensor(alibi_slopes(transformer.heads))[:, None, None] * age
        self.age, self.spatial_bias, self.alibi = (
            nn.Buffer(tensor, persistent=False) for tensor in (age, spatial_bias, -distance)
        )
        self.peg_age = nn.Buffer(torch.tensor([2, 1]), persistent=False)

    def forward(self, x: Tensor, num_past: Tensor, attention: Tensor, peg: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Transform tokens (1, 1, h, w, D) of a frame after `num_past` (1,) others; also the caches after it."""
        temporal_bias = torch.where(self.age <= num_past, self.alibi, float("-inf"))
        peg = torch.where(rearrange(self.peg_age <= num_past, "two -> two 1 1 1"), peg, 0.0)
        caches = iter(attention.unbind(dim=1))
        past = [
            LayerCache(layer_peg, *(next(caches).unbind(dim=1) if isinstance(layer, TemporalLayer) else ()))
            for layer, layer_peg in zip(self.transformer.halves, peg.unbind(dim=1), strict=True)
        ]
        x, layers = self.transformer.run_layers(x, self.spatial_bias, temporal_bias, past)
        is_full = num_past + 1 >= self.window
        pairs = [
            torch.stack([_without_oldest(layer.keys, is_full), _without_oldest(layer.values, is_full)], dim=1)
            for layer in layers
            if layer.keys is not None and layer.values is not None
        ]
        return x, torch.stack(pairs, dim=1), torch.stack([layer.peg for layer in layers], dim=1)

    def empty(self, grid: int) -> tuple[Tensor, Tensor]:
        """Caches of a history without frames, of grid x grid tokens."""
        heads, width = self.transformer.heads, self.transformer.norm.weight.shape[0]
        num_layers = len(self.transformer.halves)
        attention = torch.zeros(1, num_layers // 2, 2, grid**2, heads, self.window - 1, self.dim_head)
        return attention, torch.zeros(1, num_layers, 2, grid, grid, width)


def _without_oldest(x: Tensor, is_full: Tensor) -> Tensor:
    """Keys or values (..., t, d) without the oldest frame that is no anchor; without the first slot if not full."""
    first = torch.where(is_full, x[..., :ANCHORS, :], x[..., 1 : ANCHORS + 1, :])
    return torch.cat([first, x[..., ANCHORS + 1 :, :]], dim=-2)


class FixedStep(nn.Module):
    """The step: the next frame after the last one's ids and an action, and the history with it.

    `window`: frames of history, MIN_WINDOW or more; None = what the model takes. `temperature` > 0 draws the tokens
    with noise that is given; 0 takes the likeliest ones, as `GenieRedux.step` does.
    There are no MaskGIT rounds, since a single next frame does not depend on masked tokens (models/streaming.py).
    """

    def __init__(self, model: GenieRedux, window: int | None = None, temperature: float = 0.0):
        super().__init__()
        self.model = model.eval()
        self.temperature = temperature
        tokenizer, dynamics = model.tokenizer, model.dynamics
        self.grid = tokenizer.grid
        self.window = min(window or dynamics.max_frames, dynamics.max_frames)
        with torch.no_grad():
            bias = dynamics.position_bias(self.grid, self.grid)
            self.dynamics = FixedTransformer(dynamics.transformer, dynamics.config, bias, self.window - 1)
            bias = tokenizer.position_bias(self.grid, self.grid)
            self.decoder = FixedTransformer(tokenizer.decoder, tokenizer.config, bias, self.window)

    @torch.no_grad()
    def forward(
        self,
        ids: Tensor,
        action: Tensor,
        known: Tensor,
        num_frames: Tensor,
        dynamics_attention: Tensor,
        dynamics_peg: Tensor,
        decoder_attention: Tensor,
        decoder_peg: Tensor,
        noise: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """The new frame's ids (h, w) and pixels (H, W, 4), and the state after it.

        ids (h, w): of the last frame. action (1,). known (h, w): the new frame's ids where a recorded frame is
        appended, else PREDICT. num_frames (1,): of the history, the last one included. The caches are those of
        `FixedTransformer`. noise (h, w, V): uniform in [0, 1).
        """
        num_past = (num_frames - 1).clamp_min(0)  # the last frame is not in the dynamics' cache yet
        x = self._embed(ids, action, num_past)
        x, dynamics_attention, dynamics_peg = self.dynamics(x, num_past, dynamics_attention, dynamics_peg)
        logits = self.model.dynamics.to_logits(x)[0, 0]
        drawn = logits.argmax(dim=-1) if noise is None else gumbel_argmax(logits, self.temperature, noise)
        new_ids = torch.where(known >= 0, known, drawn.to(torch.int32))
        tokenizer, shown = self.model.tokenizer, new_ids.long().expand(1, 1, -1, -1)
        if tokenizer.config.temporal == "none":
            frame = tokenizer.decode(shown)
        else:
            y = tokenizer.quantizer.decode(shown)
            y, decoder_attention, decoder_peg = self.decoder(y, num_frames, decoder_attention, decoder_peg)
            frame = tokenizer.to_pixels(y, continued=True)
        num_frames = (num_frames + 1).clamp_max(self.window - 1)
        return (
            new_ids,
            _pixels(frame[0, 0]),
            num_frames,
            dynamics_attention,
            dynamics_peg,
            decoder_attention,
            decoder_peg,
        )

    def _embed(self, ids: Tensor, action: Tensor, position: Tensor) -> Tensor:
        """Tokens (1, 1, h, w, D) of the last frame at `position` (1,) of the history."""
        ids = ids.long().expand(1, 1, -1, -1)
        mask = torch.zeros_like(ids, dtype=torch.bool)
        positions = self.model.dynamics.frame_positions.index_select(0, position).unsqueeze(1)
        action_input = self.model.action_input(action.long().unsqueeze(0))
        return self.model.dynamics.embed_at(ids, mask, action_input, self.model.token_input(ids), positions)

    def start(self) -> dict[str, Tensor]:
        """The state before any frame. Frames that are known are appended first."""
        num_frames = torch.zeros(1, dtype=torch.int32)
        caches = (*self.dynamics.empty(self.grid), *self.decoder.empty(self.grid))
        return dict(zip(STATE, (num_frames, *caches), strict=True))


def _pixels(frame: Tensor) -> Tensor:
    """RGBA (H, W, 4) uint8 of a frame (C, H, W), as a canvas takes them."""
    colour = (frame.clamp(0, 1) * 255).round().expand(3, -1, -1)
    opaque = torch.full_like(colour[:1], 255)
    return rearrange(torch.cat([colour, opaque]), "c h w -> h w c").to(torch.uint8)
