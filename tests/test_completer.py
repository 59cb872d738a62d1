"""LiteLLM as a completer: what its answers and exceptions become."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import email.utils
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_promptbench.completer import LiteLLMCompleter, Redactor, _retry_after, _said, spare_loopback_from_proxies
from pytest_promptbench.errors import PermanentError, TransientError
from pytest_promptbench.records import Answer, Message, Model, Request, Usage

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


def test_tokens_that_the_provider_did_not_count_are_unknown_and_not_0(
    completer: LiteLLMCompleter, provider: ScriptedProvider
) -> None:
    provider.script("uncounted", Fault(kind="no-usage"))
    assert ask(completer, provider, "uncounted").usage == Usage(prompt_tokens=None, completion_tokens=None)


@pytest.mark.parametrize("count", [-(10**6), 10**400], ids=["below 0", "more than a number of a database"])
def test_a_count_of_tokens_that_cannot_be_is_unknown_and_so_is_its_price(
    completer: LiteLLMCompleter, provider: ScriptedProvider, count: int
) -> None:
    """A cost below 0 would raise the limit of --bench-max-cost, and MLflow would take the candidate never."""
    said = {"prompt_tokens": 10, "completion_tokens": count, "total_tokens": 10 + count}
    provider.script(f"counted {count}", Fault(kind="usage", body=json.dumps(said)))
    answer = ask(completer, provider, f"counted {count}", model="openai/gpt-4o")
    assert (answer.usage, answer.cost_usd) == (Usage(), None)


def test_a_test_that_freezes_time_leaves_latency_and_start_alone(
    completer: LiteLLMCompleter, provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = time.time()
    with monkeypatch.context() as frozen:
        frozen.setattr(time, "time", lambda: 1577836800.0)
        frozen.setattr(time, "perf_counter", lambda: 1577836800.0)
        answer = ask(completer, provider, "hello")
    assert abs(answer.started_at - began) < 30
    assert 0 < answer.latency_s < 30


def test_a_test_that_changes_the_environment_changes_no_key(
    provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_KEY", "sk-the-session-has")
    completer = LiteLLMCompleter([model(provider, api_key_env="A_KEY")])
    completer.prepare()
    for name in ("A_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    assert ask(completer, provider, "hello", api_key_env="A_KEY").text
    monkeypatch.setenv("A_KEY", "sk-a-test-pretends")
    assert ask(completer, provider, "hello", api_key_env="A_KEY").text
    assert [r["headers"]["authorization"] for r in provider.requests[-2:]] == ["Bearer sk-the-session-has"] * 2


@pytest.mark.parametrize(
    "text",
    [
        "Slept four hours, and a long day lies ahead",
        "今天只睡了四个小时，接下来还有漫长的一天",
        "भारत में आज बहुत गर्मी है",
        "\U0001f469\u200d\U0001f467\U0001f64f\U0001f3fd",
    ],
)
def test_what_a_prompt_may_cost_is_no_less_than_it_does_in_any_script(
    completer: LiteLLMCompleter, provider: ScriptedProvider, text: str
) -> None:
    import litellm

    messages = (Message(role="user", content=text * 20),)
    request = Request(model=model(provider, model="openai/gpt-4"), messages=messages, params={"max_tokens": 1})
    worst = completer.worst_cost_usd(request)
    tokens = litellm.token_counter(model="gpt-4", messages=[{"role": "user", "content": text * 20}])
    assert worst is not None
    assert worst >= tokens * litellm.get_model_info("gpt-4")["input_cost_per_token"]


@pytest.mark.parametrize("name", ["tools", "response_format"])
def test_what_a_prompt_may_cost_counts_schemas(
    completer: LiteLLMCompleter, provider: ScriptedProvider, name: str
) -> None:
    """Without them a classifier's limit, of a short text and a long schema, would be passed unnoticed."""
    import litellm

    messages = (Message(role="user", content="Hi"),)
    schema = {
        name: [{"type": "function", "function": {"name": f"f{i}", "description": "Does " * 20}} for i in range(9)]
    }
    request = Request(model=model(provider, model="openai/gpt-4"), messages=messages, params={"max_tokens": 1} | schema)
    worst = completer.worst_cost_usd(request)
    tokens = litellm.token_counter(model="gpt-4", messages=[{"role": "user", "content": "Hi"}], tools=schema[name])
    assert worst is not None
    assert worst >= tokens * litellm.get_model_info("gpt-4")["input_cost_per_token"]


