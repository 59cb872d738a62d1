"""How far two judges agree on the same candidates, criterion by criterion, with intervals clustered by scenario.

Every figure is computed from how often each pair of ratings occurs: in all scenarios for the figure itself, in those of
a bootstrap sample, in all but one for the jackknife. A test holds each against scikit-learn, krippendorff and scipy.

Candidates that were drawn with unequal probabilities occur as often as they stand for: 1 / probability times. Those
that were picked because judges disagree on them would otherwise make any judge look worse than it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np

from ..records import Criterion, Record, Score
from .coefficients import (
    Figure,
    gwet_ac1,
    mean_of,
    nearest_point,
    ordinal_alpha,
    rate,
    scale_points,
    spearman,
    tables,
    weighted_kappa,
)
from .intervals import wilson_interval
from .resampling import Bootstrap, Floats, Ints, acceleration, bca_interval, counted, left_out_sums, resampled_sums

RESAMPLES = 4_000
ONE = "no interval from one scenario"


@dataclass(frozen=True, kw_only=True)
class RatedPair(Record):
    """One candidate as two judges scored it: criterion -> score; None or absent is "not scored".

    weight: how many candidates it stands for, 1 / the probability with which it was drawn.
    """

    scenario: str
    a: Mapping[str, Score]
    b: Mapping[str, Score]
    weight: float = 1.0


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
    base_rate_b: share of true. tpr, tnr: judge b's true positive and true negative rate with ``a`` as the reference,
    the shares of what a calls true, and false, of which b says the same. A flag that is a share (over several outputs)
    counts as true from one half up.
    """

    criterion: str
    n: int
    scenarios: int
    kappa: Estimate
    ac1: Estimate
    raw: Estimate
    base_rate_a: Estimate
    base_rate_b: Estimate
    tpr: Estimate
    tnr: Estimate


@dataclass(frozen=True, kw_only=True)
class AgreementReport(Record):
    """Two judges on everything that both scored. ``candidates``: those with any common criterion.

    weighted: whether candidates stand for unequal numbers of others. Then figures are estimates of what they would be
    over all candidates that those were drawn from; counts stay counts of what was scored.
    """

    a: str
    b: str
    candidates: int
    scenarios: int
    level: float
    weighted: bool = False
    scales: tuple[ScaleAgreement, ...] = ()
    flags: tuple[FlagAgreement, ...] = ()


def measure_agreement(
    pairs: Sequence[RatedPair],
    criteria: Sequence[Criterion],
    *,
    a: str = "a",
    b: str = "b",
    steps: Mapping[str, float] | None = None,
    level: float = 0.95,
    seed: int = 0,
) -> AgreementReport:
    """Agreement of the judges named ``a`` and ``b`` on each of ``criteria`` that both scored on some candidate.

    ``steps``: how far points lie apart on scales that are not of whole ones, as a composite of halves.

    For a judge's agreement with itself give its first and second verdict of each hidden duplicate. Intervals: BCa
    bootstrap over scenarios (4,000 seeded resamples, all of them up to 8 scenarios), widened for few scenarios as
    :func:`~.resampling.bca_interval` says; resamples in which a figure is not defined are left out, and where that
    is more than 1 in 20, or there is only one scenario, there is no interval but a reason. Weights as in Hajek's
    estimator: the figure of a population in which each pair occurs as often as the sample says.
    Raises ValueError for a weight that is not positive and finite.
    """
    scales: list[ScaleAgreement] = []
    flags: list[FlagAgreement] = []
    numbers = {s: k for k, s in enumerate(sorted({pair.scenario for pair in pairs}))}
    scenario = np.array([numbers[pair.scenario] for pair in pairs], dtype=np.intp)
    weight = np.array([pair.weight for pair in pairs], dtype=np.float64)
    if not (np.isfinite(weight) & (weight > 0)).all():
        raise ValueError("a weight is not a positive number: give 1 / the probability of each candidate")
    weighted = bool(len(pairs)) and bool(np.ptp(weight) > 0)
    if not weighted:  # alpha alone depends on how many there are: of a plain sample, that is how many were scored
        weight[:] = 1.0
    common = np.zeros(len(pairs), dtype=bool)
    for criterion in criteria:
        x, y = (
            np.array([side.get(criterion.name) for side in sides], dtype=np.float64)  # None becomes NaN
            for sides in ((pair.a for pair in pairs), (pair.b for pair in pairs))
        )
        rated = np.isfinite(x) & np.isfinite(y)
        if not rated.any():
            continue
        common |= rated
        _, cluster = np.unique(scenario[rated], return_inverse=True)
        ratings = _Ratings.of(x[rated], y[rated], cluster, weight[rated])
        if criterion.type == "scale":
            scales.append(_scale(criterion, ratings, (steps or {}).get(criterion.name), level=level, seed=seed))
        else:
            flags.append(_flag(criterion, ratings, level=level, seed=seed))
    return AgreementReport(
        a=a,
        b=b,
        candidates=int(common.sum()),
        scenarios=len(np.unique(scenario[common])),
        level=level,
        weighted=weighted,
        scales=tuple(scales),
        flags=tuple(flags),
    )


