"""The generator's configuration: presets compose, mistakes are found before anything is written."""

import shlex
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from data_generation.config import AgentConfig, DatasetConfig, GenerateConfig
from data_generation.data.codec import codec_by_mode
from data_generation.data.errors import FieldError
from data_generation.data.invocation import Invocation, note_invocation
from data_generation.data.layout import shape_problem
from data_generation.generate import generate
from data_generation.generator.connector_base import make_connector
from data_generation.generator.levels import Level
from data_generation.generator.schedule import dataset_episode
from tests.generator_helpers import ROOT, counting_config, retro_config

CONFIGS = ROOT / "data_generation" / "configs"
PRESETS = sorted(path.stem for path in (CONFIGS / "config" / "retro_act").glob("*.yaml"))


def test_games_without_rom_are_skipped_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "table.csv"
    table.write_text("game,tags\nSuperMarioBros-Nes,side h pl\nAirstriker-Genesis,top v pl\nSmurfs-Genesis,side h pl\n")
    cfg = retro_config(tmp_path, n_sessions=1, n_steps_max=4)
    cfg.config.connector.game, cfg.config.connector.genre = "all", ["pl"]
    cfg.config.connector.annotation_behavior_fpath = str(table)
    assert generate(cfg).num_skipped_games == 2
    assert "2 games, no ROM: Smurfs-Genesis, SuperMarioBros-Nes" in capsys.readouterr().out
    cfg.config.connector.platform = "Nes"
    with pytest.raises(FileNotFoundError, match="no ROM of the game SuperMarioBros-Nes"):
        generate(cfg)


def test_games_with_fewer_instances_than_asked_for_are_named(counting, monkeypatch, tmp_path: Path, capsys) -> None:
    cfg = counting_config(tmp_path, ["one", "two"], n_sessions=1)
    cfg.config.connector.generator_config.n_instances = 2
    assert generate(cfg).num_made == 4
    assert "instances" not in capsys.readouterr().out
    connector = make_connector(cfg.config.connector)
    monkeypatch.setattr(type(connector), "num_instances", lambda self, game: 2)
    cfg.config.connector.generator_config.n_instances = 5
    assert generate(cfg).num_kept == 4
    assert "instances     2 games have fewer than n_instances=5: one (2), two (2)\n" in capsys.readouterr().out


def test_missing_agent_is_told_before_anything_is_written(tmp_path: Path) -> None:
    cfg = retro_config(tmp_path)
    cfg.config.connector.agent = AgentConfig(policy="no_such_package.agent:Agent")
    with pytest.raises(ValueError, match=r"agent.policy=no_such_package.agent:Agent: there is no module"):
        generate(cfg)
    cfg.config.connector.agent = AgentConfig(policy=f"{__name__}:NoSuchAgent")
    with pytest.raises(ValueError, match=r"has no class 'NoSuchAgent'"):
        generate(cfg)
    cfg.config.connector.agent = AgentConfig(policy=f"{__name__}:HalfPolicy")
    with pytest.raises(
        ValueError, match=r"agent.policy=.*:HalfPolicy: the class has no initial_carry, __call__; docs/"
    ):
        generate(cfg)
    cfg.config.connector.agent, cfg.config.connector.variant = AgentConfig(), "clever"
    with pytest.raises(ValueError, match=r"variant=clever: unknown; one of random, "):
        generate(cfg)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("variant", "changes", "message"),
    [
        (
            "random",
            {"gamma": 0.5},
            "gamma=0.5: .*=random; set .* scripted or auto_explore or agent57 or sb3, or omit",
        ),
        ("random", {"checkpoint_fpath": "nowhere.pt"}, "checkpoint_fpath=nowhere.pt: .*=random; set"),
        ("random", {"repeat_probability": 0.9}, "repeat_probability=0.9: .*=random; set .* to sticky_random, or omit"),
        ("sticky_random", {"script": ["RIGHT"]}, r"script=\['RIGHT'\]: .*=sticky_random; set .* to scripted, or omit"),
        ("scripted", {"script": ["RIGHT"], "temperature": 0.5}, "temperature=0.5: .*=scripted; set"),
        ("agent57", {"temperature": 0.5}, "temperature=0.5: .*=agent57; set"),
    ],
)
def test_a_setting_that_the_variants_agent_does_not_read_is_refused(
    tmp_path: Path, variant: str, changes: dict[str, Any], message: str
) -> None:
    cfg = retro_config(tmp_path, n_sessions=1, n_steps_max=4)
    cfg.config.connector.variant, cfg.config.connector.agent = variant, AgentConfig(**changes)
    with pytest.raises(FieldError, match=rf"^config\.connector\.agent\.{message}"):
        generate(cfg)
    assert not list(tmp_path.iterdir())


