"""How far two judges agree on the same candidates, criterion by criterion, with intervals clustered by scenario.

Every figure is computed from weights on scenarios: all 1 for the figure itself, multiplicities for a bootstrap sample,
one of them 0 for the jackknife. So thousands of resamples are a few matrix products, and a test holds each figure
against scikit-learn, krippendorff and scipy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..records import Criterion, Record, Score
from .resampling import Bootstrap, Floats, acceleration, bca_interval, resample_counts

RESAMPLES = 4_000
_CELLS = 2_000_000  # (resamples, ratings) cells worked on at a time

Ints = NDArray[np.intp]
Statistic = Callable[[Floats], Floats]
"""Weights of scenarios, shape (samples, scenarios) -> one value a sample; NaN where it is not defined."""


@dataclass(frozen=True, kw_only=True)
class RatedPair(Record):
    """One candidate as two judges scored it: criterion -> score; None or absent is "not scored"."""

    scenario: str
    a: Mapping[str, Score]
    b: Mapping[str, Score]


@dataclass(frozen=True, kw_only=True)
class Estimate(Record):
    """A figure with its interval; None with the ``reason`` where it is not defined, never NaN."""

    value: float | None
    ci: tuple[float, ...] | None = None
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class ScaleAgreement(Record):
    """Two judges on one scale.

    n: candidates that both scored, in ``scenarios`` scenarios. kappa: quadratic-weighted (Cohen 1968). alpha: ordinal
    (Krippendorff). Both are of ratings rounded to the nearest point of the scale (halves up); ``rounded`` is how many
    ratings that moved. spearman, mean_absolute_difference and bias (mean of a - b, in points) are of ratings as given.
    """

    criterion: str
    n: int
    scenarios: int
    rounded: int
    kappa: Estimate
    alpha: Estimate
    spearman: Estimate
    mean_absolute_difference: Estimate
    bias: Estimate


@dataclass(frozen=True, kw_only=True)
class FlagAgreement(Record):
    """Two judges on one flag.

    n: candidates that both scored. kappa: Cohen 1960. ac1: Gwet 2008. raw: share of equal answers. base_rate_a,
    base_rate_b: share of true. A flag that is a share (over several outputs) counts as true from one half up.
    """

    criterion: str
    n: int
    scenarios: int
    kappa: Estimate
    ac1: Estimate
    raw: Estimate
    base_rate_a: Estimate
    base_rate_b: Estimate


@dataclass(frozen=True, kw_only=True)
class AgreementReport(Record):
    """Two judges on everything that both scored. ``candidates``: those with any common criterion."""

    a: str
    b: str
    candidates: int
    scenarios: int
    level: float
    scales: tuple[ScaleAgreement, ...] = ()
    flags: tuple[FlagAgreement, ...] = ()


def measure_agreement(
    pairs: Sequence[RatedPair],
    criteria: Sequence[Criterion],
    *,
    a: str = "a",
    b: str = "b",
    level: float = 0.95,
    seed: int = 0,
) -> AgreementReport:
    """Agreement of the judges named ``a`` and ``b`` on each of ``criteria`` that both scored on some candidate.

    For a judge's agreement with itself give its first and second verdict of each hidden duplicate. Intervals: BCa
    bootstrap over scenarios (4,000 seeded resamples, all of them up to 8 scenarios), widened for few scenarios as
    :func:`~.resampling.bca_interval` says; resamples in which a figure is not defined are left out, and where that
    is more than 1 in 20, or there is only one scenario, there is no interval but a reason.
    """
    scales: list[ScaleAgreement] = []
    flags: list[FlagAgreement] = []
    common: set[int] = set()
    for criterion in criteria:
        rated = [
            (i, pair.scenario, float(x), float(y))
            for i, pair in enumerate(pairs)
            if (x := pair.a.get(criterion.name)) is not None and (y := pair.b.get(criterion.name)) is not None
        ]
        if not rated:
            continue
        common.update(i for i, *_ in rated)
        names = {s: k for k, s in enumerate(sorted({s for _, s, _, _ in rated}))}
        ratings = _Ratings(
            x=np.array([x for *_, x, _ in rated]),
            y=np.array([y for *_, y in rated]),
            cluster=np.array([names[s] for _, s, _, _ in rated], dtype=np.intp),
            clusters=len(names),
        )
        if criterion.type == "scale":
            scales.append(_scale(criterion, ratings, level=level, seed=seed))
        else:
            flags.append(_flag(criterion, ratings, level=level, seed=seed))
    return AgreementReport(
        a=a,
        b=b,
        candidates=len(common),
        scenarios=len({pairs[i].scenario for i in common}),
        level=level,
        scales=tuple(scales),
        flags=tuple(flags),
    )


class _Ratings(NamedTuple):
    """Ratings of the same candidates by two judges, and the scenario's number of each, all of shape (candidates,)."""

    x: Floats
    y: Floats
    cluster: Ints
    clusters: int


