"""How fast the page's server plays with several visitors, and how long a rollout stays close to the game.

    python -m benchmarks.play speed --model <model-N.pt>
    python -m benchmarks.play quality --model <model-N.pt> --dataset data_generation/datasets/<dataset>
    python -m benchmarks.play film --model weights/guided --levels 5 --film docs/results/images
    python -m benchmarks.play lasting --model weights/guided --dataset <dataset> --levels 0 1 2 3 --film <folder>

speed: each visitor asks for the next frame as soon as it has one; then, with --pace 15, fifteen times a second.
quality: rollouts of 200 frames from the start of the game's level under random keys, each held for five frames on
average, next to the game under the same keys; for each way of making room in a full history. PSNR favours a rollout
that stands still: look at the frames, too (--film).
film: 100 frames of the page's step from the start of a level, under the keys of `--keys`, next to the game, as a GIF.
lasting: 30 seconds from the starts of levels, under these keys again and again: in which share of the frames of the
first, second and third ten seconds a network that was trained on the dataset finds the character, in the model and in
the game, which begins anew where it ends. With --film: a frame of every second of both.
"""

import argparse
import asyncio
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor

from benchmarks.keyed_rollouts import KEYS, SHOWN, film, film_row, lasting, numbers
from data_generation.data.data import Environment, list_environments
from data_generation.data.media import write_png
from data_generation.generator.levels import Level, LevelEnv
from models import streaming
from models.checkpoint import load_world_model
from models.components.st_transformer import Cache, LayerCache
from models.genie_redux import GenieRedux
from models.streaming import StreamState
from training.measures.counterfactuals import recorded_connector
from training.metrics import psnr_per_frame

ROOT_DPATH = Path(__file__).resolve().parent.parent

# Steps that fill the history before anything is measured.
FILLING = 20

# ---- speed ----------------------------------------------------------------------------------------------------------


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
    raise SystemExit("the server did not start")


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


# ---- quality --------------------------------------------------------------------------------------------------------

Room = Callable[[GenieRedux, StreamState], StreamState]


def drop_frame(first: int) -> Room:
    """Forget the frame after the `first` ones, without computing anything again."""

    def drop(cache: Cache) -> Cache:
        return Cache(cache.num_frames - 1, [_without(layer, first) for layer in cache.layers])

    def make_room(model: GenieRedux, state: StreamState) -> StreamState:
        ids, actions, surplus = (
            None if x is None else torch.cat([x[:, :first], x[:, first + 1 :]], dim=1)
            for x in (state.ids, state.actions, state.surplus)
        )
        assert ids is not None and actions is not None
        return StreamState(ids, actions, drop(state.dynamics), drop(state.decoder), state.window, surplus)

    return make_room


def _without(layer: LayerCache, frame: int) -> LayerCache:
    if layer.keys is None or layer.values is None:
        return layer
    parts = (torch.cat([x[..., :frame, :], x[..., frame + 1 :, :]], dim=-2) for x in (layer.keys, layer.values))
    return LayerCache(layer.peg, *parts)


def read_again(share: float, anchors: int = 0) -> Room:
    """Keep a share of the newest frames, and the first ones as anchors, and compute the KV caches of these again."""

    def make_room(model: GenieRedux, state: StreamState) -> StreamState:
        newest = min(max(1, int(share * state.window)), state.window - 1 - anchors)
        ids, actions, surplus = (
            None if x is None else torch.cat([x[:, :anchors], x[:, x.shape[1] - newest :]], dim=1)
            for x in (state.ids, state.actions, state.surplus)
        )
        assert ids is not None and actions is not None
        return streaming.start(model, ids, actions[:, actions.shape[1] - ids.shape[1] + 1 :], state.window, surplus)

    return make_room


ROOMS: dict[str, Room] = {
    "half": read_again(0.5),
    "slide": drop_frame(0),
    "anchor1": drop_frame(1),
    "anchor2": drop_frame(2),
    "all": read_again(1.0),
    "half_anchor1": read_again(0.5, 1),
}


