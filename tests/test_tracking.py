"""MLflow as the record, on a real SQLite store."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import multiprocessing
import re
import shutil
import sqlite3
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pytest_promptbench.clock import utc_now
from pytest_promptbench.errors import SpoiltError, TrackingError, UsageError
from pytest_promptbench.judging import fingerprint
from pytest_promptbench.records import (
    Answer,
    Candidate,
    Criterion,
    Judge,
    LoggedCandidate,
    Model,
    Rubric,
    Tier,
    Usage,
    Verdict,
    sha256,
)
from pytest_promptbench.settings import Identity, resolve
from pytest_promptbench.tracking import runs as runs_module
from pytest_promptbench.tracking import tables
from pytest_promptbench.tracking.address import check_takes_candidates, redacted, translated
from pytest_promptbench.tracking.entry import Logged
from pytest_promptbench.tracking.registry import PromptRegistry
from pytest_promptbench.tracking.spans import trace_id
from pytest_promptbench.tracking.store import TrackingStore
from pytest_promptbench.tracking.tables import EVERYTHING, Run, Tables

from .project import migrated_database
from .scripted import cell

TEXT = "---\nid: tip-v1\n---\nanchors"
RUBRIC = Rubric(
    id="tip-v1",
    text=TEXT,
    sha256=sha256(TEXT),
    criteria=(
        Criterion(name="relevance", type="scale", min=1, max=5, weight=1),
        Criterion(name="overlong", type="flag", bad=True, penalty=1, check={"max_words": 60}),
    ),
)
HOSTILE = "NUL \x00, lone \ud800, \x1b[31mred\x1b[0m, <script>alert(1)</script>, {{ x }}, ' OR 1=1 --"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TrackingStore:
    folder = tmp_path_factory.mktemp("mlflow")
    migrated_database(folder / "mlflow.db")
    store = TrackingStore(f"sqlite:///{folder}/mlflow.db", artifact_root=folder / "mlartifacts")
    store.open()
    return store


def logged(scenario: str = "s1", text: str = "drink water", samples: int = 1, **more: Any) -> Logged:
    answers = tuple(
        Answer(
            text=text, usage=Usage(prompt_tokens=7, completion_tokens=9), cost_usd=0.01, latency_s=0.5, started_at=1.7e9
        )
        for _ in range(samples)
    )
    candidate = Candidate(cell=cell(scenario, samples=samples), answers=answers)
    return Logged(candidate=candidate, rubric=RUBRIC, session="s", checks={"overlong": False}, **more)


def failed(scenario: str) -> Logged:
    return dataclasses.replace(
        logged(scenario), candidate=Candidate(cell=cell(scenario), error="429 too many"), checks={}
    )


def runs(store: TrackingStore, experiment: str) -> list[Any]:
    return list(store.client.search_runs([store.experiment(experiment)]))


def test_a_candidate_is_one_run_with_everything_the_contract_names(store: TrackingStore) -> None:
    record = logged(tags={"airflow.run_id": "r7"})
    (run_id,) = store.log([record.entry("one")])
    (run,) = runs(store, "one")
    assert run.info.run_id == run_id
    assert run.info.status == "FINISHED"
    assert run.data.params == {"model": "m", "prompt": "v1", "scenario": "s1"}
    tags = run.data.tags
    assert tags["judge_pending"] == "true"
    assert tags["rubric"] == "tip-v1"
    assert tags["rubric_sha256"] == RUBRIC.sha256
    assert tags["rubric_text"] == TEXT
    assert tags["promptbench.task"] == "tip"
    assert tags["promptbench.cell"] == record.candidate.cell.id
    assert tags["promptbench.prompt_sha256"] == "p"
    assert tags["promptbench.session"] == "s"
    assert tags["airflow.run_id"] == "r7"
    assert run.data.metrics == {
        "latency_s": 0.5, "prompt_tokens": 7, "completion_tokens": 9, "cost_usd": 0.01, "overlong": 0
    }  # fmt: skip
    (read,) = store.texts(store.read("one"))
    assert read.outputs == ("drink water",)
    assert read.context == {"situation": "s1"}
    folder = Path(run.info.artifact_uri.removeprefix("file://"))
    assert json.loads((folder / "prompt.json").read_text()) == [{"role": "user", "content": "v1: s1"}]
    assert json.loads((folder / "candidate_outputs.json").read_text()) == ["drink water"]


def test_what_is_unknown_is_left_out_and_never_zero(store: TrackingStore) -> None:
    record = logged()
    answer = dataclasses.replace(record.candidate.answers[0], cost_usd=None, usage=Usage())
    record = dataclasses.replace(record, candidate=dataclasses.replace(record.candidate, answers=(answer,)))
    store.log([record.entry("unknown")])
    (run,) = runs(store, "unknown")
    assert set(run.data.metrics) == {"latency_s", "overlong"}


def test_the_trace_is_linked_to_the_run_and_holds_the_call(store: TrackingStore) -> None:
    import mlflow

    (run_id,) = store.log([logged(samples=2).entry("traced")])
    mlflow.set_tracking_uri(store.uri)
    (trace,) = mlflow.search_traces(locations=[store.experiment("traced")], run_id=run_id, return_type="list")
    assert trace.info.trace_id == trace_id(run_id)
    assert trace.info.token_usage == {"input_tokens": 14, "output_tokens": 18, "total_tokens": 32}
    assert [s.span_type for s in trace.data.spans] == ["CHAIN", "CHAT_MODEL", "CHAT_MODEL"]
    assert trace.data.spans[1].outputs["choices"][0]["message"]["content"] == "drink water"


def test_logging_again_changes_nothing(store: TrackingStore) -> None:
    entries = [logged(f"s{i}").entry("again") for i in range(3)]
    first = store.log(entries)
    store.forget()
    assert store.log(entries) == first
    assert len(runs(store, "again")) == 3


class Killed(BaseException):
    """As if the process had been killed."""


class Dying:
    """``Runs`` that raise ``error`` once after so many calls that write."""

    def __init__(self, inner: Any, calls: int, error: BaseException) -> None:
        self.inner, self.left, self.error = inner, calls, error

    def __getattr__(self, name: str) -> Any:
        if name in ("create", "fill", "reopen", "delete_tag", "trace", "link", "finish"):
            self.left -= 1
            if self.left == -1:
                raise self.error
        return getattr(self.inner, name)


def dying(store: TrackingStore, calls: int, error: BaseException) -> TrackingStore:
    """Another one that stops in the middle."""
    made = TrackingStore(store.uri, artifact_root=store._artifact_root)
    made._runs = Dying(made.runs, calls, error)  # type: ignore[assignment]
    return made


@pytest.mark.parametrize("calls_before_the_crash", range(5))
def test_a_crash_between_any_two_store_calls_is_repaired(store: TrackingStore, calls_before_the_crash: int) -> None:
    """Run out of calls after so many, as if the process had been killed there, and log the same entry again."""
    experiment = f"crash-{calls_before_the_crash}"
    with pytest.raises(Killed):
        dying(store, calls_before_the_crash, Killed()).log([logged().entry(experiment)])
    store.log([logged().entry(experiment)])
    (run,) = runs(store, experiment)
    assert run.info.status == "FINISHED"
    assert store.texts(store.read(experiment))[0].outputs == ("drink water",)
    import mlflow

    mlflow.set_tracking_uri(store.uri)
    assert len(mlflow.search_traces(locations=[store.experiment(experiment)], return_type="list")) == 1


def test_another_sessions_run_is_believed_only_if_mlflow_has_it(store: TrackingStore) -> None:
    entry = logged().entry("hinted")
    store.log([logged("looked").entry("hinted")])  # knows from here on what is there
    other = TrackingStore(store.uri, artifact_root=store._artifact_root)
    (run_id,) = other.log([entry])
    assert store.log([dataclasses.replace(entry, run_id=run_id)]) == [run_id]
    store._client.delete_run(run_id)
    store.forget()
    (second,) = store.log([dataclasses.replace(entry, run_id=run_id)])
    assert second != run_id


def test_an_experiment_of_a_name_that_another_gave_up_holds_all_of_its_candidates(store: TrackingStore) -> None:
    entry, failure = logged("s1").entry("today"), failed("s2").entry("today")
    before, broken = store.log([entry, failure])
    store.client.rename_experiment(store.experiment("today"), "the day before")
    later = TrackingStore(store.uri, artifact_root=store._artifact_root)
    answer = dataclasses.replace(logged("s2").entry("today"), failure=broken)
    again, answered = later.log([dataclasses.replace(entry, run_id=before), answer])
    assert {before, broken}.isdisjoint({again, answered})
    assert {r.info.run_id for r in runs(later, "today")} == {again, answered}
    assert {r.info.run_id: r.info.status for r in runs(later, "the day before")}[broken] == "FAILED"


def test_a_run_that_cannot_be_looked_up_is_not_taken_for_one_that_is_gone(
    store: TrackingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = logged().entry("unreachable")
    store.log([logged("looked").entry("unreachable")])  # knows from here on what is there
    (run_id,) = TrackingStore(store.uri, artifact_root=store._artifact_root).log([entry])

    def refuse(_: str) -> None:
        raise ConnectionError("the server restarts")

    with monkeypatch.context() as patch:
        patch.setattr(store.client, "get_run", refuse)
        with pytest.raises(TrackingError, match="the server restarts"):
            store.log([dataclasses.replace(entry, run_id=run_id)])
    assert store.log([dataclasses.replace(entry, run_id=run_id)]) == [run_id]
    assert len(runs(store, "unreachable")) == 2


def test_a_failure_is_logged_and_completed_once_the_cell_has_an_answer(store: TrackingStore) -> None:
    store.log([failed("s1").entry("failing"), failed("s1").entry("failing")])
    (run,) = runs(store, "failing")
    assert run.info.status == "FAILED"
    assert run.data.tags["promptbench.error"] == "429 too many"
    assert run.data.tags["judge_pending"] == "false", "a failure is never offered to a judge"
    store.forget()
    (run_id,) = store.log([logged("s1").entry("failing")])
    (run,) = runs(store, "failing")
    assert (run.info.run_id, run.info.status) == (run_id, "FINISHED")
    assert "promptbench.error" not in run.data.tags
    assert run.data.tags["judge_pending"] == "true"


def test_more_tags_than_mlflow_takes_at_once_come_to_a_run_that_is_completed(store: TrackingStore) -> None:
    many = {f"team.{i}": "a" for i in range(230)}
    store.log([failed("s1").entry("many tags")])
    store.forget()
    store.log([logged("s1", tags=many).entry("many tags")])
    (run,) = runs(store, "many tags")
    assert run.info.status == "FINISHED"
    assert many.items() <= run.data.tags.items()


@pytest.mark.parametrize("way", ["together", "each call kept by itself"])
@pytest.mark.parametrize("error", [Killed(), OSError("gone")], ids=["killed", "refused"])
@pytest.mark.parametrize("calls", range(6))
def test_a_failed_run_is_completed_wherever_that_stopped_before(
    store: TrackingStore, calls: int, error: BaseException, way: str
) -> None:
    """Whoever was killed is followed by another; whom MLflow refused asks it afresh, as the recorder does."""
    experiment = f"mend-{calls}-{type(error).__name__}-{way}"
    answered = logged("s1", text=experiment)  # a text of its own: no verdict of another test's is carried over to it
    (run_id,) = store.log([failed("s1").entry(experiment)])
    first = dying(store, calls, error)
    if way != "together":
        first.runs._store = runs_module._thrifty_store(store.uri, share=False)
        first.runs.inner._store = first.runs._store  # type: ignore[attr-defined]
    with pytest.raises((Killed, TrackingError)):
        first.log([answered.entry(experiment)])
    second = TrackingStore(store.uri, artifact_root=store._artifact_root) if isinstance(error, Killed) else first
    answer, failure = (record.entry(experiment) for record in (answered, failed("s1")))
    for entry in (answer, answer, dataclasses.replace(failure, run_id=run_id)):
        second.forget()
        assert second.log([entry]) == [run_id]
        (run,) = runs(store, experiment)
        assert run.info.status == "FINISHED"
        assert "promptbench.error" not in run.data.tags
        assert run.data.tags["judge_pending"] == "true"
        assert run.data.tags["promptbench.candidate"] == answered.key
    (read,) = store.texts(store.read(experiment))
    assert (read.outputs, read.error) == ((experiment,), None)


def test_a_half_written_run_gets_the_tags_of_a_later_session(store: TrackingStore) -> None:
    with pytest.raises(Killed):
        dying(store, 2, Killed()).log([logged(tags={"team": "a"}).entry("half tagged")])
    (run_id,) = store.log([logged(tags={"team": "a", "airflow.run_id": "r2"}).entry("half tagged")])
    tags = store.client.get_run(run_id).data.tags
    assert (tags["team"], tags["airflow.run_id"]) == ("a", "r2")


@pytest.mark.parametrize("at_once", [True, False])
def test_a_failure_that_a_dead_session_left_and_the_answer_have_one_run(store: TrackingStore, at_once: bool) -> None:
    """The recorder takes over what another session left behind while it logs its own."""
    experiment = f"left behind {at_once}"
    entries = [logged(name).entry(experiment) for name in ("s1", "s2")]
    entries.insert(1, failed("s1").entry(experiment))
    if at_once:
        run_ids = store.log(entries)
    else:
        run_ids = [store.log([entry])[0] for entry in (entries[1], entries[0], entries[2])]
        run_ids = [run_ids[1], run_ids[0], run_ids[2]]
    assert run_ids[0] == run_ids[1] != run_ids[2]
    assert [run.info.status for run in runs(store, experiment)] == ["FINISHED", "FINISHED"]
    assert sorted(c.scenario for c in store.read(experiment)) == ["s1", "s2"]


def test_an_answer_completes_no_failure_of_another_task(store: TrackingStore) -> None:
    """Two tasks may name and ask the same."""
    answer = logged("s1")
    cell = dataclasses.replace(answer.candidate.cell, task="joke")
    answer = dataclasses.replace(answer, candidate=dataclasses.replace(answer.candidate, cell=cell))
    assert answer.candidate.cell.id == failed("s1").candidate.cell.id
    store.log([failed("s1").entry("two tasks")])
    store.forget()
    store.log([answer.entry("two tasks")])
    assert sorted(run.info.status for run in runs(store, "two tasks")) == ["FAILED", "FINISHED"]


def test_two_answers_of_a_cell_that_failed_have_a_run_each(store: TrackingStore) -> None:
    """One of a session that MLflow did not hear, say, and one of the next, which generated anew."""
    store.log([failed("s1").entry("two answers")])
    late = TrackingStore(store.uri, artifact_root=store._artifact_root)
    late._log.existing("two answers", str(late.experiment("two answers")))  # what it knows from now on is out of date
    store.forget()
    first, second = store.log([logged("s1", text).entry("two answers") for text in ("A", "B")])
    (third,) = late.log([logged("s1", "C").entry("two answers")])
    found = {c.run_id: (c.outputs, c.error) for c in store.texts(store.read("two answers"))}
    assert found == {first: (("A",), None), second: (("B",), None), third: (("C",), None)}


def test_a_failure_that_is_logged_late_leaves_the_answer_that_has_its_run_now(store: TrackingStore) -> None:
    """Two machines with one tracking server: this one has seen the run while it was being written."""
    failure, answer = failed("s1").entry("late"), logged("s1").entry("late")
    with pytest.raises(Killed):
        dying(store, 2, Killed()).log([failure])
    late = TrackingStore(store.uri, artifact_root=store._artifact_root)
    assert [r.status for r in late._log.existing("late", str(late.experiment("late"))).values()] == ["RUNNING"]
    for entry in (failure, answer):
        store.forget()
        (run_id,) = store.log([entry])
    late.log([failure])
    assert (run_id, "FINISHED") in {(r.info.run_id, r.info.status) for r in runs(store, "late")}
    assert {c.outputs for c in store.texts(store.read("late")) if not c.error} == {("drink water",)}


def verdict(tier: Tier, name: str, score: float, at: str | None = None) -> Verdict:
    return Verdict(
        scores={"relevance": score, "overlong": False},
        judge=Judge(tier=tier, name=name),
        rationale="because",
        at=at or utc_now(),
    )


def test_a_verdict_of_a_judge_with_long_parameters_can_be_read_back(store: TrackingStore) -> None:
    """A tag holds 8,000 characters, and tools and the like have no end."""
    judge, other = (Model(name="haiku", model="openai/haiku", params={"tools": [x * 9000]}) for x in "éx")
    store.log([logged().entry("long")])
    (c,) = store.read("long")
    about = {"fingerprint": fingerprint(judge, RUBRIC), "rationale": "é" * 9000}
    given = dataclasses.replace(verdict(Tier.AUTO, "haiku", 4), **about)
    store.record(c, given, RUBRIC)
    (c,) = store.read("long")
    (kept,) = c.verdicts
    assert (kept.scores, kept.fingerprint) == (given.scores, fingerprint(judge, RUBRIC))
    assert kept.fingerprint != fingerprint(other, RUBRIC)


def test_verdicts_of_all_judges_are_kept_and_the_highest_tier_counts(store: TrackingStore) -> None:
    store.log([logged().entry("judged")])
    (c,) = store.read("judged")
    store.record(c, verdict(Tier.AUTO, "anthropic/haiku", 1), RUBRIC)
    (c,) = store.read("judged")
    assert c.pending, "the automatic tier leaves a candidate pending for the sit-down tier"
    store.record(c, verdict(Tier.HUMAN, "eva", 5), RUBRIC)
    (c,) = store.read("judged")
    store.record(c, verdict(Tier.CLAUDE_CODE, "claude", 2), RUBRIC)
    (c,) = store.read("judged")
    assert {(v.judge.tier.value, v.judge.name, v.scores["relevance"]) for v in c.verdicts} == {
        ("auto", "anthropic/haiku", 1), ("human", "eva", 5), ("claude-code", "claude", 2)
    }  # fmt: skip
    (run,) = runs(store, "judged")
    assert run.data.metrics["composite"] == 5
    assert run.data.metrics["auto/composite"] == 1
    assert run.data.tags["judge_kind"] == "human"
    assert run.data.tags["judged_by"] == "eva"
    assert run.data.tags["judge_pending"] == "false"


@pytest.mark.parametrize("tier", [Tier.HUMAN, Tier.AUTO])
def test_the_verdict_that_came_last_is_the_latest_whatever_its_clock_says(store: TrackingStore, tier: Tier) -> None:
    """Of another judge, whose machine is behind, and of the first one again, whose clock was set back since."""
    experiment = f"set back {tier}"
    store.log([logged().entry(experiment)])
    for name, score, hour in (("eva", 5, 14), ("adam", 2, 13), ("adam", 3, 12)):
        (c,) = store.read(experiment)
        store.record(c, verdict(tier, name, score, at=f"2026-11-23T{hour}:00:00.000Z"), RUBRIC)
        (c,) = store.read(experiment)
        (run,) = runs(store, experiment)
        said = c.verdict()
        assert said is not None
        assert (said.judge.name, said.scores["relevance"]) == (name, score)
        assert run.data.metrics["auto/relevance" if tier is Tier.AUTO else "relevance"] == score
        assert (run.data.tags["judged_by"], run.data.tags["judged_at"]) == (name, said.at)


@pytest.mark.parametrize("through", ["tables", "client"])
@pytest.mark.parametrize("when", ["since it was read", "at that very moment"])
@pytest.mark.parametrize("lower", [Tier.AUTO, Tier.CLAUDE_CODE])
def test_a_persons_verdict_counts_though_another_session_judges_meanwhile(
    store: TrackingStore, monkeypatch: pytest.MonkeyPatch, lower: Tier, when: str, through: str
) -> None:
    """--judge-auto reads candidates minutes before it writes, and two packets may be applied at once."""
    experiment = f"{lower} {when} {through}"
    store.log([logged("s1", experiment).entry(experiment)])
    (c,) = store.read(experiment)
    mine = TrackingStore(store.uri, artifact_root=store._artifact_root)
    mine.open()
    if through == "client":
        mine.runs.tables = None
    judged = mine._judged

    def person() -> None:
        store.record(c, verdict(Tier.HUMAN, "eva", 5), RUBRIC)

    def after_the_person(*args: Any) -> None:
        person()
        judged(*args)

    if when == "since it was read":
        person()
    else:
        monkeypatch.setattr(mine, "_judged", after_the_person)
    after = mine.record(c, verdict(lower, "judge", 1), RUBRIC)
    (run,) = runs(store, experiment)
    shown = {name: run.data.tags[name] for name in ("judge_pending", "judge_kind", "judged_by")}
    assert shown == {"judge_pending": "false", "judge_kind": "human", "judged_by": "eva"}
    assert (run.data.metrics["relevance"], run.data.metrics["composite"]) == (5, 5)
    assert [after] == store.read(experiment)
    assert len(after.verdicts) == 2


def test_a_judge_who_judges_anew_while_another_session_looks_keeps_the_later_verdict(
    store: TrackingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.log([logged().entry("anew")])
    (c,) = store.read("anew")
    mine = TrackingStore(store.uri, artifact_root=store._artifact_root)
    judged, show = mine._judged, mine._show
    turns = iter(range(10))

    def person(score: float) -> None:
        store.record(store.read("anew")[0], verdict(Tier.HUMAN, "eva", score), RUBRIC)

    def after_the_first(*args: Any) -> None:
        person(1)
        judged(*args)

    def after_the_second(*args: Any, **more: Any) -> None:
        if next(turns) == 1:  # mine has seen the first one, and is about to show it
            person(4)
        show(*args, **more)

    monkeypatch.setattr(mine, "_judged", after_the_first)
    monkeypatch.setattr(mine, "_show", after_the_second)
    after = mine.record(c, verdict(Tier.CLAUDE_CODE, "claude", 2), RUBRIC)
    assert {v.judge.name: v.scores["relevance"] for v in after.verdicts} == {"eva": 4, "claude": 2}
    (run,) = runs(store, "anew")
    counts = after.sit_down()
    assert counts is not None
    assert (run.data.metrics["relevance"], run.data.tags["judged_at"]) == (4, counts.at)


def test_of_one_judges_two_verdicts_at_once_the_run_shows_the_one_that_it_keeps(
    store: TrackingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of the slower session, which has read the run before the other's was there, and is dated before it."""
    store.log([logged().entry("twice at once")])
    (c,) = store.read("twice at once")
    mine, other = (TrackingStore(store.uri, artifact_root=store._artifact_root) for _ in range(2))
    judged, look, early = mine._judged, other._as_now, [{c.run_id: c}]

    def before_the_slower(*args: Any) -> None:
        judged(*args)
        other.record(c, verdict(Tier.HUMAN, "eva", 1, at="2026-11-27T03:00:00.000Z"), RUBRIC)

    monkeypatch.setattr(mine, "_judged", before_the_slower)
    monkeypatch.setattr(other, "_as_now", lambda known: early.pop() if early else look(known))
    after = mine.record(c, verdict(Tier.HUMAN, "eva", 5, at="2026-11-27T03:00:01.000Z"), RUBRIC)
    assert [v.scores["relevance"] for v in after.verdicts] == [1]
    (run,) = runs(store, "twice at once")
    assert (run.data.metrics["relevance"], run.data.tags["judged_at"]) == (1, "2026-11-27T03:00:00.000Z")


