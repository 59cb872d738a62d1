"""Intervals of means and rates, and the ties of a leaderboard."""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
import pytest
from scipy.stats import binomtest, bootstrap, t, ttest_1samp

from pytest_promptbench import statistics as stats
from pytest_promptbench.statistics import resampling


def table(*rows: list[float]) -> list[dict[str, float]]:
    return [{f"s{i}": x for i, x in enumerate(row)} for row in rows]


def tied(rows: list[dict[str, float]], *, point: float = 1.0) -> list[int]:
    """The ranks of rows that one tier has scored."""
    names = sorted({s for row in rows for s in row})
    values = np.array([[[row.get(s, np.nan) for s in names] for row in rows]]).reshape(1, len(rows), len(names))
    no, nothing = [False] * len(rows), [None] * len(rows)
    return stats.tied_ranks(stats.Board(layers=values, groups=[(0,)], estimates=nothing, calibrated=no, point=point))


def test_importing_the_package_is_free():
    code = "import sys, pytest_promptbench.statistics; print({'numpy', 'scipy', 'sklearn'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_every_public_name_is_there():
    assert all(callable(getattr(stats, name)) for name in stats.__all__)
    assert set(stats.__all__) <= set(dir(stats))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = stats.nonsense


@pytest.mark.parametrize("values", [[], [3.0]])
def test_fewer_than_two_scenarios_have_no_interval(values):
    assert stats.mean_interval(values) is None


@pytest.mark.parametrize("n", [2, 5, 6, 8, 9, 20, 300])
def test_a_constant_has_the_interval_of_itself(n):
    assert stats.mean_interval([12.3] * n) == pytest.approx((12.3, 12.3))


@pytest.mark.parametrize("n", [2, 3, 5])
def test_two_to_five_scenarios_have_students_interval(n):
    x = np.random.default_rng(n).normal(size=n)
    assert stats.mean_interval(x.tolist()) == pytest.approx(t.interval(0.95, n - 1, x.mean(), x.std(ddof=1) / n**0.5))


def test_for_large_samples_it_is_scipys_bca():
    x = np.random.default_rng(1).gamma(1.0, size=400)
    theirs = bootstrap((x,), np.mean, n_resamples=40_000, method="BCa", rng=2).confidence_interval
    ours = stats.mean_interval(x.tolist())
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.01)
    plain = t.interval(0.95, 399, x.mean(), x.std(ddof=1) / 20)
    assert ours[0] > plain[0] + 0.002  # skewed to the right: both ends lie further right
    assert ours[1] > plain[1] + 0.002


def test_for_small_samples_it_is_wider_than_plain_bca():
    x = np.random.default_rng(3).normal(size=10)
    theirs = bootstrap((x,), np.mean, n_resamples=20_000, method="BCa", rng=2).confidence_interval
    low, high = stats.mean_interval(x.tolist())
    assert high - low > 1.1 * (theirs.high - theirs.low)


def test_for_symmetric_data_it_is_as_wide_as_students():
    x = np.array([-3, -2, -1.5, -0.7, -0.2, 0.2, 0.7, 1.5, 2, 3])
    low, high = stats.mean_interval(x.tolist())
    theirs = t.interval(0.95, 9, 0, x.std(ddof=1) / 10**0.5)
    assert (low, high) == pytest.approx(theirs, rel=0.03)


def test_an_interval_mirrors_with_its_data():
    for n in (4, 7, 20):
        x = np.random.default_rng(n).gamma(1.0, size=n)
        low, high = stats.mean_interval(x.tolist())
        assert stats.mean_interval((-x).tolist()) == pytest.approx((-high, -low))


def test_the_seed_decides_and_eight_scenarios_need_none():
    x = np.random.default_rng(4).normal(size=12).tolist()
    assert stats.mean_interval(x, seed=1) == stats.mean_interval(x, seed=1) != stats.mean_interval(x, seed=2)
    assert stats.mean_interval(x[:8], seed=1) == stats.mean_interval(x[:8], seed=2)


