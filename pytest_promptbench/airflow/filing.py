"""A DAG run's papers in MLflow: its judge packet and its report, where every host and every judge finds them.

They are artifacts of one run of an experiment of their own, so that nobody mistakes that run for a candidate.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..tracking.address import translated
from .request import RUN_TAG, Project, Request

EXPERIMENT = "promptbench-airflow"
ABOUT = "promptbench.experiment"
"""Tag of a filing run: the experiment whose packet and report it holds."""


def file_papers(project: Project, request: Request, files: Iterable[Path], *, folder: str = "") -> str:
    """Upload files to the DAG run's own MLflow run, made if need be; its id. A second upload replaces the first.

    Raises TrackingError.
    """
    store = project.store()
    experiment_id = store.experiment(EXPERIMENT, create=True)
    with translated(project.tracking_uri):
        client = _client(project)
        run_id = _run(client, str(experiment_id), request)
        for path in files:
            client.log_artifact(run_id, str(path), artifact_path=folder or None)
    return run_id


def _client(project: Project) -> Any:
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=project.tracking_uri)


def _run(client: Any, experiment_id: str, request: Request) -> str:
    # Airflow allows no quote in a run id (core.allowed_run_id_pattern), but that is a setting.
    wanted = request.run_id.replace("'", "")
    found = client.search_runs([experiment_id], filter_string=f"tags.`{RUN_TAG}` = '{wanted}'", max_results=1)
    if found:
        return str(found[0].info.run_id)
    tags = {RUN_TAG: wanted, ABOUT: request.experiment}
    run = client.create_run(experiment_id, tags=tags, run_name=f"{request.experiment} · {wanted}"[:250])
    client.set_terminated(run.info.run_id)
    return str(run.info.run_id)
