"""Properties of tokenizer and world models: causality, what learns, what is seen."""

import pytest
import torch

from data_generation.data.errors import FieldError
from models.components.st_transformer import Cache
from models.config import TokenizerConfig
from models.construct_model import build_model
from models.tokenizer import Tokenizer
from tests.model_helpers import SIZES, random_actions, random_video, tiny_config, tiny_model

# ---- tokenizer ------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_tokenizer_is_causal_both_ways():
    model, video = tiny_model("tokenizer"), random_video()
    changed = video.clone()
    changed[:, 5:] = 0
    ids = model.encode(video)
    assert torch.equal(model.encode(changed)[:, :5], ids[:, :5])
    other = ids.clone()
    other[:, 5:] = 0
    assert torch.equal(model.decode(other)[:, :5], model.decode(ids)[:, :5])


@torch.no_grad()
@pytest.mark.parametrize("pieces", [[1] * 8, [2, 6], [5, 2, 1]])
def test_decoding_frame_by_frame_equals_decoding_at_once(pieces):
    model = tiny_model("tokenizer")
    ids = model.encode(random_video())
    cache, frames = Cache(), []
    for piece in ids.split(pieces, dim=1):
        decoded = model.decode_next(piece, cache)
        cache = decoded.cache
        frames.append(decoded.video)
    torch.testing.assert_close(torch.cat(frames, dim=1), model.decode(ids), atol=1e-5, rtol=1e-5)


def test_temporal_patches():
    config = TokenizerConfig(**SIZES, image_size=16, temporal_patch_size=2)
    model, video = Tokenizer(config), random_video(7)
    ids = model.encode(video)
    assert ids.shape == (2, 4, 4, 4)
    assert model.decode(ids).shape == video.shape
    with pytest.raises(ValueError, match="temporal_patch_size"):
        model.encode(random_video(8))


@pytest.mark.parametrize("name", ["tokenizer", "lam", "genie_redux", "genie_redux_guided"])
def test_patches_that_do_not_cover_the_frames_are_refused(name):
    config = tiny_config(name)
    config.tokenizer.patch_size = 5
    with pytest.raises(FieldError, match=r"^tokenizer\.patch_size=5: does not divide tokenizer\.image_size=16"):
        build_model(config)


@pytest.mark.parametrize("name", ["lam", "genie_redux", "genie_redux_guided"])
def test_actions_move_one_frame(name):
    config = tiny_config(name)
    config.tokenizer.temporal_patch_size = 2
    with pytest.raises(FieldError, match=r"^tokenizer\.temporal_patch_size=2: must be 1"):
        build_model(config)


def test_frames_of_another_size_are_refused():
    with pytest.raises(ValueError, match="built for 16x16"):
        tiny_model("tokenizer").encode(torch.rand(1, 2, 3, 32, 32))


# ---- world models ---------------------------------------------------------------------------------------------------


def test_only_dynamics_and_lam_learn():
    for name in ("genie_redux_guided", "genie_redux"):
        model = tiny_model(name).train()
        assert not model.tokenizer.training
        model(random_video(), random_actions()).loss.backward()
        without = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
        assert not without, f"no gradient: {without}"
        assert all(p.grad is None for p in model.tokenizer.parameters())


@torch.no_grad()
def test_logits_depend_on_actions_and_on_the_past_only():
    model, video, actions = tiny_model(), random_video(), random_actions()
    ids = model.tokenizer.encode(video)[:, :-1]
    mask = torch.zeros_like(ids, dtype=torch.bool)
    logits = lambda ids, actions: model.dynamics(ids, mask, actions, model.token_input(ids))  # noqa: E731
    whole = logits(ids, actions)
    changed = actions.clone()
    changed[:, 3] = (changed[:, 3] + 1) % 4
    assert torch.equal(logits(ids, changed)[:, :3], whole[:, :3])
    assert not torch.allclose(logits(ids, changed)[:, 3], whole[:, 3])
    other = ids.clone()
    other[:, 4:] = 0
    assert torch.equal(logits(other, actions)[:, :4], whole[:, :4])


@torch.no_grad()
def test_masked_tokens_are_not_seen():
    model, actions = tiny_model(), random_actions()
    ids = model.tokenizer.encode(random_video())[:, :-1]
    mask = torch.rand(ids.shape, generator=torch.Generator().manual_seed(5)) < 0.5
    other = torch.where(mask, (ids + 1) % 32, ids)
    a = model.dynamics(ids, mask, actions, model.token_input(ids))
    assert torch.equal(a, model.dynamics(other, mask, actions, model.token_input(other)))


@pytest.mark.parametrize(("loss", "weight"), [("tdce", 0.0), ("cross_entropy", 1.0)])
def test_optional_losses_reach_the_dynamics(loss, weight):
    config = tiny_config()
    config.dynamics.loss, config.dynamics.decoder_loss_weight = loss, weight
    torch.manual_seed(0)
    model = build_model(config)
    seeded = lambda: torch.Generator().manual_seed(1)  # noqa: E731
    output = model(random_video(), random_actions(), seeded())
    plain = output.logs["cross_entropy"]
    assert output.loss > plain
    output.loss.backward()
    assert all(p.grad is not None for p in model.dynamics.parameters())
