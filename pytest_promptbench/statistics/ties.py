"""Which rows of a leaderboard the data can tell apart."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .paired import PairedComparison, holm, on_one_layer
from .resampling import Floats, acceleration, bca_p_value, bootstrap_means

MOST_BCA = 40
"""Rows of a board up to which pairs are told apart by BCa too; beyond, by Student's t alone."""


class MeanEstimate(NamedTuple):
    """A row's mean on the scale of ``basis``, with its standard error and the degrees of freedom of its Student's t.

    n: scenarios behind it. step: the :func:`rounding_step` of its scores; 0 where they are not rounded.
    """

    value: float
    se: float
    df: float
    n: int
    basis: str
    step: float = 0.0

    @property
    def floored_se(self) -> float:
        """The standard error, never below what rounding leaves open: a uniform error of one step in each score."""
        return max(self.se, self.step / math.sqrt(12 * self.n))


@dataclass(frozen=True, kw_only=True)
class Board:
    """The rows of a leaderboard, best first.

    layers: shape (layers, rows, scenarios), NaN where not scored. groups: places of layers in the order in which they
    count, see :func:`~.paired.on_one_layer`; the last group is that in which calibrated rows still pair where their
    estimates are of different scales. estimates: a row's mean, None where it has no standard error; only needed where a
    row is calibrated. calibrated: whether a row's mean is not the plain one of its scores, so that nothing pairs with
    it. point: what one point of the judges' scale gives, in the unit of the scores.
    """

    layers: Floats
    groups: Sequence[Sequence[int]]
    estimates: Sequence[MeanEstimate | None]
    calibrated: Sequence[bool]
    point: float = 1.0


def compare_estimates(a: MeanEstimate, b: MeanEstimate, *, level: float = 0.95) -> PairedComparison:
    """Two means as if they were independent: variance se_a**2 + se_b**2, Student's t with the smaller df.

    Conservative where the same scenarios make both sides easier or harder, as they do. Standard errors are the
    :attr:`~MeanEstimate.floored_se`: two equal labels do not show that there is no spread. n is the smaller number of
    scenarios. mde: (t(1 - alpha / 2) + t(0.8)) se.
    """
    from scipy.special import stdtr, stdtrit

    difference, se, df = a.value - b.value, math.hypot(a.floored_se, b.floored_se), min(a.df, b.df)
    reach = float(stdtrit(df, (1 + level) / 2)) * se
    p = 2 * float(stdtr(df, -abs(difference) / se)) if se else float(difference == 0)
    return PairedComparison(
        n=min(a.n, b.n),
        mean_difference=difference,
        ci=(difference - reach, difference + reach),
        p_value=p,
        mde=reach + float(stdtrit(df, 0.8)) * se if se else None,
    )


def tied_ranks(board: Board, *, level: float = 0.95, seed: int = 0) -> list[int]:
    """Competition ranks ("1224") of leaderboard rows that are sorted best first, tied where nothing tells them apart.

    Two rows differ where the interval of their mean paired difference over common scenarios leaves out 0 after Holm's
    correction over **all pairs** of rows (the leaders are picked by looking, so the family is every comparison that
    could have been made), and where the difference has the sign of their order: rows that have other scenarios beside
    the common ones may stand in an order that the common ones contradict. The interval is the wider of BCa's and
    Student's t, with the spread never taken below what rounding to the scores' own step leaves open; so very few
    scenarios tell apart only what lies far apart, and fewer than two common ones nothing. Where a row is calibrated,
    :func:`compare_estimates` takes the pair's place, if both means are on one scale.

    "Not told apart" is not transitive. Here a row is compared with the **leader** (first row) of the present group: it
    joins while tied with that leader, else it opens the next group with its own place as rank. So rows that share a
    rank are all tied with their leader, not each with each; and two neighbours of different rank may be tied.
    """
    rows = board.layers.shape[1]
    p_values = np.full((rows, rows), np.nan)
    step = rounding_step(board.layers[np.isfinite(board.layers)], most=board.point)
    for i in range(rows):
        for others, found in _against_later_rows(board, i, step=step, level=level, seed=seed):
            p_values[i, others] = found
    compared = np.isfinite(p_values)
    apart = np.zeros((rows, rows), dtype=bool)
    apart[compared] = np.array(holm(p_values[compared])) <= 1 - level
    ranks: list[int] = []
    leader = 0
    for j in range(rows):
        if apart[leader, j]:
            leader = j
        ranks.append(leader + 1)
    return ranks