@pytest.mark.parametrize(("at", "expected"), [("2026-11-23T14:00:00", 1_795_442_400_000), ("23 Nov, noon", None)])
def test_a_verdict_of_another_program_is_carried_whatever_its_clock_writes(
    store: TrackingStore, monkeypatch: pytest.MonkeyPatch, at: str, expected: int | None
) -> None:
    """A time without a zone is in UTC, as the contract has it; one that is none holds nothing up."""
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    (judged,) = store.log([logged("other", f"judged at {at}").entry(f"elsewhere {at}")])
    tags = {"judge_pending": "false", "judge_kind": "human", "judged_by": "eva", "judged_at": at}
    store.runs.fill(judged, metrics={"relevance": 4, "composite": 4}, tags=tags)
    later = TrackingStore(store.uri, artifact_root=store._artifact_root)
    (run_id,) = later.log([logged("other", f"judged at {at}").entry(f"here {at}")])
    monkeypatch.undo()
    time.tzset()
    (c,) = later.read(f"here {at}")
    assert c.carried_from == judged
    times = {a.create_time_ms for a in store.traces.get_trace_info(trace_id(run_id)).assessments}
    assert times if expected is None else times == {expected}


def test_a_verdict_is_carried_to_the_same_text_in_another_experiment(store: TrackingStore) -> None:
    store.log([logged("c1", "carried text").entry("first")])
    (c,) = store.read("first")
    store.record(c, verdict(Tier.HUMAN, "eva", 4), RUBRIC)
    later = TrackingStore(store.uri, artifact_root=store._artifact_root)
    later.log([logged("c1", "carried text").entry("second"), logged("c1", "other text").entry("second")])
    by_pending = {c.pending: c for c in later.read("second")}
    assert by_pending[False].carried_from == c.run_id
    assert by_pending[False].sit_down().scores["relevance"] == 4  # type: ignore[union-attr]
    assert by_pending[True].carried_from is None
    judged = next(r for r in runs(later, "second") if r.data.tags["judge_pending"] == "false")
    assert judged.data.metrics["composite"] == 4
    changed = dataclasses.replace(RUBRIC, text=TEXT + "!", sha256=sha256(TEXT + "!"))
    later.log([dataclasses.replace(logged("c1", "carried text"), rubric=changed).entry("third")])
    assert later.read("third")[0].pending, "another rubric text, another verdict"


