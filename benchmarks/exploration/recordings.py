"""How long the episodes of a recording are, and how many more are needed."""

import math
from pathlib import Path

import numpy as np

from data_generation.data.data import Environment, list_environments


def episode_frames(dataset: Path) -> np.ndarray:
    """Frames of each episode (N,); none where there is no dataset yet."""
    return np.concatenate([np.empty(0, np.int64), *(found.num_frames for found in _environments(dataset))])


def frames_by_level(dataset: Path, num_levels: int) -> np.ndarray:
    """Frames (sessions, levels) of the episodes of complete sessions."""
    lengths: dict[tuple[int, int], int] = {}
    for found in _environments(dataset):
        lengths |= zip(zip(found.sessions, found.instances, strict=True), found.num_frames, strict=True)
    complete: list[list[int]] = []
    while all((len(complete), level) in lengths for level in range(num_levels)):
        complete.append([lengths[len(complete), level] for level in range(num_levels)])
    return np.array(complete, np.int64).reshape(-1, num_levels)


def sessions_to_play(lengths: np.ndarray, wanted: int, longest: int, is_even: bool = False) -> int | None:
    """How many sessions a dataset should have next; None if the `lengths` (sessions, levels) of its episodes do.

    `longest`: steps of the longest episode. `is_even`: if every level has an equal share of `wanted`. The answer
    follows from the episodes of complete sessions, so it is the same where a command was killed on the way.
    """
    num_levels, num_sessions = lengths.shape[1], 0
    while True:
        played = lengths[:num_sessions]
        if len(played) < num_sessions:
            return num_sessions
        counted = int(played.sum(axis=0).min() * num_levels if is_even else played.sum())
        if counted >= wanted:
            return None
        length = max(1, counted / played.size) if played.size else longest + 1
        num_sessions += math.ceil((wanted - counted) / (num_levels * length))


def _environments(dataset: Path) -> list[Environment]:
    return [Environment(dpath) for dpath in (list_environments(dataset) if dataset.is_dir() else [])]
