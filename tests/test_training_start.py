"""What a run starts from, and its settings: user errors are one line."""

import json
import logging
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from data_generation.data.errors import UserError
from models.checkpoint import load_model
from models.config import TokenizerConfig
from tests.training_helpers import (
    ACTIONS,
    DATASET,
    assert_equal,
    renamed,
    rows,
    save_fresh,
    tiny_config,
    weights,
    world_config,
    write_dataset,
)
from training.main import evaluate, train
from training.runtime import choose_device, choose_precision
from training.tracker import MetricsLogger, TrackerSettings, WandbSettings, wandb_login_present


def test_a_world_model_never_trains_on_an_untrained_tokenizer(root):
    with pytest.raises(ValueError, match=r"needs a trained tokenizer: set tokenizer_fpath"):
        train(tiny_config(root, "genie_redux_guided"))


@pytest.mark.parametrize("model", ["tokenizer", "lam", "genie_redux_guided"])
def test_fine_tuning_never_starts_from_nothing(root, model):
    cfg = world_config(root, model) if model.startswith("genie") else tiny_config(root, model)
    cfg = renamed(cfg, "fine_tuned", fine_tune=True, num_train_steps=2)
    with pytest.raises(ValueError, match=f"train.fine_tune=true: needs a trained {model}; set model_fpath"):
        train(cfg)
    cfg.model_fpath = str(train(renamed(cfg, "first", fine_tune=False)))
    train(cfg)
    cfg.model_fpath, cfg.train.resume_ckpt, cfg.train.num_train_steps = None, "latest", 3
    assert train(cfg).name == "model-3.pt"


def test_action_count_and_names_come_from_the_dataset(root):
    config = load_model(train(world_config(root))).config
    assert (config.dynamics.action_dim, config.action_names) == (len(ACTIONS), ACTIONS)


def test_a_model_knows_what_part_of_the_image_it_was_trained_on(root, tmp_path, caplog):
    info = next((write_dataset(tmp_path / "around") / tiny_config(tmp_path).train.dataset_name).glob("*/info.json"))
    info.write_text(json.dumps(json.loads(info.read_text()) | {"connector": {"roi_annotation_fpath": "heroes.csv"}}))
    checkpoint = train(tiny_config(tmp_path / "around"))
    assert load_model(checkpoint).config.roi_table == "heroes.csv"
    cfg = renamed(tiny_config(root), "whole")
    cfg.model_fpath = str(checkpoint)
    assert load_model(train(cfg)).config.roi_table == ""
    warning = "the model was trained on frames around a character (heroes.csv), the dataset has whole frames"
    assert caplog.text.count(warning) == 1


def test_a_model_knows_for_how_many_frames_an_action_was_held(root, tmp_path, caplog):
    info = next((write_dataset(tmp_path / "slow") / DATASET).glob("*/info.json"))
    unknown = info.read_text()
    info.write_text(json.dumps(json.loads(unknown) | {"connector": {"n_skip_frames": 8}}))
    cfg = world_config(tmp_path / "slow")
    checkpoint = train(cfg)
    assert load_model(checkpoint).config.n_skip_frames == 8
    cfg.model_fpath = str(checkpoint)
    for name, text in (("same", info.read_text()), ("unknown", unknown)):
        info.write_text(text)
        train(renamed(cfg, name))
    assert "emulator frames" not in caplog.text
    info.write_text(json.dumps(json.loads(unknown) | {"connector": {"n_skip_frames": 2}}))
    assert load_model(train(renamed(cfg, "other"))).config.n_skip_frames == 2
    warning = "the model was trained on steps of 8 emulator frames, the dataset has steps of 2"
    assert caplog.text.count(warning) == 1


def test_actions_that_do_not_fit_are_one_line(root):
    cfg = world_config(root)
    cfg.dynamics.action_dim = 5
    with pytest.raises(ValueError, match=r"dynamics\.action_dim=5.*3 actions \(RIGHT, LEFT, STAY\)"):
        train(cfg)
    other = tiny_config(root, "genie_redux_guided")
    cfg.dynamics.action_dim = None
    path = train(cfg)
    content = torch.load(path)
    content["config"]["dynamics"]["action_dim"] = 5
    content["model"]["dynamics.action_embedding.weight"] = torch.zeros(5, 16)
    torch.save(content, path)
    other.model_fpath = str(path)
    with pytest.raises(ValueError, match=r"has 5 actions, the dataset has 3"):
        train(renamed(other, "other"))


def with_actions(root: Path, names: list[str]) -> Path:
    """A dataset whose actions are called otherwise."""
    info = next((write_dataset(root) / DATASET).glob("*/info.json"))
    info.write_text(json.dumps(json.loads(info.read_text()) | {"action_names": names}))
    return root


