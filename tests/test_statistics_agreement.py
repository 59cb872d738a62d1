"""Agreement, held against the libraries and against published values."""

from __future__ import annotations

import json
import time
import tracemalloc
from pathlib import Path

import krippendorff
import numpy as np
import pytest
from scipy.sparse import csr_array
from scipy.stats import spearmanr
from sklearn.metrics import cohen_kappa_score, recall_score

from pytest_promptbench import statistics as stats
from pytest_promptbench.records import Criterion
from pytest_promptbench.statistics import resampling
from pytest_promptbench.statistics.agreement import _Ratings
from pytest_promptbench.statistics.coefficients import (
    gwet_ac1,
    nearest_point,
    ordinal_alpha,
    scale_points,
    spearman,
    weighted_kappa,
)

SCALE = Criterion(name="relevance", type="scale", min=1, max=5, weight=1)
FLAG = Criterion(name="ok", type="flag", bad=False, penalty=1)
HANNA = Path(__file__).parents[1] / "benchmarks" / "data" / "hanna_scores.jsonl"


def rated(a, b, *, name="relevance", per_scenario=2) -> list[stats.RatedPair]:
    return [
        stats.RatedPair(scenario=f"s{i // per_scenario}", a={name: x}, b={name: y})
        for i, (x, y) in enumerate(zip(a, b, strict=True))
    ]


def scale(a, b, **options) -> stats.ScaleAgreement:
    (found,) = stats.measure_agreement(rated(a, b, **options), [SCALE]).scales
    return found


def flag(a, b, **options) -> stats.FlagAgreement:
    (found,) = stats.measure_agreement(rated(a, b, name="ok", **options), [FLAG]).flags
    return found


def tables_of(a, b, k) -> np.ndarray:
    found = np.zeros((1, k, k))
    np.add.at(found[0], (np.asarray(a), np.asarray(b)), 1.0)
    return found


# -- against the libraries -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_every_figure_is_the_librarys(seed):
    rng = np.random.default_rng(seed)
    a = rng.integers(1, 6, 60)
    b = np.clip(a + rng.integers(-2, 3, 60), 1, 5)
    found = scale(a.tolist(), b.tolist())
    assert found.kappa.value == pytest.approx(cohen_kappa_score(a, b, labels=[1, 2, 3, 4, 5], weights="quadratic"))
    alpha = krippendorff.alpha(reliability_data=np.array([a, b], float), level_of_measurement="ordinal")
    assert found.alpha.value == pytest.approx(alpha)
    assert found.spearman.value == pytest.approx(spearmanr(a, b).statistic)
    assert found.mean_absolute_difference.value == pytest.approx(np.abs(a - b).mean())
    assert found.bias.value == pytest.approx((a - b).mean())
    x, y = (a > 3).tolist(), (b > 3).tolist()
    assert flag(x, y).kappa.value == pytest.approx(cohen_kappa_score(x, y))


def test_figures_of_a_resample_are_those_of_the_resampled_candidates():
    """Weights on scenarios mean that scenario's candidates so many times: ranks, tables and all."""
    rng = np.random.default_rng(3)
    x, y, cluster = rng.integers(1, 6, 30).astype(float), rng.normal(size=30), np.repeat(np.arange(10), 3)
    weights = rng.integers(0, 4, (4, 10)).astype(float)
    ratings = _Ratings.of(x, y, cluster, np.ones(len(x)))
    got = spearman(ratings.x, ratings.y)(weights @ ratings.counts)
    for row, value in zip(weights, got, strict=True):
        times = row[cluster].astype(int)
        assert value == pytest.approx(spearmanr(np.repeat(x, times), np.repeat(y, times)).statistic)


# -- candidates that stand for others ------------------------------------------------------------------------------