def test_an_automatic_judge_by_the_name_of_a_tier_is_no_person(store: TrackingStore) -> None:
    store.log([logged("c1", "judged by a model").entry("names of tiers")])
    (c,) = store.read("names of tiers")
    store.record(c, verdict(Tier.AUTO, "human", 4), RUBRIC)
    (c,) = store.read("names of tiers")
    assert c.sit_down() is None
    assert c.pending


@pytest.mark.parametrize("through", ["tables", "client"])
@pytest.mark.parametrize("day", ["first", "second"])
def test_of_several_runs_of_a_text_the_verdict_that_counts_is_carried(
    store: TrackingStore, day: str, through: str
) -> None:
    """A person judges, and then corrects, one of two runs of an agent's, whichever of the two started later."""
    text = f"{day}, {through}"

    def on(name: str) -> LoggedCandidate:
        later = TrackingStore(store.uri, artifact_root=store._artifact_root)
        if through == "client":
            later.runs.tables = None
        later.log([logged("c1", text).entry(f"{name} {text}")])
        (c,) = later.read(f"{name} {text}")
        return c

    runs = {name: on(name) for name in ("first", "second")}
    for c in runs.values():
        store.record(c, verdict(Tier.CLAUDE_CODE, "claude", 5), RUBRIC)
    for name, score in (("third", 1), ("fourth", 2)):
        store.record(runs[day], verdict(Tier.HUMAN, "eva", score, at=f"2026-01-0{score}"), RUBRIC)
        found = on(name).sit_down()
        assert found is not None
        assert (found.judge.name, found.scores["relevance"]) == ("eva", score)


