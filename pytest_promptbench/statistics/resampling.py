"""Bootstrap and sign-flip distributions of a mean over scenarios, and the BCa interval they feed.

Small samples are enumerated, so that nothing depends on chance: all multisets of up to 8 scenarios for the bootstrap,
all sign patterns of up to 30 non-zero differences for the permutation test. Larger ones are drawn, seeded; the
bootstrap of very large ones follows from its expansion.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]

RESAMPLES = 10_000
"""Bootstrap resamples where not all can be enumerated."""
FLIPS = 19_999
"""Random sign patterns where not all can be enumerated; with the observed one, 20,000."""
EXACT_BOOTSTRAP = 8
"""Up to this many scenarios, all C(2n-1, n) bootstrap multisets are enumerated (6,435 for 8)."""
EXACT_FLIPS = 30
"""Up to this many non-zero differences, all 2**n sign patterns are counted, from the sums of two halves of them."""
MANY = 300
"""From this many scenarios on, the bootstrap comes from its expansion: resampling would only add its own noise."""
ALIKE = 200
"""From this many equal differences on, one binomial draw takes less time than their signs, eight at a time."""
LEFT_OUT = 2_000
"""Up to this many scenarios the jackknife leaves out one at a time."""
_AT_ONCE = MANY * RESAMPLES
"""So many cells a matrix of resamples may have (24 MB); larger ones are made in parts."""


class Bootstrap(NamedTuple):
    """Resampled values of a statistic and the probability of each (they sum to 1)."""

    values: Floats
    weights: Floats


@lru_cache(maxsize=8)
def _multisets(n: int) -> tuple[Floats, Floats]:
    """All multisets of n from n, as counts (rows) and their probabilities under drawing with replacement."""
    picks = np.array(list(itertools.combinations_with_replacement(range(n), n)), dtype=np.intp)
    counts = np.zeros((len(picks), n))
    np.add.at(counts, (np.arange(len(picks))[:, None], picks), 1.0)
    factorial = np.array([math.factorial(k) for k in range(n + 1)], dtype=np.float64)
    weights = factorial[n] / factorial[counts.astype(np.intp)].prod(axis=1) / float(n) ** n
    return counts, weights


def _draw(n: int, resamples: int, rng: np.random.Generator) -> Floats:
    picks = rng.integers(0, n, size=(resamples, n))
    picks += np.arange(resamples)[:, None] * n
    return np.bincount(picks.ravel(), minlength=resamples * n).reshape(resamples, n).astype(np.float64)


@lru_cache(maxsize=2)
def _drawn(n: int, resamples: int, seed: int) -> Floats:
    return _draw(n, resamples, np.random.default_rng(seed))


def resample_counts(n: int, *, seed: int, resamples: int = RESAMPLES) -> tuple[Floats, Floats]:
    """How often each of n scenarios is in each bootstrap sample, shape (samples, n), and each sample's probability.

    Up to :data:`EXACT_BOOTSTRAP` scenarios these are all samples there are; beyond, ``resamples`` drawn ones.
    Treat the arrays as read-only: they are shared.
    """
    if n <= EXACT_BOOTSTRAP:
        return _multisets(n)
    return _drawn(n, resamples, seed), np.full(resamples, 1.0 / resamples)


def counted(rows: Ints, columns: Ints, height: int, width: int, *, weights: Floats | None = None) -> Any:
    """A sparse matrix of how often each (row, column) is there; of the sum of their ``weights`` where there are any."""
    from scipy.sparse import coo_array

    values = np.ones(len(rows)) if weights is None else weights
    return coo_array((values, (rows, columns)), shape=(height, width)).tocsr()


def resampled_sums(counts: Any, *, seed: int, resamples: int = RESAMPLES) -> Iterator[tuple[Floats, Floats]]:
    """Sums over bootstrap samples of the rows of ``counts``, a sparse matrix of shape (scenarios, columns).

    In parts, so that memory stays that of the data: sums of shape (samples, columns), and each sample's probability,
    which over all parts sum to 1. Samples are those of :func:`resample_counts`; where there are many scenarios and few
    kinds of them, it is drawn how many of each kind are in a sample, which is the same law.
    """
    n, columns = counts.shape
    step = max(1, _AT_ONCE // max(n, columns))
    rng = np.random.default_rng(seed)
    kinds, sizes = _kinds(counts) if n >= MANY else (counts, ())
    if n <= EXACT_BOOTSTRAP:
        samples, shares = _multisets(n)
        for start in range(0, len(samples), step):
            yield samples[start : start + step] @ counts, shares[start : start + step]
        return
    for start in range(0, resamples, step):
        some = min(step, resamples - start)
        shares = np.full(some, 1.0 / resamples)
        if 0 < len(sizes) <= n // 4:
            yield rng.multinomial(n, np.array(sizes) / n, size=some).astype(np.float64) @ kinds, shares
        else:
            yield _draw(n, some, rng) @ counts, shares


def _kinds(counts: Any) -> tuple[Any, list[int]]:
    """The different rows of a sparse matrix, and how often each is there."""
    places: dict[bytes, list[int]] = {}
    for i, (start, end) in enumerate(itertools.pairwise(counts.indptr)):
        row = counts.indices[start:end].tobytes() + counts.data[start:end].tobytes()
        places.setdefault(row, []).append(i)
    return counts[[found[0] for found in places.values()]], [len(found) for found in places.values()]


def left_out_sums(counts: Any, *, seed: int) -> Iterator[Floats]:
    """Column sums without one row of ``counts`` each, for the jackknife, in parts of shape (rows, columns).

    Of more than :data:`LEFT_OUT` rows, without one of so many random groups of them each. An :func:`acceleration` is a
    skewness over the square root of the number of terms; that of sums of m rows is smaller by the square root of m,
    and there are m times fewer, so it stays the same.
    """
    n = counts.shape[0]
    whole = np.asarray(counts.sum(axis=0), dtype=np.float64).reshape(1, -1)
    if n > LEFT_OUT:
        group = np.random.default_rng(seed).permutation(n) % LEFT_OUT
        counts = counted(group, np.arange(n), LEFT_OUT, n) @ counts
    step = max(1, _AT_ONCE // whole.shape[1])
    for start in range(0, counts.shape[0], step):
        yield whole - counts[start : start + step].toarray()


def bootstrap_means(values: Floats, *, seed: int) -> Bootstrap:
    """The bootstrap distribution of the mean of ``values``, shape (n,), one value a scenario."""
    n = len(values)
    if n >= MANY:
        return _expanded(values)
    counts, weights = resample_counts(n, seed=seed)
    return Bootstrap(counts @ values / n, weights)


def _expanded(values: Floats) -> Bootstrap:
    """The bootstrap distribution of the mean by its Cornish-Fisher expansion, whose error is of order 1 / n.

    Source: Hall 1992, The Bootstrap and Edgeworth Expansion, sections 2.5 and 3.3.
    """
    n = len(values)
    mean, spread = float(values.mean()), float(values.std())
    z = _normal_grid(RESAMPLES)
    skewness = float(((values - mean) ** 3).mean()) / spread**3 if spread > 0 else 0.0
    away = z + skewness * (z**2 - 1) / (6 * math.sqrt(n))
    return Bootstrap(mean + spread / math.sqrt(n) * away, np.full(RESAMPLES, 1.0 / RESAMPLES))


@lru_cache(maxsize=2)
def _normal_grid(points: int) -> Floats:
    """The normal quantiles of ``points`` equal shares of probability, each at its middle."""
    from scipy.special import ndtri

    return np.asarray(ndtri((np.arange(points) + 0.5) / points), dtype=np.float64)


def _share_below(boot: Bootstrap, point: float) -> float:
    """Mid-distribution function: the probability below ``point`` and half of that at it (scores are often whole)."""
    tolerance = 1e-12 * max(1.0, abs(point), float(np.abs(boot.values).max()))
    below = float(boot.weights[boot.values < point - tolerance].sum())
    upto = float(boot.weights[boot.values <= point + tolerance].sum())
    return (below + upto) / 2


def acceleration(jackknife: Floats) -> float:
    """BCa's acceleration from the leave-one-scenario-out values (Efron 1987, eq. 7.3); 0 where they are constant."""
    away = jackknife.mean() - jackknife
    scale = float((away**2).sum())
    return float((away**3).sum()) / (6 * scale**1.5) if scale > 1e-300 else 0.0


