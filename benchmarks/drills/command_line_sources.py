"""Wrong command lines, made from the configuration dataclasses: this drill's only contact with the project's code."""

import dataclasses
import os
import pkgutil
import shutil
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import auto_explore.main  # noqa: F401 - children share what is imported here
import data_generation.annotate
import data_generation.generate  # noqa: F401
import models.import_checkpoint  # noqa: F401
import training.main  # noqa: F401
from benchmarks.drills import tiny_runs
from launcher.commands import COMMANDS, Command
from launcher.main import launch

REFERENCE = Path(__file__).resolve().parents[2] / "tests" / "fixtures" / "reference"


@dataclass(frozen=True)
class Source:
    """A command and a line of it that works in the drill's folder. `plain`: wrong arguments of one without keys."""

    title: str
    line: tuple[str, ...]
    command: Command | None = None
    plain: tuple[str, ...] = ()


@dataclass(frozen=True)
class Line:
    """`arguments` in full; `mark` must stand in the error; `rank` counts the lines of one key."""

    command: str
    arguments: tuple[str, ...]
    what: str
    mark: str
    rank: int
    is_impossible: bool = False
    is_doubtful: bool = False

    @property
    def name(self) -> str:
        return f"{self.command} {self.what}"


# (value, nobody can mean it, it may harm silently)
Value = tuple[str, bool, bool]
_TEXT: Value = ("many", True, False)
_VALUES: dict[type, tuple[Value, ...]] = {
    int: (
        ("-1", False, True),
        ("0", False, True),
        ("99999999999", False, True),
        ("nan", True, False),
        ("inf", True, False),
        ("1.5", True, False),
        _TEXT,
        ("", True, False),
        ("[1]", True, False),
        ("-9999999999999999999999", False, True),
    ),
    float: (
        ("-1", False, True),
        ("nan", True, False),
        ("inf", True, False),
        ("0", False, True),
        ("1e300", False, True),
        _TEXT,
        ("", True, False),
        ("[1]", True, False),
        ("-inf", True, False),
    ),
    bool: (("maybe", True, False), ("2", True, False), ("", True, False), ("[true]", True, False)),
    str: (
        ("nosuchthing", False, False),
        ("", False, False),
        ("[1,2]", False, False),
        ("x" * 300, False, False),
        ("/dev/null", False, False),
        ("a/../../b", False, False),
        ("{a: 1}", False, False),
        ("1e-3", False, False),
    ),
    list: (
        ("many", True, False),
        ("[null]", True, False),
        ("[]", False, False),
        ("{a: 1}", True, False),
        ("[[1]]", True, False),
        ("3", True, False),
    ),
    dict: (("many", True, False), ("[1]", True, False), ("{a: null}", True, False), ("{}", False, False)),
    tuple: (
        ("[1]", True, False),
        ("[nan,1]", True, False),
        ("[-1,2]", False, True),
        ("many", True, False),
        ("[1,1]", False, True),
        ("[a,b]", True, False),
    ),
}
_ANY: tuple[Value, ...] = (
    ("nosuchthing", False, False),
    ("-1", False, True),
    ("0", False, True),
    ("[]", False, False),
    ("nan", True, False),
    ("{a: 1}", True, False),
    ("[null]", True, False),
    ("99999999999", False, True),
    ("[-1,64]", False, True),
    ("[1,2,3]", False, False),
)
_DATA = "data_generation/datasets/" + tiny_runs.DATASET
_PLAIN: dict[str, tuple[str, ...]] = {
    "data": (
        "",
        "nosuch",
        f"inf {_DATA}",
        "info",
        "info nosuch",
        "info .",
        "info /dev/null",
        "info ''",
        f"info {_DATA} --xml",
        f"info {_DATA} {_DATA}",
        "check nosuch",
        "check run.py",
        "check checkpoints",
        "view nosuch",
        f"view {_DATA} --rows 0",
        f"view {_DATA} --rows -1",
        f"view {_DATA} --rows nan",
        f"view {_DATA} --rows 1.5",
        f"view {_DATA} --rows ''",
        f"view {_DATA} --columns 0",
        f"view {_DATA} --columns x",
        f"view {_DATA} --scale 0",
        f"view {_DATA} --scale 99999999",
        f"view {_DATA} --columns 99999999999",
        f"view {_DATA} --rows 99999999999",
        f"view {_DATA} --to /dev/full",
        f"view {_DATA} --to /proc/x/y.png",
        f"view {_DATA} --to {_DATA}",
        f"view {_DATA} --to ''",
        f"view {_DATA} --to sheet.xyz",
        f"view {_DATA} --to {'x' * 300}.png",
        f"export {_DATA}",
        f"export {_DATA} --to",
        f"export {_DATA} --to f --format avi",
        f"export {_DATA} --to f --fps 0",
        f"export {_DATA} --to f --fps nan",
        f"export {_DATA} --to f --fps -5",
        f"export {_DATA} --to f --fps 99999999999",
        f"export {_DATA} --to f --scale 0",
        f"export {_DATA} --to f --scale 100000",
        f"export {_DATA} --to f --max-episodes 0",
        f"export {_DATA} --to f --max-episodes x",
        f"export {_DATA} --to /dev/null",
        f"export {_DATA} --to /proc/x",
        f"export {_DATA} --to /dev/null --format gif",
        f"export {_DATA} --to {_DATA} --format lerobot",
        "export nosuch --to f",
        f"export {_DATA} --to {'x' * 300}",
        f"import {_DATA}",
        f"import {_DATA} --to imported",
        "import nosuch --to imported",
        "import /dev/null --to imported",
        f"import {_DATA} --to /dev/null",
        f"import {_DATA} --to i --on-bad-episode maybe",
        f"import {_DATA} --to i --action-names ''",
        "import checkpoints --to i",
    ),
    "annotate": (
        "nosuch",
        "",
        "Cinderfoot-Nes tags=",
        "Cinderfoot-Nes tags=side",
        "Cinderfoot-Nes tag=x",
        "Cinderfoot-Nes start_frames=-1",
        "Cinderfoot-Nes start_frames=x",
        "Cinderfoot-Nes start_frames=1e9",
        "Cinderfoot-Nes before=NOSUCH",
        "Cinderfoot-Nes before=RIGHT*x",
        "Cinderfoot-Nes before=RIGHT*-1",
        "Cinderfoot-Nes confidence=sure",
        "Cinderfoot-Nes RIGHT=fly_away",
        "Cinderfoot-Nes to=/dev/null",
        "Cinderfoot-Nes rom_dpath=nosuch",
        "Cinderfoot-Nes Airstriker-Genesis 'tags=side h pl'",
        "--nosuch",
        "=x",
        "Cinderfoot-Nes behavior=nosuch.csv",
        "Cinderfoot-Nes control=/dev/null",
    ),
    "demo": ("--nosuch", "extra", "config=demo", "--steps=3"),
    "the launcher": (
        "nosuch",
        "generat",
        "genie_redux",
        "genie_redux trian",
        "auto_explore",
        "auto_explore play",
        "--nosuch",
        "-x",
        "genie_redux train --nosuch",
        "genie_redux train nosuch",
        "generate =",
        "generate config",
        "generate 'config='",
        "genie_redux train --config-dir nosuch",
        "genie_redux train --config-name nosuch",
        "genie_redux train --config-path nosuch",
        "genie_redux train --cfg nosuch",
        "genie_redux train '++a.b=1'",
        "genie_redux train '~train'",
        "genie_redux train '~nosuch'",
        "genie_redux train train.batch_size=1,2",
        "genie_redux train '${x}'",
        "genie_redux train seed='${oc.env:NOSUCH}'",
        "genie_redux train seed='${nosuch}'",
        "genie_redux train hydra.run.dir=/proc/x",
        "genie_redux train hydra.nosuch=1",
        "genie_redux train hydra/launcher=nosuch",
        "genie_redux train config=[a,b]",
        "genie_redux train config=null",
        "genie_redux train train=null",
        "genie_redux train train=3",
        "genie_redux train tokenizer=nosuch",
        "genie_redux train 'train={batch_size:x}'",
    ),
}


