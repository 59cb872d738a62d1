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

import contextlib
import dataclasses
import json
import mmap
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import PromptbenchError, TrackingError
from ..ledger import HEX, Entry, Ledger
from ..locks import LockFile
from ..quiet import without_collections
from ..records import LoggedCandidate
from .entry import Logged
from .recorder import Judgement, Outcome, Where
from .store import load_mlflow

BATCH = 20
HELP_FROM = 40
"""So many candidates have to wait before a second writer helps the first."""
IDLE_S = 0.05
NICENESS = 5
"""Generation comes first where cores are few: a request that starts late is lost time, a run can be written later."""
ADOPT_EVERY_S = 2.0
TRIES_AT_THE_END = 3
WAIT_FOR_OTHERS_S = 120.0
STARTING_S = 60.0
"""So long after its first candidate, a session whose recorder has not begun is no longer taken for one that starts."""


class _Second:
    """The second writer, as the first one sees it: a fork that helps where more waits than one can write.

    Both write at once only then, since each waits for the other's transactions. It takes candidates whose key ends in
    one of ``SHARE``, and holds a lock meanwhile, without which the first one takes them. It lives until it fails or the
    first one ends.
    """

    SHARE = HEX[8:]

    def __init__(self, where: Where) -> None:
        self._pid = 0
        self._where = where
        self._at_work = mmap.mmap(-1, 1)  # shared with the fork: whether it is in the middle of its candidates
        self._hurry = mmap.mmap(-1, 1)  # likewise: whether the session waits for the last of them
        if (os.cpu_count() or 1) < 2:
            return
        import gc

        load_mlflow()
        gc.freeze()  # what both have imported stays shared, and is not looked through again
        parent = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            try:
                self._live(parent)
            finally:
                os._exit(0)

    def _live(self, parent: int) -> None:
        """The fork's life. Whatever goes wrong ends it: the first writer takes over, and says what it was."""
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1):  # the pipe to the session is the first one's alone
            os.dup2(null, descriptor)
        where, session = self._where, self._where.session
        work = _Work(where, share=self.SHARE)
        work.locks.acquire(_second_lock(session))  # while it lives, no other session takes over what it may be writing
        while os.getppid() == parent:
            if not work.needs_help(0 if self._hurry[0] else HELP_FROM):
                time.sleep(IDLE_S)
                continue
            work.locks.acquire(_wanted_lock(session))
            work.locks.acquire(_share_lock(session))
            work.locks.release(_wanted_lock(session))
            self._at_work[0] = 1
            work.store.open()
            batch = work.mine()
            if batch:
                work.log(batch)
            self._at_work[0] = 0
            work.locks.release(_share_lock(session))
            if not batch:
                time.sleep(IDLE_S)

    @property
    def alive(self) -> bool:
        if self._pid and os.waitpid(self._pid, os.WNOHANG) != (0, 0):
            self._pid = 0
        return self._pid != 0

    def hurry(self) -> None:
        """The session waits: help with whatever there is."""
        self._hurry[0] = 1

    @contextlib.contextmanager
    def share(self, work: _Work) -> Iterator[None]:
        """The share is the first writer's too, unless the second one has it, wants it, or helps with all there is."""
        session = self._where.session
        work.share = HEX.replace(self.SHARE, "")
        taken = (self._hurry[0] and self.alive) or not work.locks.is_free(_wanted_lock(session))
        if taken or not work.locks.try_acquire(_share_lock(session)):
            yield
            return
        try:
            work.share = HEX
            if self._at_work[0]:  # it died in the middle
                self._at_work[0] = 0
                work.store.forget()
            yield
        finally:
            work.locks.release(_share_lock(session))

    def end(self) -> None:
        if self.alive:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)


def _second_lock(session: str) -> str:
    return f"second-writer:{session}"


def _share_lock(session: str) -> str:
    return f"second-share:{session}"


def _wanted_lock(session: str) -> str:
    return f"second-share-wanted:{session}"


