"""Writing and reading one episode file."""

import os
import zlib
from array import array
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
import zstandard

from data_generation.data.codec import Codec, codec_by_id, codec_by_mode, decompress
from data_generation.data.errors import UserError
from data_generation.data.files import replace, temporary_path
from data_generation.data.layout import (
    EPISODE_SUFFIX,
    HEADER_SIZE,
    MAX_FOOTER_BYTES,
    EpisodeError,
    Header,
    MissingEpisodeError,
    check_columns,
    episode_error,
    pack_columns,
    shape_problem,
    unpack_columns,
)
from data_generation.data.reading import UnreadableFileError, from_mapping, open_file, opened

_INFO_PREFIX = "info/"
# Above every number of an instance or a session: file names have at most so many digits.
MAX_NUMBER = 10**18
# Rewards are stored as 32-bit numbers.
MAX_REWARD = float(np.finfo(np.float32).max)


@dataclass
class EpisodeMeta:
    """Everything about an episode except its columns. Two equal metas and equal steps give equal files."""

    seed: int = 0
    instance: int = 0
    session: int = 0
    policy: str = ""
    policy_parameters: dict[str, Any] = field(default_factory=dict)
    game: str = ""
    versions: dict[str, str] = field(default_factory=dict)


def episode_path(env_dpath: Path | str, instance: int, session: int) -> Path:
    """Where an episode of an environment folder lives: `<instance, 6 digits>/<session, 6 digits>.episode`."""
    # One string: joining Path objects costs as much as reading a chunk, and every clip asks for a path.
    return Path(f"{os.fspath(env_dpath)}/{instance:06d}/{session:06d}{EPISODE_SUFFIX}")


