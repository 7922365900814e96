"""Runs of agents whose game's files change: resuming is refused, an evaluation says so."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import auto_explore.main
import external.agent57.main
from data_generation.data.data import DatasetInfo
from data_generation.data.errors import UserError
from data_generation.data.info import other_files
from tests import agent57_helpers, auto_explore_helpers
from tests.generator_helpers import change_info, make_own_game

KINDS = {"auto_explore": auto_explore.main, "agent57": external.agent57.main}
CHANGES = {
    "rom.nes": (lambda path: path.write_bytes(path.read_bytes() + b" "), "ROM"),
    "data.json": (lambda path: path.write_bytes(path.read_bytes() + b" "), "data.json"),
    "own.lua": (lambda path: path.write_bytes(b"-- another reward"), "scenario.json"),
    "Level02.state": (lambda path: path.write_bytes(path.with_name("Level03.state").read_bytes()), "start states"),
}


def config(kind: str, root: Path, **common: Any) -> Any:
    """One epoch in the game of `<root>/roms`."""
    common = {"epochs": 1, **common}
    if kind == "auto_explore":
        cfg: Any = auto_explore_helpers.quick_config(root, "none", **common)
    else:
        cfg = agent57_helpers.quick_config(root, **common)
    cfg.collection.games, connector = ["Mine-Nes"], cfg.collection.connector
    cfg.collection.train.num_envs, cfg.evaluation.every = 1, 10
    connector.name, connector.valid_action_combos = "retro_act", ["RIGHT", "ACTION_JUMP", "LEFT"]
    connector.rom_dpath = str(root / "roms")
    return cfg


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def change_files(folder: Path, names: tuple[str, ...] = tuple(CHANGES)) -> Callable[[], None]:
    """What gives the files back."""
    kept = {name: (folder / name).read_bytes() for name in names}
    for name in names:
        CHANGES[name][0](folder / name)

    def restore() -> None:
        for name, content in kept.items():
            (folder / name).write_bytes(content)

    return restore


def test_a_run_is_not_continued_in_a_game_whose_files_have_changed(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    game, train = make_own_game(tmp_path / "roms"), KINDS[kind].train
    run = train(config(kind, tmp_path))
    again = config(kind, tmp_path, epochs=2, resume=True)
    for name, (_, called) in CHANGES.items():
        restore = change_files(game, (name,))
        message = (
            rf"^collection\.games=Mine-Nes: the run that is resumed has other files of it: {called} "
            rf"\(collection\.connector\.rom_dpath\); restore those of '001_{kind}', or start another run without"
            rf" common\.resume$"
        )
        with pytest.raises(UserError, match=message):
            train(again)
        restore()
    # A folder that was moved is the same game; without it, the line names what is lacking.
    (tmp_path / "roms").rename(tmp_path / "moved")
    again.collection.connector.rom_dpath = None
    with pytest.raises(UserError, match=rf"'001_{kind}' was trained with collection\.connector\.rom_dpath="):
        train(again)
    again.collection.connector.rom_dpath = str(tmp_path / "moved")
    assert train(again) == run
    # A run of an earlier version, which did not record its files; whose software is another one now.
    change_info(run / "episodes", "game_files")
    change_files(tmp_path / "moved" / "Mine-Nes", ("data.json", "own.lua"))
    (env_dpath,) = (path.parent for path in (run / "episodes").rglob("info.json"))
    info = DatasetInfo.load(env_dpath)
    info.versions["stable-retro"] = "0.0.1"
    info.save(env_dpath)
    caplog.clear()
    again.common.epochs = 3
    assert train(again) == run
    warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert len([text for text in warnings if "resumed with other software versions: " in text]) == 1


def test_an_evaluation_in_a_game_whose_files_have_changed_says_so(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    game, evaluate = make_own_game(tmp_path / "roms"), KINDS[kind].evaluate
    KINDS[kind].train(config(kind, tmp_path))
    cfg = config(kind, tmp_path)
    assert json.loads(evaluate(cfg).read_text())["other_environments"] == ""
    change_files(game, ("data.json", "Level02.state"))
    difference = "other files of Mine-Nes (data.json, start states)"
    assert json.loads(evaluate(cfg).read_text())["other_environments"] == difference
    assert f"the environments are not those of the run: {difference}" in caplog.text


def test_boxes_are_compared_as_far_as_they_are_known() -> None:
    def info(digest: str | None, table: str = "boxes.csv") -> DatasetInfo:
        known = {} if digest is None else {"roi_annotation_digest": digest}
        return DatasetInfo("a", "a", ["A"], (3, 8, 8), connector={"roi_annotation_fpath": table, **known})

    assert other_files(info("1"), info("2")) == "boxes in boxes.csv"
    assert other_files(info("1"), info("1", "moved.csv")) == other_files(info(None), info("1")) == ""
