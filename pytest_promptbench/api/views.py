"""What endpoints show of experiments: how many candidates they hold, in which state."""

from __future__ import annotations

from ..experiments import Summary
from .models import ExperimentSummary, TaskSummary


def summary(found: Summary) -> ExperimentSummary:
    tasks = [TaskSummary(task=t.task, rubric=t.rubric, rubric_sha256=t.rubric_sha256, **t.counts) for t in found.tasks]
    return ExperimentSummary(name=found.name, tasks=tasks, **found.counts)
