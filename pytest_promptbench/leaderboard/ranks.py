"""Rows against each other: ranks, ties, and each row less the first."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..records import Row, Tier
from ..scores import layered, pair

if TYPE_CHECKING:
    from ..statistics import MeanEstimate

CALIBRATED = "calibrated"
"""The ``tier`` of a comparison of estimates."""


def tied(rows: Sequence[Row], *, point: float) -> list[int]:
    """Ranks of rows that are sorted best first, by ``statistics.tied_ranks``; ``point`` is the rubric's."""
    from ..statistics import Board, tied_ranks

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

    from ..statistics import MeanEstimate
    from ..statistics.ties import rounding_step

    assert row.tier is not None
    step = rounding_step(np.array([v for scores in row.by_tier.values() for v in scores.values()]), most=point)
    if row.estimated and row.calibrated is not None:
        c = row.calibrated
        if c["se"] is None:
            return None
        return MeanEstimate(c["estimate"], c["se"], c["df"], c["clusters"], row.tier, step=step)
    values = list(row.scenario_scores.values())
    n = len(values)
    if n < 2:
        return None
    mean = math.fsum(values) / n
    se = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1) / n)
    return MeanEstimate(mean, se, n - 1, n, row.tier, step=step)


def comparisons_of(judged: Sequence[Row], *, point: float) -> Iterable[Mapping[str, Any]]:
    """Every further row less the first.

    The first is the first by looking, so the family of tests is that of all pairs of rows, as for the ranks.
    """
    if len(judged) < 2:
        return
    from ..statistics import holm

    first, *others = judged
    found = [_compared(row, first, point) for row in others]
    tested = [c["p_value"] for c in found if c["p_value"] is not None]
    adjusted = iter(holm(tested, family=math.comb(len(judged), 2)))
    for row, c in zip(others, found, strict=True):
        p_holm = None if c["p_value"] is None else next(adjusted)
        yield {"model": row.model, "prompt": row.prompt, **c, "p_holm": p_holm}


def _compared(row: Row, first: Row, point: float) -> dict[str, Any]:
    """Estimates where one of the two is one and both are of one scale, else scores at common scenarios on one tier."""
    from ..statistics import compare, compare_estimates

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
