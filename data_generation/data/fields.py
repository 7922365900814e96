"""What a field of a configuration may hold. It stands in the field's type and is checked once, at the door:

    @dataclass
    class CameraConfig:
        fps: Positive = 30.0
        zoom: Annotated[int, Range(1, 8)] = 1
        mode: Annotated[str, OneOf("colour", "grey")] = "colour"

    check_fields(CameraConfig(zoom=9))          # FieldError: zoom=9: must be at most 8

NaN and infinity are refused for every float. Upper ends are there for slips of the keyboard: far beyond what anybody
wants, and below what would stall or overflow.
"""

import dataclasses
import math
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Protocol

from data_generation.data.errors import FieldError, MissingPathError

_MAX_NAME_BYTES = 100
# What a place on the Hugging Face hub begins with.
HUB = "hf://"


class Rule(Protocol):
    """What is asked of a value beyond its type."""

    def problem(self, value: Any) -> str | None:
        """What is wrong with the value; None if nothing is."""


@dataclass(frozen=True)
class Range:
    """A number from `least` to `most`, both included unless `above` or `below` leaves that end out."""

    least: float
    most: float
    above: bool = False
    below: bool = False

    def problem(self, value: float) -> str | None:
        if value < self.least or (self.above and value == self.least):
            return f"must be {'above' if self.above else 'at least'} {self.least}"
        if value > self.most or (self.below and value == self.most):
            return f"must be {'below' if self.below else 'at most'} {self.most:.12g}"
        return None


class OneOf:
    """One of some words."""

    def __init__(self, *words: str):
        self.words = words

    def problem(self, value: str) -> str | None:
        return None if value in self.words else f"is unknown; use one of {', '.join(self.words)}"


@dataclass(frozen=True)
class Items:
    """A list of `least` to `most` items."""

    least: int
    most: int

    def problem(self, value: list[Any]) -> str | None:
        return None if self.least <= len(value) <= self.most else f"must have {self.least} to {self.most} items"


class _FolderName:
    def problem(self, value: str) -> str | None:
        if value.startswith(".") or value != value.strip() or not value.isprintable() or set(value) & set("/\\"):
            return "names a folder; use no separators, no leading dot, no other than printable characters"
        if len(value.encode()) > _MAX_NAME_BYTES:
            return f"names a folder; use at most {_MAX_NAME_BYTES} bytes"
        return None


class PathRule:
    """A path; with `on_hub` it may be a place on the hub, too."""

    def __init__(self, on_hub: bool = False):
        self.on_hub = on_hub

    def problem(self, value: str) -> str | None:
        if value.startswith(HUB) and not self.on_hub:
            return "is a place on the model hub; this key takes paths of this machine only"
        return None if value.isprintable() else "is a path with characters that cannot be printed"


@dataclass(frozen=True)
class OnHub:
    """Marks a text that may name a model or a dataset (`kind`) on the hub, as `hf://<owner>/<name>[@<revision>]`.

    `below`: the field with the folder that gets a copy; without it, the text becomes the path of a cached copy.
    """

    kind: str
    below: str = ""

    def problem(self, value: str) -> str | None:
        return None


class _Text:
    """Marks a field of type Any whose values are a text, or a list of texts."""

    def problem(self, value: Any) -> str | None:
        texts = value if isinstance(value, list) else [value]
        # A YAML file may hold a number where a text is meant.
        good = all(isinstance(text, str | int) and not isinstance(text, bool) for text in texts)
        return None if value is None or good else "expected a text, or a list of texts"


class _Resume:
    def problem(self, value: Any) -> str | None:
        return None if isinstance(value, bool) or value == "auto" else "expected true, false or auto"


class _ImageSize:
    def problem(self, value: Any) -> str | None:
        sizes = value if isinstance(value, list | tuple) else [value, value]
        if len(sizes) != 2 or not all(isinstance(size, int) and not isinstance(size, bool) for size in sizes):
            return "expected a number of pixels, or [height, width]"
        return next((problem for size in sizes if (problem := _PIXELS.problem(size))), None)


class _Arguments:
    def problem(self, value: Any) -> str | None:
        good = isinstance(value, dict) and all(isinstance(name, str) for name in value)
        return None if value is None or good else "expected a mapping, {name:value}"


_PIXELS = Range(1, 4096)

