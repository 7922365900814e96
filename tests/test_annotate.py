"""`python run.py annotate`: what an action does is shown, and what the annotator says of it stands in the tables."""

import csv
import io
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_generation.annotate import main
from data_generation.annotations import edit, validate
from data_generation.annotations.edit import Annotation, tables_in, write
from data_generation.annotations.validate import Tables, check
from data_generation.generator.action_clips import ActionClip, play_clips
from data_generation.generator.retro_games import RetroGames
from launcher.main import launch

CINDERFOOT, AIRSTRIKER = "Cinderfoot-Nes", "Airstriker-Genesis"
PLATFORMER = "AdventureIslandII-Nes"  # one of the sublist
CONTROLS = {
    "RIGHT": "right",
    "LEFT": "left",
    "UP": "climb",
    "DOWN": "crouch",
    "ACTION_JUMP": "jump",
    "ACTION_SECONDARY": "none",
    "transition": "NO",
    "Background_Changes": "YES",
}


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return tables_in(tmp_path / "tables")


@pytest.fixture
def no_play(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clips of one black image: what is played is the business of other tests."""
    clip = ActionClip("NOOP", "", [np.zeros((8, 8, 3), np.uint8)], 0.0)
    monkeypatch.setattr("data_generation.annotate.play_clips", lambda *arguments: [clip])


def rows(path: Path) -> dict[str, dict[str, str]]:
    with path.open(newline="") as file:
        return {row["game"]: row for row in csv.DictReader(file)}


def annotate(tmp_path: Path, *words: str, typed: str = "", monkeypatch: pytest.MonkeyPatch | None = None) -> int:
    if monkeypatch is not None:
        monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
    return main([*words, f"tables={tmp_path / 'tables'}", f"to={tmp_path / 'images'}"])


def test_clips_show_what_the_buttons_do() -> None:
    clips = {clip.action: clip for clip in play_clips(RetroGames(None), CINDERFOOT, ["RIGHT", "UP"], [], 0)}
    assert clips["RIGHT"].buttons == "RIGHT"
    assert clips["RIGHT"].difference > 0.01
    assert clips["UP"].difference == 0  # there is no ladder at the start
    assert all(np.array_equal(a, b) for a, b in zip(clips["UP"].images, clips["NOOP"].images, strict=True))
    # The button is pressed after a while, and the images begin where `before` ended.
    assert np.array_equal(clips["RIGHT"].images[0], clips["NOOP"].images[0])
    later = play_clips(RetroGames(None), CINDERFOOT, ["UP"], ["RIGHT"] * 20, 0)
    assert not np.array_equal(later[0].images[0], clips["NOOP"].images[0])


def test_images_and_row_of_a_played_game(tmp_path: Path, tables: Tables) -> None:
    before = tables.behavior.read_text()
    assert annotate(tmp_path, f"{AIRSTRIKER}-v0", "tags=side h fight", "confidence=low") == 0
    folder = tmp_path / "images" / AIRSTRIKER
    with Image.open(folder / "RIGHT.gif") as gif:
        assert gif.n_frames > 10
    with Image.open(folder / "sheet.png") as sheet:
        assert sheet.width > 8 * 320
    page = (folder / "index.html").read_text()
    assert page.count("data:image/gif;base64,") == 7
    assert "top free space_shooter" in page
    assert "http" not in page  # nothing from elsewhere
    old = f"{AIRSTRIKER},top free space_shooter,played,high\n"
    assert tables.behavior.read_text() == before.replace(old, f"{AIRSTRIKER},side h fight,played,low\n")
    assert not list(tables.behavior.parent.glob(".*"))


def test_unchanged_answers_change_no_other_row(tables: Tables) -> None:
    before = [path.read_text() for path in vars(tables).values()]
    write(tables, Annotation(CINDERFOOT, "side h pl", "high", CONTROLS))
    assert [path.read_text() for path in vars(tables).values()] == before
    assert check(tables) == []


def test_a_new_platformer_gets_controls_where_the_order_wants_them(tables: Tables) -> None:
    write(tables, Annotation(AIRSTRIKER, "side free pl", "medium", CONTROLS))
    assert check(tables) == []
    games = list(rows(tables.controls))
    assert games == sorted(games)
    row = rows(tables.controls)["airstriker-genesis"]
    assert row == {"game": "airstriker-genesis", **CONTROLS, "source": "played", "confidence": "medium"}


def test_a_game_that_is_no_platformer_any_more_loses_its_controls(tables: Tables) -> None:
    (remark,) = write(tables, Annotation(PLATFORMER, "side h action"))
    assert remark.startswith(f"{PLATFORMER} left RetroAct_control_50_sublist.csv")
    assert PLATFORMER.lower() not in {**rows(tables.controls), **rows(tables.sublist)}
    write(tables, Annotation(AIRSTRIKER, "top v pl", "high", CONTROLS))
    assert write(tables, Annotation(AIRSTRIKER, "top free space_shooter", "high")) == []
    assert "airstriker-genesis" not in rows(tables.controls)


def test_controls_change_in_both_tables_and_may_end_the_place_in_the_sublist(tables: Tables) -> None:
    assert write(tables, Annotation(PLATFORMER, "side h pl", "high", {**CONTROLS, "UP": "none"})) == []
    assert rows(tables.controls)[PLATFORMER.lower()]["UP"] == rows(tables.sublist)[PLATFORMER.lower()]["UP"] == "none"
    (remark,) = write(tables, Annotation(PLATFORMER, "side h pl", "high", {**CONTROLS, "ACTION_JUMP": "shoot"}))
    assert "left RetroAct_control_50_sublist.csv" in remark
    assert PLATFORMER.lower() not in rows(tables.sublist)


def test_tables_without_the_trailing_columns_keep_their_columns(tmp_path: Path) -> None:
    (tmp_path / "RetroAct.csv").write_text("game,tags\nB-Nes,side h pl\n")
    tables = tables_in(tmp_path)
    write(tables, Annotation("A-Nes", "top free maze"))
    assert tables.behavior.read_text() == "game,tags\nA-Nes,top free maze\nB-Nes,side h pl\n"


def test_a_killed_write_leaves_the_old_table(tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    before = tables.behavior.read_text()
    monkeypatch.setattr("os.replace", lambda *arguments, **options: (_ for _ in ()).throw(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        write(tables, Annotation(AIRSTRIKER, "side h fight"))
    assert tables.behavior.read_text() == before
    assert not list(tables.behavior.parent.glob(".*"))


def test_questions_in_the_terminal(tmp_path: Path, tables: Tables, no_play: None, monkeypatch, capsys) -> None:
    answers = ["?", "side h pla", "side free pl", *["", "", "climb", "crouch", "", "", "NO", ""], "medium"]
    answers[3:5] = ["right", "left"]
    answers[7:9] = ["jump", "shoot"]
    answers[10] = "YES"
    typed = "\n".join(answers) + "\n"
    assert annotate(tmp_path, AIRSTRIKER, CINDERFOOT, typed=typed + "s\n", monkeypatch=monkeypatch) == 0
    printed = capsys.readouterr().out
    assert "genre: pl pl_fly space_shooter" in printed
    assert "genre 'pla' is none of pl," in printed
    assert rows(tables.behavior)[AIRSTRIKER]["tags"] == "side free pl"
    assert rows(tables.controls)["airstriker-genesis"]["ACTION_SECONDARY"] == "shoot"
    assert f"skipped  nothing written for {CINDERFOOT}" in printed
    assert check(tables) == []


def test_the_command_that_follows_validates_the_tables_that_were_written(
    tmp_path: Path, tables: Tables, no_play: None, monkeypatch, capsys
) -> None:
    assert annotate(tmp_path, AIRSTRIKER, typed="side h fight\nlow\n", monkeypatch=monkeypatch) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("next "))
    python, module, name, *options = shlex.split(line.removeprefix("next").partition(" checks all rows")[0])
    assert (python, module, name) == ("python", "-m", "data_generation.annotations.validate")
    assert dict(zip(options[::2], options[1::2], strict=True)) == {
        f"--{name}": str(path) for name, path in vars(tables).items()
    }
    assert validate.main(options) == 0


def test_quitting_keeps_what_was_written(tmp_path: Path, tables: Tables, no_play: None, monkeypatch, capsys) -> None:
    typed = "side h fight\nlow\nside h sport\nq\n"
    assert annotate(tmp_path, AIRSTRIKER, CINDERFOOT, typed=typed, monkeypatch=monkeypatch) == 0
    assert rows(tables.behavior)[AIRSTRIKER]["tags"] == "side h fight"
    assert rows(tables.behavior)[CINDERFOOT]["tags"] == "side h pl"
    assert f"stopped: nothing written for {CINDERFOOT}" in capsys.readouterr().out


def test_without_answers_only_images_are_made(tmp_path: Path, tables: Tables, no_play: None, monkeypatch) -> None:
    before = tables.behavior.read_text()
    assert annotate(tmp_path, AIRSTRIKER, CINDERFOOT, typed="", monkeypatch=monkeypatch) == 0
    assert tables.behavior.read_text() == before
    assert (tmp_path / "images" / CINDERFOOT / "index.html").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["Cinderfot-Nes"], "game=Cinderfot-Nes: Stable-Retro knows no such game; did you mean Cinderfoot-Nes"),
        (["SuperMarioBros-Nes"], "game=SuperMarioBros-Nes: no ROM; import the ROMs that you own with 'python -m stabl"),
        ([CINDERFOOT, "tags=side h plat"], "tags=side h plat: genre 'plat' is none of pl, "),
        ([CINDERFOOT, "tags=side h"], "tags=side h: tags 'side h' are not '<view> <motion> <genre>'"),
        ([CINDERFOOT, "RIGHT=rigth"], "RIGHT=rigth: RIGHT 'rigth' is none of right, left"),
        ([CINDERFOOT, "RIHGT=right"], "unknown key 'RIHGT': did you mean 'RIGHT'?"),
        ([CINDERFOOT, AIRSTRIKER, "tags=side h pl"], "tags=side h pl: is the answer for one game"),
        ([AIRSTRIKER, "tags=side h pl"], f"RIGHT: {AIRSTRIKER} is tagged pl and has no RIGHT yet; give RIGHT=… LEFT=…"),
        ([AIRSTRIKER, "RIGHT=right"], "RIGHT=right: controls are for platformers"),
        ([CINDERFOOT, "start_frames=soon"], "start_frames=soon: 'soon' must be a number"),
        ([CINDERFOOT, "before=UP*x"], "before=UP*x: 'x' must be a number"),
        ([CINDERFOOT, "rom_dpath=nowhere"], "rom_dpath=nowhere: no such folder"),
    ],
)
def test_mistakes_are_told_in_one_line(tmp_path: Path, no_play: None, capsys, words: list[str], message: str) -> None:
    assert launch(["annotate", *words, f"tables={tmp_path}", f"to={tmp_path / 'images'}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {message}")


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("before=FLY", "before: 'FLY' is unknown on Nes; known are NOOP, "),
        (f"start_frames={'9' * 5000}", f"start_frames={'9' * 5000}: '{'9' * 5000}' must be"),
    ],
)
def test_what_is_played_before_a_clip_is_named_by_its_key(tmp_path: Path, capsys, word: str, message: str) -> None:
    assert launch(["annotate", CINDERFOOT, word, f"tables={tmp_path}", f"to={tmp_path / 'images'}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {message}")


def test_vocabulary_covers_every_column_that_is_asked_for() -> None:
    assert set(edit.VOCABULARY) == {*edit.CONTROL_COLUMNS, "confidence"}
