"""`data import` of Parquet files: in which order their rows are read, and how often."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_generation.data.errors import UserError
from data_generation.data.import_parquet import ParquetReader
from tests.import_helpers import imported
from tests.test_import_arrays import frames_of, png

parquet, pa = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")


@pytest.fixture
def numbers(tmp_path: Path) -> list[Path]:
    """Two files of 100 rows, in row groups of 30, whose columns count."""
    paths = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    for k, path in enumerate(paths):
        table = pa.table({"x": np.arange(100) + 1000 * k, "y": [str(i + 1000 * k) for i in range(100)]})
        parquet.write_table(table, path, row_group_size=30)
    return paths


def test_values_are_those_of_the_rows_in_whatever_order_they_are_read(numbers):
    """Several reads at a time, of which some are left unfinished."""
    reader, rng = ParquetReader(), np.random.default_rng(0)
    reads: list[tuple[Any, list[Any]]] = []
    for _ in range(300):
        k, name = int(rng.integers(2)), "xy"[rng.integers(2)]
        start, stop = np.sort(rng.integers(-5, 110, 2)).tolist()
        values = [i + 1000 * k for i in range(max(start, 0), min(stop, 100))]
        reads.append((reader.values(numbers[k], name, start, stop, 8), [str(i) if name == "y" else i for i in values]))
        read, expected = reads[rng.integers(len(reads))]
        for _ in range(rng.integers(40)):
            assert next(read, None) == (expected.pop(0) if expected else None)
    for read, expected in reads:
        assert list(read) == expected


def test_a_damaged_row_is_an_error_each_time_and_others_are_read(numbers):
    content = bytearray(numbers[0].read_bytes())
    column = parquet.ParquetFile(numbers[0]).metadata.row_group(1).column(0)
    content[column.data_page_offset : column.data_page_offset + column.total_compressed_size] = bytes(
        column.total_compressed_size
    )
    numbers[0].write_bytes(content)
    reader = ParquetReader()
    for _ in range(2):
        with pytest.raises(UserError, match=r"a.parquet' cannot be read \(.*\): restore or remove it"):
            list(reader.values(numbers[0], "x", 28, 35, 8))
        assert list(reader.values(numbers[0], "x", 25, 30, 8)) == list(range(25, 30))
        assert list(reader.values(numbers[0], "x", 60, 70, 8)) == list(range(60, 70))


@pytest.mark.parametrize("is_row", [False, True])
def test_an_import_reads_each_row_a_few_times_however_many_episodes_there_are(tmp_path, is_row, monkeypatch):
    """All episodes are in one row group."""
    num_episodes, length = 40, 70
    images = [png(frame) for frame in frames_of(0, length)]
    numbers = np.arange(length) % 3
    if is_row:
        table = pa.table({"image": [images] * num_episodes, "action": [numbers.tolist()] * num_episodes})
    else:
        table = pa.table(
            {
                "image": images * num_episodes,
                "action": np.tile(numbers, num_episodes),
                "episode_index": np.repeat(np.arange(num_episodes), length),
            }
        )
    parquet.write_table(table, tmp_path / "toy.parquet")
    num_read = 0
    read = parquet.ParquetFile.iter_batches

    def counted(self: Any, *arguments: Any, **options: Any) -> Any:
        nonlocal num_read
        for batch in read(self, *arguments, **options):
            num_read += len(batch)
            yield batch

    monkeypatch.setattr(parquet.ParquetFile, "iter_batches", counted)
    assert imported(tmp_path / "toy.parquet").num_frames.tolist() == [length] * num_episodes
    # Images once, actions twice, episode_index once; and the beginning again.
    assert num_read < 5 * len(table) + 10 * length


def test_a_row_group_is_not_in_memory_as_a_whole(tmp_path):
    images = [np.random.default_rng(k).bytes(10_000) for k in range(2000)]
    path = tmp_path / "large.parquet"
    parquet.write_table(pa.table({"image": images}), path, use_dictionary=False, write_batch_size=16)
    before, reader = pa.total_allocated_bytes(), ParquetReader()
    read = reader.values(path, "image", 0, 2000, 8)
    assert next(read) == images[0]
    # Of 20 MB.
    assert pa.total_allocated_bytes() - before < 6_000_000
