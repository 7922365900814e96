"""The index of an environment folder: what a training start needs of all its episodes, in one file.

A cache and never the truth: it is taken only for files whose name, size and modification time are those that it saw,
and a reader that opens an episode by it compares the file's header with the one in the index. Files are not looked at,
which takes long on a network disk, where the folders are as the index saw them: a file that is added, removed or
replaced changes its folder's time.

It is held in columns, as it is stored: a dataset may have a million episodes.
"""

import logging
import os
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data_generation.data.episode import EpisodeReader, episode_path
from data_generation.data.errors import UserError
from data_generation.data.files import write_atomically
from data_generation.data.info import DatasetInfo
from data_generation.data.layout import (
    EPISODE_SUFFIX,
    HEADER_DTYPE,
    HEADER_SIZE,
    EpisodeError,
    check_columns,
    episode_error,
    pack_columns,
    unpack_columns,
)
from data_generation.data.reading import UnreadableFileError, opened, read_file, shortened

logger = logging.getLogger(__name__)

INDEX_FNAME = "index.bin"
INDEX_VERSION = 1
_MAGIC = b"GXI1"
# A file written this shortly before the index may have changed again within the clock's resolution: its header is
# compared.
_RACY_NS = 2_000_000_000
_PROGRESS_FROM = 500
# Of an index that is read before anything is known of the episodes; a larger one must fit them.
_MAX_BYTES = 1 << 32
_NO_FOLDERS = np.empty((0, 2), "<i8")

Key = tuple[int, int, int, int]  # instance, session, size in bytes, modification time in ns


@dataclass
class Entry:
    """What the index knows of one episode."""

    key: Key
    header: bytes
    chunk_sizes: np.ndarray
    chunk_crcs: np.ndarray
    actions: np.ndarray
    reward_sum: float


class Index:
    """What is known of the n episodes of an environment, in order; `entry(i)` is what is known of one.

    `keys` (n, 4), `reward_sums` (n,) and `num_actions` (n,) are columns over episodes, `actions` those of all episodes
    one after the other. `folders` (m, 2): number and modification time of the folders that held these episodes and no
    bad ones; empty where that is not known.
    """

    def __init__(self, columns: Mapping[str, np.ndarray]) -> None:
        self.columns = columns
        self.keys, self.reward_sums = columns["keys"], columns["reward_sums"]
        self.num_actions, self.actions = columns["num_actions"], columns["actions"]
        self.folders = columns.get("folders", _NO_FOLDERS)
        self._chunk_ends, self._action_ends = columns["num_chunks"].cumsum(), self.num_actions.cumsum()

    @classmethod
    def of(cls, entries: Sequence[Entry], folders: np.ndarray) -> "Index":
        """The index of some entries."""

        def joined(arrays: list[np.ndarray], dtype: str) -> np.ndarray:
            return np.concatenate([np.empty(0, dtype), *arrays]).astype(dtype)

        actions = joined([entry.actions for entry in entries], "<i8")
        narrow = "<i2" if len(actions) == 0 or (actions.min() >= -(1 << 15) and actions.max() < 1 << 15) else "<i8"
        headers = np.frombuffer(b"".join(entry.header for entry in entries), np.uint8)
        columns = {
            "keys": np.array([entry.key for entry in entries], "<i8").reshape(-1, 4),
            "headers": headers.reshape(-1, HEADER_SIZE),
            "num_chunks": np.array([len(entry.chunk_sizes) for entry in entries], "<i8"),
            "num_actions": np.array([len(entry.actions) for entry in entries], "<i8"),
            "reward_sums": np.array([entry.reward_sum for entry in entries], "<f8"),
            "chunk_sizes": joined([entry.chunk_sizes for entry in entries], "<u4"),
            "chunk_crcs": joined([entry.chunk_crcs for entry in entries], "<u4"),
            "actions": actions.astype(narrow),
            "folders": folders,
        }
        return cls(columns)

    def __len__(self) -> int:
        return len(self.keys)

    def entry(self, i: int) -> Entry:
        """The entry of episode `i`; its arrays are views."""
        chunks = slice(int(self._chunk_ends[i] - self.columns["num_chunks"][i]), int(self._chunk_ends[i]))
        instance, session, size, time_ns = self.keys[i].tolist()
        return Entry(
            (instance, session, size, time_ns),
            self.columns["headers"][i].tobytes(),
            self.columns["chunk_sizes"][chunks],
            self.columns["chunk_crcs"][chunks],
            self.actions_of(i),
            float(self.reward_sums[i]),
        )

    def actions_of(self, i: int) -> np.ndarray:
        """Actions (T,) of episode `i`."""
        return self.actions[int(self._action_ends[i] - self.num_actions[i]) : int(self._action_ends[i])]

    def numbers(self) -> dict[Key, int]:
        """Key of each episode → its number."""
        return {(key[0], key[1], key[2], key[3]): number for number, key in enumerate(self.keys.tolist())}


