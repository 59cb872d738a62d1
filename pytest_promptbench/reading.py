"""The leaderboards of what MLflow holds, judged first where that is asked for: no test runs, no cell is generated."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from .autojudge import Judged, asking_models, judge_unscored
from .errors import UsageError
from .leaderboard import current_candidates
from .records import Group, LoggedCandidate
from .session import Task, about_unread, build_boards, by_group, cells_now, where, with_shown_texts, write_reports
from .settings import Settings
from .sitdown import Sitting, experiment_of
from .tracking.recorder import Outcome
from .tracking.store import TrackingStore


def read_back(settings: Settings, tasks: Sequence[Task], _: bool) -> Sitting:
    """Write the leaderboards of these suites' experiments. UsageError where MLflow holds nothing of a suite.

    A cell that failed stays failed and one that was never generated stays out: whoever compares sees what is there.
    """
    if not tasks:
        raise UsageError("--bench-read: no promptbench test was selected; name the evals, as in pytest evals/ ...")
    store = where(settings).store()
    here = [dataclasses.replace(t, experiment=experiment_of(store, settings, t, option="--bench-read")) for t in tasks]
    groups = by_group(here)
    everyone = {name: store.read(name) for name in dict.fromkeys(t.experiment for t in here)}
    found = {(experiment, group): [c for c in everyone[experiment] if c.group == group] for experiment, group in groups}
    unread: list[str] = []
    for key, task in groups.items():
        if not found[key]:
            raise UsageError(
                f"--bench-read: MLflow's experiment {task.experiment!r} holds no candidate of {task.suite.path} under "
                f"the rubric {task.suite.rubric.id} as it is now. Run the evals first, or name another with "
                "--bench-experiment"
            )
        found[key] = store.texts(found[key]) if settings.judge_auto else with_shown_texts(store, found[key], unread)
    judged: tuple[Judged, ...] = ()
    if settings.judge_auto:
        judged = tuple(_judge(settings, store, here, found))
    outcome = Outcome(
        candidates={e: tuple(c for (name, _), cs in found.items() if name == e for c in cs) for e in everyone}
    )
    boards = build_boards(here, outcome, settings.report)
    return Sitting(
        message=f"read {sum(map(len, found.values()))} candidates of {', '.join(everyone)}",
        lines=about_unread(unread),
        code=max((j.code for j in judged), default=0),
        tasks=tuple(here),
        boards=boards,
        files=tuple(write_reports(boards)),
        judged=judged,
    )


def _judge(
    settings: Settings,
    store: TrackingStore,
    tasks: Sequence[Task],
    found: dict[tuple[str, Group], list[LoggedCandidate]],
) -> list[Judged]:
    """Have each suite's automatic judge score what it has not scored; ``found`` is brought up to date."""
    groups = by_group(tasks)
    judges = [t.suite.judge for t in groups.values() if t.suite.judge is not None]
    came_to = []
    with asking_models(settings, judges) as ask:
        for key, task in groups.items():
            judge, rubric = task.suite.judge, task.suite.rubric
            assert judge is not None  # a suite without one was refused when it was collected
            now = cells_now(tasks, task.experiment, task.suite.group)
            current, _ = current_candidates(found[key], rubric, task=task.suite.task, cells_now=now)
            after, result = judge_unscored(current, rubric, judge, ask, lambda js: [j.write(store) for j in js])
            changed = {c.run_id: c for c in after}
            found[key] = [changed.get(c.run_id, c) for c in found[key]]
            came_to.append(dataclasses.replace(result, experiment=task.experiment))
            if result.interrupted:
                break
    return came_to
