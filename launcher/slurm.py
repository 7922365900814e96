"""A process that a cluster has started as one of several tasks: told to torch as `torchrun` would tell it."""

import os
import re
from collections.abc import Mapping

# What torch asks for → the names of it in a step of Slurm (`srun`), and in a job of submitit's local engine, in which
# several tasks can be tried on one machine.
_SLURM = {
    "WORLD_SIZE": "SLURM_STEP_NUM_TASKS",
    "RANK": "SLURM_PROCID",
    "LOCAL_RANK": "SLURM_LOCALID",
    "_NODES": "SLURM_STEP_NODELIST",
    "_JOB": "SLURM_JOB_ID",
}
_LOCAL = {
    "WORLD_SIZE": "SUBMITIT_LOCAL_NTASKS",
    "RANK": "SUBMITIT_LOCAL_GLOBALID",
    "LOCAL_RANK": "SUBMITIT_LOCAL_LOCALID",
    "_JOB": "SUBMITIT_LOCAL_JOB_ID",
}
# Ports that no service has. The numbers of job and step choose one: several of both may run on one machine at once.
_FIRST_PORT, _NUM_PORTS, _PORTS_PER_JOB = 20_000, 10_000, 37

VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"


def show_gpus(given: str | None) -> None:
    """Let a job of submitit's local engine see what its command does: the GPUs `given` in VISIBLE_GPUS; None: all.

    Without `gpus_per_node`, that engine hides all of them.
    """
    if os.environ.get("SUBMITIT_EXECUTOR") == "local" and os.environ.get(VISIBLE_GPUS) == "":
        del os.environ[VISIBLE_GPUS]
        os.environ.update({} if given is None else {VISIBLE_GPUS: given})


def join_tasks() -> None:
    """Set torch's environment variables where this process is one of several tasks; else do nothing."""
    if "WORLD_SIZE" not in os.environ:
        os.environ.update(task_variables(os.environ))


def task_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Torch's variables of a task, by name; none where it is alone, or no task of a cluster."""
    for names in (_SLURM, _LOCAL):
        values = {name: environ[key] for name, key in names.items() if key in environ}
        if values.keys() != names.keys() or int(values["WORLD_SIZE"]) < 2:
            continue
        number = _PORTS_PER_JOB * int(values.pop("_JOB")) + int(environ.get("SLURM_STEP_ID") or 0)
        port = _FIRST_PORT + number % _NUM_PORTS
        address = first_host(values.pop("_NODES", "localhost"))
        return {**values, "MASTER_ADDR": address, "MASTER_PORT": str(port)}
    return {}


def first_host(nodes: str) -> str:
    """The first name of a list of nodes as Slurm writes it: `gpu[007-009,12],login` → `gpu007`."""
    match = re.match(r"([^\[,]+)(?:\[([^,\-\]]+)[^\]]*\]([^,]*))?", nodes)
    assert match is not None, nodes
    return "".join(filter(None, match.groups()))
