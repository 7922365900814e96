"""Speed and memory of the models at a given size, against the floor that the matrix products set.

    python -m benchmarks.models                      # default sizes, fp32 and bf16: takes long on a laptop
    python -m benchmarks.models --size demo --precision bf16 --only guided_train streaming

Each case runs in a process of its own, so that its peak memory is its own. The floor is the step's floating-point
operations divided by the rate of a matrix product of the model's shape, measured in the same process.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from models.config import DynamicsConfig, LamConfig, ModelConfig, TokenizerConfig
from models.construct_model import build_model
from models.genie_redux import GenieRedux, SampleSettings

SIZES = {
    "default": ModelConfig(dynamics=DynamicsConfig(action_dim=5)),
    "demo": ModelConfig(
        tokenizer=TokenizerConfig(dim=96, num_blocks=1, heads=3, dim_head=32, patch_size=8, codebook_size=512),
        lam=LamConfig(dim=96, num_blocks=1, heads=3, dim_head=32),
        dynamics=DynamicsConfig(dim=96, num_blocks=3, heads=4, dim_head=32, ff_mult=2, action_dim=5),
    ),
}
NUM_FRAMES = 16


def video(batch: int, num_frames: int = NUM_FRAMES) -> Tensor:
    return torch.rand(batch, num_frames, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def actions(batch: int, count: int) -> Tensor:
    return torch.randint(5, (batch, count), generator=torch.Generator().manual_seed(1))


def matmul_rate(dtype: torch.dtype, width: int) -> float:
    """Floating-point operations per second of a feed-forward's product (8192, D) x (D, 16/3 D)."""
    a, b = torch.randn(8192, width, dtype=dtype), torch.randn(width, width * 16 // 3, dtype=dtype)
    a @ b
    times = []
    for _ in range(5):
        start = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - start)
    return 2 * 8192 * width * (width * 16 // 3) / sorted(times)[len(times) // 2]


def train_case(config: ModelConfig, batch: int, precision: AbstractContextManager) -> Callable[[], None]:
    """An optimiser step on random clips."""
    model = build_model(config).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)
    clips, taken = video(batch), actions(batch, NUM_FRAMES - 1)

    def step() -> None:
        with precision:
            output = model(clips, taken) if isinstance(model, GenieRedux) else model(clips)
        output.loss.backward()
        nn.utils.clip_grad_norm_(trained, 10.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def sample_case(
    config: ModelConfig, num_frames: int, settings: SampleSettings, precision: AbstractContextManager
) -> Callable[[], None]:
    """Sampling after two prime frames, batch 1."""
    model = build_model(config).eval()

    def run() -> None:
        with precision:
            model.sample(video(1, 2), actions(1, 1 + num_frames), num_frames, settings)

    return run


def streaming_case(config: ModelConfig, num_frames: int, precision: AbstractContextManager) -> Callable[[], None]:
    """Frames of the interactive interface, batch 1, from a primed state on."""
    model = build_model(config).eval()
    primed = model.start(video(1, 2), actions(1, 1))

    def run() -> None:
        state = primed
        with precision:
            for _ in range(num_frames):
                _, state = model.step(state, torch.zeros(1, dtype=torch.int64))

    return run


def make_case(name: str, config: ModelConfig, precision: AbstractContextManager) -> Callable[[], None]:
    config.model = {"tokenizer_train": "tokenizer", "genie_redux_train": "genie_redux"}.get(name, "genie_redux_guided")
    if name.endswith("_train"):
        return train_case(config, 1 if name == "genie_redux_train" else 2, precision)
    if name == "streaming":
        return streaming_case(config, 10, precision)
    if name == "one_go":
        return sample_case(config, 14, SampleSettings("one_go", 25), precision)
    dream = int(name.removeprefix("autoregressive_dream"))
    return sample_case(config, 10, SampleSettings("autoregressive", 25, dream), precision)


CASES = (
    *("tokenizer_train", "guided_train", "genie_redux_train"),
    *("one_go", "autoregressive_dream1", "autoregressive_dream2", "streaming"),
)


def measure(name: str, size: str, precision: str, repeats: int, checkpointing: bool) -> dict[str, float]:
    """Seconds (median), operations, floor in seconds and peak memory of one case, in this process."""
    config = SIZES[size]
    for part in (config.tokenizer, config.lam, config.dynamics):
        part.gradient_checkpointing = checkpointing
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")
    rate = matmul_rate(torch.bfloat16 if precision == "bf16" else torch.float32, config.tokenizer.dim)
    case = make_case(name, config, autocast)
    case()  # warm-up
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        case()
        times.append(time.perf_counter() - start)
    seconds = sorted(times)[len(times) // 2]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # before the counter, which holds on to tensors
    with FlopCounterMode(display=False) as counter:
        case()
    flops = counter.get_total_flops()
    return {"seconds": seconds, "tflop": flops / 1e12, "rate": rate / 1e12, "floor": flops / rate, "peak_gb": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="default")
    parser.add_argument("--precision", choices=("fp32", "bf16"), nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--only", choices=CASES, nargs="+", default=list(CASES))
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--gradient-checkpointing", action="store_true", help="less memory, more time")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(
            json.dumps(measure(args.only[0], args.size, args.precision[0], args.repeats, args.gradient_checkpointing))
        )
        return
    print(f"{'case':24} {'precision':9} {'seconds':>9} {'floor s':>9} {'ratio':>6} {'TFLOP/s':>8} {'peak GB':>8}")
    for name in args.only:
        for precision in args.precision:
            command = [sys.executable, "-m", "benchmarks.models", "--child", "--only", name, "--size", args.size]
            command += ["--precision", precision, "--repeats", str(args.repeats)]
            command += ["--gradient-checkpointing"] * args.gradient_checkpointing
            result = subprocess.run(command, capture_output=True, text=True)
            if result.returncode:
                print(f"{name:24} {precision:9} failed: {result.stderr.strip().splitlines()[-1]}")
                continue
            m = json.loads(result.stdout.splitlines()[-1])
            ratio = m["seconds"] / m["floor"]
            figures = f"{m['seconds']:9.2f} {m['floor']:9.2f} {ratio:6.1f} {m['rate']:8.2f} {m['peak_gb']:8.1f}"
            print(f"{name:24} {precision:9} {figures}", flush=True)


if __name__ == "__main__":
    main()