def test_a_bound_that_is_none_makes_no_reply_cheaper(completer: LiteLLMCompleter, provider: ScriptedProvider) -> None:
    """Some servers take -1 for as many tokens as the model can."""
    messages = (Message(role="user", content="Slept four hours"),)
    unbounded, endless = (
        completer.worst_cost_usd(Request(model=model(provider, model="openai/gpt-4"), messages=messages, params=params))
        for params in ({}, {"max_tokens": -1})
    )
    assert unbounded == endless


def test_an_answer_that_only_drips_in_ends_with_the_timeout(
    completer: LiteLLMCompleter, provider: ScriptedProvider
) -> None:
    provider.script("a drop now and then", Fault(kind="slow", pause_s=0.3), times=1)
    began = time.monotonic()
    with pytest.raises(TransientError, match="Timeout: "):  # in our words, or of a LiteLLM whose limit is on the whole
        ask(completer, provider, "a drop now and then", timeout=0.5)
    assert time.monotonic() - began < 3


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
        (Fault(402), PermanentError, None, True),
        (Fault(403), PermanentError, None, True),
        (Fault(404), PermanentError, None, True),
        (Fault(405), PermanentError, None, True),
        (Fault(400), PermanentError, None, False),
        (Fault(kind="empty"), PermanentError, None, False),
        (Fault(kind="no-choices"), None, None, None),
    ],
    ids=[
        "429",
        "429-after",
        "500",
        "503",
        "truncated",
        "reset",
        "401",
        "402",
        "403",
        "404",
        "405",
        "400",
        "empty",
        "no-choices",
    ],
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


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (
            "parts",
            r"answered with what LiteLLM cannot read: ValidationError: .* content Input should be a valid string",
        ),
        ("refusal", r"answered with an empty text \(finish_reason: stop, refusal: I cannot help with that\); "),
    ],
)
def test_an_answer_that_is_none_is_paid_for_once_and_says_why(
    completer: LiteLLMCompleter, provider: ScriptedProvider, kind: Any, said: str
) -> None:
    """LiteLLM takes a text in parts for a server's error, which would be asked for again and again."""
    provider.script("odd", Fault(kind=kind, body="I cannot help with that"), times=1)
    with pytest.raises(PermanentError, match=rf"^model m \(openai/x\) {said}") as caught:
        ask(completer, provider, "odd")
    assert "Traceback" not in str(caught.value)
    assert not caught.value.unpaid


CALL = {"id": "call_1", "type": "function", "function": {"name": "triage", "arguments": '{"label": "bug", "by": "é"}'}}
CALLED = '{"name": "triage", "arguments": {"label": "bug", "by": "é"}}'


@pytest.mark.parametrize(
    ("finish_reason", "message", "text"),
    [
        ("stop", {"content": None, "tool_calls": [CALL]}, f'{{"tool_calls": [{CALLED}]}}'),
        ("tool_calls", {"content": "", "tool_calls": [CALL, CALL]}, f'{{"tool_calls": [{CALLED}, {CALLED}]}}'),
        ("tool_calls", {"content": "Yes", "tool_calls": [CALL]}, f'{{"content": "Yes", "tool_calls": [{CALLED}]}}'),
        (
            "length",
            {"content": None, "tool_calls": [CALL | {"function": {"name": "triage", "arguments": '{"label": "b'}}]},
            '{"tool_calls": [{"name": "triage", "arguments": "{\\"label\\": \\"b"}]}',
        ),
    ],
    ids=["forced", "two", "beside a text", "cut off"],
)
def test_a_reply_that_calls_tools_is_json_of_the_calls(
    completer: LiteLLMCompleter, provider: ScriptedProvider, finish_reason: str, message: dict[str, Any], text: str
) -> None:
    """LiteLLM wants the package mcp for any tools, and this environment has none."""
    needle = f"call {finish_reason} {text}"
    choice = {"finish_reason": finish_reason, "message": {"role": "assistant"} | message}
    provider.script(needle, Fault(kind="choice", body=json.dumps(choice)))
    tools = [{"type": "function", "function": {"name": "triage", "parameters": {"type": "object"}}}]
    said = Message(role="user", content=needle)
    answer = asyncio.run(completer.complete(Request(model=model(provider), messages=(said,), params={"tools": tools})))
    assert answer.text == text
    assert provider.requests[-1]["params"] == {"tools": tools}


