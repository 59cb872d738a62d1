"""Where the marks of the page's pictures stand: pure functions from figures to places, drawn by the template."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..records import Criterion, Leaderboard, Row
from .text import number, percent, plural, visible

_BINS = 10
"""Bars of a histogram whose scale has no whole levels, and the most levels that get a bar each."""
_DOT = 1.4
"""Width that a dot needs, in percent of a picture."""
_MIDDLE = 29
"""Pixels from the top of a strip to its middle line."""
_TALLEST = 48
"""Pixels of the longest column of a strip, from the middle of its first dot to that of its last."""
_MOST_DOTS = 500
"""Scenarios of a row that get a dot each. More of them cover each other, and are megabytes of a page."""


class Whisker(NamedTuple):
    """The line of an interval from ``low`` to ``high``, with a stroke at each end that is in the picture."""

    low: str
    high: str
    ends: list[str]

    @property
    def leaves(self) -> bool:
        return len(self.ends) < 2


@dataclass(frozen=True, kw_only=True)
class Scale:
    """A stretch of points on the horizontal axis of the pictures."""

    low: float
    high: float
    step: float

    def at(self, value: float) -> str:
        """Where ``value`` stands, in percent of the picture's width."""
        return f"{2 + 96 * (value - self.low) / (self.high - self.low):.2f}"

    def whisker(self, ci95: Sequence[float] | None) -> Whisker | None:
        """The line of an interval; where that goes on outside, up to the picture's edge."""
        if not ci95:
            return None
        low = self.at(ci95[0]) if ci95[0] >= self.low else "0"
        high = self.at(ci95[-1]) if ci95[-1] <= self.high else "100"
        return Whisker(low, high, [x for x in (low, high) if x not in ("0", "100")])

    @property
    def ticks(self) -> list[tuple[str, str]]:
        first, last = math.ceil(self.low / self.step - 1e-9), math.floor(self.high / self.step + 1e-9)
        return [(self.at(i * self.step), f"{round(i * self.step, 6):g}") for i in range(first, last + 1)]


@dataclass(frozen=True, kw_only=True)
class Dot:
    x: str
    y: str
    label: str


@dataclass(frozen=True, kw_only=True)
class Column:
    """Scenarios of about the same composite: from ``y`` down, as long as they are many."""

    x: str
    y: str
    width: str
    height: str
    label: str


@dataclass(frozen=True, kw_only=True)
class Strip:
    """The scenarios of a row, each as a dot; where they are too many for that, all of them as columns."""

    count: str
    label: str
    dots: list[Dot]
    columns: list[Column]


@dataclass(frozen=True, kw_only=True)
class Bar:
    x: str
    y: str
    width: str
    height: str
    bad: bool


@dataclass(frozen=True, kw_only=True)
class Histogram:
    mean: str
    label: str
    bars: list[Bar]


def scale(lb: Leaderboard) -> Scale:
    """Round ends, within what the rubric allows, that hold every composite and scenario, and intervals up to there.

    An interval of a few labels may be several times as wide as the rubric; all else would be squeezed in its middle.
    """
    values = [
        v
        for row in lb.rows
        for v in (
            row.composite,
            *(min(max(end, lb.rubric.bottom), lb.rubric.top) for end in row.ci95 or ()),
            *row.scenario_scores.values(),
        )
        if v is not None and math.isfinite(v)
    ]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    span = max(high - low, 1.0)
    rough = span / 6
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough)
    first, last = math.floor(low / step), math.ceil(high / step)
    if first == last:
        first, last = first - 1, last + 1
    ends = first * step, last * step
    if values and lb.rubric.bottom <= low and high <= lb.rubric.top and lb.rubric.bottom < lb.rubric.top:
        ends = max(ends[0], lb.rubric.bottom), min(ends[1], lb.rubric.top)
    return Scale(low=ends[0], high=ends[1], step=step)


