"""The sit-down tier's mean, from a few of its labels and the automatic tier's scores of everything.

Prediction-powered inference (Angelopoulos et al. 2023, Science 382; power-tuned: PPI++, arXiv 2311.01453), with
inverse-probability weights in Hajek's form for audits, clustered by scenario, and corrected for small samples. The
package ppi-python takes weights, but knows no clusters, uses normal quantiles, and needs numba and statsmodels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..records import Record
from .intervals import finite
from .resampling import Floats

FEWEST = 4
"""Labelled scenarios below which the automatic scores are left aside: their slope could not be estimated."""
FEWEST_SPREAD = 2
"""(Effective) labelled scenarios below which there is no interval: a single one tells nothing of the spread."""

CERTAIN = "none of the labels was drawn at random, so that they say nothing of the rest: no interval"


@dataclass(frozen=True, kw_only=True)
class Calibrated(Record):
    """A mean on the sit-down scale, in points.

    ci: its interval. n_labels: labelled candidates. effective_labels: how many randomly drawn labels alone would give
    as narrow an interval; never below n_labels, never above the number of candidates. lam: the weight of the automatic
    scores; 0 uses labels alone, 1 takes the automatic scores at face value but for their bias. labels_alone and
    labels_alone_ci: what the labels say without the automatic scores. se, df: standard error of the estimate and the
    degrees of freedom of its Student's t. clusters: labelled scenarios. None, with a ``reason``: it cannot be told.
    """

    estimate: float | None
    ci: tuple[float, ...] | None
    n_labels: int
    effective_labels: float
    lam: float
    labels_alone: float | None = None
    labels_alone_ci: tuple[float, ...] | None = None
    se: float | None = None
    df: float | None = None
    clusters: int = 0
    reason: str | None = None


def calibrated_mean(
    auto_all: Sequence[float],
    labels: Sequence[float | None],
    scenarios: Sequence[str],
    probabilities: Sequence[float | None] | None = None,
    *,
    level: float = 0.95,
) -> Calibrated:
    """Mean over scenarios (repeats averaged within) of the sit-down score, all arguments of shape (candidates,).

    auto_all: automatic scores of every candidate. labels: sit-down scores, None where there is none. scenarios: the
    clusters. probabilities: with which each labelled candidate was drawn to be labelled (an audit's, in (0, 1]);
    without them, labels count as drawn at random. Labels picked by hand fit no probability, and bias the result. Those
    of probability 1 stand for themselves: with no other ones, and unlabelled candidates, there is no interval.

    The estimate is ybar - lam (fbar_labelled - fbar_all), where bars over labelled candidates weigh each by 1 /
    probability (Hajek) and lam is the variance-minimising slope, shrunk by 1 - 1 / F for its own uncertainty and never
    negative. The interval uses Student's t, residual degrees of freedom, a factor 1 + 1 / (n - 3) for the estimated
    slope, and is never wider than the labels' own. ``docs/statistics.md`` has the formulas and the measured coverage.
    Raises ValueError for unequal lengths, values that are not finite, or a labelled candidate's probability outside
    (0, 1].
    """
    auto = finite(auto_all)
    if not len(auto) == len(labels) == len(scenarios) == len(auto if probabilities is None else probabilities):
        raise ValueError("auto_all, labels, scenarios and probabilities must be of one length")
    known = np.array([label is not None for label in labels], dtype=bool)
    n_labels = int(known.sum())
    if not n_labels:
        return Calibrated(
            estimate=None, ci=None, n_labels=0, effective_labels=0.0, lam=0.0, reason="nothing is labelled yet"
        )
    y = finite([0.0 if label is None else label for label in labels])
    weights = _weights(known, probabilities)
    moments = _moments(auto, y, known, scenarios, weights)
    certain = probabilities is not None and n_labels < len(auto) and float(weights.max()) == 1.0
    unknown = CERTAIN if certain else _no_interval(moments)
    if unknown is not None:
        return Calibrated(
            estimate=moments.mean,
            ci=None,
            n_labels=n_labels,
            effective_labels=float(n_labels),
            lam=0.0,
            labels_alone=moments.mean,
            clusters=moments.clusters,
            reason=unknown,
        )
    return _calibrate(moments, n_labels=n_labels, candidates=len(auto), level=level)


def _weights(known: NDArray[np.bool_], probabilities: Sequence[float | None] | None) -> Floats:
    """1 / probability of the labelled candidates, 0 of the others."""
    weights = known.astype(np.float64)
    if probabilities is None:
        return weights
    for i in np.flatnonzero(known):
        p = probabilities[int(i)]
        if p is None or not 0 < p <= 1:
            raise ValueError(f"candidate {int(i)} is labelled with probability {p}; it must lie in (0, 1]")
        weights[i] = 1 / p
    return weights


@dataclass(frozen=True, kw_only=True)
class _Moments:
    """The means, and each scenario's influence on them, shape (scenarios,): they sum to 0, their squares to a variance.

    mean: of the labels. gap: of the automatic scores, labelled candidates' less everybody's. y, f: influences on the
    labelled candidates' means of labels and automatic scores. y_share, f_share: the same deviations at the candidates'
    plain share of the population: what would remain were they drawn with certainty. f_all: influence on the mean of
    all automatic scores. f_usual: what ``f @ (f - f_share)`` would be, did the labelled candidates' automatic scores
    vary as much as everybody's. clusters: labelled scenarios; effective, df: how many equally weighted ones know as
    much about the mean (Kish), and about the spread (halfway from there to Satterthwaite's count, see
    ``docs/statistics.md``); with equal weights, all three are the same.
    """

    mean: float
    gap: float
    y: Floats
    f: Floats
    y_share: Floats
    f_share: Floats
    f_all: Floats
    f_usual: float
    clusters: int
    effective: float
    df: float


def _moments(
    auto: Floats,
    y: Floats,
    known: NDArray[np.bool_],
    scenarios: Sequence[str],
    weights: Floats,
) -> _Moments:
    """All that the estimate is made of.

    A candidate counts 1 / (candidates of its scenario), so that repeats are one observation.
    """
    _, cluster, size = np.unique(np.asarray(scenarios, dtype=object), return_inverse=True, return_counts=True)
    count = len(size)
    share = 1.0 / size[cluster] / count
    labelled = share * known
    drawn = share * weights
    drawn = drawn / drawn.sum()
    mean, level, everybody = float(drawn @ y), float(drawn @ auto), float(share @ auto)

    def total(values: Floats) -> Floats:
        return np.asarray(np.bincount(cluster, weights=values, minlength=count), dtype=np.float64)

    weight = total(drawn)
    squares = float(weight @ weight)
    effective = 1.0 / squares
    spread = float(share @ (auto - everybody) ** 2) * count / max(count - 1, 1)
    return _Moments(
        mean=mean,
        gap=level - everybody,
        y=total(drawn * (y - mean)),
        f=total(drawn * (auto - level)),
        y_share=total(labelled * (y - mean)),
        f_share=total(labelled * (auto - level)),
        f_all=total(share * (auto - everybody)),
        f_usual=spread * (1 - squares) * float(weight @ (weight - total(labelled))),
        clusters=int(np.count_nonzero(weight)),
        effective=effective,
        df=(effective + squares**2 / float((weight**4).sum())) / 2,
    )


def _no_interval(m: _Moments) -> str | None:
    """Why these labels give a mean and no interval; None where they give one.

    One that an audit picked and one that it drew of ninety know about the spread what 1.01 labels do: a quantile of
    Student's t with 0.01 degrees of freedom is beyond 1e100.
    """
    if m.df > FEWEST_SPREAD - 1e-9:
        return None
    if m.clusters == 1:
        return "labels of one scenario only: no interval"
    return (
        f"labels of {m.clusters} scenarios that stand for very unequal shares of all: they tell as little of the "
        f"spread as {m.df:.2f} that stand for equal ones, and below {FEWEST_SPREAD} there is no interval"
    )


def _slope(m: _Moments) -> tuple[float, float]:
    """Lam, and the factor in [0, 1) by which its slope was shrunk; (0, 0) where the automatic scores tell nothing.

    Sums are over what sampling leaves open (influence less plain share), so that candidates drawn with certainty, whose
    labels are known anyway, do not decide. At random, it is the least-squares slope of labels on automatic scores;
    where the labelled few happen to vary less than everybody, everybody's variance divides: few could give any slope.
    """
    open_f = m.f - m.f_share
    across, along = float(m.y @ open_f), float(m.f @ open_f)
    if across <= 0 or along <= 1e-15:
        return 0.0, 0.0
    slope = across / along
    left, share = m.y - slope * m.f, m.y_share - slope * m.f_share
    unexplained = max(0.0, float(left @ (left - share)))
    explained = float(m.y @ (m.y - m.y_share)) - unexplained
    if explained <= 0:
        return 0.0, 0.0
    shrink = max(0.0, 1 - unexplained / ((m.effective - 2) * explained))
    return shrink * across / max(along, m.f_usual), shrink


def _calibrate(m: _Moments, *, n_labels: int, candidates: int, level: float) -> Calibrated:
    from scipy.special import stdtrit

    n = m.effective

    def reach(variance: float, df: float) -> float:
        return float(stdtrit(df, (1 + level) / 2)) * math.sqrt(variance)

    alone = n / (n - 1) * float(m.y @ m.y)
    alone_reach = reach(alone, m.df - 1)
    lam, shrink = _slope(m) if m.df >= FEWEST else (0.0, 0.0)
    variance = alone
    if lam:
        left, count = m.y - lam * m.f, len(m.y)
        of_left = n / (n - 1 - shrink) * (1 + shrink / (n - 3)) * float(left @ left)
        of_both = n / (n - 1) * float(left @ m.f_all)
        of_all = count / (count - 1) * float(m.f_all @ m.f_all)
        variance = min(alone, max(0.0, of_left + 2 * lam * of_both + lam**2 * of_all))
    estimate = m.mean - lam * m.gap
    variance, df = min(
        ((variance, m.df - 1 - shrink), (alone, m.df - 1)), key=lambda option: (reach(*option), option[0])
    )
    half = reach(variance, df)
    worth = n_labels * alone / variance if variance > 0 else float(n_labels)
    return Calibrated(
        estimate=estimate,
        ci=(estimate - half, estimate + half),
        n_labels=n_labels,
        effective_labels=min(max(worth, float(n_labels)), float(candidates)),
        lam=lam,
        labels_alone=m.mean,
        labels_alone_ci=(m.mean - alone_reach, m.mean + alone_reach),
        se=math.sqrt(variance),
        df=df,
        clusters=m.clusters,
    )
