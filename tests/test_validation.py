"""Validation during training: it measures the whole set and changes nothing."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from data_generation.data.errors import FieldError
from models.causal import CausalWorldModel
from models.checkpoint import load_model
from models.genie_redux import GenieRedux
from tests.training_helpers import (
    assert_equal,
    renamed,
    rows,
    save_fresh,
    tiny_config,
    weights,
    world_config,
    write_dataset,
)
from training.clips import FrameSource
from training.fid import Fid
from training.loading import ClipChoice, open_clips
from training.main import run_dpath, train, validation_config
from training.runtime import make_runtime
from training.validation import Validator, write_samples


@pytest.mark.parametrize("model", ["tokenizer", "lam"])
def test_models_that_predict_nothing_validate_on_clips_of_two_frames(root, model):
    cfg = renamed(tiny_config(root, model), "pairs", validate_every=4, num_frames=2)
    train(cfg)
    assert rows(cfg, "validation")[-1]["step"] == 4


@pytest.mark.parametrize("model", ["tokenizer", "lam", "genie_redux_guided", "genie_redux"])
def test_validation_measures_draws_and_changes_nothing(root, model):
    cfg = world_config(root, model) if model.startswith("genie") else tiny_config(root, model)
    plain = train(renamed(cfg, "plain"))
    cfg = renamed(cfg, "validated", validate_every=3)
    assert_equal(weights(train(cfg)), weights(plain))
    values = rows(cfg, "validation")
    assert [row["step"] for row in values] == [3, 4]
    assert values[0]["psnr"] > 3
    assert -1 <= values[0]["ssim"] <= 1
    assert ("copy_last_psnr" in values[0]) == model.startswith("genie")
    samples = run_dpath(cfg) / "samples"
    assert sorted(p.name for p in samples.iterdir()) == ["step-3.gif", "step-3.png", "step-4.gif", "step-4.png"]
    assert Image.open(samples / "step-4.gif").n_frames == {"tokenizer": 5, "lam": 5}.get(model, 4)


@pytest.mark.parametrize(
    ("model", "method", "dream_length", "said"),
    [
        ("genie_redux_guided", "one_go", 2, "one_go, 2 frames after 2, in 3 rounds"),
        ("genie_redux_guided", "autoregressive", 1, "autoregressive, 2 frames after 2, 1 at a time"),
        ("genie_redux", "autoregressive", 2, "autoregressive, 2 frames after 2, 2 at a time, in 3 rounds"),
        ("causal_guided", "one_go", 2, "autoregressive, 2 frames after 2, 1 at a time"),
    ],
)
def test_validation_samples_as_an_evaluation_does_and_the_page_says_how(
    root, monkeypatch, model, method, dream_length, said
):
    cfg = renamed(world_config(root, model), f"{model}-{method}-{dream_length}", validate_every=1, num_train_steps=1)
    cfg.eval = replace(cfg.eval, inference_method=method, dream_length=dream_length)
    settings = []
    for kind in (GenieRedux, CausalWorldModel):
        original = kind.sample
        monkeypatch.setattr(
            kind, "sample", lambda *args, original=original: settings.append(args[4]) or original(*args)
        )
    train(cfg)
    assert settings
    expected = "autoregressive" if model == "causal_guided" else method
    assert {(each.method, each.dream_length) for each in settings} == {(expected, dream_length)}
    assert said in (run_dpath(cfg) / "report.html").read_text()


def test_validation_loss_is_the_mean_of_the_whole_set_not_the_last_batch(root):
    measured = []
    for batch_size in (1, 2, 4):
        cfg = renamed(tiny_config(root), f"b{batch_size}", batch_size=4, validate_every=1, num_train_steps=1)
        cfg.train.max_valid_size = cfg.train.n_total_samples = 0
        runtime = make_runtime("cpu", "fp32")
        model = load_model(save_fresh(root / "fixed" / "model-7.pt", cfg)).model
        dataset = open_clips(cfg.train, ClipChoice("validation", 5, 5), "error")
        cfg.train.batch_size = batch_size
        measured.append(
            Validator(validation_config(cfg), runtime, dataset, root, FrameSource(dataset, runtime.device)).run(
                model, 1
            )
        )
    whole = torch.stack([dataset[i][0] for i in range(len(dataset))]).float() / 255
    with torch.no_grad():
        expected = model(whole).logs["recons_loss"].item()
    for values in measured:
        assert values["recons_loss"] == pytest.approx(expected, rel=1e-5)
        assert values["psnr"] == pytest.approx(measured[0]["psnr"], rel=1e-5)


class RecordingFid(Fid):
    """Keeps the recorded frames that it is given, and computes nothing."""

    def __init__(self) -> None:
        network = torch.nn.Identity()
        network.num_features = 3
        super().__init__(network, torch.device("cpu"))
        self.recorded: list[torch.Tensor] = []

    def update(self, frames: torch.Tensor, real: bool) -> None:
        self.recorded.extend(frames if real else ())

    def compute(self) -> float:
        return 0.0


@pytest.mark.parametrize(("num_samples", "num_fid", "num_episodes"), [(0, 10, 10), (20, 5, 5), (20, 10, 10), (8, 0, 0)])
def test_the_clips_of_fid_are_spread_over_those_that_are_predicted(
    root, monkeypatch, num_samples, num_fid, num_episodes
):
    cfg = tiny_config(root)
    cfg.train.n_total_samples, cfg.train.fid_num_samples = num_samples, num_fid
    fid, runtime = RecordingFid(), make_runtime("cpu", "fp32")
    monkeypatch.setattr("training.validation.make_fid", lambda *_: (fid, ""))
    # Four clips of each of ten episodes.
    dataset = open_clips(cfg.train, ClipChoice("all", 5, 5), "error")
    validator = Validator(validation_config(cfg), runtime, dataset, root, FrameSource(dataset, runtime.device))
    validator.run(load_model(save_fresh(root / "fixed" / "model-7.pt", cfg)).model, 1)
    assert len(fid.recorded) == num_fid
    clips = [dataset[i][0].float() / 255 for i in range(len(dataset))]
    found = {i // 4 for clip in fid.recorded for i, known in enumerate(clips) if torch.equal(clip, known)}
    assert len(found) == num_episodes


def test_a_validation_set_smaller_than_the_number_of_samples_works(root):
    cfg = renamed(tiny_config(root), "run", validate_every=4, n_total_samples=1000, max_valid_size=1000)
    train(cfg)
    assert rows(cfg, "validation")[0]["psnr"] > 0


def test_a_dataset_without_validation_sessions_says_what_to_do(tmp_path):
    cfg = renamed(tiny_config(write_dataset(tmp_path, sessions=1)), "run", validate_every=2)
    with pytest.raises(ValueError, match=r"train\.validate_every=0"):
        train(cfg)
    train(renamed(cfg, "run", validate_every=0))


def test_samples_of_single_frames_stand_side_by_side(tmp_path):
    frames = np.zeros((4, 1, 16, 16, 3), np.uint8)
    write_samples(tmp_path, 1, frames, frames, num_prime=0)
    width, height = Image.open(tmp_path / "step-1.png").size
    write_samples(tmp_path, 2, frames[:1], frames[:1], num_prime=0)
    assert width > 3 * Image.open(tmp_path / "step-2.png").size[0] / 2
    assert height == Image.open(tmp_path / "step-2.png").size[1]


@pytest.mark.parametrize(("temporal", "is_refused"), [("both", True), ("decoder", True), ("none", False)])
def test_a_tokenizer_whose_layers_see_other_frames_does_not_train_on_single_ones(root, temporal, is_refused):
    cfg = renamed(tiny_config(root, "tokenizer"), temporal, num_frames=1, num_train_steps=1)
    cfg.tokenizer.temporal = temporal
    if is_refused:
        with pytest.raises(
            FieldError, match=r"train.num_frames=1: must be at least 2 for this model; use longer clips"
        ):
            train(cfg)
    else:
        train(cfg)