def test_any_text_comes_back_as_it_was(store: TrackingStore) -> None:
    store.log([logged("hostile' OR `x", HOSTILE).entry("hostile 'experiment' / `x`")])
    (c,) = store.texts(store.read("hostile 'experiment' / `x`"))
    assert c.outputs == (HOSTILE,)
    assert c.scenario == "hostile' OR `x"


def test_verdicts_written_by_other_programs_under_the_public_names_count(store: TrackingStore) -> None:
    (run_id,) = store.log([logged().entry("foreign")])
    store._client.log_metric(run_id, "relevance", 3)
    store.tag(run_id, {"judge_pending": "false", "judge_kind": "claude-code", "judged_by": "a script"})
    (c,) = store.read("foreign")
    assert c.verdict() is not None
    assert c.verdict().scores == {"relevance": 3, "overlong": False}  # type: ignore[union-attr]


def test_a_persons_verdict_of_another_program_counts_before_claude_codes(store: TrackingStore) -> None:
    (run_id,) = store.log([logged("s1", "judged elsewhere").entry("a person, elsewhere")])
    store._client.log_metric(run_id, "relevance", 2)
    store.tag(run_id, {"judge_pending": "false", "judge_kind": "human", "judged_by": "theirs"})
    (c,) = store.read("a person, elsewhere")
    store.record(c, verdict(Tier.CLAUDE_CODE, "claude", 5), RUBRIC)
    (c,) = store.read("a person, elsewhere")
    assert {v.judge.name: v.scores["relevance"] for v in c.verdicts} == {"theirs": 2, "claude": 5}
    assert c.sit_down().judge.name == "theirs"  # type: ignore[union-attr]
    (run,) = runs(store, "a person, elsewhere")
    assert (run.data.metrics["relevance"], run.data.tags["judged_by"]) == (2, "theirs")


