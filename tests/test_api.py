"""The admin HTTP API: over a real store, in this process for the tables and through a real server for the main path."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from pytest_promptbench.airflow.request import PARAMS
from pytest_promptbench.airflow.request import Project as Place
from pytest_promptbench.airflow.suites import find_evals
from pytest_promptbench.api import AirflowSettings, ServiceSettings, create_app, models
from pytest_promptbench.api.guard import Tokens
from pytest_promptbench.api.jobs import BusyError, Jobs, StartError
from pytest_promptbench.api.models import CandidateShape, LeaderboardShape, PacketShape
from pytest_promptbench.api.serve import FOR_WHO_WAITS, PATIENCE_S
from pytest_promptbench.cli import main
from pytest_promptbench.errors import PacketError, UsageError
from pytest_promptbench.experiments import Experiments
from pytest_promptbench.leaderboard import leaderboard_json
from pytest_promptbench.packet import parse_packet
from pytest_promptbench.tracking.store import TrackingStore

from . import forked
from .project import Project, children_of, migrated_database
from .provider import ScriptedProvider

TOKEN, READ_TOKEN = "write-token-0123456789", "read-token-0123456789"
HOSTILE = (
    "../../etc/passwd",
    "..%2f..%2fetc",
    "x'; DROP TABLE runs; --",
    'a"b',
    "; rm -rf /",
    "$(touch owned)",
    "`touch owned`",
    "a\nb",
    "<script>alert(1)</script>",
    "\u202egnp",
    "%00",
    "-k",
    "--rootdir=/",
)
EXPERIMENT = "bench"
PROBLEM = "application/problem+json"


def answer(body: dict[str, Any]) -> str:
    """The provider's texts, one of them with markup in it."""
    said = str(body["messages"][-1]["content"])
    if "situation-0" in said:
        return "<script>document.documentElement.dataset.owned=1</script><img src=x onerror=alert(1)> \x1b[31m \u202e"
    return f"a tip for {said}"


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """Two models x two prompts x three scenarios, all pending."""
    root = tmp_path_factory.mktemp("api")
    migrated_database(root / "mlflow.db")
    with ScriptedProvider(reply=answer) as provider:
        project = Project(root, provider).write()
        done = project.pytest("--bench-experiment", EXPERIMENT)
        assert done.code == 0, done.text
        yield project


def settings_of(root: Path, **changes: Any) -> ServiceSettings:
    values: dict[str, Any] = {
        "root": root,
        "tracking_uri": f"sqlite:///{root}/mlflow.db",
        "home": root / ".promptbench",
        "artifact_root": root / "mlartifacts",
        "environ": dict(os.environ),
    }
    return ServiceSettings(**values | changes)


def copy_of(project: Project, root: Path) -> Path:
    """The same store and files in the folder ``root``, to be changed; artifacts stay where they are."""
    root.mkdir(exist_ok=True)
    for name in ("mlflow.db", "mlflow.db-wal", "mlflow.db-shm"):
        if (project.root / name).exists():
            shutil.copy(project.root / name, root / name)
    for name in ("evals", "prompts", "rubrics"):
        shutil.copytree(project.root / name, root / name)
    return root


class InProcess(httpx.BaseTransport):
    """Requests go to the application itself, each in an event loop of its own."""

    def __init__(self, app: FastAPI) -> None:
        self._transport = httpx.ASGITransport(app, raise_app_exceptions=False)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        async def go() -> httpx.Response:
            response = await self._transport.handle_async_request(request)
            return httpx.Response(response.status_code, headers=response.headers, content=await response.aread())

        request.read()
        return asyncio.run(go())


def client_of(root: Path, **changes: Any) -> httpx.Client:
    app = create_app(settings_of(root, **changes))
    return httpx.Client(transport=InProcess(app), base_url="http://127.0.0.1:8642")


@pytest.fixture(scope="module")
def reader(logged: Project) -> httpx.Client:
    """Nothing is changed through this one."""
    return client_of(logged.root)


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The interpreter of runs whose processes nobody ends: it forks them."""
    with forked.stand_in(tmp_path_factory.mktemp("python") / "python") as path:
        yield str(path)


@pytest.fixture
def root(logged: Project, tmp_path: Path) -> Path:
    return copy_of(logged, tmp_path)


@contextmanager
def served(root: Path, **environ: str) -> Iterator[str]:
    """``promptbench serve`` as a process; its address."""
    with service(root, **environ) as (address, _):
        yield address


@contextmanager
def service(root: Path, **environ: str) -> Iterator[tuple[str, subprocess.Popen[str] | forked.Started]]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "PROMPTBENCH_"))}
    command = ["-m", "pytest_promptbench", "serve", "--port", "0", "--root", str(root)]
    process: subprocess.Popen[str] | forked.Started
    if forked.serves(command, environ):
        process = forked.start(command, cwd=Path.cwd(), env=kept | environ)
    else:
        process = subprocess.Popen([sys.executable, *command], env=kept | environ, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert " at http://127.0.0.1:" in line, line
        yield line.split(" at ")[1].split("/ ")[0], process
    finally:
        process.terminate()
        process.wait(30)


def scored(packet: dict[str, Any], *, value: int = 4, only: int | None = None, **top: str) -> dict[str, Any]:
    """A copy of a packet with its nulls filled in; ``only`` so many items."""
    packet = {**json.loads(json.dumps(packet)), **top}
    for item in packet["items"][:only]:
        for entry in item["candidates"]:
            for key, given in entry["scores"].items():
                if given is None:
                    entry["scores"][key] = True if key == "format_ok" else value
    return packet


def problem(response: httpx.Response, status: int) -> str:
    """The detail of a problem document."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == PROBLEM
    body = response.json()
    assert body["status"] == status
    assert body["title"]
    return str(body["detail"])


# -- the main path, through a real server


def test_a_packet_goes_out_and_verdicts_come_back(root: Path, logged: Project) -> None:
    with served(root, PROMPTBENCH_API_TOKEN=TOKEN, PROMPTBENCH_API_READ_TOKEN=READ_TOKEN) as address:
        assert httpx.get(f"{address}/api/health", timeout=60).json()["mlflow"] is True
        bench = httpx.Client(base_url=f"{address}/api/bench", headers={"Authorization": f"Bearer {TOKEN}"}, timeout=60)
        (there,) = [e for e in bench.get("/experiments").json()["experiments"] if e["name"] == EXPERIMENT]
        assert (there["candidates"], there["pending"], there["judged"]) == (12, 12, 0)
        assert [t["task"] for t in there["tasks"]] == ["tip"]
        before = bench.get(f"/leaderboard/{EXPERIMENT}").json()
        assert [row["composite"] for row in before["rows"]] == [None] * 4

        packet = bench.get(f"/packet/{EXPERIMENT}").json()
        PacketShape.model_validate(packet)
        assert len(packet["items"]) == 12
        blind = json.dumps(packet["items"])
        assert not any(name in blind for name in ("haiku", "local", "v2", "run_id", "s1"))

        sent = scored(packet, only=5, judge_kind="human", judged_by="Ada")
        taken = bench.post("/verdicts", json=sent).json()
        assert taken["message"] == "applied 5, unchanged 0, still pending 7"
        assert bench.post("/verdicts", json=sent).json()["message"] == "applied 0, unchanged 5, still pending 7"
        assert bench.get(f"/runs/{EXPERIMENT}", params={"judge_kind": "human"}).json()["matching"] == 5

        reader = httpx.Client(base_url=f"{address}/api/bench", headers={"Authorization": f"Bearer {READ_TOKEN}"})
        board = reader.get(f"/leaderboard/{EXPERIMENT}", timeout=60)
        LeaderboardShape.model_validate(board.json())
        assert "read-only" in problem(reader.post("/verdicts", json=sent), 403)

        # A body that is too large is refused by what it says of itself, before any of it is sent.
        host, port = address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=20) as raw:
            head = f"POST /api/bench/verdicts HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {TOKEN}\r\n"
            raw.sendall(f"{head}Content-Type: application/json\r\nContent-Length: {30 << 20}\r\n\r\n".encode())
            assert raw.recv(200).startswith(b"HTTP/1.1 413 ")
    store = TrackingStore(f"sqlite:///{root}/mlflow.db", artifact_root=None)
    human = [c for c in store.read(EXPERIMENT) if not c.pending]
    assert {(v.judge.tier.value, v.judge.name) for c in human for v in c.verdicts} == {("human", "Ada")}
    expected = leaderboard_json(Experiments(lambda: store).leaderboard(EXPERIMENT))
    assert board.json() == expected


def test_the_leaderboard_is_that_of_the_command_line(root: Path, logged: Project) -> None:
    client = client_of(root)
    packet = scored(client.get(f"/api/bench/packet/{EXPERIMENT}").json(), judge_kind="human", judged_by="Ada")
    assert client.post("/api/bench/verdicts", json=packet).json()["pending"] == 0
    (root / "packet.json").write_text(json.dumps(packet))
    again = Project(root, logged.provider).pytest("--judge-apply", "packet.json")
    assert "applied 0, unchanged 12, still pending 0" in again.out, again.text
    assert client.get(f"/api/bench/leaderboard/{EXPERIMENT}").json() == Project(root, logged.provider).leaderboard()


