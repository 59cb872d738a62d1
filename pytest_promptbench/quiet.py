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
    """Import a large library without garbage collections, which find nothing then and cost a fifth of its time.

    Harmless where two threads overlap: at worst the second one's import has collections again.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
