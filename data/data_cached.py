"""The same clips with stored values of their frames, such as token ids, for training with frozen parts.

Values are stored when they are first computed, by any number of processes, in records of as many frames as depend on
each other: of one frame or transition where a value depends on it alone, so that all clips with it share the record;
else of a whole clip, since a causal encoder's ids depend on all frames before them in the clip.

Layout: `<store>/<source>/<xx>/<episode>-<frames>-<step>.<kind>`, where <frames> are those of a record and <step> is
from the start of one to the next: in each record a checksum and the values. The folder <source> is named after all that
the values depend on except the frames, the file after the episode's fingerprint, so that another tokenizer or a
regenerated episode never meets old values. Records are written in place; their checksums, which cover the key, reveal
what a killed writer left half done or never wrote. (A memory-mapped array would be shorter by the two system calls, and
would end the process with SIGBUS on a full disk.)
"""

import hashlib
import json
import logging
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from data.data import ClipDataset, frames_first
from data.loader import Batch, BatchDataset
from data_generation.data.files import write_atomically
from data_generation.data.reading import UnreadableFileError, opened

logger = logging.getLogger(__name__)

_CHECKSUM_SIZE = 8


@dataclass(frozen=True)
class RecordKind:
    """Values of a clip's frames: (T - `frames_per_value` + 1, *shape), the first of the first frames, and so on."""

    name: str
    shape: tuple[int, ...]  # of a value
    dtype: str  # NumPy's name of the type in memory
    stored_dtype: str  # and in files
    frames_per_value: int = 1  # consecutive frames that a value is of
    by_clip: bool = False  # values depend on all frames of a clip, so that a record is of all

    def record_length(self, clip_length: int) -> int:
        """Frames of a record, in clips of so many."""
        return clip_length if self.by_clip else self.frames_per_value

    def records_per_clip(self, clip_length: int) -> int:
        """Records of a clip of so many frames."""
        return clip_length - self.record_length(clip_length) + 1

    def values_per_clip(self, clip_length: int) -> int:
        """Values of a clip of so many frames."""
        return clip_length - self.frames_per_value + 1

    def record_size(self, clip_length: int) -> int:
        """Bytes of a record, in clips of so many frames."""
        num_values = self.values_per_clip(self.record_length(clip_length))
        return _CHECKSUM_SIZE + num_values * math.prod(self.shape) * np.dtype(self.stored_dtype).itemsize


class RecordKey(NamedTuple):
    """Where values are stored: the file (episode and length of its records) and the number of the record in it."""

    file: str
    number: int

    def after(self, count: int) -> "RecordKey":
        """The record that comes so many later."""
        return RecordKey(self.file, self.number + count)


def consecutive(keys: Sequence[RecordKey | None]) -> Iterator[tuple[RecordKey, slice]]:
    """Where in `keys` each one is the record after the one before: the first of these, and their places."""
    before = [None, *(key and key.after(1) for key in keys)]
    starts = [i for i, key in enumerate(keys) if key is None or key != before[i]]
    for start, stop in zip(starts, [*starts[1:], len(keys)], strict=True):
        if (first := keys[start]) is not None:
            yield first, slice(start, stop)


