"""Read the RetroAct tables and select games by what they say.

Behaviour table: columns `game,tags` with tags = "<view> <motion axis> <genre>". Control table: columns `game` (lower
case), one per action, then `transition` and `Background_Changes` (YES | NO). Further columns, such as `source` and
`confidence`, may follow; files without them are fine.
"""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from data_generation.data.errors import UNSET, FieldError, MissingPathError, UserError
from data_generation.data.reading import read_file, shortened

ANNOTATIONS_DPATH = Path(__file__).parent
FLAG_COLUMNS = ("transition", "Background_Changes")
EXTRA_COLUMNS = ("source", "confidence")


@dataclass(frozen=True)
class TableRow:
    """A row as it is in the file: the number of its last line, and text by column ("" where the row is too short)."""

    line: int
    cells: dict[str, str]


@dataclass(frozen=True)
class Table:
    """A CSV file: the names of its columns, without spaces around them, and its rows."""

    columns: list[str]
    rows: list[TableRow]


@dataclass(frozen=True)
class Behavior:
    """A game's annotated behaviour; game as Stable-Retro names it, without the version suffix."""

    game: str
    view: str
    motion: str
    genre: str
    source: str = ""
    confidence: str = ""

    @property
    def platform(self) -> str:
        return platform_of(self.game)


@dataclass(frozen=True)
class Controls:
    """What a game's actions do at its start state (action name -> right, jump, none, …); game in lower case."""

    game: str
    actions: Mapping[str, str]
    transition: bool
    source: str = ""
    confidence: str = ""


@dataclass(frozen=True)
class Filters:
    """Allowed values per column, in any case; empty = any."""

    view: list[str] = field(default_factory=list)
    motion: list[str] = field(default_factory=list)
    genre: list[str] = field(default_factory=list)
    platform: list[str] = field(default_factory=list)

    def match(self, row: Behavior) -> bool:
        """Whether the row has one of the allowed values in every column."""
        for name in ("view", "motion", "genre", "platform"):
            allowed = [value.lower() for value in getattr(self, name)]
            if allowed and getattr(row, name).lower() not in allowed:
                return False
        return True

    def __str__(self) -> str:
        return ", ".join(f"{name}={values}" for name, values in vars(self).items() if values)


def without_version(game: str) -> str:
    """A game's id without the suffix that newer versions of Stable-Retro add."""
    return re.sub(r"-v\d+$", "", game)


def platform_of(game: str) -> str:
    """Platform of a game id without version suffix: the part after the last dash."""
    return game.rsplit("-", 1)[-1]


def table_path(fpath: str, field: str) -> Path:
    """A table by path, or by its name among the tables next to this file. MissingPathError names `field`."""
    for candidate in (Path(fpath), ANNOTATIONS_DPATH / fpath):
        if candidate.is_file():
            return candidate
    problem = "no such table, here or in data_generation/annotations"
    raise MissingPathError(field, fpath, problem, "give the path of one")


def read_behavior(path: Path) -> list[Behavior]:
    """The behaviour table, in its order. UserError names file, line and what is wrong."""
    rows = []
    for line, row in _read(path, ("game", "tags")):
        tags = row["tags"].split()
        if "new" in tags:  # a mark for games that nobody has annotated yet
            continue
        if len(tags) < 3:
            raise UserError(f"{path}:{line}: tags '{row['tags']}' of {row['game']} are not '<view> <motion> <genre>'")
        view, motion, genre = tags[:3]
        rows.append(Behavior(row["game"], view, motion, genre, row.get("source", ""), row.get("confidence", "")))
    return rows


def read_controls(path: Path) -> dict[str, Controls]:
    """The control table by lower-case game. UserError names file and column."""
    table = {}
    for _, row in _read(path, ("game",)):
        game = row["game"].lower()
        actions = {name: value for name, value in row.items() if name not in ("game", *FLAG_COLUMNS, *EXTRA_COLUMNS)}
        transition = row.get("transition", "").upper() == "YES"
        table[game] = Controls(game, actions, transition, row.get("source", ""), row.get("confidence", ""))
    return table


def match_controls(controls: Controls, action_map: Mapping[str, str]) -> bool:
    """Whether each action's annotation holds its regular expression. FieldError if the table lacks an action.

    And if there is no such expression.
    """
    for action, pattern in action_map.items():
        if action not in controls.actions:
            problem = f"the control table has no column '{action}'"
            raise FieldError("action_map", UNSET, problem, f"it has {', '.join(controls.actions)}")
        try:
            found = re.search(pattern, controls.actions[action], re.IGNORECASE)
        except re.error as error:
            problem, remedy = f"is no regular expression ({error})", "write it as 'climb|none' or '^jump$'"
            raise FieldError(f"action_map.{action}", pattern, problem, remedy) from None
        if not found:
            return False
    return True


def select_by_controls(games: Iterable[str], path: Path, action_map: Mapping[str, str]) -> list[str]:
    """The games that the control table lists with controls matching `action_map`, in the given order."""
    table = read_controls(path)
    return [game for game in games if game.lower() in table and match_controls(table[game.lower()], action_map)]


def read_table(path: Path, required: Iterable[str] = ()) -> Table:
    """A CSV file with a header, as text in UTF-8. UserError names the file and what is wrong with it."""
    try:
        text = read_file(path).decode("utf-8-sig")
        if "\0" in text:
            raise ValueError("it holds NUL characters")
        reader = csv.DictReader(io.StringIO(text, newline=""))
        columns = [name.strip() for name in reader.fieldnames or []]
        rows = [
            TableRow(reader.line_num, {name: row[own] or "" for name, own in zip(columns, row, strict=False)})
            for row in reader
        ]
    except UserError:
        raise
    except (ValueError, csv.Error) as error:
        raise UserError(f"{path}: not a table of comma-separated text in UTF-8 ({error}): save it as such") from None
    if missing := [name for name in required if name not in columns]:
        raise UserError(f"{path}: no column '{missing[0]}'; it has {shortened(', '.join(columns) or 'none', 200)}")
    if doubled := [name for name in columns if columns.count(name) > 1]:
        raise UserError(f"{path}: two columns are named '{doubled[0]}': rename or remove one")
    return Table(columns, rows)


def _read(path: Path, required: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows with their line numbers; those without a game are omitted, cells stripped."""
    for row in read_table(path, required).rows:
        cells = {name: value.strip() for name, value in row.cells.items()}
        if cells["game"]:
            yield row.line, cells
