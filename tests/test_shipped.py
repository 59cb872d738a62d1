"""The evals that are shipped, on the real embedded models."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

from pytest_promptbench.catalog import load_suite
from pytest_promptbench.localmodels import installed
from pytest_promptbench.starter import SHIPPED

from .project import Project, children_of
from .provider import ScriptedProvider

ROOT = Path(__file__).parent.parent


def test_the_suite_is_as_large_and_varied_as_promised() -> None:
    suite = load_suite(ROOT / "evals/tips.yaml", root=ROOT, environ={}, reachable=lambda _: False)
    assert len(suite.scenarios) >= 12
    assert [p.version for p in suite.prompts] == ["v1", "v2-mentor", "v3-few-shot"]
    assert len(suite.models) == 2
    assert all(m.embedded for m in suite.models)
    assert suite.rubric.top == 15
    assert len({t for s in suite.scenarios for t in s.tags}) >= 8
    assert len(suite.rubric.text) <= 8000, "longer, it would not fit into the tag rubric_text"
    keys = {"ANTHROPIC_API_KEY": "x", "OPENAI_API_KEY": "x", "GEMINI_API_KEY": "x"}
    hosted = load_suite(ROOT / "evals/tips.yaml", root=ROOT, environ=keys, reachable=lambda _: True)
    assert len(hosted.models) >= 5
    assert hosted.judge is not None


def test_the_judges_command_is_allowed_what_it_tells_to_run() -> None:
    text = (ROOT / ".claude/commands/judge-mlflow.md").read_text()
    allowed = tuple(re.findall(r"Bash\(([^)]*?)(?::\*)?\)", text))
    told = re.findall(r"`((?:head |\| cut |ls |date)[^`]*)`|^ +(pytest .+)$", text, re.MULTILINE)
    steps = [step.strip() for line in told for step in "".join(line).split("|") if step.strip()]
    assert {step.split()[0] for step in steps} == {"pytest", "head", "tail", "cut", "ls", "date"}
    assert [step for step in steps if not step.startswith(allowed)] == []


def test_the_judges_command_signs_before_it_scores_and_gives_each_shard_a_packet_that_it_may_edit() -> None:
    """Two sittings at once would otherwise take one packet for theirs, each."""
    text = (ROOT / ".claude/commands/judge-mlflow.md").read_text()
    steps = dict(re.findall(r"^(\d)\. \*\*(\w+)", text, re.MULTILINE))
    assert list(steps.values()) == ["Export", "Sign", "Read", "Score", "Check", "Apply", "Report"]
    assert [*steps] == list("1234567")
    (shard,) = set(re.findall(r"`(packet-I[^`]+)`", text))
    assert any(fnmatch(shard, allowed) for allowed in re.findall(r"Edit\((.+?)\)", text))


@pytest.mark.embedded
def test_real_models_answer_real_scenarios_under_three_prompts(tmp_path: Path) -> None:
    reason = installed("embedded/smollm2-135m")
    if reason:
        pytest.skip(reason)
    for folder in ("evals", "prompts", "rubrics"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    with ScriptedProvider() as unused:
        project = Project(tmp_path, unused)
        scenario = json.dumps(load_suite(ROOT / "evals/tips.yaml", root=ROOT, environ=os.environ).scenarios[0].id)[1:-1]
        result = project.pytest("-n", "2", "-k", scenario)
        assert result.code == 0, result.text
        assert result.outcomes() == {"passed": 6}
        candidates = project.store.texts(project.store.read(project.experiment()))
        assert len({c.outputs for c in candidates}) >= 5, "two parameter sets and three prompts give different texts"
        assert all(len((c.outputs or ("",))[0].split()) > 2 for c in candidates)
        assert all(c.cost_usd is None and c.completion_tokens for c in candidates)
        assert "left out: haiku" in result.out
        assert children_of(tmp_path) == [], "the model server ends with the session"


def init(*args: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest_promptbench", "init", *args]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=120)


def files_of(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def test_init_makes_a_project_that_pytest_collects(tmp_path: Path) -> None:
    result = init("new one", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    made = tmp_path / "new one"
    assert files_of(made) == {*SHIPPED, "pytest.ini", ".gitignore"}
    assert all((made / name).read_bytes() == (ROOT / name).read_bytes() for name in SHIPPED)
    assert "\nnext:\ncd 'new one'\npytest evals/ -n auto " in result.stdout
    with ScriptedProvider() as unused:
        listed = Project(made, unused).pytest("evals/", "--collect-only", "-q")
    assert listed.code == 0, listed.text
    assert "test_tip[smollm2-focused-v1-bad-sleep]" in listed.out


def test_init_leaves_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.pytest.ini_options]\n")
    (tmp_path / "evals").mkdir()
    (tmp_path / "evals" / "tips.yaml").write_text("mine")
    (tmp_path / ".gitignore").symlink_to("nowhere")
    first = init(cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert "kept   evals/tips.yaml\n" in first.stdout
    assert "kept   .gitignore\n" in first.stdout
    assert "next:\npytest evals/ -n auto " in first.stdout, "no cd where one is"
    assert (tmp_path / "evals" / "tips.yaml").read_text() == "mine"
    assert not (tmp_path / "nowhere").exists()
    assert not (tmp_path / "pytest.ini").exists(), "pytest has a root here, and it stays"
    second = init(cwd=tmp_path)
    assert "wrote" not in second.stdout
    assert second.stdout.count("kept ") == len(SHIPPED) + 1


def test_init_tells_what_git_is_to_ignore_where_a_file_of_that_name_is_there(tmp_path: Path) -> None:
    """Below a folder with a configuration, evals write there, and a ``.gitignore`` of the new folder is of no use."""
    (tmp_path / "pyproject.toml").write_text("")
    told = init("sub", cwd=tmp_path).stdout
    assert f"\n{tmp_path}/.gitignore lacks what evals write: .promptbench/ /mlflow.db* /mlartifacts/\n" in told
    assert not (tmp_path / "sub" / ".gitignore").exists()
    (tmp_path / ".gitignore").write_text("/.promptbench\nmlflow.db*\n")
    again = init(cwd=tmp_path).stdout
    assert f"\n{tmp_path}/.gitignore lacks what evals write: /mlartifacts/\n" in again
    assert "lacks" not in init(str(tmp_path.parent / f"{tmp_path.name}-own"), cwd=tmp_path).stdout


def test_init_says_what_keeps_its_suite_from_running_beside_files_that_were_there(tmp_path: Path) -> None:
    (tmp_path / "evals").mkdir()
    (tmp_path / "evals" / "models.yaml").write_text("models:\n  mine: {model: openai/mine}\n")
    told = init(cwd=tmp_path)
    assert told.returncode == 0, told.stderr
    wanted = f"first: {tmp_path}/evals/tips.yaml:7: there is no model 'haiku'; {tmp_path}/evals/models.yaml has: mine\n"
    assert f"\n{wanted}next:\n" in told.stdout


def test_init_names_the_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "evals").write_text("a file")
    result = init(cwd=tmp_path)
    assert result.returncode == 4
    assert result.stderr.startswith(f"promptbench: init: {tmp_path}/evals/models.yaml: cannot be written: ")
    assert len(result.stderr.splitlines()) == 1


def test_the_wheel_has_what_init_writes() -> None:
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    shipped = {here: there for here, there in wheel["force-include"].items() if "/shipped/" in there}
    assert shipped == {name: f"pytest_promptbench/shipped/{name}" for name in SHIPPED}
