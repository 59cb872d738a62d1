"""A seeded sample of the chaos benchmark: harm at a random moment, one plain rerun, nothing lost."""

from __future__ import annotations

import pytest

from benchmarks.chaos import KINDS, numbered

IN_CI = (0, 11)  # a worker, and the controller while verdicts come in; test_recorder.py kills the recorders


@pytest.mark.parametrize(
    "number",
    [n if n in IN_CI else pytest.param(n, marks=pytest.mark.slow) for n in range(len(KINDS))],
    ids=lambda n: KINDS[n].replace(" ", "-"),
)
def test_after_harm_and_one_rerun_nothing_is_lost(number: int) -> None:
    loss = numbered(number, seed=1)
    if loss is None:
        pytest.skip(f"NOT TRIED: {KINDS[number]}; this machine does not have what it takes")
    assert loss.none, loss
