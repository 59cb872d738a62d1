"""Which candidates a person should look at to check the automatic judge, and with which probability each was drawn."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass

from .records import LoggedCandidate, Record, Rubric, Tier, Verdict
from .scores import verdict_composite


@dataclass(frozen=True, kw_only=True)
class Drawn(Record):
    """A candidate of an audit. ``probability`` is 1 for one that was picked by its ``disagreement`` (in points)."""

    candidate: LoggedCandidate
    probability: float
    disagreement: float | None = None


def auditable(candidates: Iterable[LoggedCandidate]) -> list[LoggedCandidate]:
    """Those that the automatic judge has scored."""
    return [c for c in candidates if c.error is None and c.automatic() is not None]


def disagreement(candidate: LoggedCandidate, rubric: Rubric, *, with_itself: bool) -> float | None:
    """How far the automatic composite is from the sit-down one, or from the judge's own second one; None without both.

    In points, and never negative: too kind and too harsh count the same.
    """
    first = candidate.automatic()
    other: Verdict | None = candidate.sit_down()
    if with_itself:
        other = next((v for v in candidate.second_verdicts if v.judge.tier is Tier.AUTO), None)
    if first is None or other is None:
        return None
    values = [verdict_composite(v, candidate, rubric) for v in (first, other)]
    return None if values[0] is None or values[1] is None else abs(values[0] - values[1])


def draw(candidates: Iterable[LoggedCandidate], rubric: Rubric, n: int, *, seed: int) -> list[Drawn]:
    """Up to ``n`` candidates: the larger disagreements up to half of ``n``, the rest at random.

    Disagreement is with the sit-down tier where it has scored anything, else of the judge with itself. The random part
    comes from those that no person has scored, while there are any. What is picked for its disagreement is there for
    certain, so its probability is 1; a random one's is the share of its pool that was drawn. Both depend on ``seed``
    and on which candidates there are, not on their order.
    """
    pool = sorted(auditable(candidates), key=lambda c: c.run_id)
    rng = random.Random(seed)
    rng.shuffle(pool)
    with_itself = all(c.sit_down() is None for c in pool)
    gaps = {c.run_id: disagreement(c, rubric, with_itself=with_itself) for c in pool}
    largest = sorted((c for c in pool if gaps[c.run_id]), key=lambda c: -(gaps[c.run_id] or 0.0))[: n // 2]
    picked = {c.run_id for c in largest}
    rest = [c for c in pool if c.run_id not in picked]
    unseen = [c for c in rest if c.sit_down() is None] or rest
    chosen = unseen[: n - len(largest)]
    probability = len(chosen) / len(unseen) if unseen else 1.0
    return [
        *(Drawn(candidate=c, probability=1.0, disagreement=gaps[c.run_id]) for c in largest),
        *(Drawn(candidate=c, probability=probability, disagreement=gaps[c.run_id]) for c in chosen),
    ]
