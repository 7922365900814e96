"""The same windows with cached token ids, for dynamics training on large sets.

The ids of a clip depend on all frames before them in the clip (the encoder is causal in time and embeds a clip's first
frame in a way of its own), so they are stored per window, not per frame: a window's ids are those that the model would
have computed for it. They are stored as they are first computed, in any order, by any number of processes.

Layout: `<cache>/<source>/<xx>/<episode>.ids`. `<source>` hashes what the ids depend on besides the episode (tokenizer,
arithmetic, windows), `<episode>` is the episode's fingerprint, so another tokenizer or a regenerated episode never
meets old ids. A file has a record per window: 4 bytes mark, CRC32, ids. Records are written in place, not by renaming
whole files: their checksums, seeded with the names, tell whatever a killed writer left half done or never wrote.
"""

import hashlib
import json
import logging
import os
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.data import WindowDataset, Windows, frames_first
from data_generation.data.files import write_atomically

logger = logging.getLogger(__name__)

_LAYOUT_VERSION = 1
_MARK = b"GXT1"
_HEAD_SIZE = 8  # mark and checksum


@dataclass(frozen=True)
class IdSource:
    """What the ids of a window depend on besides its episode. Equal sources give equal ids."""

    tokenizer: str  # fingerprint of its weights and configuration
    arithmetic: str  # device and precision, which decide ties between codes: "cpu float32"
    codebook_size: int
    grid: tuple[int, int]  # (h, w) tokens of a frame
    num_frames: int
    seq_step: int

    @property
    def folder_name(self) -> str:
        text = json.dumps({"layout": _LAYOUT_VERSION, **asdict(self)}, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


@dataclass(frozen=True)
class Place:
    """Where a window's ids are stored: the episode's fingerprint and the number of the window in it."""

    episode: str
    slot: int


@dataclass
class Room:
    """Bytes that this process may still add to a cache folder, over all its stores."""

    left: float = float("inf")


class IdStore:
    """Token ids by window, shared by all processes that name the same folder. Nothing is kept open."""

    def __init__(self, cache_dpath: Path | str, source: IdSource, room: Room | None = None) -> None:
        """`room`: None = no limit. ValueError where the folder cannot be written."""
        self.folder = Path(cache_dpath) / source.folder_name
        self._shape = (source.num_frames, *source.grid)
        self._dtype = np.dtype("<u2" if source.codebook_size <= 1 << 16 else "<u4")
        self.record_size = _HEAD_SIZE + int(np.prod(self._shape)) * self._dtype.itemsize
        self._room, self._writing = room or Room(), True
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            # Says to people what the folder holds, and shows here and not in mid-training that it can be written.
            write_atomically(self.folder / "source.json", json.dumps(asdict(source), indent=2) + "\n")
        except OSError as error:
            raise ValueError(
                f"train.cache_dpath='{cache_dpath}' cannot be written ({error.strerror}): "
                "name a folder that can, or set train.enable_cache=false"
            ) from None

    @property
    def clip_shape(self) -> tuple[int, int, int]:
        """(T, h, w) of a window's ids."""
        return self._shape

    def read(self, place: Place, ids: np.ndarray) -> bool:
        """Fill ids (T, h, w); False, and nothing filled, where they are not stored whole."""
        try:
            fd = os.open(self._path(place), os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        except OSError:
            return False
        try:
            record = os.pread(fd, self.record_size, place.slot * self.record_size)
        except OSError:
            return False
        finally:
            os.close(fd)
        payload = record[_HEAD_SIZE:]
        if len(record) < self.record_size or record[:_HEAD_SIZE] != _head(place, payload):
            return False
        ids[:] = np.frombuffer(payload, self._dtype).reshape(self._shape)
        return True

    def write(self, place: Place, ids: np.ndarray) -> None:
        """Store ids (T, h, w). Where that fails or would exceed the room, says so once and stores nothing more:
        training goes on without."""
        if not self._writing:
            return
        if self._room.left < self.record_size:
            self._stop(f"it has reached train.cache_max_gb, with {self.record_size} bytes per window")
            return
        payload = ids.astype(self._dtype).tobytes()
        try:
            self._write(place, _head(place, payload) + payload)
        except OSError as error:
            self._stop(f"writing failed ({error.strerror})")

    def _write(self, place: Place, record: bytes) -> None:
        path, flags = self._path(place), os.O_WRONLY | os.O_CREAT | getattr(os, "O_CLOEXEC", 0)
        try:
            fd = os.open(path, flags, 0o666)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            fd = os.open(path, flags, 0o666)
        try:
            os.pwrite(fd, record, place.slot * self.record_size)
        finally:
            os.close(fd)
        self._room.left -= self.record_size

    def _stop(self, reason: str) -> None:
        self._writing = False
        logger.warning("no more token ids are stored in '%s': %s; what is stored stays in use", self.folder, reason)

    def _path(self, place: Place) -> str:
        # A string: joining Path objects costs as much as the reading.
        return f"{self.folder}/{place.episode[:2]}/{place.episode}.ids"


def _head(place: Place, payload: bytes) -> bytes:
    seed = zlib.crc32(f"{place.episode} {place.slot}".encode())
    return _MARK + zlib.crc32(payload, seed).to_bytes(4, "little")


def used_bytes(cache_dpath: Path | str) -> int:
    """Bytes that all files below a cache folder take on the disk; 0 where there is none."""
    return sum(status.st_blocks * 512 for status in _files(str(cache_dpath)))


def _files(folder: str) -> Iterator[os.stat_result]:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    yield from _files(entry.path)
                else:
                    yield entry.stat(follow_symlinks=False)
    except OSError:
        return  # never there or removed just now; whatever else is wrong, opening a store will say


@dataclass
class CachedBatch:
    """Clips with their token ids (B, T, h, w) int64, where they are stored; actions (B, T-1), env (B,).

    `missing` lists the clips without ids (zeros there), `places` where theirs belong (None: nowhere). `frames`
    (B or M, T, C, H, W) uint8 are of all clips, or of the M missing ones.
    """

    frames: Tensor
    ids: Tensor
    missing: list[int]
    places: list[Place | None]
    actions: Tensor
    env: Tensor

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "CachedBatch":
        """The batch on `device`."""
        frames, ids, actions, env = (
            tensor.to(device, non_blocking=non_blocking) for tensor in (self.frames, self.ids, self.actions, self.env)
        )
        return CachedBatch(frames, ids, self.missing, self.places, actions, env)

    def pin_memory(self) -> "CachedBatch":
        """The batch in page-locked memory."""
        frames, ids, actions, env = (tensor.pin_memory() for tensor in (self.frames, self.ids, self.actions, self.env))
        return CachedBatch(frames, ids, self.missing, self.places, actions, env)

    def missing_frames(self) -> Tensor:
        """Frames (M, T, C, H, W) of the clips without ids."""
        return self.frames[self.missing] if len(self.frames) == len(self) else self.frames

    def __len__(self) -> int:
        return len(self.ids)


class CachedWindowDataset(Windows):
    """The windows of a `WindowDataset`, in the same order, with the ids that a store has of them.

    Frames are read (and decompressed) only of clips without ids, or of all with `all_frames`.
    """

    def __init__(self, windows: WindowDataset, store: IdStore, all_frames: bool) -> None:
        if store.clip_shape[0] != windows.num_frames:
            raise ValueError(f"a store of {store.clip_shape[0]} frames per window, windows of {windows.num_frames}")
        self.windows, self.store, self._all_frames = windows, store, all_frames
        self.num_windows = windows.num_windows
        self._fingerprints: dict[int, str] = {}

    def __getitem__(self, index: int) -> CachedBatch:
        """The batch of one window."""
        if not 0 <= index < len(self):
            raise IndexError(f"window {index} of {len(self)}")
        return self.read([index])

    def read(self, indices: list[int]) -> CachedBatch:
        """The batch of these windows."""
        rows, starts = self.windows.locate(indices)
        clips = list(zip(rows.tolist(), starts.tolist(), strict=True))
        ids = np.zeros((len(clips), *self.store.clip_shape), np.int64)
        places = [self._place(row, start) for row, start in clips]
        known = [self.store.read(place, ids[i]) for i, place in enumerate(places)]
        with_frames = [i for i in range(len(clips)) if self._all_frames or not known[i]]
        frames, _ = self.windows.empty_clips(len(with_frames))
        actions = np.empty((len(clips), self.windows.num_frames - 1), np.int64)
        for i, (row, start) in enumerate(clips):
            self.windows.read_actions(row, start, actions[i])
        # Another clip may stand in for a damaged one: stored ids are not its own, nor are its ids to be stored.
        replaced = {
            i
            for out, i in zip(frames, with_frames, strict=True)
            if not self.windows.read_clip(*clips[i], out, actions[i])
        }
        missing = [i for i in range(len(clips)) if not known[i] or i in replaced]
        return CachedBatch(
            frames_first(frames),
            torch.from_numpy(ids),
            missing,
            [None if i in replaced else places[i] for i in missing],
            torch.from_numpy(actions),
            torch.from_numpy(self.windows.environment_of(rows)),
        )

    def _place(self, row: int, start: int) -> Place:
        if row not in self._fingerprints:
            self._fingerprints[row] = self.windows.fingerprint(row)
        return Place(self._fingerprints[row], start // self.windows.seq_step)
