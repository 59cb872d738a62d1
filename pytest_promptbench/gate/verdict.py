"""The gate's decision: what is compared, what is tested, and the four outcomes."""

from __future__ import annotations

import enum
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .. import statistics as stats
from ..errors import UsageError
from ..records import Record, Tier
from .baseline import Baseline, BaselineRow, Better, RowName
from .matching import CellName, Pairing, changed, left_out, match, problems
from .tolerance import DEFAULT_TOLERANCES, Tolerance

GATE_SCHEMA = "promptbench/gate/1"
ALPHA = 0.05
"""Two-sided error rate of all a gate's tests together; as only a change for the worse fails, half of it on nothing."""

MOST_TOGETHER = 18
"""Scenarios whose signs are flipped together, all patterns of which are gone through."""


class GateOutcome(enum.StrEnum):
    """What a comparison came to; the gate's own outcome is the worst of its comparisons', in this order."""

    PASS = "pass"  # noqa: S105  # an outcome, no password
    INCONCLUSIVE = "inconclusive"
    FAIL = "fail"
    ERROR = "error"

    @property
    def severity(self) -> int:
        return list(GateOutcome).index(self)


@dataclass(frozen=True, kw_only=True)
class GateComparison(Record):
    """One row and metric against the baseline.

    n: scenarios scored on both sides. change: mean of current - baseline over them, in points, with its 95 % interval
    ``ci`` (not corrected for the number of rows). worse_by: the change in the bad direction. tolerance: in points.
    p_value: two-sided; p_adjusted: of the change for the worse among all the gate's tests, 1 where there is none.
    mde: the true change that this gate, with so many rows, scenarios and so much spread, finds significant with 80 %
    probability. None: cannot be told.
    """

    model: str
    prompt: str
    metric: str
    outcome: GateOutcome
    n: int
    reason: str
    baseline_mean: float | None = None
    current_mean: float | None = None
    change: float | None = None
    ci: tuple[float, ...] | None = None
    worse_by: float | None = None
    tolerance: float | None = None
    p_value: float | None = None
    p_adjusted: float | None = None
    mde: float | None = None


@dataclass(frozen=True, kw_only=True)
class GateResult(Record):
    """What the gate decided for one task, and everything it rests on.

    reasons: sentences for a person, the deciding ones first. new: cells that the baseline lacks. vanished: cells that
    only the baseline has. unpaired: cells of both that are not scored on both sides or whose scenario was changed.
    deselected: rows of the baseline that this session was not asked for. changed: what has another fingerprint now, and
    rows that other people judged.
    """

    outcome: GateOutcome
    strict: bool
    task: str
    experiment: str
    baseline_experiment: str
    baseline_saved_at: str
    tolerances: tuple[str, ...]
    reasons: tuple[str, ...]
    comparisons: tuple[GateComparison, ...] = ()
    new: tuple[CellName, ...] = ()
    vanished: tuple[CellName, ...] = ()
    unpaired: tuple[CellName, ...] = ()
    deselected: tuple[str, ...] = ()
    changed: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """0 for pass, 1 for fail, 4 for error; inconclusive 0, or 1 where it is strict."""
        return {"pass": 0, "inconclusive": int(self.strict), "fail": 1, "error": 4}[self.outcome.value]

    @property
    def pairs(self) -> int:
        """Cells compared."""
        rows = {(c.model, c.prompt): 0 for c in self.comparisons}
        for c in self.comparisons:
            rows[c.model, c.prompt] = max(rows[c.model, c.prompt], c.n)
        return sum(rows.values())

    def to_json(self) -> dict[str, Any]:
        """The content of ``gate.json``."""
        head = {"schema": GATE_SCHEMA, "outcome": self.outcome.value, "exit_code": self.exit_code, "pairs": self.pairs}
        return {**head, "alpha": ALPHA, **super().to_json()}


