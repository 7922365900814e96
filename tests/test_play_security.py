"""What attacks on the page's server achieve: nothing."""

import asyncio
from typing import ClassVar

import numpy as np
import pytest

pytest.importorskip("starlette", reason="the page's libraries are not installed")

from starlette.websockets import WebSocketDisconnect

from data_generation.data.errors import UserError
from play.batching import Simulated
from play.config import PlayConfig
from play.guard import is_loopback, make_token
from play.messages import BadMessageError, parse
from play.session import PlayMoment, PlaySession
from play.starts import Start
from play.step_queue import StepQueue
from play.visitors import Visitors
from tests.play_helpers import ADDRESS, SOCKET, WebPlayer, play_config, serving

MALFORMED = [
    "", "null", "[]", "3", '"step"', "{", "{}", '{"do": null}', '{"do": "quit"}', '{"do": ["step"]}', '{"do": {}}',
    '{"do": "step"}', '{"do": "step", "action": null}', '{"do": "step", "action": "0"}',
    '{"do": "step", "action": 1.5}', '{"do": "step", "action": true}',
    '{"do": "step", "action": -1}', '{"do": "step", "action": 3}',
    '{"do": "step", "action": 1e400}', '{"do": "step", "action": NaN}',
    '{"do": "step", "action": 99999999999999999999}',
    '{"do": "step", "action": 0, "more": 1}', '{"do": "start_level", "level": 0}',
    '{"do": "start_episode", "environment": 9, "episode": 0, "time": 0}',
    '{"do": "start_episode", "environment": 0, "episode": 999, "time": 0}',
    '{"do": "start_episode", "environment": 0, "episode": 0, "time": 100000}',
    '{"do": "start_episode", "environment": "../../etc/passwd", "episode": 0, "time": 0}',
    '{"do": "source", "name": "os:system"}', '{"do": "source", "name": "agent"}', '{"do": "game", "on": 1}',
    '{"do": "record", "kind": "../x", "first": 0, "last": 1}', '{"do": "record", "kind": "gif", "first": 5, "last": 1}',
    '{"do": "record", "kind": "gif", "first": 1000, "last": 2147483648}',
    '{"do": "record", "kind": "mp4", "first": 2147483648, "last": 2147483648}',
    "[" * 1000, '{"a":' * 200, "x" * 100_000, "\x00", "\ud83d\ude00",
]  # fmt: skip

NEEDS_A_START = [
    '{"do": "step", "action": 0}', '{"do": "rewind", "time": 0}', '{"do": "source", "name": "random"}',
    '{"do": "source", "name": "keys"}', '{"do": "source", "name": "recorded"}', '{"do": "game", "on": false}',
    '{"do": "game", "on": true}', '{"do": "record", "kind": "gif", "first": 0, "last": 2147483648}',
]  # fmt: skip
TOO_MANY_FIELDS = "/?token=right" + 20 * "&a=b"


def test_malformed_messages_are_answered_in_one_line_and_change_nothing(tmp_path):
    with serving(play_config(tmp_path)) as (client, _), client.websocket_connect(SOCKET) as socket:
        player = WebPlayer(socket)
        for text in NEEDS_A_START:
            assert player.problem(text) == "nothing has been started yet"
        player.ask(do="start_episode", environment=0, episode=0, time=3)
        for text in MALFORMED:
            answer = player.problem(text)
            assert answer and "\n" not in answer and len(answer) < 400, text[:40]
        assert player.ask(do="step", action=0)[0]["time"] == 1


