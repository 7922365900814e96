"""The same clips with cached token ids, for dynamics training on large sets.

Ids are stored when they are first computed, by any number of processes, in records of as many frames as depend on each
other: of one frame where the encoder takes each frame alone, so that all clips with this frame share them; else of a
whole clip, since a causal encoder's ids depend on all frames before them in the clip.

Layout: `<store>/<xx>/<episode>-<frames>-<step>.ids`, where <frames> are those of a record and <step> is from the start
of one to the next: in each record a checksum and the ids. The store's folder is named after all that the ids depend on
except the frames, the file after the episode's fingerprint, so that another tokenizer or a regenerated episode never
meets old ids. Records are written in place; their checksums, which cover the
key, reveal what a killed writer left half done or never wrote. (A memory-mapped array would be shorter by the two
system calls, and would end the process with SIGBUS on a full disk.)
"""

import hashlib
import logging
import math
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from data.data import ClipDataset, frames_first
from data.loader import Batch, BatchDataset
from data_generation.data.reading import UnreadableFileError, opened

logger = logging.getLogger(__name__)

_CHECKSUM_SIZE = 8


class RecordKey(NamedTuple):
    """Where ids are stored: the file (episode and kind of record) and the number of the record in it."""

    file: str
    number: int


class TokenStore:
    """Records of token ids in a folder that any number of processes may share. No file is kept open."""

    def __init__(self, dpath: Path, codebook_size: int, max_bytes: float = float("inf")) -> None:
        """`max_bytes`: what this process may add. OSError where the folder cannot be made."""
        dpath.mkdir(parents=True, exist_ok=True)
        self.dpath, self._bytes_left = dpath, max_bytes
        self._dtype = np.dtype("<u2" if codebook_size <= 1 << 16 else "<u4")

    def record_size(self, num_tokens: int) -> int:
        """Bytes of a record of so many tokens."""
        return _CHECKSUM_SIZE + num_tokens * self._dtype.itemsize

    def read(self, first: RecordKey, ids: np.ndarray) -> list[int]:
        """Fill ids (K, T, h, w) with the K records from `first` on: which of these are not stored completely.

        Nothing is filled in there.
        """
        size = self.record_size(ids[0].size)
        try:
            with opened(self._path(first)) as fd:
                content = os.pread(fd, size * len(ids), first.number * size)
        except (OSError, UnreadableFileError):
            content = b""
        missing = []
        for i, record in enumerate(ids):
            stored = content[i * size : (i + 1) * size]
            payload = stored[_CHECKSUM_SIZE:]
            key = RecordKey(first.file, first.number + i)
            if len(stored) == size and stored[:_CHECKSUM_SIZE] == _checksum(key, payload):
                record[:] = np.frombuffer(payload, self._dtype).reshape(record.shape)
            else:
                missing.append(i)
        return missing

    def write(self, key: RecordKey, ids: np.ndarray) -> None:
        """Store ids (T, h, w). At the limit or where writing fails: one warning, and nothing more is stored."""
        size = self.record_size(ids.size)
        if self._bytes_left < size:
            self._stop("cache_max_gb is reached")
            return
        payload = ids.astype(self._dtype).tobytes()
        try:
            os.makedirs(os.path.dirname(self._path(key)), exist_ok=True)
            # Opening a FIFO would wait for a reader of it.
            flags = os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK
            with open(os.open(self._path(key), flags, 0o666), "wb", buffering=0) as file:
                os.pwrite(file.fileno(), _checksum(key, payload) + payload, key.number * size)
        except OSError as error:
            self._stop(f"writing failed ({error.strerror})")
        else:
            self._bytes_left -= size

    def _stop(self, reason: str) -> None:
        if self._bytes_left >= 0:
            logger.warning("no more token ids are stored in '%s': %s; stored ids stay in use", self.dpath, reason)
        self._bytes_left = -1

    def _path(self, key: RecordKey) -> str:
        # A string: joining Path objects costs as much as the reading.
        return f"{self.dpath}/{key.file[:2]}/{key.file}.ids"


