"""What is reported: leaderboards and their rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .record import Record
from .written import Rubric


@dataclass(frozen=True, kw_only=True)
class Row(Record):
    """One (model, prompt) of a leaderboard. Figures nobody has are None, never 0.

    ``composite`` and ``criteria`` are means over scenarios (repeats of a scenario are averaged first) of the
    verdict that counts; ``tier`` says whose they are. ``ci95`` is a 95 % interval of ``composite``. ``cost_usd`` is the
    total over the row's candidates whose price is known, ``latency_s`` their mean. ``scenario_scores`` maps a scenario
    to its composite, ``by_tier`` a tier to its own such map. ``calibrated`` estimates the sit-down tier's composite
    from its few labels and the automatic tier's many, as ``statistics.Calibrated`` has it; None where there is nothing
    to gain, or nothing to go by. ``estimated``: ``composite`` and ``ci95`` are that estimate, not the labels' mean.
    ``auto_judged``: so many candidates the automatic tier has scored. ``judges``: whose verdicts count, of ``tier``.
    ``outdated``: so many candidates are from before a change of their cell's files, and nothing is from after it.
    """

    rank: int | None
    model: str
    prompt: str
    composite: float | None
    ci95: tuple[float, ...] | None
    tier: str | None
    candidates: int
    judged: int
    pending: int
    failed: int
    criteria: Mapping[str, float | None] = field(default_factory=dict)
    auto_composite: float | None = None
    cost_usd: float | None = None
    latency_s: float | None = None
    scenario_scores: Mapping[str, float] = field(default_factory=dict)
    by_tier: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    calibrated: Mapping[str, Any] | None = None
    estimated: bool = False
    auto_judged: int = 0
    judges: tuple[str, ...] = ()
    outdated: int = 0


@dataclass(frozen=True, kw_only=True)
class Leaderboard(Record):
    """Composite by (model, prompt), best first, of one task in one experiment under one rubric."""

    experiment: str
    task: str
    rubric: Rubric
    rows: tuple[Row, ...]
    superseded: int = 0
    """Candidates left out because their cell has been generated anew from changed files since."""
    strangers: tuple[str, ...] = ()
    """Scenarios that count although no collected suite has them: deleted, renamed, or another suite's."""
    evals: str = "evals"
    """The folder of the tests, as a command names it that goes on from here."""
    found_by: tuple[str, ...] = ()
    """Options without which pytest, there, would find another project, and another store."""
    automatic_judges: tuple[str, ...] = ()
    """Whose automatic verdicts count: several where another judge has scored only some of the candidates so far."""
    comparisons: tuple[Mapping[str, Any], ...] = ()
    """Each further row less the first, as ``statistics.PairedComparison`` has it, with ``model`` and ``prompt`` of the
    row, ``p_holm``, its p-value after Holm's correction over all pairs of rows, and ``tier``, on which both were
    compared: ``calibrated`` where one of the two is an estimate (``n`` is then the smaller number of labels), None
    where the two have no scenario in common that one tier has scored."""
    by_tag: tuple[Mapping[str, Any], ...] = ()
    """The rows over the scenarios of one tag each, as ``leaderboard.slices`` has them; none where nothing is judged."""
    tags_left_out: int = 0
    """Tags that ``by_tag`` has no room for, those with the fewest scenarios."""
