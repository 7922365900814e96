"""The same clips with cached token ids, for dynamics training on large sets.

The ids of a clip depend on all frames before them in the clip (the encoder is causal in time and embeds a clip's first
frame differently), so they are stored per clip, not per frame, when they are first computed, by any number of
processes.

Layout: `<store>/<xx>/<episode>-<frames>-<step>.ids`, one record per clip: a checksum and the ids. The store's folder
is named after all that the ids depend on except the clip, the file after the episode's fingerprint, so that another
tokenizer or a regenerated episode never meets old ids. Records are written in place; their checksums, which cover the
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


class ClipKey(NamedTuple):
    """Where a clip's ids are stored: the file (episode and kind of clip) and the number of the clip in it."""

    file: str
    number: int


class TokenStore:
    """Token ids by clip in a folder that any number of processes may share. No file is kept open."""

    def __init__(self, dpath: Path, codebook_size: int, max_bytes: float = float("inf")) -> None:
        """`max_bytes`: what this process may add. OSError where the folder cannot be made."""
        dpath.mkdir(parents=True, exist_ok=True)
        self.dpath, self._bytes_left = dpath, max_bytes
        self._dtype = np.dtype("<u2" if codebook_size <= 1 << 16 else "<u4")

    def record_size(self, num_tokens: int) -> int:
        """Bytes of a clip of so many tokens."""
        return _CHECKSUM_SIZE + num_tokens * self._dtype.itemsize

    def read(self, key: ClipKey, ids: np.ndarray) -> bool:
        """Fill ids (T, h, w); False, and nothing filled, where they are not stored completely."""
        size = self.record_size(ids.size)
        try:
            with opened(self._path(key)) as fd:
                record = os.pread(fd, size, key.number * size)
        except (OSError, UnreadableFileError):
            return False
        payload = record[_CHECKSUM_SIZE:]
        if len(record) < size or record[:_CHECKSUM_SIZE] != _checksum(key, payload):
            return False
        ids[:] = np.frombuffer(payload, self._dtype).reshape(ids.shape)
        return True

    def write(self, key: ClipKey, ids: np.ndarray) -> None:
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

    def _path(self, key: ClipKey) -> str:
        # A string: joining Path objects costs as much as the reading.
        return f"{self.dpath}/{key.file[:2]}/{key.file}.ids"


def _checksum(key: ClipKey, payload: bytes) -> bytes:
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
    """Clips with their token ids (B, T, h, w) int64, zeros for the clips `missing`, whose ids are not stored.

    `frames` are of all clips, or only of the M missing ones. `keys` (M): where their ids belong, None = nowhere.
    """

    ids: Tensor
    missing: list[int]
    keys: list[ClipKey | None]

    def missing_frames(self) -> Tensor:
        """Frames (M, T, C, H, W) of the clips without ids."""
        return self.frames[self.missing] if len(self.frames) == len(self) else self.frames


class CachedClipDataset(BatchDataset):
    """The clips of a `ClipDataset` in the same order, with the ids that are stored of them.

    Frames are read (and decompressed) only of clips without ids, or of all with `all_frames`.
    """

    def __init__(self, clips: ClipDataset, store: TokenStore, grid: tuple[int, int], all_frames: bool) -> None:
        """`grid`: (h, w) tokens of a frame."""
        self.clips, self.clips_per_env = clips, clips.clips_per_env
        self._store, self._shape, self._all_frames = store, (clips.num_frames, *grid), all_frames
        ids_bytes = 8 * math.prod(self._shape)
        self.clip_bytes = ids_bytes + (clips.clip_bytes if all_frames else 0)
        self._fingerprints: dict[int, str] = {}

    def read(self, indices: list[int]) -> CachedBatch:
        """The batch of these clips."""
        ids = np.zeros((len(indices), *self._shape), np.int64)
        frames, actions = self.clips.empty_clips(len(indices))
        num_read, missing, keys = 0, [], []
        for i, (row, start) in enumerate(zip(*self.clips.locate(indices), strict=True)):
            key, own = self._key(row, start), True
            self.clips.read_actions(row, start, actions[i])
            known = self._store.read(key, ids[i])
            if self._all_frames or not known:
                own = self.clips.read_clip(row, start, frames[num_read], actions[i])
                num_read += 1
            # Where another clip replaces a damaged one, stored ids are not its own, nor are its ids to be stored.
            if not (known and own):
                missing.append(i)
                keys.append(key if own else None)
        tensors = frames_first(frames[:num_read]), torch.from_numpy(actions), torch.from_numpy(ids)
        return CachedBatch(*tensors, missing, keys)

    def _key(self, row: int, start: int) -> ClipKey:
        if row not in self._fingerprints:
            self._fingerprints[row] = self.clips.fingerprint(row)
        clips = self.clips
        return ClipKey(f"{self._fingerprints[row]}-{clips.num_frames}-{clips.seq_step}", start // clips.seq_step)
