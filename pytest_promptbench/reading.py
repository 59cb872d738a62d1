"""The leaderboards of what MLflow holds, judged first where that is asked for: no test runs, no cell is generated."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

from .autojudge import Judged, asking_models, telling, writing_to
from .errors import UsageError
from .records import LoggedCandidate
from .report.text import plural
from .session import (
    Task,
    about_unread,
    build_boards,
    by_group,
    score_all,
    where,
    with_texts_of_pages,
    write_reports,
)
from .settings import Settings
from .steps import StepResult, experiment_of
from .tracking.recorder import Outcome
from .tracking.texts import texts_of


def read_back(settings: Settings, tasks: Sequence[Task], _: bool, *, say: Callable[[str], None]) -> StepResult:
    """Write the leaderboards of these suites' experiments. UsageError where MLflow holds nothing of a suite.

    A cell that failed stays failed and one that was never generated stays out: whoever compares sees what is there.
    """
    if not tasks:
        raise UsageError("--bench-read: no promptbench test was selected; name the evals, as in pytest evals/ ...")
    store = where(settings).store()
    here = [dataclasses.replace(t, experiment=experiment_of(store, settings, t, option="--bench-read")) for t in tasks]
    groups = by_group(here)
    read = {name: store.read(name) for name in dict.fromkeys(t.experiment for t in here)}
    everyone: dict[str, list[LoggedCandidate]] = {name: [] for name in read}
    for (experiment, group), task in groups.items():
        found = [c for c in read[experiment] if c.group == group]
        if not found:
            raise UsageError(
                f"--bench-read: MLflow's experiment {task.experiment!r} holds no candidate of {task.suite.path} under "
                f"the rubric {task.suite.rubric.id} as it is now. Run the evals first, or name another with "
                "--bench-experiment"
            )
        everyone[experiment] += found
    judged: list[Judged] = []
    unread: list[str] = []
    with texts_of(store, where(settings)) as reader:
        if settings.judge_auto:
            load = functools.partial(reader.texts, unread=[])
            judges = [t.suite.judge for t in here if t.suite.judge is not None]
            with asking_models(settings, judges, say=say) as ask:
                judged = score_all(here, everyone, ask, writing_to(store), load=load, progress=telling(say))
        outcome = Outcome(candidates=with_texts_of_pages(reader, here, everyone, unread))
    boards = build_boards(here, outcome, settings)
    return StepResult(
        message=f"read {plural(sum(map(len, everyone.values())), 'candidate')} of {', '.join(everyone)}",
        lines=about_unread(unread),
        code=max((j.code for j in judged), default=0),
        tasks=tuple(here),
        boards=boards,
        files=tuple(write_reports(boards)),
        judged=tuple(judged),
    )
