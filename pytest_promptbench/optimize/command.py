"""``promptbench optimize``: the arguments, and a loop from its plan to its end."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from ..autojudge import asking_models
from ..clock import utc_now
from ..errors import LedgerError, TrackingError, UsageError
from ..ledger import Ledger
from ..locks import LockFile
from ..promotion import Policy, parse_bound
from ..settings import as_names, names_in
from ..tracking.registry import PromptRegistry
from ..tracking.rounds import Rounds
from .ending import Gate, Outcome, Result, conclude, save, waiting
from .estimate import describe
from .job import CONCURRENCY, ROUNDS, Job, check_places, make_job
from .journal import MLflowJournal
from .laboratory import MLflowLaboratory, WaitingError
from .plan import JudgedBy
from .prices import Prices, everyone
from .progress import shown
from .report import lines, write_reports
from .search import check_installed, search
from .state import Search, UnreachableError

WAITS = 3
"""Exit code of a loop that stopped for a judge."""

Say = Callable[[str], None]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``promptbench optimize``. None is "not given": a resumed loop keeps to what it began with."""
    add = parser.add_argument
    add("suite", nargs="?", type=Path, help="evals/<suite>.yaml; not with --resume")
    add("--from", dest="base", metavar="VERSION", help="prompt to start from (the task's champion, else the only one)")
    add("--rounds", type=_count, metavar="N", help=f"proposals at most ({ROUNDS})")
    add(
        "--patience", type=_count, metavar="N", help="stop after N rounds without a gain (half of --rounds, at least 3)"
    )
    add("--max-cost", type=_money, metavar="USD", help="spend at most so much, the end included")
    add("--allow-unpriced", action="store_true", default=None, help="accept --max-cost with models of unknown price")
    add(
        "--proposer",
        metavar="NAME",
        help="model of models.yaml that proposes (the suite's judge, else its first model)",
    )
    add("--models", metavar="A,B", type=_names, help="only these models of the suite")
    add("--judge", choices=list(dict.fromkeys(j.option for j in JudgedBy)), help="who scores (auto); see docs")
    add("--seed", type=int, help="of the split and of the search (that of the task's split, else 0)")
    add("--new-split", action="store_true", default=None, help="do not keep to the task's train and test scenarios")
    add("--concurrency", type=_count, metavar="N", help=f"requests in flight ({CONCURRENCY})")
    add("--no-early-stopping", action="store_true", default=None, help="try every proposal on all train scenarios")
    add("--no-promote", action="store_true", default=None, help="end with the comparison; leave the registry alone")
    add("--promote-policy", choices=[p.value for p in Policy], help="tiers that decide, as --bench-promote-policy")
    add("--promote-within", action="append", metavar="NAME:FACTOR", help="e.g. cost:1.5x")
    add("--report", type=Path, metavar="DIR", help="where reports go (.promptbench/optimize/<id>)")
    add("--resume", metavar="ID", help="go on with a loop")
    add("--dry-run", action="store_true", help="print the plan, calls and cost; spend nothing")
    add("--root", type=Path, metavar="DIR", help="the project's root (pytest's rootdir)")


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 1000):
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 to 1000")
    return int(text)