class EpisodeWriter:
    """Writes an episode while it is played: `start(frame)`, then `step(…)` per action, then `commit()`.

    Frames go to disk chunk by chunk into a temporary file; only `commit` makes the episode visible. Leaving the
    context without it (an error, a kill) leaves nothing that a reader takes for an episode. Memory holds one chunk
    and the scalars of the steps.
    """

    def __init__(
        self,
        path: Path | str,
        meta: EpisodeMeta,
        frame_shape: tuple[int, int, int],
        compression_level: int = 3,
        output_mode: str = "lossless",
        fsync: bool = False,
    ) -> None:
        """`frame_shape` is (C, H, W). `fsync` also survives a power cut; a killed process needs no such wait."""
        self._path, self._meta, self._fsync = Path(path), meta, fsync
        self._frame_shape = tuple(frame_shape)
        self._codec = codec_by_mode(output_mode, compression_level)
        if problem := shape_problem(frame_shape, self._codec.chunk_frames):
            raise UserError(f"episode '{path}' cannot have {problem}: record smaller frames")
        channels, height, width = frame_shape
        self._chunk = np.empty((self._codec.chunk_frames, height, width, channels), np.uint8)
        self._chunk_sizes, self._chunk_crcs = array("I"), array("I")
        self._actions, self._rewards = array("q"), array("f")
        self._terminated, self._truncated = array("B"), array("B")
        self._infos: dict[str, array[float]] = {}
        self._num_frames = 0
        self._file, self._temporary = self._open_temporary()

    def _open_temporary(self) -> tuple[BinaryIO, Path]:
        with self._undeleted_folder():
            temporary = temporary_path(self._path)
            file = open(temporary, "xb")  # noqa: SIM115 (closed by commit or by leaving the context)
        file.write(bytes(HEADER_SIZE))  # the place of the header, which is known at the end
        return file, temporary

    def start(self, frame: np.ndarray) -> None:
        """Append the first frame (C, H, W) uint8."""
        if self._num_frames:
            raise ValueError(f"episode '{self._path}' has started already: call start() once, then step()")
        self._append_frame(frame)

    def step(
        self,
        action: int,
        reward: float,
        terminated: bool,
        truncated: bool,
        info: Mapping[str, Any],
        frame: np.ndarray,
    ) -> None:
        """Append an action, what came of it, and the frame (C, H, W) uint8 after it. `info` values are numbers."""
        if not self._num_frames:
            raise ValueError(f"episode '{self._path}' has no first frame yet: call start(frame) before step()")
        numbers = _as_numbers(info)
        if action < 0 or not abs(reward) <= MAX_REWARD:
            raise ValueError(f"action {action}, reward {reward}: give an index and a finite 32-bit number")
        self._append_frame(frame)
        self._actions.append(int(action))
        self._rewards.append(float(reward))
        self._terminated.append(bool(terminated))
        self._truncated.append(bool(truncated))
        self._append_info(numbers)

    def _append_info(self, numbers: Mapping[str, float]) -> None:
        if numbers.keys() != self._infos.keys():
            missing_before = len(self._actions) - 1
            for key in numbers.keys() - self._infos.keys():
                self._infos[key] = array("d", [np.nan]) * missing_before
            numbers = {key: numbers.get(key, np.nan) for key in self._infos}
        for key, column in self._infos.items():
            column.append(numbers[key])

    def _append_frame(self, frame: np.ndarray) -> None:
        if frame.dtype != np.uint8 or frame.shape != self._frame_shape:
            found = f"{frame.dtype} {frame.shape}"
            raise ValueError(f"a frame of episode '{self._path}' is {found}: give uint8 {self._frame_shape} (C, H, W)")
        self._chunk[self._num_frames % self._codec.chunk_frames] = frame.transpose(1, 2, 0)
        self._num_frames += 1
        if self._num_frames % self._codec.chunk_frames == 0:
            self._write_chunk(self._codec.chunk_frames)

    def _write_chunk(self, num_frames: int) -> None:
        data = self._codec.encode(self._chunk[:num_frames])
        self._file.write(data)
        self._chunk_sizes.append(len(data))
        self._chunk_crcs.append(zlib.crc32(data))

    def commit(self) -> Path:
        """Finish the file and make it visible under its name, replacing an older one. Returns the path."""
        if not self._num_frames:
            raise ValueError(f"episode '{self._path}' has no frames: call start(frame) before commit()")
        if self._num_frames % self._codec.chunk_frames:
            self._write_chunk(self._num_frames % self._codec.chunk_frames)
        footer = self._footer()
        footer_offset = self._file.tell()
        channels, height, width = self._frame_shape
        header = Header(
            codec=self._codec.id,
            frame_shape=(channels, height, width),
            chunk_frames=self._codec.chunk_frames,
            num_frames=self._num_frames,
            num_chunks=len(self._chunk_sizes),
            footer_offset=footer_offset,
            footer_size=len(footer),
            footer_crc=zlib.crc32(footer),
        )
        self._file.write(footer)
        self._file.seek(0)
        self._file.write(header.pack())
        self._close()
        return self._path

    def _close(self) -> None:
        self._file.close()
        with self._undeleted_folder():
            replace(self._temporary, self._path, self._fsync)

    @contextmanager
    def _undeleted_folder(self) -> Iterator[None]:
        """UserError where someone deletes the episode's folder meanwhile."""
        try:
            yield
        except FileNotFoundError:
            problem = f"'{self._path.parent}' was deleted while an episode was written to it"
            raise UserError(f"{problem}: run the same command again") from None

    def _footer(self) -> bytes:
        columns = {
            "chunk_sizes": np.array(self._chunk_sizes, "<u4"),
            "chunk_crcs": np.array(self._chunk_crcs, "<u4"),
            "actions": np.array(self._actions, "<i8"),
            "rewards": np.array(self._rewards, "<f4"),
            "terminated": np.array(self._terminated, "|b1"),
            "truncated": np.array(self._truncated, "|b1"),
        }
        infos = {_INFO_PREFIX + key: np.array(self._infos[key], "<f8") for key in sorted(self._infos)}
        return zstandard.ZstdCompressor(level=3).compress(pack_columns(asdict(self._meta), columns | infos))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            # Writes what is buffered, for which a full disk has no place.
            self._file.close()
        finally:
            self._temporary.unlink(missing_ok=True)


