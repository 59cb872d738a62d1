"""What must survive anything: answers that were paid for, and candidates that MLflow has not got yet.

One SQLite file, ``.promptbench/ledger.sqlite3``, shared by every process of every session of a project. It is the
standard library's ``sqlite3`` rather than a caching package because both tables have to change in one transaction,
nothing in it may ever be evicted, and values are JSON text that a person can read, never pickles.

``answers``  request key -> answer. Written before the test that waits for it goes on.
``outbox``   one row per (store, experiment, candidate): ``pending`` until a recorder has written the MLflow run, then
             ``done`` with its run id, as is what others have logged and a report has shown. The primary key is what
             makes two sessions log a candidate once.
``spend``    what each session, or account of several, is known to have paid, and has reserved, for
             ``--bench-max-cost``: by request, and all.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .clock import now
from .errors import LedgerError, UsageError
from .locks import alone_in
from .records import Answer, Request

SCHEMA = 2
BUSY_TIMEOUT_S = 120.0
HEX = "0123456789abcdef"
ALL = ""
"""In a request's place: the session's total."""
KEYS_A_QUERY = 500

_TABLES = """
CREATE TABLE IF NOT EXISTS answers (
    key TEXT PRIMARY KEY, session TEXT NOT NULL, created REAL NOT NULL, request TEXT NOT NULL, answer TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS outbox (
    store TEXT NOT NULL, experiment TEXT NOT NULL, candidate TEXT NOT NULL,
    state TEXT NOT NULL, session TEXT NOT NULL, run_id TEXT, record TEXT, texts TEXT, created REAL NOT NULL,
    PRIMARY KEY (store, experiment, candidate)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS outbox_waiting ON outbox (store, session, created) WHERE state = 'pending';
DROP INDEX IF EXISTS outbox_pending;
CREATE TABLE IF NOT EXISTS spend (session TEXT NOT NULL, request TEXT NOT NULL, usd REAL NOT NULL,
    PRIMARY KEY (session, request)) WITHOUT ROWID;
INSERT OR IGNORE INTO spend SELECT session, '', SUM(usd) FROM spend GROUP BY session;
"""
"""Both for a new ledger and for one of an earlier format."""
# By itself SQLite reads a store's whole outbox, records and all, for the few that wait.
_WAITING = "FROM outbox INDEXED BY outbox_waiting WHERE store = ? AND state = 'pending'"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One candidate on its way to MLflow, as plain JSON; ``run_id`` is where it was logged before, if it was.

    ``failure``: the run of its cell's failure, where this project has logged one.
    ``text``: the record as the ledger has it, if it comes from there.
    """

    experiment: str
    candidate: str
    record: dict[str, Any]
    session: str = ""
    run_id: str | None = None
    failure: str | None = None
    text: str | None = field(default=None, repr=False)


class Ledger:
    """One process's connection to the ledger; safe to use from several threads.

    Everything raises LedgerError where the file cannot be read or written; opening it, UsageError.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._mutex = threading.RLock()
        try:
            version = self._open()
            if version < SCHEMA:
                self._db.executescript(f"BEGIN IMMEDIATE; {_TABLES} PRAGMA user_version = {SCHEMA}; COMMIT;")
        except (OSError, sqlite3.Error) as error:
            raise UsageError(
                f"{path} cannot be opened ({error}): it holds the answers that were paid for. Mend it or its folder, "
                "or move it away to start a new one"
            ) from error
        if version > SCHEMA:
            raise UsageError(
                f"{path}: written by a newer pytest-promptbench (ledger format {version}, this one reads {SCHEMA}); "
                "upgrade, or move the file away to start a new one"
            )

    def _open(self) -> int:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(self._path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
        with alone_in(self._path.parent):
            self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        return int(self._db.execute("PRAGMA user_version").fetchone()[0])

    def close(self) -> None:
        with self._mutex:
            self._db.close()

    @contextlib.contextmanager
    def _at_work(self) -> Iterator[None]:
        with self._mutex:
            try:
                yield
            except sqlite3.Error as error:
                raise LedgerError(
                    f"{self._path} is not usable ({error}): make room or mend it, and run again"
                ) from error

    @contextlib.contextmanager
    def _at_once(self) -> Iterator[None]:
        """Several statements as one transaction, which no other process writes into and a failure takes back."""
        with self._at_work():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # a full disk has ended it already
                    self._db.execute("ROLLBACK")
                raise

    # -- answers

    def answers(self, keys: Sequence[str], *, session: str | None = None) -> dict[str, Answer]:
        """Request key -> the answer to exactly this request, if it was ever paid for; with ``session``, in that one."""
        found = self._select_by_key("key, answer", list(dict.fromkeys(keys)), session)
        return {key: self._read_answer(key, answer) for key, answer in found}

    def _read_answer(self, key: str, text: str) -> Answer:
        try:
            value = json.loads(text)
            if isinstance(value.get("text"), str) and isinstance(value.get("usage"), dict):
                return Answer.from_json(value)
            problem = "it has no text or no usage"
        except (AttributeError, TypeError, ValueError) as error:
            problem = str(error)
        raise LedgerError(
            f"{self._path}: the answer with the key {key} cannot be read ({problem}); mend its row in the table "
            "answers, or delete it to have the provider asked again"
        )

    def answer(self, key: str, *, session: str | None = None) -> Answer | None:
        """The answer to exactly this request, as ``answers`` finds it."""
        return self.answers([key], session=session).get(key)

    def has_answers(self, keys: Sequence[str], *, session: str | None = None) -> bool:
        """Whether every one of these requests has an answer."""
        wanted = list(dict.fromkeys(keys))
        return len(self._select_by_key("key", wanted, session)) == len(wanted)

    def _select_by_key(self, columns: str, keys: Sequence[str], session: str | None) -> list[Any]:
        """A row for each of the keys, of which no two are equal, that has an answer."""
        which, values = ("session = ? AND ", (session,)) if session is not None else ("", ())
        return self._select_in_parts(f"SELECT {columns} FROM answers WHERE {which}key", values, keys)  # noqa: S608

    def _select_in_parts(self, query: str, values: Sequence[str], keys: Sequence[str]) -> list[Any]:
        """The rows of a query, which gets ``IN (...)`` behind it, for all of many keys."""
        rows: list[Any] = []
        for start in range(0, len(keys), KEYS_A_QUERY):
            some = keys[start : start + KEYS_A_QUERY]
            with self._at_work():
                rows += self._db.execute(f"{query} IN ({','.join('?' * len(some))})", (*values, *some))
        return rows

    def keep(self, answers: Iterable[tuple[Request, Answer]], *, session: str) -> None:
        """Remember answers for good, all or none. On return they survive the end of this process."""
        created = now()
        rows = [(r.key, session, created, json.dumps(r.to_json()), json.dumps(a.to_json())) for r, a in answers]
        with self._at_once():
            self._db.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?, ?)", rows)

    def cost(self, session: str) -> float:
        """US dollars of all answers that a session paid for, as far as their prices are known."""
        with self._at_work():
            query = "SELECT total(json_extract(answer, '$.cost_usd')) FROM answers WHERE session = ?"
            return float(self._db.execute(query, (session,)).fetchone()[0])

    # -- outbox

    def post(self, store: str, entries: Iterable[Entry], *, session: str) -> None:
        """Hand candidates over for logging.

        One that waits already, from any session, stays as it is but for the tags, to which this session's are added.
        One that was logged is handed over again, with the run id as a hint: whether MLflow still has it is for the
        recorder to ask. It waits from now on, behind what was handed over before.
        """
        created = now()
        entries = list(entries)
        rows = [(store, e.experiment, e.candidate, session, json.dumps(e.record), created) for e in entries]
        with self._at_once():
            self._db.executemany(
                "INSERT INTO outbox (store, experiment, candidate, state, session, record, created) "
                "VALUES (?, ?, ?, 'pending', ?, ?, ?) ON CONFLICT DO UPDATE SET "
                "state = 'pending', session = excluded.session, record = excluded.record, created = excluded.created "
                "WHERE state = 'done'",
                rows,
            )
            for item in entries:
                if item.record.get("tags"):
                    self._add_tags(store, item, session)

    def _add_tags(self, store: str, item: Entry, session: str) -> None:
        """Give a candidate that waits from another session the tags of this one."""
        which = "WHERE store = ? AND experiment = ? AND candidate = ?"
        key = (store, item.experiment, item.candidate)
        query = f"SELECT record FROM outbox {which} AND session != ?"  # noqa: S608 - no value is put in
        row = self._db.execute(query, (*key, session)).fetchone()
        if row is not None:
            record = json.loads(row[0])
            record["tags"] = {**record.get("tags", {}), **item.record["tags"]}
            self._db.execute(f"UPDATE outbox SET record = ? {which}", (json.dumps(record), *key))  # noqa: S608

    def rename(self, store: str, name: str) -> None:
        """The candidates of a store are those of ``name`` from now on, but for any that this has already."""
        with self._at_work():
            self._db.execute("UPDATE OR IGNORE outbox SET store = ? WHERE store = ?", (name, store))

    def sessions_waiting(self, store: str) -> dict[str, float]:
        """Sessions that still have candidates pending for this store, and when the oldest of them was posted."""
        query = f"SELECT session, MIN(created) {_WAITING} GROUP BY session"
        with self._at_work():
            return dict(self._db.execute(query, (store,)).fetchall())

    def pending(self, store: str, sessions: Sequence[str], *, limit: int, share: str = HEX) -> list[Entry]:
        """Up to ``limit`` candidates that are not in MLflow yet: session by session, in each the oldest first.

        Of the first session only those whose key ends in one of the hexadecimal digits ``share``.
        """
        query = (
            f"SELECT experiment, candidate, record, session, run_id {_WAITING} "
            "AND session = ? AND instr(?, substr(candidate, -1)) ORDER BY created LIMIT ?"
        )
        rows: list[Any] = []
        with self._at_work():
            for session in sessions:
                mine = share if session == sessions[0] else HEX
                rows += self._db.execute(query, (store, session, mine, limit - len(rows)))
        return [_entry(*row) for row in rows]

    def entries(self, store: str, keys: Iterable[tuple[str, str]]) -> list[Entry]:
        """Those among (experiment, candidate) that are not in MLflow yet."""
        query = (
            "SELECT experiment, candidate, record, session, run_id FROM outbox "
            "WHERE store = ? AND experiment = ? AND candidate = ? AND state = 'pending'"
        )
        with self._at_work():
            rows = [self._db.execute(query, (store, *key)).fetchone() for key in keys]
        return [_entry(*row) for row in rows if row is not None]

    def left(self, store: str, session: str, *, share: str = HEX, at_most: int = -1) -> int:
        """How many candidates of a session's share are not in MLflow yet; counts no further than ``at_most``."""
        some = f"SELECT 1 {_WAITING} AND session = ? AND instr(?, substr(candidate, -1)) LIMIT ?"
        with self._at_work():
            return sum(row[0] for row in self._db.execute(some, (store, session, share, at_most)))

    def waiting(self, store: str, keys: Iterable[tuple[str, str]], *, session: str) -> set[tuple[str, str]]:
        """(Experiment, candidate) of what is still pending among ``keys``, and of all of ``session``'s."""
        wanted = set(keys)
        with self._at_work():
            rows = self._db.execute(f"SELECT experiment, candidate, session {_WAITING}", (store,)).fetchall()
        return {(r[0], r[1]) for r in rows if r[2] == session or (r[0], r[1]) in wanted}

    def handed_over(
        self, store: str, keys: Iterable[tuple[str, str]]
    ) -> dict[tuple[str, str], tuple[str | None, str | None]]:
        """(Experiment, candidate) -> the session that it waits from, if it does, and the run that it was logged as."""
        query = (
            "SELECT iif(state = 'pending', session, NULL), run_id FROM outbox "
            "WHERE store = ? AND experiment = ? AND candidate = ?"
        )
        with self._at_work():
            rows = [(key, self._db.execute(query, (store, *key)).fetchone()) for key in keys]
        return {key: (row[0], row[1]) for key, row in rows if row is not None}

    def done(self, store: str, logged: Iterable[tuple[Entry, str, str | None]]) -> None:
        """Mark (entry, run id, texts) as being in MLflow.

        ``texts`` is what a report shows of it, as JSON; None leaves those that it was logged with before. One that was
        handed over with more tags meanwhile waits on, for these.
        """
        with self._at_once():
            self._db.executemany(
                "UPDATE outbox SET run_id = ?1, texts = COALESCE(?2, texts), "
                "state = iif(record = ?3, 'done', state), record = nullif(record, ?3) "
                "WHERE store = ?4 AND experiment = ?5 AND candidate = ?6",
                [
                    (run_id, texts, e.text or json.dumps(e.record), store, e.experiment, e.candidate)
                    for e, run_id, texts in logged
                ],
            )

    def know(self, store: str, found: Iterable[tuple[str, str, str, str]], *, session: str) -> None:
        """Candidates that others have brought to MLflow: (experiment, candidate, run id, texts).

        One that this project has handed over itself stays as it is.
        """
        created = now()
        rows = [(store, e, candidate, session, run_id, texts, created) for e, candidate, run_id, texts in found]
        with self._at_once():
            self._db.executemany(
                "INSERT INTO outbox (store, experiment, candidate, state, session, run_id, texts, created) "
                "VALUES (?, ?, ?, 'done', ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                rows,
            )

    def texts(self, store: str, experiment: str, candidates: Sequence[str]) -> dict[tuple[str, str], str]:
        """(Run id, candidate) -> texts, of those candidates of an experiment that this project has logged or knows.

        A run that an answer completed is its cell's failure's too, which has no texts.
        """
        query = "SELECT run_id, candidate, texts FROM outbox WHERE store = ? AND experiment = ? AND state = 'done'"
        rows = self._select_in_parts(f"{query} AND candidate", (store, experiment), candidates)
        return {(r[0], r[1]): r[2] for r in rows if r[2]}

    # -- money

    def reserve(self, session: str, request: str, usd: float, *, limit: float) -> bool:
        """Set ``usd`` aside for a request unless the session's total would pass ``limit``; says whether it did.

        What was set aside for an earlier try of the same request is set aside anew, not once more.
        """
        with self._at_once():
            total = self._total_with(session, request, usd)
            if total <= limit:
                self._spend(session, request, usd, total)
        return total <= limit

    def settle(self, session: str, request: str, usd: float) -> None:
        """Replace a reservation by what the request did cost."""
        with self._at_once():
            self._spend(session, request, usd, self._total_with(session, request, usd))

    def begin_again(self, session: str, entry: str, usd: float) -> None:
        """A session goes on, in this process alone: all that it came to until now is one ``entry``.

        What an earlier process has set aside for a request and did not settle is not set aside any more.
        """
        with self._at_once():
            self._db.execute("DELETE FROM spend WHERE session = ?", (session,))
            self._spend(session, entry, usd, usd)

    def spent(self, session: str) -> float:
        with self._at_work():
            return self._spent(session)

    def _spent(self, session: str, request: str = ALL) -> float:
        query = "SELECT usd FROM spend WHERE session = ? AND request = ?"
        row = self._db.execute(query, (session, request)).fetchone()
        return float(row[0]) if row else 0.0

    def _total_with(self, session: str, request: str, usd: float) -> float:
        """The session's total, should the request come to ``usd``."""
        return self._spent(session) - self._spent(session, request) + usd

    def _spend(self, session: str, request: str, usd: float, total: float) -> None:
        """Within a transaction: a request's money, and the session's total with it, which no request adds up again."""
        rows = [(session, request, usd), (session, ALL, total)]
        self._db.executemany("INSERT OR REPLACE INTO spend VALUES (?, ?, ?)", rows)


def _entry(experiment: str, candidate: str, record: str, session: str, run_id: str | None) -> Entry:
    return Entry(
        experiment=experiment,
        candidate=candidate,
        record=json.loads(record),
        session=session,
        run_id=run_id,
        text=record,
    )
