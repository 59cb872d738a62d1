"""The automatic tier at work: candidates to a judge model, its replies to judgements.

Asking goes through a :class:`.generation.Generator`, so that a judge's replies are cached, bounded, retried and paid
for exactly like generated texts. What a question says and what counts as a reply is decided in :mod:`.judging`.
"""

from __future__ import annotations

import contextlib
import functools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from queue import SimpleQueue

from .checks import filled_scores
from .clock import steady, utc_now
from .completer import LiteLLMCompleter, spare_loopback_from_proxies
from .errors import LedgerError, PromptbenchError, TrackingError
from .generation import Completer, Generator, Limits, make_room
from .judging import LEFT_OUT, TRIES, ReplyError, ask_again, fingerprint, parse_reply, question, without
from .ledger import Ledger
from .localmodels import LocalServer
from .locks import LockFile
from .records import (
    Answer,
    Candidate,
    Cell,
    Judge,
    LoggedCandidate,
    Model,
    Record,
    Rubric,
    Score,
    Tier,
    Verdict,
    mean_scores,
)
from .report.text import plural
from .settings import Settings
from .tracking.recorder import Judgement, write_judgements
from .tracking.store import TrackingStore

BATCH = 20
"""So many verdicts are written to MLflow together."""
_INTERRUPTED = "interrupted; what was judged is kept, and the next --judge-auto goes on"
AHEAD = 1000
"""So many questions wait for a reply at once, each with its texts: more than any concurrency keeps in the air."""

Ask = Callable[[Cell], "Future[Candidate]"]
Write = Callable[[Sequence[Judgement]], Sequence[LoggedCandidate]]
"""Brings judgements to MLflow, and gives back their candidates as they are then, without texts. TrackingError."""
Load = Callable[[Sequence[LoggedCandidate]], Sequence[LoggedCandidate]]
"""The same candidates with their texts, but for those whose texts cannot be read."""


class JudgeUnavailableError(PromptbenchError):
    """The automatic judge could not be asked: no key, no server, no money left."""


@contextlib.contextmanager
def asking(settings: Settings, completer: Completer, *, say: Callable[[str], None]) -> Iterator[Ask]:
    """A session's own way to ask: through its ledger, its locks and its limits, all of its concurrency for this.

    What is on its way at the end is waited for, as after Ctrl-C, which ``say`` is told; a further one gives it up.
    """
    make_room(settings.concurrency)
    ledger = Ledger(settings.home / "ledger.sqlite3")
    generator = Generator(
        completer=completer,
        ledger=ledger,
        locks=LockFile(settings.home / "locks"),  # never closed: that would drop what this process holds by another
        session=settings.identity.session,
        limits=Limits(
            concurrency=settings.concurrency,
            max_cost_usd=settings.max_cost_usd,
            account=settings.account,
            use_cache=settings.use_cache,
        ),
    )
    generator.start()
    try:
        yield generator.candidate
    finally:
        with contextlib.suppress(KeyboardInterrupt):
            generator.stop(say=say)
        ledger.close()


@contextlib.contextmanager
def asking_models(settings: Settings, models: Sequence[Model], *, say: Callable[[str], None]) -> Iterator[Ask]:
    """As ``asking``, through LiteLLM, where no server of embedded models runs: those among ``models`` are served."""
    with contextlib.ExitStack() as stack:
        embedded = None
        names = sorted({m.model for m in models if m.embedded})
        if names:
            embedded = stack.enter_context(LocalServer()).start(names).api_base
            spare_loopback_from_proxies()
        yield stack.enter_context(asking(settings, LiteLLMCompleter(models, embedded=embedded), say=say))


def writing_to(store: TrackingStore) -> Write:
    """Straight into a store, where no recorder stands in between."""
    return functools.partial(write_judgements, store)


def updated(candidates: Iterable[LoggedCandidate], after: Iterable[LoggedCandidate]) -> list[LoggedCandidate]:
    """``candidates``, those among them that are in ``after`` as they are there."""
    changed = {c.run_id: c for c in after}
    return [changed.get(c.run_id, c) for c in candidates]