NUMBERS = (0.1 + 0.2, 1 / 3, 5e-324, -1.7976931348623157e308, 2.0**53 + 2, -0.0)
"""15 digits do not tell them from their neighbours."""
STORABLE = HOSTILE.replace("\ud800", '\x7f \u2028 "\\u0041\\"')


def test_reading_mlflows_tables_gives_what_its_client_gives(store: TrackingStore) -> None:
    experiment = "both ways"
    ids = store.log(
        [logged(f"s{i}", text=HOSTILE).entry(experiment) for i in range(4)] + [failed("s4").entry(experiment)]
    )
    for candidate, tier in zip(store.read(experiment), (Tier.AUTO, Tier.HUMAN, Tier.CLAUDE_CODE), strict=False):
        store.record(candidate, verdict(tier, "judge", 3), RUBRIC)
    store.client.log_metric(ids[0], "latency_s", float("nan"))
    store.client.log_metric(ids[1], "latency_s", float("inf"))
    store.client.log_metric(ids[2], "latency_s", 1.0)
    store.client.log_metric(ids[2], "latency_s", 2.0)
    for n, number in enumerate(NUMBERS):
        store.client.log_metric(ids[0], f"auto/{n}", number)
    store.client.set_tag(ids[0], "theirs", STORABLE)
    store.client.log_param(ids[0], "theirs", STORABLE)
    store.client.delete_run(ids[3])
    (other,) = store.log([logged("s1").entry("another experiment")])
    experiments = [str(store.experiment(name)) for name in (experiment, "another experiment")]
    store.client.create_run(experiments[0])  # somebody else's
    store.client.create_run(experiments[0], tags={"promptbench.candidate": "", "judge_pending": "true"})

    mlflows = store.runs.tables
    assert mlflows is not None, "this version of MLflow keeps its runs in some other way"
    for wanted in ({"promptbench.candidate": None}, {"promptbench.candidate": None, "judge_pending": "true"}):
        direct = [repr(run) for run in map(plain, mlflows.find(experiments, wanted, EVERYTHING))]
        assert direct == [repr(run) for run in map(plain, store.runs.search(experiments, wanted))]
    assert {run.run_id for run in mlflows.find(experiments, {"promptbench.candidate": None}, EVERYTHING)} == {
        ids[0], ids[1], ids[2], ids[4], other
    }  # fmt: skip


