"""How far generation is."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..records import Record


@dataclass(frozen=True, kw_only=True)
class Progress(Record):
    """How far a process is. Tokens and US dollars are of answers it paid for itself, cached ones not counted.

    Of the cells that are ``done``, ``failed`` have no answer. ``at_work``: of one process 1 while it may yet ask for
    something, or hand over what was answered.
    """

    done: int = 0
    failed: int = 0
    cached: int = 0
    in_flight: int = 0
    waiting: int = 0
    requests: int = 0
    tokens: int = 0
    cost_usd: float | None = None
    at_work: int = 0

    def at_rest(self) -> Progress:
        """As it is once its process does nothing any more, however it ended."""
        return replace(self, in_flight=0, waiting=0, at_work=0)

    def __add__(self, other: Progress) -> Progress:
        costs = [c for c in (self.cost_usd, other.cost_usd) if c is not None]
        return Progress(
            done=self.done + other.done,
            failed=self.failed + other.failed,
            cached=self.cached + other.cached,
            in_flight=self.in_flight + other.in_flight,
            waiting=self.waiting + other.waiting,
            requests=self.requests + other.requests,
            tokens=self.tokens + other.tokens,
            cost_usd=sum(costs) if costs else None,
            at_work=self.at_work + other.at_work,
        )