def evaluate_gate(
    baseline: Baseline,
    current: Baseline,
    tolerances: Sequence[Tolerance] = DEFAULT_TOLERANCES,
    *,
    strict: bool = False,
    seed: int = 0,
    selected: Collection[RowName] | None = None,
) -> GateResult:
    """Compare this session's scores with a baseline's, both as :func:`snapshot` makes them.

    selected: the (model, prompt) rows that this session was asked for, where that is less than all; rows outside are
    named, and not missed. Without it, a row that only the baseline has makes the gate inconclusive, as nobody knows
    whether it got worse. Where a metric has several tolerances, the smallest counts. No tolerance at all means
    :data:`DEFAULT_TOLERANCES`. What cannot be compared is the outcome ``error``; a tolerance on a metric that the
    rubric does not have raises UsageError.
    """
    tolerances = tuple(tolerances) or DEFAULT_TOLERANCES
    check_metrics(tolerances, current.rubric, current.better)
    cells = match(baseline, current, selected)
    common: dict[str, Any] = {
        "strict": strict,
        "task": current.task,
        "experiment": current.experiment,
        "baseline_experiment": baseline.experiment,
        "baseline_saved_at": baseline.saved_at,
        "tolerances": tuple(str(t) for t in tolerances),
        "new": cells.new,
        "vanished": cells.vanished,
        "unpaired": cells.unpaired,
        "deselected": tuple(" x ".join(row.name) for row in baseline.rows if row.name not in cells.old),
        "changed": changed(baseline, current, cells),
    }
    hindrances = problems(baseline, current, cells)
    if hindrances:
        return GateResult(outcome=GateOutcome.ERROR, reasons=tuple(hindrances), **common)
    comparisons = _compare_rows(cells, tolerances, current.better, seed=seed)
    if not any(c.n for c in comparisons):
        metrics = ", ".join(dict.fromkeys(t.metric for t in tolerances))
        reason = f"no cell has a score of {metrics} on both sides, so there is nothing to compare"
        return GateResult(outcome=GateOutcome.ERROR, reasons=(reason,), comparisons=comparisons, **common)
    outcome = max((c.outcome for c in comparisons), key=lambda o: o.severity)
    reasons = _reasons(comparisons, cells, tolerances)
    return GateResult(outcome=outcome, reasons=reasons, comparisons=comparisons, **common)


def _reasons(comparisons: Iterable[GateComparison], cells: Pairing, tolerances: Iterable[Tolerance]) -> tuple[str, ...]:
    """What to say of the outcome, the worst first, and of what was not compared or not by a person's scores."""
    loud = [c for c in comparisons if c.outcome is not GateOutcome.PASS]
    loud.sort(key=lambda c: -c.outcome.severity)
    reasons = [c.reason for c in loud] or [f"nothing fell beyond {', '.join(map(str, tolerances))}"]
    reasons += left_out(cells)
    reasons += [_about_aside(row) for name, row in sorted(cells.now.items()) if row.aside and name in cells.old]
    return tuple(reasons)


def _about_aside(row: BaselineRow) -> str:
    name = " x ".join(row.name)
    if row.tier == Tier.AUTO:
        labels = "label is" if row.aside == 1 else "labels are"
        return (
            f"{name} is compared by its automatic scores, on which the baseline rests: its {row.aside} sit-down "
            f"{labels} left aside"
        )
    candidates = "candidate" if row.aside == 1 else "candidates"
    return (
        f"{name} is compared by Claude Code's verdicts where the baseline has those: a person's on {row.aside} "
        f"{candidates} are left aside"
    )


def check_metrics(tolerances: Iterable[Tolerance], rubric: str, known: Collection[str]) -> None:
    """UsageError for a tolerance of what the rubric does not have; ``known`` as ``baseline.directions`` gives them."""
    for t in tolerances:
        if t.metric not in known:
            raise UsageError(
                f"--bench-compare-fail {t}: the rubric {rubric} has no {t.metric!r}; it has {', '.join(known)}"
            )


