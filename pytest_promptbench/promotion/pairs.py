"""Prompts against each other: means over scenarios, over the cells that both have on one tier."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from itertools import combinations
from typing import TYPE_CHECKING

from ..records import LoggedCandidate, Rubric, Tier
from ..scores import K, Table, pair, sit_down_score, tier_scores
from .receipt import ALPHA, Policy

if TYPE_CHECKING:
    from ..statistics import PairedComparison

Key = tuple[str, str]
"""A prompt: its version, and the hash of its content."""
Cells = Table[tuple[str, str]]
"""tier -> (model, scenario) -> composite, repeats averaged."""


def sit_down(candidates: Iterable[LoggedCandidate], rubric: Rubric) -> dict[tuple[str, str], float]:
    """(model, scenario) -> composite of the sit-down verdict that counts."""
    scored = ((c, sit_down_score(tier_scores(c, rubric))) for c in candidates)
    return means(((c.model, c.scenario), score.value) for c, score in scored if score is not None)


def by_scenario(cells: Mapping[tuple[str, str], float]) -> dict[str, float]:
    return means((scenario, value) for (_, scenario), value in cells.items())


def means(values: Iterable[tuple[K, float]]) -> dict[K, float]:
    found: dict[K, list[float]] = defaultdict(list)
    for key, value in values:
        found[key].append(value)
    return {key: math.fsum(v) / len(v) for key, v in found.items()}


def common(a: Cells, b: Cells, tiers: Iterable[Tier]) -> tuple[dict[str, float], dict[str, float]]:
    both = pair(a, b, tiers)
    return by_scenario(both.a), by_scenario(both.b)


def difference(a: Cells, b: Cells, tiers: Iterable[Tier]) -> tuple[float, int] | None:
    """Mean of a less b over their common scenarios, and how many these are; None without one."""
    from ..statistics.paired import DIGITS, differences

    mine, theirs = common(a, b, tiers)
    if not mine:
        return None
    gaps = differences(list(mine.values()), [theirs[s] for s in mine])
    return round(math.fsum(gaps) / len(mine), DIGITS), len(mine)


def mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return math.fsum(found) / len(found) if found else None


def best(judged: Mapping[Key, Cells], champion: Cells | None, policy: Policy) -> Key:
    """The prompt that is furthest ahead of the champion; without one, ahead of most others.

    Ties go to the champion, else by name. Always in pairs: means over different scenarios would rank the easier ones.
    Of those that are ahead of the champion, the ones that share enough scenarios with it to show anything come first,
    whatever the lead of others.
    """
    rivals = sum(found is not champion for found in judged.values())

    def against(key: Key, found: Cells) -> tuple[float, float, bool, Key]:
        ahead, scenarios = difference(judged[key], found, policy.deciding) or (-math.inf, 0)
        shown = 0 if scenarios >= fewest(rivals) else 1
        return (shown if ahead > 0 else 2), -ahead, judged[key] is not found, key

    if champion is not None:
        return min(judged, key=lambda key: against(key, champion))
    leads: dict[Key, list[float]] = {key: [] for key in judged}
    for one, other in combinations(judged, 2):
        if (gap := difference(judged[one], judged[other], policy.deciding)) is not None:
            leads[one].append(gap[0])
            leads[other].append(-gap[0])
    return min(judged, key=lambda key: (-sum((g > 0) - (g < 0) for g in leads[key]), -math.fsum(leads[key]), key))


def compared(winner: Cells, champion: Cells, policy: Policy, rivals: int) -> PairedComparison:
    """With an interval that allows for the winner being the best of ``rivals`` (Bonferroni)."""
    from ..statistics import compare

    return compare(*common(winner, champion, policy.deciding), level=1 - ALPHA / max(1, rivals))


def fewest(rivals: int) -> int:
    """The fewest scenarios that can tell anything, where the winner is the best of ``rivals``."""
    from ..statistics import fewest_pairs

    return fewest_pairs(ALPHA / max(1, rivals))
