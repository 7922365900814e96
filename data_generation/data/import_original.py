"""Datasets in the layout of the original GenieRedux, to import.

`<environment>/info.json`, and per session `<instance>/<session>/actions.json` with `frames/000123.jpg` (or png) per
frame or one `frames.mp4`. Entry i of the actions is `{"src_id": i - 1, "tgt_id": i, "action": one-hot, "extras":
{...}}`: the action that led *to* frame i. The first entry's action comes from a frame that was not stored, so it is
dropped.
"""

import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from data_generation.data.episode import MAX_REWARD
from data_generation.data.errors import FieldError, UserError
from data_generation.data.import_arrays import ImportOptions
from data_generation.data.import_session import ImportedSession, Step
from data_generation.data.info import INFO_FNAME, DatasetInfo
from data_generation.data.reading import from_mapping, read_json, shortened
from data_generation.data.recordings import read_image, video_frames

_REMEDY = "restore or remove it"


@dataclass
class _OriginalInfo:
    """The original's `info.json`, which may be missing."""

    name: str = ""
    version: str = "unknown"
    info: dict[str, Any] = field(default_factory=dict)
    generator_config: dict[str, Any] = field(default_factory=dict)


@dataclass
class _OriginalConnector:
    """`info` in it: which game, and what its actions are called."""

    game: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    action_captions: list[Any] = field(default_factory=list)


@dataclass
class _Action:
    """An entry of `actions.json`."""

    tgt_id: int
    action: Any
    src_id: int | None = None
    extras: dict[str, Any] = field(default_factory=dict)


@dataclass
class OriginalSession(ImportedSession):
    """One folder `<instance>/<session>` with actions."""

    def frames(self) -> Iterator[np.ndarray]:
        """Frames (h, w, 3) uint8 in the order of the entries. `UserError` for another number of them."""
        entries = self.entries()
        video = self.path / "frames.mp4"
        if not os.path.lexists(video):
            for entry in entries:
                yield self._read_image(entry.tgt_id)
            return
        count = 0
        for count, frame in enumerate(video_frames(video), 1):
            if count <= len(entries):
                yield frame
        if count != len(entries):
            raise UserError(f"'{video}' has {count} frames for {len(entries)} actions: remove the session")

    def steps(self, num_actions: int) -> Iterator[Step]:
        """What led to each frame but the first."""
        entries = self.entries()
        numbers = self._numbers(entries)
        sizes = {len(entry.action) if isinstance(entry.action, list) else 0 for entry in entries}
        if len(sizes) > 1:
            raise self._error(f"its actions are one-hot of {sorted(sizes)} values")
        for entry, info in zip(entries[1:], numbers[1:], strict=True):
            action = self._index(entry.action, num_actions) if num_actions else 0
            yield Step(action, info.pop("reward", 0.0), info)

    def entries(self) -> list[_Action]:
        """The entries of `actions.json`, which fit each other."""
        content = read_json(self._actions_fpath, _REMEDY)
        found = content.get("actions") if isinstance(content, dict) else None
        if not isinstance(found, list) or not found:
            raise self._error("it has no list 'actions'")
        known = _Action.__dataclass_fields__
        try:
            entries = [from_mapping(_Action, {k: v for k, v in entry.items() if k in known}) for entry in found]
        except (ValueError, AttributeError) as error:
            raise self._error(f"an action is not one: {error}") from None
        for before, entry in pairwise(entries):
            if entry.src_id not in (None, before.tgt_id):
                raise self._error(f"step to {entry.tgt_id} does not start at {before.tgt_id}")
        return entries

    @property
    def one_hot_size(self) -> int:
        """Length of the one-hot actions, 0 where actions are numbers."""
        action = self.entries()[0].action
        return len(action) if isinstance(action, list) else 0

    @property
    def _actions_fpath(self) -> Path:
        return self.path / "actions.json"

    def _error(self, problem: str) -> UserError:
        return UserError(f"'{self._actions_fpath}': {problem}: {_REMEDY}, or remove the session")

    def _numbers(self, entries: Sequence[_Action]) -> list[dict[str, float]]:
        """The numbers in each entry's extras; what is a number nowhere is omitted."""
        names = {name for entry in entries for name, value in entry.extras.items() if _is_number(value)}
        for entry in entries:
            for name in names & entry.extras.keys():
                value = entry.extras[name]
                most = MAX_REWARD if name == "reward" else sys.float_info.max
                if not _is_number(value) or not abs(value) <= most:
                    problem = f"not a number of at most {most:.3g}"
                    raise self._error(f"extras.{name} of step {entry.tgt_id} is {shortened(value)}, {problem}")
        if any("reward" in entry.extras for entry in entries) and "reward" not in names:
            raise self._error("extras.reward is not a number")
        return [{name: float(entry.extras[name]) for name in names & entry.extras.keys()} for entry in entries]

    def _index(self, value: Any, num_actions: int) -> int:
        index = value
        if isinstance(value, list):
            is_one_hot = all(map(_is_number, value)) and sorted(value) == [0] * (len(value) - 1) + [1]
            index = int(np.argmax(value)) if is_one_hot else None
        if type(index) is not int or not 0 <= index < num_actions:
            remedy = f"{_REMEDY}, remove the session, or give all actions names, --action-names A,B,…"
            raise UserError(f"'{self._actions_fpath}': action {shortened(value)} is not one of {num_actions}: {remedy}")
        return index

    def _read_image(self, number: int) -> np.ndarray:
        for suffix in (".jpg", ".jpeg", ".png"):
            try:
                return read_image(self.path / "frames" / f"{number:06d}{suffix}")
            except FileNotFoundError:
                pass
        missing = self.path / "frames" / f"{number:06d}.jpg"
        raise UserError(f"'{missing}' is missing: restore it or remove the session")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not (isinstance(value, int) and abs(value) > 1 << 53)


