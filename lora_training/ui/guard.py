"""What every request must have: a known host, the token, and for a change the page's own origin."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
import re
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lora_training import files

_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}
_SAFE = ("GET", "HEAD")
_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^:/@\s]+)(?::\d+)?")
# leads on from the page's own origin: a cookie with SameSite=Strict does not go along when another site led here
_ENTER = '<!doctype html><title>lora</title><meta http-equiv="refresh" content="0;url={path}">'


def token(path: Path) -> str:
    """Return the token in `path`, made on the first start: so a page that is open outlives a restart of the server."""
    try:
        known = files.read(path).decode("ascii", "replace").strip()
    except OSError:
        known = ""
    if re.fullmatch(r"[\w-]{32,}", known):
        return known
    made = secrets.token_urlsafe(32)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        with open(path, "x", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW, 0o600)) as file:
            file.write(f"{made}\n")
    except OSError:
        # a folder that cannot be written to, as in a container: the token is for this start alone
        pass
    return made


@dataclass(frozen=True)
class Hosts:
    """The names in `Host` that are this server: those of this machine, and `named`; `open` accepts every IP address.

    A page of another origin can make a browser send any name that its owner controls (DNS rebinding), but no address.
    """

    named: tuple[str, ...] = ()
    open: bool = False

    def accept(self, header: str) -> bool:
        """Return whether a `Host` header names this server, at any port: an SSH tunnel has another one."""
        found = _HOST.fullmatch(header)
        name = found[1].lower().rstrip(".") if found else ""
        return name in _LOOPBACK or name in self.named or (self.open and _is_address(name))


def _is_address(name: str) -> bool:
    try:
        return bool(ipaddress.ip_address(name.strip("[]")))
    except ValueError:
        return False


class Guard:
    """Answers requests that may not pass, and adds the security headers to every response."""

    def __init__(self, app: ASGIApp, token: str, hosts: Hosts) -> None:
        self.app, self.token, self.hosts = app, token, hosts
        # cookies do not know ports, so each server's has a name of its own
        self.cookie = "lora-" + hashlib.sha256(token.encode()).hexdigest()[:8]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request or pass it on."""
        if scope["type"] != "http":
            return
        refusal = self._answer(Request(scope))
        await (refusal or self.app)(scope, receive, _with_headers(send))

    def _answer(self, request: Request) -> Response | None:
        """Return the response to a request that does not reach the page: a refusal, or the cookie for the token."""
        if not self.hosts.accept(request.headers.get("host", "")):
            return _refuse(HTTPStatus.MISDIRECTED_REQUEST, "this host is not known here; `lora ui --allow-host NAME`")
        given = request.query_params.get("token")
        if request.method == "GET" and given is not None and self._is_token(given):
            return self._enter(request)
        if not self._is_token(request.cookies.get(self.cookie, "")) and not self._is_token(_bearer(request)):
            return _refuse(HTTPStatus.UNAUTHORIZED, "open the address that `lora ui` printed: it has the token")
        return None if request.method in _SAFE else self._foreign(request)

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self.token.encode())

    def _enter(self, request: Request) -> Response:
        path = request.url.path if re.fullmatch(r"/[\w./-]*", request.url.path) else "/"
        response = HTMLResponse(_ENTER.format(path="/" + path.lstrip("/")))
        response.set_cookie(self.cookie, self.token, httponly=True, samesite="strict", max_age=365 * 86400)
        return response

    def _foreign(self, request: Request) -> Response | None:
        """Refuse a change that another site's page may have sent: a browser names its origin, and a form its type."""
        headers = request.headers
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != headers["host"]:
            return _refuse(HTTPStatus.FORBIDDEN, "a request of another origin")
        if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return _refuse(HTTPStatus.FORBIDDEN, "a request of another site")
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            return _refuse(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "a change is sent as application/json")
        return None


def _bearer(request: Request) -> str:
    """Return the token in the header that programs use."""
    kind, _, given = request.headers.get("authorization", "").partition(" ")
    return given if kind.lower() == "bearer" else ""


def _refuse(status: HTTPStatus, text: str) -> Response:
    return PlainTextResponse(f"lora: {text}\n", status)


def _with_headers(send: Send) -> Callable[[Message], Awaitable[Any]]:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return sending
