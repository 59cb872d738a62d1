"""The generator, with a scripted completer and real locks and ledger."""

from __future__ import annotations

import dataclasses
import random
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_promptbench.errors import LedgerError, PermanentError, TransientError
from pytest_promptbench.generation import AdaptiveLimit, Generator, Limits, Progress, RetryPolicy, Slots
from pytest_promptbench.generation.jobs import Job, Queues
from pytest_promptbench.ledger import Ledger
from pytest_promptbench.locks import LockFile
from pytest_promptbench.records import Answer, Candidate, Cell, Request, Usage

from .scripted import ScriptedCompleter, cell

QUICK = RetryPolicy(base_s=0.01, cap_s=0.02)


class Rig:
    """A generator with its parts at hand."""

    def __init__(self, folder: Path) -> None:
        self.ledger = Ledger(folder / "ledger.sqlite3")
        self.locks = LockFile(folder / "locks")
        self.landed: list[Candidate] = []
        self.generators: list[Generator] = []

    def start(self, completer: ScriptedCompleter, **limits: Any) -> Generator:
        generator = Generator(
            completer=completer,
            ledger=self.ledger,
            locks=self.locks,
            session=limits.pop("session", "s"),
            limits=Limits(**limits),
            landed=self.landed.extend,
            retry=QUICK,
        )
        self.generators.append(generator)
        generator.start()
        return generator


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    yield rig
    for generator in rig.generators:
        generator.stop()


def test_a_test_waits_for_its_own_candidate_while_the_next_are_generated(rig: Rig) -> None:
    completer = ScriptedCompleter(latency_s=0.05)
    generator = rig.start(completer, concurrency=8)
    cells = [cell(f"s{i}") for i in range(8)]
    generator.plan(cells)
    first = generator.candidate(cells[0]).result(5)
    assert first.outputs == ("answer 0 to v1: s0",)
    assert completer.peak == 8, "lookahead should fill the concurrency"


def test_concurrency_bounds_what_is_in_flight(rig: Rig) -> None:
    completer = ScriptedCompleter(latency_s=0.01)
    generator = rig.start(completer, concurrency=3)
    cells = [cell(f"s{i}") for i in range(12)]
    generator.plan(cells)
    for c in cells:
        generator.candidate(c).result(5)
    assert completer.peak == 3
    assert len(completer.asked) == 12


def test_what_a_test_waits_for_goes_first(rig: Rig) -> None:
    completer = ScriptedCompleter(latency_s=0.02)
    generator = rig.start(completer, concurrency=1)
    cells = [cell(f"s{i}") for i in range(30)]
    generator.plan(cells)
    generator.candidate(cells[29]).result(5)
    assert len(completer.asked) < 10


def test_every_sample_is_a_request_of_its_own(rig: Rig) -> None:
    completer = ScriptedCompleter(price_usd=0.25)
    made = rig.start(completer).candidate(cell(samples=3)).result(5)
    assert made.outputs == tuple(f"answer {i} to v1: s1" for i in range(3))
    assert made.cost_usd == pytest.approx(0.75)
    assert made.usage.completion_tokens == 15


def test_what_was_answered_before_is_not_asked_again(rig: Rig) -> None:
    rig.start(ScriptedCompleter()).candidate(cell()).result(5)
    second = ScriptedCompleter()
    made = rig.start(second, session="later").candidate(cell()).result(5)
    assert second.asked == []
    assert second.prepared == 0, "nothing slow is loaded where everything is known"
    assert made.answers[0].cached


def test_no_cache_asks_again_but_once_in_a_session(rig: Rig) -> None:
    rig.start(ScriptedCompleter()).candidate(cell()).result(5)
    second = ScriptedCompleter()
    rig.start(second, session="later", use_cache=False).candidate(cell()).result(5)
    rig.start(second, session="later", use_cache=False).candidate(cell()).result(5)
    assert len(second.asked) == 1


