"""Speed of the generator, as a share of what the bare game reaches in the same run.

    python -m benchmarks.generator [--game Airstriker-Genesis|Cinderfoot-Nes|coinrun] [--rounds 3] [--sessions 12]

A round plays the game in four ways, one right after the other: one process and then two that only call its `step`,
then the generator with one worker and with two. Ratios are taken within a round and their median is shown, so that a
machine whose speed drifts (or that others use, too) distorts them less. Start-up of worker processes is included.
"""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import stable_retro

from benchmarks.command_line import make_parser, read_count, run_command
from data_generation.config import ConnectorConfig, DatasetConfig, GeneratorConfig
from data_generation.data.cores import num_cores
from data_generation.generator.connector_base import make_connector
from data_generation.generator.generator import run as run_generator
from data_generation.generator.plan import make_plan
from data_generation.generator.retro_games import integrations
from data_generation.generator.worker import GenerationJob

GAMES = {
    "Airstriker-Genesis": ConnectorConfig(valid_action_combos=["RIGHT", "LEFT", "UP", "DOWN", "ACTION_SECONDARY"]),
    "Cinderfoot-Nes": ConnectorConfig(),
    "coinrun": ConnectorConfig(name="coinrun", n_skip_frames=1),
}


def bare_game(game: str, num_frames: int) -> float:
    """Frames per second of a loop that holds random actions and does nothing else."""
    return bare_coinrun(num_frames) if game == "coinrun" else bare_emulator(game, num_frames)


def bare_emulator(game: str, num_frames: int) -> float:
    """Emulator frames per second of `RetroEnv.step`, which makes an image of each."""
    env = stable_retro.make(f"{game}-v0", inttype=integrations(), render_mode="rgb_array")
    buttons = [env.buttons.index(name) for name in ("RIGHT", "LEFT", "UP", "DOWN", "B")]
    masks = np.eye(env.num_buttons, dtype=np.int8)[buttons]
    rng = np.random.default_rng(0)
    env.reset()
    start = time.perf_counter()
    for frame in range(num_frames):
        if frame % 4 == 0:
            mask = masks[rng.integers(len(masks))]
        if env.step(mask)[2]:
            env.reset()
    seconds = time.perf_counter() - start
    env.close()
    return num_frames / seconds


def bare_coinrun(num_frames: int) -> float:
    """Steps per second of Procgen, which starts the next episode on its own; each makes an image."""
    from procgen import ProcgenGym3Env  # an extra, not in every installation

    env = ProcgenGym3Env(num=1, env_name="coinrun", num_levels=1, num_threads=0, rand_seed=0)
    rng = np.random.default_rng(0)
    start = time.perf_counter()
    for _ in range(num_frames):
        env.act(rng.integers(9, size=1))
        env.observe()
    return num_frames / (time.perf_counter() - start)


def two_bare_games(game: str, num_frames: int) -> float:
    """The same in two processes at once: what the machine has left for a second worker."""
    with get_context("spawn").Pool(2) as pool:
        return sum(pool.starmap(bare_game, [(game, num_frames)] * 2, chunksize=1))


def generator(game: str, n_workers: int, n_sessions: int) -> float:
    """Recorded frames per second of a run of the generator."""
    with tempfile.TemporaryDirectory() as folder:
        settings = GeneratorConfig(n_sessions=n_sessions, n_workers=n_workers)
        config = replace(GAMES[game], game=game, generator_config=settings)
        dataset = DatasetConfig(config, data_dpath=str(Path(folder)))
        connector = make_connector(config)
        plan = make_plan(dataset, connector)
        outcome = run_generator(GenerationJob(dataset, connector, "config", plan.infos), plan.missing)
    return outcome.num_frames / outcome.seconds


def run(argv: Sequence[str]) -> None:
    parser = make_parser("generator", __doc__)
    parser.add_argument("--game", choices=sorted(GAMES), default="Airstriker-Genesis")
    parser.add_argument("--rounds", type=read_count, default=3)
    parser.add_argument("--sessions", type=read_count, default=12, help="episodes per run of the generator")
    arguments = parser.parse_args(argv)
    game, rounds = arguments.game, []
    skip = GAMES[game].n_skip_frames
    num_frames = 4000 if skip > 1 else 20_000
    for number in range(arguments.rounds):
        row = {
            "bare": bare_game(game, num_frames),
            "bare twice": two_bare_games(game, num_frames),
            "one": generator(game, 1, arguments.sessions),
            "two": generator(game, 2, 2 * arguments.sessions),
        }
        rounds.append(row)
        print(f"round {number}: " + ", ".join(f"{name} {value:.0f}" for name, value in row.items()), flush=True)
    median = {
        "bare game, its frames/s": statistics.median(row["bare"] for row in rounds),
        "two bare games / one": statistics.median(row["bare twice"] / row["bare"] for row in rounds),
        "one worker, recorded frames/s": statistics.median(row["one"] for row in rounds),
        "one worker, share of the bare game": statistics.median(skip * row["one"] / row["bare"] for row in rounds),
        "two workers, recorded frames/s": statistics.median(row["two"] for row in rounds),
        "two workers / one": statistics.median(row["two"] / row["one"] for row in rounds),
    }
    print(f"{num_cores()} cores, load {os.getloadavg()[0]:.1f}; medians of {arguments.rounds} rounds")
    for name, value in median.items():
        print(f"{name:42} {value:.2f}")


if __name__ == "__main__":
    sys.exit(run_command(run))
