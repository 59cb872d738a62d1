"""The trigger that waits in Airflow's triggerer until a judge is done, without a worker slot."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from airflow.sdk import Variable
from airflow.triggers.base import BaseTrigger, TriggerEvent

from ..errors import TrackingError
from ..tracking.store import TrackingStore
from .waiting import pending

TOLERATED_ERRORS = 10
"""So many polls in a row may fail before the wait is given up: a tracking server may restart."""


def setting(name: str) -> str | None:
    """One of this host's: from the environment, which may differ between hosts, before Airflow's Variables."""
    value: str | None = os.environ.get(name) or Variable.get(name, default=None)
    return value


class VerdictsTrigger(BaseTrigger):
    """Ends with one event as soon as nothing is pending: ``{"status": "judged" | "timeout" | "error", ...}``.

    ``deadline`` is in epoch seconds, so that a restart of the triggerer does not start the wait anew. ``artifact_root``
    is the store's, as text; ``groups`` and ``left_out`` as ``waiting.pending`` takes them. ``tracking_uri`` is None
    where it has a password, as Airflow's database holds these arguments in plain text: the triggerer takes its own
    setting then.
    """

    def __init__(
        self,
        *,
        tracking_uri: str | None,
        artifact_root: str | None,
        experiment: str,
        groups: list[list[str]],
        deadline: float,
        poll_s: float,
        left_out: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.tracking_uri, self.artifact_root = tracking_uri, artifact_root
        self.experiment, self.groups, self.left_out = experiment, groups, list(left_out)
        self.deadline, self.poll_s = deadline, poll_s

    def serialize(self) -> tuple[str, dict[str, Any]]:
        names = ("tracking_uri", "artifact_root", "experiment", "groups", "deadline", "poll_s", "left_out")
        return f"{type(self).__module__}.{type(self).__qualname__}", {name: getattr(self, name) for name in names}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        uri = self.tracking_uri or await asyncio.to_thread(setting, "MLFLOW_TRACKING_URI")
        if not uri:
            message = (
                "MLFLOW_TRACKING_URI is not set on the triggerer's host, and one with a password is not handed to it: "
                "set it in the triggerer's environment, or as an Airflow Variable of the same name"
            )
            yield TriggerEvent({"status": "error", "message": message})
            return
        store = TrackingStore(uri, artifact_root=Path(self.artifact_root) if self.artifact_root is not None else None)
        left: int | None = None
        errors = 0
        while True:
            try:
                # MLflow blocks, and the triggerer's loop serves every other waiting task.
                left = await asyncio.to_thread(pending, store, self.experiment, self.groups, self.left_out)
                errors = 0
            except TrackingError as error:
                errors += 1
                self.log.warning("poll failed, %d of %d in a row: %s", errors, TOLERATED_ERRORS, error)
                if errors >= TOLERATED_ERRORS:
                    yield TriggerEvent({"status": "error", "message": str(error)})
                    return
            else:
                if left == 0:
                    yield TriggerEvent({"status": "judged"})
                    return
                self.log.info("%d candidates of %s wait for their verdict", left, self.experiment)
            if time.time() >= self.deadline:
                yield TriggerEvent({"status": "timeout", "pending": left})
                return
            await asyncio.sleep(min(self.poll_s, max(0.5, self.deadline - time.time())))
