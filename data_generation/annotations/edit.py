"""Write one game's annotation into the tables."""

import csv
import io
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from data_generation.annotations.tables import FLAG_COLUMNS, Controls, match_controls, read_table
from data_generation.annotations.validate import (
    ACTIONS,
    CONTROLS,
    EXTRA,
    PLATFORMER,
    CheckedRow,
    Tables,
    shipped_tables,
    tag_errors,
    value_errors,
)
from data_generation.config import PLATFORMER_CONTROLS
from data_generation.data.files import atomic_path, write_atomically

CONTROL_COLUMNS = (*ACTIONS, *FLAG_COLUMNS)
VOCABULARY: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(ACTIONS, CONTROLS),
    **dict.fromkeys(FLAG_COLUMNS, ("YES", "NO")),
    "confidence": EXTRA["confidence"],
}


@dataclass(frozen=True)
class Annotation:
    """One game's row by a person who played it; controls (column -> value) of a platformer only."""

    game: str
    tags: str
    confidence: str = "high"
    controls: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_platformer(self) -> bool:
        return self.tags.split()[-1:] == [PLATFORMER]


def mistakes_in(column: str, value: str) -> str:
    """What is wrong with a value of a column (`tags`, an action, …), in one line; empty = nothing."""
    row = CheckedRow(column, {column: value})
    errors = tag_errors(row) if column == "tags" else value_errors(row, (column,), VOCABULARY[column])
    return "; ".join(error.removeprefix(f"{column}: ") for error in errors)


def tables_in(dpath: Path | None) -> Tables:
    """The three tables of a folder, copied from this project's where missing; None = this project's own."""
    shipped = shipped_tables()
    if dpath is None:
        return shipped
    paths = {name: dpath / path.name for name, path in vars(shipped).items()}
    for name, path in paths.items():
        if not path.exists():
            with atomic_path(path) as temporary:
                shutil.copyfile(getattr(shipped, name), temporary)
    return Tables(**paths)


def present(tables: Tables, game: str) -> dict[str, str]:
    """Column -> value of a game's present rows in the tables; empty without any."""
    behavior = _find(_read(tables.behavior)[1], game) or {}
    controls = _find(_read(tables.controls)[1], game) or {}
    return {**{name: controls[name] for name in CONTROL_COLUMNS if name in controls}, **behavior}


def write(tables: Tables, annotation: Annotation) -> list[str]:
    """Put an annotation into the tables, each written atomically; returns remarks, one line each.

    A platformer gets a row of controls, and its row in the sublist is updated if its controls still fit. Any other game
    loses these rows.
    """
    _update(tables.behavior, annotation.game, {"tags": annotation.tags, **_origin(annotation)}, add=True)
    controls = {**annotation.controls, **_origin(annotation)} if annotation.is_platformer else None
    _update(tables.controls, annotation.game.lower(), controls, add=True)
    belongs = controls is not None and _belongs_to_sublist(annotation)
    was_there = _find(_read(tables.sublist)[1], annotation.game) is not None
    _update(tables.sublist, annotation.game.lower(), controls if belongs else None, add=False)
    if was_there and not belongs:
        return [f"{annotation.game} left {tables.sublist.name}, as its controls differ: choose another game for it"]
    return []


def _origin(annotation: Annotation) -> dict[str, str]:
    return {"source": "played", "confidence": annotation.confidence}


def _belongs_to_sublist(annotation: Annotation) -> bool:
    actions = {name: annotation.controls[name] for name in ACTIONS}
    controls = Controls(annotation.game.lower(), actions, annotation.controls["transition"] == "YES")
    return match_controls(controls, PLATFORMER_CONTROLS) and not controls.transition


def _read(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Columns and rows."""
    table = read_table(path, ["game"])
    return table.columns, [row.cells for row in table.rows]


def _find(rows: list[dict[str, str]], game: str) -> dict[str, str] | None:
    return next((row for row in rows if row["game"].lower() == game.lower()), None)


def _update(path: Path, game: str, cells: Mapping[str, str] | None, add: bool) -> None:
    """Give a game's row these cells, in the columns that the table has; None removes the row.

    `add`: a missing row is inserted in alphabetical order.
    """
    columns, rows = _read(path)
    row = _find(rows, game)
    if cells is None:
        rows = [other for other in rows if other is not row]
    elif row is not None:
        row.update({name: value for name, value in cells.items() if name in columns})
    elif add:
        position = next((i for i, other in enumerate(rows) if other["game"].lower() > game.lower()), len(rows))
        rows.insert(position, {"game": game, **{name: value for name, value in cells.items() if name in columns}})
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    if text.getvalue() != path.read_text(encoding="utf-8-sig"):
        write_atomically(path, text.getvalue())
