"""Paired comparisons and their corrections."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from scipy.stats import binomtest, permutation_test, t

from pytest_promptbench import statistics as stats


def named(values) -> dict[str, float]:
    return {f"s{i:03}": float(x) for i, x in enumerate(values)}


def test_repeats_are_one_observation():
    scores = [("b", 1.0), ("a", 4.0), ("b", 3.0)]
    assert stats.cluster_means(scores) == {"b": 2.0, "a": 4.0}
    assert list(stats.cluster_means(scores)) == ["b", "a"]


def test_pooling_repeats_would_fake_significance():
    """Five scenarios of which four improved are p = 0.375, however often each was generated."""
    better = {"a": 1.0, "b": 1.0, "c": 1.0, "d": 1.0, "e": -1.0}
    repeats = stats.cluster_means((s, x) for s, x in better.items() for _ in range(20))
    assert stats.compare(repeats, dict.fromkeys(better, 0.0)).p_value == pytest.approx(0.375)
    assert stats.sign_flip_p_value([x for x in better.values() for _ in range(20)]) < 0.001


def test_only_common_scenarios_count_and_the_others_are_named():
    found = stats.compare({"a": 1.0, "b": 5.0, "x": 100.0}, {"a": 2.0, "b": 2.0, "y": -100.0, "z": 0.0})
    assert (found.n, found.mean_difference) == (2, 1.0)
    assert (found.unpaired_a, found.unpaired_b) == (("x",), ("y", "z"))


def test_scenarios_are_taken_and_named_in_one_order():
    """The seed draws places: in the order of the scenarios' hashes, each session would have its own figures."""
    rng = np.random.default_rng(3)
    a, b = named(rng.normal(size=20)), named(rng.normal(size=20))
    d = [a[s] - b[s] for s in sorted(a)]
    found = stats.compare({**dict(reversed(a.items())), **dict.fromkeys("zyxwv", 1.0)}, b | dict.fromkeys("qponm", 1.0))
    assert found.ci == pytest.approx(stats.mean_interval(d), rel=1e-7)
    assert (found.unpaired_a, found.unpaired_b) == (tuple("vwxyz"), tuple("mnopq"))


def test_nothing_in_common_is_not_zero():
    found = stats.compare({"a": 1.0}, {"b": 1.0})
    assert (found.n, found.mean_difference, found.ci, found.p_value, found.mde) == (0, None, None, None, None)


def test_one_scenario_has_a_difference_and_nothing_else():
    found = stats.compare({"a": 3.0}, {"a": 1.0})
    assert (found.n, found.mean_difference, found.ci, found.p_value, found.mde) == (1, 2.0, None, 1.0, None)


def test_a_comparison_turns_around():
    rng = np.random.default_rng(1)
    a, b = named(rng.normal(size=17)), named(rng.normal(size=17))
    there, back = stats.compare(a, b), stats.compare(b, a)
    assert back.mean_difference == pytest.approx(-there.mean_difference)
    assert back.ci == pytest.approx((-there.ci[1], -there.ci[0]))
    assert back.p_value == there.p_value
    assert back.mde == pytest.approx(there.mde)


def test_a_comparison_survives_json():
    found = stats.compare(named(range(8)), named([1, 1, 2, 2, 3, 3, 9, 9]))
    assert stats.PairedComparison.from_json(json.loads(json.dumps(found.to_json()))) == found


@pytest.mark.parametrize("n", [1, 4, 9, 13])
def test_the_exact_test_is_a_count_of_all_sign_patterns(n):
    d = np.random.default_rng(n).integers(-3, 5, n).astype(float)
    d[d == 0] = 1.0
    sums = [sum(s * x for s, x in zip(signs, d, strict=True)) for signs in itertools.product((1, -1), repeat=n)]
    two_sided = np.mean([abs(s) >= abs(d.sum()) - 1e-9 for s in sums])
    assert stats.sign_flip_p_value(d.tolist()) == pytest.approx(two_sided)


def test_zeros_carry_no_sign():
    d = [1.0, 2.0, -0.5, 3.0]
    assert stats.sign_flip_p_value([*d, *[0.0] * 40]) == stats.sign_flip_p_value(d)
    assert stats.sign_flip_p_value([0.0, 0.0]) == 1.0
    assert stats.sign_flip_p_value([]) == 1.0


