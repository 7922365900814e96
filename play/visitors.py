"""Who plays: a limited number of visitors, each with a session that outlives a lost connection for a while."""

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from starlette.websockets import WebSocket

from play.config import PlayConfig
from play.session import PlaySession

_SWEEP_SECONDS = 1.0
# Codes of RFC 6455: the page has closed it, the tab or the server ends, it was lost, a rule was broken, no place.
DONE, GOING_AWAY, LOST, BROKEN_RULE, TRY_LATER = 1000, 1001, 1006, 1008, 1013


@dataclass
class Guest:
    """A session, its connection (None while it is lost), and when it was last heard of."""

    session: PlaySession
    socket: WebSocket | None
    key: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    heard: float = 0.0
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


class Visitors:
    """Admits visitors, and frees the places of those who have gone or sleep."""

    def __init__(
        self, config: PlayConfig, make_session: Callable[[], PlaySession], clock: Callable[[], float] | None = None
    ):
        self._config, self._make_session = config, make_session
        self._clock = clock or time.monotonic
        self._by_key: dict[str, Guest] = {}
        self._partings: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._by_key)

    def enter(self, socket: WebSocket, key: str) -> Guest | None:
        """The visitor whose game a key continues, or a new one; None where there is no place."""
        visitor = self._by_key.get(key)
        if visitor is not None:
            before, visitor.socket = visitor.socket, socket
            self._part(before, "The game continues in another window.")
        else:
            if len(self) >= self._config.max_visitors and not self._free_a_place():
                return None
            visitor = Guest(self._make_session(), socket)
            self._by_key[visitor.key] = visitor
        self.hear(visitor)
        return visitor

    def hear(self, visitor: Guest) -> None:
        """Note a sign of life."""
        visitor.heard = self._clock()

    def lose(self, visitor: Guest, socket: WebSocket, for_good: bool) -> None:
        """A connection has ended; unless for good, its game waits for another one."""
        if visitor.socket is not socket:
            return
        visitor.socket = None
        self.hear(visitor)
        if for_good:
            self._remove(visitor)

    def _free_a_place(self) -> bool:
        """Give up the game of whoever has been silent longest, if the connection is lost or the silence long enough."""
        limit = self._clock() - self._config.idle_seconds
        silent = [visitor for visitor in self._by_key.values() if visitor.socket is None or visitor.heard < limit]
        if silent:
            self._remove(min(silent, key=lambda visitor: visitor.heard))
        return bool(silent)

    def _remove(self, visitor: Guest) -> None:
        self._by_key.pop(visitor.key, None)
        visitor.session.close()
        socket, visitor.socket = visitor.socket, None
        self._part(socket, "somebody else was waiting to play.")

    def _part(self, socket: WebSocket | None, reason: str) -> None:
        """Close a connection, if there is one. Nobody waits for it: one that is not read is not closed soon."""
        if socket is not None:
            parting = asyncio.create_task(_close(socket, GOING_AWAY, reason))
            self._partings.add(parting)
            parting.add_done_callback(self._partings.discard)

    def sweep(self) -> None:
        """Remove those whose connection was lost too long ago."""
        limit = self._clock() - self._config.resume_seconds
        for visitor in list(self._by_key.values()):
            if visitor.socket is None and visitor.heard < limit:
                self._remove(visitor)

    async def keep_sweeping(self) -> None:
        """`sweep` now and then, for ever."""
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            self.sweep()

    def close(self) -> None:
        """Send all away."""
        for visitor in list(self._by_key.values()):
            self._remove(visitor)


async def _close(socket: WebSocket, code: int, reason: str) -> None:
    # It may have gone already.
    with contextlib.suppress(RuntimeError, OSError):
        await socket.close(code, reason)
