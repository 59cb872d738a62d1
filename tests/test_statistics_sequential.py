"""The sequential test: its error holds for any shape however often one looks, and it finds what is clearly behind."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from pytest_promptbench.statistics import BehindTest, earliest_drop

Draw = Callable[[np.random.Generator], np.ndarray]


def test_evidence_is_never_negative_whatever_the_order_of_the_rooms() -> None:
    for rooms in itertools.permutations([5.0, 0.1, 0.2, 3.0]):
        test = BehindTest(rooms)
        for room in rooms:
            test.update(room, room=room)
            assert test.wealth >= 0


def looks_until(differences: Sequence[float], room: float, *, alpha: float = 0.05) -> int | None:
    """After how many the first side is found to be behind."""
    test = BehindTest([room] * len(differences), alpha=alpha)
    for n, d in enumerate(differences, 1):
        test.update(float(d), room=room)
        if test.behind:
            return n
    return None


def level(values: np.ndarray) -> np.ndarray:
    """The same shape with a mean of exactly 0: the hardest case that the hypothesis allows."""
    return values - values.mean()


SHAPES: dict[str, Draw] = {
    "normal": lambda r: level(r.normal(size=18)),
    "steps": lambda r: level(np.round(r.normal(size=18))),
    "75% -1, 25% +3": lambda r: np.r_[np.full(15, -1.0), np.full(5, 3.0)],
    "80% -0.5, 20% +2": lambda r: np.r_[np.full(16, -0.5), np.full(4, 2.0)],
    "85% -1, 15% +6": lambda r: level(np.r_[np.full(17, -1.0), np.full(3, 6.0)]),
    "one that makes up for all": lambda r: np.r_[np.full(17, -0.5), 8.5],
    "one that spoils all": lambda r: np.r_[np.full(17, 0.5), -8.5],
    "lognormal": lambda r: level(r.lognormal(0, 1, size=18)),
    "exponential": lambda r: level(r.exponential(size=18)),
    "ahead": lambda r: level(r.normal(size=18)) + 0.2,
    "few": lambda r: level(r.exponential(size=5)),
}


@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.3])
@pytest.mark.parametrize("shape", list(SHAPES))
def test_what_ends_level_is_seldom_dropped_whatever_its_shape_and_however_often_one_looks(
    shape: str, alpha: float
) -> None:
    """1,000 random orders of differences that sum to 0, looked at after each, with no room to spare."""
    rng = np.random.default_rng([len(shape), int(100 * alpha)])
    wrong = 0
    for _ in range(1000):
        d = rng.permutation(SHAPES[shape](rng))
        found = looks_until(d.tolist(), float(d.max()), alpha=alpha)
        wrong += found is not None and found < len(d)
    assert wrong / 1000 <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / 1000)


@pytest.mark.parametrize(
    "differences", [[-1.0, -1.0, 0.0, 2.0], [3.0, -1.0, -1.0, -1.0], [-0.5, 0.5, 1.0, -1.0], [-2.0, 0.0, 0.0, 2.0]]
)
def test_the_evidence_is_1_on_average_over_all_orders(differences: list[float]) -> None:
    """It is a martingale where the differences sum to 0: over all orders, its mean is 1 after every step."""
    for steps in range(1, len(differences)):
        found = []
        for order in itertools.permutations(differences):
            test = BehindTest([4.0] * len(order))
            for d in order[:steps]:
                test.update(d, room=4.0)
            found.append(test.wealth)
        assert math.fsum(found) / len(found) == pytest.approx(1.0, abs=1e-12)


def test_what_is_clearly_behind_is_dropped_early() -> None:
    """18 scenarios, 2 points behind give or take 1.5, a parent 6 points below the top: found within 13, always."""
    rng = np.random.default_rng(3)
    found = [looks_until(rng.normal(-2, 1.5, size=18).tolist(), 6.0, alpha=0.1) for _ in range(300)]
    assert all(n is not None for n in found)
    assert np.mean([n or 18 for n in found]) < 11


def test_what_cannot_be_made_up_any_more_is_behind_for_certain() -> None:
    test = BehindTest([1.0] * 4, alpha=1e-9)
    for _ in range(2):
        test.update(-1.0, room=1.0)
        assert not test.behind
    test.update(-1.0, room=1.0)
    assert math.isinf(test.e_value)


@pytest.mark.parametrize(
    ("scenarios", "behind", "room", "earliest"),
    [(4, 7.0, 7.0, 3), (6, 7.0, 7.0, 3), (18, 7.0, 7.0, 4), (18, 1.0, 7.0, 13), (18, 0.0, 7.0, None)],
)
def test_from_when_it_can_act(scenarios: int, behind: float, room: float, earliest: int | None) -> None:
    assert earliest_drop(scenarios, behind=behind, room=room, alpha=0.1) == earliest


def test_evidence_that_was_there_once_counts() -> None:
    test = BehindTest([3.0] * 18, alpha=0.1)
    for d in [-1.5] * 11 + [3.0] * 5:
        test.update(d, room=3.0)
    assert test.behind
    assert test.wealth < test.e_value


def test_a_scenario_that_one_side_lacks_is_no_evidence() -> None:
    test = BehindTest([3.0, 5.0, 3.0])
    test.skip(room=5.0)
    test.update(0.0, room=3.0)
    assert test.e_value == 1.0


@pytest.mark.parametrize("alpha", [0, 1, -0.5, math.nan])
def test_alpha_is_a_probability(alpha: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        BehindTest([1.0], alpha=alpha)
