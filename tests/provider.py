"""A scripted OpenAI-compatible provider: real HTTP on loopback, in a thread of the test or as a process of its own.

In a test::

    with ScriptedProvider(latency_s=0.1) as provider:
        provider.script("fail me", Fault(429, headers={"Retry-After": "1"}), times=2)
        ...
        assert provider.count == 5

As a process (it prints its address, and ends when its standard input closes)::

    python tests/provider.py --latency 0.5
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

from aiohttp import web

WORDS = (
    "take",
    "a",
    "slow",
    "walk",
    "call",
    "one",
    "friend",
    "write",
    "it",
    "down",
    "drink",
    "water",
    "sleep",
    "early",
)


@dataclass(frozen=True)
class Fault:
    """What to do instead of answering well.

    ``status`` with ``headers`` and ``body`` answers so; ``kind`` is one of hang, reset, truncated, slow, empty,
    no-choices, content-filter, length, html, invalid-utf8, huge, text (``body`` as the answer).
    """

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: str | None = None
    kind: str = "status"


@dataclass
class _Rule:
    needle: str
    fault: Fault
    times: int | None


@dataclass
class ScriptedProvider:
    """``reply`` makes the text of a good answer; ``at_once`` answers 429 to more than so many requests in flight."""

    latency_s: float = 0.0
    reply: Callable[[dict[str, Any]], str] | None = None
    at_once: int | None = None
    port: int = 0
    requests: list[dict[str, Any]] = field(default_factory=list)
    in_flight: int = 0
    peak: int = 0
    first_at: float | None = None
    last_at: float | None = None
    _rules: list[_Rule] = field(default_factory=list)
    _loop: asyncio.AbstractEventLoop | None = None
    _thread: threading.Thread | None = None
    _runner: web.AppRunner | None = None

    # -- for the test

    @property
    def api_base(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def count(self) -> int:
        return len(self.requests)

    def script(self, needle: str, fault: Fault, *, times: int | None = None) -> None:
        """Do ``fault`` for requests whose model or messages hold ``needle``, ``times`` times (None: always)."""
        self._rules.append(_Rule(needle, fault, times))

    def __enter__(self) -> Self:
        ready = threading.Event()

        def run() -> None:
            self._loop = asyncio.new_event_loop()
            asyncio.set_event_loop(self._loop)
            self._loop.run_until_complete(self._start())
            ready.set()
            self._loop.run_forever()
            assert self._runner is not None
            self._loop.run_until_complete(self._runner.cleanup())
            self._loop.close()

        self._thread = threading.Thread(target=run, name="scripted-provider", daemon=True)
        self._thread.start()
        assert ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._loop is not None
        assert self._thread is not None
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    # -- the server

    async def _start(self) -> None:
        app = web.Application(client_max_size=32 << 20)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/stats", self._stats)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2, keepalive_timeout=300)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, backlog=1024)
        await site.start()
        assert site._server is not None
        self.port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]

    async def _models(self, _: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "scripted", "object": "model"}]})

    async def _stats(self, _: web.Request) -> web.Response:
        keys = {json.dumps([r["model"], r["messages"]]) for r in self.requests}
        stats = {"count": self.count, "unique": len(keys), "peak": self.peak}
        return web.json_response(stats | {"first_at": self.first_at, "last_at": self.last_at})

    def _fault(self, text: str) -> Fault | None:
        for rule in self._rules:
            if rule.needle in text and rule.times != 0:
                if rule.times is not None:
                    rule.times -= 1
                return rule.fault
        return None

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        started = time.time()
        self.first_at = self.first_at or started
        body = await request.json()
        self.requests.append({**body, "headers": dict(request.headers), "at": started})
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)
        try:
            if self.at_once is not None and self.in_flight > self.at_once:
                return _error(429, "Rate limit reached", {"Retry-After": "0.2"})
            fault = self._fault(json.dumps([body.get("model"), body.get("messages")], ensure_ascii=False))
            await asyncio.sleep(max(0.0, self.latency_s - (time.time() - started)))
            if fault is not None:
                return await self._misbehave(request, body, fault)
            return web.json_response(self._answer(body, self._text(body)))
        finally:
            self.in_flight -= 1
            self.last_at = time.time()

    def _text(self, body: dict[str, Any]) -> str:
        if self.reply is not None:
            return self.reply(body)
        seed = hashlib.sha256(json.dumps([body.get("model"), body.get("messages"), body.get("seed")]).encode()).digest()
        return " ".join(WORDS[b % len(WORDS)] for b in seed[:12]).capitalize() + "."

    def _answer(self, body: dict[str, Any], text: str, *, reason: str = "stop") -> dict[str, Any]:
        prompt = sum(len(str(m.get("content"))) for m in body["messages"]) // 4 + 4
        reply = len(text) // 4 + 1
        message = {"role": "assistant", "content": text}
        return {
            "id": "chatcmpl-scripted",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": body["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": reason}],
            "usage": {"prompt_tokens": prompt, "completion_tokens": reply, "total_tokens": prompt + reply},
        }

    async def _misbehave(self, request: web.Request, body: dict[str, Any], fault: Fault) -> web.StreamResponse:
        good = json.dumps(self._answer(body, fault.body or self._text(body)))
        match fault.kind:
            case "hang":
                await asyncio.sleep(3600)
            case "reset":
                assert request.transport is not None
                request.transport.abort()
            case "truncated":
                return web.Response(text=good[: len(good) // 2], content_type="application/json")
            case "slow":
                stream = web.StreamResponse(headers={"Content-Type": "application/json"})
                await stream.prepare(request)
                for start in range(0, len(good), 40):
                    await stream.write(good[start : start + 40].encode())
                    await asyncio.sleep(0.02)
                return stream
            case "empty":
                return web.json_response(self._answer(body, ""))
            case "no-choices":
                return web.json_response({**self._answer(body, "x"), "choices": []})
            case "content-filter":
                return web.json_response(self._answer(body, "", reason="content_filter"))
            case "length":
                return web.json_response(self._answer(body, "", reason="length"))
            case "html":
                return web.Response(text="<html>Bad gateway</html>", content_type="text/html")
            case "invalid-utf8":
                return web.Response(body=good.encode() + b"\xff\xfe", content_type="application/json")
            case "huge":
                return web.json_response(self._answer(body, "x" * (10 << 20)))
            case "text":
                return web.Response(text=good, content_type="application/json")
        return _error(fault.status, fault.body or "scripted failure", fault.headers)


def _error(status: int, message: str, headers: dict[str, str]) -> web.Response:
    kind = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}.get(status, "server_error")
    body = {"error": {"message": message, "type": kind, "code": kind}}
    return web.json_response(body, status=status, headers=headers)


async def _serve(provider: ScriptedProvider) -> None:
    await provider._start()
    print(provider.api_base, flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before each answer")
    given = parser.parse_args()
    asyncio.run(_serve(ScriptedProvider(latency_s=given.latency, port=given.port)))
