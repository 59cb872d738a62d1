"""How a test's figures are written, the same wherever they are read."""

from __future__ import annotations

from collections.abc import Sequence


def figure(value: float, *, sign: str = "") -> str:
    """``1.23``; of what two decimals would write as nothing, as many as show it: ``-0.004``. Zero is ``0.00``."""
    for digits in range(2, 7):
        if round(value, digits):
            return f"{value:{sign}.{digits}f}"
    return "0.00"


def signed(value: float) -> str:
    """A difference in points: ``+1.23``, ``-0.004``, ``0.00``."""
    return figure(value, sign="+")


def above(value: float, limit: float, *, digits: int) -> str:
    """``value`` with so many decimals, or with the more that it takes to show that it is above ``limit``."""
    while value > limit >= round(value, digits):
        digits += 1
    return f"{value:.{digits}f}"


def p_text(p: float | None) -> str:
    """``= 0.013``, ``< 0.001``; ``-`` where there was no test. What is above 5 % is not written as 5 %."""
    if p is None:
        return "-"
    return "< 0.001" if p < 0.001 else f"= {above(p, 0.05, digits=3)}"


def detectable(mde: float | None, ci: Sequence[float] | None) -> str:
    """The minimum detectable effect, or why there is none: too few pairs for any test, or no spread to judge by."""
    if mde is not None:
        return figure(mde)
    return "no spread to tell by" if ci and ci[0] == ci[-1] else "none: too few pairs"
