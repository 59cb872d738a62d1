"""A process of its own that brings candidates from the ledger into MLflow while the session goes on.

One a session. Importing MLflow and writing runs cost seconds of CPU; here they overlap with generation instead of
competing with it for one interpreter. On a machine with several cores it forks a second writer once MLflow is imported,
which helps while more candidates wait than one writes in half a second. The session talks to it in JSON lines:

* standard input: one line of settings, later ``{"finish": {...}}``, then any number of ``{"judgements": [...]}``. End
  of file means that the session is over, or gone.
* standard output: one line, the answer, to each but the first.

It holds the lock ``session:<id>`` from its first moment, before anything slow is imported, so that another session can
tell a crashed one's candidates from a living one's and log them in its place.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import TrackingError
from ..locks import LockFile
from .recorder import Judgement, Where
from .second import IDLE_S, Second
from .work import Work, second_lock

NICENESS = 5
"""Generation comes first where cores are few: a request that starts late is lost time, a run can be written later."""
TRIES_AT_THE_END = 3


class _Questions:
    """What the session asks, in order; ``gone`` once it has closed the line."""

    def __init__(self) -> None:
        self.gone = threading.Event()
        self._waiting: deque[dict[str, Any]] = deque()
        # Not sys.stdout: with PYTHONUNBUFFERED it drops the rest of a write during which the process was stopped, as by
        # docker pause or a debugger, and the session would wait for ever for the end of a line of megabytes.
        self._answers = open(sys.stdout.fileno(), "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        try:
            for line in sys.stdin:
                self._waiting.append(json.loads(line))
        except ValueError:
            pass  # half a line: the session was killed while it wrote
        finally:
            self.gone.set()

    def next(self) -> dict[str, Any] | None:
        return self._waiting[0] if self._waiting else None

    def answer(self, value: Mapping[str, Any]) -> None:
        self._waiting.popleft()
        self._answers.write(json.dumps(value) + "\n")
        self._answers.flush()


def main() -> None:
    """Serve one session until it closes the line."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    where = Where.from_json(json.loads(sys.stdin.readline()))
    locks = LockFile(Path(where.locks))
    locks.acquire(f"session:{where.session}")
    locks.acquire(second_lock(where.session))  # the second writer of a recorder that was killed has to end first
    locks.release(second_lock(where.session))
    begun = where.begun(where.session)
    if begun.parent.exists():
        begun.touch()
    os.nice(NICENESS)
    _leave_out_what_mlflow_can_spare()
    prefer_speed_over_power_loss()
    second = Second(where)
    work = Work(where, locks=locks)
    questions = _Questions()
    failures, asked_at = 0, 0.0
    while True:
        try:
            work.store.open()
            with second.share(work):
                busy = work.step()
            failures = 0
        except TrackingError as error:
            work.error, busy = str(error), False
            failures += 1
            work.let_go()  # until MLflow is back: a session that lives must hear of it from a recorder of its own
        question = questions.next()
        if question is not None and "finish" in question:
            asked_at = asked_at or time.monotonic()
            second.hurry()
            if second.alive and not busy and failures == 0 and work.waits_for_the_second():
                time.sleep(IDLE_S)
                continue
            keys = [(k[0], k[1]) for k in question["finish"]["keys"]]
            drained = failures == 0 and not busy and work.settled(keys, asked_at)
            if drained or failures >= TRIES_AT_THE_END:
                questions.answer(work.outcome(keys, question["finish"]["experiments"]).to_json())
                continue
        elif question is not None:
            questions.answer(work.judge([Judgement.from_json(j) for j in question["judgements"]]))
            continue
        elif questions.gone.is_set():
            break
        if not busy:
            time.sleep(IDLE_S if failures == 0 else 0.5)
    second.end()
    os._exit(0)  # MLflow's and SQLAlchemy's exit handlers have nothing left to do


def _leave_out_what_mlflow_can_spare() -> None:
    """Seconds of imports less: MLflow does without these, as its mlflow-skinny shows, and nothing here needs them.

    LiteLLM it would load for a price of each trace that has none; the completer has asked the same list already.
    """
    sys.modules.update(dict.fromkeys(("pandas", "pyarrow", "sklearn", "numpy", "litellm")))  # type: ignore[arg-type]


def prefer_speed_over_power_loss() -> None:
    """SQLite without a disk flush per commit: a crash of the process loses nothing, a power cut may lose the last runs.

    Those are logged again from the ledger and the cache by the next session. Only this process's connections are meant.
    """
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    @event.listens_for(Engine, "connect")
    def relax(connection: Any, _: object) -> None:
        if type(connection).__module__.startswith("sqlite3"):
            connection.execute("PRAGMA synchronous = NORMAL")


if __name__ == "__main__":
    main()
