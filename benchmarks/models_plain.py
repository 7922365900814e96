"""The models computed plainly, with the same weights and the same results: what `benchmarks.models` compares with.

As in the published form: PEG as a depthwise Conv3d, attention as product, softmax and product, under autocast whatever
that casts, the position bias made anew in every spatial layer, autocast casting weights where they are used. Sampling
runs every round over the whole window, also rounds that cannot change a result, and decodes the whole window.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from models.components.attention import SCALE, Attention
from models.components.maskgit import Generators, gumbel_sample, least_confident, mask_fraction
from models.components.position import PEG, ContinuousPositionBias, causal_alibi
from models.components.st_transformer import Layer, SpatialLayer, STTransformer
from models.dynamics import Dynamics
from models.genie_redux import GenieRedux, SampleSettings
from models.lam import LatentActionModel
from models.tokenizer import Tokenizer


def make_plain(model: nn.Module) -> nn.Module:
    """Let `model`, in place, compute plainly. `extend` is left as it is: plain code calls `forward`."""
    for module in model.modules():
        if isinstance(module, (Tokenizer, LatentActionModel)):
            _replace(module.encoder, module.position_bias)
            _replace(module.decoder, module.position_bias)
        elif isinstance(module, Dynamics):
            _replace(module.transformer, module.position_bias)
    return model


def _replace(transformer: STTransformer, position_bias: ContinuousPositionBias) -> None:
    def forward(x: Tensor, _bias: Tensor) -> Tensor:
        for layer in transformer.halves:
            assert isinstance(layer, Layer)
            x = _layer(layer, x, position_bias)
        return transformer.norm(x)

    transformer.forward = forward  # type: ignore[method-assign, assignment]


def _layer(layer: Layer, x: Tensor, position_bias: ContinuousPositionBias) -> Tensor:
    num_frames, height, width = x.shape[1:4]
    x = x + _peg(layer.peg, x)
    if isinstance(layer, SpatialLayer):
        tokens = _attention(layer.attention, rearrange(x, "b t h w d -> b t (h w) d"), position_bias(height, width))
        x = x + rearrange(tokens, "b t (h w) d -> b t h w d", h=height)
    else:
        bias = causal_alibi(layer.attention.heads, num_frames, num_frames, x.device)
        tokens = _attention(layer.attention, rearrange(x, "b t h w d -> b (h w) t d"), bias)
        x = x + rearrange(tokens, "b (h w) t d -> b t h w d", h=height)
    value, gate = layer.feed_forward.expand(layer.feed_forward.norm(x)).chunk(2, dim=-1)
    return x + layer.feed_forward.contract(value * F.gelu(gate))


def _peg(peg: PEG, x: Tensor) -> Tensor:
    volume = F.pad(rearrange(x, "b t h w d -> b d t h w"), (1, 1, 1, 1, 2, 0))
    return rearrange(F.conv3d(volume, peg.weight, peg.bias, groups=x.shape[-1]), "b d t h w -> b t h w d")


def _attention(attention: Attention, x: Tensor, bias: Tensor) -> Tensor:
    normed = attention.norm(x)
    k, v = attention.to_kv(normed if attention.normalize_kv else x).chunk(2, dim=-1)
    q, k, v = (
        rearrange(part, "b s n (heads d) -> b s heads n d", heads=attention.heads)
        for part in (attention.to_q(normed), k, v)
    )
    q, k = F.normalize(q, dim=-1) * attention.q_scale, F.normalize(k, dim=-1) * attention.k_scale
    scores = q @ k.transpose(-1, -2) * SCALE + bias
    return attention.to_out(rearrange(scores.softmax(dim=-1) @ v, "b s heads n d -> b s n (heads d)"))


@dataclass
class PlainSample:
    """Frames (B, N, C, H, W), and seconds that rounds of decoding took."""

    video: Tensor
    ids: Tensor
    round_seconds: float


@torch.no_grad()
def plain_sample(
    model: GenieRedux,
    prime_frames: Tensor,
    actions: Tensor,
    num_frames: int,
    settings: SampleSettings,
    generators: Generators = None,
    rounds: int | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> PlainSample:
    """What `GenieRedux.sample` generates, by a model from `make_plain`.

    `rounds`: end after so many of each chunk's rounds, to measure what one costs.
    """
    ids = model.tokenizer.encode(prime_frames)
    num_prime, seconds = ids.shape[1], 0.0
    length = num_frames if settings.method == "one_go" else settings.dream_length
    while ids.shape[1] < num_prime + num_frames:
        start = clock()
        count = min(length, num_prime + num_frames - ids.shape[1])
        inputs = model.action_input(actions[:, : ids.shape[1] + count - 1])
        ids = torch.cat([ids, _chunk(model, ids, inputs, count, settings, generators, rounds)], dim=1)
        seconds += clock() - start
    return PlainSample(model.tokenizer.decode(ids)[:, num_prime:], ids, seconds)


def _chunk(
    model: GenieRedux,
    known: Tensor,
    action_input: Tensor,
    count: int,
    settings: SampleSettings,
    generators: Generators,
    rounds: int | None,
) -> Tensor:
    """Ids (B, count, h, w) of the frames after known ids (B, T, h, w), in `inference_steps` rounds over all of them."""
    config, steps = model.dynamics.config, settings.inference_steps
    temperature = config.sample_temperature if settings.temperature is None else settings.temperature
    ids = known.new_zeros(known.shape[0], count, *known.shape[2:])
    mask, logits = torch.ones_like(ids, dtype=torch.bool), None
    for step in range(steps if rounds is None else rounds):
        if logits is not None:
            mask = least_confident(logits, ids, mask_fraction(config.mask_schedule, (step + 1) / steps))
        window = torch.cat([known, ids[:, :-1]], dim=1)
        masked = torch.cat([torch.zeros_like(known, dtype=torch.bool), mask[:, :-1]], dim=1)
        token_input = model.tokenizer.quantizer.decode(window) if model.dynamics.use_token else None
        logits = model.dynamics(window, masked, action_input, token_input)[:, -count:]
        ids = gumbel_sample(logits, temperature * (steps - 1 - step) / steps, generators)
    return ids
