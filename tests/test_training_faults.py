"""Faults around a training run: global generators, power cuts, full disks, trackers, second runs, divergence."""

import json
import logging
import os
import re
import resource
import shlex
import shutil
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
import torch

from data_generation.data.errors import UserError
from data_generation.data.reading import MAX_TEXT_BYTES
from tests.process_helpers import wait_until
from tests.training_helpers import assert_equal, renamed, rows, tiny_config, weights, world_config, write_dataset
from training import tracker
from training.fid import make_fid
from training.main import evaluate, run_dpath, train
from training.run_folder import RunFolder
from training.runtime import make_runtime
from training.trainer import Trainer


def moving(root, model="tokenizer", **changes):
    """A run whose codes move from the first step on."""
    cfg = world_config(root, model) if model.startswith("genie") else tiny_config(root, model)
    cfg.tokenizer.dead_code_threshold = cfg.lam.dead_code_threshold = 5.0
    return renamed(cfg, "moving", num_train_steps=6, **changes)


# ---- exactness ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["tokenizer", "lam", "genie_redux"])
@pytest.mark.parametrize("workers", [0, 1])
def test_resuming_after_codes_were_moved_equals_never_having_stopped(root, model, workers):
    if workers and model != "tokenizer":
        pytest.skip("workers are the same for all models")
    cfg = moving(root, model, n_data_workers=workers)
    once = train(renamed(cfg, "once"))
    train(renamed(cfg, "twice", num_train_steps=3))
    torch.manual_seed(77)
    assert_equal(weights(train(renamed(cfg, "twice", resume_ckpt="latest"))), weights(once))


def test_reseeding_the_global_generators_between_steps_changes_nothing(root, monkeypatch):
    once = weights(train(renamed(moving(root), "once")))
    real = Trainer._train_step

    def reseeded(self, batches):
        torch.manual_seed(1000 + self.step)
        real(self, batches)

    monkeypatch.setattr(Trainer, "_train_step", reseeded)
    assert_equal(weights(train(moving(root))), once)


@pytest.mark.parametrize("model", ["tokenizer", "genie_redux"])
def test_validation_changes_nothing_of_training(root, model):
    never = weights(train(renamed(moving(root, model), "never")))
    assert_equal(weights(train(moving(root, model, validate_every=1))), never)


def test_training_leaves_the_global_generator_alone(root):
    cfg = moving(root, validate_every=3)
    before = torch.get_rng_state()
    train(cfg)
    assert torch.equal(torch.get_rng_state(), before)


# ---- power cuts and full disks --------------------------------------------------------------------------------------


def _damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    middle = len(content) // 2
    spoilt = {"empty": b"", "cut": content[:middle], "zeros": content[:middle] + bytes(64) + content[middle + 64 :]}
    path.write_bytes(spoilt[how])


@pytest.fixture(scope="module")
def saved_twice(tmp_path_factory) -> Path:
    """A dataset, and a run with the pairs of two steps: the older state still there, as a power cut may leave it."""
    root = write_dataset(tmp_path_factory.mktemp("saved_twice"))
    cfg = renamed(tiny_config(root), "run", num_train_steps=4, save_model_every=2)
    train(renamed(cfg, "run", num_train_steps=2))
    older = (run_dpath(cfg) / "state-2.pt").read_bytes()
    train(renamed(cfg, "run", resume_ckpt="latest"))
    (run_dpath(cfg) / "state-2.pt").write_bytes(older)
    return root


@pytest.mark.parametrize("file", ["model", "state"])
@pytest.mark.parametrize("how", ["empty", "cut", "zeros"])
def test_a_damaged_newest_pair_falls_back_to_the_one_before_and_says_so(saved_twice, tmp_path, caplog, file, how):
    root = shutil.copytree(saved_twice, tmp_path / "copy")
    cfg = renamed(tiny_config(root), "run", num_train_steps=4, save_model_every=2)
    whole = weights(run_dpath(cfg) / "model-4.pt")
    _damage(run_dpath(cfg) / f"{file}-4.pt", how)
    with caplog.at_level(logging.WARNING):
        assert_equal(weights(train(renamed(cfg, "run", resume_ckpt="latest"))), whole)
    assert [f"{file}-4.pt" in r.message and "older" in r.message for r in caplog.records] == [True]
    assert [row["step"] for row in rows(cfg, "train")] == [1, 2, 3, 4]


