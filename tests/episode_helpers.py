"""Small episodes and environments for the tests of the format."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from data_generation.data.data import (
    DatasetInfo,
    EpisodeMeta,
    EpisodeWriter,
    episode_path,
)

SHAPE = (3, 8, 10)


def make_frames(num_frames: int, seed: int = 0, shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (num_frames, *shape), dtype=np.uint8)


def write_episode(
    env_dpath: Path, session: int, num_frames: int = 40, seed: int = 0, instance: int = 0, **writer
) -> Path:
    frames = make_frames(num_frames, seed)
    meta = EpisodeMeta(seed, instance, session, "random", {"epsilon": 0.5}, "Pong", {"retro": "1"})
    with EpisodeWriter(episode_path(env_dpath, instance, session), meta, SHAPE, **writer) as episode:
        episode.start(frames[0])
        for t in range(1, num_frames):
            episode.step((t + seed) % 3, 0.25 * t, False, t == num_frames - 1, {"x": t}, frames[t])
        return episode.commit()


def make_environment(dpath: Path, num_sessions: int, num_frames: int = 40) -> Path:
    DatasetInfo(dpath.name, "Pong", ["A", "B", "C"], SHAPE).save(dpath)
    for session in range(num_sessions):
        write_episode(dpath, session, num_frames, seed=session)
    return dpath


_opened: list[str] = []
sys.addaudithook(lambda event, args: _opened.append(str(args[0])) if event == "open" else None)


@contextmanager
def opened_files() -> Iterator[list[str]]:
    """Names of the files that are opened in the block, each as often as it is opened."""
    names: list[str] = []
    start = len(_opened)
    yield names
    names += [Path(path).name for path in _opened[start:]]


def age(env_dpath: Path, seconds: float = 100.0) -> None:
    """Make the episodes older than any index, as they are in real life."""
    for path in env_dpath.rglob("*.episode"):
        status = path.stat()
        os.utime(path, ns=(status.st_mtime_ns - int(seconds * 1e9),) * 2)
