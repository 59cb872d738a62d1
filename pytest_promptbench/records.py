"""The nouns of the project, as frozen records with a JSON round trip.

Everything that crosses a process, a file or the network is one of these. They hold plain values only, so that
``to_json`` and ``from_json`` lose nothing, and they import nothing but the standard library.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any, Literal, Self, Union, get_args, get_origin, get_type_hints

Score = float | bool | None
"""One criterion's score: a number for a scale, true or false for a flag, None for "not scored"."""


def canonical_json(value: object) -> str:
    """The one JSON text of a value: sorted keys, no spaces, non-ASCII kept. Two equal values give equal texts."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256(value: object) -> str:
    """Hex SHA-256 of a string's UTF-8 bytes, or of any other value's canonical JSON.

    Lone surrogates, which a broken provider may send, are hashed as they are instead of raising.
    """
    text = value if isinstance(value, str) else canonical_json(value)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def is_number(value: object) -> bool:
    """Whether it is a finite JSON number; true and false are none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


class DuplicateKeyError(ValueError):
    """An object of a JSON text has the key ``key`` twice, so that one of its values would be lost in silence."""

    def __init__(self, key: str) -> None:
        super().__init__(f"the key {key!r} stands twice; remove one")
        self.key = key


def unique_keys(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """``object_pairs_hook`` of ``json.loads`` that raises DuplicateKeyError."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise DuplicateKeyError(key)
        found[key] = value
    return found


@cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def _build(hint: Any, value: Any) -> Any:
    """``value``, as it came from JSON, in the shape that the annotation ``hint`` names."""
    if value is None:
        return None
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        for arg in args:
            if isinstance(arg, type) and issubclass(arg, Record):
                return arg.from_json(value)
            if get_origin(arg) in (tuple, Mapping, dict):
                return _build(arg, value)
        return value
    if isinstance(hint, type) and issubclass(hint, Record):
        return hint.from_json(value)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return hint(value)
    if origin is tuple:
        return tuple(_build(args[0], v) for v in value)
    if origin in (Mapping, dict):
        return {k: _build(args[1], v) for k, v in value.items()}
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, Record):
        return value.to_json()
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    return value


class Record:
    """Base of the frozen records: ``to_json`` gives plain values, ``from_json`` takes them back."""

    def to_json(self) -> dict[str, Any]:
        return {f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self)}  # type: ignore[arg-type]

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        hints = _hints(cls)  # type: ignore[arg-type] # a class is hashable, whatever mypy thinks of Self
        return cls(**{k: _build(hints[k], v) for k, v in data.items() if k in hints})


# -- what a user writes ------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Message(Record):
    """One turn of a chat: ``role`` as the provider knows it, ``content`` as text."""

    role: str
    content: str


@dataclass(frozen=True, kw_only=True)
class Model(Record):
    """A named LiteLLM model with its parameters.

    ``optional`` models are left out, with a notice, while their key or server is missing; ``timeout`` is in
    seconds for one request. The key itself is never held: only the name of the environment variable.
    """

    name: str
    model: str
    params: Mapping[str, Any] = field(default_factory=dict)
    api_base: str | None = None
    api_key_env: str | None = None
    timeout: float | None = None
    optional: bool = False

    @property
    def embedded(self) -> bool:
        """Whether the model runs in the server that the session itself starts (``embedded/<name>``)."""
        return self.model.startswith("embedded/")


@dataclass(frozen=True, kw_only=True)
class Prompt(Record):
    """One version of a chat template for a task. ``sha256`` covers messages and params."""

    task: str
    version: str
    messages: tuple[Message, ...]
    params: Mapping[str, Any] = field(default_factory=dict)
    sha256: str = ""

    @property
    def name(self) -> str:
        return self.version


@dataclass(frozen=True, kw_only=True)
class Scenario(Record):
    """One input of a suite."""

    id: str
    vars: Mapping[str, Any] = field(default_factory=dict)
    tags: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.id


@dataclass(frozen=True, kw_only=True)
class Criterion(Record):
    """One line of a rubric: a scale with ``min``, ``max`` and ``weight``, or a flag with ``bad`` and ``penalty``.

    ``check`` (of a flag) is filled by a program instead of a judge, e.g. ``{"max_words": 60}``.
    """

    name: str
    type: Literal["scale", "flag"]
    min: float | None = None
    max: float | None = None
    weight: float | None = None
    bad: bool | None = None
    penalty: float | None = None
    check: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        return {k: v for k, v in super().to_json().items() if v is not None}


@dataclass(frozen=True, kw_only=True)
class Rubric(Record):
    """What a judge scores against. ``text`` is the whole file, front matter and anchors; ``sha256`` is its hash."""

    id: str
    text: str
    criteria: tuple[Criterion, ...]
    sha256: str

    @property
    def body(self) -> str:
        """The Markdown anchors without the front matter."""
        parts = self.text.split("\n---", 1)
        return parts[1].lstrip("-").lstrip("\n") if self.text.startswith("---") and len(parts) == 2 else self.text

    @property
    def scales(self) -> tuple[Criterion, ...]:
        return tuple(c for c in self.criteria if c.type == "scale")

    @property
    def flags(self) -> tuple[Criterion, ...]:
        return tuple(c for c in self.criteria if c.type == "flag")

    @property
    def judged(self) -> tuple[Criterion, ...]:
        """The criteria that a judge fills: all but the flags with a check."""
        return tuple(c for c in self.criteria if c.check is None)

    @cached_property
    def points(self) -> tuple[tuple[str, float, float], ...]:
        """What each criterion gives: its name, the points of a score of 0, and those of every point above that."""
        found = []
        for c in self.criteria:
            weight, penalty = c.weight or 0.0, c.penalty or 0.0
            if c.type == "scale":
                found.append((c.name, 0.0, weight))
            else:
                found.append((c.name, 0.0, -penalty) if c.bad else (c.name, -penalty, penalty))
        return tuple(found)

    @property
    def point(self) -> float:
        """What one point of a scale gives at the least, in points of the composite: no judge tells less apart."""
        return min((c.weight for c in self.scales if c.weight), default=1.0)

    @property
    def top(self) -> float:
        """The best composite that a candidate can reach, in points."""
        return sum((c.weight or 0.0) * (c.max or 0.0) for c in self.scales)

    @property
    def bottom(self) -> float:
        """The worst composite: every scale at its minimum and every flag at its bad value, in points."""
        low = sum((c.weight or 0.0) * (c.min or 0.0) for c in self.scales)
        return low - sum(c.penalty or 0.0 for c in self.flags)


@dataclass(frozen=True, kw_only=True)
class Suite(Record):
    """One judge task: its models x prompts x scenarios and the rubric they are scored against.

    ``skipped`` names optional models that were left out, each with the reason; ``unready`` those that are there and
    lack a key, with what to say should they be asked; the judge stands in both as ``judge:<name>``.
    """

    name: str
    path: str
    task: str
    rubric: Rubric
    prompts: tuple[Prompt, ...]
    models: tuple[Model, ...]
    scenarios: tuple[Scenario, ...]
    samples: int = 1
    judge: Model | None = None
    skipped: Mapping[str, str] = field(default_factory=dict)
    unready: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def by_id(self) -> Mapping[str, Scenario]:
        """The scenarios by id: every test of a suite looks its own up."""
        return {s.id: s for s in self.scenarios}

    @property
    def group(self) -> Group:
        """What of an experiment is this suite's: see :data:`Group`."""
        return self.task, self.rubric.sha256


# -- what a session makes ----------------------------------------------------------------------------------------


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
                "params": _plain(self.params),
                "messages": _plain(self.messages),
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
                "params": _plain(self.params),
                "messages": _plain(self.messages),
                "samples": self.samples,
            }
        )

    @property
    def content(self) -> str:
        """What verdicts on its outputs are about, as :attr:`LoggedCandidate.content` has it."""
        return _content(self.id, self.context_sha256)

    @cached_property
    def requests(self) -> tuple[Request, ...]:
        return tuple(
            Request(model=self.model, messages=self.messages, params=self.params, sample=i) for i in range(self.samples)
        )

    @property
    def names(self) -> tuple[str, str, str]:
        return self.model.name, self.prompt.version, self.scenario.id


