"""Starting runs, in Airflow where there is one, else as jobs of this machine."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from ..airflow.request import check_gate, default_experiment
from ..airflow.suites import Evals, find_evals
from ..errors import UsageError
from ..experiments import Experiments
from .airflow import Airflow
from .jobs import FolderError, Job, Jobs
from .models import RunRequest, RunStarted, RunState, TaskState
from .settings import AIRFLOW_URL, ServiceSettings

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:+-]{0,199}")
_LOG_LINES = 60


class Runs:
    """What ``POST /api/bench/run`` starts and ``GET /api/bench/run/{id}`` tells about."""

    def __init__(
        self, *, settings: ServiceSettings, jobs: Jobs, airflow: Airflow | None, experiments: Experiments
    ) -> None:
        self._settings = settings
        self._jobs = jobs
        self._experiments = experiments
        self.airflow = airflow

    def evals(self) -> Evals:
        self._settings.check_root()
        return find_evals(self._settings.root)

    def watch(self) -> None:
        """See to it that runs which wait for a judge go on."""
        self._jobs.watch()

    def start(self, request: RunRequest) -> RunStarted:
        """UsageError for a suite or baseline that is not there, RootError, TrackingError, AirflowError, BusyError.

        Then nothing was started.
        """
        evals = self.evals()
        evals.tests_of(request.suite)
        if request.baseline:
            evals.baseline(request.baseline)
        check_gate(request.baseline, request.tolerances, strict=request.strict)
        if request.wait == "approval" and self.airflow is None:
            raise UsageError(
                f"wait: a person approves on a page of Airflow's, and none is configured here: set {AIRFLOW_URL}, or "
                'take "verdicts"'
            )
        self._experiments.names()  # what generates against a store that is down has its candidates to itself
        asked = request.model_dump(exclude_defaults=True)
        asked["experiment"] = request.experiment or default_experiment(datetime.now(UTC).date().isoformat())
        if self.airflow is None:
            job = self._jobs.start(asked)
            return RunStarted(id=job.id, where="local", state=job.state, experiment=asked["experiment"])
        run = self.airflow.start(asked)
        return RunStarted(id=run, where="airflow", state="queued", experiment=asked["experiment"])

    def find(self, run_id: str) -> RunState | None:
        """The run of this id, None where there is none. RootError, FolderError, AirflowError where nobody can tell."""
        if not _RUN_ID.fullmatch(run_id):
            return None
        if self.airflow is None:
            self._settings.check_root()
        job = self._jobs.find(run_id)
        if job is not None:
            try:
                return _local(job)
            except (AttributeError, TypeError, ValueError):  # the last is pydantic's too
                raise FolderError(
                    "the run cannot be read, as a value in its files is of a wrong type: mend or delete job.json or "
                    f"state.json in {self._settings.home / 'jobs' / job.id}"
                ) from None
        found = self.airflow.find(run_id) if self.airflow is not None else None
        return None if found is None or self.airflow is None else _remote(run_id, found, self.airflow)


def _local(job: Job) -> RunState:
    return RunState(
        id=job.id,
        where="local",
        state=job.state,
        experiment=job.request.get("experiment"),
        exit_code=job.exit_code,
        started_at=job.started_at,
        ended_at=job.ended_at,
        request=dict(job.request),
        tasks=[TaskState(task=name, state=state) for name, state in job.steps.items()],
        log=list(job.log),
    )


def _remote(run_id: str, found: Mapping[str, Any], airflow: Airflow) -> RunState:
    tasks = [t for t in found["task_instances"] if isinstance(t, Mapping)]
    telling = _telling(tasks)
    return RunState(
        id=run_id,
        where="airflow",
        state=str(found.get("state")),
        experiment=_experiment(found),
        exit_code=None,
        started_at=found.get("start_date"),
        ended_at=found.get("end_date"),
        request=dict(found.get("conf") or {}),
        tasks=[TaskState(task=_task_name(t), state=t.get("state")) for t in tasks],
        log=airflow.log(run_id, telling)[-_LOG_LINES:] if telling is not None else [],
    )


def _experiment(found: Mapping[str, Any]) -> str | None:
    """The experiment of a DAG run, whoever triggered it: as it asked, else by its day."""
    asked = (found.get("conf") or {}).get("experiment")
    day = str(found.get("run_after") or "")[:10]
    return asked or (default_experiment(day) if day else None)


def _task_name(task: Mapping[str, Any]) -> str:
    index = task.get("map_index", -1)
    return str(task.get("task_id")) + ("" if index in (-1, None) else f"[{index}]")


def _telling(tasks: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The task whose log says most: one that failed, else the one that started last."""
    started = [t for t in tasks if t.get("start_date") and t.get("state") != "skipped"]
    failed = [t for t in started if t.get("state") == "failed"]
    return max(failed or started, key=lambda t: str(t["start_date"]), default=None)