def _checksum(key: RecordKey, payload: bytes) -> bytes:
    digest = hashlib.blake2b(f"{key.file} {key.number} ".encode(), digest_size=_CHECKSUM_SIZE)
    digest.update(payload)
    return digest.digest()


def used_bytes(dpath: Path) -> int:
    """Bytes on the disk of all files below a folder, which other processes may be changing; 0 where there is none."""
    total = 0
    for folder, _, names in os.walk(dpath):
        for name in names:
            with suppress(OSError):
                total += os.lstat(os.path.join(folder, name)).st_blocks * 512
    return total


@dataclass
class CachedBatch(Batch):
    """Clips with their token ids (B, T, h, w) int64, zeros in the records `missing`, whose ids are not stored.

    Records are counted through all clips, K of each: `records` (B * K, T / K, h, w). `frames` are of all clips, or
    only of the M missing records (M, T / K, C, H, W). `keys` (M): where their ids belong, None = nowhere.
    """

    ids: Tensor
    records_per_clip: int
    missing: list[int]
    keys: list[RecordKey | None]

    @property
    def records(self) -> Tensor:
        """The ids' memory as records (B * K, T / K, h, w)."""
        return self.ids.view(len(self) * self.records_per_clip, -1, *self.ids.shape[2:])

    def missing_frames(self) -> Tensor:
        """Frames (M, T / K, C, H, W) of the records without ids."""
        if self.frames.shape[:2] != self.ids.shape[:2]:
            return self.frames
        return self.frames.unflatten(1, (self.records_per_clip, -1)).flatten(0, 1)[self.missing]


class CachedClipDataset(BatchDataset):
    """The clips of a `ClipDataset` in the same order, with the ids that are stored of them.

    Frames are read (and decompressed) only of clips that miss ids, or of all with `all_frames`.
    """

    def __init__(
        self, clips: ClipDataset, store: TokenStore, grid: tuple[int, int], all_frames: bool, frames_alone: bool
    ) -> None:
        """`grid`: (h, w) tokens of a frame. `frames_alone`: a frame's ids depend on no other."""
        self.clips, self.clips_per_env = clips, clips.clips_per_env
        self._store, self._shape, self._all_frames = store, (clips.num_frames, *grid), all_frames
        self._records_per_clip = clips.num_frames if frames_alone else 1
        # Frames of a record, and from the start of one to the next.
        self._length, self._step = (1, 1) if frames_alone else (clips.num_frames, clips.seq_step)
        ids_bytes = 8 * math.prod(self._shape)
        self.clip_bytes = ids_bytes + (clips.clip_bytes if all_frames else 0)
        self._fingerprints: dict[int, str] = {}

    def read(self, indices: list[int]) -> CachedBatch:
        """The batch of these clips."""
        per_clip = self._records_per_clip
        ids = np.zeros((len(indices), per_clip, self._length, *self._shape[1:]), np.int64)
        frames, actions = self.clips.empty_clips(len(indices))
        missing: list[int] = []
        keys: list[RecordKey | None] = []
        for i, (row, start) in enumerate(zip(*self.clips.locate(indices), strict=True)):
            first = self._key(row, start)
            self.clips.read_actions(row, start, actions[i])
            lacking = self._store.read(first, ids[i])
            own = True
            if lacking or self._all_frames:
                own = self.clips.read_clip(row, start, frames[i], actions[i])
            if not own:
                # Another clip replaces a damaged one: stored ids are not its own, nor are its ids to be stored.
                lacking = list(range(per_clip))
            missing += [i * per_clip + number for number in lacking]
            keys += [RecordKey(first.file, first.number + number) if own else None for number in lacking]
        if not self._all_frames:
            frames = frames.reshape(len(indices) * per_clip, self._length, *frames.shape[2:])[missing]
        tensors = frames_first(frames), torch.from_numpy(actions), torch.from_numpy(ids.reshape(-1, *self._shape))
        return CachedBatch(*tensors, per_clip, missing, keys)

    def _key(self, row: int, start: int) -> RecordKey:
        """Of a clip's first record."""
        if row not in self._fingerprints:
            self._fingerprints[row] = self.clips.fingerprint(row)
        return RecordKey(f"{self._fingerprints[row]}-{self._length}-{self._step}", start // self._step)
