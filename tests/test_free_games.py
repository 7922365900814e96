"""What can be generated without ROMs that somebody owns: Cinderfoot's levels, and presets of many games."""

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf
from stable_retro.data import Integrations

import data_generation
from data_generation.annotations.tables import read_behavior
from data_generation.config import GenerateConfig
from data_generation.data.data import Environment, list_environments
from data_generation.generate import generate
from data_generation.generator import connector_retro_act
from data_generation.generator.connector_retro_act import OWN_GAMES_DPATH, RetroActConnector

PACKAGE = Path(data_generation.__file__).parent
FREE = ("Airstriker-Genesis", "Cinderfoot-Nes")
OWNED = "AdventureIslandII-Nes"


def preset(name: str, dpath: Path, n_steps_max: int) -> GenerateConfig:
    ConfigStore.instance().store(name="generate_schema", node=GenerateConfig)
    with initialize_config_dir(str(PACKAGE / "configs"), version_base="1.3"):
        cfg = OmegaConf.to_object(compose("default", overrides=[f"config={name}"]))
    assert isinstance(cfg, GenerateConfig)
    cfg.config.data_dpath = str(dpath)
    sizes = cfg.config.connector.generator_config
    sizes.n_sessions, sizes.n_steps_max, sizes.n_workers = 1, n_steps_max, 1
    return cfg


@pytest.fixture
def only_free_roms(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine without imported ROMs, whatever this one has."""
    has_rom = RetroActConnector._has_rom
    monkeypatch.setattr(
        RetroActConnector, "_has_rom", lambda self, game: game in (*FREE, OWNED) and has_rom(self, game)
    )


@pytest.fixture
def one_more_rom(only_free_roms: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As if the user had imported the ROM of one more platformer: an integration of its id, with Cinderfoot's ROM."""
    games = tmp_path / "games"
    games.mkdir()
    (games / "platformer").symlink_to(OWN_GAMES_DPATH / "platformer")
    cinderfoot = OWN_GAMES_DPATH / "platformer" / "integration" / "Cinderfoot-Nes-v0"
    shutil.copytree(cinderfoot, games / "imported" / "integration" / f"{OWNED}-v0")
    monkeypatch.setattr(connector_retro_act, "OWN_GAMES_DPATH", games)
    monkeypatch.setattr(Integrations, "CUSTOM_PATHS", [], raising=False)


def names(dpath: Path, dataset: str) -> list[str]:
    return [env_dpath.name for env_dpath in list_environments(dpath / dataset)]


def num_platformers() -> int:
    rows = read_behavior(PACKAGE / "annotations" / "RetroAct.csv")
    return sum(row.genre == "pl" for row in rows)


def test_pretrain_with_the_free_roms_only(
    only_free_roms: None, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        made = generate(preset("retro_act/pretrain", tmp_path, n_steps_max=4))
    assert names(tmp_path, "retro_act_v0.0.0") == ["retro_cinderfoot-nes_v0.0.0"]
    num_others = num_platformers() - 1
    assert made.num_skipped_games == num_others
    (told,) = (record.getMessage() for record in caplog.records)
    assert told.startswith(f"{num_others} of {num_others + 1} games have no ROM: skipped; import those that you own")
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("skipped"))
    assert f"{num_others} games, no ROM: 3NinjasKickBack-Genesis, 8Eyes-Nes, " in line
    assert line.endswith(f"and {num_others - 10} more")


def test_pretrain_with_one_more_rom(one_more_rom: None, tmp_path: Path) -> None:
    made = generate(preset("retro_act/pretrain", tmp_path, n_steps_max=4))
    expected = ["retro_adventureislandii-nes_v0.0.0", "retro_cinderfoot-nes_v0.0.0"]
    assert names(tmp_path, "retro_act_v0.0.0") == expected
    assert made.num_skipped_games == num_platformers() - 2


def test_one_more_rom_joins_the_dataset_that_is_there(
    only_free_roms: None, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    cfg = preset("retro_act/control", tmp_path, n_steps_max=4)
    assert generate(cfg).num_made == 1
    request.getfixturevalue("one_more_rom")
    made = generate(cfg)
    assert (made.num_made, made.num_kept, made.num_environments) == (1, 1, 2)


def test_cinderfoots_instances_are_levels_of_their_own(tmp_path: Path) -> None:
    made = {}
    for n_workers in (1, 2):
        cfg = preset("retro_act/cinderfoot", tmp_path / str(n_workers), n_steps_max=30)
        sizes = cfg.config.connector.generator_config
        assert sizes.n_instances == 60
        sizes.n_instances, sizes.n_sessions, sizes.n_workers = 4, 2, n_workers
        generate(cfg)
        paths = (path for path in (tmp_path / str(n_workers)).rglob("*") if path.name != "index.bin")
        made[n_workers] = {str(p.relative_to(tmp_path))[1:]: p.read_bytes() for p in paths if p.is_file()}
    assert made[1] == made[2]
    (env_dpath,) = list_environments(tmp_path / "1" / "retro_act_v0.0.0_cinderfoot")
    environment = Environment(env_dpath)
    assert environment.instances.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    starts = []
    for i in range(environment.num_episodes):
        with environment.open(i) as episode:
            assert set(episode.infos["built_seed"]) == {environment.instances[i]}
            starts.append(episode.frames(0, 1))
    assert all(np.array_equal(starts[i], starts[i + 1]) for i in (0, 2, 4, 6))
    assert len({start.tobytes() for start in starts}) == 4