def _as_numbers(info: Mapping[str, Any]) -> dict[str, float]:
    try:
        return {key: float(value) for key, value in info.items()}
    except (TypeError, ValueError):
        key, value = next((key, value) for key, value in info.items() if not _is_number(value))
        raise ValueError(f"info['{key}'] is {value!r}, not a number: leave it out of the recorded info") from None


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def check_chunk_sizes(header: Header, sizes: np.ndarray) -> None:
    """ValueError unless chunks of these compressed sizes fill the file up to its footer, none absurdly large."""
    if int(sizes.sum(dtype=np.int64)) != header.footer_offset - HEADER_SIZE:
        raise ValueError("chunks that do not end where the columns begin")
    # Noise does not shrink, and a video of tiny frames has more overhead than frames.
    if sizes.max(initial=0) > 2 * header.chunk_bytes + (1 << 16):
        raise ValueError(f"a chunk of {sizes.max()} bytes")


class ChunkTable:
    """Where the chunks of one episode lie, and how to read frames through an open descriptor."""

    def __init__(self, path: Path, header: Header, sizes: np.ndarray, crcs: np.ndarray) -> None:
        self.path, self.header, self.crcs = path, header, crcs
        self.offsets = np.concatenate([[HEADER_SIZE], sizes]).cumsum()

    def read(self, fd: int, codec: Codec, start: int, out: np.ndarray) -> None:
        """Fill `out` (n, H, W, C) uint8 with the frames from `start` on. `EpisodeError` where a chunk is damaged."""
        size = self.header.chunk_frames
        stop = start + len(out)
        first, last = start // size, (stop - 1) // size
        offsets = self.offsets[first : last + 2].tolist()
        data = os.pread(fd, offsets[-1] - offsets[0], offsets[0])
        for chunk, crc in enumerate(self.crcs[first : last + 1].tolist(), first):
            begin = chunk * size
            encoded = data[offsets[chunk - first] - offsets[0] : offsets[chunk - first + 1] - offsets[0]]
            frames = self._decode(codec, encoded, crc, chunk)
            low, high = max(start, begin), min(stop, begin + size)
            out[low - start : high - start] = frames[low - begin : high - begin]

    def _decode(self, codec: Codec, encoded: bytes, crc: int, chunk: int) -> np.ndarray:
        if zlib.crc32(encoded) != crc:
            raise episode_error(self.path, f"is damaged (checksum of chunk {chunk})")
        channels, height, width = self.header.frame_shape
        num_frames = min(self.header.chunk_frames, self.header.num_frames - chunk * self.header.chunk_frames)
        try:
            return codec.decode(encoded, num_frames, (height, width, channels))
        except UserError:  # the codec's library is missing
            raise
        except ValueError as error:
            raise episode_error(self.path, f"is damaged (chunk {chunk}: {error})") from None


def is_whole(path: Path | str) -> bool:
    """Whether a file is a complete episode of this format, as far as its header, size and columns tell.

    Costs the reading of both, about 20 µs; the frames are not read. False for everything else that stands there, such
    as what a power cut leaves: an empty file, or one of zeros.
    """
    try:
        with opened(path) as fd:
            _read_header_and_footer(fd, path)
    except (OSError, UserError):
        return False
    return True


def _read_header_and_footer(fd: int, path: Path | str) -> tuple[bytes, Header, bytes]:
    """The header's bytes, the header, and the footer's bytes, all checked. `EpisodeError` for a damaged file."""
    header_bytes = os.pread(fd, HEADER_SIZE, 0)
    header = Header.unpack(header_bytes, path, os.fstat(fd).st_size)
    footer = os.pread(fd, header.footer_size, header.footer_offset)
    if zlib.crc32(footer) != header.footer_crc:
        raise episode_error(path, "is damaged (checksum of the columns)")
    return header_bytes, header, footer


def _meta(attributes: Mapping[str, Any]) -> EpisodeMeta:
    meta = from_mapping(EpisodeMeta, attributes)
    if not (0 <= meta.instance < MAX_NUMBER and 0 <= meta.session < MAX_NUMBER):
        raise ValueError(f"instance {meta.instance}, session {meta.session}")
    return meta


