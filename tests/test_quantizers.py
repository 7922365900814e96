"""Finite scalar quantisation: behind the same interface as the learned codebook, and with properties of its own."""

from dataclasses import replace

import pytest
import torch
from omegaconf import OmegaConf

from models.checkpoint import load_model, save_model
from models.components.finite_scalar_quantize import FiniteScalarQuantizer
from models.components.maskgit import token_distance
from models.components.vector_quantize import VectorQuantizer, perplexity, used_share
from models.config import DynamicsConfig, LamConfig, ModelConfig, TokenizerConfig
from models.construct_model import build_model
from models.genie_redux import SampleSettings
from models.tokenizer import Tokenizer

SIZES = {"dim": 16, "num_blocks": 1, "heads": 2, "dim_head": 8}
LEVELS = [4, 3, 5]


def fsq_config(model: str = "tokenizer") -> ModelConfig:
    return ModelConfig(
        model=model,
        tokenizer=TokenizerConfig(**SIZES, image_size=16, quantizer="fsq", fsq_levels=LEVELS),
        lam=LamConfig(**SIZES, num_actions=4),
        dynamics=DynamicsConfig(**SIZES, max_seq_len=16 * 12, action_dim=3, loss="tdce", decoder_loss_weight=1.0),
    )


def fsq_model(model: str = "tokenizer"):
    torch.manual_seed(0)
    return build_model(fsq_config(model)).eval()