@pytest.mark.parametrize("written", ['{"a": NaN}', '{"a": [-Infinity]}', '{"a": 1e999}', "[" * 990 + "]" * 990])
def test_arguments_that_json_cannot_hold_are_a_text(written: str) -> None:
    from litellm import Message as Reply

    said = _said(Reply(content=None, tool_calls=[CALL | {"function": {"name": "f", "arguments": written}}]), "stop")
    assert json.loads(said) == {"tool_calls": [{"name": "f", "arguments": written}]}


def test_what_litellm_makes_of_params_does_not_change_the_request(
    completer: LiteLLMCompleter, provider: ScriptedProvider
) -> None:
    """A cell goes by its params: those that LiteLLM writes into made it another than the files have."""
    params: dict[str, Any] = {"metadata": {"team": "support"}, "logit_bias": {"50256": -100}}
    said = Message(role="user", content="hello")
    asyncio.run(completer.complete(Request(model=model(provider), messages=(said,), params=params)))
    assert params == {"metadata": {"team": "support"}, "logit_bias": {"50256": -100}}


def test_a_text_with_calls_that_the_provider_made_itself_is_the_text() -> None:
    """Anthropic's web search: LiteLLM lists it among the calls, but the model has not stopped for it."""
    from litellm import Message as Reply

    reply = Reply(content="It rains.", tool_calls=[CALL | {"id": "srvtoolu_1"}])
    assert _said(reply, "stop") == "It rains."
    assert json.loads(_said(reply, "tool_calls"))["content"] == "It rains."


def test_an_answer_without_a_text_comes_with_its_price(completer: LiteLLMCompleter, provider: ScriptedProvider) -> None:
    provider.script("think", Fault(kind="length"), times=1)
    with pytest.raises(PermanentError, match="raise max_tokens") as caught:
        ask(completer, provider, "think", model="openai/gpt-4o")
    assert caught.value.empty is not None
    assert caught.value.empty.text == ""
    assert caught.value.empty.cost_usd


@pytest.mark.parametrize("name", ["openai/x", "anthropic/claude-haiku-4-5", "ollama/x"])
def test_an_address_where_nobody_answers_is_named(completer: LiteLLMCompleter, name: str) -> None:
    nowhere = Model(name="m", model=name, api_base="http://127.0.0.1:9/v1", api_key_env="HOME")
    request = Request(model=nowhere, messages=(Message(role="user", content="hi"),), params={})
    with pytest.raises(TransientError, match=r"no answer from http://127\.0\.0\.1:9/v1$") as caught:
        asyncio.run(completer.complete(request))
    assert str(caught.value).count("ServerError: ") <= 1


def test_a_provider_that_litellm_does_not_know_ends_the_model(completer: LiteLLMCompleter) -> None:
    unknown = Model(name="m", model="antropic/claude-haiku-4-5")
    request = Request(model=unknown, messages=(Message(role="user", content="hi"),), params={})
    with pytest.raises(PermanentError, match=r"model m: LiteLLM knows no provider for 'antropic/.*write it") as caught:
        asyncio.run(completer.complete(request))
    assert caught.value.whole_model