def _money(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is no amount above 0, in US dollars")
    return value


def _names(text: str) -> str:
    names = as_names(names_in(text))
    if not names:  # which would be all of them
        raise argparse.ArgumentTypeError(f"{text!r} names nothing; expected names with commas between them")
    return names


def run(args: argparse.Namespace, say: Say) -> int:
    """0: it ended, whatever the finding; ``WAITS``: a judge is needed; PromptbenchError for what it could not do."""
    job = make_job(args)
    if not args.dry_run:
        check_installed()  # a loop that is begun has drawn the task's split
        job = _begun(args, job, say)
    for warning in job.warnings:
        say(f"WARNING: {warning}")
    if args.dry_run:
        for line in describe(job):
            say(line)
        return 0
    with _alone(job), _resumable(job, say):
        rounds = _rounds(job)
        say(f"loop {job.plan.id} in MLflow experiment {job.plan.experiment}; {job.resume}")
        return _finish(job, rounds, say)


@contextlib.contextmanager
def _alone(job: Job) -> Iterator[None]:
    """One process at a time goes on with a loop. UsageError where another does."""
    locks, name = LockFile(job.settings.home / "locks"), f"optimize:{job.plan.id}"
    if not locks.try_acquire(name):
        raise UsageError(f"loop {job.plan.id} is running already in {job.settings.home}")
    try:
        yield
    finally:
        locks.release(name)


def _begun(args: argparse.Namespace, job: Job, say: Say) -> Job:
    """The job with its loop in MLflow, where it is a new one.

    Loops of a checkout begin one after the other. Where another one has since the job was made, the job is made anew:
    it goes by the split that the other has drawn.
    """
    if job.rounds is not None:
        return job
    with _nothing_begun():
        locks = LockFile(job.settings.home / "locks")
    name = f"optimize:begin:{job.plan.task}"
    if not locks.try_acquire(name):
        say(f"waiting for another loop of {job.plan.task}, which is about to begin in {job.settings.home}")
        locks.acquire(name)
    try:
        if job.earlier != tuple(b.loop for b in Rounds.begun(job.store, job.plan.task)):
            job = make_job(args)
        with _nothing_begun():
            check_places(job)
        plan = job.plan
        rounds = Rounds.create(job.store, plan.experiment, plan.id, plan.to_json(), split=plan.split)
    finally:
        locks.release(name)
    return replace(job, rounds=rounds)


@contextlib.contextmanager
def _nothing_begun() -> Iterator[None]:
    """UsageError with what can be done where a place that a loop writes to cannot be written."""
    try:
        yield
    except OSError as error:
        raise UsageError(
            f"{error.filename}: cannot be written: {error.strerror}; nothing was begun. Make it writable, or name "
            "another folder for reports with --report, or another root with --root"
        ) from None


def _rounds(job: Job) -> Rounds:
    """The loop's, read while nobody else can add to them."""
    assert job.rounds is not None
    job.rounds.load()
    return job.rounds


@contextlib.contextmanager
def _resumable(job: Job, say: Say) -> Iterator[None]:
    """Whatever ends the loop before its time is told with the command that goes on with it: much may be paid for."""
    try:
        yield
    except KeyboardInterrupt:
        with contextlib.suppress(OSError):  # Ctrl-C has ended whoever reads, too
            say(f"interrupted; what is paid for is kept: {job.resume}")
        raise
    except OSError as error:
        path = error.filename
        if path is None:
            raise
        raise UsageError(
            f"{path}: cannot be written: {error.strerror or error}; the loop is kept and goes on with {job.resume}, "
            "with --report DIR where that is the folder"
        ) from None
    except (UnreachableError, TrackingError, LedgerError) as error:
        raise UnreachableError(f"{error}; what is paid for is kept: {job.resume}") from None


def _finish(job: Job, rounds: Rounds, say: Say) -> int:
    ended = _ended(rounds)
    if ended is not None:
        say("it was over before: this is what it came to, and nothing is done again")
        _tell(job, ended, say)
        return 0
    check_places(job)
    with _running(rounds):
        result = _counted(_go(job, rounds, say), job, rounds)
        files = _tell(job, result, say)
        rounds.attach([*files, *([Path(result.receipt)] if result.receipt else [])])
        if result.outcome not in (Outcome.WAITING, Outcome.OUT_OF_MONEY):
            rounds.end()
        rounds.note(state="waiting" if result.outcome is Outcome.WAITING else result.outcome.value)
    return WAITS if result.outcome is Outcome.WAITING else 0


def _tell(job: Job, result: Result, say: Say) -> list[Path]:
    """On the terminal, and in the files that are given back."""
    for line in lines(result, resume=job.resume):
        say(line)
    files = [*write_reports(result, job.folder, generated_at=utc_now()), save(result, job.folder)]
    say(f"  report: {files[1]}")
    return files


@contextlib.contextmanager
def _running(rounds: Rounds) -> Iterator[None]:
    """The loop's state in MLflow is ``running``, and ``stopped`` once it is broken off; a kill leaves it as it is."""
    rounds.note(state="running")
    try:
        yield
    except TrackingError:  # MLflow would not take the state either
        raise
    except BaseException:
        with contextlib.suppress(TrackingError):
            rounds.note(state="stopped")
        raise


def _counted(result: Result, job: Job, rounds: Rounds) -> Result:
    """With what has no price, and how often the test split was used: others may have looked since the loop began."""
    looks = rounds.looks_before()
    plan = result.plan if looks is None else replace(result.plan, tested=looks)
    return replace(result, plan=plan, unpriced=tuple(Prices(plan, job.suite).unknown()))


def _ended(rounds: Rounds) -> Result | None:
    """What a loop came to that has promoted its winner: since then, others may have followed."""
    if rounds.state() != Outcome.PROMOTED.value:
        return None
    kept = rounds.kept("result.json")
    return None if kept is None else Result.from_json(kept)


@contextlib.contextmanager
def _laboratory(job: Job, rounds: Rounds, say: Say) -> Iterator[MLflowLaboratory]:
    settings, plan = job.settings, job.plan
    with contextlib.ExitStack() as stack:
        ask = stack.enter_context(asking_models(settings, everyone(plan, job.suite), say=say))
        ledger = Ledger(settings.home / "ledger.sqlite3")
        stack.callback(ledger.close)
        yield MLflowLaboratory(
            plan, job.suite, settings, ask=ask, store=job.store, rounds=rounds, ledger=ledger, packets=job.folder,
            rivals=job.rivals,
        )  # fmt: skip


def _gate(job: Job) -> Gate:
    return Gate(
        registry=PromptRegistry(job.store),
        policy=job.policy,
        bounds=dict(parse_bound(text) for text in job.plan.promote_within),
        folder=job.folder,
        prompts=job.prompts,
        now=utc_now(),
    )


def _go(job: Job, rounds: Rounds, say: Say) -> Result:
    latest: list[Search] = []
    with (
        _laboratory(job, rounds, say) as laboratory,
        shown(say, terminal=sys.stdout.isatty(), rivals=job.rivals) as show,
    ):

        def watch(state: Search) -> None:
            latest[:] = [state]
            show(state)

        try:
            state = search(job.plan, job.suite.rubric, laboratory, MLflowJournal(job.plan, rounds), watch=watch)
            for number, best in _best_by_round(state):
                rounds.note(metrics={"train_best": best}, step=number)
            return conclude(state, laboratory, job.suite, _gate(job))
        except WaitingError as error:
            return waiting(latest[0] if latest else None, job.plan, error)


def _best_by_round(state: Search) -> list[tuple[int, float]]:
    best = state.mean(state.plan.base.version)
    if best is None:
        return []
    found = [(0, best)]
    for t in state.trials:
        best = best if t.mean is None else max(best, t.mean)  # 0 is the best there is where all are flags
        found.append((t.number, best))
    return found
