"""The bytes of an episode file: a fixed header, independent chunks of frames, a footer of columns.

Described in `docs/reference/dataset.md`. Everything is little-endian. The header holds the footer's CRC32 and the
footer holds every chunk's, so the 64 bytes of the header stand for the whole content: two files with equal headers hold
the same episode.
"""

import json
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_generation.data.errors import FieldError, UserError

FORMAT_VERSION = 1
EPISODE_SUFFIX = ".episode"

# As in PNG: the high byte and the line ends reveal transfers that touched the bytes.
_MAGIC = b"\x89GXE\r\n\x1a\n"
# magic, version, codec, channels, height, width, chunk_frames, num_frames, num_chunks, footer offset, footer size,
# footer CRC
_HEADER = struct.Struct("<8sIIIIIIIIQQI")
_CRC = struct.Struct("<I")
HEADER_SIZE = _HEADER.size + _CRC.size


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
        return header


def pack_columns(attributes: Mapping[str, Any], columns: Mapping[str, np.ndarray]) -> bytes:
    """Bytes of a JSON object and named 1-D or 2-D arrays. Equal input gives equal bytes."""
    arrays = {name: np.ascontiguousarray(column) for name, column in columns.items()}
    description = {
        "attributes": attributes,
        "columns": [[name, array.dtype.str, list(array.shape)] for name, array in arrays.items()],
    }
    text = json.dumps(description, sort_keys=True, separators=(",", ":")).encode()
    return b"".join([struct.pack("<Q", len(text)), text, *(array.tobytes() for array in arrays.values())])


def unpack_columns(data: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The inverse of `pack_columns`; the arrays are read-only views of `data`. ValueError for other bytes."""
    (text_size,) = struct.unpack_from("<Q", data)
    description = json.loads(data[8 : 8 + text_size])
    position, columns = 8 + text_size, {}
    for name, dtype, shape in description["columns"]:
        count = int(np.prod(shape))
        columns[name] = np.frombuffer(data, np.dtype(dtype), count, position).reshape(shape)
        position += columns[name].nbytes
    if position != len(data):
        raise ValueError(f"{len(data) - position} bytes too many")
    return description["attributes"], columns
