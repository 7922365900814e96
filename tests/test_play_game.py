"""The real game beside the model."""

from threading import Lock

import numpy as np
import pytest

pytest.importorskip("starlette", reason="the page's libraries are not installed")

from data_generation.config import ConnectorConfig
from data_generation.data.errors import FieldError
from data_generation.generator.faults import EnvironmentFault
from data_generation.generator.levels import Level, LevelEnv, Transition
from data_generation.generator.recorded import RecordedState
from models.config import ModelConfig
from play.game import MAX_LEVELS, RealGame, level_starts, listed_levels, recorded_game
from play.playground import LoadedGame
from play.session import image_psnr
from play.starts import PlayedState, Start
from tests.generator_helpers import BrokenConnector, CountingConnector
from tests.play_helpers import SOCKET, WebPlayer, play_config, serving
from tests.process_helpers import wait_until


class CountedGame:
    """Shows how many actions were played since its own beginning; ends after 12, breaks under action 2."""

    num_open = num_made = 0
    lock = Lock()

    def __init__(self, connector: object):
        with self.lock:
            CountedGame.num_open += 1
            CountedGame.num_made += 1
        self.count = 0

    def frame(self) -> np.ndarray:
        return np.full((3, 16, 16), self.count, np.uint8)

    def find_seed(self, state: RecordedState) -> int:
        return state.seeds[0]

    def start(self, state: PlayedState, num_frames: int) -> Start:
        self.count = min(len(state.played), 12)
        return Start(self.frame()[None], game=state, label="counted", is_over=self.count == 12)

    def step(self, action: int) -> Transition:
        if action == 2:
            raise EnvironmentFault("step", "is on fire")
        self.count += 1
        return Transition(action, self.frame(), 0.0, self.count == 12, False, {})

    def close(self) -> None:
        with self.lock:
            CountedGame.num_open -= 1


@pytest.fixture
def player(tmp_path, monkeypatch):
    monkeypatch.setattr("play.session.RealGame", CountedGame)
    monkeypatch.setattr(CountedGame, "num_open", 0)
    monkeypatch.setattr(CountedGame, "num_made", 0)
    with serving(play_config(tmp_path)) as (client, server):
        server.ground.game = LoadedGame(None, [Level("counted", 0)])  # type: ignore[arg-type]
        with client.websocket_connect(SOCKET) as socket:
            yield WebPlayer(socket)
    # A thread may still be closing one.
    wait_until(lambda: CountedGame.num_open == 0)


def shown(answer) -> int:
    header, parts = answer
    frame, real = (np.frombuffer(parts[name], np.uint8) for name in ("model", "game"))
    assert len(set(real.tolist())) == 1
    # Its last frame is not the one that the model's should be like.
    assert header["game_is_over"] == (real[0] == 12)
    psnr = image_psnr(frame.reshape(3, 1, -1), real.reshape(3, 1, -1))
    assert header["psnr"] == (None if header["game_is_over"] else pytest.approx(psnr, abs=0.01))
    return int(real[0])


def test_the_game_follows_through_steps_rewinding_and_branches(player):
    player.ask(do="start_episode", environment=0, episode=0, time=3)
    assert shown(player.ask(do="game", on=True)) == 3
    assert [shown(player.ask(do="step", action=0)) for _ in range(5)] == [4, 5, 6, 7, 8]
    assert shown(player.ask(do="rewind", time=2)) == 5
    assert [shown(player.ask(do="step", action=1)) for _ in range(3)] == [6, 7, 8]
    header, _ = player.ask(do="game", on=False)
    assert not header["has_game"]
    assert "game" not in player.ask(do="step", action=0)[1]
    assert shown(player.ask(do="game", on=True)) == 3 + 6
    # After its end it shows its last frame, until the model goes back to before.
    assert [shown(player.ask(do="step", action=1)) for _ in range(5)] == [10, 11, 12, 12, 12]
    player.ask(do="rewind", time=7)
    assert shown(player.ask(do="step", action=1)) == 11


def test_after_its_end_the_game_stands_still_wherever_one_goes_back_to(player):
    player.ask(do="start_episode", environment=0, episode=0, time=3)
    player.ask(do="game", on=True)
    for _ in range(13):
        player.ask(do="step", action=0)
    assert shown(player.ask(do="rewind", time=11)) == 12
    assert [shown(player.ask(do="step", action=1)) for _ in range(2)] == [12, 12]
    player.ask(do="game", on=False)
    assert shown(player.ask(do="game", on=True)) == 12
    assert shown(player.ask(do="step", action=1)) == 12
    player.ask(do="start_episode", environment=0, episode=0, time=12)
    assert [shown(player.ask(do="step", action=1)) for _ in range(2)] == [12, 12]


