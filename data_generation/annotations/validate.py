"""Check the RetroAct tables; report their statistics and how far the two readings behind them agree.

    python -m data_generation.annotations.validate                     # this project's tables
    python -m data_generation.annotations.validate --behavior my.csv   # a table of your own instead of one of them

Prints the figures of docs/results/retro_act.md as Markdown tables. If a table breaks a rule it prints one line per
error instead, with file, line and game, and exits with 1.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

from stable_retro import data as retro_data

from data_generation.annotations.tables import (
    FLAG_COLUMNS,
    match_controls,
    read_behavior,
    read_controls,
    read_table,
    table_path,
    without_version,
)
from data_generation.config import PLATFORMER_CONTROLS
from data_generation.data.errors import UserError
from data_generation.data.markdown import markdown_table

TAGS = {
    "view": ("side", "top", "3p", "1p", "multi"),
    "motion": ("h", "v", "free", "fixed", "tube"),
    "genre": (
        *("pl", "pl_fly", "space_shooter", "shooter", "fight", "action", "sport", "race", "maze", "grid", "pong"),
        *("pinball", "tetris", "sim", "other"),
    ),
}
ACTIONS = ("RIGHT", "LEFT", "UP", "DOWN", "ACTION_JUMP", "ACTION_SECONDARY")
CONTROLS = (
    *("right", "left", "up", "down", "jump", "crouch", "climb", "none", "shoot", "strike", "punch", "kick", "fly"),
    *("throw", "run", "look", "enter", "dash", "whip", "swing", "slide", "roll", "special", "spin", "block"),
)
EXTRA = {"source": ("knowledge", "played"), "confidence": ("high", "medium", "low")}
PLATFORMER = "pl"
ALL_TAGS = "all three"
# Games of Stable-Retro's stable set that the table omits because they cannot be played. None so far.
OMITTED: frozenset[str] = frozenset()
# Games of Stable-Retro; this project's own games may be added.
SUBLIST_SIZE = 50
SUBLIST_REQUIRED = (
    "AdventureIslandII-Nes",
    "SuperMarioBros-Nes",
    "Flintstones-Genesis",
    "TinyToonAdventuresBustersHiddenTreasure-Genesis",
    "BronkieTheBronchiasaurus-Snes",
    "Smurfs-Genesis",
)
READINGS_DPATH = Path(__file__).parent / "readings"
OWN_GAMES_DPATH = Path(__file__).resolve().parents[2] / "external"


@dataclass(frozen=True)
class Tables:
    """The three tables that are checked together."""

    behavior: Path
    controls: Path
    sublist: Path


@dataclass(frozen=True)
class CheckedRow:
    """A table's row exactly as in the file; `where` is "file:line: game"."""

    where: str
    cells: Mapping[str, str]

    @property
    def game(self) -> str:
        return self.cells["game"]


@dataclass(frozen=True)
class Agreement:
    """How far two readings give a column the same value. kappa is None where only one value occurs."""

    column: str
    num_games: int
    num_equal: int
    kappa: float | None


def shipped_tables() -> Tables:
    """This project's tables. FileNotFoundError if one is missing."""
    return Tables(
        behavior=table_path("RetroAct.csv", "--behavior"),
        controls=table_path("RetroAct_control.csv", "--controls"),
        sublist=table_path("RetroAct_control_50_sublist.csv", "--sublist"),
    )


def stable_games() -> set[str]:
    """Stable-Retro's stable set, without version suffixes."""
    return {without_version(game) for game in retro_data.list_games(retro_data.Integrations.STABLE)}


def own_games() -> set[str]:
    """Games that are part of this project: external/<game>/integration/<id>."""
    return {without_version(dpath.name) for dpath in OWN_GAMES_DPATH.glob("*/integration/*") if dpath.is_dir()}


