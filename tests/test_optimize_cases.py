"""``promptbench optimize``: money, champions, what a resumed loop keeps to, and mistakes."""

from __future__ import annotations

import argparse
import contextlib
import errno
import itertools
import json
import re
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pytest_promptbench.catalog import load_prompt
from pytest_promptbench.cli import main
from pytest_promptbench.errors import LedgerError, TrackingError
from pytest_promptbench.generation import RetryPolicy
from pytest_promptbench.ledger import Ledger
from pytest_promptbench.locks import LockFile
from pytest_promptbench.optimize import command, job
from pytest_promptbench.optimize.command import WAITS
from pytest_promptbench.optimize.job import Job, make_job
from pytest_promptbench.optimize.laboratory import MLflowLaboratory
from pytest_promptbench.packet import parse_packet, read_packet
from pytest_promptbench.sitdown import take_in
from pytest_promptbench.tracking.registry import PromptRegistry
from pytest_promptbench.tracking.rounds import Rounds
from pytest_promptbench.tracking.store import TrackingStore

from .loops import (
    SUITE,
    checked_project,
    is_judge,
    is_proposer,
    labelling,
    loop_of,
    loop_project,
    optimize,
    outcome,
    reply,
    score,
)
from .project import Project, Result
from .provider import Fault, ScriptedProvider
from .test_scorers import ALONE

pytest.importorskip("gepa")
WITHIN = ("--promote-within", "latency:1000")  # of milliseconds here
AUTO = ("--promote-policy", "auto", *WITHIN)
Run = Callable[..., Result]


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    with ScriptedProvider(reply=reply) as it:
        yield it


@pytest.fixture
def project(tmp_path: Path, provider: ScriptedProvider) -> Project:
    return loop_project(tmp_path / "project", provider)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """``promptbench optimize`` in this process, in the project's root or another folder."""
    monkeypatch.setenv("SCRIPTED_KEY", "sk-scripted-key-123456")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def optimize(*args: str, cwd: Path | None = None) -> Result:
        monkeypatch.chdir(cwd or tmp_path / "project")
        code = main(["optimize", *args])
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return optimize


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--judge", "sit-down"), "--judge sit-down: programs fill all of the rubric tip-v1, so there is nothing"),
        (("--judge", "checks"), "argument --judge: invalid choice: 'checks'"),
        (("--promote-policy", "both"), "--promote-policy both asks for a sit-down judge's scores, and programs alone"),
        (("--promote-policy", "sit-down"), "--promote-policy sit-down asks for a sit-down judge's scores"),
    ],
)
def test_nobody_sits_down_where_programs_judge(
    tmp_path: Path, provider: ScriptedProvider, run: Run, args: tuple[str, ...], said: str
) -> None:
    checked_project(tmp_path / "project", provider)
    refused = run("evals/tips.yaml", *args)
    assert (refused.code, said in refused.err) == (4, True), refused
    assert provider.count == 0


def test_a_loop_of_checks_alone_keeps_to_its_checks(tmp_path: Path, provider: ScriptedProvider, run: Run) -> None:
    """``--judge auto`` is what it is by default; several outputs are scored by their share, and a failure is asked
    for again.
    """
    project = checked_project(tmp_path / "project", provider)
    suite = project.root / "evals" / "tips.yaml"
    suite.write_text(suite.read_text().replace("task: tip\n", "task: tip\nsamples: 2\n"))
    answers = itertools.cycle(("label", "wrong"))

    def half_right(body: dict[str, Any]) -> str:
        told = not is_proposer(body) and "label alone" in body["messages"][0]["content"]
        return labelling(body) if not told or next(answers) == "label" else "wrong"

    provider.reply = half_right
    test = re.search(r"test: (s\d+)", run("evals/tips.yaml", "--dry-run").out)[1]  # type: ignore[index]
    provider.script(f"situation-{test[1:]}", Fault(400), times=4)
    auto = ("--judge", "auto")
    result = run("evals/tips.yaml", "--rounds", "2", "--concurrency", "1", "--no-promote", *auto)
    loop = loop_of(result)
    ended = outcome(project, loop)
    assert (ended["outcome"], ended["best"]) == ("offered", f"v1-{loop}-r2"), result.text
    assert ended["comparison"]["n"] == len(ended["plan"]["test"]) - 1
    result = run("--resume", loop, "--concurrency", "1", *auto)
    assert result.code == 0, result.text
    again = outcome(project, loop)
    assert (again["comparison"]["n"], again["trials"]) == (len(ended["plan"]["test"]), ended["trials"])
    assert again["comparison"]["mean_difference"] == pytest.approx(1)
    refused = run("--resume", loop, "--judge", "sit-down")
    assert "--judge sit-down is not what the loop began with; it began with auto" in refused.err
    rubric = project.root / "rubrics" / "tip-v1.md"
    rubric.write_text(rubric.read_text().replace("max_words: 6", "max_words: 7"))
    assert "have changed since the loop began" in run("--resume", loop).err


def champion(project: Project) -> str | None:
    found = PromptRegistry(project.store).champion("tip")
    return None if found is None else found.version


def points_for(
    word: str, points: int, then: Callable[[dict[str, Any]], str] = reply
) -> Callable[[dict[str, Any]], str]:
    """A judge that gives so many points for a word, and else what ``then`` says."""

    def judged(body: dict[str, Any]) -> str:
        if is_judge(body) and word in body["messages"][1]["content"].split("<text-")[1]:
            scores = {"relevance": points, "actionability": points, "tone": 3, "format_ok": True}
            return json.dumps({"rationale": "", **scores})
        return then(body)

    return judged


def proposing(text: str, then: Callable[[dict[str, Any]], str] = reply) -> Callable[[dict[str, Any]], str]:
    return lambda body: f"<prompt>{text}</prompt>" if is_proposer(body) else then(body)


# -- money


@pytest.mark.slow
def test_a_limit_that_ends_the_search_ends_it_gracefully_and_a_resumed_loop_knows_what_it_found(
    tmp_path: Path, provider: ScriptedProvider, run: Run
) -> None:
    project = loop_project(tmp_path / "project", provider, priced=True)
    result = run("evals/tips.yaml", "--rounds", "30", "--max-cost", "0.03", *WITHIN)
    assert result.code == WAITS, result.text
    loop = loop_of(result)
    before = outcome(project, loop)
    assert (before["best"], before["outcome"]) == (f"v1-{loop}-r2", "waiting for a judge")
    assert before["stopped"] == "the cost reached its limit of $0.03"
    assert 2 <= len(before["trials"]) < 30
    assert before["spent_usd"] <= 0.03
    path = project.root / ".promptbench" / "optimize" / loop / "packet.json"
    score(path)
    assert project.pytest("evals/", "--judge-apply", str(path)).code == 0
    asked = len(provider.requests)
    result = run("--resume", loop)
    assert result.code == 0, result.text
    after = outcome(project, loop)
    assert (after["best"], after["outcome"]) == (f"v1-{loop}-r2", "promoted"), result.text
    assert after["trials"] == before["trials"]
    assert len(provider.requests) == asked


