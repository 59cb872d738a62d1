"""The scripted provider itself: what the other tests rely on."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from .provider import Fault, ScriptedProvider

KEY = "sk-scripted-key-123456"


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as provider:
        yield provider


def ask(provider: ScriptedProvider | str, text: str = "hello", *, model: str = "m", **params: Any) -> httpx.Response:
    address = provider if isinstance(provider, str) else provider.api_base
    body = {"model": model, "messages": [{"role": "user", "content": text}], **params}
    headers = {"Authorization": f"Bearer {KEY}"}
    return httpx.post(f"{address}/chat/completions", json=body, headers=headers, timeout=10, trust_env=False)


def text_of(response: httpx.Response) -> str:
    assert response.status_code == 200, response.text
    return str(response.json()["choices"][0]["message"]["content"])


def events(response: httpx.Response) -> list[Any]:
    lines = [x.removeprefix("data: ") for x in response.text.splitlines() if x]
    return [json.loads(x) if x != "[DONE]" else x for x in lines]


# -- good answers


def test_equal_requests_get_equal_answers_with_usage(provider: ScriptedProvider) -> None:
    first, again, other = ask(provider), ask(provider), ask(provider, "something else")
    assert text_of(first) == text_of(again) != text_of(other)
    assert first.json()["choices"][0]["finish_reason"] == "stop"
    usage = first.json()["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] > 2


def test_requests_are_kept_in_order_with_key_params_and_sample(provider: ScriptedProvider) -> None:
    for text in ("a", "b", "a"):
        ask(provider, text, temperature=0.5)
    assert provider.count == 3
    assert [r["sample"] for r in provider.requests] == [0, 0, 1]
    last = provider.requests[-1]
    assert (last["model"], last["params"]) == ("m", {"temperature": 0.5})
    assert last["messages"] == [{"role": "user", "content": "a"}]
    assert last["headers"]["authorization"] == f"Bearer {KEY}"
    assert [r["at"] for r in provider.requests] == sorted(r["at"] for r in provider.requests)


def test_a_reply_of_ones_own(provider: ScriptedProvider) -> None:
    provider.reply = lambda body: body["model"].upper()
    assert text_of(ask(provider, model="haiku")) == "HAIKU"


def test_a_stream_says_the_same_in_pieces(provider: ScriptedProvider) -> None:
    *chunks, done = events(ask(provider, stream=True, stream_options={"include_usage": True}))
    assert done == "[DONE]"
    texts = [c["choices"][0]["delta"].get("content", "") for c in chunks if c["choices"]]
    whole = ask(provider)
    assert len(texts) > 3
    assert "".join(texts) == text_of(whole)
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["usage"] == whole.json()["usage"]


def test_models_stats_and_reset(provider: ScriptedProvider) -> None:
    ask(provider, model="haiku")
    root = provider.api_base.removesuffix("/v1")
    models = httpx.get(f"{provider.api_base}/models", trust_env=False).json()["data"]
    assert [m["id"] for m in models] == ["scripted", "haiku"]
    stats = httpx.get(f"{root}/stats", trust_env=False).json()
    assert (stats["count"], stats["answered"], stats["unique"], stats["in_flight"]) == (1, 1, 1, 0)
    assert stats["first_at"] <= stats["last_at"] <= time.time()
    provider.script("", Fault(500))
    assert httpx.post(f"{root}/reset", trust_env=False).json()["count"] == 0
    assert ask(provider).status_code == 200, "the script is forgotten too"


def test_latency_and_the_peak_of_requests_in_flight(provider: ScriptedProvider) -> None:
    provider.latency_s = 0.3
    started = time.monotonic()
    with ThreadPoolExecutor(5) as pool:
        list(pool.map(lambda i: ask(provider, str(i)), range(5)))
    assert time.monotonic() - started >= 0.3
    assert provider.peak > 1
    assert provider.in_flight == 0


# -- faults


@pytest.mark.parametrize(
    ("fault", "status", "code", "message"),
    [
        (Fault(400), 400, None, "Invalid request"),
        (Fault(400, body="odd"), 400, None, "odd"),
        (Fault(kind="context-length"), 400, "context_length_exceeded", "maximum context length"),
        (Fault(401), 401, "invalid_api_key", "sk-********3456"),
        (Fault(404), 404, "model_not_found", "`m` does not exist"),
        (Fault(429), 429, "rate_limit_exceeded", "Rate limit"),
        (Fault(500), 500, None, "error"),
        (Fault(502), 502, None, "error"),
        (Fault(503), 503, None, "error"),
    ],
)
def test_errors_look_like_openais(
    provider: ScriptedProvider, fault: Fault, status: int, code: str | None, message: str
) -> None:
    provider.script("", fault)
    response = ask(provider)
    assert response.status_code == status
    assert response.json()["error"]["code"] == code
    assert message in response.json()["error"]["message"]
    assert KEY not in response.text
    assert "retry-after" not in response.headers


def test_rules_are_matched_by_text_and_model_and_used_up_in_order(provider: ScriptedProvider) -> None:
    provider.script("bad", Fault(429, headers={"Retry-After": "1"}), times=1)
    provider.script("bad", Fault(503), times=1)
    provider.script("", Fault(404), model="gone")
    bad = [ask(provider, "a bad day") for _ in range(3)]
    assert [r.status_code for r in bad] == [429, 503, 200]
    assert bad[0].headers["Retry-After"] == "1"
    assert ask(provider, "a good day").status_code == 200
    assert [ask(provider, model=m).status_code for m in ("gone", "gone", "going")] == [404, 404, 200]


@pytest.mark.parametrize(
    ("kind", "text", "reason"),
    [("empty", "", "stop"), ("length", "", "length"), ("content-filter", "", "content_filter")],
)
@pytest.mark.parametrize("stream", [False, True])
def test_answers_without_a_text(provider: ScriptedProvider, kind: Any, text: str, reason: str, stream: bool) -> None:
    provider.script("", Fault(kind=kind))
    response = ask(provider, stream=stream)
    if stream:
        assert [c["choices"][0]["finish_reason"] for c in events(response)[:-1]][-1] == reason
    else:
        assert text_of(response) == text
        assert response.json()["choices"][0]["finish_reason"] == reason


def test_broken_bodies(provider: ScriptedProvider) -> None:
    for kind in ("truncated", "no-choices", "html", "invalid-utf8", "text", "huge"):
        provider.script(kind, Fault(kind=kind, body="said" if kind == "text" else None))
    with pytest.raises(json.JSONDecodeError):
        ask(provider, "truncated").json()
    with pytest.raises(UnicodeDecodeError):
        json.loads(ask(provider, "invalid-utf8").content)
    assert ask(provider, "no-choices").json()["choices"] == []
    assert ask(provider, "html").headers["content-type"].startswith("text/html")
    assert text_of(ask(provider, "text")) == "said"
    assert len(ask(provider, "huge").content) > 10 << 20
    assert "[DONE]" not in ask(provider, "truncated", stream=True).text


def test_a_reset_connection_and_a_slow_answer(provider: ScriptedProvider) -> None:
    provider.script("reset", Fault(kind="reset"))
    provider.script("slow", Fault(kind="slow", pause_s=0.02))
    with pytest.raises(httpx.TransportError):
        ask(provider, "reset")
    started = time.monotonic()
    assert text_of(ask(provider, "slow"))
    assert time.monotonic() - started > 0.1


def test_a_request_that_its_client_gave_up_is_not_in_flight(provider: ScriptedProvider) -> None:
    provider.script("hang", Fault(kind="hang"))

    async def give_up() -> None:
        async with httpx.AsyncClient(trust_env=False) as client:
            body = {"model": "m", "messages": [{"role": "user", "content": "hang"}]}
            with pytest.raises(httpx.ReadTimeout):
                await client.post(f"{provider.api_base}/chat/completions", json=body, timeout=0.2)

    asyncio.run(give_up())
    deadline = time.monotonic() + 5
    while provider.in_flight and time.monotonic() < deadline:
        time.sleep(0.01)
    assert (provider.count, provider.in_flight, provider.answered) == (1, 0, 0)


@pytest.mark.parametrize("limit", [{"at_once": 2}, {"rate_limit": {"m": 2}}])
def test_more_at_once_than_the_limit_is_refused_with_retry_after(limit: dict[str, Any]) -> None:
    with ScriptedProvider(latency_s=0.5, **limit) as provider, ThreadPoolExecutor(6) as pool:
        responses = list(pool.map(lambda i: ask(provider, str(i)), range(6)))
    codes = sorted(r.status_code for r in responses)
    assert codes[:2] == [200, 200]
    assert codes[-1] == 429
    assert {r.headers["Retry-After"] for r in responses if r.status_code == 429} == {"0.2"}


def test_a_rate_limit_of_one_model_leaves_the_others_alone() -> None:
    with ScriptedProvider(rate_limit={"m": 0}) as provider:
        assert [ask(provider, model=m).status_code for m in ("m", "other")] == [429, 200]


def test_a_kind_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match="'hangs' is no kind of fault; there are status, text"):
        Fault(kind="hangs")  # type: ignore[arg-type]


def test_a_port_in_use_is_told_to_the_test(provider: ScriptedProvider) -> None:
    with pytest.raises(OSError, match="in use"), ScriptedProvider(port=provider.port):
        pass


# -- a process of its own


def test_as_a_process_it_is_scripted_over_http_and_ends_with_its_standard_input() -> None:
    command = [sys.executable, str(Path(__file__).with_name("provider.py")), "--latency", "0.01"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address.startswith("http://127.0.0.1:")
        script = f"{address.removesuffix('/v1')}/script"
        rules = [{"needle": "bad", "times": 1, "fault": {"status": 503}}]
        assert httpx.post(script, json={"rules": rules}, trust_env=False).json() == {"rules": 1}
        assert [ask(address, "bad").status_code for _ in range(2)] == [503, 200]
        refused = httpx.post(script, json={"rules": [{"fault": {"kind": "hangs"}}]}, trust_env=False)
        assert refused.status_code == 400
        assert "no kind of fault" in refused.json()["error"]["message"]
    finally:
        process.communicate(timeout=10)
    assert process.returncode == 0
