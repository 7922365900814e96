"""Speed and memory of the models at a given size, next to the same models computed plainly and the roofline.

    python -m benchmarks.models                      # default sizes, fp32 and bf16: takes an hour on two cores
    python -m benchmarks.models --size demo --precision bf16 --only guided_train streaming
    python -m benchmarks.models --only tokenizer_train --checkpointing selective --variants ours

Each case and variant runs in a process of its own, one after the other, so that its peak memory is its own. `plain`
computes the same numbers with the same weights in the published way (benchmarks/models_plain.py). The roofline is the
case's floating-point operations (without any that are done twice) divided by the rate of a matrix product of the
model's shape, measured in the same process before and after.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.command_line import make_parser, run_command
from benchmarks.memory import AllocatedBytes
from benchmarks.models_cases import CASES, NUM_FRAMES, SIZES, STREAMED, TRAINED, Variant, make_case, sized
from benchmarks.operations import operation_counter
from data_generation.arguments import whole_number
from models.components.recompute import CHECKPOINTING
from training.allocator import keep_freed_memory

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def matmul_rates(dtype: torch.dtype, width: int, clock: Callable[[], float]) -> list[float]:
    """Floating-point operations per second of a feed-forward's product (8192, D) x (D, 16/3 D), five times."""
    a, b = torch.randn(8192, width, dtype=dtype), torch.randn(width, width * 16 // 3, dtype=dtype)
    a @ b
    rates = []
    for _ in range(5):
        start = clock()
        a @ b
        rates.append(2 * 8192 * width * (width * 16 // 3) / (clock() - start))
    return rates


def operations(name: str, size: str) -> int:
    """Floating-point operations of this project's form of a case, counted without computing anything."""
    config = sized(size)
    for part in (config.tokenizer, config.lam, config.dynamics):
        part.gradient_checkpointing = "none"
    # In bf16 attention is plain products, which the counter knows. Fake tensors have shapes but no values to look at.
    variant = Variant(False, torch.autocast("cpu", torch.bfloat16), torch.float32)
    with without_computing():
        case = make_case(name, config, variant)
        with operation_counter() as counter:
            case()
    return counter.get_total_flops()


def kept_bytes(name: str, size: str, precision: str, plain: bool = False) -> int:
    """Bytes, without weights, that a training case's forward pass keeps for the backward pass; computes nothing."""
    config, (kind, batch) = sized(size), TRAINED[name]
    config.model = kind
    variant = Variant(plain, torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"), DTYPES[precision])
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage
        return tensor

    with without_computing(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), variant.precision:
        model = variant.build(config).train()
        output = model(variant.video(batch, NUM_FRAMES), variant.ids(5, batch, NUM_FRAMES - 1))  # holds what is kept
        weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
        total = sum(storage.nbytes() for key, storage in kept.items() if key not in weights)
        del output
    return total


def peak_bytes(name: str, size: str, precision: str, plain: bool = False) -> int:
    """The most bytes of tensors that are alive at a time in a training case's step, weights included; computes nothing.

    A process needs more: what the libraries and single operations take, and what the allocator keeps.
    """
    variant = Variant(plain, torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"), DTYPES[precision])
    with without_computing(), AllocatedBytes() as allocated:
        step = make_case(name, sized(size), variant)
        allocated.peak = allocated.now
        step()
    return allocated.peak


@contextmanager
def without_computing() -> Iterator[None]:
    """Models that are made and run in this block have shapes and values that nobody computes."""
    unmasked = patch("models.genie_redux.history_mask", lambda shape, *_: torch.zeros(shape, dtype=torch.bool))
    with FakeTensorMode(), unmasked:
        yield


def measure(args: argparse.Namespace) -> dict[str, float]:
    """Seconds, operations, rate of products and peak memory of one case, in this process."""
    name, precision, plain = args.only[0], args.precision[0], args.variants[0] == "plain"
    if not plain:
        keep_freed_memory()
    config, dtype = sized(args.size), DTYPES[precision]
    for part in (config.tokenizer, config.lam, config.dynamics):
        part.gradient_checkpointing = "none" if plain else args.checkpointing or part.gradient_checkpointing
    clock = time.process_time if args.cpu_time else time.perf_counter
    variant = Variant(plain, torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"), dtype, clock)
    rates = matmul_rates(dtype, config.tokenizer.dim, clock)
    case = make_case(name, config, variant)
    times = []
    for _ in range(1 + args.repeats):  # the first one warms up
        start = clock()
        extra = case()
        times.append(clock() - start + extra)
    rates += matmul_rates(dtype, config.tokenizer.dim, clock)
    return {
        "seconds": statistics.median(times[1:] or times),
        "rate": max(rates),  # the machine's own, where others slow some of them down
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def measured(name: str, precision: str, variant: str, args: argparse.Namespace) -> dict[str, float] | None:
    """`measure` in a process of its own; None, and a line on stderr, where that fails."""
    repeats = 0 if args.quick and name in TRAINED else args.repeats
    command = [sys.executable, "-m", "benchmarks.models", "--child", "--only", name, "--precision", precision]
    command += ["--variants", variant, "--size", args.size, "--repeats", str(repeats)]
    command += ["--cpu-time"] * args.cpu_time
    command += ["--checkpointing", args.checkpointing] if args.checkpointing else []
    result = subprocess.run(command, capture_output=True, text=True, env={"GOMP_SPINCOUNT": "2000"} | os.environ)
    if result.returncode:
        print(f"{name} {precision} {variant} failed: {result.stderr.strip().splitlines()[-1]}", file=sys.stderr)
        return None
    return json.loads(result.stdout.splitlines()[-1])


def row(name: str, precision: str, flops: int, results: dict[str, dict[str, float] | None], counted: list[int]) -> str:
    """One line of the table."""
    plain, ours = results.get("plain"), results.get("ours")
    cells = [f"{name:22}", f"{precision:5}"]
    cells.append(f"{plain['seconds']:8.2f}" if plain else " " * 8)
    cells.append(f"{ours['seconds']:8.2f}" if ours else " " * 8)
    cells.append(f"{plain['seconds'] / ours['seconds']:7.1f}" if plain and ours else " " * 7)
    one = ours or plain
    if one:
        floor = flops / one["rate"]
        cells += [
            f"{flops / 1e12:8.3f}",
            f"{one['rate'] / 1e12:6.3f}",
            f"{floor:8.2f}",
            f"{one['seconds'] / floor:6.2f}",
        ]
    cells += [f"{result['peak_gb']:6.1f}" if result else " " * 6 for result in (plain, ours)]
    cells += [f"{count / 1e9:6.2f}" for count in counted]
    if name == "streaming" and ours:
        cells.append(f" {STREAMED / ours['seconds']:.1f} frames/s")
    return " ".join(cells)


def run(argv: Sequence[str]) -> None:
    parser = make_parser("models", __doc__)
    parser.add_argument("--size", choices=SIZES, default="default")
    parser.add_argument("--precision", choices=DTYPES, nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--only", choices=CASES, nargs="+", default=list(CASES))
    parser.add_argument("--variants", choices=("plain", "ours"), nargs="+", default=["plain", "ours"])
    parser.add_argument("--repeats", type=whole_number(1_000_000, least=0), default=1, help="after one that warms up")
    parser.add_argument("--quick", action="store_true", help="training steps without one that warms up")
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="count this process's CPU-seconds, where others use the machine too (with OMP_NUM_THREADS=1)",
    )
    parser.add_argument("--checkpointing", choices=CHECKPOINTING, help="in place of the default")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.child:
        print(json.dumps(measure(args)))
        return
    print(
        f"{'case':22} {'':5} {'plain s':>8} {'ours s':>8} {'ratio':>7} {'TFLOP':>8} {'TF/s':>6} {'roof s':>8} "
        f"{'x flr':>6} {'GB':>6} {'GB':>6} {'kept GB':>13} {'of tensors':>13}"
    )
    for name in args.only:
        flops = operations(name, args.size)
        for precision in args.precision:
            # Sampling in plain form has no `streaming`: it is what autoregressive_dream1 does.
            kinds = [kind for kind in args.variants if not (kind == "plain" and name == "streaming")]
            results = {kind: measured(name, precision, kind, args) for kind in kinds}
            counted = [
                count(name, args.size, precision, kind == "plain")
                for count in (kept_bytes, peak_bytes)
                for kind in kinds
                if name in TRAINED
            ]
            print(row(name, precision, flops, results, counted), flush=True)


if __name__ == "__main__":
    sys.exit(run_command(run))
