"""Paired comparisons of two cells over their common scenarios, and corrections for many of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..records import Record
from .intervals import finite, mean_interval
from .resampling import Floats, flipped_share

DIGITS = 9
"""Decimals of a difference; what is smaller is the rounding of sums: 0.4 + 0.6 + 0.3 against 0.4 + 0.3 + 0.6."""


@dataclass(frozen=True, kw_only=True)
class PairedComparison(Record):
    """What a comparison of ``a`` with ``b`` found; differences are a - b, in points.

    n: common scenarios. ci: interval of the mean difference. p_value: two-sided sign-flip permutation test. mde: the
    true difference that a comparison like this one (as many scenarios, as much spread) finds with 80 % probability, at
    the error rate of its interval (5 % two-sided for 95 %). unpaired_a, unpaired_b: scenarios that only one side has. A
    figure is None where it cannot be told: the mean and p without a common scenario, ci with fewer than two, mde with
    too few for any difference to be significant (fewer than six at 5 %) or without any spread.
    """

    n: int
    mean_difference: float | None
    ci: tuple[float, ...] | None
    p_value: float | None
    mde: float | None
    unpaired_a: tuple[str, ...] = ()
    unpaired_b: tuple[str, ...] = ()


def compare(a: Mapping[str, float], b: Mapping[str, float], *, level: float = 0.95, seed: int = 0) -> PairedComparison:
    """Compare two cells, each scenario -> score (repeats averaged before, see :func:`cluster_means`), in points.

    Interval: :func:`~.intervals.mean_interval` of the differences (BCa over scenarios). Test:
    :func:`sign_flip_p_value`. The two answer nearly the same question by different means; where they disagree
    about 0 the case is open. Raises ValueError where a score is not finite.
    """
    common = sorted(a.keys() & b.keys())
    d = finite(differences([a[s] for s in common], [b[s] for s in common]))
    return PairedComparison(
        n=len(common),
        mean_difference=float(d.mean()) if len(d) else None,
        ci=mean_interval(d.tolist(), level=level, seed=seed),
        p_value=sign_flip_p_value(d.tolist(), seed=seed) if len(d) else None,
        mde=minimum_detectable_effect(d.tolist(), alpha=1 - level),
        unpaired_a=tuple(sorted(a.keys() - b.keys())),
        unpaired_b=tuple(sorted(b.keys() - a.keys())),
    )


def differences(a: Sequence[float] | Floats, b: Sequence[float] | Floats) -> Floats:
    """Scores of a less those of b, to :data:`DIGITS` decimals: a test by signs takes a last bit for a win."""
    gaps = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    return np.round(gaps, DIGITS)


def on_one_layer(a: Floats, b: Floats, groups: Sequence[Sequence[int]]) -> tuple[Floats, NDArray[np.intp]]:
    """Differences a - b, each taken on one layer, and which layer that was.

    a, b: shape (layers, ..., keys), NaN where a layer (a tier of judges) has no score. groups: places of layers, in the
    order in which they count. The first group that has any key in common decides a pair (all but the first and last
    axis); within it, each key is taken on the first layer that both sides have. Results: shape (..., keys), NaN and -1
    where there is none.
    """
    gaps = differences(a, b)
    found = np.full(gaps.shape[1:], np.nan)
    layer = np.full(gaps.shape[1:], -1, dtype=np.intp)
    for group in groups:
        undecided = (layer < 0).all(axis=-1, keepdims=True)
        for k in group:
            take = undecided & (layer < 0) & np.isfinite(gaps[k])
            found = np.where(take, gaps[k], found)
            layer[take] = k
    return found, layer


def cluster_means(scores: Iterable[tuple[str, float]]) -> dict[str, float]:
    """(scenario, score) pairs -> scenario -> mean score, in order of first appearance: repeats are one observation."""
    groups: dict[str, list[float]] = {}
    for scenario, score in scores:
        groups.setdefault(scenario, []).append(score)
    return {scenario: math.fsum(values) / len(values) for scenario, values in groups.items()}


def sign_flip_p_value(differences: Sequence[float], *, seed: int = 0) -> float:
    """p-value of the sign-flip permutation test of paired ``differences``, shape (scenarios,); 1 where all are 0.

    Null hypothesis: each difference is as likely to have the other sign (the two cells are exchangeable within a
    scenario). Statistic: the sum. Two-sided. Exact over all 2**n sign patterns for up to 30 non-zero differences, else
    (k + 1) / (19,999 + 1) with seeded patterns, which keeps the level too, and below that Hoeffding's bound. Zeros
    carry no sign and change nothing. Sources: Fisher 1935, section 21; Phipson and Smyth 2010 for the + 1;
    :func:`~.resampling.flipped_share` for the rest.
    """
    d = finite(differences)
    d = d[d != 0]
    return flipped_share(d, seed=seed) if len(d) else 1.0


def fewest_pairs(alpha: float = 0.05, *, sides: int = 2) -> int:
    """The fewest scenarios with which a sign-flip test can reach ``alpha``: the least n with sides / 2**n <= alpha.

    6 for 5 % two-sided, 5 one-sided. ValueError unless 0 < alpha < 1.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha is {alpha}; it must lie between 0 and 1, e.g. 0.05")
    return next(n for n in range(1, 1100) if sides / 2.0**n <= alpha)


