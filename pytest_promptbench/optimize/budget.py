"""A loop's budget: one limit over all processes and machines, and what the final comparison may cost set aside."""

from __future__ import annotations

from concurrent.futures import Future

from ..autojudge import Ask
from ..ledger import Ledger
from ..records import Candidate, Cell, Prompt, Suite
from ..tracking.rounds import COST, Rounds
from .plan import Plan
from .prices import Prices

_END = "promptbench optimize: the final comparison"
_ELSEWHERE = "promptbench optimize: other machines"
"""Entries of the session's spending that stand for no request: money set aside, and money spent where this is not."""


class Budget:
    """What a loop has spent and may spend. ``rivals``: how many prompts the final comparison has."""

    def __init__(self, plan: Plan, suite: Suite, rounds: Rounds, ledger: Ledger, *, session: str, rivals: int) -> None:
        self._plan, self._rounds, self._ledger, self._session, self._rivals = plan, rounds, ledger, session, rivals
        self._elsewhere = max(0.0, rounds.spent() - ledger.cost(session))
        self._asked: dict[Future[Candidate], None] = {}  # each once: what is asked twice is answered once
        self._searched = rounds.searched_within()
        self._prices = Prices(plan, suite) if plan.max_cost_usd is not None else None
        self.end_usd = 0.0
        self._set_aside(plan.base)

    def counting(self, ask: Ask) -> Ask:
        """``ask``, with the replies that have no text counted, too: they are paid for, and in no ledger."""

        def counted(cell: Cell) -> Future[Candidate]:
            reply = ask(cell)
            self._asked[reply] = None
            return reply

        return counted

    @property
    def spent_usd(self) -> float:
        return self._elsewhere + self._ledger.cost(self._session) + self._without_text_usd()

    def _without_text_usd(self) -> float:
        replies = [f.result() for f in self._asked if f.done() and not f.cancelled() and f.exception() is None]
        return sum(a.cost_usd or 0.0 for reply in replies for a in reply.spent if not a.text.strip())

    def note(self) -> None:
        """Tell MLflow what was spent, so that another machine goes on counting."""
        self._rounds.note(metrics={COST: self.spent_usd})

    def _set_aside(self, best: Prompt) -> None:
        """Keep the price of the final comparison, at its most, out of the search's reach."""
        if self._prices is None:
            return
        dearest = max(self._prices.comparison([p], self._plan.test).most for p in (self._plan.base, best))
        self.end_usd = self._rivals * dearest
        self._ledger.settle(self._session, _ELSEWHERE, self._elsewhere)
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
