"""The leaderboards of a session: one an experiment, task and rubric, and their files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..agreement import Agreement, agreement_report
from ..clock import utc_now
from ..errors import UsageError
from ..grid import cells
from ..leaderboard import build_leaderboard
from ..records import Group, Leaderboard, LoggedCandidate, Rubric
from ..tracking.artifacts import file_name
from ..tracking.recorder import Outcome
from ..tracking.store import TrackingStore
from .plan import Task


@dataclass(frozen=True, kw_only=True)
class Board:
    """One leaderboard with the candidates behind it, and where its files go."""

    leaderboard: Leaderboard
    candidates: tuple[LoggedCandidate, ...]
    agreement: Agreement
    folder: Path

    @classmethod
    def of(
        cls,
        candidates: tuple[LoggedCandidate, ...],
        rubric: Rubric,
        experiment: str,
        task: str,
        *,
        folder: Path,
        cells_now: Mapping[tuple[str, str, str], str] | None = None,
    ) -> Board:
        """The leaderboard of a task's candidates, read with their texts. ``cells_now`` as for ``build_leaderboard``."""
        return cls(
            leaderboard=build_leaderboard(candidates, rubric, experiment=experiment, task=task, cells_now=cells_now),
            candidates=candidates,
            agreement=agreement_report(candidates, rubric, experiment=experiment, task=task),
            folder=folder,
        )


def by_group(tasks: Iterable[Task]) -> dict[tuple[str, Group], Task]:
    """The tasks by what they share a leaderboard, a packet and a judge in: experiment, task and rubric."""
    return {(t.experiment, t.suite.group): t for t in tasks}


def labels(tasks: Sequence[Task]) -> list[str]:
    """A part of a file name for each of several groups: its task, and as much more as tells all of them apart."""
    parts = [(t.suite.task, t.suite.rubric.id, t.suite.rubric.sha256[:8], file_name(t.experiment)) for t in tasks]
    names = [["-".join(p[:n]) for p in parts] for n in (1, 2, 3, 4)]
    return next((found for found in names if len(set(found)) == len(tasks)), names[-1])


def build_boards(tasks: Sequence[Task], outcome: Outcome, report: Path) -> tuple[Board, ...]:
    """One leaderboard per experiment, task and rubric; files in ``report``, or below it where there are several."""
    groups = by_group(t for t in tasks if t.experiment in outcome.candidates)
    names = labels(list(groups.values()))
    boards = []
    for task, name in zip(groups.values(), names, strict=True):
        suite = task.suite
        candidates = tuple(c for c in outcome.candidates[task.experiment] if c.group == suite.group)
        folder = report if len(groups) == 1 else report / name
        now = cells_now(tasks, suite.task)
        boards.append(Board.of(candidates, suite.rubric, task.experiment, suite.task, folder=folder, cells_now=now))
    return tuple(boards)


def with_shown_texts(store: TrackingStore, candidates: Sequence[LoggedCandidate]) -> list[LoggedCandidate]:
    """The same candidates of one leaderboard, with the texts of those that its page shows."""
    from ..report.html import first_scenarios

    shown, _ = first_scenarios(candidates)
    loaded = {c.run_id: c for c in store.texts([c for found in shown.values() for c in found])}
    return [loaded.get(c.run_id, c) for c in candidates]


def cells_now(tasks: Iterable[Task], task: str) -> dict[tuple[str, str, str], str]:
    """(model, prompt, scenario) -> the id of the cell that the collected files give today."""
    return {c.names: c.id for t in tasks if t.suite.task == task for c in cells(t.suite)}


def write_reports(boards: Sequence[Board]) -> list[Path]:
    """Write every leaderboard as JSON, Markdown and HTML. UsageError where there is no writing.

    Where there are several, each in a folder of its own, one that an earlier session has left above them is removed.
    """
    from ..report import forget, write_all

    now, paths = utc_now(timespec="seconds"), []
    for b in boards:
        try:
            if len(boards) > 1:
                forget(b.folder.parent)
            paths += write_all(b.folder, b.leaderboard, b.candidates, agreement=b.agreement, generated_at=now)
        except OSError as error:
            raise UsageError(
                f"{b.folder}: the reports could not be written: {error}; name another folder with --bench-report, "
                "then write them with --bench-read"
            ) from None
    return paths
