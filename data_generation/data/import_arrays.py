"""Recordings in files of arrays, with actions: what HDF5, Parquet, ArrayRecord and LeRobot datasets have in common."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from data_generation.data.episode import MAX_REWARD
from data_generation.data.errors import UserError
from data_generation.data.import_session import ImportedSession, Step
from data_generation.data.reading import UnreadableFileError, opened

FRAME_NAMES = ("frames", "observations", "observation", "obs", "images", "image", "video", "pixels")
ACTION_NAMES = ("actions", "action")
REWARD_NAMES = ("rewards", "reward", "next.reward")
_MAX_ACTIONS = 1 << 16
# Of a list of names in an error's line.
_SHOWN_NAMES = 12


@dataclass
class ImportOptions:
    """What the files do not say. `frames_key`, `actions_key`: their names where they are not the usual ones.

    `frame_size`: (height, width) of frames in ArrayRecord files; None = square.
    """

    action_names: list[str] | None = None
    without_actions: bool = False
    frames_key: str | None = None
    actions_key: str | None = None
    frame_size: tuple[int, int] | None = None

    def check_used(self, path: Path, what: str, *used: str) -> None:
        """UserError where a format, `what` is at the path, does not use one of these that is given."""
        if self.without_actions:
            used = tuple({*used} - {"action_names", "actions_key"})
            what += ", of which --without-actions imports no actions" if self.action_names or self.actions_key else ""
        given = [name for name in ("action_names", "frames_key", "actions_key", "frame_size") if getattr(self, name)]
        if unused := [f"--{name.replace('_', '-')}" for name in given if name not in used]:
            raise UserError(f"'{path}' holds {what}: leave out {' and '.join(unused)}")


@dataclass
class ArraySession(ImportedSession):
    """An episode in a file of arrays, whose numbers are read without its frames. Errors are `UserError`s."""

    options: ImportOptions

    def size(self) -> int:
        """0: the file may get further episodes."""
        return 0

    def num_frames(self) -> int:
        raise NotImplementedError

    def column(self, names: Sequence[str]) -> np.ndarray | None:
        """The first column of these names that is there: a value for each frame, or for each frame but the last."""
        raise NotImplementedError

    def column_names(self) -> list[str]:
        """The names that `--actions-key` may give."""
        raise NotImplementedError

    @property
    def action_keys(self) -> Sequence[str]:
        """The names that actions may have, the first that is there counts."""
        return (self.options.actions_key,) if self.options.actions_key else ACTION_NAMES

    def actions(self) -> np.ndarray | None:
        """Action numbers (T,) int64; None without actions."""
        values = None if self.options.without_actions else self.column(self.action_keys)
        if values is None and self.options.actions_key and not self.options.without_actions:
            raise self._missing_actions()
        return None if values is None else self._indices(values)

    def rewards(self) -> np.ndarray | None:
        """Rewards (T,), which an episode can hold; None without rewards."""
        values = self.column(REWARD_NAMES)
        if values is None:
            return None
        column = _without_last_axis(values)
        is_number = column.ndim == 1 and column.dtype.kind in "biuf"
        if not is_number or not (np.abs(column.astype(np.float64)) <= MAX_REWARD).all():
            raise self.error(
                f"its rewards, {values.dtype} {values.shape}, are not a finite 32-bit number for each step"
            )
        return column

    def steps(self, num_actions: int) -> Iterable[Step] | None:
        """What led to each frame but the first: entry t is the action taken in frame t, and what came of it."""
        actions, rewards = self.actions(), self.rewards()
        if actions is None and num_actions:
            raise self._missing_actions()
        if (count := self.num_frames() - 1) < 0:
            raise self.no_frames()
        for name, column in (("actions", actions), ("rewards", rewards)):
            if column is not None and len(column) not in (count, count + 1):
                raise self.error(f"it has {len(column)} {name} for {count + 1} frames")
        if actions is not None and actions.max(initial=0) >= num_actions:
            remedy = "restore the file, remove the episode, or give all actions names, --action-names A,B,…"
            raise self.error(f"action {actions.max()} is not one of {num_actions}", remedy)
        actions = np.zeros(count, np.int64) if actions is None else actions
        rewards = np.zeros(count) if rewards is None else rewards
        return (Step(int(actions[t]), float(rewards[t])) for t in range(count))

    def error(self, problem: str, remedy: str = "restore the file, or remove the episode") -> UserError:
        """The error about this episode, in one line with its file."""
        return UserError(f"'{self.path}', episode {self.session}: {problem}: {remedy}")

    def no_frames(self) -> UserError:
        """As for any recording, and which episode of the file it is."""
        return self.error("it holds no frames")

    def _missing_actions(self) -> UserError:
        names = self.column_names()
        shown = names if len(names) <= _SHOWN_NAMES else [*names[:_SHOWN_NAMES], "…"]
        there = f"there are {', '.join(shown)}" if names else "there is nothing besides frames"
        keys = " or ".join(f"'{key}'" for key in self.action_keys)
        remedy = "name one with --actions-key, or import --without-actions"
        return self.error(f"no actions named {keys}; {there}", remedy)

    def _indices(self, values: np.ndarray) -> np.ndarray:
        """Action numbers of an array of numbers (T,) or (T, 1), or of one-hot vectors (T, n)."""
        values = _without_last_axis(values)
        is_number = values.dtype.kind in "biuf"
        if (
            values.ndim == 2
            and values.shape[1]
            and is_number
            and ((values == 0) | (values == 1)).all()
            and (values.sum(1) == 1).all()
        ):
            values = values.argmax(1)
        whole = values.ndim == 1 and is_number and bool((values == np.floor(values)).all())
        if not whole or values.min(initial=0) < 0 or values.max(initial=0) >= _MAX_ACTIONS:
            problem = f"its actions, {values.dtype} {values.shape}, are not action numbers from 0 on"
            raise self.error(problem, "name others with --actions-key, or import --without-actions")
        return values.astype(np.int64)


@dataclass
class ArrayDataset:
    """The episodes of one environment, and what their files say of it."""

    name: str
    sessions: Sequence[ArraySession]
    game: str = ""
    fps: float | None = None
    action_names: list[str] = field(default_factory=list)
    num_actions: int = 0

    def names(self, options: ImportOptions) -> list[str]:
        """The actions by name; none where no episode has actions. Reads all episodes' actions if nothing says it."""
        if options.without_actions:
            return []
        names = options.action_names or self.action_names
        return names or [f"ACTION_{i}" for i in range(self.num_actions or self._count())]

    def _count(self) -> int:
        most = -1
        for session in self.sessions:
            try:
                actions = session.actions()
            except UserError:
                # Told, or skipped, when the session is imported.
                continue
            most = max(most, -1 if actions is None else int(actions.max(initial=0)))
        return most + 1


