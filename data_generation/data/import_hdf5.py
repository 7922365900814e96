"""Import of HDF5 files with frames and actions: Minari, robomimic, D4RL-like, and one group or file per episode.

An episode is a group with frames (a uint8 array of 3 or 4 axes, or a group of one) and, next to them, actions and
rewards. Where one group, with no number in its name, holds all episodes in a row, `terminals`, `timeouts` or the like
say where they end; in a group of one episode they may mark every step of success.
"""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_generation.data.errors import UserError
from data_generation.data.import_arrays import (
    FRAME_NAMES,
    ArrayDataset,
    ArraySession,
    ImportOptions,
    as_rgb,
    optional_module,
)
from data_generation.data.reading import read_json, readable
from data_generation.data.recordings import natural_order

HDF5_SUFFIXES = (".hdf5", ".h5", ".hdf")
_END_NAMES = ("terminals", "terminations", "terminated", "timeouts", "truncations", "truncated", "dones", "done")
_FRAMES_AT_ONCE = 64
_MAX_DEPTH = 8


@dataclass
class Hdf5Session(ArraySession):
    """Frames `start` to `stop` of the group `group`."""

    group: str
    start: int
    stop: int

    @property
    def part(self) -> str:
        return f"{self.group} {self.start}"

    def num_frames(self) -> int:
        return self.stop - self.start

    def frames(self) -> Iterator[np.ndarray]:
        """Frames (h, w, 3) uint8, some at a time from the file."""
        with _file(self.path) as file:
            frames = file[_frames_name(file[self.group], self.options, self.path)]
            for first in range(self.start, self.stop, _FRAMES_AT_ONCE):
                for frame in frames[first : min(first + _FRAMES_AT_ONCE, self.stop)]:
                    try:
                        yield as_rgb(frame)
                    except ValueError as error:
                        raise self.error(*error.args) from None

    def column(self, names: Sequence[str]) -> np.ndarray | None:
        """The part of a column that belongs to these of the group's frames."""
        with _file(self.path) as file:
            group = file[self.group]
            total = file[_frames_name(group, self.options, self.path)].shape[0]
            name = next((name for name in names if hasattr(group.get(name), "shape")), None)
            if name is None:
                return None
            if group[name].ndim == 0 or group[name].shape[0] not in (total, total - 1):
                raise self.error(f"'{self.group}' has {name} {group[name].shape} for {total} frames")
            return np.asarray(group[name][self.start : self.stop])

    def column_names(self) -> list[str]:
        """The arrays in the group that are as long as its frames, or one shorter."""
        found: list[str] = []

        def note(name: str, item: Any) -> None:
            if getattr(item, "ndim", 0) in (1, 2) and item.shape[0] in (total, total - 1):
                found.append(name)

        with _file(self.path) as file:
            group = file[self.group]
            total = file[_frames_name(group, self.options, self.path)].shape[0]
            group.visititems(note)
        return found


def hdf5_dataset(name: str, files: Sequence[Path], options: ImportOptions) -> ArrayDataset:
    """The episodes of some HDF5 files, in the order of files and groups."""
    found: list[ArraySession] = []
    for path in files:
        with _file(path) as file:
            for group, start, stop in _episodes(file, options, path):
                found.append(Hdf5Session(path, 0, len(found), options, group, start, stop))
    if not found:
        known = options.frames_key or ", ".join(FRAME_NAMES)
        raise UserError(f"'{files[0]}' holds no frames named {known}: name them with --frames-key")
    return ArrayDataset(name, found, num_actions=_minari_actions(files[0]))


def _episodes(file: Any, options: ImportOptions, path: Path) -> Iterator[tuple[str, int, int]]:
    """The group's name, start and stop of each episode in a file, in natural order."""
    groups = list(_groups(file, options, path))
    in_a_row = len(groups) == 1 and not re.search(r"\d$", groups[0].name)
    for group in groups:
        total = file[_frames_name(group, options, path)].shape[0]
        for start, stop in _spans(group, total) if in_a_row else [(0, total)]:
            yield group.name, start, stop


def _groups(group: Any, options: ImportOptions, path: Path, depth: int = 0) -> Iterator[Any]:
    """The groups with frames in a group, or itself, in natural order. What is linked from elsewhere is not followed."""
    import h5py

    if _frames_name(group, options, path):
        yield group
        return
    for name in sorted(group, key=lambda name: natural_order(Path(name))):
        if isinstance(group.get(name, getlink=True), h5py.HardLink) and depth < _MAX_DEPTH:
            child = group[name]
            if isinstance(child, h5py.Group):
                yield from _groups(child, options, path, depth + 1)


def _frames_name(group: Any, options: ImportOptions, path: Path) -> str:
    """The full name of a group's array of frames; "" where it has none."""
    import h5py

    found = []
    for name in (options.frames_key,) if options.frames_key else FRAME_NAMES:
        child = group.get(name)
        children = [child] if isinstance(child, h5py.Dataset) else list(child.values()) if child is not None else []
        found += [item.name for item in children if isinstance(item, h5py.Dataset) and _is_video(item)]
    if len(found) > 1:
        keys = ", ".join(name.removeprefix(group.name).lstrip("/") for name in found)
        raise UserError(f"'{path}' has several videos in '{group.name}': choose one by --frames-key ({keys})")
    return str(found[0]) if found else ""


def _is_video(dataset: Any) -> bool:
    return dataset.ndim in (3, 4) and dataset.dtype == np.uint8 and dataset.shape[0] > 0


def _spans(group: Any, total: int) -> list[tuple[int, int]]:
    """Where the episodes in a group of `total` frames start and stop."""
    columns = [group[key] for key in _END_NAMES if hasattr(group.get(key), "shape")]
    columns = [column for column in columns if column.dtype.kind in "biuf" and column.shape in ((total,), (total, 1))]
    ends = [np.asarray(column[:]).reshape(-1) != 0 for column in columns]
    stops = (np.flatnonzero(np.logical_or.reduce(ends)) + 1).tolist() if ends else []
    stops = stops if stops and stops[-1] == total else [*stops, total]
    return list(zip([0, *stops[:-1]], stops, strict=True))


def _minari_actions(file: Path) -> int:
    """How many actions the metadata of a Minari dataset names; 0 where there are none."""
    path = file.parent / "metadata.json"
    if not path.is_file():
        return 0
    try:
        space = json.loads(read_json(path, "restore or remove it")["action_space"])
        return int(space["n"]) if space.get("type") == "Discrete" and not space.get("start") else 0
    except (UserError, ValueError, TypeError, KeyError, AttributeError):
        return 0


@contextmanager
def _file(path: Path) -> Iterator[Any]:
    h5py = optional_module("h5py", path)
    # What h5py raises for files that are damaged, or no HDF5.
    with readable(path, OSError, RuntimeError, KeyError, TypeError), h5py.File(path, "r") as file:
        yield file
