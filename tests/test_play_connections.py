"""What is sent over a connection before, beside and in place of messages costs other visitors nothing."""

import base64
import contextlib
import http.client
import socket
import struct
import threading
from collections.abc import Iterator

import pytest

pytest.importorskip("starlette", reason="the page's libraries are not installed")

import uvicorn
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from play.connections import MAX_FRAMES_PER_SECOND, MAX_HTTP_CONNECTIONS, MAX_MESSAGE_BYTES, server_settings

# The machine may be busy.
PATIENCE = 60
TEXT, BYTES, PING, REST = 1, 2, 9, 0


async def count(websocket: WebSocket) -> None:
    """Answer each message with its length."""
    await websocket.accept()
    try:
        while True:
            message = await websocket.receive()
            if message["type"] == "websocket.disconnect":
                return
            await websocket.send_text(str(len(message.get("text") or message.get("bytes") or "")))
    except WebSocketDisconnect:
        pass


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    app = Starlette(routes=[Route("/", lambda _: PlainTextResponse("page")), WebSocketRoute("/socket", count)])
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(server_settings(app))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield listener.getsockname()[1]
    server.should_exit = True
    thread.join()


class RawSocket:
    """A websocket client without manners."""

    def __init__(self, port: int):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        key = base64.b64encode(bytes(16)).decode()
        lines = [
            "GET /socket HTTP/1.1", "Host: 127.0.0.1", "Upgrade: websocket", "Connection: Upgrade",
            f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Extensions: permessage-deflate",
        ]  # fmt: skip
        self.socket.sendall("\r\n".join([*lines, "", ""]).encode())
        self.answer = b""
        while not self.answer.endswith(b"\r\n\r\n"):
            self.answer += self.socket.recv(1)

    def send(self, kind: int, content: bytes = b"", times: int = 1, is_last: bool = True) -> None:
        length = bytes([128 | len(content)]) if len(content) < 126 else b"\xff" + struct.pack(">Q", len(content))
        self.socket.sendall((bytes([128 * is_last | kind]) + length + bytes(4) + content) * times)

    def receive(self) -> bytes:
        """What a short frame of the server says."""
        header = self.socket.recv(2, socket.MSG_WAITALL)
        return self.socket.recv(header[1], socket.MSG_WAITALL)

    def is_ended(self) -> bool:
        """Read whatever comes until the server ends the connection."""
        with contextlib.suppress(ConnectionError):
            while self.socket.recv(1 << 16):
                pass
        self.socket.close()
        return True


@pytest.mark.parametrize(
    ("kind", "content", "is_last"),
    [(PING, b"", True), (PING, bytes(125), True), (REST, b"", False), (TEXT, b"x", True)],
    ids=["empty pings", "pings", "empty fragments", "messages"],
)
def test_a_flood_of_frames_ends_its_connection_and_others_are_answered(port, caplog, kind, content, is_last):
    calm, wild = RawSocket(port), RawSocket(port)
    if kind == REST:
        wild.send(TEXT, b"{", is_last=False)
    with contextlib.suppress(ConnectionError):
        for _ in range(100):
            wild.send(kind, content, 10 * MAX_FRAMES_PER_SECOND, is_last)
    assert wild.is_ended()
    calm.send(TEXT, b"four")
    assert calm.receive() == b"4"
    assert not caplog.records, "each line of the log costs disk space"


def test_pings_whose_answers_are_not_read_end_the_connection(port, monkeypatch):
    """Else the answers would be kept, as many as somebody likes, however slowly they are asked for."""
    monkeypatch.setattr("play.connections.MAX_FRAMES_PER_SECOND", 10**9)
    unread = RawSocket(port)
    with contextlib.suppress(ConnectionError):
        # 65 MB, more than what the system keeps.
        for _ in range(500):
            unread.send(PING, bytes(125), 1000)
        pytest.fail("it went on")
    unread.socket.close()


def test_messages_in_parts_and_of_the_greatest_size_are_read(port):
    client = RawSocket(port)
    assert b"permessage-deflate" not in client.answer, "a small packed message may become a large one"
    for part in range(99):
        client.send(REST if part else BYTES, bytes(MAX_MESSAGE_BYTES // 100), is_last=False)
    client.send(REST)
    assert client.receive() == str(99 * (MAX_MESSAGE_BYTES // 100)).encode()
    # The server may end the connection before it has read all of it.
    with contextlib.suppress(ConnectionError):
        client.send(BYTES, bytes(MAX_MESSAGE_BYTES + 1))
    assert client.is_ended()


def test_connections_on_which_nothing_is_asked_keep_nobody_out(port):
    silent = [socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) for _ in range(2 * MAX_HTTP_CONNECTIONS)]
    for each in silent[::2]:
        with contextlib.suppress(ConnectionError):
            each.sendall(b"GET / HTTP/1.1\r\nHost: ")
    page = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    page.request("GET", "/")
    assert page.getresponse().read() == b"page"
    page.close()
    for each in silent[:MAX_HTTP_CONNECTIONS]:
        with contextlib.suppress(ConnectionError):
            assert each.recv(1) == b""
    for each in silent:
        each.close()


@pytest.mark.parametrize(
    "request_text",
    [
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
        "GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n",
        f"GET /{'a' * 200_000} HTTP/1.1\r\nHost: a\r\n\r\n",
        "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + 200 * "\r\n",
    ],
    ids=["two hosts", "two lengths", "zero byte", "very long address", "rubbish"],
)
def test_requests_that_can_be_read_in_two_ways_are_refused(port, request_text, capfd):
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as client:
        client.sendall(request_text.encode("latin-1"))
        assert client.recv(100).startswith(b"HTTP/1.1 400")
    assert capfd.readouterr().err == "", "each line of the log costs disk space"
