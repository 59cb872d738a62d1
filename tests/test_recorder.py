"""The recorder process, for real: SQLite store, kills, a store that is down, two sessions at once."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import signal
import sqlite3
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from pytest_promptbench.ledger import HEX, Ledger
from pytest_promptbench.locks import LockFile
from pytest_promptbench.records import Judge, Tier
from pytest_promptbench.tracking.recorder import Judgement, Outcome, Recorder, Where
from pytest_promptbench.tracking.work import BATCH, WAIT_FOR_OTHERS_S, Work

from .project import migrated_database
from .test_tracking import RUBRIC, failed, logged


class Project:
    """A project folder with one ledger, and sessions that log to a store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.uri = f"sqlite:///{folder}/mlflow.db"
        self.ledger = Ledger(folder / "ledger.sqlite3")
        self.recorders: list[Recorder] = []

    def where(self, session: str, uri: str | None = None) -> Where:
        return Where(
            session=session,
            uri=uri or self.uri,
            artifact_root=str(self.folder / "mlartifacts"),
            ledger=str(self.folder / "ledger.sqlite3"),
            locks=str(self.folder / "locks"),
        )

    def recorder(self, session: str, uri: str | None = None) -> Recorder:
        """A recorder that is ended with the test."""
        recorder = Recorder(self.where(session, uri))
        self.recorders.append(recorder)
        return recorder

    def post(self, session: str, scenarios: Sequence[str], uri: str | None = None) -> list[tuple[str, str]]:
        entries = [logged(s).entry("e") for s in scenarios]
        self.ledger.post(uri or self.uri, entries, session=session)
        return [("e", e.candidate) for e in entries]


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    migrated_database(tmp_path / "mlflow.db")
    made = Project(tmp_path)
    yield made
    for recorder in made.recorders:
        recorder.close()


def scenarios_of(outcome: Outcome) -> list[str]:
    return sorted(c.scenario for c in outcome.candidates["e"])


def test_all_that_was_posted_is_in_mlflow_when_finish_returns(project: Project) -> None:
    (project.folder / "mlflow.db").unlink()  # the recorder makes it
    recorder = project.recorder("one")
    recorder.start()
    keys = project.post("one", [f"s{i}" for i in range(50)])
    outcome = recorder.finish(keys, ["e"])
    assert (outcome.unlogged, outcome.error) == (0, None)
    assert len(outcome.candidates["e"]) == 50
    assert outcome.candidates["e"][0].outputs == ("drink water",)


def test_a_killed_recorder_is_replaced_and_nothing_is_doubled(project: Project) -> None:
    recorder = project.recorder("one")
    recorder.start()
    keys = project.post("one", [f"s{i}" for i in range(60)])
    deadline = time.monotonic() + 60
    while len(project.ledger.texts(project.uri, "e", [k for _, k in keys])) == 0 and time.monotonic() < deadline:
        time.sleep(0.01)
    killed = recorder._process
    assert killed is not None
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    outcome = recorder.finish(keys, ["e"])
    assert outcome.unlogged == 0
    assert scenarios_of(outcome) == sorted(f"s{i}" for i in range(60))
    assert all(pipe is not None and pipe.closed for pipe in (killed.stdin, killed.stdout))