@pytest.mark.parametrize(
    ("names", "fitting"),
    [
        (["LEFT", "RIGHT", "STAY"], "RIGHT,LEFT,STAY"),
        (["LEFT", "STAY", "RIGHT"], "RIGHT,LEFT,STAY"),
        (["LEFT", "ACTION_JUMP", "STAY"], "ACTION_JUMP,LEFT,STAY"),
    ],
)
def test_a_model_never_takes_one_action_for_another_because_a_dataset_orders_them_otherwise(
    root, tmp_path, names, fitting
):
    checkpoint = str(train(world_config(root)))
    other = with_actions(tmp_path / "other", names)
    cfg = tiny_config(other, "genie_redux_guided")
    cfg.model_fpath = cfg.eval.model_fpath = checkpoint
    line = rf"in another order \(LEFT, .* generate with '\S+valid_action_combos=\[{fitting}\]'"
    for run in (train, evaluate):
        with pytest.raises(UserError, match=line):
            run(cfg)
    # Actions that a model infers from frames have no order.
    latent = tiny_config(other, "genie_redux")
    latent.model_fpath = str(train(renamed(world_config(root, "genie_redux"), "latent")))
    train(latent)


def test_a_model_is_fine_tuned_to_other_actions_with_a_warning(root, tmp_path, caplog):
    checkpoint = train(world_config(root))
    names = ["ACTION_JUMP", "LEFT", "STAY"]
    cfg = tiny_config(with_actions(tmp_path / "other", names), "genie_redux_guided")
    cfg.model_fpath = str(checkpoint)
    assert load_model(train(cfg)).config.action_names == names
    assert caplog.text.count(f"names its actions {ACTIONS}, the dataset {names}") == 1


def test_frames_of_another_size_are_one_line(root):
    cfg = tiny_config(root)
    cfg.tokenizer = replace(cfg.tokenizer, image_size=32)
    with pytest.raises(ValueError, match=r"frames are 16x16.*32x32.*image_size"):
        train(cfg)


def test_finetuning_takes_the_weights_and_sizes_of_the_checkpoint_and_the_settings_of_the_run(root, monkeypatch):
    first = train(renamed(world_config(root), "first"))
    cfg = tiny_config(root, "genie_redux_guided_pretrain")
    cfg.model_fpath = str(first)
    cfg.tokenizer = TokenizerConfig()
    cfg.dynamics = replace(cfg.dynamics, dim=999, loss="tdce")
    cfg.optimizer.learning_rate = cfg.optimizer.cosine_annealing_min_lr = 1e-30
    loaded = load_model(train(cfg))
    assert (loaded.config.dynamics.dim, loaded.config.dynamics.loss) == (16, "tdce")
    assert loaded.config.model == "genie_redux_guided_pretrain"
    assert "token_distance" in rows(cfg, "train")[0]
    for name, value in weights(first).items():
        torch.testing.assert_close(loaded.model.state_dict()[name], value, atol=1e-12, rtol=0)


def test_the_tokenizer_given_replaces_the_one_next_to_the_model(root):
    cfg = world_config(root)
    first = train(renamed(cfg, "first"))
    other = save_fresh(root / "other" / "model-7.pt", tiny_config(root), seed=5)
    cfg.model_fpath, cfg.tokenizer_fpath = str(first), str(other)
    second = train(renamed(cfg, "second"))
    assert_equal(weights(second.parent / "tokenizer.pt"), weights(other))


def test_a_checkpoint_of_another_kind_is_one_line(root):
    cfg = world_config(root)
    cfg.model_fpath, cfg.tokenizer_fpath = cfg.tokenizer_fpath, None
    with pytest.raises(ValueError, match=r"holds a tokenizer, not a genie_redux_guided"):
        train(cfg)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("dataset_name", "", "train.dataset_name: is not set.*toy_v0.0.0"),
        ("dataset_name", "none_v0", "run 'python run.py generate"),
        ("batch_size", 1000, "lower train.batch_size"),
        ("num_frames", 1000, "num_frames=1000"),
    ],
)
def test_wrong_settings_are_one_line_with_a_remedy(root, key, value, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        train(renamed(tiny_config(root), "run", **{key: value}))
    assert "\n" not in str(error.value)
    assert not list(root.rglob("model-*.pt"))


def test_devices_that_are_not_there_are_one_line():
    assert choose_device("cpu") == torch.device("cpu")
    for name in ("gpu", "cuda:99", "xpu"):
        with pytest.raises(ValueError, match=f"device={name}"):
            choose_device(name)
    assert choose_precision("fp32", torch.device("cpu")) is None


@pytest.mark.parametrize("device", ["cuda", "auto"])
def test_more_processes_than_gpus_are_one_line(monkeypatch, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert choose_device(device) == torch.device("cuda")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    problem = "4 processes need a GPU each, and there are 2; start 2 processes at most, or set device=cpu"
    with pytest.raises(UserError, match=f"^device={device}: {problem}$"):
        choose_device(device)


def test_wandb_auto_is_off_without_a_login_and_says_so(root, monkeypatch, caplog, tmp_path):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    assert not wandb_login_present()
    settings = TrackerSettings(["wandb"], WandbSettings("auto", "project", None, None))
    with caplog.at_level(logging.INFO):
        MetricsLogger(tmp_path / "run", settings, {}, 0, is_main=True).close()
    assert "wandb is off" in caplog.text
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password 0000\n")
    os.chmod(tmp_path / "netrc", 0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert wandb_login_present()
