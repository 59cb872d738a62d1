"""The smaller tables of a report, as plain texts that every renderer lays out in its own way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..agreement import COMPOSITE, Agreement, JudgePair
from ..records import Leaderboard
from ..statistics import detectable, figure, p_text, signed
from .text import interval, number, plural, visible

MOST = 12
"""Rows of a table that a terminal shows; files hold all of them."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A heading, a sentence, and rows of texts, in which the first ``names`` columns are names.

    Names and head are safe to read (``text.visible``); nothing in here is escaped for Markdown or HTML yet.
    """

    title: str
    note: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    names: int = 1


def all_tables(lb: Leaderboard, agreement: Agreement | None) -> list[Table]:
    """What a report shows below the leaderboard; tables without rows are left out."""
    found = [
        comparisons(lb),
        calibration(lb),
        slices(lb),
        *(t for p in (agreement.pairs if agreement else ()) for t in _pair(p)),
    ]
    return [table for table in found if table.rows]


def terminal_tables(lb: Leaderboard, agreement: Agreement | None) -> list[Table]:
    """Likewise, for where there is little room: of several pairs of judges one line each."""
    pairs = agreement.pairs if agreement else ()
    lb = replace(lb, by_tag=())  # a line for each tag and row
    if len(pairs) < 2:
        return all_tables(lb, agreement)
    found = Table(
        title="Agreement of judges on the composite (more in leaderboard.md)",
        note="",
        head=("judges", "n", "alpha", "bias"),
        rows=tuple((_title(p), *_of_composite(p)) for p in pairs),
    )
    return [*all_tables(lb, None), found]


def _of_composite(pair: JudgePair) -> tuple[str, str, str]:
    """Candidates, alpha and bias; of judges who have no whole verdicts in common there is none."""
    for s in pair.report.scales:
        if s.criterion == COMPOSITE:
            return str(s.n), _estimate(s.alpha), _estimate(s.bias, signed=True)
    return "0", "-", "-"


def comparisons(lb: Leaderboard) -> Table:
    """Each further row against the first."""
    first = next((row for row in lb.rows if row.composite is not None), None)
    title = "Differences" if first is None else f"Difference from {visible(first.model)} x {visible(first.prompt)}"
    return Table(
        title=title,
        note="Paired over common scenarios, on a tier that scored both; p by sign flips, after Holm over all pairs of "
        "rows. Estimates (calibrated) are compared as if independent. Differences below the last column would often be "
        "missed even if only these two rows were compared (80 % power at 5 %).",
        head=("model", "prompt", "difference", "95 %", "p", "tier", "scenarios", "detectable"),
        rows=tuple(
            (
                visible(c["model"]),
                visible(c["prompt"]),
                _signed(c["mean_difference"]),
                "" if c["ci"] is None else f"[{', '.join(map(figure, c['ci']))}]",
                p_text(c["p_holm"]).removeprefix("= "),
                visible(c["tier"] or "none in common"),
                str(c["n"]),
                detectable(c["mde"], c["ci"]),
            )
            for c in lb.comparisons
        ),
        names=2,
    )


def calibration(lb: Leaderboard) -> Table:
    """What the sit-down tier would say of everything, by prediction-powered inference."""
    rows = [r for r in lb.rows if r.calibrated is not None and r.calibrated["estimate"] is not None]
    rows.sort(key=lambda r: -(r.calibrated or {})["estimate"])
    return Table(
        title="Calibrated to the sit-down tier",
        note="The automatic scores of all candidates, corrected by the sit-down labels of some (PPI++).",
        head=("model", "prompt", "calibrated", "95 %", "labels", "worth", "labels' mean", "automatic alone"),
        rows=tuple(_calibrated(r.model, r.prompt, r.calibrated or {}, r.auto_composite) for r in rows),
        names=2,
    )


def _calibrated(model: str, prompt: str, c: Mapping[str, Any], auto: float | None) -> tuple[str, ...]:
    return (
        visible(model),
        visible(prompt),
        number(c["estimate"]),
        interval(c["ci"]),
        str(c["n_labels"]),
        number(c["effective_labels"], 1),
        number(c["plain_mean"]),
        number(auto),
    )


def slices(lb: Leaderboard) -> Table:
    """Each row over the scenarios of one tag."""
    left = f" Left out: {plural(lb.tags_left_out, 'more tag')}." if lb.tags_left_out else ""
    return Table(
        title="By tag",
        note="Composite over the scenarios with that tag. Of a row marked ~ these are its automatic scores. Nothing is "
        f"corrected for the number of tags: among many, some look better or worse by chance.{left}",
        head=("tag", "model", "prompt", "composite", "95 %", "tier", "scenarios"),
        rows=tuple(
            (
                visible(s["tag"]),
                visible(s["model"]),
                visible(s["prompt"]),
                number(s["composite"]),
                interval(s["ci95"]),
                visible(s["tier"] or "-"),
                f"{s['scored']}/{s['scenarios']}",
            )
            for s in lb.by_tag
        ),
        names=3,
    )


def _pair(pair: JudgePair) -> list[Table]:
    """The scales and the flags of two judges."""
    report = pair.report
    a, b = visible(report.a), visible(report.b)
    among = f"{plural(report.candidates, 'candidate')} of {plural(report.scenarios, 'scenario')}"
    if report.weighted:
        among += ", those of audits weighed by 1 / sampling probability"
    title = _title(pair)
    scales = Table(
        title=f"Agreement of {title}: scales",
        note=f"{among}. kappa: quadratic weights. alpha: Krippendorff, ordinal. Bias: {a} less {b}, in points.",
        head=("criterion", "n", "kappa", "alpha", "Spearman", "mean distance", "bias"),
        rows=tuple(
            (
                visible(s.criterion),
                str(s.n),
                *(_estimate(e) for e in (s.kappa, s.alpha, s.spearman, s.mean_absolute_difference)),
                _estimate(s.bias, signed=True),
            )
            for s in report.scales
        ),
    )
    flags = Table(
        title=f"Agreement of {title}: flags",
        note=f"{among}. kappa: Cohen. AC1: Gwet. {a}, {b}: share of true. TPR, TNR: true positive and "
        f"true negative rate of {b}, with {a} as the reference.",
        head=("criterion", "n", "kappa", "AC1", "equal", a, b, "TPR", "TNR"),
        rows=tuple(
            (
                visible(f.criterion),
                str(f.n),
                *map(_estimate, (f.kappa, f.ac1, f.raw, f.base_rate_a, f.base_rate_b, f.tpr, f.tnr)),
            )
            for f in report.flags
        ),
    )
    return [scales, flags]


def _title(pair: JudgePair) -> str:
    a, b = visible(pair.report.a), visible(pair.report.b)
    return f"{a} with itself" if pair.kind == "self" else f"{a} and {b}"


def _estimate(estimate: Any, *, signed: bool = False) -> str:
    """A figure with its interval; ``-`` where it is not defined."""
    if estimate.value is None:
        return "-"
    value = _signed(estimate.value) if signed else number(estimate.value)
    return " ".join(x for x in (value, interval(estimate.ci)) if x)


def _signed(value: float | None) -> str:
    return "-" if value is None else signed(value)


def shortened(table: Table) -> tuple[Sequence[tuple[str, ...]], str]:
    """The rows that a terminal shows, and a line about those that it does not."""
    left = len(table.rows) - MOST
    return (table.rows, "") if left <= 0 else (table.rows[:MOST], f"and {left} more: see leaderboard.md")