def test_an_answer_is_whole_even_if_the_recorder_is_stopped_while_it_writes(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ``docker pause`` and debuggers do. The answer is more than a pipe holds, so that it waits in its middle."""
    monkeypatch.setenv("PYTHONUNBUFFERED", "1")
    recorder = project.recorder("one")
    recorder.start()
    keys = project.post("one", [f"s{i}" for i in range(120)])
    recorder._say({"finish": {"keys": keys, "experiments": ["e"]}})
    process = recorder._process
    assert process is not None
    assert process.stdout is not None
    deadline = time.monotonic() + 60
    full = fcntl.fcntl(process.stdout, fcntl.F_GETPIPE_SZ)
    before, now = -1, 0
    while (now < full or now != before) and time.monotonic() < deadline:
        time.sleep(0.1)
        before, now = now, int.from_bytes(fcntl.ioctl(process.stdout, termios.FIONREAD, b"\0" * 4), sys.byteorder)
    assert now == full, "it waits for a reader"
    for sent in (signal.SIGSTOP, signal.SIGCONT):
        os.kill(process.pid, sent)
        time.sleep(0.2)
    watchdog = threading.Timer(20, process.kill)
    watchdog.start()
    line = process.stdout.readline()
    watchdog.cancel()
    assert line.endswith("}\n"), f"its last {len(line):,} characters: {line[-60:]!r}"
    assert len(Outcome.from_json(json.loads(line)).candidates["e"]) == 120


def test_the_answer_that_somebody_did_not_wait_for_is_not_taken_for_the_next(project: Project) -> None:
    """As after Ctrl-C while verdicts of --judge-auto are written, where the page still wants the texts of others."""
    recorder = project.recorder("one")
    recorder.start()
    (found,) = recorder.finish(project.post("one", ["s1"]), ["e"]).candidates["e"]
    process = recorder._process
    assert process is not None
    said = Judgement(candidate=found, rubric=RUBRIC, judge=Judge(tier=Tier.AUTO, name="j"), problem="no JSON")
    os.kill(process.pid, signal.SIGSTOP)
    timers = [
        threading.Timer(0.5, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT)),
        threading.Timer(1.0, process.send_signal, (signal.SIGCONT,)),
    ]
    for timer in timers:
        timer.start()
    with pytest.raises(KeyboardInterrupt):
        recorder.judge([said])
    unread: list[str] = []
    bare = dataclasses.replace(found, outputs=None, context=None)
    (whole,) = recorder.texts([bare], unread=unread)
    assert (whole.outputs, unread) == (("drink water",), [])
    (now,) = recorder.finish([], ["e"]).candidates["e"]
    assert now.failed_verdicts == {"j": "no JSON"}, "and what was asked is done"


def second_writer(recorder: Recorder) -> int | None:
    """The process id of a recorder's second writer, once there is one."""
    assert recorder._process is not None
    pid = recorder._process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    return int(children[0]) if children else None


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="a second writer needs a second core")
@pytest.mark.parametrize(
    "after_s", [pytest.param(0.01, marks=pytest.mark.slow), 0.05, pytest.param(0.1, marks=pytest.mark.slow)]
)
def test_a_second_writer_that_dies_in_the_middle_leaves_its_share(project: Project, after_s: float) -> None:
    """It dies in its second batch; what it had begun is completed, nothing is doubled."""
    recorder = project.recorder("one")
    keys = project.post("one", [f"s{i}" for i in range(300)])
    recorder.start()
    deadline = time.monotonic() + 60

    def at_work() -> bool:
        pid = second_writer(recorder)
        return pid is not None and holder(project.folder / "locks", "second-share:one") == pid

    for state in (True, False, True):
        while at_work() is not state and time.monotonic() < deadline:
            time.sleep(0.001)
    pid = second_writer(recorder)
    assert pid is not None
    time.sleep(after_s)
    os.kill(pid, signal.SIGKILL)
    outcome = recorder.finish(keys, ["e"])
    assert outcome.unlogged == 0
    assert scenarios_of(outcome) == sorted(f"s{i}" for i in range(300))
    assert runs_in(project.folder / "mlflow.db") == 300


def holder(file: Path, name: str) -> int | None:
    """Who holds a lock, as the kernel tells it."""
    import fcntl
    import struct

    from pytest_promptbench.locks import _offset

    with file.open("rb+") as opened:
        asked = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, _offset(name), 1, 0)
        kind, _, _, _, pid = struct.unpack("hhqqi4x", fcntl.fcntl(opened, fcntl.F_GETLK, asked))
    return None if kind == fcntl.F_UNLCK else int(pid)


def runs_in(database: Path) -> int:
    with contextlib.closing(sqlite3.connect(database)) as db:
        return int(db.execute("SELECT COUNT(*) FROM runs").fetchone()[0])


def test_what_a_dead_session_left_is_logged_by_the_next(project: Project) -> None:
    project.post("dead", ["left behind"])
    recorder = project.recorder("two")
    recorder.start()
    outcome = recorder.finish(project.post("two", ["mine"]), ["e"])
    assert scenarios_of(outcome) == ["left behind", "mine"]


def test_what_a_dead_session_left_has_the_tags_of_the_next_too(project: Project) -> None:
    for session, tags in (("dead", {"team": "a"}), ("two", {"airflow.run_id": "r2"})):
        project.ledger.post(project.uri, [logged(tags=tags).entry("e")], session=session)
    recorder = project.recorder("two")
    recorder.start()
    (candidate,) = recorder.finish([("e", logged().key)], ["e"]).candidates["e"]
    tags = project.where("two").store().client.get_run(candidate.run_id).data.tags
    assert (tags["team"], tags["airflow.run_id"]) == ("a", "r2")


def test_two_living_sessions_log_a_shared_candidate_once(project: Project) -> None:
    (project.folder / "mlflow.db").unlink()  # one of them makes it
    recorders = [project.recorder(name) for name in ("one", "two")]
    for recorder in recorders:
        recorder.start()
    keys = [project.post(name, [f"s{i}" for i in range(20)]) for name in ("one", "two")]
    first = recorders[0].finish(keys[0], ["e"])
    second = recorders[1].finish(keys[1], ["e"])
    assert scenarios_of(first) == scenarios_of(second) == sorted(f"s{i}" for i in range(20))


