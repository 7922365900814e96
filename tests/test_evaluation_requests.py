"""What an evaluation says of what it was asked for: settings, measures that it cannot have, a checkpoint."""

from dataclasses import replace

import pytest

from data_generation.data.errors import UserError
from tests.test_evaluation import config, results
from tests.training_helpers import rows, save_fresh, tiny_config, write_dataset
from training.main import evaluate, train


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("datasets"), sessions=4)


def test_settings_in_place_of_the_checkpoints_are_named(root, tmp_path, caplog):
    cfg = config(root, tmp_path)
    cfg.dynamics = replace(cfg.dynamics, history_tokens="expected", unmask_order="frames")
    with caplog.at_level("INFO", "training.sampling"):
        found = results(evaluate(cfg))
    remedy = "give dynamics.history_tokens=likeliest to evaluate it as it is played"
    lines = [
        "dynamics.unmask_order=frames; the checkpoint was made with confidence",
        f"dynamics.history_tokens=expected; the checkpoint was made with likeliest; {remedy}",
    ]
    assert caplog.messages == lines
    # One frame at a time has no rounds.
    caplog.clear()
    cfg.eval = replace(cfg.eval, inference_method="autoregressive", dream_length=1)
    with caplog.at_level("INFO", "training.sampling"):
        evaluate(cfg)
    assert caplog.messages == lines[1:]
    assert found["model_config"]["dynamics"]["history_tokens"] == "expected"


@pytest.mark.parametrize(
    ("model", "reason", "changes"),
    [
        ("genie_redux_guided", "an action is held", {"action_to_take": 1}),
        ("tokenizer", "this model continues nothing", {}),
    ],
)
def test_what_is_asked_for_and_not_measured_is_named(root, tmp_path, model, reason, changes):
    asked = {"drift_frames": 8, "n_counterfactuals": 2, "position": ["x", "y"]}
    notes = results(evaluate(config(root, tmp_path, model, **asked, **changes)))["notes"]
    assert f"no drift, position of the character, counterfactuals: {reason}" in notes


def test_a_position_without_streamed_frames_is_named(root, tmp_path):
    notes = results(evaluate(config(root, tmp_path, position=["x", "y"])))["notes"]
    assert "no position of the character: it is measured along eval.drift_frames, which is 0" in notes


@pytest.mark.parametrize("model", ["genie_redux_guided", "genie_redux", "causal_guided"])
def test_clips_are_as_long_as_the_model_takes_and_no_longer(tmp_path, monkeypatch, model):
    cfg = tiny_config(write_dataset(tmp_path, sessions=4), model)
    cfg.dynamics.max_seq_len = 16 * 5
    cfg.tokenizer_fpath = str(save_fresh(tmp_path / "tokenizer" / "model-7.pt", tiny_config(tmp_path)))
    cfg.eval = replace(cfg.eval, inference_method="autoregressive", dream_length=1, num_frames=8)
    cfg.eval.model_fpath = str(save_fresh(tmp_path / "world" / "model-7.pt", cfg))
    cfg.train = replace(cfg.train, num_train_steps=1, num_frames=6)
    assert results(evaluate(cfg))["num_frames_per_clip"] == 4
    train(cfg)
    monkeypatch.setattr("training.evaluation.WorldModelEvaluation.prepare", lambda _: pytest.fail("prepared"))
    cfg.eval.sample_num_frames = 5
    with pytest.raises(UserError, match=r"^eval.num_first_frames=2: with eval.sample_num_frames=5 it exceeds the mod"):
        evaluate(cfg)
    cfg.train = replace(cfg.train, num_frames=7, wandb_name="longer")
    with pytest.raises(UserError, match=r"^train.num_frames=7: must be at most 6 for this model"):
        train(cfg)


def test_grey_frames_have_no_distances_of_features_of_images_and_lines_that_say_so(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("training.fid._cached_weights", lambda: pytest.fail("looks for weights"))
    monkeypatch.setattr("training.fid._download", lambda: pytest.fail("downloads weights"))
    cfg = tiny_config(write_dataset(tmp_path, channels=1))
    cfg.tokenizer.channels = 1
    cfg.eval = replace(cfg.eval, fid_weights=None, eval_lite0=True)
    cfg.eval.model_fpath = str(save_fresh(tmp_path / "run" / "model-7.pt", cfg))
    found = results(evaluate(cfg))
    reason = "for frames of 3 channels, these have 1"
    assert {f"no FID: it is {reason}", f"no lite0 distances: they are {reason}"} <= set(found["notes"])
    cfg.train = replace(cfg.train, num_train_steps=1, validate_every=1, fid_num_samples=2)
    with caplog.at_level("INFO", "training.validation"):
        train(cfg)
    assert caplog.messages[0] == f"no FID: it is {reason}"
    assert rows(cfg, "validation")[0]["psnr"] > 0


@pytest.mark.parametrize("key", ["eval.model_fpath", "model_fpath", "tokenizer_fpath"])
def test_a_missing_checkpoint_is_named_by_the_key_that_gave_it(root, tmp_path, key):
    cfg = config(root, tmp_path, "tokenizer", model_fpath=None)
    holder, name = (cfg.eval, "model_fpath") if key.startswith("eval.") else (cfg, key)
    setattr(holder, name, str(tmp_path / "nothing.pt"))
    with pytest.raises(UserError, match=rf"^{key}=.*nothing\.pt: checkpoint not found"):
        evaluate(cfg)
