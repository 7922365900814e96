"""A server of the page over a tiny model, and a visitor that talks to it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient, WebSocketTestSession

from play.config import PlayConfig
from play.playground import Playground
from play.server import Server
from tests.training_helpers import save_fresh, tiny_config, write_dataset

ADDRESS = "http://127.0.0.1:8000"
SOCKET = "ws://127.0.0.1:8000/socket"


def play_config(
    root: Path,
    model: str = "genie_redux_guided",
    history_tokens: str = "likeliest",
    shared_positions: bool = False,
    **settings: Any,
) -> PlayConfig:
    """A dataset and a model with random weights in `root`, and the configuration that plays them."""
    write_dataset(root / "datasets", sessions=4)
    config = tiny_config(root, model)
    config.dynamics.history_tokens, config.dynamics.shared_positions = history_tokens, shared_positions
    path = save_fresh(root / "model-7.pt", config)
    folders = {"datasets_dpath": root / "datasets", "runs_dpath": root / "runs", "evaluations_dpath": root / "evals"}
    return PlayConfig(model_fpath=str(path), **{k: str(v) for k, v in folders.items()}, **settings)


@contextmanager
def serving(config: PlayConfig, token: str | None = None, **settings: Any) -> Iterator[tuple[TestClient, Server]]:
    """A client of a running server."""
    server = Server(Playground(config), token, **settings)
    with TestClient(server.app, base_url=ADDRESS, headers={"origin": ADDRESS}) as client:
        yield client, server


class WebPlayer:
    """A visitor: what it sends is answered by a header and named parts."""

    def __init__(self, socket: WebSocketTestSession):
        self.socket = socket
        self.hello, _ = self.receive()

    def receive(self) -> tuple[dict[str, Any], dict[str, bytes]]:
        data = self.socket.receive_bytes()
        length = int.from_bytes(data[:4], "little")
        header, body = json.loads(data[4 : 4 + length]), data[4 + length :]
        parts, offset = {}, 0
        for name, size in header.get("parts", {"file": len(body)}).items():
            parts[name], offset = body[offset : offset + size], offset + size
        assert header["is"] != "frame" or offset == len(body)
        return header, parts

    def ask(self, **message: Any) -> tuple[dict[str, Any], dict[str, bytes]]:
        self.socket.send_text(json.dumps(message))
        return self.receive()

    def problem(self, message: str | bytes) -> str:
        """What is said about a message that cannot be."""
        if isinstance(message, bytes):
            self.socket.send_bytes(message)
        else:
            self.socket.send_text(message)
        header, _ = self.receive()
        assert header["is"] == "problem", header
        return str(header["text"])
