"""What `--help` prints."""

import shutil
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from launcher.commands import COMMANDS, PLAIN_COMMANDS

# For its type alone: the overview needs no Hydra.
if TYPE_CHECKING:
    from launcher.session import Session

_MAX_VALUE_WIDTH = 34
# Config groups other than presets, and what their choices are.
_GROUPS = {
    "tokenizer": "Sizes",
    "lam": "Sizes",
    "dynamics": "Sizes",
    "super_resolution": "Sizes",
    "recipe": "Recipes",
}
_OVERVIEW_END = """\
Every command takes overrides, key=value or --key=value; relative paths start at the current folder.
`python run.py <command> [<mode>] --help` shows its presets and keys."""
_COMMAND_END = """\
Any number of overrides, key=value or --key=value; relative paths start at the current folder.
--cfg job   print the configuration instead of running
-m          run one job per value of a key, <key>=<value>,<value> (in parallel: hydra/launcher=local)
--hydra-help            all that Hydra offers
HYDRA_FULL_ERROR=1 in the environment shows the traceback of an error."""

_OWN_PRESETS = "--config-dir=<folder>   presets of your own, in <folder>/config"


def overview(name: str | None = None) -> str:
    """The commands, or the modes of one command, each with what it is for and an example."""
    lines = ["GenieRedux: world models of retro games", "", "python run.py <command> [<mode>] <overrides>", ""]
    for command in COMMANDS:
        if name in (None, command.name):
            lines += [f"  {command.title}", *_wrapped(command.summary, 6), f"      $ {command.examples[0]}", ""]
    for plain_name, plain in PLAIN_COMMANDS.items():
        if name is None:
            lines += [f"  {plain_name}", *_wrapped(plain.summary, 6), ""]
    return "\n".join([*lines, _OVERVIEW_END])


def command_help(session: "Session", overrides: Sequence[str]) -> str:
    """What the command does, examples, presets, and its keys with their values under the chosen preset."""
    command = session.command
    cfg, choices = session.compose(overrides)
    presets = session.choices("config")
    lines = [
        f"python run.py {command.title} {'[config=<preset>] ' if presets else ''}[key=value …]",
        "",
        command.summary,
        "",
        "Examples:",
    ]
    lines += [f"  {example}" for example in command.examples]
    lines += ["", "Presets (config=…):"] if presets else []
    width = max(map(len, presets), default=0)
    for preset in presets:
        comment = _first_comment(folder / "config" / f"{preset}.yaml" for folder in session.config_dpaths)
        lines.append(f"  {preset:<{width}}  {comment}".rstrip())
    for group, title in _GROUPS.items():
        if command.reads(group) and session.choices(group):
            lines.append(f"{title} ({group}=…): {', '.join(session.choices(group))}")
    under = f", with their values under config={choices['config']}" if presets else ""
    lines += ["", f"Keys{under}:"]
    lines += _key_lines(session, cfg)
    end = [_COMMAND_END, *([_OWN_PRESETS] if presets else [])]
    return "\n".join([*lines, "", *end])


def _key_lines(session: "Session", cfg: DictConfig) -> Iterator[str]:
    keys = [key for key in session.keys.values() if not key.is_group and session.command.reads(key.name)]
    tree: Any = OmegaConf.to_container(cfg)
    values = [_value_text(reduce(getitem, key.name.split("."), tree)) for key in keys]
    name_width = max(len(key.name) for key in keys)
    value_width = min(_MAX_VALUE_WIDTH, max(map(len, values)))
    for key, value in zip(keys, values, strict=True):
        head = f"  {key.name:<{name_width}}  {value:<{value_width}}"
        doc_lines = _wrapped(key.doc, len(head) + 2) or [""]
        yield (head + doc_lines[0][len(head) :]).rstrip()
        yield from doc_lines[1:]


def _value_text(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_value_text, value))}]"
    return str(value) if value != "" else "''"


def _wrapped(text: str, indent: int) -> list[str]:
    width = max(indent + 40, min(shutil.get_terminal_size((120, 24)).columns, 140))
    return textwrap.wrap(text, width, initial_indent=" " * indent, subsequent_indent=" " * indent)


def _first_comment(candidates: Iterable[Path]) -> str:
    """The first comment, other than Hydra's directives, of the first of these files that exists."""
    path = next((path for path in candidates if path.is_file()), None)
    if path is None:
        return ""
    comments = [line[1:].strip() for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    return next((comment for comment in comments if not comment.startswith("@package")), "")