def test_with_the_store_down_candidates_are_kept_and_the_next_session_logs_them(project: Project) -> None:
    down = "http://127.0.0.1:9"
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "1"
    recorder = project.recorder("one", uri=down)
    recorder.start()
    outcome = recorder.finish(project.post("one", ["a", "b"], uri=down), ["e"])
    recorder.close()
    assert outcome.unlogged == 2
    assert "127.0.0.1:9" in (outcome.error or "")
    # the same store is back, under the name that the candidates wait for
    project.ledger._db.execute("UPDATE outbox SET store = ?", (project.uri,))
    again = project.recorder("two")
    again.start()
    assert scenarios_of(again.finish([], ["e"])) == ["a", "b"]


def test_one_candidate_that_mlflow_refuses_does_not_hold_up_the_rest(project: Project) -> None:
    recorder = project.recorder("one")
    recorder.start()
    broken = logged("broken").entry("e")
    broken.record["candidate"]["answers"][0]["started_at"] = -1e9  # before 1970
    project.ledger.post(project.uri, [broken, logged("fine").entry("e"), failed("bad").entry("e")], session="one")
    outcome = recorder.finish([("e", broken.candidate)], ["e"])
    assert outcome.unlogged == 1
    assert outcome.error is not None
    assert scenarios_of(outcome) == ["bad", "fine"]


def test_an_experiment_that_is_gone_holds_up_no_other_session(project: Project) -> None:
    first = project.recorder("one")
    first.start()
    first.finish(project.post("one", ["a"]), ["e"])
    first.close()
    client = project.where("x").store().client
    client.delete_experiment(client.get_experiment_by_name("e").experiment_id)
    project.post("dead", [f"d{i}" for i in range(60)])  # more than a batch, and older than what comes now
    mine = logged("fine").entry("other")
    project.ledger.post(project.uri, [mine], session="two")
    second = project.recorder("two")
    second.start()
    outcome = second.finish([("other", mine.candidate)], ["other"])
    assert (outcome.unlogged, outcome.error) == (0, None)
    assert [c.scenario for c in outcome.candidates["other"]] == ["fine"]
    assert outcome.stuck == 60
    assert "mlflow experiments restore" in (outcome.stuck_error or "")


def test_what_another_session_left_and_mlflow_refuses_does_not_end_the_wait_for_ones_own(project: Project) -> None:
    keys = project.post("living", ["s1"])
    (left,) = project.post("crashed", ["s2"])
    work = Work(project.where("mine"))
    work.sessions.append("crashed")
    work.refused.add(left)
    asked_at = time.monotonic()
    assert not work.settled(keys, asked_at), "the living session is just logging it"
    assert work.settled(keys, asked_at - WAIT_FOR_OTHERS_S - 1)
    work.refused.update(keys)
    assert work.settled(keys, asked_at)


def test_half_a_line_from_a_killed_session_ends_the_recorder(project: Project) -> None:
    recorder = project.recorder("one")
    recorder.start()
    process = recorder._process
    assert process is not None
    assert process.stdin is not None
    process.stdin.write('{"finish": {"ke')
    process.stdin.close()
    assert process.wait(30) == 0
    process.stdin = None
    project.recorders.clear()


def test_what_a_living_second_writer_may_be_writing_is_not_taken_over(project: Project) -> None:
    project.post("dead", ["d1"])
    code = (
        "import sys; from pathlib import Path; from pytest_promptbench.locks import LockFile\n"
        f"l = LockFile(Path({str(project.folder / 'locks')!r})); l.acquire('second-writer:dead')\n"
        "print('held', flush=True); sys.stdin.read()"
    )
    writer = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    assert writer.stdout.readline() == "held\n"
    recorder = project.recorder("two")
    recorder.start()
    assert scenarios_of(recorder.finish(project.post("two", ["t1"]), ["e"])) == ["t1"]
    writer.communicate()
    deadline = time.monotonic() + 30
    while project.ledger.waiting(project.uri, [], session="dead") and time.monotonic() < deadline:
        time.sleep(0.1)
    assert scenarios_of(recorder.finish([], ["e"])) == ["d1", "t1"]


def test_an_answer_completes_the_run_of_a_failure_that_the_other_writer_has_logged(project: Project) -> None:
    """As where a rerun of the test asks again. Which writer takes a candidate is up to its key alone."""
    first = Work(project.where("one"))
    second = Work(project.where("one"))
    for work in (first, second):
        work.store.open()
        assert work.store.log([logged("before").entry("e")]), "each has looked which runs there are"
    failures = [failed(f"s{i}").entry("e") for i in range(3)]
    answers = [logged(f"s{i}").entry("e") for i in range(3)]
    project.ledger.post(project.uri, [*failures, *answers], session="one")
    second.share = "".join({e.candidate[-1] for e in answers} - {e.candidate[-1] for e in failures})
    assert second.mine() == [], "their failures are not in MLflow yet"
    first.log([e for e in first.mine() if e.record["candidate"]["error"]])
    second.share = HEX
    second.log(second.mine())
    found = {c.scenario: c.error for c in first.store.read("e")}
    assert found == dict.fromkeys(["before", "s0", "s1", "s2"]), "and no run of a failure is left"
    assert runs_in(project.folder / "mlflow.db") == 4


