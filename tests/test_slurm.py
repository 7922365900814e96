"""Tasks of a cluster: what torch is told of them; tasks of submitit's local engine train together."""

import subprocess
import sys
import types

import pytest
from hydra.errors import MissingConfigException

import run
from launcher import hydra_app
from launcher.slurm import first_host, task_variables
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