def unscored(candidates: Iterable[LoggedCandidate], rubric: Rubric, judge: Model) -> list[LoggedCandidate]:
    """The candidates whose automatic verdict that counts is not of this very judge (same fingerprint).

    So it is where another judge came in between: what this one said is asked for again, and in the ledger still. Failed
    candidates are never asked about.
    """
    mine = fingerprint(judge, rubric).sha256
    return [
        c for c in candidates if c.error is None and c.rubric_sha256 == rubric.sha256 and not _is_of(c, judge, mine)
    ]


def _is_of(candidate: LoggedCandidate, judge: Model, fingerprint_sha256: str) -> bool:
    verdict = candidate.automatic()
    return (
        verdict is not None
        and verdict.judge.name == judge.name
        and verdict.fingerprint is not None
        and verdict.fingerprint.sha256 == fingerprint_sha256
    )


@dataclass(frozen=True)
class _Asked:
    """One output on its way to scores. ``cell`` has all parameters; ``form``: which of ``LEFT_OUT`` it is asked in."""

    place: int
    output: int
    cell: Cell
    form: int
    tries: int = 1


@dataclass
class _Open:
    """One candidate, and the scores of its outputs as they come."""

    candidate: LoggedCandidate
    scores: dict[int, dict[str, Score]] = field(default_factory=dict)
    rationales: dict[int, str] = field(default_factory=dict)
    problem: str | None = None
    invalid: bool = False
    left: int = 0