@pytest.mark.parametrize(("known", "expected"), [(2, 2), (None, ConnectorConfig().n_skip_frames)])
def test_the_game_of_a_model_has_the_frame_skip_of_its_dataset(known, expected):
    config = ModelConfig(action_names=["RIGHT", "LEFT"], levels={"Cinderfoot-Nes": "0"}, n_skip_frames=known)
    assert recorded_game(config, "").config.n_skip_frames == expected


def test_a_game_that_breaks_is_said_and_play_goes_on(player):
    player.ask(do="start_episode", environment=0, episode=0, time=3)
    player.ask(do="game", on=True)
    assert "is on fire" in player.problem('{"do": "step", "action": 2}')
    header, _ = player.ask(do="step", action=0)
    assert (header["time"], header["has_game"]) == (1, False)


def test_a_level_of_the_game_is_a_start(player):
    assert player.hello["is"] == "hello"
    header, _ = player.ask(do="start_level", level=0)
    assert header["label"] == "counted"
    assert player.ask(do="start_level", level=0)[0]["label"] == "counted"
    assert CountedGame.num_made == 1, "a level's first frames are asked for once"
    assert shown(player.ask(do="game", on=True)) == 0
    assert "no such level" in player.problem('{"do": "start_level", "level": 1}')


def test_the_process_of_a_game_plays_it():
    game = RealGame(CountingConnector(ConnectorConfig(image_size=8)))
    try:
        start = game.start(PlayedState(Level("toy", 0), 7, (0, 1, 2)), 2)
        assert start.frames[:, 0, 0, 0].tolist() == [2, 3] and start.actions.tolist() == [2]
        assert game.step(1).frame[0, 0, 0] == 4
        assert not start.is_over
        end = game.start(PlayedState(Level("toy", 0), 7, (0,) * 14), 2)
        assert end.frames[:, 0, 0, 0].tolist() == [9, 10] and end.is_over
        assert end.game.played == (0,) * 10 and end.actions.tolist() == [0]
        with pytest.raises(EnvironmentFault, match="on fire"):
            game.start(PlayedState(Level("broken", 0), 0, (0,)), 1)
    finally:
        game.close()


def test_the_levels_of_a_model_start_while_this_process_plays_a_game():
    """An emulator takes no other one beside it in a process."""
    config = ModelConfig(action_names=["RIGHT", "LEFT"], levels={"Cinderfoot-Nes": "0, 2"}, n_skip_frames=4)
    config.tokenizer.image_size = 16
    env = LevelEnv(recorded_game(config, ""), 9)
    try:
        env.start(Level("Cinderfoot-Nes", 1), 0)
        starts = level_starts(config)
        assert env.step(0).frame.shape == (3, 16, 16), "the game goes on"
    finally:
        env.close()
    assert [start.label for start in starts] == [f"Cinderfoot-Nes, level {i}" for i in (0, 2)]
    alone = level_starts(config)
    assert all(np.array_equal(one.frames, other.frames) for one, other in zip(starts, alone, strict=True))


class ManyLevels(CountingConnector):
    def num_instances(self, game: str) -> int:
        return 1000


def test_a_model_of_levels_far_from_the_first_ones_starts_at_them(monkeypatch):
    connector = ManyLevels(ConnectorConfig(image_size=8, game=["toy"]))
    monkeypatch.setattr("play.game.recorded_game", lambda *_: connector)
    config = ModelConfig(levels={"toy": "500-501, 1200"})
    assert [start.label for start in level_starts(config)] == ["toy, level 500", "toy, level 501"]
    assert [start.label for start in level_starts(config, [999, 3])] == ["toy, level 999", "toy, level 3"]
    with pytest.raises(FieldError, match=r"^starts=1000: is not a level of the game; use 0 to 999"):
        level_starts(config, [1, 1000])
    with pytest.raises(FieldError, match=r"^dataset_dpath: .* none of the model's levels \(1200\) here; give"):
        level_starts(ModelConfig(levels={"toy": "1200"}))
    instances = [level.instance for level in listed_levels(connector, "toy", "500-501, 1200")]
    assert instances == [*range(MAX_LEVELS), 500, 501]


def test_a_game_that_cannot_be_played_here_names_the_other_way_to_start(monkeypatch):
    connector = BrokenConnector(ConnectorConfig(image_size=8, game=["toy"]))
    monkeypatch.setattr("play.game.recorded_game", lambda *_: connector)
    with pytest.raises(FieldError, match=r"^dataset_dpath: is not set.*no display.*; give the folder of a dataset"):
        level_starts(ModelConfig(levels={"toy": "0"}), [0])
