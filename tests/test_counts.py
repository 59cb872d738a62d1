"""A guard on what a session costs, in counts that are the same on every machine: calls, statements, imports."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine

from pytest_promptbench.leaderboard import build_leaderboard
from pytest_promptbench.records import Answer, Candidate, Suite, Usage
from pytest_promptbench.session.bench import owners_of
from pytest_promptbench.session.plan import Planned, Task
from pytest_promptbench.tracking.address import sqlite_file
from pytest_promptbench.tracking.entry import Logged
from pytest_promptbench.tracking.store import TrackingStore

from .project import FEWER_PLUGINS, Project, migrated_database
from .provider import ScriptedProvider
from .scripted import cell
from .test_tracking import RUBRIC

STATEMENTS_A_CANDIDATE = 25
COMMITS_A_CANDIDATE = 2
STATEMENTS_A_READ = 4
"""Whatever the number of candidates, up to a page of 500."""


class Counts:
    def __init__(self) -> None:
        self.statements = self.commits = 0


@contextmanager
def counted(store: TrackingStore) -> Iterator[Counts]:
    """On this store's database: threads that earlier tests have left in this process may still ask others."""
    counts = Counts()
    database = str(sqlite_file(store.uri))

    def statement(connection: Any, *_: Any) -> None:
        counts.statements += connection.engine.url.database == database

    def commit(connection: Any) -> None:
        counts.commits += connection.engine.url.database == database

    event.listen(Engine, "before_cursor_execute", statement)
    event.listen(Engine, "commit", commit)
    try:
        yield counts
    finally:
        event.remove(Engine, "before_cursor_execute", statement)
        event.remove(Engine, "commit", commit)


def entries(start: int, count: int) -> list[Any]:
    answer = Answer(text="drink water", usage=Usage(prompt_tokens=3, completion_tokens=5), started_at=1e9)
    return [
        Logged(candidate=Candidate(cell=cell(f"s{i}"), answers=(answer,)), rubric=RUBRIC, session="s").entry("e")
        for i in range(start, start + count)
    ]


@pytest.fixture
def store(tmp_path: Path) -> TrackingStore:
    migrated_database(tmp_path / "mlflow.db")
    it = TrackingStore(f"sqlite:///{tmp_path}/mlflow.db", artifact_root=tmp_path / "mlartifacts")
    it.log(entries(0, 1))
    return it


def test_a_candidate_costs_so_many_statements_and_commits(store: TrackingStore) -> None:
    with counted(store) as counts:
        store.log(entries(1, 40))
    assert counts.statements <= 40 * STATEMENTS_A_CANDIDATE
    assert counts.commits <= 40 * COMMITS_A_CANDIDATE + 5


def test_a_leaderboard_takes_the_same_few_statements_for_more_candidates(store: TrackingStore) -> None:
    found = []
    for start, more in ((1, 9), (10, 90)):
        store.log(entries(start, more))
        with counted(store) as counts:
            candidates = store.read("e")
        assert len(candidates) == start + more
        build_leaderboard(candidates, RUBRIC, experiment="e", task="tip")
        found.append(counts.statements)
    assert found[0] == found[1] <= STATEMENTS_A_READ


def test_a_cell_is_one_request_and_a_rerun_is_none(tmp_path: Path) -> None:
    with ScriptedProvider() as provider:
        project = Project(tmp_path, provider).write()
        migrated_database(tmp_path / "mlflow.db")
        assert project.pytest().code == 0
        assert len(provider.requests) == 12
        assert project.pytest().code == 0
        assert len(provider.requests) == 12


LOOKS = """
import os
from pytest_promptbench.session import Bench

look_ahead = Bench.look_ahead

def counted(self, cells):
    cells = list(cells)
    with open(f"ahead-{os.getpid()}", "a") as file:
        file.write(f"{len(cells)} ")
    look_ahead(self, cells)

Bench.look_ahead = counted
"""


def test_a_worker_looks_at_each_test_ahead_once(tmp_path: Path) -> None:
    """Else its cost would grow with the square of its tests. A stolen test is looked at by two workers."""
    with ScriptedProvider() as provider:
        project = Project(tmp_path, provider, scenarios=10).write()
        migrated_database(tmp_path / "mlflow.db")
        project.file("evals/conftest.py", LOOKS)
        assert project.pytest("-n", "2").code == 0
    looks = [sum(map(int, file.read_text().split())) for file in tmp_path.glob("ahead-*")]
    assert len(looks) == 2
    assert 38 <= sum(looks) <= 80, "40 cells, but for the test that each worker runs first"


CALLS = """
import sys

calls = 0

def count(frame, event, argument):
    global calls
    calls += event == "call" and "/pytest_promptbench/" in frame.f_code.co_filename

def pytest_collection(session):
    sys.setprofile(count)

def pytest_collection_finish(session):
    sys.setprofile(None)
    print("calls:", calls)
"""
OWN_SCENARIOS = """
import pytest

@pytest.mark.parametrize("scenario", [f"s{i}" for i in range(NUMBER)])
@pytest.mark.promptbench("tips.yaml", experiment="other")
def test_own(candidate): ...
"""


def test_collecting_takes_no_more_calls_a_cell_where_there_are_more(tmp_path: Path) -> None:
    found = []
    with ScriptedProvider() as provider:
        for number in (20, 80):
            project = Project(tmp_path / str(number), provider, scenarios=number).write()
            project.file("conftest.py", CALLS)
            project.file("evals/test_own.py", OWN_SCENARIOS.replace("NUMBER", str(number)))
            result = project.pytest("--collect-only", "-q", "-s")
            assert f"{8 * number} tests collected" in result.out, result.text
            found.append(int(result.out.split("calls: ")[1].split()[0]) / number)
    assert found[1] <= found[0]


def test_whose_a_cell_is_compares_suites_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def task(experiment: str) -> Task:
        suite = Suite(name="s", path="s.yaml", task="tip", rubric=RUBRIC, prompts=(), models=(), scenarios=())
        return Task(suite=suite, experiment=experiment)

    one, same, other = task("one"), task("one"), task("other")
    compared: list[object] = []
    equal = Task.__eq__
    monkeypatch.setattr(Task, "__eq__", lambda self, it: (compared.append(it), equal(self, it))[1])
    owners = owners_of([Planned(task=t, cell=cell(f"s{i}")) for i in range(50) for t in (one, same, other)])
    assert [[t.experiment for t in tasks] for tasks in owners.values()] == [["one", "other"]] * 50
    assert len(compared) <= 3


def test_starting_up_imports_the_plugin_and_nothing_heavy(tmp_path: Path) -> None:
    """The modules that a pytest without evals loads because of us, by name."""
    (tmp_path / "test_plain.py").write_text(
        "import sys, json, pathlib\n\ndef test_it():\n"
        "    ours = sorted(m for m in sys.modules if m.startswith('pytest_promptbench'))\n"
        "    pathlib.Path('modules.json').write_text(json.dumps([ours, sorted(sys.modules)]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *FEWER_PLUGINS], cwd=tmp_path, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout
    import json

    ours, everything = json.loads((tmp_path / "modules.json").read_text())
    assert ours == [f"pytest_promptbench{module}" for module in ("", ".plugin", ".plugin.options", ".plugin.parts")]
    heavy = {"mlflow", "litellm", "pandas", "numpy", "pydantic", "yaml", "jinja2", "rich.console", "gepa", "fastapi"}
    assert not heavy & set(everything)
