"""The page's server: playing over the websocket gives what the model gives in Python."""

import io
import json
from contextlib import ExitStack
from dataclasses import replace
from threading import Event
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("starlette", reason="the page's libraries are not installed")

from starlette.websockets import WebSocketDisconnect

from data_generation.data.errors import FieldError, UserError
from data_generation.generator.connector_base import EnvironmentSpec
from data_generation.generator.levels import Level
from external.agent57.checkpoint import Agent57Info, save_agent57
from external.agent57.config import FamilyConfig
from play.agents import trained_policy
from play.batching import Simulator
from play.export import STATIC_DPATH
from play.playground import LoadedGame, Playground
from play.server import Server
from play.starts import Start, episode_start
from tests.agent57_helpers import NUM_ACTIONS, NUM_POLICIES, small_network, small_networks
from tests.play_helpers import SOCKET, WebPlayer, play_config, serving
from tests.process_helpers import wait_until
from tests.training_helpers import ACTIONS, save_fresh, tiny_config

START = {"do": "start_episode", "environment": 0, "episode": 1, "time": 3}


def pixels(part: bytes, size: int = 16) -> np.ndarray:
    return np.frombuffer(part, np.uint8).reshape(size, size, 3).transpose(2, 0, 1)


def test_steps_are_those_of_the_model(tmp_path):
    with serving(play_config(tmp_path, window=5)) as (client, server), client.websocket_connect(SOCKET) as socket:
        player = WebPlayer(socket)
        assert player.hello["actions"] == ["RIGHT", "LEFT", "STAY"]
        header, parts = player.ask(**START)
        start = episode_start(server.ground.environments[0], 1, 3, 4)
        assert np.array_equal(pixels(parts["model"]), start.frames[-1])
        simulator = Simulator(server.ground.model, 5)
        state = simulator.start(start)
        for t in range(9):
            header, parts = player.ask(do="step", action=t % 3)
            (made,) = simulator.step([state], [t % 3])
            state = made.state
            assert np.array_equal(pixels(parts["model"]), made.frame)
            assert len(parts["entropy"]) == 16
            assert (header["time"], header["action"], header["last"]) == (t + 1, t % 3, t + 1)


@pytest.mark.parametrize("shared_positions", [False, True])
@pytest.mark.parametrize("history_tokens", ["likeliest", "expected"])
def test_rewinding_and_branching_equal_playing_straight_on(tmp_path, history_tokens, shared_positions):
    config = play_config(tmp_path, history_tokens=history_tokens, shared_positions=shared_positions, window=5)
    with serving(config) as (client, server), client.websocket_connect(SOCKET) as socket:
        # So that pictures change from frame to frame, which those of fresh weights hardly do.
        with torch.no_grad():
            for parameter in server.ground.model.parameters():
                parameter.mul_(2) if parameter.dim() > 1 else parameter.add_(0.1)
        player = WebPlayer(socket)
        player.ask(**START)
        straight = [player.ask(do="step", action=a)[1]["model"] for a in (0, 1, 2, 0, 0, 0, 0, 1, 1, 1)]
        header, parts = player.ask(do="rewind", time=7)
        assert (header["time"], header["last"], parts["model"]) == (7, 10, straight[6])
        again = [player.ask(do="step", action=a)[1]["model"] for a in (1, 1, 1)]
        assert again == straight[7:]
        player.ask(do="rewind", time=2)
        header, parts = player.ask(do="step", action=1)
        assert header["last"] == 3
        branch = [player.ask(do="step", action=0)[1]["model"] for _ in range(3)]
        player.ask(**START)
        expected = [player.ask(do="step", action=a)[1]["model"] for a in (0, 1, 1, 0, 0, 0)]
        assert [parts["model"], *branch] == expected[2:]


@pytest.mark.parametrize("shared_positions", [False, True])
def test_frames_beyond_those_that_are_kept_are_forgotten(tmp_path, shared_positions):
    config = play_config(tmp_path, shared_positions=shared_positions, rewind_frames=8)
    with serving(config) as (client, server), client.websocket_connect(SOCKET) as socket:
        player = WebPlayer(socket)
        player.ask(**START)
        for _ in range(30):
            header, _ = player.ask(do="step", action=0)
        assert header["last"] == 30 and header["first"] == 22
        assert player.ask(do="rewind", time=0)[0]["time"] == header["first"]
        (visitor,) = server.visitors._by_key.values()
        session = visitor.session
        assert len(session._moments) == 9 and len(session._known) <= 8 + server.ground.simulator.reach
        # The oldest one is still a place to play on from.
        assert player.ask(do="step", action=1)[0]["time"] == header["first"] + 1


