"""The loop that works through a plan of cells."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import itertools
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from ..clock import steady
from ..errors import GenerationError, LedgerError, NotGeneratedError, PermanentError, TransientError
from ..ledger import Ledger
from ..locks import LockFile
from ..quiet import without_warnings
from ..records import Answer, Candidate, Cell, Model, Request
from .completer import Completer
from .limits import AdaptiveLimit, Limits, RetryPolicy, Slots
from .progress import Progress

OVER_BUDGET = "not generated: --bench-max-cost"
"""How the error of a candidate begins that nobody was asked for because of its price."""
POLL_S = 0.03
"""How often a process looks whether another one has finished a request, or given back a slot."""
SLOT_POLL_S = 0.1
"""Likewise for a slot, while requests of its own are under way: each of their ends is looked at anyhow."""
STARTS_A_TURN = 2
"""So many requests start in one turn of the loop. All at once would make their way through it side by side, be sent
last of all, and be answered in one heap; one after another they are answered so, each when there is time for it."""

_Lane = tuple[str, str, str | None, str | None]
"""What has a queue, a limit and a breakdown of its own: a model as one ``models.yaml`` has it, of which there may be
several with equal names."""


@dataclass(eq=False)
class _Job:
    """One request on its way to an answer."""

    request: Request
    order: int
    slot: int = -1
    attempts: int = 0
    not_before: float = 0.0
    state: str = "queued"  # queued | running | finished
    answer: Answer | None = None
    error: GenerationError | None = None
    watchers: list[_Order] = field(default_factory=list)


@dataclass(eq=False)
class _Order:
    """One cell and the jobs of its samples."""

    cell: Cell
    jobs: list[_Job]
    missing: int
    future: Future[Candidate] = field(default_factory=Future)


class Generator:
    """Generates the candidates of a plan of cells in a thread of its own.

    ``landed`` is called, in that thread, with finished candidates before any test sees them. What arrives together
    shares a transaction.
    """

    def __init__(
        self,
        *,
        completer: Completer,
        ledger: Ledger,
        locks: LockFile,
        session: str,
        limits: Limits,
        landed: Callable[[Sequence[Candidate]], None] = lambda _: None,
        retry: RetryPolicy | None = None,
    ) -> None:
        self._completer, self._ledger, self._locks = completer, ledger, locks
        self._session, self._limits, self._landed = session, limits, landed
        self._retry = retry or RetryPolicy()
        self._slots = Slots(
            locks, session=session, total=limits.concurrency, worker=limits.worker, workers=limits.workers
        )
        self._orders: dict[tuple[str, ...], _Order] = {}
        self._jobs: dict[tuple[str, _Lane], _Job] = {}
        self._queues: dict[_Lane, deque[_Job]] = {}
        self._adaptive: dict[_Lane, AdaptiveLimit] = {}
        self._broken: dict[_Lane, PermanentError] = {}
        self._delayed: list[_Job] = []
        self._counter = itertools.count()
        self._front = itertools.count(-1, -1)
        self._tasks: set[asyncio.Task[None]] = set()
        self._progress = Progress()
        self._waiting = 0
        self._reserved: set[str] = set()
        self._unsaved: list[tuple[_Job, Answer]] = []
        self._saving = False
        self._landing: list[tuple[_Order, Candidate]] = []
        self._stopping: str | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._context: contextvars.Context | None = None  # without warnings, whoever calls
        self._ended: asyncio.Future[None] | None = None
        self._kicked = False
        self._alarm: asyncio.TimerHandle | None = None
        self._prepared = False
        self._started = threading.Event()
        self._storage = ThreadPoolExecutor(1, thread_name_prefix="promptbench-ledger")
        self._thread = threading.Thread(target=self._run, name="promptbench-generation", daemon=True)

    # -- called by the main thread

    def start(self) -> None:
        self._thread.start()
        self._started.wait()

    def plan(self, cells: Iterable[Cell]) -> None:
        """Generate these cells, in this order, after what is planned already. Known cells are left where they are."""
        self._call(self._plan, list(cells))

    def warm(self, cells: Sequence[Cell]) -> None:
        """Load the completer now, unless every one of these cells is answered already."""
        self._call(self._warm, cells)

    def candidate(self, cell: Cell) -> Future[Candidate]:
        """A cell's candidate, which may be a failed one. What a test waits for goes to the front."""
        known = self._done(cell)
        if known is not None:
            return known
        reply: Future[Future[Candidate]] = Future()
        self._call(self._reply, cell, reply)
        while self._thread.is_alive() and not reply.done():
            with contextlib.suppress(TimeoutError):
                reply.exception(timeout=0.5)
        if reply.done():  # looked at once more: the reply may have been the thread's last act
            return reply.result()
        return self._done(cell) or self._unanswered(cell)  # it was stopped, and nobody answers

    def _reply(self, cell: Cell, reply: Future[Future[Candidate]]) -> None:
        try:
            reply.set_result(self._wanted(cell))
        except Exception as error:
            reply.set_exception(error)
            raise

    def _done(self, cell: Cell) -> Future[Candidate] | None:
        order = self._orders.get(_order_key(cell))
        return order.future if order is not None and order.future.done() else None

    def _unanswered(self, cell: Cell) -> Future[Candidate]:
        future: Future[Candidate] = Future()
        future.set_result(Candidate(cell=cell, error=f"not generated: {self._stopping or 'the session ended'}"))
        return future

    def progress(self) -> Progress:
        """A snapshot; safe to call from any thread."""
        in_flight = sum(limit.in_flight for limit in list(self._adaptive.values()))
        return replace(self._progress, in_flight=in_flight, waiting=self._waiting)

    def stop(self, reason: str | None = None) -> None:
        """Start no further request. Answers on their way are waited for (``grace_s``), since they are paid for.

        A second call, or an interrupt while waiting, gives up on those too.
        """
        if not self._thread.is_alive():
            return
        self._call(self._stop, reason or "the session was stopped")
        try:
            self._thread.join(self._limits.grace_s)
        finally:
            if self._thread.is_alive():
                self._call(self._abandon)
                self._thread.join(5)
            self._storage.shutdown(wait=True)

    def halt(self, reason: str) -> None:
        """Start no further request, and return at once."""
        self._call(self._stop, reason)

    # -- in the loop's thread

    def _call(self, function: Callable[..., None], *args: object) -> None:
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended: nothing is left to do
                self._loop.call_soon_threadsafe(self._do, function, *args, context=self._context)

    def _do(self, function: Callable[..., None], *args: object) -> None:
        """What the main thread asked for. Where the ledger cannot be read, whoever waits for a cell must hear of it."""
        try:
            function(*args)
        except Exception as error:
            self._stop(str(error))

    def _run(self) -> None:
        with without_warnings(), asyncio.Runner(loop_factory=_SteadyLoop) as runner:
            runner.run(self._main())

    async def _main(self) -> None:
        self._context = contextvars.copy_context()
        self._loop = asyncio.get_running_loop()
        self._ended = self._loop.create_future()
        self._started.set()
        await self._ended
        self._land()
        self._fail_rest()

    def _kick(self) -> None:
        """Have it looked soon at what may start: once, for all who ask in one turn of the loop."""
        if self._loop is not None and not self._kicked:
            self._kicked = True
            self._loop.call_soon(self._look, context=self._context)

    def _look(self) -> None:
        """Start what may start now; end where the session is stopped and nothing is under way."""
        assert self._loop is not None
        assert self._ended is not None
        self._kicked = False
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if self._stopping is None:
            try:
                pause = self._pump()
            except Exception as error:  # nobody may wait for a generator that cannot go on
                self._stop(f"{type(error).__name__}: {error}")
                return
            if pause is not None:
                self._alarm = self._loop.call_later(pause, self._look, context=self._context)
        elif not (self._tasks or self._saving or self._ended.done()):
            self._ended.set_result(None)

    def _warm(self, cells: Sequence[Cell]) -> None:
        if not self._prepared and not self._ledger.has_answers(_keys(cells), session=self._only_of):
            self._spawn(self._prepare())

    async def _prepare(self) -> None:
        """Load the completer, once the first request turns up that nobody has answered yet."""
        try:
            await asyncio.get_running_loop().run_in_executor(None, self._completer.prepare)
        except Exception as error:  # an import or start-up that fails ends every cell with its reason
            self._stop(f"the models could not be prepared: {self._completer.redact(str(error))}")
        self._prepared = True

    def _plan(self, cells: list[Cell]) -> None:
        fresh = [c for c in cells if _order_key(c) not in self._orders]
        known = self._ledger.answers(_keys(fresh), session=self._only_of)
        for cell in fresh:
            self._order(cell, known)
        self._kick()

    def _order(self, cell: Cell, known: Mapping[str, Answer]) -> _Order:
        """A cell's order, made if there is none. ``known``: the ledger's answers to its requests, by key."""
        key = _order_key(cell)
        if key in self._orders:
            return self._orders[key]
        order = self._orders[key] = _Order(cell=cell, jobs=[], missing=0)
        for request in cell.requests:
            # By lane, too: one answer serves equal requests, but where one model's key is wrong another's may be right.
            place = request.key, _lane(request.model)
            job = self._jobs.get(place)
            if job is None or (job.state == "finished" and job.answer is None):
                job = self._jobs[place] = _Job(request=request, order=next(self._counter))
                if request.key in known:
                    job.state, job.answer = "finished", replace(known[request.key], cached=True)
                else:
                    self._queues.setdefault(_lane(request.model), deque()).append(job)
            order.jobs.append(job)
            if job.state != "finished":
                job.watchers.append(order)
                order.missing += 1
        if order.missing == 0:
            self._complete(order)
        elif self._stopping is not None:
            self._fail(order, self._stopping)
        return order

    def _wanted(self, cell: Cell) -> Future[Candidate]:
        found = self._orders.get(_order_key(cell))
        order = found or self._order(cell, self._ledger.answers(_keys([cell]), session=self._only_of))
        for job in reversed(order.jobs):
            if job.state == "queued" and job not in self._delayed:
                job.order = next(self._front)
                queue = self._queues[_lane(job.request.model)]
                queue.remove(job)
                queue.appendleft(job)
        self._kick()
        return order.future

    def _pump(self) -> float | None:
        """Start what may start now. Returns seconds until it is worth looking again without being woken, or None."""
        if not self._prepared:
            if not self._tasks and any(self._queues.values()):
                self._spawn(self._prepare())
            return None
        now = steady()
        for job in [j for j in self._delayed if j.not_before <= now]:
            self._delayed.remove(job)
            self._queues[_lane(job.request.model)].appendleft(job)
        soonest = min((j.not_before for j in self._delayed), default=None)
        passed_over: list[_Job] = []
        pause: float | None = None
        started = 0
        while True:
            ready = [q for q in self._queues.values() if q and self._limit(q[0].request.model).has_room(now)]
            if not ready:
                break
            job = min(ready, key=lambda q: q[0].order)[0]
            queue = self._queues[_lane(job.request.model)]
            broken = self._broken.get(_lane(job.request.model))
            if broken is not None:
                queue.popleft()
                self._finish(job, error=broken)
                continue
            if not self._locks.try_acquire(_lock_name(job.request)):
                passed_over.append(queue.popleft())  # another process is asking for it
                pause = POLL_S
                continue
            slot = self._slots.take()
            if slot is None:
                self._locks.release(_lock_name(job.request))
                pause = SLOT_POLL_S if self._tasks else POLL_S
                break
            queue.popleft()
            job.state, job.slot = "running", slot
            self._limit(job.request.model).in_flight += 1
            self._spawn(self._ask(job))
            started += 1
            if started == STARTS_A_TURN:
                pause = 0.0
                break
        for job in reversed(passed_over):
            self._queues[_lane(job.request.model)].appendleft(job)
        resumes = [m.resume_at for m in self._adaptive.values() if m.resume_at > now]
        waits = [t - now for t in [*resumes, *([soonest] if soonest is not None else [])]]
        self._waiting = len(self._delayed)
        if waits:
            pause = min([max(0.0, min(waits)), *([pause] if pause is not None else [])])
        return pause

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._kick()

    def _limit(self, model: Model) -> AdaptiveLimit:
        lane = _lane(model)
        if lane not in self._adaptive:
            # The embedded server answers one at a time: more in flight would only make latencies look longer.
            self._adaptive[lane] = AdaptiveLimit(1 if model.embedded else self._limits.concurrency)
        return self._adaptive[lane]

    @property
    def _only_of(self) -> str | None:
        """The session whose answers count; None: every one's."""
        return None if self._limits.use_cache else self._session

    async def _ask(self, job: _Job) -> None:
        request, limit = job.request, self._limit(job.request.model)
        job.attempts += 1
        started = steady()
        again: float | None = None
        failure: GenerationError | None = None
        try:
            # Another process may have finished between our look and our lock.
            known = self._ledger.answer(request.key, session=self._only_of)
            if known is not None:
                self._leave(job)
                self._finish(job, answer=replace(known, cached=True))
                return
            self._afford(request)
            answer = replace(await self._completer.complete(request), attempts=job.attempts)
            limit.succeeded()
            self._unsaved.append((job, answer))
            self._save()
            return
        except _NoMoneyYetError:
            job.attempts -= 1
            again = POLL_S
        except TransientError as error:
            self._release(request, error)
            if error.throttled:
                limit.throttled(started=started, now=steady(), retry_after=self._retry.hold(error))
            allowed = self._retry.throttled_attempts if error.throttled else self._retry.attempts
            if job.attempts < allowed and self._stopping is None:
                again = self._retry.pause(error, job.attempts)
            else:
                failure = PermanentError(f"{error} (tried {job.attempts} times)")
        except PermanentError as error:
            self._release(request, error)
            failure = error
            if error.whole_model:
                self._broken.setdefault(_lane(request.model), error)
        except NotGeneratedError as error:
            failure = error
        except LedgerError as error:  # what comes now would be paid for and lost
            self._stop(str(error))
            failure = NotGeneratedError(f"not generated: {error}")
        except asyncio.CancelledError:
            failure = NotGeneratedError("given up: the session was stopped before the answer came")
        except Exception as error:  # whatever a provider's client raises is this cell's failure, not ours
            failure = PermanentError(f"{type(error).__name__}: {self._completer.redact(str(error))}")
        self._leave(job)
        if again is not None:
            job.state, job.not_before = "queued", steady() + again
            self._delayed.append(job)
        else:
            self._finish(job, error=failure)

    def _leave(self, job: _Job) -> None:
        """Make room for the next request: this one is answered and kept, or has failed."""
        self._limit(job.request.model).in_flight -= 1
        self._slots.give_back(job.slot)
        self._locks.release(_lock_name(job.request))

    def _afford(self, request: Request) -> None:
        """Set the most that a request may cost aside. Where that is too much, others may settle for less: wait."""
        limit = self._limits.max_cost_usd
        if limit is None:
            return
        worst = self._completer.worst_cost_usd(request)
        if worst is None:
            return
        others = self._others_reserve()
        if self._ledger.reserve(self._session, request.key, worst, limit=limit):
            self._reserved.add(request.key)
            self._locks.acquire(self._reserves(self._limits.worker))  # free but for a glance of another process
            return
        self._unreserve(request)  # what an earlier try has set aside comes back to nobody who waits
        # Asked before, too: they may have settled for less since we looked.
        if (self._reserved or others or self._others_reserve()) and self._stopping is None:
            raise _NoMoneyYetError
        spent = self._ledger.spent(self._session)
        raise NotGeneratedError(
            f"{OVER_BUDGET} {limit:g} USD would be passed (known and reserved so far: {spent:.4f} USD, this request "
            f"may cost up to {worst:.4f} USD); raise the limit and run again"
        )

    def _others_reserve(self) -> bool:
        """Whether another process of the session has money set aside for a request that may settle for less."""
        others = (i for i in range(self._limits.workers) if i != self._limits.worker)
        return any(not self._locks.is_free(self._reserves(i)) for i in others)

    def _reserves(self, worker: int) -> str:
        """The lock that a process holds while it has money set aside."""
        return f"reserves:{self._session}:{worker}"

    def _unreserve(self, request: Request) -> None:
        self._reserved.discard(request.key)
        if not self._reserved:
            self._locks.release(self._reserves(self._limits.worker))

    def _release(self, request: Request, error: GenerationError) -> None:
        if self._limits.max_cost_usd is not None and error.unpaid:
            with contextlib.suppress(LedgerError):  # it stays set aside, which is the safe side
                self._ledger.release(self._session, request.key)

    def _save(self) -> None:
        """Keep the answers that came. Those that come while the disk is at work share the next transaction.

        A request keeps its slot until then, so that a kill never loses more than what was in the air.
        """
        if self._saving or not self._unsaved:
            return
        self._saving = True
        batch, self._unsaved = self._unsaved, []
        work = asyncio.get_running_loop().run_in_executor(self._storage, self._keep, batch)
        work.add_done_callback(lambda done: self._saved(batch, done.exception()))

    def _keep(self, batch: Sequence[tuple[_Job, Answer]]) -> None:
        """In a thread of its own."""
        self._ledger.keep([(job.request, answer) for job, answer in batch], session=self._session)
        if self._limits.max_cost_usd is not None:
            for job, answer in batch:
                if answer.cost_usd is not None:
                    self._ledger.settle(self._session, job.request.key, answer.cost_usd)

    def _saved(self, batch: Sequence[tuple[_Job, Answer]], error: BaseException | None) -> None:
        """Hand on what was kept, and start the next requests in this same turn of the loop.

        A task that waited for the disk would have to wait in the loop's line again and again, behind all that is
        answered meanwhile.
        """
        self._saving = False
        if error is not None:  # what comes now would be paid for and lost
            self._stop(str(error))
        for job, answer in batch:
            self._leave(job)
            if error is None:
                self._finish(job, answer=answer)
            else:
                why = f"not generated: an answer came and could not be kept: {error}"
                self._finish(job, error=NotGeneratedError(why))
        self._save()
        self._look()

    def _finish(self, job: _Job, *, answer: Answer | None = None, error: GenerationError | None = None) -> None:
        self._unreserve(job.request)
        job.state, job.answer, job.error = "finished", answer, error
        if answer is not None and not answer.cached:
            p = self._progress
            cost = p.cost_usd if answer.cost_usd is None else (p.cost_usd or 0.0) + answer.cost_usd
            tokens = p.tokens + (answer.usage.total_tokens or 0)
            self._progress = replace(p, requests=p.requests + 1, tokens=tokens, cost_usd=cost)
        for order in job.watchers:
            order.missing -= 1
            if order.missing == 0 and not order.future.done():
                self._complete(order)
        job.watchers.clear()

    def _complete(self, order: _Order) -> None:
        errors = [j.error for j in order.jobs if j.error is not None]
        answers = tuple(j.answer for j in order.jobs if j.answer is not None)
        if errors:
            first = errors[0]
            refused = isinstance(first, PermanentError) and first.refused
            empty = isinstance(first, PermanentError) and first.empty
            text = self._completer.redact(str(first))
            candidate = Candidate(cell=order.cell, error=text, refused=refused, empty=empty)
        else:
            candidate = Candidate(cell=order.cell, answers=answers)
        p = self._progress
        unasked = any(isinstance(e, NotGeneratedError) for e in errors)
        self._progress = replace(
            p,
            done=p.done + 1,
            failed=p.failed + (1 if errors else 0),
            cached=p.cached + (1 if answers and all(a.cached for a in answers) else 0),
            unasked=p.unasked + (1 if unasked else 0),
        )
        if unasked:
            order.future.set_result(candidate)  # no provider was asked: there is nothing to log
            return
        if not self._landing:
            asyncio.get_running_loop().call_soon(self._land)
        self._landing.append((order, candidate))

    def _land(self) -> None:
        batch, self._landing = self._landing, []
        if not batch:
            return
        try:
            self._landed([candidate for _, candidate in batch])
        except LedgerError as error:
            self._stop(str(error))
            for order, _ in batch:
                self._fail(order, f"its answer is kept, but could not be handed over for logging: {error}")
        except Exception as error:  # the waiting tests must hear of it instead of waiting for ever
            for order, _ in batch:
                order.future.set_exception(error)
        else:
            for order, candidate in batch:
                order.future.set_result(candidate)

    def _stop(self, reason: str) -> None:
        if self._stopping is None:
            self._stopping = reason
        self._kick()

    def _abandon(self) -> None:
        for task in list(self._tasks):
            task.cancel()

    def _fail(self, order: _Order, reason: str) -> None:
        if not order.future.done():
            order.future.set_result(Candidate(cell=order.cell, error=f"not generated: {reason}"))

    def _fail_rest(self) -> None:
        """Let nobody wait for what will not come. These cells were never asked for, so they are not logged either."""
        for order in self._orders.values():
            self._fail(order, self._stopping or "the session ended")


class _SteadyLoop(asyncio.SelectorEventLoop):
    """The usual loop, whose timers go on where a test beside it freezes time."""

    def time(self) -> float:
        return steady()


class _NoMoneyYetError(Exception):
    """The request would pass the limit, as long as others in flight are counted at the most they may cost."""


def _lane(model: Model) -> _Lane:
    return model.name, model.model, model.api_base, model.api_key_env


def _order_key(cell: Cell) -> tuple[str, ...]:
    return (cell.task, *cell.names, cell.content)


def _keys(cells: Iterable[Cell]) -> list[str]:
    return [request.key for cell in cells for request in cell.requests]


def _lock_name(request: Request) -> str:
    return f"answer:{request.key}"
