"""Tasks of a cluster: what torch is told of them; tasks of submitit's local engine train together."""

import os
import subprocess
import sys
import types

import pytest
import torch
from hydra.errors import MissingConfigException

import run
from auto_explore.config import CommonConfig
from auto_explore.src import run_context
from launcher import hydra_app
from launcher.slurm import first_host, show_gpus, task_variables
from tests.distributed_helpers import run_together
from tests.generator_helpers import ROOT
from tests.training_helpers import DATASET

STEP = {
    "SLURM_STEP_NUM_TASKS": "16",
    "SLURM_PROCID": "9",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NODELIST": "gpu[007-008]",
    "SLURM_JOB_ID": "1234567",
}


def test_a_task_of_a_step_is_told_to_torch():
    assert task_variables(STEP) == {
        "WORLD_SIZE": "16",
        "RANK": "9",
        "LOCAL_RANK": "1",
        "MASTER_ADDR": "gpu007",
        "MASTER_PORT": "28979",
    }


def test_jobs_and_their_steps_on_one_machine_use_ports_of_their_own():
    numbers = [(str(1_009_990 + job), str(step)) for job in range(20) for step in range(9)]
    steps = [STEP | {"SLURM_JOB_ID": job, "SLURM_STEP_ID": step} for job, step in numbers]
    ports = [int(task_variables(step)["MASTER_PORT"]) for step in steps]
    assert len(set(ports)) == len(ports)
    assert min(ports) > 1024 and max(ports) < 32_768


@pytest.mark.parametrize("change", [{"SLURM_STEP_NUM_TASKS": "1"}, {"SLURM_STEP_NODELIST": None}])
def test_a_task_alone_and_a_script_outside_a_step_run_alone(change):
    environ = {key: value for key, value in (STEP | change).items() if value is not None}
    assert task_variables(environ) == {}


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("gpu007", "gpu007"),
        ("gpu7,gpu9", "gpu7"),
        ("gpu[007-009,12]", "gpu007"),
        ("a-b[3,5]-eth,c", "a-b3-eth"),
        ("rack1-node[01-04],rack2-node[01-04]", "rack1-node01"),
    ],
)
def test_the_first_of_a_list_of_nodes(nodes, first):
    assert first_host(nodes) == first


@pytest.mark.parametrize(("launcher", "extra"), [("submitit_local", "launchers"), ("ray", "ray")])
def test_a_launcher_that_is_not_installed_is_one_line(capsys, monkeypatch, launcher, extra):
    def missing(*_):
        raise MissingConfigException("no", missing_cfg_file=f"hydra/launcher/{launcher}")

    monkeypatch.setattr(hydra_app, "run_jobs", missing)
    assert run.main(["generate", "-m", "config.shard=0,1", "config.num_shards=2", "hydra/launcher=local"]) == 2
    assert capsys.readouterr().err.endswith(f"is not installed: run 'bash install.sh --with {extra}'\n")


def test_failed_jobs_of_a_launcher_are_named_with_their_output(capsys, monkeypatch, tmp_path):
    jobs = [types.SimpleNamespace(return_value=code) for code in (0, 2, 0, 1)]
    monkeypatch.setattr(hydra_app, "run_jobs", lambda *_: jobs)
    folder = f"hydra.sweep.dir={tmp_path / 'record'}"
    assert run.main(["generate", "-m", "config.shard=range(4)", "hydra/launcher=basic", folder]) == 2
    assert capsys.readouterr().err == f"note: jobs 1, 3 failed: what they print is below '{tmp_path / 'record'}'\n"


@pytest.mark.parametrize("given", [None, "2,3", ""])
def test_a_local_job_sees_the_gpus_of_its_command(entries, monkeypatch, given):
    """Unless it asks for some, submitit hides them all."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if given is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    run_jobs = hydra_app.run_jobs

    def run_hidden(*arguments):
        monkeypatch.setenv("SUBMITIT_EXECUTOR", "local")
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
        return run_jobs(*arguments)

    monkeypatch.setattr(hydra_app, "run_jobs", run_hidden)
    assert run.main(["generate"]) == 0
    assert len(entries.configs) == 1 and os.environ.get("CUDA_VISIBLE_DEVICES") == given


def test_a_local_job_keeps_the_gpus_that_it_asked_for(monkeypatch):
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "local")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    show_gpus("2,3")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,1"


@pytest.mark.slow
def test_tasks_of_submitit_train_together(root, tmp_path):
    pytest.importorskip("submitit", reason="install.sh --with launchers")
    sizes = [f"tokenizer.{key}" for key in ("dim=16", "num_blocks=1", "heads=2", "dim_head=8", "image_size=16")]
    keys = [
        *("config=tokenizer", "device=cpu", *sizes, "train.wandb_mode=disabled", f"train.dataset_name={DATASET}"),
        *(f"train.dataset_root_dpath={root}", f"train.save_root_dpath={tmp_path / 'runs'}", "train.wandb_name=run"),
        *("train.num_train_steps=2", "train.num_frames=4", "train.batch_size=2", "train.validate_every=0"),
        *("train.grad_accum=1", "train.n_data_workers=0", "precision=fp32"),
        *("-m", "hydra/launcher=local", "hydra.launcher.tasks_per_node=2", f"hydra.sweep.dir={tmp_path / 'record'}"),
    ]
    subprocess.run([sys.executable, "run.py", "genie_redux", "train", *keys], cwd=ROOT, check=True)
    assert list((tmp_path / "runs").rglob("model-2.pt"))
    (log,) = (tmp_path / "record").glob(".submitit/*/*_0_log.out")
    assert "2 × 2 × 1 clips a step" in log.read_text()


def join_as_slurm_tasks(config: CommonConfig) -> None:
    """Entry point: in a job of two tasks, without `--ntasks-per-node`, all of the tasks or a script alone."""
    del os.environ["LOCAL_WORLD_SIZE"]
    count = os.environ["WORLD_SIZE"]
    os.environ.update({"SLURM_NTASKS": "2", "SLURM_PROCID": os.environ["RANK"], "SLURM_NNODES": "1"})
    fabric, _ = run_context.make_fabric(config)
    assert (fabric.world_size, fabric.global_rank) == (int(count), int(os.environ["RANK"]))
    assert fabric.all_reduce(torch.ones(()), reduce_op="sum") == int(count)


@pytest.mark.parametrize("count", [1, 2])
def test_tasks_of_slurm_explore_together(count):
    config = CommonConfig(device="cpu", precision="fp32")
    assert run_together(count, "tests.test_slurm:join_as_slurm_tasks", config) == [0] * count


@pytest.mark.parametrize(("num_gpus", "gpu"), [(8, 3), (1, 0)])
def test_a_task_of_slurm_explores_on_its_gpu(monkeypatch, num_gpus, gpu):
    """It sees those of all tasks of its machine, or its own alone."""
    given: list[dict] = []
    stand_in = types.SimpleNamespace(launch=lambda: None)
    monkeypatch.setattr(run_context, "Fabric", lambda **options: given.append(options) or stand_in)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: num_gpus)
    for name, value in {"WORLD_SIZE": "16", "RANK": "11", "LOCAL_RANK": "3"}.items():
        monkeypatch.setenv(name, value)
    run_context.make_fabric(CommonConfig(device="cuda", precision="fp32"))
    assert (given[0]["devices"], given[0]["num_nodes"]) == ([gpu], 16)