def test_a_higher_level_is_wider():
    x = np.random.default_rng(5).normal(size=15).tolist()
    narrow, wide = stats.mean_interval(x, level=0.8), stats.mean_interval(x, level=0.99)
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_it_covers_what_it_says():
    rng = np.random.default_rng(6)
    for n in (10, 20):
        inside = 0
        for _ in range(400):
            low, high = stats.mean_interval(np.round(rng.normal(12, 1.5, n)).tolist())
            inside += low <= 12 <= high
        assert 0.92 <= inside / 400 <= 0.98


def test_it_is_fast():
    x = np.random.default_rng(7).normal(size=20).tolist()
    took = []
    for _ in range(10):
        started = time.process_time()
        stats.mean_interval(x)
        took.append(time.process_time() - started)
    assert min(took) < 0.02


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_a_number_is_refused_by_place(bad):
    with pytest.raises(ValueError, match=r"value 1 is (nan|inf); leave out what is not scored"):
        stats.mean_interval([1.0, bad])


def test_a_level_of_95_is_refused():
    with pytest.raises(ValueError, match="level is 95; it must lie between 0 and 1"):
        stats.mean_interval([1.0, 2.0], level=95)


def test_enumerated_bootstrap_samples_are_all_there_are():
    counts, weights = resampling.resample_counts(4, seed=0)
    assert counts.shape == (35, 4)
    assert weights.sum() == pytest.approx(1.0)
    x = np.array([1.0, 2.0, 4.0, 9.0])
    means = counts @ x / 4
    assert weights @ means == pytest.approx(4.0)
    assert weights @ (means - 4) ** 2 == pytest.approx(x.var() / 4)


def test_large_samples_are_drawn_in_pieces_with_the_same_law():
    x = np.random.default_rng(8).normal(size=900)
    boot = resampling.bootstrap_means(x, seed=0)
    assert len(boot.values) == resampling.RESAMPLES
    assert boot.values.std() == pytest.approx(x.std() / 30, rel=0.03)


@pytest.mark.parametrize(("k", "n"), [(0, 10), (3, 10), (10, 10), (1, 1), (40, 55)])
def test_wilson_is_scipys(k, n):
    theirs = binomtest(k, n).proportion_ci(method="wilson")
    assert stats.wilson_interval(k, n) == pytest.approx((theirs.low, theirs.high))


def test_wilson_without_trials_and_with_impossible_ones():
    assert stats.wilson_interval(0, 0) is None
    with pytest.raises(ValueError, match="3 successes of 2"):
        stats.wilson_interval(3, 2)


# -- ties ----------------------------------------------------------------------------------------------------------


def test_no_rows_have_no_ranks():
    assert tied([]) == []
    assert tied([{}]) == [1]


def test_clearly_different_rows_have_their_own_ranks():
    rng = np.random.default_rng(1)
    rows = table(*(np.round(rng.normal(m, 1, 20)).tolist() for m in (14, 11, 8)))
    assert tied(rows) == [1, 2, 3]


def test_equal_rows_share_a_rank_and_the_next_rank_is_skipped():
    rng = np.random.default_rng(2)
    same = rng.normal(12, 1, 20)
    rows = table(same.tolist(), (same + rng.normal(0, 1, 20) - 0.1).tolist(), (same - 6).tolist())
    assert tied(rows) == [1, 1, 3]


def test_identical_rows_share_a_rank():
    assert tied(table([5.0] * 10, [5.0] * 10)) == [1, 1]


def test_a_row_is_compared_with_its_groups_leader():
    noise = np.random.default_rng(3).normal(0, 1, 40)
    rows = table(*((noise * k + 12 - 0.3 * k).tolist() for k in range(4)))
    alone = tied([rows[0], rows[3]])
    assert alone == [1, 1]
    steps = table(*([10 - 0.4 * k + (0.9 if (i + k) % 2 else -0.9) for i in range(12)] for k in range(4)))
    assert tied(steps)[0:2] == [1, 1]  # neighbours are tied ...
    assert tied(steps)[-1] > 1  # ... and yet the last is not tied with the first


