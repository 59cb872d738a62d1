"""How a loop ends: the locked test split, whether the gain holds there, the file, and the promotion gate."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from ..champions import condition_lines, filled_otherwise, settle
from ..errors import UsageError
from ..files import replace_file
from ..promotion import ALPHA, Policy, decide
from ..records import LoggedCandidate, Prompt, Record, Suite
from ..statistics import PairedComparison, compare, mean_interval
from ..tracking.registry import OvertakenError, PromptRegistry, Registered
from .laboratory import MLflowLaboratory, WaitingError
from .plan import Plan, Trial, check_filled
from .prompts import difference, write_prompt
from .state import Measured, OutOfMoneyError, Search, UnreachableError

RESULT_SCHEMA = "promptbench/optimize/1"


class Outcome(StrEnum):
    """What a loop came to."""

    NO_GAIN = "no gain"
    OUT_OF_MONEY = "out of money"
    OVERFIT = "overfit"
    NOT_SHOWN = "not shown on the test split"
    OFFERED = "offered"
    REFUSED = "not promoted"
    PROMOTED = "promoted"
    WAITING = "waiting for a judge"


@dataclass(frozen=True, kw_only=True)
class Result(Record):
    """A loop's end, or where it waits. ``train`` and ``test``: version -> (mean composite, low, high) in points.

    comparison: winner less base on the test split, as ``statistics.PairedComparison`` has it. ``diff`` is against the
    start, ``parent_diff`` against the parent where that is another. ``saved`` counts candidates that early stopping did
    not generate, of ``planned``. ``unpriced``: models whose cost is not in ``spent_usd``. ``receipt``: where this run
    of the loop wrote the gate's.
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
    parent: str = ""
    parent_diff: str = ""
    file: str | None = None
    champion: str | None = None
    receipt: str | None = None
    packet: str | None = None
    waiting: int = 0
    saved: int = 0
    planned: int = 0
    spent_usd: float = 0.0
    unpriced: tuple[str, ...] = ()
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        return {"schema": RESULT_SCHEMA, **super().to_json()}