def strip(row: Row, on: Scale) -> Strip:
    """Lowest first. What would cover each other is stacked: dots closer the more there are, columns longer."""
    scored = sorted((value, scenario) for scenario, value in row.scenario_scores.items())
    stacks: defaultdict[int, list[tuple[float, str]]] = defaultdict(list)
    for value, scenario in scored:
        stacks[round(float(on.at(value)) / _DOT)].append((value, scenario))
    many = len(scored) > _MOST_DOTS
    count = plural(len(scored), "scenario")
    ends = f", lowest {_label(*scored[0])}, highest {_label(*scored[-1])}" if scored else ""
    return Strip(
        count=count if scored else "",
        label=count + ends,
        dots=[] if many else [dot for _, stack in sorted(stacks.items()) for dot in _dots(stack, on)],
        columns=_columns(stacks) if many else [],
    )


def _dots(stack: Sequence[tuple[float, str]], on: Scale) -> list[Dot]:
    apart = min(6.0, _TALLEST / max(len(stack) - 1, 1))
    return [
        Dot(x=on.at(value), y=f"{_MIDDLE + (i - (len(stack) - 1) / 2) * apart:.1f}", label=_label(value, scenario))
        for i, (value, scenario) in enumerate(stack)
    ]


def _columns(stacks: Mapping[int, Sequence[tuple[float, str]]]) -> list[Column]:
    most = max(len(stack) for stack in stacks.values())
    columns = []
    for place, stack in sorted(stacks.items()):
        height = max(_TALLEST * len(stack) / most, 1.0)  # a single scenario is seen, too
        low, high = number(stack[0][0]), number(stack[-1][0])
        columns.append(
            Column(
                x=f"{(place - 0.4) * _DOT:.2f}",
                y=f"{_MIDDLE - height / 2:.1f}",
                width=f"{0.8 * _DOT:.2f}",
                height=f"{height:.1f}",
                label=f"{plural(len(stack), 'scenario')}: {low if low == high else f'{low} to {high}'}",
            )
        )
    return columns


def _label(value: float, scenario: str) -> str:
    return f"{visible(scenario)}: {number(value)}"


def histogram(criterion: Criterion, values: Sequence[float], mean: float | None) -> Histogram | None:
    """``mean``: the row's, where repeats of a scenario weigh no more than one."""
    if not values or mean is None:
        return None
    if criterion.type == "flag":
        bad = mean if criterion.bad else 1 - mean
        return Histogram(
            mean=f"{percent(bad)} bad",
            label=f"true in {percent(mean)}, {plural(len(values), 'score')}",
            bars=[
                Bar(x="0", y="35", width="100", height="30", bad=False),
                Bar(x="0", y="35", width=f"{100 * bad:.1f}", height="30", bad=True),
            ],
        )
    low, high = criterion.min or 0.0, criterion.max or 0.0
    # A scale from 0 to 1 is scored in between: as levels, 0.3 would be drawn, and read out, as a 0.
    levels = int(high - low) + 1 if float(high - low).is_integer() and 1 < high - low <= _BINS else 0
    bins = levels or _BINS
    counts = Counter(
        min(max(round(v - low) if levels else int((v - low) / ((high - low) or 1.0) * bins), 0), bins - 1)
        for v in values
    )
    most = max(counts.values())
    return Histogram(
        mean=number(mean),
        label=", ".join(f"{_edge(low, high, bins, levels, i)}: {counts[i]}" for i in range(bins) if counts[i]),
        bars=[
            Bar(
                x=f"{100 * i / bins + 8 / bins:.1f}",
                y=f"{96 - 92 * counts[i] / most:.1f}" if counts[i] else "96",
                width=f"{84 / bins:.1f}",
                height=f"{92 * counts[i] / most:.1f}" if counts[i] else "4",
                bad=False,
            )
            for i in range(bins)
        ],
    )


def _edge(low: float, high: float, bins: int, levels: int, i: int) -> str:
    if levels:
        return f"{low + i:g}"
    width = (high - low) / bins
    return f"{low + i * width:g} to {low + (i + 1) * width:g}"
