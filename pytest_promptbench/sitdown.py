"""The sit-down tier: a packet of pending candidates, or of an audit's, out; a scored packet back in."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .agreement import judge_name
from .audit import Audit, auditable, next_audit, sampling_probabilities, spot_check, unchecked
from .autojudge import BATCH, asking_models, judge_and_write, telling, updated, writing_to
from .clock import utc_now
from .errors import PacketError, TrackingError, UsageError
from .judging import fingerprint
from .leaderboard import current_candidates, pending_candidates
from .packet import (
    Packet,
    build_packet,
    is_foreign,
    item_ids,
    match_verdicts,
    parse_packet,
    read_packet,
    set_aside,
    write_packet,
)
from .packet.document import plain
from .records import Group, Judge, LoggedCandidate, Rubric, Tier
from .report.text import for_price, plural
from .session import (
    Board,
    Task,
    about_unread,
    build_boards,
    by_group,
    cells_now,
    folders_of,
    labels,
    where,
    with_shown_texts,
    write_reports,
)
from .settings import Settings
from .steps import StepResult, experiment_of, nothing_under_rubric
from .tracking.address import redacted
from .tracking.artifacts import file_name
from .tracking.entry import AUDIT, AUDITED, CHECKED, SAMPLING
from .tracking.recorder import Outcome
from .tracking.store import TrackingStore
from .tracking.texts import texts_of
from .tracking.verdicts import Ruling


def export_packet(
    settings: Settings,
    tasks: Sequence[Task],
    path: Path,
    *,
    selected: Collection[tuple[str, ...]],
    say: Callable[[str], None],
) -> StepResult:
    """Write the pending candidates of the selected tests' cells: one packet a task and rubric. UsageError.

    ``selected``: (experiment, model, prompt, scenario) of each. Where they are all that there are, what waits of cells
    that no file has any more goes along. An audit draws from all candidates of a suite of which anything is selected:
    its shares are of the whole, and may have the automatic judge asked a second time, of which ``say`` is told.
    Where candidates of only one group wait, the packet is ``path``; of several, each has the group's name behind the
    stem of ``path``: ``packet-tip.json``.
    """
    if not tasks:
        raise UsageError("--judge-export: no promptbench test was collected; name the evals, as in pytest evals/ ...")
    if not selected and settings.shard is None:  # a shard may be empty
        raise UsageError("--judge-export: no promptbench test was selected; name what -k and the like are to leave")
    store = where(settings).store()
    groups, said = _groups(settings, store, tasks, selected)
    names = labels([t for t, _ in groups])
    packets = [_packet(settings, store, task, candidates, say) for task, candidates in groups]
    paths = [path] if len(groups) == 1 else [path.with_name(f"{path.stem}-{n}{path.suffix}") for n in names]
    for file in paths:
        _check_place(file)
    said += [line for file in paths for line in _keep_scored(file)]
    for file, made in zip(paths, packets, strict=True):
        write_packet(file, made.packet)
    if not any(made.packet["items"] for made in packets):
        message = f"nothing is pending in {groups[0][0].experiment}; {path} is an empty packet"
        return StepResult(message=message, lines=tuple(said))
    audits = [made.audit for made in packets if made.audit is not None]
    return StepResult(
        message="\n".join(made.exported_to(file) for file, made in zip(paths, packets, strict=True)),
        lines=(
            *said,
            *(made.asked for made in packets if made.asked is not None),
            *(f"audit {a.id}: round {a.round}, seed {a.seed}" for a in audits),
        ),
    )


def _groups(
    settings: Settings, store: TrackingStore, tasks: Sequence[Task], selected: Collection[tuple[str, ...]]
) -> tuple[list[tuple[Task, list[LoggedCandidate]]], list[str]]:
    """What goes into each packet: a task in its experiment, and the candidates that wait, or that an audit draws from.

    Beside them, lines to be said. UsageError where no suite that was asked for ever ran.
    """
    found: dict[str, list[LoggedCandidate]] = {}
    chosen: list[tuple[Task, list[LoggedCandidate]]] = []
    missing: list[UsageError] = []
    said: list[str] = []
    for task in by_group(tasks).values():
        now = cells_now(tasks, task.experiment, task.suite.group)
        left_out = [names for names in now if (task.experiment, *names) not in selected]
        if selected and len(left_out) == len(now):
            continue  # nothing of it was asked for
        try:
            experiment = experiment_of(store, settings, task, option="--judge-export")
        except UsageError as error:  # it never ran; what else there is may still wait
            missing.append(error)
            continue
        if experiment not in found:
            found[experiment] = store.read(experiment)
        mine, _ = current_candidates(found[experiment], task.suite.rubric, task=task.suite.task, cells_now=now)
        if not mine:
            said.append(nothing_under_rubric(experiment, task))
        if settings.audit is None:
            carried = sum(c.carried_from is not None for c in mine)
            mine = pending_of(settings, mine, now, selected, experiment=task.experiment)
            if carried and not mine:
                said.append(f"carried over from equal texts that were judged before: {plural(carried, 'verdict')}")
        chosen.append((dataclasses.replace(task, experiment=experiment), mine))
    if not chosen:
        raise missing[0]
    if settings.audit is not None:
        # Neither a suite that programs score nor one that no judge has scored holds another's audit up.
        chosen = [(t, c) for t, c in chosen if t.suite.rubric.judged] or chosen
    waiting = [(t, c) for t, c in chosen if (c if settings.audit is None else auditable(c) or unchecked(c))]
    return waiting or chosen[:1], said


def pending_of(
    settings: Settings,
    current: Iterable[LoggedCandidate],
    now: Mapping[tuple[str, str, str], str],
    selected: Collection[tuple[str, ...]],
    *,
    experiment: str,
) -> list[LoggedCandidate]:
    """What waits of the selected cells; where they are all that the files give ``now``, of cells that are gone too.

    ``selected``: (experiment, model, prompt, scenario) of each test's cell, ``experiment`` as the suite names it.
    """
    whole = all((experiment, *names) in selected for names in now)
    whole = whole and settings.shard is None and settings.models is None and settings.prompts is None
    return [c for c in current if c.pending and (whole or (experiment, *c.names) in selected)]


def _check_place(file: Path) -> None:
    """UsageError where a file of another kind stands, as a suite that was named by mistake."""
    try:
        foreign = is_foreign(file)
    except OSError as error:
        raise UsageError(f"--judge-export {file}: cannot be read: {error.strerror or error}") from None
    if foreign:
        raise UsageError(f"--judge-export {file}: what stands there is no packet; name another file, or move it away")


def _keep_scored(file: Path) -> Iterator[str]:
    """Move what somebody may have scored out of the way, and say so."""
    aside = file.with_name(f"{file.stem}.scored{file.suffix}")
    try:
        kept = set_aside(file, aside)
    except OSError as error:
        raise UsageError(
            f"{file}: it may hold scores and cannot be kept as {aside}: {error.strerror or error}"
        ) from None
    if kept is not None:
        there = f"{file.name} was there already and is kept as {kept.name}"
        yield f"{there}; apply it too, if it holds scores not yet applied"


@dataclass(frozen=True, kw_only=True)
class _Made:
    """A packet: ``what`` is in it in words, the audit that drew it and what that ``asked``, where it was one."""

    packet: Mapping[str, Any]
    candidates: int
    what: str
    audit: Audit | None
    asked: str | None

    def exported_to(self, file: Path) -> str:
        twice = len(self.packet["items"]) - self.candidates
        of_them, them = ("", "it") if self.candidates == 1 else (f"{twice} of them ", "them")
        return (
            f"exported {self.what} of {self.packet['experiment']} to {file}"
            + (f", {of_them}twice" if twice else "")
            + f"; score {them} against the rubric {self.packet['rubric']['id']}, then: "
            f"--judge-apply {shlex.quote(_from_here(file))}"
        )


def _from_here(file: Path) -> str:
    here = Path.cwd()
    return str(file.relative_to(here) if file.is_relative_to(here) else file)


def _packet(
    settings: Settings,
    store: TrackingStore,
    task: Task,
    candidates: list[LoggedCandidate],
    say: Callable[[str], None],
) -> _Made:
    """The packet of one group."""
    what, audit, seed = plural(len(candidates), "pending candidate"), None, _seed(settings)
    asked, judge = None, Tier.CLAUDE_CODE
    if settings.audit is not None and not auditable(candidates) and (pool := unchecked(candidates)):
        group = {"experiment": task.experiment, "task": task.suite.task}
        candidates, seed = spot_check(pool, task.suite.rubric, settings.audit, **group)
        drawn = plural(len(candidates), "candidate")
        what, judge = f"{drawn} (at random of {len(pool)} that Claude Code judged, for a person)", Tier.HUMAN
    elif settings.audit is not None:
        audit, what, asked = _audit(settings, store, task, candidates, say)
        candidates, seed = [d.candidate for d in audit.drawn], audit.seed
        if all(c.sit_down() is not None for c in candidates):  # Claude Code has nothing to judge here
            judge = Tier.HUMAN
    packet = build_packet(
        store.texts(candidates),
        task.suite.rubric,
        experiment=task.experiment,
        judge_kind=judge,
        seed=seed,
        reveal=settings.reveal,
        duplicates=settings.duplicates,
        audit=None if audit is None else audit.id,
    )
    return _Made(packet=packet, candidates=len(candidates), what=what, audit=audit, asked=asked)


def _seed(settings: Settings) -> int:
    return int.from_bytes(settings.identity.session.encode()[-6:], "big")


def _audit(
    settings: Settings,
    store: TrackingStore,
    task: Task,
    candidates: list[LoggedCandidate],
    say: Callable[[str], None],
) -> tuple[Audit, str, str | None]:
    """The audit that checks the automatic judge, its draw written to MLflow; what it holds and asked, in words."""
    assert settings.audit is not None
    rubric = task.suite.rubric
    pool = auditable(candidates)
    if not rubric.judged:
        raise UsageError(f"--judge-audit: programs fill all of the rubric {rubric.id}, so there is no judge to check")
    if not pool:
        raise UsageError(
            f"--judge-audit: the automatic judge has scored nothing in {task.experiment}, nor Claude Code anything "
            "that no person has; run pytest with --judge-auto"
        )
    asked = None
    if all(c.sit_down() is None for c in pool):
        pool, asked = _asked_twice(settings, store, task, pool, say)
    audit = next_audit(pool, rubric, settings.audit, experiment=task.experiment, task=task.suite.task)
    for d in audit.drawn:
        store.tag(d.candidate.run_id, {AUDIT + audit.id: json.dumps(audit.draw_of(d).to_json())})
    drawn, picked = len(audit.drawn), sum(not d.random for d in audit.drawn)
    what = f"{plural(drawn, 'candidate')} ({picked} by disagreement, {drawn - picked} at random of {len(pool)})"
    return audit, what, asked


def _asked_twice(
    settings: Settings, store: TrackingStore, task: Task, pool: list[LoggedCandidate], say: Callable[[str], None]
) -> tuple[list[LoggedCandidate], str | None]:
    """The same candidates, each with the automatic judge's second verdict, which is asked for where there is none.

    Beside them what was asked, in words.
    """
    judge, rubric = task.suite.judge, task.suite.rubric
    if judge is None:
        return pool, None
    this, asked = Judge(tier=Tier.AUTO, name=judge.name), fingerprint(judge, rubric)
    firsts = ((c, c.automatic()) for c in pool)
    todo = [c for c, v in firsts if v is not None and (v.judge, v.fingerprint) == (this, asked) and c.again(v) is None]
    if not todo:
        return pool, None
    with asking_models(settings, [judge], say=say) as ask:
        texts = store.texts(todo)
        after, came_to = judge_and_write(
            texts,
            rubric,
            judge,
            ask,
            writing_to(store),
            second=True,
            known_to_answer=True,  # each has a first verdict of this very judge
            progress=telling(say),
        )
    if came_to.interrupted:  # nothing is exported; what the judge said is kept, and the next export goes on
        raise KeyboardInterrupt
    if came_to.unavailable:
        raise UsageError(f"--judge-audit asks the automatic judge a second time: {came_to.unavailable}")
    again = plural(came_to.scored + came_to.failed, "candidate")
    price = for_price(came_to.cost_usd)
    return updated(pool, after), f"automatic judge {judge.name}: asked a second time about {again}{price}"


def apply_packet(settings: Settings, tasks: Sequence[Task], path: Path) -> StepResult:
    """Take in a scored packet, all of it or nothing. PacketError names what is wrong with it."""
    data = read_packet(path)
    try:
        packet = parse_packet(data)
    except PacketError as error:
        raise PacketError(f"{path}: {error}") from None
    if settings.experiment is not None and settings.experiment != packet.experiment:
        raise PacketError(
            f"{path}: the packet is from experiment {packet.experiment!r}, and --bench-experiment says "
            f"{settings.experiment!r}"
        )
    store = where(settings).store()
    if store.experiment(packet.experiment) is None:
        raise PacketError(
            f"{path}: MLflow has no experiment {packet.experiment!r} in {redacted(store.uri)}; is MLFLOW_TRACKING_URI "
            "the same, and is pytest started where the evals ran? If it was renamed in MLflow, write its new name in "
            "the packet"
        )
    everyone = store.read(packet.experiment)
    # Two folders may each have a rubric of this id: the packet's own text comes first, then what may be its newer one.
    by_text = sorted(tasks, key=lambda t: t.suite.rubric.sha256 == packet.rubric.sha256)
    applied = take_in(store, packet, everyone, rubrics={t.suite.rubric.id: t.suite.rubric for t in by_text})
    there = {c.group for c in applied.candidates}
    here = [dataclasses.replace(t, experiment=packet.experiment) for t in tasks if t.suite.group in there]
    now = {t.suite.group: cells_now(here, packet.experiment, t.suite.group) for t in here}
    applied = dataclasses.replace(applied, cells_now=now)
    unread: list[str] = []
    with texts_of(store, where(settings)) as reader:
        candidates = tuple(
            c
            for g in sorted(set(now) or there)
            for c in with_shown_texts(reader, [c for c in applied.candidates if c.group == g], unread)
        )
    boards = _boards(settings, packet, candidates, here, tasks)
    return StepResult(
        message=applied.message,
        lines=(*_about(applied, packet.judge), *about_unread(unread)),
        tasks=tuple(here),
        boards=boards,
        files=tuple(write_reports(boards)),
    )


def _about(applied: Applied, judge: Judge) -> Iterator[str]:
    """What is to be known of what was taken in."""
    if n := applied.outranked:
        yield f"{n} of the applied {'does' if n == 1 else 'do'} not count: a person has judged there, who comes first"
    if applied.beside:
        unsigned = "the packet is not signed: " if judge.name == judge.tier else ""
        others = ", ".join(plain(judge_name(j)) for j in applied.beside)
        yield (
            f"{unsigned}{plain(judge_name(judge))} is another judge than {others}, who judged here before; if they are "
            "one, sign the packet with that name (judged_by) and apply it again"
        )
    if applied.remarks:
        items = plural(applied.remarks, "item")
        yield f"{items} with a rationale and no scores: what it says is kept in the packet alone"


def _boards(
    settings: Settings,
    packet: Packet,
    candidates: tuple[LoggedCandidate, ...],
    here: Sequence[Task],
    tasks: Sequence[Task],
) -> tuple[Board, ...]:
    """The leaderboards of a packet's candidates. ``here``: its suites among ``tasks``, in its experiment."""
    if not here:  # none of them was collected: its own rubric says how to score
        names = sorted({c.task for c in candidates})
        return tuple(
            Board.of(
                tuple(c for c in candidates if c.task == name),
                packet.rubric,
                packet.experiment,
                name,
                folder=settings.report / file_name(name) if len(names) > 1 else settings.report,
            )
            for name in names
        )
    folders = {}
    for (experiment, group), folder in folders_of(tasks, settings.report).items():
        if group not in folders or experiment == packet.experiment:
            folders[group] = folder
    return build_boards(here, Outcome(candidates={packet.experiment: candidates}), settings, folders=folders)


