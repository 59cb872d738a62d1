"""``promptbench optimize`` as a process, against a scripted provider and a real MLflow store."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pytest_promptbench.optimize.command import WAITS
from pytest_promptbench.tracking.registry import PromptRegistry

from .project import Project, Result, migrated_database
from .provider import Fault, ScriptedProvider

pytest.importorskip("gepa")
SUITE = "prompts: [v1]\nmodels: [writer]\njudge: {model: judge}\n"


def reply(body: dict[str, Any]) -> str:
    """A writer that repeats its system prompt, a judge that likes "concrete", a proposer that finds it in round 2."""
    system, last = body["messages"][0]["content"], body["messages"][-1]["content"]
    if system.startswith("You improve prompts"):
        question = body["messages"][1]["content"]
        wish = "concrete" if "Tried before" in question else "vague"
        return f"It is too general.\n<prompt>be v1 and {wish}, turn {question.count('- round')}</prompt>"
    if system.startswith("You are a careful, impartial judge"):
        text = re.search(r"<text-\w+>\n(.*?)\n</text-", body["messages"][1]["content"], re.DOTALL)[1]
        number = int(re.search(r"situation-(\d+)", text)[1])
        points = 5 if "concrete" in text else 1 if "vague" in text else 3 - number % 2
        scores = {"relevance": points, "actionability": points, "tone": 3 + number % 2, "format_ok": True}
        return json.dumps({"rationale": f"it is worth {points}", **scores})
    return f"{system}: {last}"


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    with ScriptedProvider(reply=reply) as it:
        yield it


@pytest.fixture
def project(tmp_path: Path, provider: ScriptedProvider) -> Project:
    it = Project(
        tmp_path, provider, models=("writer", "judge"), prompts=("v1",), scenarios=20, suite=SUITE
    ).write()  # fmt: skip
    migrated_database(tmp_path / "mlflow.db")
    return it


def optimize(project: Project, *args: str, timeout: float = 240) -> Result:
    done = subprocess.run(
        [sys.executable, "-m", "pytest_promptbench", "optimize", *args], cwd=project.root, env=project.environment(),
        capture_output=True, text=True, timeout=timeout, check=False,
    )  # fmt: skip
    return Result(done.returncode, done.stdout, done.stderr)


def loop_of(result: Result) -> str:
    found = re.search(r"--resume ([0-9a-f]{6})", result.out)
    assert found, result.text
    return found[1]


def outcome(project: Project, loop: str) -> dict[str, Any]:
    file = project.root / ".promptbench" / "optimize" / loop / "result.json"
    value: dict[str, Any] = json.loads(file.read_text())
    return value


def test_it_finds_the_better_prompt_and_promotes_it(project: Project, provider: ScriptedProvider) -> None:
    result = optimize(project, "evals/tips.yaml", "--rounds", "3", "--promote-policy", "auto")
    assert result.code == 0, result.text
    loop = loop_of(result)
    ended = outcome(project, loop)
    best = f"v1-{loop}-r2"
    assert (ended["outcome"], ended["best"]) == ("promoted", best), result.text
    assert f"{best} is champion of tip" in result.out
    first, second = ended["trials"][:2]
    assert first["dropped"]
    assert first["saved"] > 0
    assert not second["dropped"]

    # The locked test split is seen by no proposal's question, and only by the start and the winner.
    test = {f"situation-{s[1:]}" for s in ended["plan"]["test"]}
    questions = [
        r["messages"][1]["content"]
        for r in provider.requests
        if r["messages"][0]["content"].startswith("You improve prompts")
    ]
    assert questions
    assert not any(re.search(rf"{t}\b", q) for t in test for q in questions)
    written = [r for r in provider.requests if r["model"] == "writer"]
    on_test = {r["messages"][0]["content"] for r in written if r["messages"][1]["content"].split()[-1] in test}
    assert on_test == {"be v1", "be v1 and concrete, turn 1"}
    assert len({json.dumps(r["messages"]) + r["model"] for r in provider.requests}) == len(provider.requests)

    # An ordinary file with its lineage, which a suite can load.
    file = project.root / "prompts" / "tip" / f"{best}.yaml"
    lineage = yaml.safe_load(file.read_text())["lineage"]
    assert (lineage["parent"], lineage["round"], lineage["loop"], lineage["proposer"]) == ("v1", 2, loop, "judge")
    assert lineage["scores"]["test"][best] > lineage["scores"]["test"]["v1"]
    project.file("evals/tips.yaml", (project.root / "evals/tips.yaml").read_text().replace("[v1]", f"[v1, {best}]"))
    assert project.pytest("evals/", "--collect-only", "-q").code == 0

    # MLflow has the registered prompt, the parent run with the report, the rounds below it, and every candidate once.
    champion = PromptRegistry(project.store).champion("tip")
    assert champion is not None
    assert champion.version == best
    runs = project.runs(f"tip-optimize-{loop}")
    (parent,) = [r for r in runs if "promptbench.optimize" in r.data.tags]
    rounds = [r for r in runs if r.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert sorted(int(r.data.tags["promptbench.optimize.round"]) for r in rounds) == [0, 1, 2, 3]
    assert parent.data.tags["promptbench.optimize.state"] == "promoted"
    names = {a.path for a in project.store.client.list_artifacts(parent.info.run_id)}
    assert names == {"plan.json", "report.md", "report.html", "result.json", "promotion.json"}
    cells = [r.data.tags["promptbench.cell"] for r in runs if "promptbench.cell" in r.data.tags]
    assert len(cells) == len(set(cells)) == len(written)
    page = (project.root / ".promptbench" / "optimize" / loop / "report.html").read_text()
    assert "<svg" in page
    assert "+be v1 and concrete" in page

    # Running it again asks for nothing.
    before = len(provider.requests)
    again = optimize(project, "--resume", loop)
    assert again.code == 0, again.text
    assert len(provider.requests) == before
    assert [t["prompt"] for t in outcome(project, loop)["trials"]] == [t["prompt"] for t in ended["trials"]]


def test_a_person_judges_in_pauses_and_each_resume_is_on_another_machine(
    project: Project, provider: ScriptedProvider
) -> None:
    args = ["evals/tips.yaml", "--rounds", "2", "--judge", "sit-down", "--proposer", "judge"]
    result = optimize(project, *args)
    pauses = 0
    while result.code == WAITS:
        pauses += 1
        loop = loop_of(result)
        assert re.search(r"\d+ candidates wait for a judge", result.out), result.text
        path = project.root / ".promptbench" / "optimize" / loop / "packet.json"
        packet = json.loads(path.read_text())
        assert packet["items"]
        for item in packet["items"]:
            assert "prompt" not in item
            for entry in item["candidates"]:
                points = 5 if "concrete" in entry["output"] else 1 if "vague" in entry["output"] else 3
                entry["scores"].update(relevance=points, actionability=points, tone=3, format_ok=True)
        path.write_text(json.dumps(packet))
        assert project.pytest("evals/", "--judge-apply", str(path)).code == 0
        shutil.rmtree(project.root / ".promptbench")  # as on another machine: all that is left is in MLflow
        result = optimize(project, "--resume", loop)
    assert result.code == 0, result.text
    assert 2 <= pauses <= 6
    assert len(asked(provider)) == len(set(asked(provider)))
    assert outcome(project, loop)["outcome"] == "promoted", result.text
    judged = [r for r in provider.requests if r["messages"][0]["content"].startswith("You are a careful")]
    assert not judged


def test_the_default_gate_asks_for_an_audit_and_goes_on_after_it(project: Project) -> None:
    result = optimize(project, "evals/tips.yaml", "--rounds", "2")
    assert result.code == WAITS, result.text
    loop = loop_of(result)
    path = project.root / ".promptbench" / "optimize" / loop / "packet.json"
    packet = json.loads(path.read_text())
    assert len(packet["items"]) == 2 * len(outcome(project, loop)["plan"]["test"])
    for item in packet["items"]:
        for entry in item["candidates"]:
            points = 1 if "concrete" in entry["output"] else 4  # the person disagrees with the judge
            entry["scores"].update(relevance=points, actionability=points, tone=3, format_ok=True)
    path.write_text(json.dumps(packet))
    assert project.pytest("evals/", "--judge-apply", str(path)).code == 0
    result = optimize(project, "--resume", loop)
    assert result.code == 0, result.text
    assert outcome(project, loop)["outcome"] == "not promoted"
    assert PromptRegistry(project.store).champion("tip") is None


def test_a_gain_on_train_alone_is_overfit(project: Project, provider: ScriptedProvider) -> None:
    """The judge likes "concrete" in train scenarios only."""
    plan = optimize(project, "evals/tips.yaml", "--dry-run")
    test = set(re.findall(r"s(\d+)", re.search(r"test: (.*)", plan.out)[1]))

    def two_faced(body: dict[str, Any]) -> str:
        system = body["messages"][0]["content"]
        if system.startswith("You are a careful"):
            text = re.search(r"<text-\w+>\n(.*?)\n</text-", body["messages"][1]["content"], re.DOTALL)[1]
            if re.search(r"situation-(\d+)", text)[1] in test and "concrete" in text:
                scores = {"relevance": 1, "actionability": 1, "tone": 1, "format_ok": True}
                return json.dumps({"rationale": "", **scores})
        return reply(body)

    provider.reply = two_faced
    result = optimize(project, "evals/tips.yaml", "--rounds", "2", "--promote-policy", "auto")
    assert result.code == 0, result.text
    ended = outcome(project, loop_of(result))
    assert ended["outcome"] == "overfit"
    assert "overfit" in result.out
    assert sorted(p.stem for p in (project.root / "prompts" / "tip").glob("*.yaml")) == ["v1"]


def test_a_dry_run_spends_nothing(project: Project, provider: ScriptedProvider) -> None:
    result = optimize(project, "evals/tips.yaml", "--dry-run", "--rounds", "5")
    assert result.code == 0, result.text
    # 12 train x (1 + 5), 8 test x 2
    assert "88 generations, 88 judgements, 5 proposals" in result.out
    assert "cost: unknown" in result.out
    assert provider.requests == []
    assert not [n for n in project.store.experiments() if "optimize" in n]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "name a suite"),
        (["evals/tips.yaml", "--from", "v9"], "has no such prompt; there are: v1"),
        (["evals/tips.yaml", "--proposer", "x"], "models.yaml has no such model; it has: writer, judge"),
        (["evals/tips.yaml", "--max-cost", "1"], "LiteLLM has none for judge, writer"),
        (["--resume", "abc123"], "MLflow has no such loop; there are: none"),
        (["--resume", "../x"], "expected a loop's id"),
        (["evals/tips.yaml", "--resume", "abc123"], "leave the suite out"),
    ],
)
def test_mistakes_are_told_in_one_line(project: Project, args: list[str], message: str) -> None:
    result = optimize(project, *args)
    assert result.code == 4, result.text
    assert message in result.err
    assert "Traceback" not in result.text


def test_too_few_scenarios_are_refused(project: Project) -> None:
    project.scenarios = 9
    project.write()
    result = optimize(project, "evals/tips.yaml")
    assert result.code == 4
    assert "9 scenarios are too few to optimise on" in result.err
    assert "add 1" in result.err


def test_a_changed_suite_is_not_resumed(project: Project, provider: ScriptedProvider) -> None:
    provider.script("writer", Fault(400), times=None)
    result = optimize(project, "evals/tips.yaml", "--rounds", "1")
    assert result.code == 1, result.text
    assert "could not be generated" in result.err
    loop = loop_of(result)
    project.scenarios = 21
    project.write()
    changed = optimize(project, "--resume", loop)
    assert changed.code == 4
    assert "have changed since the loop began" in changed.err


def kill_after(project: Project, provider: ScriptedProvider, answers: int, *args: str) -> str:
    """Run until the provider has answered so many requests, SIGKILL, and give back the loop's id."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest_promptbench", "optimize", *args], cwd=project.root,
        env={**project.environment(), "PYTHONUNBUFFERED": "1"}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True,
    )  # fmt: skip
    assert process.stdout is not None
    first = process.stdout.readline()
    while provider.answered < answers and process.poll() is None:
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    return re.search(r"--resume ([0-9a-f]{6})", first)[1]


