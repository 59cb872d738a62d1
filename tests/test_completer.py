"""LiteLLM as a completer: what its answers and exceptions become."""

from __future__ import annotations

import asyncio
import dataclasses
import email.utils
import time
from collections.abc import Iterator

import pytest

from pytest_promptbench.completer import LiteLLMCompleter, Redactor, _retry_after
from pytest_promptbench.errors import PermanentError, TransientError
from pytest_promptbench.records import Answer, Message, Model, Request

from .provider import Fault, ScriptedProvider


@pytest.fixture(scope="module")
def provider() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as provider:
        yield provider


@pytest.fixture(scope="module")
def completer(provider: ScriptedProvider) -> LiteLLMCompleter:
    made = LiteLLMCompleter([model(provider)])
    made.prepare()
    return made


def model(provider: ScriptedProvider, **changes: object) -> Model:
    return dataclasses.replace(Model(name="m", model="openai/x", api_base=provider.api_base), **changes)  # type: ignore[arg-type]


def ask(completer: LiteLLMCompleter, provider: ScriptedProvider, content: str, **changes: object) -> Answer:
    messages = (Message(role="user", content=content),)
    request = Request(model=model(provider, **changes), messages=messages, params={"temperature": 0.3})
    return asyncio.run(completer.complete(request))


def test_an_answer_has_text_usage_and_an_unknown_price_is_none(
    completer: LiteLLMCompleter, provider: ScriptedProvider
) -> None:
    answer = ask(completer, provider, "hello")
    assert answer.text
    assert answer.usage.prompt_tokens
    assert answer.cost_usd is None
    assert answer.latency_s > 0
    assert provider.requests[-1]["params"]["temperature"] == 0.3


def test_a_known_price_is_counted(completer: LiteLLMCompleter, provider: ScriptedProvider) -> None:
    answer = ask(completer, provider, "hello", model="openai/gpt-4o")
    assert answer.cost_usd is not None
    assert 0 < answer.cost_usd < 0.01


@pytest.mark.parametrize(
    ("fault", "kind", "throttled", "whole_model"),
    [
        (Fault(429), TransientError, True, None),
        (Fault(429, headers={"Retry-After": "7"}), TransientError, True, None),
        (Fault(500), TransientError, False, None),
        (Fault(503), TransientError, True, None),
        (Fault(kind="truncated"), TransientError, False, None),
        (Fault(kind="reset"), TransientError, False, None),
        (Fault(401), PermanentError, None, True),
        (Fault(403), PermanentError, None, True),
        (Fault(404), PermanentError, None, True),
        (Fault(400), PermanentError, None, False),
        (Fault(kind="empty"), PermanentError, None, False),
        (Fault(kind="no-choices"), None, None, None),
    ],
    ids=["429", "429-after", "500", "503", "truncated", "reset", "401", "403", "404", "400", "empty", "no-choices"],
)
def test_failures_are_classified(
    completer: LiteLLMCompleter,
    provider: ScriptedProvider,
    fault: Fault,
    kind: type[Exception] | None,
    throttled: bool | None,
    whole_model: bool | None,
) -> None:
    before = provider.count
    provider.script("break", fault, times=1)
    with pytest.raises(kind or (PermanentError, TransientError)) as caught:
        ask(completer, provider, "break")
    assert provider.count == before + 1, "LiteLLM itself must not try again"
    assert "m (openai/x)" in str(caught.value)
    if throttled is not None:
        assert isinstance(caught.value, TransientError)
        assert caught.value.throttled is throttled
        assert caught.value.retry_after == (7.0 if fault.headers else None)
    if whole_model is not None:
        assert isinstance(caught.value, PermanentError)
        assert caught.value.whole_model is whole_model


def test_no_key_meant_for_another_address_is_sent(
    completer: LiteLLMCompleter, provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-real-openai-key")
    ask(completer, provider, "whose key?")
    headers = {k.lower(): v for k, v in provider.requests[-1]["headers"].items()}
    assert "sk-real-openai-key" not in str(headers)


class _Response:
    def __init__(self, headers: dict[str, str]) -> None:
        self.headers = headers


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"retry-after": "3"}, 3.0),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after-ms": "250"}, 0.25),
        ({"retry-after-ms": "x", "retry-after": "2"}, 2.0),
    ],
)
def test_retry_after(headers: dict[str, str], expected: float | None) -> None:
    error = Exception()
    error.response = _Response(headers)  # type: ignore[attr-defined]
    assert _retry_after(error) == expected


def test_retry_after_as_a_date() -> None:
    error = Exception()
    error.response = _Response({"retry-after": email.utils.formatdate(time.time() + 30)})  # type: ignore[attr-defined]
    assert 25 < (_retry_after(error) or 0) < 31


def test_secrets_are_redacted_by_value_and_by_shape() -> None:
    redact = Redactor(
        [Model(name="m", model="x", api_key_env="MY_KEY")], {"MY_KEY": "hunter2-hunter2", "HOME": "/root"}
    )
    text = redact("key hunter2-hunter2, sk-abcdef1234567, Bearer abc.def.ghi, home /root")
    assert text == "key ***, ***, ***, home /root"