def _against_later_rows(
    board: Board, i: int, *, step: float, level: float, seed: int
) -> Iterator[tuple[Sequence[int], Floats]]:
    """Later rows, and the p-value of row i being better than each of them; NaN where the two do not compare.

    Two-sided, of the paired mean difference: the larger of Student's t and BCa; 1 where row i is not ahead. BCa is
    asked only where t alone would tell the rows apart, and not on boards of more than ``MOST_BCA`` rows: a p-value
    above the level ties them whatever its size. ``step`` is the rounding step of the whole board.
    """
    rows = board.layers.shape[1]
    later = range(i + 1, rows)
    paired = [j for j in later if not board.calibrated[i] and not board.calibrated[j]]
    estimated = [j for j in later if board.calibrated[i] or board.calibrated[j]]
    for others, groups in ((paired, board.groups), (estimated, board.groups[-1:])):
        if not others:
            continue
        d, layer = on_one_layer(board.layers[:, i, None], board.layers[:, others], groups)
        n = np.isfinite(d).sum(axis=-1)
        if rows > MOST_BCA:
            tested = _by_t(d, n, step)
        else:
            tested = np.array(
                [
                    1.0 if n[k] < 2 else _p_value(d[k], _step(board, i, j, layer[k]), level=level, seed=seed)
                    for k, j in enumerate(others)
                ]
            )
        tested = np.where(n >= 2, tested, np.nan)
        if others is estimated:
            for k, j in enumerate(estimated):
                a, b = board.estimates[i], board.estimates[j]
                if a is not None and b is not None and a.basis == b.basis:
                    tested[k] = compare_estimates(a, b).p_value
        yield others, tested


def _by_t(d: Floats, n: NDArray[np.intp], step: float) -> Floats:
    """p-values of many rows of differences, NaN where there is none."""
    from scipy.special import stdtr

    there = np.isfinite(d)
    count = np.maximum(n, 2)
    mean = np.where(there, d, 0.0).sum(axis=1) / count
    spread = np.sqrt((np.where(there, d - mean[:, None], 0.0) ** 2).sum(axis=1) / (count - 1))
    spread = np.maximum(spread, step / math.sqrt(6))
    return np.where(mean <= 0, 1.0, 2 * stdtr(count - 1, -np.abs(mean) / spread * np.sqrt(count)))


def _step(board: Board, i: int, j: int, layer: NDArray[np.intp]) -> float:
    """The rounding step of the scores that a pair's differences were taken of."""
    at = np.flatnonzero(layer >= 0)
    return rounding_step(np.concatenate([board.layers[layer[at], row, at] for row in (i, j)]), most=board.point)


def rounding_step(scores: Floats, *, most: float) -> float:
    """The smallest step between scores, at most ``most`` as few may lie further apart: what rounding leaves open."""
    steps = np.diff(np.unique(np.round(scores / most, 9)))
    return most * float(steps.min(initial=1.0))


def _p_value(differences: Floats, step: float, *, level: float, seed: int) -> float:
    from scipy.special import stdtr

    d = differences[np.isfinite(differences)]
    n = len(d)
    mean = float(d.mean())
    if mean <= 0:
        return 1.0
    spread = max(float(d.std(ddof=1)), step / math.sqrt(6))  # two roundings, each step**2 / 12
    by_t = 2 * float(stdtr(n - 1, -mean / spread * math.sqrt(n)))
    if by_t > 1 - level or np.ptp(d) == 0:
        return by_t
    return max(by_t, bca_p_value(mean, bootstrap_means(d, seed=seed), acceleration(-d), n=n))