def _scale(criterion: Criterion, r: _Ratings, *, level: float, seed: int) -> ScaleAgreement:
    points = scale_points(criterion.min, criterion.max, np.concatenate([r.x, r.y]))
    i, j = nearest_point(r.x, points), nearest_point(r.y, points)
    tables = _tables(i, j, len(points), r)
    constant = _constant(r, "it gave every candidate the same score")
    none_varies = "both judges gave every candidate the same score" if np.ptp(np.concatenate([i, j])) == 0 else None
    gap, difference = np.abs(r.x - r.y), r.x - r.y

    def estimate(statistic: Statistic, undefined: str | None = None) -> Estimate:
        return _estimate(statistic, r.clusters, undefined=undefined, level=level, seed=seed)

    return ScaleAgreement(
        criterion=criterion.name,
        n=len(r.x),
        scenarios=r.clusters,
        rounded=int(np.count_nonzero(points[i] != r.x) + np.count_nonzero(points[j] != r.y)),
        kappa=estimate(lambda w: weighted_kappa(tables(w), points), none_varies),
        alpha=estimate(lambda w: ordinal_alpha(tables(w)), none_varies),
        spearman=estimate(lambda w: _spearman(r, w), constant),
        mean_absolute_difference=estimate(_mean_of(gap, r)),
        bias=estimate(_mean_of(difference, r)),
    )


def _flag(criterion: Criterion, r: _Ratings, *, level: float, seed: int) -> FlagAgreement:
    x, y = (r.x >= 0.5).astype(np.intp), (r.y >= 0.5).astype(np.intp)
    tables = _tables(x, y, 2, r)
    same = "both judges gave every candidate the same answer" if np.ptp(np.concatenate([x, y])) == 0 else None

    def estimate(statistic: Statistic, undefined: str | None = None) -> Estimate:
        return _estimate(statistic, r.clusters, undefined=undefined, level=level, seed=seed)

    return FlagAgreement(
        criterion=criterion.name,
        n=len(x),
        scenarios=r.clusters,
        kappa=estimate(lambda w: weighted_kappa(tables(w), np.array([0.0, 1.0])), same),
        ac1=estimate(lambda w: gwet_ac1(tables(w))),
        raw=estimate(_mean_of((x == y).astype(np.float64), r)),
        base_rate_a=estimate(_mean_of(x.astype(np.float64), r)),
        base_rate_b=estimate(_mean_of(y.astype(np.float64), r)),
    )


def _constant(r: _Ratings, why: str) -> str | None:
    constant = [name for name, values in (("a", r.x), ("b", r.y)) if np.ptp(values) == 0]
    return f"no rank correlation with judge {' and '.join(constant)}: {why}" if constant else None


def scale_points(low: float | None, high: float | None, ratings: Floats) -> Floats:
    """The points of a scale: whole steps from its minimum; tenths of it where it is shorter than 2.

    Without limits, those of the ``ratings``.
    """
    first = float(ratings.min()) if low is None else low
    last = float(ratings.max()) if high is None else high
    if last <= first:
        return np.array([first])
    step = 1.0 if last - first >= 2 else (last - first) / 10
    steps = np.arange(math.floor((last - first) / step + 1e-9) + 1, dtype=np.float64)
    return first + step * steps


def nearest_point(ratings: Floats, points: Floats) -> Ints:
    """The index of each rating's nearest scale point, halves up, kept within the scale."""
    if len(points) == 1:
        return np.zeros(len(ratings), dtype=np.intp)
    index = np.floor((ratings - points[0]) / (points[1] - points[0]) + 0.5 + 1e-9)
    return np.asarray(np.clip(index, 0, len(points) - 1), dtype=np.intp)


# -- figures over many weightings at once --------------------------------------------------------------------------


def _tables(i: Ints, j: Ints, k: int, r: _Ratings) -> Callable[[Floats], Floats]:
    """Weights (samples, scenarios) -> contingency tables (samples, k, k) of ratings i against j."""
    counts = np.zeros((r.clusters, k * k))
    np.add.at(counts, (r.cluster, i * k + j), 1.0)
    return lambda weights: (weights @ counts).reshape(-1, k, k)


def _mean_of(values: Floats, r: _Ratings) -> Statistic:
    sums = np.bincount(r.cluster, weights=values, minlength=r.clusters)
    sizes = np.bincount(r.cluster, minlength=r.clusters).astype(np.float64)
    return lambda weights: (weights @ sums) / (weights @ sizes)


