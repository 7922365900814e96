"""Several processes train as one does: DDP and FSDP2, any number of them, and after one was lost."""

import os
import re
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import distributed

from models.construct_model import build_model
from tests.distributed_helpers import run_together
from tests.test_metrics import ChannelMeans
from tests.training_helpers import SIZE, assert_equal, renamed, rows, save_fresh, tiny_config, weights, world_config
from training import fid, stop, trainer
from training.config import GenieReduxConfig
from training.main import model_config, run_dpath, train
from training.metrics import SampleTable, own_indices
from training.run_folder import RunFolder
from training.runtime import make_runtime

TRAIN = "tests.test_distributed:train_naming_no_gpu"


def train_naming_no_gpu(config: GenieReduxConfig) -> None:
    """Entry point: fails where processes on the CPU wait for each other on GPUs, which may be fewer than they are."""
    real = distributed.barrier

    def barrier(*arguments, device_ids=None, **options):
        assert not device_ids
        return real(*arguments, **options)

    distributed.barrier = barrier
    train(config)


def config_of(root: Path, model: str, num_processes: int, **changes) -> GenieReduxConfig:
    """Eight clips a step in all."""
    cfg = world_config(root, model) if model.startswith("genie") else tiny_config(root, model)
    cfg.tokenizer.dead_code_threshold = cfg.lam.dead_code_threshold = 0
    cfg.dynamics.history.corruption = 0.2
    if model == "super_resolution":
        cfg.super_resolution = replace(cfg.super_resolution, image_size=SIZE, reconstructed_share=0.5)
        small = tiny_config(root)
        small.tokenizer.image_size = SIZE // 2
        cfg.tokenizer_fpath = str(save_fresh(root / "tokenizer" / "model-7.pt", small))
        # Biases before a norm have gradients of rounding alone, of which Adam makes whole steps.
        cfg.optimizer.learning_rate = 3e-4
    # Not in a world model, where Adam makes more of the rounding of tiny gradients than the tolerance below.
    cfg.lam.change_floor = 0.1 if model == "lam" else None
    return renamed(cfg, f"{num_processes}", batch_size=8 // num_processes, num_train_steps=3, **changes)


def losses(cfg: GenieReduxConfig) -> list[float]:
    """Of each step, with the norms of the gradients."""
    return [row.get(name, 0.0) for row in rows(cfg, "train") for name in ("loss", "lam_loss", "grad_norm")]


def check_as_one_process(root: Path, model: str, num_processes: int, **changes) -> None:
    one, several = config_of(root, model, 1), config_of(root, model, num_processes, **changes)
    assert run_together(1, TRAIN, one) == [0]
    assert run_together(num_processes, TRAIN, several) == [0] * num_processes
    assert losses(one) == pytest.approx(losses(several), rel=1e-4)
    ours, theirs = (weights(run_dpath(cfg) / "model-3.pt") for cfg in (one, several))
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in ours) < 1e-3


@pytest.mark.parametrize("model", ["genie_redux_guided", "lam", "super_resolution"])
def test_two_processes_make_the_steps_of_one(root, model):
    check_as_one_process(root, model, 2)


def test_batches_without_targets_are_those_of_all_processes(root):
    found = []
    for num_processes in (1, 2):
        cfg = config_of(root, "genie_redux_guided", num_processes, validate_every=6)
        cfg.dynamics.history.complete = cfg.dynamics.history.prefix = 0.5
        cfg.train.batch_size, cfg.train.num_train_steps = 2 // num_processes, 6
        assert run_together(num_processes, TRAIN, cfg) == [0] * num_processes
        assert {"loss", "token_accuracy"} <= rows(cfg, "validation")[0].keys()
        found.append([row.get("loss", 0.0) for row in rows(cfg, "train")])
    assert 0 in found[0] and found[0] == pytest.approx(found[1], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["tokenizer", "lam", "genie_redux_guided", "genie_redux", "super_resolution"])
@pytest.mark.parametrize(("num_processes", "sharded"), [(2, False), (4, False), (2, True), (4, True)])
def test_any_number_of_processes_makes_the_steps_of_one(root, model, num_processes, sharded):
    check_as_one_process(root, model, num_processes, sharded=sharded, validate_every=2)


def kill_rank_1_at_step_3(config: GenieReduxConfig) -> None:
    """Entry point: one of the processes is killed in the middle of a run."""
    real = trainer.Trainer._train_step

    def step(self: trainer.Trainer, batches) -> None:
        if self.step == 2 and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        real(self, batches)

    trainer.Trainer._train_step = step
    train(config)


