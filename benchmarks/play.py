"""How fast the page's server plays with several visitors, and how long a rollout stays close to the game.

    python -m benchmarks.play speed --model <model-N.pt>
    python -m benchmarks.play quality --model weights/cinderfoot --dataset <dataset> --levels 48 49 50 51
    python -m benchmarks.play film --model weights/cinderfoot --levels 5 --film docs/results/images
    python -m benchmarks.play lasting --model weights/cinderfoot --dataset <dataset> --levels 0 1 2 3 --film <folder>

speed: each visitor asks for the next frame as soon as it has one; then, with --pace 15, fifteen times a second.
quality: rollouts of 200 frames from the starts of levels under random keys, each held for five frames on average, next
to the game under the same keys; for each rule for a full history (--history-rule). PSNR favours a rollout that stands
still, so the character's position is compared, too, as the network of `lasting` reads it off the frames.
film: 100 frames of the page's step from the start of a level, under the keys of `--keys`, next to the game, as a GIF.
lasting: 30 seconds from the starts of levels, under these keys again and again: in which share of the frames of the
first, second and third ten seconds a network that was trained on the dataset detects the character, in the model and
in the game, which begins anew where it ends. With --film: a frame of every second of both.
"""

import argparse
import asyncio
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from benchmarks.command_line import make_parser, positive_number, run_command
from benchmarks.full_history import HISTORY_RULES, quality
from benchmarks.keyed_rollouts import KEYS, film, held_key, lasting
from data_generation.arguments import read_path, whole_number
from data_generation.data.errors import UserError

ROOT_DPATH = Path(__file__).resolve().parent.parent

# Steps that fill the history before anything is measured.
FILLING = 20


def start_server(model: str, datasets: str, visitors: int) -> tuple[subprocess.Popen[str], str]:
    """`python run.py play` on a free port, and its address."""
    keys = {"model_fpath": model, "datasets_dpath": datasets, "port": 0, "max_visitors": visitors}
    words = [f"play.{key}={value}" for key, value in {**keys, "max_messages_per_second": 1000}.items()]
    command = [sys.executable, str(ROOT_DPATH / "run.py"), "play", *words]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    for line in server.stdout:
        if found := re.search(r"http://([\w.:]+)/", line):
            return server, found[1]
    raise UserError("the server did not start: see its line above")


async def visit(address: str, seconds: float, pace: float | None, rng: np.random.Generator) -> list[float]:
    """Play for some seconds; the latency of each frame in milliseconds."""
    from websockets.asyncio.client import connect

    latencies, begin = [], None
    async with connect(f"ws://{address}/socket", origin=f"http://{address}", max_size=None) as socket:  # type: ignore[arg-type]
        hello = header_of(await socket.recv())
        environment = next((k for k, each in enumerate(hello["environments"]) if each["episodes"]), None)
        begun = {"do": "start_level", "level": 0}
        if environment is not None:
            begun = {"do": "start_episode", "environment": environment, "episode": 0, "time": 3}
        await socket.send(json.dumps(begun))
        await socket.recv()
        for _ in range(FILLING):
            await socket.send(json.dumps({"do": "step", "action": 0}))
            await socket.recv()
        begin = due = time.perf_counter()
        while time.perf_counter() - begin < seconds:
            sent = time.perf_counter()
            await socket.send(json.dumps({"do": "step", "action": int(rng.integers(len(hello["actions"])))}))
            assert header_of(await socket.recv())["is"] == "frame"
            latencies.append(1000 * (time.perf_counter() - sent))
            if pace:
                due += 1 / pace
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
    return latencies


def header_of(data: Any) -> dict[str, Any]:
    length = int.from_bytes(data[:4], "little")
    header: dict[str, Any] = json.loads(data[4 : 4 + length])
    return header


async def measure(server: psutil.Process, address: str, count: int, seconds: float, pace: float | None) -> None:
    visits = [visit(address, seconds, pace, np.random.default_rng(seed)) for seed in range(count)]
    before = server.cpu_times()
    all_latencies = await asyncio.gather(*visits)
    used = sum(server.cpu_times()[:2]) - sum(before[:2])
    num_frames = sum(map(len, all_latencies)) + FILLING * count
    rates = [len(latencies) / seconds for latencies in all_latencies]
    latency = np.concatenate(all_latencies)
    median, late = np.percentile(latency, [50, 95])
    wanted = "as fast as it goes" if pace is None else f"{pace:g} frames/s wanted"
    print(
        f"{count} visitors, {wanted}: {min(rates):.1f} frames/s each, latency {median:.0f} ms (95 %: {late:.0f} ms)",
        end="",
    )
    print(f", {1000 * used / num_frames:.1f} ms of CPU a frame", flush=True)


def speed(args: argparse.Namespace) -> None:
    server, address = start_server(args.model, args.datasets, max(args.visitors))
    try:
        for pace in (None, args.pace):
            for count in args.visitors:
                asyncio.run(measure(psutil.Process(server.pid), address, count, args.seconds, pace))
    finally:
        server.terminate()
        server.wait()
    print("load average of the machine:", *(f"{load:.1f}" for load in os.getloadavg()))


def run(argv: Sequence[str]) -> None:
    parser = make_parser("play", __doc__)
    parser.add_argument("what", choices=["speed", "quality", "film", "lasting"])
    parser.add_argument("--model", required=True)
    parser.add_argument("--datasets", default="data_generation/datasets")
    parser.add_argument("--visitors", type=whole_number(1000), nargs="+", default=[1, 2, 4])
    parser.add_argument("--seconds", type=positive_number, default=15.0)
    parser.add_argument("--pace", type=positive_number, default=15.0)
    parser.add_argument("--dataset", default="data_generation/datasets/retro_act_v0.0.0_demo")
    parser.add_argument(
        "--cache", type=read_path, default=Path("outputs/position"), help="keeps the network that detects the character"
    )
    parser.add_argument("--rollouts", type=whole_number(1000), default=1, help="of each level")
    parser.add_argument("--windows", type=whole_number(10_000), nargs="+")
    parser.add_argument("--film", help="a folder for images: the game's frames and the model's")
    parser.add_argument("--levels", type=whole_number(1_000_000, least=0), nargs="+", default=[5])
    parser.add_argument(
        "--keys", nargs="+", type=held_key, default=KEYS, help="actions, and for how many frames each is held"
    )
    parser.add_argument("--history-rule", nargs="+", choices=list(HISTORY_RULES), default=list(HISTORY_RULES))
    args = parser.parse_args(argv)
    if args.what == "film" and not args.film:
        raise UserError("film writes a GIF: give --film <folder>")
    torch.manual_seed(0)
    {"speed": speed, "quality": quality, "film": film, "lasting": lasting}[args.what](args)


if __name__ == "__main__":
    sys.exit(run_command(run))
