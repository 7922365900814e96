"""What a training step would take on a cluster, from what is measured on one machine of it.

    python -m benchmarks.cluster                          # measure this machine, plan for it and for --gpus of its kind
    python -m benchmarks.cluster --paper                  # measure nothing: H100 by its data sheet, shares as assumed

Counted: a step's operations and the bytes that its backward pass needs. Measured: the rate of a matrix product, the
time of an all-reduce between --processes processes, clips per second that one core reads, and bytes per second to the
disk. The bottleneck is the longest of computing, communication and reading; communication overlaps with the backward
pass.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import torch
import torch.multiprocessing
from torch import distributed

from benchmarks.command_line import make_parser, run_command
from benchmarks.million import make_dataset
from benchmarks.models import kept_bytes, operations
from benchmarks.models_cases import NUM_FRAMES, TRAINED, sized
from data.data import ClipDataset
from data.loader import iterate_epochs, make_loader
from data_generation.arguments import read_path
from data_generation.data.cores import num_cores
from data_generation.data.files import write_atomically
from models.construct_model import build_model
from models.tensor_file import shapes_only
from training.throughput import matmul_rate

# Clips of a process in a pass forward and backward: those of the presets `tokenizer`, `genie_redux_guided` and so on.
CLIPS = {"tokenizer_train": 7, "guided_train": 4, "genie_redux_train": 3, "lam_train": 3}
# Bytes per trained parameter: weight, gradient and two moments in float32.
_STATE_BYTES = 16
# Of a data sheet's rate, the share that a transfer reaches.
_REACHED = 0.7


@dataclass(frozen=True)
class ClusterMachine:
    """One machine: rates in operations, bytes and clips per second."""

    name: str
    gpus: int
    # Of one GPU (or of the CPU), in large products, and the share of it that a step reaches.
    product_rate: float
    share: float
    # Of one GPU to another in the machine, and of one machine to another: bytes per second.
    inner_rate: float
    outer_rate: float
    # Of one core that reads clips, and cores for each GPU.
    clip_rate: float
    cores: int
    disk_rate: float
    # Of one GPU, in bytes.
    memory: float


# An H100 SXM: 989 TFLOP/s in bf16 without sparsity, 80 GB, NVLink 450 GB/s each way (NVIDIA's data sheet); a 400 Gbit/s
# network port for each GPU. Assumed: a step reaches 0.35 of the products' rate, transfers 0.7 of the wires'.
H100 = ClusterMachine(
    "8 × H100, by data sheet", 8, 989e12, 0.35, _REACHED * 450e9, _REACHED * 50e9,
    clip_rate=4000, cores=12, disk_rate=1e9, memory=80e9,
)  # fmt: skip


def by_data_sheet(share: float, network: float) -> ClusterMachine:
    """H100s of which a step reaches this share, between machines with so many Gbit/s for each GPU."""
    return replace(H100, share=share, outer_rate=_REACHED * network * 1e9 / 8)


@dataclass(frozen=True)
class CountedStep:
    """A training step of one process: operations, parameters that train, bytes kept for the backward pass."""

    name: str
    clips: int
    operations: float
    parameters: int
    kept: float


def counted_step(name: str, size: str) -> CountedStep:
    """The step of a model; nothing is computed."""
    kind, batch = TRAINED[name]
    config = sized(size)
    config.model = kind
    with shapes_only():
        model = build_model(config)
    parameters = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    clips = CLIPS[name]
    per_clip = operations(name, size) / batch
    return CountedStep(name, clips, clips * per_clip, parameters, clips * kept_bytes(name, size, "bf16") / batch)


def plan(step: CountedStep, machine: ClusterMachine, gpus: int, sharded: bool) -> dict[str, float]:
    """Seconds of a step on `gpus` GPUs, part by part, and gigabytes on each."""
    ring = 2 * (gpus - 1) / gpus
    # FSDP2 gathers weights twice and scatters gradients once: half as much again as an all-reduce.
    transferred = 4 * step.parameters * ring * (1.5 if sharded else 1)
    rate = machine.inner_rate if gpus <= machine.gpus else machine.outer_rate
    state = _STATE_BYTES * step.parameters / (gpus if sharded else 1)
    return {
        "compute": step.operations / (machine.product_rate * machine.share),
        "communicate": transferred / rate if gpus > 1 else 0.0,
        "read": step.clips / (machine.clip_rate * machine.cores),
        "save": 3 * 4 * step.parameters / machine.disk_rate,
        "GB": (state + step.kept) / 1e9,
    }


def say(step: CountedStep, machine: ClusterMachine, gpus: int, sharded: bool) -> None:
    """A row of the plan."""
    values = plan(step, machine, gpus, sharded)
    parts = {name: values[name] for name in ("compute", "communicate", "read")}
    binding = max(parts, key=lambda name: parts[name])
    seconds = parts[binding]
    columns = " ".join(f"{1000 * value:9.1f}" for value in parts.values())
    kind = "FSDP2" if sharded else "DDP"
    print(
        f"{step.name:18} {gpus:4} {kind:6} {columns} {binding:>12} {gpus * step.clips / seconds:9.0f} "
        f"{values['GB']:6.1f} {values['save']:6.1f}"
    )


# ---- measuring ------------------------------------------------------------------------------------------------------


def all_reduce_rate(num_processes: int, size: int) -> float:
    """Bytes per second that each process sends in an all-reduce of `size` bytes between processes of this machine."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = (num_processes, size, folder)
        torch.multiprocessing.spawn(_all_reduce, arguments, nprocs=num_processes)
        return float(Path(folder, "rate").read_text(encoding="utf-8"))