def random_video(num_frames: int = 4) -> torch.Tensor:
    return torch.rand(2, num_frames, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def transparent(levels: list[int]) -> FiniteScalarQuantizer:
    """Channels in, channels out: projections that change nothing."""
    quantizer = FiniteScalarQuantizer(len(levels), levels)
    for layer in (quantizer.project_in, quantizer.project_out):
        torch.nn.init.eye_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    return quantizer


@pytest.mark.parametrize("levels", [[8, 5, 5, 5], [4, 4, 4, 4, 4], LEVELS, [2, 2], [7]])
def test_every_id_is_reached_by_its_own_code_and_no_other(levels):
    quantizer = transparent(levels)
    ids = torch.arange(quantizer.codebook_size)
    codes = quantizer.decode(ids)
    assert len(torch.unique(codes, dim=0)) == torch.tensor(levels).prod() == quantizer.codebook_size
    assert (codes.min().item(), codes.max().item()) == (-1, 1)
    inputs = torch.atanh(codes.clamp(-0.999, 0.999))
    assert torch.equal(quantizer.encode(inputs), ids)
    assert torch.equal(quantizer(inputs).ids, ids)
    torch.testing.assert_close(quantizer(inputs).output, codes)


def test_random_inputs_reach_all_ids():
    quantizer = FiniteScalarQuantizer(16, [8, 5, 5, 5])
    ids = quantizer.encode(torch.randn(60_000, 16, generator=torch.Generator().manual_seed(0)) * 4)
    assert used_share(ids, 1000) > 0.99


def test_a_code_is_the_nearest_one():
    quantizer = transparent(LEVELS)
    x = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
    nearest = torch.cdist(torch.tanh(x), quantizer.codebook).argmin(dim=-1)
    assert torch.equal(quantizer.encode(x), nearest)


def test_the_gradient_passes_straight_through_to_input_and_projections():
    quantizer = FiniteScalarQuantizer(16, LEVELS)
    x = torch.randn(10, 16, requires_grad=True)
    quantized = quantizer(x)
    assert quantized.loss == 0 and not quantized.loss.requires_grad
    weight = torch.randn(10, 16)
    (quantized.output * weight).sum().backward()
    bounded = torch.tanh(quantizer.project_in(x.detach()))
    expected = (weight @ quantizer.project_out.weight * (1 - bounded**2)) @ quantizer.project_in.weight
    torch.testing.assert_close(x.grad, expected)
    assert all(p.grad is not None for p in quantizer.parameters())


@pytest.mark.parametrize("levels", [[], [5, 1], [0]])
def test_levels_that_cannot_be_are_one_line(levels):
    with pytest.raises(ValueError, match=r"fsq_levels=") as error:
        FiniteScalarQuantizer(8, levels)
    assert "\n" not in str(error.value)


def test_an_unknown_quantizer_is_named():
    with pytest.raises(ValueError, match=r"quantizer=lfq: is unknown; use vq or fsq"):
        Tokenizer(TokenizerConfig(**SIZES, quantizer="lfq"))


def test_the_codebooks_size_follows_from_the_levels():
    config = TokenizerConfig(quantizer="fsq", codebook_size=512)
    assert (config.codebook_size, config.codebook_dim) == (1000, 4)
    assert replace(config, fsq_levels=[4] * 5).codebook_size == 1024
    composed = OmegaConf.to_object(
        OmegaConf.merge(OmegaConf.structured(ModelConfig), {"tokenizer": {"quantizer": "fsq"}})
    )
    assert composed.tokenizer.codebook_size == 1000
    assert TokenizerConfig().codebook_size == 1024


def test_the_default_is_the_learned_codebook_under_the_published_names():
    tokenizer = Tokenizer(TokenizerConfig(**SIZES))
    names = {name for name in tokenizer.state_dict() if name.startswith("quantizer.")}
    projections = {f"quantizer.project_{way}.{kind}" for way in ("in", "out") for kind in ("weight", "bias")}
    assert isinstance(tokenizer.quantizer, VectorQuantizer)
    assert names == projections | {"quantizer.codebook"}


def test_token_distance_grows_with_the_distance_on_the_grid():
    """Codes of zeros and codes of one direction, which plain cosine cannot tell apart, are apart."""
    quantizer = FiniteScalarQuantizer(8, [5, 5])
    ids = torch.arange(25)
    certain = torch.eye(25) * 1e4
    distance = token_distance(certain.expand(25, 25, 25), ids.unsqueeze(-1).expand(25, 25), quantizer.directions)
    torch.testing.assert_close(distance.diagonal(), torch.zeros(25), atol=1e-6, rtol=0)
    torch.testing.assert_close(distance[0, 24], torch.tensor(2.0))
    same_row = distance[0, :5]  # one channel moves away, step by step
    assert (same_row.diff() > 0).all()
    assert (distance + torch.eye(25)).min() > 0.1


@pytest.mark.parametrize("model", ["tokenizer", "genie_redux", "genie_redux_guided"])
def test_saved_and_loaded_gives_the_same(tmp_path, model):
    original, config = fsq_model(model), fsq_config(model)
    save_model(tmp_path / "model-3.pt", original, config, 3)
    loaded = load_model(tmp_path / "model-3.pt")
    assert loaded.config == config
    assert not [name for name in original.state_dict() if name.endswith("codebook") and "lam" not in name]
    tokenizers = [m if model == "tokenizer" else m.tokenizer for m in (original, loaded.model)]
    ids = [tokenizer.encode(random_video()) for tokenizer in tokenizers]
    assert torch.equal(*ids)
    assert torch.equal(*[t.decode(i) for t, i in zip(tokenizers, ids, strict=True)])


def test_training_lowers_the_loss():
    torch.manual_seed(0)
    tokenizer = build_model(fsq_config()).train()
    optimizer = torch.optim.AdamW(tokenizer.parameters(), lr=3e-3)
    losses = []
    for _ in range(30):
        output = tokenizer(random_video())
        assert torch.equal(output.logs["recons_loss"], output.logs["loss"])  # no loss of the codes
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        losses.append(output.loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert all(p.grad is not None for p in tokenizer.quantizer.parameters())


@pytest.mark.parametrize("model", ["genie_redux", "genie_redux_guided"])
def test_a_world_model_trains_and_samples_on_it(model):
    world = fsq_model(model).train()
    output = world(random_video(), torch.zeros(2, 3, dtype=torch.int64))
    assert {"token_distance", "decoder_loss"} <= set(output.logs)
    output.loss.backward()
    assert all(p.grad is not None for p in world.dynamics.parameters())
    sampled = world.eval().sample(
        random_video(2), torch.zeros(2, 3, dtype=torch.int64), 2, SampleSettings(inference_steps=2)
    )
    assert sampled.shape == (2, 2, 3, 16, 16) and sampled.isfinite().all()


def test_use_of_codes():
    ids = torch.tensor([[0, 0], [3, 3]])
    torch.testing.assert_close(perplexity(ids, 8), torch.tensor(2.0))
    torch.testing.assert_close(used_share(ids, 8), torch.tensor(0.25))
