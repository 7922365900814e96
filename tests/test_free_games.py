"""What can be generated without ROMs that somebody owns: Cinderfoot's levels, and presets of many games."""

import logging
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf
from stable_retro import data as retro_data

import data_generation
from data_generation.annotations.tables import read_behavior
from data_generation.config import ConnectorConfig, GenerateConfig
from data_generation.data.data import Environment, list_environments
from data_generation.generate import generate
from data_generation.generator.connector_retro_act import RetroActConnector
from data_generation.generator.retro_games import NO_ROM, OWN_GAMES_DPATH, RetroGames
from tests.generator_helpers import hold, num_begun
from tests.process_helpers import children_of, is_alive, wait_until

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
    obstacle = RetroGames.obstacle
    monkeypatch.setattr(
        RetroGames, "obstacle", lambda self, game: obstacle(self, game) if game in (*FREE, OWNED) else NO_ROM
    )


@pytest.fixture
def rom_dpath(tmp_path: Path) -> Path:
    """A user's folder with the ROM of one more platformer: an integration of its id, with Cinderfoot's ROM."""
    dpath = tmp_path / "roms"
    shutil.copytree(OWN_GAMES_DPATH / "platformer" / "integration" / "Cinderfoot-Nes-v0", dpath / f"{OWNED}-v0")
    return dpath


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
    (said,) = (record.getMessage() for record in caplog.records)
    assert said.startswith(f"{num_others} of {num_others + 1} games have no ROM: skipped; import those that you own")
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("skipped"))
    assert f"{num_others} games, no ROM: 3NinjasKickBack-Genesis, 8Eyes-Nes, " in line
    assert line.endswith(f"and {num_others - 10} more")


def test_pretrain_with_one_more_rom(only_free_roms: None, rom_dpath: Path, tmp_path: Path) -> None:
    cfg = preset("retro_act/pretrain", tmp_path, n_steps_max=4)
    cfg.config.connector.rom_dpath = str(rom_dpath)
    made = generate(cfg)
    expected = ["retro_adventureislandii-nes_v0.0.0", "retro_cinderfoot-nes_v0.0.0"]
    assert names(tmp_path, "retro_act_v0.0.0") == expected
    assert made.num_skipped_games == num_platformers() - 2


def test_one_more_rom_joins_the_dataset_that_is_there(only_free_roms: None, rom_dpath: Path, tmp_path: Path) -> None:
    cfg = preset("retro_act/control", tmp_path, n_steps_max=4)
    assert generate(cfg).num_made == 1
    cfg.config.connector.rom_dpath = str(rom_dpath)
    made = generate(cfg)
    assert (made.num_made, made.num_kept, made.num_environments) == (1, 1, 2)


def test_rom_folder_is_checked(rom_dpath: Path, tmp_path: Path) -> None:
    def selecting(dpath: Path) -> None:
        RetroActConnector(ConnectorConfig(game=OWNED, rom_dpath=str(dpath))).select()

    selecting(rom_dpath)
    with pytest.raises(FileNotFoundError, match=r"rom_dpath=.*nowhere: no such folder; expected one folder per game"):
        selecting(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"rom_dpath=.*empty: no ROM in it"):
        selecting(tmp_path / "empty")
    (rom_dpath / f"{OWNED}-v0").rename(rom_dpath / OWNED)
    with pytest.raises(ValueError, match=f"Stable-Retro calls {OWNED} '{OWNED}-v0'; rename the folder"):
        selecting(rom_dpath)


def damage(rom_dpath: Path, keep_checksum: bool) -> None:
    """Cut the ROM short."""
    folder = rom_dpath / f"{OWNED}-v0"
    (folder / "rom.nes").write_bytes(b"NES")
    if not keep_checksum:
        (folder / "rom.sha").unlink()


