"""What a user writes: models, prompts, scenarios, rubrics and the suites that bring them together."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, get_args

from .record import Record, is_number

Role = Literal["system", "developer", "user", "assistant"]
CONVERSATION = "placeholder"
"""The role of a prompt's message that the messages of a scenario's var take the place of."""

Group = tuple[str, str]
"""A task and the hash of a rubric's text: what one leaderboard, one packet and one review queue are about.

Whatever asks which candidates belong to a suite compares the ``group`` of both, and nothing else.
"""


@dataclass(frozen=True, kw_only=True)
class Message(Record):
    """One turn of a chat: ``role`` as the provider knows it, ``content`` as text."""

    role: str
    content: str


def conversation(value: object) -> tuple[Message, ...] | None:
    """The messages of a var that is a list of them, which may be empty; None for any other value."""
    if not isinstance(value, list | tuple) or not all(map(is_message, value)):
        return None
    return tuple(Message(role=m["role"], content=m["content"]) for m in value)


def is_message(value: object) -> bool:
    """Whether a value has the role and the text of a message, and nothing else."""
    if not isinstance(value, Mapping) or set(value) != {"role", "content"}:
        return False
    return value["role"] in get_args(Role) and isinstance(value["content"], str)


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

    One with a ``check`` is filled by a program instead of a judge: a flag, e.g. by ``{"max_words": 60}``, and either by
    a function of the user's, e.g. by ``{"python": "scorers.py:valid_sql"}``.
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

    @property
    def stepped(self) -> bool:
        """Whether it is a scale of few whole points, 3 to 21: a judge picks one of them. 0 to 1 is meant in between."""
        low, high = self.min, self.max
        return low is not None and high is not None and low.is_integer() and high.is_integer() and 2 <= high - low <= 20

    @property
    def scorer(self) -> str | None:
        """The function that fills it, as its check names it; None where there is none."""
        return None if self.check is None else self.check.get("python")

    def takes(self, value: object) -> bool:
        """Whether a score may be that."""
        if self.type == "flag":
            return isinstance(value, bool)
        assert self.min is not None
        assert self.max is not None
        return is_number(value) and self.min <= value <= self.max  # type: ignore[operator]  # a number by then

    @property
    def allowed(self) -> str:
        """What a score may be, in words: ``1 to 5``, or ``true or false``."""
        return "true or false" if self.type == "flag" else f"{self.min:g} to {self.max:g}"


@dataclass(frozen=True, kw_only=True)
class Source(Record):
    """A file of scorers."""

    path: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Rubric(Record):
    """What a judge scores against. ``text`` is the whole file, front matter and anchors; ``sha256`` is its hash.

    Where scorers fill criteria, the text has the hashes of their files in the front matter, so that another function is
    another rubric. ``sources`` are these files, by the names that the criteria have for them. They are no part of the
    JSON: only the process that read a rubric's file runs its scorers.
    """

    id: str
    text: str
    criteria: tuple[Criterion, ...]
    sha256: str
    sources: Mapping[str, Source] = field(default_factory=dict, compare=False, repr=False)

    def to_json(self) -> dict[str, Any]:
        return {k: v for k, v in super().to_json().items() if k != "sources"}

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
        """The criteria that a judge fills: all without a check. None: programs score all there is."""
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
        """What one point of a scale gives at the least, in points of the composite: no judge tells less apart.

        Of flags alone, the smallest penalty.
        """
        weights = [c.weight for c in self.scales if c.weight] or [c.penalty for c in self.flags if c.penalty]
        return min(weights, default=1.0)

    @property
    def step(self) -> float:
        """Composites of whole scores are whole steps above the worst; 1 at the most."""
        given = [v for c in self.criteria for v in (c.weight, c.penalty) if v]
        return math.gcd(10**6, *(round(1e6 * v) for v in given)) / 1e6  # a rubric's numbers are 0.000001 at the least

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
    lack a key, with what to say should they be asked. ``judge_skipped`` and ``judge_unready`` are of the judge alone.
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
    judge_skipped: Mapping[str, str] = field(default_factory=dict)
    judge_unready: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def by_id(self) -> Mapping[str, Scenario]:
        """The scenarios by id: every test of a suite looks its own up."""
        return {s.id: s for s in self.scenarios}

    @property
    def group(self) -> Group:
        """What of an experiment is this suite's: see :data:`Group`."""
        return self.task, self.rubric.sha256
