"""The sessions of the other tests: what they start is forked too, or half of what forking saves is lost in silence."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from . import forked
from .project import Project, migrated_database
from .provider import ScriptedProvider

TEST = """
import pytest
from pathlib import Path

@pytest.mark.promptbench("tips.yaml")
def test_tip(candidate, worker_id):
    there = [p.parent for p in Path("/proc").glob("[0-9]*/cwd") if p.exists() and p.samefile(".")]
    Path(f"seen-{worker_id}").write_text("\\n".join((p / "cmdline").read_text().replace("\\0", " ") for p in there))
"""


forks = pytest.mark.skipif(not forked.serves((), {}), reason="with PROMPTBENCH_COLD each process starts anew")


@forks
def test_a_session_its_workers_and_its_recorders_are_forks(tmp_path: Path) -> None:
    migrated_database(tmp_path / "mlflow.db")
    with ScriptedProvider() as provider:
        project = Project(tmp_path, provider).write()
        project.file("evals/test_tips.py", TEST)
        done = project.pytest("-n", "2")
        assert done.code == 0, done.text
        seen = sorted(tmp_path.glob("seen-*"))
        assert [file.name for file in seen] == ["seen-gw0", "seen-gw1"]
        for file in seen:
            commands = file.read_text().splitlines()
            assert len(commands) >= 4, commands
            assert all(c.startswith(sys.executable) and "forkserver" in c for c in commands), commands
        assert len(project.runs()) == 12


@forks
def test_a_stand_in_for_an_interpreter_is_one_that_is_forked(tmp_path: Path) -> None:
    code = "import os, sys; print(open('/proc/self/cmdline').read(), os.getcwd(), os.environ['A'], *sys.argv)"
    with forked.stand_in(tmp_path / "python", "-c", f"{code}; sys.exit(3)") as python:
        command, environ = [str(python), "b c"], {**os.environ, "A": "a"}
        done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert "forkserver" in done.stdout
    assert done.stdout.endswith(f" {tmp_path} a -c b c\n")