def test_recording_looks_at_the_moments_that_there_are_however_many_are_asked_for():
    class CountedMoments(dict[int, PlayMoment]):
        looks = 0

        def __getitem__(self, time: int) -> PlayMoment:
            self.looks += 1
            return super().__getitem__(time)

        def __contains__(self, time: object) -> bool:
            self.looks += 1
            assert self.looks < 100
            return super().__contains__(time)

    frame = np.zeros((3, 16, 16), np.uint8)
    session = PlaySession(None, None)  # type: ignore[arg-type]
    for record in ((0, 2**31), (5, 1)):
        with pytest.raises(UserError, match="nothing has been started yet"):
            session.images(*record)
    session._start, session._actions = Start(frame[None]), [0, 0, 0]
    session._moments = CountedMoments({time: PlayMoment(frame) for time in range(1, 4)})
    assert [len(session.images(*times)) for times in ((0, 2**31), (2, 2**31), (0, 1), (2, 2))] == [3, 2, 1, 1]
    for record in ((1000, 2**31), (0, 0), (3, 2)):
        with pytest.raises(UserError, match="no frames to record"):
            session.images(*record)
    assert session._moments.looks == 7


def test_recorded_frames_are_as_many_as_are_kept_by_default():
    frame = np.zeros((3, 16, 16), np.uint8)
    session = PlaySession(None, None)  # type: ignore[arg-type]
    session._start, session._actions = Start(frame[None]), [0] * 700
    session._moments = {time: PlayMoment(frame) for time in range(701)}
    assert len(session.images(0, 700)) == PlayConfig().rewind_frames + 1


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "", f"{ADDRESS}.evil.example", "http://localhost:1"]
)
def test_pages_of_other_sites_open_no_socket(tmp_path, origin):
    with serving(play_config(tmp_path)) as (client, server):
        with pytest.raises(WebSocketDisconnect), client.websocket_connect(SOCKET, headers={"origin": origin}):
            pass
        assert len(server.visitors) == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "127.9.9.9", "localhost", "[::1]"])
@pytest.mark.parametrize("port", ["", ":8000"])
def test_every_name_of_this_machine_itself_is_taken(tmp_path, host, port):
    with serving(play_config(tmp_path)) as (client, _):
        assert client.get("/", headers={"host": f"{host}{port}"}).status_code == 200
        for wrong in (f"{host}.evil.example", f"evil.example:{host}", "0.0.0.0", "[::]", "10.0.0.1", "127.0.0.1."):
            assert client.get("/", headers={"host": f"{wrong}{port}"}).status_code == 403, wrong


@pytest.mark.parametrize("path", ["/", "/look/datasets"])
def test_a_foreign_name_for_this_machine_is_refused(tmp_path, path):
    """DNS rebinding."""
    with serving(play_config(tmp_path)) as (client, _):
        assert client.get(path).status_code == 200
        assert client.get(path, headers={"host": "evil.example:8000"}).status_code == 403
        evil = {"host": "evil.example:8000", "origin": "http://evil.example:8000"}
        with pytest.raises(WebSocketDisconnect), client.websocket_connect(SOCKET, headers=evil):
            pass


def test_beyond_this_machine_everything_needs_the_token(tmp_path):
    with serving(play_config(tmp_path), token="right") as (client, _):
        for path in (
            "/",
            "/play.js",
            "/look/datasets",
            "/?token=wrong",
            "/play.js?token=right",
            "/?token=",
            TOO_MANY_FIELDS,
        ):
            assert client.get(path).status_code == 403
        name = "play_token_8000"
        for cookie in (f"{name}=wrong", name, ";;;=", f"{name}=righ", f"{name}=\xe9", "play_token_8001=right"):
            assert client.get("/", headers={"cookie": cookie.encode("latin-1")}).status_code == 403
        with pytest.raises(WebSocketDisconnect), client.websocket_connect(SOCKET):
            pass
        answer = client.get("/?token=right", follow_redirects=False)
        assert answer.status_code == 303 and answer.headers["location"] == "/"
        assert "HttpOnly" in answer.headers["set-cookie"] and "samesite=strict" in answer.headers["set-cookie"].lower()
        assert client.get("/").status_code == 200
        with client.websocket_connect(SOCKET) as socket:
            assert WebPlayer(socket).hello["is"] == "hello"
        with pytest.raises(WebSocketDisconnect), client.websocket_connect(SOCKET, headers={"origin": "http://x"}):
            pass


