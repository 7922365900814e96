"""Super-resolution: what it is given, that it begins as interpolation and learns, and where its frames are shown."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data_generation.data.errors import UserError
from data_generation.generator.frames import FrameFitter
from models.config import SuperResolutionConfig
from models.super_resolution import SuperResolution
from models.tensor_file import shapes_only
from models.tokenizer import Tokenizer
from tests.training_helpers import SIZE, assert_equal, renamed, rows, save_fresh, tiny_config, weights, write_dataset
from training.main import evaluate, train
from training.report import summary

LARGE = 2 * SIZE


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Recorded at twice the size of the other models' frames."""
    return write_dataset(tmp_path_factory.mktemp("large"), sessions=4, size=LARGE)


@pytest.fixture(scope="module")
def trained(root) -> Path:
    return train(config(root))


def config(root: Path, **changes):
    cfg = tiny_config(root, "super_resolution")
    train_config = replace(cfg.train, num_frames=1, num_train_steps=4, wandb_name="tiny")
    return replace(cfg, train=train_config, super_resolution=replace(cfg.super_resolution, **changes))


def metrics(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())["metrics"]


def test_small_frames_are_those_that_recording_at_that_size_gives():
    model = SuperResolution(SuperResolutionConfig(image_size=64, dim=4, multipliers=[1], num_blocks=1))
    images = np.random.default_rng(0).integers(0, 256, (20, 64, 64, 3), np.uint8)
    images[:10] //= 128  # sums on both sides of a half
    video = torch.from_numpy(images).permute(0, 3, 1, 2).unsqueeze(1) / 255
    fit = FrameFitter(16, 16)
    small = (model.shrink(video)[:, 0] * 255).numpy()
    np.testing.assert_array_equal(small.round(), np.stack([fit(image) for image in images]))
    np.testing.assert_allclose(small, small.round(), atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("patch_size", [1, 2, 4])
def test_an_untrained_model_is_bicubic_interpolation(patch_size):
    sizes = SuperResolutionConfig(32, 4, patch_size=patch_size, dim=8, multipliers=[1, 2], heads=2, attention_size=8)
    model, video = SuperResolution(sizes), torch.rand(2, 3, 3, 8, 8)
    assert model.enlarge(video).shape == (2, 3, 3, 32, 32)
    assert torch.equal(model.enlarge(video), model.bicubic(video))


@pytest.mark.parametrize(
    ("sizes", "millions"),
    [
        ({}, 258.2),
        ({"dim": 128, "multipliers": [1, 2, 4, 4, 8, 8], "num_blocks": 3, "attention_size": 16}, 590.7),
    ],
)
def test_published_sizes(sizes, millions):
    with shapes_only():
        model = SuperResolution(SuperResolutionConfig(**sizes))
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.1)


def test_it_learns():
    torch.manual_seed(0)
    model = SuperResolution(SuperResolutionConfig(16, 2, patch_size=2, dim=8, multipliers=[1, 2], num_blocks=1))
    # Edges that interpolation blurs.
    video = (torch.rand(4, 1, 3, 8, 8) > 0.5).float().repeat_interleave(2, dim=3).repeat_interleave(2, dim=4)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = model(video).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


def test_a_resumed_run_equals_one_that_never_stopped(root, trained):
    cfg = config(root)
    half = renamed(cfg, "half", num_train_steps=2)
    train(half)
    resumed = train(renamed(cfg, "half", resume_ckpt="latest"))
    assert_equal(weights(resumed), weights(trained))


def test_evaluation_compares_it_with_interpolation(root, trained):
    cfg = config(root)
    cfg.eval.model_fpath = str(trained)
    folder = evaluate(cfg)
    found = metrics(folder)
    assert found["pooled_psnr"] != found["bicubic_pooled_psnr"]
    assert "bicubic interpolation" in summary(folder)


# ---- as last stage --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def enlarged(trained, tmp_path_factory):
    """A configuration whose evaluation enlarges what a world model predicts, on a dataset of frames of `size`."""

    def make(size: int, model: str = "genie_redux_guided"):
        path = write_dataset(tmp_path_factory.mktemp("datasets"), sessions=4, size=size)
        cfg = tiny_config(path, model)
        cfg.eval.model_fpath = str(save_fresh(path / "run" / "model-7.pt", cfg))
        cfg.super_resolution_fpath = str(trained)
        return cfg

    return make


