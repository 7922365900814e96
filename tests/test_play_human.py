"""Play that is kept: the game under the visitor's actions, as an episode of a dataset."""

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("starlette", reason="the page's libraries are not installed")

from data_generation.config import ConnectorConfig
from data_generation.data.data import Environment, EpisodeReader, list_environments
from data_generation.data.errors import UserError
from data_generation.data.info import GAME_FILES
from data_generation.data.lock import locked
from data_generation.generator.levels import Level
from data_generation.generator.recorded import RecordedState
from play.human import record_episode
from play.playground import LoadedGame, Playground
from play.session import PlaySession
from play.starts import PlayedState, Start
from play.step_queue import StepQueue
from tests.generator_helpers import ACTIONS, CountingConnector
from tests.play_helpers import SOCKET, WebPlayer, play_config, serving

pytestmark = pytest.mark.usefixtures("environments_in_threads")

LEVEL = Level("A", 0)


class RightSeed:
    """A game whose recorded episodes have the seed 7."""

    def __init__(self, connector: object):
        pass

    def find_seed(self, state: RecordedState) -> int:
        return 7

    def close(self) -> None:
        pass


def connector() -> CountingConnector:
    return CountingConnector(ConnectorConfig(image_size=8, valid_action_combos=list(ACTIONS)))


def test_what_was_played_is_an_episode_and_a_second_one_is_the_next_session(tmp_path):
    played = (0, 1, 1, 0)
    kept = [record_episode(connector(), PlayedState(LEVEL, 5, played), tmp_path) for _ in range(2)]
    assert kept[0][0] != kept[1][0] and [num_actions for _, num_actions in kept] == [4, 4]
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


def test_nothing_is_kept_where_another_command_writes(tmp_path):
    path, _ = record_episode(connector(), PlayedState(LEVEL, 5, (0, 1)), tmp_path)
    with locked(path.parents[1], "wait"), pytest.raises(UserError, match=r"is in use by .*: wait for it, or stop it"):
        record_episode(connector(), PlayedState(LEVEL, 5, (0, 1)), tmp_path)
    assert [found.name for found in path.parent.iterdir()] == [path.name]


def test_an_episode_has_no_actions_after_the_games_end(tmp_path):
    path, num_actions = record_episode(connector(), PlayedState(LEVEL, 5, (0,) * 14), tmp_path)
    with EpisodeReader(path) as reader:
        assert num_actions == reader.num_actions == 10
        assert reader.terminated[-1]


def test_actions_that_the_game_does_not_know_are_not_kept(tmp_path):
    ground = Playground(play_config(tmp_path, "genie_redux"))
    queue = StepQueue(ground.simulator)
    session = PlaySession(ground, queue)
    start = Start(np.zeros((1, 3, 16, 16), np.uint8), game=PlayedState(LEVEL, 0))

    async def keep() -> None:
        await session.begin(start)
        await session.step(2)
        with pytest.raises(UserError, match="this start has no state of the game"):
            await session.played()

    asyncio.run(keep())
    queue.close()


class FilesConnector(CountingConnector):
    """Of a game with files that may change."""

    def __init__(self, config: ConnectorConfig, **files: str):
        super().__init__(config)
        self._files = files

    def game_recipe(self, game: str) -> dict[str, Any]:
        return {GAME_FILES: self._files}


def test_play_of_a_game_whose_files_have_changed_is_not_kept_with_the_earlier_one(tmp_path):
    config = connector().config
    record_episode(FilesConnector(config, states="1", scenario="1"), PlayedState(LEVEL, 5, (0,)), tmp_path)
    with pytest.raises(
        UserError, match=r"was recorded with other files of the game: scenario: set another play\.record"
    ):
        record_episode(FilesConnector(config, states="1", scenario="2"), PlayedState(LEVEL, 5, (0,)), tmp_path)


def test_nothing_played_is_one_line(tmp_path):
    with pytest.raises(UserError, match="nothing was played"):
        record_episode(connector(), PlayedState(LEVEL, 0), tmp_path)


@pytest.mark.parametrize("keeps", [True, False])
def test_the_page_keeps_an_episode_where_it_may(tmp_path, monkeypatch, keeps):
    kept = []
    num_actions = [5, 4]

    def record(*call):
        kept.append(call)
        return Path("level/episode"), num_actions[len(kept) - 1]

    monkeypatch.setattr("play.server.record_episode", record)
    monkeypatch.setattr("play.session.RealGame", RightSeed)
    config = play_config(tmp_path, record_dpath=str(tmp_path / "kept") if keeps else None)
    with serving(config) as (client, server), client.websocket_connect(SOCKET) as socket:
        server.ground.game = LoadedGame(None, [LEVEL])  # type: ignore[arg-type]
        player = WebPlayer(socket)
        assert player.hello["keeps"] is keeps
        player.ask(do="start_episode", environment=0, episode=1, time=3)
        for action in (1, 2):
            player.ask(do="step", action=action)
        message = {"do": "record", "kind": "episode", "first": 0, "last": 2}
        if not keeps:
            assert "play.record_dpath" in player.problem(json.dumps(message))
            return
        header, _ = player.ask(**message)
        assert header == {"is": "kept", "text": "Kept 5 actions as level/episode."}
        assert kept[0][1].played[-2:] == (1, 2) and kept[0][1].seed == 7
        header, _ = player.ask(**message)
        ended = "The game ended after them: the other 1 are not part of the episode."
        assert header == {"is": "kept", "text": f"Kept 4 actions as level/episode. {ended}"}
