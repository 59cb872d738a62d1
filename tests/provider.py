"""A scripted OpenAI-compatible provider: real HTTP on loopback, in a thread of the test or as a process of its own.

In a test::

    with ScriptedProvider(latency_s=0.1) as provider:
        provider.script("fail me", Fault(429, headers={"Retry-After": "1"}), times=2)
        ...
        assert provider.count == 5

As a process (it prints its address, and ends when its standard input closes)::

    python tests/provider.py --port 0 --latency 0.5
    curl -X POST $ADDRESS/../script -d '{"latency_s": 0.1, "rules": [{"needle": "fail me", "fault": {"status": 503}}]}'

``POST /v1/chat/completions`` (also ``stream``), ``GET /v1/models``, ``GET /stats``, ``POST /script``, ``POST /reset``.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self, get_args

from aiohttp import web

Kind = Literal[
    "status",  # an error of ``status``, with ``headers``, ``body`` as its message
    "text",  # a good answer with ``body`` as its text
    "empty",  # a good answer with an empty text
    "length",  # nothing said before max_tokens was reached
    "content-filter",  # stopped by a content filter
    "refusal",  # no text, and ``body`` as the model's refusal, as OpenAI's structured outputs have it
    "parts",  # a good answer whose text is a list of parts, as some servers write it
    "choice",  # a good answer whose choice has the keys of ``body``, a JSON object
    "no-choices",  # a good answer with an empty list of choices
    "no-usage",  # a good answer that does not say how many tokens it took
    "usage",  # a good answer that says ``body``, a JSON object, of how many tokens it took
    "context-length",  # 400, as OpenAI words a prompt that is too long
    "hang",  # no answer at all
    "slow",  # a good answer, in small pieces with ``pause_s`` before each
    "reset",  # the connection breaks without an answer
    "truncated",  # the first half of a good answer; of a stream: no end
    "html",  # 200 with a page, as a proxy in between may answer
    "invalid-utf8",  # bytes in the text that are no UTF-8
    "huge",  # a text of 10 MiB
]
WORDS = "take a slow walk call one friend write it down drink water sleep early".split()  # noqa: SIM905 - readable
RETRY_AFTER = {"Retry-After": "0.2"}
HUGE = 10 << 20
ERRORS = {  # status -> OpenAI's type, code, message
    400: ("invalid_request_error", None, "Invalid request"),
    401: ("invalid_request_error", "invalid_api_key", "Incorrect API key provided: {key}."),
    404: ("invalid_request_error", "model_not_found", "The model `{model}` does not exist"),
    429: ("requests", "rate_limit_exceeded", "Rate limit reached for {model}"),
}  # fmt: skip
TOO_LONG = "This model's maximum context length is 8192 tokens. Please reduce the length of the messages."


@dataclass(frozen=True)
class Fault:
    """What to do instead of answering well: an error ``status``, or one of the other kinds."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str | None = None
    kind: Kind = "status"
    pause_s: float = 0.02

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"{self.kind!r} is no kind of fault; there are {', '.join(get_args(Kind))}")


@dataclass
class _Rule:
    needle: str
    fault: Fault
    times: int | None = None
    model: str | None = None

    def fits(self, body: Mapping[str, Any]) -> bool:
        if self.times == 0 or self.model not in (None, body["model"]):
            return False
        return any(self.needle in text for text in (body["model"], *map(_content, body["messages"])))


