"""The bytes of an episode file: a fixed header, independent chunks of frames, a footer of columns.

Described in `docs/reference/dataset.md`. Everything is little-endian. The header holds the footer's CRC32 and the
footer holds every chunk's, so the 64 bytes of the header stand for the whole content: two files with equal headers hold
the same episode.
"""

import json
import math
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_generation.data.errors import FieldError, UserError
from data_generation.data.reading import parse_json, shortened

FORMAT_VERSION = 1
EPISODE_SUFFIX = ".episode"

# As in PNG: the high byte and the line ends reveal transfers that touched the bytes.
_MAGIC = b"\x89GXE\r\n\x1a\n"
# magic, version, codec, channels, height, width, chunk_frames, num_frames, num_chunks, footer offset, footer size,
# footer CRC
_HEADER = struct.Struct("<8sIIIIIIIIQQI")
_CRC = struct.Struct("<I")
HEADER_SIZE = _HEADER.size + _CRC.size
# The same fields for many headers at once.
HEADER_DTYPE = np.dtype(
    [("magic", "S8"), ("version", "<u4"), ("codec", "<u4"), ("frame_shape", "<u4", 3)]
    + [(name, "<u4") for name in ("chunk_frames", "num_frames", "num_chunks")]
    + [("footer_offset", "<u8"), ("footer_size", "<u8"), ("footer_crc", "<u4"), ("crc", "<u4")]
)
COLUMN_DTYPES = frozenset({"<u4", "<i2", "<i8", "<f4", "<f8", "|b1", "|u1"})


# Far beyond what anybody records; a file that claims more is damaged or was made to harm, and nothing is allocated for
# it.
MAX_CHANNELS, MAX_SIDE, MAX_CHUNK_FRAMES = 16, 4096, 1024
MAX_CHUNK_BYTES = 1 << 28  # of frames, uncompressed
MAX_FOOTER_BYTES = 1 << 28  # of columns, uncompressed: 10 million steps


class EpisodeError(UserError):
    """An episode file is damaged or not an episode file. The message is one line with the path and the remedy."""


class MissingEpisodeError(EpisodeError, FileNotFoundError):
    """There is no such episode file."""


class BadEpisodeError(FieldError, EpisodeError):
    """A bad episode where the field `on_bad_episode` may be set to skip it."""

    @classmethod
    def of(cls, error: object) -> "BadEpisodeError":
        """The error about an episode, with that remedy."""
        return cls("on_bad_episode", "error", str(error), "or set {on_bad_episode}=skip")


def episode_error(path: Any, problem: str, remedy: str = "delete it and generate it again") -> EpisodeError:
    """The error for one bad file, in the one form that all of them have."""
    return EpisodeError(f"episode '{path}' {problem}: {remedy}")


