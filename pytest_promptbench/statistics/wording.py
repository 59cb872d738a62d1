"""How a test's figures are written, the same wherever they are read."""

from __future__ import annotations

from collections.abc import Sequence


def p_text(p: float | None) -> str:
    """``= 0.013``, ``< 0.001``; ``-`` where there was no test."""
    if p is None:
        return "-"
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def detectable(mde: float | None, ci: Sequence[float] | None) -> str:
    """The minimum detectable effect, or why there is none: too few pairs for any test, or no spread to judge by."""
    if mde is not None:
        return f"{mde:.2f}"
    return "no spread to tell by" if ci and ci[0] == ci[-1] else "none: too few pairs"