def _without_last_axis(values: np.ndarray) -> np.ndarray:
    """Numbers (T, 1) as (T,); others as they are."""
    return values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values


def as_rgb(frame: np.ndarray) -> np.ndarray:
    """A frame (h, w), (h, w, 1|3|4) or (1|3|4, h, w) uint8 as (h, w, 3).

    ValueError for anything else, with the problem and perhaps the remedy as its arguments.
    """
    shape = frame.shape
    if frame.ndim == 2:
        frame = frame[:, :, None]
    if frame.ndim == 3 and frame.shape[-1] not in (1, 3, 4):
        frame = frame.transpose(1, 2, 0)
    if frame.ndim != 3 or frame.shape[-1] not in (1, 3, 4) or frame.dtype != np.uint8:
        raise ValueError(f"a frame is {frame.dtype} {frame.shape}, not uint8 of (h, w, 3)")
    # Opacity is the same everywhere.
    if frame.shape[-1] == 4 and frame[:, :, 3].min() < frame[:, :, 3].max():
        raise ValueError(f"a frame {shape} looks like 4 stacked grey frames, not colours", "store one of each four")
    return frame.repeat(3, 2) if frame.shape[-1] == 1 else frame[:, :, :3]


def files_below(path: Path, suffixes: tuple[str, ...], order: Callable[[Path], Any]) -> list[Path]:
    """The files of some kinds at a path: itself, or those in a folder and the folders in it."""
    if not path.is_dir():
        return [path] if path.suffix.lower() in suffixes else []
    found = (file for file in path.rglob("*") if file.suffix.lower() in suffixes)
    return sorted(
        (file for file in found if not file.name.startswith(".")), key=lambda file: (file.parent, order(file))
    )


def optional_module(name: str, path: Path) -> Any:
    """A module of an optional package, to read `path`; UserError that names the extra where it is not installed."""
    try:
        with opened(path):  # some readers would wait for a FIFO
            pass
    except FileNotFoundError:
        raise UnreadableFileError(f"'{path}' is missing: restore it") from None
    try:
        return import_module(name)
    except ImportError:
        package = name.partition(".")[0]
        raise UserError(f"'{path}' needs the package {package}: bash install.sh --with formats") from None