def _content(cell: str, context_sha256: str) -> str:
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

    ``refused``: the provider refused the request for what is in it. ``empty``: it answered with no text.
    """

    cell: Cell
    answers: tuple[Answer, ...] = ()
    error: str | None = None
    refused: bool = False
    empty: bool = False

    @property
    def failed(self) -> bool:
        return self.error is not None

    @property
    def outputs(self) -> tuple[str, ...]:
        return tuple(a.text for a in self.answers)

    @property
    def usage(self) -> Usage:
        """Tokens over all samples; a figure is None where any sample's is unknown."""
        return Usage(
            prompt_tokens=_total([a.usage.prompt_tokens for a in self.answers]),
            completion_tokens=_total([a.usage.completion_tokens for a in self.answers]),
        )

    @property
    def cost_usd(self) -> float | None:
        """US dollars over all samples; None where any sample's price is unknown."""
        return typing.cast("float | None", _total([a.cost_usd for a in self.answers]))

    @property
    def latency_s(self) -> float | None:
        """Mean seconds of a sample's request; None for a failed candidate."""
        return sum(a.latency_s for a in self.answers) / len(self.answers) if self.answers else None


# -- what a judge makes ------------------------------------------------------------------------------------------


class Tier(enum.StrEnum):
    """Who judged, highest first: a person, an agent at the desk (Claude Code), an automatic judge."""

    HUMAN = "human"
    CLAUDE_CODE = "claude-code"
    AUTO = "auto"

    @property
    def rank(self) -> int:
        return {"human": 0, "claude-code": 1, "auto": 2}[self.value]


