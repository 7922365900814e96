"""uvicorn's connections, with limits that it lacks: what a client may cost before it has said anything.

An HTTP connection on which nothing is asked stays open, and so many of them keep all others out; frames of a websocket
that hold no message (pings, empty fragments) are read without limit, all that have arrived in one go.
"""

import asyncio
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from play.messages import MAX_PICTURE_BYTES

# An image, and some room.
MAX_MESSAGE_BYTES = MAX_PICTURE_BYTES + 1024
# Open at the same time, websockets not counted. Browsers open six.
MAX_HTTP_CONNECTIONS = 128
# Each way of a connection. A message is one frame, an image of 4 MB some more.
MAX_FRAMES_PER_SECOND = 1000
# Bytes that are read before the frames in them are counted.
_PIECE_BYTES = 4096


class BoundedHttpConnection(H11Protocol):
    """One above the limit takes the place of the oldest: whoever holds connections open keeps nobody out."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._opened = self.loop.time()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Called by asyncio."""
        super().connection_made(transport)
        opened = [other for other in self.connections if isinstance(other, BoundedHttpConnection)]
        if len(opened) > MAX_HTTP_CONNECTIONS:
            oldest = min(opened, key=lambda connection: connection._opened)
            # It ends later, and many may be opened before.
            self.connections.discard(oldest)
            oldest.transport.abort()


class BoundedWebSocket(WebSocketsSansIOProtocol):
    """Ends when more frames arrive than a page sends, and when the client reads nothing."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._since, self._num_frames = self.loop.time(), 0

    def data_received(self, data: bytes) -> None:
        """Called by asyncio with all that has arrived, which may be 40 000 frames."""
        for begin in range(0, len(data), _PIECE_BYTES):
            if not self.transport.is_closing():
                super().data_received(data[begin : begin + _PIECE_BYTES])

    def handle_events(self) -> None:
        """Called with the frames of a piece."""
        if self.loop.time() - self._since >= 1:
            self._since, self._num_frames = self.loop.time(), 0
        self._num_frames += len(self.conn.events)
        if self._num_frames > MAX_FRAMES_PER_SECOND:
            self.transport.abort()
        else:
            super().handle_events()

    def handle_ping(self) -> None:
        """Answer, unless answers are not read: they would pile up here."""
        if self.writable.is_set():
            super().handle_ping()
        else:
            self.transport.abort()

    async def send(self, message: Any) -> None:
        """Called by the application. What it sends to one who has gone would be a line of the log each."""
        if not (self.handshake_complete and self.transport.is_closing()):
            await super().send(message)

    def keepalive_timeout(self) -> None:
        """Called when pings of the server are not answered. uvicorn waits until all is sent, which may be never."""
        super().keepalive_timeout()
        self.transport.abort()


def server_settings(app: ASGIApp) -> uvicorn.Config:
    """How the page is served."""
    return uvicorn.Config(
        app,
        # It warns of each request that is not understood: as many lines as somebody likes.
        log_level="error",
        access_log=False,
        http=BoundedHttpConnection,
        ws=BoundedWebSocket,
        ws_max_size=MAX_MESSAGE_BYTES,
        # Frames are sent as pixels: to pack them costs more than it saves, and a packed message may be a bomb.
        ws_per_message_deflate=False,
        timeout_graceful_shutdown=2,
    )
