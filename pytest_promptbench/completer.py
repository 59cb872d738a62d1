"""LiteLLM as a completer: one request in, one answer or one classified error out.

LiteLLM's own retries are off, so that every 429 is seen here; its price list is the bundled one, so that importing it
reaches for no network; its telemetry and callbacks are off.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import importlib
import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .checks import read_json
from .clock import now, steady
from .errors import GenerationError, PermanentError, TransientError
from .quiet import freeze_until_exit, quiet_environment, without_collections, without_warnings
from .records import Answer, Model, Request, Usage, reply_limit
from .redaction import keys_in, spellings

DEFAULT_TIMEOUT_S = 120.0
EMBEDDED_TIMEOUT_S = 900.0
"""Embedded models answer one at a time: a request waits for all those before it."""
CLOSE_S = 1.0
"""How long a connection is given to end."""
MOST_TOKENS = 10**9
"""No model takes or writes as many. A count below 0, or one that no database holds, is a mistake of the provider's."""
GRACE_S = 1.0
"""So long after a request's time is up, it is broken off here: LiteLLM's limit is one on each pause between two bytes,
and some providers send a blank now and then while a request waits."""

_WITH_ITS_FIRST_CALL = ("litellm.proxy._types", "openai.resources.chat.completions.completions")
"""Half a second of what LiteLLM imports only once it is asked, by when tests run that may put ``sys.modules`` back."""

_KEY_SHAPES = re.compile(
    r"\b(?:sk|pk|rk|xai|gsk|hf)[-_][A-Za-z0-9_.\-*]{6,}|\bAIza[A-Za-z0-9_\-]{20,}|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"
    r"|(?i:\b(?:bearer|basic)\s+)[A-Za-z0-9._~+/=\-*]{6,}|(?i:\b(?:x-)?api-key['\"]?\s*[:=]\s*['\"]?)[A-Za-z0-9._\-*]{6,}"
)

_UNREACHABLE = re.compile(r"Connection error|Cannot connect to host|Name or service not known", re.IGNORECASE)

_UNREADABLE = re.compile(
    r"Invalid response object Traceback.*?^(?:\w+\.)*(\w+: .*?)(?=\n\s*For further|\n\n|\Z)", re.MULTILINE | re.DOTALL
)
"""LiteLLM's word for an answer that its types have no room for, which it takes for a server's error; what is wrong."""

_TRACEBACK = re.compile(r"(?<=\S)\s+Traceback \(most recent call last\):\s+File .*", re.DOTALL)
"""What LiteLLM puts behind an error of this machine's, as where credentials are missing, with a link to report it."""

_NO_PROVIDER = "LLM Provider NOT provided"
_IN_THE_PROMPT = {"tools", "response_format"}
"""Params that providers count as tokens of the prompt."""
_SENT_ELSEWHERE = {"custom_llm_provider", "model_list", "fallbacks"}
"""Params by which LiteLLM finds the provider without the model's name."""


def no_provider(model: Model) -> str:
    """What to tell of a model whose provider LiteLLM does not know."""
    named = f"model {model.name}: LiteLLM knows no provider for {model.model!r}"
    return f"{named}; write it in models.yaml as provider/name, as in openai/gpt-4o"


def without_provider(models: Iterable[Model]) -> Model | None:
    """The first of the models that LiteLLM has no provider for."""
    completer = LiteLLMCompleter(models := tuple(models))
    return next((m for m in models if not completer.knows_provider(m)), None)


@cache
def _evidently_known(name: str) -> bool:
    """Whether LiteLLM's files tell without importing it: a folder of the provider's name, or a price of the model."""
    spec = find_spec("litellm")
    home = Path(next(iter(spec.submodule_search_locations or ()), "")) if spec is not None else Path()
    provider, slash, _ = name.partition("/")
    if slash:
        return re.fullmatch(r"\w+", provider) is not None and (home / "llms" / provider).is_dir()
    with contextlib.suppress(OSError):
        return f'"{name}": {{' in (home / "model_prices_and_context_window_backup.json").read_text(encoding="utf-8")
    return False


