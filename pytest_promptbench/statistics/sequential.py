"""A paired test of whether one side is behind, which may be looked at after every scenario."""

from __future__ import annotations

import math
from collections.abc import Sequence

BETS = (0.5, 1.0)
"""Shares of the largest bet that can never lose more than there is; the evidence is the average over these."""


class BehindTest:
    """Sequential test of "over all these scenarios, the first side's mean is at least the second's".

    The scenarios are a finite set, and the second side's scores of all of them are known; the first side's come one by
    one, in an order drawn at random. The hypothesis says that the differences (first less second) sum to at least 0.
    Then, with the sum S over those seen and k left, the next one is on average at least m = -S / k. A gambler bets on
    less: wealth grows by the factor 1 + b (m - d), where b <= 1 / (room - m) keeps it above 0 whatever comes, since no
    difference exceeds ``room``, the best score there is less the second side's lowest among those left. Under the
    hypothesis the wealth is a supermartingale: the chance that it ever reaches 1 / ``alpha`` is at most ``alpha``,
    however often one looks (Ville 1939). Once m is above ``room``, what is missing cannot be made up at all.

    It asks nothing of the differences' shape, skewed ones included: the order alone is random. So of the proposals
    that would have ended level or ahead, at most the share ``alpha`` is taken for behind. Source: Waudby-Smith and
    Ramdas, "Estimating means of bounded random variables by betting", JRSS B 86 (2024), arXiv 2010.09686, section 5
    (sampling without replacement).
    """

    def __init__(self, rooms: Sequence[float], *, alpha: float = 0.05) -> None:
        """``rooms``: for each scenario, how far the first side can be ahead there at most, in points."""
        if not 0 < alpha < 1:
            raise ValueError(f"alpha is {alpha}; expected a number between 0 and 1")
        self.alpha = alpha
        self._rooms = list(rooms)
        self._sum = 0.0
        self._wealth = [1.0] * len(BETS)
        self._largest = 1.0

    def update(self, difference: float, *, room: float) -> None:
        """Take in the next scenario: the first side's score less the second's, and its entry of ``rooms``."""
        mean = -self._sum / len(self._rooms)
        slack = max(self._rooms) - mean
        self._rooms.remove(room)
        self._sum += difference
        if slack > 1e-12:
            self._wealth = [w * (1 + b * (mean - difference) / slack) for w, b in zip(self._wealth, BETS, strict=True)]
        self._largest = max(self._largest, self.wealth)
        if self._rooms and -self._sum / len(self._rooms) > max(self._rooms) + 1e-9:
            self._largest = math.inf

    def skip(self, *, room: float) -> None:
        """Leave a scenario out, where there is nothing to compare."""
        self._rooms.remove(room)

    @property
    def wealth(self) -> float:
        """The evidence now."""
        return math.fsum(self._wealth) / len(self._wealth)

    @property
    def e_value(self) -> float:
        """The largest evidence so far: that it was there once is what counts."""
        return self._largest

    @property
    def behind(self) -> bool:
        """Whether the hypothesis is rejected at ``alpha``."""
        return self._largest >= 1 / self.alpha


def earliest_drop(scenarios: int, *, behind: float, room: float, alpha: float) -> int | None:
    """After how many of so many scenarios a first side that is ``behind`` by so much everywhere is found out.

    ``room`` is how far it could be ahead at most; both in points. None where it takes all of them.
    """
    test = BehindTest([room] * scenarios, alpha=alpha)
    for n in range(1, scenarios):
        test.update(-behind, room=room)
        if test.behind:
            return n
    return None