@dataclass(frozen=True, kw_only=True)
class Judge(Record):
    """Who judged: the tier, and a name within it (a person, an agent, an automatic judge's model name)."""

    tier: Tier
    name: str


@dataclass(frozen=True, kw_only=True)
class Fingerprint(Record):
    """What decides an automatic judge's scores: with another fingerprint, the same model is another judge."""

    model: str
    params: Mapping[str, Any]
    rubric_sha256: str
    prompt_sha256: str

    @cached_property
    def sha256(self) -> str:
        return sha256(self.to_json())


@dataclass(frozen=True, kw_only=True)
class Verdict(Record):
    """One judge's scores of one candidate under one rubric.

    ``scores`` holds every criterion of the rubric: None is "not scored", never 0 and never NaN. Where a candidate
    has several outputs, a score is the mean over them (a flag becomes the share of outputs where it is true).
    ``at`` is ISO 8601 in UTC. ``fingerprint`` is an automatic judge's; people and agents have none.
    """

    scores: Mapping[str, Score]
    judge: Judge
    rationale: str | None = None
    at: str = ""
    fingerprint: Fingerprint | None = None


def mean_scores(parts: Sequence[Mapping[str, Score]]) -> dict[str, Score]:
    """One candidate's scores from those of its outputs: means; a single output's scores as they are.

    What any output lacks is None, so that a mean never rests on a part of them in silence.
    """
    if len(parts) == 1:
        return dict(parts[0])
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: _mean_score([part.get(name) for part in parts]) for name in names}


def _mean_score(values: Sequence[Score]) -> Score:
    known = [float(v) for v in values if v is not None]
    return math.fsum(known) / len(known) if len(known) == len(values) else None


def composite(scores: Mapping[str, Score], rubric: Rubric) -> float | None:
    """Weighted sum of the scale scores less the penalties of bad flags, in points; None while anything is unscored.

    A flag that is a share (of several outputs) costs its penalty in proportion to the share at the bad value.
    """
    total = 0.0
    for name, of_nothing, of_one in rubric.points:
        score = scores.get(name)
        if score is None:
            return None
        total += of_nothing + of_one * score
    return total


Group = tuple[str, str]
"""A task and the hash of a rubric's text: what one leaderboard, one packet and one review queue are about.

Whatever asks which candidates belong to a suite compares the ``group`` of both, and nothing else.
"""


@dataclass(frozen=True, kw_only=True)
class Draw(Record):
    """That an audit drew a candidate, with which probability: at random, or picked (``random`` false, 1).

    round: audits that had been taken in before, plus one. seed: of the random part. until: when the newest of all that
    it could have drawn was started, in milliseconds since the epoch; None where it is not known.
    """

    probability: float
    random: bool
    round: int
    seed: int
    until: int | None = None


