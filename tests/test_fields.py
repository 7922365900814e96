"""What a field may hold stands in its type, and is checked before anything is done."""

import dataclasses
import typing
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any

import pytest

from auto_explore.config import AutoExploreConfig
from data_generation.config import GenerateConfig
from data_generation.data.errors import FieldError, UserError
from data_generation.data.fields import (
    FolderName,
    ImageSize,
    Items,
    OneOf,
    PathRule,
    PathText,
    Positive,
    Range,
    TextOrTexts,
    check_fields,
    expand_home,
    expand_paths,
    path_fields,
    split_hint,
)
from data_generation.generate import generate
from external.agent57.config import Agent57Config
from launcher.keys import keys_of
from models.config import ModelConfig, TokenizerConfig
from models.construct_model import build_model
from models.import_checkpoint import ImportConfig
from training.config import GenieReduxConfig

ROOTS = (GenerateConfig, GenieReduxConfig, ImportConfig, AutoExploreConfig, Agent57Config)


@dataclass
class Inner:
    zoom: Annotated[int, Range(1, 8)] = 1
    share: Annotated[float, Range(0, 1, above=True, below=True)] = 0.5
    pair: tuple[Positive, Positive] = (1.0, 1.0)


@dataclass
class Outer:
    inner: Inner = field(default_factory=Inner)
    mode: Annotated[str, OneOf("colour", "grey")] = "colour"
    levels: Annotated[list[Annotated[int, Range(2, 9)]], Items(1, 3)] = field(default_factory=lambda: [2])
    optional: Annotated[int, Range(1, 2)] | None = None
    free: float = 0.0
    weights: dict[str, float] = field(default_factory=dict)
    name: FolderName = ""
    size: ImageSize = 64
    game: TextOrTexts = "all"
    some_dpath: PathText = "."


def changed(key: str, value: Any) -> Outer:
    config = Outer()
    group, _, leaf = key.rpartition(".")
    setattr(attrgetter(group)(config) if group else config, leaf, value)
    return config


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("inner.zoom", [1, 8]),
        ("inner.share", [0.1, 0.9]),
        ("mode", ["colour", "grey"]),
        ("levels", [[2], [9, 2, 3]]),
        ("optional", [None, 1, 2]),
        ("free", [-1e300, 0.0]),
        ("name", ["", "g50", "2024_01", "été", "a b", "x" * 100]),
        ("size", [1, 64, [48, 64], (48, 64)]),
        ("game", [None, "a", ["a", "b"], 2048, [2048]]),
        ("some_dpath", ["", "a/b c", "~", "/x"]),
    ],
)
def test_what_a_type_allows_passes(key, values):
    for value in values:
        check_fields(changed(key, value))


@pytest.mark.parametrize(
    ("key", "values", "problem"),
    [
        ("inner.zoom", [0, -1, -(10**30)], "must be at least 1"),
        ("inner.zoom", [9, 99999999999], "must be at most 8"),
        ("inner.share", [0.0, -1.0], "must be above 0"),
        ("inner.share", [1.0, 1e300], "must be below 1"),
        ("inner.share", [float("nan"), float("inf"), float("-inf")], "must be a finite number"),
        ("inner.pair", [(0.0, 1.0), (1.0, -1.0)], "must be above 0"),
        ("inner.pair", [(1.0, float("nan"))], "must be a finite number"),
        ("free", [float("nan"), float("inf"), float("-inf")], "must be a finite number"),
        ("weights", [{"a": float("nan")}], "must be a finite number"),
        ("mode", ["", "gray"], "use one of colour, grey"),
        ("levels", [[], [2, 2, 2, 2]], "must have 1 to 3 items"),
        ("levels", [[1], [2, 10]], "must be at"),
        ("optional", [0, 3], "must be at"),
        ("name", ["a/b", "..", ".hidden", "a\\b", "a\nb", "a\0", "/", " a", "\u202e"], "names a folder"),
        ("name", ["x" * 101, "é" * 51], "at most 100 bytes"),
        ("size", [0, -1, [0, 64], 10**9], "must be at"),
        ("size", ["x", 1.5, [1, 2, 3], [], True, None, [64.0, 64]], "[height, width]"),
        ("size", [[float("nan"), 1], float("nan")], "must be a finite number"),
        ("game", [1.5, {"a": 1}, [None], [["a"]], True], "a list of texts"),
        ("some_dpath", ["a\0b", "a\nb"], "cannot be printed"),
    ],
)
def test_what_a_type_does_not_allow_is_refused_with_its_key(key, values, problem):
    for value in values:
        with pytest.raises(FieldError) as error:
            check_fields(changed(key, value))
        assert str(error.value).startswith(f"{key}=") and problem in str(error.value)