class _Ratings(NamedTuple):
    """Ratings of the same candidates by two judges.

    x, y: every pair of ratings that occurs, shape (pairs,). seen: by how many candidates. counts: how often in each
    scenario, by weight, a sparse matrix of shape (scenarios, pairs).
    """

    x: Floats
    y: Floats
    seen: Ints
    counts: Any

    @classmethod
    def of(cls, x: Floats, y: Floats, cluster: Ints, weight: Floats) -> Self:
        """From one rating of each judge a candidate, its scenario's number and weight, all of shape (candidates,)."""
        # Pairs as complex numbers: the same order, a tenth of the time that rows of an array take.
        pairs, which, seen = np.unique(x + 1j * y, return_inverse=True, return_counts=True)
        size = int(cluster.max()) + 1, len(pairs)
        return cls(pairs.real, pairs.imag, seen, counted(cluster, which, *size, weights=weight))

    @property
    def scenarios(self) -> int:
        return int(self.counts.shape[0])

    @property
    def whole(self) -> Floats:
        """How often each pair occurs in all, shape (1, pairs)."""
        return np.asarray(self.counts.sum(axis=0), dtype=np.float64).reshape(1, -1)


def _scale(criterion: Criterion, r: _Ratings, step: float | None, *, level: float, seed: int) -> ScaleAgreement:
    points = scale_points(criterion.min, criterion.max, np.concatenate([r.x, r.y]), step)
    nearest = np.concatenate([nearest_point(r.x, points), nearest_point(r.y, points)])
    given, place = np.unique(nearest, return_inverse=True)  # a scale may have far more points than were ever given
    points, (i, j) = points[given], place.reshape(2, -1)
    constant = _constant(r, "it gave every candidate the same score")
    none_varies = "both judges gave every candidate the same score" if np.ptp(np.concatenate([i, j])) == 0 else None
    return ScaleAgreement(
        criterion=criterion.name,
        n=int(r.seen.sum()),
        scenarios=r.scenarios,
        rounded=sum(int(r.seen[np.abs(points[at] - side) > 1e-9].sum()) for at, side in ((i, r.x), (j, r.y))),
        **_estimates(
            r,
            {
                "kappa": Figure(weighted_kappa(i, j, points), none_varies),
                "alpha": Figure(ordinal_alpha(i, j, len(points)), none_varies),
                "spearman": Figure(spearman(r.x, r.y), constant),
                "mean_absolute_difference": Figure(mean_of(np.abs(r.x - r.y))),
                "bias": Figure(mean_of(r.x - r.y)),
            },
            level=level,
            seed=seed,
        ),
    )


