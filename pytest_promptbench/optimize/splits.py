"""A task's split in MLflow: drawn once, used by every later loop, with a count of those that looked at its test."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from ..errors import UsageError
from ..records import Prompt
from ..tracking.rounds import Begun
from . import plan as plans
from .plan import Plan, Split

TRIES = 100
"""So many seeds are tried for a new split."""

Origin = Callable[[str], str | None]
"""Version of a prompt -> the loop that its file says it comes from."""


def choose(scenarios: Sequence[str], earlier: Sequence[Begun], *, seed: int | None, anew: bool, task: str) -> Split:
    """The split of the task's newest loop, with new scenarios added; a new one where there is none, or ``anew``.

    ``seed``: as asked for, None for whatever there is. UsageError for another seed than that of the task's split, and
    where ``anew`` would give a test split that an earlier loop had.
    """
    if not earlier:
        return plans.split(scenarios, seed=seed or 0)
    if anew:
        return _another(scenarios, earlier, seed=seed)
    mine = [b for b in earlier if b.split == earlier[0].split]
    known = [_plan(b) for b in mine]
    before = Split(
        train=tuple(dict.fromkeys(s for p in known for s in p.train)),
        test=tuple(dict.fromkeys(s for p in known for s in p.test)),
        seed=known[0].seed,
        drawn_by=mine[0].split,
        tested=sum(b.tested for b in mine),
    )
    if seed is not None and seed != before.seed:
        raise UsageError(
            f"--seed {seed}: the scenarios of {task} were split by seed {before.seed} in loop {before.drawn_by}, and "
            "another split would test on scenarios that its prompts were made from; leave --seed out, or draw another "
            "with --new-split"
        )
    return plans.split(scenarios, seed=before.seed, before=before)


def _plan(begun: Begun) -> Plan:
    """The plan of an earlier loop. UsageError with what a new one can do where it cannot be read."""
    try:
        return Plan.from_json(begun.plan)
    except UsageError:
        raise UsageError(
            f"the task's split is in the plan of loop {begun.loop}, which was kept by another version of "
            "pytest-promptbench or is damaged: take that version, or delete the loop's experiment in MLflow, and with "
            "it what is known of its split"
        ) from None


def _another(scenarios: Sequence[str], earlier: Sequence[Begun], *, seed: int | None) -> Split:
    """A split with other test scenarios than earlier loops': the same ones again would pass for never looked at."""
    used = {frozenset(b.plan.get("test", ())): b.loop for b in earlier if b.tested or seed is None}
    first = 1 + max(int(b.plan.get("seed", 0)) for b in earlier)
    found = [plans.split(scenarios, seed=s) for s in ([seed] if seed is not None else range(first, first + TRIES))]
    unused = next((s for s in found if frozenset(s.test) not in used), None)
    if unused is None:
        loop = used[frozenset(found[0].test)]
        asked = "" if seed is None else f" --seed {seed}"
        raise UsageError(
            f"--new-split{asked}: these are the test scenarios that loop {loop} had already, so they would be no new "
            f"ones; {'add scenarios' if seed is None else 'leave --seed out, or take another'}"
        )
    return unused


def check_start(base: Prompt, split: Split, earlier: Sequence[Begun], origin: Origin) -> list[str]:
    """UsageError where a start, or one of those it comes from, was made from scenarios that are now to test it.

    Gives back what could not be found out, as sentences.
    """
    by_loop = {b.loop: b for b in earlier}
    version, seen = base.version, set()
    while (loop := origin(version) or _named(version)) is not None and loop not in seen:
        seen.add(loop)
        if loop not in by_loop:
            return [
                f"{version} comes from loop {loop}, which this MLflow does not have: whether it was made from "
                "scenarios of this test split is not known, and if it was, the test flatters it"
            ]
        plan = _plan(by_loop[loop])
        learnt = [s for s in split.test if s in plan.train]
        if learnt:
            raise UsageError(
                f"{base.version} comes from loop {loop}, which learnt from {', '.join(learnt[:5])}"
                + (f" and {len(learnt) - 5} more" if len(learnt) > 5 else "")
                + ", and this split would test on them: keep the task's split (without --new-split), or start from "
                "another prompt with --from"
            )
        version = plan.base.version
    return []


def _named(version: str) -> str | None:
    found = re.search(r"-([0-9a-f]{6})-r\d+$", version)
    return found[1] if found else None
