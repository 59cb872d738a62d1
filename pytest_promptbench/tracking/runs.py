"""New runs. Where the store is a database, its experiment is looked up once a batch instead of once a run.

MLflow's own store looks it up for every run, which is a tenth of all that a candidate costs. ``create_run`` and
``get_experiment`` belong to the interface that MLflow documents for tracking stores (``AbstractStore``); whatever else
a run needs goes through ``MlflowClient``. A store behind a server, or with workspaces, has the client alone.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

DATABASES = ("sqlite", "postgresql", "mysql", "mssql")


class Runs:
    """Makes runs in the store at ``uri``; ``client`` is an MlflowClient of it."""

    def __init__(self, client: Any, uri: str) -> None:
        self._client = client
        self._store = None
        if uri.partition(":")[0].partition("+")[0] in DATABASES and "MLFLOW_ENABLE_WORKSPACES" not in os.environ:
            self._store = _remembering_store(uri)

    def forget(self) -> None:
        """Look experiments up anew: a batch begins."""
        if self._store is not None:
            self._store.experiments.clear()

    def create(self, experiment_id: str, *, start_time: int, tags: Mapping[str, str], name: str) -> Any:
        """A run of that name with these tags, still running; ``start_time`` in milliseconds of the epoch."""
        if self._store is None:
            return self._client.create_run(experiment_id, start_time=start_time, tags=dict(tags), run_name=name)
        from mlflow.entities import RunTag

        return self._store.create_run(
            experiment_id=experiment_id,
            user_id="unknown",  # as the client says without a tag for it
            start_time=start_time,
            tags=[RunTag(k, v) for k, v in tags.items()],
            run_name=name,
        )


def _remembering_store(uri: str) -> Any:
    from mlflow.store.tracking import DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    class RememberingStore(SqlAlchemyStore):  # type: ignore[misc] # MLflow's stores are untyped here
        def __init__(self) -> None:
            self.experiments: dict[str, Any] = {}
            super().__init__(uri, DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH)

        def get_experiment(self, experiment_id: str) -> Any:
            if experiment_id not in self.experiments:
                self.experiments[experiment_id] = super().get_experiment(experiment_id)
            return self.experiments[experiment_id]

    return RememberingStore()