@dataclass(frozen=True, kw_only=True)
class Applied:
    """What a packet changed, and the candidates of its rubric as they are now, without texts.

    ``remarks``: items that have a rationale and no scores, of which nothing is kept. ``outranked``: verdicts that were
    applied where one of a higher tier counts. ``beside``: who of the judge's tier has judged under this rubric before,
    where this judge had not. ``cells_now``: what the files give today of groups whose files are known, as for the
    leaderboard.
    """

    applied: int
    unchanged: int
    candidates: tuple[LoggedCandidate, ...]
    remarks: int = 0
    outranked: int = 0
    beside: tuple[Judge, ...] = ()
    cells_now: Mapping[Group, Mapping[tuple[str, str, str], str]] = dataclasses.field(default_factory=dict)

    @property
    def pending(self) -> int:
        """What still waits for a judge; not what an edited prompt or model has superseded."""
        return len(pending_candidates(self.candidates, cells_now=self.cells_now))

    @property
    def message(self) -> str:
        return f"applied {self.applied}, unchanged {self.unchanged}, still pending {self.pending}"


def take_in(
    store: TrackingStore, packet: Packet, everyone: Sequence[LoggedCandidate], *, rubrics: Mapping[str, Rubric]
) -> Applied:
    """Record the verdicts of a packet with its candidates, all of them or none.

    ``everyone`` is the packet's experiment as it was just read; texts are loaded of the packet's own items alone.
    ``rubrics``: id -> the rubric as its file has it now, as far as files are known. PacketError lists every mistake.
    What ends the recording midway, MLflow or an interrupt, is raised with how far it came.
    """
    mine = [c for c in everyone if c.rubric_sha256 == packet.rubric.sha256]
    named = {i.item for i in packet.items}
    texts = store.texts([c for c in everyone if not named.isdisjoint(item_ids(c.run_id))])
    matched = match_verdicts(packet, texts, rubrics=rubrics, now=utc_now())
    now = {c.run_id: c for c in mine}
    rubric = rubrics.get(packet.rubric.id) or packet.rubric
    if packet.audit is not None:
        new = {run_id for run_id in matched.verdicts if now[run_id].sit_down() is None}
        now |= _weigh(store, packet.audit, new, mine)
        if packet.judge_kind is Tier.HUMAN:
            now |= _check(store, packet.audit, unchecked(now[run_id] for run_id in matched.verdicts))
    todo = [Ruling(now[i], v, rubric) for i, v in matched.verdicts.items()]
    todo += [Ruling(now[i], v, rubric, second=True) for i, v in matched.duplicates.items()]
    done: list[None] = []
    try:
        for start in range(0, len(todo), BATCH):
            after = store.record_all(todo[start : start + BATCH], each=lambda: done.append(None))
            now |= {c.run_id: c for c in after}
    except (TrackingError, KeyboardInterrupt) as error:
        if not done:
            raise
        how_far = f"{len(done)} of {len(todo)} verdicts are recorded, the same once more records the rest"
        raise type(error)(f"{str(error) or 'interrupted'}; {how_far}") from None
    counting = (now[run_id].sit_down() for run_id in matched.verdicts)
    return Applied(
        applied=len(matched.verdicts),
        unchanged=matched.unchanged,
        candidates=tuple(now.values()),
        remarks=matched.remarks,
        outranked=sum(v is not None and v.judge.tier is not packet.judge_kind for v in counting),
        beside=_beside(packet.judge, mine) if matched.verdicts else (),
    )


