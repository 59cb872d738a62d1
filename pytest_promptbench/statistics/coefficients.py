"""Coefficients of agreement, each computed from how often each pair of two judges' ratings occurs.

Of many samples at once: thousands of resamples are a few products with a sparse matrix, whose size is that of the data.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .resampling import Floats, Ints, counted

MOST_POINTS = 100_000

Flags = NDArray[np.bool_]
Statistic = Callable[[Floats], Floats]
"""How often each pair of ratings occurs, shape (samples, pairs) -> one value a sample; NaN where it is not defined."""


class Figure(NamedTuple):
    """A statistic, why it is not defined where it is not, and of a rate the pairs of ratings that it is a share of."""

    statistic: Statistic
    undefined: str | None = None
    share_of: Flags | None = None


def scale_points(low: float | None, high: float | None, ratings: Floats, step: float | None = None) -> Floats:
    """The points of a scale: whole steps from its minimum; tenths of it where it is shorter than 2.

    Without limits, those of the ``ratings``. A ``step`` that is given counts, unless that is more than ``MOST_POINTS``.
    """
    first = float(ratings.min()) if low is None else low
    last = float(ratings.max()) if high is None else high
    if last <= first:
        return np.array([first])
    if step is None or (last - first) / step > MOST_POINTS:
        step = 1.0 if last - first >= 2 else (last - first) / 10
    steps = np.arange(math.floor((last - first) / step + 1e-9) + 1, dtype=np.float64)
    return first + step * steps


def nearest_point(ratings: Floats, points: Floats) -> Ints:
    """The index of each rating's nearest scale point, halves up, kept within the scale."""
    if len(points) == 1:
        return np.zeros(len(ratings), dtype=np.intp)
    index = np.floor((ratings - points[0]) / (points[1] - points[0]) + 0.5 + 1e-9)
    return np.asarray(np.clip(index, 0, len(points) - 1), dtype=np.intp)


def _gathered(which: Ints, width: int) -> Any:
    """A sparse matrix that adds up columns: column i of what it is multiplied to goes to column ``which[i]``."""
    return counted(np.arange(len(which)), which, len(which), width)


def tables(i: Ints, j: Ints, k: int) -> Callable[[Floats], Floats]:
    """How often each pair occurs -> contingency tables (samples, k, k) of ratings i against j."""
    cells = _gathered(i * k + j, k * k)
    return lambda often: (often @ cells).reshape(-1, k, k)


def mean_of(values: Floats) -> Statistic:
    return lambda often: (often @ values) / often.sum(axis=1)


def rate(true: Flags, *, among: Flags, none: str | None = None) -> Figure:
    """The share of pairs of ratings for which something is ``true``, of those that are ``among``; none: if none is."""
    above, below = (true & among).astype(np.float64), among.astype(np.float64)
    return Figure(lambda often: _ratio(often @ above, often @ below), none, among)


def _ratio(above: Floats, below: Floats) -> Floats:
    """The quotient; NaN where ``below`` is 0."""
    quotient: Floats = np.full(np.broadcast(above, below).shape, np.nan)
    np.divide(above, below, out=quotient, where=np.abs(below) > 1e-12)
    return quotient


def weighted_kappa(i: Ints, j: Ints, points: Floats) -> Statistic:
    """Quadratic-weighted kappa of pairs of ratings, points ``i`` and ``j`` of a scale; plain kappa for two points.

    1 - sum(w observed) / sum(w expected), w the squared distance of the points. NaN where nothing varies. Computed from
    the margins: a table of all pairs of points has 90,000 cells for 300 of them.
    Source: Cohen 1968, Psychological Bulletin 70.
    """
    points = (points - points.mean()) / (np.ptp(points) or 1.0)  # whatever the unit: 0 is told from little by a bound
    first, second = _gathered(i, len(points)), _gathered(j, len(points))
    distance = (points[i] - points[j]) ** 2

    def kappa(often: Floats) -> Floats:
        n, a, b = often.sum(axis=1), often @ first, often @ second
        expected = n * (a @ points**2) + n * (b @ points**2) - 2 * (a @ points) * (b @ points)
        return 1.0 - _ratio(n * (often @ distance), expected)

    return kappa


def ordinal_alpha(i: Ints, j: Ints, k: int) -> Statistic:
    """Krippendorff's ordinal alpha of two judges without gaps, of pairs of ratings, points ``i`` and ``j`` of k.

    1 - (N - 1) sum(o d) / sum(n_c n_k d) over the coincidences o, with d the squared number of ratings between two
    points, half of each end's counted. NaN where nothing varies.
    Source: Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability".
    """
    first, second = _gathered(i, k), _gathered(j, k)

    def alpha(often: Floats) -> Floats:
        margins = often @ first + often @ second
        middles = np.cumsum(margins, axis=1) - margins / 2
        ratings: Floats = margins.sum(axis=1)
        middles -= ((margins * middles).sum(axis=1) / ratings)[:, None]  # distances stay, and so does precision
        observed = 2 * (often * (middles[:, i] - middles[:, j]) ** 2).sum(axis=1)
        expected = 2 * ratings * (margins * middles**2).sum(axis=1)
        return 1.0 - (ratings - 1) * _ratio(observed, expected)

    return alpha


def gwet_ac1(tables: Floats) -> Floats:
    """Gwet's AC1 of contingency tables (samples, k, k): (p - e) / (1 - e), e = sum(q (1 - q)) / (k - 1), q mean shares.

    Unlike kappa it stays high where nearly all answers are the same and the judges agree.
    Source: Gwet 2008, British Journal of Mathematical and Statistical Psychology 61.
    """
    n = tables.sum(axis=(1, 2))
    raw = np.trace(tables, axis1=1, axis2=2) / n
    shares = (tables.sum(axis=1) + tables.sum(axis=2)) / (2 * n[:, None])
    chance: Floats = (shares * (1 - shares)).sum(axis=1) / (tables.shape[1] - 1)
    return _ratio(raw - chance, 1 - chance)


def spearman(x: Floats, y: Floats) -> Statistic:
    """Spearman's correlation of pairs of ratings x and y: Pearson's of mid-ranks."""
    rank_x, rank_y = _ranks(x), _ranks(y)

    def correlation(often: Floats) -> Floats:
        total = often.sum(axis=1)
        u, v = rank_x(often), rank_y(often)
        u = u - ((often * u).sum(axis=1) / total)[:, None]
        v = v - ((often * v).sum(axis=1) / total)[:, None]
        scale = np.sqrt((often * u * u).sum(axis=1) * (often * v * v).sum(axis=1))
        return _ratio((often * u * v).sum(axis=1), scale)

    return correlation


def _ranks(values: Floats) -> Callable[[Floats], Floats]:
    """How often each of ``values`` occurs -> its mid-rank in each sample, both of shape (samples, values)."""
    distinct, which = np.unique(values, return_inverse=True)
    gathered = _gathered(which, len(distinct))

    def ranks(often: Floats) -> Floats:
        per_value = often @ gathered
        found: Floats = (np.cumsum(per_value, axis=1) - per_value / 2 + 0.5)[:, which]
        return found

    return ranks