@pytest.mark.parametrize("keep_checksum", [True, False])
def test_broken_rom_is_skipped_with_its_reason(
    only_free_roms: None, rom_dpath: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], keep_checksum: bool
) -> None:
    damage(rom_dpath, keep_checksum)
    cfg = preset("retro_act/control", tmp_path, n_steps_max=4)
    cfg.config.connector.rom_dpath = str(rom_dpath)
    assert generate(cfg).num_environments == 1
    again = generate(cfg)  # the broken game is all that is left to do: no reason to fail
    assert (again.num_kept, again.num_environments) == (1, 1)
    assert names(tmp_path, "retro_act_v0.0.0_g50") == ["retro_cinderfoot-nes_v0.0.0_g50"]
    reason = (
        "its ROM is damaged, or another version" if keep_checksum else "make raised RuntimeError: Could not load ROM"
    )
    assert f"1 game, {reason}: {OWNED}" in capsys.readouterr().out
    cfg.config.connector.game = OWNED
    with pytest.raises((ValueError, FileNotFoundError), match=f"{OWNED}: {reason}"):
        generate(cfg)


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


MANY_GAMES = """
import sys
from pathlib import Path
from data_generation.generate import generate
from data_generation.generator.connector_base import CONNECTORS
from tests.test_free_games import many_games
if __name__ == "__main__":
    CONNECTORS["retro_act"] = "tests.generator_helpers:HoldingConnector"
    generate(many_games(Path(sys.argv[1]), Path(sys.argv[2]), n_workers=2))
"""


def many_games(dpath: Path, rom_dpath: Path, n_workers: int) -> GenerateConfig:
    cfg = preset("retro_act/pretrain", dpath, n_steps_max=60)
    cfg.config.connector.rom_dpath = str(rom_dpath)
    sizes = cfg.config.connector.generator_config
    sizes.n_sessions, sizes.n_workers = 2, n_workers
    return cfg


@pytest.mark.slow
def test_killed_run_over_many_games_resumes_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dozen games of two consoles, one of them broken, made in part, then again by another number of workers."""
    roms, dpath, script = tmp_path / "roms", tmp_path / "data", tmp_path / "run_generator.py"
    cinderfoot = OWN_GAMES_DPATH / "platformer" / "integration" / "Cinderfoot-Nes-v0"
    airstriker = Path(retro_data.get_romfile_path("Airstriker-Genesis-v0")).parent
    rows = read_behavior(PACKAGE / "annotations" / "RetroAct.csv")
    for platform, source in (("Nes", cinderfoot), ("Genesis", airstriker)):
        for row in [row for row in rows if row.genre == "pl" and row.platform == platform and row.game not in FREE][:6]:
            shutil.copytree(source, roms / f"{row.game}-v0")
    (min(roms.iterdir()) / "data.json").write_text("{")  # one of them cannot be opened
    script.write_text(MANY_GAMES)
    with monkeypatch.context() as patch:
        hold(patch, until=tmp_path / "never", from_episode=5)
        patch.setenv("PYTHONPATH", str(PACKAGE.parent))
        process = subprocess.Popen([sys.executable, str(script), str(dpath), str(roms)], stderr=subprocess.DEVNULL)
        wait_until(lambda: len(list(dpath.rglob("*.episode"))) == 8 and num_begun(dpath) == 2)
    workers = children_of(process.pid)
    process.kill()
    process.wait()
    wait_until(lambda: not any(map(is_alive, workers)))
    resumed = generate(many_games(dpath, roms, n_workers=2))
    assert (resumed.num_kept, resumed.num_made) == (8, 24 - 8)
    for n_workers in (1, 3):
        generate(many_games(tmp_path / str(n_workers), roms, n_workers))
        assert contents(tmp_path / str(n_workers)) == contents(dpath)


def contents(dpath: Path) -> dict[str, bytes]:
    paths = [path for path in dpath.rglob("*") if path.is_file() and path.name != "index.bin"]
    return {str(path.relative_to(dpath)): path.read_bytes() for path in paths}
