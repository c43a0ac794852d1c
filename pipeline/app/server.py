"""Serves the app on this machine alone, to whoever has the address with its token."""

import secrets
import socket
from collections.abc import Callable
from urllib.parse import parse_qs

import uvicorn
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HOST = "127.0.0.1"
MAX_UPLOAD = 100_000_000  # bytes of a photograph

_POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; font-src 'self' data:;"
    " style-src 'self' 'unsafe-inline'; script-src 'self' 'unsafe-inline' 'unsafe-eval';"
    " worker-src 'self' blob:; frame-ancestors 'none'; base-uri 'self'; form-action 'self'"
)
"""Gradio's page evaluates scripts of its own; none is loaded from, or sends to, another host."""

_UNUSED = "file=http file/ proxy= stream/ info openapi.json deep_link dev/ mcp"
_REFUSED = tuple(f"{prefix}{word}" for word in _UNUSED.split() for prefix in ("/gradio_api/", "/"))
"""Addresses that no page of ours asks for; from some, Gradio would fetch from other hosts."""


class Guard:
    """Answers requests of this app's own page alone; every other one is refused.

    The Host must be this machine, or a foreign name could be made to point here (DNS rebinding).
    The Origin must be the page itself. The token of the address is exchanged for a cookie.

    Attributes:
        app: what answers.
        port: where it listens.
        token: what the address holds.
    """

    def __init__(self, app: ASGIApp, port: int, token: str):
        self._app, self._token, self._cookie = app, token, f"afseg-{port}"
        self._hosts = {f"{HOST}:{port}", f"localhost:{port}"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if (response := self._instead(scope)) is not None:
            await response(scope, receive, send)
            return

        taken, is_answered = 0, False

        async def receive_some() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            return message if taken <= MAX_UPLOAD else {"type": "http.disconnect"}

        async def send_with_policy(message: Message) -> None:
            nonlocal is_answered
            if taken > MAX_UPLOAD and not is_answered:
                return
            if message["type"] == "http.response.start":
                is_answered = True
                named = {name.lower() for name, _ in message["headers"]}
                message["headers"] += [
                    (b"referrer-policy", b"no-referrer"),
                    (b"x-content-type-options", b"nosniff"),
                ]
                if b"content-security-policy" not in named:
                    message["headers"].append((b"content-security-policy", _POLICY.encode()))
            await send(message)

        await self._app(scope, receive_some, send_with_policy)
        if taken > MAX_UPLOAD and not is_answered:
            await _too_large()(scope, receive, send)

    def _instead(self, scope: Scope) -> Response | None:
        """Returns what is answered in place of the app, if anything is."""
        headers = Headers(scope=scope)
        host, origin = headers.get("host"), headers.get("origin")
        own = {f"http://{host}" for host in self._hosts}
        if scope["type"] != "http" or host not in self._hosts or origin not in {None, *own}:
            return PlainTextResponse("This page answers only this machine.", status_code=403)
        if scope["path"].lower().startswith(_REFUSED):
            return PlainTextResponse("This page fetches nothing.", status_code=404)
        if int(headers.get("content-length") or 0) > MAX_UPLOAD:
            return _too_large()
        given = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("token", [""])[0]
        if self._is_token(given):
            response = RedirectResponse(scope["path"], status_code=303)  # not in the history
            response.set_cookie(self._cookie, self._token, httponly=True, samesite="strict")
            return response
        # Cookies of other programs on this machine come along, in any form.
        cookies = (each.strip().partition("=") for each in headers.get("cookie", "").split(";"))
        if not any(name == self._cookie and self._is_token(value) for name, _, value in cookies):
            text = "This page needs the address that the command printed, with its token."
            return PlainTextResponse(text, status_code=403)
        return None

    def _is_token(self, given: str) -> bool:
        return secrets.compare_digest(given.encode(), self._token.encode())


def _too_large() -> PlainTextResponse:
    return PlainTextResponse("This file is too large.", status_code=413)


def serve(app: ASGIApp, port: int | None, ready: Callable[[str], None]) -> None:
    """Serves until Ctrl-C; ``ready`` is called with the address of the page.

    A ``port`` of None takes a free one. Raises an OSError if the port is taken.
    """
    with socket.create_server((HOST, port or 0)) as listening:
        port, token = listening.getsockname()[1], secrets.token_urlsafe(24)
        settings = uvicorn.Config(Guard(app, port, token), log_level="error", access_log=False)
        ready(f"http://{HOST}:{port}/?token={token}")
        uvicorn.Server(settings).run([listening])
