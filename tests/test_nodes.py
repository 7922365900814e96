"""Two nodes of two processes each, on this machine: `torchrun` starts them, as on a cluster."""

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.generator_helpers import ROOT
from tests.process_helpers import wait_until
from tests.training_helpers import DATASET
from training.run_folder import RunFolder
from training.tracker import read_metrics

pytestmark = pytest.mark.slow


def train_keys(root: Path, name: str, batch_size: int, steps: int) -> list[str]:
    sizes = [f"tokenizer.{key}" for key in ("dim=16", "num_blocks=1", "heads=2", "dim_head=8", "image_size=16")]
    return [
        *("run.py", "genie_redux", "train", "config=tokenizer", "device=cpu", *sizes, f"train.dataset_name={DATASET}"),
        *(f"train.dataset_root_dpath={root}", f"train.save_root_dpath={root / 'runs'}", f"train.wandb_name={name}"),
        *(f"train.num_train_steps={steps}", "train.num_frames=4", f"train.batch_size={batch_size}"),
        *("train.validate_every=0", "train.save_model_every=2", "train.log_every=1", "train.wandb_mode=disabled"),
        *("train.resume_ckpt=latest", "train.process_timeout=1", "train.grad_accum=1", "train.n_data_workers=0"),
        "precision=fp32",
    ]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return int(free.getsockname()[1])


def start_nodes(keys: list[str], stderr: Path) -> list[subprocess.Popen]:
    endpoint = f"localhost:{free_port()}"
    options = ["--nnodes=2", "--nproc-per-node=2", "--rdzv-backend=c10d", f"--rdzv-endpoint={endpoint}"]
    command = [sys.executable, "-m", "torch.distributed.run", *options, "--local-addr=localhost", *keys]
    with stderr.open("w") as file:
        return [subprocess.Popen(command, cwd=ROOT, stderr=file) for _ in range(2)]


def losses(folder: Path) -> list[float]:
    return [row["loss"] for row in read_metrics(folder / "metrics.jsonl") if row["split"] == "train"]


def test_two_nodes_make_the_steps_of_one_process(root):
    nodes = start_nodes(train_keys(root, "nodes", 2, 3), root / "nodes.err")
    assert [node.wait() for node in nodes] == [0, 0], (root / "nodes.err").read_text()
    subprocess.run([sys.executable, *train_keys(root, "one", 8, 3)], cwd=ROOT, check=True)
    folders = [root / "runs" / "tokenizer" / name for name in ("nodes", "one")]
    assert losses(folders[0]) == pytest.approx(losses(folders[1]), rel=1e-4)


def test_accelerates_launcher_makes_the_steps_of_the_projects_own(root):
    options = ["--config_file", "configs/accelerate/cpu.yaml", "--main_process_port", str(free_port())]
    command = [sys.executable, "-m", "accelerate.commands.launch", *options, *train_keys(root, "accelerate", 2, 3)]
    subprocess.run(command, cwd=ROOT, check=True)
    own = [*train_keys(root, "own", 2, 3), "train.num_processes=2"]
    subprocess.run([sys.executable, *own], cwd=ROOT, check=True)
    folders = [root / "runs" / "tokenizer" / name for name in ("accelerate", "own")]
    assert losses(folders[0]) == losses(folders[1])


def test_a_process_that_is_killed_ends_both_nodes_and_another_number_resumes(root):
    folder = RunFolder(root / "runs" / "tokenizer" / "nodes")
    nodes = start_nodes(train_keys(root, "nodes", 2, 1_000_000), root / "nodes.err")
    wait_until(lambda: folder.steps())
    killed = time.monotonic()
    psutil.Process(nodes[1].pid).children()[0].send_signal(signal.SIGKILL)
    assert all(node.wait() != 0 for node in nodes)
    print(f"both nodes had ended after {time.monotonic() - killed:.0f} s")
    lines = [line for line in (root / "nodes.err").read_text().splitlines() if line.startswith("error: ")]
    assert lines
    assert all("timed out waiting for another one" in line for line in lines), lines
    steps = folder.steps()[-1] + 1
    subprocess.run([sys.executable, *train_keys(root, "nodes", 8, steps)], cwd=ROOT, check=True)
    assert folder.steps()[-1] == steps