def test_runs_by_a_tag_are_the_newest_and_read_when_asked_for(
    store: TrackingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session looks for its few new texts among all that a project has ever had judged."""
    ids = store.log([logged(f"s{i}", text=f"text {i % 2}").entry("by tag") for i in range(4)])
    for run_id, text in zip(ids, "abab", strict=True):
        store.tag(run_id, {"promptbench.judged_text": text})
    experiments, wanted = [str(store.experiment("by tag"))], {"promptbench.candidate": None}
    newest = {r.tags["promptbench.judged_text"]: r for r in reversed(list(store.runs.find(experiments, wanted)))}
    read: list[int] = []
    page = Tables._page
    monkeypatch.setattr(Tables, "_page", lambda *args: read.append(len(args[1])) or page(*args))
    found = store.runs.by_tag(experiments, wanted, "promptbench.judged_text")
    assert found.get(["c"]) == {}
    assert not read
    assert {k: plain(r) for k, r in found.get(["b", "c"]).items()} == {"b": plain(newest["b"])}
    assert {k: plain(r) for k, r in found.get(["a", "b"]).items()} == {k: plain(r) for k, r in newest.items()}
    assert read == [1, 1], "each once"
    monkeypatch.setattr(store.runs, "tables", None)
    by_client = store.runs.by_tag(experiments, wanted, "promptbench.judged_text").get("abc")
    assert {k: plain(r) for k, r in by_client.items()} == {k: plain(r) for k, r in newest.items()}


def plain(run: Run) -> Run:
    """The same with what it maps in alphabetical order."""
    sorted_ = [dict(sorted(values.items())) for values in (run.params, run.metrics, run.tags)]
    return run._replace(**dict(zip(("params", "metrics", "tags"), sorted_, strict=True)))


def test_where_mlflows_tables_are_others_its_client_is_asked(store: TrackingStore, tmp_path: Path) -> None:
    import sqlalchemy as sa

    store.log([logged().entry("through the client")])
    for there in ("", "CREATE TABLE runs (run_uuid)"):
        engine = sa.create_engine(f"sqlite:///{tmp_path}/empty.db")
        with engine.begin() as connection:
            connection.execute(sa.text(there or "SELECT 1"))
        assert tables.tables_of(engine) is None
    other = TrackingStore(store.uri, artifact_root=store._artifact_root)
    other.runs.tables = None
    assert other.read("through the client") == store.read("through the client") != []


@pytest.mark.parametrize("way", ["sessions of their own", "the client"])
def test_what_is_written_together_is_what_single_calls_write(tmp_path: Path, way: str) -> None:
    """An answer, a failure, a failure that is mended, and verdicts, each way into an MLflow of its own."""
    import mlflow

    def everything(by: TrackingStore) -> list[Any]:
        by.log([failed("s1").entry("e"), failed("s2").entry("e")])
        by.forget()
        by.log([logged("s1").entry("e"), logged("s3", text=HOSTILE).entry("e")])
        given = verdict(Tier.HUMAN, "judge", 3, at="2026-01-01T00:00:00Z")
        for candidate in by.read("e"):
            if candidate.error is None:
                by.record(candidate, given, RUBRIC)
        mlflow.set_tracking_uri(by.uri)
        found = []
        for run in sorted(runs(by, "e"), key=lambda r: r.data.params["scenario"]):
            info, data = run.info, run.data
            (trace,) = mlflow.search_traces(locations=[by.experiment("e")], run_id=info.run_id, return_type="list")
            assert trace.info.trace_id == trace_id(info.run_id)
            assessments = {(a.name, a.value, a.source.source_id) for a in trace.info.assessments}
            files = {a.path for a in by.client.list_artifacts(info.run_id)}
            times = (info.start_time, info.end_time) if data.params["scenario"] == "s3" else "when it failed"
            found.append((info.status, info.run_name, times, data, assessments, files, len(trace.data.spans)))
        return found

    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        migrated_database(tmp_path / name / "mlflow.db")
    one = TrackingStore(f"sqlite:///{tmp_path}/a/mlflow.db", artifact_root=tmp_path / "a")
    other = TrackingStore(f"sqlite:///{tmp_path}/b/mlflow.db", artifact_root=tmp_path / "b")
    other.runs._store = runs_module._thrifty_store(other.uri, share=False) if way != "the client" else None
    found, expected = (
        [(status, name, times, d.params, d.metrics, d.tags, *rest) for status, name, times, d, *rest in everything(by)]
        for by in (one, other)
    )
    assert found == expected
    assert [(run[0], len(run[6]), len(run[7])) for run in found] == [
        ("FINISHED", 3, 3),
        ("FAILED", 0, 2),
        ("FINISHED", 3, 3),
    ]


def test_what_is_refused_leaves_nothing_of_what_was_written_together(store: TrackingStore) -> None:
    experiment = str(store.experiment("refused", create=True))

    def refused() -> None:
        with store.runs.together():
            store.runs.create(experiment, start_time=0, tags={}, name="x")
            raise RuntimeError("no such thing")

    with pytest.raises(Exception, match="no such thing"):
        refused()
    assert runs(store, "refused") == []
    with store.runs.together():
        store.runs.create(experiment, start_time=0, tags={}, name="x")
        assert runs(store, "refused") == [], "nobody else sees it yet"
    assert len(runs(store, "refused")) == 1


def test_what_mlflow_refuses_of_a_verdict_is_said_once(tmp_path: Path) -> None:
    migrated_database(tmp_path / "mlflow.db")
    store = TrackingStore(f"sqlite:///{tmp_path}/mlflow.db", artifact_root=tmp_path)
    store.log([logged().entry("e")])
    (candidate,) = store.read("e")
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as db:
        db.execute("DROP TABLE assessments")
    for refused in (
        lambda: store.record(candidate, verdict(Tier.HUMAN, "judge", 3), RUBRIC),
        lambda: store.record_failure(candidate, Judge(tier=Tier.AUTO, name="haiku"), "no JSON", RUBRIC),
    ):
        with pytest.raises(TrackingError, match="no such table: assessments") as caught:
            refused()
        assert str(caught.value).count("MLflow at") == 1
    assert store.read("e") == [candidate], "nothing of it on the run either"


@pytest.mark.parametrize("valid", [True, False])
def test_two_sessions_may_bring_one_judges_reply_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, valid: bool
) -> None:
    migrated_database(tmp_path / "mlflow.db")
    store, other = (TrackingStore(f"sqlite:///{tmp_path}/mlflow.db", artifact_root=tmp_path) for _ in range(2))
    store.log([logged().entry("at once")])
    (c,) = store.read("at once")
    if valid:  # both have read that it failed before
        c = store.record_failure(c, Judge(tier=Tier.AUTO, name="judge"), "prose", RUBRIC)
    look = store.runs.assessed

    def record(to: TrackingStore) -> LoggedCandidate:
        if valid:
            return to.record(c, verdict(Tier.AUTO, "judge", 4, "2026-11-27T12:00:00Z"), RUBRIC)
        return to.record_failure(c, Judge(tier=Tier.AUTO, name="judge"), "prose", RUBRIC)

    def and_then_the_other_writes(trace: str) -> set[str] | None:
        known = look(trace)
        monkeypatch.setattr(store.runs, "assessed", look)
        record(other)
        return known

    other.open()
    monkeypatch.setattr(store.runs, "assessed", and_then_the_other_writes)
    after = record(store)
    (found,) = other.read("at once")
    assert (found.verdicts, found.failed_verdicts) == (after.verdicts, after.failed_verdicts)
    assert len(found.verdicts) + len(found.failed_verdicts) == 1
    ids = [a.assessment_id for a in store.traces.get_trace_info(trace_id(c.run_id)).assessments]
    assert len(set(ids)) == len(ids)


def test_what_keeps_a_verdict_off_a_run_without_a_trace_is_said(
    store: TrackingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.log([logged().entry("traceless")])
    store.traces.delete_traces(store.experiment("traceless"), max_timestamp_millis=2**53)
    (candidate,) = store.read("traceless")
    given = verdict(Tier.HUMAN, "anna", 4, "2026-11-27T12:00:00Z")

    def refuse(*_: object, **__: object) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(store.runs, "fill", refuse)
        with pytest.raises(TrackingError, match="no space left"):
            store.record(candidate, given, RUBRIC)
    store.record(candidate, given, RUBRIC)
    assert store.read("traceless")[0].verdicts == (given,)


def test_what_another_thread_writes_meanwhile_is_its_own(store: TrackingStore) -> None:
    experiment = str(store.experiment("threads", create=True))

    def write(name: str) -> None:
        with store.runs.together():
            store.runs.create(experiment, start_time=0, tags={}, name=name)

    def refused() -> None:
        with store.runs.together():
            other = threading.Thread(target=write, args=("the other's",))
            other.start()
            other.join(60)
            store.runs.create(experiment, start_time=0, tags={}, name="mine")
            raise RuntimeError("no such thing")

    with pytest.raises(Exception, match="no such thing"):
        refused()
    assert [run.info.run_name for run in runs(store, "threads")] == ["the other's"]


def test_two_that_open_a_new_database_at_once_make_one(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.preload"])
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        assert list(pool.map(_opened, [f"sqlite:///{tmp_path}/new/mlflow.db"] * 2)) == [["Default"]] * 2


def _opened(uri: str) -> list[str]:
    store = TrackingStore(uri, artifact_root=None)
    store.open()
    return store.experiments()


def test_more_experiments_than_a_page_are_all_there(store: TrackingStore, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"many-{n}" for n in range(3)]
    for name in names:
        store.client.create_experiment(name)
    monkeypatch.setattr("pytest_promptbench.tracking.store.PAGE", 2)
    assert set(names) <= set(store.experiments())


def test_more_runs_than_a_page_come_whole_and_once(store: TrackingStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.log([logged(f"s{i}").entry("pages") for i in range(7)])
    monkeypatch.setattr(tables, "PAGE", 3)
    assert sorted(c.scenario for c in store.read("pages")) == [f"s{i}" for i in range(7)]
    assert all(c.latency_s == 0.5 and c.prompt == "v1" and c.rubric == "tip-v1" for c in store.read("pages"))
    of_tables = store.runs.tables
    assert of_tables is not None
    few = of_tables.find([str(store.experiment("pages"))], {}, EVERYTHING)
    next(few)
    few.close()
    assert of_tables.engine.pool.checkedout() == 0, "whoever has seen enough leaves nothing open"


def test_texts_are_found_in_a_project_that_was_moved(tmp_path: Path) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    before.mkdir()
    migrated_database(before / "mlflow.db")
    store = TrackingStore(f"sqlite:///{before}/mlflow.db", artifact_root=before / "mlartifacts")
    store.log([logged().entry("e")])
    PromptRegistry(store).keep_receipt("tip", {"winner": "v2", "champion": "v1"})
    before.rename(after)
    store = TrackingStore(f"sqlite:///{after}/mlflow.db", artifact_root=after / "mlartifacts")
    (candidate,) = store.read("e")
    assert store.texts([candidate])[0].outputs == logged().candidate.outputs
    assert store.messages([candidate])
    store.log([logged("s2").entry("e")])
    PromptRegistry(store).keep_receipt("tip", {"winner": "v3", "champion": "v2"})
    assert not before.exists(), "what joins the experiment is written to where the project is"
    assert len(list(after.glob("mlartifacts/tip-promotions/*/artifacts/promotion.json"))) == 2
    assert len(store.texts(store.read("e"))) == 2
    shutil.rmtree(after / "mlartifacts")
    with pytest.raises(SpoiltError, match=r"No such file.*/before/mlartifacts/e/.*bring the artifacts back"):
        store.texts([candidate])


@pytest.mark.parametrize(
    ("folder", "environ", "file"),
    [
        ("feature%2Fx 100% [1] #1", {}, "mlflow.db"),
        ("what? %20", {"MLFLOW_TRACKING_URI": "sqlite:///./other.db?timeout=60"}, "other.db"),
    ],
)
def test_a_database_in_any_folder_is_the_one_file_that_is_written(
    tmp_path: Path, folder: str, environ: dict[str, str], file: str
) -> None:
    root = tmp_path / folder
    root.mkdir()
    settings = resolve({}.get, root=root, cwd=root, identity=Identity.new(), environ=environ)
    migrated_database(root / file)
    store = TrackingStore(settings.tracking_uri, artifact_root=settings.artifact_root)
    store.log([logged().entry("e")])
    assert [c.scenario for c in store.texts(store.read("e"))] == ["s1"]
    assert (root / file).is_file()
    written = {f.name for f in tmp_path.rglob("*.db*") if f.is_file()}
    assert written <= {file, f"{file}-wal", f"{file}-shm"}, "MLflow itself makes an empty folder of the address"


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        (
            "nonsense://x",
            "'nonsense://x', which MLflow has no store for: take a database (sqlite:////path/mlflow.db) or a",
        ),
        ("postgres+psycopg2://u:hunter2@h/db", "'postgres+psycopg2://***@h/db', .*: write postgresql+psycopg2://"),
        ("localhost:5000", "'localhost:5000', .*: write http://localhost:5000"),
        ("127.0.0.1:5000/x", "'127.0.0.1:5000/x', .*: write http://127.0.0.1:5000/x"),
        (
            "bench:hunter2@host:5000",
            "'host:5000', .* a server's address (http://127.0.0.1:5000), or install the plugin",
        ),
        ("mysql+pymysql://u:hunter2@h/db", "'mysql+pymysql://***@h/db': No module named 'pymysql'; install the driver"),
        ("mysql+mysql2://u:hunter2@h/db", "'mysql+mysql2://***@h/db': Can't load .*; install the driver, or name one"),
        ("mysql://u:hunter2@h:x/db", "'mysql://***@h:x/db': .*; expected dialect+driver://user:password@host:port/"),
        ("sqlite://mlflow.db", "'sqlite://mlflow.db', .*: write sqlite:///path/mlflow.db"),
        ("./mlruns", "'./mlruns', a folder of files"),
        ("File:///mlruns", "'File:///mlruns', a folder of files"),
    ],
)
def test_an_address_that_mlflow_has_no_store_for_is_a_mistake_with_its_remedy(uri: str, told: str) -> None:
    with pytest.raises(UsageError, match=re.escape(told).replace(r"\.\*", ".*")) as caught:
        check_takes_candidates(uri)
    assert "hunter2" not in str(caught.value)


def test_mlflow_and_we_know_the_same_stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.tracking._tracking_service.utils import _tracking_store_registry as registry

    known = registry._registry.keys() - {"", "file", "databricks-uc", "uc"}
    for scheme in known - {"postgresql", "mysql", "mssql"}:
        check_takes_candidates(f"{scheme}:///x")
    for scheme in known & {"mysql", "mssql"}:
        with pytest.raises(UsageError, match="install the driver"):  # MLflow does not bring it
            check_takes_candidates(f"{scheme}:///x")
    for uri in ("databricks", "databricks-uc", "uc", "sqlite+pysqlite:///x", "HTTP://h"):
        check_takes_candidates(uri)
    plugin = tmp_path / "plugin-1.dist-info"
    plugin.mkdir()
    (plugin / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1\n")
    (plugin / "entry_points.txt").write_text("[mlflow.tracking_store]\narn = plugin:Store\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    check_takes_candidates("arn:aws:sagemaker:eu-west-1:1:mlflow-tracking-server/x")


def test_a_store_that_cannot_be_reached_is_named_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    store = TrackingStore("http://user:hunter2@127.0.0.1:9/x?token=hunter%203", artifact_root=None)
    with pytest.raises(TrackingError, match=r"MLflow at http://\*\*\*@127\.0\.0\.1:9/x\?token=\*\*\*: ") as caught:
        store.read("x")
    told = "".join(traceback.format_exception(caught.value))  # as a task's log in Airflow has it, with all causes
    assert "Max retries exceeded" in told
    assert "hunter" not in told


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "http://bench:hunter2%2Fhunter2@127.0.0.1:9"])
@pytest.mark.parametrize("form", ["Basic {in_base64}", "bench:{password}", "Bearer {token}"])
def test_what_a_server_quotes_of_its_user_is_not_shown(uri: str, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a proxy before it does that answers with the headers that it got."""
    password, token = "hunter2/hunter2", "t-hunter2-t"
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", token)
    if "@" not in uri:
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)
    in_base64 = base64.b64encode(f"bench:{password}".encode()).decode()
    said = form.format(in_base64=in_base64, password=password, token=token)
    with pytest.raises(TrackingError, match=r"401: \w+:? ?\S*\*\*\*") as caught, translated(uri):
        raise OSError(f"401: {said}")
    told = "".join(traceback.format_exception(caught.value))
    assert "hunter" not in told
    assert base64.b64encode(password.encode()).decode()[4:-4] not in told
    assert in_base64[12:-2] not in told


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        ("UNAUTHENTICATED", "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"),
        ("PERMISSION_DENIED", "logging or judging EDIT, on the experiment"),
    ],
)
def test_who_may_not_is_told_what_is_needed(code: str, remedy: str) -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.protos import databricks_pb2

    refused = MlflowException("failed with error code 40x != 200. " + "x" * 600, getattr(databricks_pb2, code))
    with pytest.raises(TrackingError, match=f"error code 40x.*; .*{remedy}"), translated("http://127.0.0.1:9"):
        raise refused


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("sqlite:////a@b/c.db", "sqlite:////a@b/c.db"),
        ("http://127.0.0.1:9/a@b", "http://127.0.0.1:9/a@b"),
        ("http://u:p@h:9/x", "http://***@h:9/x"),
        ("http://u:pa/s?s@h:9/x", "http://***@h:9/x"),
        ("http://h/a:b@c", "http://h/a:b@c"),
        ("http://[::1]/a@b", "http://[::1]/a@b"),
        ("postgresql://u:pa/s?s#@h/db", "postgresql://***@h/db"),
        ("postgresql://h/db?user=u&password=hunter2&x=1", "postgresql://h/db?user=u&password=***&x=1"),
        ("mssql+pyodbc:///?odbc_connect=DRIVER%3DX%3BPWD%3Dhunter2", "mssql+pyodbc:///?odbc_connect=***"),
        ("http://[::1", "http://[::1"),
        ("databricks", "databricks"),
    ],
)
def test_an_address_is_shown_without_its_password(uri: str, shown: str) -> None:
    assert redacted(uri) == shown


