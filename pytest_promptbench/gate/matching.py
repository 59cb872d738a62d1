"""Which cells of a session pair with the baseline's, which do not, and whether the two compare at all."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..records import Record, Tier
from ..scores import tiers_in
from .baseline import Baseline, BaselineRow, RowName

_UNSCORED = "not scored now"


@dataclass(frozen=True, kw_only=True)
class CellName(Record):
    """A cell that could not be compared, and why."""

    model: str
    prompt: str
    scenario: str
    reason: str


class Pairing(NamedTuple):
    """The rows of both sides by name, the scenarios that pair in each of the baseline's rows, and what does not."""

    old: dict[RowName, BaselineRow]
    now: dict[RowName, BaselineRow]
    pairs: dict[RowName, list[str]]
    new: tuple[CellName, ...]
    vanished: tuple[CellName, ...]
    unpaired: tuple[CellName, ...]


def match(baseline: Baseline, current: Baseline, selected: Collection[RowName] | None) -> Pairing:
    """Pair the cells of both sides; only of rows that are ``selected`` (None: all).

    A leaderboard has rows of other sessions too, which this one was not asked for.
    """
    chosen = None if selected is None else set(selected)
    old, now = (
        {row.name: row for row in side.rows if chosen is None or row.name in chosen} for side in (baseline, current)
    )
    pairs: dict[RowName, list[str]] = {name: [] for name in old}
    new: list[CellName] = []
    vanished: list[CellName] = []
    unpaired: list[CellName] = []
    for name in sorted(old.keys() | now.keys()):
        before = old[name].scores if name in old else {}
        after = now[name].scores if name in now else {}
        for scenario in sorted(before.keys() | after.keys()):

            def cell(reason: str, name: RowName = name, scenario: str = scenario) -> CellName:
                return CellName(model=name[0], prompt=name[1], scenario=scenario, reason=reason)

            prints = baseline.scenarios.get(scenario), current.scenarios.get(scenario)
            if scenario not in before:
                new.append(cell("not in the baseline"))
            elif scenario not in after:
                vanished.append(cell("only in the baseline"))
            elif not before[scenario]:
                unpaired.append(cell("not scored in the baseline"))
            elif not after[scenario]:
                unpaired.append(cell(_UNSCORED))
            elif None not in prints and prints[0] != prints[1]:
                unpaired.append(cell("the scenario has been changed since"))
            elif (was := old[name].tier_of(scenario)) != (tier := now[name].tier_of(scenario)):
                unpaired.append(cell(f"judged by {was} in the baseline, by {tier} now"))
            else:
                pairs[name].append(scenario)
    return Pairing(old, now, pairs, tuple(new), tuple(vanished), tuple(unpaired))


def changed(baseline: Baseline, current: Baseline, cells: Pairing) -> dict[str, tuple[str, ...]]:
    """Names that both sides have, with another fingerprint: kind -> names; kinds without any are left out.

    ``judges``: rows whose sit-down tiers were judged by others, with who it was and is, where both are known.
    """
    kinds = {
        "models": (baseline.models, current.models),
        "prompts": (baseline.prompts, current.prompts),
        "scenarios": (baseline.scenarios, current.scenarios),
    }
    found = {
        kind: tuple(sorted(n for n in before.keys() & after.keys() if before[n] != after[n]))
        for kind, (before, after) in kinds.items()
    }
    rows = [
        (name, cells.old[name].judges, cells.now[name].judges) for name in sorted(cells.old.keys() & cells.now.keys())
    ]
    found["judges"] = tuple(
        f"{' x '.join(name)}: {_people(before)}, now {_people(after)}"
        for name, before, after in rows
        if before and after and _people(before) != _people(after)
    )
    return {kind: names for kind, names in found.items() if names}


def _people(judges: Mapping[str, Collection[str]]) -> str:
    return " and ".join(f"{tier} {', '.join(names)}" for tier, names in sorted(judges.items()))


def problems(baseline: Baseline, current: Baseline, cells: Pairing) -> list[str]:
    """Why the two cannot be compared; nothing where they can."""
    again = (
        "compare with a baseline of the same kind, or save it anew with --bench-save, "
        "where the change to be judged is not in yet, as on the base branch"
    )
    if baseline.task != current.task:
        return [f"the baseline is of the task {baseline.task}, this session ran {current.task}; {again}"]
    if baseline.rubric_sha256 != current.rubric_sha256:
        before, after = (f"{b.rubric} ({b.rubric_sha256[:12]})" for b in (baseline, current))
        return [f"the baseline was scored by the rubric {before}, this session by {after}; {again}"]
    found = []
    for name in sorted(cells.old.keys() & cells.now.keys()):
        earlier, present = cells.old[name], cells.now[name]
        if earlier.tier is None or present.tier is None:
            continue  # unscored: its cells are unpaired
        if tiers_in(earlier.tier).isdisjoint(tiers_in(present.tier)):  # else scenarios pair, or not, one by one
            found.append(
                f"{' x '.join(name)}: the baseline was judged by {earlier.tier}, "
                f"this session by {present.tier}; {again}"
            )
        elif earlier.tier == Tier.AUTO and earlier.judge and present.judge and earlier.judge != present.judge:
            found.append(
                f"{' x '.join(name)}: the automatic judge has changed since the baseline "
                f"({earlier.judge[:12]}, now {present.judge[:12]}); {again}"
            )
    if not found and not any(cells.pairs.values()):
        unscored = any(cell.reason == _UNSCORED for cell in cells.unpaired)
        first = "have this session's candidates scored first, or " if unscored else ""
        found.append(f"no cell is scored both in the baseline and now, so there is nothing to compare; {first}{again}")
        found += left_out(cells)
    return found


def left_out(cells: Pairing) -> list[str]:
    """What to say of the cells that are not compared."""
    kinds = (("new", cells.new), ("vanished", cells.vanished), ("unpaired", cells.unpaired))
    return [
        f"{len(names)} {word} {'cell' if len(names) == 1 else 'cells'}: {_listed(names)}"
        for word, names in kinds
        if names
    ]


def _listed(cells: Sequence[CellName], most: int = 6) -> str:
    names = [f"{c.model} x {c.prompt} x {c.scenario} ({c.reason})" for c in cells[:most]]
    return ", ".join(names) + (f" and {len(cells) - most} more" if len(cells) > most else "")