class RecordStore:
    """Records of several kinds in a folder that any number of processes may share. No file is kept open."""

    def __init__(self, dpath: Path, max_bytes: float = float("inf")) -> None:
        """`max_bytes`: what this process may add."""
        self.dpath, self._bytes_left = dpath, max_bytes
        self._folders: dict[RecordKind, str] = {}

    def add(self, kind: RecordKind, source: dict[str, Any]) -> None:
        """Make the folder of a kind; `source` is all that its values depend on besides the frames.

        OSError where that is not possible: here, and not in mid-training.
        """
        text = json.dumps(source, indent=2) + "\n"
        folder = self.dpath / hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
        folder.mkdir(parents=True, exist_ok=True)
        # Says to people what the folder holds.
        write_atomically(folder / "source.json", text)
        self._folders[kind] = str(folder)

    def read(self, kind: RecordKind, first: RecordKey, records: np.ndarray) -> list[int]:
        """Fill `records` (N, values of a record, ...) from `first` on: which of these are not stored completely.

        Nothing is filled in there.
        """
        payload_type = np.dtype(kind.stored_dtype)
        size = _CHECKSUM_SIZE + records[0].size * payload_type.itemsize
        try:
            with opened(self._path(kind, first)) as fd:
                content = os.pread(fd, size * len(records), first.number * size)
        except (OSError, UnreadableFileError):
            content = b""
        missing = []
        for i, record in enumerate(records):
            stored = content[i * size : (i + 1) * size]
            payload = stored[_CHECKSUM_SIZE:]
            if len(stored) == size and stored[:_CHECKSUM_SIZE] == _checksum(first.after(i), payload):
                record[:] = np.frombuffer(payload, payload_type).reshape(record.shape)
            else:
                missing.append(i)
        return missing

    def write(self, kind: RecordKind, first: RecordKey, records: np.ndarray) -> None:
        """Store `records` (N, values of a record, ...) from `first` on.

        As many as the limit allows. There, or where writing fails: one warning, and nothing more is stored.
        """
        payloads = [record.tobytes() for record in records.astype(kind.stored_dtype)]
        size = _CHECKSUM_SIZE + len(payloads[0])
        fitting = [payload for i, payload in enumerate(payloads) if (i + 1) * size <= self._bytes_left]
        try:
            if fitting:
                self._write(self._path(kind, first), first, fitting)
        except OSError as error:
            self._stop(f"writing failed ({error.strerror})")
            return
        self._bytes_left -= size * len(fitting)
        if len(fitting) < len(payloads):
            self._stop("cache_max_gb is reached")

    def _write(self, path: str, first: RecordKey, payloads: list[bytes]) -> None:
        """All at once: on a network disk each operation takes its time."""
        content = b"".join(_checksum(first.after(i), payload) + payload for i, payload in enumerate(payloads))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        # Opening a FIFO would wait for a reader of it.
        flags = os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK
        with open(os.open(path, flags, 0o666), "wb", buffering=0) as file:
            os.pwrite(file.fileno(), content, first.number * (len(content) // len(payloads)))

    def _stop(self, reason: str) -> None:
        if self._bytes_left >= 0:
            logger.warning("nothing more is stored in '%s': %s; what is stored stays in use", self.dpath, reason)
        self._bytes_left = -1

    def _path(self, kind: RecordKind, key: RecordKey) -> str:
        # A string: joining Path objects costs as much as the reading.
        return f"{self._folders[kind]}/{key.file[:2]}/{key.file}.{kind.name}"


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


class MissingRecord(NamedTuple):
    """A record that is not stored: the clip's number in its batch, the record's in its clip."""

    clip: int
    number: int
    key: RecordKey | None  # where it belongs; None = nowhere


@dataclass
class Records:
    """A batch's values of one kind: (B, values of a clip, ...), zeros in the records that are `missing`.

    Each record is of `length` frames.
    """

    values: Tensor
    length: int
    missing: list[MissingRecord]

    def fill(self, computed: Tensor) -> None:
        """Put the missing records (M, values of a record, ...) in their places."""
        clips, numbers = ([getattr(record, name) for record in self.missing] for name in ("clip", "number"))
        self.values.unflatten(1, (-1, computed.shape[1]))[clips, numbers] = computed


@dataclass
class CachedBatch(Batch):
    """Clips with their records, by the name of the kind. `frames` are of the clips numbered `with_frames` alone."""

    records: dict[str, Records]
    with_frames: list[int]

    def missing_frames(self, name: str) -> Tensor:
        """Frames (M, length, C, H, W) of the records of a kind that are missing."""
        records = self.records[name]
        place = {clip: i for i, clip in enumerate(self.with_frames)}
        rows = torch.tensor([place[record.clip] for record in records.missing])
        first = torch.tensor([record.number for record in records.missing])
        return self.frames[rows.unsqueeze(1), first.unsqueeze(1) + torch.arange(records.length)]

    def _map(self, function: Callable[[Tensor], Tensor]) -> Self:
        records = {name: replace(found, values=function(found.values)) for name, found in self.records.items()}
        return replace(super()._map(function), records=records)


class CachedClipDataset(BatchDataset):
    """The clips of a `ClipDataset` in the same order, with what is stored of them of some kinds.

    Frames are read (and decompressed) only of clips that miss something, or of all with `all_frames`.
    """

    def __init__(self, clips: ClipDataset, store: RecordStore, kinds: list[RecordKind], all_frames: bool) -> None:
        self.clips, self.clips_per_env = clips, clips.clips_per_env
        self._store, self._kinds, self._all_frames = store, kinds, all_frames
        self.clip_bytes = clips.clip_bytes if all_frames else 0
        self.clip_bytes += sum(self._empty(kind, 1).nbytes for kind in kinds)
        self._fingerprints: dict[int, str] = {}

    def read(self, indices: list[int]) -> CachedBatch:
        """The batch of these clips."""
        frames, actions = self.clips.empty_clips(len(indices))
        values = [self._empty(kind, len(indices)) for kind in self._kinds]
        missing: list[list[MissingRecord]] = [[] for _ in self._kinds]
        with_frames = []
        for i, (row, start) in enumerate(zip(*self.clips.locate(indices), strict=True)):
            self.clips.read_actions(row, start, actions[i])
            firsts = [self._key(kind, row, start) for kind in self._kinds]
            stored = zip(self._kinds, firsts, values, strict=True)
            lacking = [self._store.read(kind, first, of_kind[i]) for kind, first, of_kind in stored]
            own = True
            if any(lacking) or self._all_frames:
                with_frames.append(i)
                own = self.clips.read_clip(row, start, frames[i], actions[i])
            for first, numbers, of_kind, absent in zip(firsts, lacking, values, missing, strict=True):
                if own:
                    absent += [MissingRecord(i, number, first.after(number)) for number in numbers]
                else:
                    # Another clip replaces a damaged one: what is stored is not its own, nor is its own to be stored.
                    absent += [MissingRecord(i, number, None) for number in range(of_kind.shape[1])]
        if len(with_frames) < len(indices):
            frames = frames[with_frames]
        records = {
            kind.name: Records(torch.from_numpy(of_kind).flatten(1, 2), self._length(kind), absent)
            for kind, of_kind, absent in zip(self._kinds, values, missing, strict=True)
        }
        return CachedBatch(frames_first(frames), torch.from_numpy(actions), records, with_frames)

    def _length(self, kind: RecordKind) -> int:
        """Frames of a record."""
        return kind.record_length(self.clips.num_frames)

    def _empty(self, kind: RecordKind, num_clips: int) -> np.ndarray:
        """Zeros for all records (clips, records of a clip, values of a record, ...)."""
        length = self.clips.num_frames
        shape = kind.records_per_clip(length), kind.values_per_clip(self._length(kind)), *kind.shape
        return np.zeros((num_clips, *shape), kind.dtype)

    def _key(self, kind: RecordKind, row: int, start: int) -> RecordKey:
        """Of a clip's first record."""
        if row not in self._fingerprints:
            self._fingerprints[row] = self.clips.fingerprint(row)
        step = self.clips.seq_step if kind.by_clip else 1
        return RecordKey(f"{self._fingerprints[row]}-{self._length(kind)}-{step}", start // step)