def _check_columns(header: Header, columns: Mapping[str, np.ndarray]) -> None:
    """ValueError unless the columns are those that the writer writes, and fit the header."""
    chunks, steps = (header.num_chunks,), (header.num_frames - 1,)
    expected = {
        "chunk_sizes": ("<u4", chunks),
        "chunk_crcs": ("<u4", chunks),
        "actions": ("<i8", steps),
        "rewards": ("<f4", steps),
        "terminated": ("|b1", steps),
        "truncated": ("|b1", steps),
    }
    infos = {name: ("<f8", steps) for name in columns if name.startswith(_INFO_PREFIX)}
    check_columns(columns, expected | infos)
    check_chunk_sizes(header, columns["chunk_sizes"])
    if columns["actions"].min(initial=0) < 0:
        raise ValueError("a negative action")
    if not np.isfinite(columns["rewards"]).all():
        raise ValueError("a reward that is not a finite number")


class EpisodeReader:
    """One complete episode. `frames[t] --actions[t]--> frames[t + 1]`: T + 1 frames, T actions.

    Opening checks header and columns, reading frames checks the chunks that it touches; `verify` checks all.
    Attributes: `meta`, `num_frames`, `num_actions`, `frame_shape` (C, H, W), `lossless`, `actions` (T,) int64,
    `rewards` (T,) float32, `terminated` and `truncated` (T,) bool, `infos`: name → (T,) float64, NaN where the
    environment gave no value. Raises `EpisodeError` for a damaged or foreign file, `MissingEpisodeError` for none.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        try:
            self._file = open(open_file(path), "rb", buffering=0)  # noqa: SIM115 (closed by close)
        except FileNotFoundError:
            raise MissingEpisodeError(f"episode '{path}' does not exist: check the path") from None
        except UnreadableFileError as error:
            raise EpisodeError(f"episode {error}") from None
        try:
            self._read_columns()
        except BaseException:
            self._file.close()
            raise

    def _read_columns(self) -> None:
        self.header_bytes, header, footer = _read_header_and_footer(self._file.fileno(), self.path)
        try:
            self._codec = codec_by_id(header.codec)
            size = zstandard.frame_content_size(footer)
            if not 0 <= size <= MAX_FOOTER_BYTES:
                raise ValueError(f"{size} bytes")
            attributes, columns = unpack_columns(decompress(zstandard.ZstdDecompressor(), footer, size))
            self.meta = _meta(attributes)
            _check_columns(header, columns)
        except (ValueError, zstandard.ZstdError) as error:
            raise episode_error(self.path, f"is damaged (columns: {error})") from None
        self.table = ChunkTable(self.path, header, columns["chunk_sizes"], columns["chunk_crcs"])
        self.frame_shape, self.num_frames = header.frame_shape, header.num_frames
        self.actions, self.rewards = columns["actions"], columns["rewards"]
        self.terminated, self.truncated = columns["terminated"], columns["truncated"]
        prefix = len(_INFO_PREFIX)
        self.infos = {name[prefix:]: array for name, array in columns.items() if name.startswith(_INFO_PREFIX)}

    @property
    def num_actions(self) -> int:
        return self.num_frames - 1

    @property
    def lossless(self) -> bool:
        """False for `output_mode: video`."""
        return self._codec.lossless

    def frames(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Frames `start` to `stop` (exclusive) as (n, C, H, W) uint8, a strided view of interleaved (n, H, W, C)."""
        stop = self.num_frames if stop is None else stop
        if not 0 <= start <= stop <= self.num_frames:
            raise IndexError(f"frames {start}:{stop} are not in episode '{self.path}' of {self.num_frames} frames")
        channels, height, width = self.frame_shape
        out = np.empty((stop - start, height, width, channels), np.uint8)
        if len(out):
            self.table.read(self._file.fileno(), self._codec, start, out)
        return out.transpose(0, 3, 1, 2)

    def verify(self) -> None:
        """Check every byte of the file and decode every chunk. `EpisodeError` names what is damaged."""
        size = self.table.header.chunk_frames
        for start in range(0, self.num_frames, size):
            self.frames(start, min(start + size, self.num_frames))

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
