"""What attacks on the page's server achieve: nothing."""

import asyncio
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("starlette", reason="the page's libraries are not installed")

from starlette.websockets import WebSocketDisconnect

from play.config import PlayConfig
from play.guard import is_loopback, make_token
from play.messages import MAX_PICTURE_BYTES, BadMessageError, decode_picture, parse
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
    "[" * 1000, '{"a":' * 200, "x" * 100_000, "\x00", "\ud83d\ude00",
]  # fmt: skip


def png(width: int, height: int, data: bytes) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def valid_png() -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, "PNG")
    return file.getvalue()


RUBBISH = {
    "nothing": b"",
    "text": b"<script>alert(1)</script>",
    "noise": bytes(range(256)) * 40,
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    "cut": valid_png()[:3000],
    "wrong data": png(64, 64, zlib.compress(b"too short")),
    "bad stream": png(64, 64, b"not zlib"),
    "bomb": png(60_000, 60_000, zlib.compress(bytes(1000))),
    "no pixels": png(0, 10, zlib.compress(b"")),
    "too large": bytes(MAX_PICTURE_BYTES + 1),
}


def test_malformed_messages_are_answered_in_one_line_and_change_nothing(tmp_path):
    with serving(play_config(tmp_path)) as (client, _), client.websocket_connect(SOCKET) as socket:
        player = WebPlayer(socket)
        for text in ('{"do": "step", "action": 0}', '{"do": "rewind", "time": 0}'):
            assert "started" in player.problem(text)
        player.ask(do="start_episode", environment=0, episode=0, time=3)
        for text in MALFORMED:
            answer = player.problem(text)
            assert answer and "\n" not in answer and len(answer) < 400, text[:40]
        assert player.ask(do="step", action=0)[0]["time"] == 1


@pytest.mark.parametrize("kind", RUBBISH)
def test_rubbish_is_no_picture(kind):
    with pytest.raises(BadMessageError, match="picture"):
        decode_picture(RUBBISH[kind])


def test_rubbish_uploads_leave_the_game_as_it_is(tmp_path):
    with serving(play_config(tmp_path)) as (client, _), client.websocket_connect(SOCKET) as socket:
        player = WebPlayer(socket)
        player.ask(do="start_episode", environment=0, episode=0, time=3)
        for data in (RUBBISH["cut"], RUBBISH["svg"], RUBBISH["bomb"]):
            assert "picture" in player.problem(data)
        assert player.ask(do="step", action=0)[0]["time"] == 1


@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (4000, 1), (700, 500)])
def test_pictures_of_odd_sizes_are_shrunk(size):
    file = io.BytesIO()
    Image.new("P", size).save(file, "PNG")
    image = decode_picture(file.getvalue())
    assert image.dtype == np.uint8 and image.shape[2] == 3 and max(image.shape[:2]) <= 512


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "", f"{ADDRESS}.evil.example", "http://localhost:1"]
)
def test_pages_of_other_sites_open_no_socket(tmp_path, origin):
    with serving(play_config(tmp_path)) as (client, server):
        with pytest.raises(WebSocketDisconnect), client.websocket_connect(SOCKET, headers={"origin": origin}):
            pass
        assert len(server.visitors) == 0


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
        for path in ("/", "/play.js", "/look/datasets", "/?token=wrong", "/play.js?token=right", "/?token="):
            assert client.get(path).status_code == 403
        for cookie in ("play_token=wrong", "play_token", ";;;=", "play_token=righ", "play_token=\xe9"):
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
        "/look/image/file/x/0", "/look/strip/0/-1", "/look/strip/99/0", "/look/strip/0/99", "/look/episode/0/1e9",
        "/look/episode/99999999999999999999/0", "/socket",
    ],
)  # fmt: skip
def test_no_path_of_a_request_is_opened(tmp_path, path):
    with serving(play_config(tmp_path)) as (client, _):
        assert client.get(path).status_code == 404


def test_answers_forbid_embedding_and_foreign_scripts(tmp_path):
    with serving(play_config(tmp_path)) as (client, _):
        for path in ("/", "/play.js", "/look/runs", "/nothing"):
            headers = client.get(path).headers
            assert "frame-ancestors 'none'" in headers["content-security-policy"]
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
        enter = [visitors.enter(socket, "") for socket in sockets]  # type: ignore[arg-type]
        sleeper, lost, awake = [await enter[i] for i in range(3)]
        await visitors.lose(lost, sockets[1], for_good=False)  # type: ignore[arg-type]
        await visitors.sweep()
        assert len(visitors) == 3
        clock.now = 11
        await visitors.sweep()
        assert len(visitors) == 2
        assert await enter[3] is not None
        clock.now = 101
        visitors.hear(awake)
        # All places are taken: whoever has slept longest makes room.
        assert await enter[4] is not None
        assert len(visitors) == 3 and [socket.code for socket in sockets] == [1001, 0, 0, 0, 0]
        assert await visitors.enter(SleepingSocket(), sleeper.key) is None  # type: ignore[arg-type]

    asyncio.run(run())


def test_a_game_is_freed_even_if_its_connection_is_cancelled():
    class SlowSocket(SleepingSocket):
        async def close(self, code: int, reason: str) -> None:
            await asyncio.sleep(3600)

    async def run() -> None:
        visitors = Visitors(PlayConfig(), QuietSession)  # type: ignore[arg-type]
        guest = await visitors.enter(SlowSocket(), "")  # type: ignore[arg-type]
        assert guest is not None
        closing = asyncio.create_task(visitors.close())
        await asyncio.sleep(0)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        assert guest.session.is_closed  # type: ignore[attr-defined]

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
