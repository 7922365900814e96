"""The server of the page: answers requests, and plays with each visitor over a websocket."""

import asyncio
import contextlib
import json
import logging
import mimetypes
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp
from starlette.websockets import WebSocket, WebSocketDisconnect

from data_generation.data.errors import MissingPathError, UserError
from data_generation.data.media import write_gif, write_mp4
from play import messages
from play.config import PlayConfig
from play.guard import BROWSER_PATH, Guard
from play.human import record_episode
from play.messages import packed, parse
from play.playground import Playground
from play.session import PlaySession, scaled_images
from play.step_queue import StepQueue
from play.viewer import Shown, episodes_of
from play.visitors import BROKEN_RULE, DONE, GOING_AWAY, LOST, TRY_LATER, Guest, Visitors

logger = logging.getLogger(__name__)

_PLAY_DPATH = Path(__file__).parent
_PAGE_FILES = {
    "/": ("page/index.html", "text/html"),
    "/play.js": ("page/play.js", "text/javascript"),
    "/viewer.js": ("page/viewer.js", "text/javascript"),
    "/style.css": ("page/style.css", "text/css"),
    # The exported page has the same keys.
    "/keys.js": ("static/keys.js", "text/javascript"),
}
# Answers of the viewer that are made at the same time.
_MAX_LOOKING = 1


