"""The index of an environment folder: what a training start needs of all its episodes, in one file.

A cache and never the truth: it is taken only for files whose name, size and modification time are those that it saw,
and a reader that opens an episode by it compares the file's header with the one in the index.
"""

import logging
import os
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data_generation.data.episode import EpisodeReader, episode_path
from data_generation.data.errors import UserError
from data_generation.data.files import write_atomically
from data_generation.data.layout import EPISODE_SUFFIX, HEADER_SIZE, EpisodeError, pack_columns, unpack_columns

logger = logging.getLogger(__name__)

INDEX_FNAME = "index.bin"
INDEX_VERSION = 1
_MAGIC = b"GXI1"
# A file written this shortly before the index may have changed again within the clock's resolution: its header is
# compared.
_RACY_NS = 2_000_000_000
_PROGRESS_FROM = 500

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


def scan(env_dpath: Path) -> list[Key]:
    """All episode files of an environment folder, sorted by instance and session; no file is opened."""
    keys: list[Key] = []
    for folder in os.scandir(env_dpath):
        if not re.fullmatch(r"\d{6,}", folder.name) or not folder.is_dir():
            continue
        for file in os.scandir(folder.path):
            if file.name.startswith(".") or not file.name.endswith(EPISODE_SUFFIX):
                continue
            session = file.name.removesuffix(EPISODE_SUFFIX)
            if not re.fullmatch(r"\d{6,}", session):
                raise UserError(f"'{file.path}' is not named <session, 6 digits>{EPISODE_SUFFIX}: rename or remove it")
            status = file.stat()
            keys.append((int(folder.name), int(session), status.st_size, status.st_mtime_ns))
    return sorted(keys)


def load_entries(env_dpath: Path) -> tuple[list[Entry], int]:
    """Entries of the stored index and its modification time; none where there is no index or it is unreadable."""
    path = env_dpath / INDEX_FNAME
    try:
        data = path.read_bytes()
        if data[:4] != _MAGIC or zlib.crc32(data[8:]) != int.from_bytes(data[4:8], "little"):
            raise ValueError("checksum")
        attributes, columns = unpack_columns(data[8:])
        if attributes != {"version": INDEX_VERSION}:
            raise ValueError(f"version {attributes}")
        return list(_split(columns)), path.stat().st_mtime_ns
    except FileNotFoundError:
        return [], 0
    except (ValueError, KeyError, OSError) as error:
        logger.warning("'%s' is unreadable (%s) and is built again", path, error)
        return [], 0


def _split(columns: dict[str, np.ndarray]) -> Iterator[Entry]:
    chunk_ends, action_ends = columns["num_chunks"].cumsum(), columns["num_actions"].cumsum()
    chunks = list(zip([0, *chunk_ends[:-1].tolist()], chunk_ends.tolist(), strict=True)) if len(chunk_ends) else []
    actions = list(zip([0, *action_ends[:-1].tolist()], action_ends.tolist(), strict=True)) if len(action_ends) else []
    sizes, crcs, all_actions = columns["chunk_sizes"], columns["chunk_crcs"], columns["actions"]
    keys, headers, rewards = columns["keys"].tolist(), columns["headers"], columns["reward_sums"].tolist()
    for i, key in enumerate(keys):
        chunk, action = slice(*chunks[i]), slice(*actions[i])
        yield Entry(
            (key[0], key[1], key[2], key[3]),
            headers[i].tobytes(),
            sizes[chunk],
            crcs[chunk],
            all_actions[action],
            rewards[i],
        )


def save_entries(env_dpath: Path, entries: list[Entry]) -> None:
    """Store the index. A read-only dataset folder keeps working without one."""

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
    }
    packed = pack_columns({"version": INDEX_VERSION}, columns)
    try:
        write_atomically(env_dpath / INDEX_FNAME, _MAGIC + zlib.crc32(packed).to_bytes(4, "little") + packed)
    except OSError as error:
        logger.info("the index of '%s' stays in memory only (%s)", env_dpath, error.strerror)


def read_entry(env_dpath: Path, key: Key) -> Entry:
    """The entry of one episode file, from the file."""
    with EpisodeReader(episode_path(env_dpath, key[0], key[1])) as episode:
        sizes = np.diff(episode.table.offsets)
        rewards = float(episode.rewards.sum(dtype=np.float64))
        return Entry(key, episode.header_bytes, sizes, episode.table.crcs, episode.actions, rewards)


def read_header(path: Path) -> bytes:
    """The first bytes of a file."""
    with open(path, "rb", buffering=0) as file:
        return file.read(HEADER_SIZE)


def current_entries(env_dpath: Path) -> tuple[list[Entry], list[EpisodeError]]:
    """Entries of all good episodes in order, and the errors of the bad ones. Renews a stale stored index."""
    keys = scan(env_dpath)
    stored, stored_ns = load_entries(env_dpath)
    known = {entry.key: entry for entry in stored}
    entries, errors, num_read = [], [], 0
    quiet = len(keys) - len(known) < _PROGRESS_FROM
    for key in tqdm(keys, f"index {env_dpath.name}", unit="episode", disable=quiet):
        entry = known.get(key)
        try:
            if entry is not None and key[3] > stored_ns - _RACY_NS:
                entry = entry if read_header(episode_path(env_dpath, key[0], key[1])) == entry.header else None
            if entry is None:
                entry = read_entry(env_dpath, key)
                num_read += 1
        except FileNotFoundError:
            logger.info("an episode of '%s' was removed while it was opened", env_dpath)
        except EpisodeError as error:
            errors.append(error)
        else:
            entries.append(entry)
    if num_read or len(entries) != len(stored):
        save_entries(env_dpath, entries)
    return entries, errors