def asked(provider: ScriptedProvider) -> list[str]:
    return [json.dumps([r["model"], r["messages"]]) for r in provider.requests]


def killed_and_resumed(project: Project, provider: ScriptedProvider, answers: int) -> tuple[list[str], str]:
    """All questions of a loop that was killed after so many answers and then went on, and its outcome."""
    provider.latency_s = 0.03  # time for the kill to fall between two calls
    args = ("evals/tips.yaml", "--rounds", "2", "--concurrency", "1", "--promote-policy", "auto")
    loop = kill_after(project, provider, answers, *args)
    result = optimize(project, "--resume", loop, "--concurrency", "1", "--promote-policy", "auto")
    assert result.code == 0, result.text
    return asked(provider), outcome(project, loop)["outcome"]


@pytest.mark.parametrize("answers", [4, *(pytest.param(n, marks=pytest.mark.slow) for n in (31, 70))])
def test_a_killed_loop_goes_on_without_paying_twice(project: Project, provider: ScriptedProvider, answers: int) -> None:
    """Of the question that was in the air when SIGKILL came, nobody has the answer: it may be asked once more."""
    questions, ended = killed_and_resumed(project, provider, answers)
    assert ended == "promoted"
    assert len(questions) - len(set(questions)) <= 1


@pytest.mark.skipif(
    "PROMPTBENCH_KILLS" not in os.environ,
    reason="set PROMPTBENCH_KILLS=1 for a kill after every call, half an hour; N for every N-th",
)
def test_a_kill_between_any_two_calls_loses_nothing(tmp_path: Path) -> None:
    step = int(os.environ["PROMPTBENCH_KILLS"])
    answers, total, kills = 1, 10_000, 0
    while answers < total:
        root = tmp_path / str(answers)
        with ScriptedProvider(reply=reply) as provider:
            project = Project(
                root, provider, models=("writer", "judge"), prompts=("v1",), scenarios=20, suite=SUITE
            ).write()  # fmt: skip
            migrated_database(root / "mlflow.db")
            questions, ended = killed_and_resumed(project, provider, answers)
            total = len(set(questions))
            assert ended == "promoted"
            assert len(questions) - total <= 1
            assert provider.answered >= total
        answers, kills = answers + step, kills + 1
    print(f"{total} calls a loop, {kills} loops killed and resumed")