def sources() -> tuple[Source, ...]:
    lines = {
        ("generate", None): tiny_runs.generate(sessions=2, config__dname="lines"),
        ("genie_redux", "train"): tiny_runs.train("tokenizer", 2, train__validate_every=2, train__wandb_name="fresh"),
        ("genie_redux", "eval"): tiny_runs.evaluate(),
        ("genie_redux", "import"): ["genie_redux", "import", "source=original.pt", "target=taken"],
        ("auto_explore", "train"): tiny_runs.explore(epochs=2),
        ("auto_explore", "eval"): tiny_runs.explore("eval", epochs=1),
        ("agent57", "train"): tiny_runs.agent57(epochs=2),
        ("agent57", "eval"): tiny_runs.agent57("eval", epochs=1),
    }
    # The others need extras, or serve until they are stopped.
    known = [command for command in COMMANDS if (command.name, command.mode) in lines]
    keyed = [Source(command.title, tuple(lines[command.name, command.mode]), command) for command in known]
    return (*keyed, *(Source(title, (), None, plain) for title, plain in _PLAIN.items()))


def lines_of(source: Source) -> list[Line]:
    if source.command is None:
        import shlex

        prefix = () if source.title == "the launcher" else (source.title,)
        return [
            Line(source.title, (*prefix, *shlex.split(text)), text, "", rank) for rank, text in enumerate(source.plain)
        ]
    lines = []
    for key, hint in _keys(pkgutil.resolve_name(source.command.schema)):
        is_read = not any(key == part or key.startswith(f"{part}.") for part in source.command.unread)
        for rank, (value, impossible, doubtful) in enumerate(_values(hint)):
            text = f"{key}={value}"
            flags = (is_read and impossible, is_read and doubtful)
            lines.append(Line(source.title, (*source.line, text), text, key, rank if is_read else rank + 5, *flags))
        typo = key[:-2] + key[-1] if len(key) > 3 else key + "x"
        lines.append(Line(source.title, (*source.line, f"{typo}=1"), f"{typo}=1", typo, 6, True))
    for preset in ("nosuch", "gymnasium/anny", "tokeniser", ""):
        lines.append(Line(source.title, (*source.line, f"config={preset}"), f"config={preset}", "config", 1, True))
    return lines


