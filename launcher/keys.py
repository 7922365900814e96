"""The keys that a configuration dataclass has: their types, their documentation, and the nearest one to a typo."""

import ast
import dataclasses
import inspect
import io
import textwrap
import tokenize
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cache
from typing import Any

_TYPE_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
# Below this likeness (0 to 1) a suggestion would be noise.
_MIN_LIKENESS = 0.6


@dataclass(frozen=True)
class Key:
    """One key: its dotted name, its type, and the comment beside its definition."""

    name: str
    type: Any
    doc: str

    @property
    def is_group(self) -> bool:
        return dataclasses.is_dataclass(self.type)

    @property
    def is_open(self) -> bool:
        """Whether keys that no dataclass names may stand below this one (dictionaries, lists, free values)."""
        return self.type is Any or typing.get_origin(self.type) in (dict, list)


def keys_of(schema: type, prefix: str = "") -> dict[str, Key]:
    """All keys of a dataclass and of the dataclasses in it, by dotted name, in the order of their definition."""
    hints, docs = typing.get_type_hints(schema), comments_of(schema)
    keys: dict[str, Key] = {}
    for field in dataclasses.fields(schema):
        key = Key(prefix + field.name, hints[field.name], docs.get(field.name, ""))
        keys[key.name] = key
        if key.is_group:
            keys |= keys_of(key.type, f"{key.name}.")
    return keys


def is_known(name: str, keys: Mapping[str, Key]) -> bool:
    """Whether `name` is a key, or stands below one that takes anything."""
    parts = name.split(".")
    above = (".".join(parts[:n]) for n in range(1, len(parts)))
    return name in keys or any(key in keys and keys[key].is_open for key in above)


@cache
def comments_of(schema: type) -> Mapping[str, str]:
    """Field name → the comments above its definition and beside it, those of inherited dataclasses included."""
    docs: dict[str, str] = {}
    for cls in reversed(schema.__mro__):
        if dataclasses.is_dataclass(cls):
            docs |= _comments_in(textwrap.dedent(inspect.getsource(cls)))
    return types.MappingProxyType(docs)


def _comments_in(source: str) -> dict[str, str]:
    above: dict[int, str] = {}
    beside: dict[int, str] = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            line, column = token.start
            own_line = not token.line[:column].strip()
            (above if own_line else beside)[line] = token.string.lstrip("# ")
    docs: dict[str, str] = {}
    class_node = ast.parse(source).body[0]
    assert isinstance(class_node, ast.ClassDef)
    for node in class_node.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            first = node.lineno
            while first - 1 in above:
                first -= 1
            lines = [above[line] for line in range(first, node.lineno)] + [beside.get(node.end_lineno or 0, "")]
            docs[node.target.id] = " ".join(line for line in lines if line)
    return docs


def type_words(hint: Any) -> str:
    """What a value of this type looks like, for an error message."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join("null" if arg is types.NoneType else type_words(arg) for arg in args)
    if origin is tuple:
        return f"a list of {len(args)} values, [a,b]"
    if origin is list:
        return "a list, [a,b]"
    if origin is dict:
        return "a mapping, {key:value}"
    if dataclasses.is_dataclass(hint):
        return "one of the keys below it"
    return _TYPE_WORDS.get(hint, "another type")


def nearest_name(name: str, candidates: Iterable[str]) -> str | None:
    """The candidate most like `name`, or None if none is like it."""
    scored = [(_likeness(name, candidate), candidate) for candidate in candidates]
    score, best = max(scored, key=lambda pair: pair[0], default=(0.0, ""))
    return best if score >= _MIN_LIKENESS else None


def nearest_key(name: str, keys: Iterable[str], preferred: str = "") -> str | None:
    """The key that was probably meant by `name`, misspelt or without its group; None if nothing is like it.

    Of keys equally like it (`train.batch_size`, `eval.batch_size`), one below `preferred` wins.
    """
    group, _, leaf = name.rpartition(".")

    def score(key: str) -> float:
        key_group, _, key_leaf = key.rpartition(".")
        leaf_score = _likeness(leaf, key_leaf)
        in_preferred = 0.01 if preferred and key.startswith(f"{preferred}.") else 0.0
        if not group:
            return leaf_score + in_preferred
        return max(0.7 * leaf_score + 0.3 * _likeness(group, key_group), _likeness(name, key)) + in_preferred

    best = max(keys, key=score, default=None)
    return best if best is not None and score(best) >= _MIN_LIKENESS else None


def _likeness(a: str, b: str) -> float:
    return SequenceMatcher(None, a.lower(), b.lower()).ratio()
