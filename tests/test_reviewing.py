"""--judge-queue and --judge-collect against a real ``mlflow server`` and its review queues."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from pytest_promptbench.catalog.rubric import load_rubric
from pytest_promptbench.packet import item_id
from pytest_promptbench.tracking.reviews import ReviewItem, ReviewQueues, review_trace
from pytest_promptbench.tracking.spans import trace_id

from .project import TEST, Project, migrated_database
from .provider import ScriptedProvider
from .test_server import folder, server
from .test_web import Browser, needs_chromium

__all__ = ["folder", "server"]
SCRIPT = """
import json, sys
import mlflow
from mlflow.entities import AssessmentSource
from mlflow.genai import review_queues
uri, experiment, answers, by = sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), json.loads(sys.argv[4])
mlflow.set_tracking_uri(uri)
found = mlflow.get_experiment_by_name(experiment).experiment_id
(queue,) = review_queues.list_review_queues(experiment_id=found)
items = sorted(review_queues.list_review_queue_items(queue.queue_id), key=lambda i: i.item_id)
for item, given, who in zip(items, answers, by):
    for name, value in given.items():
        mlflow.log_feedback(
            trace_id=item.item_id, name=name, value=value, rationale="seen",
            source=AssessmentSource(source_type="HUMAN", source_id=who),
        )
    review_queues.set_review_queue_item_status(
        queue.queue_id, item_id=item.item_id, status="complete", completed_by=who
    )
traces = [mlflow.get_trace(i.item_id) for i in items]
spans = [t.data.spans[0] for t in traces]
seen = [[s.inputs, s.outputs, dict(t.info.tags), s.start_time_ns] for s, t in zip(spans, traces)]
print(json.dumps(seen, default=str))
"""


def review(
    project: Project, uri: str, experiment: str, answers: list[dict[str, Any]], *, by: list[str] | None = None
) -> list[Any]:
    """Answer as a person would in MLflow's pages: feedback on the trace, then the item is complete. ``by`` ann."""
    said = (json.dumps(answers), json.dumps(by or ["ann"] * len(answers)))
    done = project.python("-c", SCRIPT, uri, experiment, *said)
    assert done.code == 0, done.text
    found: list[Any] = json.loads(done.out.splitlines()[-1])
    return found


STEPS = """
import json, sys
import mlflow
from mlflow.entities import AssessmentSource, Feedback
from mlflow.genai import review_queues
uri, experiment, name, steps = sys.argv[1], sys.argv[2], sys.argv[3], json.loads(sys.argv[4])
mlflow.set_tracking_uri(uri)
found = mlflow.get_experiment_by_name(experiment).experiment_id
(queue,) = [q for q in review_queues.list_review_queues(experiment_id=found) if q.name == name]
items = sorted(review_queues.list_review_queue_items(queue.queue_id), key=lambda i: i.item_id)
for place, who, said in steps:
    item = items[place].item_id
    if who == "add":
        review_queues.add_items_to_review_queue(queue.queue_id, item_ids=[said])
        review_queues.set_review_queue_item_status(queue.queue_id, item_id=said, status="complete", completed_by="ann")
        continue
    if who == "reopen":
        review_queues.set_review_queue_item_status(queue.queue_id, item_id=said, status="pending")
        continue
    if who == "edit":
        from mlflow.genai import label_schemas
        schema = next(s for s in label_schemas.list_label_schemas(found) if s.name == "tone")
        label_schemas.update_label_schema(
            schema.schema_id, input=label_schemas.InputCategorical(options=said)
        )
        continue
    if said in ("complete", "declined", "pending"):
        by = who if said != "pending" else None
        review_queues.set_review_queue_item_status(queue.queue_id, item_id=item, status=said, completed_by=by)
        continue
    there = {(a.name, a.source.source_id): a.assessment_id for a in mlflow.get_trace(item).info.assessments}
    for name, value in said.items():
        source = AssessmentSource(source_type="HUMAN", source_id=who)
        if (name, who) in there:
            again = Feedback(name=name, value=value, source=source)
            mlflow.update_assessment(trace_id=item, assessment_id=there[name, who], assessment=again)
        else:
            mlflow.log_feedback(trace_id=item, name=name, value=value, source=source)
"""
GOOD = {"relevance": "4", "actionability": "5", "tone": "3", "format_ok": True}


