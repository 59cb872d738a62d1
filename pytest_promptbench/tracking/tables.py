"""MLflow's tables of runs, read where the store is a database.

MLflow's search makes several objects of each tag, metric and parameter, 0.3 to 0.5 ms a run; the rows themselves take
an eighth of it. The database makes one JSON text of a page's rows, without Python's lock, which sqlite3 would take anew
for each row: Python works on the page before meanwhile. Nothing is ever written here. Whether a version of MLflow has
these tables, and the database these functions, is asked of the database.
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from .address import inode

READABLE = {
    "sqlite": ("json_group_object", "json", "quote"),  # its JSON would round a number to 15 digits, quote does not
    "postgresql": ("json_object_agg", "to_json", "to_json"),
}
"""The databases that this was tried with, and their functions for an object of many rows, for JSON that is made
already, and for an exact number."""
PAGE = 2000
"""Runs a statement."""
READERS = 2
"""Pages that are read at once, each through a connection of its own."""


class Run(NamedTuple):
    """An active run as MLflow has it. ``start_time`` is in milliseconds since the epoch."""

    run_id: str
    experiment_id: str
    status: str
    start_time: int
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]


class Unread(NamedTuple):
    """What the caller of ``find`` has no use for, and may be missing in what comes: tags by name, metrics by prefix."""

    tags: Collection[str] = ()
    metrics: str = ""


EVERYTHING = Unread()


class Tables:
    """On an engine of SQLAlchemy's."""

    def __init__(self, engine: Any) -> None:
        import sqlalchemy as sa

        def table(name: str, *columns: str) -> Any:
            return sa.table(name, *(sa.column(c) for c in columns))

        self.engine = engine
        self.runs = table("runs", "run_uuid", "status", "start_time", "experiment_id", "lifecycle_stage")
        self.params = table("params", "run_uuid", "key", "value")
        self.metrics = table("latest_metrics", "run_uuid", "key", "value", "is_nan")
        self.tags = table("tags", "run_uuid", "key", "value")

    def look(self) -> None:
        """Raise where a table, a column or a function is not there, or a page has too many variables."""
        import sqlalchemy as sa

        with self.engine.connect() as connection:
            connection.execute(sa.select(*self.runs.c).limit(0))
            self._values(connection, [""] * PAGE, EVERYTHING)

    def find(self, experiment_ids: Sequence[str], tags: Mapping[str, str | None], without: Unread) -> Iterator[Run]:
        with self.engine.connect() as connection:
            found = connection.execute(self._wanted(experiment_ids, tags)).all()
        yield from self._in_pages(found, without)

    def tagged(
        self, experiment_ids: Sequence[str], tags: Mapping[str, str | None], name: str, also: Sequence[str] = ()
    ) -> Sequence[Any]:
        """(value of the tag ``name``, run id, those of the tags ``also``) of what ``find`` finds, in the same order."""
        tag = self.tags.alias()
        wanted = self._wanted(experiment_ids, tags)
        wanted = wanted.join(tag, (tag.c.run_uuid == self.runs.c.run_uuid) & (tag.c.key == name))
        others = [self.tags.alias() for _ in also]
        for key, other in zip(also, others, strict=True):
            wanted = wanted.outerjoin(other, (other.c.run_uuid == self.runs.c.run_uuid) & (other.c.key == key))
        columns = tag.c.value, self.runs.c.run_uuid, *(other.c.value for other in others)
        with self.engine.connect() as connection:
            return connection.execute(wanted.with_only_columns(*columns)).all()  # type: ignore[no-any-return]

    def get(self, run_ids: Sequence[str], without: Unread) -> Iterator[Run]:
        """Those of these runs that are there and active, in no particular order."""
        import sqlalchemy as sa

        runs = self.runs
        wanted = sa.select(runs.c.run_uuid, runs.c.experiment_id, runs.c.status, runs.c.start_time)
        for start in range(0, len(run_ids), PAGE):
            some = runs.c.run_uuid.in_(run_ids[start : start + PAGE])
            with self.engine.connect() as connection:
                found = connection.execute(wanted.where(some, runs.c.lifecycle_stage == "active")).all()
            yield from self._in_pages(found, without)

    def _wanted(self, experiment_ids: Sequence[str], tags: Mapping[str, str | None]) -> Any:
        """The runs of experiments that have these tags, the newest first."""
        import sqlalchemy as sa

        runs = self.runs
        wanted = sa.select(runs.c.run_uuid, runs.c.experiment_id, runs.c.status, runs.c.start_time)
        for name, value in tags.items():
            tag = self.tags.alias()
            meets = tag.c.value != "" if value is None else tag.c.value == value
            wanted = wanted.join(tag, sa.and_(tag.c.run_uuid == runs.c.run_uuid, tag.c.key == name, meets))
        return wanted.where(
            runs.c.experiment_id.in_([int(i) for i in experiment_ids]), runs.c.lifecycle_stage == "active"
        ).order_by(runs.c.start_time.desc(), runs.c.run_uuid)

    def _in_pages(self, found: Sequence[Any], without: Unread) -> Iterator[Run]:
        """The next pages are read while the caller has its way with one."""
        pages = [found[start : start + PAGE] for start in range(0, len(found), PAGE)]
        if len(pages) == 1:
            yield from self._page(pages[0], without)
            return
        coming: deque[Future[list[Run]]] = deque()
        pool = ThreadPoolExecutor(READERS)
        try:
            for page in pages:
                coming.append(pool.submit(self._page, page, without))
                if len(coming) > READERS:
                    yield from coming.popleft().result()
            while coming:
                yield from coming.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _page(self, found: Sequence[Any], without: Unread) -> list[Run]:
        with self.engine.connect() as connection:  # free for writers between two pages
            params, metrics, tags = self._values(connection, [run_id for run_id, *_ in found], without)
        return [
            Run(
                run_id,
                str(experiment_id),
                status,
                start_time or 0,
                params.get(run_id, {}),
                {k: math.nan if v is None else float(v) for k, v in metrics.get(run_id, {}).items()},
                tags[run_id],
            )
            for run_id, experiment_id, status, start_time in found
            if run_id in tags  # else deleted for good since it was found
        ]

    def _values(self, connection: Any, ids: Sequence[str], without: Unread) -> list[dict[str, dict[str, Any]]]:
        """Parameters, metrics and tags, each by run and key. A metric may be text; what is not a number is None."""
        import sqlalchemy as sa

        make_object, as_json, exact = (getattr(sa.func, name) for name in READABLE[self.engine.dialect.name])
        params, metrics, tags = self.params.c, self.metrics.c, self.tags.c
        number = sa.case((metrics.is_nan, None), else_=exact(metrics.value))
        found = []
        for table, value, wanted in (
            (params, params.value, []),
            (metrics, number, [~metrics.key.startswith(without.metrics)] if without.metrics else []),
            (tags, tags.value, [tags.key.not_in(list(without.tags))]),
        ):
            by_key = sa.select(table.run_uuid, make_object(table.key, value).label("of_run"))
            runs = by_key.where(table.run_uuid.in_(ids), *wanted).group_by(table.run_uuid).subquery().c
            by_run = make_object(runs.run_uuid, as_json(runs.of_run))
            text = connection.execute(sa.select(sa.cast(by_run, sa.Text))).scalar_one()
            found.append(json.loads(text or "{}"))  # PostgreSQL's object of no rows is NULL
        return found


