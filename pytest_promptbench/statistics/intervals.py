"""Intervals of a mean over scenarios, and of a rate."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from .resampling import Floats, acceleration, bca_interval, bootstrap_means

SMALL = 5
"""Up to this many scenarios an interval is Student's t: so few values hold no tails that a bootstrap could find."""


def mean_interval(values: Sequence[float], *, level: float = 0.95, seed: int = 0) -> tuple[float, float] | None:
    """Interval of the mean of ``values``, one finite value a scenario, in their unit; None for fewer than two.

    Six scenarios and more: BCa bootstrap (all multisets up to 8, else 10,000 seeded resamples, from 300 on their
    Cornish-Fisher expansion) with its tail levels widened for small samples, see :func:`~.resampling.bca_interval`.
    Two to five: Student's t interval, which may reach beyond the scale. Constant values give (m, m). Measured coverage
    is in ``docs/statistics.md``.
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