def test_a_weight_is_as_many_candidates_but_is_counted_once():
    rng = np.random.default_rng(5)
    x, y = rng.integers(1, 6, 24).astype(float), rng.integers(1, 6, 24).astype(float)
    times = rng.integers(1, 5, 24)
    scenario = [f"s{i // 3}" for i in range(24)]
    once = [
        stats.RatedPair(scenario=s, a={"relevance": a, "ok": a > 3}, b={"relevance": b, "ok": b > 3}, weight=float(w))
        for s, a, b, w in zip(scenario, x, y, times, strict=True)
    ]
    repeated = [stats.RatedPair(scenario=p.scenario, a=p.a, b=p.b) for p in once for _ in range(int(p.weight))]
    one, many = (stats.measure_agreement(pairs, [SCALE, FLAG]) for pairs in (once, repeated))
    assert (one.weighted, many.weighted) == (True, False)
    assert one.candidates == one.scales[0].n == one.flags[0].n == 24
    assert many.candidates == int(times.sum())
    for name in ("kappa", "alpha", "spearman", "mean_absolute_difference", "bias"):
        _same(getattr(one.scales[0], name), getattr(many.scales[0], name))
    for name in ("kappa", "ac1", "raw", "base_rate_a", "base_rate_b", "tpr", "tnr"):
        _same(getattr(one.flags[0], name), getattr(many.flags[0], name))


def test_equal_weights_are_a_plain_sample_also_in_alpha():
    """As an audit that drew all of its labels at random gives them; the report says that nothing was weighed."""
    a, b = (1.0, 2.0, 3.0, 5.0, 4.0), (2.0, 2.0, 5.0, 4.0, 4.0)

    def measured(weight: float) -> stats.AgreementReport:
        pairs = [
            stats.RatedPair(scenario=f"s{i}", a={"relevance": x}, b={"relevance": y}, weight=weight)
            for i, (x, y) in enumerate(zip(a, b, strict=True))
        ]
        return stats.measure_agreement(pairs, [SCALE])

    found = measured(24 / 9)
    assert not found.weighted
    assert found == measured(1.0)
    assert found.scales[0].alpha.value == pytest.approx(
        krippendorff.alpha(np.array([a, b]), level_of_measurement="ordinal", value_domain=[1, 2, 3, 4, 5])
    )


def test_weights_count_however_near_each_other():
    """A difference of 2 in one candidate and of 0 in another that stands for one and a half."""
    given = (("s0", 3, 1, 1.0), ("s1", 4, 4, 1.5))
    found = stats.measure_agreement(
        [stats.RatedPair(scenario=s, a={"relevance": a}, b={"relevance": b}, weight=w) for s, a, b, w in given], [SCALE]
    )
    assert found.weighted
    assert found.scales[0].bias.value == pytest.approx(2 / 2.5)


def _same(a: stats.Estimate, b: stats.Estimate) -> None:
    assert a.value == pytest.approx(b.value)
    assert a.ci == pytest.approx(b.ci)


def test_an_audit_tells_the_agreement_of_all_candidates():
    """Half of it picked for their disagreement: kappa is that of all, within its interval; unweighted it is far off."""
    rng = np.random.default_rng(6)
    off: dict[bool, list[float]] = {True: [], False: []}
    inside = {True: 0, False: 0}
    for _ in range(40):
        x, y = (np.array(side) for side in _draw(rng, 240))
        truth = scale(x.tolist(), y.tolist(), per_scenario=4).kappa.value
        order = rng.permutation(240)
        order = order[np.argsort(-np.abs(x - y)[order], kind="stable")]
        chosen = [*((i, 1.0) for i in order[:20]), *((i, 220 / 20) for i in rng.permutation(order[20:])[:20])]
        for weighted in (True, False):
            pairs = [
                stats.RatedPair(
                    scenario=f"s{i // 4}", a={"relevance": x[i]}, b={"relevance": y[i]}, weight=w if weighted else 1.0
                )
                for i, w in chosen
            ]
            found = stats.measure_agreement(pairs, [SCALE]).scales[0].kappa
            off[weighted].append(found.value - truth)
            inside[weighted] += found.ci[0] <= truth <= found.ci[1]
    assert abs(np.mean(off[True])) < 0.06
    assert np.mean(off[False]) < -0.3
    assert inside[True] >= 34
    assert inside[False] <= 4


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_a_weight_is_a_positive_number(weight):
    with pytest.raises(ValueError, match="a weight is not a positive number"):
        stats.measure_agreement([stats.RatedPair(scenario="s", a={}, b={}, weight=weight)], [SCALE])


# -- against published values --------------------------------------------------------------------------------------


