"""The cells that are wanted, from the wish to the candidate that is handed over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import replace

from ..errors import LedgerError, NotGeneratedError, PermanentError
from ..records import Answer, Candidate, Cell
from .jobs import Job, Order
from .progress import Progress


class Orders:
    """The orders of a process's cells. In the loop's thread, but for :meth:`done` and looks at ``progress``, ``made``.

    ``landed`` is called with finished candidates before anybody else sees them; what arrives together shares a call.
    Where the ledger takes them no more, ``stop`` is called with the reason. ``redact`` cleans the text of an error.
    """

    def __init__(
        self,
        *,
        redact: Callable[[str], str],
        landed: Callable[[Sequence[Candidate]], None],
        stop: Callable[[str], None],
    ) -> None:
        self._redact, self._landed, self._stop = redact, landed, stop
        self._orders: dict[tuple[str, ...], Order] = {}
        self._landing: list[tuple[Order, Candidate]] = []
        self.progress = Progress()
        self.made: list[str] = []  # the marks of all cells that somebody was asked about, or that were answered before

    def find(self, cell: Cell) -> Order | None:
        return self._orders.get(cell.identity)

    def done(self, cell: Cell) -> Future[Candidate] | None:
        """The future of a cell whose candidate has been handed over. From any thread."""
        order = self.find(cell)
        return order.future if order is not None and order.future.done() else None

    def add(self, cell: Cell, jobs: Iterable[Job]) -> Order:
        """The order of a cell that has none. ``jobs``: one for each of its requests, which equal ones share."""
        order = self._orders[cell.identity] = Order(cell=cell, jobs=list(jobs))
        for job in order.jobs:
            if job.state != "finished":
                job.watchers.append(order)
                order.missing += 1
        if order.missing == 0:
            self._complete(order)
        return order

    def drop_failed(self, cell: Cell) -> None:
        """Forget a cell whose candidate failed: it may be ordered anew."""
        future = self.done(cell)
        if future is None or not failed(future):
            return
        del self._orders[cell.identity]
        p = self.progress
        self.progress = replace(p, done=p.done - 1, failed=p.failed - 1)

    def finished(self, job: Job) -> None:
        """A job has its answer or its error: whatever waited for nothing else is complete."""
        answer = _paid(job)
        if answer is not None and not answer.cached:
            p = self.progress
            cost = p.cost_usd if answer.cost_usd is None else (p.cost_usd or 0.0) + answer.cost_usd
            tokens = p.tokens + (answer.usage.total_tokens or 0)
            self.progress = replace(p, requests=p.requests + 1, tokens=tokens, cost_usd=cost)
        for order in job.watchers:
            order.missing -= 1
            if order.missing == 0 and not order.future.done():
                self._complete(order)
        job.watchers.clear()

    def _complete(self, order: Order) -> None:
        errors = [j.error for j in order.jobs if j.error is not None]
        answers = tuple(j.answer for j in order.jobs if j.answer is not None)
        unasked = next((e for e in errors if isinstance(e, NotGeneratedError)), None)
        if errors:
            first = unasked or errors[0]
            candidate = Candidate(
                cell=order.cell,
                error=self._redact(str(first)),
                refused=isinstance(first, PermanentError) and first.refused,
                empty=isinstance(first, PermanentError) and first.empty is not None,
                spent=tuple(answer for job in order.jobs if (answer := _paid(job)) is not None),
                unasked=unasked is not None,
            )
        else:
            candidate = Candidate(cell=order.cell, answers=answers)
        p = self.progress
        self.progress = replace(
            p,
            done=p.done + 1,
            failed=p.failed + int(bool(errors)),
            cached=p.cached + int(bool(answers) and all(a.cached for a in answers)),
        )
        if candidate.unasked:
            order.future.set_result(candidate)  # there is nothing to log
            return
        self.made.append(order.cell.mark)
        if not self._landing:
            asyncio.get_running_loop().call_soon(self.land)
        self._landing.append((order, candidate))

    def land(self) -> None:
        """Hand over what is complete."""
        batch, self._landing = self._landing, []
        if not batch:
            return
        try:
            self._landed([candidate for _, candidate in batch])
        except LedgerError as error:
            self._stop(str(error))
            for order, _ in batch:
                self.fail(order, f"its answer is kept, but could not be handed over for logging: {error}")
        except BaseException as error:
            for order, _ in batch:
                order.future.set_exception(error)
        else:
            for order, candidate in batch:
                order.future.set_result(candidate)

    def fail(self, order: Order, reason: str) -> None:
        """Its candidate will not come, so it is not logged either."""
        if not order.future.done():
            order.future.set_result(not_generated(order.cell, reason))

    def fail_rest(self, reason: str) -> None:
        """Let nobody wait for what will not come."""
        for order in self._orders.values():
            self.fail(order, reason)


def _paid(job: Job) -> Answer | None:
    """The answer to a job's request, one without a text too."""
    return job.error.empty if isinstance(job.error, PermanentError) else job.answer


def failed(future: Future[Candidate]) -> bool:
    """Whether a future that is done has a failed candidate."""
    return future.exception() is None and future.result().failed


def not_generated(cell: Cell, reason: str) -> Candidate:
    return Candidate(cell=cell, error=f"not generated: {reason}", unasked=True)
