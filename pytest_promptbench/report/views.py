"""What pages show of rows, candidates and verdicts, the leaderboard's own page and those of the service alike.

Every text in here has been through ``visible``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from ..records import Criterion, Leaderboard, LoggedCandidate, Row, Rubric, Score, Verdict
from ..scores import verdict_composite
from . import pictures
from .text import (
    beginning,
    composite_text,
    cut_note,
    dollars,
    duration,
    interval,
    number,
    percent,
    ranks,
    unscored,
    var_text,
    visible,
)

LONGEST: Final = 20_000
"""Characters of one text that a page shows; what follows is cut, with a note."""


# -- rows


@dataclass(frozen=True, kw_only=True)
class RowView:
    """A leaderboard's row. best: it has the first rank, and not all of them have."""

    row: Row
    rank: str
    best: bool
    model: str
    prompt: str
    tier: str
    composite: str
    interval: str
    unscored: str
    auto: str
    cost: str
    latency: str
    x: str | None
    whisker: pictures.Whisker | None

    @property
    def label(self) -> str:
        """All of its picture in words."""
        return f"{self.model}, {self.prompt}: {self.composite} {self.interval}".strip()

    @classmethod
    def of(cls, row: Row, rank: str, scale: pictures.Scale, *, best: bool, **more: Any) -> Self:
        """``more``: the fields of a page's own."""
        return cls(
            row=row,
            rank=rank,
            best=best,
            model=visible(row.model),
            prompt=visible(row.prompt),
            tier=visible(row.tier or "-"),
            composite=composite_text(row),
            interval=interval(row.ci95),
            unscored=unscored(row),
            auto=number(row.auto_composite),
            cost=dollars(row.cost_usd),
            latency=duration(row.latency_s),
            x=None if row.composite is None else scale.at(row.composite),
            whisker=scale.whisker(row.ci95),
            **more,
        )


def placed(lb: Leaderboard) -> Iterator[tuple[Row, str, bool]]:
    """The rows with their ranks, and whether each is ``best``."""
    tied = all(row.rank == 1 for row in lb.rows)
    for row, rank in zip(lb.rows, ranks(lb.rows), strict=True):
        yield row, rank, row.rank == 1 and not tied


def places(lb: Leaderboard) -> Mapping[tuple[str, str], int]:
    """Model and prompt -> where its row stands, in which order candidates stand side by side, too."""
    return {(row.model, row.prompt): i for i, row in enumerate(lb.rows)}


# -- candidates


@dataclass(frozen=True, kw_only=True)
class ScoreView:
    """bad: it costs points."""

    name: str
    value: str
    bad: bool


@dataclass(frozen=True, kw_only=True)
class VerdictView:
    composite: str
    tier: str
    judge: str
    at: str
    scores: list[ScoreView]
    rationale: str | None


@dataclass(frozen=True, kw_only=True)
class OutputView:
    text: str
    note: str | None


@dataclass(frozen=True, kw_only=True)
class Card:
    """One candidate beside its rivals.

    ``outputs``: None where they were not read. ``verdicts``: that which counts first. ``checks``: what programs filled,
    while there is no verdict, which has it, too. ``failed``: automatic judges with what was wrong with their replies.
    """

    model: str
    prompt: str
    state: str
    outputs: list[OutputView] | None
    error: str | None
    verdicts: list[VerdictView]
    checks: list[ScoreView]
    failed: list[tuple[str, str]]
    facts: list[str]


def card(c: LoggedCandidate, rubric: Rubric, *, state: str, about: Sequence[str] = ()) -> Card:
    """``state``: as :func:`state_of` has it, or the page's own word. ``about``: facts of the page's own."""
    verdicts = sorted(sorted(c.verdicts, key=lambda v: v.at, reverse=True), key=lambda v: v.judge.tier.rank)
    filled = [criterion for criterion in rubric.criteria if criterion.name in c.checks]
    return Card(
        model=visible(c.model),
        prompt=visible(c.prompt),
        state=state,
        outputs=None if c.outputs is None else [_output(text) for text in c.outputs],
        error=None if c.error is None else beginning(c.error, LONGEST),
        verdicts=[_verdict(v, c, rubric) for v in verdicts],
        checks=[] if verdicts else _scores(c.checks, filled),
        failed=[(visible(name, limit=80), beginning(why, LONGEST)) for name, why in sorted(c.failed_verdicts.items())],
        facts=[*about, *_facts(c)],
    )


def state_of(candidate: LoggedCandidate) -> str:
    """In the words of the table, where an automatic verdict alone is none; ``scored``: by programs, for no judge."""
    if candidate.error is not None:
        return "failed"
    if candidate.sit_down() is not None:
        return "judged"
    return "pending" if candidate.pending else "scored"


def context_of(candidates: Iterable[LoggedCandidate]) -> list[tuple[str, str]]:
    """The vars of the scenario that they have in common."""
    context = next((c.context for c in candidates if c.context is not None), {})
    return [(visible(str(key)), beginning(var_text(value), LONGEST)) for key, value in context.items()]


def _facts(c: LoggedCandidate) -> list[str]:
    known = [n for n in (c.prompt_tokens, c.completion_tokens) if n is not None]
    return [
        *([] if c.cost_usd is None else [dollars(c.cost_usd)]),
        *([] if c.latency_s is None else [duration(c.latency_s)]),
        *([f"{' + '.join(f'{n:,}' for n in known)} tokens"] if known else []),
        *(["verdict carried over"] if c.carried_from else []),
    ]


def _output(text: str) -> OutputView:
    return OutputView(text=visible(text[:LONGEST], multiline=True), note=cut_note(text, LONGEST))


def _verdict(verdict: Verdict, candidate: LoggedCandidate, rubric: Rubric) -> VerdictView:
    value = verdict_composite(verdict, candidate, rubric)
    return VerdictView(
        composite="not fully scored" if value is None else number(value),
        tier=visible(verdict.judge.tier.value),
        judge=visible(verdict.judge.name, limit=80),
        at=visible(verdict.at[:16].replace("T", " ")),
        scores=_scores({**verdict.scores, **candidate.checks}, rubric.criteria),
        rationale=beginning(verdict.rationale, LONGEST) if verdict.rationale else None,
    )


def _scores(scores: Mapping[str, Score], criteria: Iterable[Criterion]) -> list[ScoreView]:
    return [_score(c, scores.get(c.name)) for c in criteria]


def _score(criterion: Criterion, score: Score) -> ScoreView:
    name = visible(criterion.name)
    if score is None:
        return ScoreView(name=name, value="-", bad=False)
    if criterion.type == "scale":
        given = number(float(score)).removesuffix(".00")
        return ScoreView(name=name, value=f"{given} of {criterion.max:g}", bad=False)
    share = float(score)
    lost = (criterion.penalty or 0.0) * (share if criterion.bad else 1 - share)
    value = {0.0: "no", 1.0: "yes"}.get(share, percent(share))
    return ScoreView(name=name, value=f"{value}, -{number(lost).removesuffix('.00')}" if lost else value, bad=lost > 0)