@pytest.mark.parametrize(
    "tags",
    [
        {"promptbench.verdict.human.x": "not json"},
        {"promptbench.verdict.human.x": "[]"},
        {"promptbench.verdict.human.x": '{"judge": "x", "at": "", "scores": {"relevance": "high"}}'},
        {"promptbench.verdict.king.x": '{"judge": "x", "at": "", "scores": {}}'},
        {"promptbench.checks": "nope"},
        {"promptbench.sampling_probability": "abc"},
    ],
    ids=str,
)
def test_a_tag_that_somebody_spoilt_is_named_with_its_run(store: TrackingStore, tags: dict[str, str]) -> None:
    experiment = f"spoilt-{sha256(tags)[:8]}"
    (run_id,) = store.log([logged().entry(experiment)])
    store.client.log_metric(run_id, "prompt_tokens", float("nan"))
    assert store.read(experiment)[0].prompt_tokens is None
    store.tag(run_id, tags)
    with pytest.raises(TrackingError, match=f"run {run_id} of experiment '{experiment}': .* mend or delete"):
        store.read(experiment)


def test_a_run_that_is_there_gets_the_tags_of_a_later_session(store: TrackingStore) -> None:
    entry = logged().entry("tagged")
    (run_id,) = store.log([entry])
    entry.record["tags"] = {"airflow.run_id": "r2"}
    assert store.log([entry]) == [run_id]
    assert store.client.get_run(run_id).data.tags["airflow.run_id"] == "r2"


