"""Who may do what, decided before a handler sees a request: host, token, origin, size; and headers on every answer."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from fastapi import HTTPException, Request, Response
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .problems import ProblemError
from .settings import ServiceSettings, is_loopback

READ, WRITE = "read", "write"
COOKIE = "promptbench_session"
SESSION_S = 12 * 3600
SMALL_BODY = 64 * 1024
VERDICTS = "/api/bench/verdicts"
_MOST_SESSIONS = 1000
_JSON_POSTS = (VERDICTS, "/api/bench/run")
_SAFE = ("GET", "HEAD", "OPTIONS", "TRACE")

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
SECURITY_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Tokens:
    """The tokens that count, and the sessions of browsers that showed one."""

    def __init__(
        self,
        settings: ServiceSettings,
        *,
        clock: Callable[[], float] = time.monotonic,
        same: Callable[[bytes, bytes], bool] = hmac.compare_digest,
    ) -> None:
        self._known = ((settings.token, WRITE), (settings.read_token, READ))
        self._sessions: dict[str, tuple[str, float]] = {}
        self._clock = clock
        self._same = same

    def role(self, token: str) -> str | None:
        """What a token allows. Every known token is compared, in constant time, whatever is found."""
        found = None
        given = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
        for known, role in self._known:
            expected = hashlib.sha256((known or secrets.token_hex(32)).encode()).digest()
            if self._same(given, expected):
                found = role
        return found

    def begin(self, role: str) -> str:
        """A new session's id, which the browser keeps. The service keeps a hash of it."""
        now = self._clock()
        self._sessions = {k: v for k, v in self._sessions.items() if v[1] > now}
        while len(self._sessions) >= _MOST_SESSIONS:
            del self._sessions[next(iter(self._sessions))]
        session = secrets.token_urlsafe(32)
        self._sessions[_hash(session)] = role, now + SESSION_S
        return session

    def end(self, session: str) -> None:
        self._sessions.pop(_hash(session), None)

    def of_session(self, session: str) -> str | None:
        role, until = self._sessions.get(_hash(session), (None, 0.0))
        return role if until > self._clock() else None


def _hash(session: str) -> str:
    return hashlib.sha256(session.encode("utf-8", "surrogateescape")).hexdigest()


def cookie_of(headers: Headers) -> str:
    """The name of the session's cookie: with the port, since to browsers cookies of a host are of all its ports."""
    host, colon, port = headers.get("host", "").rpartition(":")
    return f"{COOKIE}_{port}" if host and colon and port.isascii() and port.isdigit() else COOKIE


def session_of(headers: Headers) -> str | None:
    """The session id that a browser sent, if any.

    Read as browsers write cookies: those of other programs on this machine, whatever their port, come with it, and one
    that ``http.cookies`` finds malformed would take the rest with it.
    """
    return cookie_parser(headers.get("cookie", "")).get(cookie_of(headers))


