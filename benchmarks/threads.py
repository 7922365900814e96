"""What waiting threads cost: training steps a second under settings of libgomp, alone and next to a busy process.

python -m benchmarks.threads [--seconds 15]
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from multiprocessing import get_context

from benchmarks.command_line import make_parser, positive_number, run_command

SETTINGS = {
    "default": {},
    "OMP_WAIT_POLICY=PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
    "GOMP_SPINCOUNT=2000": {"GOMP_SPINCOUNT": "2000"},
    "OMP_NUM_THREADS=1": {"OMP_NUM_THREADS": "1"},
}


def steps_per_second(seconds: float) -> float:
    """Forward and backward passes of the demo's tokenizer on 8 clips of 8 frames."""
    import torch

    from benchmarks.models_cases import sized
    from models.tokenizer import Tokenizer

    model = Tokenizer(sized("demo").tokenizer)
    video = torch.rand(8, 8, 3, 64, 64)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(video).loss
        loss.backward()

    step()
    start, steps = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        step()
        steps += 1
    return steps / (time.perf_counter() - start)


def measure(environment: dict[str, str], seconds: float) -> float:
    """`steps_per_second` in a process of its own: libgomp reads its settings once."""
    command = [sys.executable, "-m", "benchmarks.threads", "--child", f"--seconds={seconds}"]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    result = subprocess.run(command, env=inherited | environment, capture_output=True, text=True, check=True)
    return float(result.stdout.splitlines()[-1])


def spin() -> None:
    while True:
        pass


def run(argv: Sequence[str]) -> None:
    parser = make_parser("threads", __doc__)
    parser.add_argument("--seconds", type=positive_number, default=15)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.child:
        print(steps_per_second(args.seconds))
        return
    print(f"{'':24} {'alone':>7} {'next to a busy process':>23}")
    for name, environment in SETTINGS.items():
        alone = measure(environment, args.seconds)
        busy = get_context("spawn").Process(target=spin, daemon=True)
        busy.start()
        try:
            shared = measure(environment, args.seconds)
        finally:
            busy.terminate()
        print(f"{name:24} {alone:7.2f} {shared:23.2f}", flush=True)


if __name__ == "__main__":
    sys.exit(run_command(run))