class Redactor:
    """Replaces secrets by ``***``: the values of the keys in use, and anything that looks like a provider's key."""

    def __init__(self, models: Iterable[Model], environ: Mapping[str, str]) -> None:
        named = {m.api_key_env for m in models if m.api_key_env}
        # A key that the models name is taken out even where it is as short as a typing error.
        values = {environ[k] for k in named if len(environ.get(k, "")) >= 3}
        self._values = spellings(values | keys_in(environ))

    def __call__(self, text: str) -> str:
        for value in self._values:
            text = text.replace(value, "***")
        return _KEY_SHAPES.sub("***", text)


class LiteLLMCompleter:
    """Asks any provider that LiteLLM knows. ``embedded`` is the address of the session's own model server."""

    def __init__(self, models: Iterable[Model], *, embedded: str | None = None) -> None:
        models = tuple(models)
        self.redact = Redactor(models, os.environ)
        # As they are now: a test that changes the environment for itself must not change what is asked beside it.
        self._keys = {m.api_key_env: os.environ.get(m.api_key_env, "") for m in models if m.api_key_env}
        self._embedded = embedded
        self._litellm: Any = None
        self._longest_reply = 1024
        self._lacks_mcp = False

    def prepare(self) -> None:
        """Import LiteLLM (seconds) and switch off what an eval does not need."""
        quiet_environment()
        with without_collections(), without_warnings():
            import litellm

            for name in _WITH_ITS_FIRST_CALL:
                with contextlib.suppress(ImportError):  # where another version has it elsewhere
                    importlib.import_module(name)
        freeze_until_exit()  # half a million objects that stay: collections need not look through them again and again
        litellm.telemetry = False
        litellm.suppress_debug_info = True
        litellm.num_retries = 0
        litellm.drop_params = False
        self._litellm = litellm

    def knows_provider(self, model: Model) -> bool:
        """Whether LiteLLM has a provider for the model. Imports LiteLLM only where its files do not tell already."""
        if model.embedded or _SENT_ELSEWHERE & model.params.keys() or _evidently_known(model.model):
            return True
        if self._litellm is None:
            self.prepare()
        own = (f"{entry['provider']}/" for entry in self._litellm.custom_provider_map)
        if model.model in self._litellm.model_alias_map or model.model.startswith((*own,)):
            return True
        try:
            self._litellm.get_llm_provider(model=model.model, api_base=model.api_base)
        except Exception as error:  # whatever else is wrong with it, asking it will tell
            return _NO_PROVIDER not in str(error)
        return True

    def is_priced(self, model: Model) -> bool:
        """Whether LiteLLM's price list knows the model. Embedded models cost nothing and count as priced."""
        return model.embedded or self._price(model) is not None

    def _price(self, model: Model) -> tuple[float, float] | None:
        """US dollars per input and output token, or None where unknown."""
        if self._litellm is None:
            self.prepare()
        with contextlib.suppress(Exception):  # LiteLLM raises a plain Exception for a model that it has no entry for
            info = self._litellm.get_model_info(model.model)
            if info.get("input_cost_per_token") or info.get("output_cost_per_token"):
                return float(info.get("input_cost_per_token") or 0.0), float(info.get("output_cost_per_token") or 0.0)
        return None

    def worst_cost_usd(self, request: Request) -> float | None:
        """Input as :func:`_most_tokens` has it plus ``max_tokens`` of output (unset: the longest reply so far)."""
        price = None if request.model.embedded else self._price(request.model)
        if price is None:
            return None
        beside = (json.dumps(request.params[name], default=str) for name in _IN_THE_PROMPT & request.params.keys())
        prompt = sum(_most_tokens(m.content) + 8 for m in request.messages) + sum(map(_most_tokens, beside))
        most = reply_limit(request.params) or self._longest_reply
        return prompt * price[0] + most * price[1]

    def likely_cost_usd(self, request: Request, *, reply_tokens: int) -> float | None:
        """Input at one token per four characters, and a reply of so many tokens or ``max_tokens``; None if unpriced."""
        price = None if request.model.embedded else self._price(request.model)
        if price is None:
            return None
        most = reply_limit(request.params) or reply_tokens
        characters = sum(len(m.content) + 16 for m in request.messages)
        return characters / 4 * price[0] + min(most, reply_tokens) * price[1]

    async def complete(self, request: Request) -> Answer:
        model = request.model
        where = self._where(model)
        timeout = model.timeout or (EMBEDDED_TIMEOUT_S if model.embedded else DEFAULT_TIMEOUT_S)
        started, clock = now(), steady()
        try:
            async with asyncio.timeout(timeout + GRACE_S):
                response = await self._ask(
                    messages=[m.to_json() for m in request.messages],
                    max_retries=0,
                    timeout=timeout,
                    **where,
                    **_params(request),
                )
        except TimeoutError:
            raise TransientError(
                f"model {model.name} ({model.model}): Timeout: no whole answer within {timeout:g} s; its timeout in "
                "models.yaml may be raised"
            ) from None
        except Exception as error:
            problem = self._classify(error, model)
            problem.unpaid = _unpaid(getattr(error, "status_code", None))
            raise problem from None
        latency = steady() - clock
        try:
            choice = response.choices[0]
            text, reason = _said(choice.message, choice.finish_reason), choice.finish_reason
        except (AttributeError, IndexError, TypeError):
            raise PermanentError(f"model {model.name} ({model.model}) sent a reply without choices") from None
        usage, counted = _usage(getattr(response, "usage", None))
        self._longest_reply = max(self._longest_reply, usage.completion_tokens or 0)
        cost = (getattr(response, "_hidden_params", None) or {}).get("response_cost")
        answer = Answer(
            text=text,
            usage=usage,
            # LiteLLM says 0 or nothing for a model that it has no price of.
            cost_usd=float(cost) if counted and cost and cost > 0 else None,
            latency_s=latency,
            started_at=started,
            finish_reason=reason,
        )
        if not answer.text.strip():
            why = f"finish_reason: {reason}{self._refusal(choice.message)}"
            said = f"model {model.name} ({model.model}) answered with an empty text ({why}); {_remedy(reason)}"
            raise PermanentError(said, empty=answer)
        return answer

    async def _ask(self, **arguments: Any) -> Any:
        """What LiteLLM answers. For any ``tools`` it imports ``mcp``, also where none of them is an MCP server's."""
        tools = arguments.get("tools")
        spare = isinstance(tools, list) and not any(isinstance(t, dict) and t.get("type") == "mcp" for t in tools)
        if not (spare and self._lacks_mcp):
            try:
                return await self._litellm.acompletion(**arguments)
            except Exception as error:
                if not spare or not _lacks_a_package(error, str(error)):
                    raise
            self._lacks_mcp = True  # a LiteLLM that does not know the word below, and so would send it, needs no mcp
        return await self._litellm.acompletion(**arguments, _skip_mcp_handler=True)

    async def close(self) -> None:
        """End the connections that were opened in the running loop, which LiteLLM would keep, and the loop, for ever.

        It keeps its clients under keys that end with its name of the loop. Those of other loops are the project's own.
        """
        kept = getattr(self._litellm, "in_memory_llm_clients_cache", None)
        name = getattr(kept, "update_cache_key_with_event_loop", None)
        mine = str(name("")) if name is not None else ""
        clients: dict[str, Any] = getattr(kept, "cache_dict", {}) if mine else {}
        for key in [k for k in list(clients) if k.endswith(mine)]:
            client = clients.pop(key)
            with contextlib.suppress(Exception):
                close = getattr(client, "close", None) or client.aclose
                async with asyncio.timeout(CLOSE_S):
                    await close()

    def _where(self, model: Model) -> dict[str, Any]:
        if model.embedded:
            if self._embedded is None:
                raise PermanentError(f"model {model.name}: the server of the embedded models is not running")
            return {
                "model": f"openai/{model.model.removeprefix('embedded/')}",
                "api_base": self._embedded,
                "api_key": "none",
            }
        where: dict[str, Any] = {"model": model.model}
        if model.api_base:
            where["api_base"] = model.api_base
        if model.api_key_env:
            where["api_key"] = self._keys.get(model.api_key_env) or os.environ.get(model.api_key_env, "")
        elif model.api_base:
            where["api_key"] = "none"  # a key that is meant for a provider's own address must not go elsewhere
        return where

    def _refusal(self, message: Any) -> str:
        """What a model says in place of an answer, where its provider has a field for that."""
        fields = getattr(message, "provider_specific_fields", None) or {}
        said = getattr(message, "refusal", None) or fields.get("refusal")
        return f", refusal: {_first_lines(self.redact(said), 200)}" if isinstance(said, str) and said else ""

    def _classify(self, error: Exception, model: Model) -> GenerationError:
        """LiteLLM's exception in our terms, its text cut to what helps and free of secrets."""
        kind = type(error).__name__
        text = _first_lines(self.redact(str(error))).removeprefix(f"{kind}: ")
        message = f"model {model.name} ({model.model}): {kind}: {text}"
        return self._of_this_side(error, model, text, message) or self._of_the_provider(error, model, text, message)

    def _of_this_side(self, error: Exception, model: Model, text: str, message: str) -> GenerationError | None:
        """What went wrong on this side, or on the way; None where the provider has answered with an error."""
        if (unreadable := _UNREADABLE.search(str(error))) is not None:  # an answer came, and may have to be paid for
            why = _first_lines(self.redact(unreadable[1]))
            return PermanentError(f"model {model.name} ({model.model}) answered with what LiteLLM cannot read: {why}")
        if _lacks_a_package(error, text):
            remedy = "LiteLLM needs it for this request: install the package that has it"
            return PermanentError(f"model {model.name} ({model.model}): {text.rstrip('.')}; {remedy}")
        if _UNREACHABLE.search(text):
            ours = "the embedded server" if model.embedded else "the provider's address"
            where = self.redact(model.api_base or ours)
            return TransientError(f"{message.rstrip('.')}; no answer from {where}")
        if _NO_PROVIDER in text:
            return PermanentError(no_provider(model), whole_model=True)
        return None

    def _of_the_provider(self, error: Exception, model: Model, text: str, message: str) -> GenerationError:
        """What a provider's error means, by LiteLLM's class of it and by its status."""
        kinds, status = self._litellm.exceptions, getattr(error, "status_code", None)
        if status == 402:
            return PermanentError(f"{message}; the provider wants to be paid first", whole_model=True)
        if isinstance(error, kinds.RateLimitError) or status == 429:
            if "insufficient_quota" in text:
                return PermanentError(message, whole_model=True)
            return TransientError(message, retry_after=_retry_after(error), throttled=True)
        if isinstance(error, kinds.AuthenticationError | kinds.PermissionDeniedError) or status in (401, 403):
            key = model.api_key_env or "the provider's usual variable"
            either = status == 403  # which is also how some refuse one text
            remedy = f"check the key in {key}" + (", or it is this text that is refused" if either else "")
            return PermanentError(f"{message}; {remedy}", whole_model=True, refused=either)
        if isinstance(error, kinds.NotFoundError) or status == 404:
            what = "the name and api_base" if model.api_base else "the name"
            return PermanentError(f"{message}; check {what} in models.yaml", whole_model=True)
        if status == 405:
            return PermanentError(f"{message}; check api_base in models.yaml", whole_model=True)
        if isinstance(error, kinds.Timeout):
            return TransientError(message)
        if isinstance(error, kinds.BadRequestError | kinds.UnprocessableEntityError) or status in (400, 413, 422):
            return PermanentError(message, refused=True)
        if status in (503, 529):
            return TransientError(message, retry_after=_retry_after(error), throttled=True)
        return TransientError(message, retry_after=_retry_after(error))


