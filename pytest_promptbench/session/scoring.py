"""The suites' automatic judges, on what they have not scored yet."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from ..autojudge import Ask, Judged, Load, Write, judge_unscored, updated
from ..leaderboard import current_candidates
from ..records import LoggedCandidate
from .boards import by_group, cells_now
from .plan import Task


def score_all(
    tasks: Sequence[Task],
    everyone: dict[str, list[LoggedCandidate]],
    ask: Ask,
    write: Write,
    *,
    load: Load,
    only: Collection[str] | None = None,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> list[Judged]:
    """Have each group's judge score what it has not, which ``load`` reads; ``everyone`` is brought up to date.

    ``only``: the keys of the candidates to ask about. ``progress`` is told of each group anew. Where a judge is
    interrupted, or what it said cannot be kept or written, the groups behind it are not asked about.
    """
    judged: list[Judged] = []
    for (experiment, group), task in by_group(tasks).items():
        rubric, judge = task.suite.rubric, task.suite.judge
        if not rubric.judged:
            continue
        assert judge is not None  # a suite without one was refused when it was collected
        found, now = everyone.get(experiment, []), cells_now(tasks, experiment, group)
        current, _ = current_candidates(found, rubric, task=task.suite.task, cells_now=now)
        todo = [c for c in current if only is None or c.candidate in only]
        after, came_to = judge_unscored(todo, rubric, judge, ask, write, load=load, progress=progress)
        everyone[experiment] = updated(found, after)
        judged.append(replace(came_to, experiment=experiment))
        if came_to.interrupted or came_to.broken:
            break
    return judged