def test_the_same_request_of_two_processes_is_made_once(rig: Rig, tmp_path: Path) -> None:
    """POSIX locks do not exclude within a process, so the test itself stands in for the other one."""
    request = cell().requests[0]
    assert rig.locks.try_acquire(f"answer:{request.key}")
    completer = ScriptedCompleter()
    generator = rig.start(completer)
    future = generator.candidate(cell())
    time.sleep(0.15)
    assert completer.asked == []
    rig.ledger.keep([(request, Answer(text="from the other process"))], session="other")
    rig.locks.release(f"answer:{request.key}")
    assert future.result(5).outputs == ("from the other process",)
    assert completer.asked == []
    assert generator.progress() == Progress(done=1, cached=1, at_work=1)


def fail_times(count: int, error: Exception) -> Any:
    def act(request: Request, attempt: int) -> None:
        if attempt <= count:
            raise error

    return act


def test_transient_errors_are_tried_again(rig: Rig) -> None:
    completer = ScriptedCompleter(act=fail_times(2, TransientError("503")))
    made = rig.start(completer).candidate(cell()).result(5)
    assert not made.failed
    assert made.answers[0].attempts == 3


def test_a_test_that_freezes_time_stops_no_pause(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """As freezegun does it, for all threads: a moment of 2020, also of the clock that only goes forward."""

    def fail_twice(request: Request, attempt: int) -> None:
        if attempt < 3:
            raise TransientError("overloaded", retry_after=0.3)

    generator = rig.start(ScriptedCompleter(act=fail_twice, latency_s=0.1))
    future = generator.candidate(cell())
    with monkeypatch.context() as frozen:
        for name in ("time", "monotonic", "perf_counter"):
            frozen.setattr(time, name, lambda: 1577836800.0)
        threading.Event().wait(0.25)  # the first failure, and the pause after it, begin in that year
    candidate = future.result(5)
    assert candidate.answers[0].attempts == 3
    assert rig.ledger.answer(cell().requests[0].key) is not None


def test_giving_up_says_how_often_it_was_tried(rig: Rig) -> None:
    completer = ScriptedCompleter(act=fail_times(99, TransientError("502 bad gateway")))
    made = rig.start(completer).candidate(cell()).result(5)
    assert made.error == "502 bad gateway (tried 5 times)"
    assert rig.landed == [made], "a failed generation is logged too"


def test_a_permanent_error_is_not_tried_again_and_no_secret_is_told(rig: Rig) -> None:
    completer = ScriptedCompleter(act=fail_times(99, PermanentError("bad request with sk-secret")))
    made = rig.start(completer).candidate(cell()).result(5)
    assert made.error == "bad request with ***"
    assert len(completer.asked) == 1


def test_a_wrong_key_is_asked_about_once_for_the_whole_model(rig: Rig) -> None:
    completer = ScriptedCompleter(act=fail_times(99, PermanentError("401", whole_model=True)))
    generator = rig.start(completer, concurrency=1)
    cells = [cell(f"s{i}") for i in range(20)]
    generator.plan(cells)
    assert all(generator.candidate(c).result(5).error == "401" for c in cells)
    assert len(completer.asked) == 1


def test_a_403_to_a_model_that_has_answered_is_about_one_text(rig: Rig) -> None:
    """Some providers and routers say so that their moderation will not have it."""

    def act(request: Request, attempt: int) -> None:
        if "s3" in str(request.messages):
            raise PermanentError("403", whole_model=True, refused=True)

    completer = ScriptedCompleter(act=act)
    generator = rig.start(completer, concurrency=1)
    made = [generator.candidate(cell(f"s{i}")).result(5) for i in (*range(6), 3)]
    assert [c.error for c in made] == [None, None, None, "403", None, None, "403"]
    first = rig.start(ScriptedCompleter(act=act), concurrency=1)
    assert [first.candidate(cell(f"s{i}", model="other")).result(5).error for i in (3, 4)] == ["403", "403"]


@pytest.mark.parametrize("wrong_key", [False, True])
def test_a_403_before_the_first_answer_waits_for_what_is_on_its_way(rig: Rig, wrong_key: bool) -> None:
    refusal = PermanentError("403", whole_model=True, refused=True)

    class Moderated(ScriptedCompleter):
        async def complete(self, request: Request) -> Answer:
            if "s1" not in str(request.messages):
                return await super().complete(request)
            self.asked.append(request)
            raise refusal  # which takes less time than an answer

    completer = Moderated(latency_s=0.1, act=fail_times(99, refusal) if wrong_key else lambda *_: None)
    generator = rig.start(completer, concurrency=4)
    cells = [cell(f"s{i}") for i in range(10)]
    generator.plan(cells)
    made = [generator.candidate(c).result(5) for c in cells]
    assert [c.error for c in made] == (["403"] * 10 if wrong_key else [None, "403", *[None] * 8])
    assert len(completer.asked) <= (4 if wrong_key else 10)
    assert not made[9].refused, "it is nothing about this one text"


def test_models_of_one_name_in_two_files_do_not_break_each_other(rig: Rig) -> None:
    def act(request: Request, attempt: int) -> None:
        if request.model.api_base == "http://a/v1":
            raise PermanentError("401", whole_model=True)

    first, second = (
        dataclasses.replace(c, model=dataclasses.replace(c.model, api_base=f"http://{host}/v1"))
        for c, host in ((cell("s1"), "a"), (cell("s2"), "b"))
    )
    generator = rig.start(ScriptedCompleter(act=act))
    assert generator.candidate(first).result(5).error == "401"
    assert generator.candidate(second).result(5).error is None


def test_a_wrong_key_is_no_failure_of_a_model_that_asks_the_same_with_another(rig: Rig) -> None:
    def refuse(request: Request, attempt: int) -> None:
        if request.model.api_key_env == "TEAM_KEY":
            raise PermanentError("401", whole_model=True)

    def cells(name: str, key: str) -> list[Cell]:
        found = [cell(f"s{i}", model="x") for i in range(3)]
        return [dataclasses.replace(c, model=dataclasses.replace(c.model, name=name, api_key_env=key)) for c in found]

    completer = ScriptedCompleter(act=refuse, latency_s=0.01)
    generator = rig.start(completer, concurrency=2)
    team, own, same = cells("team", "TEAM_KEY"), cells("own", "OWN_KEY"), cells("same", "OWN_KEY")
    generator.plan([*team, *own, *same])
    assert [generator.candidate(c).result(5).failed for c in (*team, *own, *same)] == [True] * 3 + [False] * 6
    paid = [r.key for r in completer.asked if r.model.api_key_env == "OWN_KEY"]
    assert len(paid) == len(set(paid)) == 3, "one answer serves both"


def test_retry_after_is_honoured_and_lowers_the_concurrency(rig: Rig) -> None:
    completer = ScriptedCompleter(act=fail_times(1, TransientError("429", retry_after=0.3, throttled=True)))
    generator = rig.start(completer)
    start = time.monotonic()
    generator.candidate(cell()).result(5)
    assert time.monotonic() - start >= 0.3


def test_retry_after_is_capped(rig: Rig) -> None:
    """A provider that asks for a day does not stop the session for a day, neither this cell nor the model's others."""
    completer = ScriptedCompleter(act=fail_times(1, TransientError("429", retry_after=86400.0, throttled=True)))
    generator = rig.start(completer)
    generator._retry = RetryPolicy(base_s=0.01, cap_s=0.02, retry_after_cap_s=0.2)
    generator.plan([cell("s0"), cell("s1")])
    for name in ("s0", "s1"):
        assert not generator.candidate(cell(name)).result(5).failed


class OnceUnreadable(Ledger):
    def answers(self, *args: Any, **kwargs: Any) -> dict[str, Answer]:
        OnceUnreadable.answers = Ledger.answers  # type: ignore[method-assign]
        raise LedgerError("ledger.sqlite3 is not usable (disk I/O error): make room or mend it, and run again")


def test_a_ledger_that_fails_while_cells_are_planned_ends_generation_with_its_reason(rig: Rig, tmp_path: Path) -> None:
    rig.ledger = OnceUnreadable(tmp_path / "ledger.sqlite3")
    completer = ScriptedCompleter()
    generator = rig.start(completer)
    cells = [cell(f"s{i}") for i in range(3)]
    generator.plan(cells)
    made = generator.candidate(cells[0]).result(5)
    assert made.error is not None
    assert made.error.startswith("not generated: ledger.sqlite3 is not usable (disk I/O error)")
    assert completer.asked == []


@pytest.mark.parametrize("is_over", [False, True], ids=["waiting", "looking when the thread is over"])
def test_a_ledger_that_fails_while_reading_reaches_the_test_that_waits(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, is_over: bool
) -> None:
    generator = rig.start(ScriptedCompleter())
    rig.ledger._db.execute("DROP TABLE answers")
    call = generator._call

    def and_wait(*what: Any) -> None:
        call(*what)
        if is_over:
            generator._thread.join(5)

    monkeypatch.setattr(generator, "_call", and_wait)
    with pytest.raises(LedgerError, match="not usable"):
        generator.candidate(cell())


def test_a_refused_request_gives_its_money_back(rig: Rig) -> None:
    completer = ScriptedCompleter(act=fail_times(1, TransientError("429", throttled=True, unpaid=True)), price_usd=0.6)
    generator = rig.start(completer, concurrency=1, max_cost_usd=1.0)
    assert not generator.candidate(cell("s0")).result(5).failed
    assert rig.ledger.spent("s") == pytest.approx(0.6)


def test_stopping_starts_nothing_new_and_keeps_what_is_on_its_way(rig: Rig) -> None:
    completer = ScriptedCompleter(latency_s=0.3)
    generator = rig.start(completer, concurrency=2)
    cells = [cell(f"s{i}") for i in range(10)]
    generator.plan(cells)
    time.sleep(0.1)
    generator.stop("enough")
    assert len(completer.asked) == 2
    assert all(rig.ledger.answer(r.key) is not None for r in completer.asked)
    assert all(c in [x.cell for x in rig.landed] for c in cells[:2])


def test_the_limit_on_cost_stops_before_it_is_passed(rig: Rig) -> None:
    completer = ScriptedCompleter(price_usd=0.4)
    generator = rig.start(completer, concurrency=1, max_cost_usd=1.0)
    made = [generator.candidate(cell(f"s{i}")).result(5) for i in range(4)]
    assert [m.failed for m in made] == [False, False, True, True]
    assert "--bench-max-cost 1 USD would be passed" in (made[2].error or "")
    assert len(completer.asked) == 2
    assert len(rig.landed) == 2, "what was not asked for is not logged as a failure"


def test_a_limit_that_is_passed_says_amounts_below_a_hundredth_of_a_cent(rig: Rig) -> None:
    generator = rig.start(ScriptedCompleter(price_usd=0.000013), concurrency=1, max_cost_usd=0.00002)
    made = [generator.candidate(cell(f"s{i}")).result(5) for i in range(2)]
    assert "known and reserved so far: 1.3e-05 USD, this request may cost up to 1.3e-05 USD" in (made[1].error or "")


class SlowLedger(Ledger):
    """On a busy disk. Notes how many answers each transaction kept."""

    transactions: list[int]

    def keep(self, answers: Iterable[tuple[Request, Answer]], *, session: str) -> None:
        these = list(answers)
        self.transactions.append(len(these))
        time.sleep(0.2)
        super().keep(these, session=session)


def test_answers_that_arrive_together_share_a_transaction_and_an_end_waits_for_it(rig: Rig, tmp_path: Path) -> None:
    rig.ledger = SlowLedger(tmp_path / "ledger.sqlite3")
    rig.ledger.transactions = []
    completer = ScriptedCompleter(latency_s=0.1)
    generator = rig.start(completer, concurrency=20)
    cells = [cell(f"s{i}") for i in range(20)]
    generator.plan(cells)
    time.sleep(0.25)  # all have their answers; the first transaction is still at work
    generator.stop("enough")
    assert sum(rig.ledger.transactions) == 20
    assert len(rig.ledger.transactions) <= 3
    assert len(rig.ledger.answers([r.key for r in completer.asked])) == 20
    assert {c.cell.scenario.id for c in rig.landed} == {f"s{i}" for i in range(20)}


class Cautious(ScriptedCompleter):
    """Answers cost a quarter of what they may."""

    def worst_cost_usd(self, request: Request) -> float | None:
        return 0.4


def test_requests_wait_for_those_in_flight_to_settle_before_the_money_counts_as_spent(rig: Rig) -> None:
    """Eight at once that may cost 0.4 each, and cost 0.1: the limit holds for what they do cost."""
    completer = Cautious(price_usd=0.1, latency_s=0.02)
    generator = rig.start(completer, concurrency=8, max_cost_usd=1.0)
    cells = [cell(f"s{i}") for i in range(8)]
    generator.plan(cells)
    made = [generator.candidate(c).result(5) for c in cells]
    assert sum(not m.failed for m in made) == 7
    assert rig.ledger.spent("s") == pytest.approx(0.7)
    assert completer.peak == 2


class CountingLedger(Ledger):
    """Counts how often money is asked for, a transaction each."""

    reservations = 0

    def reserve(self, session: str, request: str, usd: float, *, limit: float) -> bool:
        self.reservations += 1
        return super().reserve(session, request, usd, limit=limit)


def test_many_that_wait_for_money_ask_for_it_as_one(rig: Rig, tmp_path: Path) -> None:
    rig.ledger = ledger = CountingLedger(tmp_path / "ledger.sqlite3")
    generator = rig.start(ScriptedCompleter(price_usd=0.6, latency_s=0.5), max_cost_usd=1.0)
    cells = [cell(f"s{i}") for i in range(200)]
    generator.plan(cells)
    assert not generator.candidate(cells[0]).result(5).failed
    assert 1 < ledger.reservations < 100, "200 on each look would be thousands, on the lock that answers are kept under"


def test_what_holds_money_and_is_tried_again_goes_before_those_that_wait_for_it(rig: Rig) -> None:
    """What is asked for later goes first, as a judge's questions do, and would wait for what stands behind it."""

    def act(request: Request, attempt: int) -> None:
        if request.messages[0].content == "v1: first" and attempt == 1:
            raise TransientError("reset: nobody knows whether it is paid for")

    completer = ScriptedCompleter(price_usd=0.6, latency_s=0.2, act=act)
    generator = rig.start(completer, max_cost_usd=1.0)
    first = generator.candidate(cell("first"))
    while not completer.asked:
        time.sleep(0.01)
    others = [generator.candidate(cell(f"s{i}")) for i in range(3)]
    assert first.result(5).error is None
    assert all(made.result(5).unasked for made in others)


def test_a_candidate_that_lacks_one_sample_for_money_was_not_generated(rig: Rig) -> None:
    class Dearer(ScriptedCompleter):
        def worst_cost_usd(self, request: Request) -> float | None:
            return 0.1 if request.sample == 0 else 5.0

    completer = Dearer(act=fail_times(1, PermanentError("model m: 400 bad", refused=True)))
    made = rig.start(completer, max_cost_usd=1.0).candidate(cell(samples=2)).result(5)
    assert (made.unasked, made.refused, rig.landed) == (True, False, [])
    assert "--bench-max-cost 1 USD would be passed" in (made.error or "")


def test_those_that_are_tried_again_together_stand_in_the_order_of_the_plan() -> None:
    queues = Queues(concurrency=4)
    first, second, third = (Job(request=cell(f"s{i}").requests[0]) for i in range(3))
    for job in (first, second, third):
        queues.append(job)
    for job in (second, first):
        queues.remove(job)
        queues.delay(job, until=1.0)
    queues.wake(0.9)
    assert (queues.first(0.9), queues.delayed) == (third, 2)
    queues.wake(1.0)
    assert (queues.first(1.0), queues.delayed, second.state) == (first, 0, "queued")
    queues.remove(first)
    assert queues.first(1.0) is second


@pytest.mark.parametrize("other", [0, 2])
def test_requests_wait_for_the_money_of_another_process_too(rig: Rig, tmp_path: Path, other: int) -> None:
    """Of the other worker, or of one that xdist has started for it since, after a crash."""
    generator = rig.start(
        ScriptedCompleter(latency_s=0.05, price_usd=0.1), worker=1, workers=2, concurrency=1, max_cost_usd=0.25
    )
    script = (
        "import sys; from pathlib import Path; from pytest_promptbench.locks import LockFile;"
        f"LockFile(Path(sys.argv[1])).acquire('reserves:s:{other}'); print(flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "locks")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        assert rig.ledger.reserve("s", "what the other asks", 0.2, limit=0.25)
        future = generator.candidate(cell())
        with pytest.raises(TimeoutError):
            future.result(0.5)
        rig.ledger.settle("s", "what the other asks", 0.01)
        assert not future.result(5).failed
        assert rig.ledger.reserve("s", "what the other asks", 0.2, limit=9)
        future = generator.candidate(cell("s2"))
        process.stdin.close()
    assert "--bench-max-cost" in str(future.result(5).error), "who ended has nothing left to settle"


def test_an_error_in_logging_reaches_the_test_that_waits(tmp_path: Path) -> None:
    def broken(_: object) -> None:
        raise OSError("disk full")

    generator = Generator(
        completer=ScriptedCompleter(),
        ledger=Ledger(tmp_path / "l"),
        locks=LockFile(tmp_path / "k"),
        session="s",
        limits=Limits(),
        landed=broken,
    )
    generator.start()
    with pytest.raises(OSError, match="disk full"):
        generator.candidate(cell()).result(5)
    generator.stop()


def test_a_full_disk_stops_before_more_is_paid_for(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l")
    pages = ledger._db.execute("PRAGMA page_count").fetchone()[0]
    ledger._db.execute(f"PRAGMA max_page_count = {pages + 4}")  # SQLite's own error, as on a full disk
    completer = ScriptedCompleter(latency_s=0.01)
    generator = Generator(
        completer=completer,
        ledger=ledger,
        locks=LockFile(tmp_path / "k"),
        session="s",
        limits=Limits(concurrency=2),
    )
    generator.start()
    cells = [cell(f"s{i}") for i in range(60)]
    generator.plan(cells)
    made = [generator.candidate(c).result(30) for c in cells]
    generator.stop()
    kept = [c for c in made if not c.failed]
    assert 0 < len(kept) < 60
    assert len(completer.asked) <= len(kept) + 2, "only what was in the air is lost"
    lost = [c.error for c in made if c.failed]
    assert all(e is not None and e.startswith("not generated: ") and "make room" in e for e in lost), lost


class Talkative(ScriptedCompleter):
    """Warns of something at each request, as libraries do."""

    async def complete(self, request: Request) -> Answer:
        warnings.warn("of no concern to a user", UserWarning, stacklevel=1)
        return await super().complete(request)


def test_what_a_providers_library_warns_of_is_no_error_of_a_cell(rig: Rig) -> None:
    """Under -W error too, and whichever thread has asked for the cell."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        generator = rig.start(Talkative(latency_s=0.01), concurrency=1)
        generator.plan([cell("s0"), cell("s1")])
        made = [generator.candidate(cell(f"s{i}")).result(5) for i in range(4)]
    assert [m.error for m in made] == [None] * 4


def test_what_is_asked_for_after_the_end_is_told_so(rig: Rig) -> None:
    generator = rig.start(completer := ScriptedCompleter())
    generator.stop("enough")
    assert generator.candidate(cell("late")).result(5).error == "not generated: enough"
    assert completer.closed == 1


def test_additive_increase_multiplicative_decrease() -> None:
    limit = AdaptiveLimit(20)
    limit.in_flight = 20
    limit.throttled(started=1.0, now=2.0, retry_after=None)
    assert limit.limit == pytest.approx(16)
    limit.throttled(started=1.5, now=2.1, retry_after=5.0)
    assert limit.limit == pytest.approx(16), "requests of one round trip count once"
    limit.in_flight = 0
    assert not limit.has_room(7.0)
    assert limit.has_room(7.2)
    for _ in range(16):
        limit.succeeded()
    assert 16.9 < limit.limit < 17.0


def test_a_worker_takes_its_own_slots_first_and_borrows_idle_ones(tmp_path: Path) -> None:
    locks = LockFile(tmp_path / "locks")
    slots = Slots(locks, session="s", total=4, worker=1, workers=2)
    assert [slots.take() for _ in range(5)] == [1, 3, 0, 2, None]
    slots.give_back(3)
    assert slots.take() == 3


@pytest.mark.parametrize(
    ("error", "attempt", "draw", "least", "most"),
    [
        (TransientError("x"), 1, 0.0, 0.0, 0.0),
        (TransientError("x"), 1, 1.0, 0.5, 0.5),
        (TransientError("x"), 4, 1.0, 4.0, 4.0),
        (TransientError("x"), 30, 1.0, 30.0, 30.0),
        (TransientError("x", throttled=True), 3, 0.0, 1.0, 1.0),
        (TransientError("x", retry_after=7.0, throttled=True), 1, 0.5, 7.0, 7.1),
        (TransientError("x", retry_after=9999.0, throttled=True), 1, 0.0, 120.0, 120.0),
    ],
)
def test_pauses(error: TransientError, attempt: int, draw: float, least: float, most: float) -> None:
    assert least <= RetryPolicy().pause(error, attempt, lambda: draw) <= most


def test_a_pause_leaves_the_random_numbers_of_the_tests_alone() -> None:
    random.seed(7)
    before = random.getstate()
    pauses = {RetryPolicy().pause(TransientError("x"), 5)}
    assert random.getstate() == before
    random.seed(7)
    assert RetryPolicy().pause(TransientError("x"), 5) not in pauses, "as pytest-randomly seeds all workers alike"


def test_progress_adds_up_and_unknown_costs_stay_unknown() -> None:
    assert (Progress(done=1, tokens=5) + Progress(done=2, in_flight=3)).cost_usd is None
    assert Progress(done=1, cost_usd=0.5) + Progress(done=2) == Progress(done=3, cost_usd=0.5)


def test_progress_counts_what_was_paid_for_and_what_was_not(rig: Rig) -> None:
    generator = rig.start(ScriptedCompleter(price_usd=0.25))
    generator.candidate(cell("s1", samples=2)).result(5)
    assert generator.progress() == Progress(done=1, requests=2, tokens=16, cost_usd=0.5, at_work=1)
    generator.candidate(cell("s1", prompt="v2", text="v1: s1", samples=2)).result(5)
    assert generator.progress() == Progress(done=2, cached=0, requests=2, tokens=16, cost_usd=0.5, at_work=1)
    later = rig.start(ScriptedCompleter(), session="later")
    later.candidate(cell("s1", samples=2)).result(5)
    assert later.progress() == Progress(done=1, cached=1, at_work=1)
    later.candidate(cell("s1", samples=3)).result(5)
    one_was_not_cached = Progress(done=2, cached=1, requests=1, tokens=8, at_work=1)
    assert later.progress() == one_was_not_cached


def test_what_failed_and_is_asked_again_counts_once(rig: Rig) -> None:
    completer = ScriptedCompleter(act=fail_times(1, PermanentError("no")))
    generator = rig.start(completer)
    assert generator.candidate(cell()).result(5).failed
    assert generator.progress() == Progress(done=1, failed=1, at_work=1)
    assert generator.candidate(cell()).result(5).failed, "nobody asked for it again"
    assert not generator.candidate(cell(), again=True).result(5).failed
    assert generator.progress() == Progress(done=1, requests=1, tokens=8, at_work=1)


def test_what_money_was_lacking_for_and_is_asked_again_counts_once(rig: Rig) -> None:
    generator = rig.start(ScriptedCompleter(price_usd=1.0), max_cost_usd=0.5)
    for _ in range(2):
        assert "--bench-max-cost" in (generator.candidate(cell(), again=True).result(5).error or "")
        assert generator.progress() == Progress(done=1, failed=1, at_work=1)
        assert generator.made(since=0) == [], "it was not asked"


@pytest.mark.parametrize("kind", ["refused", "empty"])
def test_a_candidate_says_why_it_has_no_answer(rig: Rig, kind: str) -> None:
    error = PermanentError("refused", refused=True) if kind == "refused" else PermanentError("", empty=Answer(text=""))
    made = rig.start(ScriptedCompleter(act=fail_times(1, error))).candidate(cell()).result(5)
    assert (made.refused, made.empty) == (kind == "refused", kind == "empty")


def test_an_answer_without_a_text_was_paid_for_all_the_same(rig: Rig) -> None:
    thought = Answer(text="", usage=Usage(prompt_tokens=3, completion_tokens=1000), cost_usd=0.25)

    def think(request: Request, _: int) -> None:
        if request.sample == 0:
            raise PermanentError("it thought", empty=thought)

    generator = rig.start(ScriptedCompleter(act=think, price_usd=0.5), max_cost_usd=0.75, concurrency=1)
    made = generator.candidate(cell(samples=2)).result(5)
    assert made.failed
    assert made.answers == ()
    assert made.cost_usd == 0.75, "with what its other sample cost"
    assert made.usage == Usage(prompt_tokens=6, completion_tokens=1005)
    assert generator.progress() == Progress(done=1, failed=1, requests=2, tokens=1011, cost_usd=0.75, at_work=1)
    assert rig.ledger.spent("s") == 0.75, "no more is set aside for it than it cost"


def test_a_ledger_that_takes_no_candidates_ends_generation_with_its_reason(rig: Rig) -> None:
    def broken(_: object) -> None:
        raise LedgerError("the disk is full")

    generator = Generator(
        completer=(completer := ScriptedCompleter()),
        ledger=rig.ledger,
        locks=rig.locks,
        session="s",
        limits=Limits(),
        landed=broken,
    )
    rig.generators.append(generator)
    generator.start()
    made = generator.candidate(cell("s1")).result(5)
    assert made.error == (
        "not generated: its answer is kept, but could not be handed over for logging: the disk is full"
    )
    assert generator.candidate(cell("s2")).result(5).error == "not generated: the disk is full"
    assert len(completer.asked) == 1


def test_many_threads_may_wait(rig: Rig) -> None:
    generator = rig.start(ScriptedCompleter(latency_s=0.01))
    results: list[Candidate] = []
    threads = [
        threading.Thread(target=lambda i=i: results.append(generator.candidate(cell(f"s{i}")).result(5)))
        for i in range(8)
    ]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(results) == 8
