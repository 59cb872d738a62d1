"""Keep the libraries below us off the network, silent and brisk. No import of them here."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Iterator

SETTINGS = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_TELEMETRY": "False",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # MLflow's 7 wait 4.5 minutes for a tracking server that is down
    "DO_NOT_TRACK": "1",
    "GIT_PYTHON_REFRESH": "quiet",
}


def quiet_environment() -> None:
    """Before LiteLLM or MLflow is imported: no price list over the network, no telemetry. What the user set stays."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)


@contextlib.contextmanager
def without_collections() -> Iterator[None]:
    """Make very many objects without garbage collections, which find nothing meanwhile.

    They take a fifth of the time of importing LiteLLM or MLflow, and half of the time of reading MLflow's runs.
    Harmless where two threads overlap: at worst the second one has collections again.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