def test_what_a_preset_sets_for_another_variant_is_no_mistake(counting, tmp_path: Path) -> None:
    cfg = counting_config(tmp_path, ["one"], n_sessions=1)
    cfg.config.connector.agent.repeat_probability = 0.9
    note_invocation(cfg, Invocation("generate", "retro_act/cinderfoot", ("config.connector.variant=random",)))
    assert generate(cfg).num_made == 1
    note_invocation(cfg, Invocation("generate", "", ("++config.connector.agent.repeat_probability=0.9",)))
    with pytest.raises(FieldError, match=r"repeat_probability=0\.9: has no effect with .*variant=random"):
        generate(cfg)


class HalfPolicy:
    @classmethod
    def from_context(cls, context: object) -> "HalfPolicy":
        return cls()


def test_frames_that_are_not_square_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    cfg = retro_config(tmp_path)
    cfg.config.connector.image_size = [48, 64]
    with pytest.raises(
        ValueError, match=r"config.connector.image_size=\[48, 64\]: .*set config.connector.image_size=64"
    ):
        generate(cfg)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("mode", "most"), [("lossless", 2364), ("video", 1672)])
def test_frames_that_no_episode_holds_are_refused_before_anything_is_written(
    tmp_path: Path, mode: str, most: int
) -> None:
    cfg = retro_config(tmp_path)
    cfg.config.connector.image_size, cfg.config.connector.generator_config.output_mode = most + 1, mode
    mode_key = f"config.connector.generator_config.output_mode={mode}"
    with pytest.raises(
        FieldError, match=rf"^config.connector.image_size={most + 1}: .* {mode_key}; use at most {most}$"
    ):
        generate(cfg)
    assert not list(tmp_path.iterdir())
    chunk_frames = codec_by_mode(mode, compression_level=1).chunk_frames
    assert [bool(shape_problem((3, side, side), chunk_frames)) for side in (most, most + 1)] == [False, True]


def test_unknown_family_names_the_known_ones(tmp_path: Path) -> None:
    cfg = retro_config(tmp_path)
    cfg.config.connector.name = "retroact"
    with pytest.raises(ValueError, match=r"config.connector.name=retroact: unknown; one of .*retro_act"):
        generate(cfg)


def preset(name: str) -> GenerateConfig:
    ConfigStore.instance().store(name="generate_schema", node=GenerateConfig)
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = OmegaConf.to_object(compose("default", overrides=[f"config=retro_act/{name}"]))
    assert isinstance(cfg, GenerateConfig)
    return cfg


@pytest.mark.parametrize("name", PRESETS)
def test_presets_compose(name: str) -> None:
    preset(name)


def test_presets_are_those_promised() -> None:
    names = {"pretrain", "control", "control_test", "g200", "airstriker", "cinderfoot", "demo"}
    names |= {"pretrain_256", "demo_256"}
    agents = {f"{agent}_{game}" for agent in ("auto_explore", "agent57") for game in ("smb", "ai2")}
    own = {f"{agent}_cinderfoot" for agent in ("auto_explore", "agent57")}
    assert names | agents | own == set(PRESETS)
    sessions = {name: preset(name).config.connector.generator_config.n_sessions for name in PRESETS}
    assert (sessions["pretrain"], sessions["g200"], sessions["control"], sessions["control_test"]) == (20, 50, 100, 20)
    assert all(sessions[name] == 10_000 for name in agents)


@pytest.mark.parametrize(("trained_on", "held_out"), [("control", "control_test"), ("demo", "demo_256")])
def test_presets_to_evaluate_on_share_no_episode_with_the_training_set(trained_on: str, held_out: str) -> None:
    def seeds(config: DatasetConfig) -> set[int]:
        sessions = range(config.connector.generator_config.n_sessions)
        return {dataset_episode(config.seed, Level("Cinderfoot-Nes", 0), session).env_seed for session in sessions}

    assert not seeds(preset(trained_on).config) & seeds(preset(held_out).config)


def test_the_printed_next_command_names_the_dataset_whatever_its_name_is(
    counting: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generated = generate(counting_config(tmp_path / "x y'z=1,[k] $HOME", ["one"], 1))
    line = capsys.readouterr().out.splitlines()[-1]
    assert shlex.split(line) == ["next", "python", "run.py", "data", "view", str(generated.dataset_dpath)]
