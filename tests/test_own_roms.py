"""ROMs in a folder of the user's: their names, and which of them Stable-Retro's own files do not fit."""

from pathlib import Path

import pytest
from stable_retro import data as retro_data

from data_generation.config import ConnectorConfig
from data_generation.generator.connector_retro_act import RetroActConnector
from data_generation.generator.retro_games import RetroGames
from tests.generator_helpers import make_own_game

AIRSTRIKER = "Airstriker-Genesis"


def put(root: Path, game: str, name: str, content: bytes = b"another") -> Path:
    folder = root / game
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    return folder


def select(root: Path, game: str) -> None:
    RetroActConnector(ConnectorConfig(game=game, rom_dpath=str(root))).select()


@pytest.mark.parametrize(
    ("game", "name", "remedy"),
    [
        ("SuperMarioWorld-Snes", "rom.smc", "rename it to rom.sfc"),
        ("SonicTheHedgehog-Genesis", "rom.gen", "rename it to rom.md"),
        ("SonicTheHedgehog-Genesis", "rom.bin", "rename it to rom.md"),  # an extension of another console
        ("SuperMarioBros-Nes", "rom.NES", "rename it to rom.nes"),
        ("SuperMarioBros-Nes", "rom.zip", "unpack it to rom.nes"),
    ],
)
def test_a_rom_with_a_wrong_name_is_told_the_right_one(tmp_path: Path, game: str, name: str, remedy: str) -> None:
    put(tmp_path, f"{game}-v0", name)
    with pytest.raises(FileNotFoundError, match=rf"^game: {game}: '.*{name}' is no name of a ROM of .*: {remedy}$"):
        select(tmp_path, game)


@pytest.mark.parametrize(
    ("game", "name"), [("Zelda-GameBoy", "rom.gbc"), ("Mine", "rom.nes"), ("1942-Arcade", "rom.zip")]
)
def test_names_that_the_consoles_core_takes_are_good(tmp_path: Path, game: str, name: str) -> None:
    folder = put(tmp_path, game, name)
    for file in ("data.json", "scenario.json", "metadata.json"):
        (folder / file).write_text("{}")
    assert RetroGames(str(tmp_path)).obstacle(game) == ""


@pytest.mark.parametrize("names", [["data.json"], ["scenario.json"], ["metadata.json"], ["data.json", "metadata.json"]])
def test_a_game_of_ones_own_that_lacks_a_file_is_told_which(tmp_path: Path, names: list[str]) -> None:
    folder = make_own_game(tmp_path)
    assert RetroGames(str(tmp_path)).obstacle("Mine-Nes") == ""
    for name in names:
        (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"^game: Mine-Nes: no {' and no '.join(names)}: put it next to"):
        select(tmp_path, "Mine-Nes")


def test_another_rom_under_files_for_stable_retros_is_a_warning(tmp_path: Path, caplog) -> None:
    shipped = Path(retro_data.get_romfile_path(f"{AIRSTRIKER}-v0"))
    put(tmp_path, f"{AIRSTRIKER}-v0", "rom.md", shipped.read_bytes())
    select(tmp_path, AIRSTRIKER)
    assert not caplog.records
    folder = put(tmp_path, f"{AIRSTRIKER}-v0", "rom.md", shipped.read_bytes()[:-1] + b"\1")
    select(tmp_path, AIRSTRIKER)
    (said,) = (record.getMessage() for record in caplog.records)
    assert said.startswith(f"{AIRSTRIKER}: its ROM is not the one that Stable-Retro's start states and data.json")
    caplog.clear()
    (folder / "data.json").write_bytes(shipped.with_name("data.json").read_bytes())
    select(tmp_path, AIRSTRIKER)
    assert not caplog.records