def test_on_large_frames_an_evaluation_measures_the_enlarged_ones(enlarged):
    folder = evaluate(enlarged(LARGE))
    found = metrics(folder)
    assert {"psnr", "enlarged_psnr", "bicubic_psnr", "enlarged_ssim"} <= set(found)
    assert "super-resolution" in summary(folder)
    assert Image.open(folder / "clip-000.png").height > 2 * LARGE


def test_on_small_frames_only_the_images_are_enlarged(enlarged):
    folder = evaluate(enlarged(SIZE, "tokenizer"))
    assert "enlarged_psnr" not in metrics(folder)
    assert Image.open(folder / "clip-000.png").height > 2 * LARGE


def test_measures_that_need_small_frames_are_refused_in_one_line(enlarged):
    cfg = enlarged(LARGE)
    cfg.eval.drift_frames = 3
    with pytest.raises(UserError, match=r"eval.drift_frames=3: .* larger"):
        evaluate(cfg)


@pytest.mark.parametrize(("model", "line"), [("tokenizer", "upsamples nothing"), ("super_resolution", "64 and 3")])
def test_another_kind_or_size_of_model_is_refused_in_one_line(enlarged, root, tmp_path, model, line):
    cfg = enlarged(SIZE, "tokenizer")
    cfg.super_resolution_fpath = str(save_fresh(tmp_path / "model-7.pt", tiny_config(root, model)))
    if model == "super_resolution":
        cfg.eval.model_fpath = str(save_fresh(tmp_path / "other" / "model-7.pt", _of_size_64(root)))
    with pytest.raises(UserError, match=rf"^super_resolution_fpath=.*{line}"):
        evaluate(cfg)


def _of_size_64(root: Path):
    cfg = tiny_config(root)
    cfg.tokenizer.image_size = 64
    return cfg


# ---- what it is trained on ------------------------------------------------------------------------------------------


def test_inputs_are_reconstructed_without_a_question_to_the_device(monkeypatch):
    """A tensor on `meta` has no values that could be waited for."""
    monkeypatch.setattr(Tokenizer, "reconstruct", lambda _, video: video)
    sizes = replace(tiny_config(Path()).super_resolution, reconstructed_share=0.5)
    with torch.device("meta"):
        model, tokenizer = SuperResolution(sizes), Tokenizer(tiny_config(Path()).tokenizer)
        model.reconstruct_with(tokenizer)
        video = torch.zeros(8, 1, 3, LARGE, LARGE)
    assert model(video, generator=torch.Generator().manual_seed(0)).loss.is_meta


def test_reconstructed_inputs_need_a_tokenizer_that_a_resumed_run_names_again(root, tmp_path):
    cfg = renamed(config(root, reconstructed_share=1.0), "reconstructed", num_train_steps=1)
    with pytest.raises(UserError, match=r"super_resolution.reconstructed_share=1.0: needs the tokenizer"):
        train(cfg)
    cfg.tokenizer_fpath = str(save_fresh(tmp_path / "tokenizer" / "model-7.pt", tiny_config(root)))
    on_reconstructions = rows(cfg, "train") if train(cfg) else []
    assert on_reconstructions[0]["loss"] > rows(config(root), "train")[0]["loss"]
    resumed = renamed(cfg, "reconstructed", num_train_steps=2, resume_ckpt="latest")
    with pytest.raises(UserError, match="needs the tokenizer"):
        train(replace(resumed, tokenizer_fpath=None))
    train(resumed)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"multipliers": [1] * 8}, "super_resolution.multipliers"),
        ({"scale": 3}, r"super_resolution.scale=3: does not divide super_resolution.image_size=32"),
        ({"patch_size": 5}, "super_resolution.patch_size=5"),
        ({"heads": 3}, "super_resolution.heads=3"),
        ({"image_size": 64}, "the super resolution takes 64x64"),
        ({"channels": 1}, r"with 1: set super_resolution\.channels=3 for a new super resolution$"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_in_one_line(root, changes, line):
    with pytest.raises(UserError, match=line):
        train(renamed(config(root, **changes), "unfit"))