def scan(env_dpath: Path) -> list[Key]:
    """All episode files of an environment folder, sorted by instance and session; no file is opened.

    `UserError` for a folder that cannot be read, and for an episode file of another name.
    """
    keys: list[Key] = []
    try:
        for folder in os.scandir(env_dpath):
            if _number(folder.name) is not None and folder.is_dir():
                keys += _scan_instance(folder)
    except OSError as error:
        raise UserError(f"'{error.filename}' cannot be read ({error.strerror}): check its permissions") from None
    return sorted(keys)


def _scan_instance(folder: "os.DirEntry[str]") -> Iterator[Key]:
    instance = int(folder.name)
    for file in os.scandir(folder.path):
        if file.name.startswith(".") or not file.name.endswith(EPISODE_SUFFIX):
            continue
        session = _number(file.name.removesuffix(EPISODE_SUFFIX))
        if session is None:
            raise UserError(f"'{file.path}' is not named <session, 6 digits>{EPISODE_SUFFIX}: rename or remove it")
        try:
            status = file.stat()
        except OSError:  # whoever reads it says why
            yield instance, session, 0, 0
        else:
            yield instance, session, status.st_size, status.st_mtime_ns


def instance_folders(env_dpath: Path) -> np.ndarray:
    """Number and modification time (m, 2) of the folders of episodes."""
    with os.scandir(env_dpath) as entries:
        folders = [entry for entry in entries if _number(entry.name) is not None and entry.is_dir()]
    times = sorted((int(folder.name), folder.stat().st_mtime_ns) for folder in folders)
    return np.array(times, "<i8").reshape(-1, 2)


def _number(name: str) -> int | None:
    """The number of an instance or session in a name as `episode_path` spells it; None for other names."""
    is_number = name.isdecimal() and name.isascii() and 6 <= len(name) <= 18
    return int(name) if is_number and (len(name) == 6 or name[0] != "0") else None


def load_index(env_dpath: Path, info: DatasetInfo, max_bytes: int) -> tuple[Index, int]:
    """The stored index and its modification time; an empty one where there is none or it cannot be right."""
    path = env_dpath / INDEX_FNAME
    try:
        data = memoryview(read_file(path, max_bytes))
        if data[:4] != _MAGIC or zlib.crc32(data[8:]) != int.from_bytes(data[4:8], "little"):
            raise ValueError("checksum")
        attributes, columns = unpack_columns(data[8:])
        if attributes != {"version": INDEX_VERSION}:
            raise ValueError(f"version {shortened(attributes)}")
        _check_index(columns, info)
        return Index(columns), path.stat().st_mtime_ns
    except FileNotFoundError:
        return Index.of([], _NO_FOLDERS), 0
    except (ValueError, OSError) as error:
        logger.warning("'%s' is unreadable (%s) and is built again", path, error)
        return Index.of([], _NO_FOLDERS), 0


def _check_index(columns: Mapping[str, np.ndarray], info: DatasetInfo) -> None:
    """ValueError unless the columns are those that `save_index` writes, and say nothing that cannot be."""
    num = len(columns.get("headers", ()))
    check_columns(columns, {"num_chunks": ("<i8", (num,)), "num_actions": ("<i8", (num,))})
    if columns["num_chunks"].min(initial=1) < 1 or columns["num_actions"].min(initial=0) < 0:
        raise ValueError("negative numbers")
    # As floats: whatever the numbers are, their sum is not a small one by overflow.
    num_chunks, num_actions = (columns[name].sum(dtype=np.float64) for name in ("num_chunks", "num_actions"))
    expected = {
        "keys": ("<i8", (num, 4)),
        "headers": ("|u1", (num, HEADER_SIZE)),
        "reward_sums": ("<f8", (num,)),
        "chunk_sizes": ("<u4", (num_chunks,)),
        "chunk_crcs": ("<u4", (num_chunks,)),
        "actions": ("<i2 <i8", (num_actions,)),
    }
    # Those of earlier versions have no folders.
    expected |= {"folders": ("<i8", (len(columns["folders"]), 2))} if "folders" in columns else {}
    check_columns(columns, expected)
    if num == 0:
        return
    _check_headers(columns, info)
    if not np.isfinite(columns["reward_sums"]).all():
        raise ValueError("a sum of rewards that is not a finite number")
    if columns["actions"].min(initial=0) < 0 or columns["actions"].max(initial=0) >= info.num_actions:
        raise ValueError("actions that have no name")


def _check_headers(columns: Mapping[str, np.ndarray], info: DatasetInfo) -> None:
    """ValueError unless the other columns are what the headers say. All at once: a dataset may have 100 000."""
    fields = columns["headers"].view(HEADER_DTYPE)[:, 0]
    ends = columns["num_chunks"].cumsum()
    sizes = np.add.reduceat(columns["chunk_sizes"].astype(np.int64), ends - columns["num_chunks"])
    agree = {
        "frames": (fields["frame_shape"] == info.frame_shape).all(axis=1),
        "chunks": fields["num_chunks"] == columns["num_chunks"],
        "actions": fields["num_frames"].astype(np.int64) == columns["num_actions"] + 1,
        "chunk sizes": fields["footer_offset"].astype(np.int64) == sizes + HEADER_SIZE,
        "file sizes": (fields["footer_offset"] + fields["footer_size"]).astype(np.int64) == columns["keys"][:, 2],
        "numbers": (columns["keys"][:, :2] >= 0).all(axis=1),
    }
    for name, right in agree.items():
        if not right.all():
            raise ValueError(f"{name} that do not fit")


