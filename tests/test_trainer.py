"""Training: resuming equals never having stopped, nothing is lost or doubled, and user errors are one line."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from models.checkpoint import load_model
from models.config import TokenizerConfig
from tests.training_helpers import ACTIONS, save_fresh, tiny_config, write_dataset
from training import main, run_folder
from training.config import GenieReduxConfig, OptimizerConfig
from training.loading import WindowChoice, open_windows
from training.main import run_dpath, train
from training.optimizer import learning_rate, make_optimizer
from training.runtime import choose_device, choose_precision, make_runtime
from training.tracker import Tracker, WandbSettings, read_metrics, wandb_login_present
from training.trainer import Trainer
from training.validation import Validator


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_dataset(tmp_path)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_model(path).model.state_dict()


def assert_equal(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name


def world_config(root: Path, model: str = "genie_redux_guided") -> GenieReduxConfig:
    cfg = tiny_config(root, model)
    tokenizer = tiny_config(root)
    cfg.tokenizer_fpath = str(save_fresh(root / "tokenizer" / "model-7.pt", tokenizer))
    return cfg


def renamed(cfg: GenieReduxConfig, name: str, **changes) -> GenieReduxConfig:
    return replace(cfg, train=replace(cfg.train, wandb_name=name, **changes))


def rows(cfg: GenieReduxConfig, split: str) -> list[dict]:
    return [row for row in read_metrics(run_dpath(cfg) / "metrics.jsonl") if row["split"] == split]


def untimed_rows(cfg: GenieReduxConfig) -> list[dict]:
    timing = {"time", "steps_per_second", "clips_per_second"}
    return [{k: v for k, v in row.items() if k not in timing} for row in rows(cfg, "train")]


# ---- resuming -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["tokenizer", "lam", "genie_redux_guided", "genie_redux"])
def test_resuming_equals_never_having_stopped(root, model):
    cfg = world_config(root, model) if model.startswith("genie") else tiny_config(root, model)
    cfg.tokenizer.dead_code_threshold = 0.5  # draws from the global generator
    cfg.train.grad_accum, cfg.train.log_every = 2, 2
    once = train(renamed(cfg, "once", num_train_steps=6, save_model_every=0))
    stopped = renamed(cfg, "twice", num_train_steps=3)
    train(stopped)
    torch.manual_seed(12345)
    resumed = renamed(cfg, "twice", num_train_steps=6, resume_ckpt="latest")
    assert_equal(weights(train(resumed)), weights(once))
    # The first run logs its last step too, in mid-interval; every other row is the same.
    ours, theirs = untimed_rows(resumed), untimed_rows(renamed(cfg, "once"))
    assert [row["step"] for row in theirs] == [2, 4, 6]
    assert [row["step"] for row in ours] == [2, 3, 4, 6]
    assert (ours[0], ours[-1]) == (theirs[0], theirs[-1])


def test_resuming_with_worker_processes_counts_what_was_trained_not_what_was_read_ahead(root):
    cfg = tiny_config(root)
    once = train(renamed(cfg, "once", num_train_steps=3))
    train(renamed(cfg, "twice", num_train_steps=2, n_data_workers=1))
    assert_equal(weights(train(renamed(cfg, "twice", num_train_steps=3, resume_ckpt="2"))), weights(once))


def test_a_fresh_run_never_overwrites_one(root):
    cfg = tiny_config(root)
    last = train(cfg)
    before = last.read_bytes()
    with pytest.raises(ValueError, match=r"train\.resume_ckpt=latest.*train\.wandb_name"):
        train(cfg)
    assert last.read_bytes() == before
    assert train(renamed(cfg, cfg.model, resume_ckpt="latest")) == last  # nothing left to do


def test_latest_without_a_checkpoint_starts_from_scratch(root):
    assert train(renamed(tiny_config(root), "new", resume_ckpt="latest")).name == "model-4.pt"


@pytest.mark.parametrize(
    ("resume", "message"), [("3", "has steps 4"), ("model-9.pt", "not found"), ("yes", "no, latest, a step")]
)
def test_resuming_from_what_is_not_there_names_what_is(root, resume, message):
    cfg = tiny_config(root)
    train(cfg)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        train(renamed(cfg, cfg.model, resume_ckpt=resume.replace("model", str(run_dpath(cfg) / "model"))))


def test_a_run_may_branch_off_another_runs_checkpoint(root):
    cfg = tiny_config(root)
    once = train(renamed(cfg, "once", num_train_steps=4))
    start = train(renamed(cfg, "start", num_train_steps=2))
    branch = train(renamed(cfg, "branch", num_train_steps=4, resume_ckpt=str(start)))
    assert branch.parent.name == "branch"
    assert_equal(weights(branch), weights(once))


def test_a_run_killed_between_state_and_checkpoint_resumes_from_the_pair_before(root, monkeypatch):
    cfg = renamed(tiny_config(root), "run", num_train_steps=4, save_model_every=2)
    real = run_folder.save_model

    def killed(path, model, config, step):
        if step == 4:
            raise KeyboardInterrupt
        real(path, model, config, step)

    monkeypatch.setattr(run_folder, "save_model", killed)
    with pytest.raises(KeyboardInterrupt):
        train(cfg)
    monkeypatch.undo()
    folder = run_folder.RunFolder(run_dpath(cfg))
    assert (folder.steps(), folder.steps("state")) == ([2], [2, 4])
    last = train(renamed(cfg, "run", resume_ckpt="latest"))
    assert (folder.steps(), folder.steps("state")) == ([2, 4], [4])
    assert_equal(weights(last), weights(train(renamed(cfg, "once"))))
    assert [row["step"] for row in rows(cfg, "train")] == [1, 2, 3, 4]


def test_a_validation_that_a_stop_cut_off_is_made_up_for(root, monkeypatch):
    cfg = renamed(tiny_config(root), "run", validate_every=2, save_model_every=2)
    monkeypatch.setattr("training.validation.Validator.run", lambda *_: exec("raise KeyboardInterrupt"))
    with pytest.raises(KeyboardInterrupt):
        train(cfg)
    monkeypatch.undo()
    train(renamed(cfg, "run", resume_ckpt="latest"))
    assert [row["step"] for row in rows(cfg, "validation")] == [2, 4]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_signal_saves_and_the_run_goes_on_from_there(root, monkeypatch, caplog, number):
    cfg = renamed(tiny_config(root), "run", num_train_steps=5)
    before = signal.getsignal(number)
    real = Trainer._train_step

    def step(self, batches):
        if self.step == 1:
            signal.raise_signal(number)
        real(self, batches)

    monkeypatch.setattr(Trainer, "_train_step", step)
    with caplog.at_level(logging.INFO), pytest.raises(SystemExit) as stop:
        train(cfg)
    assert stop.value.code == 128 + number
    assert signal.getsignal(number) is before
    assert "train.resume_ckpt=latest" in caplog.text
    monkeypatch.undo()
    assert_equal(weights(train(renamed(cfg, "run", resume_ckpt="2"))), weights(train(renamed(cfg, "once"))))


def test_only_the_newest_checkpoints_and_the_newest_state_are_kept(root):
    cfg = renamed(tiny_config(root), "run", num_train_steps=5, save_model_every=1, keep_checkpoints=2)
    train(cfg)
    names = sorted(path.name for path in run_dpath(cfg).iterdir())
    assert names == ["config.yaml", "metrics.jsonl", "model-4.pt", "model-5.pt", "state-5.pt"]


KILLED = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import torch
torch.set_num_threads(1)
from tests.test_trainer import renamed, tiny_config
from training.main import train
settings = {"num_train_steps": int(sys.argv[3]), "save_model_every": 3, "resume_ckpt": "latest"}
cfg = renamed(tiny_config(Path(sys.argv[2])), "killed", **settings)
train(cfg)
"""


