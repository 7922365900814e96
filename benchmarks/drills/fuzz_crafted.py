"""Files that are whole by their checksums and wrong by their content, as a foreign or malicious writer makes them."""

import json
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import zstandard

from data_generation.data.index import INDEX_VERSION
from data_generation.data.layout import HEADER_SIZE, Header, pack_columns, unpack_columns

Crafted = tuple[tuple[str, Callable[[Path], None], bool], ...]
Columns = dict[str, np.ndarray]
_INDEX_MAGIC = b"GXI1"
_BOMB_SIZE = 3 << 30


def make_bomb(path: Path) -> None:
    """A valid zstd frame of a few hundred kB that holds 3 GiB of zeros."""
    compressor = zstandard.ZstdCompressor(level=1).compressobj(size=_BOMB_SIZE)
    block = bytes(1 << 24)
    with path.open("wb") as file:
        for _ in range(_BOMB_SIZE >> 24):
            file.write(compressor.compress(block))
        file.write(compressor.flush())


# ---- episodes -----------------------------------------------------------------------------------------------------


def _episode(
    path: Path,
    columns: Callable[[Columns], None] = lambda columns: None,
    attributes: Callable[[dict[str, Any]], None] = lambda attributes: None,
    header: Callable[[Header], Header] = lambda header: header,
    footer: Callable[[bytes], bytes] = lambda footer: footer,
    chunks: Callable[[bytes, Path], bytes] | None = None,
) -> None:
    """Change an episode and make all of its checksums right again."""
    data = path.read_bytes()
    old = Header.unpack(data[:HEADER_SIZE], path, len(data))
    body = data[HEADER_SIZE : old.footer_offset]
    meta, table = unpack_columns(zstandard.ZstdDecompressor().decompress(data[old.footer_offset :]))
    if chunks is not None:
        body = chunks(body, path.parents[2])
        table["chunk_sizes"] = np.array([len(body)], "<u4")
        table["chunk_crcs"] = np.array([zlib.crc32(body)], "<u4")
        old = replace(old, num_chunks=1, chunk_frames=old.num_frames)
    columns(table)
    attributes(meta)
    packed = footer(zstandard.ZstdCompressor().compress(pack_columns(meta, table)))
    new = replace(old, footer_offset=HEADER_SIZE + len(body), footer_size=len(packed), footer_crc=zlib.crc32(packed))
    path.write_bytes(header(new).pack() + body + packed)


def _with(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Columns], None]:
    def apply(columns: Columns) -> None:
        columns[name] = change(columns[name])

    return apply


def _without(name: str) -> Callable[[Any], None]:
    return lambda mapping: mapping.pop(name)