class Server:
    """The application and what it holds."""

    def __init__(self, ground: Playground, token: str | None, clock: Callable[[], float] = time.monotonic):
        self.ground, self._clock = ground, clock
        self.queue = StepQueue(ground.simulator)
        self.visitors = Visitors(ground.config, lambda: PlaySession(ground, self.queue))
        self._looking = asyncio.Semaphore(_MAX_LOOKING)
        # Of images read and videos drawn: whoever sends many keeps one core from others, no more.
        self._converting = asyncio.Semaphore(1)
        # Read once: no request opens a file of the page.
        self._page = {path: ((_PLAY_DPATH / name).read_bytes(), kind) for path, (name, kind) in _PAGE_FILES.items()}
        self._exported = _exported_files(ground.config)
        self.app: ASGIApp = Guard(Starlette(routes=self._routes(), lifespan=self._life), token)

    def _routes(self) -> list[Any]:
        library = self.ground.library
        looks: dict[str, Callable[..., Any]] = {
            "/datasets": library.datasets,
            "/episode/{number:int}/{episode:int}": library.episode,
            "/strip/{number:int}/{episode:int}": library.strip,
            "/runs": library.runs,
            "/run/{key}": library.run,
            "/evaluations": library.evaluations,
            "/image/{kind}/{key}/{image}": library.image,
        }
        return [
            *(Route(path, self._page_file) for path in self._page),
            *(Route(f"/look{path}", self._look(function)) for path, function in looks.items()),
            *(Route(path, self._exported_file) for path in self._exported),
            WebSocketRoute("/socket", self.play),
        ]

    @contextlib.asynccontextmanager
    async def _life(self, _: Starlette) -> AsyncIterator[None]:
        sweeping = asyncio.create_task(self.visitors.keep_sweeping())
        try:
            yield
        finally:
            sweeping.cancel()
            self.visitors.close()
            self.queue.close()

    async def _page_file(self, request: Request) -> Response:
        content, kind = self._page[request.url.path]
        return Response(content, media_type=kind)

    async def _exported_file(self, request: Request) -> Response:
        path, kind = self._exported[request.url.path]
        return FileResponse(path, media_type=kind)

    def _look(self, function: Callable[..., Any]) -> Callable[[Request], Any]:
        """The endpoint of one of the viewer's functions, whose arguments are in the path."""

        async def answer(request: Request) -> Response:
            async with self._looking:
                try:
                    found = await asyncio.to_thread(function, **request.path_params)
                except UserError as error:
                    return PlainTextResponse(str(error), 404)
            if isinstance(found, Shown):
                return Response(found.content, media_type=found.media_type)
            # As ASCII: names in files may hold half a character, which UTF-8 has no bytes for.
            return Response(json.dumps(found, allow_nan=False), media_type="application/json")

        return answer

    # ---- a visitor --------------------------------------------------------------------------------------------------

    async def play(self, socket: WebSocket) -> None:
        """One connection, from its beginning to its end."""
        await socket.accept()
        visitor = self.visitors.enter(socket, socket.query_params.get("key", ""))
        if visitor is None:
            problem = f"{len(self.visitors)} people play already: try again in a moment"
            await socket.send_bytes(packed({"is": "problem", "text": problem}))
            await socket.close(TRY_LATER, "full")
            return
        is_over = False
        try:
            await _send(socket, packed(self._hello(visitor)))
            if visitor.session.has_begun:
                await _send(socket, await _or_problem(self._shown(visitor.session, time.perf_counter())))
            is_over = await self._converse(visitor, socket)
        except WebSocketDisconnect as gone:
            # What the page and browsers say when a tab is closed. Anything else may be a lost connection.
            is_over = gone.code in (DONE, GOING_AWAY)
        finally:
            self.visitors.lose(visitor, socket, is_over)

    async def _converse(self, visitor: Guest, socket: WebSocket) -> bool:
        """Answer messages, one after the other; True if the visitor leaves for good."""
        pace = _Pace(self.ground.config.max_messages_per_second, self._clock)
        while True:
            message = await socket.receive()
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message["code"])
            self.visitors.hear(visitor)
            if pace.is_exceeded():
                with _connected():
                    await socket.close(BROKEN_RULE, "too many messages")
                return True
            answer = await _or_problem(self._answer(visitor, socket, message))
            if not answer:
                return True
            await _send(socket, answer)

    async def _answer(self, visitor: Guest, socket: WebSocket, message: Any) -> bytes:
        """The answer to what has arrived; empty if nobody waits for it. UserError for what cannot be."""
        request = await self._request(message)
        if isinstance(request, messages.Leave):
            return b""
        # A visitor who comes back may find the answer to the lost connection still in the making.
        async with visitor.turn:
            # Whoever has come back several times waits for the last request only.
            if visitor.socket is not socket:
                return b""
            return await self._carry_out(visitor.session, request)

    async def _request(self, message: Any) -> messages.Message | np.ndarray:
        """A text, or an image as bytes. BadMessageError for anything else."""
        if message.get("text") is not None:
            return parse(message["text"])
        async with self._converting:
            return await asyncio.to_thread(messages.decode_picture, message.get("bytes") or b"")

    async def _carry_out(self, session: PlaySession, request: messages.Message | np.ndarray) -> bytes:
        began = time.perf_counter()
        match request:
            case messages.PlayStep(action):
                await session.step(action)
            case messages.StartEpisode(environment, episode, at):
                await session.begin_episode(environment, episode, at)
            case messages.StartLevel(level):
                await session.begin_level(level)
            case messages.Rewind(at):
                session.rewind(at)
            case messages.ChooseSource(name):
                session.choose_source(name)
            case messages.ShowGame(on):
                await session.show_game(on)
            case messages.Record(kind, first, last):
                return await self._record(session, kind, first, last)
            case np.ndarray():
                await session.begin_picture(request)
        return await self._shown(session, began)

    async def _shown(self, session: PlaySession, began: float) -> bytes:
        """The frame of now, upsampled if there is a model for it; `began`: when the server began to make it."""
        frame = session.moment.frame
        if self.ground.enlarger is not None:
            frame = await self.queue.call(self.ground.enlarge, frame)
        return frame_message(session, 1000 * (time.perf_counter() - began), frame)

    async def _record(self, session: PlaySession, kind: str, first: int, last: int) -> bytes:
        """One at a time: drawing is work, and so is playing."""
        if kind == "episode":
            return await self._keep(session)
        images = session.images(first, last)
        num_missing = min(last, session.last) - max(first, session.first) + 1 - len(images)
        text = f"Saved play.{kind}"
        text += f": the last {len(images)} frames, without {num_missing} before them." if num_missing else "."
        async with self._converting:
            content = await asyncio.to_thread(_video_file, images, kind, self.ground.config.fps)
        return packed({"is": "recording", "kind": kind, "text": text}, content)

    async def _keep(self, session: PlaySession) -> bytes:
        """Write what was played as an episode. UserError where that is not wanted or not possible."""
        root = self.ground.config.record_dpath
        if root is None:
            raise UserError("nothing is kept here: the server's play.record_dpath is not set")
        state, connector = await session.played(), await session.connector()
        async with self._converting:
            path, num_kept = await asyncio.to_thread(record_episode, connector, state, Path(root))
        text = f"Kept {num_kept} actions as {path.parent.name}/{path.name}."
        if num_kept < len(state.played):
            text += f" The game ended after them: the other {len(state.played) - num_kept} are not part of the episode."
        return packed({"is": "kept", "text": text})

    def _hello(self, visitor: Guest) -> dict[str, Any]:
        ground, session = self.ground, visitor.session
        levels = ground.game.levels if ground.game else []
        known = [f"{text} of {game}" for game, text in ground.levels.items()]
        return {
            "is": "hello",
            "key": visitor.key,
            "is_resumed": session.has_begun,
            "actions": ground.action_names,
            "idle_action": ground.idle_action,
            "fps": ground.config.fps,
            "size": ground.frame_shape[1:],
            "keeps": ground.config.record_dpath is not None,
            "shown_size": ground.shown_size,
            "grid": ground.model.tokenizer.grid,
            "sources": ["keys", "recorded", *ground.policies],
            "max_image_bytes": messages.MAX_PICTURE_BYTES,
            "num_prime": ground.config.num_prime,
            "levels": [[level.instance, ground.is_known(level.game, level.instance)] for level in levels],
            "first_level": ground.first_level,
            "begins_at_level": ground.config.model_fpath is None,
            "trained_on": "; ".join(known),
            "has_game": bool(levels) and ground.is_guided,
            "no_game": ground.no_game,
            "browser": BROWSER_PATH if self._exported else None,
            "resume_seconds": ground.config.resume_seconds,
            "environments": [
                {
                    "name": f"{each.env_dpath.parent.name} / {each.name}",
                    "episodes": episodes_of(each),
                    # The first one of a level that the model was trained on.
                    "first": next(
                        (i for i, level in enumerate(each.instances) if ground.is_known(each.info.game, int(level))), 0
                    ),
                }
                for each in ground.environments
            ],
        }


