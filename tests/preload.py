"""What ``tests.forked`` imports once, before the first test session is forked from it.

Of this package nothing of ``plugin``, which pytest is to load by its entry point.
"""

import gc
import os

os.environ.update(
    LITELLM_LOCAL_MODEL_COST_MAP="True", LITELLM_TELEMETRY="False", MLFLOW_DISABLE_TELEMETRY="true", DO_NOT_TRACK="1"
)
gc.disable()

import fastapi  # noqa: E402, F401
import litellm  # noqa: E402
import litellm._service_logger  # noqa: E402
import litellm.proxy._types  # noqa: E402, F401
import mlflow  # noqa: E402
import mlflow.store.tracking.sqlalchemy_store  # noqa: E402
import mlflow.tracing.client  # noqa: E402
import mlflow.tracking  # noqa: E402, F401
import numpy  # noqa: E402, F401
import openai.resources.chat.completions.completions  # noqa: E402, F401
import pytest  # noqa: E402, F401
import rich._emoji_codes  # noqa: E402, F401
import scipy.special  # noqa: E402, F401
import uvicorn  # noqa: E402, F401

from pytest_promptbench import session, sitdown, steps  # noqa: E402, F401
from pytest_promptbench.api import app, pages, serve  # noqa: E402, F401
from pytest_promptbench.report import html, terminal  # noqa: E402, F401
from pytest_promptbench.tracking import registry  # noqa: E402, F401

html.environment().get_template("leaderboard.html.j2")
gc.enable()
gc.freeze()  # sessions share these pages, as long as no collection writes into them