def test_everything_that_resuming_needs_is_synced_before_the_older_pair_goes(root, monkeypatch):
    synced: set[int] = set()
    monkeypatch.setattr(os, "fsync", lambda fd, real=os.fsync: (synced.add(os.fstat(fd).st_ino), real(fd)))
    cfg = renamed(world_config(root), "run", save_model_every=2)
    train(cfg)
    files = [path for path in run_dpath(cfg).iterdir() if path.is_file()]
    assert {"model-4.pt", "state-4.pt", "config.yaml", "tokenizer.pt", "metrics.jsonl"} <= {p.name for p in files}
    assert {path.name for path in files if path.stat().st_ino not in synced} == set()


def test_a_disk_full_while_saving_is_one_line_and_the_run_resumes(root):
    cfg = renamed(tiny_config(root), "run", num_train_steps=4)
    train(renamed(cfg, "run", num_train_steps=2))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(
            UserError, match=r"state-4\.pt' cannot be written .*model-2\.pt.*resume_ckpt=latest"
        ) as line:
            train(renamed(cfg, "run", resume_ckpt="latest"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(line.value)
    assert not list(run_dpath(cfg).glob(".*"))
    once = train(renamed(cfg, "once"))
    assert_equal(weights(train(renamed(cfg, "run", resume_ckpt="latest"))), weights(once))


# ---- trackers -------------------------------------------------------------------------------------------------------


class _DeadRun:
    def log(self, values, step):
        raise ConnectionResetError("Connection lost")

    def finish(self):
        raise BrokenPipeError


class _StuckRun(_DeadRun):
    def log(self, values, step):
        time.sleep(3600)


@pytest.mark.parametrize("run", [_DeadRun(), _StuckRun()])
def test_a_wandb_that_died_or_hangs_does_not_stop_training(root, monkeypatch, caplog, run):
    module = types.SimpleNamespace(init=lambda **_: run, Settings=lambda **_: None)
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.setattr(tracker, "_FINISH_SECONDS", -9.9)
    cfg = renamed(tiny_config(root), "run", wandb_mode="offline")
    assert train(cfg).name == "model-4.pt"
    assert len(rows(cfg, "train")) == 4
    assert sum("wandb" in record.message for record in caplog.records) == 1


def test_a_wandb_that_cannot_start_is_off_unless_it_was_asked_for(root, monkeypatch, caplog):
    def init(**_):
        raise PermissionError(13, "Permission denied", "/nowhere/.config")

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init, Settings=lambda **_: None))
    monkeypatch.setenv("WANDB_API_KEY", "0")
    train(renamed(tiny_config(root), "auto", wandb_mode="auto"))
    assert "wandb is off (" in caplog.text
    with pytest.raises(UserError, match=r"train\.wandb_mode=online: failed"):
        train(renamed(tiny_config(root), "online", wandb_mode="online"))


def test_a_metrics_file_that_cannot_be_written_loses_no_row(root, monkeypatch):
    cfg = renamed(tiny_config(root), "run")
    real, calls = Path.open, []

    def full(self, mode="r", *arguments, **others):
        if self.name == "metrics.jsonl" and mode == "a":
            calls.append(self)
            if len(calls) == 2:
                raise OSError(28, "No space left on device")
        return real(self, mode, *arguments, **others)

    monkeypatch.setattr(Path, "open", full)
    train(cfg)
    assert [row["step"] for row in rows(cfg, "train")] == [1, 2, 3, 4]


@pytest.mark.parametrize("line", ["null", "[]", "3", "{}", '{"step": "1"}', '{"step": NaN, "split": "a"}', "[" * 9999])
def test_lines_of_metrics_that_are_no_rows_are_omitted(tmp_path, line):
    good = {"step": 1, "split": "train", "time": 0.0, "loss": 1.0}
    path = tmp_path / "metrics.jsonl"
    path.write_text(f"{json.dumps(good)}\n{line}\n")
    assert tracker.MetricsFile(path, 5).rows == [good]


def test_metrics_of_any_size_are_read(tmp_path):
    path = tmp_path / "metrics.jsonl"
    written = [{"step": step, "split": "train", "time": 0.0, "note": "x" * 2**16} for step in range(1, 1030)]
    path.write_text("".join(json.dumps(row) + "\n" for row in written))
    assert path.stat().st_size > MAX_TEXT_BYTES
    assert tracker.MetricsFile(path, 1028).rows == written[:-1]