def _set(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda attributes: attributes.__setitem__(key, value)


def _first(value: Any) -> Callable[[np.ndarray], np.ndarray]:
    def change(column: np.ndarray) -> np.ndarray:
        column = column.copy()
        column[0] = value
        return column

    return change


def _described(change: Callable[[dict[str, Any]], None]) -> Callable[[bytes], bytes]:
    """Change the description (JSON) before the columns, whatever it says then."""

    def apply(footer: bytes) -> bytes:
        data = zstandard.ZstdDecompressor().decompress(footer)
        (size,) = struct.unpack_from("<Q", data)
        description = json.loads(data[8 : 8 + size])
        change(description)
        text = json.dumps(description).encode()
        return zstandard.ZstdCompressor().compress(struct.pack("<Q", len(text)) + text + data[8 + size :])

    return apply


def _raw_footer(content: bytes) -> Callable[[bytes], bytes]:
    return lambda footer: zstandard.ZstdCompressor().compress(content)


def _actions_described(dtype: str, shape: list[Any]) -> Callable[[bytes], bytes]:
    def change(description: dict[str, Any]) -> None:
        entry = next(entry for entry in description["columns"] if entry[0] == "actions")
        entry[1:] = [dtype, shape]

    return _described(change)


def _bomb_footer(path: Path) -> None:
    bomb = (path.parents[2] / "bomb.zst").read_bytes()
    _episode(path, footer=lambda footer: bomb)


def _e(name: str, must_refuse: bool = True, **changes: Any) -> tuple[str, Callable[[Path], None], bool]:
    return name, partial(_episode, **changes), must_refuse


_DEEP = b"[" * 200_000
EPISODES: Crafted = (
    *(
        _e(f"chunk_frames={n}", header=lambda h, n=n: replace(h, chunk_frames=n))
        for n in (0, 1, 1 << 31, (1 << 32) - 1)
    ),
    *(_e(f"num_frames={n}", header=lambda h, n=n: replace(h, num_frames=n)) for n in (0, 1, 26, 1 << 31)),
    *(_e(f"num_chunks={n}", header=lambda h, n=n: replace(h, num_chunks=n)) for n in (0, 1 << 31)),
    *(
        _e(f"frame_shape={shape}", header=lambda h, s=shape: replace(h, frame_shape=s))
        for shape in ((0, 16, 16), (3, 0, 16), (1, 16, 48), (4, 16, 12), (3, 8, 32), (3, 65535, 65535), (1 << 31,) * 3)
    ),
    *(_e(f"codec={n}", header=lambda h, n=n: replace(h, codec=n)) for n in (1, 99)),
    _e("footer_size=2^62", header=lambda h: replace(h, footer_size=1 << 62)),
    *(
        _e(f"no column {name}", columns=_without(name))
        for name in ("chunk_sizes", "chunk_crcs", "actions", "rewards", "terminated", "truncated")
    ),
    *(_e(f"first action {value}", columns=_with("actions", _first(value))) for value in (-1, 3, 1000, 1 << 40)),
    *(
        _e(f"actions as {dtype}", columns=_with("actions", partial(np.asarray, dtype=dtype)))
        for dtype in ("<f8", "|b1", "<c16", "<U3")
    ),
    _e("actions 2-D", columns=_with("actions", lambda a: a[:, None])),
    _e("actions too few", columns=_with("actions", lambda a: a[:-1])),
    _e("chunk sizes as floats", columns=_with("chunk_sizes", lambda a: a.astype("<f8"))),
    _e("chunk sizes negative", columns=_with("chunk_sizes", lambda a: np.array([-5, a.sum() + 5], "<i8"))),
    _e("chunk sizes 2-D", columns=_with("chunk_sizes", lambda a: a[None])),
    _e("checksums as floats", columns=_with("chunk_crcs", lambda a: a.astype("<f8"))),
    _e("rewards NaN", columns=_with("rewards", _first(np.nan))),
    _e("rewards infinite", columns=_with("rewards", _first(np.inf))),
    _e("rewards as text", columns=_with("rewards", lambda a: a.astype("<U8"))),
    _e("terminated as numbers", columns=_with("terminated", lambda a: np.full(len(a), 7, "<i8"))),
    _e("info 2-D", columns=lambda c: c.__setitem__("info/x", np.zeros((24, 2)))),
    _e("info as text", columns=lambda c: c.__setitem__("info/x", np.full(24, "a", "<U1"))),
    _e("info with an odd name", False, columns=lambda c: c.__setitem__("info/../\0", np.zeros(24))),
    _e("an unknown column", False, columns=lambda c: c.__setitem__("other", np.zeros(3))),
    *(_e(f"meta without {key}", False, attributes=_without(key)) for key in ("seed", "instance", "game", "policy")),
    *(
        _e(f"meta {key}=null", attributes=_set(key, None))
        for key in ("seed", "instance", "session", "versions", "game")
    ),
    _e("meta seed=text", attributes=_set("seed", "many")),
    _e("meta session=-1", attributes=_set("session", -1)),
    _e("meta policy_parameters=list", attributes=_set("policy_parameters", [1])),
    _e("meta with an unknown key", attributes=_set("colour", 1)),
    *(
        _e(f"actions described as {dtype} {shape}", footer=_actions_described(dtype, shape))
        for dtype, shape in (
            ("|O", [24]),
            ("<M8[s]", [24]),
            ("nonsense", [24]),
            ("<i8", [-1]),
            ("<i8", [1 << 60]),
            ("<i8", [1 << 32, 1 << 32]),
            ("<i8", ["24"]),
            ("<i8", [None]),
            ("|V0", [24]),
            ("i8,f4", [16]),
            ("<i8", []),
        )
    ),
    _e("columns null", footer=_described(lambda d: d.__setitem__("columns", None))),
    _e("columns of two", footer=_described(lambda d: d.__setitem__("columns", [["a", "b"]]))),
    _e("attributes null", footer=_described(lambda d: d.__setitem__("attributes", None))),
    _e("attributes a list", footer=_described(lambda d: d.__setitem__("attributes", [1]))),
    _e("description null", footer=_raw_footer(struct.pack("<Q", 4) + b"null")),
    _e("description deep", footer=_raw_footer(struct.pack("<Q", len(_DEEP)) + _DEEP)),
    _e("description of 2^63 bytes", footer=_raw_footer(struct.pack("<Q", 1 << 63) + b"{}")),
    _e("description not UTF-8", footer=_raw_footer(struct.pack("<Q", 4) + b"\xff\xfe\xfd\xfc")),
    _e("footer of 3 bytes", footer=_raw_footer(b"abc")),
    _e("footer not zstd", footer=lambda footer: b"no zstd at all"),
    _e("footer empty", footer=lambda footer: b""),
    ("footer of 3 GiB", _bomb_footer, True),
    _e("chunk of 3 GiB", chunks=lambda body, root: (root / "bomb.zst").read_bytes()),
    _e("chunk too short", chunks=lambda body, root: zstandard.ZstdCompressor().compress(b"abc")),
    _e("chunk not zstd", chunks=lambda body, root: b"no zstd at all"),
    _e(
        "chunk without its size",
        chunks=lambda body, root: zstandard.ZstdCompressor(write_content_size=False).compress(bytes(25 * 768)),
    ),
)


# ---- indexes ------------------------------------------------------------------------------------------------------


def _index(path: Path, columns: Callable[[Columns], None], attributes: dict[str, Any] | None = None) -> None:
    _, table = unpack_columns(path.read_bytes()[8:])
    columns(table)
    packed = pack_columns({"version": INDEX_VERSION} if attributes is None else attributes, table)
    path.write_bytes(_INDEX_MAGIC + zlib.crc32(packed).to_bytes(4, "little") + packed)


def _raw_index(path: Path, packed: bytes) -> None:
    path.write_bytes(_INDEX_MAGIC + zlib.crc32(packed).to_bytes(4, "little") + packed)


_INDEX_COLUMNS = (
    *("keys", "headers", "num_chunks", "num_actions", "reward_sums", "chunk_sizes", "chunk_crcs", "actions"),
)
INDEXES: Crafted = (
    *((f"no column {name}", partial(_index, columns=_without(name)), True) for name in _INDEX_COLUMNS),
    *(
        (f"{name} halved", partial(_index, columns=_with(name, lambda a: a[: len(a) // 2])), True)
        for name in _INDEX_COLUMNS
    ),
    *(
        (f"{name} as floats", partial(_index, columns=_with(name, lambda a: a.astype("<f4"))), True)
        for name in _INDEX_COLUMNS
    ),
    *(
        (
            f"{name} negative",
            partial(_index, columns=_with(name, lambda a: np.full(a.shape, -3, "<i8"))),
            name != "reward_sums",
        )
        for name in _INDEX_COLUMNS
    ),
    *(
        (
            f"{name} huge",
            partial(_index, columns=_with(name, lambda a: np.full(a.shape, 1 << 60, "<i8"))),
            name != "reward_sums",
        )
        for name in _INDEX_COLUMNS
    ),
    *((f"{name} 2-D", partial(_index, columns=_with(name, lambda a: a[None])), True) for name in _INDEX_COLUMNS),
    ("another version", partial(_index, columns=lambda c: None, attributes={"version": 99}), True),
    ("null description", partial(_raw_index, packed=struct.pack("<Q", 4) + b"null"), True),
    ("deep description", partial(_raw_index, packed=struct.pack("<Q", len(_DEEP)) + _DEEP), True),
    ("three bytes", partial(_raw_index, packed=b"abc"), True),
)


# ---- text files ---------------------------------------------------------------------------------------------------


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _wrap(path: Path, before: bytes, after: bytes) -> None:
    path.write_bytes(before + path.read_bytes() + after)


def _recode(path: Path, encoding: str) -> None:
    path.write_bytes(path.read_text(encoding="utf-8").encode(encoding))


_TEXTS: Crafted = (
    ("UTF-16", partial(_recode, encoding="utf-16"), False),
    ("not UTF-8", partial(_wrap, before=b"\xff\xfe\xfd", after=b""), False),
    ("NUL bytes", partial(_wrap, before=b"\0\0\0", after=b""), False),
    ("NUL bytes at the end", partial(_wrap, before=b"", after=b"\0" * 100), False),
)
JSON_FILES: Crafted = (
    *_TEXTS,
    *((text.decode(), partial(_write, content=text), True) for text in (b"null", b"[]", b"3", b'"x"', b"{}", b"NaN")),
    ("deep", partial(_write, content=_DEEP), True),
    ("deep mappings", partial(_write, content=b'{"a":' * 100_000), True),
    ("a number of 5000 digits", partial(_write, content=b'{"format_version":' + b"9" * 5000 + b"}"), True),
)
YAML_FILES: Crafted = (
    *_TEXTS,
    *(
        (text.decode(), partial(_write, content=text), False)
        for text in (b"null", b"[]", b"- 1", b"x", b"a: [", b"a: &a [*a]")
    ),
    ("deep", partial(_write, content=b"[" * 5000), True),
    (
        "a bomb of aliases",
        partial(
            _write,
            content=b"a: &a [1,1,1,1,1,1,1,1,1,1]\n"
            + b"\n".join(b"%c: &%c [%s]" % (98 + i, 98 + i, b",".join([b"*%c" % (97 + i)] * 10)) for i in range(9)),
        ),
        True,
    ),
    ("a tag that makes objects", partial(_write, content=b"a: !!python/object/apply:os.system ['true']"), True),
    ("an environment variable", partial(_write, content=b"model: ${oc.env:HOME}"), False),
    ("a duplicate key", partial(_write, content=b"train:\n  batch_size: 1\ntrain:\n  batch_size: 2"), False),
)
METRICS: Crafted = (
    *_TEXTS,
    *(
        (text.decode(), partial(_wrap, before=b"", after=text + b"\n"), False)
        for text in (
            b"null",
            b"[]",
            b"3",
            b"{}",
            b'{"step": null}',
            b'{"step": "x"}',
            b'{"step": 1}',
            b'{"step": [1]}',
            b'{"step": NaN, "split": "train"}',
            b'{"step": 1e400, "split": "train"}',
        )
    ),
    ("deep line", partial(_wrap, before=b"", after=_DEEP), False),
    ("a long number", partial(_wrap, before=b"", after=b'{"step": ' + b"9" * 5000 + b"}"), False),
)
TABLES: Crafted = (
    *_TEXTS,
    ("Latin-1", partial(_wrap, before=b"", after=b"Pok\xe9mon-GB,side h pl\n"), False),
    ("no header", partial(_write, content=b"1942-Nes,top free space_shooter\n"), True),
    ("header only", partial(_write, content=b"game,tags\n"), False),
    ("a blank line", partial(_write, content=b"\n"), True),
    ("columns doubled", partial(_write, content=b"game,tags,game,tags\na-Nes,side h pl,b-Nes,top v pl\n"), True),
    ("a cell of 200 kB", partial(_wrap, before=b"", after=b"x" * 200_000 + b",side h pl\n"), False),
    ("an open quote", partial(_wrap, before=b"", after=b'"open,side h pl\n' + b"a,b\n" * 50_000), False),
    ("rows too long", partial(_wrap, before=b"", after=b"a-Nes,side h pl" + b",x" * 100 + b"\n"), False),
    ("rows too short", partial(_wrap, before=b"", after=b"a-Nes\n"), False),
    ("lone carriage returns", partial(_wrap, before=b"", after=b"a-Nes\rb\rc\r"), False),
)
