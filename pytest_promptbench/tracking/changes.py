"""Whether anything was written to MLflow's database since, by whatever process, for a millisecond instead of a read.

SQLite counts the commits of others for each connection (``PRAGMA data_version``). PostgreSQL names what a statement
sees (``pg_current_snapshot``): while no transaction that writes has ended, the name is the same. Both are exact and of
the whole database, PostgreSQL's of the whole server: a write to something else looks like one to this store, and never
the other way about.
"""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
import threading
from pathlib import Path
from typing import Any

from .address import inode, sqlite_file

_NUMBERS = itertools.count()
"""A number for each connection of this process: one's count of commits says nothing beside another's."""


class Changes:
    """The changes of the store at ``uri``. Safe to use from several threads."""

    def __init__(self, uri: str) -> None:
        self._file = sqlite_file(uri)
        self._postgres = uri if uri.startswith("postgresql") else None
        self._asking = threading.Lock()
        self._open: tuple[int, tuple[int, int], sqlite3.Connection] | None = None
        self._engine: Any = None

    def mark(self) -> object | None:
        """What is the same as an earlier mark only where nothing was written in between.

        None where nobody can tell: a store behind a server, or one that cannot be reached.
        """
        with self._asking:
            if self._file is not None:
                with contextlib.suppress(sqlite3.Error):
                    return self._of_sqlite(self._file)
            if self._postgres is not None:
                return self._of_postgres(self._postgres)
            return None

    def _of_sqlite(self, path: Path) -> object | None:
        file = inode(path)
        if file is None:
            return None
        if self._open is None or self._open[1] != file:  # or another file has its place now
            if self._open is not None:
                self._open[2].close()
                self._open = None
            where = f"{path.absolute().as_uri()}?mode=rw"
            connection = sqlite3.connect(where, uri=True, check_same_thread=False, isolation_level=None)
            self._open = next(_NUMBERS), file, connection
        number, _, connection = self._open
        return number, file, connection.execute("PRAGMA data_version").fetchone()[0]

    def _of_postgres(self, uri: str) -> object | None:
        import sqlalchemy as sa

        # With the server's start: another one, from a backup, may come to the same numbers at this address.
        snapshot = sa.text("SELECT pg_current_snapshot()::text, pg_postmaster_start_time()::text, current_database()")
        try:
            if self._engine is None:
                self._engine = sa.create_engine(uri, pool_size=1, max_overflow=0, pool_pre_ping=True)
            with self._engine.connect() as connection:
                return tuple(connection.execute(snapshot).one())
        except (sa.exc.SQLAlchemyError, ImportError):
            return None  # who asks the store itself is told why
