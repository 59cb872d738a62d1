"""A user's project with a scripted provider, run through real pytest processes."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytest_promptbench.tracking.store import TrackingStore

from . import forked
from .provider import ScriptedProvider

RUBRIC = """
---
id: tip-v1
criteria:
  - {name: relevance, type: scale, min: 1, max: 5, weight: 1}
  - {name: actionability, type: scale, min: 1, max: 5, weight: 1}
  - {name: tone, type: scale, min: 1, max: 5, weight: 1}
  - {name: format_ok, type: flag, bad: false, penalty: 2}
  - {name: overlong, type: flag, bad: true, penalty: 1, check: {max_words: 60}}
---
# Anchors: 5 is best
"""
TEST = """
import pytest

@pytest.mark.promptbench("tips.yaml")
def test_tip(candidate):
    assert candidate.text.strip()
"""
JOKES = """
@pytest.mark.promptbench("jokes.yaml")
def test_joke(candidate):
    assert candidate.text.strip()
"""
_PLUGINS = (
    "cacheprovider", "hypothesispytest", "schemathesis", "anyio", "randomly", "rerunfailures", "timeout", "asyncio",
    "pytest_cov",
)  # fmt: skip
FEWER_PLUGINS = [x for name in _PLUGINS for x in ("-p", f"no:{name}")]
"""What this project's own environment has and a user's need not have; ``-p NAME`` behind it brings one back."""


@dataclass
class Result:
    """A finished pytest process."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        return self.out + self.err

    def outcomes(self) -> dict[str, int]:
        last = [x for x in self.out.splitlines() if " in " in x and ("passed" in x or "failed" in x or "error" in x)]
        words = last[-1].strip("= ").split(" in ")[0].split(", ") if last else []
        return {w.split()[1]: int(w.split()[0]) for w in words if len(w.split()) == 2}


def _new(
    command: Sequence[str], *, cwd: Path, env: Mapping[str, str], timeout: float
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command], cwd=cwd, env=env, capture_output=True, text=True, errors="backslashreplace",
        timeout=timeout, check=False,
    )  # fmt: skip