def _beside(judge: Judge, before: Iterable[LoggedCandidate]) -> tuple[Judge, ...]:
    """The judges of a judge's tier who have judged before, if it has not: one person may have signed in two ways."""
    there = {v.judge for c in before for v in c.verdicts if v.judge.tier is judge.tier}
    return () if judge in there else tuple(sorted(there, key=lambda j: j.name))


def _weigh(
    store: TrackingStore, audit: str, new: Collection[str], candidates: Sequence[LoggedCandidate]
) -> dict[str, LoggedCandidate]:
    """Give every label that audits brought its sampling probability, now that this one labels the runs ``new``.

    Before the verdicts are written: should writing be interrupted, applying the packet again ends the same. Returns the
    candidates that changed, by run.
    """
    tasks = {c.task for c in candidates if c.run_id in new}
    known = {
        c.run_id: dataclasses.replace(c, audited=audit) if c.run_id in new else c for c in candidates if c.task in tasks
    }
    changed = {}
    for run_id, probability in sampling_probabilities(list(known.values())).items():
        value = f"{probability:.6g}"
        if run_id in new or known[run_id].sampling_probability != float(value):
            store.tag(run_id, {SAMPLING: value, **({AUDITED: audit} if run_id in new else {})})
            changed[run_id] = dataclasses.replace(known[run_id], sampling_probability=float(value))
    return changed


def _check(store: TrackingStore, audit: str, candidates: Iterable[LoggedCandidate]) -> dict[str, LoggedCandidate]:
    """Mark these as what a person checks by way of this audit; before the verdicts are written, as in ``_weigh``."""
    changed = {c.run_id: dataclasses.replace(c, checked=audit) for c in candidates}
    for run_id in changed:
        store.tag(run_id, {CHECKED: audit})
    return changed
