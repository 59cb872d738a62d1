"""From candidates to the leaderboard."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from ..quiet import without_collections
from ..records import Leaderboard, LoggedCandidate, Row, Rubric
from ..scores import automatic_judges
from .counting import current_candidates
from .ranks import comparisons_of, tied
from .rows import RowTable
from .slices import by_tag, largest

Interval = Callable[[Sequence[float]], tuple[float, float] | None]
"""95 % interval of a mean over scenarios, None where there is none."""
Ranks = Callable[[Sequence[Row]], list[int]]
"""Ranks of rows that are sorted best first."""


@without_collections()
def build_leaderboard(
    candidates: Iterable[LoggedCandidate],
    rubric: Rubric,
    *,
    experiment: str,
    task: str,
    cells_now: Mapping[tuple[str, str, str], str] | None = None,
    tags: Mapping[str, Collection[str]] | None = None,
    interval: Interval | None = None,
    ranks: Ranks | None = None,
) -> Leaderboard:
    """The leaderboard of a task; candidates of other tasks and rubrics are passed over.

    ``cells_now`` maps (model, prompt, scenario) to the content that the files give today, as far as it is known.
    ``tags`` maps scenarios to theirs, by which rows are shown in part, too (``by_tag``).
    ``interval`` and ``ranks`` default to ``statistics.mean_interval`` and :func:`tied`; what they need is imported only
    where something is judged. ``superseded`` counts what rule 3 of the package leaves out.
    """
    current, superseded = current_candidates(candidates, rubric, task=task, cells_now=cells_now)
    now = cells_now or {}
    known = {scenario for _, _, scenario in now}
    tables: dict[tuple[str, str], RowTable] = defaultdict(RowTable)
    for c in current:
        tables[c.model, c.prompt].add(c, outdated=c.names in now and now[c.names] != c.content)
    rows = [table.row(model, prompt, rubric) for (model, prompt), table in tables.items()]
    rows.sort(key=lambda r: (r.composite is None, -(r.composite or 0.0), r.model, r.prompt))
    found = Leaderboard(
        experiment=experiment,
        task=task,
        rubric=rubric,
        rows=tuple(rows),
        superseded=superseded,
        strangers=tuple(sorted({c.scenario for c in current} - known)) if known else (),
        automatic_judges=automatic_judges(current),
    )
    judged = [r for r in rows if r.composite is not None]
    if not judged:
        return found
    if interval is None:
        from ..statistics import mean_interval

        interval = mean_interval
    scenarios, left_out = largest(len(judged), tags or {})
    return replace(
        found,
        rows=(*_ranked(judged, interval, ranks or partial(tied, point=rubric.point)), *rows[len(judged) :]),
        comparisons=tuple(comparisons_of(judged, point=rubric.point)),
        by_tag=tuple(by_tag(judged, scenarios, interval)),
        tags_left_out=left_out,
    )


def _ranked(judged: Sequence[Row], interval: Interval, ranks: Ranks) -> list[Row]:
    """Rows that have a composite, best first already, with intervals and ranks."""
    return [
        replace(r, rank=rank, ci95=r.ci95 if r.estimated else _interval(r, interval))
        for r, rank in zip(judged, ranks(judged), strict=True)
    ]


def _interval(row: Row, interval: Interval) -> tuple[float, float] | None:
    values = list(row.scenario_scores.values())
    return interval(values) if len(values) >= 2 else None