def test_too_little_money_is_an_outcome_of_its_own_and_more_goes_on(
    tmp_path: Path, provider: ScriptedProvider, run: Run
) -> None:
    project = loop_project(tmp_path / "project", provider, priced=True)
    result = run("evals/tips.yaml", "--rounds", "2", "--max-cost", "0.0001", *AUTO)
    assert result.code == 0, result.text
    assert "out of money: nothing was tried; go on with a larger --max-cost" in result.out
    assert "set aside for the final comparison" in result.out
    assert provider.requests == []
    loop = loop_of(result)
    assert f"promptbench optimize --resume {loop} --max-cost USD" in result.out
    result = run("--resume", loop, "--max-cost", "0.0165")
    assert result.code == 0, result.text
    assert "out of money" in result.out, result.text
    assert outcome(project, loop)["spent_usd"] <= 0.0165
    result = run("--resume", loop, "--max-cost", "1")
    assert outcome(project, loop)["outcome"] == "promoted", result.text
    questions = [json.dumps([r["model"], r["messages"]]) for r in provider.requests]
    assert len(questions) == len(set(questions))


def test_replies_without_a_text_are_spent_for_too(tmp_path: Path, provider: ScriptedProvider, run: Run) -> None:
    """As of models that think until their max_tokens are used up; the ledger keeps no such answer."""
    project = loop_project(tmp_path / "project", provider, priced=True)
    empty = Fault(kind="length")
    provider.script("situation-", empty, times=1, model="gpt-4o")
    provider.script("You are a careful", empty, times=1)
    provider.script("You improve prompts", empty, times=1)
    result = run("evals/tips.yaml", "--rounds", "1", *AUTO)
    spent = outcome(project, loop_of(result))["spent_usd"]
    with contextlib.closing(sqlite3.connect(project.root / ".promptbench/ledger.sqlite3")) as ledger:
        ((kept,),) = ledger.execute("SELECT total(json_extract(answer, '$.cost_usd')) FROM answers")
    writer = next(r for r in provider.requests if r["model"] == "gpt-4o")
    others = [next(filter(which, provider.requests)) for which in (is_judge, is_proposer)]
    dear, *cheap = (sum(len(m["content"]) for m in r["messages"]) // 4 + 4 for r in (writer, *others))
    assert spent - kept == pytest.approx(2.5e-6 * dear + 1e-5 + 0.15e-6 * sum(cheap) + 2 * 0.6e-6)


@pytest.mark.parametrize("limited", [True, False], ids=["limited-from-the-start", "limited-later"])
def test_what_was_spent_before_counts_once_against_the_limit(
    tmp_path: Path, provider: ScriptedProvider, run: Run, limited: bool
) -> None:
    project = loop_project(tmp_path / "project", provider, priced=True)
    provider.script("You improve prompts", Fault(kind="length"), times=3)  # paid for, and in no ledger
    provider.script("You improve prompts", Fault(401), times=1)
    limit = ("--max-cost", "1")
    result = run("evals/tips.yaml", "--rounds", "3", *AUTO, *(limit if limited else ()))
    assert result.code == 1, result.text
    loop = loop_of(result)
    assert run("--resume", loop, *limit).code == 0
    ledger = Ledger(project.root / ".promptbench/ledger.sqlite3")
    counted, spent, kept = (
        ledger.spent(f"optimize-{loop}"), outcome(project, loop)["spent_usd"], ledger.cost(f"optimize-{loop}")
    )  # fmt: skip
    ledger.close()
    assert counted == pytest.approx(spent, abs=1e-9)
    assert spent > kept + 1e-6


def test_the_limit_is_the_loops_on_whatever_machine(tmp_path: Path, provider: ScriptedProvider, run: Run) -> None:
    project = loop_project(tmp_path / "project", provider, priced=True)
    result = run("evals/tips.yaml", "--rounds", "2", "--max-cost", "0.0165", *AUTO)
    loop, spent = loop_of(result), 0.0
    for _ in range(3):
        assert "out of money" in result.out, result.text
        assert outcome(project, loop)["spent_usd"] >= spent
        spent = outcome(project, loop)["spent_usd"]
        shutil.rmtree(project.root / ".promptbench")
        result = run("--resume", loop)
    assert spent <= 0.0165


def test_the_experiment_is_read_once_for_what_is_generated_and_not_again_for_what_is_judged(
    project: Project, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it, which grows with every round."""
    read, log, calls = TrackingStore.read, TrackingStore.log, Counter[str]()

    def reading(*args: Any, **named: Any) -> Any:
        calls["read"] += 1
        return read(*args, **named)

    def logging(*args: Any) -> Any:
        calls["logged"] += 1
        return log(*args)

    monkeypatch.setattr(TrackingStore, "read", reading)
    monkeypatch.setattr(TrackingStore, "log", logging)
    result = run("evals/tips.yaml", "--rounds", "2", "--no-early-stopping", "--no-promote")
    assert result.code == 0, result.text
    assert calls["logged"] == 1 + 2 * 4 + 2, "the start, two rounds of four blocks, two prompts on the test split"
    assert calls["read"] == 1 + calls["logged"]


# -- champions


def test_the_gate_compares_with_the_reigning_champion_whether_a_file_has_it_or_not(
    project: Project, provider: ScriptedProvider, run: Run
) -> None:
    first = loop_of(run("evals/tips.yaml", "--rounds", "2", *AUTO))
    best = f"v1-{first}-r2"
    assert champion(project) == best
    (project.root / "prompts" / "tip" / f"{best}.yaml").unlink()  # the suite does not name it anyway

    provider.reply = proposing("be v1 and okayish", points_for("okayish", 4))
    result = run("evals/tips.yaml", "--from", "v1", "--rounds", "1", *AUTO)
    assert result.code == 0, result.text
    second = outcome(project, loop_of(result))
    assert (second["outcome"], champion(project)) == ("not promoted", best), result.text
    receipt = json.loads(Path(second["receipt"]).read_text())
    assert receipt["champion"] == best
    assert not receipt["granted"]

    # Without --from it starts from the champion's text, which only the registry has.
    provider.reply = proposing("be v1 and concrete, superb", points_for("superb", 5))
    result = run("evals/tips.yaml", "--rounds", "1", "--dry-run")
    assert f"from {best}" in result.out, result.text


def test_a_conversation_stays_in_its_place_and_a_promotion_says_what_mlflow_makes_of_it(
    project: Project, run: Run
) -> None:
    (project.root / "prompts/tip/v1.yaml").write_text(
        "messages: [{role: system, content: be v1}, {role: placeholder, content: '{{ so_far }}'}, "
        "{role: user, content: '{{ situation }}'}]\n"
    )
    suite = project.root / "evals/tips.yaml"
    suite.write_text(suite.read_text().replace("{situation", "{so_far: [{role: assistant, content: Hi}], situation"))
    result = run("evals/tips.yaml", "--rounds", "2", *AUTO)
    assert result.code == 0, result.text
    assert "BUT      MLflow's format() leaves one message of the role placeholder for {{ so_far }}" in result.out
    winner = load_prompt(Path(outcome(project, loop_of(result))["file"]), "tip")
    assert [m.role for m in winner.messages] == ["system", "placeholder", "user"]
    assert "concrete" in winner.messages[0].content


def test_a_loop_that_promoted_does_not_promote_again(project: Project, provider: ScriptedProvider, run: Run) -> None:
    first = loop_of(run("evals/tips.yaml", "--rounds", "2", *AUTO))
    registry = PromptRegistry(project.store)
    registry.promote("tip", load_prompt(project.root / "prompts/tip/v1.yaml", "tip"), lineage={}, message="by hand")
    asked = len(provider.requests)
    result = run("--resume", first)
    assert result.code == 0, result.text
    assert "it was over before" in result.out
    assert champion(project) == "v1"
    assert len(provider.requests) == asked


def test_a_champion_that_comes_while_the_test_split_is_measured_is_not_passed_over(
    project: Project, provider: ScriptedProvider, run: Run
) -> None:
    """Somebody else promotes meanwhile: what was compared with the champion before says nothing of the new one."""
    registry = PromptRegistry(project.store)
    plan = run("evals/tips.yaml", "--dry-run").out
    test = set(re.findall(r"s(\d+)", re.search(r"test: (.*)", plan)[1]))  # type: ignore[index]
    rival = project.root / "prompts/tip/v9.yaml"
    rival.write_text((project.root / "prompts/tip/v1.yaml").read_text().replace("be v1", "be v1, concrete and superb"))
    moved: list[str] = []

    def meanwhile(body: dict[str, Any]) -> str:
        number = re.search(r"situation-(\d+)", str(body["messages"][-1]["content"]))
        if not moved and not is_judge(body) and number and number[1] in test:
            moved.append(registry.promote("tip", load_prompt(rival, "tip"), lineage={}, message="by hand").version)
        return reply(body)

    provider.reply = meanwhile
    result = run("evals/tips.yaml", "--rounds", "2", *AUTO)
    assert (moved, champion(project)) == (["v9"], "v9"), result.text
    assert result.code == 1, result.text
    assert "v9 has become champion of tip" in result.err
    loop = loop_of(result)
    resumed = run("--resume", loop)
    assert (resumed.code, champion(project)) == (0, "v9"), resumed.text
    assert json.loads(Path(outcome(project, loop)["receipt"]).read_text())["champion"] == "v9"


@pytest.mark.parametrize(
    ("messages", "why"),
    [
        ([{"role": "user", "content": "{{ situation }} {{ mood }}"}], "{{ mood }}, which some scenarios have no value"),
        ([{"role": "human", "content": "{{ situation }}"}], "messages.0.role is 'human'"),
    ],
)
def test_a_champion_that_comes_meanwhile_and_cannot_be_asked_keeps_no_result_back(
    project: Project, provider: ScriptedProvider, run: Run, messages: list[dict[str, str]], why: str
) -> None:
    client = project.store.client
    moved: list[int] = []

    def meanwhile(body: dict[str, Any]) -> str:
        if not moved:
            moved.append(client.register_prompt(name="tip", template=messages).version)
            client.set_prompt_alias("tip", "champion", 1)
        return reply(body)

    provider.reply = meanwhile
    result = run("evals/tips.yaml", "--rounds", "2", *AUTO)
    assert (moved, result.code) == ([1], 0), result.text
    assert "REFUSED: " in result.out
    said = re.search("it was not compared with the champion: (.*)", result.out)
    assert said, result.text
    assert why in said[1]
    found = outcome(project, loop_of(result))
    assert found["outcome"] == "not promoted"
    assert Path(found["file"]).exists()
    assert champion(project) == "version 1"


def test_two_files_of_one_text_are_one_prompt(tmp_path: Path, provider: ScriptedProvider, run: Run) -> None:
    suite = SUITE.replace("[v1]", "[v1, v2]")
    project = loop_project(tmp_path / "project", provider, prompts=("v1", "v2"), suite=suite)
    (project.root / "prompts/tip/v2.yaml").write_text((project.root / "prompts/tip/v1.yaml").read_text())
    registry = PromptRegistry(project.store)
    registry.promote("tip", load_prompt(project.root / "prompts/tip/v1.yaml", "tip"), lineage={}, message="by hand")
    result = run("evals/tips.yaml", "--from", "v2", "--rounds", "2", *AUTO)
    assert result.code == 0, result.text
    assert outcome(project, loop_of(result))["outcome"] == "promoted"


# -- the test split


def test_a_gain_that_may_be_chance_is_written_and_not_promoted(
    project: Project, provider: ScriptedProvider, run: Run
) -> None:
    test = set(re.findall(r"s(\d+)", re.search(r"test: (.*)", run("evals/tips.yaml", "--dry-run").out)[1]))  # type: ignore[index]
    lucky = sorted(test)[:2]

    def judge(body: dict[str, Any]) -> str:
        if is_judge(body):
            text = body["messages"][1]["content"].split("<text-")[1]
            number = re.search(r"situation-(\d+)", text)[1]  # type: ignore[index]
            good = "concrete" in text and (number not in test or number in lucky)
            scores = dict.fromkeys(("relevance", "actionability", "tone"), 5 if good else 1 if "vague" in text else 3)
            return json.dumps({"rationale": "", **scores, "format_ok": True})
        return reply(body)

    provider.reply = judge
    result = run("evals/tips.yaml", "--rounds", "2", *AUTO)
    assert result.code == 0, result.text
    loop = loop_of(result)
    ended = outcome(project, loop)
    assert ended["outcome"] == "not shown on the test split", result.text
    assert ended["comparison"]["mean_difference"] > 0
    assert "that may be chance" in result.out
    assert champion(project) is None
    lineage = yaml.safe_load((project.root / "prompts" / "tip" / f"v1-{loop}-r2.yaml").read_text())["lineage"]
    assert lineage["on_test"]["gain"] == "not shown: it may be chance"
    assert lineage["on_test"]["p_value"] > 0.05


def test_later_loops_keep_the_tasks_split_and_say_how_often_it_was_used(project: Project, run: Run) -> None:
    first = run("evals/tips.yaml", "--rounds", "2", "--seed", "3", "--no-promote")
    plan = outcome(project, loop_of(first))["plan"]
    refused = run("evals/tips.yaml", "--rounds", "1", "--seed", "4")
    assert refused.code == 4
    assert f"split by seed 3 in loop {plan['id']}" in refused.err
    assert "--new-split" in refused.err
    project.scenarios = 22
    project.write()
    result = run("evals/tips.yaml", "--rounds", "1", "--no-promote")
    second = outcome(project, loop_of(result))["plan"]
    assert set(plan["train"]) <= set(second["train"])
    assert set(plan["test"]) <= set(second["test"])
    assert (second["split"], second["tested"], second["seed"]) == (plan["id"], 1, 3)
    assert "1 loop looked at this test split before" in result.out
    found = f"v1-{plan['id']}-r2"
    project.suite = SUITE.replace("[v1]", f"[v1, {found}]")
    project.write()
    flattered = run("evals/tips.yaml", "--from", found, "--seed", "4", "--new-split")
    assert flattered.code == 4
    assert f"{found} comes from loop {plan['id']}, which learnt from s" in flattered.err


def test_two_loops_that_begin_at_the_same_moment_have_one_split(
    project: Project, provider: ScriptedProvider, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have seen that there is none yet, and one is first to begin: what it looks at is counted by the other."""
    others: list[Result] = []

    def late(args: argparse.Namespace) -> Job:
        job = make_job(args)
        if not others:
            others.append(optimize(project, "evals/tips.yaml", "--judge", "sit-down", "--proposer", "judge"))
        return job

    free: list[str] = []
    look = "print(LockFile(Path('.promptbench/locks')).is_free('optimize:begin:tip'))"
    create = Rounds.create

    def alone(*args: Any, **named: Any) -> Rounds:
        free.append(
            project.python("-c", f"from pathlib import Path; from {LockFile.__module__} import LockFile; {look}").out
        )
        return create(*args, **named)

    monkeypatch.setattr(command, "make_job", late)
    monkeypatch.setattr(Rounds, "create", alone)
    provider.script("You are a careful", Fault(401))
    result = run("evals/tips.yaml", "--rounds", "1", "--no-promote")
    assert (others[0].code, result.code) == (WAITS, 1), result.text
    splits = {b.loop: b.split for b in Rounds.begun(project.store, "tip")}
    first = loop_of(others[0])
    assert splits == {first: first, loop_of(result): first}
    assert free == ["False\n"], "from the look at those that have begun to its own beginning, no other can begin"


@contextlib.contextmanager
def held_elsewhere(project: Project, name: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds this lock of the project until it ends."""
    hold = f"import sys; from pytest_promptbench.locks import *; from pathlib import Path\n\
print(LockFile(Path('.promptbench/locks')).try_acquire({name!r}), flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", hold], cwd=project.root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "True\n"
        yield other


def test_a_loop_that_waits_for_another_to_begin_says_so(
    project: Project, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may take long where MLflow does not answer, and for ever where the other was stopped by Ctrl-Z."""
    with held_elsewhere(project, "optimize:begin:tip") as other:
        acquire = LockFile.acquire

        def acquired(locks: LockFile, name: str) -> None:
            if name == "optimize:begin:tip":
                other.communicate()  # it ends
            acquire(locks, name)

        monkeypatch.setattr(LockFile, "acquire", acquired)
        args = ("evals/tips.yaml", "--rounds", "1", "--judge", "sit-down", "--proposer", "judge")
        result = run(*args)
    waited = f"waiting for another loop of tip, which is about to begin in {project.root}/.promptbench\n"
    assert (result.code, result.out.startswith(waited)) == (WAITS, True), result.text
    again = run(*args)
    assert (again.code, "waiting for another loop" in again.text) == (WAITS, False), again.text


def test_a_checkout_that_cannot_be_written_begins_no_loop(
    project: Project, provider: ScriptedProvider, run: Run
) -> None:
    (project.root / ".promptbench/locks").mkdir(parents=True)
    result = run("evals/tips.yaml", "--rounds", "1")
    assert (result.code, result.out) == (4, ""), result.text
    assert "/.promptbench/locks: cannot be written: Is a directory; nothing was begun" in result.err
    assert Rounds.begun(project.store, "tip") == []


@pytest.mark.parametrize("place", ["prompts", "reports"])
def test_a_place_that_cannot_be_written_is_found_before_anything_is_paid_for(
    project: Project, provider: ScriptedProvider, run: Run, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """Where prompts are is written to when a winner is found, and where reports are at the end of all."""
    folder = project.root / "prompts/tip" if place == "prompts" else Path("/proc/nope")
    reports = () if place == "prompts" else ("--report", str(folder))
    real, broken = job.try_folder, True

    def tried(path: Path) -> None:
        if broken and path == project.root / "prompts/tip" == folder:
            raise OSError(errno.EROFS, "Read-only file system", str(path / ".draft"))
        real(path)

    monkeypatch.setattr(job, "try_folder", tried)
    result = run("evals/tips.yaml", "--rounds", "1", *reports)
    assert (result.code, result.out) == (4, ""), result.text
    assert re.search(rf"{folder}: cannot be written: .*; nothing was begun\. Make it writable, or ", result.err)
    assert Rounds.begun(project.store, "tip") == []

    broken = False
    provider.script("You improve prompts", Fault(401), times=1)
    loop = loop_of(run("evals/tips.yaml", "--rounds", "2", *AUTO))
    asked, broken = provider.count, True
    result = run("--resume", loop, *reports)
    assert (result.code, provider.count) == (4, asked), result.text
    assert re.search(rf"{folder}: cannot be written: .*; the loop is kept and goes on with .* {loop}", result.err)
    broken = False
    assert run("--resume", loop).code == 0
    broken = True
    result = run("--resume", loop)
    assert (result.code, "it was over before" in result.out) == (0, True), "nothing is left to write to prompts"


def test_a_loop_that_looked_since_another_began_is_counted(
    project: Project, provider: ScriptedProvider, run: Run
) -> None:
    """A loop that waits for a judge, or that was stopped, goes on days later, and others do not wait for it."""
    provider.script("You improve prompts", Fault(401), times=1)
    first = run("evals/tips.yaml", "--rounds", "1", "--no-promote")
    assert first.code == 1, first.text
    provider.reply = proposing("be concrete")
    assert run("evals/tips.yaml", "--rounds", "1", "--no-promote").code == 0
    loop = loop_of(first)
    for _ in range(2):  # its own look is none before it
        result = run("--resume", loop)
        assert result.code == 0, result.text
        assert "1 loop looked at this test split before" in result.out
    report = (project.root / ".promptbench" / "optimize" / loop / "report.md").read_text()
    assert "looked at by 1 loop before this one" in report


# -- who judges


def test_a_person_is_never_compared_with_claude_code(tmp_path: Path, provider: ScriptedProvider, run: Run) -> None:
    """A person judges the start, Claude Code what was proposed: the loop asks for the person's word on that too."""
    provider.reply = proposing("be v1 and concrete")
    project = loop_project(tmp_path / "project", provider, scenarios=10)

    def judged(path: Path, kind: str, only: Callable[[str], bool] = lambda _: True) -> None:
        before = path.read_text()
        score(path, kind=kind, only=only)
        packet = parse_packet(read_packet(path))
        take_in(project.store, packet, project.store.read(packet.experiment), rubrics={})
        if only("concrete") != only("general"):
            path.write_text(before)

    def waits(result: Result) -> Path:
        assert result.code == WAITS, result.text
        return Path(re.search(r"score (\S+), then", result.out)[1])  # type: ignore[index]

    result = run("evals/tips.yaml", "--rounds", "1", "--judge", "sit-down", "--proposer", "judge", "--no-promote")
    loop = loop_of(result)
    judged(waits(result), "human")
    proposed = waits(run("--resume", loop))
    judged(proposed, "claude-code")
    scored = proposed.read_text()
    result = run("--resume", loop)
    again = waits(result)
    assert "2 candidates wait for a judge" in result.out
    assert "claude-code judged these, and human what they are compared with" in result.out
    assert 'score the packet with "judge_kind": "human"' in result.out
    assert "not applied yet" not in result.out
    assert proposed.read_text() == scored
    assert again != proposed, "the person judges blind, too"
    items = json.loads(again.read_text())["items"]
    assert {i["item"] for i in items} == {i["item"] for i in json.loads(scored)["items"]}
    assert all(e["scores"]["tone"] is None for i in items for e in i["candidates"])
    judged(again, "human")
    judged(waits(run("--resume", loop)), "human")  # the other half of train
    packet = waits(run("--resume", loop))  # the test split
    assert outcome(project, loop)["best"] == f"v1-{loop}-r1"
    judged(packet, "claude-code", only=lambda text: "concrete" in text)
    judged(packet, "human", only=lambda text: "concrete" not in text)
    packet = waits(run("--resume", loop))
    ended = outcome(project, loop)
    assert (ended["outcome"], ended["comparison"]) == ("waiting for a judge", None)
    assert ended["waiting"] == len(ended["plan"]["test"])
    assert "claude-code judged these, and human what they are compared with" in ended["note"]
    judged(packet, "human")
    result = run("--resume", loop)
    assert outcome(project, loop)["outcome"] == "offered", result.text


# -- a loop that goes on


def test_what_a_loop_began_with_is_what_it_goes_on_with(project: Project, run: Run) -> None:
    result = run("evals/tips.yaml", "--rounds", "2", "--judge", "sit-down", "--proposer", "judge", "--no-promote",
                 "--report", "out")  # fmt: skip
    loop = loop_of(result)
    for args, message in (
        (["--rounds", "9"], "--rounds 9 is not what the loop began with; it began with 2"),
        (["--judge", "auto"], "--judge auto is not what the loop began with"),
        (["--seed", "3"], "--seed 3 is not what the loop began with; it began with 0"),
        (["--from", "v77"], "--from v77 is not"),
        (["--models", "nope"], "--models nope is not"),
        (["--proposer", "writer"], "--proposer writer is not"),
        (["--promote-policy", "sit-down"], "--promote-policy sit-down is not"),
        (["--promote-within", "cost:1.5"], "--promote-within cost:1.5 is not"),
        (["--no-early-stopping"], "--no-early-stopping is not"),
        (["--max-cost", "1"], "LiteLLM has none for judge, writer"),
    ):
        refused = run("--resume", loop, *args)
        assert refused.code == 4, refused.text
        assert message in refused.err
    pauses = 0
    while result.code == WAITS:
        pauses += 1
        path = Path(re.search(r"score (\S+), then", result.out)[1])  # type: ignore[index]
        assert path.parent == project.root / "out"
        score(path)
        scored = path.read_text()
        again = run("--resume", loop)  # before it was applied
        assert again.code == WAITS
        assert path.read_text() == scored, "a scored packet was overwritten"
        assert "holds scores that were not applied yet" in again.out
        assert project.pytest("evals/", "--judge-apply", str(path)).code == 0
        result = run("--resume", loop, "--rounds", "2", "--no-promote", "--models", "writer")
    assert pauses >= 2
    ended = json.loads((project.root / "out" / "result.json").read_text())
    assert ended["outcome"] == "offered", result.text
    assert champion(project) is None


def test_a_generation_that_failed_is_asked_for_again_on_resume(
    project: Project, provider: ScriptedProvider, run: Run
) -> None:
    test = re.search(r"test: (s\d+)", run("evals/tips.yaml", "--dry-run").out)[1]  # type: ignore[index]
    provider.script(f"situation-{test[1:]}", Fault(400), times=2, model="writer")  # of the start and of the winner
    result = run("evals/tips.yaml", "--rounds", "2", "--no-promote")
    ended = outcome(project, loop_of(result))
    assert ended["comparison"]["n"] == len(ended["plan"]["test"]) - 1, result.text
    before = len(provider.requests)
    result = run("--resume", loop_of(result))
    assert len(provider.requests) - before == 4, "two answers, and their verdicts"
    again = outcome(project, loop_of(result))
    assert again["comparison"]["n"] == len(ended["plan"]["test"])
    assert again["trials"] == ended["trials"]


def test_a_text_that_alone_is_left_and_that_the_judge_refuses_does_not_hold_the_loop_up(
    project: Project, provider: ScriptedProvider, run: Run
) -> None:
    """It came when the others were judged already, by a judge who has answered then."""
    test = re.search(r"test: (s\d+)", run("evals/tips.yaml", "--dry-run").out)[1]  # type: ignore[index]
    asked = f"situation-{test[1:]}"
    provider.script(asked, Fault(400), times=2, model="writer")  # of the start and of the winner
    loop = loop_of(run("evals/tips.yaml", "--rounds", "2", "--no-promote"))
    provider.script(asked, Fault(400, body="content filter"), model="judge")
    result = run("--resume", loop)
    assert result.code == 0, result.text
    assert outcome(project, loop)["comparison"]["n"] == len(outcome(project, loop)["plan"]["test"]) - 1


def test_an_empty_reply_of_the_proposer_is_one_that_cannot_be_used(
    project: Project, provider: ScriptedProvider, run: Run
) -> None:
    provider.script("You improve prompts", Fault(kind="length"), times=3)
    result = run("evals/tips.yaml", "--rounds", "2", "--no-promote")
    assert result.code == 0, result.text
    first, second = outcome(project, loop_of(result))["trials"]
    assert first["problem"].startswith(
        "no usable proposal in 3 tries: model judge (openai/judge) answered with an empty"
    )
    assert first["problem"].endswith("(finish_reason: length)")
    assert second["prompt"] is not None
    assert [len(r["messages"]) for r in provider.requests if is_proposer(r)] == [2, 4, 6, 2]


@pytest.mark.parametrize(("status", "tries"), [(500, 5), (429, 12)])
def test_a_proposer_that_is_out_of_order_is_met_as_any_outage(
    project: Project, provider: ScriptedProvider, run: Run, monkeypatch: pytest.MonkeyPatch, status: int, tries: int
) -> None:
    """It has refused nothing: with fewer examples the same question would be no other."""
    monkeypatch.setattr(RetryPolicy, "pause", lambda *_: 0.01)
    provider.script("You improve prompts", Fault(status), times=tries)
    result = run("evals/tips.yaml", "--rounds", "1", "--no-promote")
    assert result.code == 1, result.text
    assert "the proposer judge could not be asked: model judge (openai/judge): " in result.err
    assert f"(tried {tries} times); what is paid for is kept: promptbench optimize --resume " in result.err
    proposing = [json.dumps(r["messages"]) for r in provider.requests if is_proposer(r)]
    assert (len(proposing), len(set(proposing))) == (tries, 1)
    before = provider.count
    result = run("--resume", loop_of(result))
    assert result.code == 0, result.text
    assert {json.dumps(r["messages"]) for r in provider.requests[before:] if is_proposer(r)} == set(proposing)
    first = [json.dumps(r["messages"]) for r in provider.requests[:before] if not is_proposer(r)]
    assert not {json.dumps(r["messages"]) for r in provider.requests[before:]} & set(first), "paid twice"


def test_a_question_that_a_proposer_refuses_is_asked_with_fewer_answers(
    project: Project, provider: ScriptedProvider, run: Run
) -> None:
    provider.script("You improve prompts", Fault(kind="context-length"), times=2)
    result = run("evals/tips.yaml", "--rounds", "1", "--no-promote")
    assert result.code == 0, result.text
    shown = [r["messages"][1]["content"].count('"inputs"') for r in provider.requests if is_proposer(r)]
    assert shown == [4, 2, 1]


def test_a_loop_that_is_broken_off_says_how_it_goes_on(
    project: Project, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first line, hours ago, is not on the screen any more."""

    def broken_off(error: BaseException) -> Result:
        def measure(*_: object) -> None:
            raise error

        monkeypatch.setattr(MLflowLaboratory, "measure", measure)
        return run("evals/tips.yaml", "--rounds", "1", "--no-promote")

    result = broken_off(KeyboardInterrupt())
    loop = loop_of(result)
    assert result.code == 130
    assert result.out.endswith(f"interrupted; what is paid for is kept: promptbench optimize --resume {loop}\n")
    assert Rounds.find(project.store, loop).state() == "stopped"
    result = broken_off(TrackingError("MLflow at x: gone"))
    loop = loop_of(result)
    assert result.code == 1
    assert f"MLflow at x: gone; what is paid for is kept: promptbench optimize --resume {loop}\n" in result.err


@pytest.mark.parametrize(
    ("owner", "name", "error", "said"),
    [
        (Rounds, "load", TrackingError("MLflow at x: gone"), "MLflow at x: gone; "),  # before anything was said
        (Rounds, "note", TrackingError("MLflow at x: gone"), "MLflow at x: gone; "),
        (Ledger, "cost", LedgerError("the disk is full"), "the disk is full; "),
        (Rounds, "attach", TrackingError("MLflow at x: gone"), "MLflow at x: gone; "),  # after all was paid for
        (Rounds, "attach", KeyboardInterrupt(), "interrupted; "),
    ],
)
def test_a_loop_says_how_it_goes_on_wherever_it_is_broken_off(
    project: Project, run: Run, monkeypatch: pytest.MonkeyPatch, owner: type, name: str, error: BaseException, said: str
) -> None:
    def gone(*_: object, **__: object) -> None:
        raise error

    with monkeypatch.context() as broken:
        broken.setattr(owner, name, gone)
        result = run("evals/tips.yaml", "--rounds", "1", *AUTO)
    assert result.code == (130 if isinstance(error, KeyboardInterrupt) else 1), result.text
    (begun,) = Rounds.begun(project.store, "tip")
    assert f"{said}what is paid for is kept: promptbench optimize --resume {begun.loop}\n" in result.text


def test_the_reports_of_two_loops_do_not_mix(project: Project, run: Run) -> None:
    first = loop_of(run("evals/tips.yaml", "--rounds", "2", "--report", "out", *AUTO))
    result = run("evals/tips.yaml", "--from", "v1", "--rounds", "1", "--report", "out", *AUTO)
    assert result.code == 4
    assert f"the reports of loop {first} are there" in result.err


def test_a_loop_goes_on_in_a_project_that_was_moved(
    tmp_path: Path, project: Project, provider: ScriptedProvider, run: Run
) -> None:
    (project.root / "out/report.md").mkdir(parents=True)
    loop = loop_of(run("evals/tips.yaml", "--rounds", "2", "--report", "out", *AUTO))  # cannot be written
    moved, asked = tmp_path / "moved", provider.count
    project.root.rename(moved)
    result = run("--resume", loop, "--report", "elsewhere", cwd=moved)
    assert result.code == 0, result.text
    assert provider.count == asked, "the journal is where the project is"
    assert not project.root.exists(), "what is kept from now on is, too"
    assert json.loads((moved / "elsewhere/result.json").read_text())["outcome"] == "promoted"


def test_a_resume_that_waited_goes_by_what_the_other_left(
    project: Project, provider: ScriptedProvider, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has read its plan, and before it has the loop to itself another process goes on with it to its end."""
    (project.root / "out/report.md").mkdir(parents=True)
    loop = loop_of(run("evals/tips.yaml", "--rounds", "2", "--report", "out", *AUTO))  # cannot be written
    acquire, others = LockFile.try_acquire, []

    def late(locks: LockFile, name: str) -> bool:
        if name == f"optimize:{loop}" and not others:
            others.append(optimize(project, "--resume", loop, "--report", "first"))
        return acquire(locks, name)

    monkeypatch.setattr(LockFile, "try_acquire", late)
    result = run("--resume", loop, "--report", "second")
    assert [o.code for o in others] == [0], others
    assert (result.code, "it was over before" in result.out) == (0, True), result.text


def test_one_process_at_a_time_goes_on_with_a_loop(project: Project, run: Run) -> None:
    loop = loop_of(run("evals/tips.yaml", "--rounds", "1", "--no-promote"))
    with held_elsewhere(project, f"optimize:{loop}"):
        result = run("--resume", loop)
    assert (result.code, f"loop {loop} is running already" in result.err) == (4, True), result.text


def test_a_report_that_cannot_be_written_is_told_with_the_way_on(project: Project, run: Run) -> None:
    (project.root / "out/report.md").mkdir(parents=True)
    result = run("evals/tips.yaml", "--rounds", "1", "--report", "out", *AUTO)
    assert (result.code, len(result.err.splitlines())) == (4, 1)
    loop = loop_of(result)
    assert re.search(rf"out/report.md: cannot be written: .*; the loop is kept .* --resume {loop}", result.err)
    asked = project.provider.count
    assert run("--resume", loop, "--report", "elsewhere").code == 0
    assert project.provider.count == asked
    assert (project.root / "elsewhere/report.md").is_file()


@pytest.mark.slow
def test_an_output_that_nobody_reads_ends_the_loop_in_one_line_and_it_goes_on(project: Project, run: Run) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest_promptbench", "optimize", "evals/tips.yaml", "--rounds", "1", "--no-promote"],
        cwd=project.root, env=project.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    loop = re.search(r"--resume (\w+)", process.stdout.readline())[1]  # type: ignore[index]
    process.stdout.close()  # as ``| head -1`` does
    told = process.stderr.read()
    process.stderr.close()
    assert (process.wait(), told.count("\n")) == (4, 1), told
    assert (
        "standard output: cannot be written: Broken pipe; the loop is kept and goes on with promptbench optimize "
        f"--resume {loop}," in told
    )
    assert run("--resume", loop).code == 0


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("{init} >/dev/full", 1, "promptbench: standard output: cannot be written: No space left on device\n"),
        ("{init} >&-", 0, ""),
        ("LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 {optimize} | grep -o 'test: s.xe9'", 0, "test: s\\xe9\n"),
    ],
    ids=["full", "closed", "ascii"],
)
def test_an_output_that_takes_nothing_or_only_ascii(project: Project, command: str, code: int, said: str) -> None:
    suite = project.root / "evals/tips.yaml"
    suite.write_text(suite.read_text().replace("id: s", "id: sé"), encoding="utf-8")
    promptbench = f"{sys.executable} -m pytest_promptbench"
    commands = {"init": f"{promptbench} init new", "optimize": f"{promptbench} optimize evals/tips.yaml --dry-run"}
    done = subprocess.run(
        ["bash", "-c", command.format(**commands)], cwd=project.root, env=project.environment(),
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout + done.stderr) == (code, said)


def test_a_root_may_be_named_by_a_link(project: Project, run: Run, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(project.root)
    for suite, root in (("evals/tips.yaml", link), (f"{link}/evals/tips.yaml", project.root)):
        result = run(suite, "--root", str(root), "--dry-run")
        assert result.code == 0, result.text
    result = run("evals/tips.yaml", "--root", str(tmp_path / "other"), "--dry-run")
    assert f"evals/tips.yaml is not below the project's root {tmp_path}/other" in result.err


def test_the_root_is_found_from_any_folder_and_nothing_is_left_there(
    project: Project, provider: ScriptedProvider, run: Run, tmp_path: Path
) -> None:
    (project.root / "pytest.ini").write_text("")
    before = sorted(p.name for p in (project.root / "evals").iterdir())
    result = run("tips.yaml", "--rounds", "1", "--no-promote", cwd=project.root / "evals")
    assert result.code == 0, result.text
    assert sorted(p.name for p in (project.root / "evals").iterdir()) == before
    loop = loop_of(result)
    assert run("--resume", loop, cwd=project.root / "evals").code == 0
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    missing = run("--resume", loop, cwd=elsewhere)
    assert missing.code == 4
    assert "name the root, --root" in missing.err
    found = run("--resume", loop, "--root", str(project.root), cwd=elsewhere)
    assert found.code == 0, found.text
    assert f"--resume {loop} --root {project.root}" in found.out
    assert list(elsewhere.iterdir()) == []


# -- before anything is spent


def test_a_dry_run_spends_nothing_and_makes_nothing(project: Project, provider: ScriptedProvider, run: Run) -> None:
    (project.root / "mlflow.db").unlink()
    before = sorted(p.name for p in project.root.iterdir())
    result = run("evals/tips.yaml", "--dry-run", "--rounds", "5")
    assert result.code == 0, result.text
    # 12 train x (1 + 5), 8 test x 2; three replies at most of judge and proposer
    assert "88 generations, 88 judgements, 5 proposals where every round is tried to its end" in result.out
    assert "at most 264 judgements and 15 proposals" in result.out
    assert "a proposal is looked at every 3 scenarios" in result.out
    assert "is dropped after 6 of 12, one a tenth of the scale behind after" in result.out
    assert "cost: unknown" in result.out
    assert provider.requests == []
    assert sorted(p.name for p in project.root.iterdir()) == before


def cost_of(result: Result) -> tuple[float, float]:
    found = re.search(r"cost: about \$([\d.]+), at most \$([\d.]+)", result.out)
    assert found, result.text
    return float(found[1]), float(found[2])


def test_a_dry_run_has_an_expected_cost_beside_the_most(tmp_path: Path, provider: ScriptedProvider, run: Run) -> None:
    costs = {}
    for samples in (1, 3):
        root = tmp_path / str(samples)
        loop_project(root, provider, priced=True, suite=f"{SUITE}samples: {samples}\n")
        costs[samples] = cost_of(run("evals/tips.yaml", "--dry-run", "--rounds", "2", cwd=root))
    assert costs[1][0] < costs[1][1]
    for k in (0, 1):
        assert 2 < costs[3][k] / costs[1][k] <= 3  # answers and verdicts three times, proposals once
    result = run("evals/tips.yaml", "--rounds", "2", "--no-promote", cwd=root)
    assert result.code == 0, result.text
    left = run("--resume", loop_of(result), "--dry-run", cwd=root)
    assert "calls left, 2 rounds being over: 0 generations, 0 judgements, 0 proposals" in left.out, left.text


def test_a_champion_that_is_another_is_counted(project: Project, run: Run) -> None:
    PromptRegistry(project.store).promote(
        "tip", load_prompt(project.root / "prompts/tip/v1.yaml", "tip"), lineage={}, message="by hand"
    )
    (project.root / "prompts/tip/v1.yaml").write_text("messages: [{role: system, content: 'x {{ situation }}'}]\n")
    both = [run("evals/tips.yaml", "--from", "v1", "--dry-run", "--rounds", "4", *more).out for more in
            (["--no-promote"], [])]  # fmt: skip
    counts = [int(re.search(r"(\d+) generations", text)[1]) for text in both]  # type: ignore[index]
    assert counts[1] - counts[0] == 8


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "name a suite"),
        (["evals/nope.yaml"], "nope.yaml"),
        (["evals/broken.yaml"], "broken.yaml"),
        (["evals/tips.yaml", "--from", "v9"], "has no such prompt; there are: v1"),
        (["evals/tips.yaml", "--proposer", "x"], "models.yaml has no such model; it has: writer, judge"),
        (["evals/tips.yaml", "--models", "x"], "--models: "),
        (["evals/tips.yaml", "--max-cost", "1"], "LiteLLM has none for judge, writer"),
        (["evals/tips.yaml", "--rounds", "0"], "argument --rounds: '0' is no number from 1 to 1000"),
        (["evals/tips.yaml", "--judge", "me"], "argument --judge: invalid choice"),
        (["evals/tips.yaml", "--report", "evals/tips.yaml"], "evals/tips.yaml is a file, not a folder"),
        (["evals/tips.yaml", "--report", "evals/tips.yaml/x"], "evals/tips.yaml is a file, not a folder"),
        (["evals/tips.yaml", "--models", " ,"], "argument --models: ' ,' names nothing"),
        (["evals/tips.yaml", "--wat"], "unrecognized arguments: --wat"),
        (["evals/tips.yaml", "--promote-within", "foo:2", "--dry-run"], "--promote-within 'foo:2': expected"),
        (["evals/tips.yaml", "--judge", "sit-down", *AUTO], "asks for the automatic judge's scores"),
        (["evals/tips.yaml", "--no-promote", *AUTO], "exclude each other"),
        (["--resume", "abc123"], "MLflow has no such loop; there are: none"),
        (["--resume", "../x"], "expected a loop's id"),
        (["evals/tips.yaml", "--resume", "abc123"], "leave the suite out"),
    ],
)
def test_mistakes_are_told_in_one_line(project: Project, run: Run, args: list[str], message: str) -> None:
    project.file("evals/broken.yaml", "task: tip\nrubric: [\n")
    result = run(*args)
    assert result.code == 4, result.text
    assert message in result.err
    assert result.err.startswith("promptbench: ")
    assert result.err.count("\n") == 1
    assert "--bench-" not in result.err


def test_a_provider_that_litellm_does_not_know_is_a_mistake(project: Project, run: Run) -> None:
    models = project.root / "evals/models.yaml"
    models.write_text(models.read_text().replace("openai/", "opnai/", 1))
    result = run("evals/tips.yaml")
    assert result.code == 4
    assert f"promptbench: {models}:2: model " in result.err
    assert "LiteLLM knows no provider for 'opnai/" in result.err


def test_without_gepa_no_loop_is_begun(project: Project, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would have drawn the task's split, with a seed that later loops are held to."""
    monkeypatch.setitem(sys.modules, "gepa", None)
    assert run("evals/tips.yaml", "--dry-run").code == 0
    result = run("evals/tips.yaml", "--rounds", "1")
    assert (result.code, result.out) == (4, ""), result.text
    assert "promptbench optimize needs gepa: pip install 'pytest-promptbench[optimize]'" in result.err
    assert Rounds.begun(project.store, "tip") == []


def test_a_key_that_is_not_set_is_a_mistake(project: Project, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SCRIPTED_KEY")
    result = run("evals/tips.yaml")
    assert result.code == 4
    assert "SCRIPTED_KEY" in result.err


def test_an_address_that_mlflow_has_no_store_for_is_a_mistake(
    project: Project, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgres://bench:hunter2@127.0.0.1:9/mlflow")
    for args in (("evals/tips.yaml",), ("evals/tips.yaml", "--dry-run"), ("--resume", "abc")):
        refused = run(*args)
        assert refused.code == 4, refused.text
        assert "'postgres://***@127.0.0.1:9/mlflow', which MLflow has no store for: write postgresql://" in refused.err


def test_too_few_scenarios_are_refused(project: Project, run: Run) -> None:
    project.scenarios = 9
    project.write()
    result = run("evals/tips.yaml")
    assert result.code == 4
    assert "9 scenarios are too few to optimise on" in result.err
    assert "add 1" in result.err


def test_the_prompt_loop_goes_on_where_a_scorer_fails(tmp_path: Path, provider: ScriptedProvider) -> None:
    """The prompt whose answers it fails on is not the best one."""
    scorers = """
        def likeness(output, vars):
            if "at length" in output:
                raise ValueError("too long")
            return float(output == vars["label"])


        def is_calm(output, vars):
            return True
    """
    project = checked_project(tmp_path, provider)
    project.file("rubrics/tip-v1.md", ALONE.replace("own", "tip-v1"))
    project.file("rubrics/scorers.py", scorers)
    done = optimize(project, "evals/tips.yaml", "--rounds", "3", "--no-promote")
    assert done.code == 0, done.text
    assert re.search(r"round 2/3: v1-\w+-r2: best", done.out), done.out
    failed = [r for r in project.runs(f"tip-optimize-{loop_of(done)}") if r.info.status == "FAILED"]
    assert failed
    assert all("raised ValueError: too long" in r.data.tags["promptbench.error"] for r in failed)