def _flag(criterion: Criterion, r: _Ratings, *, level: float, seed: int) -> FlagAgreement:
    x, y = (r.x >= 0.5).astype(np.intp), (r.y >= 0.5).astype(np.intp)
    table, all_ = tables(x, y, 2), np.ones(len(x), dtype=bool)
    same = "both judges gave every candidate the same answer" if np.ptp(np.concatenate([x, y])) == 0 else None
    return FlagAgreement(
        criterion=criterion.name,
        n=int(r.seen.sum()),
        scenarios=r.scenarios,
        **_estimates(
            r,
            {
                "kappa": Figure(weighted_kappa(x, y, np.array([0.0, 1.0])), same),
                "ac1": Figure(lambda t: gwet_ac1(table(t))),
                "raw": rate(x == y, among=all_),
                "base_rate_a": rate(x == 1, among=all_),
                "base_rate_b": rate(y == 1, among=all_),
                "tpr": rate(y == 1, among=x == 1, none="judge a calls none true"),
                "tnr": rate(y == 0, among=x == 0, none="judge a calls none false"),
            },
            level=level,
            seed=seed,
        ),
    )


def _constant(r: _Ratings, why: str) -> str | None:
    constant = [name for name, values in (("a", r.x), ("b", r.y)) if np.ptp(values) == 0]
    return f"no rank correlation with judge {' and '.join(constant)}: {why}" if constant else None


def _estimates(r: _Ratings, figures: Mapping[str, Figure], *, level: float, seed: int) -> dict[str, Estimate]:
    """Each figure on the data with its interval over scenarios, or the reason why it is not defined.

    The interval is BCa's, but a rate of 0 or 1, of which no resample differs, has Wilson's of as many scenarios as
    have what it is a share of: the least that so many candidates can say, as if those of a scenario were always alike.
    """
    values = {name: float(figure.statistic(r.whole)[0]) for name, figure in figures.items()}
    found = {
        name: Estimate(value=None, reason=figure.undefined or "the ratings do not vary")
        for name, figure in figures.items()
        if not math.isfinite(values[name])
    }
    if r.scenarios < 2:
        return found | {name: Estimate(value=values[name], reason=ONE) for name in figures.keys() - found.keys()}
    for name, figure in figures.items():
        if figure.share_of is not None and values[name] in (0.0, 1.0):
            n = int((r.counts @ figure.share_of > 0).sum())
            ci = wilson_interval(round(values[name]) * n, n, level=level)
            found[name] = Estimate(value=values[name], ci=ci) if n > 1 else Estimate(value=values[name], reason=ONE)
    known = {name: figure.statistic for name, figure in figures.items() if name not in found}
    drawn: dict[str, list[Floats]] = {name: [] for name in known}
    left_out: dict[str, list[Floats]] = {name: [] for name in known}
    probability: list[Floats] = []
    for sums, shares in resampled_sums(r.counts, seed=seed, resamples=RESAMPLES):
        probability.append(shares)
        for name, statistic in known.items():
            drawn[name].append(statistic(sums))
    for sums in left_out_sums(r.counts, seed=seed):
        for name, statistic in known.items():
            left_out[name].append(statistic(sums))
    shares = np.concatenate(probability)
    for name in known:
        sample, jackknife = np.concatenate(drawn[name]), np.concatenate(left_out[name])
        found[name] = _estimate(values[name], sample, shares, jackknife, n=r.scenarios, level=level)
    return found


def _estimate(value: float, drawn: Floats, shares: Floats, jackknife: Floats, *, n: int, level: float) -> Estimate:
    known = np.isfinite(drawn)
    if float(shares[known].sum()) < 0.95:
        return Estimate(value=value, reason="no interval: many resamples leave it undefined")
    boot = Bootstrap(drawn[known], shares[known] / shares[known].sum())
    if np.ptp(boot.values) == 0:
        return Estimate(value=value, ci=(value, value))
    a = acceleration(jackknife[np.isfinite(jackknife)])
    return Estimate(value=value, ci=bca_interval(value, boot, a, n=n, level=level))
