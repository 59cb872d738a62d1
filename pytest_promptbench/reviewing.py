"""A person's verdicts by way of MLflow's own review pages: a queue instead of a packet, validated like one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from .errors import UsageError
from .packet import build_packet, item_id, parse_packet
from .records import LoggedCandidate
from .session import Task, build_boards, where, write_reports
from .settings import Settings
from .sitdown import Sitting, experiment_of, take_in
from .tracking.recorder import Outcome
from .tracking.reviews import Review, ReviewItem, ReviewQueues


def fill_queue(settings: Settings, tasks: Sequence[Task], queue: str) -> Sitting:
    """Put the pending candidates of the collected suite into a review queue, blind unless asked otherwise."""
    task, candidates = _of(settings, tasks, f"--judge-queue {queue}")
    store = where(settings).store()
    pending = store.texts([c for c in candidates if c.pending])
    items = [
        ReviewItem(
            item=item_id(c.run_id),
            output=n,
            context=c.context or {},
            text=text,
            revealed={"model": c.model, "prompt": c.prompt, "scenario": c.scenario} if settings.reveal else {},
        )
        for c in pending
        for n, text in enumerate(c.outputs or ())
    ]
    ReviewQueues(store).fill(task.experiment, queue, items, task.suite.rubric)
    return Sitting(
        message=f"{len(pending)} pending candidates of {task.experiment} are in MLflow's review queue {queue}; "
        f"when they are reviewed: --judge-collect {queue}"
    )


def collect_queue(settings: Settings, tasks: Sequence[Task], queue: str) -> Sitting:
    """Turn the completed items of a review queue into verdicts of the people who completed them.

    An item that was completed without every answer is named and left pending.
    """
    task, candidates = _of(settings, tasks, f"--judge-collect {queue}")
    rubric = task.suite.rubric
    store = where(settings).store()
    reviews, waiting = ReviewQueues(store).collect(task.experiment, queue, rubric)
    by_item = {item_id(c.run_id): c for c in candidates if c.error is None}
    applied = unchanged = 0
    said: list[str] = []
    after = None
    for reviewer, found in _by_reviewer(reviews).items():
        chosen: list[LoggedCandidate] = []
        for item, outputs in found.items():
            missing = [c.name for c in rubric.judged if any(c.name not in r.scores for r in outputs.values())]
            if item not in by_item:
                said.append(f"  item {item} is of no candidate of this rubric any more; left out")
            elif missing:
                said.append(f"  item {item} was completed without {', '.join(missing)}; left pending")
            else:
                chosen.append(by_item[item])
        texts = []
        for c in store.texts(chosen):
            if len(found[item_id(c.run_id)]) == len(c.outputs or ()):
                texts.append(c)
            else:
                said.append(f"  item {item_id(c.run_id)}: not all of its outputs are reviewed; left pending")
        if not texts:
            continue
        document = build_packet(texts, rubric, experiment=task.experiment, seed=0)
        document |= {"judge_kind": "human", "judged_by": reviewer}
        for item in document["items"]:
            for n, entry in enumerate(item["candidates"]):
                review = found[item["item"]][n]
                entry["scores"] |= dict(review.scores)
                entry["rationale"] = review.rationale
        taken = take_in(store, parse_packet(document), rubrics={rubric.id: rubric})
        applied, unchanged, after = applied + taken.applied, unchanged + taken.unchanged, taken.candidates
    complete = tuple(store.texts(candidates)) if after is None else after
    boards = build_boards([task], Outcome(candidates={task.experiment: complete}), settings.report)
    pending = sum(c.pending for c in complete)
    return Sitting(
        message=f"applied {applied}, unchanged {unchanged}, still pending {pending} ({waiting} of them in {queue})",
        lines=tuple(said),
        tasks=(task,),
        boards=boards,
        files=tuple(write_reports(boards)),
    )


def _of(settings: Settings, tasks: Sequence[Task], option: str) -> tuple[Task, list[LoggedCandidate]]:
    """The one task that a queue is for, in its experiment, and its candidates under the rubric as it is now."""
    groups = {(t.suite.task, t.suite.rubric.sha256): t for t in tasks}
    if len(groups) != 1:
        names = (
            ", ".join(t.suite.path for t in groups.values()) or "none was collected; name the evals, pytest evals/ ..."
        )
        raise UsageError(f"{option}: a queue is for one suite; there are: {names}")
    store = where(settings).store()
    task = next(iter(groups.values()))
    task = replace(task, experiment=experiment_of(store, settings, task, option=option.split(maxsplit=1)[0]))
    rubric = task.suite.rubric
    candidates = store.read(task.experiment)
    return task, [c for c in candidates if c.rubric_sha256 == rubric.sha256 and c.task == task.suite.task]


def _by_reviewer(reviews: Sequence[Review]) -> dict[str, dict[str, dict[int, Review]]]:
    """Reviewer -> item -> output -> review."""
    found: dict[str, dict[str, dict[int, Review]]] = defaultdict(lambda: defaultdict(dict))
    for r in reviews:
        found[r.reviewer][r.item][r.output] = r
    return found
