"""Airflow's REST API v2, as much of it as starts a run of the DAG and says how it goes."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import httpx

from ..airflow.request import DAG_ID
from ..errors import PromptbenchError, UsageError
from .settings import AIRFLOW_PASSWORD, AIRFLOW_URL, AIRFLOW_USER, AirflowSettings

TIMEOUT_S = 10.0


class AirflowError(PromptbenchError):
    """Airflow does not answer, or does not let this service in."""


class Airflow:
    """One Airflow. Every call gets a token first, so that none is ever too old."""

    def __init__(self, settings: AirflowSettings) -> None:
        self._settings = settings
        self._dag = f"/api/v2/dags/{DAG_ID}"

    def answers(self) -> bool:
        """Whether its API server is there."""
        try:
            with self._client() as client:
                return client.get("/api/v2/monitor/health").status_code == 200
        except httpx.HTTPError:
            return False

    def start(self, conf: Mapping[str, Any]) -> str:
        """Start a run of the DAG and return its id. UsageError where Airflow refuses the configuration.

        AirflowError for a paused DAG too: Airflow would take the run and keep it queued for ever.
        """
        run_id = f"bench-{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(4)}"
        with self._client() as client:
            headers = self._login(client)
            try:
                dag = client.get(self._dag, headers=headers)
            except httpx.HTTPError as error:
                raise AirflowError(self._down(error)) from None
            self._check(dag)
            if _object(dag).get("is_paused"):
                raise AirflowError(
                    f"the DAG {DAG_ID} is paused in Airflow at {self._settings.url}, so no run of it starts: unpause "
                    f"it there (airflow dags unpause {DAG_ID})"
                )
            body = {"logical_date": None, "dag_run_id": run_id, "conf": dict(conf)}
            try:
                response = client.post(f"{self._dag}/dagRuns", json=body, headers=headers)
            except httpx.HTTPError as error:
                raise AirflowError(
                    f"{self._down(error)}; whether the run was started is not known: ask for {run_id} later"
                ) from None
            if response.status_code in (400, 422):
                raise UsageError(f"Airflow refuses the configuration: {_detail(response)}")
            self._check(response)
        return run_id

    def find(self, run_id: str) -> dict[str, Any] | None:
        """A run of the DAG with its ``task_instances``; None where there is none of this id."""
        path = f"{self._dag}/dagRuns/{quote(run_id, safe='')}"
        with self._client() as client:
            headers = self._login(client)
            try:
                response = client.get(path, headers=headers)
                if response.status_code == 404:
                    return None
                self._check(response)
                tasks = client.get(f"{path}/taskInstances", params={"limit": 100}, headers=headers)
                self._check(tasks)
            except httpx.HTTPError as error:
                raise AirflowError(self._down(error)) from None
            return {**_object(response), "task_instances": _object(tasks).get("task_instances", [])}

    def log(self, run_id: str, task: Mapping[str, Any]) -> list[str]:
        """The lines that a task instance's last try has said; none where Airflow has not got them."""
        path = f"{self._dag}/dagRuns/{quote(run_id, safe='')}/taskInstances/{quote(str(task['task_id']), safe='')}"
        params = {"map_index": task.get("map_index", -1), "full_content": "true"}
        with self._client() as client:
            headers = {**self._login(client), "Accept": "application/json"}
            try:
                response = client.get(
                    f"{path}/logs/{max(1, task.get('try_number') or 1)}", params=params, headers=headers
                )
            except httpx.HTTPError as error:
                raise AirflowError(self._down(error)) from None
        content = _object(response).get("content", []) if response.status_code == 200 else []
        if not isinstance(content, list):
            return str(content).splitlines()
        return [text for line in content for text in _lines(line)]

    def _client(self) -> httpx.Client:
        return httpx.Client(base_url=self._settings.url, timeout=TIMEOUT_S, trust_env=False, follow_redirects=False)

    def _login(self, client: httpx.Client) -> dict[str, str]:
        who = {"username": self._settings.username, "password": self._settings.password}
        try:
            response = client.post("/auth/token", json=who)
        except httpx.HTTPError as error:
            raise AirflowError(self._down(error)) from None
        if response.status_code in (401, 403):
            raise AirflowError(f"Airflow at {self._settings.url} refuses {AIRFLOW_USER} and {AIRFLOW_PASSWORD}")
        self._check(response)
        token = _object(response).get("access_token")
        if not isinstance(token, str):
            raise AirflowError(f"Airflow at {self._settings.url} gave no token; is {AIRFLOW_URL} Airflow's API server?")
        return {"Authorization": f"Bearer {token}"}

    def _down(self, error: httpx.HTTPError) -> str:
        return f"Airflow at {self._settings.url} does not answer ({type(error).__name__}): {self.remedy}"

    @property
    def remedy(self) -> str:
        """What to do where it does not answer."""
        return f"start its API server, or correct {AIRFLOW_URL}"

    def _check(self, response: httpx.Response) -> None:
        if response.is_success:
            return
        where = f"Airflow at {self._settings.url}"
        if response.status_code == 404:
            raise AirflowError(f"{where} has no DAG {DAG_ID}: put dags/{DAG_ID}.py where it looks for DAGs")
        if response.status_code in (401, 403):
            raise AirflowError(f"{where} does not let {self._settings.username} do that (HTTP {response.status_code})")
        raise AirflowError(f"{where} answers HTTP {response.status_code}: {_detail(response)}")


def _object(response: httpx.Response) -> dict[str, Any]:
    try:
        value = response.json()
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _lines(entry: object) -> list[str]:
    """An entry of a structured log. What a task failed with stands beside its event, not in it."""
    if not isinstance(entry, dict):
        return [str(entry)]
    errors = entry.get("error_detail")
    raised = [e for e in errors if isinstance(e, dict)] if isinstance(errors, list) else []
    said = (f"{e.get('exc_type')}: {e.get('exc_value')}".splitlines() for e in raised)
    return [str(entry.get("event", "")), *(line for lines in said for line in lines)]


def _detail(response: httpx.Response) -> str:
    return " ".join(str(_object(response).get("detail", response.text)).split())[:500]