@pytest.mark.parametrize("n", [30, 31, 250, 400])
def test_the_test_agrees_with_scipys_samples(n):
    """All patterns, and drawn ones."""
    d = np.random.default_rng(5).normal(0, 1, n)
    d += 1.9 / n**0.5 - d.mean()
    theirs = permutation_test((d,), np.sum, permutation_type="samples", n_resamples=50_000, rng=6).pvalue
    assert 0.01 < theirs < 0.2
    assert stats.sign_flip_p_value(d.tolist()) == pytest.approx(theirs, abs=0.01)


def test_a_few_that_outweigh_hundreds_decide_alone():
    """The normal limit of these 300 is 0.025, and that of the 300 flags 0.0209."""
    heavy = [100.0] * 5 + np.random.default_rng(1).normal(0, 0.01, 295).tolist()
    assert stats.sign_flip_p_value(heavy) == pytest.approx(2 / 2**5, abs=0.005)
    flags = [1.0] * 170 + [-1.0] * 130
    assert stats.sign_flip_p_value(flags) == pytest.approx(binomtest(170, 300).pvalue, abs=0.0025)


@pytest.mark.parametrize("n", [20, 30, 31, 40, 299, 300])
def test_a_thousand_tests_together_can_still_find_a_drop(n):
    """Of drawn patterns none comes as far, and 1 / 20,000 alone would say nothing beside 999 others."""
    d = 5.0 + np.random.default_rng(n).normal(0, 0.3, n)
    p = stats.sign_flip_p_value(d.tolist())
    assert 2.0**-n < p < 0.05 / 1000
    if n <= 30:
        assert p == 2 / 2.0**n
    else:  # Hoeffding's bound, of either side
        assert p == pytest.approx(2 * np.exp(-(d.sum() ** 2) / (2 * (d**2).sum())), rel=1e-6)


def test_rounding_errors_do_not_decide():
    """-0.3 - 0.1 + 0.3 is not quite -0.1, so patterns of one and the same sum differ in their last bits."""
    d, tenths = [-0.3, -0.1, 0.3], [-3.0, -1.0, 3.0]
    assert stats.sign_flip_p_value(d) == stats.sign_flip_p_value(tenths) == 1.0
    assert stats.sign_flip_p_value([-0.9, -0.8, 0.5, -0.7]) == stats.sign_flip_p_value([-9, -8, 5, -7]) == 0.25


def test_scores_that_were_added_up_in_another_order_are_equal():
    """A sign-flip test of eight last bits, all of one sign, has p at 0.008."""
    one, other = 0.4 + 0.6 + 0.3, 0.4 + 0.3 + 0.6
    assert one != other
    found = stats.compare(named([max(one, other)] * 8), named([min(one, other)] * 8))
    assert (found.mean_difference, found.ci, found.p_value, found.mde) == (0.0, (0.0, 0.0), 1.0, None)
    gaps, _ = stats.on_one_layer(np.array([[one]]), np.array([[other]]), [[0]])
    assert gaps.tolist() == [0.0]
    tenth = stats.compare(named([x + 0.1 for x in range(8)]), named(range(8)))
    assert (tenth.ci, tenth.mde) == ((0.1, 0.1), None), "no spread"


def test_the_test_keeps_its_level_on_whole_points():
    rng = np.random.default_rng(7)
    for n in (6, 20):
        false = sum(stats.sign_flip_p_value(rng.integers(-2, 3, n).tolist()) <= 0.05 for _ in range(600))
        assert false / 600 <= 0.07


def test_fewest_pairs():
    assert (stats.fewest_pairs(), stats.fewest_pairs(sides=1)) == (6, 5)
    assert (stats.fewest_pairs(0.05 / 6), stats.fewest_pairs(0.05 / 6, sides=1)) == (8, 7)
    assert stats.fewest_pairs(0.5, sides=1) == 1


@pytest.mark.parametrize("alpha", [0, 1, 5])
def test_an_error_rate_lies_between_0_and_1(alpha):
    with pytest.raises(ValueError, match=f"alpha is {alpha}; it must lie between 0 and 1"):
        stats.fewest_pairs(alpha)


def test_the_minimum_detectable_effect_is_millers():
    d = np.random.default_rng(8).normal(0, 0.8, 30)
    d = (d - d.mean()) / d.std(ddof=1) * 0.8
    assert stats.minimum_detectable_effect(d.tolist()) == pytest.approx(0.41, abs=0.02)  # 2.8 * 0.8 / sqrt(30)
    exact = (t.ppf(0.975, 29) + t.ppf(0.8, 29)) * 0.8 / 30**0.5
    assert stats.minimum_detectable_effect(d.tolist()) == pytest.approx(exact)


