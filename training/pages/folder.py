"""Reads what a page shows from a run's or an evaluation's folder.

Files that are missing or damaged are left out, but for metrics.jsonl and metrics.json themselves.
"""

import json
import logging
import math
import re
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from data_generation.data.errors import UserError
from data_generation.data.reading import read_json
from training.pages.curves import Points
from training.tracker import read_metrics

logger = logging.getLogger(__name__)

FACTS_NAME = "run.json"
_TRAINING_MARK, _EVALUATION_MARK = "metrics.jsonl", "metrics.json"
_NOT_METRICS = ("step", "split", "time")
_MAX_SAMPLES, _MAX_FILMS = 6, 6


@dataclass
class RunView:
    """A run, or an evaluation, as a page shows it."""

    path: Path
    facts: dict[str, Any] = field(default_factory=dict)
    # Lines by metric and split; what their x axis is.
    curves: dict[str, dict[str, Points]] = field(default_factory=dict)
    x_label: str = "step"
    # The last value of each curve, or what an evaluation measured.
    values: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    frames_per_second: float | None = None
    # Of one process.
    operations_per_second: float | None = None
    samples: list[Path] = field(default_factory=list)
    films: list[Path] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The last two folders of its path."""
        return "/".join(self.path.resolve().parts[-2:])

    @property
    def product_share(self) -> float | None:
        """The share of the rate of a matrix product that the run reaches, where both are known."""
        rate = self.facts.get("matmul_rate")
        if self.operations_per_second is None or not is_number(rate) or rate <= 0:
            return None
        return self.operations_per_second / rate


def read_run(path: Path) -> RunView:
    """The run or evaluation in a folder. UserError where there is none, which names those below."""
    if (path / _TRAINING_MARK).is_file():
        return _read_training(path)
    if (path / _EVALUATION_MARK).is_file():
        return _read_evaluation(path)
    if not path.is_dir():
        raise UserError(f"'{path}' is not a folder: name the folder of a run or an evaluation")
    marks = [*path.glob(f"*/{_TRAINING_MARK}"), *path.glob(f"*/{_EVALUATION_MARK}")]
    below = ", ".join(sorted(str(mark.parent) for mark in marks)[:5])
    remedy = f"below it are {below}" if below else "name the folder of a run or an evaluation"
    raise UserError(f"'{path}' holds neither {_TRAINING_MARK} nor {_EVALUATION_MARK}: {remedy}")


def read_facts(path: Path) -> dict[str, Any]:
    """The content of a folder's `run.json`; nothing for a run from before there were any, or for a damaged file."""
    try:
        content = read_json(path / FACTS_NAME, "the page goes without it")
    except FileNotFoundError:
        return {}
    except UserError as error:
        logger.warning("%s", error)
        return {}
    return content if isinstance(content, dict) else {}


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values by dotted key."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value from JSON is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def numbers(values: Any) -> dict[str, float]:
    """The finite numbers of a mapping; nothing for anything else."""
    return {str(name): value for name, value in values.items() if is_number(value)} if isinstance(values, dict) else {}


# ---- trainings ------------------------------------------------------------------------------------------------------


def _read_training(path: Path) -> RunView:
    rows, facts = read_metrics(path / _TRAINING_MARK), read_facts(path)
    view = RunView(path, facts, curves_of(rows))
    if any(row["split"] == "play" for row in rows):
        view.x_label = "epoch"
        view.frames_per_second = _median(rows, "play", "steps_per_second")
        view.operations_per_second = _median(rows, "play", "operations_per_second")
    else:
        config = facts.get("config")
        frames = config.get("train.num_frames") if isinstance(config, dict) else None
        view.frames_per_second = _product(_median(rows, "train", "clips_per_second"), frames)
        # Steps of earlier starts may have had other clips.
        first = facts.get("first_step")
        last = [row for row in rows if not is_number(first) or row["step"] > first]
        steps = _median(last, "train", "steps_per_second")
        view.operations_per_second = _product(steps, facts.get("operations_per_step"))
    for metric, lines in view.curves.items():
        view.values |= {f"{split} {metric}": points[-1][1] for split, points in lines.items()}
    view.samples = spread(_numbered(path / "samples", ".png"), _MAX_SAMPLES)
    view.films = [*_numbered(path / "samples", ".gif")[-1:], *spread(_numbered(path / "outputs" / "gifs", ".gif"), 4)]
    return view