@pytest.mark.parametrize("root", ROOTS)
def test_defaults_are_allowed(root):
    check_fields(root())


@pytest.mark.parametrize("root", ROOTS)
def test_every_number_has_a_range_and_every_path_is_one(root):
    for key in keys_of(root).values():
        plain, rules = split_hint(key.annotated)
        if plain in (int, float):
            assert any(isinstance(rule, Range) for rule in rules), key.name
        for item in typing.get_args(plain) if typing.get_origin(plain) in (list, tuple) else ():
            if split_hint(item)[0] in (int, float):
                assert any(isinstance(rule, Range) for rule in split_hint(item)[1]), key.name
        if key.name.endswith(("_dpath", "_fpath")):
            assert any(isinstance(rule, PathRule) for rule in rules), key.name


def test_a_tilde_is_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for text, expected in (("~", tmp_path), ("~/a b", tmp_path / "a b"), ("a/~", "a/~"), ("./~x", "./~x")):
        config = Outer(some_dpath=text)
        expand_paths(config)
        assert config.some_dpath == str(expected)
    assert Path(expand_home("to", "~root")).is_absolute()
    with pytest.raises(UserError, match=r"some_dpath=~nobody-has-this-name/x: that home folder is unknown"):
        expand_paths(Outer(some_dpath="~nobody-has-this-name/x"))


def test_paths_are_found_at_any_depth():
    names = {name for name, _ in path_fields(GenerateConfig())}
    assert {"config.data_dpath", "config.connector.annotation_behavior_fpath"} <= names
    assert "config.connector.rom_dpath" not in names


def test_every_field_of_the_roots_is_checked():
    """A number that is refused, at any depth of any configuration."""
    for root in ROOTS:
        for key in keys_of(root).values():
            plain, _ = split_hint(key.annotated)
            if plain not in (int, float):
                continue
            config = root()
            group, _, leaf = key.name.rpartition(".")
            setattr(attrgetter(group)(config) if group else config, leaf, plain(-(10**12)))
            with pytest.raises(FieldError) as error:
                check_fields(config)
            assert error.value.key(error.value.field) == key.name
    assert all(dataclasses.is_dataclass(root) for root in ROOTS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dim": 65_536, "num_blocks": 512}, r"tokenizer.dim=65536: with tokenizer.num_blocks=512 it makes .* weights"),
        ({"heads": 65_536, "dim_head": 65_536}, r"tokenizer.dim=512: .* weights"),
        ({"image_size": 4096, "patch_size": 1}, r"tokenizer.patch_size=1: makes more than 16384 patches"),
    ],
)
def test_sizes_whose_product_no_memory_holds_are_one_line(changes, message):
    with pytest.raises(FieldError, match=message):
        build_model(ModelConfig("tokenizer", TokenizerConfig(**changes)))


def test_more_episodes_than_memory_holds_are_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = GenerateConfig()
    config.config.connector.game = "Cinderfoot-Nes"
    generator = config.config.connector.generator_config
    generator.n_instances, generator.n_sessions = 2000, 20_000  # of the game's 60 levels
    with pytest.raises(FieldError, match=r"config.connector.generator_config.n_sessions=20000: .* 1200000 episodes"):
        generate(config)
    assert not list(tmp_path.iterdir())
