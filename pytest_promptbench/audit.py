"""Which candidates a person should look at to check a judge, and with which probability each was drawn.

An audit that was drawn says nothing yet about the labels there are: only when its packet is taken in does it give those
that it brought their sampling probability. Until then its draw stands on the candidates under the audit's own id.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .records import Draw, LoggedCandidate, Record, Rubric, Tier, sha256
from .scores import verdict_composite


@dataclass(frozen=True, kw_only=True)
class Drawn(Record):
    """A candidate of an audit: picked by its ``disagreement`` (in points), or at random with ``probability``."""

    candidate: LoggedCandidate
    probability: float
    random: bool
    disagreement: float | None = None


@dataclass(frozen=True, kw_only=True)
class Audit(Record):
    """What an audit draws. ``id`` is a hash of the draw, so that the same draw twice is one audit.

    ``until`` is as in ``records.Draw``.
    """

    id: str
    round: int
    seed: int
    until: int
    drawn: tuple[Drawn, ...]

    def draw_of(self, drawn: Drawn) -> Draw:
        return Draw(
            probability=drawn.probability, random=drawn.random, round=self.round, seed=self.seed, until=self.until
        )


def next_audit(candidates: Sequence[LoggedCandidate], rubric: Rubric, n: int, *, experiment: str, task: str) -> Audit:
    """The audit of ``n`` candidates that follows those that were taken in.

    Its seed depends on experiment, task, rubric, round and ``n`` alone: exported twice, it draws the same.
    """
    number = 1 + len({i for c in candidates for i in (c.audited, c.checked) if i is not None})
    seed = int(sha256(["promptbench-audit", experiment, task, rubric.sha256, number, n])[:8], 16)
    drawn = tuple(draw(candidates, rubric, n, seed=seed))
    content = sorted([d.candidate.run_id, d.probability, d.random] for d in drawn)
    until = max((c.started_at for c in candidates), default=0)
    return Audit(
        id=sha256(["promptbench-audit", seed, content])[:12], round=number, seed=seed, until=until, drawn=drawn
    )


def sampling_probabilities(candidates: Iterable[LoggedCandidate]) -> dict[str, float]:
    """Run id -> the probability with which all audits so far labelled it, for every label that an audit brought.

    1 for what was picked. What was drawn at random would have been labelled by any of the audits' draws, so its
    probability is 1 - prod(1 - p) over all of them, whichever it was that drew it: with each audit's own share, the
    later ones, drawn from a smaller rest, would weigh too little. An audit before a candidate was started, as before an
    edit of its prompt, could not have drawn it, and takes no part.
    """
    return _together([(c, c.audited) for c in candidates if c.audited is not None])


def checking_probabilities(candidates: Iterable[LoggedCandidate]) -> dict[str, float]:
    """Likewise of every person's verdict that an audit brought where Claude Code had judged before."""
    return _together([(c, c.checked) for c in candidates if c.checked is not None])


def _together(labelled: Sequence[tuple[LoggedCandidate, str]]) -> dict[str, float]:
    """Of candidates with the audit that labelled each. Audits take part that brought a label which fell at random."""
    own = [(c, audit, c.draws[audit]) for c, audit in labelled if audit in c.draws]
    audits = {audit: d for _, audit, d in own if d.random}

    def together(c: LoggedCandidate, audit: str) -> float:
        could = (d for i, d in audits.items() if i == audit or d.until is None or c.started_at <= d.until)
        return 1 - math.prod(1 - d.probability for d in could)

    return {c.run_id: together(c, audit) if d.random else 1.0 for c, audit, d in own}


def auditable(candidates: Iterable[LoggedCandidate]) -> list[LoggedCandidate]:
    """Those that the automatic judge has scored."""
    return [c for c in candidates if c.error is None and c.automatic() is not None]


def unchecked(candidates: Iterable[LoggedCandidate]) -> list[LoggedCandidate]:
    """Those that Claude Code has judged and no person has."""
    return [c for c in candidates if c.error is None and (v := c.sit_down()) and v.judge.tier is Tier.CLAUDE_CODE]


def spot_check(
    candidates: Iterable[LoggedCandidate], rubric: Rubric, n: int, *, experiment: str, task: str
) -> tuple[list[LoggedCandidate], int]:
    """Up to ``n`` of the ``unchecked``, drawn at random, and the seed; drawn twice, they are the same."""
    seed = int(sha256(["promptbench-spot-check", experiment, task, rubric.sha256, n])[:8], 16)
    pool = sorted(unchecked(candidates), key=lambda c: c.run_id)
    return random.Random(seed).sample(pool, min(n, len(pool))), seed


def disagreement(candidate: LoggedCandidate, rubric: Rubric, *, with_itself: bool) -> float | None:
    """How far the automatic composite is from the sit-down one, or from the judge's own second one; None without both.

    In points, and never negative: too kind and too harsh count the same.
    """
    first = candidate.automatic()
    if first is None:
        return None
    other = candidate.again(first) if with_itself else candidate.sit_down()
    if other is None:
        return None
    values = [verdict_composite(v, candidate, rubric) for v in (first, other)]
    return None if values[0] is None or values[1] is None else abs(values[0] - values[1])


def draw(candidates: Iterable[LoggedCandidate], rubric: Rubric, n: int, *, seed: int) -> list[Drawn]:
    """Up to ``n`` candidates: the larger disagreements up to half of ``n``, the rest at random.

    Disagreement is with the sit-down tier where it has scored anything, else of the judge with itself; those come first
    that no person has judged. The random part comes from those without a sit-down verdict, while there are any, then
    from those without a person's. What is picked for its disagreement is there for certain, so its probability is 1; a
    random one's is the share of its pool that was drawn. Both depend on ``seed`` and on which candidates there are, not
    on their order.
    """
    pool = sorted(auditable(candidates), key=lambda c: c.run_id)
    rng = random.Random(seed)
    rng.shuffle(pool)
    with_itself = all(c.sit_down() is None for c in pool)
    gaps = {c.run_id: disagreement(c, rubric, with_itself=with_itself) for c in pool}
    disagreeing = (c for c in pool if gaps[c.run_id])
    largest = sorted(disagreeing, key=lambda c: (_has_a_persons(c), -(gaps[c.run_id] or 0.0)))[: n // 2]
    picked = {c.run_id for c in largest}
    rest = [c for c in pool if c.run_id not in picked]
    rng.shuffle(rest)  # of equal disagreements the first were picked: what is first now disagrees less than the rest
    unseen = [c for c in rest if c.sit_down() is None] or [c for c in rest if not _has_a_persons(c)] or rest
    chosen = unseen[: n - len(largest)]
    probability = len(chosen) / len(unseen) if unseen else 1.0
    return [
        *(Drawn(candidate=c, probability=1.0, random=False, disagreement=gaps[c.run_id]) for c in largest),
        *(Drawn(candidate=c, probability=probability, random=True, disagreement=gaps[c.run_id]) for c in chosen),
    ]


def _has_a_persons(candidate: LoggedCandidate) -> bool:
    return candidate.latest(Tier.HUMAN) is not None
