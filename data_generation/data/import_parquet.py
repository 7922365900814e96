"""Import of Parquet files with encoded images and actions: a row per step, or per episode.

Images are bytes of PNG, JPEG and the like, alone or with their path, as Hugging Face datasets store them. A column
such as `episode_index` says which rows are an episode; without one, each file is.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_generation.data.errors import UserError
from data_generation.data.import_arrays import (
    FRAME_NAMES,
    REWARD_NAMES,
    ArrayDataset,
    ArraySession,
    ImportOptions,
    optional_module,
)
from data_generation.data.recordings import decode_image

PARQUET_SUFFIXES = (".parquet", ".pq")
_EPISODE_NAMES = ("episode_index", "episode_id", "episode", "trajectory_id", "traj_id")
_ROWS_AT_ONCE = 64


@dataclass
class ParquetSession(ArraySession):
    """Rows `start` to `stop` of a file; with `is_row`, one row with a list of frames."""

    start: int
    stop: int
    is_row: bool = False

    @property
    def part(self) -> str:
        return str(self.start)

    def num_frames(self) -> int:
        if not self.is_row:
            return self.stop - self.start
        return sum(len(self._row(value)) for value in self._values(frames_column(self.path, self.options)))

    def frames(self) -> Iterator[np.ndarray]:
        """Frames (h, w, 3) uint8, decoded one after the other."""
        for value in self._values(frames_column(self.path, self.options)):
            for image in self._row(value) if self.is_row else [value]:
                yield decode_image(self._image_bytes(image), f"'{self.path}', episode {self.session}: an image")

    def columns(self) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Actions and rewards of these rows."""
        return self._column(self.action_keys), self._column(REWARD_NAMES)

    def column_names(self) -> list[str]:
        """The columns without images."""
        with parquet_file(self.path) as file:
            return [field.name for field in file.schema_arrow if not _holds_images(field.type)]

    def _column(self, names: Sequence[str]) -> np.ndarray | None:
        with parquet_file(self.path) as file:
            name = next((name for name in names if name in file.schema_arrow.names), None)
        if name is None:
            return None
        values = list(self._values(name))
        try:
            return np.asarray(values[0] if self.is_row else values)
        except ValueError:
            raise self.error(f"its column {name} has values of several lengths") from None

    def _values(self, column: str) -> Iterator[Any]:
        with parquet_file(self.path) as file:
            yield from rows(file, column, self.start, self.stop)

    def _row(self, value: Any) -> list[Any]:
        """The frames of an episode in one row."""
        if not isinstance(value, list):
            raise self.error("it has no list of frames")
        return value

    def _image_bytes(self, value: Any) -> bytes:
        value = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(value, bytes):
            raise self.error("a frame has no bytes of an image")
        return value


def parquet_dataset(name: str, files: Sequence[Path], options: ImportOptions) -> ArrayDataset:
    """The episodes of some Parquet files."""
    found: list[ArraySession] = []
    for path in files:
        for start, stop, is_row in _episodes(path, options):
            found.append(ParquetSession(path, 0, len(found), options, start, stop, is_row))
    return ArrayDataset(name, found)


def _episodes(path: Path, options: ImportOptions) -> Iterator[tuple[int, int, bool]]:
    """Start, stop and whether it is one row of each episode in a file."""
    pa = optional_module("pyarrow", path)
    column = frames_column(path, options)
    with parquet_file(path) as file:
        total, schema = file.metadata.num_rows, file.schema_arrow
        if pa.types.is_list(schema.field(column).type) or pa.types.is_large_list(schema.field(column).type):
            yield from ((row, row + 1, True) for row in range(total))
            return
        name = next((name for name in _EPISODE_NAMES if name in schema.names), None)
        start, before = 0, None
        for row, value in enumerate(rows(file, name, 0, total) if name else ()):
            if row and value != before:
                yield start, row, False
                start = row
            before = value
        if total:
            yield start, total, False


def frames_column(path: Path, options: ImportOptions) -> str:
    """The column with images; UserError where there is none, or several."""
    with parquet_file(path) as file:
        names = [field.name for field in file.schema_arrow if _holds_images(field.type)]
    if options.frames_key:
        found = [name for name in names if name == options.frames_key]
    else:
        found = [name for name in names if name in FRAME_NAMES or name.startswith("observation.")] or names
    if len(found) != 1:
        problem = f"has {'several columns' if found else 'no column'} with images"
        raise UserError(
            f"'{path}' {problem}: choose one by --frames-key ({', '.join(found or names) or 'none is there'})"
        )
    return found[0]


def _holds_images(kind: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        kind = kind.value_type
    if pa.types.is_struct(kind):
        kind = kind.field("bytes").type if kind.get_field_index("bytes") >= 0 else pa.null()
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def rows(file: Any, column: str, start: int, stop: int) -> Iterator[Any]:
    """The values of a column in rows `start` to `stop`, some at a time, from the row groups that hold them."""
    groups: list[int] = []
    first = offset = 0
    for group in range(file.metadata.num_row_groups):
        after = first + file.metadata.row_group(group).num_rows
        if first < stop and after > start:
            offset = offset if groups else first
            groups.append(group)
        first = after
    for batch in file.iter_batches(_ROWS_AT_ONCE, row_groups=groups, columns=[column]) if groups else ():
        values = batch.column(0)
        low, high = max(start - offset, 0), min(stop - offset, len(values))
        if low < high:
            yield from values.slice(low, high - low).to_pylist()
        offset += len(values)


@contextmanager
def parquet_file(path: Path) -> Iterator[Any]:
    """An open Parquet file; UserError where it is damaged, or where PyArrow is not installed."""
    parquet = optional_module("pyarrow.parquet", path)
    try:
        with parquet.ParquetFile(str(path)) as file:
            yield file
    except UserError:
        raise
    # PyArrow's errors are ValueErrors, KeyErrors and OSErrors.
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:150]
        raise UserError(f"'{path}' cannot be read ({reason}): restore or remove it") from None