def _said(message: Any, finish_reason: object) -> str:
    """The text of a reply; of one that calls tools, JSON of the calls, and of the text beside them where there is any.

    A call's id is left out: it differs each time. A text with calls that the provider has made itself, as of a web
    search, does not end by calling.
    """
    text = message.content if isinstance(message.content, str) else ""
    called = getattr(message, "tool_calls", None) or ()
    functions = [f for call in called if (f := getattr(call, "function", None)) is not None]
    if not functions or (text.strip() and finish_reason != "tool_calls"):
        return text
    calls = [{"name": f.name, "arguments": _from_json(f.arguments)} for f in functions]
    return json.dumps(({"content": text} if text.strip() else {}) | {"tool_calls": calls}, ensure_ascii=False)


def _from_json(arguments: str) -> Any:
    """What a model has written as JSON; the text itself where it is none, or could not be written as JSON again."""
    try:
        return read_json(arguments, parse_float=_finite)
    except ValueError:
        return arguments


def _finite(written: str) -> float:
    value = float(written)
    if not math.isfinite(value):
        raise ValueError(f"{written} is beyond what a float holds")
    return value


def _lacks_a_package(error: BaseException, text: str) -> bool:
    """Whether what LiteLLM took for a broken connection is an import that failed.

    It imports what one provider or one kind of request needs when it is asked for: boto3, mcp for ``tools``.
    """
    cause = error.__cause__ or error.__context__
    while cause is not None and not isinstance(cause, ImportError):
        cause = cause.__cause__ or cause.__context__
    return cause is not None and str(cause) in text  # else it was caught, and another error has come of it