def test_what_an_edit_superseded_is_not_counted_as_pending(root: Path, logged: Project) -> None:
    prompt = root / "prompts/tip/v1.yaml"
    prompt.write_text(prompt.read_text().replace("be v1", "be another"))
    done = Project(root, logged.provider).pytest("--bench-experiment", EXPERIMENT, "-k", "haiku and v1")
    assert done.code == 0, done.text
    client = client_of(root)
    packet = client.get(f"/api/bench/packet/{EXPERIMENT}").json()
    (there,) = [e for e in client.get("/api/bench/experiments").json()["experiments"] if e["name"] == EXPERIMENT]
    assert (there["candidates"], there["pending"], len(packet["items"])) == (15, 12, 12)
    assert [(t["candidates"], t["pending"]) for t in there["tasks"]] == [(15, 12)]
    for wanted, count in (("true", 12), ("false", 3)):
        asked = {"judge_pending": wanted}
        found = client.get(f"/api/bench/runs/{EXPERIMENT}", params=asked).json()
        assert (found["matching"], {r["judge_pending"] for r in found["runs"]}) == (count, {wanted == "true"})
    page = client.get("/experiment", params={"name": EXPERIMENT, "scenario": "s0"}).text
    assert page.count("4 pending, 1 superseded") == 3
    assert page.count(">superseded<") == 1
    taken = client.post("/api/bench/verdicts", json=scored(packet)).json()
    assert taken["message"] == "applied 12, unchanged 0, still pending 0"
    (there,) = [e for e in client.get("/api/bench/experiments").json()["experiments"] if e["name"] == EXPERIMENT]
    assert (there["candidates"], there["judged"], there["pending"]) == (15, 12, 0)


# -- reading


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ({}, 12),
        ({"judge_pending": "true"}, 12),
        ({"judge_pending": "false"}, 0),
        ({"judge_kind": "human"}, 0),
        ({"model": "haiku"}, 6),
        ({"prompt": "v2"}, 6),
        ({"model": "haiku", "prompt": "v2", "scenario": "s1"}, 1),
        ({"task": "tip"}, 12),
        ({"model": "' or ''='"}, 0),
    ],
)
def test_runs_are_filtered(reader: httpx.Client, query: dict[str, str], count: int) -> None:
    found = reader.get(f"/api/bench/runs/{EXPERIMENT}", params=query).json()
    assert found["matching"] == len(found["runs"]) == count
    for run in found["runs"]:
        CandidateShape.model_validate(run)
        assert run["outputs"] is None


def test_runs_come_in_pages_that_together_are_all(reader: httpx.Client) -> None:
    seen, cursor, pages = [], None, 0
    while cursor is not None or not pages:
        params = {"limit": "5", "texts": "true", **({"cursor": cursor} if cursor else {})}
        page = reader.get(f"/api/bench/runs/{EXPERIMENT}", params=params).json()
        seen += page["runs"]
        cursor, pages = page["next_cursor"], pages + 1
    assert pages == 3
    assert len({r["run_id"] for r in seen}) == 12
    assert all(r["outputs"] and r["context"]["situation"].startswith("situation-") for r in seen)


def test_an_experiment_with_a_spoilt_run_holds_up_no_other_and_says_so(root: Path, logged: Project) -> None:
    store = TrackingStore(f"sqlite:///{root}/mlflow.db", artifact_root=None)
    other = store.client.create_experiment("other")
    run = store.client.create_run(
        other, tags={"promptbench.candidate": "c", "promptbench.checks": "<spoilt>"}
    ).info.run_id
    store.client.set_terminated(run)
    client = client_of(root)
    there = {e["name"]: e for e in client.get("/api/bench/experiments").json()["experiments"]}
    assert (there[EXPERIMENT]["candidates"], there[EXPERIMENT]["problem"]) == (12, None)
    assert (there["other"]["candidates"], there["other"]["tasks"]) == (0, [])
    assert f"run {run} of experiment 'other': its promptbench tags cannot be read" in there["other"]["problem"]
    page = client.get("/").text
    assert "mend or delete the run in MLflow" in page
    assert "&lt;spoilt&gt;" not in page, "of a tag only what is wrong with it"
    assert "mend or delete the run in MLflow" in problem(client.get("/api/bench/leaderboard/other"), 409)
    store.client.delete_run(run)
    assert [e["problem"] for e in client.get("/api/bench/experiments").json()["experiments"]] == [None] * 3


def test_a_lost_artifact_is_not_told_as_mlflow_that_is_down(root: Path, logged: Project) -> None:
    """Trying again would never end."""
    # Of this store's own: sessions in other copies of it leave their files there, too.
    run_id = client_of(root).get(f"/api/bench/runs/{EXPERIMENT}").json()["runs"][0]["run_id"]
    file = next((logged.root / "mlartifacts").glob(f"*/{run_id}/artifacts/candidate_outputs.json"))
    elsewhere = file.rename(file.with_name("elsewhere"))
    try:
        answer = client_of(root).get(f"/api/bench/runs/{EXPERIMENT}", params={"texts": "true", "limit": "100"})
    finally:
        elsewhere.rename(file)
    assert f"bring the artifacts back, or delete the run {file.parts[-3]} in MLflow" in problem(answer, 409)


def test_experiments_come_in_pages(reader: httpx.Client) -> None:
    first = reader.get("/api/bench/experiments", params={"limit": 1}).json()
    second = reader.get("/api/bench/experiments", params={"limit": 1, "offset": first["next_offset"]}).json()
    assert first["total"] == 2
    assert {p["experiments"][0]["name"] for p in (first, second)} == {EXPERIMENT, "Default"}
    assert second["next_offset"] is None


@pytest.mark.parametrize(
    "path", ["experiments", f"runs/{EXPERIMENT}", f"leaderboard/{EXPERIMENT}", f"agreement/{EXPERIMENT}",
             f"packet/{EXPERIMENT}", "suites", "../openapi.json"],
)  # fmt: skip
def test_what_did_not_change_is_not_sent_again(reader: httpx.Client, path: str) -> None:
    first = reader.get(f"/api/bench/{path}")
    assert first.status_code == 200, first.text
    tag = first.headers["etag"]
    for given in (tag, f'"other", W/{tag}', "*"):
        again = reader.get(f"/api/bench/{path}", headers={"If-None-Match": given})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert reader.get(f"/api/bench/{path}", headers={"If-None-Match": '"other"'}).status_code == 200


def test_a_verdict_changes_the_etag(root: Path) -> None:
    client = client_of(root)
    before = client.get(f"/api/bench/leaderboard/{EXPERIMENT}").headers["etag"]
    packet = client.get(f"/api/bench/packet/{EXPERIMENT}", params={"limit": 1}).json()
    assert len(packet["items"]) == 1
    client.post("/api/bench/verdicts", json=scored(packet))
    assert client.get(f"/api/bench/leaderboard/{EXPERIMENT}").headers["etag"] != before


@pytest.mark.parametrize("kind", ["runs", "leaderboard", "agreement", "packet"])
def test_an_unknown_experiment_is_404_and_the_known_are_named(reader: httpx.Client, kind: str) -> None:
    detail = problem(reader.get(f"/api/bench/{kind}/nightly"), 404)
    assert detail.startswith("MLflow has no experiment nightly; there are: ")
    assert EXPERIMENT in detail
    assert "holds no candidate" in problem(reader.get("/api/bench/leaderboard/Default"), 404)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_only_a_name(reader: httpx.Client, name: str) -> None:
    quoted = "".join(f"%{b:02X}" for b in name.encode())
    for kind in ("runs", "leaderboard", "packet"):
        assert reader.get(f"/api/bench/{kind}/{quoted}").status_code == 404
    assert reader.get(f"/api/bench/leaderboard/{EXPERIMENT}", params={"task": name}).status_code == 404
    assert reader.get(f"/api/bench/run/{quoted}").status_code == 404
    found = reader.get(f"/api/bench/runs/{EXPERIMENT}", params={"model": name})
    assert found.json()["matching"] == 0


@pytest.mark.parametrize(
    ("path", "names"),
    [
        (f"runs/{EXPERIMENT}?limit=501", "query.limit"),
        (f"runs/{EXPERIMENT}?limit=0", "query.limit"),
        (f"runs/{EXPERIMENT}?cursor=../x", "query.cursor"),
        (f"runs/{EXPERIMENT}?judge_pending=perhaps", "query.judge_pending"),
        (f"leaderboard/{EXPERIMENT}?rubric_sha256=x", "query.rubric_sha256"),
        ("experiments?offset=-1", "query.offset"),
        (f"runs/{EXPERIMENT}?modell=haiku", "query.modell"),
        (f"runs/{EXPERIMENT}?model=haiku&model=local", "query.model"),
        (f"leaderboard/{EXPERIMENT}?limit=3", "query.limit"),
        ("suites?x", "query.x"),
        ("run/bench-1?tail=9", "query.tail"),
    ],
)
def test_a_wrong_parameter_is_422_and_named(reader: httpx.Client, path: str, names: str) -> None:
    response = reader.get(f"/api/bench/{path}")
    assert names in problem(response, 422)
    assert response.json()["errors"][0]["where"] == names


def test_every_error_is_a_problem_document(reader: httpx.Client) -> None:
    assert "/api/openapi.json has all of the API" in problem(reader.get("/api/nowhere"), 404)
    assert problem(reader.get("/api/bench/verdicts"), 405) == "this address takes POST"
    wrong = reader.put(f"/api/bench/leaderboard/{EXPERIMENT}")
    assert problem(wrong, 405) == "this address takes GET"
    assert wrong.headers["allow"] == "GET, HEAD"
    wrong = reader.put("/login")
    assert problem(wrong, 405) == "this address takes GET and POST"
    assert wrong.headers["allow"] == "GET, HEAD, POST"


def test_head_is_get_without_the_body(reader: httpx.Client) -> None:
    for path in ("/api/health", f"/api/bench/leaderboard/{EXPERIMENT}", "/", "/api/nowhere"):
        got, head = reader.get(path), reader.head(path)
        assert (head.status_code, head.content) == (got.status_code, b"")
        for name in ("content-length", "content-type", "etag", "content-security-policy"):
            assert head.headers.get(name) == got.headers.get(name)


def test_answers_carry_headers_that_keep_browsers_in_check(reader: httpx.Client) -> None:
    for path in ("/api/health", "/", "/api/nowhere", "/static/judge.js"):
        headers = reader.get(path).headers
        assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'")
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in headers


# -- who may