def test_tokens_are_asked_for_beyond_loopback_only():
    assert [is_loopback(host) for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost", "0.0.0.0", "::", "a.b")] == [
        *[True] * 4, *[False] * 3,
    ]  # fmt: skip
    assert make_token("127.0.0.1", None) is None
    assert len(make_token("0.0.0.0", None) or "") >= 32
    assert make_token("0.0.0.0", None) != make_token("0.0.0.0", None)


@pytest.mark.parametrize(
    "path",
    [
        "/../config.py", "/page/index.html", "/%2e%2e/config.py", "/play.py", "/look/../../config.py",
        "/look/run/..%2f..%2fmodel-7.pt", "/look/run/datasets", "/look/image/run/x/0", "/look/image/evaluation/x/0",
        "/look/image/run/x/..%2fa.png", "/look/image/file/x/0",
        "/look/strip/0/-1", "/look/strip/99/0", "/look/strip/0/99", "/look/episode/0/1e9",
        "/look/episode/99999999999999999999/0", "/socket", "/look/run/%00", "/look/run/%ff", "/look/run/%F0%9F%92%A9",
        "/look/strip/%D9%A1/0", "//etc/passwd", "/..%5c..%5cetc",
    ],
)  # fmt: skip
def test_no_path_of_a_request_is_opened(tmp_path, path):
    with serving(play_config(tmp_path)) as (client, _):
        assert client.get(path).status_code == 404


def test_very_long_addresses_are_refused_without_a_traceback(tmp_path):
    """Python reads no number of 5000 digits."""
    with serving(play_config(tmp_path)) as (client, _):
        for path in (f"/look/strip/{'9' * 5000}/0", f"/look/run/{'a' * 50_000}"):
            assert client.get(path).status_code == 403


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_pages_of_other_sites_load_and_send_nothing(tmp_path, site):
    """Images, scripts and forms of a page elsewhere, which it need not read to make the server work."""
    foreign = {"sec-fetch-site": site, "sec-fetch-mode": "no-cors"}
    with serving(play_config(tmp_path)) as (client, _):
        for path in ("/look/runs", "/look/strip/0/0", "/play.js"):
            assert client.get(path, headers=foreign).status_code == 403
        form = {"content-type": "multipart/form-data; boundary=x", "sec-fetch-mode": "navigate"}
        for path in ("/", "/socket", "/look/runs"):
            assert client.post(path, headers={**foreign, **form}, content=b"\x89PNG").status_code in (404, 405)
        link = {"sec-fetch-site": site, "sec-fetch-mode": "navigate"}
        assert client.get("/", headers=link).status_code == 200


def test_answers_forbid_embedding_and_foreign_scripts(tmp_path):
    with serving(play_config(tmp_path)) as (client, _):
        for path in ("/", "/play.js", "/look/runs", "/nothing"):
            headers = client.get(path).headers
            for rule in ("frame-ancestors 'none'", "form-action 'none'"):
                assert rule in headers["content-security-policy"]
            assert headers["x-content-type-options"] == "nosniff"
        for method in ("post", "put", "delete"):
            assert getattr(client, method)("/look/runs").status_code == 405


def test_a_flooding_visitor_is_disconnected_and_others_play_on(tmp_path):
    config = play_config(tmp_path, max_messages_per_second=20)
    # Time stands still: all messages come within a second.
    served = serving(config, clock=lambda: 0.0)
    with served as (client, server), client.websocket_connect(SOCKET) as calm:
        player = WebPlayer(calm)
        player.ask(do="start_episode", environment=0, episode=0, time=3)
        with client.websocket_connect(SOCKET) as wild:
            flooder = WebPlayer(wild)
            for _ in range(20):
                flooder.problem("x")
            wild.send_text("x")
            with pytest.raises(WebSocketDisconnect) as end:
                wild.receive_bytes()
            assert end.value.code == 1008
        assert player.ask(do="step", action=0)[0]["time"] == 1
        assert len(server.visitors) == 1