def bca_interval(theta: float, boot: Bootstrap, a: float, *, n: int, level: float) -> tuple[float, float]:
    """Bias-corrected and accelerated bootstrap interval, its tail levels widened for n scenarios.

    theta: the statistic on the data. a: its :func:`acceleration`. Plain BCa intervals are too narrow for small n: the
    bootstrap's spread lacks the factor sqrt(n / (n - 1)), and its tails are normal instead of Student's. The levels
    are therefore those of sqrt(n / (n - 1)) t(n - 1) (Hesterberg's "expanded percentile"; they agree for large n).
    Sources: Efron 1987, JASA 82; Hesterberg 2015, The American Statistician 69(4), section 4.
    """
    from scipy.special import ndtr, ndtri, stdtrit

    edge = 0.5 / len(boot.values)
    z0 = float(ndtri(min(max(_share_below(boot, theta), edge), 1 - edge)))
    order = np.argsort(boot.values, kind="stable")
    weights = boot.weights[order]
    middles = np.cumsum(weights) - weights / 2
    reach = math.sqrt(n / (n - 1)) * float(stdtrit(n - 1, (1 - level) / 2))
    ends = []
    for z in (z0 + reach, z0 - reach):
        denominator = 1 - a * z
        at = float(ndtr(z0 + z / denominator)) if denominator > 0 else (0.0 if z < 0 else 1.0)
        ends.append(float(np.interp(at, middles, boot.values[order])))
    return ends[0], ends[1]


