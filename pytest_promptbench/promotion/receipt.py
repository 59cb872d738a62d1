"""What a promotion asks for, and the receipt of what was found."""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import UsageError
from ..records import Record, Tier
from ..scores import SIT_DOWN

PROMOTION_SCHEMA = "promptbench/promotion/1"
ALPHA = 0.05
DEFAULT_BOUNDS = {"cost": 2.0, "latency": 2.0}
"""How many times the champion's cost and latency a winner may have, where the user does not say."""


class Policy(enum.StrEnum):
    """Which tiers have to speak for the winner."""

    BOTH = "both"
    SIT_DOWN = "sit-down"
    AUTO = "auto"

    @property
    def deciding(self) -> tuple[Tier, ...]:
        """The tiers on which prompts are compared."""
        return (Tier.AUTO,) if self is Policy.AUTO else SIT_DOWN

    @property
    def tier(self) -> str:
        return "automatic" if self is Policy.AUTO else "sit-down"


@dataclass(frozen=True, kw_only=True)
class Condition(Record):
    """One thing that a promotion asks for. ``remedy`` says what would meet it, where it is not met."""

    name: str
    met: bool
    found: str
    remedy: str | None = None


@dataclass(frozen=True, kw_only=True)
class Promotion(Record):
    """Whether ``winner`` may follow ``champion`` (None: there is none yet), and the receipt of why.

    comparison: winner less champion on the deciding tier, as ``statistics.PairedComparison`` has it.
    """

    task: str
    experiment: str
    rubric: str
    rubric_sha256: str
    policy: Policy
    winner: str
    winner_sha256: str
    champion: str | None
    champion_sha256: str | None
    scores: Mapping[str, float | None] = field(default_factory=dict)
    conditions: tuple[Condition, ...] = ()
    comparison: Mapping[str, Any] | None = None

    @property
    def granted(self) -> bool:
        return all(c.met for c in self.conditions)

    @property
    def stays(self) -> bool:
        """Whether the best prompt is the champion already."""
        return self.winner_sha256 == self.champion_sha256


def parse_bound(text: str, *, option: str = "--bench-promote-within") -> tuple[str, float]:
    """``cost:1.5`` or ``latency:2x`` -> (name, factor of the champion's). UsageError, which names ``option``."""
    name, colon, value = text.partition(":")
    try:
        factor = float(value.removesuffix("x"))
    except ValueError:
        factor = math.nan
    if name not in DEFAULT_BOUNDS or not colon or not 0 < factor < math.inf:
        raise UsageError(
            f"{option} {text!r}: expected cost or latency, a colon, and how many times the champion's "
            "it may be, e.g. cost:1.5x"
        )
    return name, factor
