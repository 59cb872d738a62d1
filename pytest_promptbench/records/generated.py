"""What a session makes of it: cells, the requests that they take, the answers, and candidates."""

from __future__ import annotations

import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from .record import Record, plain, sha256
from .written import Message, Model, Prompt, Scenario

MARK = 16
"""The length of a cell's mark."""
REPLY_LIMITS = ("max_tokens", "max_completion_tokens")


def reply_limit(params: Mapping[str, Any]) -> int | None:
    """The most tokens that a request's parameters allow a reply, by whichever of its names; None: as the model.

    Some servers take -1 for that, too.
    """
    for name in REPLY_LIMITS:
        most = params.get(name)
        if isinstance(most, int | float) and most > 0:
            return int(most)
    return None


@dataclass(frozen=True, kw_only=True)
class Request(Record):
    """One question to a provider, in full: what is asked decides the answer's place in the cache."""

    model: Model
    messages: tuple[Message, ...]
    params: Mapping[str, Any]
    sample: int = 0

    @cached_property
    def key(self) -> str:
        """Content hash of exactly this request: model, where it is served, parameters, messages, sample number."""
        return sha256(
            {
                "model": self.model.model,
                "api_base": self.model.api_base,
                "params": plain(self.params),
                "messages": plain(self.messages),
                "sample": self.sample,
            }
        )


@dataclass(frozen=True, kw_only=True)
class Cell(Record):
    """model x prompt x scenario, with the prompt's messages already filled in. ``params``: model's, then prompt's.

    ``context_sha256``: hash of the scenario's vars that the prompt does not use, as a reference that only judges see;
    empty where it uses all.
    """

    task: str
    model: Model
    prompt: Prompt
    scenario: Scenario
    messages: tuple[Message, ...]
    params: Mapping[str, Any]
    samples: int = 1
    context_sha256: str = ""

    @cached_property
    def id(self) -> str:
        """Stable content hash of model, params, rendered messages and sample count (``promptbench.cell``)."""
        return sha256(
            {
                "model": self.model.model,
                "api_base": self.model.api_base,
                "params": plain(self.params),
                "messages": plain(self.messages),
                "samples": self.samples,
            }
        )

    @property
    def content(self) -> str:
        """What verdicts on its outputs are about, as :attr:`LoggedCandidate.content` has it."""
        return content_of(self.id, self.context_sha256)

    @cached_property
    def requests(self) -> tuple[Request, ...]:
        return tuple(
            Request(model=self.model, messages=self.messages, params=self.params, sample=i) for i in range(self.samples)
        )

    @property
    def names(self) -> tuple[str, str, str]:
        return self.model.name, self.prompt.version, self.scenario.id

    @property
    def identity(self) -> tuple[str, ...]:
        """Task, names and content: what tells the cells of a session apart."""
        return (self.task, *self.names, self.content)

    @cached_property
    def mark(self) -> str:
        """The first digits of the hash of its identity: what processes tell each other of it."""
        return sha256(list(self.identity))[:MARK]


def content_of(cell: str, context_sha256: str) -> str:
    return f"{cell}+{context_sha256}" if context_sha256 else cell


@dataclass(frozen=True, kw_only=True)
class Usage(Record):
    """Tokens of one request or of several; None where the provider did not say."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None

    @property
    def total_tokens(self) -> int | None:
        known = [n for n in (self.prompt_tokens, self.completion_tokens) if n is not None]
        return sum(known) if known else None


@dataclass(frozen=True, kw_only=True)
class Answer(Record):
    """What a provider sent back for one request. ``cost_usd`` is None where the price is unknown, never 0 for that.

    ``started_at`` is seconds since the epoch, ``latency_s`` is of the attempt that succeeded.
    """

    text: str
    usage: Usage = field(default_factory=Usage)
    cost_usd: float | None = None
    latency_s: float = 0.0
    started_at: float = 0.0
    finish_reason: str | None = None
    attempts: int = 1
    cached: bool = False


def _total(values: Sequence[float | int | None]) -> Any:
    return None if not values or any(v is None for v in values) else sum(v for v in values if v is not None)


@dataclass(frozen=True, kw_only=True)
class Candidate(Record):
    """What a cell generated: one answer per sample, or the error that stopped it.

    ``refused``: the provider refused the request for what is in it. ``empty``: it answered with no text. ``unasked``:
    no answer is known of, for nobody was asked about all of it; such a candidate is logged nowhere. ``spent``: what was
    paid for all the same, of a failed one: answers without a text, those of its other samples, and those that a scorer
    failed on.
    """

    cell: Cell
    answers: tuple[Answer, ...] = ()
    error: str | None = None
    refused: bool = False
    empty: bool = False
    spent: tuple[Answer, ...] = ()
    unasked: bool = False

    @property
    def failed(self) -> bool:
        return self.error is not None

    def unscored(self, error: str) -> Candidate:
        """The same where a scorer of the rubric fails on it: a failed one, with what it cost."""
        return replace(self, answers=(), error=error, spent=self.answers)

    @property
    def outputs(self) -> tuple[str, ...]:
        return tuple(a.text for a in self.answers)

    @property
    def _paid(self) -> tuple[Answer, ...]:
        return self.spent if self.failed else self.answers

    @property
    def usage(self) -> Usage:
        """Tokens over all samples; a figure is None where any sample's is unknown."""
        return Usage(
            prompt_tokens=_total([a.usage.prompt_tokens for a in self._paid]),
            completion_tokens=_total([a.usage.completion_tokens for a in self._paid]),
        )

    @property
    def cost_usd(self) -> float | None:
        """US dollars over all samples; None where any sample's price is unknown."""
        return typing.cast("float | None", _total([a.cost_usd for a in self._paid]))

    @property
    def latency_s(self) -> float | None:
        """Mean seconds of a sample's request; None for a failed candidate."""
        return sum(a.latency_s for a in self.answers) / len(self.answers) if self.answers else None