def test_recorded_actions_policies_and_keys_take_over_from_each_other(tmp_path):
    with serving(play_config(tmp_path)) as (client, server), client.websocket_connect(SOCKET) as socket:
        player = WebPlayer(socket)
        player.ask(**START)
        recorded = server.ground.environments[0].actions(1)[3:]
        assert player.ask(do="source", name="recorded")[0]["source"] == "recorded"
        taken = [player.ask(do="step", action=0)[0]["action"] for _ in recorded]
        assert taken == recorded.tolist()
        header, _ = player.ask(do="step", action=2)
        assert (header["action"], header["source"]) == (2, "keys")
        player.ask(do="source", name="sticky_random")
        seen: set[int] = set()
        while len(seen) < 3:
            header, _ = player.ask(do="step", action=0)
            assert header["source"] == "sticky_random"
            seen.add(header["action"])
        assert "play.agent_fpath" in player.problem('{"do": "source", "name": "agent"}')


def test_latent_actions_are_buttons_and_recordings_are_followed_by_inferred_ones(tmp_path):
    with serving(play_config(tmp_path, "genie_redux")) as (client, server):
        with client.websocket_connect(SOCKET) as socket:
            player = WebPlayer(socket)
            assert player.hello["actions"] == ["latent_0", "latent_1", "latent_2"]
            assert not player.hello["has_game"]
            player.ask(**START)
            player.ask(do="source", name="recorded")
            assert player.ask(do="step", action=0)[0]["source"] == "recorded"
            assert "latent" in player.problem('{"do": "game", "on": true}')
        assert len(server.visitors) == 0


def test_a_picture_is_a_start(tmp_path):
    with serving(play_config(tmp_path)) as (client, _), client.websocket_connect(SOCKET) as socket:
        player = WebPlayer(socket)
        file = io.BytesIO()
        Image.new("RGBA", (300, 200), (200, 10, 10, 255)).save(file, "PNG")
        socket.send_bytes(file.getvalue())
        header, parts = player.receive()
        assert header["label"] == "an image"
        assert pixels(parts["model"])[:, 8, 8].tolist() == [200, 10, 10]
        assert player.ask(do="step", action=1)[0]["time"] == 1


@pytest.mark.parametrize(("kind", "mark"), [("gif", b"GIF89a"), ("mp4", b"ftyp")])
def test_what_was_played_is_saved_as_a_video(tmp_path, kind, mark):
    with serving(play_config(tmp_path)) as (client, _), client.websocket_connect(SOCKET) as socket:
        player = WebPlayer(socket)
        player.ask(**START)
        for t in range(5):
            player.ask(do="step", action=t % 3)
        header, parts = player.ask(do="record", kind=kind, first=0, last=99)
        assert header == {"is": "recording", "kind": kind, "text": f"Saved play.{kind}."}
        assert mark in parts["file"][:16]
        if kind == "gif":
            assert Image.open(io.BytesIO(parts["file"])).n_frames >= 3


def test_a_video_that_leaves_out_the_oldest_frames_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("play.session._MAX_RECORDED", 4)
    with serving(play_config(tmp_path)) as (client, _), client.websocket_connect(SOCKET) as socket:
        player = WebPlayer(socket)
        player.ask(**START)
        for t in range(8):
            player.ask(do="step", action=t % 3)
        texts = [player.ask(do="record", kind="gif", first=first, last=99)[0]["text"] for first in (0, 5)]
    assert texts == ["Saved play.gif: the last 4 frames, without 5 before them.", "Saved play.gif."]


def test_a_policy_is_not_given_what_another_one_remembers(tmp_path):
    class Counting:
        """Acts by how often it has acted; its carry is a value of its own kind."""

        def initial_carry(self) -> tuple[str, int]:
            return "count", 0

        def __call__(self, carry: tuple[str, int], observation: np.ndarray, rng: np.random.Generator):
            word, count = carry
            assert word == "count"
            return (word, count + 1), count % 3

    with serving(play_config(tmp_path)) as (client, server), client.websocket_connect(SOCKET) as socket:
        server.ground.policies["agent"] = Counting()
        player = WebPlayer(socket)
        player.ask(**START)
        for other in ("sticky_random", "random"):
            player.ask(do="source", name=other)
            for _ in range(5):
                player.ask(do="step", action=0)
            player.ask(do="source", name="agent")
            now = player.ask(do="rewind", time=2)[0]["time"]
            taken = [player.ask(do="step", action=0)[0]["action"] for _ in range(5)]
            assert (now, taken) == (2, [0, 1, 2, 0, 1])
            # From a moment after which it acted itself, it acts as it did.
            player.ask(do="rewind", time=5)
            assert [player.ask(do="step", action=0)[0]["action"] for _ in range(2)] == [0, 1]
            player.ask(do="source", name=other)
            player.ask(do="rewind", time=4)
            assert player.ask(do="step", action=0)[0]["source"] == other