@pytest.mark.parametrize("sharded", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_lost_process_ends_the_others_with_one_line_and_another_number_resumes(root, capfd, sharded):
    cfg = config_of(root, "tokenizer", 2, save_model_every=1, sharded=sharded)
    assert run_together(2, "tests.test_distributed:kill_rank_1_at_step_3", cfg) == [2, -signal.SIGKILL]
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: process 0 of 2 timed out waiting for another one")
    one = config_of(root, "tokenizer", 1)
    assert run_together(1, TRAIN, one) == [0]
    # One process resumes what two have begun.
    resumed = replace(cfg, train=replace(cfg.train, batch_size=8, resume_ckpt="latest", sharded=False))
    assert run_together(1, TRAIN, resumed) == [0]
    assert losses(resumed) == pytest.approx(losses(one), rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_several_sharded_processes_resume_what_one_has_begun(root, name):
    one = config_of(root, "tokenizer", 1)
    one.optimizer.name = name
    begun = renamed(one, "2", num_train_steps=1)
    for cfg in (one, begun):
        assert run_together(1, TRAIN, cfg) == [0]
    resumed = renamed(one, "2", batch_size=4, resume_ckpt="latest", sharded=True)
    assert run_together(2, TRAIN, resumed) == [0, 0]
    assert losses(resumed) == pytest.approx(losses(one), rel=1e-4)


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2])
def test_a_warning_saves_and_is_passed_on_to_who_waits_for_it(root, monkeypatch, number):
    """As submitit does, which puts the job back into the queue when it is warned."""
    cfg = renamed(tiny_config(root), "run", num_train_steps=4)
    saved: list[list[int]] = []
    before = signal.signal(number, lambda *_: saved.append(RunFolder(run_dpath(cfg)).steps()))
    monkeypatch.setattr(stop, "_REQUEUE_SECONDS", 0.0)
    real = trainer.Trainer._train_step

    def step(self, batches):
        if self.step == 1:
            signal.raise_signal(number)
        real(self, batches)

    monkeypatch.setattr(trainer.Trainer, "_train_step", step)
    try:
        with pytest.raises(SystemExit) as ended:
            train(cfg)
    finally:
        signal.signal(number, before)
    assert (ended.value.code, saved) == (128 + number, [[2]])
    monkeypatch.undo()
    again, once = renamed(cfg, "run", resume_ckpt="latest"), renamed(cfg, "once")
    assert_equal(weights(train(again)), weights(train(once)))


def test_moving_codes_are_not_sharded(root):
    cfg = config_of(root, "tokenizer", 2, sharded=True)
    cfg.tokenizer.dead_code_threshold = 0.5
    assert run_together(2, TRAIN, cfg) == [2, 2]


def train_in_a_folder_of_its_own(config: GenieReduxConfig) -> None:
    """Entry point: as on a machine that does not share the folder of runs."""
    config.train.save_root_dpath += os.environ["RANK"]
    train(config)


def test_processes_that_would_resume_different_steps_are_one_line(root, capfd):
    cfg = config_of(root, "tokenizer", 2, resume_ckpt="latest")
    folder = RunFolder(run_dpath(replace(cfg, train=replace(cfg.train, save_root_dpath=f"{root}/checkpoints1"))))
    folder.save(build_model(model_config(cfg)), model_config(cfg), 2, {}, keep=1)
    assert run_together(2, "tests.test_distributed:train_in_a_folder_of_its_own", cfg) == [2, 2]
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 2
    for line in lines:
        assert re.search(
            "train.resume_ckpt=latest: in .*, process 0 finds nothing to resume, and process 1 finds step 2", line
        )


def make_fid_on_a_machine_of_its_own(online: tuple[Path, set[str], bool]) -> None:
    """Entry point: processes of machines with hub caches of their own, some of which reach the internet."""
    dpath, ranks, is_there = online
    os.environ |= {"TORCH_HOME": str(dpath / os.environ["RANK"]), "LOCAL_RANK": "0"}
    fid._download = lambda: Path("weights.pth") if os.environ["RANK"] in ranks else None
    fid.load_inception = lambda _: ChannelMeans()
    found, reason = fid.make_fid(None, 3, make_runtime("cpu", "fp32"))
    assert (found is not None, reason == "") == (is_there, is_there)


@pytest.mark.parametrize(("ranks", "is_there"), [({"0", "1"}, True), ({"0"}, False), ({"1"}, False)])
def test_all_processes_have_fid_or_none(tmp_path, ranks, is_there):
    """Where one alone had it, it waited for the others for ever."""
    entry = "tests.test_distributed:make_fid_on_a_machine_of_its_own"
    assert run_together(2, entry, (tmp_path, ranks, is_there)) == [0, 0]


def gather_rows(config: None) -> None:
    """Entry point: the first process has more samples, and values by a name that the other has not."""
    accelerator = make_runtime("cpu", "fp32").accelerator
    table, is_main = SampleTable(), accelerator.is_main_process
    own = own_indices(np.arange(3), accelerator)
    table.add("both", own, torch.tensor(own))
    if is_main:
        table.add("one", own, torch.tensor(own))
    everywhere, on_main = table.gather(), table.gather_on_main()
    assert {name: rows.tolist() for name, rows in everywhere.items()} == {"both": [0, 1, 2], "one": [0, 2]}
    assert list(on_main) == (["both", "one"] if is_main else [])
    assert all((on_main[name] == everywhere[name]).all() for name in on_main)


def test_rows_for_the_report_come_to_the_main_process_alone():
    assert run_together(2, "tests.test_distributed:gather_rows", None) == [0, 0]