@pytest.mark.parametrize(
    ("headers", "get", "post"),
    [
        ({}, 401, 401),
        ({"Authorization": "Bearer wrong"}, 401, 401),
        ({"Authorization": "Bearer "}, 401, 401),
        ({"Authorization": f"Basic {TOKEN}"}, 401, 401),
        ({"Authorization": f"Bearer {TOKEN}x"}, 401, 401),
        ({"Authorization": "Bearer \xfc\xff"}, 401, 401),
        ({"Cookie": "promptbench_session_8642=guess"}, 401, 401),
        ({"Cookie": f"promptbench_session_8642={TOKEN}"}, 401, 401),
        ({"Authorization": f"Bearer {READ_TOKEN}"}, 200, 403),
        ({"Authorization": f"Bearer {TOKEN}"}, 200, 422),
        ({"Authorization": f"bearer  {TOKEN}"}, 200, 422),
    ],
)
def test_tokens(logged: Project, headers: dict[str, str], get: int, post: int) -> None:
    client = client_of(logged.root, token=TOKEN, read_token=READ_TOKEN)
    sent = {k: v.encode("latin-1") for k, v in headers.items()}
    for path in ("/api/bench/suites", "/api/openapi.json"):
        looked = client.get(path, headers=sent)
        assert looked.status_code == get
    written = client.post("/api/bench/verdicts", json={}, headers=sent)
    problem(written, post)
    if get == 401:
        assert written.headers["www-authenticate"].startswith('Bearer realm="promptbench"')
    assert client.get("/api/health").status_code == 200


@pytest.mark.parametrize("given", [TOKEN, READ_TOKEN, TOKEN[:-1], TOKEN + "x", "", "\udcff" * 9])
def test_every_known_token_is_compared_whatever_the_first_comparison_says(given: str) -> None:
    """What takes the time of a comparison does not depend on the token, nor on which tokens there are."""
    compared: list[tuple[int, int]] = []

    def same(a: bytes, b: bytes) -> bool:
        compared.append((len(a), len(b)))
        return hmac.compare_digest(a, b)

    for kept in ({"token": TOKEN, "read_token": READ_TOKEN}, {"token": TOKEN}, {"read_token": READ_TOKEN}, {}):
        compared.clear()
        role = Tokens(settings_of(Path(), **kept), same=same).role(given)
        assert role == ({TOKEN: "write", READ_TOKEN: "read"}.get(given) if given in kept.values() else None)
        assert compared == [(32, 32), (32, 32)], "hashes, of one length"


def test_with_only_a_read_token_nobody_writes(logged: Project) -> None:
    client = client_of(logged.root, read_token=READ_TOKEN)
    problem(client.post("/api/bench/run", json={}, headers={"Authorization": f"Bearer {READ_TOKEN}"}), 403)


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8642", "127.0.0.1.evil.example", "", "[::1", "10.0.0.1"]
)
def test_without_a_token_only_this_machine_is_answered(reader: httpx.Client, host: str) -> None:
    problem(reader.get("/api/bench/suites", headers={"Host": host}), 421)


@pytest.mark.parametrize("host", ["127.0.0.1:8642", "localhost", "LOCALHOST:8642", "[::1]:8642"])
def test_by_any_of_its_names(reader: httpx.Client, host: str) -> None:
    assert reader.get("/api/bench/suites", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://["}, 403),
        ({"Origin": "http://127.0.0.1:9999"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({"Origin": "http://127.0.0.1:8642"}, 422),
        ({"Sec-Fetch-Site": "same-origin"}, 422),
        ({"Content-Type": "application/json; charset=utf-8"}, 422),
    ],
)
def test_a_page_of_another_site_cannot_write(reader: httpx.Client, headers: dict[str, str], status: int) -> None:
    given = {"Content-Type": "application/json", **headers}
    problem(reader.post("/api/bench/verdicts", content=b"{}", headers=given), status)


def test_a_browser_logs_in_for_a_session(root: Path) -> None:
    client = client_of(root, token=TOKEN, read_token=READ_TOKEN)
    assert client.get("/").headers["location"] == "/login"
    refused = client.post("/login", data={"token": "nonsense"})
    assert (refused.status_code, "This token is not known." in refused.text) == (401, True)
    cross = client.post("/login", data={"token": TOKEN}, headers={"Origin": "http://evil.example"})
    assert cross.status_code == 403

    done = client.post("/login", data={"token": TOKEN})
    assert (done.status_code, done.headers["location"]) == (303, "/")
    cookie = done.headers["set-cookie"]
    assert all(word in cookie for word in ("HttpOnly", "SameSite=strict", "Path=/"))
    assert TOKEN not in cookie
    assert client.get("/").status_code == 200
    packet = client.get(f"/api/bench/packet/{EXPERIMENT}", params={"limit": 1}).json()
    evil = {"Origin": "http://evil.example"}
    problem(client.post("/api/bench/verdicts", json=scored(packet), headers=evil), 403)
    assert client.post("/api/bench/verdicts", json=scored(packet)).json()["applied"] == 1

    client.post("/logout")
    client.cookies.set("promptbench_session_8642", cookie.split("=")[1].split(";")[0])
    problem(client.get("/api/bench/suites"), 401)

    client.cookies.clear()
    client.post("/login", data={"token": READ_TOKEN})
    problem(client.post("/api/bench/verdicts", json=packet), 403)
    assert client.get("/judge", params={"name": EXPERIMENT}).status_code == 403


def test_a_login_leads_back_to_the_page_that_was_asked_for(root: Path) -> None:
    client = client_of(root, token=TOKEN)
    asked = f"/experiment?name={EXPERIMENT}&scenario=%C3%A9%26+1"
    there = client.get(asked).headers["location"]
    assert there == "/login?next=%2Fexperiment%3Fname%3Dbench%26scenario%3D%25C3%25A9%2526%2B1"
    form = client.get(there).text
    assert f'name="next" value="{asked.replace("&", "&amp;")}"' in form
    refused = client.post("/login", data={"token": "nonsense", "next": asked})
    assert f'name="next" value="{asked.replace("&", "&amp;")}"' in refused.text
    assert client.post("/login", data={"token": TOKEN, "next": asked}).headers["location"] == asked
    assert client.get(there).headers["location"] == asked
    for elsewhere in ("//evil.example", "/\\evil.example", "http://evil.example", "evil", "", "/\t/evil.example"):
        found = client.post("/login", data={"token": TOKEN, "next": elsewhere}).headers["location"]
        assert found in ("/", "/%09/evil.example"), elsewhere
    client.cookies.clear()
    assert client.post("/logout").headers["location"] == "/login"


def test_services_of_one_host_do_not_log_out_each_other(root: Path) -> None:
    """To a browser, cookies of a host are of all its ports."""
    ports = ("http://127.0.0.1:8642", "http://127.0.0.1:8643", "http://127.0.0.1")
    apps = {port: InProcess(create_app(settings_of(root, token=TOKEN))) for port in ports}
    browser = httpx.Client(mounts=dict(apps))
    for port in ports:
        assert browser.post(f"{port}/login", data={"token": TOKEN}).headers["location"] == "/"
    assert [browser.get(port).status_code for port in ports] == [200] * 3
    browser.post(f"{ports[0]}/logout")
    assert [browser.get(port).status_code for port in ports] == [303, 200, 200]


@pytest.mark.parametrize(
    "other", ['prefs={"theme": "dark"}', "name=two words", "a,b=c d", "=", "flag", "theme\xe4=\xf6", '"', "{}=[]"]
)
def test_another_programs_cookie_does_not_log_out(root: Path, other: str) -> None:
    """Cookies of a host are of all its ports: one that is malformed stood before the session."""
    client = client_of(root, token=TOKEN)
    session = client.post("/login", data={"token": TOKEN}).headers["set-cookie"].split(";")[0]
    client.cookies.clear()
    for cookies in (f"{other}; {session}", f"{session}; {other}"):
        assert client.get("/", headers=[(b"Cookie", cookies.encode("latin-1"))]).status_code == 200


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"host": "0.0.0.0"}, "can be reached from other machines, so a token is needed"),
        ({"host": "::"}, "so a token is needed"),
        ({"host": "bench.example"}, "so a token is needed"),
        ({"token": "short"}, "at least 16 printable ASCII characters"),
        ({"token": "with\nline-break-in-it"}, "at least 16 printable ASCII characters"),
        ({"token": TOKEN, "read_token": TOKEN}, "are the same"),
    ],
)
def test_a_service_that_is_not_safe_does_not_start(tmp_path: Path, changes: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        settings_of(tmp_path, **changes)


def test_a_service_of_a_store_that_holds_no_candidates_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"is './mlruns', a folder of files, where MLflow keeps no traces"):
        ServiceSettings.from_environment(root=tmp_path, environ={"MLFLOW_TRACKING_URI": "./mlruns"})


def test_secrets_are_not_shown() -> None:
    settings = settings_of(
        Path(), token=TOKEN, airflow=AirflowSettings(url="http://x", username="u", password="secret1")
    )
    assert TOKEN not in repr(settings)
    assert "secret1" not in repr(settings)


@pytest.mark.parametrize(
    ("args", "told"),
    [([], "the following arguments"), (["srve"], "argument COMMAND"), (["serve", "x"], "unrecognized")],
)
def test_who_complains_is_named_once(args: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(args) == 4
    assert capsys.readouterr().err.startswith(f"promptbench: {told}")


def test_the_command_refuses_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["serve", "--host", "0.0.0.0", "--root", str(tmp_path)]) == 4
    assert main(["serve", "--root", str(tmp_path / "nowhere")]) == 4
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert main(["serve", "--root", str(tmp_path), "--port", str(taken.getsockname()[1])]) == 4
    monkeypatch.setenv("PROMPTBENCH_API_TOKEN", TOKEN)
    assert main(["serve", "--root", str(tmp_path), "--host", "a..b"]) == 4
    addresses = (
        "http://[::1",
        "http://127.0.0.1:port",
        "http://127.0.0.1:99999",
        "http://a:8080/?b",
        "a:8080",
        "http://u@a",
    )
    for address in addresses:
        monkeypatch.setenv("PROMPTBENCH_AIRFLOW_URL", address)
        assert main(["serve", "--root", str(tmp_path)]) == 4
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["promptbench"] * (4 + len(addresses))
    assert "a token is needed" in lines[0]
    assert "there is no such folder" in lines[1]
    assert "cannot bind" in lines[2]
    assert "cannot bind a..b:8642: " in lines[3]
    assert all("PROMPTBENCH_AIRFLOW_URL must be an address such as http://" in line for line in lines[4:])


