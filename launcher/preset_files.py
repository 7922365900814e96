"""Presets that are not YAML, or that Hydra would take for ever to read: told in one line, before Hydra reads them."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from data_generation.data.errors import UserError
from data_generation.data.reading import read_file

_MAX_BYTES, _MAX_DEPTH, _MAX_NODES = 1 << 20, 50, 100_000
_OPENING = (yaml.MappingStartEvent, yaml.SequenceStartEvent)
_CLOSING = (yaml.MappingEndEvent, yaml.SequenceEndEvent)


def check_presets(config_dpaths: Sequence[Path], overrides: Sequence[str]) -> None:
    """UserError for a preset that an override `<group>=<name>` chooses and that cannot be read."""
    for override in overrides:
        group, _, name = override.lstrip("+").partition("=")
        for dpath in config_dpaths:
            path = dpath / group / f"{name}.yaml"
            # A name may be anything that can be typed.
            if len(name) < 200 and "\0" not in override and path.is_file():
                check_preset(path)


def check_preset(path: Path) -> None:
    """UserError if the file is not YAML, is nested too deeply, or grows beyond all bounds by its aliases."""
    try:
        for event, size in _sizes(read_file(path, _MAX_BYTES).decode()):
            if size > _MAX_NODES:
                raise yaml.YAMLError(f"its aliases make more than {_MAX_NODES} values of it{_place(event.start_mark)}")
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise unreadable(error, path) from error


def unreadable(error: Exception, path: Path | None = None) -> UserError:
    """One line about a preset that YAML refuses."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    where = path or (mark and mark.name)
    name = f"preset '{where}'" if where else "a preset"
    one_line = " ".join(str(problem).split())
    return UserError(f"{name} cannot be read{_place(mark)}: {one_line}: fix the file")


def _place(mark: yaml.Mark | None) -> str:
    return "" if mark is None else f" (line {mark.line + 1}, column {mark.column + 1})"


def _sizes(content: str) -> Iterator[tuple[yaml.Event, int]]:
    """The values of a document as they end, each with the number of values in it, aliases resolved.

    Works on events, which are as many as the file has words: nothing is built.
    """
    anchored: dict[str, int] = {}
    open_nodes: list[tuple[str | None, int]] = []
    for event in yaml.parse(content, yaml.SafeLoader):
        if isinstance(event, _OPENING):
            open_nodes.append((event.anchor, 1))
            if len(open_nodes) > _MAX_DEPTH:
                raise yaml.YAMLError(f"it is nested more than {_MAX_DEPTH} deep{_place(event.start_mark)}")
            continue
        if isinstance(event, yaml.AliasEvent):
            if event.anchor in {anchor for anchor, _ in open_nodes}:
                raise yaml.YAMLError(f"it contains itself{_place(event.start_mark)}")
            anchor, size = None, anchored.get(event.anchor, 1)
        elif isinstance(event, yaml.ScalarEvent):
            anchor, size = event.anchor, 1
        elif isinstance(event, _CLOSING):
            anchor, size = open_nodes.pop()
        else:
            continue
        if anchor is not None:
            anchored[anchor] = size
        if open_nodes:
            open_nodes[-1] = (open_nodes[-1][0], open_nodes[-1][1] + size)
        yield event, size
