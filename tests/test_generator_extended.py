"""The generator: a dataset that is there already is extended by the same, and by nothing else."""

import shutil
from dataclasses import fields
from pathlib import Path

import pytest

from data_generation.config import AgentConfig, GenerateConfig
from data_generation.data.data import DatasetInfo, Environment, list_environments
from data_generation.data.errors import UserError
from data_generation.data.subsets import merge
from data_generation.generate import Generated, generate
from tests.generator_helpers import change_info, counting_config, episodes, make_own_game, retro_config

pytestmark = pytest.mark.usefixtures("environments_in_threads")


def agent_config(dpath: Path, checkpoint: str | Path, n_sessions: int = 1) -> GenerateConfig:
    cfg = counting_config(dpath, ["one"], n_sessions)
    policy = "data_generation.generator.policy:RandomPolicy"
    cfg.config.connector.agent = AgentConfig(policy, checkpoint_fpath=str(checkpoint))
    return cfg


@pytest.mark.parametrize("name", ["agent.pt", "agent/weights/model.safetensors"])
def test_another_agent_under_the_same_path_is_refused(counting, tmp_path: Path, monkeypatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    file, checkpoint = tmp_path / name, Path(name).parts[0]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("one agent")
    data = tmp_path / "data"
    generate(agent_config(data, checkpoint))
    shutil.copytree(data, tmp_path / "older")
    change_info(tmp_path / "older", "agent.checkpoint_digest")
    # Spelled in another way, and moved.
    assert generate(agent_config(data, tmp_path / checkpoint, 2)).num_kept == 1
    assert generate(agent_config(tmp_path / "older", tmp_path / checkpoint, 2)).num_kept == 1
    Path(checkpoint).rename("moved")
    assert generate(agent_config(data, "moved", 3)).num_kept == 2
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("the other")
    for dataset in (data, tmp_path / "older"):
        before = episodes(dataset)
        with pytest.raises(ValueError, match=r"connector\.agent\.checkpoint_fpath=\S+ \(content \w+\) \(now .*; set"):
            generate(agent_config(dataset, checkpoint, 4))
        assert episodes(dataset) == before


@pytest.mark.parametrize("key", sorted({field.name for field in fields(AgentConfig)} - {"policy", "checkpoint_fpath"}))
def test_a_policy_of_ones_own_with_another_setting_is_refused(counting, tmp_path: Path, key: str) -> None:
    def config(n_sessions: int, **changes: object) -> GenerateConfig:
        cfg = counting_config(tmp_path, ["one"], n_sessions)
        agent = AgentConfig("data_generation.generator.policy:RandomPolicy", **changes)  # type: ignore[arg-type]
        cfg.config.connector.agent = agent
        return cfg

    generate(config(1))
    with pytest.raises(ValueError, match=rf"made with config\.connector\.agent\.{key}="):
        generate(config(2, **{key: ["A"] if key == "script" else 0.5}))
    change_info(tmp_path, "agent.repeat_probability")
    assert generate(config(2)).num_kept == 1


def test_datasets_of_one_agent_are_merged_wherever_it_lay(counting, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).write_text("agent" if name < "c" else "another")
        generate(agent_config(tmp_path / f"of_{name}", tmp_path / name))
    shutil.copytree(tmp_path / "of_a", tmp_path / "older")
    change_info(tmp_path / "older", "agent.checkpoint_digest")
    older, first, second, other = (next((tmp_path / name).iterdir()) for name in ("older", "of_a", "of_b", "of_c"))
    for source, kept in ((older, 0), (first, 1), (second, 1)):
        assert merge([source], tmp_path / "all").kept == kept
    with pytest.raises(UserError, match="was made with other settings"):
        merge([other], tmp_path / "all")


def test_other_boxes_under_the_same_name_are_refused(tmp_path: Path) -> None:
    table = tmp_path / "boxes.csv"

    def make(box: str, n_sessions: int, airstriker: str = "1,2,3,4") -> Generated:
        table.write_text(f"game,x,y,w,h\nCinderfoot-Nes,{box}\nAirstriker-Genesis,{airstriker}\n")
        cfg = retro_config(tmp_path, n_sessions, n_steps_max=2)
        cfg.config.connector.game, cfg.config.connector.roi_annotation_fpath = "Cinderfoot-Nes", str(table)
        return generate(cfg)

    make("40,100,14,32", 1)
    assert make("40,100,14,32", 2, airstriker="5,6,7,8").num_made == 1
    with pytest.raises(ValueError, match=r"connector\.roi_annotation_fpath=boxes\.csv \(content "):
        make("40,100,20,40", 3)
    change_info(tmp_path, "roi_annotation_digest")
    assert make("40,100,14,32", 3).num_made == 1


@pytest.fixture
def own_game(tmp_path: Path) -> Path:
    return make_own_game(tmp_path / "roms")


def test_a_game_whose_files_have_changed_is_another_one(own_game: Path, tmp_path: Path) -> None:
    def make(n_sessions: int, n_instances: int = 1) -> Generated:
        cfg = retro_config(tmp_path / "data", n_sessions, n_steps_max=2)
        cfg.config.connector.game, cfg.config.connector.rom_dpath = "Mine-Nes", str(own_game.parent)
        cfg.config.connector.generator_config.n_instances = n_instances
        return generate(cfg)

    make(1)
    before = episodes(tmp_path / "data")
    kept = {path.name: path.read_bytes() for path in own_game.iterdir()}
    changes = {
        "rom.nes": (kept["rom.nes"] + b" ", "ROM"),
        "data.json": (kept["data.json"] + b" ", "data.json"),
        "scenario.json": (kept["scenario.json"] + b" ", "scenario.json"),
        "own.lua": (b"-- another reward", "scenario.json"),
        "Level02.state": (kept["Level03.state"], "start states"),
        "Level00_boss.state": (kept["Level03.state"], "start states"),
    }
    for name, (content, called) in changes.items():
        (own_game / name).write_bytes(content)
        message = rf"made with other files of the game: {called} \(config\.connector\.rom_dpath\); set config\.dname"
        with pytest.raises(UserError, match=message):
            make(2)
        (own_game / name).unlink() if name not in kept else (own_game / name).write_bytes(kept[name])
    assert episodes(tmp_path / "data") == before
    assert make(2).num_kept == 1
    (own_game / "Level00_boss.state").write_bytes(kept["Level03.state"])
    change_info(tmp_path / "data", "game_files")
    assert make(2, n_instances=2).num_kept == 2


def test_fewer_sessions_leave_the_number_that_was_asked_for(counting, tmp_path: Path) -> None:
    for n_sessions in (1, 4, 2):
        generate(counting_config(tmp_path, ["one"], n_sessions))
    (env_dpath,) = list_environments(next(tmp_path.iterdir()))
    assert Environment(env_dpath).num_episodes == DatasetInfo.load(env_dpath).generator["n_sessions"] == 4


def script_config(dpath: Path, gamma: float, n_sessions: int) -> GenerateConfig:
    """An agent of a retro game, which has no randomness of its own."""
    cfg = retro_config(dpath, n_sessions)
    cfg.config.connector.variant = "scripted"
    cfg.config.connector.agent = AgentConfig(gamma=gamma, script=["RIGHT*3", "ACTION_SECONDARY*2"])
    return cfg


def test_sessions_that_are_all_the_same_episode_are_announced(tmp_path: Path, caplog) -> None:
    def warnings() -> list[str]:
        found = [record.message for record in caplog.records if "the same episode" in record.message]
        caplog.clear()
        return found

    generate(script_config(tmp_path / "random", 0.5, 3))
    generate(script_config(tmp_path / "same", 0.0, 1))
    assert not warnings()
    generate(script_config(tmp_path / "same", 0.0, 3))
    (line,) = warnings()
    assert (
        "config.connector.generator_config.n_sessions=3: 1 of 1 levels have the same episode in every session" in line
    )
    assert "config.connector.agent.gamma=0.15" in line and "another seed changes nothing" in line
    # Nothing is made.
    generate(script_config(tmp_path / "same", 0.0, 3))
    assert not warnings()
