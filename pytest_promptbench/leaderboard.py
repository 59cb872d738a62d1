"""Candidates with their verdicts -> a leaderboard: one row per (model, prompt), best composite first.

Which candidates count, in this order:

1. those of the task and of this very text of the rubric;
2. of several runs of one candidate (two machines that logged it at once), the one that started first;
3. of each (model, prompt, scenario), those of the content that the files have now, or, where the caller does not know
   it, that started last: an edited prompt or model supersedes what it generated before;
4. a failed candidate only while its cell has no successful one, and then as one failure, never as a score.

A row rests on verdicts of the sit-down tier as soon as it has one, else on automatic ones, never on both as if they
were one scale. Where the sit-down tier has labelled only a part of what the automatic tier has scored, the row's
composite is the sit-down mean of all of it, estimated from both (``statistics.calibrated_mean``): the plain mean of
labels that an audit picked for their disagreement would be biased. Two rows are compared on a tier that both have
(:mod:`.scores`). Repeats of a scenario are averaged first, then scenarios, so that a scenario that was run more often
weighs no more.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from .quiet import without_collections
from .records import Group, Leaderboard, LoggedCandidate, Row, Rubric, Tier, Verdict
from .scores import Scored, automatic_judges, automatic_score, layered, pair, sit_down_score, table, tier_scores

if TYPE_CHECKING:
    from .statistics import MeanEstimate

LEADERBOARD_SCHEMA = "promptbench/leaderboard/1"
STATISTICS_SCHEMA = "promptbench/statistics/1"
CALIBRATED = "calibrated"
"""The ``tier`` of a comparison of estimates."""

Interval = Callable[[Sequence[float]], tuple[float, float] | None]
"""95 % interval of a mean over scenarios, None where there is none."""
Ranks = Callable[[Sequence[Row]], list[int]]
"""Ranks of rows that are sorted best first."""


@without_collections()
def build_leaderboard(
    candidates: Iterable[LoggedCandidate],
    rubric: Rubric,
    *,
    experiment: str,
    task: str,
    cells_now: Mapping[tuple[str, str, str], str] | None = None,
    interval: Interval | None = None,
    ranks: Ranks | None = None,
) -> Leaderboard:
    """The leaderboard of a task; candidates of other tasks and rubrics are passed over.

    ``cells_now`` maps (model, prompt, scenario) to the content that the files give today, as far as it is known.
    ``interval`` and ``ranks`` default to ``statistics.mean_interval`` and :func:`tied`; what they need is imported only
    where something is judged. ``superseded`` counts what rule 3 above leaves out.
    """
    current, superseded = current_candidates(candidates, rubric, task=task, cells_now=cells_now)
    tables: dict[tuple[str, str], _Table] = defaultdict(_Table)
    for c in current:
        tables[c.model, c.prompt].add(c)
    rows = [table.row(model, prompt, rubric) for (model, prompt), table in tables.items()]
    rows.sort(key=lambda r: (r.composite is None, -(r.composite or 0.0), r.model, r.prompt))
    return Leaderboard(
        experiment=experiment,
        task=task,
        rubric=rubric,
        rows=tuple(_ranked(rows, interval, ranks or partial(tied, point=rubric.point))),
        superseded=superseded,
        automatic_judges=automatic_judges(current),
        comparisons=tuple(_comparisons([r for r in rows if r.composite is not None], point=rubric.point)),
    )


def current_candidates(
    candidates: Iterable[LoggedCandidate],
    rubric: Rubric,
    *,
    task: str,
    cells_now: Mapping[tuple[str, str, str], str] | None = None,
) -> tuple[list[LoggedCandidate], int]:
    """The candidates that count, by the rules above, and how many rule 3 leaves out."""
    return newest((c for c in candidates if c.group == (task, rubric.sha256)), cells_now=cells_now)


def newest(
    candidates: Iterable[LoggedCandidate], *, cells_now: Mapping[tuple[str, str, str], str] | None = None
) -> tuple[list[LoggedCandidate], int]:
    """Of the candidates of one task and rubric those that count, by rules 2 to 4, and how many rule 3 leaves out."""
    cells: dict[tuple[str, str, str], list[LoggedCandidate]] = defaultdict(list)
    for c in _once(candidates):
        cells[c.names].append(c)
    found: list[LoggedCandidate] = []
    superseded = 0
    now = cells_now or {}
    for place, group in cells.items():
        if len(group) == 1:  # as most are
            found += group
            continue
        wanted = now.get(place, "")
        if all(c.content != wanted for c in group):
            wanted = max(group, key=_started).content
        current = [c for c in group if c.content == wanted]
        superseded += len(group) - len(current)
        found += [c for c in current if c.error is None] or [max(current, key=_started)]
    return found, superseded


def pending_candidates(
    candidates: Iterable[LoggedCandidate],
    *,
    cells_now: Mapping[Group, Mapping[tuple[str, str, str], str]] | None = None,
) -> list[LoggedCandidate]:
    """What a packet would offer of candidates of any tasks and rubrics.

    ``cells_now``: of groups whose files are known.
    """
    known = cells_now or {}
    groups: dict[Group, list[LoggedCandidate]] = defaultdict(list)
    for c in candidates:
        groups[c.group].append(c)
    return [c for g, group in groups.items() for c in newest(group, cells_now=known.get(g))[0] if c.pending]


def _started(candidate: LoggedCandidate) -> tuple[int, str]:
    return candidate.started_at, candidate.run_id


def _once(candidates: Iterable[LoggedCandidate]) -> Iterable[LoggedCandidate]:
    """Each candidate once, as the run of it that started first."""
    first: dict[str, LoggedCandidate] = {}
    for c in candidates:
        identity = c.candidate or c.run_id
        if identity not in first or _started(c) < _started(first[identity]):
            first[identity] = c
    return first.values()


def _ranked(rows: Sequence[Row], interval: Interval | None, ranks: Ranks) -> list[Row]:
    """The rows, sorted already, with intervals and ranks."""
    judged = [r for r in rows if r.composite is not None]
    if not judged:
        return list(rows)
    if interval is None:
        from .statistics import mean_interval

        interval = mean_interval
    placed = [
        replace(r, rank=rank, ci95=r.ci95 if r.estimated else _interval(r, interval))
        for r, rank in zip(judged, ranks(judged), strict=True)
    ]
    return placed + [r for r in rows if r.composite is None]


def _interval(row: Row, interval: Interval) -> tuple[float, float] | None:
    values = list(row.scenario_scores.values())
    return interval(values) if len(values) >= 2 else None


# -- rows against each other


def tied(rows: Sequence[Row], *, point: float) -> list[int]:
    """Ranks of rows that are sorted best first, by ``statistics.tied_ranks``; ``point`` is the rubric's."""
    from .statistics import Board, tied_ranks

    layers, groups = layered([_table(r) for r in rows])
    calibrated = [r.estimated for r in rows]
    estimates = [_estimate(r, point) if any(calibrated) else None for r in rows]
    board = Board(layers=layers.values, groups=groups, estimates=estimates, calibrated=calibrated, point=point)
    return tied_ranks(board)


