"""The keys that a configuration dataclass has: their types, their documentation, and the nearest one to a typo."""

import ast
import dataclasses
import inspect
import textwrap
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cache
from itertools import takewhile
from typing import Any

from data_generation.data.fields import OneOf, split_hint, takes_text

_TYPE_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
# Below this likeness (0 to 1) a suggestion would be noise.
_MIN_LIKENESS = 0.6


@dataclass(frozen=True)
class Key:
    """One key: its dotted name, its type with and without rules, and the comment at its definition."""

    name: str
    type: Any
    annotated: Any
    comment: str

    @property
    def doc(self) -> str:
        """The values that it may have, if they are few, and the comment."""
        choices = (" | ".join(rule.words) for rule in split_hint(self.annotated)[1] if isinstance(rule, OneOf))
        return "; ".join(filter(None, (*choices, self.comment)))

    @property
    def takes_text(self) -> bool:
        """Whether its values, or the items of its lists and mappings, are texts."""
        return takes_text(self.annotated)

    @property
    def is_optional(self) -> bool:
        """Whether null is the absence of a value."""
        return self.type is Any or types.NoneType in typing.get_args(self.type)

    @property
    def is_group(self) -> bool:
        return dataclasses.is_dataclass(self.type)

    @property
    def is_open(self) -> bool:
        """Whether keys that no dataclass names may stand below this one (dictionaries, lists, free values)."""
        return self.type is Any or typing.get_origin(self.type) in (dict, list)


def keys_of(schema: type, prefix: str = "") -> dict[str, Key]:
    """All keys of a dataclass and of the dataclasses in it, by dotted name, in the order of their definition."""
    annotated, comments = typing.get_type_hints(schema, include_extras=True), comments_of(schema)
    hints = typing.get_type_hints(schema)
    keys: dict[str, Key] = {}
    for field in dataclasses.fields(schema):
        name = field.name
        key = Key(prefix + name, hints[name], annotated[name], comments.get(name, ""))
        keys[key.name] = key
        if key.is_group:
            keys |= keys_of(key.type, f"{key.name}.")
    return keys


def key_of(name: str, keys: Mapping[str, Key]) -> Key | None:
    """The key of that name, or the one above it that takes anything; None if there is none."""
    parts = name.split(".")
    above = (".".join(parts[:n]) for n in range(1, len(parts)))
    return keys.get(name) or next((keys[key] for key in above if key in keys and keys[key].is_open), None)


@cache
def comments_of(schema: type) -> Mapping[str, str]:
    """Field name → the comment above its definition or at the end of its line, those of inherited fields included."""
    docs: dict[str, str] = {}
    for cls in filter(dataclasses.is_dataclass, reversed(schema.__mro__)):
        source = textwrap.dedent(inspect.getsource(cls))
        lines = source.splitlines()
        (class_node,) = ast.parse(source).body
        assert isinstance(class_node, ast.ClassDef)
        for node in class_node.body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                assert node.end_lineno is not None
                before = reversed(lines[: node.lineno - 1])
                comments = [*takewhile(lambda line: line.lstrip().startswith("#"), before)][::-1]
                # The syntax tree counts columns in bytes.
                comments.append(lines[node.end_lineno - 1].encode()[node.end_col_offset :].decode())
                docs[node.target.id] = " ".join(comment.strip().lstrip("# ") for comment in comments).strip()
    return types.MappingProxyType(docs)


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


def did_you_mean(name: str, known: Iterable[str], otherwise: str, preferred: str = "") -> str:
    """What an error message suggests for `name`: the nearest of the known names, or something else if none is near."""
    near = nearest(name, known, preferred)
    return f"did you mean '{near}'?" if near else otherwise


def nearest(name: str, known: Iterable[str], preferred: str = "") -> str | None:
    """The name that was probably meant by `name`, misspelt or without its group; None if nothing is like it.

    Of keys equally like it (`train.batch_size`, `eval.batch_size`), one below `preferred` wins.
    """
    group, _, leaf = name.rpartition(".")

    def score(candidate: str) -> float:
        known_group, _, known_leaf = candidate.rpartition(".")
        likeness = _likeness(leaf, known_leaf)
        if group:
            likeness = max(0.7 * likeness + 0.3 * _likeness(group, known_group), _likeness(name, candidate))
        return likeness + (0.01 if preferred and candidate.startswith(f"{preferred}.") else 0.0)

    best = max(known, key=score, default=None)
    return best if best is not None and score(best) >= _MIN_LIKENESS else None


def _likeness(a: str, b: str) -> float:
    return SequenceMatcher(None, a.lower(), b.lower()).ratio()
