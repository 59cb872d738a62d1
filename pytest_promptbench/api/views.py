"""What pages and endpoints show of experiments: how many candidates they hold, in which state."""

from __future__ import annotations

from collections.abc import Sequence

from ..experiments import Experiment
from ..leaderboard import pending_candidates
from ..records import LoggedCandidate
from .models import ExperimentSummary, TaskSummary


def counts(candidates: Sequence[LoggedCandidate]) -> dict[str, int]:
    """Of all that is logged; but pending is only what still waits for a judge, by each task and rubric."""
    return {
        "candidates": len(candidates),
        "judged": sum(c.sit_down() is not None for c in candidates),
        "pending": len(pending_candidates(candidates)),
        "failed": sum(c.error is not None for c in candidates),
    }


def summary(experiment: Experiment) -> ExperimentSummary:
    """Tasks with all of their rubrics; ``rubric_sha256`` is the newest's."""
    tasks = []
    for task in experiment.tasks:
        newest = experiment.group(task)
        mine = [c for c in experiment.candidates if c.task == task]
        tasks.append(TaskSummary(task=task, rubric=newest.rubric, rubric_sha256=newest.rubric_sha256, **counts(mine)))
    return ExperimentSummary(name=experiment.name, tasks=tasks, **counts(experiment.candidates))
