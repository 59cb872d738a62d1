"""A paired test of whether one side is behind, which may be looked at after every scenario."""

from __future__ import annotations

import math
from collections.abc import Iterable

STEEPNESS = (0.25, 0.5, 1.0, 2.0, 3.0)
"""How fast a bet grows with the size of a difference; the evidence is the average over these."""


class BehindTest:
    """Sequential test of "exchanging a scenario's two sides changes nothing" against "the first is behind".

    It is the sign-flip test of ``paired``, taken one scenario at a time: given its size, a difference is under the
    hypothesis as likely above 0 as below. A gambler who starts with 1 bets on "below", after seeing the size and before
    seeing the sign: the share tanh(c |d| / r) of the wealth, r being the root mean square of the sizes so far. The
    evidence, ``e_value``, is that wealth, averaged over five c. Under the hypothesis, and where the first side is
    ahead, its chance of ever reaching 1 / ``alpha`` is at most ``alpha``, however often one looks (Ville 1939; e-tests
    of symmetry: Vovk and Wang, "Nonparametric e-tests of symmetry", NEJSDS 2 (2024) 261-270). A difference of 0 changes
    nothing.
    """

    def __init__(self, *, alpha: float = 0.05) -> None:
        if not 0 < alpha < 1:
            raise ValueError(f"alpha is {alpha}; expected a number between 0 and 1")
        self.alpha = alpha
        self._squares: list[float] = []
        self._wealth = [1.0] * len(STEEPNESS)
        self._largest = 1.0

    def update(self, difference: float) -> None:
        """Take in the next scenario: the first side's score less the second's."""
        if difference == 0:
            return
        self._squares.append(difference**2)
        size = abs(difference) / math.sqrt(math.fsum(self._squares) / len(self._squares))
        sign = -math.copysign(1.0, difference)
        self._wealth = [w * (1 + sign * math.tanh(c * size)) for w, c in zip(self._wealth, STEEPNESS, strict=True)]
        self._largest = max(self._largest, self.wealth)

    def extend(self, differences: Iterable[float]) -> None:
        for d in differences:
            self.update(d)

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