def _table(row: Row) -> Mapping[Tier, Mapping[str, float]]:
    return {Tier(tier): scores for tier, scores in row.by_tier.items()}


def _estimate(row: Row, point: float) -> MeanEstimate | None:
    """The row's mean with its standard error; None where it has none."""
    import numpy as np

    from .statistics import MeanEstimate
    from .statistics.ties import rounding_step

    assert row.tier is not None
    step = rounding_step(np.array([v for scores in row.by_tier.values() for v in scores.values()]), most=point)
    if row.estimated and row.calibrated is not None:
        c = row.calibrated
        if c["se"] is None:
            return None
        return MeanEstimate(c["estimate"], c["se"], c["df"], c["clusters"], row.tier, calibrated=True, step=step)
    values = list(row.scenario_scores.values())
    n = len(values)
    if n < 2:
        return None
    mean = math.fsum(values) / n
    se = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1) / n)
    return MeanEstimate(mean, se, n - 1, n, row.tier, calibrated=False, step=step)


def _comparisons(judged: Sequence[Row], *, point: float) -> Iterable[Mapping[str, Any]]:
    """Every further row less the first.

    The first is the first by looking, so the family of tests is that of all pairs of rows, as for the ranks.
    """
    if len(judged) < 2:
        return
    from .statistics import holm

    first, *others = judged
    found = [_compared(row, first, point) for row in others]
    tested = [c["p_value"] for c in found if c["p_value"] is not None]
    adjusted = iter(holm(tested, family=math.comb(len(judged), 2)))
    for row, c in zip(others, found, strict=True):
        p_holm = None if c["p_value"] is None else next(adjusted)
        yield {"model": row.model, "prompt": row.prompt, **c, "p_holm": p_holm}


