"""`python run.py play` prints an address that opens, or says in one line what is wrong with its keys."""

import socket
from urllib.parse import urlsplit

import pytest

pytest.importorskip("starlette", reason="the page's libraries are not installed")

import uvicorn
from starlette.testclient import TestClient

from data_generation.data.errors import UserError
from play.config import PlayRootConfig
from play.main import play
from tests.play_helpers import play_config


def has_address(host: str) -> bool:
    """Whether this machine has IPv6, say."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
            listener.bind((host, 0))
            return True
    except OSError:
        return False


@pytest.fixture
def served(monkeypatch):
    """The applications that the command would have served."""
    apps = []

    def run(server: uvicorn.Server, sockets: list[socket.socket]) -> None:
        apps.append(server.config.app)
        for each in sockets:
            each.close()

    monkeypatch.setattr(uvicorn.Server, "run", run)
    return apps


@pytest.mark.parametrize("token", [None, "a+b&c", '100% =?#/;\\"x'])
@pytest.mark.parametrize(
    ("host", "printed"),
    [
        ("127.0.0.1", "127.0.0.1"), ("127.0.0.2", "127.0.0.2"), ("localhost", "127.0.0.1"), ("::1", "[::1]"),
        ("0.0.0.0", "0.0.0.0"), ("::", "[::]"),
    ],
)  # fmt: skip
def test_the_printed_address_is_the_one_that_is_listened_on_and_opens_the_page(
    tmp_path, served, capsys, host, printed, token
):
    if not has_address(host):
        pytest.skip(f"this machine has no {host}")
    play(PlayRootConfig(play_config(tmp_path, host=host, port=0, token=token)))
    address = capsys.readouterr().out.split()[2]
    parts = urlsplit(address)
    assert parts.netloc == f"{printed}:{parts.port}" and parts.port
    assert bool(parts.query) == (token is not None or host in ("0.0.0.0", "::"))
    client = TestClient(served[0], base_url=f"http://{parts.netloc}", headers={"host": parts.netloc})
    assert client.get(address).status_code == 200
    assert client.get("/look/runs").status_code == 200, "the token is kept"


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"host": "192.0.2.1"}, "play.host=192.0.2.1: is not an address of this machine; use"),
        ({"host": "no.such.name.invalid"}, "play.host=no.such.name.invalid: is not an address"),
        ({"host": "a..b"}, "play.host=a..b: is not an address"),
        ({"host": "2001:db8::1"}, "play.host=2001:db8::1: is not an address"),
        ({"token": "gehei\u043c"}, "play.token=gehei\u043c: has characters that a cookie does not take"),
        ({"browser_dpath": "nothing"}, "play.browser_dpath=nothing: holds no exported page"),
    ],
)
def test_a_wrong_key_is_named_before_an_address_is_printed(tmp_path, served, capsys, settings, named):
    with pytest.raises(UserError) as error:
        play(PlayRootConfig(play_config(tmp_path, **{"port": 0, **settings})))
    assert str(error.value).startswith(named)
    assert not capsys.readouterr().out and not served


def test_a_port_in_use_is_named(tmp_path, served):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=rf"play\.port={port}: cannot be opened .*; use another port"):
            play(PlayRootConfig(play_config(tmp_path, port=port)))
