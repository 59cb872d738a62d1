"""A person's verdicts by way of MLflow's own review pages: a queue instead of a packet, validated like one."""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from .clock import utc_now
from .errors import PacketError, UsageError
from .leaderboard import newest
from .packet import build_packet, item_id, match_verdicts, parse_packet
from .records import Judge, LoggedCandidate, Rubric, Tier
from .report.text import plural
from .session import Task, build_boards, by_group, cells_now, where, write_reports
from .settings import Settings
from .sitdown import pending_of, take_in
from .steps import StepResult, experiment_of, nothing_under_rubric
from .tracking.recorder import Outcome
from .tracking.reviews import Collected, Review, ReviewItem, ReviewQueues, review_trace
from .tracking.verdicts import milliseconds


def fill_queue(
    settings: Settings, tasks: Sequence[Task], queue: str, *, selected: Collection[tuple[str, ...]]
) -> StepResult:
    """Put the pending candidates of the selected tests' cells into a review queue, blind unless asked otherwise.

    ``selected`` is as for a packet: (experiment, model, prompt, scenario) of each.
    """
    here, candidates = _of(settings, tasks, f"--judge-queue {queue}")
    task = here[0]
    store = where(settings).store()
    now = cells_now(here, task.experiment, task.suite.group)
    current, _ = newest(candidates, cells_now=now)
    pending = store.texts(pending_of(settings, current, now, selected, experiment=tasks[0].experiment))
    if not pending:  # an empty queue would have people look for what is not there
        return StepResult(
            message=f"nothing is pending in {task.experiment}; {queue} is not filled",
            lines=() if candidates else (nothing_under_rubric(task.experiment, task),),
        )
    prompts = store.messages(pending) if settings.reveal else [()] * len(pending)
    items = [
        ReviewItem(
            item=item_id(c.run_id),
            output=n,
            context=c.context or {},
            text=text,
            revealed=_revealed(c, messages) if settings.reveal else {},
        )
        for c, messages in zip(pending, prompts, strict=True)
        for n, text in enumerate(c.outputs or ())
    ]
    closed = ReviewQueues(store).fill(task.experiment, queue, items, task.suite.rubric)
    collect = f"--judge-collect {shlex.quote(queue)} --bench-experiment {shlex.quote(task.experiment)}"
    are, they = ("is", "it is") if len(pending) == 1 else ("are", "they are")
    return StepResult(
        message=f"{plural(len(pending), 'pending candidate')} of {task.experiment} {are} in MLflow's review "
        f"queue {queue}; when {they} reviewed: {collect}",
        lines=(_assign(queue),) if closed else (),
    )


def _assign(queue: str) -> str:
    return (
        f"  {queue} has no reviewers yet, and this MLflow server takes nobody else's answers: assign them on the "
        "experiment's review page, under Manage queue (each needs EDIT on the experiment)"
    )


def _revealed(candidate: LoggedCandidate, messages: Sequence[Any]) -> dict[str, Any]:
    """What ``--judge-reveal`` adds to a packet's item, and the messages that the model was sent."""
    names = ("model", "prompt", "scenario", "run_id")
    return {**{name: getattr(candidate, name) for name in names}, "messages": list(messages)}


def collect_queue(settings: Settings, tasks: Sequence[Task], queue: str) -> StepResult:
    """Turn the completed items of a review queue into verdicts of the people who completed them.

    Everything is validated, as a packet is, before anything is recorded. An item that was completed without every
    answer, or with one that the rubric does not allow, is named and left pending; it holds up no other. What others
    answered on an item is nobody's verdict, and is named too.
    """
    here, found = _of(settings, tasks, f"--judge-collect {queue}")
    task = here[0]
    rubric = task.suite.rubric
    store = where(settings).store()
    collected = ReviewQueues(store).collect(task.experiment, queue, rubric)
    candidates: Sequence[LoggedCandidate] = store.texts(found)
    packets, said = _packets(collected, candidates, rubric)
    applied = unchanged = 0
    for packet in packets:
        taken = take_in(store, parse_packet(packet), candidates, rubrics={rubric.id: rubric})
        applied, unchanged, candidates = applied + taken.applied, unchanged + taken.unchanged, taken.candidates
    boards = build_boards(here, Outcome(candidates={task.experiment: tuple(candidates)}), settings)
    current, _ = newest(candidates, cells_now=cells_now(here, task.experiment, task.suite.group))
    pending = [c for c in current if c.pending]
    traces = [
        {review_trace(task.experiment, queue, item_id(c.run_id), n) for n in range(len(c.outputs or ()))}
        for c in pending
    ]
    there = sum(not collected.waiting.isdisjoint(of_one) for of_one in traces)
    return StepResult(
        message=f"applied {applied}, unchanged {unchanged}, still pending {len(pending)} ({there} of them in {queue})",
        lines=(*_passed_over(collected), *said, *_declined(collected, pending)),
        tasks=tuple(here),
        boards=boards,
        files=tuple(write_reports(boards)),
    )


