"""The loop that works through a plan of cells."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

from ..clock import steady
from ..errors import GenerationError, LedgerError, NotGeneratedError, PermanentError, TransientError
from ..ledger import Ledger
from ..locks import LockFile
from ..quiet import without_warnings
from ..records import Answer, Candidate, Cell, Request
from .budget import Budget, NoMoneyYetError
from .completer import Completer
from .jobs import Job, Lane, Order, Queues, answer_keys, lane
from .limits import Limits, RetryPolicy, Slots
from .orders import Orders, failed, not_generated
from .progress import Progress

POLL_S = 0.03
"""How often a process looks whether another one has finished a request, or given back a slot."""
SLOT_POLL_S = 0.1
"""Likewise for a slot, while requests of its own are under way: each of their ends is looked at anyhow."""
STARTS_A_TURN = 2
"""So many requests start in one turn of the loop. All at once would make their way through it side by side, be sent
last of all, and be answered in one heap; one after another they are answered so, each when there is time for it."""
PATIENCE = "promptbench: waiting for answers that are paid for (Ctrl-C now gives them up)"
"""What is said where something ends before its time. It need not have been Ctrl-C that ended it."""


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
        self._session, self._limits = session, limits
        self._retry = retry or RetryPolicy()
        self._slots = Slots(
            locks, session=session, total=limits.concurrency, worker=limits.worker, workers=limits.workers
        )
        self._budget = Budget(completer=completer, ledger=ledger, locks=locks, session=session, limits=limits)
        self._orders = Orders(redact=completer.redact, landed=landed, stop=self._stop)
        self._jobs: dict[tuple[str, Lane], Job] = {}
        self._queues = Queues(concurrency=limits.concurrency)
        self._broken: dict[Lane, PermanentError] = {}
        self._answered: set[Lane] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiting = 0
        self._unsaved: list[tuple[Job, Answer]] = []
        self._saving = False
        self._stopping: str | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._context: contextvars.Context | None = None  # without warnings, whoever calls
        self._ended: asyncio.Future[None] | None = None
        self._kicked = False
        self._alarm: asyncio.TimerHandle | None = None
        self._prepared = False
        self._warmed = threading.Event()
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

    def wait_until_warm(self, timeout: float) -> bool:
        """Whether, within so many seconds, nothing is loaded any more that :meth:`warm` asked for."""
        return self._warmed.wait(timeout)

    def candidate(self, cell: Cell, *, again: bool = False) -> Future[Candidate]:
        """A cell's candidate, which may be a failed one. What a test waits for goes to the front.

        ``again``: what failed of it is asked for anew.
        """
        known = self._orders.done(cell)
        if known is not None and not (again and failed(known)):
            return known
        reply: Future[Future[Candidate]] = Future()
        self._call(self._reply, cell, reply, again)
        while self._thread.is_alive() and not reply.done():
            with contextlib.suppress(TimeoutError):
                reply.exception(timeout=0.5)
        if reply.done():  # looked at once more: the reply may have been the thread's last act
            return reply.result()
        return self._orders.done(cell) or self._unanswered(cell)  # it was stopped, and nobody answers

    def _reply(self, cell: Cell, reply: Future[Future[Candidate]], again: bool) -> None:
        try:
            if again and self._stopping is None:
                self._orders.drop_failed(cell)
            reply.set_result(self._wanted(cell))
        except Exception as error:
            reply.set_exception(error)
            raise

    def _unanswered(self, cell: Cell) -> Future[Candidate]:
        future: Future[Candidate] = Future()
        future.set_result(not_generated(cell, self._stopping or "the session ended"))
        return future

    def progress(self) -> Progress:
        """A snapshot; safe to call from any thread."""
        at_work = int(self._thread.is_alive())
        in_flight, waiting = self._queues.in_flight, self._waiting
        return replace(self._orders.progress, in_flight=in_flight, waiting=waiting, at_work=at_work)

    def made(self, *, since: int) -> list[str]:
        """The marks of the cells that are made, without the first ``since``; safe to call from any thread."""
        return self._orders.made[since:]

    def stop(
        self, reason: str | None = None, *, patient: bool = True, say: Callable[[str], None] = lambda _: None
    ) -> None:
        """Start no further request. Answers on their way are waited for (``grace_s``), since they are paid for.

        ``say`` is told where there are any. Who is not ``patient``, or interrupts while it waits, gives up on them too.
        """
        if not self._thread.is_alive():
            return
        self._call(self._stop, reason or "the session was stopped")
        try:
            if patient and self._queues.in_flight:
                with contextlib.suppress(OSError):  # Ctrl-C has ended whoever reads, too
                    say(PATIENCE)
            self._thread.join(self._limits.grace_s if patient else 0)
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
        self._warmed.set()
        self._orders.land()
        self._orders.fail_rest(self._stopping or "the session ended")
        await self._completer.close()

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
        if self._prepared or self._ledger.has_answers(answer_keys(cells), session=self._only_of):
            self._warmed.set()
        else:
            self._spawn(self._prepare())

    async def _prepare(self) -> None:
        """Load the completer, once the first request turns up that nobody has answered yet."""
        try:
            await asyncio.get_running_loop().run_in_executor(None, self._completer.prepare)
        except Exception as error:  # an import or start-up that fails ends every cell with its reason
            self._stop(f"the models could not be prepared: {self._completer.redact(str(error))}")
        self._prepared = True
        self._warmed.set()

    def _plan(self, cells: list[Cell]) -> None:
        fresh = [c for c in cells if self._orders.find(c) is None]
        known = self._ledger.answers(answer_keys(fresh), session=self._only_of)
        for cell in fresh:
            self._order(cell, known)
        self._kick()

    def _order(self, cell: Cell, known: Mapping[str, Answer]) -> Order:
        """A cell's order, made if there is none. ``known``: the ledger's answers to its requests, by key."""
        order = self._orders.find(cell)
        if order is None:
            order = self._orders.add(cell, [self._job(request, known) for request in cell.requests])
            if order.missing and self._stopping is not None:
                self._orders.fail(order, self._stopping)
        return order

    def _job(self, request: Request, known: Mapping[str, Answer]) -> Job:
        """The job of a request, made and put in its queue if there is none or it failed."""
        # By lane, too: one answer serves equal requests, but where one model's key is wrong another's may be right.
        place = request.key, lane(request.model)
        job = self._jobs.get(place)
        if job is None or (job.state == "finished" and job.answer is None):
            job = self._jobs[place] = Job(request=request)
            if request.key in known:
                job.state, job.answer = "finished", replace(known[request.key], cached=True)
            else:
                self._queues.append(job)
        return job

    def _wanted(self, cell: Cell) -> Future[Candidate]:
        found = self._orders.find(cell)
        order = found or self._order(cell, self._ledger.answers(answer_keys([cell]), session=self._only_of))
        for job in reversed(order.jobs):
            self._queues.advance(job)
        self._kick()
        return order.future

    def _pump(self) -> float | None:
        """Start what may start now. Returns seconds until it is worth looking again without being woken, or None."""
        queues = self._queues
        if not self._prepared:
            if not self._tasks and queues:
                self._spawn(self._prepare())
            return None
        now = steady()
        queues.wake(now)
        passed_over: list[Job] = []
        pauses: list[float] = []
        started = 0
        while started < STARTS_A_TURN and (job := queues.first(now)) is not None:
            if job.lane in self._broken:
                queues.remove(job)
                self._finish(job, error=self._broken[job.lane])
                continue
            if not self._locks.try_acquire(job.lock):
                queues.remove(job)
                passed_over.append(job)  # another process is asking for it
                pauses = [POLL_S]
                continue
            slot = self._slots.take()
            if slot is None:
                self._locks.release(job.lock)
                pauses = [SLOT_POLL_S if self._tasks else POLL_S]
                break
            queues.remove(job)
            job.state, job.slot = "running", slot
            queues.limit(job).in_flight += 1
            self._spawn(self._ask(job))
            started += 1
        queues.put_back(passed_over)
        self._waiting = queues.delayed
        if started == STARTS_A_TURN:
            pauses = [0.0]
        wakes_at = queues.wakes_at(now)
        if wakes_at is not None:
            pauses.append(max(0.0, wakes_at - now))
        return min(pauses, default=None)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._kick()

    @property
    def _only_of(self) -> str | None:
        """The session whose answers count; None: every one's."""
        return None if self._limits.use_cache else self._session

    async def _ask(self, job: Job) -> None:
        request, limit = job.request, self._queues.limit(job)
        job.attempts += 1
        started = steady()
        again: float | None = None
        failure: GenerationError | None = None
        lacks_money = False
        try:
            # Another process may have finished between our look and our lock.
            known = self._ledger.answer(request.key, session=self._only_of)
            if known is not None:
                self._leave(job)
                self._finish(job, answer=replace(known, cached=True))
                return
            job.reserved = self._budget.reserve(request, may_wait=self._stopping is None)
            answer = replace(await self._completer.complete(request), attempts=job.attempts)
            limit.succeeded()
            self._answered.add(job.lane)
            self._unsaved.append((job, answer))
            self._save()
            return
        except NoMoneyYetError:
            job.attempts -= 1
            job.reserved, lacks_money = False, True
        except TransientError as error:
            self._budget.release(request, error)
            if error.throttled:
                limit.throttled(started=started, now=steady(), retry_after=self._retry.hold(error))
            allowed = self._retry.throttled_attempts if error.throttled else self._retry.attempts
            if job.attempts < allowed and self._stopping is None:
                again = self._retry.pause(error, job.attempts)
            else:
                failure = PermanentError(f"{error} (tried {job.attempts} times)")
        except PermanentError as error:
            self._budget.release(request, error)
            failure = self._about(error, job)
        except NotGeneratedError as error:
            failure = error
        except LedgerError as error:  # what comes now would be paid for and lost
            self._stop(str(error))
            failure = NotGeneratedError(f"not generated: {error}")
        except asyncio.CancelledError:
            failure = NotGeneratedError("given up: the session was stopped before the answer came")
        except Exception as error:  # whatever a provider's client raises is this cell's failure, not ours
            failure = PermanentError(f"{type(error).__name__}: {self._completer.redact(str(error))}")
        if again is None and not lacks_money:
            self._finish(job, error=failure)
            self._orders.land()  # while nobody else may ask: behind its cell's answer it would stay on record
        self._leave(job)
        if again is not None:
            self._queues.delay(job, steady() + again)
        elif lacks_money:
            self._queues.hold(job, steady() + POLL_S)

    def _about(self, error: PermanentError, job: Job) -> PermanentError:
        """The error, once it is decided whether it is about this one text or about the model, which then is broken."""
        if error.whole_model and error.refused:
            limit = self._queues.limit(job)
            if job.lane in self._answered:
                return error
            if limit.in_flight > 1:
                limit.doubted = True  # those that are on their way will tell
                return error
            error = PermanentError(str(error), whole_model=True)
        if error.whole_model:
            self._broken.setdefault(job.lane, error)
        return error

    def _leave(self, job: Job) -> None:
        """Make room for the next request: this one is answered and kept, or has failed."""
        self._queues.limit(job).in_flight -= 1
        self._slots.give_back(job.slot)
        self._locks.release(job.lock)

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

    def _keep(self, batch: Sequence[tuple[Job, Answer]]) -> None:
        """In a thread of its own."""
        answers = [(job.request, answer) for job, answer in batch]
        self._ledger.keep(answers, session=self._session)
        self._budget.settle(answers)

    def _saved(self, batch: Sequence[tuple[Job, Answer]], error: BaseException | None) -> None:
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

    def _finish(self, job: Job, *, answer: Answer | None = None, error: GenerationError | None = None) -> None:
        self._budget.forget(job.request)
        job.state, job.answer, job.error = "finished", answer, error
        self._orders.finished(job)

    def _stop(self, reason: str) -> None:
        if self._stopping is None:
            self._stopping = reason
        self._kick()

    def _abandon(self) -> None:
        for task in list(self._tasks):
            task.cancel()


class _SteadyLoop(asyncio.SelectorEventLoop):
    """The usual loop, whose timers go on where a test beside it freezes time."""

    def time(self) -> float:
        return steady()
