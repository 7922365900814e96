"""Opening and reading a dataset of a million episodes: python -m benchmarks.million [--environments 1000] [--steps 120]

The episodes are links to a few files, and their indexes are made without reading them, so that the dataset takes
minutes to make and some hundred megabytes; how it is opened and read does not depend on that. It is made once, in
`--root`, and stays there.
"""

import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.command_line import make_parser, positive_number, read_count, run_command
from data.data import ClipDataset
from data.loader import iterate_epochs, make_loader
from data_generation.arguments import read_path
from data_generation.data.data import DatasetInfo, EpisodeMeta, EpisodeWriter, episode_path
from data_generation.data.index import Index, instance_folders, read_entry, save_index, scan

SHAPE = (3, 64, 64)
ACTIONS = ["RIGHT", "LEFT", "UP", "DOWN", "ACTION_JUMP"]
# In seconds: older than any index.
_AGE = 1000


def make_dataset(root: Path, num_environments: int, num_episodes: int, steps: int) -> Path:
    """A dataset of `num_episodes` episodes in each of some environments, which are links to one file of each."""
    dataset = root / f"million_{num_environments}x{num_episodes}_{steps}"
    if (dataset / "complete").is_file():
        return dataset
    shutil.rmtree(dataset, ignore_errors=True)
    for number in range(num_environments):
        env_dpath = dataset / f"game{number:04d}"
        info = DatasetInfo(env_dpath.name, env_dpath.name, ACTIONS, SHAPE)
        info.save(env_dpath)
        source = _write_episode(env_dpath, number, steps)
        for session in range(1, num_episodes):
            os.link(source, episode_path(env_dpath, 0, session))
        _make_old(source)
        _make_old(source.parent)
        first, *others = scan(env_dpath)
        entry = read_entry(env_dpath, first, info)
        save_index(
            env_dpath, Index.of([entry, *(replace(entry, key=key) for key in others)], instance_folders(env_dpath))
        )
    (dataset / "complete").touch()
    return dataset


def _write_episode(env_dpath: Path, number: int, steps: int) -> Path:
    """A striped image that scrolls."""
    rng = np.random.default_rng(number)
    picture = np.repeat(rng.integers(0, 256, (3, 8, 16), np.uint8), 8, axis=1).repeat(8, axis=2)
    path = episode_path(env_dpath, 0, 0)
    with EpisodeWriter(path, EpisodeMeta(seed=number), SHAPE) as writer:
        writer.start(picture[:, :, :64])
        for step in range(1, steps + 1):
            frame = np.roll(picture, -step, axis=2)[:, :, :64]
            writer.step(int(rng.integers(5)), 0.0, False, step == steps, {}, frame)
        writer.commit()
    return path


def _make_old(path: Path) -> None:
    then = time.time_ns() - _AGE * 1_000_000_000
    os.utime(path, ns=(then, then))


def measured(what: str, action: Callable[[], Any]) -> Any:
    """Call and print seconds by the clock and CPU-seconds, and how much more memory is held then."""
    process = psutil.Process()
    before, clock, processor = process.memory_info().rss, time.perf_counter(), time.process_time()
    result = action()
    seconds, own = time.perf_counter() - clock, time.process_time() - processor
    grown = (process.memory_info().rss - before) / 1e6
    print(f"{what:58} {seconds:7.1f} s {own:7.1f} CPU s {grown:8.0f} MB more", flush=True)
    return result


def rate(clips: ClipDataset, seconds: float) -> tuple[float, float]:
    """Random clips of 16 frames per second by the clock, and per CPU-second, in batches of 16."""
    batches = iterate_epochs(make_loader(clips, batch_size=16))
    next(batches)
    count, clock, processor = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - clock < seconds:
        count += sum(len(batch) for batch in islice(batches, 10))
    return count / (time.perf_counter() - clock), count / (time.process_time() - processor)


def run(argv: Sequence[str]) -> None:
    parser = make_parser("million", __doc__)
    parser.add_argument("--root", type=read_path, default=Path("outputs/benchmarks"))
    parser.add_argument("--environments", type=read_count, default=1000)
    parser.add_argument("--episodes", type=read_count, default=1000, help="of each environment")
    parser.add_argument("--steps", type=read_count, default=120, help="of each episode")
    parser.add_argument("--seconds", type=positive_number, default=10.0, help="of reading")
    arguments = parser.parse_args(argv)
    sizes = (arguments.environments, arguments.episodes, arguments.steps)
    large = measured("make the dataset, if it is not there", lambda: make_dataset(arguments.root, *sizes))
    small = make_dataset(arguments.root, 10, min(1000, arguments.episodes), arguments.steps)
    size = sum(path.stat().st_size for path in large.glob("*/index.bin"))
    print(f"{arguments.environments * arguments.episodes} episodes, indexes of {size / 1e6:.0f} MB")
    few = measured("open 10 environments", lambda: ClipDataset(small, "all", 16))
    clips = measured("open all", lambda: ClipDataset(large, "all", 16))
    for environment in large.glob("game*"):
        (environment / "000000").touch()
    measured("open all after each folder has changed (lists every file)", lambda: ClipDataset(large, "all", 16))
    for environment in large.glob("game*"):
        _make_old(environment / "000000")
    measured("fingerprint of all, for a run's record", clips.digest)
    for name, dataset in (("10 environments", few), ("all", clips)):
        by_clock, by_processor = rate(dataset, arguments.seconds)
        print(f"random clips of {name:20} {by_clock:8.0f} clips/s {by_processor:8.0f} clips per CPU-second")


if __name__ == "__main__":
    sys.exit(run_command(run))