class Judging:
    """Ask ``judge`` about each output of these candidates, read with their texts; a judgement as soon as one is whole.

    Iterated over once, it gives the judgements. A reply that is no valid verdict is asked for again with what was
    wrong, ``judging.TRIES`` times in all. The first question goes alone: it tells which parameters the model takes. A
    question that is refused by a judge who answers others, now or (``known_to_answer``) earlier, gets no valid verdict.
    Raises JudgeUnavailableError where the provider cannot be asked; what was judged until then has been given out.
    ``cost_usd`` is what the replies so far cost, as :class:`Judged` has it.
    """

    def __init__(
        self,
        candidates: Sequence[LoggedCandidate],
        rubric: Rubric,
        judge: Model,
        ask: Ask,
        *,
        second: bool = False,
        known_to_answer: bool = False,
        now: Callable[[], str] = utc_now,
    ) -> None:
        self._rubric, self._judge, self._ask, self._second, self._now = rubric, judge, ask, second, now
        self._known_to_answer = known_to_answer
        self._open = [_Open(c, left=len(c.outputs or ())) for c in candidates]
        self._flying: dict[Future[Candidate], list[_Asked]] = {}  # equal outputs share a question, and its reply
        self._replied: SimpleQueue[Future[Candidate]] = SimpleQueue()
        self._form = 0  # of LEFT_OUT
        self._has_answered = False  # whether it has answered anything: then what it takes is known
        self._refused: list[tuple[_Asked, str]] = []
        self._unavailable: list[str] = []
        self.cost_usd: float | None = 0.0
        self._paid: dict[int, Answer] = {}  # by identity: candidates with the same text share a reply

    def __iter__(self) -> Iterator[Judgement]:
        todo = deque((i, n) for i, o in enumerate(self._open) for n in range(o.left))
        room = 1
        while todo or self._flying:
            while todo and len(self._flying) < room:
                self._send(self._new(*todo.popleft()))
            future = self._replied.get()
            reply = future.result()
            self._pay(reply)
            for asked in self._flying.pop(future):
                finished = self._take(asked, reply)
                if finished is not None:
                    yield finished
            if not self._flying:
                room = AHEAD
        for asked, why in self._refused:
            if not self._has_answered and not self._known_to_answer:  # it is nothing about this one text
                self._unavailable.append(why)
            elif (finished := self._failed(asked, why)) is not None:
                yield finished
        if self._unavailable:
            count = sum(o.left > 0 for o in self._open)
            raise JudgeUnavailableError(
                f"the automatic judge {self._judge.name} could not be asked about {plural(count, 'candidate')}: "
                f"{self._unavailable[0]}"
            )

    def _new(self, place: int, output: int) -> _Asked:
        candidate = self._open[place].candidate
        text = (candidate.outputs or ())[output]
        cell = question(candidate, text, self._rubric, self._judge, second=self._second)
        return _Asked(place, output, cell, self._form)

    def _send(self, asked: _Asked) -> None:
        future = self._ask(without(asked.cell, LEFT_OUT[asked.form]))
        if future not in self._flying:
            self._flying[future] = []
            future.add_done_callback(self._replied.put)
        self._flying[future].append(asked)

    def _pay(self, reply: Candidate) -> None:
        for answer in (*reply.answers, *reply.spent):
            if not answer.cached and id(answer) not in self._paid:
                self._paid[id(answer)] = answer
                before, now = self.cost_usd, answer.cost_usd
                self.cost_usd = None if before is None or now is None else before + now

    def _take(self, asked: _Asked, reply: Candidate) -> Judgement | None:
        """What a reply comes to: the next try, one output's scores, or a whole judgement."""
        if reply.error is not None:
            if reply.refused and not self._has_answered and asked.form + 1 < len(LEFT_OUT):
                self._send(replace(asked, form=asked.form + 1))  # it may be a parameter that it does not take
            elif reply.refused or reply.empty:
                self._refused.append((asked, reply.error))
            else:
                self._unavailable.append(reply.error)
            return None
        if not self._has_answered:
            self._has_answered, self._form = True, asked.form
        about = self._open[asked.place]
        output = (about.candidate.outputs or ())[asked.output]
        cut = reply.answers[0].finish_reason == "length"
        try:
            scores, rationale = parse_reply(reply.outputs[0], self._rubric, output, cut=cut)
        except ReplyError as error:
            problem = f"{error} (it was cut off at max_tokens)" if cut else str(error)
            if asked.tries < TRIES:
                again = ask_again(asked.cell, reply.outputs[0], problem)
                self._send(replace(asked, cell=again, tries=asked.tries + 1))
                return None
            about.invalid = True
            return self._failed(asked, f"no valid reply in {TRIES} tries: {problem}")
        by_programs = filled_scores(self._rubric, output, about.candidate.context, about.candidate.checks)
        about.scores[asked.output] = scores | by_programs
        about.rationales[asked.output] = rationale
        return self._one_less(about)

    def _failed(self, asked: _Asked, problem: str) -> Judgement | None:
        about = self._open[asked.place]
        about.problem = problem
        return self._one_less(about)

    def _one_less(self, about: _Open) -> Judgement | None:
        about.left -= 1
        return self._judgement(about) if about.left == 0 else None

    def _judgement(self, about: _Open) -> Judgement:
        judge = Judge(tier=Tier.AUTO, name=self._judge.name)
        verdict = None
        if about.problem is None:
            order = sorted(about.scores)
            verdict = Verdict(
                scores=mean_scores([about.scores[i] for i in order]),
                judge=judge,
                rationale="\n".join(about.rationales[i] for i in order if about.rationales[i]) or None,
                at=self._now(),
                fingerprint=fingerprint(self._judge, self._rubric),
            )
        return Judgement(
            candidate=_without_texts(about.candidate),
            rubric=self._rubric,
            judge=judge,
            verdict=verdict,
            problem=about.problem,
            invalid=about.invalid,
            second=self._second,
        )


@dataclass(frozen=True, kw_only=True)
class Judged(Record):
    """What judging some candidates of an experiment came to.

    ``failed`` of them got no valid verdict, the first for the reason ``problem``; ``invalid`` of those as its replies
    were none, which are in the cache. ``cost_usd`` is what its replies cost, those from the cache nothing; None where
    the price of any is unknown. ``unavailable`` says why others could not be asked about at all; ``interrupted``
    whether that was because somebody ended it, ``broken`` whether because what judges say cannot be kept or written,
    whoever says it. ``before``: how many others it had scored already.
    """

    judge: str
    experiment: str
    scored: int = 0
    failed: int = 0
    invalid: int = 0
    problem: str | None = None
    cost_usd: float | None = 0.0
    unavailable: str | None = None
    interrupted: bool = False
    broken: bool = False
    before: int = 0

    @property
    def useless(self) -> bool:
        """Whether it was asked, and has not given one valid verdict, now or before."""
        return self.failed > 0 and not self.scored + self.before

    @property
    def code(self) -> int:
        """The exit code of a session in which nothing else went wrong."""
        if self.interrupted:
            return 2
        return int(self.unavailable is not None or self.useless)


