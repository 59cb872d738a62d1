"""The sit-down tier: a packet of pending candidates, or of an audit's, out; a scored packet back in."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .audit import Audit, auditable, next_audit, sampling_probabilities
from .autojudge import asking, judge_and_write
from .completer import LiteLLMCompleter, spare_loopback_from_proxies
from .errors import PacketError, UsageError
from .leaderboard import current_candidates
from .localmodels import LocalServer
from .packet import Packet, build_packet, match_verdicts, parse_packet, read_packet, write_packet
from .records import LoggedCandidate, Rubric, Tier
from .session import Board, Task, build_boards, cells_now, where, write_reports
from .settings import Settings
from .tracking.entry import AUDIT, AUDITED, SAMPLING
from .tracking.recorder import Outcome
from .tracking.store import TrackingStore, utc_now


@dataclass(frozen=True, kw_only=True)
class Sitting:
    """What a session that runs no test did: lines for the terminal, and the leaderboards that changed."""

    message: str
    lines: tuple[str, ...] = ()
    code: int = 0
    tasks: tuple[Task, ...] = ()
    boards: tuple[Board, ...] = ()
    files: tuple[Path, ...] = ()


def export_packet(settings: Settings, tasks: Sequence[Task], path: Path) -> Sitting:
    """Write the pending candidates of the collected suites to ``path``. UsageError where it cannot be one packet."""
    if not tasks:
        raise UsageError("--judge-export: no promptbench test was collected; name the evals, as in pytest evals/ ...")
    store = where(settings).store()
    groups = {(t.experiment, t.suite.rubric.sha256): t for t in tasks}
    found: dict[str, list[LoggedCandidate]] = {}
    chosen: list[tuple[Task, list[LoggedCandidate]]] = []
    for task in groups.values():
        experiment = experiment_of(store, settings, task, option="--judge-export")
        candidates = found.setdefault(experiment, store.read(experiment))
        now = cells_now(tasks, task.suite.task)
        mine, _ = current_candidates(candidates, task.suite.rubric, task=task.suite.task, cells_now=now)
        if settings.audit is None:
            mine = [c for c in mine if c.pending]
        chosen.append((dataclasses.replace(task, experiment=experiment), mine))
    waiting = [(t, c) for t, c in chosen if c]
    if len(waiting) > 1:
        names = ", ".join(f"{t.suite.path} ({len(c)} pending)" for t, c in waiting)
        raise UsageError(f"--judge-export: one packet is for one rubric; export these suites one by one: {names}")
    task, candidates = waiting[0] if waiting else chosen[0]
    what, audit, seed = f"{len(candidates)} pending candidates", None, _seed(settings)
    if settings.audit is not None:
        audit, what = _audit(settings, store, task, candidates)
        candidates, seed = [d.candidate for d in audit.drawn], audit.seed
    packet = build_packet(
        store.texts(candidates),
        task.suite.rubric,
        experiment=task.experiment,
        seed=seed,
        reveal=settings.reveal,
        duplicates=settings.duplicates,
        audit=None if audit is None else audit.id,
    )
    write_packet(path, packet)
    if not candidates:
        return Sitting(message=f"nothing is pending in {task.experiment}; {path} is an empty packet")
    twice = len(packet["items"]) - len(candidates)
    return Sitting(
        message=f"exported {what} of {task.experiment} to {path}"
        + (f", {twice} of them twice" if twice else "")
        + f"; score them against the rubric, then: --judge-apply {path.name}",
        lines=() if audit is None else (f"audit {audit.id}: round {audit.round}, seed {audit.seed}",),
    )


def _seed(settings: Settings) -> int:
    return int.from_bytes(settings.identity.session.encode()[-6:], "big")


def _audit(
    settings: Settings, store: TrackingStore, task: Task, candidates: list[LoggedCandidate]
) -> tuple[Audit, str]:
    """The audit that checks the automatic judge, its draw written to MLflow, and what it holds in words."""
    assert settings.audit is not None
    rubric = task.suite.rubric
    pool = auditable(candidates)
    if not pool:
        raise UsageError(
            f"--judge-audit: the automatic judge has scored nothing in {task.experiment}; run pytest with --judge-auto"
        )
    if all(c.sit_down() is None for c in pool):
        pool = _asked_twice(settings, store, task, pool)
    audit = next_audit(pool, rubric, settings.audit, experiment=task.experiment, task=task.suite.task)
    for d in audit.drawn:
        store.tag(d.candidate.run_id, {AUDIT + audit.id: json.dumps(audit.draw_of(d).to_json())})
    drawn, picked = len(audit.drawn), sum(not d.random for d in audit.drawn)
    what = f"{drawn} candidates ({picked} by disagreement, {drawn - picked} at random of {len(pool)})"
    return audit, what


def _asked_twice(
    settings: Settings, store: TrackingStore, task: Task, pool: list[LoggedCandidate]
) -> list[LoggedCandidate]:
    """The same candidates, each with the automatic judge's second verdict, which is asked for where there is none."""
    judge, rubric = task.suite.judge, task.suite.rubric
    todo = [c for c in pool if not any(v.judge.tier is Tier.AUTO for v in c.second_verdicts)]
    if not todo or judge is None:
        return pool
    with contextlib.ExitStack() as stack:
        embedded = None
        if judge.embedded:
            embedded = stack.enter_context(LocalServer()).start([judge.model]).api_base
            spare_loopback_from_proxies()
        ask = stack.enter_context(asking(settings, LiteLLMCompleter([judge], embedded=embedded)))
        texts = store.texts(todo)
        after, came_to = judge_and_write(
            texts, rubric, judge, ask, lambda judgements: [j.write(store) for j in judgements], second=True
        )
    if came_to.unavailable:
        raise UsageError(f"--judge-audit asks the automatic judge a second time: {came_to.unavailable}")
    changed = {c.run_id: c for c in after}
    return [changed.get(c.run_id, c) for c in pool]


