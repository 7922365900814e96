"""The shipped RetroAct tables hold their rules, the validator catches broken ones, the docs state its figures."""

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from data_generation.annotations import validate
from data_generation.annotations.tables import read_behavior, select_by_controls
from data_generation.annotations.validate import Tables, agreement, check, main, report, shipped_tables
from data_generation.config import PLATFORMER_CONTROLS

DOCS = Path(__file__).resolve().parents[1] / "docs" / "results" / "retro_act.md"
Rows = list[dict[str, str]]


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    """Copies of the shipped tables, to be damaged."""
    shipped = shipped_tables()
    return Tables(
        *[Path(shutil.copy(path, tmp_path)) for path in (shipped.behavior, shipped.controls, shipped.sublist)]
    )


def edit(path: Path, change: Callable[[Rows], object]) -> None:
    """Write the table again after `change` to its rows; a row must keep the columns of the first."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    change(rows)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def of(rows: Rows, game: str) -> dict[str, str]:
    return next(row for row in rows if row["game"] == game)


def setting(game: str, /, **values: str) -> Callable[[Rows], object]:
    return lambda rows: of(rows, game).update(values)


def dropping(game: str) -> Callable[[Rows], object]:
    return lambda rows: rows.remove(of(rows, game))


def repeating(game: str) -> Callable[[Rows], object]:
    return lambda rows: rows.append(dict(of(rows, game)))


BROKEN = {
    "view": ("behavior", setting("1942-Nes", tags="above free space_shooter"), "1942-Nes: view 'above' is none of"),
    "motion": ("behavior", setting("1942-Nes", tags="top up space_shooter"), "1942-Nes: motion 'up' is none of"),
    "genre": ("behavior", setting("1942-Nes", tags="top free shmup"), "1942-Nes: genre 'shmup' is none of"),
    "tags": ("behavior", setting("1942-Nes", tags="top free"), "1942-Nes: tags 'top free' are not"),
    "source": ("behavior", setting("1942-Nes", source="guess"), "1942-Nes: source 'guess' is none of"),
    "confidence": ("behavior", setting("1942-Nes", confidence=""), "1942-Nes: confidence '' is none of"),
    "unknown": ("behavior", setting("1942-Nes", game="1942-Nes-v0"), "1942-Nes-v0: unknown to Stable-Retro"),
    "missing": ("behavior", dropping("1942-Nes"), "RetroAct.csv: 1942-Nes: no row"),
    "duplicate": ("behavior", repeating("1942-Nes"), "1942-Nes: a second row"),
    "retagged": ("behavior", setting("8Eyes-Nes", tags="side h fight"), "8eyes-nes: not tagged pl"),
    "newly tagged": ("behavior", setting("1942-Nes", tags="side h pl"), "1942-nes: tagged pl but no controls"),
    "control word": ("controls", setting("8eyes-nes", UP="ascend"), "RetroAct_control.csv:3: 8eyes-nes: UP 'ascend'"),
    "flag": ("controls", setting("8eyes-nes", transition="maybe"), "8eyes-nes: transition 'maybe' is none of YES, NO"),
    "control confidence": ("controls", setting("8eyes-nes", confidence="sure"), "8eyes-nes: confidence 'sure'"),
    "control duplicate": ("controls", repeating("8eyes-nes"), "8eyes-nes: a second row"),
    "control missing": ("controls", dropping("8eyes-nes"), "8eyes-nes: tagged pl but no controls"),
    "control besides": ("controls", setting("8eyes-nes", game="1942-nes"), "1942-nes: not tagged pl"),
    "control case": ("controls", setting("8eyes-nes", game="8Eyes-Nes"), "8Eyes-Nes: the control table names"),
    "too few": ("sublist", dropping("amagon-nes"), "49 games of Stable-Retro; there must be 50"),
    "required": ("sublist", dropping("smurfs-genesis"), "Smurfs-Genesis: missing"),
    "sublist duplicate": ("sublist", repeating("amagon-nes"), "amagon-nes: a second row"),
    "other controls": ("sublist", setting("amagon-nes", UP="look"), "amagon-nes: UP differs from"),
    "no agreement": ("sublist", setting("amagon-nes", ACTION_JUMP="shoot"), "amagon-nes: controls do not agree"),
    "not scrolling": ("sublist", setting("amagon-nes", transition="YES"), "amagon-nes: transition is YES"),
    "no platformer": ("sublist", setting("amagon-nes", game="1942-nes"), "1942-nes: not in RetroAct_control.csv"),
}


def test_shipped_tables_pass(capsys: pytest.CaptureFixture[str]) -> None:
    assert check(shipped_tables()) == []
    assert main([]) == 0
    assert capsys.readouterr().out.strip() == report(shipped_tables())


@pytest.mark.parametrize("rule", BROKEN)
def test_broken_rule_is_named_with_file_and_game(rule: str, tables: Tables, capsys: pytest.CaptureFixture[str]) -> None:
    name, change, message = BROKEN[rule]
    path: Path = getattr(tables, name)
    edit(path, change)
    given = [f"--behavior={tables.behavior}", f"--controls={tables.controls}", f"--sublist={tables.sublist}"]
    assert main(given) == 1
    lines = capsys.readouterr().out.splitlines()
    assert any(message in line for line in lines), lines
    assert all(line.startswith(str(tables.behavior.parent)) for line in lines)


@pytest.mark.parametrize("name", ["behavior", "controls", "sublist"])
def test_missing_column_is_an_error(name: str, tables: Tables) -> None:
    path: Path = getattr(tables, name)
    column = "tags" if name == "behavior" else "DOWN"
    edit(path, lambda rows: [row.pop(column) for row in rows])
    assert any(f"{path}: no rows with a column '{column}'" in error for error in check(tables))


def test_tables_without_extra_columns_are_accepted(tables: Tables) -> None:
    for path in (tables.behavior, tables.controls, tables.sublist):
        edit(path, lambda rows: [row.pop(name) for row in rows for name in ("source", "confidence")])
    assert check(tables) == []
    assert f"| behaviour | 0 | 0 | 0 | {len(read_behavior(tables.behavior))} |" in report(tables)


def test_missing_table_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--controls=nowhere.csv"]) == 1
    assert capsys.readouterr().out.startswith("--controls=nowhere.csv: no such table")


def test_own_games_may_join_the_tables(tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validate, "own_games", lambda: {"Cinderfoot-Nes", "Ours-Nes"})

    def join(rows: Rows, game: str, like: str) -> None:
        rows.append({**of(rows, like), "game": game, "source": "played"})

    edit(tables.behavior, lambda rows: join(rows, "Ours-Nes", "Amagon-Nes"))
    for path in (tables.controls, tables.sublist):
        edit(path, lambda rows: join(rows, "ours-nes", "amagon-nes"))
    assert check(tables) == []


def test_sublist_selects_its_50_games() -> None:
    tables = shipped_tables()
    stable = validate.stable_games()
    platformers = [row.game for row in read_behavior(tables.behavior) if row.genre == "pl" and row.game in stable]
    assert len(select_by_controls(platformers, tables.sublist, PLATFORMER_CONTROLS)) == 50


def test_readings_are_whole_and_agreed_tags_stand() -> None:
    """A game that both readers tagged alike has these tags in the table, so only differences were looked at again,
    until somebody plays it."""
    first, second = (validate.reading(name, "behaviour") for name in "ab")
    assert set(first) == set(second) == validate.stable_games()
    final = {row.game: row for row in read_behavior(shipped_tables().behavior)}
    for game, row in first.items():
        if final[game].source == "knowledge" and validate.tags_of(row) == validate.tags_of(second[game]):
            assert [final[game].view, final[game].motion, final[game].genre] == validate.tags_of(row).split(), game


def test_high_confidence_of_agreed_tags_needs_both_readers() -> None:
    first, second = (validate.reading(name, "behaviour") for name in "ab")
    final = {row.game: row for row in read_behavior(shipped_tables().behavior) if row.source == "knowledge"}
    for game, row in first.items():
        is_agreed = validate.tags_of(row) == validate.tags_of(second[game])
        if game in final and is_agreed and final[game].confidence == "high":
            assert row["confidence"] == second[game]["confidence"] == "high", game


def test_kappa_by_hand() -> None:
    first = {game: {"view": view} for game, view in zip("abcd", ("side", "side", "top", "top"), strict=True)}
    second = {game: {"view": view} for game, view in zip("abcde", ("side", "top", "top", "top", "1p"), strict=True)}
    (figure,) = agreement(first, second, ["view"])
    assert (figure.num_games, figure.num_equal) == (4, 3)
    assert figure.kappa == pytest.approx((0.75 - 0.5) / (1 - 0.5))
    (alike,) = agreement(first, first, ["view"], omit=["a", "b"])
    assert (alike.num_equal, alike.kappa) == (2, None)


def test_docs_state_the_validators_figures() -> None:
    text = DOCS.read_text(encoding="utf-8")
    stated = text.split("<!-- figures -->")[1].strip()
    assert stated == report(shipped_tables()), "paste what 'python -m data_generation.annotations.validate' prints"
