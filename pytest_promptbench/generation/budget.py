"""``--bench-max-cost``: what a request may cost is set aside before it is sent."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from ..errors import GenerationError, LedgerError, NotGeneratedError, PermanentError
from ..ledger import Ledger
from ..locks import LockFile
from ..records import Answer, Request
from .completer import Completer
from .limits import Limits

OVER_BUDGET = "not generated: --bench-max-cost"
"""How the error of a candidate begins that nobody was asked for because of its price."""

REPLACED = 4
"""So many times each of its workers does xdist replace by one with the next number, unless it is told otherwise."""


class NoMoneyYetError(Exception):
    """The request would pass the limit, as long as others in flight are counted at the most they may cost."""


class Budget:
    """One process's part in the limit of the session's cost, which the ledger keeps for all of them.

    Without a limit, nothing is set aside and nothing asked.
    """

    def __init__(self, *, completer: Completer, ledger: Ledger, locks: LockFile, session: str, limits: Limits) -> None:
        self._completer, self._ledger, self._locks = completer, ledger, locks
        self._session, self._limits = session, limits
        self._account = limits.account or session
        self._reserved: set[str] = set()

    def reserve(self, request: Request, *, may_wait: bool) -> bool:
        """Set the most that a request may cost aside; whether that was needed.

        Where that is too much, NoMoneyYetError as long as others in flight may settle for less and one may wait for
        them, else NotGeneratedError.
        """
        limit = self._limits.max_cost_usd
        worst = self._completer.worst_cost_usd(request) if limit is not None else None
        if limit is None or worst is None:
            return False
        others = self._others_reserve()
        if self._ledger.reserve(self._account, request.key, worst, limit=limit):
            self._reserved.add(request.key)
            self._locks.acquire(self._lock(self._limits.worker))  # free but for a glance of another process
            return True
        self.forget(request)  # what an earlier try has set aside comes back to nobody who waits
        # Asked before, too: they may have settled for less since we looked.
        if (self._reserved or others or self._others_reserve()) and may_wait:
            raise NoMoneyYetError
        spent = self._ledger.spent(self._account)
        raise NotGeneratedError(
            f"{OVER_BUDGET} {limit:g} USD would be passed (known and reserved so far: {spent:g} USD, this request "
            f"may cost up to {worst:g} USD); raise the limit and run again"
        )

    def release(self, request: Request, error: GenerationError) -> None:
        """Give back what was set aside for a request and is not charged: all, or all but an answer without a text."""
        empty = error.empty if isinstance(error, PermanentError) else None
        charged = 0.0 if error.unpaid else None if empty is None else empty.cost_usd
        if self._limits.max_cost_usd is not None and charged is not None:
            with contextlib.suppress(LedgerError):  # it stays set aside, which is the safe side
                self._ledger.settle(self._account, request.key, charged)

    def settle(self, answers: Sequence[tuple[Request, Answer]]) -> None:
        """What was set aside for these is what they cost, where that is known. From any thread."""
        if self._limits.max_cost_usd is not None:
            for request, answer in answers:
                if answer.cost_usd is not None:
                    self._ledger.settle(self._account, request.key, answer.cost_usd)

    def forget(self, request: Request) -> None:
        """The request is over, or was not sent: nobody need wait for what it may settle for."""
        self._reserved.discard(request.key)
        if not self._reserved:
            self._locks.release(self._lock(self._limits.worker))

    def _others_reserve(self) -> bool:
        """Whether another process of the session has money set aside for a request that may settle for less."""
        others = (i for i in range(self._limits.workers * (1 + REPLACED)) if i != self._limits.worker)
        return any(not self._locks.is_free(self._lock(i)) for i in others)

    def _lock(self, worker: int) -> str:
        """The lock that a process holds while it has money set aside."""
        return f"reserves:{self._session}:{worker}"
