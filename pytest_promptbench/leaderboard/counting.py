"""Which candidates count: rules 1 to 4 of the package."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from ..records import Group, LoggedCandidate, Rubric


def current_candidates(
    candidates: Iterable[LoggedCandidate],
    rubric: Rubric,
    *,
    task: str,
    cells_now: Mapping[tuple[str, str, str], str] | None = None,
) -> tuple[list[LoggedCandidate], int]:
    """The candidates that count, by the rules of the package, and how many rule 3 leaves out."""
    return newest((c for c in candidates if c.group == (task, rubric.sha256)), cells_now=cells_now)


def newest(
    candidates: Iterable[LoggedCandidate], *, cells_now: Mapping[tuple[str, str, str], str] | None = None
) -> tuple[list[LoggedCandidate], int]:
    """Of the candidates of one task and rubric those that count, by rules 2 to 4, and how many rule 3 leaves out."""
    cells: dict[tuple[str, str, str], list[LoggedCandidate]] = defaultdict(list)
    for c in _once(candidates):
        cells[c.names].append(c)
    found: list[LoggedCandidate] = []
    superseded = 0
    now = cells_now or {}
    for place, group in cells.items():
        if len(group) == 1:  # as most are
            found += group
            continue
        wanted = now.get(place, "")
        if all(c.content != wanted for c in group):
            wanted = max(group, key=_started).content
        current = [c for c in group if c.content == wanted]
        superseded += len(group) - len(current)
        found += [c for c in current if c.error is None] or [max(current, key=_started)]
    return found, superseded


def pending_candidates(
    candidates: Iterable[LoggedCandidate],
    *,
    cells_now: Mapping[Group, Mapping[tuple[str, str, str], str]] | None = None,
) -> list[LoggedCandidate]:
    """What a packet would offer of candidates of any tasks and rubrics.

    ``cells_now``: of groups whose files are known.
    """
    known = cells_now or {}
    groups: dict[Group, list[LoggedCandidate]] = defaultdict(list)
    for c in candidates:
        groups[c.group].append(c)
    return [c for g, group in groups.items() for c in newest(group, cells_now=known.get(g))[0] if c.pending]


def _started(candidate: LoggedCandidate) -> tuple[int, str]:
    return candidate.started_at, candidate.run_id


def _once(candidates: Iterable[LoggedCandidate]) -> Iterable[LoggedCandidate]:
    """Each candidate once, as the run of it that started first."""
    first: dict[str, LoggedCandidate] = {}
    for c in candidates:
        identity = c.candidate or c.run_id
        if identity not in first or _started(c) < _started(first[identity]):
            first[identity] = c
    return first.values()