def judge_unscored(
    candidates: Sequence[LoggedCandidate],
    rubric: Rubric,
    judge: Model,
    ask: Ask,
    write: Write,
    *,
    load: Load = list,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> tuple[list[LoggedCandidate], Judged]:
    """As ``judge_and_write``, of those among ``candidates`` that this judge has not scored yet."""
    todo = unscored(candidates, rubric, judge)
    nothing = Judged(judge=judge.name, experiment=todo[0].experiment if todo else "")
    try:
        todo = list(load(todo))
    except KeyboardInterrupt:
        return [], replace(nothing, unavailable=_INTERRUPTED, interrupted=True)
    except TrackingError as error:
        return [], replace(nothing, unavailable=str(error), broken=True)
    readable = [c for c in todo if c.outputs]  # one without any would be neither judged nor named
    mine = fingerprint(judge, rubric).sha256
    before = sum(_is_of(c, judge, mine) for c in candidates)
    # What it refused in an earlier session is all that is left to ask: it is still a judge who answers others.
    after, came_to = judge_and_write(readable, rubric, judge, ask, write, known_to_answer=before > 0, progress=progress)
    if len(readable) < len(todo) and came_to.unavailable is None:
        count = len(todo) - len(readable)
        came_to = replace(
            came_to, unavailable=f"the texts of {plural(count, 'candidate')} cannot be read, so nobody can score them"
        )
    return after, replace(came_to, before=before)


def judge_and_write(
    candidates: Sequence[LoggedCandidate],
    rubric: Rubric,
    judge: Model,
    ask: Ask,
    write: Write,
    *,
    second: bool = False,
    known_to_answer: bool = False,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> tuple[list[LoggedCandidate], Judged]:
    """Judge these candidates, and write judgements while others are still asked for; the candidates as they are then.

    Replies are in the ledger before they are written, so whatever interrupts this, the next session repeats it without
    asking again; an interrupt ends it here, after what was judged is written. So does MLflow or the ledger where it
    fails; what counts as scored is in MLflow.
    """
    changed = {c.run_id: c for c in candidates}
    given: list[Judgement] = []
    batch: list[Judgement] = []
    unavailable = None
    writing = interrupted = broken = False

    def flush() -> None:
        nonlocal writing
        writing = True
        for c in write(batch):
            texts = changed[c.run_id]
            changed[c.run_id] = replace(c, outputs=texts.outputs, context=texts.context)
        batch.clear()
        writing = False

    judging = Judging(candidates, rubric, judge, ask, second=second, known_to_answer=known_to_answer)
    try:
        for judgement in judging:
            given.append(judgement)
            batch.append(judgement)
            if len(batch) == BATCH:
                flush()
            progress(len(given), len(candidates))
    except JudgeUnavailableError as error:
        unavailable = str(error)
    except (TrackingError, LedgerError) as error:
        unavailable, broken = str(error), True
    except KeyboardInterrupt:
        interrupted = True
    if batch and not writing:  # else whoever writes was interrupted himself, and may be in the middle
        try:
            flush()
        except TrackingError as error:
            unavailable, broken = str(error), True
        except KeyboardInterrupt:
            interrupted = True
    counting = given[: len(given) - len(batch)] if broken else given
    experiment = candidates[0].experiment if candidates else ""
    return list(changed.values()), Judged(
        judge=judge.name,
        experiment=experiment,
        scored=sum(j.verdict is not None for j in counting),
        failed=sum(j.verdict is None for j in counting),
        invalid=sum(j.invalid for j in counting),
        problem=next((j.problem for j in counting if j.problem), None),
        cost_usd=judging.cost_usd,
        unavailable=_INTERRUPTED if interrupted else unavailable,
        interrupted=interrupted,
        broken=broken,
    )


def telling(say: Callable[[str], None], *, every_s: float = 15.0) -> Callable[[int, int], None]:
    """A ``progress`` that tells ``say`` how far judging is, at most once in so many seconds."""
    last = steady()

    def progress(done: int, total: int) -> None:
        nonlocal last
        if steady() - last >= every_s:
            last = steady()
            say(f"judging: {done}/{total}")

    return progress


def _without_texts(candidate: LoggedCandidate) -> LoggedCandidate:
    return replace(candidate, outputs=None, context=None)
