"""Which games are meant, for every family: the keys that choose, and those that a family does not read."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from data_generation.config import ConnectorConfig, GenerateConfig
from data_generation.data.errors import FieldError
from data_generation.generator.connector_base import CONNECTORS, make_connector
from data_generation.generator.plan import make_plan
from data_generation.generator.resolve import load_class
from tests.generator_helpers import ROOT, counting_config
from tests.test_connector_gymnasium import DRAWN, RGB

CONFIGS = ROOT / "data_generation" / "configs"
PRESETS = sorted(str(path.relative_to(CONFIGS / "config").with_suffix("")) for path in CONFIGS.glob("config/*/*.yaml"))
AIRSTRIKER, CINDERFOOT = "Airstriker-Genesis", "Cinderfoot-Nes"


def settings(name: str, **changes: Any) -> ConnectorConfig:
    own = {"gymnasium": {"game": [RGB, DRAWN], "valid_action_combos": ["action_0"]}, "retro_act": {"game": AIRSTRIKER}}
    return ConnectorConfig(**{"name": name, **own.get(name, {}), **changes})


@pytest.mark.parametrize(
    ("name", "game", "first"),
    [
        ("retro_act", [CINDERFOOT, AIRSTRIKER], CINDERFOOT),
        ("procgen", "all", "bigfish"),
        ("procgen", ["maze", "heist"], "maze"),
        ("gymnasium", [RGB, DRAWN], RGB),
    ],
)
def test_a_limit_takes_the_first_games_in_every_family(monkeypatch, name: str, game: Any, first: str) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda module: find_spec(module) or module == "procgen")
    for limit in (1, 2):
        games = make_connector(settings(name, game=game, limit_games=limit)).select().games
        assert games[0] == first
        assert len(games) == limit


def test_two_spellings_of_a_game_are_one() -> None:
    connector = make_connector(settings("retro_act", game=[AIRSTRIKER, f"{AIRSTRIKER}-v0", AIRSTRIKER]))
    assert connector.select().games == [AIRSTRIKER]


@pytest.mark.parametrize(
    ("families", "changes"),
    [
        *[(["coinrun", "procgen", "gymnasium"], {key: "x"}) for key in ("view", "motion", "genre", "platform")],
        (["coinrun", "procgen", "gymnasium"], {"annotation_control_fpath": "x.csv"}),
        (["coinrun", "procgen", "gymnasium"], {"rom_dpath": "x"}),
        (["gymnasium", "retro_act"], {"start_level": 3}),
        (["gymnasium", "retro_act"], {"distribution_mode": "easy"}),
        (["gymnasium", "retro_act"], {"paint_vel_info": True}),
    ],
)
def test_what_a_family_does_not_read_is_refused(families: list[str], changes: dict[str, Any]) -> None:
    ((key, value),) = changes.items()
    for name in families:
        with pytest.raises(FieldError, match=f"^{key}={value}: has no effect with {name}; leave it out$"):
            make_connector(settings(name, **changes))


@pytest.mark.parametrize("name", PRESETS)
def test_presets_set_only_what_is_read(name: str) -> None:
    ConfigStore.instance().store(name="generate_schema", node=GenerateConfig)
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        connector = OmegaConf.to_object(compose("default", overrides=[f"config={name}"])).config.connector
    unread = load_class(CONNECTORS[connector.name], "name").unread_fields  # type: ignore[attr-defined]
    assert {key: getattr(connector, key) for key in unread} == {key: getattr(ConnectorConfig(), key) for key in unread}


def test_the_limit_of_episodes_is_of_those_that_there_are(counting, monkeypatch, tmp_path: Path) -> None:
    config = counting_config(tmp_path, ["one", "two"], n_sessions=3).config
    config.connector.generator_config.n_instances = 1_000_000
    with pytest.raises(
        FieldError, match=r"n_sessions=3: with 2000000 levels of 2 games it makes 6000000 episodes; make"
    ):
        make_plan(config, make_connector(config.connector))
    monkeypatch.setattr("tests.generator_helpers.CountingConnector.num_instances", lambda self, game: 2)
    assert len(make_plan(config, make_connector(config.connector)).missing) == 12
