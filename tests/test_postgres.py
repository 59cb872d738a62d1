"""A team's store: ``mlflow server`` on PostgreSQL with proxied artifacts, and several sessions at once against it."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from pytest_promptbench.api.serve import FOR_WHO_WAITS
from pytest_promptbench.errors import TrackingError
from pytest_promptbench.tracking.changes import Changes
from pytest_promptbench.tracking.store import TrackingStore
from pytest_promptbench.tracking.tables import EVERYTHING

from .airflow_home import free_port
from .project import Project
from .provider import ScriptedProvider
from .test_api import client_of, problem
from .test_server import mlflow_server
from .test_tracking import NUMBERS, STORABLE, logged, plain

BINARIES = max(Path("/usr/lib/postgresql").glob("*/bin"), default=None, key=lambda p: int(p.parent.name))
pytestmark = pytest.mark.skipif(
    BINARIES is None, reason="no PostgreSQL: the team's store was NOT tried (apt install postgresql)"
)


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """The address of a PostgreSQL server of this module's own, on loopback, with its data in a temporary folder."""
    assert BINARIES is not None
    folder = Path(tempfile.mkdtemp(prefix="promptbench-pg-"))  # short: a Unix socket's path has 107 characters
    owner: int | None = None
    if os.getuid() == 0:  # PostgreSQL refuses to run as root
        owner = pwd.getpwnam("postgres").pw_uid
        shutil.chown(folder, "postgres")
    data, port = folder / "data", free_port()
    initdb = [str(BINARIES / "initdb"), "-D", str(data), "-U", "promptbench", "--auth=trust", "-E", "UTF8"]
    subprocess.run(initdb, user=owner, check=True, capture_output=True, cwd=folder)
    options = {
        "listen_addresses": "127.0.0.1", "unix_socket_directories": str(folder), "fsync": "off",
        "max_connections": "200",
    }  # fmt: skip
    command = [str(BINARIES / "postgres"), "-D", str(data), "-p", str(port)]
    command += [x for name, value in options.items() for x in ("-c", f"{name}={value}")]
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(command, user=owner, cwd=folder, stdout=log, stderr=log)
    try:
        ready = [str(BINARIES / "pg_isready"), "-h", "127.0.0.1", "-p", str(port)]
        deadline = time.monotonic() + 60
        while subprocess.run(ready, capture_output=True, check=False).returncode != 0:
            assert process.poll() is None, (folder / "log.txt").read_text()[-2000:]
            assert time.monotonic() < deadline, "PostgreSQL did not start"
            time.sleep(0.2)
        yield f"postgresql+psycopg2://promptbench@127.0.0.1:{port}/postgres"
    finally:
        process.send_signal(signal.SIGINT)  # PostgreSQL's fast shutdown
        process.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
def test_four_sessions_at_once_log_every_candidate_exactly_once(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, postgres: str
) -> None:
    with mlflow_server(tmp_path_factory.mktemp("pgserver"), postgres) as address, ScriptedProvider() as provider:
        project = Project(
            tmp_path, provider, models=("haiku",), scenarios=10, environ={"MLFLOW_TRACKING_URI": address}
        ).write()
        named = ("--bench-experiment", "team")
        sessions = [project.start("-n", "2", *named, "--bench-report", f"report{i}") for i in range(4)]
        said = [session.communicate(timeout=400)[0] for session in sessions]
        assert [session.returncode for session in sessions] == [0] * 4, said
        assert provider.count == 20
        runs = project.runs("team")
        cells = Counter((r.data.params["prompt"], r.data.params["scenario"]) for r in runs)
        assert len(cells) == 20
        assert set(cells.values()) == {1}
        assert {r.info.status for r in runs} == {"FINISHED"}

        # The packet's texts come back through the server's artifact proxy; verdicts go the same way.
        assert project.pytest("--judge-export", "packet.json", *named).code == 0
        assert len(project.packet()["items"]) == 20
        project.score()
        applied = project.pytest("--judge-apply", "packet.json")
        assert "applied 20, unchanged 0, still pending 0" in applied.out, applied.text


def test_a_server_that_is_down_is_said_so_at_once(tmp_path: Path) -> None:
    """In the words of the driver: MLflow itself would try again for 100 seconds, and say it in SQLAlchemy's."""
    nobody = "postgresql+psycopg2://someone:sk-secret@127.0.0.1:9/none"
    with pytest.raises(TrackingError, match=r"connection to server at .127\.0\.0\.1., port 9 failed") as raised:
        TrackingStore(nobody, artifact_root=tmp_path).open()
    assert "Background on this error" not in str(raised.value)
    assert "sk-secret" not in str(raised.value)


def test_a_server_that_takes_a_connection_and_never_answers_is_not_healthy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fifth of the time that the service gives it."""
    monkeypatch.setenv("PGCONNECT_TIMEOUT", str(int(FOR_WHO_WAITS["PGCONNECT_TIMEOUT"]) // 5))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"postgresql+psycopg2://someone:sk-secret@127.0.0.1:{silent.getsockname()[1]}/none"
        client = client_of(tmp_path, tracking_uri=uri, artifact_root=None)
        begun = time.monotonic()
        assert "Start the database's server, or correct MLFLOW_TRACKING_URI" in (
            problem(client.get("/api/bench/experiments"), 503)
        )
        assert "MLflow does not answer: start the database's server" in problem(client.get("/api/health"), 503)
        assert time.monotonic() - begun < 30


def test_reading_mlflows_tables_gives_what_its_client_gives(tmp_path: Path, postgres: str) -> None:
    store = TrackingStore(postgres, artifact_root=tmp_path)
    ids = store.log([logged(f"s{i}").entry("both ways") for i in range(3)])
    for n, number in enumerate((*NUMBERS, float("nan"))):
        store.client.log_metric(ids[0], f"auto/{n}", number)
    store.client.set_tag(ids[0], "theirs", STORABLE.replace("\0", ""))
    wanted = {"promptbench.candidate": None, "judge_pending": "true"}
    experiments = [str(store.experiment("both ways"))]
    tables = store.runs.tables
    assert tables is not None
    direct = list(map(plain, tables.find(experiments, wanted, EVERYTHING)))
    assert repr(direct) == repr(list(map(plain, store.runs.search(experiments, wanted)))), "nan is not itself"
    assert len(direct) == len(store.read("both ways")) == 3
    keys = [run.tags["promptbench.candidate"] for run in direct]
    by_key = store.runs.by_tag(experiments, wanted, "promptbench.candidate").get(keys)
    assert repr([plain(by_key[key]) for key in keys]) == repr(direct)


def test_a_change_by_anybody_is_seen_and_nothing_else_is_one(tmp_path: Path, postgres: str) -> None:
    store = TrackingStore(postgres, artifact_root=tmp_path)
    store.log([logged("s1").entry("changes")])
    changes = Changes(postgres)
    before = changes.mark()
    assert before is not None
    assert store.read("changes")
    assert changes.mark() == before
    store.tag(store.read("changes")[0].run_id, {"note": "1"})
    after = changes.mark()
    assert after != before
    with sa.create_engine(postgres).connect() as connection:  # as where the database was restarted
        connection.execute(
            sa.text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid != pg_backend_pid()")
        )
    assert changes.mark() == after
    assert Changes("postgresql+psycopg2://nobody:sk-secret@127.0.0.1:9/none").mark() is None
