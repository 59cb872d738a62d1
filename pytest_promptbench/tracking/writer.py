"""A process of its own that brings candidates from the ledger into MLflow while the session goes on.

One a session. Importing MLflow and writing runs cost seconds of CPU; here they overlap with generation instead of
competing with it for one interpreter. On a machine with several cores it forks a second writer once MLflow is imported,
which helps while more candidates wait than one writes in half a second. The session talks to it in JSON lines:

* standard input: one line of settings, later ``{"finish": {...}}``, then any number of ``{"judgements": [...]}`` and
  ``{"texts": [...]}``. End of file means that the session is over, or gone.
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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import TrackingError
from ..locks import LockFile
from ..records import LoggedCandidate
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


class _Service:
    """Logs what waits, and answers the session meanwhile."""

    def __init__(self, work: Work, second: Second) -> None:
        self._work, self._second = work, second
        self._questions = _Questions()
        self._failures = 0  # of MLflow, one after another
        self._asked_at = 0.0  # when the session first asked for the end

    def run(self) -> None:
        """Until the session has closed the line, and no question of it is left."""
        while True:
            busy = self._step()
            question = self._questions.next()
            answer = None if question is None else self._answer(question, busy=busy)
            if answer is not None:
                self._questions.answer(answer)
            elif question is None and self._questions.gone.is_set():
                return
            elif not busy:
                time.sleep(0.5 if self._failures else IDLE_S)

    def _step(self) -> bool:
        """Log some of what waits. Returns whether there was any."""
        try:
            self._work.store.open()
            with self._second.share(self._work):
                busy = self._work.step()
        except TrackingError as error:
            self._work.error = str(error)
            self._failures += 1
            self._work.let_go()  # until MLflow is back: a session that lives must hear of it from a recorder of its own
            return False
        self._failures = 0
        return busy

    def _answer(self, question: Mapping[str, Any], *, busy: bool) -> Mapping[str, Any] | None:
        """None while something has to be logged first. The end does not wait for an MLflow that stays away."""
        if "judgements" in question:
            return self._work.judge([Judgement.from_json(j) for j in question["judgements"]])
        if "texts" in question:
            return self._work.texts([LoggedCandidate.from_json(c) for c in question["texts"]])
        self._asked_at = self._asked_at or time.monotonic()
        self._second.hurry()
        keys = [(k[0], k[1]) for k in question["finish"]["keys"]]
        if self._failures < TRIES_AT_THE_END and (busy or self._failures or not self._settled(keys)):
            return None
        return self._work.outcome(keys, question["finish"]["experiments"]).to_json()

    def _settled(self, keys: Sequence[tuple[str, str]]) -> bool:
        if self._second.alive and self._work.waits_for_the_second():
            return False
        return self._work.settled(keys, self._asked_at)


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
    _Service(Work(where, locks=locks), second).run()
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
