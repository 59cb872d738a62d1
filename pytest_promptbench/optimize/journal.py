"""A loop's rounds in MLflow, as the search's journal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..tracking.rounds import Rounds
from .plan import ROUND_SCHEMA, Plan, Trial, read_kept


def outcome(trial: Trial) -> str:
    """What a round came to, for its tag."""
    if trial.number == 0:
        return "the start"
    return trial.problem or ("dropped: clearly behind its parent" if trial.dropped else "measured")


def _proposal(found: Mapping[str, Any]) -> Mapping[str, Any]:
    """With all that a round needs to be gone through again. KeyError."""
    about = {name: found[name] for name in ("parent", "component")}
    problem = found.get("problem")
    return {**about, "text": found["text"]} if problem is None else {**about, "problem": problem}


class MLflowJournal:
    """A nested run a round: the proposal first, then what was decided. Round 0 is the start.

    UsageError for a format of another version.
    """

    def __init__(self, plan: Plan, rounds: Rounds) -> None:
        self._plan, self._rounds = plan, rounds

    def proposal(self, number: int) -> Mapping[str, Any] | None:
        found = self._rounds.proposal(number)
        return None if found is None else read_kept(found, ROUND_SCHEMA, _proposal)

    def keep(self, number: int, proposal: Mapping[str, Any]) -> None:
        self._rounds.keep(number, self._plan.version(number), {"schema": ROUND_SCHEMA, **proposal})

    def decision(self, number: int) -> Trial | None:
        found = self._rounds.decision(number)
        return None if found is None else read_kept(found, ROUND_SCHEMA, Trial.from_json)

    def close(self, trial: Trial) -> None:
        metrics = {"train_composite": trial.mean, "e_value": trial.e_value, "saved_candidates": float(trial.saved)}
        self._rounds.close(
            trial.number,
            self._plan.version(trial.number) if trial.number else self._plan.base.version,
            trial.to_json(),
            metrics={k: v for k, v in metrics.items() if v is not None},
            tags={
                **({"promptbench.optimize.parent": trial.parent} if trial.parent else {}),
                "promptbench.optimize.outcome": outcome(trial),
            },
        )