def minimum_detectable_effect(
    differences: Sequence[float] | Floats, *, power: float = 0.8, alpha: float = 0.05, sides: int = 2
) -> float | None:
    """The true mean difference, in points, that so many scenarios with such a spread find with probability ``power``.

    (t(1 - alpha / sides) + t(power)) SD / sqrt(n), both quantiles of Student's t with n - 1 degrees of freedom: about
    2.8 SD / sqrt(n) for 80 % and 5 % two-sided. None with fewer than :func:`fewest_pairs` scenarios, where no
    difference could be significant, and where there is no spread to judge by.
    Source: Miller 2024, arXiv 2411.00640, section 5, with t in place of z.
    """
    d = finite(differences)
    n = len(d)
    if n < fewest_pairs(alpha, sides=sides) or np.ptp(d) == 0:
        return None
    from scipy.special import stdtrit

    quantiles = float(stdtrit(n - 1, 1 - alpha / sides)) + float(stdtrit(n - 1, power))
    return quantiles * float(d.std(ddof=1)) / math.sqrt(n)


def holm(p_values: Sequence[float], *, family: int | None = None) -> list[float]:
    """Holm's step-down adjusted p-values, in the order given: reject where the adjusted value is <= the error rate.

    The chance of any false rejection in the family stays below that rate, whatever the dependence. family: how many
    tests it has, where these are some of them; the others count as if none of them rejected anything.
    Source: Holm 1979, Scandinavian Journal of Statistics 6.
    """
    p = np.asarray(p_values, dtype=np.float64)
    tests = len(p) if family is None else family
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(np.minimum(1.0, (tests - np.arange(len(p))) * p[order]))
    found: list[float] = adjusted.tolist()
    return found


def flipped_together(differences: Sequence[Sequence[float]]) -> list[float]:
    """Adjusted p-values of rises above 0, one a test, from sign flips of whole scenarios; 1 for a test that fell.

    differences: shape (tests, scenarios), 0 where a test lacks the scenario. A pattern flips a scenario in all tests at
    once, which is the null hypothesis that its two sides are exchangeable, however much its tests move together; the
    statistic is the largest sum / root of the sum of squares among the tests that are not yet rejected. One-sided and
    doubled, to stand beside two-sided p-values. Exact over all 2**n patterns, so for few scenarios: with n of them the
    least value is 2 / 2**n, for any number of tests, where Holm's has a factor of their number.
    Source: Westfall and Young 1993, Resampling-based multiple testing, algorithm 2.8 (step-down maxT).
    """
    if not len(differences):
        return []
    d = np.asarray(differences, dtype=np.float64)
    size = np.sqrt((d**2).sum(axis=1))
    d = d / np.where(size > 0, size, 1.0)[:, None]
    observed = d.sum(axis=1)
    largest = np.full(2 ** d.shape[1], -np.inf)
    order = np.argsort(observed, kind="stable")
    share = np.empty(len(d))
    for test in order:  # from the least, so that each is compared with the largest of those up to itself
        np.maximum(largest, _flipped_sums(d[test]), out=largest)
        share[test] = np.count_nonzero(largest >= observed[test] - 10.0**-DIGITS) / len(largest)
    share[order[::-1]] = np.maximum.accumulate(share[order[::-1]])
    adjusted: list[float] = np.minimum(1.0, 2 * share).tolist()  # 1 for a fall: half of all patterns are above it
    return adjusted


def _flipped_sums(differences: Floats) -> Floats:
    """The sum of each of the 2**n sign patterns, in one order of patterns for all tests."""
    sums = np.zeros(1)
    for x in differences:  # a product with all patterns takes ten times as long, for 15 scenarios
        sums = np.concatenate((sums + x, sums - x))
    return sums
