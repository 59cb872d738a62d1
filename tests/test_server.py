"""The same loop against a real ``mlflow server``."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_promptbench.tracking.store import TrackingStore

from .airflow_home import free_port
from .project import Project, migrated_database
from .provider import ScriptedProvider
from .test_tracking import failed, logged


@contextlib.contextmanager
def mlflow_server(folder: Path, backend: str) -> Iterator[str]:
    """The address of a real ``mlflow server`` on this backend store, with its artifacts in ``folder``."""
    port = free_port()
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", backend, "--artifacts-destination", str(folder / "artifacts"),
    ]  # fmt: skip
    quiet = {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(
            command, cwd=folder, env={**os.environ, **quiet}, stdout=log, stderr=log, start_new_session=True
        )
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 180
        while True:
            try:
                urllib.request.urlopen(address + "/health", timeout=2)
                break
            except OSError:
                assert process.poll() is None, (folder / "log.txt").read_text()[-2000:]
                assert time.monotonic() < deadline, "mlflow server did not start"
                time.sleep(0.2)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(20)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("server")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[str]:
    migrated_database(folder / "mlflow.db")
    with mlflow_server(folder, f"sqlite:///{folder}/mlflow.db") as address:
        yield address


def test_collect_judge_and_rerun_through_a_tracking_server(tmp_path: Path, server: str) -> None:
    with ScriptedProvider() as provider:
        project = Project(tmp_path, provider, environ={"MLFLOW_TRACKING_URI": server}).write()
        first = project.pytest("-n", "2")
        assert first.code == 0, first.text
        assert "NOT IN MLFLOW" not in first.out
        assert len(project.runs()) == 12
        assert not (tmp_path / "mlartifacts").exists(), "the server keeps the artifacts"
        again = project.pytest()
        assert again.code == 0, again.text
        assert len(project.runs()) == 12
        assert project.pytest("--judge-export", "packet.json").code == 0
        project.score()
        applied = project.pytest("--judge-apply", "packet.json")
        assert "applied 12, unchanged 0, still pending 0" in applied.out, applied.text
        assert {row["composite"] for row in project.leaderboard()["rows"]} == {12.0}

        import mlflow

        mlflow.set_tracking_uri(server)
        experiment = project.store.experiment(project.experiment())
        traces = mlflow.search_traces(locations=[experiment], run_id=project.runs()[0].info.run_id, return_type="list")
        assert len(traces) == 1


def test_texts_that_others_logged_are_asked_for_once_and_only_for_the_page(
    tmp_path: Path, server: str, folder: Path
) -> None:
    """Each session asked for all of the experiment's: those of colleagues, of other tasks and of earlier rubrics."""
    with ScriptedProvider(reply=lambda body: f"said to {body['messages'][0]['content']}") as provider:
        theirs, mine = (
            Project(tmp_path / name, provider, ("haiku",), ("v1",), environ={"MLFLOW_TRACKING_URI": server}).write()
            for name in ("theirs", "mine")
        )
        assert theirs.second_suite().pytest("--bench-experiment", "shared").code == 0
        prompt = mine.root / "prompts/tip/v1.yaml"
        prompt.write_text(prompt.read_text().replace("be v1", "be mine"))

        def asked(*options: str) -> int:
            before = len((folder / "log.txt").read_text())
            result = mine.pytest("--bench-experiment", "shared", *options)
            assert result.code == 0, result.text
            page = (mine.root / ".promptbench/report/leaderboard.html").read_text()
            assert (page.count("said to be v1</pre>"), page.count("said to be mine</pre>")) == (3, 3)
            log = (folder / "log.txt").read_text()[before:]
            return sum("GET /api/2.0/mlflow-artifacts" in line for line in log.splitlines())

        assert [asked(), asked(), asked("--bench-read")] == [6, 0, 0]


def test_a_file_of_a_run_is_one_request(server: str, folder: Path) -> None:
    """A session reads two files of every candidate that others have logged."""
    store = TrackingStore(server, artifact_root=None)
    run = store.client.create_run(store.experiment("files", create=True)).info.run_id
    store.artifacts.keep("files", run, {"file.txt": "ä\r\n".encode()})
    before = len((folder / "log.txt").read_text())
    assert store.artifacts.text("files", run, "file.txt") == "ä\n"
    asked = [line for line in (folder / "log.txt").read_text()[before:].splitlines() if "mlflow-artifacts" in line]
    assert len(asked) == 1, asked


def test_of_two_answers_of_a_failed_cell_one_completes_its_run(server: str) -> None:
    """As where MLflow was down in two sessions that asked anew. They are written at the same time."""
    store = TrackingStore(server, artifact_root=None)
    failures = store.log([failed(f"s{i}").entry("answers") for i in range(4)])
    answers = [
        dataclasses.replace(logged(f"s{i}", text=text).entry("answers"), failure=run_id)
        for i, run_id in enumerate(failures)
        for text in ("one", "two")
    ]
    TrackingStore(server, artifact_root=None).log(answers)
    found = store.texts(store.read("answers"))
    assert sorted((c.scenario, *c.outputs) for c in found) == [(f"s{i}", t) for i in range(4) for t in ("one", "two")]
    assert len(failures) == len({c.run_id for c in found} & set(failures))
