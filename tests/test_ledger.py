"""The durable memory: answers, outbox, money."""

import contextlib
import dataclasses
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_promptbench.errors import LedgerError, UsageError
from pytest_promptbench.ledger import KEYS_A_QUERY, Entry, Ledger
from pytest_promptbench.records import Answer, Usage

from .scripted import cell

STORE = "sqlite:////tmp/mlflow.db"


def entry(candidate: str = "c1", experiment: str = "e") -> Entry:
    return Entry(experiment=experiment, candidate=candidate, record={"text": candidate})


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger.sqlite3")


def test_an_answer_survives_the_process_and_is_found_by_its_exact_request(ledger: Ledger, tmp_path: Path) -> None:
    request = cell().requests[0]
    answer = Answer(text="nul \x00 and a lone \ud800", usage=Usage(prompt_tokens=1), cost_usd=0.5, started_at=12.0)
    ledger.keep([(request, answer)], session="one")
    again = Ledger(tmp_path / "ledger.sqlite3")
    assert again.answer(request.key) == answer
    assert again.answer(dataclasses.replace(request, sample=1).key) is None
    assert again.answer(request.key, session="two") is None


@pytest.mark.parametrize("spoilt", ['{"text": "cut o', "{}", "[]", '{"text": null}', '{"text": "x", "usage": null}'])
def test_an_answer_that_cannot_be_read_is_named_with_its_remedy(ledger: Ledger, spoilt: str) -> None:
    request = cell().requests[0]
    ledger.keep([(request, Answer(text="x"))], session="one")
    ledger._db.execute("UPDATE answers SET answer = ?", (spoilt,))
    with pytest.raises(LedgerError, match=rf"ledger\.sqlite3: the answer with the key {request.key} .*delete it"):
        ledger.answer(request.key)


