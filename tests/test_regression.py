"""The gate through real sessions: save, compare, exit codes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_promptbench.gate import Baseline, BaselineRow, evaluate_gate
from pytest_promptbench.regression import lines, step_summary

from .project import TEST, Project, Result, migrated_database
from .provider import ScriptedProvider

DOWN = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """Ten scenarios of one model and prompt, judged with 4s, saved as the baseline."""
    root = tmp_path_factory.mktemp("gate")
    migrated_database(root / "mlflow.db")
    with ScriptedProvider() as provider:
        project = Project(root, provider, models=("haiku",), prompts=("v1",), scenarios=10).write()
        project.pytest()
        project.pytest("--judge-export", "packet.json")
        project.score(value=4)
        applied = project.pytest("--judge-apply", "packet.json", "--bench-save", "base.json")
        assert applied.code == 0, applied.text
        assert "baseline: " in applied.out
        yield project


def gate(project: Project) -> dict[str, object]:
    value: dict[str, object] = json.loads((project.root / ".promptbench/report/gate.json").read_text())
    return value


def test_the_same_scores_pass(judged: Project) -> None:
    result = judged.pytest("--bench-compare=base.json", "--bench-compare-fail", "composite:0.5")
    assert result.code == 0, result.text
    assert "gate of tip: PASS (10 pairs)" in result.out
    assert gate(judged)["outcome"] == "pass"


def test_a_real_drop_fails_and_is_appended_to_the_step_summary(judged: Project, tmp_path: Path) -> None:
    judged.pytest("--judge-export", "again.json", "--judge-reveal")
    judged.environ = {"GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md")}
    packet = judged.packet("packet.json")
    for item in packet["items"]:
        item["candidates"][0]["scores"] |= {"relevance": 2, "tone": 2}
    (judged.root / "worse.json").write_text(json.dumps({**packet, "judged_by": "harsh"}))
    applied = judged.pytest("--judge-apply", "worse.json", "--bench-compare=base.json")
    judged.environ = {}
    assert applied.code == 1, applied.text
    assert "gate of tip: FAIL (10 pairs)" in applied.out
    assert "composite -4.00" in applied.out
    assert "Gate of tip: fail" in (tmp_path / "summary.md").read_text()


def test_a_rubric_of_flags_alone_has_a_gate(tmp_path: Path) -> None:
    """Right or wrong: the composite is what wrong answers take off."""
    migrated_database(tmp_path / "mlflow.db")
    flags = "".join(f"  - {{name: {name}, type: flag, bad: false, penalty: 1}}\n" for name in ("correct", "polite"))
    with ScriptedProvider() as provider:
        project = Project(tmp_path, provider, models=("haiku",), prompts=("v1",), scenarios=10).write()
        (tmp_path / "rubrics/tip-v1.md").write_text(f"---\nid: tip-v1\ncriteria:\n{flags}---\ncorrect: it is true.\n")
        assert project.pytest().code == 0
        assert project.pytest("--judge-export", "packet.json").code == 0
        packet = project.packet()
        for judge, correct, code in (("Ada", True, 0), ("Bob", False, 1)):
            for number, item in enumerate(packet["items"]):
                item["candidates"][0]["scores"] = {"correct": correct or number < 2, "polite": number > 0}
            (tmp_path / "scored.json").write_text(json.dumps({**packet, "judged_by": judge}))
            gated = ("--bench-compare=base.json", "--bench-compare-fail", "composite:0.2") if code else ()
            saved = () if code else ("--bench-save", "base.json")
            result = project.pytest("--judge-apply", "scored.json", *gated, *saved)
            assert result.code == code, result.text
    assert "tip: composite of tip-v1 (best 0)" in result.out
    assert "haiku x v1: composite -0.80" in result.out
    assert project.leaderboard()["rows"][0]["composite"] == -0.9


def test_a_baseline_is_not_replaced_by_what_has_just_failed_against_it(judged: Project) -> None:
    """Else the second try would pass. After the test above: its scores have dropped."""
    before = (judged.root / "base.json").read_text()
    for _ in range(2):
        again = judged.pytest("--bench-compare=base.json", "--bench-save=./evals/../base.json")
        assert (again.code, "gate of tip: FAIL" in again.out) == (1, True), again.text
        assert "base.json stays as it was, since this session did not pass against it" in again.out
        assert (judged.root / "base.json").read_text() == before
    elsewhere = judged.pytest("--bench-compare=base.json", "--bench-save=now.json")
    assert (elsewhere.code, (judged.root / "now.json").exists()) == (1, True), elsewhere.text


def test_a_session_that_was_stopped_leaves_the_baseline_alone(judged: Project) -> None:
    """The verdicts of what it has generated are there, so that its four scenarios would stand for all ten."""
    before = (judged.root / "base.json").read_text()
    test = judged.file("evals/test_tips.py", TEST.replace("candidate.text.strip()", "candidate.scenario.id != 's1'"))
    judged.provider.latency_s = 1.0
    stop = ("-x", "--bench-no-cache", "--bench-concurrency=1", "--bench-experiment=stopped")
    stopped = judged.pytest(*stop, "--bench-save=base.json")
    judged.provider.latency_s = 0.0
    test.write_text(TEST)
    assert (stopped.code, "cells were not generated" in stopped.out) == (1, True), stopped.text
    assert "base.json is not written, as this session was stopped before its end" in stopped.out
    assert (judged.root / "base.json").read_text() == before


def test_what_cannot_be_compared_is_exit_4_and_never_green(judged: Project) -> None:
    rubric = judged.root / "rubrics/tip-v1.md"
    before = rubric.read_text()
    rubric.write_text(before + "\nchanged\n")
    result = judged.pytest("--bench-compare=base.json")
    rubric.write_text(before)
    assert result.code == 4, result.text
    assert "gate of tip: ERROR" in result.out


def test_without_mlflow_nothing_is_compared_or_saved_and_that_is_not_green(judged: Project) -> None:
    judged.environ = DOWN
    result = judged.pytest("--bench-compare=base.json", "--bench-save=new.json", "-k", "s1")
    judged.environ = {}
    assert result.code == 4, result.text
    assert "--bench-compare and --bench-save: ERROR: nothing of this session could be read back" in result.out
    assert not (judged.root / "new.json").exists()
    assert not (judged.root / ".promptbench/report/gate.json").exists(), "an earlier session's is no result of this one"


def test_a_gate_without_an_eval_is_not_done_and_no_pass(judged: Project) -> None:
    gate = judged.root / ".promptbench/report/gate.json"
    gate.parent.mkdir(parents=True, exist_ok=True)
    judged.file("tests/test_unit.py", "def test_unit(): pass\n")
    asked = ("--bench-save=new.json", "--judge-auto")
    judged.file("options.txt", "\n".join(asked))
    for options, code in (
        (asked, 4),
        (("@options.txt",), 4),
        ((*asked, "-n", "2"), 4),
        ((*asked, "--bench-shard", "1/2"), 0),
    ):
        done = judged.pytest("tests", "evals", "-k", "test_unit", *options)
        assert (done.code, "NOT DONE: --judge-auto, --bench-save; no eval was selected" in done.out) == (code, True)
    gate.write_text("{}")
    done = judged.pytest("--bench-compare=base.json", "-m", "not promptbench")
    assert (done.code, "NOT DONE: --bench-compare; no eval was selected" in done.out) == (5, True), done.text
    assert not gate.exists(), "an earlier session's is no result of this one"
    for of_every_session in ("bench_compare=base.json", "addopts=--bench-compare=base.json"):
        quiet = judged.pytest("tests", "evals", "-k", "test_unit", "-o", of_every_session)
        assert (quiet.code, "NOT DONE" in quiet.out) == (0, False), "the configuration waits until it is of use"


def test_what_the_configuration_says_of_a_gate_waits_for_an_eval_and_not_for_its_end(judged: Project) -> None:
    judged.file("tests/test_unit.py", "def test_unit(): pass\n")
    before = judged.provider.count
    for line, said in (
        ("addopts=--bench-compare=nowhere.json", "nowhere.json: there is no baseline"),
        ("bench_compare=nowhere.json", "nowhere.json: there is no baseline"),
        ("bench_save=prompts", "prompts: that is a folder; name a file"),
        ("bench_save=rubrics/tip-v1.md", "tip-v1.md: not JSON"),
    ):
        assert judged.pytest("tests", "evals", "-k", "test_unit", "-o", line).code == 0, line
        refused = judged.pytest("tests", "evals", "--bench-no-cache", "-o", line)
        assert (refused.code, said in refused.text, "passed" in refused.out) == (4, True, False), refused.text
    assert judged.provider.count == before


def test_a_session_that_skipped_every_eval_is_no_pass_of_what_others_did(judged: Project) -> None:
    judged.file("evals/test_skipped.py", TEST.replace("@pytest", "@pytest.mark.skip('no key')\n@pytest", 1))
    for options in ((), ("-n", "2"), ("-o", "bench_compare=base.json")):
        done = judged.pytest("evals/test_skipped.py", "--bench-compare=base.json", "--bench-save=new.json", *options)
        assert (done.code, "PASS" in done.out) == (4, False), done.text
        assert "ERROR: every selected eval was skipped, so there is nothing to compare or save" in done.out
    by_a_fixture = "@pytest.fixture(autouse=True)\ndef vpn(): pytest.skip('none')\n\n@pytest.mark.prompt"
    judged.file("evals/test_skipped.py", TEST.replace("@pytest.mark.prompt", by_a_fixture))
    done = judged.pytest("evals/test_skipped.py", "--bench-compare=base.json")
    assert (done.code, "PASS" in done.out) == (4, False), "what was generated ahead, or before, no test has seen"
    done = judged.pytest("evals", "--bench-compare=base.json")
    (judged.root / "evals/test_skipped.py").unlink()
    assert "(10 pairs)" in done.out, "one that ran compares all"


@pytest.mark.parametrize(
    ("environ", "options", "code"),
    [
        (DOWN, (), 4),
        ({}, ("-k", "nothing"), 5),
        ({}, ("--bench-compare=nowhere.json",), 4),
        ({}, ("--bench-compare-fail=nothing:1",), 4),
        ({}, ("-n", "2", "wrong"), 2),
    ],
)
def test_no_task_keeps_an_earlier_result_where_this_session_has_none(
    judged: Project, environ: dict[str, str], options: tuple[str, ...], code: int
) -> None:
    judged.file("wrong/test_wrong.py", TEST)
    report = judged.root / "several"
    others = ("nightly", "tip-nightly")
    for name, task in (("", "tip"), ("tip", "tip"), ("joke-joke-v1", "joke"), *((name, "tip") for name in others)):
        (report / name).mkdir(parents=True, exist_ok=True)
        board = {"task": task, "rubric": f"{task}-v1", "rubric_sha256": "0" * 64, "experiment": task}
        (report / name / "leaderboard.json").write_text(json.dumps(board))
        (report / name / "gate.json").write_text(json.dumps({"task": task, "outcome": "pass"}))
    asked = ("--bench-compare=base.json", "--bench-report=several")
    shown = judged.pytest("evals/test_tips.py", *asked, *options, "--collect-only")
    assert len([*report.rglob("gate.json")]) == 5, shown.text
    judged.environ = environ
    result = judged.pytest("evals/test_tips.py", *asked, *options)
    judged.environ = {}
    assert result.code == code, result.text
    left = sorted(file.parent.name for file in report.rglob("gate.json"))
    assert tuple(left) == others, "another session's report is its own, and so is a copy"


def test_an_earlier_result_that_cannot_be_removed_is_named(judged: Project) -> None:
    earlier = judged.root / "report/gate.json"
    earlier.mkdir(parents=True)
    for environ in ({}, DOWN):
        judged.environ = environ
        result = judged.pytest("--bench-compare=base.json", "--bench-report=report", "-k", "s1")
        judged.environ = {}
        assert (result.code, "INTERNALERROR" in result.text) == (4, False), result.text
        assert f"{earlier}: cannot be written" in result.out
    judged.file("wrong/test_wrong.py", TEST)
    mistaken = judged.pytest("--bench-compare=base.json", "--bench-report=report", "wrong")
    assert (mistaken.code, f"{earlier}: cannot be written" in mistaken.out) == (2, True), mistaken.text


def test_an_edited_prompt_is_not_passed_on_the_scores_of_its_old_text(judged: Project) -> None:
    prompt = judged.root / "prompts/tip/v1.yaml"
    before = prompt.read_text()
    prompt.write_text(before.replace("be v1", "be rude"))
    result = judged.pytest("--bench-compare=base.json", "-k", "s0")
    prompt.write_text(before)
    assert result.code == 4, result.text
    assert "no cell is scored both in the baseline and now" in result.out
    assert "  changed since the baseline: prompts: v1" in result.out
    found = gate(judged)
    assert found["changed"]["prompts"] == ["v1"]  # type: ignore[index]
    assert {c["reason"] for c in found["unpaired"]} == {"not scored now"}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--bench-compare=nowhere.json",), "there is no baseline; write one with --bench-save"),
        (("--bench-compare",), "evals/baseline.json: there is no baseline"),
        (("--bench-compare", "evals/"), "evals: is a folder, expected a baseline's file; a bare --bench-compare goes"),
        (("--bench-compare", "evals/test_tips.py"), "that is a test, expected a baseline's file; a bare --bench-comp"),
        (("--bench-save", "evals/test_tips.py::test_tip[haiku-v1-s0]"), "s0]: that is a test, expected a baseline's"),
        (("--bench-save=prompts",), "prompts: that is a folder; name a file, e.g. "),
        (("--bench-save=rubrics/tip-v1.md",), "tip-v1.md: not JSON"),
        (("--bench-compare-fail", "composite:0.5"), "give it together with --bench-compare or --bench-self-test"),
        (("--bench-compare=base.json", "--bench-compare-fail", "composite"), "composite"),
    ],
)
def test_mistakes_are_said_before_anything_runs(judged: Project, args: tuple[str, ...], message: str) -> None:
    before = judged.provider.count
    result = judged.pytest(*args, "--bench-no-cache")
    assert result.code == 4, result.text
    assert message in result.text
    assert "Traceback" not in result.text
    assert judged.provider.count == before


@pytest.mark.parametrize("workers", ["0", "2"])
def test_what_the_collected_suites_cannot_be_compared_by_is_said_before_anything_runs(
    judged: Project, workers: str
) -> None:
    before = judged.provider.count
    gate = ("--bench-compare-fail", "composite:1", "--bench-compare-fail", "helpfulness:1")
    result = judged.pytest("--bench-compare=base.json", *gate, "--bench-no-cache", "-n", workers)
    assert (result.code, "INTERNALERROR" in result.text) == (4, False), result.text
    assert (
        "--bench-compare-fail helpfulness:1: the rubric tip-v1 has no 'helpfulness'; it has composite, " in result.out
    )
    other = (judged.root / "base.json").read_text().replace('"task": "tip"', '"task": "joke"')
    (judged.root / "joke.json").write_text(other)
    result = judged.pytest("--bench-compare=joke.json", "--bench-no-cache", "-n", workers)
    assert (result.code, "INTERNALERROR" in result.text) == (4, False), result.text
    assert "joke.json: has no baseline of task 'tip'; it has joke" in result.out
    assert judged.provider.count == before


def test_the_gate_against_itself_under_resampling(judged: Project) -> None:
    result = judged.pytest("--bench-self-test", "200", "--bench-compare=base.json")
    assert result.code == 0, result.text
    assert "the gate on base.json against itself, resampled 200 times:" in result.out
    assert "  tip: 0 of 200 failed (0.0%, 95 % interval 0.0% to 1.9%), 0 were inconclusive" in result.out
    missing = judged.pytest("--bench-self-test", "10")
    assert missing.code == 4
    assert "there is no baseline" in missing.text


def test_a_baseline_with_a_byte_order_mark_is_read(judged: Project) -> None:
    text = (judged.root / "base.json").read_text()
    (judged.root / "bom.json").write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    result = judged.pytest("--bench-read", "--bench-compare=bom.json")
    assert "not JSON" not in result.text
    assert "gate of tip" in result.out, result.text


def test_scores_of_a_baseline_are_not_replaced_by_none(judged: Project) -> None:
    before = (judged.root / "base.json").read_text()
    (judged.root / "kept.json").write_text(before)
    prompt = judged.root / "prompts/tip/v1.yaml"
    text = prompt.read_text()
    prompt.write_text(text.replace("be v1", "be unheard of"))
    result = judged.pytest("--bench-experiment", "new", "--bench-save", "kept.json")
    prompt.write_text(text)
    assert result.code == 4, result.text
    assert (
        "kept.json: it holds scores of the task 'tip', and this session has none: nothing of it is scored" in result.out
    )
    assert (judged.root / "kept.json").read_text() == before


def test_a_baseline_that_could_not_be_read_again_is_not_written(judged: Project) -> None:
    tests = judged.root / "evals/test_tips.py"
    before = tests.read_text()
    other = before.replace("test_tip", "test_other").replace('"tips.yaml"', '"tips.yaml", experiment="other"')
    tests.write_text(before + other)
    result = judged.pytest("--bench-save", "two.json", "-k", "s1")
    tests.write_text(before)
    assert result.code == 4, result.text
    assert "several leaderboards of the task 'tip' and the rubric tip-v1" in result.out
    assert not (judged.root / "two.json").exists()


def test_a_narrowed_session_saves_and_compares_what_it_was_asked_for(tmp_path: Path) -> None:
    migrated_database(tmp_path / "mlflow.db")
    with ScriptedProvider() as provider:
        project = Project(tmp_path, provider, models=("haiku",), prompts=("v1", "v2"), scenarios=2).write()
        project.pytest()
        project.pytest("--judge-export", "packet.json")
        project.score(value=4)
        assert project.pytest("--judge-apply", "packet.json", "--bench-save", "base.json").code == 0
        before = json.loads((tmp_path / "base.json").read_text())["suites"][0]
        narrowed = ("--bench-read", "--bench-prompts", "v1", "--bench-save", "base.json")
        result = project.pytest(*narrowed, "--bench-compare=base.json")
        assert result.code == 0, result.text
        assert "Not asked for, and kept as saved before: haiku x v2." in result.out
        assert gate(project)["deselected"] == ["haiku x v2"]
        assert gate(project)["new"] == [], "what it was not asked for is no news"
        after = json.loads((tmp_path / "base.json").read_text())["suites"][0]
        assert {**after, "saved_at": ""} == {**before, "saved_at": ""}
        suite = tmp_path / "evals/tips.yaml"
        suite.write_text(suite.read_text().replace("situation-1", "edited"))
        assert project.pytest(*narrowed).code == 0
        _, kept = json.loads((tmp_path / "base.json").read_text())["suites"][0]["rows"]
        assert list(kept["scores"]) == ["s0"], "a score of what the scenario was before is none of the present one"


def test_scores_by_an_earlier_text_of_the_rubric_are_not_replaced_in_silence(tmp_path: Path) -> None:
    """By none of a session that nobody has judged yet, or by those of the one prompt that a session was asked for."""
    migrated_database(tmp_path / "mlflow.db")
    with ScriptedProvider() as provider:
        project = Project(tmp_path, provider, models=("haiku",), prompts=("v1", "v2"), scenarios=2).write()

        def judge(*options: str) -> Result:
            project.pytest()
            project.pytest("--judge-export", "packet.json")
            project.score(value=4)
            return project.pytest("--judge-apply", "packet.json", *options)

        assert judge("--bench-save", "base.json").code == 0
        before = (tmp_path / "base.json").read_text()
        rubric = tmp_path / "rubrics/tip-v1.md"
        rubric.write_text(rubric.read_text() + "\nA comma more.\n")
        unjudged = project.pytest("--bench-save", "base.json")
        assert (unjudged.code, "holds scores of the task 'tip', and this session has none" in unjudged.out) == (4, True)
        assert judge().code == 0
        narrowed = project.pytest("--bench-read", "--bench-prompts", "v1", "--bench-save", "base.json")
        said = "it holds scores of haiku x v2 by an earlier text of the rubric tip-v1"
        assert (narrowed.code, said in narrowed.out) == (4, True), narrowed.text
        assert (tmp_path / "base.json").read_text() == before
        assert project.pytest("--bench-read", "--bench-save", "base.json").code == 0


def test_what_the_suite_has_no_more_is_no_part_of_a_baseline_and_no_news(tmp_path: Path) -> None:
    """The experiment still holds it, with scores that count no more: each later gate would be inconclusive."""
    migrated_database(tmp_path / "mlflow.db")
    with ScriptedProvider() as provider:
        project = Project(tmp_path, provider, models=("haiku",), prompts=("v1", "v2"), scenarios=7).write()
        project.pytest()
        project.pytest("--judge-export", "packet.json")
        project.score(value=4)
        assert project.pytest("--judge-apply", "packet.json", "--bench-save", "base.json").code == 0
        fewer = Project(tmp_path, provider, models=("haiku",), prompts=("v1",), scenarios=6).write()
        (tmp_path / "prompts/tip/v2.yaml").unlink(missing_ok=True)
        missed = fewer.pytest("--bench-read", "--bench-compare=base.json", "--bench-strict")
        assert (missed.code, "8 vanished cells: haiku x v1 x s6 (only in" in missed.out) == (1, True), missed.text
        saved = fewer.pytest("--bench-read", "--bench-save", "base.json")
        assert saved.code == 0, saved.text
        assert "of tip do not have, and the baseline no more: s6. Where they are another suite's" in saved.out
        unchanged = fewer.pytest("--bench-read", "--bench-compare=base.json", "--bench-strict")
    assert (unchanged.code, "gate of tip: PASS (6 pairs)" in unchanged.out) == (0, True), unchanged.text
    (row,) = json.loads((tmp_path / "base.json").read_text())["suites"][0]["rows"]
    assert (row["prompt"], sorted(row["scores"])) == ("v1", [f"s{i}" for i in range(6)])
    assert gate(fewer)["new"] == gate(fewer)["vanished"] == []


def test_a_packet_without_its_suite_is_taken_in_and_neither_saved_nor_compared(tmp_path: Path) -> None:
    """Which of its scores count is not known: a baseline of it held no row, and ended with 0."""
    migrated_database(tmp_path / "mlflow.db")
    with ScriptedProvider() as provider:
        project = Project(tmp_path, provider, models=("haiku",), prompts=("v1",), scenarios=7).write()
        project.pytest()
        project.pytest("--judge-export", "packet.json")
        project.score(value=4)
        project.file("evals_of_others/test_other.py", "def test_other(): pass")
        alone = project.pytest("evals_of_others", "--judge-apply", "packet.json", "--bench-save", "base.json")
        assert (alone.code, (tmp_path / "base.json").exists()) == (4, False), alone.text
        told = "gate: ERROR: no suite of the task 'tip' was collected, whose files say which scores count, so"
        assert "applied 7" in alone.out
        assert told in alone.out
        assert project.pytest("--judge-apply", "packet.json", "--bench-save", "base.json").code == 0
        compared = project.pytest("evals_of_others", "--judge-apply", "packet.json", "--bench-compare=base.json")
    assert (compared.code, told in compared.out) == (4, True), compared.text


@pytest.mark.slow
def test_one_label_does_not_part_a_session_from_its_automatic_baseline(tmp_path: Path) -> None:
    def answer(body: dict[str, Any]) -> str:
        text = "".join(str(m["content"]) for m in body["messages"])
        if "Score it now" not in text:
            return f"A tip: {text[-11:]}"
        return json.dumps({"rationale": "", "relevance": 3, "actionability": 4, "tone": 3, "format_ok": True})

    migrated_database(tmp_path / "mlflow.db")
    with ScriptedProvider(reply=answer) as provider:
        suite = "judge: {model: haiku}\n"
        project = Project(tmp_path, provider, models=("haiku",), prompts=("v1",), scenarios=7, suite=suite).write()
        assert project.pytest("--judge-auto", "--bench-save=base.json").code == 0
        project.pytest("--judge-export", "packet.json")
        project.score(value=5, only=1)
        both = ("--bench-compare=base.json", "--bench-save=base.json")
        applied = ("--judge-apply", "packet.json", "--bench-compare=base.json")
        for asked in (applied, (*both[:1], "--bench-save=new.json"), ("--bench-compare=new.json",), both, both):
            labelled = project.pytest(*asked)
            assert labelled.code == 0, labelled.text
            assert "gate of tip: PASS (7 pairs)" in labelled.out
            said = "by its automatic scores, on which the baseline rests: its 1 sit-down label is left aside"
            assert said in labelled.out
        assert project.pytest("--bench-save=first.json").code == 0  # where no baseline was
        first = project.pytest("--bench-compare=first.json")
        assert "gate of tip: PASS (7 pairs)" in first.out, first.text
        assert said in first.out
        project.pytest("--judge-export", "packet.json")
        project.score(value=5)
        assert project.pytest("--judge-apply", "packet.json").code == 0
        assert project.pytest("--bench-save=base.json").code == 0
        assert json.loads((tmp_path / "base.json").read_text())["suites"][0]["rows"][0]["tier"] == "claude-code"
        packet = project.packet()
        packet.update(judge_kind="human", items=packet["items"][:1])
        packet["items"][0]["candidates"][0]["scores"]["relevance"] = 1
        (tmp_path / "packet.json").write_text(json.dumps(packet))
        checked = project.pytest("--judge-apply", "packet.json", "--bench-compare=base.json")
    assert "gate of tip: PASS (7 pairs)" in checked.out, checked.text
    assert "Claude Code's verdicts where the baseline has those: a person's on 1 candidate are left" in checked.out


def test_a_baseline_of_the_same_task_by_another_rubric_stays(tmp_path: Path) -> None:
    migrated_database(tmp_path / "mlflow.db")
    with ScriptedProvider() as provider:
        project = Project(tmp_path, provider, models=("haiku",), prompts=("v1",), scenarios=1).write()
        rubric = (tmp_path / "rubrics/tip-v1.md").read_text()
        project.file("rubrics/brief.md", rubric.replace("tip-v1", "brief"))
        project.file("evals/brief.yaml", (tmp_path / "evals/tips.yaml").read_text().replace("tip-v1", "brief"))
        project.file("evals/test_brief.py", TEST.replace("tips.yaml", "brief.yaml"))
        for file in ("evals/test_tips.py", "evals/test_brief.py"):
            assert project.pytest(file, "--bench-save", "base.json").code == 0
        suites = json.loads((tmp_path / "base.json").read_text())["suites"]
        assert [b["rubric"] for b in suites] == ["brief", "tip-v1"]
        project.file("rubrics/tip-v1.md", rubric + "stricter\n")
        changed = project.pytest("evals/test_tips.py", "--bench-compare=base.json")
        assert "the baseline was scored by the rubric tip-v1 (" in changed.out, changed.text
        said = "Not compared, as this session has no leaderboard of it: tip by brief."
        assert said in changed.out, "a pass is not all of it"
        (tmp_path / "rubrics/tip-v1.md").write_text(rubric)
        assert "Not compared" not in project.pytest("--bench-compare=base.json").out
        assert project.pytest("evals/test_tips.py", "--judge-export", "packet.json").code == 0
        applied = project.pytest("--judge-apply", "packet.json", "--bench-compare=base.json")
        assert said in applied.out, "its evals are selected, and the packet is of others"


def test_names_are_no_markup_in_a_step_summary(tmp_path: Path) -> None:
    row = BaselineRow(model="a|<b>", prompt="*v1*", tier="human", scores={"s": {"composite": 1.0}})
    baseline = Baseline(
        task="t", experiment="e", rubric="r", rubric_sha256="x", better={"composite": "higher"}, rows=(row,)
    )
    result = evaluate_gate(baseline, replace(baseline, rows=()))
    step_summary([], [result], {"GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md")})
    result = evaluate_gate(baseline, replace(baseline, rows=(replace(row, tier="auto"),)))
    step_summary([], [result], {"GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md")})
    text = (tmp_path / "summary.md").read_text()
    assert "a\\|&lt;b&gt; x \\*v1\\*: the baseline was judged by human" in text
    assert "<b>" not in text


def test_a_step_summary_that_cannot_be_written_is_said_and_ends_nothing(tmp_path: Path) -> None:
    """As in a container that got the variable and not the file."""
    path = tmp_path / "not mounted" / "summary.md"
    said = step_summary([], [], {"GITHUB_STEP_SUMMARY": str(path)})
    assert said == [f"GITHUB_STEP_SUMMARY: {path} cannot be written: No such file or directory"]


def test_names_in_a_baseline_do_nothing_to_a_terminal() -> None:
    name = "s\x1b[31m\ngate of t: PASS"
    row = BaselineRow(model="m", prompt="p", tier="human", scores={"s": {"composite": 1.0}, name: {"composite": 1.0}})
    baseline = Baseline(
        task="t", experiment="e", rubric="r", rubric_sha256="x", better={"composite": "higher"}, rows=(row,)
    )
    now = replace(baseline, rows=(replace(row, scores={"s": {"composite": 1.0}}),))
    said = [line for line, _ in lines([evaluate_gate(baseline, now)])]
    assert any("1 vanished cell: m x p x s\u241b[31m gate of t: PASS (only in the baseline)" in line for line in said)
    assert all(line.isprintable() for line in said)


def test_an_optional_model_whose_key_is_missing_keeps_its_scores(tmp_path: Path) -> None:
    migrated_database(tmp_path / "mlflow.db")
    with ScriptedProvider() as provider:
        project = Project(tmp_path, provider, prompts=("v1",), scenarios=1, environ={"OTHER_KEY": "x"}).write()
        models = (tmp_path / "evals/models.yaml").read_text()
        head, found, tail = models.rpartition("SCRIPTED_KEY")
        project.file("evals/models.yaml", f"{head}OTHER_KEY, optional: true{tail}")
        assert found
        assert project.pytest().code == 0
        project.pytest("--judge-export", "packet.json")
        project.score(value=4)
        assert project.pytest("--judge-apply", "packet.json", "--bench-save", "base.json").code == 0
        project.environ.clear()
        again = project.pytest("--bench-save", "base.json")
        assert "Not asked for, and kept as saved before: local x v1." in again.out, again.text
        rows = json.loads((tmp_path / "base.json").read_text())["suites"][0]["rows"]
        assert [bool(row["scores"]["s0"]) for row in rows] == [True, True]