def check(tables: Tables) -> list[str]:
    """Every broken rule of the tables, one line each; empty if all is well."""
    stable, own = stable_games(), own_games()
    behavior, controls, sublist = _rows(tables.behavior), _rows(tables.controls), _rows(tables.sublist)
    errors = check_behavior(behavior, tables.behavior, stable, own)
    # The other tables are checked against this one.
    if errors:
        return errors
    platformers = {row.game for row in read_behavior(tables.behavior) if row.genre == PLATFORMER}
    errors += check_controls(controls, tables.controls, platformers)
    return errors + check_sublist(sublist, tables, {row.game: row.cells for row in controls}, platformers - own)


def check_behavior(rows: Sequence[CheckedRow], path: Path, stable: set[str], own: set[str]) -> list[str]:
    """Columns, vocabulary, duplicates, unknown ids and games that are missing."""
    missing = _missing_columns(rows, path, ("game", "tags"))
    if missing:
        return missing
    errors = _duplicates(rows) + _extra_values(rows)
    for row in rows:
        if row.game not in stable | own:
            errors.append(f"{row.where}: unknown to Stable-Retro; write ids without '-v0', see its list_games()")
        elif row.game in OMITTED:
            errors.append(f"{row.where}: listed as not playable in OMITTED; remove it from one of the two")
        errors += tag_errors(row)
    present = {row.game for row in rows}
    missing = sorted(stable - OMITTED - present)
    return errors + [f"{path}: {game}: no row; annotate it or name it in OMITTED" for game in missing]


def check_controls(rows: Sequence[CheckedRow], path: Path, platformers: set[str]) -> list[str]:
    """Columns, vocabulary, duplicates, and one row for each platformer and for no other game."""
    missing = _missing_columns(rows, path, ("game", *ACTIONS, *FLAG_COLUMNS))
    if missing:
        return missing
    errors = _duplicates(rows) + _extra_values(rows)
    expected = {game.lower() for game in platformers}
    for row in rows:
        if row.game.lower() not in expected:
            errors.append(f"{row.where}: not tagged {PLATFORMER} in the behaviour table; remove the row or retag it")
        elif row.game != row.game.lower():
            errors.append(f"{row.where}: the control table names games in lower case")
        errors += value_errors(row, ACTIONS, CONTROLS) + value_errors(row, FLAG_COLUMNS, ("YES", "NO"))
    missing = sorted(expected - {row.game.lower() for row in rows})
    return errors + [f"{path}: {game}: tagged {PLATFORMER} but no controls; add its row" for game in missing]


def check_sublist(
    rows: Sequence[CheckedRow], tables: Tables, controls: Mapping[str, Mapping[str, str]], platformers: set[str]
) -> list[str]:
    """50 scrolling platformers with equal controls, the required ones among them, each as in the control table."""
    path = tables.sublist
    missing = _missing_columns(rows, path, ("game", *ACTIONS, *FLAG_COLUMNS))
    if missing:
        return missing
    errors, listed = _duplicates(rows), read_controls(path)
    shared = ("game", *ACTIONS, *FLAG_COLUMNS)
    for row in rows:
        if row.game not in controls:
            errors.append(f"{row.where}: not in {tables.controls.name}")
        elif different := [name for name in shared if row.cells[name] != controls[row.game].get(name)]:
            errors.append(f"{row.where}: {different[0]} differs from {tables.controls.name}; correct both")
        if row.game in listed and not match_controls(listed[row.game], PLATFORMER_CONTROLS):
            errors.append(f"{row.where}: controls do not agree with the others'; see PLATFORMER_CONTROLS in config.py")
        if row.cells["transition"] != "NO":
            errors.append(f"{row.where}: transition is {row.cells['transition']}; the sublist's games scroll")
    for game in SUBLIST_REQUIRED:
        if game.lower() not in listed:
            errors.append(f"{path}: {game}: missing; the sublist must contain it")
    num_stable = len({game.lower() for game in platformers} & set(listed))
    if num_stable != SUBLIST_SIZE:
        errors.append(f"{path}: {num_stable} games of Stable-Retro; there must be {SUBLIST_SIZE}")
    return errors