@pytest.mark.parametrize("kind", ["folder", "fifo", "bytes"])
def test_an_unreadable_netrc_means_no_login(tmp_path, monkeypatch, kind):
    path = tmp_path / ".netrc"
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.write_bytes(b"\xff\xfe machine \x80")
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("NETRC", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    assert not tracker.wandb_login_present()


@pytest.mark.parametrize("home", ["file", "missing"])
def test_without_a_usable_home_there_is_no_fid_and_one_line(tmp_path, monkeypatch, home):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HOME", str(tmp_path / home / "inner") if home == "file" else "/proc/nobody")
    for name in ("TORCH_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    fid, reason = make_fid(None, 3, make_runtime("cpu", "fp32"))
    assert fid is None
    assert "no FID" in reason


# ---- two runs, another run ------------------------------------------------------------------------------------------

RUN = """
import sys, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from tests.training_helpers import renamed, tiny_config
from training.main import train
train(renamed(tiny_config(Path(sys.argv[2])), "run", num_train_steps=100000, save_model_every=2, n_data_workers=1))
"""


def test_a_second_run_in_one_folder_is_refused_until_the_first_has_ended_however(root):
    cfg = renamed(tiny_config(root), "run", num_train_steps=200000, resume_ckpt="latest")
    arguments = [sys.executable, "-c", RUN, str(Path(__file__).parents[1]), str(root)]
    first = subprocess.Popen(arguments, stderr=subprocess.DEVNULL)
    try:
        wait_until((run_dpath(cfg) / "model-2.pt").exists)
        with pytest.raises(UserError, match=rf"in use by process {first.pid} .*started 20.*wandb_name"):
            train(cfg)
    finally:
        first.kill()
        first.wait()
    reached = RunFolder(run_dpath(cfg)).steps()[-1]
    assert train(renamed(cfg, "run", num_train_steps=reached, resume_ckpt="latest")).is_file()
    assert not (run_dpath(cfg) / ".lock").exists()


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory) -> Path:
    """A dataset, and a run of two steps on it, which no test changes."""
    root = write_dataset(tmp_path_factory.mktemp("two_steps"))
    train(renamed(tiny_config(root), "run", num_train_steps=2))
    return root


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda cfg: setattr(cfg, "seed", 5), r"^seed=5: .* has 0"),
        (lambda cfg: setattr(cfg.tokenizer, "dim", 32), r"^tokenizer\.dim=32: .* has 16"),
        (lambda cfg: setattr(cfg.train, "num_frames", 4), r"^train\.num_frames=4: .* has 5"),
        (lambda cfg: setattr(cfg.data, "seq_step", 2), r"^data\.seq_step=2: .* has 1"),
    ],
)
@pytest.mark.parametrize("steps", [2, 4])
def test_resuming_with_what_a_run_cannot_change_is_refused_with_both_values(two_steps, change, message, steps):
    cfg = renamed(tiny_config(two_steps), "run", num_train_steps=steps, resume_ckpt="latest")
    change(cfg)
    with pytest.raises(UserError, match=message):
        train(cfg)


def test_a_refused_resume_names_the_overrides_with_which_it_works(two_steps, tmp_path):
    root = shutil.copytree(two_steps, tmp_path / "copy")
    cfg = renamed(tiny_config(root), "run", resume_ckpt="latest")
    cfg.seed, cfg.tokenizer.dim, cfg.optimizer.learning_rate = 5, 32, 1e-3
    line = r"^tokenizer\.dim=32: .* has 16; repeat what 'run' was trained with \((.*)\), or start another run \(train\."
    with pytest.raises(UserError, match=line) as raised:
        train(cfg)
    named = re.search(line, str(raised.value))
    # What may change stays as it was given.
    assert named and sorted(shlex.split(named[1])) == ["seed=0", "tokenizer.dim=16"]
    cfg.seed, cfg.tokenizer.dim = 0, 16
    assert train(cfg).name == "model-4.pt"


