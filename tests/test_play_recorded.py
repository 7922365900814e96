"""The real game beside a recorded episode is the one that was recorded, whichever dataset the episode is of."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("starlette", reason="the page's libraries are not installed")

from data_generation.config import ConnectorConfig, DatasetConfig, GenerateConfig, GeneratorConfig
from data_generation.data.data import Environment, list_environments
from data_generation.generate import generate
from data_generation.generator.connector_base import make_connector
from data_generation.generator.levels import Level
from play.config import PlayConfig
from play.human import record_episode
from play.starts import PlayedState
from tests.auto_explore_helpers import save_world_model
from tests.play_helpers import SOCKET, WebPlayer, serving
from tests.toy_game import SIZE, WALK

pytestmark = pytest.mark.usefixtures("environments_in_threads")


def walk_config(n_skip_frames: int) -> ConnectorConfig:
    generator = GeneratorConfig(n_sessions=1, n_workers=1, n_steps_max=6)
    config = ConnectorConfig("gymnasium", game=WALK, image_size=SIZE, valid_action_combos=[])
    config.n_skip_frames, config.generator_config = n_skip_frames, generator
    return config


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> PlayConfig:
    """Datasets of one game: made with frame skips of 1 and 2, and kept by a person who played until it ended."""
    root = tmp_path_factory.mktemp("play")
    for n_skip_frames in (1, 2):
        dname = f"skip_{n_skip_frames}"
        generate(GenerateConfig(DatasetConfig(walk_config(n_skip_frames), data_dpath=str(root / "data"), dname=dname)))
    state = PlayedState(Level(WALK, 0), 77, (0, 1) * 3 + (0,) * 9)
    record_episode(make_connector(walk_config(1)), state, root / "data")
    return PlayConfig(
        model_fpath=str(save_world_model(root)),
        datasets_dpath=str(root / "data"),
        record_dpath=str(root / "kept"),
        num_prime=2,
    )


@pytest.fixture(scope="module")
def server(config):
    with serving(config) as (client, server):
        assert sorted(path.env_dpath.parent.name.rpartition("_v0.0.0_")[2] for path in server.ground.environments) == [
            "human", "skip_1", "skip_2",
        ]  # fmt: skip
        yield client, server


@pytest.fixture
def player(server):
    with server[0].websocket_connect(SOCKET) as socket:
        yield WebPlayer(socket)


def number_of(server, name: str) -> int:
    return next(i for i, each in enumerate(server.ground.environments) if each.env_dpath.parent.name.endswith(name))


def test_the_game_shows_the_recorded_frames(server, player):
    """From one to the next while the game is shown, too."""
    for name in ("skip_2", "skip_1", "human"):
        number = number_of(server[1], name)
        environment = server[1].ground.environments[number]
        header, _ = player.ask(do="start_episode", environment=number, episode=0, time=2)
        if not header["has_game"]:
            header, _ = player.ask(do="game", on=True)
        assert header["psnr"] == 100, name
        player.ask(do="source", name="recorded")
        with environment.open(0) as reader:
            for frame in reader.frames(3):
                _, parts = player.ask(do="step", action=0)
                game = np.frombuffer(parts["game"], np.uint8).reshape(SIZE, SIZE, 3)
                assert np.array_equal(game.transpose(2, 0, 1), frame), name


def test_what_is_kept_has_the_settings_of_its_start(server, player, config):
    """And another setting is not mixed with it."""
    player.ask(do="start_episode", environment=number_of(server[1], "skip_2"), episode=0, time=1)
    player.ask(do="step", action=2)
    header, _ = player.ask(do="record", kind="episode", first=0, last=1)
    assert header["text"].startswith("Kept 2 actions as ")
    (dataset,) = Path(config.record_dpath).iterdir()
    (env_dpath,) = list_environments(dataset)
    environment = Environment(env_dpath)
    assert environment.info.connector["n_skip_frames"] == 2
    source = server[1].ground.environments[number_of(server[1], "skip_2")]
    with environment.open(0) as kept, source.open(0) as recorded:
        assert np.array_equal(kept.frames(0, 2), recorded.frames(0, 2))
    player.ask(do="start_episode", environment=number_of(server[1], "skip_1"), episode=0, time=1)
    player.ask(do="step", action=2)
    problem = player.problem('{"do": "record", "kind": "episode", "first": 0, "last": 1}')
    assert "was recorded with n_skip_frames=2, not 1: set another play.record_dpath" in problem


def test_an_episode_that_has_ended_stays_at_its_end(server, player):
    number = number_of(server[1], "human")
    with server[1].ground.environments[number].open(0) as reader:
        assert reader.terminated[-1]
        end = reader.frames()[-1]
    player.ask(do="start_episode", environment=number, episode=0, time=reader.num_frames - 1)
    player.ask(do="game", on=True)
    for _ in range(2):
        _, parts = player.ask(do="step", action=1)
        assert np.array_equal(np.frombuffer(parts["game"], np.uint8).reshape(SIZE, SIZE, 3).transpose(2, 0, 1), end)


def test_a_game_that_shows_other_frames_than_were_recorded_is_not_shown(server, player, monkeypatch):
    """As another version of it would."""
    number = number_of(server[1], "skip_2")
    monkeypatch.setitem(server[1].ground._connectors, number, make_connector(walk_config(3)))
    player.ask(do="start_episode", environment=number, episode=0, time=2)
    assert "renders other frames on this machine than were recorded" in player.problem('{"do": "game", "on": true}')
    assert not player.ask(do="step", action=0)[0]["has_game"]