def save_index(env_dpath: Path, index: Index) -> None:
    """Store the index. A read-only dataset folder keeps working without one."""
    packed = pack_columns({"version": INDEX_VERSION}, index.columns)
    try:
        write_atomically(env_dpath / INDEX_FNAME, _MAGIC + zlib.crc32(packed).to_bytes(4, "little") + packed)
    except (OSError, UserError) as error:
        logger.info("the index of '%s' stays in memory only (%s)", env_dpath, error)


def read_entry(env_dpath: Path, key: Key, info: DatasetInfo) -> Entry:
    """The entry of one episode file, from the file. `EpisodeError` for a bad one, or one that does not fit `info`."""
    with EpisodeReader(episode_path(env_dpath, key[0], key[1])) as episode:
        if problem := misfit(episode, info):
            raise episode_error(episode.path, f"{problem} by info.json")
        sizes = np.diff(episode.table.offsets)
        rewards = float(episode.rewards.sum(dtype=np.float64))
        return Entry(key, episode.header_bytes, sizes, episode.table.crcs, episode.actions, rewards)


def misfit(episode: EpisodeReader, info: DatasetInfo) -> str:
    """What of an episode contradicts its environment's info; empty = nothing."""
    if episode.frame_shape != info.frame_shape:
        return f"has frames {episode.frame_shape}, not {info.frame_shape} as"
    low, high = episode.actions.min(initial=0), episode.actions.max(initial=0)
    return f"has actions {low} to {high}, but {info.num_actions} are named" if high >= info.num_actions else ""


def _has_header(path: Path, header: bytes) -> bool:
    try:
        with opened(path) as fd:
            return os.pread(fd, HEADER_SIZE, 0) == header
    except UnreadableFileError:
        return False


def current_index(env_dpath: Path, info: DatasetInfo) -> tuple[Index, list[EpisodeError]]:
    """The index of all good episodes, and the errors of the bad ones. Renews a stale stored index."""
    try:
        folders, path = instance_folders(env_dpath), env_dpath / INDEX_FNAME
        is_large = path.is_file() and path.stat().st_size > _MAX_BYTES
    except OSError as error:
        raise UserError(f"'{error.filename}' cannot be read ({error.strerror}): check its permissions") from None
    # A chunk has at least a dozen bytes in its file, and at most 136 in the index, its actions included.
    max_bytes = (1 << 20) + 16 * sum(key[2] for key in scan(env_dpath)) if is_large else _MAX_BYTES
    stored, stored_ns = load_index(env_dpath, info, max_bytes)
    is_as_seen = np.array_equal(folders, stored.folders)
    if is_as_seen and len(stored) and folders[:, 1].max() < stored_ns - _RACY_NS:
        return stored, []
    entries, errors, num_read = _entries(env_dpath, info, stored, stored_ns)
    if errors:
        # Nobody may take the others for all.
        folders = _NO_FOLDERS
    if num_read or len(entries) != len(stored) or not np.array_equal(folders, stored.folders):
        index = Index.of(entries, folders)
        save_index(env_dpath, index)
        return index, errors
    if len(folders) and folders[:, 1].max() < time.time_ns() - 2 * _RACY_NS:
        # Every file was looked at after its time had passed: from now on the folders' times are enough.
        with suppress(OSError):
            os.utime(env_dpath / INDEX_FNAME)
    return stored, errors


def _entries(
    env_dpath: Path, info: DatasetInfo, stored: Index, stored_ns: int
) -> tuple[list[Entry], list[EpisodeError], int]:
    """Entries of all good episodes in order, the errors of the bad ones, and how many files were read for it."""
    keys, numbers = scan(env_dpath), stored.numbers()
    entries, errors, num_read = [], [], 0
    quiet = len(keys) - len(numbers) < _PROGRESS_FROM
    for key in tqdm(keys, f"index {env_dpath.name}", unit="episode", disable=quiet):
        entry = stored.entry(numbers[key]) if key in numbers else None
        try:
            if entry is not None and key[3] > stored_ns - _RACY_NS:
                entry = entry if _has_header(episode_path(env_dpath, key[0], key[1]), entry.header) else None
            if entry is None:
                entry = read_entry(env_dpath, key, info)
                num_read += 1
        except FileNotFoundError:
            logger.info("an episode of '%s' was removed while it was opened", env_dpath)
        except EpisodeError as error:
            errors.append(error)
        else:
            entries.append(entry)
    return entries, errors, num_read