def _packets(
    collected: Collected, candidates: Sequence[LoggedCandidate], rubric: Rubric
) -> tuple[list[dict[str, Any]], list[str]]:
    """A packet of each reviewer's completed items, and a line for each item that is in none."""
    by_item = {item_id(c.run_id): c for c in candidates if c.error is None}
    packets: list[dict[str, Any]] = []
    said: list[str] = []
    for reviewer, items in _by_reviewer(collected.reviews).items():
        documents = []
        for item, outputs in items.items():
            candidate = by_item.get(item)
            try:
                document, news = _document(candidate, item, outputs, rubric, reviewer)
            except PacketError as error:
                said += [f"  {line}; left pending" for line in str(error).splitlines()]
                continue
            later = _later_verdict(candidate, outputs, reviewer) if news else None
            if later is None:
                documents.append(document)
            else:
                said.append(f"  item {item}: {reviewer}'s verdict of {later} came after these answers and stays")
        if documents:
            packets.append({**documents[0], "items": [i for d in documents for i in d["items"]]})
    return packets, said


def _passed_over(collected: Collected) -> Iterator[str]:
    for r in collected.reviews:
        if r.others:
            yield (
                f"  item {r.item}: {r.reviewer} completed it, and the answers of {', '.join(r.others)} are not taken; "
                "for a verdict of theirs, reopen it in MLflow and have them complete it"
            )
    for trace in collected.strange:
        yield f"  trace {trace} is in the queue and was not put there by --judge-queue"


def _declined(collected: Collected, pending: Sequence[LoggedCandidate]) -> Iterator[str]:
    unjudged = {item_id(c.run_id) for c in pending}
    for item, who in collected.declined.items():
        if item in unjudged:
            yield f"  item {item}: {who or 'somebody'} declined it; left pending, for a packet or another queue"


def _document(
    candidate: LoggedCandidate | None, item: str, outputs: Mapping[int, Review], rubric: Rubric, reviewer: str
) -> tuple[dict[str, Any], bool]:
    """A packet of one item with a reviewer's answers, and whether they are news. PacketError where it is refused."""
    if candidate is None:
        raise PacketError(f"item {item} is of no candidate of this rubric any more")
    missing = [c.name for c in rubric.judged if any(c.name not in r.scores for r in outputs.values())]
    if missing:
        raise PacketError(f"item {item} was completed without {', '.join(missing)}")
    if len(outputs) != len(candidate.outputs or ()):
        raise PacketError(f"item {item}: not all of its outputs are reviewed by {reviewer}")
    document = build_packet([candidate], rubric, experiment=candidate.experiment, seed=0)
    document |= {"judge_kind": "human", "judged_by": reviewer}
    for n, entry in enumerate(document["items"][0]["candidates"]):
        entry["scores"] |= dict(outputs[n].scores)
        entry["rationale"] = outputs[n].rationale
    matched = match_verdicts(parse_packet(document), [candidate], rubrics={rubric.id: rubric}, now=utc_now())
    return document, bool(matched.verdicts)


def _later_verdict(candidate: LoggedCandidate | None, outputs: Mapping[int, Review], reviewer: str) -> str | None:
    """When the reviewer judged the candidate after giving these answers: in a packet, or in another queue."""
    answered = max(r.at for r in outputs.values())
    judge = Judge(tier=Tier.HUMAN, name=reviewer)
    mine = [v.at for v in candidate.verdicts if v.judge == judge] if candidate else []
    return next((at for at in mine if (milliseconds(at) or 0) > answered), None)


def _of(settings: Settings, tasks: Sequence[Task], option: str) -> tuple[list[Task], list[LoggedCandidate]]:
    """The suites that a queue is for, in their experiment, and its candidates under the rubric as it is now."""
    groups = by_group(tasks)
    if len(groups) != 1:
        names = (
            ", ".join(f"{t.suite.path} in {t.experiment}" for t in groups.values())
            or "none was collected; name the evals, pytest evals/ ..."
        )
        raise UsageError(f"{option}: a queue is for one suite in one experiment; there are: {names}")
    store = where(settings).store()
    task = next(iter(groups.values()))
    experiment = experiment_of(store, settings, task, option=option.split(maxsplit=1)[0])
    here = [replace(t, experiment=experiment) for t in tasks]
    return here, [c for c in store.read(experiment) if c.group == task.suite.group]


def _by_reviewer(reviews: Sequence[Review]) -> dict[str, dict[str, dict[int, Review]]]:
    """Reviewer -> item -> output -> review; the latest of several, as where two queues were put together."""
    found: dict[str, dict[str, dict[int, Review]]] = defaultdict(lambda: defaultdict(dict))
    for r in sorted(reviews, key=lambda r: r.at):
        found[r.reviewer][r.item][r.output] = r
    return found
