"""What bounds a session's requests: their number in flight, over all and to each model, and how often one is tried."""

from __future__ import annotations

import itertools
import random
import resource
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import TransientError, UsageError
from ..locks import LockFile

_DICE = random.Random()
"""Our own: the module's is the tests'. They seed it, all workers alike, and count on what comes next."""

OTHER_FILES = 48
"""So many files a process has open at most beside one connection a request: databases, locks, modules it imports."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What bounds a session's generation."""

    concurrency: int = 16
    worker: int = 0
    workers: int = 1
    max_cost_usd: float | None = None
    account: str | None = None
    """Sessions of one account have one limit together: tries of the same task. None: the session's own."""
    use_cache: bool = True
    grace_s: float = 60.0
    """How long a stopped session waits for answers that are on their way and paid for."""


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """How often and how patiently a request is tried again. Seconds."""

    attempts: int = 5
    throttled_attempts: int = 12
    base_s: float = 0.5
    cap_s: float = 30.0
    retry_after_cap_s: float = 120.0

    def pause(self, error: TransientError, attempt: int, draw: Callable[[], float] = _DICE.random) -> float:
        """Seconds before attempt ``attempt + 1``: jitter over an exponential window, at least Retry-After.

        Full jitter, and of a throttled request equal jitter, over the second half of the window: Brooker, "Exponential
        Backoff And Jitter" (AWS Architecture Blog, 2015).
        """
        window = min(self.cap_s, self.base_s * 2.0 ** (attempt - 1))
        pause = window * (0.5 + draw() / 2) if error.throttled else window * draw()
        asked = self.hold(error)
        return pause if asked is None else max(pause, asked) + draw() * 0.1

    def hold(self, error: TransientError) -> float | None:
        """Seconds of Retry-After that are honoured: a provider that asks for a day would stop the session."""
        return None if error.retry_after is None else min(error.retry_after, self.retry_after_cap_s)


class AdaptiveLimit:
    """How many requests may be in flight to one model: additive increase, multiplicative decrease.

    ``doubted``: it may be that no request can succeed. Until one does, none starts beside another.
    """

    def __init__(self, ceiling: int, *, decrease: float = 0.8) -> None:
        self.ceiling, self.decrease = float(ceiling), decrease
        self.limit = self.ceiling
        self.in_flight = 0
        self.doubted = False
        self.resume_at = 0.0
        self._decreased_at = 0.0

    def has_room(self, now: float) -> bool:
        return self.in_flight < (1 if self.doubted else max(1, int(self.limit))) and now >= self.resume_at

    def succeeded(self) -> None:
        self.doubted = False
        self.limit = min(self.ceiling, self.limit + 1.0 / max(1.0, self.limit))

    def throttled(self, *, started: float, now: float, retry_after: float | None) -> None:
        """Lower the limit, but once for all requests that were in flight together; hold all back for Retry-After."""
        if started >= self._decreased_at:
            self.limit = max(1.0, min(self.limit, self.in_flight) * self.decrease)
            self._decreased_at = now
        if retry_after is not None:
            self.hold(now + retry_after)

    def hold(self, until: float) -> None:
        """Start nothing before then."""
        self.resume_at = max(self.resume_at, until)


class Slots:
    """The session's requests in flight, all processes together: ``total`` named locks, shared out by worker."""

    def __init__(self, locks: LockFile, *, session: str, total: int, worker: int, workers: int) -> None:
        own = [i for i in range(total) if i % workers == worker]
        others = [i for i in range(total) if i % workers != worker]
        self._own, self._others = own, others
        self._locks, self._session = locks, session
        self._mine: set[int] = set()

    def _name(self, slot: int) -> str:
        return f"slot:{self._session}:{slot}"

    def take(self) -> int | None:
        """A free slot, one of this worker's own if there is one; None where all are taken."""
        for slot in itertools.chain(self._own, self._others):
            if slot not in self._mine and self._locks.try_acquire(self._name(slot)):
                self._mine.add(slot)
                return slot
        return None

    def give_back(self, slot: int) -> None:
        self._mine.discard(slot)
        self._locks.release(self._name(slot))


def make_room(requests: int) -> None:
    """Let this process have a connection open for each of so many requests: macOS allows 256 files, unless asked.

    UsageError where the system does not, before anything is paid for: without, whatever opens a file next would fail,
    pytest itself included.
    """
    wanted = requests + OTHER_FILES
    allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed == resource.RLIM_INFINITY or allowed >= wanted:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
    except (OSError, ValueError):
        raise UsageError(
            f"a concurrency of {requests} needs {wanted} open files, and this system allows a process {most} "
            "(ulimit -Hn): lower the one or raise the other"
        ) from None