def take_steps(project: Project, experiment: str, queue: str, *steps: tuple[int, str, Any]) -> None:
    """Each in turn: (place of the item, who, answers) or (place, who, status); a repeated answer changes the first.

    (0, "edit", options) has the question about the tone ask for these instead; (0, "add", trace) puts one in, complete,
    and (0, "reopen", trace) has it wait.
    """
    uri = f"sqlite:///{project.root}/mlflow.db"
    done = project.python("-c", STEPS, uri, experiment, queue, json.dumps(steps))
    assert done.code == 0, done.text


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Of a project whose MLflow is a file in it."""
    migrated_database(tmp_path / "mlflow.db")
    return tmp_path


def test_nobodys_answers_become_another_persons_verdict(root: Path) -> None:
    """Several people answer on one item; the verdict is of who completed it, from what they answered themselves."""
    with ScriptedProvider() as provider:
        project = Project(root, provider, models=("haiku",), prompts=("v1",), scenarios=4).write()
        named = ("--bench-experiment", "e")
        assert project.pytest(*named).code == 0
        assert project.pytest("--judge-queue", "q", *named).code == 0
        take_steps(
            project, "e", "q",
            (0, "ann", {"relevance": "1", "tone": "1"}), (0, "bob", {"actionability": "5", "format_ok": True}),
            (0, "bob", "complete"),
            (1, "Ann@Ex.com", GOOD), (1, "Ann@Ex.com", "complete"), (1, "bob", {"relevance": "1"}),
            (2, "ann", GOOD), (2, "bob", "complete"),
            (3, "bob", {**GOOD, "tone": "1"}), (3, "ann", {"tone": "5"}), (3, "bob", {"tone": "2"}),
            (3, "bob", "complete"),
        )  # fmt: skip
        collected = project.pytest("--judge-collect", "q", *named)
        assert collected.code == 0, collected.text
        assert "applied 2, unchanged 0, still pending 2 (0 of them in q)" in collected.out
        judged = [r for r in project.runs("e") if r.data.tags["judge_pending"] == "false"]
        found = {r.data.tags["judged_by"]: r.data.metrics for r in judged}
        assert {who: (m["relevance"], m["actionability"], m["tone"]) for who, m in found.items()} == {
            "ann@ex.com": (4, 5, 3),
            "bob": (4, 5, 2),
        }
        assert "was completed without relevance, tone; left pending" in collected.out
        assert "was completed without relevance, actionability, tone, format_ok; left pending" in collected.out
        assert collected.out.count("bob completed it, and the answers of ann are not taken; for a verdict of") == 3
        assert "ann@ex.com completed it, and the answers of bob are not taken" in collected.out

        # What it says can be done: reopened, and completed by who answered.
        take_steps(project, "e", "q", (2, "bob", "pending"), (2, "ann", "complete"))
        again = project.pytest("--judge-collect", "q", *named)
        assert "applied 1, unchanged 2, still pending 1" in again.out, again.text


def test_a_question_that_was_edited_in_mlflow_is_not_read_as_the_rubrics(root: Path) -> None:
    """4 is the best of 0 to 4, and not of 1 to 5."""
    with ScriptedProvider() as provider:
        project = Project(root, provider, models=("haiku",), prompts=("v1",), scenarios=2).write()
        named = ("--bench-experiment", "e")
        assert project.pytest(*named).code == 0
        assert project.pytest("--judge-queue", "q", *named).code == 0
        take_steps(
            project, "e", "q", (0, "edit", list("01234")), (0, "ann", {**GOOD, "tone": "4"}), (0, "ann", "complete")
        )
        refused = project.pytest("--judge-collect", "q", *named)
        assert refused.code == 4, refused.text
        assert "the label schema 'tone' has other answers than 1 to 5, as the rubric tip-v1 has" in refused.text
        assert {r.data.tags["judge_pending"] for r in project.runs("e")} == {"true"}
        take_steps(project, "e", "q", (0, "edit", list("12345")))
        assert "applied 1, unchanged 0, still pending 1" in project.pytest("--judge-collect", "q", *named).out


def test_collecting_again_does_not_bring_back_what_a_person_has_since_revised(root: Path) -> None:
    with ScriptedProvider() as provider:
        project = Project(root, provider, models=("haiku",), prompts=("v1",), scenarios=1).write()
        named = ("--bench-experiment", "e")
        assert project.pytest(*named).code == 0
        assert project.pytest("--judge-queue", "q", *named).code == 0
        assert project.pytest("--judge-export", "packet.json", *named).code == 0
        take_steps(project, "e", "q", (0, "ann", GOOD), (0, "ann", "complete"))
        assert "applied 1, unchanged 0" in project.pytest("--judge-collect", "q", *named).out
        project.score(value=2, judge_kind="human", judged_by="ann")
        assert "applied 1, unchanged 0" in project.pytest("--judge-apply", "packet.json", *named).out

        again = project.pytest("--judge-collect", "q", *named)
        assert "applied 0, unchanged 0, still pending 0" in again.out, again.text
        (run,) = project.runs("e")
        assert run.data.metrics["composite"] == 6
        assert f"ann's verdict of {run.data.tags['judged_at']} came after these answers and stays" in again.out

        take_steps(project, "e", "q", (0, "ann", {"tone": "5"}))
        assert "applied 1, unchanged 0" in project.pytest("--judge-collect", "q", *named).out
        (run,) = project.runs("e")
        assert run.data.metrics["composite"] == 14, "what she says later still, in MLflow, is her verdict"


def test_a_trace_that_others_put_into_a_queue_holds_up_no_other(root: Path) -> None:
    """A queue takes any id: that of a trace which is of something else, or of none."""
    with ScriptedProvider() as provider:
        project = Project(root, provider, models=("haiku",), prompts=("v1",), scenarios=1).write()
        named = ("--bench-experiment", "e")
        assert project.pytest(*named).code == 0
        assert project.pytest("--judge-queue", "q", *named).code == 0
        (run,) = project.runs("e")
        others = (trace_id(run.info.run_id), "tr-" + "0" * 32)
        answered = [(0, "ann", GOOD), (0, "ann", "complete")]
        take_steps(project, "e", "q", *answered, *((0, "add", trace) for trace in others))
        collected = project.pytest("--judge-collect", "q", *named)
        assert collected.code == 0, collected.text
        assert "applied 1, unchanged 0, still pending 0" in collected.out
        for trace in others:
            assert f"trace {trace} is in the queue and was not put there by --judge-queue" in collected.out


def test_who_declined_an_item_is_named_until_somebody_judges_it(root: Path) -> None:
    with ScriptedProvider() as provider:
        project = Project(root, provider, models=("haiku",), prompts=("v1",), scenarios=2).write()
        named = ("--bench-experiment", "e")
        assert project.pytest(*named).code == 0
        assert project.pytest("--judge-queue", "q", *named).code == 0
        take_steps(project, "e", "q", (0, "Ann", "declined"), (1, "bob", GOOD), (1, "bob", "complete"))
        collected = project.pytest("--judge-collect", "q", *named)
        assert collected.code == 0, collected.text
        assert "applied 1, unchanged 0, still pending 1 (0 of them in q)" in collected.out
        (item,) = re.findall(r"item (\S+): ann declined it; left pending, for a packet or another queue", collected.out)
        assert project.pytest("--judge-export", "p.json", *named).code == 0
        assert [i["item"] for i in project.packet("p.json")["items"]] == [item]
        project.score("p.json")
        assert project.pytest("--judge-apply", "p.json").code == 0
        assert "declined it" not in project.pytest("--judge-collect", "q", *named).out


def test_people_review_in_mlflows_own_pages(tmp_path: Path, server: str) -> None:
    with ScriptedProvider() as provider:
        project = Project(
            tmp_path, provider, models=("haiku",), prompts=("v1",), scenarios=3, environ={"MLFLOW_TRACKING_URI": server}
        ).write()
        suite = project.root / "evals/tips.yaml"
        suite.write_text(suite.read_text().replace("{situation: ", "{rubric: a variable, situation: "))
        named = ("--bench-experiment", "own pages")
        assert project.pytest(*named).code == 0
        filled = project.pytest("--judge-queue", "round 1", *named)
        assert filled.code == 0, filled.text
        assert "3 pending candidates of own pages are in MLflow's review queue round 1" in filled.out
        before = review(project, server, "own pages", [])
        again = project.pytest("--judge-queue", "round 1", "--judge-reveal", *named)
        assert again.code == 0, again.text

        good = {"relevance": "4", "actionability": "5", "tone": "3", "format_ok": True}
        partly = {"relevance": "4"}
        seen = review(project, server, "own pages", [good, partly])
        assert len(seen) == 3  # filling twice put nothing in twice
        assert seen == before, "and changed nothing that a reviewer has before them"
        for inputs, output, tags, _ in seen:
            assert set(inputs) == {"context", "rubric"}
            assert set(inputs["context"]) == {"situation", "rubric"}, "a variable of that name is only a variable"
            assert "Anchors" in inputs["rubric"]
            assert isinstance(output, str)
            assert "haiku" not in json.dumps([inputs, tags])
            assert "be v1" not in json.dumps([inputs, tags])

        collected = project.pytest("--judge-collect", "round 1", *named)
        assert collected.code == 0, collected.text
        assert "applied 1, unchanged 0, still pending 2 (1 of them in round 1)" in collected.out
        assert "was completed without actionability, tone, format_ok; left pending" in collected.out
        (run,) = [r for r in project.runs("own pages") if r.data.tags["judge_pending"] == "false"]
        assert run.data.tags["judge_kind"] == "human"
        assert run.data.tags["judged_by"] == "ann"
        assert run.data.metrics["composite"] == 12
        again = project.pytest("--judge-collect", "round 1", *named)
        assert "applied 0, unchanged 1, still pending 2" in again.out


@pytest.mark.slow
@pytest.mark.browser
@needs_chromium
def test_a_person_clicks_through_mlflows_review_page(tmp_path: Path, server: str) -> None:
    with ScriptedProvider() as provider:
        project = Project(
            tmp_path, provider, models=("haiku",), prompts=("v1",), scenarios=2, environ={"MLFLOW_TRACKING_URI": server}
        ).write()
        named = ("--bench-experiment", "in the browser")
        assert project.pytest(*named).code == 0
        assert project.pytest("--judge-queue", "by hand", *named).code == 0
        page = Browser(tmp_path / "profile")
        try:
            page.open(f"{server}/#/experiments/{project.store.experiment('in the browser')}/review-queue")
            named_so = "[...document.querySelectorAll('{}')].findLast((e) => e.textContent.trim() === '{}')"
            for tag, text in (("a, button, span, p", "by hand"), ("button", "Start review"), ("label, button", "yes")):
                page.wait(f"Boolean({named_so.format(tag, text)})")
                page.run(named_so.format(tag, text) + ".click()")
            page.wait("document.body.innerText.includes('situation-')")
            shown = page.run("return document.body.innerText")
            assert not any(word in shown for word in ("haiku", "be v1"))

            def elements(role: str) -> list[str]:
                found = page.call("POST", "/elements", {"using": "css selector", "value": f"[role={role}]"})
                return [str(next(iter(one.values()))) for one in found]

            for place in range(3):
                page.call("POST", f"/element/{elements('combobox')[place]}/click")
                page.wait("document.querySelectorAll('[role=option]').length === 5")
                page.call("POST", f"/element/{elements('option')[3]}/click")
                page.wait("!document.querySelector('[role=option]')")
            page.run(named_so.format("button", "Submit") + ".click()")
            page.wait("document.body.innerText.includes('1 of 2 reviewed')")
        finally:
            page.close()
        collected = project.pytest("--judge-collect", "by hand", *named)
        assert "applied 1, unchanged 0, still pending 1 (1 of them in by hand)" in collected.out, collected.text
        (judged,) = [r for r in project.runs("in the browser") if r.data.tags["judge_pending"] == "false"]
        assert (judged.data.tags["judge_kind"], judged.data.metrics["composite"]) == ("human", 12.0)


def test_one_item_that_no_rubric_allows_holds_up_no_other(tmp_path: Path, server: str) -> None:
    with ScriptedProvider() as provider:
        project = Project(
            tmp_path, provider, models=("haiku",), prompts=("v1",), scenarios=3, environ={"MLFLOW_TRACKING_URI": server}
        ).write()
        named = ("--bench-experiment", "one bad item")
        assert project.pytest(*named).code == 0
        assert project.pytest("--judge-queue", "q", "--judge-reveal", *named).code == 0
        good = {"relevance": "4", "actionability": "5", "tone": "3", "format_ok": True}
        answers = [({**good, "tone": "9"}, "ann"), (good, "bob"), (good, "ann")]
        seen = review(project, server, "one bad item", [a for a, _ in answers], by=[who for _, who in answers])
        for inputs, _, _, _ in seen:
            revealed = inputs["revealed"]
            assert (revealed["model"], revealed["prompt"]) == ("haiku", "v1")
            assert revealed["run_id"] in {r.info.run_id for r in project.runs("one bad item")}
            assert revealed["messages"][0] == {"role": "system", "content": "be v1"}

        collected = project.pytest("--judge-collect", "q", *named)
        assert collected.code == 0, collected.text
        assert "applied 2, unchanged 0, still pending 1 (0 of them in q)" in collected.out
        assert "tone is 9" in collected.out
        assert "the rubric tip-v1 allows 1 to 5; left pending" in collected.out
        judged = [r for r in project.runs("one bad item") if r.data.tags["judge_pending"] == "false"]
        assert {r.data.tags["judged_by"] for r in judged} == {"ann", "bob"}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--judge-collect", "nowhere"], "--judge-collect nowhere: review has no review queue of this name"),
        (["--judge-queue", "q", "--judge-collect", "q"], "--judge-queue and --judge-collect are two steps"),
        (["--judge-reveal"], "give it together with --judge-export or --judge-queue"),
    ],
)
def test_mistakes(tmp_path: Path, server: str, args: list[str], message: str) -> None:
    with ScriptedProvider() as provider:
        project = Project(
            tmp_path, provider, models=("haiku",), prompts=("v1",), scenarios=1, environ={"MLFLOW_TRACKING_URI": server}
        ).write()
        assert project.pytest("--bench-experiment", "review").code == 0
        result = project.pytest(*args, "--bench-experiment", "review")
        assert result.code == 4, result.text
        assert message in result.text


def test_a_queue_holds_what_is_selected_and_is_of_the_selected_suite(root: Path) -> None:
    with ScriptedProvider() as provider:
        project = Project(root, provider, prompts=("v1",), scenarios=2).write().second_suite()
        weekly = TEST.replace('"tips.yaml"', '"tips.yaml", experiment="weekly"').replace("test_tip", "test_weekly")
        project.file("evals/test_weekly.py", weekly)
        assert project.pytest().code == 0
        for chosen, others in (("not weekly", "evals/jokes.yaml in "), ("not joke", "evals/tips.yaml in weekly")):
            refused = project.pytest("--judge-queue", "both", "-k", chosen)
            assert (refused.code, others in refused.text) == (4, True), refused.text
        filled = project.pytest("--judge-queue", "mine", "-k", "haiku and not (joke or weekly)")
        assert filled.code == 0, filled.text
        assert "2 pending candidates of tip-bench-" in filled.out
        collected = project.pytest("--judge-collect", "mine", "-k", "not (joke or weekly)")
        assert "applied 0, unchanged 0, still pending 4 (2 of them in mine)" in collected.out, collected.text


def test_the_order_of_a_queue_does_not_tell_models_apart(root: Path) -> None:
    """MLflow shows items by when they were added, 100 at once, and traces by their time."""
    project = Project(root, ScriptedProvider(), models=("haiku", "local"), prompts=("v1",), scenarios=1).write()
    rubric = load_rubric(project.root / "rubrics/tip-v1.md")
    store = project.store
    store.open()
    store.client.create_experiment("e")
    generated = [f"{model} {n}" for model in ("haiku", "local") for n in range(60)]  # as they were started
    items = [ReviewItem(item=item_id(t), output=0, context={}, text=t) for t in generated]
    queues = ReviewQueues(store)
    queues.fill("e", "q", items, rubric)
    experiment = store.experiment("e")
    assert experiment is not None
    queue = queues._find(experiment, "q")
    added = [i.item_id for i in queues._items(queues._module(), queue.queue_id)]
    text = {review_trace("e", "q", i.item, i.output): i.text for i in items}
    assert set(added) == set(text)
    assert {text[t].split()[0] for t in added[:20]} == {"haiku", "local"}, "the 20 that were added last"
    spans = {t: store.client.get_trace(t).data.spans[0].start_time_ns for t in added}
    by_time = [text[t] for t in sorted(spans, key=lambda t: spans[t])]
    assert {t.split()[0] for t in by_time[:20]} == {t.split()[0] for t in by_time[-20:]} == {"haiku", "local"}


def test_of_an_item_that_stands_in_a_queue_twice_the_later_answers_count(root: Path) -> None:
    """MLflow lets people put a trace of one queue into another, such as their own."""
    with ScriptedProvider() as provider:
        project = Project(root, provider, models=("haiku",), prompts=("v1",), scenarios=2).write()
        named = ("--bench-experiment", "e")
        assert project.pytest(*named).code == 0
        for queue in ("mine", "other"):
            assert project.pytest("--judge-queue", queue, *named).code == 0
        items = [item_id(run.info.run_id) for run in project.runs("e")]
        traces = [[review_trace("e", queue, item, 0) for queue in ("mine", "other")] for item in items]
        take_steps(
            project, "e", "mine", *((0, "add", other) for _, other in traces), *((0, "reopen", t[1]) for t in traces)
        )
        places = {trace: place for place, trace in enumerate(sorted(t for both in traces for t in both))}
        for first, second in (traces[0], traces[1][::-1]):
            for trace, tone in ((first, "1"), (second, "5")):
                steps = (places[trace], "ann", {**GOOD, "tone": tone}), (places[trace], "ann", "complete")
                take_steps(project, "e", "mine", *steps)
        assert "applied 2" in project.pytest("--judge-collect", "mine", *named).out
        assert [r.data.metrics["tone"] for r in project.runs("e")] == [5, 5]


def test_what_a_filled_queue_says_works_on_another_day(root: Path) -> None:
    """Reviewing takes days, and a session of today has another experiment than that of the queue."""
    with ScriptedProvider() as provider:
        project = Project(root, provider, models=("haiku",), prompts=("v1",), scenarios=1).write()
        assert project.pytest("--bench-experiment", "tip-bench-2026-11-20").code == 0
        filled = project.pytest("--judge-queue", "round 1")
        (said,) = [line for line in filled.out.splitlines() if "reviewed: " in line]
        assert project.pytest().code == 0  # today's
        elsewhere = project.pytest("--judge-collect", "round 1")
        assert elsewhere.code == 4
        assert "name the experiment that it was filled for with --bench-experiment" in elsewhere.text
        collected = project.pytest(*shlex.split(said.partition("reviewed: ")[2]))
        assert "applied 0, unchanged 0, still pending 1 (1 of them in round 1)" in collected.out, collected.text


def test_candidates_of_several_outputs_are_counted_once(tmp_path: Path) -> None:
    with ScriptedProvider() as provider:
        project = Project(tmp_path, provider, models=("haiku",), prompts=("v1",), scenarios=2, suite="samples: 3\n")
        assert project.write().pytest("--judge-queue", "q").code == 4, "nothing ran yet"
        assert project.pytest().code == 0
        assert project.pytest("--judge-queue", "q").code == 0
        collected = project.pytest("--judge-collect", "q")
        assert "still pending 2 (2 of them in q)" in collected.out, collected.text


def test_where_nothing_is_pending_no_queue_is_filled(root: Path) -> None:
    with ScriptedProvider() as provider:
        project = Project(root, provider, models=("haiku",), prompts=("v1",), scenarios=1).write()
        named = ("--bench-experiment", "e")
        assert project.pytest(*named).code == 0
        exported = project.pytest("--judge-export", "p.json", "--judge-duplicates", "1", *named)
        assert f"exported 1 pending candidate of e to {root / 'p.json'}, twice; score it against" in exported.out
        project.score("p.json")
        assert project.pytest("--judge-apply", "p.json").code == 0
        filled = project.pytest("--judge-queue", "q", *named)
        assert (filled.code, "nothing is pending in e; q is not filled" in filled.out) == (0, True), filled.text
        rubric = root / "rubrics/tip-v1.md"
        rubric.write_text(rubric.read_text() + "\nA tie goes to the shorter one.\n")
        edited = project.pytest("--judge-queue", "q", *named)
        assert "tips.yaml under the rubric tip-v1 as it is now; run the evals first" in edited.out, edited.text
        collected = project.pytest("--judge-collect", "q", *named)
        assert "e has no review queue of this name" in collected.text


def test_a_queue_that_nobody_may_answer_yet_says_what_to_do(root: Path) -> None:
    """A server with authentication names a queue's owner, and takes answers of those who are assigned to it alone."""
    with ScriptedProvider() as provider:
        project = Project(root, provider, models=("haiku",), prompts=("v1",), scenarios=1).write()
        named = ("--bench-experiment", "e")
        assert project.pytest(*named).code == 0
        open_to_all = project.pytest("--judge-queue", "q", *named)
        import mlflow
        from mlflow.genai import review_queues

        mlflow.set_tracking_uri(project.store.uri)
        (queue,) = review_queues.list_review_queues(experiment_id=project.store.experiment("e"))
        review_queues.update_review_queue(queue.queue_id, new_owner="ann")
        nobodys = project.pytest("--judge-queue", "q", *named)
        assert "assign them on the experiment's review page, under Manage queue" in nobodys.out, nobodys.text
        review_queues.update_review_queue(queue.queue_id, users=["bob"])
        bobs = project.pytest("--judge-queue", "q", *named)
        for filled in (open_to_all, bobs):
            assert (filled.code, "no reviewers" in filled.out) == (0, False), filled.text
