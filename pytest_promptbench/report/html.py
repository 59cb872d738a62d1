"""A leaderboard as one page that asks nobody for anything: tables, pictures, and every candidate beside its rivals."""

from __future__ import annotations

import base64
import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Final

from ..records import Criterion, Leaderboard, LoggedCandidate, Rubric, Score
from . import pictures
from .notes import notes
from .tables import all_tables
from .text import by_scenario, export_command, plural, scrolls, visible
from .views import Card, RowView, card, context_of, placed, places, state_of

if TYPE_CHECKING:
    import jinja2

    from ..agreement import Agreement

MOST: Final = 3_000
"""Candidates that the page shows, of whole scenarios: with more, it is slow to open and tens of megabytes large."""


# -- what the template sees: every text in here has been through ``visible`` -----------------------------------


@dataclass(frozen=True, kw_only=True)
class _RowView(RowView):
    strip: pictures.Strip
    histograms: list[pictures.Histogram | None]


@dataclass(frozen=True, kw_only=True)
class _ScenarioView:
    name: str
    preview: str
    context: list[tuple[str, str]]
    counts: str
    cards: list[Card]


# -- the page ----------------------------------------------------------------------------------------------------


def render_leaderboard(
    lb: Leaderboard,
    candidates: Sequence[LoggedCandidate],
    *,
    agreement: Agreement | None = None,
    cells_now: Mapping[tuple[str, str, str], str] | None = None,
    generated_at: str,
) -> str:
    """The page as HTML text. It holds no outside address, and only its own script, known by hash, may run in it.

    ``candidates``: all that there are; ``cells_now``, as ``build_leaderboard`` was given it, says which of them count.
    """
    from ..leaderboard import current_candidates

    rubric = lb.rubric
    script = asset("leaderboard.js")
    scale = pictures.scale(lb)
    counting, _ = current_candidates(candidates, rubric, task=lb.task, cells_now=cells_now)
    states = {s: sum(getattr(r, s) for r in lb.rows) for s in ("judged", "pending", "failed")}
    shown, left_out = first_scenarios(candidates)
    return (
        environment()
        .get_template("leaderboard.html.j2")
        .render(
            css=asset("leaderboard.css"),
            script=script,
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            task=visible(lb.task),
            experiment=visible(lb.experiment),
            rubric=visible(rubric.id),
            rubric_sha=visible(rubric.sha256[:12]),
            rubric_text=visible(rubric.text, multiline=True),
            top=f"{rubric.top:g}",
            criteria=[(visible(c.name), _allowed(c)) for c in rubric.criteria],
            generated_at=visible(generated_at),
            counts=[
                plural(len({c.model for c in candidates} | {r.model for r in lb.rows}), "model"),
                plural(len({c.prompt for c in candidates} | {r.prompt for r in lb.rows}), "prompt"),
                plural(len({c.scenario for c in candidates}), "scenario"),
                plural(sum(r.candidates for r in lb.rows), "candidate"),
                *(f"{count:,} {state}" for state, count in states.items() if count),
            ],
            scale=scale,
            rows=_rows(lb, counting, scale),
            tables=all_tables(lb, agreement),
            scenarios=_scenarios(lb, shown, {c.run_id for c in counting}),
            left_out=left_out,
            superseded=len(counting) < len(candidates),
            by_programs=not rubric.judged,
            pending=sum(row.pending for row in lb.rows),
            export=export_command(lb),
            notes=notes(lb),
            scored=any(row.composite is not None or row.scenario_scores for row in lb.rows),
        )
    )


@cache
def environment() -> jinja2.Environment:
    import jinja2

    made = jinja2.Environment(
        loader=jinja2.FunctionLoader(asset),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.globals["scrolls"] = scrolls
    return made


@cache
def asset(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


# -- rows ----------------------------------------------------------------------------------------------------


def _rows(lb: Leaderboard, counting: Iterable[LoggedCandidate], scale: pictures.Scale) -> list[_RowView]:
    judged = {(row.model, row.prompt) for row in lb.rows if row.judged}
    sound = defaultdict(list)
    for c in counting:
        if c.error is None:
            verdict = c.sit_down() if (c.model, c.prompt) in judged else c.automatic()
            sound[c.model, c.prompt].append((c.checks, verdict.scores if verdict else {}))
    return [
        _RowView.of(
            row,
            rank,
            scale,
            best=best,
            strip=pictures.strip(row, scale),
            histograms=[
                pictures.histogram(c, _given(c.name, sound[row.model, row.prompt]), row.criteria.get(c.name))
                for c in lb.rubric.criteria
            ],
        )
        for row, rank, best in placed(lb)
    ]


def _given(name: str, sound: Iterable[tuple[Mapping[str, Score], Mapping[str, Score]]]) -> list[float]:
    """The scores behind the row's mean, of what a program filled and the row's own tier said of each candidate."""
    found = []
    for checks, scores in sound:
        score = checks.get(name, scores.get(name))
        if score is not None and math.isfinite(score):
            found.append(float(score))
    return found


# -- candidates --------------------------------------------------------------------------------------------------


def first_scenarios(candidates: Sequence[LoggedCandidate]) -> tuple[dict[str, list[LoggedCandidate]], str | None]:
    """The scenarios by name with their candidates, as many as the page shows, and a note where that is not all."""
    groups = by_scenario(candidates)
    shown: dict[str, list[LoggedCandidate]] = {}
    count = 0
    for name, found in groups.items():
        if shown and count + len(found) > MOST:
            note = f"{count:,} of {len(candidates):,} candidates are shown here, of {len(shown):,} of {len(groups):,} "
            return shown, note + "scenarios. The others are in MLflow, and count above as these do."
        shown[name] = found
        count += len(found)
    return shown, None


def _scenarios(
    lb: Leaderboard, groups: Mapping[str, list[LoggedCandidate]], counting: Collection[str]
) -> list[_ScenarioView]:
    """``counting``: the runs of the candidates that count above."""
    place = places(lb)

    def order(c: LoggedCandidate) -> tuple[int, str, str, int]:
        return place.get((c.model, c.prompt), len(place)), c.model, c.prompt, c.started_at

    return [_scenario(name, sorted(found, key=order), lb.rubric, counting) for name, found in groups.items()]


def _scenario(
    name: str, candidates: Sequence[LoggedCandidate], rubric: Rubric, counting: Collection[str]
) -> _ScenarioView:
    context = context_of(candidates)
    states = Counter(state_of(c) for c in candidates if c.run_id in counting)
    return _ScenarioView(
        name=visible(name),
        preview=visible(" · ".join(v for _, v in context), limit=140),
        context=context,
        counts=", ".join(f"{states[s]} {s}" for s in ("judged", "scored", "pending", "failed") if states[s]),
        cards=[
            card(c, rubric, state=state_of(c), about=[] if c.run_id in counting else ["left out above"])
            for c in candidates
        ],
    )


def _allowed(criterion: Criterion) -> str:
    if criterion.type == "scale":
        weight = "" if criterion.weight == 1 else f", weight {criterion.weight:g}"
        return f"{criterion.allowed}{weight}"
    return f"{str(bool(criterion.bad)).lower()} costs {criterion.penalty:g}"
