"""How a loop ends: the locked test split, whether the gain holds there, the file, and the promotion gate."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from ..champions import condition_lines, settle
from ..promotion import Policy, decide
from ..records import LoggedCandidate, Prompt, Record, Suite
from ..statistics import compare, mean_interval
from ..tracking.registry import PromptRegistry
from .laboratory import Bench, WaitingError
from .plan import Plan, Trial
from .prompts import difference, write_prompt
from .search import Measured, Search

RESULT_SCHEMA = "promptbench/optimize/1"


class Outcome(StrEnum):
    """What a loop came to."""

    NO_GAIN = "no gain"
    OVERFIT = "overfit"
    OFFERED = "offered"
    REFUSED = "not promoted"
    PROMOTED = "promoted"
    WAITING = "waiting for a judge"


@dataclass(frozen=True, kw_only=True)
class Result(Record):
    """A loop's end, or where it waits. ``train`` and ``test``: version -> (mean composite, low, high) in points.

    comparison: winner less base on the test split, as ``statistics.PairedComparison`` has it. ``saved`` counts
    candidates that early stopping did not generate, of ``planned``.
    """

    plan: Plan
    outcome: Outcome
    best: str
    stopped: str
    trials: tuple[Trial, ...] = ()
    train: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    test: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    comparison: Mapping[str, Any] | None = None
    conditions: tuple[str, ...] = ()
    diff: str = ""
    file: str | None = None
    champion: str | None = None
    packet: str | None = None
    waiting: int = 0
    saved: int = 0
    planned: int = 0
    spent_usd: float = 0.0
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        return {"schema": RESULT_SCHEMA, **super().to_json()}


def summarise(state: Search, outcome: Outcome, **more: Any) -> Result:
    """What is known of a loop, at its end or before it."""
    plan = state.plan
    best = state.prompts[state.best]
    proposals = [t for t in state.trials if t.prompt is not None]
    return Result(
        plan=plan,
        outcome=outcome,
        best=state.best,
        stopped=state.stopped,
        trials=tuple(state.trials),
        train={v: _mean(state.scores[v]) for v in (plan.base.version, state.best) if state.mean(v) is not None},
        diff=difference(plan.base, best) if state.best != plan.base.version else "",
        saved=state.saved,
        planned=len(plan.train) * len(plan.models) * (1 + len(proposals)),
        spent_usd=state.spent_usd,
        **more,
    )


def _mean(scores: Mapping[str, float]) -> tuple[float, ...]:
    values = list(scores.values())
    return (sum(values) / len(values), *(mean_interval(values) or ()))


@dataclass(frozen=True, kw_only=True)
class Gate:
    """How the winner is to be promoted. ``policy`` None: not at all."""

    registry: PromptRegistry
    policy: Policy | None
    bounds: Mapping[str, float]
    folder: Path
    """Where reports and the receipt go."""
    prompts: Path
    """``prompts/<task>/``."""
    now: str


def conclude(state: Search, bench: Bench, suite: Suite, gate: Gate) -> Result:
    """The final comparison on the locked test split, and what follows from it. WaitingError in sit-down mode."""
    plan = state.plan
    base, winner = plan.base, state.prompts[state.best]
    if winner.version == base.version:
        return summarise(state, Outcome.NO_GAIN)
    champion = _champion(gate, plan, suite)
    rivals = list({p.sha256: p for p in (base, champion or base, winner)}.values())
    for prompt in rivals:  # all of them first: one packet, one sitting
        bench.generate(prompt, plan.test)
    measured = {p.version: bench.measure(p, plan.test) for p in rivals}
    state.spent_usd = bench.spent_usd
    tables = {v: _scores(m) for v, m in measured.items()}
    comparison = compare(tables[winner.version], tables[base.version])
    found: dict[str, Any] = {
        "test": {v: _mean(t) for v, t in tables.items() if t},
        "comparison": comparison.to_json(),
    }
    if comparison.mean_difference is None or comparison.mean_difference <= 0:
        return summarise(state, Outcome.OVERFIT, **found)
    found["file"] = str(write_prompt(gate.prompts, winner, lineage(state, tables, gate.now)))
    if gate.policy is None:
        return summarise(state, Outcome.OFFERED, **found)
    candidates = bench.candidates(rivals, plan.test)
    unseen = [c for c in candidates if c.error is None and c.sit_down() is None]
    if gate.policy is not Policy.AUTO and unseen:
        count, path = bench.export(unseen)
        return summarise(state, Outcome.WAITING, waiting=count, packet=str(path), **found)
    return _promote(state, suite, gate, candidates, champion or base, winner, found)


def _promote(
    state: Search,
    suite: Suite,
    gate: Gate,
    candidates: Sequence[LoggedCandidate],
    champion: Prompt,
    winner: Prompt,
    found: dict[str, Any],
) -> Result:
    assert gate.policy is not None
    plan = state.plan
    decision = decide(
        [c for c in candidates if c.prompt in (champion.version, winner.version)],
        suite.rubric,
        task=plan.task,
        experiment=plan.experiment,
        champion=(champion.version, champion.sha256),
        policy=gate.policy,
        bounds=gate.bounds,
    )
    registered = settle(gate.registry, decision, winner, gate.folder)
    found["conditions"] = tuple(condition_lines(decision))
    if registered is None:
        note = f"{champion.version} is better on the test split" if decision.stays else ""
        return summarise(state, Outcome.REFUSED, note=note, **found)
    return summarise(state, Outcome.PROMOTED, champion=f"version {registered.number}", **found)


def _champion(gate: Gate, plan: Plan, suite: Suite) -> Prompt | None:
    """The reigning champion's text, where a file has it still."""
    if gate.policy is None:
        return None
    reigning = gate.registry.champion(plan.task)
    return None if reigning is None else next((p for p in suite.prompts if p.sha256 == reigning.sha256), None)


def _scores(measured: Mapping[str, Measured]) -> dict[str, float]:
    return {s: m.score for s, m in measured.items() if m.score is not None}


def lineage(state: Search, tables: Mapping[str, Mapping[str, float]], now: str) -> dict[str, Any]:
    """Where the best prompt comes from, for its file."""
    plan = state.plan
    trial = next(t for t in state.trials if t.prompt is not None and t.prompt.version == state.best)
    scores = {
        split: {v: round(sum(t.values()) / len(t), 3) for v, t in found.items() if t}
        for split, found in (
            ("train", {v: state.scores[v] for v in (trial.parent, plan.base.version, state.best)}),
            ("test", tables),
        )
    }
    return {
        "parent": trial.parent,
        "base": plan.base.version,
        "round": trial.number,
        "loop": plan.id,
        "proposer": plan.proposer.name,
        "experiment": plan.experiment,
        "judged_by": plan.judged_by.value,
        "scores": scores,
        "written_at": now,
    }


def waiting(state: Search | None, plan: Plan, error: WaitingError) -> Result:
    """A loop that stopped for a judge."""
    state = state or Search(plan=plan, prompts={plan.base.version: plan.base}, best=plan.base.version)
    return summarise(state, Outcome.WAITING, waiting=error.count, packet=str(error.path))


def save(result: Result, folder: Path) -> Path:
    """``result.json`` in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "result.json"
    path.write_text(json.dumps(result.to_json(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return path