def tables_of(engine: Any) -> Tables | None:
    """None where this version of MLflow keeps its runs in some other way."""
    from sqlalchemy.exc import DatabaseError

    tables = Tables(engine)
    try:
        tables.look()
    except DatabaseError:
        return None
    return tables


def reach(uri: str) -> None:
    """Connect once, or raise what the driver says: MLflow would try ten times, for 100 seconds."""
    import sqlalchemy as sa

    try:
        sa.create_engine(uri, poolclass=sa.pool.NullPool).connect().close()
    except sa.exc.DBAPIError as error:
        raise (error.orig or error) from None


def follow_the_file(engine: Any) -> None:
    """Have connections of SQLite that an engine keeps opened anew where another file has the database's place."""
    import sqlalchemy as sa

    if not sa.event.contains(engine, "checkout", _refuse_another_file):
        sa.event.listen(engine, "checkout", _refuse_another_file)


def _refuse_another_file(connection: Any, record: Any, _: Any) -> None:
    """Else all would be read from, and written to, a file that is deleted: gone with the process, without a word."""
    import sqlalchemy as sa

    if "opened" not in record.info:  # which SQLAlchemy clears with each new connection
        file = connection.execute("PRAGMA database_list").fetchone()[2]
        record.info["opened"] = file, inode(Path(file))
    file, at_first = record.info["opened"]
    if inode(Path(file)) not in (at_first, None):  # where nothing is there, opening it would make an empty database
        raise sa.exc.DisconnectionError
