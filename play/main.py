"""`python run.py play`: serve the page on which a person plays a world model."""

import errno
import importlib.util
import logging
import socket
from urllib.parse import quote

import torch

from data_generation.data.errors import FieldError, UserError, under
from play.config import PlayConfig, PlayRootConfig

logger = logging.getLogger(__name__)

# Of an address that this machine has not, or whose kind it does not know.
_NO_ADDRESS = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EINVAL)
_NEEDED = ("starlette", "uvicorn", "websockets")


def play(cfg: PlayRootConfig) -> None:
    """Serve until Ctrl-C. UserErrors name keys of the command."""
    if missing := [name for name in _NEEDED if importlib.util.find_spec(name) is None]:
        raise UserError(f"the page needs {', '.join(missing)}: run 'bash install.sh'")
    with under("play"):
        _serve(cfg.play)


def _serve(config: PlayConfig) -> None:
    import uvicorn

    from play.connections import server_settings
    from play.guard import make_token
    from play.playground import Playground
    from play.server import Server

    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    token = make_token(config.host, config.token)
    listener = _listen(config)
    ground = Playground(config)
    for note in ground.library.notes:
        logger.warning("%s", note)
    server = Server(ground, token)
    print(f"Play at {_address(listener, token)} (Ctrl-C ends it)", flush=True)
    uvicorn.Server(server_settings(server.app)).run(sockets=[listener])


def _address(listener: socket.socket, token: str | None) -> str:
    """What to open in a browser."""
    host, port = listener.getsockname()[:2]
    query = f"?token={quote(token, safe='')}" if token else ""
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/{query}"


def _listen(config: PlayConfig) -> socket.socket:
    """The port, taken before the model is loaded. FieldError where it cannot be had."""
    try:
        return _bound(config)
    # UnicodeError: of names with two dots in a row, or of 64 letters.
    except (OSError, UnicodeError) as error:
        if not isinstance(error, OSError) or isinstance(error, socket.gaierror) or error.errno in _NO_ADDRESS:
            remedy = "use 127.0.0.1 or 0.0.0.0"
            raise FieldError("host", config.host, "is not an address of this machine", remedy) from error
        remedy = "use another port, or 0 for any free one"
        raise FieldError(
            "port", config.port, f"cannot be opened on {{host}}={config.host} ({error.strerror})", remedy
        ) from error


def _bound(config: PlayConfig) -> socket.socket:
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((config.host, config.port))
        listener.listen()
    except BaseException:
        listener.close()
        raise
    return listener