def summarise(state: Search, outcome: Outcome, **more: Any) -> Result:
    """What is known of a loop, at its end or before it."""
    plan = state.plan
    base, best = plan.base, state.prompts[state.best]
    proposals = [t for t in state.trials if t.prompt is not None]
    parent = next((t.parent for t in proposals if t.prompt and t.prompt.version == best.version), base.version)
    return Result(
        plan=plan,
        outcome=outcome,
        best=state.best,
        stopped=state.stopped,
        trials=tuple(state.trials),
        train={v: _mean(state.scores[v]) for v in (base.version, state.best) if state.mean(v) is not None},
        diff=difference(base, best) if best is not base else "",
        parent=parent if best is not base else "",
        parent_diff=difference(state.prompts[parent], best) if parent != base.version else "",
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

    def reigning(self, task: str) -> Registered | None:
        return None if self.policy is None else self.registry.champion(task)


def on_test(comparison: PairedComparison) -> Outcome:
    """What the test split says of a winner: OVERFIT, NOT_SHOWN, or OFFERED where the gain is more than chance.

    A prompt that is no better than its start is ahead of it in every second test, so that being ahead says little:
    the gain has to pass the sign-flip test at 5 %, which takes six scenarios at least.
    """
    if comparison.mean_difference is None:
        return Outcome.NOT_SHOWN
    if comparison.mean_difference <= 0:
        return Outcome.OVERFIT
    return Outcome.OFFERED if comparison.p_value is not None and comparison.p_value <= ALPHA else Outcome.NOT_SHOWN


def conclude(state: Search, laboratory: MLflowLaboratory, suite: Suite, gate: Gate) -> Result:
    """The final comparison on the locked test split, and what follows from it. WaitingError in sit-down mode."""
    plan = state.plan
    base, winner = plan.base, state.prompts[state.best]
    if winner is base:
        note = _cannot_begin(laboratory, plan) if state.broke and base.version not in state.whole else ""
        return summarise(state, Outcome.OUT_OF_MONEY if state.broke else Outcome.NO_GAIN, note=note)
    champion = gate.reigning(plan.task)
    try:
        opponent, unfit = _opponent(champion, gate, suite, base, winner), ""
    except UsageError as error:  # a champion that has come meanwhile: the loop has been paid for, and is not to be lost
        opponent, unfit = base, f"it was not compared with the champion: {error}"
    rivals = list({p.sha256: p for p in (base, opponent, winner)}.values())
    laboratory.open_test()
    try:
        measured = laboratory.measure_all(rivals, plan.test)
    except OutOfMoneyError as error:
        state.spent_usd = laboratory.spent_usd
        note = f"{winner.version} is the best on train and could not be compared on the test split: {error}"
        return summarise(state, Outcome.OUT_OF_MONEY, note=note)
    state.spent_usd = laboratory.spent_usd
    tables = {v: _scores(m) for v, m in measured.items()}
    comparison = compare(tables[winner.version], tables[base.version])
    outcome = on_test(comparison)
    found: dict[str, Any] = {
        "test": {v: _mean(t) for v, t in tables.items() if t},
        "comparison": comparison.to_json(),
    }
    if outcome is Outcome.OVERFIT:
        return summarise(state, outcome, **found)
    found["file"] = str(write_prompt(gate.prompts, winner, lineage(state, tables, comparison, gate.now)))
    if outcome is Outcome.NOT_SHOWN or gate.policy is None:
        return summarise(state, outcome, **found)
    if unfit:
        return summarise(state, Outcome.REFUSED, note=unfit, **found)
    if champion is not None and champion.sha256 == winner.sha256:
        note = "it was so already: nothing was changed"
        return summarise(state, Outcome.PROMOTED, champion=f"version {champion.number}", note=note, **found)
    candidates = laboratory.candidates([opponent, winner], plan.test)
    unseen = [c for c in candidates if c.error is None and c.sit_down() is None]
    if gate.policy is not Policy.AUTO and unseen:
        return _waiting(state, laboratory.export(unseen), **found)
    try:
        gate.registry.check(plan.task, champion)
        return _promote(state, suite, gate, candidates, opponent, winner, champion, found)
    except OvertakenError as error:  # measuring takes a while, and others promote too
        raise UnreachableError(
            f"{error} while the test split was measured, so the winner has yet to be compared anew"
        ) from None


def _cannot_begin(laboratory: MLflowLaboratory, plan: Plan) -> str:
    return (
        f"the limit of ${plan.max_cost_usd or 0:g} does not reach for the start on the train scenarios, with up to "
        f"${laboratory.end_usd:.4f} set aside for the final comparison; --dry-run estimates what a loop costs"
    )


def _opponent(champion: Registered | None, gate: Gate, suite: Suite, base: Prompt, winner: Prompt) -> Prompt:
    """Whom the gate compares the winner with: the reigning champion, from its file or the registry; else the start.

    UsageError where the scenarios do not fill the champion's text.
    """
    if champion is None or champion.sha256 in (base.sha256, winner.sha256):
        return base
    found = next((p for p in suite.prompts if p.sha256 == champion.sha256), None)
    if found is None:
        found = gate.registry.text(suite.task, champion)
        check_filled(found, suite, remedy="give it to them, and promote with --bench-promote")
    taken = found.version in (base.version, winner.version)  # by a file that has changed since
    return replace(found, version=f"{found.version}@champion") if taken else found


def _promote(
    state: Search,
    suite: Suite,
    gate: Gate,
    candidates: Sequence[LoggedCandidate],
    opponent: Prompt,
    winner: Prompt,
    champion: Registered | None,
    found: dict[str, Any],
) -> Result:
    assert gate.policy is not None
    plan = state.plan
    decision = decide(
        candidates,
        suite.rubric,
        task=plan.task,
        experiment=plan.experiment,
        champion=(opponent.version, opponent.sha256),
        policy=gate.policy,
        bounds=gate.bounds,
    )
    registered = settle(gate.registry, decision, winner, gate.folder, weighed=champion)
    found["conditions"] = tuple(line.replace("--bench-promote-", "--promote-") for line in condition_lines(decision))
    found["receipt"] = str(gate.folder / "promotion.json")
    if registered is None:
        note = f"{opponent.version} is better on the test split" if decision.stays else ""
        return summarise(state, Outcome.REFUSED, note=note, **found)
    found["conditions"] += tuple(filled_otherwise(winner))
    return summarise(state, Outcome.PROMOTED, champion=f"version {registered.number}", **found)


def _scores(measured: Mapping[str, Measured]) -> dict[str, float]:
    return {s: m.score for s, m in measured.items() if m.score is not None}


def lineage(
    state: Search, tables: Mapping[str, Mapping[str, float]], comparison: PairedComparison, now: str
) -> dict[str, Any]:
    """Where the best prompt comes from, and what the test split says of it, for its file."""
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
        "split": {"drawn_by": plan.split, "seed": plan.seed},
        "scores": scores,
        "on_test": {
            "gain": "shown" if on_test(comparison) is Outcome.OFFERED else "not shown: it may be chance",
            "difference": None if comparison.mean_difference is None else round(comparison.mean_difference, 3),
            "p_value": None if comparison.p_value is None else round(comparison.p_value, 4),
            "scenarios": comparison.n,
        },
        "written_at": now,
    }


def waiting(state: Search | None, plan: Plan, error: WaitingError) -> Result:
    """A loop that stopped for a judge."""
    return _waiting(state or Search.begin(plan), error)


def _waiting(state: Search, error: WaitingError, **found: Any) -> Result:
    scored = "the packet holds scores that were not applied yet" if error.scored else ""
    note = "; ".join(filter(None, (error.why, scored)))
    return summarise(state, Outcome.WAITING, waiting=error.count, packet=str(error.path), **{"note": note, **found})


def save(result: Result, folder: Path) -> Path:
    """``result.json`` in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "result.json"
    replace_file(path, json.dumps(result.to_json(), indent=2, ensure_ascii=False) + "\n")
    return path
