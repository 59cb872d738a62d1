"""Keep the libraries below us off the network and silent. No import of them here."""

from __future__ import annotations

import os

SETTINGS = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_TELEMETRY": "False",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "DO_NOT_TRACK": "1",
    "GIT_PYTHON_REFRESH": "quiet",
}


def quiet_environment() -> None:
    """Before LiteLLM or MLflow is imported: no price list over the network, no telemetry. What the user set stays."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