def test_the_minimum_detectable_effect_is_found_in_four_of_five():
    rng = np.random.default_rng(9)
    d = rng.normal(0, 1, 20)
    d = (d - d.mean()) / d.std(ddof=1)
    effect = stats.minimum_detectable_effect(d.tolist())
    found = sum(stats.sign_flip_p_value((rng.normal(0, 1, 20) + effect).tolist()) <= 0.05 for _ in range(500))
    assert 0.74 <= found / 500 <= 0.88


def test_a_one_sided_test_detects_more():
    d = [1.0, 2.0, 3.0, 4.0, 6.0]
    one = stats.minimum_detectable_effect(d, sides=1)
    assert one == pytest.approx((t.ppf(0.95, 4) + t.ppf(0.8, 4)) * np.std(d, ddof=1) / 5**0.5)


def test_no_minimum_detectable_effect_where_nothing_can_be_detected():
    assert stats.minimum_detectable_effect([1.0, 2.0, 3.0, 4.0, 6.0]) is None  # five: p >= 0.0625
    assert stats.minimum_detectable_effect([1.0] * 20) is None  # no spread to judge by


def test_holm_by_hand():
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert stats.holm([0.6, 0.9]) == [1.0, 1.0], "and not 1.2"
    assert stats.holm([]) == []
    assert stats.holm([0.01, 0.001], family=10) == pytest.approx([0.09, 0.01])
    assert stats.holm([0.01, 0.001], family=2) == stats.holm([0.01, 0.001])


def test_each_key_is_compared_on_one_layer_and_the_last_group_only_where_nothing_else_is() -> None:
    nan = np.nan
    a = np.array([[14.0, nan, nan, 9.0], [10.0, 11.0, nan, nan], [1.0, 2.0, 3.0, 4.0]])
    b = np.array([[13.0, nan, 8.0, nan], [2.0, 9.0, 9.0, 9.0], [0.0, 0.0, 0.0, 0.0]])
    d, layer = stats.on_one_layer(a, b, [(0, 1), (2,)])
    assert layer.tolist() == [0, 1, -1, -1]
    assert d[:2].tolist() == [1.0, 2.0]
    only_first, only_second = a.copy(), b.copy()
    only_first[1], only_second[0] = nan, nan
    d, layer = stats.on_one_layer(only_first, only_second, [(0, 1), (2,)])
    assert layer.tolist() == [2, 2, 2, 2]
    assert d.tolist() == [1.0, 2.0, 3.0, 4.0]


def test_one_key_on_the_first_group_keeps_a_pair_off_the_last_one_and_each_pair_is_decided_by_itself() -> None:
    """A person's 14 and 13 in one scenario, and none elsewhere: automatic scores there are of another scale."""
    nan = np.nan
    a = np.array([[[14.0, nan], [nan, nan]], [[1.0, 2.0], [1.0, 2.0]]])
    b = np.array([[[13.0, 9.0], [9.0, 9.0]], [[0.0, 0.0], [0.0, 0.0]]])
    d, layer = stats.on_one_layer(a, b, [(0,), (1,)])
    assert layer.tolist() == [[0, -1], [1, 1]]
    assert d[0, 0] == 1.0
    assert np.isnan(d[0, 1])
    assert d[1].tolist() == [1.0, 2.0]


def test_estimates_are_compared_as_independent_with_the_smaller_df() -> None:
    a = stats.MeanEstimate(12.0, 0.3, 9.0, 10, "human")
    b = stats.MeanEstimate(11.0, 0.4, 19.0, 20, "human")
    found = stats.compare_estimates(a, b)
    assert (found.n, found.mean_difference) == (10, 1.0)
    assert found.ci == pytest.approx((1 - t.ppf(0.975, 9) * 0.5, 1 + t.ppf(0.975, 9) * 0.5))
    assert found.p_value == pytest.approx(2 * t.sf(2.0, 9))
    assert found.mde == pytest.approx((t.ppf(0.975, 9) + t.ppf(0.8, 9)) * 0.5)


def test_a_standard_error_is_never_below_what_rounding_leaves_open() -> None:
    """An error within one step has a variance of step**2 / 12: of the mean of three scores, a 36th."""
    exact = stats.MeanEstimate(12.0, 0.0, 2.0, 3, "human", step=1.0)
    assert exact.floored_se == pytest.approx(1 / 6)
    assert exact._replace(se=0.5).floored_se == 0.5
    assert exact._replace(step=0.0).floored_se == 0.0


