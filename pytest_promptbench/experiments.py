"""What an experiment holds, from the tracking store alone: no suite, prompt or rubric file is needed.

A service, or a person on another machine, reads leaderboards, agreement and packets here, and brings verdicts back. The
rubric is the text that the candidates were logged with, checked against its hash.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from .agreement import Agreement, agreement_report
from .catalog.rubric import read_rubric
from .errors import CatalogError, SpoiltError, UsageError
from .leaderboard import build_leaderboard, newest
from .packet import build_packet, parse_packet
from .packet.document import plain
from .records import Leaderboard, LoggedCandidate, Rubric, sha256
from .sitdown import Applied, take_in

if TYPE_CHECKING:
    from .tracking.changes import Changes
    from .tracking.store import TrackingStore

T = TypeVar("T")
MOST_KEPT: Final = 100_000
"""Candidates that are kept between two reads, some 3 KB each; of more, those of the experiment that was read last."""
_NAMED = 20
"""So many names are listed in a message; of more, the number."""


class NotFoundError(UsageError):
    """There is no experiment, task or rubric of this name; the message lists those that there are."""


class AmbiguousError(UsageError):
    """An experiment holds several tasks, and none was named."""


class RubricTextError(UsageError):
    """The rubric that candidates were logged with cannot be read back."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """The candidates of one task under one text of its rubric, oldest first, without texts."""

    experiment: str
    task: str
    rubric: str
    rubric_sha256: str
    candidates: tuple[LoggedCandidate, ...]
    _built: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    _building: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False, compare=False)

    @cached_property
    def current(self) -> list[LoggedCandidate]:
        """Those that count on the leaderboard."""
        return newest(self.candidates)[0]

    @cached_property
    def pending(self) -> tuple[LoggedCandidate, ...]:
        """What waits for a judge; not what an edited prompt or model has superseded."""
        return tuple(sorted((c for c in self.current if c.pending), key=lambda c: (c.started_at, c.run_id)))

    @cached_property
    def age(self) -> tuple[str, int]:
        """Larger for a newer group. Sessions count before times: an answer from the cache keeps the time it had."""
        return max((c.session, c.started_at) for c in self.candidates)

    @cached_property
    def counts(self) -> Mapping[str, int]:
        """Candidates, and how many of them are judged, pending and failed."""
        return _counts(self.candidates, len(self.pending))

    def leaderboard(self, rubric: Rubric) -> Leaderboard:
        """``rubric`` is the group's own; built once."""
        return self._once(
            "leaderboard",
            lambda: build_leaderboard(self.candidates, rubric, experiment=self.experiment, task=self.task),
        )

    def agreement(self, rubric: Rubric) -> Agreement:
        """Likewise of its judges."""
        return self._once(
            "agreement", lambda: agreement_report(self.current, rubric, experiment=self.experiment, task=self.task)
        )

    def _once(self, name: str, make: Callable[[], T]) -> T:
        with self._building:
            if name not in self._built:
                self._built[name] = make()
            value: T = self._built[name]
            return value


def _counts(candidates: Sequence[LoggedCandidate], pending: int) -> dict[str, int]:
    return {
        "candidates": len(candidates),
        "judged": sum(c.sit_down() is not None for c in candidates),
        "pending": pending,
        "failed": sum(c.error is not None for c in candidates),
    }