# -- verdicts


def broken(packet: dict[str, Any]) -> list[tuple[bytes, str]]:
    """Bodies that are refused, each with what is said of it; what is no JSON first."""
    first = packet["items"][0]["item"]

    def changed(**top: Any) -> bytes:
        return json.dumps({**packet, **top}).encode()

    def rescored(scores: dict[str, Any]) -> bytes:
        copy = scored(packet)
        copy["items"][0]["candidates"][0]["scores"] |= scores
        return json.dumps(copy).encode()

    edited = json.loads(json.dumps(packet))
    edited["items"][0]["candidates"][0]["output"] += " (edited)"
    return [
        (b"", "the body is no JSON: not complete JSON"),
        (b"{", "the body is no JSON: not complete JSON"),
        (b"\xff", "the body is no JSON: not UTF-8"),
        (b'{"a": NaN}', "the body is no JSON: a: NaN is not JSON"),
        (b"[" * 100_000, "the body is no JSON: not a packet: it is nested too deeply"),
        (b"1" * 10_000, "the body is no JSON: not a packet: it holds a whole number of thousands of digits"),
        (b"[]", "no judge packet: the top level is []"),
        (b'{"a": 1, "a": 2}', "stands twice"),
        (changed(schema="promptbench/packet/2"), "newer promptbench"),
        (changed(surprise=1), 'unknown key "surprise"'),
        (changed(judge_kind="auto"), 'judge_kind is "auto"'),
        (changed(judged_by="a\u202eb"), "no control characters"),
        (rescored({"relevance": 7}), f"item {first}: relevance is 7; the rubric tip-v1 allows 1 to 5"),
        (rescored({"relevance": True}), f"item {first}: relevance is true"),
        (rescored({"relevance": None}), "relevance is null and the rest is not"),
        (rescored({"charm": 3}), "charm is 3, but the rubric tip-v1 has only"),
        (rescored({"overlong": True}), "overlong is true; a program found false"),
        (json.dumps(edited).encode(), "the output changed since the export"),
        (changed(items=[{**packet["items"][0], "item": "unknown"}]), "item unknown is unknown"),
        (changed(rubric={**packet["rubric"], "text": "other"}), "was edited"),
    ]


def test_a_packet_with_mistakes_is_refused_whole_in_the_words_of_judge_apply(root: Path, logged: Project) -> None:
    client = client_of(root)
    packet = client.get(f"/api/bench/packet/{EXPERIMENT}").json()
    for body, message in broken(packet):
        answer = client.post("/api/bench/verdicts", content=body, headers={"Content-Type": "application/json"})
        assert message in problem(answer, 400 if message.startswith("the body is no JSON") else 422), body[:100]
        assert tempfile.gettempdir() not in answer.text
    assert client.get(f"/api/bench/runs/{EXPERIMENT}", params={"judge_pending": "true"}).json()["matching"] == 12

    worst = scored(packet)
    worst["items"][0]["candidates"][0]["scores"] |= {"relevance": 7, "charm": 3}
    worst["items"][3]["candidates"][0]["scores"]["format_ok"] = 1
    said = problem(client.post("/api/bench/verdicts", json=worst), 422)
    (root / "packet.json").write_text(json.dumps(worst))
    shell = Project(root, logged.provider).pytest("--judge-apply", "packet.json")
    assert shell.code == 4
    assert len(said.splitlines()) == 3
    assert all(line in shell.text for line in said.splitlines())


