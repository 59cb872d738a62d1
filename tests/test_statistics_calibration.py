"""Prediction-powered means."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.stats import t

from pytest_promptbench import statistics as stats


def made(rng, n, rho, *, labels, bias=1.0):
    """Automatic scores, labels of the first few, and one scenario each."""
    z, e = rng.normal(size=(2, n))
    y = 10 + rho * z + np.sqrt(1 - rho**2) * e
    some = [float(v) if i < labels else None for i, v in enumerate(y)]
    return (10 + z + bias).tolist(), some, [f"s{i}" for i in range(n)], y


def test_nothing_labelled():
    found = stats.calibrated_mean([1.0, 2.0], [None, None], ["a", "b"])
    assert (found.estimate, found.ci, found.n_labels, found.effective_labels) == (None, None, 0, 0.0)
    assert found.reason == "nothing is labelled yet"


def test_one_label_has_no_interval():
    found = stats.calibrated_mean([1.0, 2.0, 3.0], [None, 5.0, None], ["a", "b", "c"])
    assert (found.estimate, found.ci, found.n_labels) == (5.0, None, 1)
    assert found.reason == "labels of one scenario only: no interval"


@pytest.mark.parametrize("probabilities", [(1.0, 1 / 89), (1.0, 1.0, 1 / 88)])
def test_labels_of_very_unequal_weight_have_no_interval(probabilities):
    """What a small audit leaves a row: its picks, and one label that stands for the rest. It was 12 +- 1e26."""
    auto = [float(3 + i % 13) for i in range(90)]
    labels = [12.0, 9.0, 13.0][: len(probabilities)]
    rest = [None] * (90 - len(labels))
    found = stats.calibrated_mean(auto, [*labels, *rest], [f"s{i}" for i in range(90)], [*probabilities, *rest])
    assert found.estimate == pytest.approx(np.average(labels, weights=1 / np.array(probabilities)))
    assert (found.ci, found.labels_alone_ci, found.se) == (None, None, None)
    assert "no interval" in found.reason
    assert "very unequal shares" in found.reason


def test_picked_labels_alone_say_nothing_of_the_rest():
    """What an audit of many rows leaves one of eight: it picked where judges differ, and no random draw fell there."""
    auto = [9.0, 8.0, 9.0, 8.0, *[6.0] * 16]
    picked, scenarios = [2.0, 3.0, 2.0, 3.0], [f"s{i}" for i in range(20)]
    rest = [None] * 16
    found = stats.calibrated_mean(auto, [*picked, *rest], scenarios, [*[1.0] * 4, *rest])
    assert (found.estimate, found.ci, found.se, found.labels_alone_ci) == (2.5, None, None, None)
    assert "none of the labels was drawn at random" in found.reason
    drawn = stats.calibrated_mean(auto, [*picked, 6.0, *rest[1:]], scenarios, [*[1.0] * 4, 0.9, *rest[1:]])
    assert drawn.ci is not None
    whole = stats.calibrated_mean(auto, [*picked, *auto[4:]], scenarios, [1.0] * 20)
    assert whole.ci is not None, "there is no rest"


def test_two_labels_of_equal_weight_have_one():
    found = stats.calibrated_mean([1.0, 2.0, 3.0], [4.0, 6.0, None], ["a", "b", "c"], [0.1, 0.1, None])
    assert found.ci == pytest.approx(t.interval(0.95, 1, 5.0, 1.0))


def test_two_or_three_labels_are_taken_alone():
    auto, labels, scenarios, y = made(np.random.default_rng(1), 30, 0.95, labels=3)
    found = stats.calibrated_mean(auto, labels, scenarios)
    assert (found.lam, found.effective_labels) == (0.0, 3.0)
    assert found.estimate == pytest.approx(y[:3].mean())
    assert found.ci == pytest.approx(t.interval(0.95, 2, y[:3].mean(), y[:3].std(ddof=1) / 3**0.5))


def test_everything_labelled_is_the_plain_mean():
    auto, labels, scenarios, y = made(np.random.default_rng(2), 20, 0.9, labels=20)
    found = stats.calibrated_mean(auto, labels, scenarios)
    assert found.estimate == pytest.approx(y.mean())
    assert found.ci == pytest.approx(t.interval(0.95, 19, y.mean(), y.std(ddof=1) / 20**0.5))
    assert found.effective_labels == 20


def test_it_is_ppi_plus_plus_for_large_samples():
    """Angelopoulos et al. 2311.01453, section 6: lam = cov / ((1 + n / N) var), with labelled and unlabelled apart."""
    rng = np.random.default_rng(3)
    auto, labels, scenarios, y = made(rng, 4000, 0.7, labels=800)
    f = np.array(auto)
    n, rest = 800, 3200
    lam = np.cov(y[:n], f[:n])[0, 1] / ((1 + n / rest) * f.var(ddof=1))
    theirs = lam * f[n:].mean() + (y[:n] - lam * f[:n]).mean()
    variance = lam**2 * f[n:].var() / rest + (y[:n] - lam * f[:n]).var() / n
    found = stats.calibrated_mean(auto, labels, scenarios)
    assert found.estimate == pytest.approx(theirs, abs=0.005)
    assert (found.ci[1] - found.ci[0]) / 2 == pytest.approx(1.96 * variance**0.5, rel=0.02)
    assert found.lam == pytest.approx(lam * (1 + n / rest), rel=0.05)  # ours is on the gap to everybody's mean


def test_a_biased_judge_is_corrected():
    auto, labels, scenarios, y = made(np.random.default_rng(4), 400, 0.9, labels=100, bias=3.0)
    found = stats.calibrated_mean(auto, labels, scenarios)
    assert abs(np.mean(auto) - y.mean()) > 2.5
    assert found.estimate == pytest.approx(y.mean(), abs=0.2)
    assert found.ci[0] < y.mean() < found.ci[1]


def test_a_good_judge_is_worth_labels_and_a_useless_one_nothing():
    good = stats.calibrated_mean(*made(np.random.default_rng(5), 200, 0.9, labels=50)[:3])
    assert 80 < good.effective_labels <= 200
    assert 0.7 < good.lam < 1.0
    rng = np.random.default_rng(6)
    worth = [stats.calibrated_mean(*made(rng, 200, 0.0, labels=50)[:3]).effective_labels for _ in range(50)]
    assert 50 <= np.mean(worth) < 52


def test_a_judge_that_scores_the_wrong_way_round_is_left_aside():
    auto, labels, scenarios, _ = made(np.random.default_rng(7), 100, -0.9, labels=40)
    assert stats.calibrated_mean(auto, labels, scenarios).lam == 0.0


def test_a_judge_that_says_the_same_of_everything_is_left_aside():
    _, labels, scenarios, y = made(np.random.default_rng(8), 40, 0.5, labels=10)
    found = stats.calibrated_mean([3.0] * 40, labels, scenarios)
    assert (found.lam, found.estimate) == (0.0, pytest.approx(y[:10].mean()))


def test_labels_that_happen_to_have_equal_automatic_scores_give_no_wild_slope():
    """Least squares of these six would weigh an automatic point 400-fold, and be 50 points off."""
    auto = [10.0, 10.0, 10.0, 10.0, 10.01, 10.02, *np.linspace(4, 14, 24).tolist()]
    labels = [1.0, 2.0, 1.5, 2.2, 6.0, 10.5, *[None] * 24]
    found = stats.calibrated_mean(auto, labels, [f"s{i}" for i in range(30)])
    assert 0 < found.lam < 1
    assert 1 < found.estimate < 10.5


def test_a_perfect_judge_leaves_the_population():
    auto, _, scenarios, _ = made(np.random.default_rng(9), 60, 1.0, labels=0)
    labels = [x - 1.0 if i < 15 else None for i, x in enumerate(auto)]
    found = stats.calibrated_mean(auto, labels, scenarios)
    assert found.estimate == pytest.approx(np.mean(auto) - 1.0)
    assert found.lam == pytest.approx(1.0)
    assert found.effective_labels == pytest.approx(60, rel=0.15)


def test_it_is_never_wider_than_the_labels():
    rng = np.random.default_rng(10)
    for _ in range(300):
        n = int(rng.choice([20, 50]))
        found = stats.calibrated_mean(*made(rng, n, float(rng.uniform(-0.3, 1)), labels=n // 4)[:3])
        assert found.ci[1] - found.ci[0] <= found.labels_alone_ci[1] - found.labels_alone_ci[0] + 1e-12


@pytest.mark.parametrize(("n", "labels"), [(20, 5), (20, 10), (50, 12)])
def test_it_covers(n, labels):
    rng = np.random.default_rng(11)
    inside = 0
    for _ in range(600):
        found = stats.calibrated_mean(*made(rng, n, 0.7, labels=labels)[:3])
        inside += found.ci[0] <= 10 <= found.ci[1]
    assert 0.925 <= inside / 600 <= 0.975


def test_audits_are_unbiased_only_with_their_probabilities():
    """Half the labels where the judge is most wrong: those candidates are worse, and count for themselves alone."""
    rng = np.random.default_rng(12)
    weighted, plain, inside = [], [], 0
    for _ in range(300):
        auto, _, scenarios, y = made(rng, 50, 0.6, labels=0)
        doubtful = np.argsort(y - np.array(auto))[:10]
        rest = np.setdiff1d(np.arange(50), doubtful)
        drawn = rng.choice(rest, 10, replace=False)
        labels = [float(y[i]) if i in doubtful or i in drawn else None for i in range(50)]
        chances = [1.0 if i in doubtful else 0.25 if i in drawn else None for i in range(50)]
        found = stats.calibrated_mean(auto, labels, scenarios, chances)
        weighted.append(found.estimate)
        inside += found.ci[0] <= 10 <= found.ci[1]
        plain.append(stats.calibrated_mean(auto, labels, scenarios).estimate)
    assert np.mean(weighted) == pytest.approx(10, abs=0.06)
    assert np.mean(plain) < 9.8
    assert inside / 300 >= 0.91


def test_equal_probabilities_change_nothing():
    auto, labels, scenarios, _ = made(np.random.default_rng(13), 40, 0.6, labels=10)
    chances = [0.25 if x is not None else None for x in labels]
    assert stats.calibrated_mean(auto, labels, scenarios, chances) == stats.calibrated_mean(auto, labels, scenarios)


def test_repeats_are_one_observation():
    auto, labels, scenarios, _ = made(np.random.default_rng(14), 24, 0.6, labels=8)
    once = stats.calibrated_mean(auto, labels, scenarios)
    thrice = stats.calibrated_mean(auto * 3, labels * 3, scenarios * 3)
    assert thrice.estimate == pytest.approx(once.estimate)
    assert thrice.ci == pytest.approx(once.ci)
    assert thrice.n_labels == 24


def test_a_scenario_with_many_repeats_does_not_outweigh_the_others():
    auto = [1.0, 2.0, 3.0, 4.0, *[9.0] * 6]
    found = stats.calibrated_mean(auto, auto, ["a", "b", "c", "d", *["e"] * 6])
    assert found.estimate == pytest.approx((1 + 2 + 3 + 4 + 9) / 5)


def test_a_calibration_survives_json():
    found = stats.calibrated_mean(*made(np.random.default_rng(15), 20, 0.6, labels=8)[:3])
    assert stats.Calibrated.from_json(json.loads(json.dumps(found.to_json()))) == found


@pytest.mark.parametrize(
    ("labels", "scenarios", "chances", "says"),
    [
        ([1.0], ["a", "b"], None, "must be of one length"),
        ([1.0, None], ["a", "b"], [1.0], "must be of one length"),
        (
            [1.0, None],
            ["a", "b"],
            [0.0, None],
            r"candidate 0 is labelled with probability 0.0; it must lie in \(0, 1\]",
        ),
        ([None, 2.0], ["a", "b"], [0.5, None], "candidate 1 is labelled with probability None"),
        ([float("nan"), None], ["a", "b"], None, "value 0 is nan; leave out what is not scored"),
    ],
)
def test_what_it_refuses(labels, scenarios, chances, says):
    with pytest.raises(ValueError, match=says):
        stats.calibrated_mean([1.0, 2.0], labels, scenarios, chances)