@pytest.mark.parametrize(("other", "p"), [(12.0, 1.0), (11.0, 0.0)])
def test_estimates_without_any_spread_are_equal_or_they_are_not(other, p) -> None:
    a, b = (stats.MeanEstimate(value, 0.0, 9.0, 10, "human") for value in (12.0, other))
    found = stats.compare_estimates(a, b)
    assert (found.p_value, found.ci, found.mde) == (p, (12 - other, 12 - other), None)


def test_interval_and_minimum_detectable_effect_are_of_the_level_that_was_asked_for() -> None:
    a, b = named(range(8)), named([1, 1, 2, 2, 3, 3, 9, 9])
    d = [a[s] - b[s] for s in a]
    found = stats.compare(a, b, level=0.99)
    assert found.ci == stats.mean_interval(d, level=0.99)
    assert found.mde == stats.minimum_detectable_effect(d, alpha=0.01)


@pytest.mark.parametrize(
    ("p", "said"),
    [
        (None, "-"),
        (0.00099, "< 0.001"),
        (0.0, "< 0.001"),
        (0.001, "= 0.001"),
        (0.0375, "= 0.037"),
        (0.0498, "= 0.050"),
        (0.05, "= 0.050"),
        (0.0503, "= 0.0503"),
        (0.050003, "= 0.050003"),
    ],
)
def test_a_p_value_is_never_written_as_zero_or_as_low_enough_where_it_is_not(p, said) -> None:
    assert stats.p_text(p) == said


@pytest.mark.parametrize(
    ("value", "plain", "with_sign"),
    [
        (1.234, "1.23", "+1.23"),
        (-0.3, "-0.30", "-0.30"),
        (0.0, "0.00", "0.00"),
        (-0.0, "0.00", "0.00"),
        (0.0042, "0.004", "+0.004"),
        (-0.00003, "-0.00003", "-0.00003"),
        (-1e-9, "0.00", "0.00"),
    ],
)
def test_a_small_difference_is_not_written_as_none(value, plain, with_sign) -> None:
    assert (stats.figure(value), stats.signed(value)) == (plain, with_sign)


def test_a_detectable_effect_that_there_is_not_has_a_reason() -> None:
    assert stats.detectable(0.531, (0.1, 0.2)) == "0.53"
    assert stats.detectable(None, (0.1, 0.2)) == stats.detectable(None, None) == "none: too few pairs"
    assert stats.detectable(None, (1.0, 1.0)) == "no spread to tell by"


def test_tests_flipped_together_are_adjusted_step_by_step():
    assert stats.flipped_together([]) == []
    assert stats.flipped_together([[9.0] * 7] * 4) == [2 / 128] * 4
    assert stats.flipped_together([[1.0] * 6, [-5.0, 0.1, 0.1, 0.1, 0.1, 0.1], [0.0] * 6]) == [2 / 64, 1.0, 1.0]
    opposite = stats.flipped_together([[1.0] * 6, [-1.0] * 6])
    assert opposite == [4 / 64, 1.0], "all flipped, it is the other test that rose"
    (alone,) = stats.flipped_together([[3.0, 1.0, 2.0, -0.5, 4.0, 1.5, 2.5]])
    assert alone == pytest.approx(stats.sign_flip_p_value([3.0, 1.0, 2.0, -0.5, 4.0, 1.5, 2.5]))
    first, second = stats.flipped_together([[1.0] * 7, [2.0, -1.0, 1.0, 3.0, 2.0, 1.0, 2.0]])
    assert first == 2 / 128
    assert second == pytest.approx(stats.sign_flip_p_value([2.0, -1.0, 1.0, 3.0, 2.0, 1.0, 2.0]))
    unlike = [[2.0, 3.0, 2.0, 1.0, -1.0, 4.0], [4.0, 3.0, 0.0, 3.0, 2.0, -1.0]]
    assert stats.flipped_together(unlike) == [10 / 64] * 2, "never less than that of a test with a larger sum"
    assert stats.flipped_together([unlike[0], [x / 100 for x in unlike[1]]]) == [10 / 64] * 2, "whatever the unit"
    assert stats.flipped_together([[-0.6, 1.1, -0.2, -0.4, 0.8, 3.3]]) == [24 / 64], "sums alike but for rounding"