def test_verdicts_need_no_room_for_temporary_files(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The database may be elsewhere, with room, where that of temporary files is full."""
    client = client_of(root)
    packet = client.get(f"/api/bench/packet/{EXPERIMENT}").json()
    monkeypatch.setattr(tempfile, "tempdir", "/dev/full")
    assert client.post("/api/bench/verdicts", json=scored(packet)).json()["applied"] == 12


def test_verdicts_of_an_unknown_experiment_are_404(reader: httpx.Client) -> None:
    packet = reader.get(f"/api/bench/packet/{EXPERIMENT}").json()
    for name in ("nightly", *HOSTILE):
        detail = problem(reader.post("/api/bench/verdicts", json=packet | {"experiment": name}), 404)
        assert detail.startswith("MLflow has no experiment ")


def test_a_body_that_does_not_say_its_size_is_counted(logged: Project) -> None:
    client = client_of(logged.root, max_body=100_000)

    def pieces() -> Iterator[bytes]:
        for _ in range(3):
            yield b" " * 50_000

    sent = {"Content-Type": "application/json"}
    told = problem(client.post("/api/bench/verdicts", content=pieces(), headers=sent), 413)
    assert "100,000 bytes, the most that is read here; send fewer items at once, or apply the packet with" in told
    told = problem(client.post("/api/bench/run", content=pieces(), headers=sent), 413)
    assert told.endswith("65,536 bytes, the most that is read here")


@pytest.mark.parametrize("path", ["/login", "/api/bench/verdicts", "/api/bench/run"])
def test_a_client_that_hangs_up_within_a_body_is_no_mistake_of_the_service(logged: Project, path: str) -> None:
    """Its traceback, of 70 lines, would be in the log for as often as anybody likes; /login wants no token."""
    headers = {"host": "127.0.0.1:8642", "content-type": "application/json"}
    if path != "/login":
        headers["authorization"] = f"Bearer {TOKEN}"
    scope = {
        "type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b"",
        "headers": [(k.encode(), v.encode()) for k, v in headers.items()], "http_version": "1.1", "scheme": "http",
        "root_path": "", "server": ("127.0.0.1", 8642), "client": ("127.0.0.1", 1),
    }  # fmt: skip
    came = iter([{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}])
    sent: list[Any] = []

    async def receive() -> Any:
        return next(came)

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(create_app(settings_of(logged.root, token=TOKEN))(scope, receive, send))
    assert sent[0]["status"] == 400


def test_a_service_that_is_told_to_end_waits_for_no_client_that_stalls_but_for_verdicts_that_it_takes_in(
    root: Path, logged: Project
) -> None:
    def post(address: str) -> None:
        with contextlib.suppress(httpx.HTTPError):  # the answer may come too late
            httpx.post(f"{address}/api/bench/verdicts", json=scored(packet), timeout=60)

    with service(root) as (address, process):
        packet = httpx.get(f"{address}/api/bench/packet/{EXPERIMENT}", timeout=60).json()
        host, _, port = address.removeprefix("http://").partition(":")
        stalled = socket.create_connection((host, int(port)), timeout=60)
        head = f"POST /api/bench/verdicts HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        stalled.sendall(f"{head}Content-Length: 1000\r\n\r\n{{".encode())
        with contextlib.closing(sqlite3.connect(root / "mlflow.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            sending = threading.Thread(target=post, args=[address])
            sending.start()
            time.sleep(2)  # until it waits for the database
            process.terminate()
            time.sleep(PATIENCE_S + 2)
            other.execute("ROLLBACK")
        assert process.wait(20) in (0, -signal.SIGTERM)
    sending.join()
    stalled.close()
    taken = client_of(root).get(f"/api/bench/runs/{EXPERIMENT}?judge_kind=claude-code").json()
    assert taken["matching"] == 12


def test_parse_errors_are_packet_errors() -> None:
    with pytest.raises(PacketError):
        parse_packet([])


# -- runs


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("suite", name) for name in HOSTILE),
        ("suite", "evals/../evals/tips.yaml"),
        ("suite", "/etc"),
        ("suite", 1),
        ("baseline", "evals/models.yaml"),
        ("baseline", "../x.json"),
        ("models", "haiku"),
        ("models", ["a,b"]),
        ("models", ["a\nb"]),
        ("models", [""]),
        ("prompts", ["x" * 101]),
        ("k", "-x"),
        ("k", "a\nb"),
        ("k", "x" * 501),
        ("experiment", "../x"),
        ("experiment", "<b>"),
        ("shards", 0),
        ("shards", 65),
        ("shards", "2"),
        ("concurrency", 1001),
        ("judge", "harsh"),
        ("max_cost", -1),
        ("max_cost", "1"),
        ("tolerances", ["composite"]),
        ("wait", "sensor"),
        ("wait", "approval"),
        ("timeout", 0),
        ("strict", "yes"),
        ("strict", True),  # without a baseline: it would pass, and compare nothing
        ("tolerances", ["composite:1"]),
        ("surprise", True),
    ],
)
def test_a_run_is_a_closed_form(reader: httpx.Client, logged: Project, field: str, value: object) -> None:
    answer = reader.post("/api/bench/run", json={"suite": "evals/tips.yaml", field: value})
    assert field in problem(answer, 422)
    assert not (logged.root / ".promptbench" / "jobs").exists()


@pytest.mark.parametrize(
    "twice", ['"max_cost": 0.1, "max_cost": 100', '"s\\u0075ite": "evals/"', '"\\ud800": 1, "\\ud800": 2']
)
def test_a_run_that_says_two_things_by_one_key_is_none(reader: httpx.Client, logged: Project, twice: str) -> None:
    body = f'{{"suite": "evals", {twice}}}'
    answer = reader.post("/api/bench/run", content=body, headers={"Content-Type": "application/json"})
    assert "given more than once; give it one value" in problem(answer, 422)
    (named,) = answer.json()["errors"]
    assert named["where"] in ("max_cost", "suite", '"\\ud800"')
    assert not (logged.root / ".promptbench" / "jobs").exists()


@pytest.mark.parametrize("path", ["run", "verdicts"])
def test_what_is_no_json_is_400_everywhere(reader: httpx.Client, path: str) -> None:
    def said(body: bytes, status: int) -> str:
        answer = reader.post(f"/api/bench/{path}", content=body, headers={"Content-Type": "application/json"})
        return problem(answer, status)

    no_json = [b"", b"{", b"{bad", b"\xff", b"[" * 60_000, b"1" * 10_000, b'{"suite": "evals", "max_cost": NaN}']
    for body in no_json:
        assert said(body, 400).startswith("the body is no JSON: "), body[:100]
    for body in (b"[]", b"1", b'"evals"', b"{}", b"null"):
        assert "no JSON" not in said(body, 422)
    operation = reader.get("/api/openapi.json").json()["paths"][f"/api/bench/{path}"]["post"]
    assert operation["responses"]["400"]["description"] == "The body is no JSON"


def test_what_is_listed_may_be_named_and_run(root: Path, logged: Project, python: str) -> None:
    """A path may be in any language. What pytest would misread, or a shell take for an order, is not listed."""
    (root / "evals/früh morgens").mkdir()
    test = (root / "evals/test_tips.py").read_text()
    tips = (root / "evals/tips.yaml").read_text()
    (root / "evals/früh morgens/test_x.py").write_text(test.replace("tips.yaml", "日々 tips+1.yaml"))
    (root / "evals/früh morgens/日々 tips+1.yaml").write_text("judge: {model: haiku}\n" + tips)
    (root / "evals/früh morgens/models.yaml").write_text((root / "evals/models.yaml").read_text())
    (root / "evals/früh morgens/basis 1.json").write_text('{"schema": "promptbench/baseline/1"}')
    odd = [
        "@args",
        "-k",
        "[a]",
        "a::b",
        "a\nb",
        "a\\b",
        ".hidden",
        "~",
        "a..b",
        "\u202egnp",
        "\udcff",
        "a; ls",
        "$(ls)",
        "a&b",
    ]
    for name in odd:
        (root / name).mkdir(exist_ok=True)
        (root / name / "test_x.py").write_text(test)
    client = client_of(root, environ=logged.environment(), python=python, max_jobs=9)
    listed = client.get("/api/bench/suites").json()
    paths = {f["path"]: f["suites"] for f in listed["files"]}
    suite = "evals/früh morgens/日々 tips+1.yaml"
    assert paths == {"evals/test_tips.py": ["evals/tips.yaml"], "evals/früh morgens/test_x.py": [suite]}
    assert (listed["folders"], listed["baselines"]) == (
        ["evals", "evals/früh morgens"],
        ["evals/früh morgens/basis 1.json"],
    )
    for name in odd:
        body = json.dumps({"suite": f"{name}/test_x.py"})
        answer = client.post("/api/bench/run", content=body, headers={"Content-Type": "application/json"})
        said = problem(answer, 422)
        assert said.startswith("suite: "), said
        assert "pattern" not in said
    said = problem(client.post("/api/bench/run", json={"suite": "evals", "baseline": "/etc/x.json"}), 422)
    assert said.startswith("baseline: '/etc/x.json' is none: expected a path below the project"), said

    more = {"models": ["haiku"], "prompts": ["v1"], "experiment": "fruh", "judge": "auto"}
    started = client.post("/api/bench/run", json={"suite": suite, "baseline": listed["baselines"][0], **more})
    assert started.status_code == 202, started.text
    refused = until(client, started.headers["location"], "success", "failed")
    assert "früh morgens/basis 1.json: suites: expected" in refused["log"][-1], refused["log"]

    started = client.post("/api/bench/run", json={"suite": suite, **more})
    assert started.status_code == 202, started.text
    until(client, started.headers["location"], "success", "failed")
    runs = client.get("/api/bench/runs/fruh").json()["runs"]
    assert {(r["model"], r["prompt"]) for r in runs} == {("haiku", "v1")}


def test_what_may_be_asked_is_what_the_dag_takes(reader: httpx.Client) -> None:
    shape = reader.get("/api/openapi.json").json()["components"]["schemas"]["RunRequest"]
    assert set(shape["properties"]) == set(PARAMS)
    for name, schema in PARAMS.items():
        assert shape["properties"][name]["description"] == schema["description"]
        assert shape["properties"][name].get("default") == (None if name == "suite" else schema["default"])
    assert shape["required"] == ["suite"]


def until(client: httpx.Client, location: str, *states: str) -> dict[str, Any]:
    for _ in range(800):  # two xdist workers that import LiteLLM and MLflow, on a machine that may be busy
        state: dict[str, Any] = client.get(location).json()
        if state["state"] in states:
            return state
        assert state["state"] in ("running", "waiting"), state
        time.sleep(0.3)
    raise AssertionError(f"the run is not {states}: {state}")


def test_a_baseline_may_be_large(tmp_path: Path) -> None:
    """60 rows of 300 scenarios with six scores each are 2.6 MiB."""
    (tmp_path / "evals").mkdir()
    large = {"schema": "promptbench/baseline/1", "suites": [], "more": "x" * (3 << 20)}
    (tmp_path / "evals/baseline.json").write_text(json.dumps(large))
    assert find_evals(tmp_path).baselines == ("evals/baseline.json",)


def test_a_run_is_a_job_of_this_machine_that_waits_for_its_judge(root: Path, logged: Project, python: str) -> None:
    environ = logged.environment() | {"PROMPTBENCH_API_TOKEN": TOKEN}
    never = 3600.0
    client = client_of(root, environ=environ, python=python, max_jobs=1, poll_s=never)
    suites = client.get("/api/bench/suites").json()
    assert suites == {
        "files": [{"path": "evals/test_tips.py", "suites": ["evals/tips.yaml"]}], "folders": ["evals"], "baselines": [],
    }  # fmt: skip
    asked = {"suite": "evals/tips.yaml", "models": ["haiku"], "k": "s1 or s2", "experiment": "over http", "shards": 2}
    logged.provider.latency_s = 1.0
    try:
        started = client.post("/api/bench/run", json=asked)
        assert started.status_code == 202, started.text
        location = started.headers["location"]
        assert location == f"/api/bench/run/{started.json()['id']}"
        assert client.get(location).json()["state"] == "running"
        busy = client.post("/api/bench/run", json=asked)
        assert "the most at once" in problem(busy, 429)
        assert busy.headers["retry-after"]
        # A service that was started anew sees it run too.
        assert client_of(root).get(location).json()["state"] == "running"
    finally:
        logged.provider.latency_s = 0.0
    state = until(client, location, "waiting")
    assert (state["exit_code"], state["where"], state["ended_at"]) == (0, "local", None)
    assert state["request"] == asked
    assert state["experiment"] == started.json()["experiment"] == "over http"
    steps = {"collect": "success", "export": "success", "wait": "waiting"}
    assert state["tasks"] == [{"task": name, "state": state} for name, state in steps.items()]
    assert any("4 passed" in line for line in state["log"])
    tag = client.get(location).headers["etag"]
    assert client.get(location, headers={"If-None-Match": tag}).status_code == 304
    found = client.get("/api/bench/runs/over http").json()
    assert {(r["model"], r["scenario"]) for r in found["runs"]} == {("haiku", "s1"), ("haiku", "s2")}

    # Another service takes it over once the verdicts are in, and asks no provider.
    asked_before = logged.provider.count
    with served(
        root, **{k: v for k, v in environ.items() if k in ("SCRIPTED_KEY", "PROMPTBENCH_API_TOKEN")}
    ) as address:
        sure = httpx.Client(base_url=address, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=60)
        packet = sure.get("/api/bench/packet/over http").json()
        assert sure.post("/api/bench/verdicts", json=scored(packet)).json()["pending"] == 0
        state = until(sure, location, "success")
    assert [t["state"] for t in state["tasks"]] == ["success"] * 4
    assert [t["task"] for t in state["tasks"]] == ["collect", "export", "wait", "compare"]
    assert state["ended_at"]
    assert logged.provider.count == asked_before
    folder = root / ".promptbench" / "jobs" / state["id"]
    board = json.loads((folder / "report" / "leaderboard.json").read_text())
    assert [(r["composite"], r["judged"], r["pending"]) for r in board["rows"]] == [(12.0, 2, 0)] * 2
    assert TOKEN not in "".join(p.read_text() for p in folder.glob("*.*"))


@pytest.mark.slow
def test_a_run_of_one_suite_runs_no_other_and_fails_at_its_gate(root: Path, logged: Project) -> None:
    here = Project(root, logged.provider)
    here.second_suite()
    client = client_of(root, environ=logged.environment(), poll_s=0.3)
    for name in ("old", "new"):
        asked = {"suite": "evals/jokes.yaml", "experiment": name, "models": ["haiku"]}
        more = {"baseline": "evals/baseline.json", "tolerances": ["composite:0.1"], "strict": True}
        started = client.post("/api/bench/run", json=asked | (more if name == "new" else {}))
        location = started.headers["location"]
        until(client, location, "waiting")
        runs = client.get(f"/api/bench/runs/{name}").json()["runs"]
        assert {(r["task"], r["scenario"]) for r in runs} == {("joke", "j0"), ("joke", "j1")}
        packet = scored(client.get(f"/api/bench/packet/{name}").json(), value=5 if name == "old" else 1)
        client.post("/api/bench/verdicts", json=packet)
        if name == "old":
            until(client, location, "success")
            saved = here.pytest("--bench-read", "--bench-save", "--bench-experiment", "old", "-k", "joke")
            assert saved.code == 0, saved.text
            for prompt in (root / "prompts/joke").iterdir():  # other texts, that nobody has judged yet
                prompt.write_text(prompt.read_text().replace("Joke:", "Another joke:"))
    state = until(client, location, "failed")
    assert state["exit_code"] == 1
    assert state["tasks"][-1] == {"task": "compare", "state": "failed"}
    assert any("the gate against evals/baseline.json did not pass" in line for line in state["log"])


def test_a_run_that_could_not_end_well_generates_nothing(root: Path, logged: Project, python: str) -> None:
    client = client_of(root, environ=logged.environment(), python=python)
    started = client.post("/api/bench/run", json={"suite": "evals", "judge": "auto", "experiment": "no judge"}).json()
    before = logged.provider.count
    state = until(client, f"/api/bench/run/{started['id']}", "failed")
    assert (state["exit_code"], state["tasks"]) == (4, [{"task": "collect", "state": "failed"}])
    assert "--judge-auto needs the suite's automatic judge, and there is none; name one" in state["log"][-1]
    assert logged.provider.count == before


def test_a_run_that_fails_says_so(root: Path, logged: Project, python: str) -> None:
    client = client_of(root, environ=logged.environment(), python=python)
    started = client.post("/api/bench/run", json={"suite": "evals", "models": ["unknown; touch owned"]}).json()
    state = until(client, f"/api/bench/run/{started['id']}", "failed")
    assert state["exit_code"] in (2, 4)
    assert any("unknown; touch owned" in line for line in state["log"])
    assert not list(root.rglob("owned"))


def waiting_job(root: Path, group: Sequence[str], /, *, deadline: float, **about: Any) -> Path:
    """The folder of a run that waits for the verdicts of a group."""
    folder = root / ".promptbench" / "jobs" / "bench-20261123T120000-00000000"
    folder.mkdir(parents=True)
    request = {"suite": "evals", "experiment": EXPERIMENT, "baseline": "evals/baseline.json"}
    (folder / "job.json").write_text(json.dumps({"request": request, **about}))
    waits = {"state": "waiting", "steps": {"wait": "waiting"}, "groups": [list(group)], "deadline": deadline}
    (folder / "state.json").write_text(json.dumps(waits))
    return folder


def test_a_job_that_cannot_be_read_is_told_once_and_holds_up_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name, state in (("a", "[]"), ("b", '{"state": "waiting"}'), ("c", "half of {")):
        folder = tmp_path / f"bench-{name}"
        folder.mkdir()
        (folder / "state.json").write_text(state)
    place = Place(root=tmp_path, python=Path(sys.executable), tracking_uri=f"sqlite:///{tmp_path}/x.db")
    jobs = Jobs(project=place, folder=tmp_path, environ=os.environ, most=1, open_store=place.store, poll_s=0.1)
    job = jobs.start({"suite": "nowhere", "experiment": "e"})
    for _ in range(600):
        found = jobs.find(job.id)
        assert found is not None
        if found.state != "running":
            break
        time.sleep(0.1)
    assert found.log == ("== failed: suite: nowhere does not exist below " + str(tmp_path),)
    time.sleep(1)  # ten looks
    told = [record.getMessage() for record in caplog.records if record.name.startswith("pytest_promptbench")]
    assert told == [
        f"{tmp_path}/bench-a is passed over: AttributeError: 'list' object has no attribute 'items'",
        f"{tmp_path}/bench-b is passed over: KeyError: 'request'",
        f"{tmp_path}/bench-c is passed over: JSONDecodeError: Expecting value: line 1 column 1 (char 0)",
    ]


@pytest.mark.parametrize("text", ["half of {", "[]", '{"steps": 1}'])
def test_a_run_whose_state_cannot_be_read_is_told_by_its_file(root: Path, text: str) -> None:
    folder = root / ".promptbench/jobs/bench-a"
    folder.mkdir(parents=True)
    (folder / "state.json").write_text(text)
    (folder / "job.json").write_text("[]")
    client = client_of(root)
    told = problem(client.get("/api/bench/run/bench-a"), 503)
    assert told.startswith("the run cannot be read (")
    assert told.endswith(f"): mend or delete {folder}/state.json")
    (folder / "state.json").unlink()
    assert client.get("/api/bench/run/bench-a").json()["state"] == "lost"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("state.json", '{"state": 5}'),
        ("state.json", '{"state": "failed", "exit_code": "x"}'),
        ("job.json", '{"request": null}'),
        ("job.json", '{"request": [1]}'),
        ("job.json", '{"started_at": 5}'),
    ],
)
def test_a_run_with_a_value_of_a_wrong_type_is_told_by_its_folder(root: Path, name: str, text: str) -> None:
    folder = root / ".promptbench/jobs/bench-a"
    folder.mkdir(parents=True)
    (folder / "state.json").write_text('{"state": "failed"}')
    (folder / name).write_text(text)
    told = problem(client_of(root).get("/api/bench/run/bench-a"), 503)
    assert told.endswith(f"is of a wrong type: mend or delete job.json or state.json in {folder}")


def test_a_run_whose_time_to_be_judged_is_up_fails(root: Path, logged: Project) -> None:
    group = TrackingStore(f"sqlite:///{root}/mlflow.db", artifact_root=None).read(EXPERIMENT)[0].group
    folder = waiting_job(root, group, deadline=time.time() - 1)
    broken = folder.with_name("bench-20261123T110000-00000000")  # looked at first, and holds up no other
    broken.mkdir()
    (broken / "state.json").write_text((folder / "state.json").read_text())
    client = client_of(root, poll_s=0.2)
    state = until(client, f"/api/bench/run/{folder.name}", "failed")
    assert state["tasks"] == [{"task": "wait", "state": "failed"}]
    assert state["log"] == ["== failed: the time to wait is up, and 12 candidates are still pending"]


def test_a_run_that_waits_for_an_experiment_that_was_deleted_says_so_at_its_end(root: Path) -> None:
    store = TrackingStore(f"sqlite:///{root}/mlflow.db", artifact_root=None)
    found = store.experiment(EXPERIMENT)
    assert found is not None
    store.client.delete_experiment(found)
    folder = waiting_job(root, ("of", "nobody"), deadline=time.time() - 1)
    state = until(client_of(root, poll_s=0.2), f"/api/bench/run/{folder.name}", "failed")
    said = f"== failed: the time to wait is up, and experiment {EXPERIMENT!r} is deleted in MLflow: bring it back with "
    assert state["log"][0].startswith(said)


@pytest.mark.parametrize(
    ("whole", "said"),
    [
        (True, "== failed: baseline: evals/baseline.json does not exist below {root}"),
        (False, "== failed: KeyError: 'day'"),
    ],
)
def test_a_waiting_run_that_cannot_go_on_fails_once_and_says_why(
    root: Path, logged: Project, whole: bool, said: str
) -> None:
    about = {"root": str(root), "python": sys.executable, **({"day": "2026-11-23"} if whole else {})}
    folder = waiting_job(root, ("of", "nobody"), deadline=time.time() + 600, **about)
    client = client_of(root, environ=logged.environment(), poll_s=0.2)
    state = until(client, f"/api/bench/run/{folder.name}", "failed")
    assert state["ended_at"]
    assert state["tasks"] == [{"task": "wait", "state": "success"}]
    assert [line for line in state["log"] if line.startswith("== ")] == [said.format(root=root)]
    assert sum(line.startswith("Traceback") for line in state["log"]) == (0 if whole else 1)


def test_waiting_runs_that_are_judged_at_once_go_on_as_many_at_a_time_as_may(root: Path, logged: Project) -> None:
    about = {"root": str(root), "python": sys.executable, "day": "2026-11-23"}
    first = waiting_job(root, ("of", "nobody"), deadline=time.time() + 600, **about)
    folders = [first, *(shutil.copytree(first, first.with_name(f"{first.name[:-1]}{i}")) for i in (1, 2, 3))]
    client = client_of(root, environ=logged.environment(), poll_s=0.1, max_jobs=1)
    states: list[str] = []
    at_once = 0
    for _ in range(600):
        at_once = max(at_once, sum("airflow.alone" in c and " compare " in c for c in children_of(root)))
        states = [client.get(f"/api/bench/run/{f.name}").json()["state"] for f in folders]
        if states == ["failed"] * 4:
            break
        time.sleep(0.05)
    assert states == ["failed"] * 4, "each of a baseline that is not there"
    assert at_once == 1


def test_a_waiting_run_whose_process_dies_without_a_word_is_not_started_again(root: Path, logged: Project) -> None:
    about = {"root": str(root), "python": sys.executable, "day": "2026-11-23"}
    folder = waiting_job(root, ("of", "nobody"), deadline=time.time() + 600, **about)
    client = client_of(root, environ=logged.environment() | {"PYTHONHOME": "/nowhere"}, poll_s=0.2)
    until(client, f"/api/bench/run/{folder.name}", "lost")
    time.sleep(2)  # ten looks
    assert client.get(f"/api/bench/run/{folder.name}").json()["state"] == "lost"
    assert (folder / "log.txt").read_text().count("Fatal Python error") == 1


def test_a_waiting_run_whose_process_cannot_be_started_waits_on(
    root: Path, logged: Project, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As where the service's environment is installed anew beside it."""
    about = {"root": str(root), "python": sys.executable, "day": "2026-11-23"}
    folder = waiting_job(root, ("of", "nobody"), deadline=time.time() + 600, **about)
    with monkeypatch.context() as away:
        away.setattr(sys, "executable", "/nowhere/python")
        client = client_of(root, environ=logged.environment(), poll_s=1)
        client.get(f"/api/bench/run/{folder.name}")  # whoever asks for it has it watched
        for _ in range(100):
            if "No such file or directory: '/nowhere/python'" in caplog.text:
                break
            time.sleep(0.1)
        assert f"{folder} is passed over: FileNotFoundError: " in caplog.text
        found = client.get(f"/api/bench/run/{folder.name}").json()
        assert (found["state"], found["tasks"]) == ("waiting", [{"task": "wait", "state": "waiting"}])
    until(client, f"/api/bench/run/{folder.name}", "failed")  # its baseline is not there


def test_services_of_one_project_start_no_more_at_once_than_one_may(
    root: Path, logged: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = Jobs._running

    def slowly(self: Jobs) -> list[str]:
        found = count(self)
        time.sleep(0.5)
        return found

    monkeypatch.setattr(Jobs, "_running", slowly)
    place = Place(root=root, python=Path(sys.executable), tracking_uri=f"sqlite:///{root}/mlflow.db")
    ended: list[str] = []

    def start() -> None:
        jobs = Jobs(project=place, folder=root / "jobs", environ=logged.environment(), most=1, open_store=place.store)
        try:
            ended.append(jobs.start({"suite": "nowhere", "experiment": EXPERIMENT}).state)
        except BusyError:
            ended.append("busy")

    threads = [threading.Thread(target=start) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list((root / "jobs").iterdir())) == 1, ended


def test_a_job_that_cannot_be_started_says_why_and_leaves_nothing(tmp_path: Path, logged: Project, root: Path) -> None:
    gone = Place(root=tmp_path / "gone", python=Path(sys.executable), tracking_uri="sqlite:///x.db")
    jobs = Jobs(project=gone, folder=tmp_path / "jobs", environ={}, most=1, open_store=gone.store)
    with pytest.raises(StartError, match=r"the run was not started: .*No such file or directory: .*gone"):
        jobs.start({"suite": "evals"})
    assert list((tmp_path / "jobs").iterdir()) == []
    (root / ".promptbench").mkdir(exist_ok=True)
    (root / ".promptbench/jobs").symlink_to("/nowhere/jobs")
    answer = client_of(root, environ=logged.environment()).post("/api/bench/run", json={"suite": "evals"})
    assert "the run was not started: " in problem(answer, 503)


def test_jobs_whose_place_is_a_file_are_told_by_name(root: Path, logged: Project) -> None:
    (root / ".promptbench").mkdir(exist_ok=True)
    (root / ".promptbench/jobs").touch()
    client = client_of(root, environ=logged.environment())
    told = re.escape(f"{root}/.promptbench/jobs, which cannot be read (Not a directory): make it a folder")
    assert re.search(told, problem(client.post("/api/bench/run", json={"suite": "evals"}), 503))
    assert re.search(told, problem(client.get("/api/bench/run/bench-x"), 503))


def test_an_address_that_is_none_is_an_mlflow_that_does_not_answer(root: Path) -> None:
    client = client_of(root, tracking_uri="http://[::1")
    assert problem(client.get("/api/health"), 503).startswith("MLflow does not answer")


def test_a_project_that_was_moved_away_is_not_one_where_nothing_ran_yet(root: Path, logged: Project) -> None:
    project = copy_of(logged, root / "project")
    client = client_of(project, environ=logged.environment())
    assert client.get("/api/bench/suites").json()["files"]
    project.rename(root / "moved")
    told = f"the project {project} is not there any more: bring it back, or start this service anew with --root"
    for path in ("experiments", f"leaderboard/{EXPERIMENT}", "suites", "run/bench-x"):
        assert problem(client.get(f"/api/bench/{path}"), 503) == told
    assert problem(client.post("/api/bench/run", json={"suite": "evals"}), 503) == told
    assert problem(client.get("/api/health"), 503).startswith("MLflow does not answer: look after the database's file")
    assert not project.exists()
    (root / "moved").rename(project)
    assert EXPERIMENT in {e["name"] for e in client.get("/api/bench/experiments").json()["experiments"]}


def test_a_job_whose_disk_is_full_says_why_it_failed(tmp_path: Path) -> None:
    """Its log has no room, and its state the room that it had set aside."""
    folder = tmp_path / "bench-20261123T120000-00000000"
    folder.mkdir()
    about = {"root": str(tmp_path), "python": sys.executable, "day": "2026-11-23", "started_at": "2026-11-23T12:00:00Z"}
    (folder / "job.json").write_text(json.dumps({**about, "request": {"suite": "evals/gone.yaml"}}))
    with (folder / "lock").open("w") as lock, Path("/dev/full").open("w") as log:
        command = [sys.executable, "-m", "pytest_promptbench.airflow.alone", str(folder), "collect", str(lock.fileno())]
        environ = {**os.environ, "MLFLOW_TRACKING_URI": "sqlite:///x.db"}
        subprocess.run(command, stdout=log, stderr=log, env=environ, pass_fds=(lock.fileno(),), check=False)
    place = Place(root=tmp_path, python=Path(sys.executable), tracking_uri="sqlite:///x.db")
    found = Jobs(project=place, folder=tmp_path, environ={}, most=1, open_store=place.store).find(folder.name)
    assert found is not None
    assert (found.state, found.ended_at is None) == ("failed", False)
    assert found.log[0].startswith("== failed: ")
    assert "evals/gone.yaml" in found.log[0]
    assert not (folder / "reserve").exists()


def test_of_a_job_whose_process_was_killed_the_end_is_not_known(tmp_path: Path) -> None:
    folder = tmp_path / "bench-20261123T120000-00000000"
    folder.mkdir()
    (folder / "job.json").write_text('{"started_at": "2026-11-23T12:00:00Z", "request": {"suite": "evals"}}')
    (folder / "lock").touch()
    (folder / "log.txt").write_bytes(b"one\n\xff\x1b[31mtwo\n")
    (folder / "state.json").write_text('{"state": "running", "steps": {"collect": "success", "judge": "running"}}')
    place = Place(root=tmp_path, python=Path(sys.executable), tracking_uri="sqlite:///x.db")
    jobs = Jobs(project=place, folder=tmp_path, environ={}, most=1, open_store=place.store)
    found = jobs.find(folder.name)
    assert found is not None
    assert (found.state, found.exit_code, found.log[:2]) == ("lost", None, ("one", "\ufffd␛[31mtwo"))
    assert found.steps == {"collect": "success", "judge": "lost"}, "nothing of it runs"
    assert found.log[2].startswith("== lost: its process ended without a word")
    assert "start the run anew" in found.log[2]
    assert jobs.find("../" + folder.name) is None


@pytest.mark.parametrize("how", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_run_whose_process_is_ended_pays_for_nothing_more_and_keeps_what_is_paid(
    root: Path, logged: Project, how: signal.Signals
) -> None:
    """Also where the service was started with an ignored SIGINT, as a script's ``&`` does."""
    client = client_of(root, environ=logged.environment(), max_jobs=1)
    asked = {"suite": "evals", "experiment": how.name, "concurrency": 1}
    logged.provider.latency_s = 1.0
    before, handler = logged.provider.count, signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        location = client.post("/api/bench/run", json=asked).headers["location"]
        while logged.provider.count < before + 3:
            assert client.get(location).json()["state"] == "running"
            time.sleep(0.1)
        about = json.loads((root / ".promptbench/jobs" / location.rpartition("/")[2] / "job.json").read_text())
        os.kill(about["pid"], how)
        if any(" pytest " in line for line in children_of(root)):
            assert "the most at once" in problem(client.post("/api/bench/run", json=asked), 429)
        state = until(client, location, "lost", "failed")
    finally:
        signal.signal(signal.SIGINT, handler)
        logged.provider.latency_s = 0.0
    assert state["state"] == ("lost" if how is signal.SIGKILL else "failed"), state
    assert [line for line in children_of(root) if " pytest " in line] == []
    asked_for = logged.provider.count - before
    assert asked_for < 12
    again = Project(root, logged.provider).pytest("--bench-experiment", how.name)
    assert again.code == 0, again.text
    assert logged.provider.count - before <= 13, "all but the one that was in flight are kept"


# -- Airflow, as far as its REST API goes


class ScriptedAirflow:
    """What ``bench_collect`` needs of Airflow's API server, on loopback."""

    def __init__(self) -> None:
        self.runs: dict[str, Any] = {}
        self.refuse: tuple[int, str] | None = None
        self.paused = False
        self.log: list[dict[str, Any]] = [{"event": "4 passed"}]
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

            def reply(self, status: int, body: object) -> None:
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                if path == "/api/v2/monitor/health":
                    return self.reply(200, {"metadatabase": {"status": "healthy"}})
                if path == "/api/v2/dags/bench_collect":
                    return self.reply(200, {"dag_id": "bench_collect", "is_paused": outer.paused})
                _, _, rest = path.partition("/dagRuns/")
                run, _, what = rest.partition("/")
                if self.headers["Authorization"] != "Bearer jwt" or run not in outer.runs:
                    return self.reply(404, {"detail": "not found"})
                if what == "":
                    return self.reply(200, {"state": "running", "start_date": "2026-11-23T12:00:00Z", "end_date": None,
                                            "conf": outer.runs[run]["conf"]})  # fmt: skip
                task = {"task_id": "collect", "map_index": 1, "state": "running", "try_number": 1,
                        "start_date": "2026-11-23T12:00:01Z"}  # fmt: skip
                if what == "taskInstances":
                    return self.reply(200, {"task_instances": [task, {"task_id": "compare", "state": None}]})
                return self.reply(200, {"content": outer.log})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if self.path == "/auth/token":
                    good = body == {"username": "bench", "password": "secret"}
                    return self.reply(201 if good else 401, {"access_token": "jwt"} if good else {"detail": "no"})
                if outer.refuse is not None:
                    return self.reply(outer.refuse[0], {"detail": outer.refuse[1]})
                assert self.path == "/api/v2/dags/bench_collect/dagRuns"
                outer.runs[body["dag_run_id"]] = body
                return self.reply(200, {"dag_run_id": body["dag_run_id"], "state": "queued"})

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def airflow() -> Iterator[ScriptedAirflow]:
    scripted = ScriptedAirflow()
    yield scripted
    scripted.close()


def with_airflow(root: Path, url: str, password: str = "secret") -> httpx.Client:
    return client_of(root, airflow=AirflowSettings(url=url, username="bench", password=password))


def test_a_run_is_airflows_where_it_is_configured(logged: Project, airflow: ScriptedAirflow) -> None:
    client = with_airflow(logged.root, airflow.url)
    assert client.get("/api/health").json()["airflow"] is True
    asked = {"suite": "evals/tips.yaml", "models": ["haiku"], "shards": 2, "judge": "both"}
    started = client.post("/api/bench/run", json=asked).json()
    assert (started["where"], started["state"]) == ("airflow", "queued")
    sent = airflow.runs[started["id"]]
    assert sent == {
        "logical_date": None, "dag_run_id": started["id"], "conf": {**asked, "experiment": started["experiment"]},
    }  # fmt: skip
    assert re.fullmatch(r"bench-20\d\d-\d\d-\d\d", started["experiment"])
    state = client.get(f"/api/bench/run/{started['id']}").json()
    assert state["state"] == "running"
    assert state["tasks"] == [{"task": "collect[1]", "state": "running"}, {"task": "compare", "state": None}]
    assert state["log"] == ["4 passed"]
    assert state["experiment"] == started["experiment"]
    problem(client.get("/api/bench/run/bench-unknown"), 404)
    assert not (logged.root / ".promptbench" / "jobs").exists()


@pytest.mark.parametrize(
    ("refuse", "status", "message"),
    [
        ((400, "'x' is not of type integer"), 422, "Airflow refuses the configuration: 'x' is not of type integer"),
        ((404, "DAG not found"), 503, "has no DAG bench_collect: put dags/bench_collect.py where"),
        ((403, "Forbidden"), 503, "does not let bench do that"),
        ((500, "broken"), 503, "answers HTTP 500: broken"),
    ],
)
def test_what_airflow_refuses(
    logged: Project, airflow: ScriptedAirflow, refuse: tuple[int, str], status: int, message: str
) -> None:
    airflow.refuse = refuse
    answer = with_airflow(logged.root, airflow.url).post("/api/bench/run", json={"suite": "evals"})
    assert message in problem(answer, status)


def test_a_paused_dag_takes_no_run(logged: Project, airflow: ScriptedAirflow) -> None:
    """Airflow itself would answer 200 and keep the run queued."""
    airflow.paused = True
    answer = with_airflow(logged.root, airflow.url).post("/api/bench/run", json={"suite": "evals"})
    assert "the DAG bench_collect is paused in Airflow at http" in (detail := problem(answer, 503))
    assert "airflow dags unpause bench_collect" in detail
    assert airflow.runs == {}


def test_a_runs_log_says_what_a_task_failed_with(logged: Project, airflow: ScriptedAirflow) -> None:
    """As Airflow 3.3 logs it: the event names no reason."""
    reason = {"exc_type": "AirflowFailException", "exc_value": "the gate did not pass:\ntip: regressed", "frames": []}
    airflow.log = [
        {"event": "pytest ended with 1"},
        {"event": "Task failed with exception", "level": "error", "error_detail": [reason]},
        {"event": "::endgroup::", "error_detail": None},
    ]
    client = with_airflow(logged.root, airflow.url)
    run = client.post("/api/bench/run", json={"suite": "evals"}).json()["id"]
    assert client.get(f"/api/bench/run/{run}").json()["log"] == [
        "pytest ended with 1", "Task failed with exception", "AirflowFailException: the gate did not pass:",
        "tip: regressed", "::endgroup::",
    ]  # fmt: skip


def test_a_password_that_airflow_does_not_take(logged: Project, airflow: ScriptedAirflow) -> None:
    answer = with_airflow(logged.root, airflow.url, "wrong").post("/api/bench/run", json={"suite": "evals"})
    detail = problem(answer, 503)
    assert "refuses PROMPTBENCH_AIRFLOW_USERNAME and PROMPTBENCH_AIRFLOW_PASSWORD" in detail
    assert "wrong" not in detail


# -- what is down


def closed_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def test_airflow_down(logged: Project) -> None:
    client = with_airflow(logged.root, f"http://127.0.0.1:{closed_port()}")
    for response in (client.post("/api/bench/run", json={"suite": "evals"}), client.get("/api/bench/run/bench-1")):
        assert "Airflow at http://127.0.0.1" in (detail := problem(response, 503))
        assert "start its API server, or correct PROMPTBENCH_AIRFLOW_URL" in detail
    health = client.get("/api/health")
    expected = "Airflow does not answer: start its API server, or correct PROMPTBENCH_AIRFLOW_URL"
    assert problem(health, 503) == expected
    assert (health.json()["mlflow"], health.json()["airflow"]) == (True, False)
    assert not (logged.root / ".promptbench" / "jobs").exists()


@pytest.mark.parametrize(
    ("uri", "mend"),
    [
        ("http://team.example:5000", "Start MLflow's tracking server, or"),
        ("postgresql+psycopg2://me:sk-secret@db.example/mlflow", "Start the database's server, or"),
        ("sqlite:////srv/project/mlflow.db", "Look after the database's file and its disk, or"),
    ],
)
def test_the_remedy_is_one_for_the_store_that_is_there(tmp_path: Path, uri: str, mend: str) -> None:
    remedy = settings_of(tmp_path, tracking_uri=uri).mlflow_remedy
    assert remedy.startswith(mend)
    assert "sk-secret" not in remedy


def test_mlflow_down(logged: Project, monkeypatch: pytest.MonkeyPatch, reader: httpx.Client) -> None:
    packet = scored(reader.get(f"/api/bench/packet/{EXPERIMENT}").json())
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    client = client_of(logged.root, tracking_uri=f"http://user:pw@127.0.0.1:{closed_port()}", artifact_root=None)
    answers = [client.get(f"/api/bench/{p}") for p in ("experiments", f"leaderboard/{EXPERIMENT}")]
    answers.append(client.post("/api/bench/verdicts", json=packet))
    answers.append(client.post("/api/bench/run", json={"suite": "evals/tips.yaml"}))
    for answer in answers:
        detail = problem(answer, 503)
        assert "MLflow at http://***@127.0.0.1" in detail
        assert "Start MLflow's tracking server, or correct MLFLOW_TRACKING_URI" in detail
        assert "pw" not in detail
        assert answer.headers["retry-after"]
    health = client.get("/api/health")
    assert problem(health, 503).startswith(
        "MLflow does not answer: start MLflow's tracking server, or correct MLFLOW_TRACKING_URI (now http://***@127.0.0.1"
    )
    assert not (logged.root / ".promptbench" / "jobs").exists()
    page = client.get("/", headers={"Accept": "text/html"})
    assert (page.status_code, "Start MLflow" in page.text) == (503, True)


@contextmanager
def scripted_mlflow(status: int) -> Iterator[tuple[str, list[str]]]:
    """An MLflow that is well, and answers what is read with ``status``; its address, and the paths it was asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path.partition("?")[0])
            time.sleep(0.1)
            self.send_response(200 if self.path == "/health" else status)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()


def test_a_service_before_anything_ran_lists_nothing_and_makes_no_database(tmp_path: Path) -> None:
    with served(tmp_path) as address:
        assert httpx.get(f"{address}/api/health").status_code == 200
        assert httpx.get(f"{address}/api/bench/experiments").json()["total"] == 0
        assert "no experiment tip" in problem(httpx.get(f"{address}/api/bench/leaderboard/tip"), 404)
    assert not list(tmp_path.glob("mlflow*"))


def test_everybody_who_asks_for_health_at_once_has_mlflow_asked_once(tmp_path: Path) -> None:
    found: list[int] = []
    with scripted_mlflow(200) as (address, asked):
        client = client_of(tmp_path, tracking_uri=address, artifact_root=None)
        threads = [
            threading.Thread(target=lambda: found.append(client.get("/api/health").status_code)) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert (found, asked) == ([200] * 8, ["/health", "/api/2.0/mlflow/experiments/search"])


def test_an_mlflow_that_does_not_let_the_service_in_is_not_healthy(tmp_path: Path) -> None:
    with scripted_mlflow(401) as (address, _):
        answer = client_of(tmp_path, tracking_uri=address, artifact_root=None).get("/api/health")
    assert "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" in problem(answer, 503)


def test_an_mlflow_that_takes_a_connection_and_never_answers(root: Path) -> None:
    """Its client would wait 120 s, eight times."""
    assert {"MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"} <= set(FOR_WHO_WAITS)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(50)
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with served(root, MLFLOW_TRACKING_URI=uri, MLFLOW_HTTP_REQUEST_TIMEOUT="1") as address:
            began = time.monotonic()
            answer = httpx.get(f"{address}/api/bench/experiments", timeout=120)
            assert f"MLflow at {uri}" in problem(answer, 503)
            assert time.monotonic() - began < 60
            posted = httpx.post(f"{address}/api/bench/run", json={"suite": "evals"}, timeout=120)
            assert "Start MLflow's tracking server" in problem(posted, 503)
    assert not (root / ".promptbench" / "jobs").exists()


# -- the OpenAPI document


def test_every_answer_and_the_request_have_an_example_that_fits(reader: httpx.Client) -> None:
    document = reader.get("/api/openapi.json").json()
    shapes = document["components"]["schemas"]
    named = {
        response["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        for operations in document["paths"].values()
        for operation in operations.values()
        for status, response in operation["responses"].items()
        if status.startswith("2")
    }
    assert len(named) == 10
    for name in (*named, "RunRequest"):
        assert shapes[name].get("examples"), name
        for example in shapes[name]["examples"]:
            getattr(models, name).model_validate(example)
    assert shapes["RunRequest"]["additionalProperties"] is False
    assert set(document["paths"]) >= {"/api/health", "/api/bench/verdicts", "/api/bench/runs/{experiment}"}


def test_schemathesis_finds_no_way_to_break_it(logged: Project, tmp_path: Path) -> None:
    schemathesis = pytest.importorskip("schemathesis", reason="the document was NOT fuzzed (pip install schemathesis)")
    from schemathesis.specs.openapi.checks import positive_data_acceptance

    hypothesis = pytest.importorskip("hypothesis")
    app = create_app(settings_of(tmp_path, tracking_uri=f"sqlite:///{logged.root}/mlflow.db", token=TOKEN))
    schema = schemathesis.openapi.from_asgi("/api/openapi.json", app, headers={"Authorization": f"Bearer {TOKEN}"})
    seen: dict[str, set[int]] = {}
    quick = hypothesis.settings(
        max_examples=12, deadline=None, database=None, derandomize=True,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
    )  # fmt: skip

    @quick
    @hypothesis.given(hypothesis.strategies.data())
    def fuzz(data: Any) -> None:
        for operation in operations:
            case = data.draw(operation.as_strategy())
            response = case.call(headers={"Authorization": f"Bearer {TOKEN}"})
            seen.setdefault(operation.label, set()).add(response.status_code)
            assert response.status_code < 500, response.text
            # A packet or run that fits the schema may still name an item or a suite that is not there: 422.
            case.validate_response(response, excluded_checks=[positive_data_acceptance])

    operations = [result.ok() for result in schema.get_all_operations()]
    fuzz()
    assert len(seen) == 10
    assert not (tmp_path / ".promptbench").exists()