class Guard:
    """The outermost layer of the application. Who may pass is in ``scope["state"]["role"]``: "read" or "write".

    ``told`` is what whoever may not is answered.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        settings: ServiceSettings,
        tokens: Tokens,
        told: Callable[[Request, ProblemError], Response],
    ) -> None:
        self._app = app
        self._settings = settings
        self._tokens = tokens
        self._told = told

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        head = scope["method"] == "HEAD"
        if head:
            scope = {**scope, "method": "GET"}  # the same answer, of which the body is left out

        async def answer(message: Message) -> None:
            if head and message["type"] == "http.response.body":
                message["body"] = b""
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=message["headers"])
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("Cache-Control", "no-store")
                allowed = headers.get("Allow", "").split(", ")
                if "GET" in allowed:
                    headers["Allow"] = ", ".join(sorted({*allowed, "HEAD"}))
                message["headers"] = headers.raw
            await send(message)

        headers = Headers(scope=scope)
        try:
            self._check_host(headers)
            role = self._role(scope["path"], headers)
            if role is None and scope["path"] != "/login":
                await RedirectResponse(_login_of(scope), status_code=303)(scope, receive, answer)
                return
            self._check_write(scope, headers, role)
            limit = self._settings.max_body if scope["path"] == VERDICTS else SMALL_BODY
            too_large = f"the body is larger than {limit:,} bytes, the most that is read here"
            if scope["path"] == VERDICTS:
                too_large += "; send fewer items at once, or apply the packet with pytest evals/ --judge-apply"
            _check_length(headers, limit, too_large)
        except ProblemError as problem:
            await self._told(Request(scope), problem)(scope, receive, answer)
            return
        scope.setdefault("state", {})["role"] = role
        await self._app(scope, _limited(receive, limit, too_large), answer)

    def _check_host(self, headers: Headers) -> None:
        """Without a token, a page of another site must not get here under a name of its own (DNS rebinding)."""
        if not self._settings.open:
            return
        try:
            host = urlsplit(f"//{headers.get('host', '')}").hostname or ""
        except ValueError:
            host = ""
        if not is_loopback(host):
            raise ProblemError(
                421, "this service answers to localhost and 127.0.0.1 only; to reach it by another name, set a token"
            )

    def _role(self, path: str, headers: Headers) -> str | None:
        """What the request may do; None for a browser that has to log in first. ProblemError 401."""
        if self._settings.open or path == "/api/health" or path.startswith("/static/"):
            return WRITE if self._settings.open else READ
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme:
            role = self._tokens.role(token.strip()) if scheme.lower() == "bearer" else None
            if role is None:
                raise _unauthorized("this token is not known", error="invalid_token")
            return role
        session = session_of(headers)
        role = self._tokens.of_session(session) if session else None
        if role is None and path.startswith("/api/"):
            raise _unauthorized("a token is needed: send the header Authorization: Bearer TOKEN")
        return role

    def _check_write(self, scope: Scope, headers: Headers, role: str | None) -> None:
        if scope["method"] in _SAFE:
            return
        path = scope["path"]
        if path.startswith("/api/") and role != WRITE:
            raise ProblemError(403, "this token is read-only", headers=_bearer("insufficient_scope"))
        if "authorization" not in headers or self._settings.open:
            _check_origin(headers)  # a browser sends cookies by itself, a token never
        if path in _JSON_POSTS and scope["method"] == "POST":
            kind = headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind != "application/json":
                raise ProblemError(415, "send JSON, with the header Content-Type: application/json")


def _login_of(scope: Scope) -> str:
    """Where to log in, from where one comes back to what was asked for."""
    asked = quote(scope["path"])
    if scope["query_string"]:
        asked += f"?{scope['query_string'].decode('latin-1')}"
    return "/login" if scope["method"] != "GET" or asked == "/" else f"/login?{urlencode({'next': asked})}"


def _bearer(error: str | None = None) -> dict[str, str]:
    return {"WWW-Authenticate": 'Bearer realm="promptbench"' + (f', error="{error}"' if error else "")}


def _unauthorized(detail: str, *, error: str | None = None) -> ProblemError:
    return ProblemError(401, detail, headers=_bearer(error))


def _check_origin(headers: Headers) -> None:
    """A request of a page must come from a page of this very service."""
    site = headers.get("sec-fetch-site")
    origin = headers.get("origin")
    if site is not None:
        same = site in ("same-origin", "none")
    else:
        same = origin is None or _place_of(origin) == headers.get("host", "")
    if not same:
        raise ProblemError(403, "a page of another site sent this request")


def _place_of(origin: str) -> str | None:
    """Host and port of an origin; None where it is no address."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None


def _check_length(headers: Headers, limit: int, too_large: str) -> None:
    length = headers.get("content-length", "0")
    if not length.isascii() or not length.isdigit() or len(length) > 18:
        raise ProblemError(400, "Content-Length is no number")
    if int(length) > limit:
        raise ProblemError(413, too_large)


def _limited(receive: Receive, limit: int, too_large: str) -> Receive:
    """Counts a body that did not say its length."""
    seen = 0

    async def counted() -> Message:
        nonlocal seen
        message: Mapping[str, Any] = await receive()
        seen += len(message.get("body", b""))
        if seen > limit:
            raise HTTPException(413, too_large)
        return dict(message)

    return counted
