"""Resuming equals never having stopped; nothing is lost or doubled."""

import logging
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from data_generation.data.errors import FieldError, UserError
from data_generation.data.invocation import Invocation, note_invocation
from models.tokenizer import Tokenizer
from tests.process_helpers import wait_until
from tests.training_helpers import (
    assert_equal,
    renamed,
    rows,
    tiny_config,
    untimed_rows,
    weights,
    world_config,
)
from training import run_folder
from training.main import run_dpath, train


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


def test_a_run_from_before_a_setting_existed_is_not_resumed_with_another_structure(root):
    """It was trained as the setting's default says."""
    cfg = world_config(root)
    path = train(renamed(cfg, "before", num_train_steps=1))
    state_path = path.with_name("state-1.pt")
    state = torch.load(state_path, weights_only=True)
    del state["run"]["dynamics.shared_positions"]
    torch.save(state, state_path)
    resumed = renamed(cfg, "before", num_train_steps=2, resume_ckpt="latest")
    resumed.dynamics.shared_positions = True
    with pytest.raises(
        FieldError, match=r"run that is resumed has False.*\(dynamics\.shared_positions=false\), or start"
    ):
        train(resumed)
    resumed.dynamics.shared_positions = False
    assert train(resumed).name == "model-2.pt"


def test_resuming_with_worker_processes_counts_what_was_trained_not_what_was_read_ahead(root):
    cfg = tiny_config(root)
    once = train(renamed(cfg, "once", num_train_steps=3))
    train(renamed(cfg, "twice", num_train_steps=2, n_data_workers=1))
    assert_equal(weights(train(renamed(cfg, "twice", num_train_steps=3, resume_ckpt="2"))), weights(once))


def test_a_run_that_resumes_with_another_batch_size_resumes_again_as_if_it_had_not_stopped(root):
    cfg = tiny_config(root)
    cfg.data.seq_step = 20  # 9 clips: after a batch of 4, one of 3 and two that fill no batch
    start = train(renamed(cfg, "start", num_train_steps=1, batch_size=4))
    changed = {"batch_size": 3, "resume_ckpt": str(start)}
    once = train(renamed(cfg, "once", num_train_steps=5, **changed))
    for steps in (2, 3, 4):
        name = f"stopped at {steps}"
        train(renamed(cfg, name, num_train_steps=steps, **changed))
        assert_equal(
            weights(train(renamed(cfg, name, num_train_steps=5, batch_size=3, resume_ckpt="latest"))), weights(once)
        )


@pytest.mark.parametrize(("model", "auto"), [("tokenizer", "muon"), ("lam", "adamw"), ("genie_redux_guided", "adamw")])
def test_a_run_keeps_its_optimiser_whatever_it_is_called(root, model, auto):
    cfg = world_config(root, model) if model.startswith("genie") else tiny_config(root, model)
    cfg.optimizer.name = "auto"
    train(renamed(cfg, "run", num_train_steps=1))
    cfg.optimizer.name = auto
    train(renamed(cfg, "run", num_train_steps=2, resume_ckpt="latest"))
    for name in {"muon", "adamw"} - {auto}:
        cfg.optimizer.name = name
        message = rf"^optimizer\.name={name}: the run that is resumed has {auto}; set optimizer\.name={auto}"
        with pytest.raises(FieldError, match=message):
            train(renamed(cfg, "run", num_train_steps=3, resume_ckpt="latest"))


def test_a_job_of_an_edited_multirun_is_not_taken_for_another_one(root):
    """Jobs are named by their number: a value that is put before the others moves these on by one."""

    def job(number, rate, swept, **changes):
        cfg = renamed(tiny_config(root), f"run_{number}", num_train_steps=1, resume_ckpt="latest", **changes)
        cfg.optimizer.learning_rate = rate
        note_invocation(cfg, Invocation(swept=swept))
        return cfg

    swept = ("optimizer.learning_rate",)
    for number, rate in enumerate([1e-4, 2e-4]):
        train(job(number, rate, swept))
    line = (
        r"^optimizer\.learning_rate=5e-05: 'run_0' was trained with 0\.0001, and jobs are named by their number; "
        r"put new values last, or name runs by value: train\.wandb_name='run-\$\{optimizer\.learning_rate\}'$"
    )
    for names in (swept, ("optimizer",)):
        with pytest.raises(FieldError, match=line):
            train(job(0, 5e-5, names))
    # What is not swept may change, and so may a run that branches off another one.
    train(job(0, 1e-4, swept, log_every=2))
    train(job(0, 5e-5, ()))
    branch = job(2, 5e-5, swept)
    branch.train.resume_ckpt = str(run_dpath(job(1, 2e-4, swept)) / "model-1.pt")
    train(branch)


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