def test_krippendorffs_four_observers():
    """Krippendorff 2011, example D: nominal .743, ordinal .815, interval .849 (by the library)."""
    missing = np.nan
    data = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, missing, missing, missing],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, missing, 3],
        [missing, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, missing],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, missing],
    ]
    for level, published in (("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)):
        assert krippendorff.alpha(reliability_data=data, level_of_measurement=level) == pytest.approx(
            published, abs=5e-4
        )


def of_tables(statistic, tables):
    """The figure of the first of some contingency tables, whose cells are pairs of points."""
    i, j = np.indices(tables.shape[1:]).reshape(2, -1)
    return statistic(i, j)(tables.reshape(len(tables), -1).astype(float))[0]


def kappa_on(points):
    return lambda i, j: weighted_kappa(i, j, np.asarray(points))


def test_krippendorffs_two_observers():
    """Krippendorff 2011, example A: Meg and Owen, binary, alpha .095."""
    meg = [0, 1, 0, 0, 0, 0, 0, 0, 1, 0]
    owen = [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]
    assert of_tables(lambda i, j: ordinal_alpha(i, j, 2), tables_of(meg, owen, 2)) == pytest.approx(0.095, abs=5e-4)


def test_gwets_abstractors():
    """The package irrCAC, cont3x3abstractors: kappa 0.7964094, AC1 0.8493305."""
    table = np.array([[[13, 0, 0], [0, 20, 7], [0, 4, 56]]], float)
    assert gwet_ac1(table)[0] == pytest.approx(0.8493305, abs=1e-7)


def test_cohens_kappa_of_sas_and_squared_weights_of_irr():
    """SAS's example (kappa .4842) and R's irr, kappa2(anxiety[, 2:3], "squared") = 0.2520325."""
    sas = np.array([[[0, 4, 1], [0, 8, 0], [0, 1, 5]]], float)
    nominal = [of_tables(kappa_on([0.0, 1.0]), _merge(sas, k)) for k in range(3)]
    observed, expected = np.trace(sas[0]) / 19, (sas[0].sum(0) * sas[0].sum(1)).sum() / 19**2
    assert (observed - expected) / (1 - expected) == pytest.approx(0.4842, abs=5e-5)
    assert all(-1 <= k <= 1 for k in nominal)
    second = [3, 6, 4, 6, 2, 4, 2, 4, 3, 3, 2, 3, 3, 3, 2, 2, 1, 3, 3, 4]
    third = [2, 1, 4, 4, 3, 2, 1, 6, 1, 1, 1, 2, 3, 3, 1, 1, 3, 3, 2, 2]
    place = {1: 0, 2: 1, 3: 2, 4: 3, 6: 4}  # irr numbers the levels that occur
    table = tables_of([place[x] for x in second], [place[x] for x in third], 5)
    for unit in (1.0, 1e-9, 1e9):
        assert of_tables(kappa_on(np.arange(5.0) * unit), table) == pytest.approx(0.2520325, abs=1e-6)


def _merge(table: np.ndarray, k: int) -> np.ndarray:
    """Category k against the rest."""
    t = table[0]
    both, row, column = t[k, k], t[k].sum(), t[:, k].sum()
    return np.array([[[both, row - both], [column - both, t.sum() - row - column + both]]])


def test_gwets_paradox():
    """Nearly all answers alike: kappa is about 0 although the judges agree on 118 of 125 (Gwet 2002)."""
    a = [True] * 118 + [True] * 5 + [False] * 2
    b = [True] * 118 + [False] * 5 + [True] * 2
    found = flag(a, b)
    assert found.raw.value == pytest.approx(0.944)
    assert found.kappa.value == pytest.approx(-0.0234, abs=5e-5)
    assert found.ac1.value == pytest.approx(0.9408, abs=5e-5)
    assert (found.base_rate_a.value, found.base_rate_b.value) == pytest.approx((0.984, 0.96))


def test_rates_of_the_second_judge_with_the_first_as_the_reference():
    """Of 8 that are true it finds 6, and takes 3 of 12 that are false for true; scikit-learn calls the rates recall."""
    a = [True] * 8 + [False] * 12
    b = [True] * 6 + [False] * 2 + [True] * 3 + [False] * 9
    found = flag(a, b)
    assert (found.tpr.value, found.tnr.value) == (0.75, 0.75)
    other = flag(b, a)
    assert (other.tpr.value, other.tnr.value) == pytest.approx((6 / 9, 9 / 11))
    assert other.tpr.value == pytest.approx(recall_score(b, a))
    assert other.tnr.value == pytest.approx(recall_score(b, a, pos_label=False))


def test_there_is_no_rate_of_what_the_reference_never_says():
    found = flag([False] * 6, [True, False] * 3)
    assert found.tpr == stats.Estimate(value=None, reason="judge a calls none true")
    assert found.tnr.value == 0.5
    assert flag([True] * 6, [True, False] * 3).tnr.reason == "judge a calls none false"


# -- intervals -----------------------------------------------------------------------------------------------------


def test_a_rate_of_one_is_not_certain():
    """No resample differs from it; Wilson's interval is of the scenarios that have such a candidate."""
    a = [True] * 6 + [False] * 14
    found = flag(a, a, per_scenario=2)  # three scenarios of two that are true each, seven of two that are false
    assert found.tpr == stats.Estimate(value=1.0, ci=stats.wilson_interval(3, 3))
    assert found.tnr == stats.Estimate(value=1.0, ci=stats.wilson_interval(7, 7))
    assert found.raw == stats.Estimate(value=1.0, ci=stats.wilson_interval(10, 10))
    never = flag(a, [False] * 20, per_scenario=2)
    assert never.tpr == stats.Estimate(value=0.0, ci=stats.wilson_interval(0, 3))
    assert never.base_rate_b == stats.Estimate(value=0.0, ci=stats.wilson_interval(0, 10))
    assert (
        flag([True] + [False] * 9, [True] + [False] * 9, per_scenario=1).tpr.reason == "no interval from one scenario"
    )


def test_rates_cover_the_truth_also_where_few_are_true():
    rng = np.random.default_rng(3)
    hits = []
    for _ in range(150):
        a = rng.random(20) < 0.3
        b = np.where(a, rng.random(20) < 0.9, rng.random(20) < 0.1)
        ci = flag(a.tolist(), b.tolist(), per_scenario=1).tpr.ci
        hits += [] if ci is None else [ci[0] <= 0.9 <= ci[1]]
    assert len(hits) > 140
    assert np.mean(hits) > 0.93


def test_intervals_hold_the_figure_and_the_seed_decides():
    rng = np.random.default_rng(1)
    a = rng.integers(1, 6, 80)
    b = np.clip(a + rng.integers(-1, 2, 80), 1, 5)
    pairs = rated(a.tolist(), b.tolist())
    first, again, other = (stats.measure_agreement(pairs, [SCALE], seed=s) for s in (1, 1, 2))
    assert first == again != other
    for name in ("kappa", "alpha", "spearman", "mean_absolute_difference", "bias"):
        estimate = getattr(first.scales[0], name)
        assert estimate.ci[0] < estimate.value < estimate.ci[1]
    flags = flag((a > 3).tolist(), (b > 3).tolist())
    for name in ("kappa", "ac1", "raw", "base_rate_a", "base_rate_b", "tpr", "tnr"):
        estimate = getattr(flags, name)
        assert estimate.ci[0] < estimate.value < estimate.ci[1], name


def test_neither_names_of_scenarios_nor_the_order_of_candidates_change_a_figure():
    """The seed draws places: in the order of the names' hashes, each session would have its own intervals."""
    rng = np.random.default_rng(3)
    a, b = rng.integers(1, 6, (2, 40)).tolist()
    pairs = [
        stats.RatedPair(scenario=f"s{i // 2:02}", a={"relevance": x}, b={"relevance": y})
        for i, (x, y) in enumerate(zip(a, b, strict=True))
    ]
    renamed = [stats.RatedPair(scenario=p.scenario.replace("s", "other-"), a=p.a, b=p.b) for p in reversed(pairs)]
    assert stats.measure_agreement(renamed, [SCALE]) == stats.measure_agreement(pairs, [SCALE])


def test_a_cluster_is_one_observation():
    """Ten copies of each candidate under its scenario tell nothing new; as scenarios of their own they would."""
    rng = np.random.default_rng(2)
    a = rng.integers(1, 6, 20)
    b = np.clip(a + rng.integers(-1, 2, 20), 1, 5)
    once = scale(a.tolist(), b.tolist(), per_scenario=1).bias.ci
    copied = scale(np.repeat(a, 10).tolist(), np.repeat(b, 10).tolist(), per_scenario=10).bias.ci
    ignored = scale(np.repeat(a, 10).tolist(), np.repeat(b, 10).tolist(), per_scenario=1).bias.ci
    assert copied == pytest.approx(once)
    assert ignored[1] - ignored[0] < 0.5 * (once[1] - once[0])


def test_intervals_cover():
    rng = np.random.default_rng(4)
    truth = scale(*_draw(rng, 20_000), per_scenario=1000).kappa.value
    inside = 0
    for _ in range(120):
        low, high = scale(*_draw(rng, 40), per_scenario=1).kappa.ci
        inside += low <= truth <= high
    assert 0.88 <= inside / 120 <= 1.0


def _draw(rng, n):
    true = rng.normal(3, 1.2, n)
    return tuple(np.clip(np.round(true + rng.normal(0, 0.7, n)), 1, 5).tolist() for _ in range(2))


# -- what is not defined -------------------------------------------------------------------------------------------


def test_one_judge_is_constant():
    found = scale([3, 3, 3, 3], [1, 2, 3, 4])
    assert found.spearman.value is None
    assert found.spearman.reason == "no rank correlation with judge a: it gave every candidate the same score"
    assert found.kappa.value == 0.0  # no better than chance


def test_all_equal():
    found = scale([4, 4, 4, 4], [4, 4, 4, 4])
    for figure in (found.kappa, found.alpha):
        assert (figure.value, figure.ci) == (None, None)
        assert figure.reason == "both judges gave every candidate the same score"
    assert (found.bias.value, found.bias.ci) == (0.0, (0.0, 0.0))
    same = flag([True] * 6, [True] * 6)
    assert same.kappa.value is None
    assert same.kappa.reason == "both judges gave every candidate the same answer"
    assert (same.ac1.value, same.raw.value, same.base_rate_a.value) == (1.0, 1.0, 1.0)


def test_one_candidate():
    found = scale([4], [2])
    assert found.n == 1
    assert found.mean_absolute_difference == stats.Estimate(value=2.0, reason="no interval from one scenario")
    assert found.spearman.value is None


def test_perfect_agreement_of_judges_that_vary():
    found = scale([1, 2, 3, 4, 5, 1, 2, 3, 4, 5] * 2, [1, 2, 3, 4, 5, 1, 2, 3, 4, 5] * 2)
    assert found.kappa == stats.Estimate(value=1.0, ci=(1.0, 1.0))
    assert found.alpha.value == pytest.approx(1.0)


def test_where_many_resamples_do_not_vary_there_is_no_interval():
    found = flag([True] * 9 + [False], [True] * 9 + [False], per_scenario=1)
    assert found.kappa.value == 1.0
    assert found.kappa.ci is None
    assert found.kappa.reason == "no interval: many resamples leave it undefined"


def test_no_figure_is_ever_nan():
    cases = [([1], [1]), ([1, 5], [5, 1]), ([1, 1], [1, 2]), ([2, 2, 2], [3, 3, 3]), ([1.5, 2.25], [4, 4])]
    for a, b in cases:
        for clusters in (1, 5):
            text = json.dumps(scale(a, b, per_scenario=clusters).to_json(), allow_nan=False)
            assert "kappa" in text
    json.dumps(flag([True], [False]).to_json(), allow_nan=False)


def test_what_only_one_judge_scored_does_not_count():
    pairs = [
        stats.RatedPair(scenario="s0", a={"relevance": 3, "ok": True}, b={"relevance": None, "ok": True}),
        stats.RatedPair(scenario="s1", a={"relevance": 3}, b={"relevance": 4, "ok": False}),
        stats.RatedPair(scenario="s2", a={}, b={}),
    ]
    report = stats.measure_agreement(pairs, [SCALE, FLAG], a="ann", b="haiku")
    assert (report.a, report.b, report.candidates, report.scenarios) == ("ann", "haiku", 2, 2)
    assert (report.scales[0].n, report.flags[0].n) == (1, 1)
    assert stats.measure_agreement([], [SCALE]).scales == ()


def test_a_report_survives_json():
    rng = np.random.default_rng(5)
    a, b = rng.integers(1, 6, (2, 20)).tolist()
    report = stats.measure_agreement(rated(a, b), [SCALE])
    assert stats.AgreementReport.from_json(json.loads(json.dumps(report.to_json()))) == report


# -- ratings that are no points ------------------------------------------------------------------------------------


def test_means_over_calls_are_rounded_for_kappa_and_alpha_alone():
    found = scale([1, 2.5, 3.4, 5], [1, 3, 3, 4.6], per_scenario=1)
    assert found.rounded == 3
    assert found.kappa.value == pytest.approx(1.0)
    assert found.bias.value == pytest.approx((0 - 0.5 + 0.4 + 0.4) / 4)


def test_halves_go_up_and_nothing_leaves_the_scale():
    points = scale_points(1, 5, np.array([]))
    assert points.tolist() == [1, 2, 3, 4, 5]
    assert nearest_point(np.array([1.5, 2.5, 2.4999, 0.2, 9]), points).tolist() == [1, 2, 1, 0, 4]


def test_a_short_scale_is_cut_in_tenths():
    assert scale_points(0, 1, np.array([])) == pytest.approx(np.arange(11) / 10)
    assert scale_points(2, 3, np.array([])) == pytest.approx(2 + np.arange(11) / 10)
    assert nearest_point(np.array([2.34, 2.95]), scale_points(2, 3, np.array([]))).tolist() == [3, 10]
    assert scale_points(None, None, np.array([2.0, 4.0])).tolist() == [2, 3, 4]
    assert scale_points(None, None, np.array([2.0, 2.0])).tolist() == [2]


def test_tenths_that_are_points_of_a_short_scale_are_not_rounded():
    """3 * 0.1 is not quite 0.3, and 6 and 7 tenths are not either."""
    criterion = Criterion(name="relevance", type="scale", min=0, max=1, weight=1)
    (found,) = stats.measure_agreement(rated([0.1, 0.3, 0.6, 0.7], [0.0, 0.3, 0.75, 1.0]), [criterion]).scales
    assert found.rounded == 1, "0.75 alone"


def test_a_flag_that_is_a_share_counts_from_one_half_up():
    shares, answers = [0.5, 0.4, 1.0], [True, False, True]
    for a, b in ((shares, answers), (answers, shares)):
        assert flag(a, b, per_scenario=1).raw.value == 1.0


# -- real scores ---------------------------------------------------------------------------------------------------


def test_hanna():
    """Every figure on 528 real stories is the libraries', and it takes a second or two."""
    rows = [json.loads(line) for line in HANNA.read_text(encoding="utf-8").splitlines()]
    names = list(rows[0]["human"][0])
    criteria = [Criterion(name=c, type="scale", min=1, max=5, weight=1) for c in names]
    pairs = [stats.RatedPair(scenario=r["scenario"], a=r["human"][0], b=r["auto"]["beluga-13b"]) for r in rows]
    started = time.process_time()
    report = stats.measure_agreement(pairs, criteria)
    assert time.process_time() - started < 5
    assert (report.candidates, report.scenarios) == (528, 48)
    for found in report.scales:
        a = np.array([p.a[found.criterion] for p in pairs], float)
        b = np.array([p.b[found.criterion] for p in pairs], float)
        near = np.clip(np.floor(b + 0.5 + 1e-9), 1, 5)
        assert found.kappa.value == pytest.approx(
            cohen_kappa_score(a.astype(int), near.astype(int), weights="quadratic")
        )
        alpha = krippendorff.alpha(reliability_data=np.array([a, near]), level_of_measurement="ordinal")
        assert found.alpha.value == pytest.approx(alpha)
        assert found.spearman.value == pytest.approx(spearmanr(a, b).statistic)
        assert found.spearman.ci[1] - found.spearman.ci[0] < 0.3


# -- many scenarios ------------------------------------------------------------------------------------------------


def counted(n, kinds, seed=0):
    """How often each of some pairs of ratings is in each of n scenarios, of about so many different kinds."""
    rng = np.random.default_rng(seed)
    return csr_array(rng.poisson(0.7, (kinds, 6)).astype(float)[rng.integers(0, kinds, n)])


@pytest.mark.parametrize(("n", "kinds"), [(5, 5), (40, 40), (700, 700)], ids=["enumerated", "kept", "in parts"])
def test_sums_over_resamples_are_those_of_the_resamples_themselves(n, kinds, monkeypatch):
    monkeypatch.setattr(resampling, "_AT_ONCE", 50_000)
    counts = counted(n, kinds)
    parts = list(resampling.resampled_sums(counts, seed=3, resamples=1000))
    weights, shares = resampling.resample_counts(n, seed=3, resamples=1000)
    assert (len(parts) > 1) == (n == 700)
    assert np.concatenate([s for s, _ in parts]) == pytest.approx(weights @ counts.toarray())
    assert np.concatenate([p for _, p in parts]) == pytest.approx(shares)


def test_sums_over_resamples_of_few_kinds_of_scenarios_have_the_same_law():
    counts = counted(2000, 9)
    sums = np.concatenate([s for s, _ in resampling.resampled_sums(counts, seed=3, resamples=20_000)])
    dense = counts.toarray()
    assert sums.mean(axis=0) == pytest.approx(dense.sum(axis=0), rel=2e-3)
    assert np.cov(sums.T) == pytest.approx(2000 * np.cov(dense.T, bias=True), rel=0.05, abs=30)


def test_the_jackknife_leaves_out_each_scenario_or_groups_of_many(monkeypatch):
    counts = counted(1500, 1500)
    each = np.concatenate(list(resampling.left_out_sums(counts, seed=0)))
    assert each == pytest.approx(counts.toarray().sum(axis=0) - counts.toarray())
    values = csr_array(np.random.default_rng(1).exponential(size=(20_000, 1)) ** 2)
    monkeypatch.setattr(resampling, "LEFT_OUT", 20_000)
    one_by_one = resampling.acceleration(np.concatenate(list(resampling.left_out_sums(values, seed=0)))[:, 0])
    monkeypatch.setattr(resampling, "LEFT_OUT", 2_000)
    in_groups = np.concatenate(list(resampling.left_out_sums(values, seed=0)))[:, 0]
    assert len(in_groups) == 2000
    assert resampling.acceleration(in_groups) == pytest.approx(one_by_one, rel=0.25)


def test_memory_is_that_of_the_data_and_not_of_the_resamples():
    """4,000 resamples of 6,000 scenarios, or leaving out each of these, would be 200 to 300 MB as a matrix."""
    rng = np.random.default_rng(0)
    pairs = [
        stats.RatedPair(scenario=str(i // 2), a={"relevance": x}, b={"relevance": y})
        for i, (x, y) in enumerate(rng.choice([1.0, 2.0, 4.0, 5.0], (12_000, 2)))
    ]
    tracemalloc.start()
    (found,) = stats.measure_agreement(pairs, [SCALE]).scales
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.n == 12_000
    assert found.kappa.ci is not None
    assert found.kappa.ci[0] < 0 < found.kappa.ci[1]
    assert peak < 100e6, f"{peak / 1e6:.0f} MB"


def test_a_scale_of_many_points_takes_no_more_memory():
    """A table of the points of a scale from 0 to 300 in each of 4,000 resamples would be 3 GB."""
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 301, (2, 40)).astype(float)
    tracemalloc.start()
    pairs = [
        stats.RatedPair(scenario=str(i), a={"c": x}, b={"c": y}) for i, (x, y) in enumerate(zip(a, b, strict=True))
    ]
    (found,) = stats.measure_agreement(pairs, [Criterion(name="c", type="scale", min=0, max=300, weight=1)]).scales
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.kappa.value == pytest.approx(cohen_kappa_score(a, b, labels=range(301), weights="quadratic"))
    alpha = krippendorff.alpha(reliability_data=np.array([a, b]), level_of_measurement="ordinal")
    assert found.alpha.value == pytest.approx(alpha)
    assert peak < 200e6, f"{peak / 1e6:.0f} MB"


def test_points_that_nobody_gave_take_no_memory_and_change_nothing():
    """A composite of three scales to 100 with a weight of 30 has 9,001 points; each took 4,000 resamples' room."""
    rng = np.random.default_rng(1)
    first, second = rng.integers(0, 10, size=(2, 60)).tolist()
    found = []
    for top in (9, 90_000):
        criterion = Criterion(name="relevance", type="scale", min=0, max=top, weight=1)
        tracemalloc.start()
        (scale,) = stats.measure_agreement(rated(first, second), [criterion]).scales
        assert tracemalloc.get_traced_memory()[1] < 100e6
        tracemalloc.stop()
        found.append(scale)
    assert found[0] == found[1]