CROWD = [{f"alone{i}": 1.0} for i in range(39)]
"""Rows that share no scenario with any other, so that they only make a board one of more than 40."""


@pytest.mark.parametrize("others", [[], CROWD], ids=["two rows", "many rows"])
def test_few_scenarios_tell_apart_only_what_lies_far_apart(others):
    def ranks(first: list[float], second: list[float]) -> list[int]:
        return tied([*table(first, second), *others])[:2]

    assert ranks([15.0] * 3, [6.0] * 3) == [1, 2]
    assert ranks([12.0] * 3, [11.0] * 3) == [1, 1]  # one point, thrice: rounding alone can do that
    assert ranks([12.0] * 3, [10.0] * 3) == [1, 2]  # 4.30 / sqrt(18) = 1.01 points are left open
    assert ranks([12.0, 12.1, 12.2], [11.5, 11.6, 11.7]) == [1, 2]  # and of scores in tenths 0.101
    assert ranks([12.0] * 12, [11.0] * 12) == [1, 2]
    assert ranks([12.0] * 2, [9.0] * 2) == [1, 1]  # of two, 12.71 / sqrt(12) = 3.67 points are left open
    assert ranks([12.0] * 2, [8.0] * 2) == [1, 2]


@pytest.mark.parametrize(("n", "others"), [(3, []), (12, CROWD)], ids=["few scenarios", "many rows"])
@pytest.mark.parametrize(("share", "ranks"), [(0.99, [1, 1]), (1.01, [1, 2])])
def test_rows_differ_from_students_t_of_five_percent_on(n, others, share, ranks):
    """Over common scenarios: what only one of the two has takes no part. (BCa's p is 0 for these three scenarios.)"""
    d = np.linspace(-1, 1, n)
    d += share * t.ppf(0.975, n - 1) * d.std(ddof=1) / n**0.5
    first, second = table((10 + d).tolist(), [10.0] * n)
    assert tied([{**first, "easy": 15.0}, {**second, "hard": 1.0}, *others])[:2] == ranks


@pytest.mark.parametrize("rows", [2, 50])
def test_the_unit_of_the_scores_does_not_matter(rows):
    """With weights of 10, two scenarios made one of two equal prompts the winner in 12 % of boards; of 1, in none."""
    rng = np.random.default_rng(4)
    for n in (2, 2, 2, 3, 3, 5, 12):
        scores = rng.integers(1, 6, (rows, n)).astype(float)
        ordered = scores[np.argsort(-scores.mean(axis=1), kind="stable")]
        ranks = tied(table(*ordered.tolist()))
        for point in (0.1, 10.0, 1e6):
            assert tied(table(*(point * ordered).tolist()), point=point) == ranks
    assert tied(table([30.0] * 2, [20.0] * 2), point=10.0) == [1, 1]


def test_too_few_common_scenarios_are_a_tie():
    assert tied([{"a": 15.0}, {"a": 3.0}]) == [1, 1]
    far = [{"a": 15.0, "b": 15.0, "c": 15.0}, {"x": 3.0, "y": 3.0, "c": 3.0}]
    assert tied(far) == [1, 1]


@pytest.mark.parametrize("rows", [2, 50])
def test_an_order_that_the_common_scenarios_contradict_is_a_tie(rows):
    """The first row stands first by scenarios that the second was spared: on all common ones, the second is better."""
    hard = {f"s{i}": 8.0 + i % 2 for i in range(10)}
    easy = {f"easy{i}": 15.0 for i in range(40)}
    better = {s: v + 2 + 0.1 * i for i, (s, v) in enumerate(hard.items())}
    filler = [{f"s{i}": 1.0 + i % 3 for i in range(10)}] * (rows - 2)
    assert tied([{**hard, **easy}, better, *filler])[:2] == [1, 1]


