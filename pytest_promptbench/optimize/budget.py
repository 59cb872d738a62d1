"""A loop's budget: one limit over all processes and machines, and what the final comparison may cost set aside."""

from __future__ import annotations

from concurrent.futures import Future

from ..autojudge import Ask
from ..ledger import Ledger
from ..records import Answer, Candidate, Cell, Prompt, Suite
from ..tracking.rounds import COST, Rounds
from .plan import Plan
from .prices import Prices

_END = "promptbench optimize: the final comparison"
_BEFORE = "promptbench optimize: before"
"""Entries of the session's spending that stand for no request: money set aside, and money spent before this process."""


class Budget:
    """What a loop has spent and may spend. ``rivals``: how many prompts the final comparison has."""

    def __init__(self, plan: Plan, suite: Suite, rounds: Rounds, ledger: Ledger, *, session: str, rivals: int) -> None:
        self._plan, self._rounds, self._ledger, self._session, self._rivals = plan, rounds, ledger, session, rivals
        self._before = max(rounds.spent(), ledger.cost(session))
        self._open: dict[Future[Candidate], None] = {}
        self._paid: dict[int, Answer] = {}  # by identity: equal requests share one
        self._paid_usd = 0.0
        self._searched = rounds.searched_within()
        self._prices = Prices(plan, suite) if plan.max_cost_usd is not None else None
        if self._prices is not None:
            ledger.begin_again(session, _BEFORE, self._before)
        self.end_usd = 0.0
        self._set_aside(plan.base)

    def counting(self, ask: Ask) -> Ask:
        """``ask``, with all replies counted: those that have no text are paid for, too, and in no ledger."""

        def counted(cell: Cell) -> Future[Candidate]:
            reply = ask(cell)
            self._open[reply] = None
            return reply

        return counted

    @property
    def spent_usd(self) -> float:
        """Each reply is looked at until it has come, and no more: a long loop has many, and asks this often."""
        for future in [f for f in self._open if f.done()]:
            del self._open[future]
            if not future.cancelled() and future.exception() is None:
                self._pay(future.result())
        return self._before + self._paid_usd

    def _pay(self, reply: Candidate) -> None:
        for answer in (*reply.answers, *reply.spent):
            if not answer.cached and id(answer) not in self._paid:
                self._paid[id(answer)] = answer
                self._paid_usd += answer.cost_usd or 0.0

    def note(self) -> None:
        """Tell MLflow what was spent, so that another machine goes on counting."""
        self._rounds.note(metrics={COST: self.spent_usd})

    def _set_aside(self, best: Prompt) -> None:
        """Keep the price of the final comparison, at its most, out of the search's reach."""
        if self._prices is None:
            return
        dearest = max(self._prices.comparison([p], self._plan.test).most for p in (self._plan.base, best))
        self.end_usd = self._rivals * dearest
        self._ledger.settle(self._session, _END, self.end_usd)

    def affords_round(self, best: Prompt, *, candidates: int) -> bool:
        """Whether a round at the mean price of the ``candidates`` so far leaves what comparing ``best`` may cost.

        A search that has ended within a limit once goes on only within a larger one: its test split was looked at.
        """
        limit = self._plan.max_cost_usd
        if limit is None:
            return True
        if self._searched is not None and limit <= self._searched:
            return False
        self._set_aside(best)
        each = self.spent_usd / candidates if candidates else 0.0
        return self.spent_usd + each * len(self._plan.train) * len(self._plan.models) + self.end_usd <= limit

    def open_test(self) -> None:
        """The search is over: the test split is used from now on, and what was set aside for it may be spent."""
        limit = self._plan.max_cost_usd
        self._rounds.open_test(within=limit)
        if limit is not None:
            self._ledger.settle(self._session, _END, 0.0)
