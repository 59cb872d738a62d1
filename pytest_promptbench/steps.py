"""What a step that stands in place of tests gives back, and which experiment it is about."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from pathlib import Path

from .autojudge import Judged
from .errors import UsageError
from .session import Board, Task
from .settings import Settings
from .tracking.address import redacted
from .tracking.store import TrackingStore


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What a session that runs no test did: lines for the terminal, and the leaderboards that follow from it."""

    message: str
    lines: tuple[str, ...] = ()
    code: int = 0
    tasks: tuple[Task, ...] = ()
    boards: tuple[Board, ...] = ()
    files: tuple[Path, ...] = ()
    judged: tuple[Judged, ...] = ()


def experiment_of(store: TrackingStore, settings: Settings, task: Task, *, option: str) -> str:
    """The task's experiment; where it is today's by default and there is none yet, the task's newest. UsageError."""
    if store.experiment(task.experiment) is not None:
        return task.experiment
    prefix = f"{task.suite.task}-bench-"
    names = store.experiments()
    earlier = [n for n in names if n.startswith(prefix)]
    dated = [n for n in earlier if re.fullmatch(r"\d{4}-\d\d-\d\d", n.removeprefix(prefix))]
    if settings.experiment is None and dated and task.experiment.startswith(prefix):
        return max(dated)
    close = difflib.get_close_matches(task.experiment, names, n=1)
    if close and settings.experiment is not None:
        known = f" Did you mean {close[0]!r}?"
    else:
        known = f" There are: {', '.join(sorted(earlier)[-5:])}." if earlier else ""
        holder = store.experiment_with(task.suite.task)  # as where it was renamed in MLflow
        if holder is not None and holder not in earlier:
            known += f" The newest candidate of {task.suite.task} is in {holder!r}."
    raise UsageError(
        f"{option}: MLflow has no experiment {task.experiment!r}.{known} "
        "Run the evals first, name one with --bench-experiment, or start pytest where they ran: the store here is "
        f"{redacted(store.uri)}"
    )


def nothing_under_rubric(experiment: str, task: Task) -> str:
    """What is said where a rubric was edited: what was logged under its old text is not what waits."""
    return (
        f"{experiment} holds no candidate of {task.suite.path} under the rubric {task.suite.rubric.id} as it is now; "
        "run the evals first, what was answered before comes from the cache"
    )
