"""Where an MLflow store is: its address as it may be shown, its file, and errors that name it."""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from ..errors import PromptbenchError, TrackingError, UsageError
from ..redaction import keys_in, spellings
from ..settings import sqlite_uris_have_escapes

_SHORTEST = 4
"""A password that is shorter would be found in words that have nothing to do with it."""
_STATEMENT = re.compile(r"\[SQL: .*|\(Background on this error at: [^)]*\)", re.DOTALL)
"""What SQLAlchemy adds to the driver's words: the statement with the values that were to be written, and a link."""
_SECRET_QUERY = re.compile(
    r"([?&;](?:[^=&;]*(?:pass|pwd|secret|token|key|sig)[^=&;]*|odbc_connect)=)([^&;#]*)", re.IGNORECASE
)

_DATABASES = frozenset({"sqlite", "postgresql", "mysql", "mssql"})
_KINDS = _DATABASES | {"http", "https", "databricks", "databricks-uc"}
"""The schemes that MLflow has a store for; a database's may name its driver, as in ``mysql+pymysql``."""
_BY_NAME = frozenset({"databricks", "databricks-uc", "uc"})
"""Stores that are an address without more."""
_TAKE = "take a database (sqlite:////path/mlflow.db) or a server's address (http://127.0.0.1:5000)"
_BYTES = re.compile("[\udc80-\udcff]")
"""What Python has in place of the bytes of a name that is no text in the locale's encoding."""
_REMEDIES = {
    "UNAUTHENTICATED": "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, to "
    "those of a user there",
    "PERMISSION_DENIED": "reading needs the permission READ, and logging or judging EDIT, on the experiment (of "
    "champions, on the registered prompt); have an admin, or who has MANAGE on it, give it to this user",
}
"""By MLflow's code: what to do where a server knows no such user, or does not let it."""
_MIGRATE = "mlflow migrate-filestore brings the old runs along"


def redacted(uri: str) -> str:
    """A tracking address without its user and password, even where the password holds ``/``, ``?`` or ``#``."""
    scheme, user, rest = _parts(uri)
    if scheme is None:
        return uri
    return _SECRET_QUERY.sub(r"\1***", f"{scheme}://{'***@' if user is not None else ''}{rest}")


def identity(uri: str) -> str:
    """What a store is known by, whoever asks: of a server without user, password and a slash at the end."""
    shown = redacted(uri)
    return shown.replace("://***@", "://", 1).rstrip("/") if shown.startswith("http") else shown


def _parts(uri: str) -> tuple[str | None, str | None, str]:
    """Scheme, user with password, and what comes behind; None for the scheme of what has no secrets."""
    scheme, separator, rest = uri.partition("://")
    if not separator or scheme in ("sqlite", "file"):
        return None, None, uri
    user, at, host = rest.rpartition("@")
    if at and (not scheme.startswith("http") or not _is_path(user)):
        return scheme, user, host
    return scheme, None, rest


def _is_path(text: str) -> bool:
    """Whether what stands before an ``@`` is host and path of a server, and no user with a ``/`` in the password."""
    host, slash, _ = text.partition("/")
    _, colon, port = host.rpartition(":")
    return bool(slash) and (not colon or port.isdecimal() or host.endswith("]"))


def _without_secrets(text: str, uri: str) -> str:
    """What an error says, without the secrets of the address and of the environment, however a server quotes them."""
    _, user, rest = _parts(uri)
    found = [(user or "").partition(":")[2], *(value for _, value in _SECRET_QUERY.findall(rest))]
    of_the_address = {s for f in found for s in (f, unquote(f)) if len(s) >= _SHORTEST}
    text = text.replace(uri, redacted(uri))
    for secret in spellings(of_the_address | keys_in(os.environ)):
        text = text.replace(secret, "***")
    return text


