"""CPU-seconds and peak memory of training steps of the original's own code and of this project's, in turn.

    python -m benchmarks.time_to_quality.steps --original <checkout> --size quarter --batch 1 --frames 4

One thread, bf16, random clips, a process for each of original, ours, ours, original. See `benchmarks.time_to_quality`
for the checkout. Small batches take minutes, the published ones (without --batch and --frames) much longer.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from benchmarks.command_line import make_parser, read_count, run_command
from benchmarks.models_cases import NUM_FRAMES, SIZES, TRAINED, sized
from benchmarks.time_to_quality.original import original_config, run_original
from data_generation.arguments import read_path
from training.config import OptimizerConfig

NUM_ACTIONS = 5
CASES = ("tokenizer_train", "guided_train", "genie_redux_train")
# CPU-seconds of each step, and peak memory in GB.
Measured = tuple[list[float], float]


def original(name: str, args: argparse.Namespace, folder: Path) -> Measured:
    """The original's code."""
    random = np.random.default_rng(0)
    np.save(folder / "frames.npy", random.integers(0, 256, (100, 64, 64, 3), np.uint8))
    np.save(folder / "actions.npy", random.integers(0, NUM_ACTIONS, 100))
    np.save(folder / "starts.npy", np.arange(100 - args.frames))
    kind, batch = TRAINED[name]
    settings = {
        "config": original_config(kind, sized(args.size), NUM_ACTIONS),
        "optimizer": asdict(OptimizerConfig()),
        "batch_size": args.batch or batch,
        "num_frames": args.frames,
        "num_actions": NUM_ACTIONS,
        "timed_steps": args.repeats,
        "seed": 0,
        "clips_dpath": str(folder),
    }
    found, _ = run_original(args.original, folder, settings)
    return found["seconds"], found["peak_gb"]


def ours(name: str, args: argparse.Namespace) -> Measured:
    """This project's code."""
    command = [sys.executable, "-m", "benchmarks.compile", "--child", "--kinds", "eager", "--cpu-time"]
    command += ["--only", name, "--size", args.size, "--frames", str(args.frames), "--repeats", str(args.repeats)]
    command += ["--batch", str(args.batch)] if args.batch else []
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(result.stdout.splitlines()[-1])
    return [found["eager"]], found["peak"]


def run(argv: Sequence[str]) -> None:
    """Print a line for each case."""
    parser = make_parser("time_to_quality.steps", __doc__)
    parser.add_argument("--original", type=read_path, required=True, help="checkout of the original's code")
    parser.add_argument("--size", choices=SIZES, default="default")
    parser.add_argument("--only", choices=CASES, nargs="+", default=list(CASES))
    parser.add_argument("--batch", type=read_count, help="clips a step, in place of the published number")
    parser.add_argument("--frames", type=read_count, default=NUM_FRAMES)
    parser.add_argument("--repeats", type=read_count, default=2, help="steps of each process, after the first one")
    args = parser.parse_args(argv)
    for name in args.only:
        found: dict[str, list[Measured]] = {"original": [], "ours": []}
        for code in ("original", "ours", "ours", "original"):
            with tempfile.TemporaryDirectory() as folder:
                found[code].append(original(name, args, Path(folder)) if code == "original" else ours(name, args))
        medians = {code: statistics.median(s for seconds, _ in runs for s in seconds) for code, runs in found.items()}
        for code, runs in found.items():
            steps = ", ".join(f"{s:.2f}" for seconds, _ in runs for s in seconds)
            print(f"{name} {code}: {medians[code]:.2f} s ({steps}), {max(gb for _, gb in runs):.2f} GB")
        print(f"{name}: {medians['original'] / medians['ours']:.2f} times fewer CPU-seconds", flush=True)


if __name__ == "__main__":
    sys.exit(run_command(run))