def _all_reduce(rank: int, num_processes: int, size: int, folder: str) -> None:
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(rank)
    store = f"file://{folder}/store"
    distributed.init_process_group("nccl" if cuda else "gloo", store, rank=rank, world_size=num_processes)
    values = torch.ones(size // 4, device="cuda" if cuda else "cpu")
    seconds = []
    for _ in range(6):
        distributed.barrier()
        start = time.perf_counter()
        distributed.all_reduce(values)
        if cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    if rank == 0:
        sent = size * 2 * (num_processes - 1) / num_processes
        Path(folder, "rate").write_text(str(sent / min(seconds[1:])), encoding="utf-8")
    distributed.destroy_process_group()


def clip_rate(dataset: Path, seconds: float) -> float:
    """Clips per CPU-second that one core reads, in random order."""
    batches = iterate_epochs(make_loader(ClipDataset(dataset, "all", NUM_FRAMES), batch_size=16))
    next(batches)
    count, start, processor = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - start < seconds:
        count += sum(len(batch) for batch in islice(batches, 10))
    return count / (time.process_time() - processor)


def disk_rate(folder: Path, size: int) -> float:
    """Bytes per second of a file that is on the disk when its writing ends, as a checkpoint is."""
    path, start = folder / "written", time.perf_counter()
    write_atomically(path, os.urandom(size), durable=True)
    path.unlink()
    return size / (time.perf_counter() - start)


def measured(arguments: argparse.Namespace) -> ClusterMachine:
    """This machine, with each rate printed as it is measured."""
    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    gpus = torch.cuda.device_count() if cuda else 1
    product = matmul_rate(device, torch.bfloat16)
    print(f"matrix products, bf16        {product / 1e12:10.3f} TFLOP/s")
    num_processes = gpus if cuda else arguments.processes
    inner = all_reduce_rate(num_processes, arguments.megabytes << 20) if num_processes > 1 else float("inf")
    print(f"all-reduce, {num_processes} processes      {inner / 1e9:10.3f} GB/s sent by each")
    arguments.root.mkdir(parents=True, exist_ok=True)
    dataset = arguments.dataset or make_dataset(arguments.root, 10, 100, 120)
    clips = clip_rate(dataset, arguments.seconds)
    print(f"reading, one core            {clips:10.0f} clips/s of {NUM_FRAMES} frames")
    disk = disk_rate(arguments.root, arguments.megabytes << 20)
    print(f"checkpoint to the disk       {disk / 1e6:10.0f} MB/s")
    memory = float(torch.cuda.get_device_properties(0).total_memory) if cuda else float("nan")
    cores = max(1, num_cores() // gpus)
    outer = arguments.network * 1e9 / 8
    return ClusterMachine("this machine", gpus, product, arguments.share, inner, outer, clips, cores, disk, memory)


def run(argv: Sequence[str]) -> None:
    parser = make_parser("cluster", __doc__)
    parser.add_argument("--paper", action="store_true", help="measure nothing")
    parser.add_argument("--size", default="default", help="of the models: default, quarter, exploration, demo")
    parser.add_argument("--only", nargs="+", choices=list(TRAINED), default=["tokenizer_train", "guided_train"])
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--share", type=float, default=0.35, help="of the products' rate that a step reaches")
    parser.add_argument("--network", type=float, default=400.0, help="of each GPU to another machine, Gbit/s")
    parser.add_argument("--processes", type=int, default=2, help="of the all-reduce, without GPUs")
    parser.add_argument("--megabytes", type=int, default=256, help="of the all-reduce and of the file")
    parser.add_argument("--seconds", type=float, default=5.0, help="of reading")
    parser.add_argument("--dataset", type=read_path, help="default: a synthetic one, in --root")
    parser.add_argument("--root", type=read_path, default=Path("outputs/benchmarks"))
    arguments = parser.parse_args(argv)
    machine = by_data_sheet(arguments.share, arguments.network) if arguments.paper else measured(arguments)
    print(f"\n{machine.name}; ms of a step (the longest is the bottleneck); clips/s of all GPUs; s to save")
    print(f"{'step':18} {'GPUs':>4} {'':6} {'compute':>9} {'communic.':>9} {'read':>9} {'longest':>12} {'clips/s':>9} "
          f"{'GB':>6} {'save':>6}")  # fmt: skip
    for name in arguments.only:
        step = counted_step(name, arguments.size)
        print(f"{step.name}: {step.clips} clips, {step.operations / 1e12:.1f} TFLOP, {step.parameters / 1e6:.0f} M")
        for gpus in arguments.gpus:
            for sharded in (False, True) if gpus > 1 else (False,):
                say(step, machine, gpus, sharded)


if __name__ == "__main__":
    sys.exit(run_command(run))
