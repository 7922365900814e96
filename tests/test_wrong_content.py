"""Files that pass their checksums and are wrong: each gives one line with its path, nothing waits or grows.

The drill `benchmarks/drills/fuzz.py` tries thousands; here are the kinds, and mutations of real files.
"""

import json
import os
import shutil
import tracemalloc
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.data import ClipDataset
from data.data_cached import RecordKey, RecordKind, RecordStore
from data_generation.annotations.tables import read_behavior
from data_generation.data.codec import ZstdCodec
from data_generation.data.data import Environment, EpisodeError, EpisodeReader, EpisodeWriter, episode_path
from data_generation.data.episode import EpisodeMeta
from data_generation.data.errors import UserError
from data_generation.data.index import INDEX_FNAME
from data_generation.data.info import DatasetInfo
from data_generation.data.layout import HEADER_SIZE, Header, pack_columns, unpack_columns
from data_generation.generator.tracking import read_boxes
from tests.episode_helpers import SHAPE, age, make_environment, make_frames

Change = Callable[[Any], Any]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment of two episodes and its index."""
    env_dpath = make_environment(tmp_path_factory.mktemp("whole") / "env", 2, num_frames=20)
    age(env_dpath)
    Environment(env_dpath)
    return env_dpath


@pytest.fixture
def env_dpath(whole: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(whole, tmp_path / "env"))


def read_all(env_dpath: Path) -> None:
    """Everything that training and `data` read of an environment."""
    environment = Environment(env_dpath)
    environment.statistics()
    for i in range(environment.num_episodes):
        with environment.open(i) as episode:
            episode.verify()
    clips = ClipDataset(env_dpath, "all", num_frames=4)
    clips.read(list(range(len(clips))))


def error_of(env_dpath: Path, kind: type[Exception] = UserError) -> str:
    """The one line of reading it; neither memory nor time is spent on what a file claims."""
    tracemalloc.start()
    with pytest.raises(kind) as error:
        read_all(env_dpath)
    assert tracemalloc.get_traced_memory()[1] < 64 << 20
    tracemalloc.stop()
    line = str(error.value)
    assert "\n" not in line
    return line


# ---- episodes -------------------------------------------------------------------------------------------------------


def keep(value: Any) -> Any:
    return value


def rewrite(
    path: Path, header: Change = keep, columns: Change = keep, attributes: Change = keep, body: Change = keep
) -> None:
    """Change an episode, with checksums that are right."""
    data = path.read_bytes()
    old = Header.unpack(data[:HEADER_SIZE], path, len(data))
    meta, table = unpack_columns(zstandard.ZstdDecompressor().decompress(data[old.footer_offset :]))
    chunks = body(data[HEADER_SIZE : old.footer_offset])
    if body is not keep:
        table |= {"chunk_sizes": np.array([len(chunks)], "<u4"), "chunk_crcs": np.array([zlib.crc32(chunks)], "<u4")}
        old = replace(old, chunk_frames=old.num_frames, num_chunks=1)
    footer = zstandard.ZstdCompressor().compress(pack_columns(attributes(meta), columns(table)))
    sizes = {"footer_offset": HEADER_SIZE + len(chunks), "footer_size": len(footer)}
    path.write_bytes(header(replace(old, footer_crc=zlib.crc32(footer), **sizes)).pack() + chunks + footer)


@pytest.mark.parametrize(
    "values",
    [
        {"chunk_frames": 0},
        {"chunk_frames": 1 << 31},
        {"num_frames": 0},
        {"num_frames": (1 << 32) - 1, "num_chunks": 1 << 28},
        {"num_chunks": 0},
        {"frame_shape": (3, 0, 10)},
        {"frame_shape": (1 << 31, 1 << 31, 1 << 31)},
        {"frame_shape": (3, 4096, 4096)},
        {"frame_shape": (3, 10, 8)},
        {"codec": 1},
        {"codec": 99},
    ],
    ids=str,
)
def test_a_header_that_contradicts_itself_or_its_file_is_one_line(env_dpath, values):
    path = episode_path(env_dpath, 0, 1)
    rewrite(path, header=lambda old: replace(old, **values))
    assert f"'{path}'" in error_of(env_dpath, EpisodeError)


def column(name: str, change: Change) -> Change:
    return lambda columns: {**columns, name: change(columns[name])}


@pytest.mark.parametrize("name", ["chunk_sizes", "chunk_crcs", "actions", "rewards", "terminated", "truncated"])
@pytest.mark.parametrize("change", ["missing", "too short", "2-D", "of another type"])
def test_a_column_that_is_not_what_is_written_is_one_line(env_dpath, name, change):
    changes: dict[str, Change] = {
        "missing": lambda columns: {key: value for key, value in columns.items() if key != name},
        "too short": column(name, lambda values: values[:-1]),
        "2-D": column(name, lambda values: values[:, None]),
        "of another type": column(name, lambda values: values.astype("<f8")),
    }
    path = episode_path(env_dpath, 0, 1)
    rewrite(path, columns=changes[change])
    assert f"'{path}'" in error_of(env_dpath, EpisodeError)


@pytest.mark.parametrize("action", [-1, 3, 1 << 40])
def test_an_action_without_a_name_is_one_line_before_training(env_dpath, action):
    path = episode_path(env_dpath, 0, 1)
    rewrite(path, columns=column("actions", lambda values: np.where(values == 2, action, values)))
    assert f"'{path}'" in error_of(env_dpath, EpisodeError)
    assert Environment(env_dpath, on_bad_episode="skip").sessions.tolist() == [0]


@pytest.mark.parametrize("reward", [np.nan, np.inf, -np.inf])
def test_a_reward_that_is_no_number_is_one_line(env_dpath, reward):
    rewrite(episode_path(env_dpath, 0, 0), columns=column("rewards", lambda values: np.full_like(values, reward)))
    assert "reward" in error_of(env_dpath, EpisodeError)


ODD_META = [
    *((name, value) for name in ("seed", "instance", "session") for value in (None, [1], "x", 1.5, True)),
    *(("instance", value) for value in (-1, 1 << 70)),
    *(("game", value) for value in (None, 3, ["x"])),
    *(("versions", value) for value in (None, [1], "x", {"a": {}})),
    *(("policy_parameters", value) for value in (None, [1], "x")),
    ("colour", 1),
]


@pytest.mark.parametrize(("name", "value"), ODD_META, ids=str)
def test_meta_data_of_another_type_is_one_line(env_dpath, name, value):
    rewrite(episode_path(env_dpath, 0, 0), attributes=lambda old: {**old, name: value})
    assert name in error_of(env_dpath, EpisodeError)


def bomb(size: int) -> bytes:
    """A few kilobytes that hold so many zeros."""
    compressor = zstandard.ZstdCompressor(level=1).compressobj(size=size)
    parts = [compressor.compress(bytes(1 << 22)) for _ in range(size >> 22)]
    return b"".join([*parts, compressor.flush()])


@pytest.mark.parametrize("part", ["chunk", "footer"])
def test_a_small_file_that_asks_for_gigabytes_gets_nothing(env_dpath, part):
    path, data = episode_path(env_dpath, 0, 1), bomb(1 << 30)
    if part == "chunk":
        rewrite(path, body=lambda old: data)
    else:
        old = Header.unpack(path.read_bytes()[:HEADER_SIZE], path, path.stat().st_size)
        new = replace(old, footer_size=len(data), footer_crc=zlib.crc32(data))
        path.write_bytes(new.pack() + path.read_bytes()[HEADER_SIZE : old.footer_offset] + data)
    assert f"'{path}'" in error_of(env_dpath, EpisodeError)


def test_a_chunk_that_does_not_say_its_size_is_refused():
    data = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(240))
    with pytest.raises(ValueError, match="holds -1 bytes, not 240"):
        ZstdCodec().decode(data, 1, (8, 10, 3))


def test_a_video_of_larger_images_than_it_should_hold_is_refused(tmp_path):
    path = tmp_path / "env/000000/000000.episode"
    with EpisodeWriter(path, EpisodeMeta(), (3, 512, 512), output_mode="video") as writer:
        writer.start(np.zeros((3, 512, 512), np.uint8))
        writer.commit()
    rewrite(path, header=lambda old: replace(old, frame_shape=(3, 64, 64)))
    with EpisodeReader(path) as episode, pytest.raises(EpisodeError, match="chunk 0"):
        episode.frames()


def test_what_cannot_be_read_back_is_not_written(tmp_path):
    path = tmp_path / "env/000000/000000.episode"
    with pytest.raises(UserError, match="frames"):
        EpisodeWriter(path, EpisodeMeta(), (3, 1, 5000))
    frame = make_frames(1)[0]
    for action, reward in ((-1, 0.0), (0, float("nan")), (0, float("inf")), (0, 1e300)):
        with EpisodeWriter(path, EpisodeMeta(), SHAPE) as writer:
            writer.start(frame)
            with pytest.raises(ValueError, match=r"action|reward"):
                writer.step(action, reward, False, False, {}, frame)


# ---- info.json and the index ----------------------------------------------------------------------------------------

ODD_INFOS = [
    *({"name": value} for value in (None, 3, "", "a\0b", [])),
    *({"action_names": value} for value in (None, "ABC", {"A": 1}, [None], [1, 2, 3], [""])),
    *({"frame_shape": value} for value in (None, [3, 8], [3, 8, 10.0], [3, 8, "10"], [3, 8, -10], [3, 8, 1 << 40])),
    *({"frame_shape": value} for value in ([3, 10, 8], [True, 8, 10])),
    *({"connector": value} for value in (None, [], "x", {"n_skip_frames": 0.5}, {"n_skip_frames": [4]})),
    *({"fps": value} for value in ("15", 0, -1, float("nan"), float("inf"), 1e9, [15])),
    *({"format_version": value} for value in (None, 2, "1", True, [1])),
]


@pytest.mark.parametrize("changes", ODD_INFOS, ids=str)
def test_an_odd_info_is_one_line(env_dpath, changes):
    path = env_dpath / "info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    assert str(env_dpath) in error_of(env_dpath)


@pytest.mark.parametrize(
    "changes", [{"name": ""}, {"game": "a\0b"}, {"action_names": ["A", ""]}, {"fps": 0.0}], ids=str
)
def test_an_info_that_cannot_be_read_again_is_not_written(env_dpath, changes):
    before = (env_dpath / "info.json").read_bytes()
    with pytest.raises(UserError, match="cannot be written"):
        replace(DatasetInfo.load(env_dpath), **changes).save(env_dpath)
    assert (env_dpath / "info.json").read_bytes() == before


@pytest.mark.parametrize("name", ["name", "game", "action_names", "frame_shape", "format_version"])
def test_an_info_that_lacks_something_is_one_line(env_dpath, name):
    path = env_dpath / "info.json"
    values = json.loads(path.read_text())
    del values[name]
    path.write_text(json.dumps(values))
    assert str(path) in error_of(env_dpath)


@pytest.mark.parametrize("content", [b"null", b"[]", b"[" * 100_000, b"\xff\xfe\xfd", b'{"a":' + b"9" * 5000, b""])
def test_an_info_of_other_content_is_one_line(env_dpath, content):
    (env_dpath / "info.json").write_bytes(content)
    assert str(env_dpath / "info.json") in error_of(env_dpath)


@pytest.mark.parametrize("change", [lambda a: a[:0], lambda a: a.astype("<f4"), lambda a: np.full(a.shape, -3, "<i8")])
@pytest.mark.parametrize("name", ["keys", "headers", "num_chunks", "num_actions", "chunk_sizes", "actions"])
def test_a_wrong_index_is_built_again(env_dpath, name, change):
    path = env_dpath / INDEX_FNAME
    right = path.read_bytes()
    attributes, columns = unpack_columns(right[8:])
    packed = pack_columns(attributes, {**columns, name: change(columns[name])})
    path.write_bytes(right[:4] + zlib.crc32(packed).to_bytes(4, "little") + packed)
    read_all(env_dpath)
    assert path.read_bytes() == right


# ---- what stands at a path ------------------------------------------------------------------------------------------


def make_folder(path: Path) -> None:
    path.mkdir()


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def link_to_nothing(path: Path) -> None:
    path.symlink_to("nothing")


def link_to_itself(path: Path) -> None:
    path.symlink_to(path.name)


def link_to_zeros(path: Path) -> None:
    path.symlink_to("/dev/zero")


ODD_PLACES = [make_folder, make_fifo, link_to_nothing, link_to_itself, link_to_zeros]


@pytest.mark.parametrize("place", ODD_PLACES)
@pytest.mark.parametrize("file", ["info.json", "000000/000001.episode"])
def test_what_is_no_file_is_one_line(env_dpath, file, place):
    (env_dpath / file).unlink()
    place(env_dpath / file)
    assert str(env_dpath) in error_of(env_dpath)


@pytest.mark.parametrize("place", ODD_PLACES)
def test_what_is_no_index_is_none(env_dpath, place):
    (env_dpath / INDEX_FNAME).unlink()
    place(env_dpath / INDEX_FNAME)
    read_all(env_dpath)


@pytest.mark.parametrize("place", ODD_PLACES)
def test_what_is_no_file_of_token_ids_holds_none(tmp_path, place):
    kind, key = RecordKind("ids", (2, 2), "int64", "<u2", by_clip=True), RecordKey("ab-4-1", 0)
    store, ids = RecordStore(tmp_path), np.zeros((1, 4, 2, 2), np.int64)
    store.add(kind, {})
    folder = next(path for path in tmp_path.iterdir()) / "ab"
    folder.mkdir()
    place(folder / "ab-4-1.ids")
    assert store.read(kind, key, ids) == [0]
    store.write(kind, key, ids)


# ---- tables ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("read", [read_behavior, read_boxes])
@pytest.mark.parametrize(
    "content",
    [
        "game,tags,x,y,w,h\nPokémon-GB,side h pl,1,2,3,4\n".encode("latin-1"),
        "game,tags,x,y,w,h\n".encode("utf-16"),
        b"",
        b"\n",
        b"1942-Nes,top free shooter\n",
        b"game,tags,x,y,w,h,game\na,side h pl,1,2,3,4,b\n",
        b"game,tags,x,y,w,h\n\0a,side h pl,1,2,3,4\n",
        b"game,tags,x,y,w,h\n" + b"x" * 200_000 + b",side h pl,1,2,3,4\n",
        b"game,tags,x,y,w,h\na,side,1,2,3,wide\n",
    ],
    ids=["Latin-1", "UTF-16", "empty", "blank", "no header", "doubled", "NUL", "long cell", "odd cell"],
)
def test_an_odd_table_is_one_line(tmp_path, read, content):
    path = tmp_path / "table.csv"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        read(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


# ---- mutations ------------------------------------------------------------------------------------------------------


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_mutated_files_are_right_or_one_line(whole, tmp_path_factory, data):
    """Bytes of a real file replaced, removed or inserted."""
    env_dpath = Path(shutil.copytree(whole, tmp_path_factory.mktemp("mutated") / "env"))
    path = env_dpath / data.draw(st.sampled_from(["info.json", INDEX_FNAME, "000000/000001.episode"]))
    content = path.read_bytes()
    start = data.draw(st.integers(0, len(content)))
    stop = data.draw(st.integers(start, min(len(content), start + 8)))
    path.write_bytes(content[:start] + data.draw(st.binary(max_size=8)) + content[stop:])
    line = ""
    try:
        read_all(env_dpath)
    except UserError as error:
        line = str(error)
    assert "\n" not in line
    assert str(env_dpath) in line or not line
    if path.suffix == ".episode":
        assert line or path.read_bytes() == content
