"""What a judge makes: scores, verdicts, and candidates with those that they have."""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from .generated import content_of
from .record import Record, sha256
from .written import Group, Rubric

Score = float | bool | None
"""One criterion's score: a number for a scale, true or false for a flag, None for "not scored"."""


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
    whose packet brought its first sit-down verdict, and ``sampling_probability`` that with which audits labelled it;
    ``checked`` is the one that brought a person's first where Claude Code had judged.
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
    checked: str | None = None
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
        return content_of(self.cell, self.context_sha256)

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
