"""The page of one run, and the page that compares several."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from training.pages.curves import COLOURS, chart, key, short
from training.pages.folder import RunView, as_text
from training.pages.html import Markup, document, image, join, row, section, table, tag

PAGE_NAME = "report.html"
_IMAGE_TYPES = {".png": "image/png", ".gif": "image/gif"}
# Of a page: it stays small enough to send, and cheap to write with each checkpoint.
_MAX_IMAGE_BYTES, _MAX_BYTES = 3 << 20, 12 << 20
_MAX_CHARTS = 80
_FIRST = ("loss", "psnr", "changed_pooled_psnr", "pooled_psnr", "ssim", "mean_return", "reward", "cells")


def run_page(view: RunView) -> bytes:
    """The page of a run or an evaluation."""
    images = _Images()
    films = images.row(view.films)
    return document(
        view.name,
        tag("h1", view.name),
        tag("p", _command_of(view.facts)),
        section("Run", table((), _facts(view))),
        section("Curves", row(_charts(view))),
        section("Samples over time" if view.x_label == "step" else "Samples", images.row(view.samples)),
        section("Videos", films),
        section("Left out of this page", *(tag("p", name) for name in images.left_out)),
        section("Values", table(("metric", "last value"), _values(view)), *(tag("p", note) for note in view.notes)),
        section("Set for this run", _overrides(view.facts)),
        section("Configuration", table(("key", "value"), _config(view.facts).items())),
    )


def comparison_page(views: Sequence[RunView]) -> bytes:
    """Several runs in one page: overlaid curves, and tables of what differs and what came out."""
    names = unique_names(views)
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}
    heads = [join([key(colours[name]), name]) for name in names]
    images = _Images()
    newest = [path for view in views for path in view.samples[-1:]]
    captions = [f"{name}: {view.samples[-1].name}" for name, view in zip(names, views, strict=True) if view.samples]
    return document(
        f"{len(views)} runs",
        tag("h1", f"{len(views)} runs"),
        section("Runs", table(("", *heads), _side_by_side([dict(_facts(view)) for view in views]))),
        section("Curves", row(_common_charts(dict(zip(names, views, strict=True)), colours))),
        section("Values", table(("metric", *heads), _value_rows(views)), *_notes(names, views)),
        section(
            "Configuration that differs",
            table(("key", *heads), _side_by_side([_config(view.facts) for view in views], only_different=True)),
        ),
        section("Newest samples", images.row(newest, captions)),
        section("Left out of this page", *(tag("p", name) for name in images.left_out)),
    )


def unique_names(views: Sequence[RunView]) -> list[str]:
    """The runs' names, with as much of their paths as tells them apart; numbered where even that does not."""
    names = [view.name for view in views]
    if len(set(names)) < len(names):
        names = [str(view.path) for view in views]
    return [name if names.count(name) == 1 else f"{name} ({i})" for i, name in enumerate(names, 1)]


# ---- what a run is --------------------------------------------------------------------------------------------------


def _command_of(facts: Mapping[str, Any]) -> str:
    """The command line, as far as it is known."""
    if not facts.get("command"):
        return ""
    preset = [f"config={facts['preset']}"] if facts.get("preset") not in (None, "", "default") else []
    return f"python run.py {facts['command']} {shlex.join([*preset, *_texts(facts.get('overrides'))])}".rstrip()


def _facts(view: RunView) -> Iterator[tuple[str, str]]:
    facts = view.facts
    for name in ("preset", "started", "model", "checkpoint", "step", "epoch", "dataset", "split", "mode", "validation"):
        if facts.get(name) not in (None, ""):
            yield name, as_text(facts[name])
    earlier = facts.get("earlier")
    for start in earlier if isinstance(earlier, list) else ():
        yield "started before", as_text(start)
    if parameters := facts.get("parameters"):
        yield "trained parameters", as_text(parameters)
    yield "code", as_text(facts.get("commit") or "unknown (no git)")
    for name in ("versions", "hardware"):
        if isinstance(facts.get(name), dict):
            yield name, ", ".join(f"{key} {as_text(value)}" for key, value in facts[name].items())
    if view.frames_per_second is not None:
        yield "throughput", f"{short(view.frames_per_second)} frames/s"
    if (share := view.product_share) is not None:
        rate = short(facts["matmul_rate"] / 1e9)
        yield "FLOP utilisation", f"{share:.1%} of {rate} GFLOP/s, the measured matmul peak of one process"
    memory = facts.get("peak_memory_gb")
    for name, value in memory.items() if isinstance(memory, dict) else ():
        yield f"peak memory of the {name}", f"{as_text(value)} GB"


