"""SIGKILL of ``promptbench optimize`` anywhere: no paid call is lost or repeated, nothing is promoted twice."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_promptbench.generation import PATIENCE
from pytest_promptbench.optimize.command import WAITS
from pytest_promptbench.tracking.registry import PromptRegistry

from .loops import asked, checked_project, is_judge, loop_of, loop_project, optimize, outcome, reply, score
from .project import Project
from .provider import ScriptedProvider

pytest.importorskip("gepa")
LATENCY_S = 0.05
AUTO = ("evals/tips.yaml", "--rounds", "2", "--promote-policy", "auto", "--promote-within", "latency:1000")


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    with ScriptedProvider(reply=reply, latency_s=LATENCY_S) as it:
        yield it


@pytest.fixture
def project(tmp_path: Path, provider: ScriptedProvider) -> Project:
    return loop_project(tmp_path, provider)


def kill_after(project: Project, provider: ScriptedProvider, answers: int, *args: str) -> tuple[str, set[str]]:
    """Run until so many more requests are answered, SIGKILL while the next are in the air: loop, what was kept."""
    project.environ["PYTHONUNBUFFERED"] = "1"
    process = project.begin("-m", "pytest_promptbench", "optimize", *args)
    assert process.stdout is not None
    first = process.stdout.readline()
    wanted = provider.answered + answers
    while provider.answered < wanted and process.poll() is None:
        time.sleep(0.002)
    time.sleep(LATENCY_S / 2)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(60)
    assert process.returncode == -signal.SIGKILL
    process.stdout.close()
    found = re.search(r"--resume ([0-9a-f]{6})", first)
    assert found, first
    return found[1], kept(project)


def kept(project: Project) -> set[str]:
    """The questions whose answers are in the ledger."""
    with contextlib.closing(sqlite3.connect(project.root / ".promptbench" / "ledger.sqlite3")) as db:
        requests = [json.loads(row[0]) for row in db.execute("SELECT request FROM answers")]
    return {json.dumps([r["model"]["model"].removeprefix("openai/"), r["messages"]]) for r in requests}


def asked_since(provider: ScriptedProvider, count: int) -> set[str]:
    return set(asked(provider)[count:])


def repeated(provider: ScriptedProvider) -> int:
    """How many requests were the same as an earlier one."""
    return len(asked(provider)) - len(set(asked(provider)))


def killed_and_resumed(project: Project, provider: ScriptedProvider, answers: int, *, concurrency: int = 1) -> int:
    """Kill, resume, and check that only what was in the air was asked for once more. How many calls a loop has."""
    flags = ("--concurrency", str(concurrency))
    loop, there = kill_after(project, provider, answers, *AUTO, *flags)
    before = len(asked(provider))
    result = optimize(project, "--resume", loop, *flags)
    assert result.code == 0, result.text
    assert outcome(project, loop)["outcome"] == "promoted"
    assert not asked_since(provider, before) & there, "a paid call was repeated"
    assert repeated(provider) <= concurrency
    return len(set(asked(provider)))


@pytest.mark.parametrize(
    ("answers", "concurrency"),
    [(34, 8), *(pytest.param(n, c, marks=pytest.mark.slow) for n, c in ((4, 1), (31, 1), (70, 1), (10, 8), (66, 8)))],
)
def test_a_killed_loop_goes_on_without_paying_twice(
    project: Project, provider: ScriptedProvider, answers: int, concurrency: int
) -> None:
    """Of the questions that were in the air when SIGKILL came, nobody has the answer: they may be asked once more."""
    killed_and_resumed(project, provider, answers, concurrency=concurrency)


@pytest.mark.slow
@pytest.mark.parametrize("answers", [20, 6])
def test_a_killed_loop_of_checks_alone_goes_on(tmp_path: Path, provider: ScriptedProvider, answers: int) -> None:
    """In the start, or once a round has begun: what was logged is scored, and the rest is as it comes."""
    project = checked_project(tmp_path, provider)
    assert killed_and_resumed(project, provider, answers) == len(asked(provider)) - repeated(provider)


@pytest.mark.parametrize("is_read", [True, False])
def test_an_interrupt_while_a_judge_is_asked_is_told_as_one(
    project: Project, provider: ScriptedProvider, is_read: bool
) -> None:
    """Not as a judge that cannot be asked, after which a job would try again.

    What is in the air is waited for, aloud; also where Ctrl-C has ended whoever reads, as in ``| tee log``.
    """

    def slowly(body: dict[str, Any]) -> str:
        if is_judge(body):
            provider.latency_s = 2.0  # of the next
        return reply(body)

    provider.reply = slowly
    process = project.begin("-m", "pytest_promptbench", "optimize", *AUTO, "--concurrency", "1")
    assert process.stdout is not None
    while sum(r["model"] == "judge" for r in provider.requests) < 2 and process.poll() is None:
        time.sleep(0.02)
    if not is_read:
        process.stdout.close()
    os.kill(process.pid, signal.SIGINT)
    process.wait(60)
    out = process.stdout.read() if is_read else PATIENCE
    assert (process.returncode, PATIENCE in out) == (130, True), out
    assert len(kept(project)) == provider.count, "what was in the air was not waited for"


@pytest.mark.slow
def test_a_kill_in_a_loop_that_a_person_judges(project: Project, provider: ScriptedProvider) -> None:
    """At the first pause, in the middle of the next block, and again after that."""
    result = optimize(project, "evals/tips.yaml", "--rounds", "2", "--judge", "sit-down", "--proposer", "judge")
    loop, kills = loop_of(result), 0
    while result.code == WAITS:
        packets = (project.root / ".promptbench" / "optimize" / loop).glob("packet*.json")
        path = max(packets, key=lambda p: p.stat().st_mtime)
        score(path)
        assert project.pytest("evals/", "--judge-apply", str(path)).code == 0
        if kills < 2:
            there = kill_after(project, provider, 2, "--resume", loop, "--concurrency", "1")[1]
            kills += 1
        else:
            there = kept(project)
        before = len(asked(provider))
        result = optimize(project, "--resume", loop, "--concurrency", "1")
        assert not asked_since(provider, before) & there, "a paid call was repeated"
    assert result.code == 0, result.text
    assert outcome(project, loop)["outcome"] == "promoted"
    assert repeated(provider) <= kills


DEADLY = """
import os, signal, sys
from pytest_promptbench.cli import main
from pytest_promptbench.tracking import registry, rounds