def agreement(
    first: Mapping[str, Mapping[str, str]],
    second: Mapping[str, Mapping[str, str]],
    columns: Iterable[str],
    omit: Collection[str] = (),
) -> list[Agreement]:
    """Raw agreement and Cohen's kappa (Cohen 1960) per column, over the games that both readings hold."""
    games = sorted(first.keys() & second.keys() - set(omit))
    figures = []
    for column in columns:
        pairs = [(first[game][column], second[game][column]) for game in games]
        figures.append(Agreement(column, len(pairs), sum(a == b for a, b in pairs), _kappa(pairs)))
    return figures


def reading_agreement() -> list[Agreement]:
    """Agreement of the two stored readings: tags over all games, controls where both gave them.

    The controls omit the games that the sublist must contain: the readers' instructions named those, and said that
    their controls agree.
    """
    behavior = [reading(name, "behaviour") for name in "ab"]
    together = [{game: {**row, ALL_TAGS: tags_of(row)} for game, row in table.items()} for table in behavior]
    controls = [reading(name, "control") for name in "ab"]
    required = [game.lower() for game in SUBLIST_REQUIRED]
    return [
        *agreement(together[0], together[1], (*TAGS, ALL_TAGS)),
        *agreement(controls[0], controls[1], (*ACTIONS, *FLAG_COLUMNS), required),
    ]


def third_looks(platformers: Iterable[str]) -> tuple[int, int]:
    """How many games' tags, and how many of these platformers' controls, the two readings left open.

    Controls are left open where they differ in any column, or where not both readers took the game for a platformer.
    """
    tags = [reading(name, "behaviour") for name in "ab"]
    num_tags = sum(tags_of(row) != tags_of(tags[1][game]) for game, row in tags[0].items())
    first, second = (reading(name, "control") for name in "ab")
    columns = (*ACTIONS, *FLAG_COLUMNS)
    settled = [
        game
        for game in first.keys() & second.keys()
        if all(first[game][name] == second[game][name] for name in columns)
    ]
    # This project's own games were played, not read.
    read = {game.lower() for game in tags[0]}
    return num_tags, len(({game.lower() for game in platformers} & read) - set(settled))


def report(tables: Tables) -> str:
    """Labels per platform, confidence, and agreement of the readings, as Markdown tables."""
    rows = read_behavior(tables.behavior)
    platforms = [name for name, _ in Counter(row.platform for row in rows).most_common()]
    counted: list[list[list[object]]] = []
    for column, values in TAGS.items():
        counts = Counter((getattr(row, column), row.platform) for row in rows)
        lines = [
            [value, *(counts[value, name] for name in platforms), sum(counts[value, name] for name in platforms)]
            for value in values
        ]
        counted.append([[column, *platforms, "all"], *lines])
    counted[-1].append(["all", *(sum(row.platform == name for row in rows) for name in platforms), len(rows)])
    platformers = [row.game for row in rows if row.genre == PLATFORMER]
    blocks = [markdown_table(head, body) for head, *body in counted]
    return "\n\n".join([*blocks, _confidence_table(tables), _agreement_table(platformers)])


def main(argv: Sequence[str] | None = None) -> int:
    """Print the report and return 0, or the errors, one line each, and return 1."""
    parser = argparse.ArgumentParser(prog="python -m data_generation.annotations.validate", description=__doc__)
    for field in fields(Tables):
        parser.add_argument(f"--{field.name}", metavar="FILE", help="instead of the table of this project")
    given = vars(parser.parse_args(argv))
    try:
        chosen = {name: table_path(fpath, f"--{name}") for name, fpath in given.items() if fpath is not None}
        tables = replace(shipped_tables(), **chosen)
        errors = check(tables)
    except UserError as error:
        errors = [str(error)]
    print("\n".join(errors) if errors else report(tables))
    return 1 if errors else 0


