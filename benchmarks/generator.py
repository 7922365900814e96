"""Speed of the generator, as a share of what the bare emulator reaches in the same run.

    python -m benchmarks.generator [--rounds 3] [--sessions 12]

A round plays Airstriker-Genesis in four ways, one right after the other: one process and then two that only call
`env.step`, then the generator with one worker and with two. Ratios are taken within a round and their median is
shown, so that a machine whose speed drifts (or that others use, too) distorts them less. Start-up of worker processes
is included.
"""

import argparse
import os
import statistics
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import stable_retro

from data_generation.config import ConnectorConfig, DatasetConfig, GeneratorConfig
from data_generation.generator.connector_base import make_connector
from data_generation.generator.generator import run
from data_generation.generator.plan import make_plan

GAME = "Airstriker-Genesis"
ACTIONS = ["RIGHT", "LEFT", "UP", "DOWN", "ACTION_SECONDARY"]
SKIP = 4


def bare_emulator(num_frames: int) -> float:
    """Emulator frames per second of a loop that holds random actions and does nothing else."""
    env = stable_retro.make(f"{GAME}-v0", render_mode="rgb_array")
    buttons = [env.buttons.index(name) for name in ("RIGHT", "LEFT", "UP", "DOWN", "B")]
    masks = np.eye(env.num_buttons, dtype=np.int8)[buttons]
    rng = np.random.default_rng(0)
    env.reset()
    start = time.perf_counter()
    for frame in range(num_frames):
        if frame % SKIP == 0:
            mask = masks[rng.integers(len(masks))]
        if env.step(mask)[2]:
            env.reset()
    seconds = time.perf_counter() - start
    env.close()
    return num_frames / seconds


def two_bare_emulators(num_frames: int) -> float:
    """The same in two processes at once: what the machine has left for a second worker."""
    with get_context("spawn").Pool(2) as pool:
        return sum(pool.map(bare_emulator, [num_frames] * 2, chunksize=1))


def generator(n_workers: int, n_sessions: int) -> float:
    """Recorded frames per second of a run of the generator."""
    with tempfile.TemporaryDirectory() as folder:
        settings = GeneratorConfig(n_sessions=n_sessions, n_workers=n_workers)
        config = ConnectorConfig(game=GAME, valid_action_combos=ACTIONS, n_skip_frames=SKIP, generator_config=settings)
        dataset = DatasetConfig(config, data_dpath=str(Path(folder)))
        connector = make_connector(config)
        outcome = run(dataset, connector, make_plan(dataset, connector).missing)
    return outcome.num_frames / outcome.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sessions", type=int, default=12, help="episodes per run of the generator")
    arguments = parser.parse_args()
    rounds = []
    for number in range(arguments.rounds):
        row = {
            "bare": bare_emulator(SKIP * 1000),
            "bare twice": two_bare_emulators(SKIP * 1000),
            "one": generator(1, arguments.sessions),
            "two": generator(2, 2 * arguments.sessions),
        }
        rounds.append(row)
        print(f"round {number}: " + ", ".join(f"{name} {value:.0f}" for name, value in row.items()), flush=True)
    median = {
        "bare emulator, emulator frames/s": statistics.median(row["bare"] for row in rounds),
        "two bare emulators / one": statistics.median(row["bare twice"] / row["bare"] for row in rounds),
        "one worker, recorded frames/s": statistics.median(row["one"] for row in rounds),
        "one worker, share of the bare emulator": statistics.median(SKIP * row["one"] / row["bare"] for row in rounds),
        "two workers, recorded frames/s": statistics.median(row["two"] for row in rounds),
        "two workers / one": statistics.median(row["two"] / row["one"] for row in rounds),
    }
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; medians of {arguments.rounds} rounds")
    for name, value in median.items():
        print(f"{name:42} {value:.2f}")


if __name__ == "__main__":
    main()