def numbered(dpath: Path) -> list[tuple[int, Path]]:
    """The folders in a folder that are named by a number, in order."""
    folders = (path for path in dpath.iterdir() if re.fullmatch("[0-9]{1,17}", path.name) and path.is_dir())
    return sorted((int(path.name), path) for path in folders)


def original_sessions(env_dpath: Path) -> tuple[list[OriginalSession], list[Path]]:
    """The sessions of an original environment's folder, and the folders of sessions that have no actions."""
    sessions, without = [], []
    for instance, instance_dpath in numbered(env_dpath):
        for session, dpath in numbered(instance_dpath):
            if os.path.lexists(dpath / "actions.json"):
                sessions.append(OriginalSession(dpath, instance, session))
            else:
                without.append(dpath)
    return sessions, without


def original_info(env_dpath: Path, first: OriginalSession, options: ImportOptions) -> DatasetInfo:
    """What an original's info.json and its first session say; the shape of the frames is still unknown."""
    path = env_dpath / INFO_FNAME
    try:
        content = read_json(path, _REMEDY) if os.path.lexists(path) else {"info": {}}
        if not isinstance(content, dict) or "info" not in content:
            raise ValueError("it has no 'info'")
        source, connector = _known(_OriginalInfo, content), _known(_OriginalConnector, content["info"])
        stated = [] if options.without_actions else options.action_names
        names = _names(connector, first.one_hot_size) if stated is None else stated
        if stated and len(stated) < first.one_hot_size:
            problem = f"names {len(stated)} of {first.one_hot_size} actions"
            raise FieldError("--action-names", ",".join(stated), problem, "name them all")
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"'{path}' cannot be used ({error}): {_REMEDY}") from None
    name = source.name or env_dpath.resolve().name
    return DatasetInfo(
        name=name,
        game=connector.game or name,
        action_names=names,
        frame_shape=(3, 1, 1),
        connector=connector.config,
        generator={"imported": True, **source.generator_config},
        versions={"original": source.version},
    )


def _known(cls: type[Any], values: Any) -> Any:
    if not isinstance(values, dict):
        raise ValueError(f"{shortened(values)} is not a mapping")
    return from_mapping(cls, {key: value for key, value in values.items() if key in cls.__dataclass_fields__})


def _names(connector: _OriginalConnector, num_actions: int) -> list[str]:
    combos = connector.action_captions or connector.config.get("valid_action_combos", [])
    names = []
    if not isinstance(combos, list):
        raise ValueError(f"'valid_action_combos' is {shortened(combos)}, not a list")
    for combo in combos:
        parts = combo if isinstance(combo, list) else [combo]
        if not parts or not all(isinstance(part, str) and part.isprintable() and part for part in parts):
            raise ValueError(f"{shortened(combo)} is not the name of an action")
        names.append("+".join(parts))
    if len(names) >= num_actions > 0 or (names and not num_actions):
        return names
    if not num_actions:
        raise UserError("the actions are not one-hot and info.json has no names for them: give --action-names A,B,…")
    return [f"ACTION_{i}" for i in range(num_actions)]
