"""May a prompt become champion? Conditions that can each be met or not, with what would meet them.

The unit is the scenario: within it, repeats and then models are averaged, over the (model, scenario) cells that both
prompts have on one tier (:mod:`.scores`). A prompt is known by the hash of its content, so that an edited file does not
pass for the champion.
"""

from __future__ import annotations

from .decision import decide
from .receipt import ALPHA, PROMOTION_SCHEMA, Condition, Policy, Promotion, parse_bound

__all__ = ["ALPHA", "PROMOTION_SCHEMA", "Condition", "Policy", "Promotion", "decide", "parse_bound"]