@pytest.mark.parametrize(
    ("name", "address", "known"),
    [
        ("openai/anything", None, True),
        ("anthropic/claude-nobody-knows", None, True),
        ("gpt-4o", None, True),
        ("embedded/smollm2-135m", None, True),
        ("some-model", "https://api.groq.com/openai/v1", True),
        ("own/model", None, True),
        ("ours", None, True),
        ("antropic/claude-haiku-4-5", None, False),
        ("some-model", "http://127.0.0.1:9/v1", False),
        ("../x", None, False),
    ],
)
def test_a_provider_is_known_before_it_is_asked(
    completer: LiteLLMCompleter, monkeypatch: pytest.MonkeyPatch, name: str, address: str | None, known: bool
) -> None:
    import litellm

    monkeypatch.setattr(litellm, "custom_provider_map", [{"provider": "own", "custom_handler": None}])
    monkeypatch.setattr(litellm, "model_alias_map", {"ours": "openai/gpt-4o"})
    assert completer.knows_provider(Model(name="m", model=name, api_base=address)) is known
    assert completer.knows_provider(Model(name="m", model=name, params={"custom_llm_provider": "openai"}))


@pytest.mark.parametrize(
    ("kind", "problem", "said"),
    [
        (
            PermanentError,
            "import not_installed",
            "No module named 'not_installed'; LiteLLM needs it for this request: install the package that has it",
        ),
        (TransientError, "raise OSError('no credentials.')", "no credentials."),
        (
            TransientError,
            "try: import nothing_here\nexcept ImportError: raise OSError('no credentials')",
            "no credentials",
        ),
    ],
)
def test_what_is_wrong_on_this_machine_is_said_without_a_traceback(
    completer: LiteLLMCompleter, monkeypatch: pytest.MonkeyPatch, kind: type[Exception], problem: str, said: str
) -> None:
    """LiteLLM takes it for a broken connection, and a package that is missing is not there at the next try either."""
    import litellm

    class Own(litellm.CustomLLM):
        async def acompletion(self, *_: Any, **__: Any) -> Any:
            exec(problem)

    monkeypatch.setattr(litellm, "custom_provider_map", [{"provider": "own", "custom_handler": Own()}])
    litellm.utils.custom_llm_setup()
    request = Request(model=Model(name="m", model="own/x"), messages=(Message(role="user", content="hi"),), params={})
    with pytest.raises(kind) as caught:
        asyncio.run(completer.complete(request))
    assert str(caught.value).endswith(said), caught.value


