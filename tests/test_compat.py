"""Beside what else a user's pytest may have: options of pytest's and xdist's own, and other plugins."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

import pytest_promptbench
from pytest_promptbench.scheduling import workers

from .project import TEST, Project, migrated_database
from .provider import Fault, ScriptedProvider

RESTORES = """
import sys, time
from unittest import mock

import pytest

@pytest.mark.parametrize("i", range(40))
def test_without_an_optional_library(i):
    with mock.patch.dict(sys.modules, {"not_here": None}):
        time.sleep(0.05)
"""
FAILING = TEST.replace("candidate.text.strip()", 'candidate.scenario != "s1"')


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as provider:
        yield provider


@pytest.fixture
def project(tmp_path: Path, provider: ScriptedProvider) -> Project:
    migrated_database(tmp_path / "mlflow.db")
    return Project(tmp_path, provider, models=("haiku",)).write()


def everything_once(project: Project) -> None:
    """All six cells were asked for once, logged once, and are on the leaderboard."""
    assert project.provider.count == 6
    assert [r.info.status for r in project.runs()] == ["FINISHED"] * 6
    assert {row["candidates"] for row in project.leaderboard()["rows"]} == {3}


@pytest.mark.parametrize(
    "args",
    [
        ("-p", "no:xdist"),
        ("-p", "no:terminal"),
        pytest.param(("-p", "no:terminal", "-n", "2"), marks=pytest.mark.slow),
        pytest.param(("-n", "2", "--dist", "no"), marks=pytest.mark.slow),
        pytest.param(("-n", "2", "--dist", "load"), marks=pytest.mark.slow),
        pytest.param(("-n", "2", "--dist", "loadscope"), marks=pytest.mark.slow),
        pytest.param(("-n", "2", "--dist", "loadfile"), marks=pytest.mark.slow),
        pytest.param(("-n", "2", "--dist", "loadgroup"), marks=pytest.mark.slow),
        ("-n", "2", "--dist", "worksteal"),
        pytest.param(("--dist", "each", "--tx", "2*popen"), marks=pytest.mark.slow),
        ("-p", "no:logging", "-s"),
        ("--import-mode", "importlib"),
        ("-W", "error"),
    ],
    ids=" ".join,
)
def test_a_session_under_other_options_of_pytest_and_xdist(project: Project, args: tuple[str, ...]) -> None:
    result = project.pytest(*args)
    assert result.code == 0, result.text
    everything_once(project)


@pytest.mark.parametrize(
    ("tx", "count"),
    [((), 1), (("popen", "popen"), 2), (("2*popen", "popen"), 3), (("ssh=host//python=py*", "popen"), 2)],
)
def test_workers_are_counted_however_xdist_is_asked_for_them(tx: tuple[str, ...], count: int) -> None:
    """They share requests in flight, and wait for one another's money."""
    assert workers(tx) == count


@pytest.mark.parametrize("options", [(), pytest.param(("-n", "2"), marks=pytest.mark.slow)], ids=["alone", "-n 2"])
def test_stopping_at_the_first_failure_loses_no_answer(project: Project, options: tuple[str, ...]) -> None:
    project.file("evals/test_tips.py", FAILING)
    first = project.pytest("-x", *options)
    assert first.code in {1, 2}, first.text  # xdist interrupts its session, pytest only ends it
    assert first.outcomes()["failed"] >= 1
    asked = project.provider.count
    assert asked == len(project.runs()), "what was asked for is logged"
    assert project.pytest(*options).outcomes() == {"failed": 2, "passed": 4}
    everything_once(project)


def test_last_failed_and_stepwise_select_cells_and_ask_nobody_again(project: Project) -> None:
    project.file("evals/test_tips.py", FAILING)
    first = project.pytest("-p", "cacheprovider").outcomes()
    assert (first["failed"], first["passed"]) == (2, 4)
    again = project.pytest("-p", "cacheprovider", "--lf")
    assert again.outcomes().get("failed") == 2
    assert "passed" not in again.outcomes()
    project.pytest("-p", "cacheprovider", "-p", "stepwise", "--sw")
    stepped = project.pytest("-p", "cacheprovider", "-p", "stepwise", "--sw")
    assert stepped.outcomes().get("failed") == 1, "it stops at the first failure"
    everything_once(project)


@pytest.mark.slow
def test_in_random_order(project: Project) -> None:
    needs("pytest_randomly")
    result = project.pytest("-p", "randomly", "-n", "2", "-v")
    assert result.code == 0, result.text
    assert "--randomly-seed=" in result.out
    everything_once(project)


def test_a_rerun_of_a_failed_test_gets_the_same_candidate(project: Project) -> None:
    needs("pytest_rerunfailures")
    project.file("evals/test_tips.py", FAILING)
    result = project.pytest("-p", "rerunfailures", "--reruns", "2")
    assert result.outcomes() == {"failed": 2, "passed": 4, "rerun": 4}
    everything_once(project)