@dataclass(frozen=True)
class Header:
    """The first 64 bytes of an episode file."""

    codec: int
    frame_shape: tuple[int, int, int]  # (C, H, W)
    chunk_frames: int
    num_frames: int
    num_chunks: int
    footer_offset: int
    footer_size: int
    footer_crc: int

    @property
    def file_size(self) -> int:
        return self.footer_offset + self.footer_size

    @property
    def chunk_bytes(self) -> int:
        """Bytes of a full chunk, uncompressed."""
        return self.chunk_frames * math.prod(self.frame_shape)

    def pack(self) -> bytes:
        """The header's bytes, closed by their CRC32."""
        packed = _HEADER.pack(
            _MAGIC,
            FORMAT_VERSION,
            self.codec,
            *self.frame_shape,
            self.chunk_frames,
            self.num_frames,
            self.num_chunks,
            self.footer_offset,
            self.footer_size,
            self.footer_crc,
        )
        return packed + _CRC.pack(zlib.crc32(packed))

    @classmethod
    def unpack(cls, data: bytes, path: Any, file_size: int) -> "Header":
        """Parse and check a header. `EpisodeError` for a foreign, damaged or truncated file or another version."""
        if not data.startswith(_MAGIC) and not _MAGIC.startswith(data):
            raise episode_error(path, "is not an episode file of this project", "remove it from the dataset folder")
        if len(data) < HEADER_SIZE:
            raise episode_error(path, f"is truncated ({file_size} bytes)")
        _, version, codec, *rest = _HEADER.unpack_from(data)
        intact = _CRC.unpack_from(data, _HEADER.size)[0] == zlib.crc32(data[: _HEADER.size])
        if version != FORMAT_VERSION and (intact or version < 1 << 16):
            remedy = "generate it again with this version of the project, or read it with the version that wrote it"
            raise episode_error(path, f"has format version {version}, not {FORMAT_VERSION}", remedy)
        if not intact:
            raise episode_error(path, "is damaged (header checksum)")
        header = cls(codec, (rest[0], rest[1], rest[2]), *rest[3:])
        if header.file_size != file_size:
            raise episode_error(path, f"is truncated or has grown ({file_size} bytes, not {header.file_size})")
        if problem := header._contradiction():
            raise episode_error(path, f"is damaged (its header says {problem})")
        return header

    def _contradiction(self) -> str:
        """What of the header cannot be, although its checksum is right; empty = nothing."""
        if problem := shape_problem(self.frame_shape, min(self.chunk_frames, self.num_frames)):
            return problem
        if not 1 <= self.chunk_frames <= MAX_CHUNK_FRAMES:
            return f"{self.chunk_frames} frames per chunk"
        if self.num_frames < 1 or self.num_chunks != -(-self.num_frames // self.chunk_frames):
            return f"{self.num_frames} frames in {self.num_chunks} chunks of {self.chunk_frames}"
        # No chunk is empty.
        if self.footer_offset < HEADER_SIZE + self.num_chunks or self.footer_size > MAX_FOOTER_BYTES:
            return f"{self.footer_offset} bytes of chunks, {self.footer_size} of columns"
        return ""


def shape_problem(frame_shape: tuple[int, int, int], chunk_frames: int) -> str:
    """Why there can be no chunks of so many frames of a shape (C, H, W); empty = there can."""
    channels, height, width = frame_shape
    if not (1 <= channels <= MAX_CHANNELS and 1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE):
        return f"frames {frame_shape}, not 1 to {MAX_CHANNELS} channels and 1 to {MAX_SIDE} pixels"
    if chunk_frames * channels * height * width > MAX_CHUNK_BYTES:
        return f"{chunk_frames} frames {frame_shape} per chunk, more than {MAX_CHUNK_BYTES} bytes"
    return ""


def pack_columns(attributes: Mapping[str, Any], columns: Mapping[str, np.ndarray]) -> bytes:
    """Bytes of a JSON object and named 1-D or 2-D arrays. Equal input gives equal bytes."""
    arrays = {name: np.ascontiguousarray(column) for name, column in columns.items()}
    description = {
        "attributes": attributes,
        "columns": [[name, array.dtype.str, list(array.shape)] for name, array in arrays.items()],
    }
    text = json.dumps(description, sort_keys=True, separators=(",", ":")).encode()
    return b"".join([struct.pack("<Q", len(text)), text, *(array.tobytes() for array in arrays.values())])


def unpack_columns(data: bytes | memoryview) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The inverse of `pack_columns`; the arrays are read-only views of `data`. ValueError for other bytes."""
    if len(data) < 8:
        raise ValueError(f"only {len(data)} bytes")
    (text_size,) = struct.unpack_from("<Q", data)
    if text_size > len(data) - 8:
        raise ValueError(f"{len(data)} bytes cannot hold a description of {text_size}")
    description = parse_json(bytes(data[8 : 8 + text_size]))
    if not isinstance(description, dict) or not isinstance(description.get("attributes"), dict):
        raise ValueError("no description")
    position, columns = 8 + text_size, {}
    for name, dtype, shape in _described(description.get("columns")):
        count = math.prod(shape)
        if count * dtype.itemsize > len(data) - position:
            raise ValueError(f"{len(data)} bytes cannot hold '{name}' {shape}")
        columns[name] = np.frombuffer(data, dtype, count, position).reshape(shape)
        position += columns[name].nbytes
    if position != len(data):
        raise ValueError(f"{len(data) - position} bytes too many")
    return description["attributes"], columns


def _described(entries: Any) -> Iterator[tuple[str, np.dtype, list[int]]]:
    """Name, dtype and shape of each column of a description."""
    if not isinstance(entries, list):
        raise ValueError("no list of columns")
    for entry in entries:
        match entry:
            case [str(name), str(dtype), [*shape]] if dtype in COLUMN_DTYPES and 1 <= len(shape) <= 2:
                if not all(type(size) is int and size >= 0 for size in shape):
                    raise ValueError(f"column '{name}' of shape {shortened(shape)}")
                yield name, np.dtype(dtype), shape
            case _:
                raise ValueError(f"a column {shortened(entry)}")


def check_columns(columns: Mapping[str, np.ndarray], expected: Mapping[str, tuple[str, tuple[float, ...]]]) -> None:
    """ValueError unless all of these columns are there, with these dtypes (one of "<i2 <i8") and shapes."""
    for name, (dtypes, shape) in expected.items():
        column = columns.get(name)
        if column is None:
            raise ValueError(f"no column '{name}'")
        if column.dtype.str not in dtypes.split():
            raise ValueError(f"column '{name}' of type {column.dtype.str}, not {dtypes}")
        if column.shape != shape:
            raise ValueError(f"column '{name}' of shape {column.shape}, not {shape}")
        if column.dtype == bool and column.view(np.uint8).max(initial=0) > 1:
            raise ValueError(f"column '{name}' with values other than true and false")
