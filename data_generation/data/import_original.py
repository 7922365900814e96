"""Import of datasets in the layout of the original GenieRedux.

`<environment>/info.json`, and per session `<instance>/<session>/actions.json` with `frames/000123.jpg` (or png) per
frame or one `frames.mp4`. Entry i of the actions is `{"src_id": i - 1, "tgt_id": i, "action": one-hot, "extras":
{...}}`: the action that led *to* frame i. The first entry's action comes from a frame that was not stored, so it is
dropped.
"""

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from data_generation.data.episode import EpisodeMeta, EpisodeReader, EpisodeWriter, episode_path
from data_generation.data.errors import UserError
from data_generation.data.info import INFO_FNAME, DatasetInfo, MissingDatasetError
from data_generation.data.layout import BadEpisodeError

logger = logging.getLogger(__name__)

_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclass
class Imported:
    """Counts of one import."""

    made: int = 0
    kept: int = 0
    bad: int = 0


@dataclass
class _OriginalSession:
    dpath: Path
    instance: int
    session: int


def import_original(
    source_dpath: Path, target_dpath: Path, action_names: list[str] | None = None, on_bad_episode: str = "error"
) -> Imported:
    """Convert an original dataset or environment folder into environments below `target_dpath`; resumable.

    `action_names` overrides the names found in the source's info.json. `UserError` names the bad file.
    """
    result = Imported()
    for env_dpath in _environments(source_dpath):
        sessions = list(_sessions(env_dpath))
        if not sessions:
            raise UserError(f"'{env_dpath}' has no <instance>/<session>/actions.json: not an original dataset")
        info = _info(env_dpath, sessions[0], action_names)
        out_dpath = target_dpath / env_dpath.name
        _check_target(out_dpath, info)
        info.save(out_dpath)
        for session in tqdm(sessions, f"import {env_dpath.name}", unit="episode"):
            path = episode_path(out_dpath, session.instance, session.session)
            if path.exists():
                result.kept += 1
                continue
            try:
                _import_session(session, path, info)
                result.made += 1
            except UserError as error:
                if on_bad_episode == "error":
                    raise BadEpisodeError.of(error) from None
                result.bad += 1
                logger.warning("skipped: %s", error)
    return result


def _environments(source_dpath: Path) -> list[Path]:
    if not source_dpath.is_dir():
        raise MissingDatasetError(f"'{source_dpath}' is not a folder: give an original dataset or environment folder")
    if _numbered(source_dpath):
        return [source_dpath]
    found = [path for path in sorted(source_dpath.iterdir()) if path.is_dir() and _numbered(path)]
    if not found:
        raise UserError(f"'{source_dpath}' has no folders <instance>/<session>: not an original dataset")
    return found


def _numbered(dpath: Path) -> list[Path]:
    return sorted(
        (path for path in dpath.iterdir() if path.name.isdigit() and path.is_dir()), key=lambda p: int(p.name)
    )


def _sessions(env_dpath: Path) -> Iterator[_OriginalSession]:
    for instance in _numbered(env_dpath):
        for session in _numbered(instance):
            if (session / "actions.json").is_file():
                yield _OriginalSession(session, int(instance.name), int(session.name))
            else:
                logger.warning("'%s' has no actions.json (an unfinished session): not imported", session)


def _info(env_dpath: Path, first: _OriginalSession, action_names: list[str] | None) -> DatasetInfo:
    original: dict[str, Any] = {}
    if (env_dpath / INFO_FNAME).is_file():
        original = _read_json(env_dpath / INFO_FNAME)
    connector = original.get("info") or {}
    entries = _entries(first)
    names = action_names or _names(
        connector, len(entries[0]["action"]) if isinstance(entries[0]["action"], list) else 0
    )
    frame = next(_frames(first, entries))
    return DatasetInfo(
        name=str(original.get("name", env_dpath.name)),
        game=str(connector.get("game", original.get("name", env_dpath.name))),
        action_names=names,
        frame_shape=(frame.shape[2], frame.shape[0], frame.shape[1]),
        connector=dict(connector.get("config") or {}),
        generator={"imported": True, **(original.get("generator_config") or {})},
        versions={"original": str(original.get("version", "unknown"))},
    )


