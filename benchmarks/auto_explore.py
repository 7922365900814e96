"""Speed of AutoExplore: collecting steps with the entropy reward, the reward alone, and an update of the agent.

    python -m benchmarks.auto_explore                         # all cases and sizes: takes half an hour on two cores
    python -m benchmarks.auto_explore --size demo --only collect
    python -m benchmarks.auto_explore --size default --precision bf16 --only reward --batches 1 4

World models have fresh weights, whose speed is that of trained ones. The roofline of a reward is its floating-point
operations divided by the rate of a matrix product of the model's shape, measured in the same process just before.
"plain" is the straightforward way: one step at a time, all five frames encoded, the logits of all frames.
"""

import os

os.environ.setdefault("GOMP_SPINCOUNT", "2000")  # as run.py does, before torch loads its threads

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from auto_explore.config import ActorCriticConfig, AutoExploreConfig, RewardConfig
from auto_explore.src.agent import KIND, AgentInfo
from auto_explore.src.collector import ActionSampling, Collected
from auto_explore.src.construct_reward import make_reward
from auto_explore.src.dataset import ClipBatch
from auto_explore.src.learner import Learner
from auto_explore.src.reward import RewardContext, RewardInputs, top_entropy
from auto_explore.src.run_context import RunContext, make_fabric, open_connector
from benchmarks.command_line import make_parser, read_count, run_command
from benchmarks.models import matmul_rates
from benchmarks.models_cases import SIZES, sized
from data_generation.generator.connector_base import EnvironmentSpec
from models.construct_model import build_model
from models.genie_redux import GenieRedux
from models.precision import cast_matmul_weights
from training.allocator import keep_freed_memory

Autocast = Callable[[], AbstractContextManager]
NUM_PREDS = 3


def say(case: str, *parts: str) -> None:
    print("  ".join([f"{case:42}", *parts]), flush=True)


def seconds_of(run: Callable[[], object], repeats: int) -> float:
    """Median duration after one warm-up."""
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def autocast_of(precision: str) -> Autocast:
    return partial(torch.autocast, "cpu", torch.bfloat16, enabled=precision == "bf16")


def dtype_of(precision: str) -> torch.dtype:
    return torch.bfloat16 if precision == "bf16" else torch.float32


def product_rate(precision: str, width: int) -> float:
    """Floating-point operations per second of a matrix product of the model's shape."""
    return float(np.median(matmul_rates(dtype_of(precision), width, time.perf_counter)))


def world_model(size: str, precision: str) -> GenieRedux:
    """Frozen, its weights in the precision of the computation, as a run has it."""
    torch.manual_seed(0)
    model = build_model(replace(sized(size), model="genie_redux_guided")).eval().requires_grad_(False)
    assert isinstance(model, GenieRedux)
    return cast_matmul_weights(model, torch.bfloat16) if precision == "bf16" else model


def inputs_of(batch: int) -> RewardInputs:
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(256, (batch, 2 + NUM_PREDS, 3, 64, 64), generator=generator, dtype=torch.uint8)
    actions = torch.randint(5, (batch, 1 + NUM_PREDS), generator=generator)
    return RewardInputs(frames, actions, torch.zeros(batch), [0] * batch, [False] * batch, [None] * batch)


# ---- the reward alone ----------------------------------------------------------------------------------------------


@torch.no_grad()
def plain_reward(model: GenieRedux, autocast: Autocast, inputs: RewardInputs) -> Tensor:
    """Rewards (B,), the straightforward way."""
    rewards = []
    for frames, actions in zip(inputs.frames, inputs.actions, strict=True):
        with autocast():
            ids = model.tokenizer.encode(frames.unsqueeze(0).float() / 255)[:, :-1]
            mask = torch.zeros_like(ids, dtype=torch.bool)
            mask[:, 2:] = True
            logits = model.dynamics(ids, mask, actions.unsqueeze(0), model.tokenizer.quantizer.decode(ids))
        rewards.append(top_entropy(logits[:, -1], 0.25))
    return torch.cat(rewards)


def reward_case(size: str, precision: str, batches: list[int], repeats: int) -> None:
    model, autocast = world_model(size, precision), autocast_of(precision)
    width = model.dynamics.to_logits.in_features
    context = RewardContext(RewardConfig(), NUM_PREDS, torch.device("cpu"), autocast, model)
    reward = make_reward(context, EnvironmentSpec([str(i) for i in range(5)], (3, 64, 64)), 0)
    inputs = inputs_of(1)
    with FlopCounterMode(display=False) as counter:
        reward(inputs, learn=False)
    flops = counter.get_total_flops()
    difference = (reward(inputs, learn=False) - plain_reward(model, autocast, inputs)).abs().max()
    say(f"reward {size} {precision}", f"{flops / 1e12:.4f} TFLOP a step", f"differs from plain by {difference:.1e}")
    cases: list[tuple[str, int, Callable[[RewardInputs], Tensor]]] = [
        ("plain", 1, partial(plain_reward, model, autocast))
    ]
    cases += [(f"batch {batch}", batch, partial(reward, learn=False)) for batch in batches]
    for name, batch, run in cases:
        rate = product_rate(precision, width)
        seconds = seconds_of(partial(run, inputs_of(batch)), repeats) / batch
        say(
            f"reward {size} {precision} {name}",
            f"{1 / seconds:8.3f} steps/s",
            f"product {rate / 1e12:.3f} TFLOP/s",
            f"{seconds * rate / flops:.2f} × the roofline",
        )


