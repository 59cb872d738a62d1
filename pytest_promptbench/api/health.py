"""Whether MLflow and Airflow answer."""

from __future__ import annotations

import math
import re
import threading
import time
from importlib.metadata import version

import httpx
from fastapi import Response

from ..errors import PromptbenchError
from ..experiments import Experiments
from ..tracking.address import identity
from . import models
from .answers import json_answer
from .problems import ProblemError
from .settings import ServiceSettings
from .start import Runs

HEALTH_FOR_S = 2.0


class Health:
    """Asks MLflow and Airflow, at most once in a while: everybody may ask for health."""

    def __init__(self, settings: ServiceSettings, experiments: Experiments, runs: Runs) -> None:
        self._settings = settings
        self._experiments = experiments
        self._runs = runs
        self._asked_at = -math.inf
        self._found: tuple[bool, bool | None] = (False, None)
        self._asking = threading.Lock()

    def answer(self) -> Response:
        with self._asking:  # who comes while somebody asks takes that answer
            if time.monotonic() - self._asked_at > HEALTH_FOR_S:
                airflow = self._runs.airflow.answers() if self._runs.airflow is not None else None
                self._found = self._mlflow(), airflow
                self._asked_at = time.monotonic()
            mlflow, airflow = self._found
        down = []
        if not mlflow:
            down.append(f"MLflow does not answer: {_lower(self._settings.mlflow_remedy)}")
        if airflow is False and self._runs.airflow is not None:
            down.append(f"Airflow does not answer: {self._runs.airflow.remedy}")
        if down:
            extra = {"mlflow": mlflow, "airflow": airflow}
            raise ProblemError(503, "; ".join(down), headers={"Retry-After": "10"}, extra=extra)
        return json_answer(
            models.Health(mlflow=True, airflow=airflow, version=version("pytest-promptbench")).model_dump()
        )

    def _mlflow(self) -> bool:
        uri = self._settings.tracking_uri
        try:
            server = re.match(r"https?://", uri) is not None
            if server and httpx.get(f"{identity(uri)}/health", timeout=3, trust_env=False).status_code != 200:
                return False  # and is not asked anything that takes longer
            self._experiments.store()  # which has asked: a server may be well and its database not, or not let us in
        except (httpx.HTTPError, httpx.InvalidURL, PromptbenchError):
            return False
        return True


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]
