"""How the fuzz drill spoils a file: its bytes, the values in it, and what stands at its path."""

import copy
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

Random = random.Random


# ---- bytes --------------------------------------------------------------------------------------------------------


def flip_bits(data: bytearray, rng: Random) -> None:
    for _ in range(rng.choice((1, 1, 2, 8))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def zero_run(data: bytearray, rng: Random) -> None:
    start, size = _run(data, rng)
    data[start : start + size] = bytes(size)


def truncate(data: bytearray, rng: Random) -> None:
    del data[rng.randrange(len(data)) :]


def duplicate_run(data: bytearray, rng: Random) -> None:
    start, size = _run(data, rng)
    data[start:start] = data[start : start + size]


def swap_runs(data: bytearray, rng: Random) -> None:
    size = rng.randint(1, max(1, min(64, len(data) // 2)))
    a, b = rng.randrange(len(data) - size + 1), rng.randrange(len(data) - size + 1)
    data[a : a + size], data[b : b + size] = data[b : b + size], data[a : a + size]


def absurd_number(data: bytearray, rng: Random) -> None:
    """Four or eight bytes that read as zero, a negative or a huge number; half of them in the first 100 bytes."""
    number = rng.choice((b"\xff" * 4, b"\x00" * 4, b"\xff\xff\xff\x7f", b"\xff" * 7 + b"\x7f", b"\x00\x00\x00\x80"))
    start = rng.randrange(min(len(data), 100) if rng.random() < 0.5 else len(data))
    data[start : start + len(number)] = number


def insert_noise(data: bytearray, rng: Random) -> None:
    start = rng.randrange(len(data) + 1)
    data[start:start] = rng.randbytes(rng.randint(1, 64))


def append_noise(data: bytearray, rng: Random) -> None:
    data += rng.randbytes(rng.randint(1, 200))


def _run(data: bytearray, rng: Random) -> tuple[int, int]:
    start = rng.randrange(len(data))
    return start, min(rng.choice((1, 8, 64, 512)), len(data) - start)


BYTE_MUTATIONS = (
    flip_bits,
    zero_run,
    truncate,
    duplicate_run,
    swap_runs,
    absurd_number,
    insert_noise,
    append_noise,
)


def spoil_bytes(path: Path, number: int, rng: Random) -> str:
    """Apply the `number`-th mutation (they take turns); its name."""
    mutation = BYTE_MUTATIONS[number % len(BYTE_MUTATIONS)]
    data = bytearray(path.read_bytes())
    mutation(data, rng)
    path.write_bytes(data)
    return mutation.__name__


# ---- what stands at a path ----------------------------------------------------------------------------------------


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _folder(path: Path) -> None:
    _remove(path)
    path.mkdir()


def _fifo(path: Path) -> None:
    _remove(path)
    os.mkfifo(path)


def _link_to_nothing(path: Path) -> None:
    _remove(path)
    path.symlink_to("nowhere")


def _link_to_itself(path: Path) -> None:
    _remove(path)
    path.symlink_to(path.name)


def _endless(path: Path) -> None:
    _remove(path)
    path.symlink_to("/dev/zero")


def _unreadable(path: Path) -> None:
    path.chmod(0)
    if os.geteuid() == 0:  # root reads everything
        os.setgroups([])
        for folder in (path.parent, *path.parents):
            if os.stat(folder).st_uid == 0 and not os.stat(folder).st_mode & 0o005:
                folder.chmod(0o755)
        os.setegid(65534)
        os.seteuid(65534)


PATH_MUTATIONS: tuple[Callable[[Path], None], ...] = (
    _empty,
    _folder,
    _fifo,
    _link_to_nothing,
    _link_to_itself,
    _endless,
    _unreadable,
)


# ---- values -------------------------------------------------------------------------------------------------------

Edit = tuple[str, Any, bool]  # what was done, the spoilt content, and whether reading it must be refused
_DELETED = object()


def spoilt_values(content: Any, rng: Random, count: int) -> Iterator[Edit]:
    """`count` copies of nested dictionaries, lists, numbers, texts and tensors, each with one value spoilt."""
    places = list(_places(content, ()))
    tensors = [where for where in places if isinstance(_at(content, where), torch.Tensor)]
    others = [where for where in places if where not in tensors]
    for _ in range(count):
        where = rng.choice(tensors if tensors and rng.random() < 0.5 else others)
        old = _at(content, where)
        name, new, must_refuse = rng.choice(_spoilt(old, rng))
        yield f"{'.'.join(map(str, where)) or 'all'} -> {name}", _replaced(content, where, new), must_refuse


def _places(value: Any, where: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    yield where
    if isinstance(value, dict):
        for key in value:
            yield from _places(value[key], (*where, key))
    elif isinstance(value, list | tuple):
        for i in range(min(len(value), 3)):
            yield from _places(value[i], (*where, i))


def _at(value: Any, where: tuple[Any, ...]) -> Any:
    for key in where:
        value = value[key]
    return value


def _replaced(content: Any, where: tuple[Any, ...], new: Any) -> Any:
    if not where:
        return None if new is _DELETED else new
    key, rest = where[0], where[1:]
    out = copy.copy(content) if isinstance(content, dict) else list(content)
    if rest:
        out[key] = _replaced(content[key], rest, new)
    elif new is _DELETED:
        del out[key]
    else:
        out[key] = new
    return tuple(out) if isinstance(content, tuple) else out


def _spoilt(old: Any, rng: Random) -> list[Edit]:
    """Values in place of `old`, named; True: nobody can mean this."""
    if isinstance(old, torch.Tensor):
        return _spoilt_tensors(old, rng)
    nothing: list[Edit] = [("null", None, old is not None), ("deleted", _DELETED, False)]
    other_types: list[Edit] = [("a list", [[], None], True), ("a mapping", {"a": {}}, True)]
    if isinstance(old, bool):
        return [*nothing, *other_types, ("text", "perhaps", True)]
    if isinstance(old, int | float):
        strange: list[Edit] = [("NaN", float("nan"), True), ("infinity", float("inf"), True), ("text", "many", True)]
        odd: list[Edit] = [("0", 0, False), ("-1", -1, False), ("2^40", 1 << 40, False), ("10^30", 10**30, False)]
        return [*nothing, *other_types, *strange, *odd]
    if isinstance(old, str):
        return [*nothing, *other_types, ("a number", 3, False), ("empty text", "", False), ("odd text", "\0/..", False)]
    if isinstance(old, dict):
        return [*nothing, ("a list", [1], True), ("text", "x", True), ("empty", {}, False)]
    if isinstance(old, list | tuple):
        longer = [*old, *old, *old]
        return [
            *nothing,
            ("a mapping", {"a": 1}, True),
            ("text", "x", True),
            ("empty", [], False),
            ("nulls", [None] * max(1, len(old)), True),
            ("three times", longer, False),
        ]
    return [*nothing, ("text", "x", False), *other_types]


def _spoilt_tensors(old: torch.Tensor, rng: Random) -> list[Edit]:
    one_bad = old.clone(memory_format=torch.contiguous_format)
    if one_bad.numel() and one_bad.is_floating_point():
        one_bad.view(-1)[rng.randrange(one_bad.numel())] = float("nan")
    edits: list[Edit] = [
        ("null", None, True),
        ("deleted", _DELETED, True),
        ("text", "x", True),
        ("a number", 1.5, True),
        ("empty tensor", torch.zeros(0), True),
        ("two dimensions more", old[None, None], True),
        ("2^50 elements", torch.zeros(1).expand(1 << 25, 1 << 25), True),
        ("complex", old.to(torch.complex64), True),
    ]
    if old.is_floating_point():
        edits += [
            ("NaN", torch.full_like(old, float("nan")), bool(old.numel())),
            ("one NaN", one_bad, bool(old.numel())),
            ("infinity", torch.full_like(old, float("inf")), bool(old.numel())),
            ("whole numbers", old.to(torch.int64), True),
            ("truth values", old.to(torch.bool), True),
        ]
    return edits
