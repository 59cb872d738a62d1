"""Intervals of a mean over scenarios, of a rate, and the ties of a leaderboard."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from .resampling import Floats, acceleration, bca_interval, bca_p_value, bootstrap_means

MOST_BCA = 40
"""Rows of a board up to which pairs are told apart by BCa too; beyond, by Student's t alone."""
SMALL = 5
"""Up to this many scenarios an interval is Student's t: so few values hold no tails that a bootstrap could find."""


def mean_interval(values: Sequence[float], *, level: float = 0.95, seed: int = 0) -> tuple[float, float] | None:
    """Interval of the mean of ``values``, one finite value a scenario, in their unit; None for fewer than two.

    Six scenarios and more: BCa bootstrap (all multisets up to 8, else 10,000 seeded resamples) with its tail levels
    widened for small samples, see :func:`~.resampling.bca_interval`. Two to five: Student's t interval, which may
    reach beyond the scale. Constant values give (m, m). Measured coverage is in ``docs/statistics.md``.
    Raises ValueError for a level outside (0, 1) or a value that is not finite.
    """
    x = finite(values)
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; it must lie between 0 and 1, e.g. 0.95")
    n = len(x)
    if n < 2:
        return None
    mean = float(x.mean())
    if np.ptp(x) == 0:
        return mean, mean
    if n <= SMALL:
        reach = _t_quantile(level, n - 1) * float(x.std(ddof=1)) / math.sqrt(n)
        return mean - reach, mean + reach
    return bca_interval(mean, bootstrap_means(x, seed=seed), acceleration(-x), n=n, level=level)


def finite(values: Sequence[float] | Floats) -> Floats:
    """``values`` as an array; ValueError names the first that is NaN or infinite: unscored is left out, not NaN."""
    x = np.asarray(values, dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(x))
    if len(bad):
        raise ValueError(f"value {int(bad[0])} is {x[bad[0]]}; leave out what is not scored")
    return x


def _t_quantile(level: float, df: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(df, (1 + level) / 2))


def wilson_interval(successes: int, n: int, *, level: float = 0.95) -> tuple[float, float] | None:
    """Wilson score interval of a rate, ``successes`` of ``n`` independent scenarios; None for n = 0.

    Source: Wilson 1927, JASA 22. Holds its level for small n and for rates near 0 and 1, where mean +- 1.96 SE fails.
    Raises ValueError unless 0 <= successes <= n.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n}: give 0 <= successes <= n")
    if n == 0:
        return None
    from scipy.special import ndtri

    z = float(ndtri((1 + level) / 2))
    rate, z2 = successes / n, z * z
    middle = (rate + z2 / (2 * n)) / (1 + z2 / n)
    reach = z * math.sqrt(rate * (1 - rate) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    low = 0.0 if successes == 0 else middle - reach
    high = 1.0 if successes == n else middle + reach
    return low, high


def tied_ranks(rows: Sequence[Mapping[str, float]], *, level: float = 0.95, seed: int = 0) -> list[int]:
    """Competition ranks ("1224") of leaderboard rows that are sorted best first, tied where nothing tells them apart.

    rows: for each row scenario -> composite. Two rows differ where the interval of their mean paired difference over
    common scenarios leaves out 0 after Holm's correction over **all pairs** of rows (the leaders are picked by looking,
    so the family is every comparison that could have been made). The interval is the wider of BCa's and Student's t,
    with the spread never taken below what rounding to the scores' own step leaves open; so very few scenarios tell
    apart only what lies far apart, and fewer than two common ones nothing.

    "Not told apart" is not transitive. Here a row is compared with the **leader** (first row) of the present group: it
    joins while tied with that leader, else it opens the next group with its own place as rank. So rows that share a
    rank are all tied with their leader, not each with each; and two neighbours of different rank may be tied.
    """
    scenarios = {s: i for i, s in enumerate(sorted({s for row in rows for s in row}))}
    table = np.full((len(rows), len(scenarios)), np.nan)
    for i, row in enumerate(rows):
        for s, value in row.items():
            table[i, scenarios[s]] = value
        finite(list(row.values()))
    pairs: list[tuple[int, int]] = []
    p_values: list[float] = []
    for i in range(len(rows)):
        for j, p in _against_later_rows(table, i, level=level, seed=seed):
            pairs.append((i, j))
            p_values.append(p)
    from .paired import holm

    apart = {pair for pair, p in zip(pairs, holm(p_values), strict=True) if p <= 1 - level}
    ranks: list[int] = []
    leader = 0
    for j in range(len(rows)):
        if j and (leader, j) in apart:
            leader = j
        ranks.append(leader + 1)
    return ranks


def _against_later_rows(table: Floats, i: int, *, level: float, seed: int) -> list[tuple[int, float]]:
    """(j, p-value) of row i against each later row with which it has two scenarios in common.

    Two-sided, of the paired mean difference: the larger of Student's t and BCa; see :func:`tied_ranks`. BCa is asked
    only where t alone would tell the rows apart, and not on boards of more than ``MOST_BCA`` rows: a p-value above the
    level ties them whatever its size.
    """
    from scipy.special import stdtr

    later = table[i + 1 :]
    there = np.isfinite(table[i] - later)
    n = there.sum(axis=1)
    enough = np.flatnonzero(n >= 2)
    if len(table) > MOST_BCA:
        d = np.where(there, table[i] - later, 0.0)[enough]
        n, there = n[enough], there[enough]
        mean = d.sum(axis=1) / n
        spread = np.sqrt((np.where(there, d - mean[:, None], 0.0) ** 2).sum(axis=1) / (n - 1))
        spread = np.maximum(spread, _step(table[np.isfinite(table)]) / math.sqrt(6))
        p = np.where(mean == 0, 1.0, 2 * stdtr(n - 1, -np.abs(mean) / spread * np.sqrt(n)))
        return [(i + 1 + int(k), float(x)) for k, x in zip(enough, p, strict=True)]
    return [
        (i + 1 + int(k), _difference_p_value(table[i, there[k]], later[k, there[k]], level=level, seed=seed))
        for k in enough
    ]


def _step(scores: Floats) -> float:
    """The smallest step between scores, at most 1: what rounding leaves open."""
    steps = np.diff(np.unique(np.round(scores, 9)))
    return min(1.0, float(steps.min())) if len(steps) else 1.0


def _difference_p_value(first: Floats, second: Floats, *, level: float, seed: int) -> float:
    from scipy.special import stdtr

    d = first - second
    n = len(d)
    mean = float(d.mean())
    if mean == 0:
        return 1.0
    step = _step(np.concatenate([first, second]))
    spread = max(float(d.std(ddof=1)), step / math.sqrt(6))  # two roundings, each uniform over one step: 2 step**2 / 12
    by_t = 2 * float(stdtr(n - 1, -abs(mean) / spread * math.sqrt(n)))
    if by_t > 1 - level or np.ptp(d) == 0:
        return by_t
    return max(by_t, bca_p_value(mean, bootstrap_means(d, seed=seed), acceleration(-d), n=n))