def test_resuming_on_another_dataset_is_refused(two_steps, tmp_path):
    root = shutil.copytree(two_steps, tmp_path / "copy")
    cfg = renamed(tiny_config(root), "run", resume_ckpt="latest")
    other = write_dataset(root / "elsewhere", seed=1)
    cfg.train.dataset_root_dpath = str(other)
    with pytest.raises(UserError, match=r"train\.dataset_name=.*episodes are not those"):
        train(cfg)
    cfg.train.dataset_name = other_name = f"{cfg.train.dataset_name}_2"
    (other / other_name.removesuffix("_2")).rename(other / other_name)
    with pytest.raises(UserError, match=rf"^train\.dataset_name={other_name}: .*\(train\.dataset_name="):
        train(cfg)
    cfg.train.dataset_name = other_name.removesuffix("_2")
    moved = (root / cfg.train.dataset_name).rename(root / "renamed")
    cfg.train.dataset_root_dpath, cfg.train.dataset_name = str(root), moved.name
    assert train(cfg).name == "model-4.pt"


def test_what_a_resumed_run_may_change_is_said_in_one_line(two_steps, tmp_path, caplog):
    root = shutil.copytree(two_steps, tmp_path / "copy")
    cfg = renamed(tiny_config(root), "run", resume_ckpt="latest", batch_size=2)
    cfg.optimizer.learning_rate = 1e-3
    with caplog.at_level(logging.INFO):
        train(cfg)
    (line,) = [record.message for record in caplog.records if "other settings" in record.message]
    for part in ("learning_rate=0.001 (was 0.003)", "batch_size=2 (was 4)", "num_train_steps=4 (was 2)"):
        assert part in line


def test_a_run_without_a_record_resumes_as_before(two_steps, tmp_path):
    root = shutil.copytree(two_steps, tmp_path / "copy")
    path = run_dpath(renamed(tiny_config(root), "run")) / "state-2.pt"
    state = torch.load(path, weights_only=True)
    del state["run"]
    torch.save(state, path)
    cfg = renamed(tiny_config(root), "run", resume_ckpt="latest")
    cfg.seed = 9
    assert train(cfg).name == "model-4.pt"


# ---- divergence, measures -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["tokenizer", "lam", "genie_redux"])
def test_divergence_is_one_line_with_the_step_and_the_remedy_whatever_chokes_on_it(root, model):
    cfg = moving(root, model, log_every=100, validate_every=7)
    cfg.train.num_train_steps = 40
    cfg.optimizer.learning_rate = cfg.optimizer.cosine_annealing_min_lr = 1e5
    cfg.optimizer.weight_decay = 100.0
    with pytest.raises(UserError, match=r"optimizer\.learning_rate=.*not finite at step \d+; lower it"):
        train(cfg)


def test_an_error_of_a_step_after_divergence_is_the_divergence(root, monkeypatch):
    def broken(self, batches):
        with torch.no_grad():
            self._trained[0].fill_(float("nan"))
        raise RuntimeError("invalid multinomial distribution")

    monkeypatch.setattr(Trainer, "_train_step", broken)
    with pytest.raises(UserError, match="not finite at step 1;"):
        train(tiny_config(root))


def test_a_fid_that_cannot_be_computed_is_a_note_and_the_rest_is_written(root, monkeypatch):
    class OneFrame:
        def update(self, *_, **__):
            pass

        def compute(self):
            raise RuntimeError("More than one sample is required")

    cfg = world_config(root)
    path = train(renamed(cfg, "run", num_train_steps=1))
    cfg.eval.model_fpath = str(path)
    monkeypatch.setattr("training.evaluation.make_fid", lambda *_: (OneFrame(), ""))
    metrics = json.loads((evaluate(cfg) / "metrics.json").read_text())
    assert metrics["metrics"]["psnr"] > 0
    assert any("no FID" in note and "More than one sample" in note for note in metrics["notes"])


@pytest.mark.parametrize("num_codes", [16, 65_536])
def test_a_codebook_that_collapses_is_named_once_while_training(root, monkeypatch, caplog, num_codes):
    monkeypatch.setattr("models.tokenizer.COLLAPSE_STEPS", 2)
    cfg = tiny_config(root)
    cfg.tokenizer.codebook_size = num_codes
    with caplog.at_level(logging.WARNING):
        train(renamed(cfg, f"codes{num_codes}", num_train_steps=5))
    said = [record.message for record in caplog.records if "collapsed" in record.message]
    assert len(said) == (num_codes > 16)
    assert not said or "step 2: the codebook has collapsed" in said[0]
    assert not said or "in the last 2 batches" in said[0]
