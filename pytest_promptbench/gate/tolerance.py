"""How much worse a metric may get before the gate cares."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import UsageError
from ..records import Record


@dataclass(frozen=True, kw_only=True)
class Tolerance(Record):
    """How much worse a metric's mean may get: ``amount`` points, or ``amount`` percent of the baseline's mean."""

    metric: str
    amount: float
    percent: bool = False

    def points(self, baseline_mean: float) -> float:
        """The tolerance in points for a row whose baseline mean is ``baseline_mean``."""
        return abs(baseline_mean) * self.amount / 100 if self.percent else self.amount

    def __str__(self) -> str:
        return f"{self.metric}:{self.amount:g}{'%' if self.percent else ''}"


DEFAULT_TOLERANCES = (Tolerance(metric="composite", amount=5.0, percent=True),)
"""What a comparison uses where the user stated no tolerance."""


def parse_tolerance(text: str) -> Tolerance:
    """``composite:0.5`` (points) or ``composite:5%`` -> Tolerance; any criterion's name serves as metric.

    Raises UsageError for anything else. Whether the rubric has such a metric, only :func:`evaluate_gate` can tell.
    """
    said = f"--bench-compare-fail {text!r}"
    metric, colon, amount = text.rpartition(":")
    if not colon or not metric.strip():
        raise UsageError(f"{said}: expected METRIC:POINTS or METRIC:PERCENT%, e.g. composite:0.5 or composite:5%")
    found = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*(%?)", amount.strip())
    if not found:
        raise UsageError(f"{said}: {amount.strip()!r} is no drop; expected points or percent from 0 up, like 0.5 or 5%")
    value, percent = float(found[1]), found[2] == "%"
    if percent and value > 100:
        raise UsageError(  # where penalties or flags leave a mean near 0 or below, it can fall by far more
            f"{said}: more than 100% of the baseline's mean is hardly meant; say it in points, e.g. {metric.strip()}:2"
        )
    return Tolerance(metric=metric.strip(), amount=value, percent=percent)