def bca_p_value(theta: float, boot: Bootstrap, a: float, *, n: int) -> float:
    """Two-sided p-value dual to :func:`bca_interval`: 1 - the level at which its interval's end reaches 0.

    It is 0 where no bootstrap sample reaches 0: the samples cannot tell how small it is.
    """
    from scipy.special import ndtri, stdtr

    edge = 0.5 / len(boot.values)
    z0 = float(ndtri(min(max(_share_below(boot, theta), edge), 1 - edge)))
    at = _share_below(boot, 0.0)
    if at <= 0.0 or at >= 1.0:
        return 0.0
    y = float(ndtri(at)) - z0
    denominator = 1 + a * y
    if denominator <= 0:
        return 0.0
    t = (y / denominator - z0) * math.sqrt((n - 1) / n)
    return min(1.0, 2 * float(stdtr(n - 1, -abs(t))))


def flipped_share(differences: Floats, *, seed: int) -> float:
    """The share of sign patterns under which the non-zero ``differences`` sum to at least what they do, either way.

    Where not all are counted, what was drawn stands with the observed one added. Where no drawn pattern comes as far,
    Hoeffding's bound 2 exp(-s**2 / 2 sum(d**2)) takes its place if it is lower, so that many tests together can reject.
    There is no normal limit of many: a few heavy flags may outweigh hundreds of other scenarios, and decide alone.
    Source: Hoeffding 1963, Journal of the American Statistical Association 58, theorem 2.
    """
    n, squares = len(differences), float(differences @ differences)
    reach = abs(float(differences.sum())) - 1e-9 * float(np.abs(differences).sum())  # equal sums differ in last bits
    if reach <= 0:
        return 1.0
    if n <= EXACT_FLIPS:
        return _exact_share(differences, reach)
    count = int(np.count_nonzero(np.abs(_drawn_sums(differences, np.random.default_rng(seed))) >= reach))
    share = (count + 1) / (FLIPS + 1)
    return share if count else min(share, 2 * math.exp(-(reach**2) / (2 * squares)))


def _drawn_sums(differences: Floats, rng: np.random.Generator) -> Floats:
    """The sums of ``FLIPS`` patterns of signs. Of many equal differences only the number of positive ones is drawn."""
    sizes, counts = np.unique(np.abs(differences), return_counts=True)
    alike = counts >= ALIKE
    sums = np.zeros(FLIPS)
    for size, count in zip(sizes[alike], counts[alike], strict=True):
        sums += size * (2 * rng.binomial(count, 0.5, FLIPS) - count)
    rest = np.repeat(sizes[~alike], counts[~alike])
    for of_eight in np.append(rest, np.zeros(-len(rest) % 8)).reshape(-1, 8) @ _signs(8).T:
        sums += of_eight[rng.integers(0, 256, size=FLIPS, dtype=np.uint8)]
    return sums


def _exact_share(differences: Floats, reach: float) -> float:
    """Of all sign patterns: each half's sums are listed, and for each of one half, those of the other are counted."""
    n = len(differences)
    some = np.sort(_signs(n // 2) @ differences[: n // 2])
    others = np.sort(_signs(n - n // 2) @ differences[n // 2 :])
    beyond = len(others) * len(some) - int(np.searchsorted(others, reach - some).sum())
    return 2 * beyond / 2.0**n


@lru_cache(maxsize=4)
def _signs(n: int) -> Floats:
    """All 2**n patterns of n signs, shape (patterns, n)."""
    bits = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
    return np.asarray(1.0 - 2.0 * bits, dtype=np.float64)
