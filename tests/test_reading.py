"""--bench-read: leaderboard and gate of what MLflow holds, with no test and no provider."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .project import Project, migrated_database
from .provider import Fault, ScriptedProvider
from .test_autojudge import project_in, reply


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    migrated_database(tmp_path / "mlflow.db")
    with ScriptedProvider() as provider:
        yield Project(tmp_path, provider, models=("haiku",), prompts=("v1",), scenarios=8).write()


def test_what_failed_and_what_was_never_generated_stays_so(project: Project) -> None:
    project.provider.script("situation-3", Fault(status=400))
    project.file("evals/test_tips.py", (project.root / "evals/test_tips.py").read_text() + "    assert 0\n")
    assert project.pytest("--bench-experiment", "e", "-k", "not s7").code == 1
    session = project.leaderboard()
    asked = project.provider.count
    read = project.pytest("--bench-experiment", "e", "--bench-read", "-n", "2")
    assert read.code == 0, read.text
    assert "read 7 candidates of e" in read.out
    assert "no tests ran" in read.out
    assert project.leaderboard() == session
    (row,) = session["rows"]
    assert (row["candidates"], row["failed"], row["pending"]) == (7, 1, 6)
    assert project.provider.count == asked


def test_the_gate_goes_over_what_is_read(project: Project) -> None:
    for name, value in (("old", 5), ("new", 2)):
        project.provider.reply = lambda body, n=name: f"{n} {body['messages'][-1]['content']}"
        assert project.pytest("--bench-experiment", name, "--bench-no-cache").code == 0
        assert project.pytest("--judge-export", "p.json", "--bench-experiment", name).code == 0
        project.score("p.json", value=value)
        assert project.pytest("--judge-apply", "p.json").code == 0
    saved = project.pytest("--bench-read", "--bench-save", "--bench-experiment", "old")
    assert (saved.code, "baseline: " in saved.out) == (0, True), saved.text
    asked = project.provider.count
    same = project.pytest("--bench-read", "--bench-compare", "--bench-experiment", "old")
    assert (same.code, "gate of tip: PASS" in same.out) == (0, True), same.text
    worse = project.pytest("--bench-read", "--bench-compare", "--bench-experiment", "new")
    assert (worse.code, "gate of tip: FAIL" in worse.out) == (1, True), worse.text
    assert project.provider.count == asked


def test_the_automatic_judge_scores_what_is_logged_and_no_cell_is_generated(tmp_path: Path) -> None:
    with ScriptedProvider(reply=reply) as provider:
        project = project_in(tmp_path, provider)
        assert project.pytest("-k", "v1 and not s2").code == 0
        read = project.pytest("--bench-read", "--judge-auto")
        assert read.code == 0, read.text
        assert "automatic judge judge: 2 scored" in read.out
        assert [r["model"] for r in provider.requests].count("judge") == 2
        assert provider.count == 4
        (row,) = project.leaderboard()["rows"]
        assert (row["candidates"], row["tier"]) == (2, "auto")
        provider.script("Score it now", Fault(status=401))
        assert project.pytest("-k", "v1").code == 0
        down = project.pytest("--bench-read", "--judge-auto")
        assert (down.code, "NOT JUDGED: " in down.out) == (1, True), down.text


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("-k", "nothing"), "--bench-read: no promptbench test was selected"),
        (("--bench-experiment", "nowhere"), "no experiment 'nowhere'. Run the evals first"),
        (("--bench-experiment", "default"), "no experiment 'default'. Did you mean 'Default'? Run the evals first"),
        (
            ("--bench-experiment", "Default"),
            "under the rubric tip-v1 as it is now. Run the evals first",
        ),
        (("--judge-export", "p.json"), "are two steps: give one of them"),
        (("--judge-auto",), "--judge-auto needs the suite's automatic judge"),
    ],
)
def test_mistakes(project: Project, args: tuple[str, ...], message: str) -> None:
    result = project.pytest("--bench-read", *args)
    assert result.code in (2, 4), result.text
    assert message in result.text
