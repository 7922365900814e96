"""`info.json`: what all episodes of one environment folder share."""

import json
import os
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from data_generation.data.errors import UserError
from data_generation.data.files import write_atomically
from data_generation.data.layout import FORMAT_VERSION, shape_problem
from data_generation.data.reading import from_mapping, read_json, shortened

INFO_FNAME = "info.json"
MAX_FPS = 1000.0
# What all environments of a dataset must have in common, and what an empty value means.
_COMMON = {"action_names": "no actions", "frame_shape": "", "roi_table": "whole frames"}
# Of `generator`: how many episodes were asked for, which may grow.
SIZES = ("n_instances", "n_sessions")
CHECKPOINT, ROI_TABLE = "agent.checkpoint_fpath", "roi_annotation_fpath"
# Of `generator`: a setting that older datasets do not name for policies of the user's own.
REPEAT_PROBABILITY = "agent.repeat_probability"
# Of `generator` and `connector`: a file -> the digest of what it holds, which older datasets do not name.
DIGESTS = {CHECKPOINT: "agent.checkpoint_digest", ROI_TABLE: "roi_annotation_digest"}
# Of `connector`: a file of a retro game -> the digest of what it holds, which older datasets do not name.
GAME_FILES = "game_files"


class MissingDatasetError(UserError, FileNotFoundError):
    """A dataset or environment folder that does not exist or is none."""


@dataclass
class DatasetInfo:
    """One environment of a dataset. `frame_shape` is (C, H, W); `connector` and `generator` are configurations.

    `fps`: frames per second of the recorded frames, at the speed at which people play; None where nobody knows it.
    """

    name: str
    game: str
    action_names: list[str]
    frame_shape: tuple[int, int, int]
    connector: dict[str, Any] = field(default_factory=dict)
    generator: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION
    fps: float | None = None

    @property
    def roi_table(self) -> str:
        """The ROI table around whose characters the frames were cropped; "" = whole frames."""
        return str(self.connector.get(ROI_TABLE) or "")

    @property
    def num_actions(self) -> int:
        """How many different actions its episodes may hold: one, without a meaning, where none were recorded."""
        return max(1, len(self.action_names))

    @property
    def frame_rate(self) -> float:
        """Frames per second to show the frames at. Without `fps`: an emulator's 60, one frame in four or as skipped."""
        return self.fps or max(1, round(60 / (self.connector.get("n_skip_frames") or 4)))

    def save(self, env_dpath: Path | str) -> Path:
        """Write `<env_dpath>/info.json`. `UserError` for what could not be read again."""
        path = Path(env_dpath) / INFO_FNAME
        if problem := self._contradiction():
            raise UserError(f"'{path}' cannot be written ({problem}): correct what it is made of")
        values = asdict(self)
        if self.fps is None:
            del values["fps"]
        write_atomically(path, json.dumps(values, indent=2) + "\n", durable=True)
        return path

    @classmethod
    def load(cls, env_dpath: Path | str) -> "DatasetInfo":
        """Read `<env_dpath>/info.json`. `MissingDatasetError` where there is none, `UserError` where it is unusable."""
        path = Path(env_dpath) / INFO_FNAME
        remedy = "generate the dataset again"
        try:
            values = read_json(path, remedy)
        except FileNotFoundError:
            message = (
                f"'{env_dpath}' has no {INFO_FNAME}: it is not an environment folder; generate it again, or write one "
                "with DatasetInfo.save"
            )
            raise MissingDatasetError(message) from None
        version = values.get("format_version") if isinstance(values, dict) else None
        if version != FORMAT_VERSION or isinstance(version, bool):
            other = "import it with 'python run.py data import', or generate it again"
            raise UserError(f"'{path}' has format_version {shortened(version)}, not {FORMAT_VERSION}: {other}")
        known = {item.name for item in fields(cls)}
        try:
            info = from_mapping(cls, {key: value for key, value in values.items() if key in known})
            if problem := info._contradiction():
                raise ValueError(problem)
        except ValueError as error:
            raise UserError(f"'{path}' cannot be used ({error}): {remedy}") from None
        return info

    def _contradiction(self) -> str:
        """What of the values cannot be; empty = nothing."""
        if bad := [name for name in (self.name, self.game, *self.action_names) if not (name and name.isprintable())]:
            return f"{shortened(bad[0])} is not a name"
        if self.fps is not None and not 0 < self.fps <= MAX_FPS:
            return f"'fps' is {self.fps}, not in (0, {MAX_FPS}]"
        if not (skip := self.connector.get("n_skip_frames")) or (type(skip) is int and skip > 0):
            return shape_problem(self.frame_shape, 1)
        return f"'connector.n_skip_frames' is {shortened(skip)}, not a number of frames"


