"""What `compile=true` costs and gains in training: step times, first steps, memory.

    python -m benchmarks.compile                                  # published sizes: half an hour on two idle cores
    python -m benchmarks.compile --size quarter --batch 1 --frames 4 --only tokenizer_train

Eager and compiled steps alternate in one process, each with its own model. The first compiled step is taken with an
empty folder of compiled code, then by a second process with the folder that the first one has left. Peak memory is
that of one process for each. Where other work shares the cores: OMP_NUM_THREADS=1, and --cpu-time.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from benchmarks.command_line import make_parser, read_count, run_command
from benchmarks.models import DTYPES
from benchmarks.models_cases import NUM_FRAMES, SIZES, TRAINED, Variant, make_case, sized
from training.allocator import keep_freed_memory
from training.compiled_code import VARIABLE


def seconds(run: Callable[[], object], clock: Callable[[], float]) -> float:
    """How long a call takes."""
    start = clock()
    run()
    return clock() - start


def measure(args: argparse.Namespace) -> dict[str, float]:
    """First step, median step of each kind, and peak memory, in this process."""
    keep_freed_memory()
    clock = processor_seconds if args.cpu_time else time.perf_counter
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=args.precision == "bf16")
    eager = Variant(False, autocast, DTYPES[args.precision], num_frames=args.frames)
    variants = {"eager": eager, "compiled": replace(eager, compiled=True)}
    steps = {kind: make_case(args.only[0], sized(args.size), variants[kind], args.batch) for kind in args.kinds}
    found = {f"{kind} first": seconds(step, clock) for kind, step in steps.items()}
    times: dict[str, list[float]] = {kind: [] for kind in steps}
    for repeat in range(args.repeats):
        for kind in args.kinds[:: -1 if repeat % 2 else 1]:
            times[kind].append(seconds(steps[kind], clock))
    found |= {kind: statistics.median(taken) for kind, taken in times.items() if taken}
    return found | {"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}


def processor_seconds() -> float:
    """Of this process and of the compilers that it has started and waited for."""
    return sum(os.times()[:4])


def measured(name: str, kinds: list[str], repeats: int, folder: str, args: argparse.Namespace) -> dict[str, float]:
    """`measure` in a new process, with compiled code in `folder`."""
    command = [sys.executable, "-m", "benchmarks.compile", "--child", "--only", name, "--kinds", *kinds]
    command += ["--size", args.size, "--precision", args.precision, "--repeats", str(repeats)]
    command += ["--frames", str(args.frames)] + ["--cpu-time"] * args.cpu_time
    command += ["--batch", str(args.batch)] if args.batch else []
    environment = {"GOMP_SPINCOUNT": "2000"} | os.environ | {VARIABLE: folder}
    result = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(result.stdout.splitlines()[-1])


def run(argv: Sequence[str]) -> None:
    parser = make_parser("compile", __doc__)
    parser.add_argument("--size", choices=SIZES, default="default")
    parser.add_argument("--precision", choices=DTYPES, default="bf16")
    parser.add_argument("--only", choices=list(TRAINED), nargs="+", default=list(TRAINED))
    parser.add_argument("--batch", type=read_count, help="clips a step, in place of the case's own")
    parser.add_argument("--frames", type=read_count, default=NUM_FRAMES)
    parser.add_argument("--repeats", type=read_count, default=3, help="steps of each kind, after the first one")
    parser.add_argument("--cpu-time", action="store_true", help="count CPU-seconds, of compilers as well")
    parser.add_argument("--kinds", nargs="+", default=["eager", "compiled"], help=argparse.SUPPRESS)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.child:
        print(json.dumps(measure(args)))
        return
    titles = ("eager s", "compiled s", "ratio", "first s", "again s", "eager GB", "compiled GB")
    print(f"{'case':18}", *(f"{title:>11}" for title in titles))
    for name in args.only:
        with tempfile.TemporaryDirectory() as folder:
            both = measured(name, ["eager", "compiled"], args.repeats, folder, args)
            again = measured(name, ["compiled"], 1, folder, args)
            eager = measured(name, ["eager"], 1, folder, args)
        ratio = both["eager"] / both["compiled"]
        cells = (both["eager"], both["compiled"], ratio, both["compiled first"], again["compiled first"])
        print(f"{name:18}", *(f"{cell:11.2f}" for cell in (*cells, eager["peak"], again["peak"])), flush=True)


if __name__ == "__main__":
    sys.exit(run_command(run))
