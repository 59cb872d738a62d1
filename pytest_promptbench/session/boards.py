"""The leaderboards of a session: one an experiment, task and rubric, and their files."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..agreement import Agreement, agreement_report
from ..autojudge import updated
from ..clock import utc_now
from ..errors import UsageError
from ..grid import cells
from ..leaderboard import build_leaderboard, current_candidates
from ..records import Group, Leaderboard, LoggedCandidate, Rubric, Suite
from ..report.text import plural
from ..settings import Settings
from ..tracking.artifacts import file_name
from ..tracking.recorder import Outcome
from ..tracking.texts import Reader
from .plan import Task


@dataclass(frozen=True, kw_only=True)
class Board:
    """One leaderboard with the candidates behind it, those of them that count, and where its files go."""

    leaderboard: Leaderboard
    candidates: tuple[LoggedCandidate, ...]
    counting: Sequence[LoggedCandidate]
    agreement: Agreement
    folder: Path
    cells_now: Mapping[tuple[str, str, str], str] | None = None

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
        tags: Mapping[str, Collection[str]] | None = None,
        evals: str = "evals",
        found_by: tuple[str, ...] = (),
    ) -> Board:
        """The leaderboard of a task's candidates, read with their texts.

        ``cells_now`` and ``tags`` as for ``build_leaderboard``.
        """
        counting, _ = current_candidates(candidates, rubric, task=task, cells_now=cells_now)
        leaderboard = build_leaderboard(
            candidates, rubric, experiment=experiment, task=task, cells_now=cells_now, tags=tags
        )
        return cls(
            leaderboard=replace(leaderboard, evals=evals, found_by=found_by),
            candidates=candidates,
            counting=counting,
            agreement=agreement_report(counting, rubric, experiment=experiment, task=task),
            folder=folder,
            cells_now=cells_now,
        )


def by_group(tasks: Iterable[Task]) -> dict[tuple[str, Group], Task]:
    """The tasks by what they share a leaderboard, a packet and a judge in: experiment, task and rubric."""
    return {(t.experiment, t.suite.group): t for t in tasks}


def labels(tasks: Sequence[Task]) -> list[str]:
    """A part of a file name for each of several groups: its task, and as much more as tells all of them apart."""
    parts = [labels_of(t.suite.task, t.suite.rubric.id, t.suite.rubric.sha256, t.experiment) for t in tasks]
    names = [[p[n] for p in parts] for n in range(4)]
    return next((found for found in names if len(set(found)) == len(tasks)), names[-1])


def labels_of(task: str, rubric: str, rubric_sha256: str, experiment: str) -> tuple[str, ...]:
    """All that ``labels`` may call a group, from short to long."""
    parts = task, rubric, rubric_sha256[:8], file_name(experiment)
    return tuple("-".join(parts[:n]) for n in (1, 2, 3, 4))


def folders_of(tasks: Iterable[Task], report: Path) -> dict[tuple[str, Group], Path]:
    """Where each leaderboard's files go: to ``report``, or below it where there are several."""
    groups = by_group(tasks)
    if len(groups) == 1:
        return dict.fromkeys(groups, report)
    return {key: report / name for key, name in zip(groups, labels(list(groups.values())), strict=True)}


def build_boards(
    tasks: Sequence[Task], outcome: Outcome, settings: Settings, *, folders: Mapping[Group, Path] | None = None
) -> tuple[Board, ...]:
    """One leaderboard per experiment, task and rubric; files as ``folders`` has them, else by :func:`folders_of`."""
    groups = by_group(t for t in tasks if t.experiment in outcome.candidates)
    places = folders_of(groups.values(), settings.report)
    boards = []
    for key, task in groups.items():
        suite = task.suite
        candidates = tuple(c for c in outcome.candidates[task.experiment] if c.group == suite.group)
        folder = (folders or {}).get(suite.group, places[key])
        now = cells_now(tasks, task.experiment, suite.group)
        tags = tags_now(tasks, task.experiment, suite.group)
        boards.append(
            Board.of(
                candidates, suite.rubric, task.experiment, suite.task, folder=folder, cells_now=now, tags=tags,
                evals=_evals(Path(task.tests or Path(suite.path).parent), settings.cwd), found_by=settings.found_by,
            )
        )  # fmt: skip
    return tuple(boards)


def _evals(tests: Path, cwd: Path) -> str:
    """A folder of tests, seen from ``cwd``: the folder ``evals`` that it is in, else itself."""
    parts = Path(os.path.relpath(tests, cwd)).parts
    return str(Path(*parts[: parts.index("evals") + 1 if "evals" in parts else None]))


def with_shown_texts(reader: Reader, candidates: Sequence[LoggedCandidate], unread: list[str]) -> list[LoggedCandidate]:
    """The same candidates of one leaderboard, with the texts of those that its page shows.

    Scores stand without them: ``unread`` takes the reason for each that cannot be read.
    """
    from ..report.html import first_scenarios

    shown, _ = first_scenarios(candidates)
    loaded = {c.run_id: c for c in reader.texts([c for found in shown.values() for c in found], unread=unread)}
    return [loaded.get(c.run_id, c) for c in candidates]


def with_texts_of_pages(
    reader: Reader,
    tasks: Iterable[Task],
    everyone: Mapping[str, Sequence[LoggedCandidate]],
    unread: list[str],
) -> dict[str, tuple[LoggedCandidate, ...]]:
    """``with_shown_texts`` of each leaderboard of these tasks; ``everyone``: experiment -> its candidates."""
    found = {name: tuple(candidates) for name, candidates in everyone.items()}
    for experiment, group in by_group(t for t in tasks if t.experiment in found):
        shown = with_shown_texts(reader, [c for c in found[experiment] if c.group == group], unread)
        found[experiment] = tuple(updated(found[experiment], shown))
    return found


def about_unread(unread: Sequence[str]) -> tuple[str, ...]:
    """What to say of texts that cannot be read."""
    if not unread:
        return ()
    return (f"No texts of {plural(len(unread), 'candidate')} on the page, as artifacts cannot be read: {unread[0]}",)


def cells_now(tasks: Iterable[Task], experiment: str, group: Group) -> dict[tuple[str, str, str], str]:
    """(model, prompt, scenario) -> the content that the files collected for this leaderboard give today."""
    return {c.names: c.content for suite in _suites(tasks, experiment, group) for c in cells(suite)}


def tags_now(tasks: Iterable[Task], experiment: str, group: Group) -> dict[str, set[str]]:
    """Scenario -> the tags that the files collected for this leaderboard give it today."""
    found: dict[str, set[str]] = {}
    for suite in _suites(tasks, experiment, group):
        for scenario in suite.scenarios:
            found.setdefault(scenario.id, set()).update(scenario.tags)
    return found


def _suites(tasks: Iterable[Task], experiment: str, group: Group) -> Iterator[Suite]:
    return (t.suite for t in tasks if (t.experiment, t.suite.group) == (experiment, group))


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
            paths += write_all(
                b.folder, b.leaderboard, b.candidates, agreement=b.agreement, cells_now=b.cells_now, generated_at=now
            )
        except OSError as error:
            raise UsageError(
                f"{b.folder}: the reports could not be written: {error}; name another folder with --bench-report, "
                "then write them with --bench-read"
            ) from None
    return paths