@contextlib.contextmanager
def _connected() -> Iterator[None]:
    """In the block a connection is used: one that the server has closed is a lost one, too."""
    try:
        yield
    except RuntimeError as error:
        raise WebSocketDisconnect(LOST, str(error)) from error


async def _send(socket: WebSocket, content: bytes) -> None:
    """WebSocketDisconnect where nobody is there any more."""
    with _connected():
        await socket.send_bytes(content)


async def _or_problem(answer: Awaitable[bytes]) -> bytes:
    """An answer, or a message that says why there is none."""
    try:
        return await answer
    except UserError as error:
        text = str(error)
    # Such as a GPU without memory. To end the connection would only make the page open it again.
    except Exception:
        logger.exception("a visitor could not be answered")
        text = "the server failed at this step, see its log"
    return packed({"is": "problem", "text": text})


def _exported_files(config: PlayConfig) -> dict[str, tuple[Path, str]]:
    """Request's path → file and type, of the files that an exported page has now. FieldError if it is none."""
    if config.browser_dpath is None:
        return {}
    folder = Path(config.browser_dpath)
    if not (folder / "world.json").is_file():
        remedy = "give the target of 'python run.py export'"
        raise MissingPathError("browser_dpath", config.browser_dpath, "holds no exported page", remedy)
    kinds = {".mjs": "text/javascript", ".js": "text/javascript", ".wasm": "application/wasm"}
    files = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        kind = kinds.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        files[f"{BROWSER_PATH}{path.relative_to(folder).as_posix()}"] = (path, kind)
    return {**files, BROWSER_PATH: files[f"{BROWSER_PATH}index.html"]}


class _Pace:
    """Counts messages a second."""

    def __init__(self, limit: int, clock: Callable[[], float]):
        self._limit, self._clock, self._since, self._count = limit, clock, clock(), 0

    def is_exceeded(self) -> bool:
        """Count one; whether there were too many."""
        now = self._clock()
        if now - self._since >= 1:
            self._since, self._count = now, 0
        self._count += 1
        return self._count > self._limit


def frame_message(session: PlaySession, milliseconds: float, frame: np.ndarray) -> bytes:
    """What is shown now: a header, and the pixels (RGB) of the model's `frame`, of the game's, and the entropy map."""
    moment = session.moment
    psnr = moment.psnr
    parts = {"model": _rgb(frame)}
    if moment.real is not None:
        parts["game"] = _rgb(moment.real)
    if moment.entropy is not None:
        parts["entropy"] = (moment.entropy.clip(0, 1) * 255).astype(np.uint8).tobytes()
    header = {
        "is": "frame",
        "parts": {name: len(part) for name, part in parts.items()},
        "time": session.time,
        "first": session.first,
        "last": session.last,
        "action": moment.action,
        "source": session.source,
        "has_game": session.has_game,
        "can_follow": len(session.start.following) > session.time,
        "label": session.start.label,
        "game_is_over": moment.game_is_over,
        "psnr": None if psnr is None else round(psnr, 2),
        "ms": round(milliseconds, 2),
    }
    return packed(header, *parts.values())


def _rgb(frame: np.ndarray) -> bytes:
    """Pixels, row by row, of a frame (C, H, W) uint8."""
    return np.ascontiguousarray(np.broadcast_to(frame.transpose(1, 2, 0), (*frame.shape[1:], 3))).tobytes()


def _video_file(images: list[np.ndarray], kind: str, fps: float) -> bytes:
    with tempfile.TemporaryDirectory(prefix="play-") as folder:
        path = Path(folder) / f"play.{kind}"
        (write_gif if kind == "gif" else write_mp4)(path, scaled_images(images), fps)
        return path.read_bytes()