def _names(connector: Mapping[str, Any], num_actions: int) -> list[str]:
    config = connector.get("config") or {}
    combos = connector.get("action_captions") or config.get("valid_action_combos") or []
    names = ["+".join(combo) if isinstance(combo, list) else str(combo) for combo in combos]
    if len(names) >= num_actions > 0 or (names and not num_actions):
        return names
    if not num_actions:
        raise UserError("the actions are not one-hot and info.json has no names for them: give --action-names A,B,…")
    return [f"ACTION_{i}" for i in range(num_actions)]


def _check_target(out_dpath: Path, info: DatasetInfo) -> None:
    if not (out_dpath / INFO_FNAME).is_file():
        return
    present = DatasetInfo.load(out_dpath)
    for fact in ("action_names", "frame_shape"):
        mine, theirs = getattr(info, fact), getattr(present, fact)
        if mine != theirs:
            raise UserError(f"'{out_dpath}' exists with {fact} {theirs}, not {mine}: import into another folder")


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(f"'{path}' is not valid JSON ({error}): restore or remove it") from None


def _entries(session: _OriginalSession) -> list[dict[str, Any]]:
    path = session.dpath / "actions.json"
    content = _read_json(path)
    entries = content.get("actions") if isinstance(content, dict) else None
    if not entries or any("tgt_id" not in entry or "action" not in entry for entry in entries):
        raise UserError(f"'{path}' has no list 'actions' of tgt_id and action: restore or remove the session")
    for before, entry in pairwise(entries):
        if entry.get("src_id", before["tgt_id"]) != before["tgt_id"]:
            raise UserError(
                f"'{path}': step to {entry['tgt_id']} does not start at {before['tgt_id']}: remove the session"
            )
    return entries


def _frames(session: _OriginalSession, entries: list[dict[str, Any]]) -> Iterator[np.ndarray]:
    """Frames (H, W, 3) uint8 in the order of the entries."""
    video = session.dpath / "frames.mp4"
    if not video.is_file():
        for entry in entries:
            yield _read_image(session.dpath / "frames", int(entry["tgt_id"]))
        return
    import av  # only this import needs it

    count = 0
    try:
        with av.open(str(video)) as container:
            for image in container.decode(video=0):
                yield image.to_ndarray(format="rgb24")
                count += 1
    except av.FFmpegError as error:
        raise UserError(f"'{video}' is damaged ({error}): remove the session") from None
    if count != len(entries):
        raise UserError(f"'{video}' has {count} frames for {len(entries)} actions: remove the session")


def _read_image(dpath: Path, frame: int) -> np.ndarray:
    import cv2

    for suffix in _IMAGE_SUFFIXES:
        path = dpath / f"{frame:06d}{suffix}"
        if path.is_file():
            image = cv2.imread(str(path), cv2.IMREAD_COLOR)
            if image is None:
                raise UserError(f"'{path}' is not a readable image: restore it or remove the session")
            return image[:, :, ::-1]
    raise UserError(f"'{dpath / f'{frame:06d}.jpg'}' is missing: restore it or remove the session")


def _action(session: _OriginalSession, value: Any, num_actions: int) -> int:
    index = value
    if isinstance(value, list):
        index = int(np.argmax(value)) if sorted(value) == [0] * (len(value) - 1) + [1] else None
    if not isinstance(index, int) or not 0 <= index < num_actions:
        raise UserError(
            f"'{session.dpath / 'actions.json'}': action {value} is not one of {num_actions}: remove the session"
        )
    return index


def _import_session(session: _OriginalSession, path: Path, info: DatasetInfo) -> None:
    entries = _entries(session)
    meta = EpisodeMeta(0, session.instance, session.session, "imported", {}, info.game, info.versions)
    frames = _frames(session, entries)
    with EpisodeWriter(path, meta, info.frame_shape) as writer:
        writer.start(next(frames).transpose(2, 0, 1))
        for position, (entry, frame) in enumerate(zip(entries[1:], frames, strict=False), 2):
            extras = {key: value for key, value in (entry.get("extras") or {}).items() if _is_number(value)}
            action = _action(session, entry["action"], len(info.action_names))
            # The original did not record how an episode ended: its end is the end of the recording.
            truncated = position == len(entries)
            writer.step(action, float(extras.pop("reward", 0.0)), False, truncated, extras, frame.transpose(2, 0, 1))
        for _ in frames:
            pass  # a video with too many frames says so at its end
        writer.commit()
    with EpisodeReader(path) as episode:
        assert episode.num_frames == len(entries)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)
