"""How far judges agree: every pair of judges, every pair of tiers, and each judge with itself."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any, Literal

from .audit import checking_probabilities
from .quiet import without_collections
from .records import Criterion, Judge, LoggedCandidate, Record, Rubric, Tier, Verdict
from .scores import verdict_composite

if TYPE_CHECKING:
    from .statistics import AgreementReport, RatedPair

AGREEMENT_SCHEMA = "promptbench/agreement/1"
COMPOSITE = "composite"

Kind = Literal["tiers", "judges", "self"]


@dataclass(frozen=True, kw_only=True)
class JudgePair(Record):
    """Two sides on the candidates that both scored; ``bias`` in the report is ``a`` less ``b``.

    kind: ``tiers`` compares what counts of two tiers, ``judges`` two judges by name, ``self`` a judge's first and
    second verdict of candidates that it saw twice without knowing.
    """

    kind: Kind
    report: AgreementReport


@dataclass(frozen=True, kw_only=True)
class Agreement(Record):
    """All pairs of one task in one experiment under one rubric; none where no candidate was judged twice."""

    experiment: str
    task: str
    rubric: str
    rubric_sha256: str
    pairs: tuple[JudgePair, ...] = ()


@without_collections()
def agreement_report(
    candidates: Iterable[LoggedCandidate], rubric: Rubric, *, experiment: str, task: str, seed: int = 0
) -> Agreement:
    """Agreement on the criteria that judges fill (a program's flags are everybody's) and on the composite.

    Intervals are clustered by scenario. Candidates of other tasks and rubrics, and failed ones, are passed over. What
    audits labelled stands for as many candidates as their draws say, as in the leaderboard's calibration: half of an
    audit is there because the judges disagree on it. Once both have scored all that there is, each counts once.
    """
    mine = [c for c in candidates if c.group == (task, rubric.sha256) and c.error is None]
    judged = (*rubric.judged, Criterion(name=COMPOSITE, type="scale", min=rubric.bottom, max=rubric.top))
    pairs: list[JudgePair] = []
    if not any(len(c.verdicts) + len(c.second_verdicts) > 1 for c in mine):
        return Agreement(experiment=experiment, task=task, rubric=rubric.id, rubric_sha256=rubric.sha256)
    from .statistics import measure_agreement

    for kind, a, b, rated in _sides(mine, rubric):
        report = measure_agreement(rated, judged, a=a, b=b, steps={COMPOSITE: rubric.step}, seed=seed)
        if report.candidates:
            pairs.append(JudgePair(kind=kind, report=report))
    return Agreement(
        experiment=experiment, task=task, rubric=rubric.id, rubric_sha256=rubric.sha256, pairs=tuple(pairs)
    )


def agreement_json(agreement: Agreement) -> dict[str, Any]:
    """``agreement.json`` as plain values."""
    head = {k: v for k, v in agreement.to_json().items() if k != "pairs"}
    pairs = [{"kind": p.kind, **p.report.to_json()} for p in agreement.pairs]
    return {"schema": AGREEMENT_SCHEMA, **head, "pairs": pairs}


def judge_name(judge: Judge) -> str:
    """How a report calls a judge: the tier alone where the name says no more."""
    return judge.tier.value if judge.name == judge.tier.value else f"{judge.tier.value}: {judge.name}"


def _sides(candidates: Sequence[LoggedCandidate], rubric: Rubric) -> Iterator[tuple[Kind, str, str, list[RatedPair]]]:
    """(kind, a, b, what both rated), people first. Tiers are left out where each has one judge: that is the pair."""
    judges: dict[Tier, dict[str, Judge]] = defaultdict(dict)
    for c in candidates:
        for v in c.verdicts:
            judges[v.judge.tier][v.judge.name] = v.judge
    sampled = {c.run_id: p for c in candidates if (p := c.sampling_probability) is not None}
    chances = dict.fromkeys(Tier, sampled) | {Tier.HUMAN: sampled | checking_probabilities(candidates)}
    everyone = [judges[t][name] for t in Tier if t in judges for name in sorted(judges[t])]
    for one, other in combinations([t for t in Tier if t in judges], 2):
        if len(judges[one]) + len(judges[other]) > 2:
            rated = _common(candidates, rubric, _of_tier(one), _of_tier(other), chances[one])
            yield "tiers", one.value, other.value, rated
    for first, second in combinations(everyone, 2):
        rated = _common(candidates, rubric, _of_judge(first), _of_judge(second), chances[first.tier])
        if first.tier is second.tier is Tier.AUTO:
            rated = _each_once(rated)
        yield "judges", judge_name(first), judge_name(second), rated
    twice = {v.judge for c in candidates for v in c.second_verdicts}
    for judge in (j for j in everyone if j in twice):
        rated = _common(candidates, rubric, _of_judge(judge), _again(judge), chances[judge.tier])
        if judge.tier is Tier.AUTO:
            rated = _each_once(rated)
        yield "self", judge_name(judge), f"{judge_name(judge)} again", rated


Pick = Callable[[LoggedCandidate], Verdict | None]
"""The verdict of one side on a candidate; None where it has none."""


def _of_tier(tier: Tier) -> Pick:
    return lambda c: c.latest(tier)


def _of_judge(judge: Judge) -> Pick:
    return lambda c: _by(judge, c.verdicts)


def _again(judge: Judge) -> Pick:
    return lambda c: None if (first := _by(judge, c.verdicts)) is None else c.again(first)


def _by(judge: Judge, verdicts: Iterable[Verdict]) -> Verdict | None:
    for v in verdicts:
        if v.judge.name == judge.name and v.judge.tier is judge.tier:
            return v
    return None


def _common(
    candidates: Sequence[LoggedCandidate], rubric: Rubric, a: Pick, b: Pick, chances: Mapping[str, float]
) -> list[RatedPair]:
    """What both rated. Weighed by how audits drew it, unless it is all that an audit could draw.

    ``chances``: run id -> the probability with which an audit labelled it for ``a``, the higher tier.
    """
    from .statistics import RatedPair

    found = []
    left_out = False
    for c in candidates:
        first, second = a(c), b(c)
        if first is not None and second is not None:
            weight = 1.0 / chances.get(c.run_id, 1.0)
            given = _scores(first, c, rubric), _scores(second, c, rubric)
            found.append(RatedPair(scenario=c.scenario, a=given[0], b=given[1], weight=weight))
        else:
            left_out = left_out or c.automatic() is not None
    return found if left_out else _each_once(found)


def _each_once(rated: Iterable[RatedPair]) -> list[RatedPair]:
    """Unweighed: what automatic judges score, a second time too, they score whatever an audit then draws."""
    return [replace(pair, weight=1.0) for pair in rated]


def _scores(verdict: Verdict, candidate: LoggedCandidate, rubric: Rubric) -> dict[str, float | bool | None]:
    return {**verdict.scores, **candidate.checks, COMPOSITE: verdict_composite(verdict, candidate, rubric)}
