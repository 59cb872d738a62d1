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
from .tolerance import DEFAULT_TOLERANCES, Tolerance

GATE_SCHEMA = "promptbench/gate/1"
ALPHA = 0.05
"""The most often that a gate may fail on nothing."""


class GateOutcome(enum.StrEnum):
    """What a comparison came to; the gate's own outcome is the worst of its comparisons', in this order."""

    PASS = "pass"  # noqa: S105  # an outcome, no password
    INCONCLUSIVE = "inconclusive"
    FAIL = "fail"
    ERROR = "error"


@dataclass(frozen=True, kw_only=True)
class GateComparison(Record):
    """One row and metric against the baseline.

    n: scenarios scored on both sides. change: mean of current - baseline over them, in points, with its 95 % interval
    ``ci`` (not corrected for the number of rows). worse_by: the change in the bad direction. tolerance: in points.
    p_value: one-sided, against "no worse"; p_adjusted: after Holm. mde: the true worsening that this gate, with so many
    rows, scenarios and so much spread, finds significant with 80 % probability. None: cannot be told.
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
class CellName(Record):
    """A cell that could not be compared, and why."""

    model: str
    prompt: str
    scenario: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class GateResult(Record):
    """What the gate decided for one task, and everything it rests on.

    reasons: sentences for a person, the deciding ones first. new: cells that the baseline lacks. vanished: cells that
    only the baseline has. unpaired: cells of both that are not scored on both sides or whose scenario was changed.
    deselected: rows of the baseline that this session was not asked for. changed: what has another fingerprint now.
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
        strict_or_loud = 1 if self.strict else 0
        return {"pass": 0, "inconclusive": strict_or_loud, "fail": 1, "error": 4}[self.outcome.value]

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
    check_metrics(tolerances, current)
    chosen = None if selected is None else set(selected)
    old = {row.name: row for row in baseline.rows if chosen is None or row.name in chosen}
    now = {row.name: row for row in current.rows}
    cells = _match(baseline, current, old, now)
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
        "deselected": tuple(" x ".join(row.name) for row in baseline.rows if row.name not in old),
        "changed": _changed(baseline, current),
    }
    problems = _problems(baseline, current, old, now, paired=any(cells.pairs.values()))
    if problems:
        return GateResult(outcome=GateOutcome.ERROR, reasons=tuple(problems), **common)
    comparisons = _compare_rows(old, now, cells, tolerances, current.better, seed)
    order = list(GateOutcome)
    outcome = max((c.outcome for c in comparisons), key=order.index)
    if not any(c.n for c in comparisons):
        metrics = ", ".join(dict.fromkeys(t.metric for t in tolerances))
        reason = f"no cell has a score of {metrics} on both sides, so there is nothing to compare"
        return GateResult(outcome=GateOutcome.ERROR, reasons=(reason,), comparisons=comparisons, **common)
    loud = sorted((c for c in comparisons if c.outcome is not GateOutcome.PASS), key=lambda c: -order.index(c.outcome))
    reasons = [c.reason for c in loud] or [f"nothing fell beyond {', '.join(common['tolerances'])}"]
    for word, names in (("new", cells.new), ("vanished", cells.vanished), ("unpaired", cells.unpaired)):
        if names:
            reasons.append(f"{len(names)} {word} {'cell' if len(names) == 1 else 'cells'}: {_listed(names)}")
    return GateResult(outcome=outcome, reasons=tuple(reasons), comparisons=comparisons, **common)


def check_metrics(tolerances: Iterable[Tolerance], current: Baseline) -> None:
    for t in tolerances:
        if t.metric not in current.better:
            known = ", ".join(current.better)
            raise UsageError(
                f"--bench-compare-fail {t}: the rubric {current.rubric} has no {t.metric!r}; it has {known}"
            )


def _listed(cells: Sequence[CellName], most: int = 6) -> str:
    names = [f"{c.model} x {c.prompt} x {c.scenario} ({c.reason})" for c in cells[:most]]
    return ", ".join(names) + (f" and {len(cells) - most} more" if len(cells) > most else "")


class _Cells(NamedTuple):
    pairs: dict[RowName, list[str]]
    new: tuple[CellName, ...]
    vanished: tuple[CellName, ...]
    unpaired: tuple[CellName, ...]


