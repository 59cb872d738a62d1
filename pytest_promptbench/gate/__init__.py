"""The regression gate: per-scenario scores of a saved baseline against this session's, in four outcomes.

Pure: it reads no file, prints nothing and exits nowhere. What it tests, for every (model, prompt) row and every
metric with a tolerance, over the scenarios scored on both sides:

* the estimate: is the mean worse than the baseline's by more than the tolerance?
* the test: is it worse at all? Sign-flip permutation test at 5 % two-sided, corrected for the number of the gate's
  tests (:func:`.verdict.decide`). As only a change for the worse fails, two sessions of the same thing fail the whole
  gate at most 2.5 times in 100.

``fail`` needs both. The estimate without the test, or too few scenarios for the test to ever reach 5 %, is
``inconclusive``. What cannot be compared at all is ``error``. No pair is never a ``pass``.
"""

from __future__ import annotations

from .baseline import (
    BASELINE_SCHEMA,
    Baseline,
    BaselineRow,
    Better,
    RowName,
    baseline_json,
    directions,
    parse_baseline,
    snapshot,
)
from .matching import CellName
from .selftest import SelfTest, self_test
from .tolerance import DEFAULT_TOLERANCES, Tolerance, parse_tolerance
from .verdict import ALPHA, GATE_SCHEMA, GateComparison, GateOutcome, GateResult, check_metrics, evaluate_gate

__all__ = [
    "ALPHA",
    "BASELINE_SCHEMA",
    "DEFAULT_TOLERANCES",
    "GATE_SCHEMA",
    "Baseline",
    "BaselineRow",
    "Better",
    "CellName",
    "GateComparison",
    "GateOutcome",
    "GateResult",
    "RowName",
    "SelfTest",
    "Tolerance",
    "baseline_json",
    "check_metrics",
    "directions",
    "evaluate_gate",
    "parse_baseline",
    "parse_tolerance",
    "self_test",
    "snapshot",
]