def test_all_are_answered_also_where_many_tests_look_at_the_same_cells(ledger: Ledger) -> None:
    """LiteLLM is imported for whatever is not, which takes seconds. Keys are looked up some hundreds at a time."""
    requests = [cell(f"s{i}").requests[0] for i in range(KEYS_A_QUERY * 3 // 4)]
    keys = [r.key for r in requests]
    ledger.keep([(r, Answer(text="x")) for r in requests[1:]], session="one")
    assert not ledger.has_answers([*keys, *keys])
    assert not ledger.has_answers([*keys, keys[1]])
    ledger.keep([(requests[0], Answer(text="x"))], session="one")
    assert ledger.has_answers([*keys, *keys])


def test_two_sessions_that_hand_over_one_candidate_make_one_row(ledger: Ledger) -> None:
    ledger.post(STORE, [entry()], session="one")
    ledger.post(STORE, [entry()], session="two")
    assert [e.session for e in ledger.pending(STORE, ["one", "two"], limit=9)] == ["one"]
    assert ledger.waiting(STORE, [("e", "c1")], session="two") == {("e", "c1")}, "two must wait for one's recorder"


def test_a_logged_candidate_handed_over_again_comes_with_its_run(ledger: Ledger) -> None:
    ledger.post(STORE, [entry()], session="one")
    ledger.done(STORE, [(entry(), "run-7", '{"outputs": []}')])
    assert not ledger.waiting(STORE, [("e", "c1")], session="one")
    assert ledger.texts(STORE, "e", ["c1", "c2"]) == {("run-7", "c1"): '{"outputs": []}'}
    ledger.post(STORE, [entry()], session="two")
    (again,) = ledger.pending(STORE, ["two"], limit=9)
    assert (again.run_id, again.record) == ("run-7", {"text": "c1"})


def test_what_others_have_logged_is_known_and_replaces_nothing_of_our_own(ledger: Ledger) -> None:
    ledger.post(STORE, [entry("c1"), entry("c2")], session="one")
    ledger.done(STORE, [(entry("c2"), "run-1", "ours")])
    found = [("e", name, f"run-{n}", "theirs") for n, name in enumerate(("c1", "c2", "c3"), 7)]
    ledger.know(STORE, found, session="two")
    assert ledger.texts(STORE, "e", ["c1", "c2", "c3"]) == {("run-1", "c2"): "ours", ("run-9", "c3"): "theirs"}
    assert [e.candidate for e in ledger.pending(STORE, ["one", "two"], limit=9)] == ["c1"]
    ledger.post(STORE, [entry("c3")], session="three")
    (again,) = ledger.pending(STORE, ["three"], limit=9)
    assert (again.candidate, again.run_id) == ("c3", "run-9"), "whether MLflow still has it is the recorder's to ask"


def test_what_is_handed_over_again_waits_from_then_on(ledger: Ledger) -> None:
    """By when it was first handed over, it would come before a failure that it waits for, and hold that up."""
    ledger.post(STORE, [entry("answer-1")], session="one")
    ledger.done(STORE, [(entry("answer-1"), "run-7", None)])
    ledger._db.execute("UPDATE outbox SET created = 1.0")
    ledger.post(STORE, [entry("failure-1")], session="two")
    ledger.post(STORE, [entry("answer-1")], session="two")
    assert [e.candidate for e in ledger.pending(STORE, ["two"], limit=9)] == ["failure-1", "answer-1"]
    assert ledger.sessions_waiting(STORE)["two"] > 1.0


def tagged(**tags: str) -> Entry:
    return dataclasses.replace(entry(), record={"text": "c1", "tags": tags})


def test_a_candidate_that_waits_gets_the_tags_of_each_session_that_hands_it_over(ledger: Ledger) -> None:
    ledger.post(STORE, [tagged(team="a", run="1")], session="one")
    ledger.post(STORE, [tagged(run="2")], session="two")
    ledger.post(STORE, [tagged()], session="three")
    (waiting,) = ledger.pending(STORE, ["one", "two", "three"], limit=9)
    assert (waiting.session, waiting.record) == ("one", {"text": "c1", "tags": {"team": "a", "run": "2"}})


def test_tags_that_come_while_a_candidate_is_being_logged_are_logged_too(ledger: Ledger) -> None:
    ledger.post(STORE, [tagged(run="1")], session="one")
    (taken,) = ledger.pending(STORE, ["one"], limit=9)
    ledger.post(STORE, [tagged(run="2")], session="two")
    ledger.done(STORE, [(taken, "run-7", None)])
    (again,) = ledger.pending(STORE, ["one"], limit=9)
    assert (again.run_id, again.record["tags"]) == ("run-7", {"run": "2"})
    ledger.done(STORE, [(again, "run-7", None)])
    assert ledger.pending(STORE, ["one", "two"], limit=9) == []


def test_money_is_reserved_up_to_the_limit_and_settled_to_what_it_was(ledger: Ledger) -> None:
    assert ledger.reserve("s", "a", 0.6, limit=1.0)
    assert not ledger.reserve("s", "b", 0.6, limit=1.0)
    ledger.settle("s", "a", 0.1)
    assert ledger.reserve("s", "b", 0.6, limit=1.0)
    assert ledger.spent("s") == pytest.approx(0.7)


def test_a_retry_sets_its_cost_aside_once_and_a_refusal_gives_it_back(ledger: Ledger) -> None:
    assert ledger.reserve("s", "a", 0.6, limit=1.0)
    assert ledger.reserve("s", "a", 0.6, limit=1.0)
    ledger.settle("s", "a", 0.0)
    assert ledger.spent("s") == 0.0


def test_setting_money_aside_costs_the_same_after_many_requests(ledger: Ledger) -> None:
    steps = []
    for number in range(2000):
        ledger.reserve("s", f"r{number}", 0.5, limit=1e9)
        ledger.settle("s", f"r{number}", 0.25)
    ledger._db.set_progress_handler(lambda: steps.append(1), 100)  # called after every 100 instructions of SQLite
    assert not ledger.reserve("s", "one", 0.5, limit=500.0)
    assert ledger.reserve("s", "one", 0.5, limit=500.5)
    assert ledger.reserve("other", "one", 0.5, limit=0.5)
    assert len(steps) < 10, "it adds up what went before"
    assert ledger.spent("s") == 500.5


OPENER = """
import sys, time
from pathlib import Path
from pytest_promptbench.ledger import Ledger
for number in range(60):
    at = float(sys.argv[2]) + number * 0.05
    while time.time() < at:
        pass
    Ledger(Path(sys.argv[1]) / str(number) / "ledger.sqlite3").close()
"""


def test_workers_that_open_a_new_ledger_at_the_same_moment_all_get_it(tmp_path: Path) -> None:
    command = [sys.executable, "-c", OPENER, str(tmp_path), str(time.time() + 1.5)]
    workers = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [worker.communicate(timeout=120)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], said


def tables_of_another_program(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE outbox (mail TEXT)")


@pytest.mark.parametrize(
    "spoil",
    [lambda p: p.write_bytes(b"no database" * 99), lambda p: p.mkdir(), tables_of_another_program],
    ids=["garbage", "folder", "another program's"],
)
def test_a_file_that_is_no_ledger_is_named_with_its_remedy(tmp_path: Path, spoil: Callable[[Path], object]) -> None:
    spoil(tmp_path / "ledger.sqlite3")
    with pytest.raises(UsageError, match=r"ledger\.sqlite3 cannot be opened .*move it away"):
        Ledger(tmp_path / "ledger.sqlite3")


def test_a_ledger_that_cannot_be_read_any_more_is_said_so(ledger: Ledger) -> None:
    ledger._db.execute("DROP TABLE answers")
    with pytest.raises(LedgerError, match="not usable"):
        ledger.answer("x")


def test_a_newer_format_is_refused_with_its_remedy(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite3"
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(UsageError, match=r"ledger format 99, this one reads 2.*upgrade"):
        Ledger(path)


def test_a_ledger_of_the_first_format_goes_on(ledger: Ledger, tmp_path: Path) -> None:
    ledger.post(STORE, [entry()], session="one")
    ledger._db.executescript(
        "DROP INDEX outbox_waiting; PRAGMA user_version = 1;"
        "CREATE INDEX outbox_pending ON outbox (store, session) WHERE state = 'pending';"
        "INSERT INTO spend VALUES ('loop', 'a', 0.25), ('loop', 'b', 0.5)"
    )
    ledger.close()
    again = Ledger(tmp_path / "ledger.sqlite3")
    assert [e.candidate for e in again.pending(STORE, ["one"], limit=9)] == ["c1"]
    assert not again._db.execute("SELECT 1 FROM sqlite_master WHERE name = 'outbox_pending'").fetchall()
    assert again.spent("loop") == 0.75, "a loop that is resumed goes on counting"
    assert not again.reserve("loop", "c", 0.5, limit=1.0)
    assert Ledger(tmp_path / "ledger.sqlite3").spent("loop") == 0.75


def test_candidates_come_session_by_session_and_oldest_first(ledger: Ledger) -> None:
    for candidate, session in (("x8", "other"), ("b1", "own"), ("a1", "own"), ("a9", "own")):
        ledger.post(STORE, [entry(candidate)], session=session)
    own_first = [e.candidate for e in ledger.pending(STORE, ["own", "other"], limit=9, share="18")]
    assert own_first == ["b1", "a1", "x8"], "of its own session this one's share, of another that is gone all"
    assert [e.candidate for e in ledger.pending(STORE, ["own", "other"], limit=2)] == ["b1", "a1"]
    assert ledger.left(STORE, "own", share="9") == 1
    assert ledger.left(STORE, "own", at_most=2) == 2


def test_what_was_logged_long_ago_costs_nothing_where_the_recorder_looks_for_what_waits(ledger: Ledger) -> None:
    old = [entry(f"c{number}") for number in range(5000)]
    ledger.post(STORE, old, session="old")
    ledger.done(STORE, [(e, e.candidate, None) for e in old])
    ledger.post(STORE, [entry("new1"), entry("new2")], session="new")
    steps = []
    ledger._db.set_progress_handler(lambda: steps.append(1), 100)  # called after every 100 instructions of SQLite
    assert ledger.sessions_waiting(STORE).keys() == {"new"}
    assert len(ledger.pending(STORE, ["new", "gone"], limit=20)) == 2
    assert ledger.left(STORE, "new") == len(ledger.waiting(STORE, [], session="new")) == 2
    assert len(steps) < 20, "it reads what was logged, too"