def test_what_a_thread_tells_of_a_session_imports_nothing(tmp_path: Path) -> None:
    """An import beside a test that puts ``sys.modules`` back fails, and the thread would be gone."""
    code = f"""
import sys
from pathlib import Path
from pytest_promptbench.generation import Progress
from pytest_promptbench.records import MARK
from pytest_promptbench.session.plan import Folder
before = set(sys.modules)
folder = Folder(Path({str(tmp_path)!r}))
folder.write("progress-0.json", Progress().to_json())
folder.add_made(0, ["a" * MARK])
folder.read("stop.json")
assert folder.made() == {{"a" * MARK}}
print(sorted(set(sys.modules) - before))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


RERUNS = """
from _pytest.runner import runtestprotocol


def pytest_runtest_protocol(item, nextitem):
    reports = runtestprotocol(item, log=False, nextitem=nextitem)
    if any(r.failed for r in reports):
        item._initrequest()
        reports = runtestprotocol(item, log=False, nextitem=nextitem)
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    return True
"""
"""What all plugins have in common that run a test once more, as pytest-retry does."""


@pytest.mark.parametrize("by", ["rerunfailures", "another plugin"])
def test_a_rerun_of_a_failed_generation_asks_again(project: Project, by: str) -> None:
    project.provider.script("situation-1", Fault(400, body="not today"), times=2)
    if by == "rerunfailures":
        needs("pytest_rerunfailures")
        result = project.pytest("-p", "rerunfailures", "--reruns", "1")
        assert result.outcomes() == {"passed": 6, "rerun": 2}, result.text
    else:
        project.file("conftest.py", RERUNS)
        result = project.pytest()
        assert result.outcomes() == {"passed": 6}, result.text
    assert project.provider.count == 6 + 2
    assert [r.info.status for r in project.runs()] == ["FINISHED"] * 6, "the runs of what failed are completed"
    assert all((row["candidates"], row["failed"]) == (3, 0) for row in project.leaderboard()["rows"])


def test_a_test_that_times_out_does_not_lose_its_answer(project: Project) -> None:
    needs("pytest_timeout")
    project.provider.latency_s = 4.0
    result = project.pytest("-p", "timeout", "--timeout", "2", "-k", "v1 and s0")
    assert result.code == 1
    assert "Timeout" in result.out
    project.provider.latency_s = 0.0
    assert project.pytest("-p", "timeout", "--timeout", "60").code == 0
    everything_once(project)


@pytest.mark.parametrize("args", [(), pytest.param(("-n", "1"), marks=pytest.mark.slow)], ids=["alone", "worker"])
def test_tests_that_put_sys_modules_back_do_not_break_the_import_of_litellm(
    project: Project, args: tuple[str, ...]
) -> None:
    """It is imported in a thread, by a process that has not yet; what is half imported would be lost."""
    project.environ["PYTHONHASHSEED"] = "0"  # a new interpreter, not one forked from where LiteLLM is imported
    project.file("evals/test_first.py", RESTORES)
    result = project.pytest("evals/test_first.py", "evals/test_tips.py", *args)
    assert result.outcomes() == {"passed": 46}, result.text
    everything_once(project)


def test_an_async_test(project: Project) -> None:
    needs("pytest_asyncio")
    project.file("pytest.ini", "[pytest]\nasyncio_mode = auto\n")
    project.file("evals/test_tips.py", TEST.replace("def test_tip", "async def test_tip"))
    result = project.pytest("-p", "asyncio", "-n", "2")
    assert result.outcomes() == {"passed": 6}, result.text
    everything_once(project)


@pytest.mark.slow
def test_with_coverage(project: Project) -> None:
    needs("pytest_cov")
    result = project.pytest("-p", "pytest_cov", "--cov=evals", "-n", "2")
    assert result.code == 0, result.text
    assert "evals/test_tips.py" in result.out
    everything_once(project)


@pytest.mark.slow
def test_beside_all_five_at_once(project: Project) -> None:
    for plugin in ("pytest_randomly", "pytest_rerunfailures", "pytest_timeout", "pytest_asyncio", "pytest_cov"):
        needs(plugin)
    names = ("randomly", "rerunfailures", "timeout", "asyncio", "pytest_cov")
    loaded = [x for name in names for x in ("-p", name)]
    result = project.pytest(*loaded, "--reruns", "1", "--timeout", "60", "--cov=evals", "-n", "2")
    assert result.outcomes() == {"passed": 6}, result.text
    everything_once(project)


@pytest.mark.skipif("PROMPTBENCH_WHEEL" not in os.environ, reason="only tox says that the wheel is to be tested")
def test_the_matrix_tests_the_installed_wheel(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import pytest_promptbench; print(pytest_promptbench.__file__)"]
    child = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    for where in (pytest_promptbench.__file__, child):
        assert "site-packages" in Path(where).parts, "the checkout shadows the wheel"


def needs(plugin: str) -> None:
    if find_spec(plugin) is None:
        pytest.skip(f"NOT TRIED beside {plugin}, which is not installed (pip install -e '.[dev]')")