def _match(
    baseline: Baseline, current: Baseline, old: Mapping[RowName, BaselineRow], now: Mapping[RowName, BaselineRow]
) -> _Cells:
    pairs: dict[RowName, list[str]] = {name: [] for name in old}
    new: list[CellName] = []
    vanished: list[CellName] = []
    unpaired: list[CellName] = []
    for name in sorted(old.keys() | now.keys()):
        before = old[name].scores if name in old else {}
        after = now[name].scores if name in now else {}
        for scenario in sorted(before.keys() | after.keys()):

            def cell(reason: str, name: RowName = name, scenario: str = scenario) -> CellName:
                return CellName(model=name[0], prompt=name[1], scenario=scenario, reason=reason)

            prints = baseline.scenarios.get(scenario), current.scenarios.get(scenario)
            if scenario not in before:
                new.append(cell("not in the baseline"))
            elif scenario not in after:
                vanished.append(cell("only in the baseline"))
            elif not before[scenario]:
                unpaired.append(cell("not scored in the baseline"))
            elif not after[scenario]:
                unpaired.append(cell("not scored now"))
            elif None not in prints and prints[0] != prints[1]:
                unpaired.append(cell("the scenario has been changed since"))
            else:
                pairs[name].append(scenario)
    return _Cells(pairs, tuple(new), tuple(vanished), tuple(unpaired))


def _changed(baseline: Baseline, current: Baseline) -> dict[str, tuple[str, ...]]:
    """Names that both sides have, with another fingerprint: kind -> names; kinds without any are left out."""
    kinds = {
        "models": (baseline.models, current.models),
        "prompts": (baseline.prompts, current.prompts),
        "scenarios": (baseline.scenarios, current.scenarios),
    }
    changed = {
        kind: tuple(sorted(n for n in before.keys() & after.keys() if before[n] != after[n]))
        for kind, (before, after) in kinds.items()
    }
    return {kind: names for kind, names in changed.items() if names}


def _problems(
    baseline: Baseline,
    current: Baseline,
    old: Mapping[RowName, BaselineRow],
    now: Mapping[RowName, BaselineRow],
    *,
    paired: bool,
) -> list[str]:
    """Why the two cannot be compared; nothing where they can."""
    again = "compare with a baseline of the same kind, or save it anew with --bench-save"
    if baseline.task != current.task:
        return [f"the baseline is of the task {baseline.task}, this session ran {current.task}; {again}"]
    if baseline.rubric_sha256 != current.rubric_sha256:
        before, after = (f"{b.rubric} ({b.rubric_sha256[:12]})" for b in (baseline, current))
        return [f"the baseline was scored by the rubric {before}, this session by {after}; {again}"]
    problems = []
    for name in sorted(old.keys() & now.keys()):
        earlier, present = old[name], now[name]
        if earlier.tier is None or present.tier is None:
            continue  # unscored: its cells are unpaired
        if earlier.tier != present.tier:
            problems.append(
                f"{' x '.join(name)}: the baseline was judged by {earlier.tier}, this session by {present.tier}; {again}"
            )
        elif earlier.tier == Tier.AUTO and earlier.judge and present.judge and earlier.judge != present.judge:
            problems.append(
                f"{' x '.join(name)}: the automatic judge has changed since the baseline "
                f"({earlier.judge[:12]}, now {present.judge[:12]}); {again}"
            )
    if not problems and not paired:
        problems.append(
            "no cell is scored both in the baseline and now, so there is nothing to compare; judge this session's "
            f"candidates first, or {again}"
        )
    return problems


class Case(NamedTuple):
    """One test of the gate: how much worse each scenario got, in points."""

    worse: list[float]
    tolerance: float
    complete: bool


class Decision(NamedTuple):
    outcome: GateOutcome
    why: str
    p_value: float
    p_adjusted: float


def decide(cases: Sequence[Case], *, seed: int) -> tuple[list[Decision], int]:
    """The decision of every case, and the number of tests that share the 5 %.

    A case that could not reach 5 % even by itself (under 5 scenarios) takes no part in Holm's correction: it can
    reject nothing (Tarone 1990).
    """
    able = [len(c.worse) >= stats.fewest_pairs(ALPHA, sides=1) for c in cases]
    tests = max(1, sum(able))
    p_values = [
        stats.sign_flip_p_value([-w for w in c.worse], less=True, seed=seed) if _total(c) > 0 else 1.0 for c in cases
    ]
    adjusted = iter(stats.holm([p for p, can in zip(p_values, able, strict=True) if can]))
    needed = stats.fewest_pairs(ALPHA / tests, sides=1)
    verdicts = []
    for case, p, can in zip(cases, p_values, able, strict=True):
        p_adjusted = next(adjusted) if can else 1.0
        mean = _total(case) / len(case.worse)
        beyond = mean > case.tolerance + 1e-9
        if case.complete and not any(case.worse):
            verdict = Decision(GateOutcome.PASS, "every score is unchanged", p, p_adjusted)
        elif beyond and p_adjusted <= ALPHA:
            verdict = Decision(GateOutcome.FAIL, "significantly", p, p_adjusted)
        elif len(case.worse) < needed:
            family = "the one test needs" if tests == 1 else f"{tests} tests together need"
            why = f"too few pairs to tell: {len(case.worse)}, and {family} {needed}"
            verdict = Decision(GateOutcome.INCONCLUSIVE, why, p, p_adjusted)
        elif beyond:
            verdict = Decision(GateOutcome.INCONCLUSIVE, "but not significantly", p, p_adjusted)
        else:
            verdict = Decision(GateOutcome.PASS, "within the tolerance", p, p_adjusted)
        verdicts.append(verdict)
    return verdicts, tests


