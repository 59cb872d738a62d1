"""MLflow's tables of runs, read where the store is a database.

MLflow's search makes several objects of each tag, metric and parameter, 0.3 to 0.5 ms a run; the rows themselves take
an eighth of it. Nothing is ever written here. Whether a version of MLflow has these tables is asked of the database.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .address import inode

READABLE = ("sqlite", "postgresql")
"""The databases that this was tried with."""
PAGE = 500
"""Runs a statement: each is a variable, of which the oldest SQLite takes 999."""


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
        """Raise where a table or a column is not there."""
        import sqlalchemy as sa

        with self.engine.connect() as connection:
            for table in (self.runs, self.params, self.metrics, self.tags):
                connection.execute(sa.select(*table.c).limit(0))

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
        for start in range(0, len(found), PAGE):
            with self.engine.connect() as connection:  # free for writers between two pages
                page = list(self._page(connection, found[start : start + PAGE], without))
            yield from page

    def _page(self, connection: Any, found: Sequence[Any], without: Unread) -> Iterable[Run]:
        import sqlalchemy as sa

        ids = [run_id for run_id, *_ in found]
        params: dict[str, dict[str, str]] = {i: {} for i in ids}
        metrics: dict[str, dict[str, float]] = {i: {} for i in ids}
        tags: dict[str, dict[str, str]] = {i: {} for i in ids}

        def rows(table: Any, *conditions: Any) -> Sequence[Any]:
            return connection.execute(sa.select(*table.c).where(table.c.run_uuid.in_(ids), *conditions)).all()  # type: ignore[no-any-return]

        for run_id, key, text in rows(self.params):
            params[run_id][key] = text
        for run_id, key, text in rows(self.tags, self.tags.c.key.not_in(list(without.tags))):
            tags[run_id][key] = text
        wanted = [~self.metrics.c.key.startswith(without.metrics)] if without.metrics else []
        for run_id, key, value, is_nan in rows(self.metrics, *wanted):
            metrics[run_id][key] = math.nan if is_nan else value
        for run_id, experiment_id, status, start_time in found:
            if not tags[run_id]:
                continue  # deleted for good since it was found
            values = params[run_id], metrics[run_id], tags[run_id]
            yield Run(run_id, str(experiment_id), status, start_time or 0, *values)


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
