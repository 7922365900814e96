"""The parts of the models: attention, positions, quantiser, masks, decoding."""

import re

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange

from data_generation.data.errors import FieldError
from models.components.attention import attend
from models.components.maskgit import (
    DecodeSettings,
    iterative_decode,
    mask_fraction,
    random_mask,
    token_distance,
)
from models.components.position import PEG, ContinuousPositionBias, alibi_slopes, causal_alibi
from models.components.st_transformer import Cache, STTransformer, TemporalLayer
from models.components.vector_quantize import VectorQuantizer
from models.config import TransformerConfig
from tests.model_helpers import SIZES

# ---- components -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_frames", [1, 2, 3, 5])
def test_peg_equals_a_causal_depthwise_conv3d(num_frames):
    peg = PEG(6)
    x = torch.randn(2, num_frames, 4, 5, 6)
    volume = F.pad(rearrange(x, "b t h w d -> b d t h w"), (1, 1, 1, 1, 2, 0))
    expected = F.conv3d(volume, peg.weight, peg.bias, groups=6)
    torch.testing.assert_close(peg(x), rearrange(expected, "b d t h w -> b t h w d"), atol=1e-5, rtol=1e-5)


def test_position_bias_table_equals_the_mlp_of_every_pair():
    bias = ContinuousPositionBias(8, 3)
    height, width = 3, 4
    grid = torch.stack(torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij"), dim=-1).view(-1, 2)
    offsets = (grid[:, None] - grid[None, :]).float()
    x = torch.sign(offsets) * torch.log(offsets.abs() + 1)
    for layer in bias.layers[:-1]:
        x = F.leaky_relu(layer(x), 0.1)
    expected = bias.layers[-1](x).permute(2, 0, 1)
    torch.testing.assert_close(bias(height, width), expected)


def test_alibi_slopes():
    assert alibi_slopes(8) == tuple(2.0**-k for k in range(1, 9))
    assert len(alibi_slopes(6)) == 6
    assert alibi_slopes(6)[:4] == alibi_slopes(4)
    full, last = causal_alibi(2, 5, 5, torch.device("cpu")), causal_alibi(2, 2, 5, torch.device("cpu"))
    assert torch.equal(full[:, -2:], last)
    assert torch.isinf(full[0].triu(1)[full[0].triu(1) != 0]).all()


def test_bf16_attention_on_cpu_agrees_with_float32():
    q, k, v = (F.normalize(torch.randn(2, 3, 10, 8), dim=-1) for _ in range(3))
    bias = causal_alibi(3, 10, 10, torch.device("cpu"))
    low = attend(q.bfloat16(), k.bfloat16(), v.bfloat16(), bias)
    torch.testing.assert_close(low.float(), attend(q, k, v, bias), atol=0.02, rtol=0.05)


@pytest.mark.parametrize(("order", "temporal_every"), [("st", 1), ("ts", 1), ("st", 2), ("ts", 3)])
def test_transformer_is_causal_and_extending_it_equals_running_it_whole(order, temporal_every):
    torch.manual_seed(0)
    transformer = STTransformer(TransformerConfig(**SIZES), order, temporal_every=temporal_every).eval()
    x, bias = torch.randn(2, 7, 3, 3, 16), torch.randn(2, 9, 9)
    with torch.no_grad():
        whole = transformer(x, bias)
        changed = x.clone()
        changed[:, 4:] += 1
        assert torch.equal(transformer(changed, bias)[:, :4], whole[:, :4])
        for pieces in ([7], [1, 1, 1, 1, 1, 1, 1], [3, 4], [1, 2, 4], [5, 1, 1]):
            cache, outputs = Cache(), []
            for piece in x.split(pieces, dim=1):
                out, cache = transformer.extend(piece, bias, cache)
                outputs.append(out)
            torch.testing.assert_close(torch.cat(outputs, dim=1), whole, atol=1e-5, rtol=1e-5)


def test_every_so_many_blocks_and_the_last_one_have_a_temporal_layer():
    def letters(num_blocks: int, temporal_every: int) -> str:
        config = TransformerConfig(**(SIZES | {"num_blocks": num_blocks}))
        layers = STTransformer(config, "st", temporal_every=temporal_every).halves
        return "".join("t" if isinstance(layer, TemporalLayer) else "s" for layer in layers)

    assert letters(3, 1) == "ststst"
    assert letters(3, 3) == letters(3, 7) == "ssst"
    assert letters(5, 2) == "sstsstst"


# ---- masks and decoding ---------------------------------------------------------------------------------------------


def test_random_mask_is_repeatable_never_empty_and_has_one_rate_per_step():
    make = lambda seed: random_mask((4, 15, 16, 16), 0.5, torch.device("cpu"), torch.Generator().manual_seed(seed))  # noqa: E731
    assert torch.equal(make(3), make(3))
    for seed in range(20):
        rates = make(seed).float().mean(dim=(1, 2, 3))
        assert rates.min() > 0.48
        assert rates.max() - rates.min() < 0.05
    assert all(
        random_mask((1, 1, 1, 1), 0.0, torch.device("cpu"), torch.Generator().manual_seed(s)).any() for s in range(20)
    )


def test_the_distance_of_tokens_is_one_of_float32_under_autocast():
    codebook, targets = torch.randn(8, 4), torch.arange(8)
    logits = torch.full((8, 8), -12.0).fill_diagonal_(12.0)
    plain = token_distance(logits, targets, codebook)
    with torch.autocast("cpu"):
        assert torch.equal(token_distance(logits, targets, codebook), plain)
    torch.testing.assert_close(plain, torch.zeros(8), atol=1e-5, rtol=0)


@pytest.mark.parametrize("schedule", ["cosine", "uniform", "pow2", "pow0.5", "log", "exp"])
def test_mask_schedules_fall_from_nearly_all_to_nearly_none(schedule):
    fractions = [mask_fraction(schedule, r / 25) for r in range(1, 26)]
    assert fractions == sorted(fractions, reverse=True)
    assert fractions[-1] == pytest.approx(1e-6, abs=1e-5)
    assert all(1e-6 <= f <= 1 for f in fractions)


@pytest.mark.parametrize("schedule", ["cosin", "pow", "pow.", "pow²", "pow-1", "pow1e3"])
def test_unknown_mask_schedule_is_named(schedule):
    with pytest.raises(FieldError, match=rf"^mask_schedule={re.escape(schedule)}: is unknown"):
        mask_fraction(schedule, 0.5)


def test_one_frame_needs_no_rounds():
    def never(ids, mask):
        raise AssertionError("rounds cannot change the first new frame")

    first = torch.randn(2, 1, 3, 3, 8)
    ids, logits = iterative_decode(first, 1, never, DecodeSettings(25, 1.0, "cosine"), None)
    assert torch.equal(ids, first.argmax(-1))
    assert logits is first


def test_last_round_is_an_argmax():
    first, later = torch.randn(1, 1, 2, 2, 8), torch.randn(1, 2, 2, 2, 8)
    ids, logits = iterative_decode(
        first, 3, lambda *_: later, DecodeSettings(5, 4.0, "cosine"), torch.Generator().manual_seed(0)
    )
    assert torch.equal(ids, torch.cat([first, later], 1).argmax(-1))
    assert torch.equal(logits.argmax(-1), ids)


def test_token_distance_equals_the_papers_sum():
    logits, targets, codebook = torch.randn(4, 6), torch.tensor([0, 2, 5, 5]), torch.randn(6, 3)
    codes = F.normalize(codebook, dim=-1)
    expected = (logits.softmax(-1) * (1 - codes[targets] @ codes.t())).sum(-1)
    torch.testing.assert_close(token_distance(logits, targets, codebook), expected)


def test_dead_codes_are_moved_to_what_is_fitted_badly():
    torch.manual_seed(0)
    quantizer = VectorQuantizer(8, 16, 4, 0.25, dead_code_threshold=0.1)
    optimizer = torch.optim.SGD(quantizer.parameters(), lr=0.0)
    points = torch.randn(3, 8).repeat_interleave(torch.tensor([980, 10, 10]), dim=0)
    before = quantizer(points).loss
    for _ in range(100):
        optimizer.zero_grad()
        quantizer(points).loss.backward()
        optimizer.step()
    after = quantizer.eval()(points)
    assert after.loss < 0.1 * before
    assert torch.equal(quantizer(points).ids, after.ids)  # evaluation moves nothing