def experiment_of(store: TrackingStore, settings: Settings, task: Task, *, option: str) -> str:
    """The task's experiment; where it is today's by default and there is none yet, the task's newest. UsageError."""
    if store.experiment(task.experiment) is not None:
        return task.experiment
    prefix = f"{task.suite.task}-bench-"
    earlier = [n for n in store.experiments() if n.startswith(prefix)]
    if settings.experiment is None and earlier and task.experiment.startswith(prefix):
        return max(earlier)
    known = f" There are: {', '.join(sorted(earlier)[-5:])}." if earlier else ""
    raise UsageError(
        f"{option}: MLflow has no experiment {task.experiment!r}.{known} "
        "Run the evals first, or name one with --bench-experiment"
    )


def apply_packet(settings: Settings, tasks: Sequence[Task], path: Path) -> Sitting:
    """Take in a scored packet, all of it or nothing. PacketError names what is wrong with it."""
    packet = parse_packet(read_packet(path))
    if settings.experiment is not None and settings.experiment != packet.experiment:
        raise PacketError(
            f"{path}: the packet is from experiment {packet.experiment!r}, and --bench-experiment says "
            f"{settings.experiment!r}"
        )
    store = where(settings).store()
    if store.experiment(packet.experiment) is None:
        raise PacketError(f"{path}: MLflow has no experiment {packet.experiment!r}; is MLFLOW_TRACKING_URI the same?")
    applied = take_in(store, packet, rubrics={t.suite.rubric.id: t.suite.rubric for t in tasks})
    outcome = Outcome(candidates={packet.experiment: applied.candidates})
    here = [
        dataclasses.replace(t, experiment=packet.experiment) for t in tasks if t.suite.rubric.id == packet.rubric.id
    ]
    boards = build_boards(here, outcome, settings.report)
    return Sitting(message=applied.message, tasks=tuple(here), boards=boards, files=tuple(write_reports(boards)))


@dataclass(frozen=True, kw_only=True)
class Applied:
    """What a packet changed, and the candidates of its rubric as they are now, with texts."""

    applied: int
    unchanged: int
    pending: int
    candidates: tuple[LoggedCandidate, ...]

    @property
    def message(self) -> str:
        return f"applied {self.applied}, unchanged {self.unchanged}, still pending {self.pending}"


def take_in(store: TrackingStore, packet: Packet, *, rubrics: Mapping[str, Rubric]) -> Applied:
    """Record the verdicts of a packet with its candidates, all of them or none.

    ``rubrics``: id -> the rubric as its file has it now, as far as files are known. The packet's experiment exists.
    PacketError lists every mistake.
    """
    everyone = store.read(packet.experiment)
    texts = store.texts([c for c in everyone if c.rubric_sha256 == packet.rubric.sha256])
    matched = match_verdicts(packet, texts, rubrics=rubrics, now=utc_now(), default_judge=packet.judge_kind)
    by_run = {c.run_id: c for c in texts}
    rubric = rubrics.get(packet.rubric.id) or packet.rubric
    if packet.audit is not None:
        new = {run_id for run_id in matched.verdicts if by_run[run_id].sit_down() is None}
        _weigh(store, packet.audit, new, [c for c in everyone if c.rubric_sha256 == packet.rubric.sha256])
    for run_id, verdict in matched.verdicts.items():
        store.record(by_run[run_id], verdict, rubric)
    for run_id, verdict in matched.duplicates.items():
        store.record(by_run[run_id], verdict, rubric, second=True)
    changed = matched.verdicts or matched.duplicates
    after = {c.run_id: c for c in (store.read(packet.experiment) if changed else everyone)}
    candidates = tuple(dataclasses.replace(after[c.run_id], outputs=c.outputs, context=c.context) for c in texts)
    return Applied(
        applied=len(matched.verdicts),
        unchanged=matched.unchanged,
        pending=sum(c.pending for c in candidates),
        candidates=candidates,
    )


def _weigh(store: TrackingStore, audit: str, new: Collection[str], candidates: Sequence[LoggedCandidate]) -> None:
    """Give every label that audits brought its sampling probability, now that this one labels the runs ``new``.

    Before the verdicts are written: should writing be interrupted, applying the packet again ends the same.
    """
    tasks = {c.task for c in candidates if c.run_id in new}
    known = [dataclasses.replace(c, audited=audit) if c.run_id in new else c for c in candidates if c.task in tasks]
    stored = {c.run_id: c.sampling_probability for c in candidates}
    for run_id, probability in sampling_probabilities(known).items():
        value = f"{probability:.6g}"
        if run_id in new or stored[run_id] != float(value):
            store.tag(run_id, {SAMPLING: value, **({AUDITED: audit} if run_id in new else {})})