def _compared(row: Row, first: Row, point: float) -> dict[str, Any]:
    """Estimates where one of the two is one and both are of one scale, else scores at common scenarios on one tier."""
    from .statistics import compare, compare_estimates

    estimated = row.estimated or first.estimated
    if estimated and row.tier == first.tier:
        a, b = _estimate(row, point), _estimate(first, point)
        if a is not None and b is not None:
            return {"tier": CALIBRATED, **compare_estimates(a, b).to_json()}
    both = pair(_table(row), _table(first), (Tier.AUTO,) if estimated else tuple(Tier))
    unpaired = [
        tuple(sorted({s for scores in side.by_tier.values() for s in scores} - both.a.keys())) for side in (row, first)
    ]
    found = replace(compare(both.a, both.b), unpaired_a=unpaired[0], unpaired_b=unpaired[1])
    return {"tier": both.tier, **found.to_json()}


# -- one row


class _Means:
    """Means over scenarios, repeats of a scenario averaged first. What is not a finite number is not known."""

    def __init__(self) -> None:
        self._values: dict[str, list[float]] = defaultdict(list)

    def add(self, scenario: str, value: float | bool | None) -> None:
        if value is not None and math.isfinite(value):
            self._values[scenario].append(float(value))

    def by_scenario(self) -> dict[str, float]:
        return {s: math.fsum(v) / len(v) for s, v in sorted(self._values.items())}

    def mean(self) -> float | None:
        values = self._values.values()
        return math.fsum(math.fsum(v) / len(v) for v in values) / len(values) if values else None


@dataclass
class _Table:
    """The candidates of one (model, prompt) that count. Sums over them are exact, so their order does not matter."""

    failed: list[LoggedCandidate] = field(default_factory=list)
    sound: list[LoggedCandidate] = field(default_factory=list)

    def add(self, candidate: LoggedCandidate) -> None:
        (self.sound if candidate.error is None else self.failed).append(candidate)

    def row(self, model: str, prompt: str, rubric: Rubric) -> Row:
        """Everything but rank and interval, which of an estimate is there already."""
        sit_down = [(c, v) for c in self.sound if (v := c.sit_down()) is not None]
        counting = sit_down or [(c, v) for c in self.sound if (v := c.automatic()) is not None]
        scored = [(c, tier_scores(c, rubric)) for c in self.sound]
        scores, automatic = _Means(), _Means()
        for c, of_tiers in scored:
            auto = automatic_score(of_tiers)
            automatic.add(c.scenario, auto and auto.value)
            found = sit_down_score(of_tiers) if sit_down else auto
            scores.add(c.scenario, found and found.value)
        everyone = [*self.sound, *self.failed]
        calibrated = _calibrated(scored)
        estimated = calibrated is not None and _stands_for(calibrated)
        by_tier = table(scored, lambda c: c.scenario)
        return Row(
            rank=None,
            model=model,
            prompt=prompt,
            composite=calibrated["estimate"] if calibrated is not None and estimated else scores.mean(),
            ci95=calibrated["ci"] if calibrated is not None and estimated else None,
            tier=_tier(v for _, v in counting),
            candidates=len(everyone),
            judged=len(sit_down),
            pending=sum(c.pending for c in self.sound),
            failed=len(self.failed),
            criteria=self._criteria(counting, rubric),
            auto_composite=automatic.mean(),
            cost_usd=_total([c.cost_usd for c in everyone]),
            latency_s=_mean([c.latency_s for c in everyone]),
            scenario_scores=scores.by_scenario(),
            by_tier={tier.value: found for tier, found in by_tier.items()},
            calibrated=calibrated,
            estimated=estimated,
        )

    def _criteria(self, counting: Sequence[tuple[LoggedCandidate, Verdict]], rubric: Rubric) -> dict[str, float | None]:
        """Means of the verdicts that count; of a flag that a program fills, over all candidates, judged or not."""
        means = {c.name: _Means() for c in rubric.criteria}
        for c in self.sound:
            for name, value in c.checks.items():
                if name in means:
                    means[name].add(c.scenario, value)
        for c, verdict in counting:
            for name, mean in means.items():
                if name not in c.checks:
                    mean.add(c.scenario, verdict.scores.get(name))
        return {name: mean.mean() for name, mean in means.items()}


