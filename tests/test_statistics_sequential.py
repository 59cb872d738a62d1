"""The sequential test: its error holds however often one looks, and it finds what is clearly behind."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from pytest_promptbench.statistics import BehindTest


def behind(differences: np.ndarray, *, alpha: float = 0.05) -> bool:
    test = BehindTest(alpha=alpha)
    test.extend(map(float, differences))
    return test.behind


@pytest.mark.parametrize("alpha", [0.05, 0.1])
@pytest.mark.parametrize("shape", ["normal", "steps", "heavy", "growing", "ahead"])
def test_what_is_not_behind_is_seldom_dropped_however_often_one_looks(shape: str, alpha: float) -> None:
    """3,000 sequences of 40 differences that are as likely above as below 0, looked at after each."""
    rng = np.random.default_rng([len(shape), int(100 * alpha)])
    wrong = 0
    for _ in range(3000):
        d = rng.normal(size=40)
        if shape == "steps":
            d = np.round(d)
        elif shape == "heavy":
            d = rng.standard_cauchy(size=40)
        elif shape == "growing":
            d = d * np.arange(1, 41) ** 2
        elif shape == "ahead":
            d = d + 0.2
        wrong += behind(d, alpha=alpha)
    assert wrong / 3000 <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / 3000)


def test_the_evidence_is_exactly_1_on_average_over_all_signs() -> None:
    """It is a martingale: over the 2**6 ways to put signs on any sizes, its mean is 1."""
    sizes = [0.5, 3.0, 1.0, 1.0, 7.0, 0.25]
    found = []
    for signs in itertools.product([-1, 1], repeat=len(sizes)):
        test = BehindTest()
        test.extend(s * x for s, x in zip(signs, sizes, strict=True))
        found.append(test.wealth)
    assert math.fsum(found) / len(found) == pytest.approx(1.0, abs=1e-12)


def test_what_is_clearly_behind_is_dropped_early() -> None:
    """1.5 standard deviations behind: on average within 9 scenarios; always behind by the same: after 5."""
    rng = np.random.default_rng(3)
    looks = []
    for _ in range(300):
        test = BehindTest()
        for n, d in enumerate(rng.normal(-1.5, 1, size=60), 1):
            test.update(float(d))
            if test.behind:
                looks.append(n)
                break
    assert len(looks) >= 299
    assert np.mean(looks) < 9
    steady = BehindTest()
    steady.extend([-2.0] * 5)
    assert not steady.behind
    steady.update(-2.0)
    assert steady.behind


def test_evidence_that_was_there_once_counts() -> None:
    test = BehindTest()
    test.extend([-1.0] * 8)
    assert test.behind
    test.extend([1.0] * 8)
    assert test.behind
    assert test.wealth < test.e_value


def test_no_difference_is_no_evidence() -> None:
    test = BehindTest()
    test.extend([0.0] * 10)
    assert test.e_value == 1.0


@pytest.mark.parametrize("alpha", [0, 1, -0.5, math.nan])
def test_alpha_is_a_probability(alpha: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        BehindTest(alpha=alpha)