LONG = "k" * 251
KEYS = [
    "team",
    " team ",
    "Größe 2",
    "a.b-c_d:e/f",
    LONG[1:],
    LONG,
    "team$",
    "a b\nc",
    "a//b",
    "a/",
    "/a",
    "./a",
    "..",
    ".",
]


@pytest.mark.parametrize(
    "tag", [f"{key}=x" for key in KEYS] + ["team=" + "v" * 8000, "team=" + "v" * 8001, "t$=" + "v" * 999]
)
def test_a_tag_that_mlflow_would_refuse_or_cut_is_refused_before_anything_runs(store: TrackingStore, tag: str) -> None:
    (run_id,) = store.log([logged().entry("tags")])
    key, _, value = tag.partition("=")
    refused = said = ""
    try:
        store.client.set_tag(run_id, key.strip(), value)
        kept = store.client.get_run(run_id).data.tags[key.strip()]
        refused = "" if kept == value else "cut"
    except Exception as error:
        refused = str(error)
    try:
        settings = resolve({"bench_tag": [tag]}.get, root=Path("/"), cwd=Path("/"), identity=Identity.new())
    except UsageError as error:
        said = str(error)
    else:
        assert settings.tags == {key.strip(): value}
    assert bool(said) == bool(refused), f"{said!r}, but MLflow says {refused!r}"
    assert said == "" or re.fullmatch("--bench-tag .{,250}", said)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda f: f.mkdir(), "OperationalError: unable to open database file"),
        (lambda f: f.write_bytes(b"no database" * 999), "DatabaseError: file is not a database"),
    ],
    ids=["folder", "garbage"],
)
def test_a_file_that_is_no_database_is_said_so_at_once(tmp_path: Path, spoil: Callable[[Path], Any], said: str) -> None:
    """In the words of the driver: MLflow itself would try again for 100 seconds, and say it in SQLAlchemy's."""
    spoil(tmp_path / "mlflow.db")
    with pytest.raises(TrackingError, match=f"^MLflow at sqlite:///{tmp_path}/mlflow.db: {said}$"):
        TrackingStore(f"sqlite:///{tmp_path}/mlflow.db", artifact_root=tmp_path).open()


def test_an_error_of_the_database_is_said_once_and_without_what_was_to_be_written(
    store: TrackingStore, capsys: pytest.CaptureFixture[str]
) -> None:
    store.log([logged("s1").entry("bench")])
    run_id = store.read("bench")[0].run_id
    with contextlib.closing(sqlite3.connect(store.uri.removeprefix("sqlite:///"))) as database:
        database.execute("CREATE TRIGGER refuse BEFORE INSERT ON tags BEGIN SELECT no_such_function(); END")
    with pytest.raises(TrackingError, match=r"no such function: no_such_function$"):
        store.tag(run_id, {"note": "a text of somebody's"})
    said = capsys.readouterr()
    assert "Traceback" not in said.out + said.err
    assert "a text of somebody's" not in said.out + said.err


def test_a_database_that_is_locked_is_waited_for(tmp_path: Path) -> None:
    migrated_database(tmp_path / "mlflow.db")
    store = TrackingStore(f"sqlite:///{tmp_path}/mlflow.db", artifact_root=tmp_path)
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db", check_same_thread=False)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        timer = threading.Timer(8.0, other.close)
        timer.start()
        store.open()
        timer.join()
    assert store.experiments()


def test_a_server_has_several_calls_at_a_time_and_none_begins_after_one_that_failed() -> None:
    runs = runs_module.Runs(None, None, "http://127.0.0.1:9")
    together = threading.Barrier(runs_module.AT_A_TIME)

    def call(number: int) -> int:
        together.wait(20)
        return -number

    assert runs.each(call, range(2 * runs_module.AT_A_TIME)) == [-n for n in range(2 * runs_module.AT_A_TIME)]
    begun: list[int] = []
    failed = threading.Event()

    def fail(number: int) -> None:
        begun.append(number)
        if number == 0:
            failed.set()
            raise ValueError
        failed.wait(20)
        time.sleep(0.05)

    with pytest.raises(ValueError, match=r"^$"):
        runs.each(fail, range(500))
    assert len(begun) < 100