def _config(facts: Mapping[str, Any]) -> dict[str, str]:
    config = facts.get("config")
    return {str(name): as_text(value) for name, value in config.items()} if isinstance(config, dict) else {}


def _overrides(facts: Mapping[str, Any]) -> Markup:
    """What differs from the preset."""
    if not isinstance(facts.get("overrides"), list) or not facts.get("command"):
        return Markup()
    pairs = [text.partition("=")[::2] for text in _texts(facts["overrides"])]
    preset = as_text(facts.get("preset") or "default")
    if not pairs:
        return tag("p", f"Nothing: all is as in config={preset}.")
    return join([tag("p", f"In addition to config={preset}:"), table(("key", "value"), pairs)])


def _texts(values: Any) -> list[str]:
    return [as_text(value) for value in values] if isinstance(values, list) else []


# ---- curves and tables ----------------------------------------------------------------------------------------------


def _charts(view: RunView) -> Iterator[Markup]:
    for metric in _ordered(view.curves)[:_MAX_CHARTS]:
        lines = view.curves[metric]
        yield chart(metric, lines, view.x_label, {split: _colour_of(split) for split in lines})


def _colour_of(split: str) -> str:
    """The same for a split in all plots."""
    known = ("train", "validation", "test", "play")
    return COLOURS[known.index(split) if split in known else 0]


def _common_charts(views: Mapping[str, RunView], colours: Mapping[str, str]) -> Iterator[Markup]:
    """A plot for each metric and split, with a line for each run that has it."""
    lines: dict[tuple[str, str], dict[str, Any]] = {}
    for name, view in views.items():
        for metric, splits in view.curves.items():
            for split, points in splits.items():
                lines.setdefault((metric, split), {})[name] = points
    order = _ordered([metric for metric, _ in lines])
    x_label = " / ".join(sorted({view.x_label for view in views.values()}))
    for metric, split in sorted(lines, key=lambda pair: order.index(pair[0]))[:_MAX_CHARTS]:
        yield chart(f"{split} {metric}".strip(), lines[metric, split], x_label, colours)


def _ordered(metrics: Mapping[str, Any] | Sequence[str]) -> list[str]:
    """Metrics, the ones to look at first in front."""
    return sorted(metrics, key=lambda name: _FIRST.index(name) if name in _FIRST else len(_FIRST))


def _values(view: RunView) -> Iterator[tuple[str, str]]:
    yield from ((name, short(value)) for name, value in view.values.items())


def _value_rows(views: Sequence[RunView]) -> Iterator[list[str]]:
    names = dict.fromkeys(name for view in views for name in view.values)
    for name in names:
        yield [name, *(short(view.values[name]) if name in view.values else "" for view in views)]


def _notes(names: Sequence[str], views: Sequence[RunView]) -> Iterator[Markup]:
    """What qualifies the runs' values: each line once, with the runs that have it."""
    for note in dict.fromkeys(note for view in views for note in view.notes):
        having = ", ".join(name for name, view in zip(names, views, strict=True) if note in view.notes)
        yield tag("p", f"{having}: {note}")


def _side_by_side(columns: Sequence[Mapping[str, str]], only_different: bool = False) -> Iterator[list[str]]:
    for name in dict.fromkeys(name for column in columns for name in column):
        cells = [column.get(name, "") for column in columns]
        if not only_different or len(set(cells)) > 1:
            yield [name, *cells]


# ---- images ---------------------------------------------------------------------------------------------------------


class _Images:
    """Puts images into a page, as long as there is room."""

    def __init__(self) -> None:
        self.left_out: list[str] = []
        self._room = _MAX_BYTES

    def row(self, paths: Sequence[Path], captions: Sequence[str] = ()) -> Markup:
        """The images next to each other; those that are too large, or gone, are noted."""
        names = captions or [path.name for path in paths]
        return row([made for path, name in zip(paths, names, strict=True) if (made := self._image(path, name))])

    def _image(self, path: Path, caption: str) -> Markup:
        try:
            size = path.stat().st_size
            if size <= min(_MAX_IMAGE_BYTES, self._room):
                self._room -= size
                return image(path.read_bytes(), _IMAGE_TYPES[path.suffix], caption)
            self.left_out.append(f"{path.name}: {size >> 20} MB")
        except OSError as error:
            self.left_out.append(f"{path.name}: {error.strerror}")
        return Markup()