def test_one_who_starts_or_rewinds_all_the_time_delays_nobody_by_more_than_a_frame():
    class CountingSimulator:
        """Rollouts are numbers of frames."""

        batches: ClassVar[list[list[int]]] = []

        def empty(self) -> int:
            return 0

        def history(self, ids: np.ndarray, actions: np.ndarray) -> list[tuple[int, np.ndarray]]:
            return list(zip(actions, ids, strict=True))

        def step(self, states: list[int], *_: object) -> list[Simulated]:
            self.batches.append(list(states))
            return [Simulated(np.empty(0), np.empty(0), state + 1) for state in states]  # type: ignore[arg-type]

    async def run() -> None:
        queue = StepQueue(CountingSimulator())  # type: ignore[arg-type]
        ids = np.zeros(10)
        await asyncio.gather(queue.follow(ids, ids), queue.step(100, 0))  # type: ignore[arg-type]
        queue.close()

    asyncio.run(run())
    assert CountingSimulator.batches == [[0, 100], *([t] for t in range(1, 10))]


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class SleepingSocket:
    """A connection that only notes how it was closed."""

    code = 0

    async def close(self, code: int, reason: str) -> None:
        self.code = code


class QuietSession:
    is_closed = False

    def close(self) -> None:
        self.is_closed = True


def test_those_who_sleep_or_stay_away_lose_their_places():
    async def run() -> None:
        clock = Clock()
        config = PlayConfig(idle_seconds=100, resume_seconds=10, max_visitors=3)
        visitors = Visitors(config, QuietSession, clock)  # type: ignore[arg-type]
        sockets = [SleepingSocket() for _ in range(5)]
        sleeper, lost, awake = [visitors.enter(sockets[i], "") for i in range(3)]  # type: ignore[arg-type]
        assert sleeper and lost and awake
        visitors.lose(lost, sockets[1], for_good=False)  # type: ignore[arg-type]
        visitors.sweep()
        assert len(visitors) == 3
        clock.now = 11
        visitors.sweep()
        assert len(visitors) == 2
        assert visitors.enter(sockets[3], "") is not None  # type: ignore[arg-type]
        clock.now = 101
        visitors.hear(awake)
        # All places are taken: whoever has slept longest makes room.
        assert visitors.enter(sockets[4], "") is not None  # type: ignore[arg-type]
        await asyncio.sleep(0)
        assert len(visitors) == 3 and [socket.code for socket in sockets] == [1001, 0, 0, 0, 0]
        assert visitors.enter(SleepingSocket(), sleeper.key) is None  # type: ignore[arg-type]

    asyncio.run(run())


def test_a_place_is_given_on_though_its_connection_is_never_read_and_so_never_closed():
    class UnreadSocket(SleepingSocket):
        async def close(self, code: int, reason: str) -> None:
            await asyncio.sleep(3600)

    async def run() -> None:
        clock = Clock()
        visitors = Visitors(PlayConfig(max_visitors=1), QuietSession, clock)  # type: ignore[arg-type]
        guest = visitors.enter(UnreadSocket(), "")  # type: ignore[arg-type]
        assert guest is not None
        clock.now = 1000
        assert visitors.enter(SleepingSocket(), "") is not None  # type: ignore[arg-type]
        assert guest.session.is_closed and len(visitors) == 1  # type: ignore[attr-defined]

    asyncio.run(run())


def test_only_a_games_own_key_continues_it(tmp_path):
    with serving(play_config(tmp_path)) as (client, _), client.websocket_connect(SOCKET) as socket:
        player = WebPlayer(socket)
        for key in ("", "x" * 5000, player.hello["key"][:-1], "%00"):
            with client.websocket_connect(f"{SOCKET}?key={key}") as other:
                assert WebPlayer(other).hello["key"] != player.hello["key"]


def test_messages_are_values_within_their_ranges():
    with pytest.raises(BadMessageError, match="action=-1: must be at least 0"):
        parse('{"do": "step", "action": -1}')
    assert parse('{"do": "step", "action": 2}').action == 2  # type: ignore[union-attr]
