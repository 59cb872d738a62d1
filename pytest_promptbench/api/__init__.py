"""The admin HTTP API and the pages over it: reads what MLflow holds, takes verdicts in, starts runs.

Everything that comes from the network passes ``guard`` first, then a closed schema. None of it becomes part of a path
or of a shell's command line: names are compared with what is there, and what is there is used.
"""

from __future__ import annotations

from .app import create_app
from .settings import AirflowSettings, ServiceSettings

__all__ = ["AirflowSettings", "ServiceSettings", "create_app"]