@dataclass(frozen=True, kw_only=True)
class LoggedCandidate(Record):
    """A candidate as MLflow holds it: what leaderboards, packets, agreement and gates are made from.

    ``verdicts`` are all that are known, the latest of every judge; ``second_verdicts`` are what a judge said when it
    saw the same candidate once more without knowing; ``failed_verdicts`` maps an automatic judge's name to what was
    wrong with its replies. ``draws`` maps the audits that drew it, taken in or not, to how; ``audited`` is the audit
    whose packet brought its first sit-down verdict, and ``sampling_probability`` that with which audits labelled it.
    ``outputs`` and ``context`` are None where the reader did not ask for texts. ``checks`` are the flags that a program
    filled.
    ``started_at`` is milliseconds since the epoch. ``context_sha256`` is the cell's.
    """

    run_id: str
    experiment: str
    task: str
    model: str
    prompt: str
    scenario: str
    cell: str
    candidate: str
    rubric: str
    rubric_sha256: str
    pending: bool
    error: str | None = None
    verdicts: tuple[Verdict, ...] = ()
    second_verdicts: tuple[Verdict, ...] = ()
    failed_verdicts: Mapping[str, str] = field(default_factory=dict)
    checks: Mapping[str, bool | float] = field(default_factory=dict)
    started_at: int = 0
    latency_s: float | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cost_usd: float | None = None
    prompt_sha256: str = ""
    trace_id: str | None = None
    session: str = ""
    carried_from: str | None = None
    sampling_probability: float | None = None
    draws: Mapping[str, Draw] = field(default_factory=dict)
    audited: str | None = None
    outputs: tuple[str, ...] | None = None
    context: Mapping[str, Any] | None = None
    context_sha256: str = ""

    def latest(self, tier: Tier) -> Verdict | None:
        """The latest verdict of a tier, or None."""
        found: Verdict | None = None
        for v in self.verdicts:
            if v.judge.tier is tier and (found is None or v.at > found.at):
                found = v
        return found

    @property
    def names(self) -> tuple[str, str, str]:
        """Of its cell: model, prompt, scenario."""
        return self.model, self.prompt, self.scenario

    @property
    def content(self) -> str:
        """Of its cell: what was asked, and what judges see beside it. A verdict holds for equal contents alone."""
        return _content(self.cell, self.context_sha256)

    @property
    def group(self) -> Group:
        """Where the candidate belongs, whichever suite file it came from."""
        return self.task, self.rubric_sha256

    def sit_down(self) -> Verdict | None:
        """The latest verdict of the highest sit-down tier (a person before Claude Code), or None."""
        return self.latest(Tier.HUMAN) or self.latest(Tier.CLAUDE_CODE)

    def automatic(self) -> Verdict | None:
        """The latest verdict of an automatic judge, or None."""
        return self.latest(Tier.AUTO)

    def again(self, first: Verdict) -> Verdict | None:
        """What the judge of ``first`` said when it saw the candidate once more, or None.

        With another fingerprint an automatic judge is another one, and what it said is no second verdict of this one's.
        """
        return next(
            (v for v in self.second_verdicts if (v.judge, v.fingerprint) == (first.judge, first.fingerprint)), None
        )

    def verdict(self) -> Verdict | None:
        """The verdict that counts: the latest of the highest tier that judged at all."""
        return self.sit_down() or self.automatic()


# -- what is reported --------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Row(Record):
    """One (model, prompt) of a leaderboard. Figures nobody has are None, never 0.

    ``composite`` and ``criteria`` are means over scenarios (repeats of a scenario are averaged first) of the
    verdict that counts; ``tier`` says whose they are. ``ci95`` is a 95 % interval of ``composite``. ``cost_usd`` is the
    total over the row's candidates whose price is known, ``latency_s`` their mean. ``scenario_scores`` maps a scenario
    to its composite, ``by_tier`` a tier to its own such map. ``calibrated`` estimates the sit-down tier's composite
    from its few labels and the automatic tier's many, as ``statistics.Calibrated`` has it; None where there is nothing
    to gain, or nothing to go by. ``estimated``: ``composite`` and ``ci95`` are that estimate, not the labels' mean.
    """

    rank: int | None
    model: str
    prompt: str
    composite: float | None
    ci95: tuple[float, ...] | None
    tier: str | None
    candidates: int
    judged: int
    pending: int
    failed: int
    criteria: Mapping[str, float | None] = field(default_factory=dict)
    auto_composite: float | None = None
    cost_usd: float | None = None
    latency_s: float | None = None
    scenario_scores: Mapping[str, float] = field(default_factory=dict)
    by_tier: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    calibrated: Mapping[str, Any] | None = None
    estimated: bool = False


@dataclass(frozen=True, kw_only=True)
class Leaderboard(Record):
    """Composite by (model, prompt), best first, of one task in one experiment under one rubric."""

    experiment: str
    task: str
    rubric: Rubric
    rows: tuple[Row, ...]
    superseded: int = 0
    """Candidates left out because their cell has been generated anew from changed files since."""
    automatic_judges: tuple[str, ...] = ()
    """Whose automatic verdicts count: several where another judge has scored only some of the candidates so far."""
    comparisons: tuple[Mapping[str, Any], ...] = ()
    """Each further row less the first, as ``statistics.PairedComparison`` has it, with ``model`` and ``prompt`` of the
    row, ``p_holm``, its p-value after Holm's correction over all pairs of rows, and ``tier``, on which both were
    compared: ``calibrated`` where one of the two is an estimate (``n`` is then the smaller number of labels), None
    where the two have no scenario in common that one tier has scored."""