def test_an_answer_completes_the_run_of_a_failure_that_a_dead_session_left(project: Project) -> None:
    """As where MLflow was down while the provider was, too. What a dead session left is logged last by itself."""
    names = [f"s{i}" for i in range(BATCH + 5)]
    project.ledger.post(project.uri, [failed(name).entry("e") for name in names], session="dead")
    project.ledger.post(project.uri, [logged(name).entry("e") for name in names], session="one")
    work = Work(project.where("one"))
    work.store.open()
    while work.step():
        pass
    assert {c.scenario: c.error for c in work.store.read("e")} == dict.fromkeys(names)
    assert runs_in(project.folder / "mlflow.db") == len(names), "and no run of a failure is left"


def test_a_session_whose_recorder_was_killed_does_not_wait_for_the_end_of_another(project: Project) -> None:
    """The other one takes over what the killed one has left, and goes on for as long as its tests do."""
    recorders = [project.recorder(name) for name in ("one", "two")]
    for recorder in recorders:
        recorder.start()
    killed = recorders[0]._process
    assert killed is not None
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    left = logged("refused").entry("e")
    left.record["candidate"]["answers"][0]["started_at"] = -1e9  # before 1970: MLflow takes it from nobody
    project.ledger.post(project.uri, [left], session="one")
    keys = project.post("one", ["s1"])
    deadline = time.monotonic() + 60
    while len(project.ledger.waiting(project.uri, [], session="one")) > 1 and time.monotonic() < deadline:
        time.sleep(0.1)
    answers: list[Outcome] = []
    asking = threading.Thread(target=lambda: answers.append(recorders[0].finish(keys, ["e"])), daemon=True)
    asking.start()
    asking.join(60)
    assert [scenarios_of(a) for a in answers] == [["s1"]]
    assert [a.unlogged for a in answers] == [1]


def test_a_session_that_is_only_starting_is_left_alone(project: Project) -> None:
    """It has posted candidates, from the cache, before its recorder had its lock; a crashed one is told by its mark."""
    project.post("new", ["n1", "n2"])
    begun = project.where("new").begun("new")
    begun.parent.mkdir(parents=True)
    keys = project.post("old", ["o1"])
    recorder = project.recorder("old")
    recorder.start()
    assert scenarios_of(recorder.finish(keys, ["e"])) == ["o1"]
    assert len(project.ledger.waiting(project.uri, [], session="new")) == 2
    begun.touch()
    recorder.close()
    keys = project.post("later", ["l1"])
    third = project.recorder("later")
    third.start()
    deadline = time.monotonic() + 30
    while project.ledger.waiting(project.uri, [], session="new") and time.monotonic() < deadline:
        time.sleep(0.1)
    assert scenarios_of(third.finish(keys, ["e"])) == ["l1", "n1", "n2", "o1"]


def test_a_recorder_has_its_lock_before_it_imports_anything_slow(project: Project) -> None:
    (project.folder / "mlflow.db").unlink()
    begun = project.where("a").begun("a")
    begun.parent.mkdir(parents=True)
    project.recorder("a").start()
    while not begun.exists():
        time.sleep(0.01)
    locks = LockFile(project.folder / "locks")
    assert not locks.is_free("session:a")
    assert not (project.folder / "mlflow.db").exists()
    locks.close()


def test_the_ledger_knows_a_store_without_its_password() -> None:
    uri = "postgresql+psycopg2://bench:canary@127.0.0.1:5432/mlflow"
    where = Where(session="s", uri=uri, artifact_root=None, ledger="l", locks="k")
    assert where.store_name == "postgresql+psycopg2://***@127.0.0.1:5432/mlflow"


def test_what_waits_for_a_server_is_found_whoever_asks_for_it(project: Project) -> None:
    """Under the address without a user, and under what earlier versions wrote in its place."""
    at = "127.0.0.1:9"
    with_user = project.where("two", uri=f"http://ann:canary@{at}/")
    assert with_user.store_name == project.where("one", uri=f"http://{at}").store_name
    project.post("one", ["a"], uri=f"http://{at}")
    project.post("one", ["a", "b"], uri=f"http://***@{at}/")
    work = Work(with_user)
    assert len(work.ledger.pending(with_user.store_name, ["one"], limit=9)) == 2