def test_resuming_from_what_is_not_there_names_what_is(root):
    cfg = tiny_config(root)
    train(cfg)
    nothing = str(run_dpath(cfg) / "model-9.pt")
    for resume, message in (("3", "has steps 4"), (nothing, "not found"), ("yes", "no, latest, a step")):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            train(renamed(cfg, cfg.model, resume_ckpt=resume))


def test_the_remedies_of_a_step_without_state_work(root):
    cfg = renamed(tiny_config(root), "kept", save_model_every=2)
    train(cfg)
    remedy = (
        r"start a new run from the weights with model_fpath=(\S*model-2\.pt) train\.resume_ckpt=no and another train\.w"
    )
    with pytest.raises(UserError, match=remedy) as raised:
        train(replace(renamed(cfg, "kept", resume_ckpt="2"), seed=0))
    named = re.search(remedy, str(raised.value))
    assert named
    again = replace(renamed(cfg, "from_weights", resume_ckpt="no"), model_fpath=named[1])
    assert train(again).name == "model-4.pt"


@pytest.mark.parametrize("resume", ["latest", "no"])
def test_a_folder_without_any_state_is_not_to_be_resumed(root, resume):
    cfg = renamed(tiny_config(root), "copied")
    train(cfg)
    for state in run_dpath(cfg).glob("state-*.pt"):
        state.unlink()
    with pytest.raises(UserError, match=r"would overwrite it; set another train\.wandb_name$"):
        train(renamed(cfg, "copied", resume_ckpt=resume))


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
def test_a_stop_signal_saves_and_the_run_resumes_from_there(root, monkeypatch, caplog, number):
    cfg = renamed(tiny_config(root), "run", num_train_steps=5)
    before = signal.getsignal(number)
    real, calls = Tokenizer.forward, []

    def forward(self, *arguments):
        calls.append(arguments)
        if len(calls) == 2:
            signal.raise_signal(number)
        return real(self, *arguments)

    monkeypatch.setattr(Tokenizer, "forward", forward)
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
    checkpoints = ["model-4.pt", "model-5.pt"]
    assert names == ["config.yaml", "metrics.jsonl", *checkpoints, "report.html", "run.json", "state-5.pt"]


KILLED = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from tests.training_helpers import renamed, tiny_config
from training.main import train
settings = {"num_train_steps": int(sys.argv[3]), "save_model_every": 3, "resume_ckpt": "latest"}
cfg = renamed(tiny_config(Path(sys.argv[2])), "killed", **settings)
train(cfg)
"""


@pytest.mark.slow
def test_a_run_killed_by_sigkill_resumes_from_its_last_complete_checkpoint(root):
    arguments = [sys.executable, "-c", KILLED, str(Path(__file__).parents[1]), str(root)]
    folder = root / "checkpoints" / "tokenizer" / "killed"
    process = subprocess.Popen([*arguments, "100000"], stderr=subprocess.DEVNULL)
    wait_until((folder / "model-6.pt").exists)
    process.kill()
    process.wait()
    reached = run_folder.RunFolder(folder).steps()[-1]
    total = reached + 5
    subprocess.run([*arguments, str(total)], check=True, stderr=subprocess.DEVNULL)
    cfg = renamed(tiny_config(root), "killed")
    assert [row["step"] for row in rows(cfg, "train")] == list(range(1, total + 1))
    assert not list(folder.glob(".*"))
    once = train(renamed(tiny_config(root), "once", num_train_steps=total))
    assert_equal(weights(folder / f"model-{total}.pt"), weights(once))