# ---- collecting ----------------------------------------------------------------------------------------------------


def make_context(size: str, precision: str) -> RunContext:
    """Cinderfoot with a fresh world model."""
    cfg = AutoExploreConfig()
    cfg.common.device, cfg.common.precision = "cpu", precision
    connector = open_connector(cfg.collection, sized(size))
    fabric, _ = make_fabric(cfg.common)
    model = world_model(size, precision)
    dtype = torch.bfloat16 if precision == "bf16" else None
    parts = (fabric.device, connector, fabric, model, autocast_of(precision))
    return RunContext(KIND, cfg.common, cfg.collection, *parts, amp_dtype=dtype)


def collect_case(size: str, precision: str, num_envs: int, num_steps: int) -> None:
    context = make_context(size, precision)
    spec, model = context.connector.spec, context.world_model
    network = AgentInfo(spec.action_names, spec.frame_shape, "conv", epoch=0).build().eval()
    assert model is not None
    rate = product_rate(precision, model.dynamics.to_logits.in_features)
    with tempfile.TemporaryDirectory() as folder:
        collector = context.collector(num_envs, context.make_reward(NUM_PREDS), Path(folder), is_test=False)
        try:
            collector.start(network)

            def play(count: int) -> Collected:
                uniform = torch.Generator().manual_seed(0)
                return collector.collect(
                    network, ActionSampling(1.0, 0.1, True), uniform, lambda so_far: so_far.num_steps >= count
                )

            play(5 * num_envs)  # from here on every step is rewarded
            played = play(num_steps)
        finally:
            collector.close()
    seconds = played.seconds
    per_second = played.num_steps / seconds["total"]
    say(
        f"collect {size} {precision} {num_envs} environments",
        f"{per_second:8.2f} env-steps/s",
        f"product {rate / 1e12:.3f} TFLOP/s, {per_second / rate * 1e12:.2f} steps/TFLOP",
        f"reward {seconds['reward'] / seconds['total']:.0%} (in its thread)",
        f"emulators {seconds['emulators'] / seconds['total']:.0%}",
        f"policy {seconds['policy'] / seconds['total']:.0%}",
    )


# ---- the update ----------------------------------------------------------------------------------------------------


def update_case(precision: str, repeats: int, batch: int = 128) -> None:
    """One optimiser step on 128 × 21 frames: 8 of burn-in, 12 learned steps, and the frame after them."""
    cfg = AutoExploreConfig()
    cfg.common.device, cfg.common.precision = "cpu", precision
    fabric, _ = make_fabric(cfg.common)
    network = AgentInfo([f"action_{k}" for k in range(5)], (3, 64, 64), "conv", epoch=0).build()
    module, optimizer = fabric.setup(network, torch.optim.Adam(network.parameters(), lr=1e-4, fused=True))
    config = ActorCriticConfig()
    learner = Learner(fabric, network, module, optimizer, config)
    generator = torch.Generator().manual_seed(0)
    shape = (batch, config.num_steps)
    clips = ClipBatch(
        frames=torch.randint(
            256, (batch, config.burn_in + config.num_steps + 1, 3, 64, 64), generator=generator, dtype=torch.uint8
        ),
        burn_in_valid=torch.ones(batch, config.burn_in, dtype=torch.bool),
        actions=torch.randint(5, shape, generator=generator),
        rewards=torch.rand(shape, generator=generator),
        log_probabilities=torch.full(shape, -1.6),
        ended=torch.zeros(shape, dtype=torch.bool),
        valid=torch.ones(shape, dtype=torch.bool),
    )
    seconds = seconds_of(partial(learner.update, clips), repeats)
    say(f"update {precision} {batch} × {clips.frames.shape[1]} frames", f"{seconds:8.2f} s")


def run(argv: Sequence[str]) -> None:
    parser = make_parser("auto_explore", __doc__)
    parser.add_argument("--size", choices=SIZES, nargs="+", default=["exploration", "demo", "default"])
    parser.add_argument("--precision", choices=("fp32", "bf16"), nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--only", choices=("reward", "collect", "update"), nargs="+")
    parser.add_argument("--batches", type=read_count, nargs="+", default=[1, 4, 16])
    parser.add_argument("--envs", type=read_count, nargs="+", default=[1, 2, 8])
    parser.add_argument("--steps", type=read_count, help="of each collecting case; 32 at default size, 400 otherwise")
    parser.add_argument("--repeats", type=read_count, default=3)
    args = parser.parse_args(argv)
    keep_freed_memory()
    wanted = args.only or ("update", "reward", "collect")
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}", flush=True)
    for precision in args.precision:
        if "update" in wanted:
            update_case(precision, args.repeats)
    for size in args.size:
        for precision in args.precision:
            if "reward" in wanted:
                reward_case(size, precision, args.batches, 1 if size == "default" else args.repeats)
            for num_envs in args.envs if "collect" in wanted else ():
                collect_case(size, precision, num_envs, args.steps or (32 if size == "default" else 400))


if __name__ == "__main__":
    sys.exit(run_command(run))
