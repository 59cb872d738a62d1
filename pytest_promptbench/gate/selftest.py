"""The gate, tested on itself: how often it fails where nothing changed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Self

from .. import statistics as stats
from ..errors import UsageError
from ..records import Record
from .baseline import Baseline
from .tolerance import DEFAULT_TOLERANCES, Tolerance
from .verdict import Case, GateOutcome, check_metrics, decide

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..statistics.resampling import Floats


@dataclass(frozen=True, kw_only=True)
class SelfTest(Record):
    """How often the gate failed, and was inconclusive, over ``n`` pairs of sessions between which nothing changed.

    Where it is strict, what was inconclusive failed too. ci: Wilson 95 % interval of the false-failure rate.
    """

    n: int
    failures: int
    inconclusive: int
    rate: float
    ci: tuple[float, ...]


def self_test(
    baseline: Baseline,
    n: int,
    seed: int = 0,
    *,
    tolerances: Sequence[Tolerance] = DEFAULT_TOLERANCES,
    strict: bool = False,
) -> SelfTest:
    """Compare a baseline with itself ``n`` times under resampling: two sessions drawn from the same source.

    A drawn session keeps every row's mean and every scenario's difficulty, and puts on each cell the noise of a random
    scenario, the same one for all rows and metrics, so that noise stays as wide and as correlated as it is. Noise is
    what row mean and scenario difficulty do not explain; with a single row, difficulty cannot be told from noise and
    counts as noise. Raises UsageError for n < 1, for an unknown metric, and where fewer than two scenarios are scored.
    """
    if n < 1:
        raise UsageError(f"--bench-self-test {n}: expected a number of repetitions, e.g. 1000")
    tolerances = tuple(tolerances) or DEFAULT_TOLERANCES
    check_metrics(tolerances, baseline.rubric, baseline.better)
    import numpy as np

    rng = np.random.default_rng(seed)
    sampler = _Sampler.of(baseline, tolerances, rng)
    failures = inconclusive = 0
    for _ in range(n):
        outcomes = [v.outcome for v in decide(sampler.draw(rng), seed=seed)[0]]
        unclear = GateOutcome.FAIL not in outcomes and GateOutcome.INCONCLUSIVE in outcomes
        failures += GateOutcome.FAIL in outcomes or (strict and unclear)
        inconclusive += unclear
    ci = stats.wilson_interval(failures, n)
    assert ci is not None
    return SelfTest(n=n, failures=failures, inconclusive=inconclusive, rate=failures / n, ci=ci)


class _Row(NamedTuple):
    """One row and metric of a baseline, scored in ``scenarios``, which are ``at`` these places of the tables."""

    scenarios: list[str]
    at: tuple[int, int, NDArray[np.bool_]]
    tolerances: Sequence[Tolerance]
    higher: bool


class _Sampler(NamedTuple):
    """Where sessions are drawn from: what is expected and the noise on it, of shape (metrics, rows, scenarios)."""

    expected: Floats
    noise: Floats
    rows: list[_Row]

    @classmethod
    def of(cls, baseline: Baseline, tolerances: Sequence[Tolerance], rng: np.random.Generator) -> Self:
        import numpy as np

        metrics = list(dict.fromkeys(t.metric for t in tolerances))
        scenarios = sorted({s for row in baseline.rows for s, scores in row.scores.items() if scores})
        table = np.array(
            [[[row.scores.get(s, {}).get(m, np.nan) for s in scenarios] for row in baseline.rows] for m in metrics]
        ).reshape(len(metrics), len(baseline.rows), len(scenarios))
        known = np.isfinite(table)
        if len(scenarios) < 2 or not known.any():
            raise UsageError("--bench-self-test: the baseline needs scores of at least two scenarios")
        effects = [_effects(scores, there, rng) for scores, there in zip(table, known, strict=True)]
        rows = [
            _Row(
                scenarios=list(itertools.compress(scenarios, known[k, r])),
                at=(k, r, known[k, r]),
                tolerances=[t for t in tolerances if t.metric == metric],
                higher=baseline.better[metric] == "higher",
            )
            for k, metric in enumerate(metrics)
            for r in np.flatnonzero(known[k].any(axis=1)).tolist()
        ]
        return cls(np.stack([e for e, _ in effects]), np.stack([n for _, n in effects]), rows)

    def draw(self, rng: np.random.Generator) -> list[Case]:
        """What the gate compares of two sessions."""
        n = self.noise.shape[2]
        before, after = (self.expected + self.noise[:, :, rng.integers(0, n, n)] for _ in range(2))
        return [_case(r.scenarios, before[r.at], after[r.at], r.tolerances, higher=r.higher) for r in self.rows]


def _case(
    scenarios: list[str], before: Floats, after: Floats, tolerances: Sequence[Tolerance], *, higher: bool
) -> Case:
    """One row and metric of two drawn sessions. ``higher``: whether that is better."""
    fall = stats.differences(before, after) if higher else stats.differences(after, before)
    points = min(t.points(float(before.mean())) for t in tolerances)
    return Case(scenarios=scenarios, worse=fall.tolist(), tolerance=points, complete=True)


def _effects(table: Floats, known: NDArray[np.bool_], rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Row mean plus scenario effect, and what is left, of a (rows, scenarios) table; gaps get noise of their row."""
    import numpy as np

    rows = int(known.any(axis=1).sum())
    filled = np.where(known, table, 0.0)
    means = filled.sum(axis=1, keepdims=True) / np.maximum(known.sum(axis=1, keepdims=True), 1)
    centred = np.where(known, table - means, 0.0)
    difficulty = centred.sum(axis=0) / np.maximum(known.sum(axis=0), 1) if rows > 1 else np.zeros(table.shape[1])
    noise = np.where(known, centred - difficulty, 0.0) * (math.sqrt(rows / (rows - 1)) if rows > 1 else 1.0)
    for r in range(table.shape[0]):
        if known[r].any():
            noise[r, ~known[r]] = rng.choice(noise[r, known[r]], int((~known[r]).sum()))
    return means + difficulty, noise
