"""What one writer does: which candidates are its own, and how they get into MLflow."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from ..errors import PromptbenchError, TrackingError
from ..ledger import HEX, Entry, Ledger
from ..locks import LockFile
from ..quiet import without_collections
from ..records import LoggedCandidate
from .address import redacted
from .entry import Logged, failure_of
from .recorder import Judgement, Outcome, Where, write_judgements
from .texts import Texts, text_of

BATCH = 20
SECOND_SHARE = HEX[8:]
"""The last digits of the keys of those candidates that a second writer takes."""
ADOPT_EVERY_S = 2.0
WAIT_FOR_OTHERS_S = 120.0
WAIT_FOR_FAILURE_S = 60.0
"""So long an answer waits until another writer has logged its cell's failure, which MLflow may have refused."""
STARTING_S = 60.0
"""So long after its first candidate, a session whose recorder has not begun is no longer taken for one that starts."""


def second_lock(session: str) -> str:
    """The name of the lock that a session's second writer holds while it lives."""
    return f"second-writer:{session}"


class Work:
    """The candidates of one session and of those that crashed, as far as their keys end in one of ``share``."""

    def __init__(self, where: Where, *, share: str = HEX, locks: LockFile | None = None) -> None:
        self.where = where
        self.share = share
        self.ledger = Ledger(Path(where.ledger))
        if (before := redacted(where.uri)) != where.store_name:  # as earlier versions knew the store
            self.ledger.rename(before, where.store_name)
        self.locks = locks or LockFile(Path(where.locks))
        self.store = where.store(self.locks)
        self._texts = Texts(self.store, self.ledger, where)
        self.sessions = [where.session]
        self.error: str | None = None
        self.error_of_others: str | None = None
        self._adopted_at = 0.0
        self._seen_at: dict[tuple[str, str], float] = {}
        self._left, self._moved_at = -1, 0.0
        self.refused: set[tuple[str, str]] = set()

    def adopt(self) -> None:
        """Take over what crashed sessions left behind, and let go of those of which nothing is left."""
        now = time.monotonic()
        if now - self._adopted_at < ADOPT_EVERY_S:
            return
        self._adopted_at = now
        waiting = self.ledger.sessions_waiting(self.where.store_name)
        unfinished = {session: since for session, since in waiting.items() if self._has_more(session)}
        self.let_go(but=unfinished)
        for session, since in unfinished.items():
            begun = self.where.begun(session)
            starting = begun.parent.exists() and not begun.exists() and time.time() - since < STARTING_S
            if session in self.sessions or starting or not self.locks.is_free(second_lock(session)):
                continue
            if self.locks.try_acquire(f"session:{session}"):
                self.sessions.append(session)
                self.store.forget()

    def let_go(self, *, but: Collection[str] = ()) -> None:
        """Give up the sessions that were taken over. One may live, and its new recorder wait for nothing else."""
        for session in self.sessions[1:]:
            if session not in but:
                self.sessions.remove(session)
                self.locks.release(f"session:{session}")

    def _has_more(self, session: str) -> bool:
        """Whether a session left anything that MLflow has not refused."""
        found = self.ledger.pending(self.where.store_name, [session], limit=1 + len(self.refused))
        return any((e.experiment, e.candidate) not in self.refused for e in found)

    def mine(self) -> list[Entry]:
        """The next batch for this process."""
        most = BATCH + len(self.refused)
        batch = self.ledger.pending(self.where.store_name, self.sessions, limit=most, share=self.share)
        return self._behind_failures([e for e in batch if (e.experiment, e.candidate) not in self.refused][:BATCH])

    def _behind_failures(self, batch: Sequence[Entry]) -> list[Entry]:
        """Those of a batch whose cell's failure waits for no other writer; with its run, or behind it.

        An answer completes that run, and each writer knows of its own runs only, and of those that were there before.
        """
        keys = [(e.experiment, failure) if (failure := failure_of(e)) else None for e in batch]
        found = self.ledger.handed_over(self.where.store_name, {key for key in keys if key is not None})
        own = {(e.experiment, e.candidate) for e in batch} | self.refused
        # Those of a session that crashed come last by themselves.
        sooner = [key for key, (waits_from, _) in found.items() if waits_from in self.sessions[1:] and key not in own]
        own.update(sooner)
        now, ready = time.monotonic(), self.ledger.entries(self.where.store_name, sooner)
        for item, key in zip(batch, keys, strict=True):
            if key in found:
                waits_from, run_id = found[key]
                others = waits_from is not None and key not in own
                if others and now - self._seen_at.setdefault(key, now) < WAIT_FOR_FAILURE_S:
                    continue
                ready.append(dataclasses.replace(item, failure=run_id))
            else:
                ready.append(item)
        return ready

    def needs_help(self, above: int) -> bool:
        """Whether more than so many of this session's candidates are not in MLflow yet."""
        return self.ledger.left(self.where.store_name, self.where.session, at_most=above + 1) > above

    def waits_for_the_second(self) -> bool:
        """Whether the second writer still has candidates, and is getting on with them."""
        now = time.monotonic()
        left = self.ledger.left(self.where.store_name, self.where.session, share=SECOND_SHARE)
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
        except TrackingError:
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

    def settled(self, keys: Sequence[tuple[str, str]], since: float) -> bool:
        """All is logged; or what is left was refused, or has been in another living session's hands for too long.

        ``since``: when the session asked, on the monotonic clock.
        """
        left = self.ledger.waiting(self.where.store_name, keys, session=self.where.session)
        if not left:
            return True
        return not self.mine() and (left <= self.refused or time.monotonic() - since > WAIT_FOR_OTHERS_S)

    def outcome(self, keys: Sequence[tuple[str, str]], experiments: Sequence[str]) -> Outcome:
        left = len(self.ledger.waiting(self.where.store_name, keys, session=self.where.session))
        candidates: dict[str, tuple[LoggedCandidate, ...]] = {}
        try:
            for name in experiments:
                candidates[name] = tuple(self._texts.known(self.store.read(name)))
        except PromptbenchError as error:
            return Outcome(unlogged=left, error=str(error))
        stuck = sum(e.session != self.where.session for e in self._refused_entries())
        return Outcome(
            unlogged=left,
            error=self.error if left else None,
            candidates=candidates,
            stuck=stuck,
            stuck_error=self.error_of_others if stuck else None,
        )

    def _refused_entries(self) -> list[Entry]:
        if not self.refused:
            return []
        sessions = list(self.ledger.sessions_waiting(self.where.store_name))
        waiting = self.ledger.pending(self.where.store_name, sessions, limit=1 << 30)
        return [e for e in waiting if (e.experiment, e.candidate) in self.refused]

    def judge(self, judgements: Sequence[Judgement]) -> dict[str, Any]:
        try:
            return {"candidates": [c.to_json() for c in write_judgements(self.store, judgements)]}
        except TrackingError as error:
            return {"error": str(error)}

    def texts(self, candidates: Sequence[LoggedCandidate]) -> dict[str, Any]:
        unread: list[str] = []
        try:
            found = self._texts.texts(candidates, unread=unread)
        except PromptbenchError as error:
            return {"candidates": [], "unread": [str(error)] * len(candidates)}
        return {"candidates": [c.to_json() for c in found], "unread": unread}


def _texts(item: Entry) -> str:
    candidate = Logged.from_json(item.record).candidate
    return text_of(candidate.outputs, candidate.cell.scenario.vars)