class Case(NamedTuple):
    """One test of the gate: how much worse each scenario got, in points."""

    scenarios: list[str]
    worse: list[float]
    tolerance: float
    complete: bool


class Decision(NamedTuple):
    """What became of one case. ``p_adjusted``: 1 for a case that takes no part in the correction.

    level: the two-sided error rate that its p_value has to reach, roughly, for the whole gate to keep its own.
    """

    outcome: GateOutcome
    why: str
    p_value: float
    p_adjusted: float
    level: float


def decide(cases: Sequence[Case], *, seed: int) -> tuple[list[Decision], int]:
    """The decision of every case, and the number of tests that share the 5 %.

    A case that could not reach 5 % even by itself (under 6 scenarios) takes no part in the correction: it can reject
    nothing (Tarone 1990). The correction is Holm's, except where none of its tests has the scenarios that it needs to
    reject anything, and flipping the signs of all together can reject each. Which one it is follows from which
    scenarios are scored, never from how, so that either keeps the error rate.
    """
    able = [len(c.worse) >= stats.fewest_pairs(ALPHA) for c in cases]
    tests = max(1, sum(able))
    p_values = [stats.sign_flip_p_value(c.worse, seed=seed) for c in cases]
    worsened = [p if _total(c) > 0 else 1.0 for c, p in zip(cases, p_values, strict=True)]
    taking_part = [case for case, can in zip(cases, able, strict=True) if can]
    needed = stats.fewest_pairs(ALPHA / tests)
    together = all(len(case.worse) < needed for case in taking_part) and _found_together(taking_part)
    if together:
        needed = stats.fewest_pairs(ALPHA)
        adjusted = iter(stats.flipped_together(_table(taking_part)))
    else:
        adjusted = iter(stats.holm([p for p, can in zip(worsened, able, strict=True) if can]))
    decisions = []
    for case, p, can in zip(cases, p_values, able, strict=True):
        p_adjusted = next(adjusted) if can else 1.0
        level = 2.0 ** (1 - len(case.worse)) if together and can else ALPHA / tests
        decisions.append(Decision(*_outcome(case, p_adjusted, needed, tests), p, p_adjusted, level))
    return decisions, tests


def _outcome(case: Case, p_adjusted: float, needed: int, tests: int) -> tuple[GateOutcome, str]:
    """Of one of so many ``tests``, each of which needs so many pairs to show anything; and why."""
    pairs = len(case.worse)
    if case.complete and not any(case.worse):
        return GateOutcome.PASS, "every score is unchanged"
    beyond = _total(case) / pairs > case.tolerance + 1e-9
    if beyond and p_adjusted <= ALPHA:
        return GateOutcome.FAIL, "beyond it, significantly"
    if pairs < needed:
        family = "the one test needs" if tests == 1 else f"{tests} tests together need"
        return GateOutcome.INCONCLUSIVE, f"too few pairs to tell: {pairs}, and {family} {needed}"
    if beyond:
        return GateOutcome.INCONCLUSIVE, "beyond it, but not significantly"
    return GateOutcome.PASS, "within the tolerance"


def _found_together(cases: Sequence[Case]) -> bool:
    """Whether flipping signs together finds each of these, where every score got worse by as much."""
    alike = {tuple(row) for row in _table([case._replace(worse=[1.0] * len(case.worse)) for case in cases])}
    few = all(len(row) <= MOST_TOGETHER for row in alike)
    return bool(alike) and few and max(stats.flipped_together(sorted(alike))) <= ALPHA


def _table(cases: Sequence[Case]) -> list[list[float]]:
    """How much worse each case got in each scenario of them all, 0 where it lacks one."""
    scenarios = sorted({s for case in cases for s in case.scenarios})
    rows = [dict(zip(case.scenarios, case.worse, strict=True)) for case in cases]
    return [[row.get(s, 0.0) for s in scenarios] for row in rows]


def _total(case: Case) -> float:
    return math.fsum(case.worse)


