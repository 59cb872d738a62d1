"""``leaderboard.json`` and ``statistics.json`` as plain values."""

from __future__ import annotations

import math
from typing import Any

from ..records import Leaderboard, Row

LEADERBOARD_SCHEMA = "promptbench/leaderboard/1"
STATISTICS_SCHEMA = "promptbench/statistics/1"


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
        "by_tag": [dict(s) for s in leaderboard.by_tag],
        "tags_left_out": leaderboard.tags_left_out,
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