def disagreement(info: DatasetInfo, first: DatasetInfo) -> str:
    """Why an environment cannot be in one dataset with another: "has <what>, not <what the other has>"; "" = it can."""
    for name, empty in _COMMON.items():
        own, other = (getattr(found, name) for found in (info, first))
        if own != other:
            return f"has {name} {own or empty}, not {other or empty}"
    return ""


def larger_sizes(one: dict[str, Any], other: dict[str, Any]) -> dict[str, int]:
    """The sizes of a dataset that has grown, by the `generator` of two infos."""
    return {key: max(one[key], other.get(key, 0)) for key in SIZES if key in one}


def differences(one: dict[str, Any], other: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Name → both values, where two `connector` or `generator` of infos differ, so that their episodes look otherwise.

    Files are compared by their content where both name it, else by name; a checkpoint may lie anywhere. What only one
    names, although both may have it, is not compared.
    """
    # As they look after passing through a file.
    one, other = json.loads(json.dumps((one, other)))
    for name, digest_name in DIGESTS.items():
        digests = one.pop(digest_name, None), other.pop(digest_name, None)
        if name not in one or name not in other:
            continue
        if None not in digests and digests[0] != digests[1]:
            one[name], other[name] = (
                f"{values[name]} (content {digest})" for values, digest in zip((one, other), digests, strict=True)
            )
        elif name == CHECKPOINT and (None not in digests or _same_path(one[name], other[name])):
            del one[name], other[name]
    if not all(isinstance(values.get(GAME_FILES), dict) for values in (one, other)):
        one.pop(GAME_FILES, None)
        other.pop(GAME_FILES, None)
    if not (REPEAT_PROBABILITY in one and REPEAT_PROBABILITY in other):
        one.pop(REPEAT_PROBABILITY, None)
        other.pop(REPEAT_PROBABILITY, None)
    return {name: (one.get(name), other.get(name)) for name in {**one, **other} if one.get(name) != other.get(name)}


def changed_files(one: dict[str, str], other: dict[str, str]) -> str:
    """Of two `GAME_FILES`: the names of those that differ."""
    return ", ".join(name for name in {**one, **other} if one.get(name) != other.get(name))


def other_files(found: DatasetInfo, info: DatasetInfo) -> str:
    """Which files of the game, and boxes in it, are other ones than those `found`; "" for nothing.

    As far as both infos name what these hold.
    """
    old, new = found.connector, info.connector
    names = []
    if isinstance(old.get(GAME_FILES), dict) and isinstance(new.get(GAME_FILES), dict):
        names.append(changed_files(old[GAME_FILES], new[GAME_FILES]))
    boxes = [connector.get(DIGESTS[ROI_TABLE]) for connector in (old, new)]
    if None not in boxes and boxes[0] != boxes[1]:
        names.append(f"boxes in {info.roi_table}")
    return ", ".join(filter(None, names))


def _same_path(one: str | None, other: str | None) -> bool:
    return one is not None and other is not None and os.path.abspath(one) == os.path.abspath(other)
