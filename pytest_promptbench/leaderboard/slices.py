"""The rows of a leaderboard over the scenarios of one tag each."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from ..records import Row, Tier

MOST = 30
"""Tags that are looked at, those with the most scenarios: a tag may be a number."""
LINES = 1_000
"""Tags times rows that are looked at, but at least one tag: an interval takes milliseconds."""


def largest(rows: int, tags: Mapping[str, Collection[str]]) -> tuple[dict[str, list[str]], int]:
    """Each tag that is looked at with its scenarios, and how many tags are not; ``tags`` maps a scenario to its own."""
    scenarios: dict[str, list[str]] = defaultdict(list)
    for scenario, own in tags.items():
        for tag in dict.fromkeys(own):
            scenarios[tag].append(scenario)
    most = max(1, min(MOST, LINES // max(1, rows)))
    first = sorted(scenarios, key=lambda tag: (-len(scenarios[tag]), tag))[:most]
    return {tag: scenarios[tag] for tag in sorted(first)}, len(scenarios) - len(first)


def by_tag(
    rows: Sequence[Row],
    scenarios: Mapping[str, Sequence[str]],
    interval: Callable[[Sequence[float]], tuple[float, float] | None],
) -> Iterator[dict[str, Any]]:
    """Each of ``rows`` over the scenarios of each tag; ``scenarios`` maps a tag to its own, as :func:`largest` does.

    Scores are those of the row's ``tier``; of a row that is an estimate, the automatic tier's, since an audit picked
    what was labelled. ``scored`` of a tag's ``scenarios`` have such a score; ``composite`` is None where none has.
    """
    for tag, its in scenarios.items():
        for row in rows:
            tier, scores = row.tier, row.scenario_scores
            if row.estimated:
                tier, scores = Tier.AUTO.value, row.by_tier.get(Tier.AUTO.value, {})
            values = [scores[s] for s in its if s in scores]
            yield {
                "tag": tag,
                "model": row.model,
                "prompt": row.prompt,
                "composite": math.fsum(values) / len(values) if values else None,
                "ci95": interval(values) if len(values) >= 2 else None,
                "tier": tier if values else None,
                "scored": len(values),
                "scenarios": len(its),
            }
