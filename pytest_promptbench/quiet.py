"""Keep the libraries below us off the network, silent and brisk. No import of them here."""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import threading
import warnings
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

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


def freeze_until_exit() -> None:
    """Have collections pass over all that has been made so far, up to the interpreter's end.

    Its last one must see everything again: it is what closes, and so writes out, a file that a user's module holds.
    """
    gc.freeze()
    atexit.unregister(gc.unfreeze)
    atexit.register(gc.unfreeze)


_hushed: ContextVar[bool] = ContextVar("promptbench_hushed", default=False)
_hushing = threading.Lock()
_hushers = 0
_warn = warnings.warn


@contextlib.contextmanager
def without_warnings() -> Iterator[None]:
    """Drop what is warned of in this context: this thread, its asyncio tasks, and what they hand to other threads.

    Filters are the whole process's. pytest sets its own around each test, so that one set here, beside a running test,
    would come and go with those, and ``-W error`` would make errors of what LiteLLM and pydantic say of themselves.
    Other contexts keep their warnings and their filters.
    """
    global _hushers  # noqa: PLW0603 - warnings.warn is one, too
    with _hushing:
        _hushers += 1
        warnings.warn = _warn_aloud
    token = _hushed.set(True)
    try:
        yield
    finally:
        _hushed.reset(token)
        with _hushing:
            _hushers -= 1
            if not _hushers:
                warnings.warn = _warn


def _warn_aloud(message: Any, category: Any = None, stacklevel: int = 1, source: Any = None, **kwargs: Any) -> None:
    if not _hushed.get():
        _warn(message, category, stacklevel + 1, source, **kwargs)