def check_takes_candidates(uri: str) -> None:
    """UsageError where MLflow knows no store of that kind, none with traces, or its database's driver is missing.

    No candidate could ever be logged there. MLflow is not asked, whose import takes seconds.
    """
    if _BYTES.search(uri):
        shown = ascii(redacted(uri)) + ", which is no UTF-8 (under LC_ALL=C, no name beyond ASCII is)"
        raise UsageError(
            f"the tracking store is {shown}, so MLflow has no way to open it: rename the folder, set PYTHONUTF8=1, or "
            "name another store in MLFLOW_TRACKING_URI"
        )
    scheme, colon, _ = uri.partition(":")
    kind = scheme.lower().partition("+")[0]
    form = r"sqlite(\+\w+)?:///" if kind == "sqlite" else r"[^:]+://"
    if uri in _BY_NAME or (kind in _KINDS and re.match(form, uri)):
        if kind in _DATABASES and not uri.startswith("sqlite:///"):
            _check_driver(uri)
        return
    written = f"MLFLOW_TRACKING_URI is {_shown(uri)!r}"
    if re.fullmatch(r"[^/@:]+:\d+(/.*)?", uri):
        raise UsageError(f"{written}, which MLflow has no store for: write http://{uri}")
    if not colon or not re.fullmatch(r"[a-z][a-z0-9+.-]*", scheme, re.IGNORECASE) or kind == "file":
        raise UsageError(f"{written}, a folder of files, where MLflow keeps no traces: {_TAKE}; {_MIGRATE}")
    if scheme.lower() in entry_points(group="mlflow.tracking_store").names:  # what plugins of MLflow's bring
        return
    remedies = {
        "postgres": f"write {scheme.lower().replace('postgres', 'postgresql')}://",
        "sqlite": "write sqlite:///path/mlflow.db, with one / more before an absolute path",
    }
    remedy = remedies.get(kind, f"{_TAKE}, or install the plugin of MLflow's that knows it")
    raise UsageError(f"{written}, which MLflow has no store for: {remedy}")


def _check_driver(uri: str) -> None:
    """UsageError for a database whose driver is missing or unknown to SQLAlchemy, and for an address it cannot read."""
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        make_url(uri).get_dialect().import_dbapi()
    except (ImportError, ArgumentError, ValueError) as error:
        remedy = (
            "install the driver, or name one that is installed, as in postgresql+psycopg2://"
            if isinstance(error, ImportError) or "plugin" in str(error)
            else "expected dialect+driver://user:password@host:port/database"
        )
        problem = _without_secrets(str(error), uri)
        raise UsageError(f"MLFLOW_TRACKING_URI is {redacted(uri)!r}: {problem}; {remedy}") from None


def _shown(uri: str) -> str:
    """An address as a mistake names it: what is no address at all may hold a password, too."""
    return redacted(uri) if "://" in uri else uri[uri.rfind("@") + 1 :]


def code_of(error: Exception) -> str | None:
    """What MLflow calls an error of its own, as ``RESOURCE_DOES_NOT_EXIST``; None of any other."""
    return getattr(error, "error_code", None)


@contextlib.contextmanager
def translated(uri: str) -> Any:
    """Whatever MLflow or what lies under it raises, as a TrackingError that names the store."""
    try:
        yield
    except PromptbenchError:
        raise
    except Exception as error:
        said = str(error)
        text = _without_secrets(" ".join(_STATEMENT.sub("", said).split()), uri)[:500]
        if remedy := _REMEDIES.get(code_of(error) or ""):
            text += f"; {remedy}"
        # Whoever logs an exception logs its causes too, and MLflow's name the address with its password.
        cause = error if redacted(uri) == uri and _without_secrets(said, uri) == said else None
        raise TrackingError(f"MLflow at {redacted(uri)}: {type(error).__name__}: {text}") from cause


def inode(file: Path) -> tuple[int, int] | None:
    """Device and number of a file, by which another one in its place is told; None where nothing is there."""
    try:
        stat = file.stat()
    except OSError:
        return None
    return stat.st_dev, stat.st_ino


def sqlite_file(uri: str) -> Path | None:
    """The file of an SQLite address as SQLAlchemy reads it, without ``?timeout=60``; None of any other address."""
    if not uri.startswith("sqlite:///") or uri.startswith("sqlite:///file:"):
        return None
    path = uri.removeprefix("sqlite:///").partition("?")[0]
    return Path(unquote(path) if "%" in path and sqlite_uris_have_escapes() else path)


def new_database(file: Path) -> None:
    """An empty database with a write-ahead log, a setting that stays with the file.

    It lets ``mlflow ui`` read while a session writes, and spares MLflow's many migrations a disk flush each. Nobody
    else may open the file meanwhile.
    """
    with contextlib.closing(sqlite3.connect(file, timeout=60)) as db:
        db.execute("PRAGMA journal_mode = WAL")


def check_database(file: Path) -> None:
    """Raise at once where a file is no database that can be opened: MLflow would try for 100 seconds, each time."""
    with contextlib.closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=rw", uri=True)) as db:
        try:
            db.execute("PRAGMA schema_version")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):  # that passes
                raise
