"""Import of Parquet files with encoded images and actions: a row per step, or per episode.

Images are bytes of PNG, JPEG and the like, alone or with their path, as Hugging Face datasets store them. A column
such as `episode_index` says which rows are an episode; without one, each file is.
"""

from bisect import bisect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from data_generation.data.errors import UserError
from data_generation.data.import_arrays import (
    FRAME_NAMES,
    ArrayDataset,
    ArraySession,
    ImportOptions,
    optional_module,
)
from data_generation.data.reading import readable
from data_generation.data.recordings import decode_image

PARQUET_SUFFIXES = (".parquet", ".pq")
# What PyArrow raises for damaged files.
_DAMAGED = (OSError, ValueError, KeyError, TypeError)
_EPISODE_NAMES = ("episode_index", "episode_id", "episode", "trajectory_id", "traj_id")
_ROWS_AT_ONCE = 64
_BYTES_AT_ONCE = 1 << 20


class ParquetReader:
    """Reads columns of Parquet files from front to back: rows that follow those of the last read are not searched for.

    It holds one file open, and of each column in it that was read some rows.
    """

    def __init__(self) -> None:
        self._path: Path | None = None
        self._file: Any = None
        self._columns: dict[str, _Column] = {}

    def schema(self, path: Path) -> Any:
        """The Arrow schema of a file."""
        with readable(path, *_DAMAGED):
            return self._opened(path).schema_arrow

    def values(self, path: Path, name: str, start: int, stop: int, rows_at_once: int) -> Iterator[Any]:
        """The values of a column in rows `start` to `stop`, as far as there are such rows."""
        row = max(start, 0)
        while row < stop:
            with readable(path, *_DAMAGED):
                file = self._opened(path)
                if name not in self._columns:
                    self._columns[name] = _Column(file, name, rows_at_once)
                found = self._columns[name].read(row, stop)
            if not found:
                return
            row += len(found)
            yield from found

    def _opened(self, path: Path) -> Any:
        if path != self._path:
            if self._path is not None:
                self._file.close()
            self._path, self._columns = None, {}
            self._file = _open(path)
            self._path = path
        return self._file


class _Column:
    """A place in a column of an open file. Going back, or into another row group, starts at a row group's first row."""

    def __init__(self, file: Any, name: str, rows_at_once: int) -> None:
        self._file, self._name, self._rows_at_once = file, name, rows_at_once
        groups = range(file.metadata.num_row_groups)
        self._starts = [0, *accumulate(file.metadata.row_group(group).num_rows for group in groups)]
        # Of the row group that is being read: the rows in memory, the first of which is row `_first`, and what follows.
        self._group: int | None = None
        self._first = 0
        self._rows: Any = []
        self._batches: Iterator[Any] = iter(())

    def read(self, start: int, stop: int) -> list[Any]:
        """Values of rows `start` to `stop`, as far as those are in memory then; none after the last row."""
        if start >= self._starts[-1]:
            return []
        group = bisect(self._starts, start) - 1
        if group != self._group or start < self._first:
            self._first, self._rows = self._starts[group], []
            self._batches = self._file.iter_batches(self._rows_at_once, row_groups=[group], columns=[self._name])
        # After an error the place is not known.
        self._group = None
        while start >= self._first + len(self._rows):
            self._first += len(self._rows)
            self._rows = self._next_rows()
        self._group = group
        values: list[Any] = self._rows.slice(start - self._first, stop - start).to_pylist()
        return values

    def _next_rows(self) -> Any:
        batch = next(self._batches, None)
        if batch is None:
            raise OSError("it has fewer rows than it says")
        return batch.column(0)


@dataclass
class ParquetSession(ArraySession):
    """Rows `start` to `stop` of a file; with `is_row`, one row with a list of frames."""

    reader: ParquetReader
    start: int
    stop: int
    is_row: bool = False

    @property
    def part(self) -> str:
        return str(self.start)

    def num_frames(self) -> int:
        if not self.is_row:
            return self.stop - self.start
        return sum(len(self._row(value)) for value in self._values(self._frames_column))

    def frames(self) -> Iterator[np.ndarray]:
        """Frames (h, w, 3) uint8, decoded one after the other."""
        for value in self._values(self._frames_column):
            for image in self._row(value) if self.is_row else [value]:
                yield decode_image(self._image_bytes(image), f"'{self.path}', episode {self.session}: an image")

    def column(self, names: Sequence[str]) -> np.ndarray | None:
        """The values of these rows in the first column of these names that is there."""
        there = self.reader.schema(self.path).names
        name = next((name for name in names if name in there), None)
        if name is None:
            return None
        values = list(self._values(name))
        try:
            return np.asarray(values[0] if self.is_row else values)
        except ValueError:
            raise self.error(f"its column {name} has values of several lengths") from None

    def column_names(self) -> list[str]:
        """The columns without images."""
        return [field.name for field in self.reader.schema(self.path) if not _holds_images(field.type)]

    @property
    def _frames_column(self) -> str:
        return frames_column(self.reader.schema(self.path), self.path, self.options)

    def _values(self, column: str) -> Iterator[Any]:
        # Where a row is an episode it may be all that memory can hold.
        rows_at_once = 1 if self.is_row else _ROWS_AT_ONCE
        return self.reader.values(self.path, column, self.start, self.stop, rows_at_once)

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
    reader = ParquetReader()
    for path in files:
        for start, stop, is_row in _episodes(path, reader, options):
            found.append(ParquetSession(path, 0, len(found), options, reader, start, stop, is_row))
    return ArrayDataset(name, found)


def _episodes(path: Path, reader: ParquetReader, options: ImportOptions) -> Iterator[tuple[int, int, bool]]:
    """Start, stop and whether it is one row of each episode in a file."""
    with parquet_file(path) as file:
        total, schema = file.metadata.num_rows, file.schema_arrow
    pa = optional_module("pyarrow", path)
    kind = schema.field(frames_column(schema, path, options)).type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        yield from ((row, row + 1, True) for row in range(total))
        return
    name = next((name for name in _EPISODE_NAMES if name in schema.names), None)
    start, before = 0, None
    for row, value in enumerate(reader.values(path, name, 0, total, _ROWS_AT_ONCE) if name else ()):
        if row and value != before:
            yield start, row, False
            start = row
        before = value
    if total:
        yield start, total, False


def frames_column(schema: Any, path: Path, options: ImportOptions) -> str:
    """The column with images; UserError where there is none, or several."""
    names = [field.name for field in schema if _holds_images(field.type)]
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


@contextmanager
def parquet_file(path: Path) -> Iterator[Any]:
    """An open Parquet file; UserError where it is damaged, or where PyArrow is not installed."""
    with readable(path, *_DAMAGED), _open(path) as file:
        yield file


def _open(path: Path) -> Any:
    # Read in pieces: otherwise a whole column of a row group, often of the file, is in memory.
    return optional_module("pyarrow.parquet", path).ParquetFile(str(path), buffer_size=_BYTES_AT_ONCE, pre_buffer=False)