@dataclass
class Project:
    """``evals/`` with one suite of ``models`` x ``prompts`` x ``scenarios`` against the provider."""

    root: Path
    provider: ScriptedProvider
    models: tuple[str, ...] = ("haiku", "local")
    prompts: tuple[str, ...] = ("v1", "v2")
    scenarios: int = 3
    suite: str = ""
    environ: dict[str, str] = field(default_factory=dict)

    def write(self) -> Project:
        models = {
            m: f"{{model: openai/{m}, api_base: '{self.provider.api_base}', api_key_env: SCRIPTED_KEY}}"
            for m in self.models
        }
        self.file("evals/models.yaml", "models:\n" + "".join(f"  {k}: {v}\n" for k, v in models.items()))
        for p in self.prompts:
            text = f"messages:\n  - {{role: system, content: 'be {p}'}}\n"
            text += "  - {role: user, content: 'Tip: {{ situation }}'}\n"
            self.file(f"prompts/tip/{p}.yaml", text)
        self.file("rubrics/tip-v1.md", RUBRIC.lstrip("\n"))
        cases = "".join(f"  - {{id: s{i}, vars: {{situation: situation-{i}}}}}\n" for i in range(self.scenarios))
        self.file("evals/tips.yaml", f"task: tip\nrubric: tip-v1\n{self.suite}scenarios:\n{cases}")
        self.file("evals/test_tips.py", TEST)
        return self

    def second_suite(self, *, rubric: str = "tip-v1", scenarios: int = 2) -> Project:
        """A suite of the task joke beside the first, in the same test file."""
        text = (self.root / f"prompts/tip/{self.prompts[0]}.yaml").read_text().replace("Tip:", "Joke:")
        for p in self.prompts:
            self.file(f"prompts/joke/{p}.yaml", text)
        if rubric != "tip-v1":
            self.file(f"rubrics/{rubric}.md", RUBRIC.lstrip("\n").replace("tip-v1", rubric))
        cases = "".join(f"  - {{id: j{i}, vars: {{situation: joke-{i}}}}}\n" for i in range(scenarios))
        self.file("evals/jokes.yaml", f"task: joke\nrubric: {rubric}\n{self.suite}scenarios:\n{cases}")
        self.file("evals/test_tips.py", TEST + JOKES)
        return self

    def file(self, name: str, text: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        return path

    def command(self, *args: str) -> list[str]:
        return [sys.executable, "-m", "pytest", *FEWER_PLUGINS, *args]

    def environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "MLFLOW_", "GITHUB_", "CI"))}
        return {**kept, "SCRIPTED_KEY": "sk-scripted-key-123456", "COLUMNS": "120", **self.environ}

    def pytest(self, *args: str, timeout: float = 240) -> Result:
        """Run pytest in the project, in a process of its own; ``evals/`` unless arguments name something else."""
        given = args if any(a.startswith("evals") for a in args) else ("evals/", *args)
        return self.python(*self.command(*given)[1:], timeout=timeout)

    def python(self, *command: str, timeout: float = 240) -> Result:
        """Run ``python COMMAND`` in the project."""
        run = forked.run if forked.serves(command, self.environ) else _new
        done = run(command, cwd=self.root, env=self.environment(), timeout=timeout)
        return Result(done.returncode, done.stdout, done.stderr)

    def start(self, *args: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command("evals/", *args), cwd=self.root, env=self.environment(), stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip

    def begin(self, *command: str) -> subprocess.Popen[str] | forked.Started:
        """``python COMMAND`` in the project, for a test that sends it signals: not one in a session of its own."""
        if forked.serves(command, self.environ):
            return forked.start(command, cwd=self.root, env=self.environment(), errors=True)
        return subprocess.Popen(
            [sys.executable, *command], cwd=self.root, env=self.environment(), stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    @property
    def store(self) -> TrackingStore:
        uri = self.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{self.root}/mlflow.db"
        return TrackingStore(uri, artifact_root=self.root / "mlartifacts")

    def experiment(self) -> str:
        (name,) = [n for n in self.store.experiments() if n.startswith("tip-bench-")]
        return name

    def runs(self, experiment: str | None = None) -> list[Any]:
        store = self.store
        name = experiment or self.experiment()
        return list(store.client.search_runs([store.experiment(name)], max_results=5000))

    def leaderboard(self) -> dict[str, Any]:
        path = self.root / ".promptbench" / "report" / "leaderboard.json"
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return value

    def packet(self, name: str = "packet.json") -> dict[str, Any]:
        value: dict[str, Any] = json.loads((self.root / name).read_text(encoding="utf-8"))
        return value

    def score(self, name: str = "packet.json", *, value: int = 4, only: int | None = None, **top: str) -> None:
        """Fill a packet's nulls: scales with ``value``, flags with true; ``only`` so many items."""
        packet = {**self.packet(name), **top}
        for item in packet["items"][:only]:
            for entry in item["candidates"]:
                for key, given in entry["scores"].items():
                    if given is None:
                        entry["scores"][key] = True if key == "format_ok" else value
                entry["rationale"] = "fits"
        (self.root / name).write_text(json.dumps(packet), encoding="utf-8")


_TEMPLATE: list[Path] = []


def migrated_database(target: Path) -> None:
    """A fresh MLflow database, copied from one that was made once in this process: migrations take seconds."""
    if not _TEMPLATE:
        folder = Path(tempfile.mkdtemp(prefix="promptbench-template-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        TrackingStore(f"sqlite:///{folder}/mlflow.db", artifact_root=folder).open()
        with contextlib.closing(sqlite3.connect(folder / "mlflow.db")) as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        _TEMPLATE.append(folder / "mlflow.db")
    shutil.copy(_TEMPLATE[0], target)


def children_of(folder: Path) -> list[str]:
    """The command lines of processes that work in a folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if (entry / "cwd").resolve() == folder.resolve():
                found.append((entry / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found
