"""``promptbench optimize`` as a process, against a scripted provider and a real MLflow store."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pytest_promptbench.optimize.command import WAITS
from pytest_promptbench.tracking.registry import PromptRegistry

from .loops import asked, checked_project, is_judge, is_proposer, loop_of, loop_project, optimize, outcome, reply, score
from .project import Project
from .provider import Fault, ScriptedProvider

pytest.importorskip("gepa")


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    with ScriptedProvider(reply=reply) as it:
        yield it


@pytest.fixture
def project(tmp_path: Path, provider: ScriptedProvider) -> Project:
    return loop_project(tmp_path, provider)


def test_it_finds_the_better_prompt_and_promotes_it(project: Project, provider: ScriptedProvider) -> None:
    result = optimize(
        project, "evals/tips.yaml", "--rounds", "3", "--promote-policy", "auto", "--promote-within", "latency:1000"
    )
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
    questions = [r["messages"][1]["content"] for r in provider.requests if is_proposer(r)]
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


def test_checks_alone_judge_and_nobody_is_asked_or_waited_for(tmp_path: Path, provider: ScriptedProvider) -> None:
    project = checked_project(tmp_path, provider)
    planned = optimize(project, "evals/tips.yaml", "--rounds", "3", "--dry-run").out
    assert "models: writer; judge: checks; proposer: writer" in planned, planned
    assert "64 generations, 0 judgements, 3 proposals" in planned
    result = optimize(project, "evals/tips.yaml", "--rounds", "3", "--promote-within", "latency:1000")
    assert result.code == 0, result.text
    loop = loop_of(result)
    ended, best = outcome(project, loop), f"v1-{loop}-r2"
    assert (ended["outcome"], ended["best"], ended["stopped"]) == ("promoted", best, "nothing left to gain"), (
        result.text
    )
    assert [t["dropped"] for t in ended["trials"]] == [True, False]
    assert (ended["train"][best], ended["test"]["v1"]) == ([0, 0, 0], [-2, -2, -2])
    assert (ended["comparison"]["mean_difference"], ended["comparison"]["n"]) == (2, len(ended["plan"]["test"]))
    assert "met      judge: one automatic judge has scored them: checks" in result.out
    found = PromptRegistry(project.store).champion("tip")
    assert found is not None
    assert found.version == best
    lineage = yaml.safe_load((project.root / "prompts/tip" / f"{best}.yaml").read_text())["lineage"]
    assert (lineage["judged_by"], lineage["scores"]["test"][best]) == ("checks", 0)
    report = (project.root / ".promptbench" / "optimize" / loop / "report.md").read_text()
    assert "| judge | checks |" in report

    # The proposer sees what is checked, and which check each output fails.
    first, second = [r["messages"][1]["content"] for r in provider.requests if is_proposer(r)]
    assert '- right: equals_var: "label"; else it is false and costs 2\n- wordy: max_words: 6; else it is true' in first
    answers = json.loads(first.partition("is the best there is:\n")[2].partition("\n")[2].partition("\n</answers-")[0])
    assert len(answers) == 4
    for a in answers:
        assert (a["score"], a["criteria"]) == (-2, {"right": False, "wordy": False})
        assert a["judge"] == f'right fails equals_var: "label", which is "{a["inputs"]["label"]}"'
        assert a["inputs"]["situation"].removeprefix("situation-") not in {s[1:] for s in ended["plan"]["test"]}
    assert "round 1: clearly worse: be v1 and explain at length" in second

    # MLflow has the same verdicts as of a session: automatic, by checks, and nothing pending.
    runs = project.runs(f"tip-optimize-{loop}")
    cells = [r for r in runs if "promptbench.cell" in r.data.tags]
    assert {(r.data.tags["judge_pending"], r.data.tags["judge_kind"]) for r in cells} == {("false", "checks")}
    assert {r.data.metrics["auto/composite"] for r in cells} == {-3, -2, 0}
    (parent,) = [r for r in runs if "promptbench.optimize" in r.data.tags]
    bests = project.store.client.get_metric_history(parent.info.run_id, "train_best")
    assert {(m.step, m.value) for m in bests} == {(0, -2), (1, -2), (2, 0)}
    assert len(provider.requests) == len(cells) + 2


@pytest.mark.slow
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
        score(path)
        assert project.pytest("evals/", "--judge-apply", str(path)).code == 0
        shutil.rmtree(project.root / ".promptbench")  # as on another machine: all that is left is in MLflow
        result = optimize(project, "--resume", loop)
    assert result.code == 0, result.text
    assert 2 <= pauses <= 6
    assert len(asked(provider)) == len(set(asked(provider)))
    assert outcome(project, loop)["outcome"] == "promoted", result.text
    assert not [r for r in provider.requests if is_judge(r)]


def test_the_default_gate_asks_for_an_audit_and_goes_on_after_it(project: Project) -> None:
    result = optimize(project, "evals/tips.yaml", "--rounds", "2")
    assert result.code == WAITS, result.text
    loop = loop_of(result)
    path = project.root / ".promptbench" / "optimize" / loop / "packet.json"
    packet = json.loads(path.read_text())
    assert len(packet["items"]) == 2 * len(outcome(project, loop)["plan"]["test"])
    score(path, lambda text: 1 if "concrete" in text else 4)  # the person disagrees with the judge
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
        if is_judge(body):
            text = re.search(r"<text-\w+>\n(.*?)\n</text-", body["messages"][1]["content"], re.DOTALL)[1]
            if re.search(r"situation-(\d+)", text)[1] in test and "concrete" in text:
                scores = {"relevance": 1, "actionability": 1, "tone": 1, "format_ok": True}
                return json.dumps({"rationale": "", **scores})
        return reply(body)

    provider.reply = two_faced
    result = optimize(
        project, "evals/tips.yaml", "--rounds", "2", "--promote-policy", "auto", "--promote-within", "latency:1000"
    )
    assert result.code == 0, result.text
    ended = outcome(project, loop_of(result))
    assert ended["outcome"] == "overfit"
    assert "overfit" in result.out
    assert sorted(p.stem for p in (project.root / "prompts" / "tip").glob("*.yaml")) == ["v1"]


@pytest.mark.slow
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
