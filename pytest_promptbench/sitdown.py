"""The sit-down tier: a packet of pending candidates out, a scored packet back in."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import PacketError, UsageError
from .packet import Packet, build_packet, match_verdicts, parse_packet, read_packet, write_packet
from .records import LoggedCandidate, Rubric
from .session import Board, Task, build_boards, where, write_reports
from .settings import Settings
from .tracking.recorder import Outcome
from .tracking.store import TrackingStore, utc_now


@dataclass(frozen=True, kw_only=True)
class Sitting:
    """What an export or an apply did: a line for the terminal, and the leaderboards that changed."""

    message: str
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
        experiment = _experiment(store, settings, task)
        candidates = found.setdefault(experiment, store.read(experiment))
        mine = [c for c in candidates if c.pending and c.rubric_sha256 == task.suite.rubric.sha256]
        chosen.append((dataclasses.replace(task, experiment=experiment), mine))
    waiting = [(t, c) for t, c in chosen if c]
    if len(waiting) > 1:
        names = ", ".join(f"{t.suite.path} ({len(c)} pending)" for t, c in waiting)
        raise UsageError(f"--judge-export: one packet is for one rubric; export these suites one by one: {names}")
    task, candidates = waiting[0] if waiting else chosen[0]
    packet = build_packet(
        store.texts(candidates),
        task.suite.rubric,
        experiment=task.experiment,
        seed=int.from_bytes(settings.identity.session.encode()[-6:], "big"),
        reveal=settings.reveal,
    )
    write_packet(path, packet)
    if not candidates:
        return Sitting(message=f"nothing is pending in {task.experiment}; {path} is an empty packet")
    return Sitting(
        message=f"exported {len(candidates)} pending candidates of {task.experiment} to {path}; "
        f"score them against the rubric, then: --judge-apply {path.name}"
    )


def _experiment(store: TrackingStore, settings: Settings, task: Task) -> str:
    """The task's experiment; where it is today's by default and there is none yet, the task's newest."""
    if store.experiment(task.experiment) is not None:
        return task.experiment
    prefix = f"{task.suite.task}-bench-"
    earlier = [n for n in store.experiments() if n.startswith(prefix)]
    if settings.experiment is None and earlier and task.experiment.startswith(prefix):
        return max(earlier)
    known = f" There are: {', '.join(sorted(earlier)[-5:])}." if earlier else ""
    raise UsageError(
        f"--judge-export: MLflow has no experiment {task.experiment!r}.{known} "
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
    for run_id, verdict in matched.verdicts.items():
        store.record(by_run[run_id], verdict, rubric)
    after = {c.run_id: c for c in (store.read(packet.experiment) if matched.verdicts else everyone)}
    candidates = tuple(dataclasses.replace(after[c.run_id], outputs=c.outputs, context=c.context) for c in texts)
    return Applied(
        applied=len(matched.verdicts),
        unchanged=matched.unchanged,
        pending=sum(c.pending for c in candidates),
        candidates=candidates,
    )
