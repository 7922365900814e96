"""Play that is kept: the game under the visitor's actions, as an episode of a dataset."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("starlette", reason="the page's libraries are not installed")

from data_generation.config import ConnectorConfig
from data_generation.data.data import Environment, list_environments
from data_generation.data.errors import UserError
from data_generation.generator.levels import Level
from play.human import record_episode
from play.playground import LoadedGame
from play.starts import PlayedState
from tests.generator_helpers import ACTIONS, CountingConnector
from tests.play_helpers import SOCKET, WebPlayer, play_config, serving

LEVEL = Level("A", 0)


def connector() -> CountingConnector:
    return CountingConnector(ConnectorConfig(image_size=8, valid_action_combos=list(ACTIONS)))


def test_what_was_played_is_an_episode_and_a_second_one_is_the_next_session(tmp_path):
    played = (0, 1, 1, 0)
    paths = [record_episode(connector(), PlayedState(LEVEL, 5, played), tmp_path) for _ in range(2)]
    assert paths[0] != paths[1]
    (dataset,) = tmp_path.iterdir()
    assert dataset.name.endswith("_human")
    (env_dpath,) = list_environments(dataset)
    environment = Environment(env_dpath)
    assert environment.num_episodes == 2
    with environment.open(0) as first, environment.open(1) as second:
        assert first.actions.tolist() == list(played)
        assert (first.meta.policy, first.meta.seed, second.meta.session) == ("human", 5, 1)
        assert first.truncated.tolist() == [False, False, False, True]
        assert np.array_equal(first.frames(), second.frames())


def test_nothing_played_is_one_line(tmp_path):
    with pytest.raises(UserError, match="nothing was played"):
        record_episode(connector(), PlayedState(LEVEL, 0), tmp_path)


@pytest.mark.parametrize("keeps", [True, False])
def test_the_page_keeps_an_episode_where_it_may(tmp_path, monkeypatch, keeps):
    kept = []
    monkeypatch.setattr("play.server.record_episode", lambda *call: kept.append(call) or Path("level/episode"))
    config = play_config(tmp_path, record_dpath=str(tmp_path / "kept") if keeps else None)
    with serving(config) as (client, server), client.websocket_connect(SOCKET) as socket:
        server.ground.game = LoadedGame(None, [LEVEL])  # type: ignore[arg-type]
        player = WebPlayer(socket)
        assert player.hello["keeps"] is keeps
        player.ask(do="start_episode", environment=0, episode=1, time=3)
        for action in (1, 2):
            player.ask(do="step", action=action)
        message = '{"do": "record", "kind": "episode", "first": 0, "last": 2}'
        if not keeps:
            assert "play.record_dpath" in player.problem(message)
            return
        socket.send_text(message)
        header, _ = player.receive()
        assert header == {"is": "kept", "text": "Kept 5 actions as level/episode."}
        assert kept[0][1].played[-2:] == (1, 2)