def test_what_the_files_tell_needs_no_litellm() -> None:
    code = (
        "import sys\n"
        "from pytest_promptbench.completer import without_provider\n"
        "from pytest_promptbench.records import Model\n"
        "names = ('openai/x', 'anthropic/x', 'gemini/x', 'ollama/x', 'gpt-4o-mini', 'claude-haiku-4-5')\n"
        "assert without_provider(Model(name='m', model=name) for name in names) is None\n"
        "assert 'litellm' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


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
        ({"retry-after": "inf"}, None),
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


def test_a_loop_that_ends_leaves_no_client_and_no_connection(
    completer: LiteLLMCompleter, provider: ScriptedProvider
) -> None:
    """LiteLLM keeps both for ever, and where a client is dropped unclosed, Python warns of each connection."""
    kept = completer._litellm.in_memory_llm_clients_cache.cache_dict

    async def one() -> list[Any]:
        before = set(kept)
        messages = (Message(role="user", content="once"),)
        await completer.complete(Request(model=model(provider), messages=messages, params={}))
        clients = [kept[key] for key in set(kept) - before]
        await completer.close()
        assert set(kept) <= before
        return clients

    clients = asyncio.run(one())
    assert clients, "LiteLLM keeps its clients elsewhere now"
    assert all((getattr(c, "_client", None) or c.client).is_closed for c in clients)


def test_secrets_are_redacted_by_value_and_by_shape() -> None:
    redact = Redactor(
        [Model(name="m", model="x", api_key_env="MY_KEY")], {"MY_KEY": "hunter2-hunter2", "HOME": "/root"}
    )
    text = redact("key hunter2-hunter2, sk-abcdef1234567, Bearer abc.def.ghi, home /root")
    assert text == "key ***, ***, ***, home /root"


@pytest.mark.parametrize(
    "said",
    [
        "sk-ant-abcdefgh.defghi", "AIzaSyA1234567890abcdefghijklmnopqrstuv", "AKIAABCDEFGHIJKLMNOP",
        "Authorization: Basic dXNlcjpwYXNz", "x-api-key: 0123456789abcdef", '"api-key": "0123456789abcdef"',
        "a%2Fb%2Bcanary", "canary-of-aws",
    ],
)  # fmt: skip
def test_what_providers_quote_of_a_key(said: str) -> None:
    redact = Redactor(
        [Model(name="m", model="x", api_key_env="MY_KEY")],
        {"MY_KEY": "a/b+canary", "AWS_SECRET_ACCESS_KEY": "canary-of-aws"},
    )
    kept = redact(f"told: {said} end")
    assert kept.startswith("told: ")
    assert kept.endswith(" end")
    assert "***" in kept
    for secret in ("ant", "AIza", "AKIA", "dXNl", "0123456789", "canary"):
        assert secret not in kept


@pytest.mark.parametrize("before", ["", "u:", "user:", "three:", "u\u00e9:"])
def test_a_key_in_base64_is_redacted_wherever_it_begins(before: str) -> None:
    key = "zz/canary+of?the>provider~4711"
    redact = Redactor([Model(name="m", model="x", api_key_env="K")], {"K": key})
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        told = redact(f"bad credentials <{encode(f'{before}{key}'.encode()).decode()}> sent")
        shown = told.partition("<")[2].partition(">")[0]
        rest = "".join(shown.split("***"))
        assert "***" in shown
        assert len(rest) <= len(before) * 2 + 8, told
    assert redact("see " + json.dumps(key).replace("/", "\\/")) == 'see "***"'


def test_a_key_of_any_bytes_is_redacted() -> None:
    key = b"caf\xe9-canary".decode("utf-8", "surrogateescape")
    assert Redactor([Model(name="m", model="x", api_key_env="K")], {"K": key})("see caf%E9-canary") == "see ***"


def test_a_short_key_that_a_model_names_is_redacted() -> None:
    assert Redactor([Model(name="m", model="x", api_key_env="K")], {"K": "wrong"})("key: wrong") == "key: ***"


@pytest.mark.parametrize("spelling", ["NO_PROXY", "no_proxy"])
def test_hosts_that_need_no_proxy_go_without_one_beside_an_embedded_model(
    monkeypatch: pytest.MonkeyPatch, spelling: str
) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "llm.internal")  # so that it is put back whatever becomes of it
        if name != spelling:
            monkeypatch.delenv(name)
    spare_loopback_from_proxies()
    assert [h for h in ("llm.internal", "127.0.0.1", "api.example") if urllib.request.proxy_bypass(h)] == [
        "llm.internal",
        "127.0.0.1",
    ]


def test_litellm_loads_under_warnings_that_are_errors() -> None:
    code = (
        "from pytest_promptbench.completer import LiteLLMCompleter\n"
        "LiteLLMCompleter([]).prepare()\n"
        "import warnings\n"
        "try: warnings.warn('of the user')\n"
        "except UserWarning: print('still an error')"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "still an error\n", done.stderr


def test_importing_litellm_and_asking_it_reaches_no_other_address(provider: ScriptedProvider) -> None:
    """Neither a price list nor telemetry: sockets to anything but loopback are noted instead of opened."""
    code = (
        "import asyncio, socket, sys\n"
        "real, seen = socket.socket.connect, []\n"
        "def connect(self, address):\n"
        "    if address[0] not in ('127.0.0.1', '::1') and self.family != socket.AF_UNIX:\n"
        "        seen.append(address); raise OSError('refused by the test')\n"
        "    return real(self, address)\n"
        "socket.socket.connect = connect\n"
        "real_info = socket.getaddrinfo\n"
        "def info(host, *a, **k):\n"
        "    if host not in ('127.0.0.1', 'localhost', None): seen.append(host)\n"
        "    return real_info(host, *a, **k)\n"
        "socket.getaddrinfo = info\n"
        "from tests.test_completer import *\n"
        "class P: api_base = sys.argv[1]\n"
        "c = LiteLLMCompleter([model(P)]); c.prepare()\n"
        "print(bool(ask(c, P, 'hello').text), seen)"
    )
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("LITELLM_", "MLFLOW_", "DO_NOT_TRACK"))}
    done = subprocess.run(
        [sys.executable, "-c", code, provider.api_base], capture_output=True, text=True, check=False,
        cwd=Path(__file__).parent.parent, env=environ,
    )  # fmt: skip
    assert done.stdout == "True []\n", done.stderr