class _Sides(NamedTuple):
    """One row's scores of one metric in the baseline and now, scenario -> score, and the test made of them."""

    name: RowName
    metric: str
    before: dict[str, float]
    after: dict[str, float]
    case: Case


def _compare_rows(
    cells: Pairing, tolerances: Sequence[Tolerance], better: Mapping[str, Better], *, seed: int
) -> tuple[GateComparison, ...]:
    metrics = list(dict.fromkeys(t.metric for t in tolerances))
    sides: list[_Sides] = []
    found: list[GateComparison] = []
    for name in sorted(cells.old):
        for metric in metrics:
            limits = [t for t in tolerances if t.metric == metric]
            side = _sides(cells, name, metric, limits, worse=-1.0 if better[metric] == "higher" else 1.0)
            if side is not None:
                sides.append(side)
                continue
            found.append(
                GateComparison(
                    model=name[0],
                    prompt=name[1],
                    metric=metric,
                    outcome=GateOutcome.INCONCLUSIVE,
                    n=0,
                    reason=f"{' x '.join(name)} {metric}: no scenario is scored both in the baseline and now",
                )
            )
    decisions, tests = decide([side.case for side in sides], seed=seed)
    found += [_comparison(s, d, tests=tests, seed=seed) for s, d in zip(sides, decisions, strict=True)]
    return tuple(sorted(found, key=lambda c: (c.model, c.prompt, metrics.index(c.metric))))


def _sides(cells: Pairing, name: RowName, metric: str, limits: list[Tolerance], *, worse: float) -> _Sides | None:
    """What pairs in one row for one metric; None where nothing does. worse: the sign of a change for the worse."""
    old = {s: scores[metric] for s, scores in cells.old[name].scores.items() if metric in scores}
    now = cells.now[name].scores if name in cells.now else {}
    both = [s for s in cells.pairs[name] if s in old and metric in now[s]]
    if not both:
        return None
    before = {s: float(old[s]) for s in both}
    after = {s: float(now[s][metric]) for s in both}
    mean = math.fsum(before.values()) / len(both)
    case = Case(
        scenarios=both,
        worse=[worse * gap for gap in stats.differences(list(after.values()), list(before.values())).tolist()],
        tolerance=min(t.points(mean) for t in limits),
        complete=len(both) == len(old),
    )
    return _Sides(name, metric, before, after, case)


def _comparison(sides: _Sides, decision: Decision, *, tests: int, seed: int) -> GateComparison:
    (model, prompt), case = sides.name, sides.case
    paired = stats.compare(sides.after, sides.before, seed=seed)
    change, ci = paired.mean_difference, paired.ci
    assert change is not None
    mde = stats.minimum_detectable_effect(case.worse, alpha=decision.level)
    interval = f", 95 % {stats.signed(ci[0])} to {stats.signed(ci[1])}" if ci else ""
    finds = f"; it can find {stats.figure(mde)} points" if mde else ""
    shared = tests > 1 and paired.n >= stats.fewest_pairs(ALPHA)
    together = f" alone, {decision.p_adjusted:.3g} among {tests} tests" if shared else ""
    reason = (
        f"{model} x {prompt} {sides.metric}: {stats.signed(change)} points over {paired.n} "
        f"{'scenario' if paired.n == 1 else 'scenarios'}{interval}, tolerance {case.tolerance:.3g}: {decision.why} "
        f"(p = {decision.p_value:.3g}{together}{finds})"
    )
    return GateComparison(
        model=model,
        prompt=prompt,
        metric=sides.metric,
        outcome=decision.outcome,
        n=paired.n,
        reason=reason,
        baseline_mean=math.fsum(sides.before.values()) / paired.n,
        current_mean=math.fsum(sides.after.values()) / paired.n,
        change=change,
        ci=ci,
        worse_by=_total(case) / paired.n,
        tolerance=case.tolerance,
        p_value=decision.p_value,
        p_adjusted=decision.p_adjusted,
        mde=mde,
    )