@pytest.mark.slow
def test_a_run_killed_by_sigkill_goes_on_from_its_last_complete_checkpoint(root):
    arguments = [sys.executable, "-c", KILLED, str(Path(__file__).parents[1]), str(root)]
    folder = root / "checkpoints" / "tokenizer" / "killed"
    process = subprocess.Popen([*arguments, "100000"], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (folder / "model-6.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    reached = run_folder.RunFolder(folder).steps()[-1]
    total = reached + 5
    subprocess.run([*arguments, str(total)], check=True, stderr=subprocess.DEVNULL)
    cfg = renamed(tiny_config(root), "killed")
    assert [row["step"] for row in rows(cfg, "train")] == list(range(1, total + 1))
    assert not list(folder.glob(".*"))
    once = train(renamed(tiny_config(root), "once", num_train_steps=total))
    assert_equal(weights(folder / f"model-{total}.pt"), weights(once))


# ---- one step -------------------------------------------------------------------------------------------------------


def test_gradients_are_clipped_once_per_optimizer_step_not_inside_accumulation(root, monkeypatch):
    clipped = []

    def clip(self, parameters, max_norm, norm_type=2):
        norm = torch.nn.utils.clip_grad_norm_(parameters, max_norm)
        clipped.append(norm.item())
        return norm

    monkeypatch.setattr("accelerate.Accelerator.clip_grad_norm_", clip)
    cfg = tiny_config(root)
    cfg.optimizer.max_grad_norm = 1e-3
    whole = train(renamed(cfg, "whole", num_train_steps=2, batch_size=8))
    parts = train(renamed(cfg, "parts", num_train_steps=2, batch_size=2, grad_accum=4))
    assert len(clipped) == 4  # 2 runs of 2 steps; 10 if every micro-batch were clipped
    assert clipped[:2] == pytest.approx(clipped[2:], rel=1e-3)
    for name, value in weights(parts).items():
        torch.testing.assert_close(value, weights(whole)[name], atol=2e-4, rtol=1e-3)


def test_learning_rate_warms_up_falls_as_a_cosine_and_stays():
    config = OptimizerConfig(1e-4, linear_warmup_total_iters=10, cosine_annealing_t_max=100)
    rates = [learning_rate(config, step) for step in (0, 5, 10, 60, 110, 5000)]
    assert rates == pytest.approx([5e-5, 7.5e-5, 1e-4, 7.5e-5, 5e-5, 5e-5])


def test_vectors_are_not_decayed_and_frozen_parameters_not_optimised():
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.LayerNorm(3), torch.nn.Linear(3, 1))
    model[2].requires_grad_(False)
    groups = make_optimizer(model, OptimizerConfig(weight_decay=0.1)).param_groups
    assert [(g["weight_decay"], len(g["params"])) for g in groups] == [(0.1, 1), (0.0, 3)]


def test_training_learns_and_leaves_the_tokenizer_alone(root):
    cfg = renamed(world_config(root), "run", num_train_steps=30)
    path = train(cfg)
    losses = [row["loss"] for row in rows(cfg, "train")]
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    assert_equal(weights(path.parent / "tokenizer.pt"), weights(Path(cfg.tokenizer_fpath)))
    embedding = "dynamics.action_embedding.weight"
    fresh = train(renamed(cfg, "fresh", num_train_steps=1))
    assert not torch.equal(weights(path)[embedding], weights(fresh)[embedding])


def test_use_decoder_loss_adds_the_pixel_error_of_the_prediction(root):
    cfg = renamed(world_config(root), "run", use_decoder_loss=True)
    assert load_model(train(cfg)).config.dynamics.decoder_loss_weight == 1
    first = rows(cfg, "train")[0]
    assert first["loss"] == pytest.approx(first["cross_entropy"] + first["decoder_loss"], rel=1e-4)


@pytest.mark.parametrize("bad", [float("nan"), 3e38])
def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step(root, monkeypatch, bad):
    cfg = renamed(tiny_config(root), "run", num_train_steps=6, log_every=6, save_model_every=2)
    real = Trainer._train_step

    def step(self, batches):
        if self.step == 2:
            with torch.no_grad():
                self.model.to_pixels.rest.bias.fill_(bad)
        real(self, batches)

    monkeypatch.setattr(Trainer, "_train_step", step)
    with pytest.raises(ValueError, match=r"not finite at step 3.*learning_rate") as error:
        train(cfg)
    assert "\n" not in str(error.value)
    assert run_folder.RunFolder(run_dpath(cfg)).steps() == [2]


@pytest.mark.slow
@pytest.mark.parametrize("model", ["tokenizer", "genie_redux_guided", "genie_redux"])
def test_compiled_training_equals_eager(root, model):
    cfg = world_config(root, model) if model.startswith("genie") else tiny_config(root, model)
    eager = weights(train(renamed(cfg, "eager", num_train_steps=2)))
    cfg.compile = True
    compiled = weights(train(renamed(cfg, "compiled", num_train_steps=2)))
    for name in eager:
        torch.testing.assert_close(compiled[name], eager[name], atol=1e-3, rtol=1e-3)


def test_bf16_training_keeps_float32_weights(root):
    cfg = renamed(world_config(root), "run", num_train_steps=2)
    cfg.precision = "bf16"
    assert {value.dtype for value in weights(train(cfg)).values()} == {torch.float32}


# ---- what a run starts from -----------------------------------------------------------------------------------------


def test_a_world_model_never_trains_on_an_untrained_tokenizer(root):
    with pytest.raises(ValueError, match=r"needs a trained tokenizer: set tokenizer_fpath"):
        train(tiny_config(root, "genie_redux_guided"))


@pytest.mark.parametrize("model", ["tokenizer", "lam", "genie_redux_guided"])
def test_fine_tuning_never_starts_from_nothing(root, model):
    cfg = world_config(root, model) if model.startswith("genie") else tiny_config(root, model)
    cfg = renamed(cfg, "fine_tuned", fine_tune=True, num_train_steps=2)
    with pytest.raises(ValueError, match=f"train.fine_tune=true needs a trained {model}: set model_fpath"):
        train(cfg)
    cfg.model_fpath = str(train(renamed(cfg, "first", fine_tune=False)))
    train(cfg)
    cfg.model_fpath, cfg.train.resume_ckpt, cfg.train.num_train_steps = None, "latest", 3
    assert train(cfg).name == "model-3.pt"


def test_action_count_and_names_come_from_the_dataset(root):
    config = load_model(train(world_config(root))).config
    assert (config.dynamics.action_dim, config.action_names) == (len(ACTIONS), ACTIONS)


def test_a_model_knows_what_part_of_the_picture_it_was_trained_on(root, tmp_path, caplog):
    info = next((write_dataset(tmp_path / "around") / tiny_config(tmp_path).train.dataset_name).glob("*/info.json"))
    info.write_text(json.dumps(json.loads(info.read_text()) | {"connector": {"roi_annotation_fpath": "heroes.csv"}}))
    checkpoint = train(tiny_config(tmp_path / "around"))
    assert load_model(checkpoint).config.recorded_around == "heroes.csv"
    cfg = renamed(tiny_config(root), "whole")
    cfg.model_fpath = str(checkpoint)
    assert load_model(train(cfg)).config.recorded_around == ""
    warning = "the model was trained on pictures around a character (heroes.csv), the dataset has whole pictures"
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


def test_the_tokenizer_given_replaces_the_one_beside_the_model(root):
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
        ("dataset_name", "", "train.dataset_name is not set.*toy_v0.0.0"),
        ("dataset_name", "none_v0", "run 'python run.py generate"),
        ("batch_size", 1000, "lower train.batch_size"),
        ("batch_size", 0, "train.batch_size=0"),
        ("num_frames", 1000, "num_frames=1000"),
        ("wandb_mode", "on", "train.wandb_mode=on"),
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
    with pytest.raises(ValueError, match="precision=half"):
        choose_precision("half", torch.device("cpu"))


def test_wandb_auto_is_off_without_a_login_and_says_so(root, monkeypatch, caplog, tmp_path):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    assert not wandb_login_present()
    settings = WandbSettings("auto", "project", None, None, mode_key="train.wandb_mode")
    with caplog.at_level(logging.INFO):
        Tracker(tmp_path / "run", settings, {}, 0, is_main=True).close()
    assert "wandb is off" in caplog.text
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password 0000\n")
    os.chmod(tmp_path / "netrc", 0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert wandb_login_present()


# ---- validation -----------------------------------------------------------------------------------------------------


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


def test_validation_loss_is_the_mean_of_the_whole_set_not_the_last_batch(root):
    measured = []
    for batch_size in (1, 2, 4):
        cfg = renamed(tiny_config(root), f"b{batch_size}", batch_size=4, validate_every=1, num_train_steps=1)
        cfg.train.max_valid_size = cfg.train.n_total_samples = 0
        runtime = make_runtime("cpu", "fp32")
        model = load_model(save_fresh(root / "fixed" / "model-7.pt", cfg)).model
        windows = open_windows(cfg.train, "train", WindowChoice("validation", 5, 5), cfg.data)
        cfg.train.batch_size = batch_size
        measured.append(Validator(cfg, runtime, windows, root).run(model, 1))
    whole = torch.stack([windows[i][0] for i in range(len(windows))]).float() / 255
    with torch.no_grad():
        expected = model(whole).logs["recons_loss"].item()
    for values in measured:
        assert values["recons_loss"] == pytest.approx(expected, rel=1e-5)
        assert values["psnr"] == pytest.approx(measured[0]["psnr"], rel=1e-5)


def test_a_validation_set_smaller_than_the_number_of_samples_works(root):
    cfg = renamed(tiny_config(root), "run", validate_every=4, n_total_samples=1000, max_valid_size=1000)
    train(cfg)
    assert rows(cfg, "validation")[0]["psnr"] > 0


def test_a_dataset_without_validation_sessions_says_what_to_do(tmp_path):
    cfg = renamed(tiny_config(write_dataset(tmp_path, sessions=1)), "run", validate_every=2)
    with pytest.raises(ValueError, match=r"train\.validate_every=0"):
        train(cfg)
    train(renamed(cfg, "run", validate_every=0))


# ---- several processes ----------------------------------------------------------------------------------------------


def launch(cfg: GenieReduxConfig, entry: str, processes: int = 2) -> None:
    """Run `training.main:<entry>` in processes of torch's elastic launcher, as the launcher does."""
    config = LaunchConfig(1, 1, processes, rdzv_backend="c10d", rdzv_endpoint="localhost:0", max_restarts=0)
    elastic_launch(config, run_in_process)(cfg, entry)


def run_in_process(cfg: GenieReduxConfig, entry: str) -> None:
    torch.set_num_threads(1)
    getattr(main, entry)(cfg)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["tokenizer", "genie_redux"])
def test_two_processes_equal_one_with_twice_the_batch(root, model):
    cfg = world_config(root, model) if model.startswith("genie") else tiny_config(root, model)
    cfg.train.num_train_steps, cfg.train.validate_every = 3, 3
    both = renamed(cfg, "both", batch_size=2)
    launch(both, "train")
    one = renamed(cfg, "one", batch_size=4)
    alone = weights(train(one))
    together = weights(run_dpath(both) / "model-3.pt")
    if model == "tokenizer":  # world models draw different masks in each process
        for name in alone:
            torch.testing.assert_close(together[name], alone[name], atol=1e-4, rtol=1e-3)
        ours, theirs = rows(both, "validation")[0], rows(one, "validation")[0]
        assert ours["psnr"] == pytest.approx(theirs["psnr"], rel=1e-4)
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
    assert [row["step"] for row in rows(both, "train")] == [1, 2, 3]
    resumed = renamed(both, "both", num_train_steps=5, resume_ckpt="latest")
    launch(resumed, "train")
    straight = renamed(both, "straight", num_train_steps=5)
    launch(straight, "train")
    for name, value in weights(run_dpath(straight) / "model-5.pt").items():
        torch.testing.assert_close(weights(run_dpath(both) / "model-5.pt")[name], value, atol=1e-6, rtol=1e-5)