Count = Annotated[int, Range(1, 10**6)]
# Where 0 means none, all or never.
CountOrZero = Annotated[int, Range(0, 10**9)]
NumSteps = Annotated[int, Range(1, 10**9)]
# Of tensors and layers.
Size = Annotated[int, Range(1, 65_536)]
NumLayers = Annotated[int, Range(1, 512)]
Pixels = Annotated[int, _PIXELS]
# Frames of a clip.
NumFrames = Annotated[int, Range(1, 100_000)]
NumWorkers = Annotated[int, Range(0, 1024)]
NumProcesses = Annotated[int, Range(1, 1024)]
Minutes = Annotated[float, Range(0, 10_000, above=True)]
Seed = Annotated[int, Range(0, 2**32 - 1)]
Positive = Annotated[float, Range(0, 1e6, above=True)]
NotNegative = Annotated[float, Range(0, 1e6)]
Fraction = Annotated[float, Range(0, 1)]
FractionBelow1 = Annotated[float, Range(0, 1, below=True)]
PositiveFraction = Annotated[float, Range(0, 1, above=True)]
# A text that becomes the name of a folder.
FolderName = Annotated[str, _FolderName()]
# A file or folder; `~` and `~user` at its start are home folders.
PathText = Annotated[str, PathRule()]
# Paths, or places on the hub.
ModelPath = Annotated[str, PathRule(on_hub=True), OnHub("model")]
DatasetPath = Annotated[str, PathRule(on_hub=True), OnHub("dataset")]
ModelFolder = Annotated[str, OnHub("model")]
# A folder below `dataset_root_dpath`, or a place on the hub.
DatasetName = Annotated[str, OnHub("dataset", below="dataset_root_dpath")]
TextOrTexts = Annotated[Any, _Text()]
ImageSize = Annotated[Any, _ImageSize()]
Precision = Annotated[str, OneOf("auto", "fp32", "bf16")]
WandbMode = Annotated[str, OneOf("auto", "online", "offline", "disabled")]
# Whether an agent's run is resumed: true, false, or auto.
Resume = Annotated[Any, _Resume()]
# What gets the metrics of a run besides its folder.
Trackers = Annotated[list[Annotated[str, OneOf("wandb", "tensorboard")]], Items(0, 2)]
# Keyword arguments. A dictionary's type would refuse names that its default has not.
Arguments = Annotated[Any, _Arguments()]


def check_fields(config: Any) -> None:
    """FieldError for the first value of a configuration, a dataclass with further ones in it, that a type refuses."""
    for leaf in leaves(config):
        if problem := problem_of(leaf.value, leaf.hint):
            raise FieldError(leaf.key, leaf.value, problem)


def problem_of(value: Any, hint: Any) -> str | None:
    """What is wrong with a value of an annotated type; None if nothing is."""
    plain, rules = split_hint(hint)
    if value is None and plain is not Any:
        return None
    if isinstance(value, float) and not math.isfinite(value):
        return "must be a finite number"
    # OmegaConf takes a list or a mapping for an item of a list of texts.
    if plain in (str, int, float, bool) and isinstance(value, list | tuple | dict):
        return "must be a single value, not a list or a mapping"
    for item, item_hint in _items(value, plain):
        if problem := problem_of(item, item_hint):
            return problem
    return next((problem for rule in rules if (problem := rule.problem(value))), None)


def split_hint(hint: Any) -> tuple[Any, tuple[Rule, ...]]:
    """The type without `Optional` and `Annotated`, and the rules that stand in it."""
    rules: tuple[Rule, ...] = ()
    while True:
        origin, args = typing.get_origin(hint), typing.get_args(hint)
        if origin is Annotated:
            hint, rules = args[0], rules + tuple(args[1:])
        elif origin in (typing.Union, types.UnionType):
            (hint,) = [arg for arg in args if arg is not types.NoneType]
        else:
            return hint, rules


def takes_text(hint: Any) -> bool:
    """Whether values of this type, or the items of its lists and mappings, are texts."""
    plain, rules = split_hint(hint)
    if typing.get_origin(plain) in (list, dict):
        return takes_text(typing.get_args(plain)[-1])
    return plain is str or any(isinstance(rule, _Text) for rule in rules)


def path_fields(config: Any) -> Iterator[tuple[str, str]]:
    """(dotted name, value) of each path in a configuration that is set."""
    yield from ((leaf.key, leaf.value) for leaf in leaves(config) if leaf.value and _is_path(leaf.hint))


def expand_paths(config: Any) -> None:
    """Replace `~` and `~user` at the start of each path in a configuration by the home folder."""
    for leaf in leaves(config):
        if leaf.value and _is_path(leaf.hint):
            leaf.replace(expand_home(leaf.key, leaf.value))


def expand_home(field: str, text: str) -> str:
    """The path with the home folder for `~` or `~user` at its start; the error names `field`."""
    if not text.startswith("~"):
        return text
    try:
        return str(Path(text).expanduser())
    except RuntimeError as error:
        raise MissingPathError(field, text, "that home folder is unknown", "a name with a tilde is ./~…") from error


def _is_path(hint: Any) -> bool:
    return any(isinstance(rule, PathRule) for rule in split_hint(hint)[1])


@dataclass(frozen=True)
class Leaf:
    """A value of a configuration, its dotted name, its annotated type, and the dataclass that holds it."""

    key: str
    value: Any
    hint: Any
    holder: Any

    def replace(self, value: Any) -> None:
        """Put another value in its place."""
        setattr(self.holder, self.key.rpartition(".")[2], value)


def leaves(config: Any, prefix: str = "") -> Iterator[Leaf]:
    """The values of a configuration, a dataclass with further ones in it."""
    hints = typing.get_type_hints(type(config), include_extras=True)
    for field in dataclasses.fields(config):
        key, value = prefix + field.name, getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from leaves(value, f"{key}.")
        else:
            yield Leaf(key, value, hints[field.name], config)


def _items(value: Any, hint: Any) -> Iterator[tuple[Any, Any]]:
    """The items of a list, tuple or mapping with their types."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is list:
        yield from ((item, args[0]) for item in value)
    elif origin is tuple:
        yield from zip(value, args, strict=True)
    elif origin is dict:
        yield from ((item, args[1]) for item in value.values())
    elif isinstance(value, list):
        # Of a field of type Any.
        yield from ((item, Any) for item in value)
