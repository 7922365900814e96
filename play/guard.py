"""Who may talk to the server: checked for each request before anything else happens.

On a loopback address: pages of this server only. A page of another site that finds the port is refused by its Origin,
and by its Host where it points a name of its own to 127.0.0.1. On any other address a token is asked for, once by the
address (`/?token=…`), then by a cookie.
"""

import ipaddress
import secrets
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from data_generation.data.errors import FieldError

# And the port: cookies of one machine are sent to all its ports.
_COOKIE = "play_token_"
# Below it is the exported page, which runs WebAssembly, in threads where it is isolated from other pages.
BROWSER_PATH = "/browser/"
# Longer ones are nobody's, and numbers in them would be too long to read.
_MAX_PATH_CHARACTERS = 300
# Everything is this server's own; what is embedded nowhere cannot be clicked unknowingly.
_POLICY = (
    "default-src 'self'",
    "img-src 'self' blob: data:",
    "frame-ancestors 'none'",
    "base-uri 'none'",
    "form-action 'none'",
)
_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


def _headers(path: str) -> dict[str, str]:
    """What the browser is told with each answer."""
    if not path.startswith(BROWSER_PATH):
        return {**_HEADERS, "content-security-policy": "; ".join(_POLICY)}
    policy = "; ".join((*_POLICY, "script-src 'self' 'wasm-unsafe-eval' blob:", "worker-src 'self' blob:"))
    return {**_HEADERS, "content-security-policy": policy, "cross-origin-embedder-policy": "require-corp"}


def is_loopback(host: str) -> bool:
    """Whether only programs of this machine reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def make_token(host: str, token: str | None) -> str | None:
    """The token to ask for: the given one, a fresh one where others can reach the address, else None.

    FieldError of `token` where no cookie can hold it.
    """
    if token and not (token.isascii() and token.isprintable()):
        raise FieldError("token", token, "has characters that a cookie does not take", "use letters and digits")
    return token or (None if is_loopback(host) else secrets.token_urlsafe(24))


class Guard:
    """Lets a request through to `app`, or refuses it."""

    def __init__(self, app: ASGIApp, token: str | None):
        self._app, self._token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI interface."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        problem = self._problem(scope, headers)
        if scope["type"] == "websocket":
            problem = problem or _foreign_page(headers)
            if problem:
                await send({"type": "websocket.close", "code": 1008, "reason": problem})
            else:
                await self._app(scope, receive, send)
        elif problem := problem or _foreign_request(headers):
            await PlainTextResponse(problem, 403)(scope, receive, _with_headers(send, scope))
        elif self._token is not None and scope["path"] == "/" and _given(scope):
            response = RedirectResponse("/", 303)
            response.set_cookie(_cookie_name(scope), self._token, httponly=True, samesite="strict")
            await response(scope, receive, _with_headers(send, scope))
        else:
            await self._app(scope, receive, _with_headers(send, scope))

    def _problem(self, scope: Scope, headers: Headers) -> str:
        """Why a request is refused; empty = it is not."""
        if len(scope["path"]) > _MAX_PATH_CHARACTERS:
            return "no address here is that long"
        if self._token is None:
            return "" if is_loopback(_host_name(headers)) else "this server is for pages of this machine"
        given = _given(scope) if scope["path"] == "/" else ""
        given = given or _cookie(headers, _cookie_name(scope))
        is_right = secrets.compare_digest(given.encode(), self._token.encode())
        return "" if is_right else "a token is needed: open the address that the server has printed"


def _host_name(headers: Headers) -> str:
    """The name or address that a request was sent to, without its port and an IPv6 address's brackets."""
    host = headers.get("host", "")
    name, _, port = host.rpartition(":")
    return (name if port.isdecimal() else host).removeprefix("[").removesuffix("]")


def _foreign_page(headers: Headers) -> str:
    """Browsers say which page opens a socket."""
    origin = headers.get("origin", "")
    own = headers.get("host", "")
    return "" if own and origin in (f"http://{own}", f"https://{own}") else "a page of another site"


def _foreign_request(headers: Headers) -> str:
    """Browsers say whose page loads something, without reading it perhaps, as an image. Links lead here."""
    is_foreign = headers.get("sec-fetch-site", "") in ("cross-site", "same-site")
    return "a page of another site" if is_foreign and headers.get("sec-fetch-mode") != "navigate" else ""


def _given(scope: Scope) -> str:
    """The token in the address; empty where there is none."""
    try:
        values = parse_qs(scope.get("query_string", b"").decode("latin-1"), max_num_fields=10)
    # More fields than any address that was printed.
    except ValueError:
        return ""
    return values.get("token", [""])[0]


def _cookie_name(scope: Scope) -> str:
    return f"{_COOKIE}{(scope.get('server') or ('', ''))[1]}"


def _cookie(headers: Headers, name: str) -> str:
    try:
        morsel = SimpleCookie(headers.get("cookie", "")).get(name)
    except CookieError:
        return ""
    return morsel.value if morsel else ""


def _with_headers(send: Send, scope: Scope) -> Send:
    async def sending(message: Any) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [
                *message.get("headers", []),
                *((name.encode(), value.encode()) for name, value in _headers(scope["path"]).items()),
            ]
        await send(message)

    return sending