def _total(case: Case) -> float:
    return math.fsum(case.worse)


def _compare_rows(
    old: Mapping[RowName, BaselineRow],
    now: Mapping[RowName, BaselineRow],
    cells: _Cells,
    tolerances: Sequence[Tolerance],
    better: Mapping[str, Better],
    seed: int,
) -> tuple[GateComparison, ...]:
    metrics = list(dict.fromkeys(t.metric for t in tolerances))
    keys: list[tuple[RowName, str]] = []
    cases: list[Case] = []
    sides: list[tuple[dict[str, float], dict[str, float]]] = []
    empty: list[GateComparison] = []
    for name in sorted(old):
        for metric in metrics:
            both = [s for s in cells.pairs[name] if metric in old[name].scores[s] and metric in now[name].scores[s]]
            if not both:
                reason = f"{' x '.join(name)} {metric}: no scenario is scored both in the baseline and now"
                empty.append(
                    GateComparison(
                        model=name[0],
                        prompt=name[1],
                        metric=metric,
                        outcome=GateOutcome.INCONCLUSIVE,
                        n=0,
                        reason=reason,
                    )
                )
                continue
            before = {s: float(old[name].scores[s][metric]) for s in both}
            after = {s: float(now[name].scores[s][metric]) for s in both}
            sign = -1.0 if better[metric] == "higher" else 1.0
            mean = math.fsum(before.values()) / len(before)
            keys.append((name, metric))
            sides.append((before, after))
            cases.append(
                Case(
                    worse=[sign * (after[s] - before[s]) for s in both],
                    tolerance=min(t.points(mean) for t in tolerances if t.metric == metric),
                    complete=len(both) == sum(metric in scores for scores in old[name].scores.values()),
                )
            )
    verdicts, tests = decide(cases, seed=seed)
    found = [
        _comparison(name, metric, before, after, case, verdict, tests=tests, seed=seed)
        for (name, metric), (before, after), case, verdict in zip(keys, sides, cases, verdicts, strict=True)
    ]
    place = {metric: i for i, metric in enumerate(metrics)}
    return tuple(sorted([*found, *empty], key=lambda c: (c.model, c.prompt, place[c.metric])))


def _comparison(
    name: RowName,
    metric: str,
    before: Mapping[str, float],
    after: Mapping[str, float],
    case: Case,
    verdict: Decision,
    *,
    tests: int,
    seed: int,
) -> GateComparison:
    paired = stats.compare(after, before, seed=seed)
    worse_by = _total(case) / len(case.worse)
    change, ci = paired.mean_difference, paired.ci
    assert change is not None
    interval = f", 95 % {ci[0]:+.2f} to {ci[1]:+.2f}" if ci else ""
    reason = (
        f"{' x '.join(name)} {metric}: {change:+.2f} points over {paired.n} "
        f"{'scenario' if paired.n == 1 else 'scenarios'}{interval}, tolerance {case.tolerance:.3g}: {verdict.why} "
        f"(p = {verdict.p_adjusted:.3g})"
    )
    return GateComparison(
        model=name[0],
        prompt=name[1],
        metric=metric,
        outcome=verdict.outcome,
        n=paired.n,
        reason=reason,
        baseline_mean=math.fsum(before.values()) / paired.n,
        current_mean=math.fsum(after.values()) / paired.n,
        change=change,
        ci=ci,
        worse_by=worse_by,
        tolerance=case.tolerance,
        p_value=verdict.p_value,
        p_adjusted=verdict.p_adjusted,
        mde=stats.minimum_detectable_effect(case.worse, alpha=ALPHA / tests, sides=1),
    )