def spare_loopback_from_proxies() -> None:
    """A proxy in the environment must not get the requests to the session's own server; other exceptions stay.

    Where both spellings are set, the lower one alone counts for most clients: a new one begins with what the other has.
    """
    for name, other in (("NO_PROXY", "no_proxy"), ("no_proxy", "NO_PROXY")):
        hosts = [h for h in os.environ.get(name, os.environ.get(other, "")).split(",") if h]
        if "127.0.0.1" not in hosts and "*" not in hosts:
            hosts.append("127.0.0.1")
        os.environ[name] = ",".join(hosts)


def _params(request: Request) -> dict[str, Any]:
    """The request's parameters. A fixed seed moves on with the sample number: equal seeds would give equal samples.

    All of it copied: LiteLLM writes into ``metadata``, and a cell's content would be another once it has run.
    """
    params = copy.deepcopy(dict(request.params))
    if request.sample and isinstance(params.get("seed"), int):
        params["seed"] += request.sample
    return params


def _usage(said: Any) -> tuple[Usage, bool]:
    """What a provider counted, and whether that can be: what cannot is unknown, as is a price that comes of it.

    LiteLLM says 0 where the provider said nothing: no request and no text is of 0 tokens.
    """
    prompt, completion = (getattr(said, name, None) or 0 for name in ("prompt_tokens", "completion_tokens"))
    if 0 <= prompt <= MOST_TOKENS and 0 <= completion <= MOST_TOKENS:
        return Usage(prompt_tokens=prompt or None, completion_tokens=completion or None), True
    return Usage(), False