def _rows(path: Path) -> list[CheckedRow]:
    """Rows with their line numbers, exactly as in the file: what the tables' reader tolerates counts as an error."""
    return [CheckedRow(f"{path}:{row.line}: {row.cells.get('game', '')}", row.cells) for row in read_table(path).rows]


def _missing_columns(rows: Sequence[CheckedRow], path: Path, columns: Iterable[str]) -> list[str]:
    present: Collection[str] = rows[0].cells if rows else ()
    return [f"{path}: no rows with a column '{name}'" for name in columns if name not in present]


def _duplicates(rows: Sequence[CheckedRow]) -> list[str]:
    seen: set[str] = set()
    errors = []
    for row in rows:
        if row.game.lower() in seen:
            errors.append(f"{row.where}: a second row of this game; keep one")
        seen.add(row.game.lower())
    return errors


def tag_errors(row: CheckedRow) -> list[str]:
    """Errors in the tags, one line each."""
    tags = row.cells["tags"].split()
    if len(tags) != len(TAGS):
        return [f"{row.where}: tags '{row.cells['tags']}' are not '<view> <motion> <genre>'"]
    return [
        f"{row.where}: {column} '{tag}' is none of {', '.join(values)}"
        for tag, (column, values) in zip(tags, TAGS.items(), strict=True)
        if tag not in values
    ]


def _extra_values(rows: Sequence[CheckedRow]) -> list[str]:
    """Errors in the columns that a table may lack."""
    present = {name: values for name, values in EXTRA.items() if rows and name in rows[0].cells}
    return [error for row in rows for name, values in present.items() for error in value_errors(row, (name,), values)]


def value_errors(row: CheckedRow, columns: Iterable[str], values: Collection[str]) -> list[str]:
    """Errors in columns that take one of these values, one line each."""
    return [
        f"{row.where}: {name} '{row.cells[name]}' is none of {', '.join(values)}"
        for name in columns
        if row.cells[name] not in values
    ]


def _kappa(pairs: Sequence[tuple[str, str]]) -> float | None:
    """(observed - expected) / (1 - expected) agreement, or None if agreement by chance is certain."""
    num = len(pairs)
    first, second = Counter(a for a, _ in pairs), Counter(b for _, b in pairs)
    by_chance = sum(first[value] * second[value] for value in first)
    if num == 0 or by_chance == num**2:
        return None
    expected = by_chance / num**2
    return (sum(a == b for a, b in pairs) / num - expected) / (1 - expected)


def reading(reader: str, table: str) -> dict[str, dict[str, str]]:
    """A reader's rows by game."""
    rows = _rows(READINGS_DPATH / f"reader_{reader}_{table}.csv")
    return {row.game: dict(row.cells) for row in rows}


def tags_of(row: Mapping[str, str]) -> str:
    """View, motion and genre of a row, as the table spells them."""
    return " ".join(row[name] for name in TAGS)


def _confidence_table(tables: Tables) -> str:
    confidences = [
        ("behaviour", [row.confidence for row in read_behavior(tables.behavior)]),
        ("controls", [row.confidence for row in read_controls(tables.controls).values()]),
        ("controls of the sublist", [row.confidence for row in read_controls(tables.sublist).values()]),
    ]
    levels = EXTRA["confidence"]
    lines = [[name, *(found.count(level) for level in levels), len(found)] for name, found in confidences]
    return markdown_table(["confidence", *levels, "all"], lines)


def _agreement_table(platformers: Iterable[str]) -> str:
    lines = [
        [
            figure.column,
            figure.num_games,
            f"{figure.num_equal / figure.num_games:.1%}",
            "–" if figure.kappa is None else f"{figure.kappa:.2f}",
        ]
        for figure in reading_agreement()
    ]
    num_tags, num_controls = third_looks(platformers)
    table = markdown_table(["agreement of the readings", "games", "equal", "kappa"], lines)
    return f"{table}\n\nThird looks: tags of {num_tags} games, controls of {num_controls} platformers."


if __name__ == "__main__":
    sys.exit(main())
