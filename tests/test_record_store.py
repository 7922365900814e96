"""The store of records: what was written comes back exactly, and nothing else does."""

import multiprocessing
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data.data_cached import RecordKey, RecordKind, RecordStore, consecutive, used_bytes

IDS = RecordKind("ids", (4, 4), "int64", "<u2", by_clip=True)
KINDS = {
    "ids": IDS,
    "many ids": replace(IDS, stored_dtype="<u4"),
    "errors": RecordKind("errors", (4,), "float32", "<f4", frames_per_value=2, by_clip=True),
}
CLIP_LENGTH = 5


def opened(dpath: Path, *kinds: RecordKind) -> RecordStore:
    store = RecordStore(dpath)
    for kind in kinds or (IDS,):
        store.add(kind, {"of": kind.stored_dtype})
    return store


def record(seed: int, kind: RecordKind = IDS) -> np.ndarray:
    rng, shape = np.random.default_rng(seed), (kind.values_per_clip(CLIP_LENGTH), *kind.shape)
    if kind.dtype == "float32":
        return rng.normal(size=shape).astype(kind.dtype)
    most = np.iinfo(kind.stored_dtype).max
    values = rng.integers(0, most, shape)
    values.flat[0] = most
    return values


def read(store: RecordStore, key: RecordKey, kind: RecordKind = IDS) -> np.ndarray | None:
    found = np.full_like(record(0, kind), -1)[None]
    return None if store.read(kind, key, found) else found[0]


def file_of(dpath: Path, name: str) -> Path:
    (path,) = dpath.glob(f"*/{name[:2]}/{name}.*")
    return path


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_records_come_back_exactly_and_only_where_they_were_stored(tmp_path, kind):
    store = opened(tmp_path, kind)
    keys = [RecordKey(name, number) for name in ("ab", "ac") for number in (0, 2, 7)]
    for i, key in enumerate(keys):
        store.write(kind, key, record(i, kind)[None])
    for i, key in enumerate(keys):
        assert np.array_equal(read(opened(tmp_path, kind), key, kind), record(i, kind))
    assert all(read(store, RecordKey(*key), kind) is None for key in [("ab", 1), ("ab", 8), ("ad", 0)])
    assert file_of(tmp_path, "ab").stat().st_size == 8 * kind.record_size(CLIP_LENGTH)
    shutil.rmtree(tmp_path)  # while a run uses it
    assert read(store, keys[0], kind) is None
    store.write(kind, keys[0], record(0, kind)[None])
    assert read(store, keys[0], kind) is not None
    assert used_bytes(tmp_path) > used_bytes(tmp_path / "nothing") == 0


def test_kinds_and_sources_are_kept_apart(tmp_path):
    store = opened(tmp_path, *KINDS.values())
    store.write(IDS, RecordKey("ab", 0), record(0)[None])
    assert all(read(store, RecordKey("ab", 0), kind) is None for kind in KINDS.values() if kind != IDS)
    other = RecordStore(tmp_path)
    other.add(IDS, {"of": "another tokenizer"})
    assert read(other, RecordKey("ab", 0)) is None


def test_consecutive_records_are_read_together_and_the_missing_ones_named(tmp_path):
    store = opened(tmp_path)
    for number in (2, 3, 5):
        store.write(IDS, RecordKey("ab", number), record(number)[None])
    found = np.full((6, 5, 4, 4), -1)
    assert store.read(IDS, RecordKey("ab", 1), found) == [0, 3, 5]  # 1, 4 and 6; 6 is beyond the file's end
    for i, number in enumerate(range(1, 7)):
        assert np.array_equal(found[i], record(number) if number in (2, 3, 5) else np.full((5, 4, 4), -1))


def test_consecutive_records_are_written_in_one_operation(tmp_path, monkeypatch):
    offsets = []
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: offsets.append(offset) or write(fd, data, offset))
    store = opened(tmp_path)
    store.write(IDS, RecordKey("ab", 3), np.stack([record(i) for i in (3, 4, 5)]))
    assert offsets == [3 * IDS.record_size(CLIP_LENGTH)]
    assert all(np.array_equal(read(store, RecordKey("ab", i)), record(i)) for i in (3, 4, 5))
    assert read(store, RecordKey("ab", 2)) is None


def test_records_that_follow_each_other_in_a_file_go_together():
    keys = [("ab", 0), ("ab", 1), ("ac", 2), None, ("ac", 3), ("ac", 5), ("ac", 4)]
    found = consecutive([key and RecordKey(*key) for key in keys])
    assert [(tuple(first), places.start, places.stop) for first, places in found] == [
        (("ab", 0), 0, 2),
        (("ac", 2), 2, 3),
        (("ac", 3), 4, 5),
        (("ac", 5), 5, 6),
        (("ac", 4), 6, 7),
    ]


def test_records_up_to_the_limit_are_stored(tmp_path, caplog):
    store = RecordStore(tmp_path, max_bytes=2.5 * IDS.record_size(CLIP_LENGTH))
    store.add(IDS, {})
    store.write(IDS, RecordKey("ab", 0), np.stack([record(i) for i in range(3)]))
    store.write(IDS, RecordKey("ac", 0), record(0)[None])
    found = np.stack([record(0)] * 3)
    assert store.read(IDS, RecordKey("ab", 0), found) == [2]
    assert read(store, RecordKey("ac", 0)) is None
    assert caplog.text.count("cache_max_gb is reached") == 1


def test_whatever_a_killed_writer_left_is_no_record(tmp_path):
    store, key = opened(tmp_path), RecordKey("ab", 1)
    store.write(IDS, key, record(0)[None])
    path = file_of(tmp_path, "ab")
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        assert read(store, key) is None
    for position in range(len(whole) // 2, len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 4]) + whole[position + 1 :])
        assert read(store, key) is None
    path.write_bytes(whole[len(whole) // 2 :] * 2)  # the record of another clip
    assert read(store, RecordKey("ab", 0)) is None
    path.rename(path.with_name("abc.ids"))
    assert read(store, RecordKey("abc", 1)) is None


def write_and_check(dpath: Path, first: int) -> None:
    store = opened(dpath)
    for i in [*range(first, first + 60)] * 3:
        key = RecordKey(f"{i % 4:032x}", i % 80)
        assert (found := read(store, key)) is None or np.array_equal(found, record(i % 80))
        store.write(IDS, key, record(i % 80)[None])


def test_several_processes_share_a_store(tmp_path):
    with multiprocessing.get_context("fork").Pool(3) as pool:
        pool.starmap(write_and_check, [(tmp_path, first) for first in (0, 20, 40)])
    store = opened(tmp_path)
    assert all(np.array_equal(read(store, RecordKey(f"{i % 4:032x}", i)), record(i)) for i in range(80))