@pytest.mark.parametrize("error", [RuntimeError("CUDA out of memory"), KeyError("a fault of the code")])
def test_a_model_that_fails_is_said_and_logged_and_play_goes_on(tmp_path, monkeypatch, caplog, error):
    """On the same connection: a page that connects again would only meet the failure again."""

    def fail(*_: object) -> None:
        raise error

    with serving(play_config(tmp_path)) as (client, server), client.websocket_connect(SOCKET) as socket:
        player = WebPlayer(socket)
        with monkeypatch.context() as broken:
            broken.setattr(server.queue.simulator, "step", fail)
            assert "see its log" in player.problem(json.dumps(START))
        player.ask(**START)
        with monkeypatch.context() as broken:
            broken.setattr(server.queue.simulator, "step", fail)
            assert "see its log" in player.problem('{"do": "step", "action": 0}')
        assert player.ask(do="step", action=0)[0]["time"] == 1
        logged = [record.exc_info[1] for record in caplog.records if record.exc_info]
        assert logged == [error, error]
        # What is shown to one who comes back is made by a model, too.
        socket.close(1006)
        monkeypatch.setattr(server.ground, "enlarger", SimpleNamespace(config=SimpleNamespace(image_size=16)))
        monkeypatch.setattr(server.ground, "enlarge", fail)
        with client.websocket_connect(f"{SOCKET}?key={player.hello['key']}") as socket:
            assert "see its log" in WebPlayer(socket).receive()[0]["text"]


def test_a_lost_connection_resumes_and_a_closed_tab_frees_its_place(tmp_path):
    with serving(play_config(tmp_path, max_visitors=2)) as (client, server):
        with client.websocket_connect(SOCKET) as socket:
            player = WebPlayer(socket)
            player.ask(**START)
            shown = player.ask(do="step", action=1)[1]["model"]
            socket.close(1006)
        assert len(server.visitors) == 1
        with client.websocket_connect(f"{SOCKET}?key={player.hello['key']}") as socket:
            again = WebPlayer(socket)
            assert again.hello["is_resumed"] and again.hello["key"] == player.hello["key"]
            header, parts = again.receive()
            assert (header["time"], parts["model"]) == (1, shown)
            assert again.ask(do="step", action=0)[0]["time"] == 2
            socket.close(1001)
        assert len(server.visitors) == 0


def test_of_a_visitors_connections_only_the_last_one_is_answered(tmp_path, monkeypatch):
    """Who reloads a page several times does not wait for all that was asked before."""
    with serving(play_config(tmp_path)) as (client, server), ExitStack() as connections:
        made, may_go_on, episode = [], Event(), server.ground.episode

        def slow(environment: int, number: int, time: int) -> Start:
            made.append(number)
            may_go_on.wait()
            return episode(environment, number, time)

        monkeypatch.setattr(server.ground, "episode", slow)
        key = ""
        for number in range(4):
            socket = connections.enter_context(client.websocket_connect(f"{SOCKET}?key={key}"))
            player = WebPlayer(socket)
            key = player.hello["key"]
            socket.send_text(json.dumps({**START, "episode": number}))
            wait_until(lambda: made)
        may_go_on.set()
        assert "episode 3" in player.receive()[0]["label"]
        assert made == [0, 3]


def test_as_many_visitors_as_allowed_play_at_once(tmp_path):
    with serving(play_config(tmp_path, max_visitors=2)) as (client, server):
        with client.websocket_connect(SOCKET) as one, client.websocket_connect(SOCKET) as two:
            first, second = WebPlayer(one), WebPlayer(two)
            first.ask(**START)
            second.ask(**{**START, "episode": 2})
            assert first.ask(do="step", action=0)[1] != second.ask(do="step", action=0)[1]
            with client.websocket_connect(SOCKET) as three:
                assert "2 people play already" in WebPlayer(three).hello["text"]
                with pytest.raises(WebSocketDisconnect) as end:
                    three.receive_bytes()
                assert end.value.code == 1013
            two.close(1006)
            # A place whose connection was lost is given to whoever comes.
            with client.websocket_connect(SOCKET) as three:
                assert WebPlayer(three).hello["is"] == "hello"
            assert first.ask(do="step", action=0)[0]["time"] == 2
        assert len(server.visitors) == 0