def play_game(environment: Environment, num_frames: int, count: int) -> tuple[Tensor, Tensor]:
    """Videos (count, N, C, H, W) in [0, 1] of the game under random keys, and the actions (count, N-1)."""
    info = environment.info
    env = LevelEnv(recorded_connector(info), num_frames + 1)
    videos: list[np.ndarray] = []
    played: list[list[int]] = []
    seed = 0
    try:
        while len(videos) < count:
            rng, action = np.random.default_rng(seed), 0
            seed += 1
            frames = [env.start(Level(info.game, int(environment.instances[0])), 0)]
            actions: list[int] = []
            while len(frames) < num_frames:
                if not actions or rng.random() > 0.8:
                    action = int(rng.integers(info.num_actions))
                step = env.step(action)
                frames.append(step.frame)
                actions.append(action)
                if step.is_last:
                    break
            if len(frames) == num_frames:
                videos.append(np.stack(frames))
                played.append(actions)
    finally:
        env.close()
    return torch.from_numpy(np.stack(videos)).float() / 255, torch.tensor(played)


@torch.no_grad()
def stream(model: GenieRedux, video: Tensor, actions: Tensor, window: int, make_room: Room) -> Tensor:
    """Frames (B, T-2, C, H, W) after the first two of videos (B, T, C, H, W)."""
    state, frames = model.start(video[:, :2], actions[:, :1], window), []
    for t in range(1, actions.shape[1]):
        if state.ids.shape[1] >= window:
            state = make_room(model, state)
        frame, state = model.step(state, actions[:, t])
        frames.append(frame)
    return torch.stack(frames, dim=1).clamp(0, 1)


def nearest_psnr(frames: Tensor, known: Tensor) -> Tensor:
    """PSNR (N,) of frames (N, …) to the one of known frames (M, …) that is nearest: whether they look like the game."""
    distance = torch.cdist(frames.flatten(1), known.flatten(1)).min(dim=1).values
    return -10 * torch.log10(distance.square() / frames[0].numel() + 1e-9)


def quality(args: argparse.Namespace) -> None:
    model = load_world_model(Path(args.model)).model
    environment = Environment(list_environments(Path(args.dataset))[0])
    video, actions = play_game(environment, 2 + SHOWN[-1], args.rollouts)
    known = video.flatten(0, 1)[::2]
    shown = [t - 1 for t in SHOWN]
    for window in args.windows or [model.dynamics.max_frames]:
        print(f"history of {window} frames; frames {', '.join(map(str, SHOWN))}")
        for name in args.rooms:
            began = time.process_time()
            frames = stream(model, video, actions, window, ROOMS[name])
            line(name, frames, video[:, 2:], known, shown)
            if args.film:
                images = [film_row(x[0, shown]) for x in (video[:, 2:], frames)]
                write_png(Path(args.film) / f"{window}_{name}.png", np.concatenate(images))
            print(f"  {(time.process_time() - began) / frames[:, :, 0, 0, 0].numel() * 1000:.0f} ms of CPU a frame")
    line("still", video[:, 1:2].expand(-1, SHOWN[-1], -1, -1, -1), video[:, 2:], known, shown)


def line(name: str, frames: Tensor, real: Tensor, known: Tensor, shown: Sequence[int]) -> None:
    psnr = psnr_per_frame(frames, real).mean(dim=0)
    nearest = [float(nearest_psnr(frames[:, t], known).mean()) for t in shown]
    print(f"{name:13} to the game's frame {numbers(psnr[shown].tolist())}, mean {psnr.mean():.2f}", end="")
    print(f"; to its nearest one {numbers(nearest)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["speed", "quality", "film", "lasting"])
    parser.add_argument("--model", required=True)
    parser.add_argument("--datasets", default="data_generation/datasets")
    parser.add_argument("--visitors", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--pace", type=float, default=15.0)
    parser.add_argument("--dataset", default="data_generation/datasets/retro_act_v0.0.0_demo")
    parser.add_argument("--cache", type=Path, default=Path("outputs/position"), help="keeps the network of `lasting`")
    parser.add_argument("--rollouts", type=int, default=4)
    parser.add_argument("--windows", type=int, nargs="+")
    parser.add_argument("--film", help="a folder for images: the game's frames and the model's")
    parser.add_argument("--levels", type=int, nargs="+", default=[5])
    parser.add_argument("--keys", nargs="+", default=KEYS, help="actions, and for how many frames each is held")
    parser.add_argument("--rooms", nargs="+", choices=list(ROOMS), default=list(ROOMS))
    args = parser.parse_args()
    torch.manual_seed(0)
    {"speed": speed, "quality": quality, "film": film, "lasting": lasting}[args.what](args)


if __name__ == "__main__":
    main()