def _calibrated(scored: Sequence[Scored]) -> Mapping[str, Any] | None:
    """The sit-down composite by prediction-powered inference, where the automatic tier has scored more than it has.

    ``audited``: whether an audit drew any of the labels. Then a label without a sampling probability was there whatever
    the audits drew (a packet of all that was pending), and counts as certain; so does one of a candidate that the
    automatic tier has not scored, which stands for itself alone. ``labels_without_auto`` counts those. ``plain_mean``:
    what the labels' own mean would be, repeats averaged first.
    """
    found = [(c, automatic_score(s), sit_down_score(s)) for c, s in scored]
    both = [(c, auto.value, label) for c, auto, label in found if auto is not None]
    labels = [label for _, _, label in both if label is not None]
    if not 0 < len(labels) < len(both):
        return None
    from .statistics import calibrated_mean

    audited = any(label.probability is not None for label in labels)
    alone = [(c, label) for c, auto, label in found if auto is None and label is not None]
    if audited:
        both += [(c, label.value, label._replace(probability=None)) for c, label in alone]
    estimate = calibrated_mean(
        [auto for _, auto, _ in both],
        [None if label is None else label.value for _, _, label in both],
        [c.scenario for c, _, _ in both],
        [1.0 if label is None else label.probability or 1.0 for _, _, label in both] if audited else None,
    )
    plain = _Means()
    for c, _, label in found:
        plain.add(c.scenario, label and label.value)
    return {
        **estimate.to_json(),
        "audited": audited,
        "labels_without_auto": len(alone),
        "plain_mean": plain.mean(),
    }


def _stands_for(calibrated: Mapping[str, Any]) -> bool:
    """Whether an estimate takes the place of the labels' mean: always after an audit, whose picks bias that mean.

    Of labels that came otherwise, only where there are enough scenarios of them for the automatic scores to be used,
    and every label has one: else the estimate would leave labels out.
    """
    from .statistics.calibration import FEWEST

    enough = calibrated["clusters"] >= FEWEST and not calibrated["labels_without_auto"]
    return calibrated["estimate"] is not None and (calibrated["audited"] or enough)


def _tier(verdicts: Iterable[Verdict]) -> str | None:
    """``human``, ``claude-code``, ``claude-code+human`` or ``auto``; None where there is no verdict."""
    return "+".join(sorted({v.judge.tier.value for v in verdicts})) or None


def _known(values: Iterable[float | None]) -> list[float]:
    return [v for v in values if v is not None and math.isfinite(v)]


def _total(values: Iterable[float | None]) -> float | None:
    known = _known(values)
    return math.fsum(known) if known else None


def _mean(values: Iterable[float | None]) -> float | None:
    known = _known(values)
    return math.fsum(known) / len(known) if known else None


# -- its file


def leaderboard_json(leaderboard: Leaderboard) -> dict[str, Any]:
    """``leaderboard.json`` as plain values: figures rounded to 6 decimals, what nobody has null.

    Criteria stand in a row under their own names, after ``failed``; the catalog refuses names that a row has already.
    """
    return {
        "schema": LEADERBOARD_SCHEMA,
        "experiment": leaderboard.experiment,
        "task": leaderboard.task,
        "rubric": leaderboard.rubric.id,
        "rubric_sha256": leaderboard.rubric.sha256,
        "rows": [_row_json(r) for r in leaderboard.rows],
    }


def statistics_json(leaderboard: Leaderboard) -> dict[str, Any]:
    """``statistics.json``: what stands behind the leaderboard's figures and has no place in its fixed format."""
    return {
        "schema": STATISTICS_SCHEMA,
        "experiment": leaderboard.experiment,
        "task": leaderboard.task,
        "rubric": leaderboard.rubric.id,
        "rubric_sha256": leaderboard.rubric.sha256,
        "comparisons": [dict(c) for c in leaderboard.comparisons],
        "calibrated": [
            {"model": r.model, "prompt": r.prompt, "is_composite": r.estimated, **r.calibrated}
            for r in leaderboard.rows
            if r.calibrated is not None
        ],
    }


def _row_json(row: Row) -> dict[str, Any]:
    head = {
        "rank": row.rank,
        "model": row.model,
        "prompt": row.prompt,
        "composite": _rounded(row.composite),
        "ci95": None if row.ci95 is None else [_rounded(v) for v in row.ci95],
        "tier": row.tier,
        "candidates": row.candidates,
        "judged": row.judged,
        "pending": row.pending,
        "failed": row.failed,
    }
    tail = {
        "auto_composite": _rounded(row.auto_composite),
        "cost_usd": _rounded(row.cost_usd, digits=10),  # a very cheap row is not a free one
        "latency_s": _rounded(row.latency_s),
    }
    criteria = {name: _rounded(v) for name, v in row.criteria.items() if name not in head and name not in tail}
    return head | criteria | tail


def _rounded(value: float | None, *, digits: int = 6) -> float | None:
    if value is None or not math.isfinite(value):
        return None
    return round(value, digits) + 0.0  # never -0.0
