"""Requests on their way to an answer, cells on their way to a candidate, and the queues that requests wait in."""

from __future__ import annotations

import bisect
import itertools
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from ..errors import GenerationError
from ..records import Answer, Candidate, Cell, Model, Request
from .limits import AdaptiveLimit

Lane = tuple[str, str, str | None, str | None]
"""What has a queue, a limit and a breakdown of its own: a model as one ``models.yaml`` has it, of which there may be
several with equal names."""


@dataclass(eq=False)
class Job:
    """One request on its way to an answer.

    ``not_before``: when a delayed one is tried again, on the steady clock. ``reserved``: an earlier try has set money
    aside for it, which others may wait for.
    """

    request: Request
    order: int = 0
    reserved: bool = False
    slot: int = -1
    attempts: int = 0
    not_before: float = 0.0
    state: Literal["queued", "delayed", "running", "finished"] = "queued"
    answer: Answer | None = None
    error: GenerationError | None = None
    watchers: list[Order] = field(default_factory=list)

    @cached_property
    def lane(self) -> Lane:
        return lane(self.request.model)

    @property
    def rank(self) -> tuple[bool, int]:
        """Its place among others, the lowest first: behind those that wait for its money, it would never come."""
        return not self.reserved, self.order

    @property
    def lock(self) -> str:
        """The name of the lock whose holder may ask a provider for this answer."""
        return f"answer:{self.request.key}"


@dataclass(eq=False)
class Order:
    """One cell and the jobs of its samples."""

    cell: Cell
    jobs: list[Job] = field(default_factory=list)
    missing: int = 0
    future: Future[Candidate] = field(default_factory=Future)


class Queues:
    """The jobs that wait: a queue for each lane in the order of their rank, and those that are to be tried again.

    ``concurrency`` is the most that may be in flight to one model.
    """

    def __init__(self, *, concurrency: int) -> None:
        self._concurrency = concurrency
        self._queues: dict[Lane, deque[Job]] = {}
        self._limits: dict[Lane, AdaptiveLimit] = {}
        self._delayed: list[Job] = []
        self._numbers = itertools.count()
        self._before = itertools.count(-1, -1)

    def __bool__(self) -> bool:
        """Whether any job stands in a queue."""
        return any(self._queues.values())

    @property
    def delayed(self) -> int:
        return len(self._delayed)

    @property
    def in_flight(self) -> int:
        return sum(limit.in_flight for limit in list(self._limits.values()))  # another thread may ask

    def limit(self, job: Job) -> AdaptiveLimit:
        """That of the job's model."""
        if job.lane not in self._limits:
            # The embedded server answers one at a time: more in flight would only make latencies look longer.
            ceiling = 1 if job.request.model.embedded else self._concurrency
            self._limits[job.lane] = AdaptiveLimit(ceiling)
        return self._limits[job.lane]

    def append(self, job: Job) -> None:
        job.order = next(self._numbers)
        self._queues.setdefault(job.lane, deque()).append(job)

    def advance(self, job: Job) -> None:
        """Somebody waits for it: before the rest of the plan, if it stands in a queue."""
        if job.state == "queued":
            self.remove(job)
            job.order = next(self._before)
            self.put_back([job])

    def first(self, now: float) -> Job | None:
        """Of the jobs whose model has room, the one that comes first."""
        heads = (queue[0] for queue in self._queues.values() if queue)
        return min((job for job in heads if self.limit(job).has_room(now)), key=lambda job: job.rank, default=None)

    def remove(self, job: Job) -> None:
        self._queues[job.lane].remove(job)  # the first one, as a rule

    def put_back(self, jobs: Iterable[Job]) -> None:
        """To their places in their queues: near the front, as a rule."""
        for job in jobs:
            job.state = "queued"
            bisect.insort(self._queues[job.lane], job, key=lambda one: one.rank)

    def hold(self, job: Job, until: float) -> None:
        """Have a job wait in its queue, and with it all of its model: each look at what it lacks is a transaction."""
        self.limit(job).hold(until)
        self.put_back([job])

    def delay(self, job: Job, until: float) -> None:
        """Have a job wait that is to be tried again."""
        job.state, job.not_before = "delayed", until
        self._delayed.append(job)

    def wake(self, now: float) -> None:
        """Those that have waited long enough stand in their queues again."""
        self.put_back(j for j in self._delayed if j.not_before <= now)
        self._delayed = [j for j in self._delayed if j.not_before > now]

    def wakes_at(self, now: float) -> float | None:
        """When, without anybody's doing, the next job or model is ready again; None where none waits for a moment."""
        held = (limit.resume_at for limit in self._limits.values() if limit.resume_at > now)
        return min((*held, *(job.not_before for job in self._delayed)), default=None)


def lane(model: Model) -> Lane:
    return model.name, model.model, model.api_base, model.api_key_env


def answer_keys(cells: Iterable[Cell]) -> list[str]:
    return [request.key for cell in cells for request in cell.requests]