def test_two_rows_differ_where_students_t_and_bca_both_say_so():
    d = [3.0, 3.0, 2.0, -2.0, 2.0, 4.0, 1.0, 2.0]
    boot, a = resampling.bootstrap_means(np.array(d), seed=0), resampling.acceleration(-np.array(d))
    assert ttest_1samp(d, 0).pvalue < 0.03
    assert resampling.bca_p_value(float(np.mean(d)), boot, a, n=8) > 0.08
    rows = table([10 + x for x in d], [10.0] * 8)
    assert tied(rows) == tied([*rows, *CROWD[:38]])[:2] == [1, 1]
    assert tied([*rows, *CROWD])[:2] == [1, 2], "of more than 40 rows, Student's t alone says it"


def test_each_of_many_rows_has_its_own_mean_and_spread():
    """30 that differ by half a point, up and down, and 12 that are two points lower."""
    rows = table(*([12 - 2 * (k >= 30) + (i + k) % 2 / 2 for i in range(12)] for k in range(42)))
    assert tied(rows) == [1] * 30 + [31] * 12


def test_pairs_that_do_not_compare_take_no_share_of_the_error_rate():
    d = np.linspace(-1, 1, 12)
    d += 2.4 * d.std(ddof=1) / 12**0.5  # p is 0.035: enough for one pair, not for three
    rows = table((10 + d).tolist(), [10.0] * 12)
    assert tied(rows) == [1, 2]
    assert tied([*rows, {"s0": 5.0, "elsewhere": 5.0}])[:2] == [1, 2]
    assert tied([*rows, {"s0": 12.0, "s1": 6.0}])[:2] == [1, 1]


def test_many_rows_are_corrected_for():
    rng = np.random.default_rng(9)
    false = 0
    for _ in range(120):
        scores = np.round(rng.normal(12, 1.5, (6, 12)))
        ordered = scores[np.argsort(-scores.mean(axis=1), kind="stable")]
        false += max(tied(table(*ordered.tolist()))) > 1
    assert false <= 12  # at 5 % each of 15 pairs by itself, 40 or more


@pytest.mark.parametrize("n", [7, 20, 320])
def test_the_p_of_ranks_is_that_at_which_the_interval_ends_at_zero(n) -> None:
    values = np.random.default_rng(n).gamma(1.0, 2.0, size=n)
    values -= values.mean() - 1.7 * values.std() / np.sqrt(n)
    mean, boot, a = float(values.mean()), resampling.bootstrap_means(values, seed=0), resampling.acceleration(-values)
    p = resampling.bca_p_value(mean, boot, a, n=n)
    assert 0.01 < p < 0.4
    low, _ = resampling.bca_interval(mean, boot, a, n=n, level=1 - p)
    assert low == pytest.approx(0.0, abs=0.01 * values.std() / np.sqrt(n))


def test_many_scenarios_follow_the_expansion_of_the_bootstrap() -> None:
    """At 300 scenarios of skewed scores the expansion's quantiles are those of 10,000 resamples."""
    rng = np.random.default_rng(5)
    values = np.minimum(15.0, 15 - rng.exponential(2.0, size=300))
    expanded = resampling.bootstrap_means(values, seed=1)
    drawn = np.sort(values[rng.integers(0, 300, size=(10_000, 300))].mean(axis=1))
    for share in (0.005, 0.025, 0.25, 0.5, 0.75, 0.975, 0.995):
        spread = drawn.std()
        assert abs(np.quantile(expanded.values, share) - np.quantile(drawn, share)) < 0.08 * spread


def test_many_rows_of_many_scenarios_are_ranked_at_once() -> None:
    rng = np.random.default_rng(3)
    rows = [
        {f"s{i}": float(v) for i, v in enumerate(np.round(rng.normal(10 - 0.5 * (k // 10), 2, size=2000)))}
        for k in range(30)
    ]
    rows.sort(key=lambda row: -sum(row.values()))
    ranks = tied(rows)
    assert sorted(set(ranks)) == [1, 11, 21]