def _sum(all_counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total = _counts((), 0)
    for counts in all_counts:
        total = {name: n + counts[name] for name, n in total.items()}
    return total


@dataclass(frozen=True, kw_only=True)
class TaskSummary:
    """A task with the counts of all of its rubrics; ``rubric_sha256`` is the newest's."""

    task: str
    rubric: str
    rubric_sha256: str
    counts: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Summary:
    """How many candidates an experiment holds, in which state.

    Of all that is logged; but pending is only what still waits for a judge.
    ``to_judge``: a task of which something is pending. ``last_at`` is in milliseconds since the epoch. ``problem``: why
    nothing of it can be told.
    """

    name: str
    tasks: tuple[TaskSummary, ...]
    counts: Mapping[str, int]
    to_judge: str | None
    last_at: int | None
    problem: str | None = None


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """All that is logged under one name."""

    name: str
    candidates: tuple[LoggedCandidate, ...]

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """By task, and of a task the newest rubric first."""
        found: dict[tuple[str, str], list[LoggedCandidate]] = defaultdict(list)
        for c in self.candidates:
            found[c.group].append(c)
        groups = [
            Group(experiment=self.name, task=task, rubric=cs[-1].rubric, rubric_sha256=sha, candidates=tuple(cs))
            for (task, sha), cs in found.items()
        ]
        newest_first = sorted(groups, key=lambda g: g.age, reverse=True)
        return tuple(sorted(newest_first, key=lambda g: g.task))

    @cached_property
    def tasks(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(g.task for g in self.groups))

    @cached_property
    def waiting(self) -> frozenset[str]:
        """The runs that a packet would offer."""
        return frozenset(c.run_id for g in self.groups for c in g.pending)

    @cached_property
    def summary(self) -> Summary:
        tasks = []
        for task in self.tasks:
            mine = [g for g in self.groups if g.task == task]
            about = {"task": task, "rubric": mine[0].rubric, "rubric_sha256": mine[0].rubric_sha256}
            tasks.append(TaskSummary(**about, counts=_sum(g.counts for g in mine)))
        return Summary(
            name=self.name,
            tasks=tuple(tasks),
            counts=_sum(t.counts for t in tasks),
            to_judge=next((g.task for g in self.groups if g.pending), None),
            last_at=max((c.started_at for c in self.candidates), default=None),
        )

    def group(self, task: str | None = None, rubric_sha256: str | None = None) -> Group:
        """The group of a task, of its newest rubric unless another is named; ``task`` may be left out of one.

        NotFoundError, AmbiguousError.
        """
        if not self.candidates:
            raise NotFoundError(f"the experiment {plain(self.name)} holds no candidate of promptbench")
        if task is None:
            if len(self.tasks) > 1:
                there = _listed(self.tasks)
                raise AmbiguousError(
                    f"the experiment {plain(self.name)} holds several tasks: name one as task; there are: {there}"
                )
            task = self.tasks[0]
        groups = [g for g in self.groups if g.task == task]
        if not groups:
            there = _listed(self.tasks)
            raise NotFoundError(f"the experiment {plain(self.name)} has no task {plain(task)}; there are: {there}")
        if rubric_sha256 is None:
            return groups[0]
        for g in groups:
            if g.rubric_sha256 == rubric_sha256:
                return g
        raise NotFoundError(
            f"no candidate of the task {plain(task)} was logged under a rubric of sha256 {plain(rubric_sha256)}; "
            f"there are: {_listed([g.rubric_sha256 for g in groups])}"
        )


class _Kept:
    """What is made of the store, for as long as nothing changes in it. ``size`` is in candidates."""

    def __init__(self) -> None:
        self.making = threading.Lock()
        self.value: Any = None
        self.size: int | None = None


class Experiments:
    """Reads experiments and takes verdicts in. Safe to use from several threads.

    ``open_store`` gives a new store each time. What was read is kept where the store can tell that nothing was written
    since, whoever wrote it (``tracking.changes``), and is asked for anew everywhere else. Everything raises
    TrackingError where MLflow does not answer.
    """

    def __init__(self, open_store: Callable[[], TrackingStore], *, most_kept: int = MOST_KEPT) -> None:
        self._open_store = open_store
        self._most_kept = most_kept
        self._rubrics: dict[str, Rubric] = {}
        self._first = threading.Lock()
        self._writing = threading.Lock()
        self._opened = False
        self._changes: Changes | None = None
        self._keeping = threading.Lock()
        self._mark: object = None
        self._kept: dict[tuple[str, ...], _Kept] = {}

    def store(self) -> TrackingStore:
        """A store that is open, unless it is a file that nobody has made yet. Only one thread imports MLflow."""
        store = self._open_store()
        if not store.exists:
            return store
        if self._opened:
            store.open()
            return store
        with self._first:
            store.open()
            self._opened = True
        return store

    def _while_unchanged(
        self, key: tuple[str, ...], make: Callable[[], T], size: Callable[[T], int] = lambda _: 0
    ) -> T:
        """What ``make`` gives, made once until something is written. Who comes while it is made waits for it.

        The mark is taken first: what is read afterwards is as of it or newer, and never kept for longer than it holds.
        """
        with self._keeping:
            if self._changes is None:
                from .tracking.changes import Changes

                self._changes = Changes(self._open_store().uri)
        mark = self._changes.mark()
        if mark is None:
            return make()
        with self._keeping:
            if mark != self._mark:
                self._mark, self._kept = mark, {}
            kept = self._kept.pop(key) if key in self._kept else _Kept()
            self._kept[key] = kept  # at the end: what was asked for last goes last
        try:
            with kept.making:
                if kept.size is None:
                    kept.value = make()
                    kept.size = size(kept.value)
                value: T = kept.value
        finally:
            self._make_room()
        return value

    def _make_room(self) -> None:
        with self._keeping:
            # Nothing is kept of what failed: there is no end of names that nobody has.
            self._kept = {k: kept for k, kept in self._kept.items() if kept.size is not None or kept.making.locked()}
            sizes = {k: kept.size for k, kept in self._kept.items() if kept.size}
            for key in list(sizes)[:-1]:
                if sum(sizes.values()) <= self._most_kept:
                    break
                del sizes[key], self._kept[key]

    def names(self) -> list[str]:
        """The active experiments of the store, whoever made them."""
        return self._while_unchanged(("names",), lambda: self.store().experiments())

    def read(self, name: str) -> Experiment:
        """NotFoundError where there is no such experiment, or it is deleted."""
        return self._while_unchanged(("read", name), lambda: self._read(name), lambda e: len(e.candidates))

    def summary(self, name: str) -> Summary:
        """Likewise, and kept for longer than its candidates. One with a spoilt run holds up no other, so it says so."""
        return self._while_unchanged(("summary", name), lambda: self._summary(name))

    def _summary(self, name: str) -> Summary:
        try:
            return self.read(name).summary
        except SpoiltError as error:
            return Summary(name=name, tasks=(), counts=_counts((), 0), to_judge=None, last_at=None, problem=str(error))

    def _read(self, name: str) -> Experiment:
        store = self.store()
        known = store.experiments()
        if name not in known:
            raise NotFoundError(f"MLflow has no experiment {plain(name)}; there are: {_listed(known)}")
        return Experiment(name=name, candidates=tuple(store.read(name)))

    def texts(self, candidates: Sequence[LoggedCandidate], *, unread: list[str] | None = None) -> list[LoggedCandidate]:
        """The same candidates with their outputs and contexts; ``unread`` as of :meth:`TrackingStore.texts`."""
        return self.store().texts(candidates, unread=unread)

    def rubric(self, group: Group) -> Rubric:
        """The rubric that a group was logged with. RubricTextError where its text is not whole."""
        if group.rubric_sha256 not in self._rubrics:
            text = self.store().rubric_text(group.candidates[-1])
            self._rubrics[group.rubric_sha256] = parse_rubric(text, group.rubric, group.rubric_sha256)
        return self._rubrics[group.rubric_sha256]

    def leaderboard(self, name: str, *, task: str | None = None, rubric_sha256: str | None = None) -> Leaderboard:
        group = self.read(name).group(task, rubric_sha256)
        return group.leaderboard(self.rubric(group))

    def agreement(self, name: str, *, task: str | None = None, rubric_sha256: str | None = None) -> Agreement:
        group = self.read(name).group(task, rubric_sha256)
        return group.agreement(self.rubric(group))

    def packet(self, name: str, *, task: str | None = None, limit: int | None = None) -> dict[str, Any]:
        """A blind packet of what is pending of a task, under its newest rubric; of the oldest ``limit`` of it.

        Its order is shuffled, and the same as long as the same candidates are pending.
        """
        group = self.read(name).group(task)
        pending = group.pending[:limit]
        seed = int(sha256(["promptbench-order", name, sorted(c.run_id for c in pending)])[:12], 16)
        return build_packet(self.texts(pending), self.rubric(group), experiment=name, seed=seed)

    def apply(self, data: object) -> tuple[str, Applied]:
        """Take a scored packet in, all of it or nothing: the experiment's name and what changed.

        ``data`` is what ``decode_packet`` gives. PacketError lists every mistake, NotFoundError names an experiment
        that MLflow has not got.
        """
        packet = parse_packet(data)
        with self._writing:
            experiment = self.read(packet.experiment)
            rubrics = self._newest_rubric(experiment, packet.rubric.id)
            return experiment.name, take_in(self.store(), packet, experiment.candidates, rubrics=rubrics)

    def _newest_rubric(self, experiment: Experiment, rubric: str) -> Mapping[str, Rubric]:
        groups = [g for g in experiment.groups if g.rubric == rubric]
        if not groups:
            return {}
        try:
            return {rubric: self.rubric(max(groups, key=lambda g: g.age))}
        except RubricTextError:
            return {}  # the packet's own text is checked against its hash and the candidates'


def parse_rubric(text: str, name: str, sha: str) -> Rubric:
    """A rubric from the text that MLflow holds. RubricTextError where it is not the text of that hash."""
    where = f"the rubric {plain(name)} of sha256 {plain(sha[:12])}"
    if sha256(text) != sha:
        raise RubricTextError(f"{where}: the text that MLflow holds is not the text of that hash; log the cells again")
    if not name or "/" in name or "\\" in name or "\x00" in name or name.startswith(".") or len(name) > 200:
        raise RubricTextError(f"{where}: its name is none that a rubric's file can have")
    file = Path(f"{name}.md")
    try:
        text.encode("utf-8")  # as a file has it
        return read_rubric(text, file)
    except (CatalogError, ValueError) as error:
        problem = str(error).replace(str(file), "").lstrip(":")
        raise RubricTextError(f"{where}: {problem}") from None


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(plain(n) for n in names[:_NAMED]) or "none"
    return shown + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