@dataclass(kw_only=True)
class ScriptedProvider:
    """Answers every request after ``latency_s``, except where a rule of the script fits it.

    ``reply`` makes the text of a good answer from the request's body; without it, equal requests get equal texts.
    ``at_once``, and ``rate_limit`` by model name, answer 429 with Retry-After while more requests are in flight.
    All of it may be changed while the provider runs.
    """

    latency_s: float = 0.0
    reply: Callable[[dict[str, Any]], str] | None = None
    at_once: int | None = None
    rate_limit: dict[str, int] = field(default_factory=dict)
    port: int = 0
    requests: list[dict[str, Any]] = field(default_factory=list, init=False)
    """In order of arrival: model, messages, params (the rest of the body), headers (names in lower case), at (epoch
    seconds), sample (how many requests with this same body came before)."""
    in_flight: int = field(default=0, init=False)
    peak: int = field(default=0, init=False)
    answered: int = field(default=0, init=False)
    first_at: float | None = field(default=None, init=False)
    last_at: float | None = field(default=None, init=False)
    _rules: list[_Rule] = field(default_factory=list, init=False)
    _busy: Counter[str] = field(default_factory=Counter, init=False)
    _seen: Counter[str] = field(default_factory=Counter, init=False)
    _loop: asyncio.AbstractEventLoop | None = field(default=None, init=False)
    _thread: threading.Thread | None = field(default=None, init=False)
    _runner: web.AppRunner | None = field(default=None, init=False)

    # -- for the test

    @property
    def api_base(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def count(self) -> int:
        return len(self.requests)

    @property
    def stats(self) -> dict[str, Any]:
        """What /stats answers. ``last_at``: when the last answer was ready; ``cpu_s``: of the whole process."""
        names = ("count", "answered", "in_flight", "peak", "first_at", "last_at")
        keys = {json.dumps([r["model"], r["messages"]]) for r in self.requests}
        return {**{n: getattr(self, n) for n in names}, "unique": len(keys), "cpu_s": time.process_time()}

    def script(self, needle: str, fault: Fault, *, times: int | None = None, model: str | None = None) -> None:
        """Do ``fault`` for requests whose model or messages hold ``needle``, ``times`` times (None: always).

        The first rule that fits and is not used up wins, so rules of ``times=1`` play in order. ``model``: only its.
        """
        self._rules.append(_Rule(needle, fault, times, model))

    def reset(self) -> None:
        """Forget the requests so far and the script."""
        for kept in (self.requests, self._rules, self._seen):
            kept.clear()
        self.peak, self.answered, self.first_at, self.last_at = self.in_flight, 0, None, None

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="scripted-provider", daemon=True)
        self._thread.start()
        try:
            asyncio.run_coroutine_threadsafe(self.start(), self._loop).result(10)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        assert self._loop is not None
        assert self._thread is not None
        asyncio.run_coroutine_threadsafe(self.stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    # -- the server

    async def start(self) -> None:
        """Serve on the running loop. A port of 0 becomes a free one."""
        app = web.Application(client_max_size=32 << 20)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/stats", self._stats)
        app.router.add_post("/script", self._script)
        app.router.add_post("/reset", self._reset)
        # Handlers end with their connection, or a request that its client gave up would count as in flight for good.
        self._runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=0.2, keepalive_timeout=300
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, backlog=1024).start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _models(self, _: web.Request) -> web.Response:
        names = ["scripted", *sorted({r["model"] for r in self.requests} - {"scripted"})]
        return web.json_response({"object": "list", "data": [{"id": n, "object": "model"} for n in names]})

    async def _stats(self, _: web.Request) -> web.Response:
        return web.json_response(self.stats)

    async def _reset(self, _: web.Request) -> web.Response:
        self.reset()
        return web.json_response(self.stats)

    async def _script(self, request: web.Request) -> web.Response:
        """Replaces what the body names: latency_s, at_once, rate_limit, rules."""
        try:
            given = await request.json()
            rules = [_Rule(**{"needle": "", **r, "fault": Fault(**r["fault"])}) for r in given.pop("rules", [])]
            unknown = set(given) - {"latency_s", "at_once", "rate_limit"}
            if unknown:
                raise ValueError(f"unknown: {', '.join(sorted(unknown))}")
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            return _error(400, f"a script is {{latency_s, at_once, rate_limit, rules: [{{needle, fault}}]}}: {error!r}")
        self._rules[:] = rules
        for name, value in given.items():
            setattr(self, name, value)
        return web.json_response({"rules": len(rules)})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        started = time.time()
        try:
            body = await request.json()
            model, messages = body["model"], body["messages"]
        except (KeyError, TypeError, ValueError) as error:
            return _error(400, f"a request is JSON with model and messages: {error!r}")
        self._keep(body, request, started)
        self.in_flight += 1
        self._busy[model] += 1
        self.peak = max(self.peak, self.in_flight)
        try:
            if self._over(model):
                return _error(429, ERRORS[429][2].format(model=model), RETRY_AFTER)
            fault = self._fault({"model": model, "messages": messages})
            await asyncio.sleep(max(0.0, self.latency_s - (time.time() - started)))
            response = await self._answer(request, body, fault)
            self.answered += 1
            self.last_at = time.time()
            return response
        finally:
            self.in_flight -= 1
            self._busy[model] -= 1

    def _keep(self, body: dict[str, Any], request: web.Request, at: float) -> None:
        self.first_at = self.first_at or at
        key = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
        self.requests.append(
            {
                "model": body["model"],
                "messages": body["messages"],
                "params": {k: v for k, v in body.items() if k not in ("model", "messages")},
                "headers": {k.lower(): v for k, v in request.headers.items()},
                "at": at,
                "sample": self._seen[key],
            }
        )
        self._seen[key] += 1

    def _over(self, model: str) -> bool:
        limits = ((self.at_once, self.in_flight), (self.rate_limit.get(model), self._busy[model]))
        return any(limit is not None and now > limit for limit, now in limits)

    def _fault(self, body: Mapping[str, Any]) -> Fault | None:
        for rule in self._rules:
            if rule.fits(body):
                if rule.times is not None:
                    rule.times -= 1
                return rule.fault
        return None

    def _text(self, body: dict[str, Any]) -> str:
        if self.reply is not None:
            return self.reply(body)
        seed = hashlib.sha256(json.dumps([body["model"], body["messages"], body.get("seed")]).encode()).digest()
        return " ".join(WORDS[b % len(WORDS)] for b in seed[:12]).capitalize() + "."

    async def _answer(self, request: web.Request, body: dict[str, Any], fault: Fault | None) -> web.StreamResponse:
        fault = fault or Fault(kind="text")
        text, reason = fault.body, "stop"
        match fault.kind:
            case "status":
                return _error(fault.status, fault.body or _message(fault.status, request, body), fault.headers)
            case "context-length":
                return _error(400, text or TOO_LONG, code="context_length_exceeded")
            case "html":
                return web.Response(text=text or "<html>Bad gateway</html>", content_type="text/html")
            case "hang":
                await asyncio.sleep(3600)
            case "reset":
                assert request.transport is not None
                request.transport.abort()
                return web.Response()
            case "empty":
                text = ""
            case "length":
                text, reason = text or "", "length"
            case "content-filter":
                text, reason = "", "content_filter"
            case "huge":
                text = "x" * HUGE
            case "usage" | "choice":
                text = None
        completion = _completion(body, self._text(body) if text is None else text, reason)
        if fault.kind == "choice":
            completion["choices"][0] |= json.loads(fault.body or "{}")
        elif fault.kind == "no-choices":
            completion["choices"] = []
        elif fault.kind == "no-usage":
            del completion["usage"]
        elif fault.kind == "usage":
            completion["usage"] = json.loads(fault.body or "{}")
        elif fault.kind == "refusal":
            completion["choices"][0]["message"] = {"role": "assistant", "content": None, "refusal": fault.body}
        elif fault.kind == "parts":
            completion["choices"][0]["message"]["content"] = [{"type": "text", "text": self._text(body)}]
        parts = list(_events(completion, body) if body.get("stream") else _pieces(completion))
        if fault.kind == "truncated":
            parts = parts[: max(1, len(parts) // 2)]
        elif fault.kind == "invalid-utf8":
            parts = [b"".join(parts).replace(b'"content": "', b'"content": "\xff\xfe')]
        pause_s = fault.pause_s if fault.kind == "slow" else 0.0
        return await _send(request, parts, stream=bool(body.get("stream")), pause_s=pause_s)


async def _send(request: web.Request, parts: list[bytes], *, stream: bool, pause_s: float) -> web.StreamResponse:
    content_type = "text/event-stream" if stream else "application/json"
    if not stream and not pause_s:
        return web.Response(body=b"".join(parts), content_type=content_type)
    response = web.StreamResponse(headers={"Content-Type": content_type})
    await response.prepare(request)
    for part in parts:
        await asyncio.sleep(pause_s)
        await response.write(part)
    return response


def _content(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    return content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)


def _completion(body: dict[str, Any], text: str, reason: str) -> dict[str, Any]:
    prompt = sum(len(_content(m)) for m in body["messages"]) // 4 + 4
    many = int(body.get("n") or 1)
    reply = many * (len(text) // 4 + 1)
    message = {"role": "assistant", "content": text}
    return {
        "id": "chatcmpl-scripted",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": body["model"],
        "choices": [{"index": i, "message": message, "finish_reason": reason} for i in range(many)],
        "usage": {"prompt_tokens": prompt, "completion_tokens": reply, "total_tokens": prompt + reply},
    }


def _pieces(completion: dict[str, Any]) -> Iterator[bytes]:
    data = json.dumps(completion).encode()
    size = max(40, len(data) // 100)
    for start in range(0, len(data), size):
        yield data[start : start + size]


def _events(completion: dict[str, Any], body: dict[str, Any]) -> Iterator[bytes]:
    """The same answer as server-sent events, some characters each, with the usage at the end where it was asked for."""
    head = {k: completion[k] for k in ("id", "created", "model")} | {"object": "chat.completion.chunk"}

    def event(**more: Any) -> bytes:
        return b"data: " + json.dumps(head | more).encode() + b"\n\n"

    for choice in completion["choices"]:
        text = choice["message"]["content"]
        size = max(8, len(text) // 100)
        for delta in ({"role": "assistant"}, *({"content": text[i : i + size]} for i in range(0, len(text), size))):
            yield event(choices=[{"index": choice["index"], "delta": delta, "finish_reason": None}])
        yield event(choices=[{"index": choice["index"], "delta": {}, "finish_reason": choice["finish_reason"]}])
    if (body.get("stream_options") or {}).get("include_usage"):
        yield event(choices=[], usage=completion["usage"])
    yield b"data: [DONE]\n\n"


def _message(status: int, request: web.Request, body: dict[str, Any]) -> str:
    """OpenAI's words for an error. It echoes a wrong key with its middle hidden."""
    key = request.headers.get("Authorization", "").removeprefix("Bearer ")
    hidden = f"{key[:3]}{'*' * 8}{key[-4:]}" if len(key) > 12 else "*" * 8
    message = ERRORS[status][2] if status in ERRORS else "The server had an error while processing your request"
    return message.format(key=hidden, model=body["model"])


def _error(
    status: int, message: str, headers: Mapping[str, str] | None = None, *, code: str | None = None
) -> web.Response:
    kind, usual, _ = ERRORS.get(status, ("server_error", None, ""))
    body = {"error": {"message": message, "type": kind, "param": None, "code": code or usual}}
    return web.json_response(body, status=status, headers=headers)


async def _serve(provider: ScriptedProvider) -> None:
    await provider.start()
    print(provider.api_base, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await provider.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before each answer")
    given = parser.parse_args()
    asyncio.run(_serve(ScriptedProvider(latency_s=given.latency, port=given.port)))
