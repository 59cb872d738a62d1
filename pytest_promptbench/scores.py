"""Composites by tier: what a candidate scored, by whom, with which weight, and what of two sides may be compared.

Whatever turns verdicts into a figure starts here: leaderboard, comparisons, promotion, gate, audits, agreement. A
difference is always taken on one tier, since tiers differ in how strict they are.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

from .records import LoggedCandidate, Rubric, Tier, Verdict, composite

SIT_DOWN = (Tier.HUMAN, Tier.CLAUDE_CODE)
GROUPS: tuple[tuple[Tier, ...], ...] = (SIT_DOWN, (Tier.AUTO,))
"""Tiers in the order in which they count. Tiers of one group may be used side by side, each at its own scenarios."""
TIERS = tuple(tier for group in GROUPS for tier in group)


def tier_text(tiers: Iterable[Tier]) -> str | None:
    """Tiers as boards, baselines and reports name them: ``human``, ``claude-code+human``; None where there are none."""
    return "+".join(sorted(set(tiers))) or None


def tiers_in(text: str | None) -> set[str]:
    """What :func:`tier_text` made a text of."""
    return set(text.split("+")) if text else set()


K = TypeVar("K", bound=Hashable)
Table = Mapping[Tier, Mapping[K, float]]
"""tier -> key (a scenario, or a model and a scenario) -> composite, repeats averaged."""


class TierScore(NamedTuple):
    """The composite of one tier's latest verdict. probability: that of the audit behind the label; None without one."""

    tier: Tier
    probability: float | None
    value: float

    @property
    def weight(self) -> float:
        """How many candidates the score stands for."""
        return 1.0 if self.probability is None else 1.0 / self.probability


def verdict_composite(verdict: Verdict, candidate: LoggedCandidate, rubric: Rubric) -> float | None:
    """In points, with the flags that a program filled; None while anything is unscored or no number."""
    scores = {**verdict.scores, **candidate.checks} if candidate.checks else verdict.scores
    value = composite(scores, rubric)
    return value if value is not None and math.isfinite(value) else None


def tier_scores(candidate: LoggedCandidate, rubric: Rubric) -> tuple[TierScore, ...]:
    """What each tier scored, highest first, but for tiers whose latest verdict is not whole; nothing of a failure."""
    if candidate.error is not None or not candidate.verdicts:
        return ()
    found = []
    for tier in TIERS:
        verdict = candidate.latest(tier)
        value = None if verdict is None else verdict_composite(verdict, candidate, rubric)
        if value is not None:
            found.append(TierScore(tier, candidate.sampling_probability if tier in SIT_DOWN else None, value))
    return tuple(found)


def sit_down_score(scores: Sequence[TierScore]) -> TierScore | None:
    """What the sit-down verdict that counts gives: ``tier_scores`` has a person's before Claude Code's."""
    return next((s for s in scores if s.tier in SIT_DOWN), None)


def automatic_score(scores: Sequence[TierScore]) -> TierScore | None:
    return next((s for s in scores if s.tier is Tier.AUTO), None)


def automatic_judges(candidates: Iterable[LoggedCandidate]) -> tuple[str, ...]:
    """The names of the automatic judges whose verdicts count; twice where one has been changed in between."""
    latest = [v for c in candidates if c.error is None and (v := c.automatic()) is not None]
    found = {(v.judge.name, None if v.fingerprint is None else v.fingerprint.sha256) for v in latest}
    return tuple(sorted(name for name, _ in found))


def judges_in_words(names: Sequence[str]) -> str:
    """Automatic judges as :func:`automatic_judges` gives them: ``gpt, haiku in 2 versions``."""
    counts = Counter(names)
    return ", ".join(name if count == 1 else f"{name} in {count} versions" for name, count in counts.items())


Scored = tuple[LoggedCandidate, tuple[TierScore, ...]]


def table(scored: Iterable[Scored], key: Callable[[LoggedCandidate], K]) -> Table[K]:
    """Every tier's composites by ``key``, of candidates with their :func:`tier_scores`."""
    values: dict[Tier, dict[K, list[float]]] = {tier: defaultdict(list) for tier in TIERS}
    for c, scores in scored:
        for score in scores:
            values[score.tier][key(c)].append(score.value)
    return {
        tier: {k: math.fsum(v) / len(v) for k, v in sorted(found.items())} for tier, found in values.items() if found
    }


# -- two sides


class Paired(NamedTuple, Generic[K]):
    """The keys at which two sides compare, the scores of both there, and the tier on which each was taken."""

    a: dict[K, float]
    b: dict[K, float]
    tiers: dict[K, Tier]

    @property
    def tier(self) -> str | None:
        """The tiers as a report names them; None where nothing compares."""
        return tier_text(self.tiers.values())


def pair(a: Table[K], b: Table[K], tiers: Iterable[Tier] = TIERS) -> Paired[K]:
    """What of two sides may be compared, by ``statistics.on_one_layer``: see there."""
    from .statistics import on_one_layer

    layers, groups = layered([a, b], tiers)
    keys = layers.keys
    _, layer = on_one_layer(layers.values[:, 0], layers.values[:, 1], groups)
    at = {key: layers.tiers[k] for key, k in zip(keys, layer.tolist(), strict=True) if k >= 0}
    return Paired({k: a[t][k] for k, t in at.items()}, {k: b[t][k] for k, t in at.items()}, at)


@dataclass(frozen=True, kw_only=True)
class Layers(Generic[K]):
    """Tables as one array of shape (tiers, tables, keys), NaN where a tier has not scored."""

    values: Any
    tiers: tuple[Tier, ...]
    keys: tuple[K, ...]


def layered(tables: Sequence[Table[K]], tiers: Iterable[Tier] = TIERS) -> tuple[Layers[K], tuple[tuple[int, ...], ...]]:
    """Tables of ``tiers`` as an array, and where ``GROUPS`` stand in it; a tier without scores has no place."""
    import numpy as np

    wanted = set(tiers)
    there = tuple(t for t in TIERS if t in wanted and any(t in table for table in tables))
    keys = tuple(sorted({k for table in tables for t in there for k in table.get(t, ())}))  # type: ignore[type-var]
    place = {key: i for i, key in enumerate(keys)}
    values = np.full((len(there), len(tables), len(keys)), np.nan)
    for k, tier in enumerate(there):
        for i, found in enumerate(tables):
            scores = found.get(tier, {})
            values[k, i, [place[key] for key in scores]] = list(scores.values())
    groups = tuple(tuple(there.index(t) for t in group if t in there) for group in GROUPS)
    return Layers(values=values, tiers=there, keys=keys), groups