class _Work:
    """What one writer does: which candidates are its own, and how they get into MLflow."""

    def __init__(self, where: Where, *, share: str = HEX, locks: LockFile | None = None) -> None:
        self.where = where
        self.share = share
        self.ledger = Ledger(Path(where.ledger))
        self.locks = locks or LockFile(Path(where.locks))
        self.store = where.store(self.locks)
        self.sessions = [where.session]
        self.error: str | None = None
        self.error_of_others: str | None = None
        self._adopted_at = 0.0
        self._left, self._moved_at = -1, 0.0
        self.refused: set[tuple[str, str]] = set()

    def adopt(self) -> None:
        """Take over what crashed sessions left behind."""
        now = time.monotonic()
        if now - self._adopted_at < ADOPT_EVERY_S:
            return
        self._adopted_at = now
        for session, since in self.ledger.sessions_waiting(self.where.store_name).items():
            begun = self.where.begun(session)
            starting = begun.parent.exists() and not begun.exists() and time.time() - since < STARTING_S
            if session in self.sessions or starting or not self.locks.is_free(_second_lock(session)):
                continue
            if self.locks.try_acquire(f"session:{session}"):
                self.sessions.append(session)
                self.store.forget()

    def mine(self) -> list[Entry]:
        """The next batch for this process."""
        most = BATCH + len(self.refused)
        batch = self.ledger.pending(self.where.store_name, self.sessions, limit=most, share=self.share)
        return [e for e in batch if (e.experiment, e.candidate) not in self.refused][:BATCH]

    def needs_help(self, above: int) -> bool:
        """Whether more than so many of this session's candidates are not in MLflow yet."""
        return self.ledger.left(self.where.store_name, self.where.session, at_most=above + 1) > above

    def waits_for_the_second(self) -> bool:
        """Whether the second writer still has candidates, and is getting on with them."""
        now = time.monotonic()
        left = self.ledger.left(self.where.store_name, self.where.session, share=_Second.SHARE)
        if left != self._left:
            self._left, self._moved_at = left, now
        return left > 0 and now - self._moved_at < WAIT_FOR_OTHERS_S

    def step(self) -> bool:
        """Log one batch; says whether anything was logged."""
        self.adopt()
        batch = self.mine()
        if not batch:
            return False
        try:
            self.log(batch)
        except TrackingError as error:
            self.error = str(error)
            self._one_by_one(batch)
        return True

    def log(self, batch: Sequence[Entry]) -> None:
        with without_collections():
            run_ids = self.store.log(batch)
        logged = zip(batch, run_ids, strict=True)
        self.ledger.done(self.where.store_name, [(e, r, None if e.run_id == r else _texts(e)) for e, r in logged])

    def _one_by_one(self, batch: Sequence[Entry]) -> None:
        """After a batch failed: log what can be, so that one refused candidate does not hold up the rest.

        Raises TrackingError where MLflow cannot be reached, which is nobody's fault among them.
        """
        self.store.forget()
        self.store.ping()
        for item in batch:
            try:
                self.log([item])
            except TrackingError as error:
                if item.session == self.where.session:
                    self.error = str(error)
                else:
                    self.error_of_others = str(error)
                self.refused.add((item.experiment, item.candidate))
                self.store.forget()

    def outcome(self, keys: Sequence[tuple[str, str]], experiments: Sequence[str]) -> Outcome:
        left = self.ledger.waiting(self.where.store_name, keys, session=self.where.session)
        candidates: dict[str, tuple[LoggedCandidate, ...]] = {}
        unread: list[str] = []
        try:
            for name in experiments:
                candidates[name] = tuple(self._with_texts(name, unread))
        except PromptbenchError as error:
            return Outcome(unlogged=left, error=str(error))
        stuck = sum(e.session != self.where.session for e in self._refused_entries())
        return Outcome(
            unlogged=left,
            error=self.error if left else None,
            candidates=candidates,
            unread=tuple(unread),
            stuck=stuck,
            stuck_error=self.error_of_others if stuck else None,
        )

    def _refused_entries(self) -> list[Entry]:
        if not self.refused:
            return []
        waiting = self.ledger.pending(self.where.store_name, self.sessions, limit=1 << 30)
        return [e for e in waiting if (e.experiment, e.candidate) in self.refused]

    def judge(self, judgements: Sequence[Judgement]) -> dict[str, Any]:
        try:
            return {"candidates": [j.write(self.store).to_json() for j in judgements]}
        except TrackingError as error:
            return {"error": str(error)}

    def _with_texts(self, experiment: str, unread: list[str]) -> list[LoggedCandidate]:
        """The experiment's candidates; texts from the ledger where this project made them, else from MLflow."""
        candidates = self.store.read(experiment)
        local = self.ledger.texts(self.where.store_name, experiment)
        mine = {c.run_id for c in candidates if c.run_id in local}
        others = [c for c in candidates if c.run_id not in mine]
        fetched = {c.run_id: c for c in self.store.texts(others, unread=unread)}
        return [_fill(c, json.loads(local[c.run_id])) if c.run_id in mine else fetched[c.run_id] for c in candidates]


def _texts(item: Entry) -> str:
    candidate = Logged.from_json(item.record).candidate
    return json.dumps({"outputs": list(candidate.outputs), "context": dict(candidate.cell.scenario.vars)})


def _fill(candidate: LoggedCandidate, texts: Mapping[str, Any]) -> LoggedCandidate:
    return dataclasses.replace(candidate, outputs=tuple(texts["outputs"]), context=texts["context"])


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
    locks.acquire(_second_lock(where.session))  # the second writer of a recorder that was killed has to end first
    locks.release(_second_lock(where.session))
    begun = where.begun(where.session)
    if begun.parent.exists():
        begun.touch()
    os.nice(NICENESS)
    _leave_out_what_mlflow_can_spare()
    _prefer_speed_over_power_loss()
    second = _Second(where)
    work = _Work(where, locks=locks)
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
        question = questions.next()
        if question is not None and "finish" in question:
            asked_at = asked_at or time.monotonic()
            second.hurry()
            if second.alive and not busy and failures == 0 and work.waits_for_the_second():
                time.sleep(IDLE_S)
                continue
            keys = [(k[0], k[1]) for k in question["finish"]["keys"]]
            drained = failures == 0 and not busy and _settled(work, keys, asked_at)
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


def _settled(work: _Work, keys: Sequence[tuple[str, str]], since: float) -> bool:
    """All is logged; or what is left was refused, or has been in another living session's hands for too long."""
    if work.ledger.waiting(work.where.store_name, keys, session=work.where.session) == 0:
        return True
    return not work.mine() and (bool(work.refused) or time.monotonic() - since > WAIT_FOR_OTHERS_S)


def _leave_out_what_mlflow_can_spare() -> None:
    """Seconds of imports less: MLflow does without these, as its mlflow-skinny shows, and nothing here needs them.

    LiteLLM it would load for a price of each trace that has none; the completer has asked the same list already.
    """
    sys.modules.update(dict.fromkeys(("pandas", "pyarrow", "sklearn", "numpy", "litellm")))  # type: ignore[arg-type]


def _prefer_speed_over_power_loss() -> None:
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