def _ratio(above: Floats, below: Floats) -> Floats:
    """The quotient; NaN where ``below`` is 0."""
    quotient: Floats = np.full(np.broadcast(above, below).shape, np.nan)
    np.divide(above, below, out=quotient, where=np.abs(below) > 1e-12)
    return quotient


def weighted_kappa(tables: Floats, points: Floats) -> Floats:
    """Quadratic-weighted kappa of contingency tables, shape (samples, k, k); plain kappa for two points.

    1 - sum(w observed) / sum(w expected), w the squared distance of the points. NaN where nothing varies.
    Source: Cohen 1968, Psychological Bulletin 70.
    """
    w = (points[:, None] - points[None, :]) ** 2
    n = tables.sum(axis=(1, 2))
    expected = tables.sum(axis=2)[:, :, None] * tables.sum(axis=1)[:, None, :]
    return 1.0 - _ratio(n * (w * tables).sum(axis=(1, 2)), (w * expected).sum(axis=(1, 2)))


def ordinal_alpha(tables: Floats) -> Floats:
    """Krippendorff's ordinal alpha of two judges without gaps, from tables (samples, k, k) of ascending points.

    1 - (N - 1) sum(o d) / sum(n_c n_k d) over the coincidences o, with d the squared number of ratings between two
    points, half of each end's counted. NaN where nothing varies.
    Source: Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability".
    """
    coincidences = tables + tables.transpose(0, 2, 1)
    margins = coincidences.sum(axis=2)
    middles = np.cumsum(margins, axis=1) - margins / 2
    d = (middles[:, :, None] - middles[:, None, :]) ** 2
    observed = (coincidences * d).sum(axis=(1, 2))
    expected = (margins[:, :, None] * margins[:, None, :] * d).sum(axis=(1, 2))
    ratings: Floats = margins.sum(axis=1)
    return 1.0 - (ratings - 1) * _ratio(observed, expected)


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


def _spearman(r: _Ratings, weights: Floats) -> Floats:
    """Spearman's correlation (Pearson's of mid-ranks) for every row of weights, shape (samples, scenarios)."""
    step = max(1, _CELLS // len(r.x))
    parts = [_spearman_of(r, weights[start : start + step]) for start in range(0, len(weights), step)]
    return np.concatenate(parts)


def _spearman_of(r: _Ratings, weights: Floats) -> Floats:
    w = weights[:, r.cluster]
    total = w.sum(axis=1)
    u, v = (_weighted_ranks(values, r, weights) for values in (r.x, r.y))
    u = u - ((w * u).sum(axis=1) / total)[:, None]
    v = v - ((w * v).sum(axis=1) / total)[:, None]
    scale = np.sqrt((w * u * u).sum(axis=1) * (w * v * v).sum(axis=1))
    return _ratio((w * u * v).sum(axis=1), scale)


def _weighted_ranks(values: Floats, r: _Ratings, weights: Floats) -> Floats:
    """Mid-ranks of ``values`` in each weighted sample, shape (samples, candidates)."""
    distinct, which = np.unique(values, return_inverse=True)
    counts = np.zeros((r.clusters, len(distinct)))
    np.add.at(counts, (r.cluster, which), 1.0)
    per_value = weights @ counts
    ranks: Floats = (np.cumsum(per_value, axis=1) - per_value / 2 + 0.5)[:, which]
    return ranks


def _estimate(statistic: Statistic, clusters: int, *, undefined: str | None, level: float, seed: int) -> Estimate:
    """The statistic on the data, with its BCa interval over scenarios."""
    value = float(statistic(np.ones((1, clusters)))[0])
    if not math.isfinite(value):
        return Estimate(value=None, reason=undefined or "the ratings do not vary")
    if clusters < 2:
        return Estimate(value=value, reason="no interval from one scenario")
    weights, shares = resample_counts(clusters, seed=seed, resamples=RESAMPLES)
    drawn = statistic(weights)
    known = np.isfinite(drawn)
    jackknife = statistic(1.0 - np.eye(clusters))
    if float(shares[known].sum()) < 0.95:
        return Estimate(value=value, reason="no interval: in many resamples the ratings do not vary")
    boot = Bootstrap(drawn[known], shares[known] / shares[known].sum())
    if np.ptp(boot.values) == 0:
        return Estimate(value=value, ci=(value, value))
    a = acceleration(jackknife[np.isfinite(jackknife)])
    return Estimate(value=value, ci=bca_interval(value, boot, a, n=clusters, level=level))
