"""The example of a CI job: its own steps, in clones of a repository, against a scripted provider."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from . import forked
from .project import FEWER_PLUGINS, Project, migrated_database
from .provider import ScriptedProvider

WORKFLOW = Path(__file__).parent.parent / ".github/workflows/evals.yml"


def reply(body: dict[str, Any]) -> str:
    """A tip that tells which prompt it was made with, or the verdict of a judge who likes the rude one less."""
    text = "".join(str(m["content"]) for m in body["messages"])
    if "Score it now" not in text:
        return f"A {'rude' if 'be rude' in text else 'kind'} tip."
    score = 2 if "A rude tip" in text else 4
    return json.dumps({"rationale": "", "relevance": score, "actionability": 4, "tone": score, "format_ok": True})


def git(folder: Path, *args: str) -> None:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.invalid", "-c", "init.defaultBranch=main"]
    subprocess.run(["git", *identity, *args], cwd=folder, check=True, capture_output=True)


def run_job(clone: Path, project: Project, *, key: str = "k") -> subprocess.CompletedProcess[str]:
    """The two steps of the job that are its own, as a runner runs them; installing is left out."""
    steps = yaml.safe_load(WORKFLOW.read_text())["jobs"]["evals"]["steps"]
    baseline, collect = (s["run"] for s in steps if s.get("name", "").startswith(("Baseline of", "Collect, judge")))
    output, summary = clone / "github-output", clone / "github-summary"
    environ = {
        **project.environment(),
        "PATH": f"{project.root.parent}/bin{os.pathsep}{os.environ['PATH']}",
        "BASE": "main",
        "ANTHROPIC_API_KEY": key,
        "GITHUB_SHA": "0123abc",
        "GITHUB_OUTPUT": str(output),
        "GITHUB_STEP_SUMMARY": str(summary),
        "PYTEST_ADDOPTS": "--bench-allow-unpriced --bench-experiment=ci",
        "PYTEST_XDIST_AUTO_NUM_WORKERS": "0",
    }
    output.touch()
    shell = ["bash", "-e", "-o", "pipefail", "-c"]

    def step(script: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*shell, script], cwd=clone, env={**environ, **more}, capture_output=True, text=True, check=False
        )

    first = step(baseline)
    assert first.returncode == 0, first.stderr
    outputs = dict(line.split("=", 1) for line in output.read_text().splitlines())
    second = step(collect, COMPARE=outputs.get("compare", ""))
    return subprocess.CompletedProcess(collect, second.returncode, first.stdout + second.stdout, second.stderr)


@pytest.fixture
def origin(tmp_path: Path) -> Iterator[Project]:
    """A repository with evals and a judge, and the ``pytest`` that the job's steps find."""
    with ScriptedProvider(reply=reply) as provider:
        suite = "judge: {model: haiku}\n"
        project = Project(tmp_path / "origin", provider, models=("haiku",), prompts=("v1",), scenarios=8, suite=suite)
        project.write()
        git(project.root, "init", "-q")
        commit(project.root, "evals")
        (tmp_path / "bin").mkdir()
        with forked.stand_in(tmp_path / "bin/pytest", "-m", "pytest", *FEWER_PLUGINS):
            yield project


def commit(folder: Path, message: str) -> None:
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", message)


def clone(origin: Project, name: str) -> Path:
    folder = origin.root.parent / name
    git(folder.parent, "clone", "-q", str(origin.root), name)
    migrated_database(folder / "mlflow.db")
    return folder


@pytest.mark.slow
def test_without_a_key_the_job_collects_and_saves_no_baseline(origin: Project) -> None:
    fork = clone(origin, "fork")
    without_key = run_job(fork, origin, key="")
    assert without_key.returncode == 0, without_key.stdout + without_key.stderr
    assert "::warning::no key for the automatic judge" in without_key.stdout
    assert not (fork / "evals/baseline.json").exists(), "nothing was scored, so nothing is a baseline"


def test_the_job_saves_a_baseline_passes_what_is_the_same_and_fails_a_regression(origin: Project) -> None:
    folder = clone(origin, "first")
    first = run_job(folder, origin)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "::warning::main has no evals/baseline.json, so nothing is compared" in first.stdout
    assert "baseline: " in first.stdout, first.stdout
    baseline = (folder / "evals/baseline.json").read_text()
    assert json.loads(baseline)["suites"][0]["rows"][0]["tier"] == "auto"

    (origin.root / "evals/baseline.json").write_text(baseline)
    commit(origin.root, "baseline")
    same = run_job(clone(origin, "same"), origin)
    assert same.returncode == 0, same.stdout + same.stderr
    assert "gate of tip: PASS (8 pairs)" in same.stdout

    worse = clone(origin, "worse")
    prompt = worse / "prompts/tip/v1.yaml"
    prompt.write_text(prompt.read_text().replace("be v1", "be rude"))
    failed = run_job(worse, origin)
    assert failed.returncode == 1, failed.stdout + failed.stderr
    assert "gate of tip: FAIL (8 pairs)" in failed.stdout
    assert "composite -4.00" in failed.stdout
    assert "changed since the baseline: prompts: v1" in failed.stdout
    assert "**Gate of tip: fail**" in (worse / "github-summary").read_text()