def _keys(schema: type, prefix: str = "") -> Iterator[tuple[str, Any]]:
    hints = typing.get_type_hints(schema)
    for field in dataclasses.fields(schema):
        yield prefix + field.name, hints[field.name]
        if dataclasses.is_dataclass(hints[field.name]):
            yield from _keys(hints[field.name], f"{prefix}{field.name}.")


def _values(hint: Any) -> tuple[Value, ...]:
    if dataclasses.is_dataclass(hint):
        return (_TEXT, ("null", True, False), ("[1]", True, False))
    options = [arg for arg in typing.get_args(hint) if arg is not types.NoneType]
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return tuple(value for value in _values(options[0]) if value[0] != "null")
    kind = typing.get_origin(hint) or hint
    return (*_VALUES.get(kind, _ANY), *((("null", True, False),) if kind in _VALUES else ()))


def make_folder(folder: Path) -> bool:
    """A folder with a dataset, a trained model of each kind and an agent."""
    torch.set_num_threads(1)
    folder.mkdir()
    os.chdir(folder)
    for line in (
        tiny_runs.generate(),
        tiny_runs.train("tokenizer"),
        tiny_runs.train("genie_redux_guided"),
        tiny_runs.explore(epochs=1),
        tiny_runs.agent57(epochs=1),
    ):
        if code := launch(line):
            raise SystemExit(code)
    shutil.copy(REFERENCE / "tiny_coinrun" / "tokenizer_model.pt", "original.pt")
    shutil.rmtree("outputs", ignore_errors=True)
    return True


def run_line(folder: Path, line: Line) -> int:
    """Run a line in a copy of the folder; its exit code."""
    shutil.copytree(folder, "copy")
    os.chdir("copy")
    torch.set_num_threads(1)
    return launch(list(line.arguments))
