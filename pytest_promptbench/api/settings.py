"""What a service was started with: where the project is, where MLflow and Airflow are, and whose tokens count."""

from __future__ import annotations

import ipaddress
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from ..errors import PromptbenchError, UsageError
from ..settings import Identity, resolve
from ..tracking.address import check_takes_candidates, redacted

TOKEN = "PROMPTBENCH_API_TOKEN"  # noqa: S105 - the variable's name
READ_TOKEN = "PROMPTBENCH_API_READ_TOKEN"  # noqa: S105 - likewise
AIRFLOW_URL = "PROMPTBENCH_AIRFLOW_URL"
AIRFLOW_USER = "PROMPTBENCH_AIRFLOW_USERNAME"
AIRFLOW_PASSWORD = "PROMPTBENCH_AIRFLOW_PASSWORD"  # noqa: S105 - likewise
SHORTEST_TOKEN = 16


class RootError(PromptbenchError):
    """The project's folder is not there any more: moved, renamed, or on a disk that is away."""


@dataclass(frozen=True, kw_only=True)
class AirflowSettings:
    """Where Airflow's REST API is, and as whom to speak to it."""

    url: str
    username: str
    password: str = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class ServiceSettings:
    """One service's choices. ``environ`` is what background jobs inherit.

    With neither token, everybody who reaches the port may do everything, so that is allowed on loopback only.
    """

    root: Path
    tracking_uri: str
    home: Path
    artifact_root: Path | None = None
    host: str = "127.0.0.1"
    port: int = 8642
    token: str | None = field(default=None, repr=False)
    read_token: str | None = field(default=None, repr=False)
    airflow: AirflowSettings | None = None
    max_body: int = 20 * 1024 * 1024
    max_jobs: int = 2
    poll_s: float = 15.0
    python: str = sys.executable
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        for name, value in ((TOKEN, self.token), (READ_TOKEN, self.read_token)):
            if value is not None and (len(value) < SHORTEST_TOKEN or not value.isascii() or not value.isprintable()):
                raise UsageError(
                    f"{name} must have at least {SHORTEST_TOKEN} printable ASCII characters; make one with: "
                    'python -c "import secrets; print(secrets.token_urlsafe(32))"'
                )
            if value is not None and value != value.strip():
                raise UsageError(f"{name} begins or ends with a space")
        if self.token is not None and self.token == self.read_token:
            raise UsageError(f"{TOKEN} and {READ_TOKEN} are the same; a read-only token must be another")
        if not is_loopback(self.host) and self.token is None and self.read_token is None:
            raise UsageError(
                f"--host {self.host} can be reached from other machines, so a token is needed: set {TOKEN} "
                f"(read and write) or {READ_TOKEN} (read only), or bind to 127.0.0.1"
            )

    def check_root(self) -> None:
        """RootError. What is looked for in a folder that is not there looks like a project where nothing ran yet."""
        if not self.root.is_dir():
            raise RootError(
                f"the project {self.root} is not there any more: bring it back, or start this service anew with --root"
            )

    @property
    def mlflow_remedy(self) -> str:
        """What to do where MLflow does not answer."""
        where = redacted(self.tracking_uri)
        wrong = f"MLFLOW_TRACKING_URI (now {where})"
        if where.startswith("http"):  # which may be there, and let nobody in
            mend = "Start MLflow's tracking server"
            wrong += ", MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN,"
        elif where.startswith("sqlite"):
            mend = "Look after the database's file and its disk"
        else:
            mend = "Start the database's server"
        return f"{mend}, or correct {wrong} and restart this service"

    @property
    def open(self) -> bool:
        """Whether no token is asked for."""
        return self.token is None and self.read_token is None

    @classmethod
    def from_environment(
        cls, *, root: Path, host: str = "127.0.0.1", port: int = 8642, environ: Mapping[str, str] = os.environ
    ) -> ServiceSettings:
        """UsageError for a root that is no folder, a token that is too short, a bind that needs one."""
        if not root.is_dir():
            raise UsageError(f"--root {root}: there is no such folder")
        root = root.resolve()
        project = resolve(lambda _: None, root=root, cwd=root, identity=Identity.new(), environ=environ)
        check_takes_candidates(project.tracking_uri)
        return cls(
            root=root,
            tracking_uri=project.tracking_uri,
            home=project.home,
            artifact_root=project.artifact_root,
            host=host,
            port=port,
            token=environ.get(TOKEN) or None,
            read_token=environ.get(READ_TOKEN) or None,
            airflow=_airflow(environ),
            environ=dict(environ),
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that is bound there."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _airflow(environ: Mapping[str, str]) -> AirflowSettings | None:
    url = environ.get(AIRFLOW_URL, "").rstrip("/")
    if not url:
        return None
    if not _is_address(url):
        raise UsageError(f"{AIRFLOW_URL} must be an address such as http://127.0.0.1:8080, without user and password")
    missing = [n for n in (AIRFLOW_USER, AIRFLOW_PASSWORD) if not environ.get(n)]
    if missing:
        raise UsageError(f"{AIRFLOW_URL} is set, so {' and '.join(missing)} must be set too")
    return AirflowSettings(url=url, username=environ[AIRFLOW_USER], password=environ[AIRFLOW_PASSWORD])


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        _ = parts.port  # read, as one that is no number is a mistake from then on
    except ValueError:
        return False
    plain = "@" not in parts.netloc and not parts.query and not parts.fragment
    return plain and parts.scheme in ("http", "https") and bool(parts.hostname)