owner, name, after = sys.argv[1:4]
kind = {"PromptRegistry": registry.PromptRegistry, "Rounds": rounds.Rounds}[owner]
method = getattr(kind, name)

def deadly(self, *args, **kwargs):
    if after == "after":
        method(self, *args, **kwargs)
    os.kill(os.getpid(), signal.SIGKILL)

setattr(kind, name, deadly)
sys.exit(main(["optimize", *sys.argv[4:]]))
"""


@pytest.mark.slow
def test_kills_around_the_promotion(project: Project, provider: ScriptedProvider) -> None:
    """Before the receipt, before the alias moves, after it moved, and before the loop says that it is over."""
    args: tuple[str, ...] = AUTO
    loop = ""
    for owner, name, when in (
        ("PromptRegistry", "keep_receipt", "before"),
        ("PromptRegistry", "promote", "before"),
        ("PromptRegistry", "promote", "after"),
        ("Rounds", "attach", "before"),
        ("Rounds", "attach", "after"),
        ("Rounds", "end", "before"),
        ("Rounds", "end", "after"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", DEADLY, owner, name, when, *args], cwd=project.root, env=project.environment(),
            capture_output=True, text=True, timeout=240, check=False,
        )  # fmt: skip
        assert done.returncode == -signal.SIGKILL, done.stdout + done.stderr
        found = re.search(r"--resume ([0-9a-f]{6})", done.stdout)
        loop = loop or (found[1] if found else "")
        assert loop or name == "keep_receipt"
        loop = loop or newest_loop(project)
        args = ("--resume", loop)
    result = optimize(project, *args)
    assert result.code == 0, result.text
    assert outcome(project, loop)["outcome"] == "promoted"
    champion = PromptRegistry(project.store).champion("tip")
    assert champion is not None
    assert (champion.version, champion.number, champion.previous) == (f"v1-{loop}-r2", 1, None)
    assert len(asked(provider)) == len(set(asked(provider)))
    (parent,) = [r for r in project.runs(f"tip-optimize-{loop}") if "promptbench.optimize" in r.data.tags]
    assert (parent.info.status, parent.data.tags["promptbench.optimize.state"]) == ("FINISHED", "promoted")


def newest_loop(project: Project) -> str:
    (name,) = [n for n in project.store.experiments() if n.startswith("tip-optimize-")]
    return name.removeprefix("tip-optimize-")


@pytest.mark.skipif(
    "PROMPTBENCH_KILLS" not in os.environ,
    reason="set PROMPTBENCH_KILLS=1 for a kill after every call, half an hour; N for every N-th",
)
def test_a_kill_between_any_two_calls_loses_nothing(tmp_path: Path) -> None:
    step = int(os.environ["PROMPTBENCH_KILLS"])
    answers, total, kills = 1, 10_000, 0
    while answers < total:
        with ScriptedProvider(reply=reply, latency_s=LATENCY_S) as provider:
            total = killed_and_resumed(loop_project(tmp_path / str(answers), provider), provider, answers)
        answers, kills = answers + step, kills + 1
    print(f"{total} calls a loop, {kills} loops killed and resumed")
