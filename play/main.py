"""`python run.py play`: serve the page on which a person plays a world model."""

import importlib.util
import logging
import socket

import torch

from data_generation.data.errors import FieldError, UserError, under
from play.config import PlayConfig, PlayRootConfig

logger = logging.getLogger(__name__)

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
    from play.guard import is_loopback, make_token
    from play.playground import Playground
    from play.server import Server

    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    listener = _listen(config)
    ground = Playground(config)
    for note in ground.library.notes:
        logger.warning("%s", note)
    token = make_token(config.host, config.token)
    host = "127.0.0.1" if is_loopback(config.host) else config.host
    address = f"http://{host}:{listener.getsockname()[1]}/" + (f"?token={token}" if token else "")
    print(f"Play at {address} (Ctrl-C ends it)", flush=True)
    uvicorn.Server(server_settings(Server(ground, token).app)).run(sockets=[listener])


def _listen(config: PlayConfig) -> socket.socket:
    """The port, taken before the model is loaded. FieldError where it cannot be had."""
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((config.host, config.port))
        listener.listen()
    except socket.gaierror as error:
        listener.close()
        raise FieldError("host", config.host, "is no address of this machine", "use 127.0.0.1 or 0.0.0.0") from error
    except OSError as error:
        listener.close()
        remedy = "use another port, or 0 for any free one"
        raise FieldError(
            "port", config.port, f"cannot be opened on {{host}}={config.host} ({error.strerror})", remedy
        ) from error
    return listener
