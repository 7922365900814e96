"""Fine-tuning of a tokenizer's decoder alone: frames improve, ids stay."""

from pathlib import Path

import pytest
import torch

from models.checkpoint import load_model
from models.tokenizer import Tokenizer
from tests.training_helpers import save_fresh, tiny_config, write_dataset
from training.config import GenieReduxConfig
from training.main import train

LEARNING = ("decoder.", "to_pixels.")


@pytest.fixture
def cfg(tmp_path: Path) -> GenieReduxConfig:
    cfg = tiny_config(write_dataset(tmp_path))
    cfg.train.train_decoder_only = True
    return cfg


def video() -> torch.Tensor:
    return torch.rand(2, 5, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("quantizer", ["vq", "vq_reviving", "fsq"])
def test_only_the_decoder_learns_and_ids_stay(cfg, tmp_path, quantizer):
    cfg.tokenizer.dead_code_threshold = 0.5 if quantizer == "vq_reviving" else 0.0
    if quantizer == "fsq":
        cfg.tokenizer = type(cfg.tokenizer)(**{**vars(cfg.tokenizer), "quantizer": "fsq"})
    cfg.model_fpath = str(save_fresh(tmp_path / "first" / "model-7.pt", cfg))
    before = load_model(Path(cfg.model_fpath)).model
    after = load_model(train(cfg)).model
    for name, value in after.state_dict().items():
        changed = not torch.equal(value, before.state_dict()[name])
        assert changed == name.startswith(LEARNING), name
    ids = before.encode(video())
    assert torch.equal(ids, after.encode(video()))
    assert torch.equal(before.quantizer.decode(ids), after.quantizer.decode(ids))  # the dynamics' token input
    assert not torch.equal(before.reconstruct(video()), after.reconstruct(video()))


def test_no_gradient_is_computed_through_the_encoder(cfg):
    tokenizer = Tokenizer(cfg.tokenizer).train()
    tokenizer.train_decoder_only()
    seen = []
    tokenizer.encoder.register_forward_hook(lambda module, inputs, output: seen.append(output.requires_grad))
    output = tokenizer(video())
    output.loss.backward()
    assert seen == [False]
    assert torch.equal(output.loss.detach(), output.logs["recons_loss"])
    for name, parameter in tokenizer.named_parameters():
        assert (parameter.grad is not None) == name.startswith(LEARNING), name


def test_it_draws_what_full_training_draws(cfg):
    """The frames that the loss sees are those of the ordinary forward pass."""
    torch.manual_seed(0)
    tokenizer = Tokenizer(cfg.tokenizer)
    ordinary = tokenizer(video()).logs["recons_loss"]
    tokenizer.train_decoder_only()
    torch.testing.assert_close(tokenizer(video()).logs["recons_loss"], ordinary)


def test_the_decoder_learns_to_draw(cfg, tmp_path):
    cfg.model_fpath = str(save_fresh(tmp_path / "first" / "model-7.pt", cfg))
    before = load_model(Path(cfg.model_fpath)).model(video()).loss.item()
    cfg.train.num_train_steps = 30
    assert load_model(train(cfg)).model(video()).loss.item() < 0.8 * before


def test_without_a_trained_tokenizer_it_is_one_line(cfg):
    with pytest.raises(ValueError, match=r"train_decoder_only=true: needs a trained tokenizer; set model_fpath"):
        train(cfg)


@pytest.mark.parametrize("model", ["lam", "genie_redux", "genie_redux_guided"])
def test_it_is_for_tokenizers_only(cfg, model):
    cfg.model = model
    with pytest.raises(ValueError, match=rf"is for a tokenizer, not for model={model}"):
        train(cfg)


def test_resuming_goes_on_with_the_decoder_alone(cfg, tmp_path):
    cfg.model_fpath = str(save_fresh(tmp_path / "first" / "model-7.pt", cfg))
    cfg.train.num_train_steps = 2
    train(cfg)
    cfg.train.num_train_steps, cfg.train.resume_ckpt = 4, "latest"
    resumed = load_model(train(cfg)).model.state_dict()
    cfg.train.resume_ckpt, cfg.train.wandb_name = "no", "whole"
    for name, value in load_model(train(cfg)).model.state_dict().items():
        assert torch.equal(value, resumed[name]), name