def curves_of(rows: Iterable[dict[str, Any]]) -> dict[str, dict[str, Points]]:
    """Lines of (step, value) by metric and split, of the rows of a metrics.jsonl."""
    curves: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for row in rows:
        for metric, value in row.items():
            if metric not in _NOT_METRICS and is_number(value):
                curves.setdefault(metric, {}).setdefault(row["split"], []).append((row["step"], value))
    return {metric: dict(lines) for metric, lines in curves.items()}


def _median(rows: list[dict[str, Any]], split: str, name: str) -> float | None:
    values = [row[name] for row in rows if row["split"] == split and is_number(row.get(name))]
    return float(statistics.median(values)) if values else None


def _product(rate: float | None, size: Any) -> float | None:
    return rate * size if rate is not None and is_number(size) else None


def _numbered(folder: Path, suffix: str) -> list[Path]:
    """A folder's files of a type, by the numbers in their names."""
    paths = [path for path in folder.glob(f"*{suffix}") if path.is_file() and not path.name.startswith(".")]
    return sorted(paths, key=lambda path: ([int(number) for number in re.findall(r"\d+", path.stem)], path.name))


def spread(paths: list[Path], count: int) -> list[Path]:
    """At most `count` of them, evenly spread, the first and the last included."""
    if len(paths) <= count:
        return paths
    return [paths[round(i * (len(paths) - 1) / (count - 1))] for i in range(count)]


# ---- evaluations ----------------------------------------------------------------------------------------------------


def _read_evaluation(path: Path) -> RunView:
    content = read_json(path / _EVALUATION_MARK, "evaluate again")
    content = content if isinstance(content, dict) else {}
    view = RunView(path, _facts_of_evaluation(path, content), x_label="frame", values=numbers(content.get("metrics")))
    per_frame = content.get("per_frame")
    for name, column in per_frame.items() if isinstance(per_frame, dict) else ():
        points = [(t, value) for t, value in enumerate(column, 1) if is_number(value)]
        view.curves[str(name)] = {"": points} if points else {}
    notes = content.get("notes")
    view.notes = [str(note) for note in notes] if isinstance(notes, list) else []
    clips, frames, seconds = (content.get(name) for name in ("num_clips", "num_frames_per_clip", "measuring_seconds"))
    if is_number(clips) and is_number(frames) and is_number(seconds) and seconds > 0:
        view.frames_per_second = clips * frames / seconds
    view.operations_per_second = numbers(content).get("operations_per_second")
    view.samples = [file for name in ("strips.png", "psnr_per_frame.png") if (file := path / name).is_file()]
    films = [path for path in _numbered(path, ".gif") if path.name.startswith("film-")]
    clips = [path for path in _numbered(path, ".gif") if path.name.startswith("clip-")]
    view.films = [*films[: _MAX_FILMS // 2], *clips[: _MAX_FILMS // 2]]
    return view


def _facts_of_evaluation(path: Path, content: dict[str, Any]) -> dict[str, Any]:
    """Those of `run.json`, or what evaluations recorded before there were any."""
    known = ("model", "checkpoint", "step", "dataset", "split", "mode")
    facts = {name: content[name] for name in (*known, "commit", "versions") if name in content} | read_facts(path)
    settings = content.get("settings")
    if "config" not in facts and isinstance(settings, dict):
        facts["config"] = flat(settings)
    return facts


def read_agent_evaluation(path: Path, content: dict[str, Any]) -> RunView:
    """An agent's evaluation: the GIFs in its folder, the mean measures in `content` and those of each epoch."""
    rows = [{"step": epoch, "split": "", **row} for epoch, row in enumerate(content["epochs"], 1)]
    facts = {"checkpoint": content["checkpoint"], "epoch": content["epoch"], **read_facts(path)}
    view = RunView(path, facts, curves_of(rows), "epoch", numbers(content["mean"]))
    view.films = spread(_numbered(path, ".gif"), _MAX_FILMS)
    throughput = numbers(facts.get("throughput"))
    view.frames_per_second = throughput.get("steps_per_second")
    view.operations_per_second = throughput.get("operations_per_second")
    return view


def as_text(value: Any) -> str:
    """A value from JSON as text for a table, of at most 300 characters."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 300 else f"{text[:300]}…"