def _most_tokens(text: str) -> float:
    """One per two ASCII characters. Of other scripts and of emoji one character may be several, but no byte is two."""
    ascii_only = len(text.encode("ascii", "ignore"))
    return ascii_only / 2 + len(text.encode("utf-8", "surrogatepass")) - ascii_only


def _remedy(finish_reason: object) -> str:
    if finish_reason == "length":
        return "raise max_tokens (a reasoning model may spend all of it on thinking)"
    if finish_reason == "content_filter":
        return "the provider's content filter stopped it: change the prompt or the scenario"
    return "nothing was stored, so the next run asks again"


def _unpaid(status: object) -> bool:
    """Whether an error's status says that nothing was generated. A timeout (408) or a 500 may come after it was."""
    return isinstance(status, int) and ((400 <= status < 500 and status != 408) or status in (503, 529))


def _retry_after(error: Exception) -> float | None:
    """Seconds that the provider asked for: Retry-After as a number or a date, or retry-after-ms."""
    response = getattr(error, "response", None)
    headers = getattr(response, "headers", None) or getattr(error, "litellm_response_headers", None) or {}
    milliseconds, value = headers.get("retry-after-ms"), headers.get("retry-after")
    for number, unit in ((milliseconds, 1000.0), (value, 1.0)):
        with contextlib.suppress(TypeError, ValueError):
            seconds = float(number or "") / unit
            return max(0.0, seconds) if math.isfinite(seconds) else None
    if isinstance(value, str):
        from email.utils import parsedate_to_datetime

        with contextlib.suppress(TypeError, ValueError):
            return max(0.0, parsedate_to_datetime(value).timestamp() - now())
    return None


def _first_lines(text: str, limit: int = 400) -> str:
    text = _TRACEBACK.sub("", text)
    text = re.sub(r"litellm\.\w+: | Handle with `litellm\.\w+`\.", "", " ".join(text.split()))
    return text if len(text) <= limit else text[: limit - 1] + "…"