def test_an_exported_page_is_offered(tmp_path):
    folder = tmp_path / "page"
    (folder / "runtime").mkdir(parents=True)
    for name in ("index.html", "world.json", "worker.js", "runtime/ort.wasm"):
        (folder / name).write_text(name)
    with serving(play_config(tmp_path, browser_dpath=str(folder))) as (client, _):
        assert client.get("/browser/").text == "index.html"
        assert client.get("/keys.js").text == (STATIC_DPATH / "keys.js").read_text(), "both pages have the same keys"
        worker = client.get("/browser/worker.js")
        assert worker.headers["content-type"].startswith("text/javascript")
        assert "'wasm-unsafe-eval'" in worker.headers["content-security-policy"]
        assert client.get("/browser/runtime/ort.wasm").headers["content-type"] == "application/wasm"
        assert client.get("/browser/../model-7.pt").status_code == 404
        with client.websocket_connect(SOCKET) as socket:
            assert WebPlayer(socket).hello["browser"] == "/browser/"
    with pytest.raises(UserError, match=r"browser_dpath=.*holds no exported page"):
        Server(Playground(play_config(tmp_path / "other", browser_dpath=str(tmp_path))), None)


def test_a_super_resolution_model_enlarges_what_is_shown_and_nothing_else(tmp_path):
    plain = play_config(tmp_path)
    path = save_fresh(tmp_path / "large" / "model-7.pt", tiny_config(tmp_path, "super_resolution"))
    config = replace(plain, super_resolution_fpath=str(path))
    with serving(config) as (client, server), client.websocket_connect(SOCKET) as socket:
        player = WebPlayer(socket)
        assert (player.hello["size"], player.hello["shown_size"]) == ([16, 16], [32, 32])
        player.ask(**START)
        _, parts = player.ask(do="step", action=1)
        simulator = Simulator(server.ground.model)
        (made,) = simulator.step([simulator.start(episode_start(server.ground.environments[0], 1, 3, 4))], [1])
        assert np.array_equal(pixels(parts["model"], 32), server.ground.enlarge(made.frame))
    with pytest.raises(UserError, match=r"^super_resolution_fpath=.*upsamples nothing"):
        Playground(replace(plain, super_resolution_fpath=plain.model_fpath))


def test_levels_that_the_model_was_trained_on_are_named(tmp_path):
    with serving(play_config(tmp_path)) as (client, server):
        ground = server.ground
        assert all(ground.is_known("square", instance) for instance in (0, 9)), "it does not say on which"
        ground.game = LoadedGame(None, [Level("square", i) for i in range(4)])  # type: ignore[arg-type]
        ground.levels = {"square": "1-2"}
        with client.websocket_connect(SOCKET) as socket:
            hello = WebPlayer(socket).hello
    assert hello["levels"] == [[0, False], [1, True], [2, True], [3, False]]
    assert (hello["first_level"], hello["trained_on"]) == (1, "1-2 of square")
    assert not hello["begins_at_level"], "there are recorded episodes, and the model is not the one that is shipped"


@pytest.mark.parametrize(
    ("actions", "skip", "problem"),
    [(["A", "B", "C"], None, "was trained on the actions A, B, C, these are"), (ACTIONS, 2, "was trained with 2")],
)
def test_an_agent_of_another_environment_is_refused_by_its_own_field(tmp_path, actions, skip, problem):
    info = Agent57Info(
        actions, NUM_ACTIONS, small_network(), FamilyConfig(num_policies=NUM_POLICIES), n_skip_frames=skip
    )
    path = tmp_path / "agent.pt"
    save_agent57(path, small_networks(), info)
    with pytest.raises(FieldError, match=rf"agent_fpath: '.*' {problem}.*; use an agent") as raised:
        trained_policy(path, EnvironmentSpec(ACTIONS, (3, 16, 16), "", 4))
    assert "valid_action_combos" not in str(raised.value)


def test_agent57_acts_on_the_models_frames(tmp_path):
    info = Agent57Info(ACTIONS, NUM_ACTIONS, small_network(), FamilyConfig(num_policies=NUM_POLICIES))
    save_agent57(tmp_path / "agent.pt", small_networks(), info)
    config = play_config(tmp_path, agent_fpath=str(tmp_path / "agent.pt"))
    with serving(config) as (client, server), client.websocket_connect(SOCKET) as socket:
        player = WebPlayer(socket)
        player.ask(**START)
        assert player.ask(do="source", name="agent")[0]["source"] == "agent"
        assert player.ask(do="step", action=0)[0]["action"] in range(3)
        agent = server.ground.policies["agent"]
    frame, carry = np.zeros((3, 16, 16), np.uint8), agent.initial_carry()
    carry, _ = agent(carry, frame, np.random.default_rng(0))
    # What it remembers is a value: from a moment that was gone back to, it acts as it did.
    again, once = (agent(carry, frame, np.random.default_rng(1)) for _ in range(2))
    assert torch.equal(again[0][0].state, once[0][0].state) and again[1] == once[1]
