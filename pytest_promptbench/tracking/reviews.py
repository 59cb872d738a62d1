"""MLflow's own review pages: blind traces in a review queue, the rubric's criteria as its questions."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import time
import unicodedata
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

from ..errors import TrackingError, UsageError
from ..records import Criterion, Record, Rubric, Score, sha256
from .address import code_of, translated
from .entry import storable
from .runs import paged
from .store import TrackingStore

ITEM = "promptbench.review_item"
OUTPUT = "promptbench.review_output"
YES, NO = "yes", "no"


@dataclass(frozen=True, kw_only=True)
class ReviewItem(Record):
    """One output of one candidate as a reviewer sees it. ``revealed`` is empty in a blind queue."""

    item: str
    output: int
    context: Mapping[str, Any]
    text: str
    revealed: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Review(Record):
    """What the reviewer who completed an item answered about its output.

    Criteria without an answer are not in ``scores``. ``at``: when the last of it was said, in milliseconds since the
    epoch. ``others``: who else answered on it.
    """

    item: str
    output: int
    reviewer: str
    scores: Mapping[str, Score]
    at: int
    rationale: str | None = None
    others: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Collected:
    """Of a queue the reviews of completed items, the traces that wait, and what became of the others.

    ``declined``: item -> who declined it. ``strange``: completed or declined ones that are no trace of ours.
    """

    reviews: tuple[Review, ...]
    waiting: Set[str]
    declined: Mapping[str, str]
    strange: tuple[str, ...]


class ReviewQueues:
    """The review queues of one MLflow store (3.14 or newer). TrackingError where it cannot be reached or refuses."""

    def __init__(self, store: TrackingStore) -> None:
        self._store = store

    def fill(self, experiment: str, queue: str, items: Sequence[ReviewItem], rubric: Rubric) -> bool:
        """Put these items into the queue, which is made if there is none. What is there already stays as it is.

        A trace is written for an item that is not in the queue yet, and for no other: what a reviewer has before them
        does not change. Their order says nothing about where the texts came from. True where nobody can answer yet: a
        server with authentication, which names the queue's owner, takes answers of assigned reviewers alone.
        """
        reviews = self._module()
        experiment_id = self._experiment_id(experiment)
        with translated(self._store.uri):
            schemas = self._schemas(experiment_id, rubric)
            found = self._find(experiment_id, queue)
            there: set[str] = set()
            if found is None:
                found = reviews.create_review_queue(
                    queue, queue_type="custom", schema_ids=schemas, experiment_id=experiment_id
                )
            elif set(found.schema_ids or ()) != set(schemas):
                raise UsageError(
                    f"--judge-queue {queue}: the queue asks other questions than the rubric {rubric.id}; name a new one"
                )
            else:
                there = {item.item_id for item in self._items(reviews, found.queue_id)}
            all_of_it = ((review_trace(experiment, queue, i.item, i.output), i) for i in items)
            # By their hashes: pages show items and traces by time, and as generated each model's stand together.
            fresh = {t: i for t, i in sorted(all_of_it, key=lambda one: one[0]) if t not in there}
            if fresh:
                self._store.traces.log_spans(experiment_id, [_span(t, i, rubric) for t, i in fresh.items()])
                ids = list(fresh)
                for start in range(0, len(ids), 100):
                    reviews.add_items_to_review_queue(found.queue_id, item_ids=ids[start : start + 100])
        return bool(found.created_by) and not found.users

    def collect(self, experiment: str, queue: str, rubric: Rubric) -> Collected:
        """What there is in a queue. UsageError where there is none of this name."""
        reviews = self._module()
        experiment_id = self._experiment_id(experiment)
        done, declined, strange = [], {}, []
        with translated(self._store.uri):
            found = self._find(experiment_id, queue)
            if found is None:
                raise UsageError(
                    f"--judge-collect {queue}: {experiment} has no review queue of this name; name the experiment that "
                    "it was filled for with --bench-experiment"
                )
            known = self._known_schemas(experiment_id)
            edited = [c for c in rubric.judged if c.name in known and known[c.name].input != _input(c)]
            if edited:  # what was answered may be meant on another scale
                raise UsageError(
                    f"--judge-collect {queue}: the label schema {edited[0].name!r} has other answers than "
                    f"{_allowed(edited[0])}, as the rubric {rubric.id} has: it was edited in MLflow, or the rubric in "
                    "its file. Put it back as it was when the queue was filled, or fill a new queue"
                )
            items = self._items(reviews, found.queue_id)
            for item in items:
                if _status(item) == "pending":
                    continue
                info = self._info(item.item_id)
                if info is None or ITEM not in info.tags:
                    strange.append(item.item_id)
                elif _status(item) == "declined":
                    declined[info.tags[ITEM]] = _person(item.completed_by)
                else:
                    done.append(_review(info, item, rubric))
        waiting = {item.item_id for item in items if _status(item) == "pending"}
        return Collected(reviews=tuple(done), waiting=waiting, declined=declined, strange=tuple(strange))

    def _info(self, trace: str) -> Any:
        """None where there is no such trace: a queue takes any id."""
        try:
            return self._store.traces.get_trace_info(trace)
        except Exception as error:
            if code_of(error) == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise

    def _module(self) -> Any:
        self._store.open()
        try:
            import mlflow
            from mlflow.genai import review_queues
        except ImportError:
            raise TrackingError("review queues need MLflow 3.14 or newer: pip install --upgrade mlflow") from None
        mlflow.set_tracking_uri(self._store.uri)  # these functions know no other way to be told
        return review_queues

    def _experiment_id(self, experiment: str) -> str:
        found = self._store.experiment(experiment)
        if found is None:
            raise UsageError(f"MLflow has no experiment {experiment!r}")
        return found

    def _find(self, experiment_id: str, queue: str) -> Any:
        from mlflow.genai import review_queues

        queues = paged(functools.partial(review_queues.list_review_queues, experiment_id=experiment_id))
        return next((q for q in queues if q.name == queue), None)

    def _items(self, reviews: Any, queue_id: str) -> list[Any]:
        return list(paged(functools.partial(reviews.list_review_queue_items, queue_id)))

    def _known_schemas(self, experiment_id: str) -> dict[str, Any]:
        from mlflow.genai import label_schemas

        return {s.name: s for s in paged(functools.partial(label_schemas.list_label_schemas, experiment_id))}

    def _schemas(self, experiment_id: str, rubric: Rubric) -> list[str]:
        """The ids of one label schema a judged criterion; one of the same name that asks otherwise is refused."""
        from mlflow.genai import label_schemas

        known = self._known_schemas(experiment_id)
        ids = []
        for criterion in rubric.judged:
            wanted = _input(criterion)
            schema = known.get(criterion.name)
            if schema is None:
                schema = label_schemas.create_label_schema(
                    criterion.name,
                    type="feedback",
                    input=wanted,
                    instruction=f"{_allowed(criterion)}; the rubric {rubric.id} stands in the trace's inputs",
                    enable_comment=True,
                    experiment_id=experiment_id,
                )
            elif schema.input != wanted:
                raise UsageError(
                    f"--judge-queue: the experiment has a label schema {criterion.name!r} with other answers than "
                    f"{_allowed(criterion)}; delete it in MLflow, or use a new experiment"
                )
            ids.append(str(schema.schema_id))
        return ids


def _input(criterion: Criterion) -> Any:
    from mlflow.genai.label_schemas import InputCategorical, InputNumeric, InputPassFail

    if criterion.type == "flag":
        return InputPassFail(positive_label=YES, negative_label=NO)
    low, high = criterion.min or 0.0, criterion.max or 0.0
    if criterion.stepped:
        return InputCategorical(options=[str(n) for n in range(int(low), int(high) + 1)])
    return InputNumeric(min_value=low, max_value=high)


def _allowed(criterion: Criterion) -> str:
    return "yes or no" if criterion.type == "flag" else criterion.allowed


def review_trace(experiment: str, queue: str, item: str, output: int) -> str:
    """The id of the trace that shows one output of an item in a queue."""
    return "tr-" + sha256(["promptbench-review", experiment, queue, item, output])[:32]


def _span(trace: str, item: ReviewItem, rubric: Rubric) -> Any:
    """What a reviewer sees: the scenario, the text, the rubric, and of where the text came from what is revealed.

    Each stands under a name of its own, so that no variable of a scenario takes the place of another.
    """
    from mlflow.entities import Span

    now = time.time_ns()
    attributes = {
        "mlflow.traceRequestId": trace,
        "mlflow.spanType": "CHAIN",
        "mlflow.traceTag.mlflow.traceName": f"review {item.item}",
        f"mlflow.traceTag.{ITEM}": item.item,
        f"mlflow.traceTag.{OUTPUT}": str(item.output),
        "mlflow.spanInputs": {
            "context": dict(item.context),
            "rubric": rubric.text,
            **({"revealed": dict(item.revealed)} if item.revealed else {}),
        },
        "mlflow.spanOutputs": item.text,
    }
    return Span.from_dict(
        {
            "trace_id": base64.b64encode(bytes.fromhex(trace.removeprefix("tr-"))).decode(),
            "span_id": base64.b64encode(hashlib.sha256(trace.encode()).digest()[:8]).decode(),
            "parent_span_id": None,
            "name": "review",
            "start_time_unix_nano": now,
            "end_time_unix_nano": now,
            "events": [],
            "status": {"code": "STATUS_CODE_OK", "message": ""},
            "attributes": {k: storable(json.dumps(v, ensure_ascii=False)) for k, v in attributes.items()},
        }
    )


def _status(item: Any) -> str:
    return str(item.status.value).lower()


def _review(info: Any, item: Any, rubric: Rubric) -> Review:
    """The latest answers of the person who completed an item; those of others are not theirs.

    MLflow's page shows each person their own answers alone, too, and takes names as equal that differ in case.
    """
    judged = {c.name: c for c in rubric.judged}
    reviewer = _person(item.completed_by)
    answers = sorted(
        (
            a
            for a in info.assessments
            if a.name in judged and a.source.source_type == "HUMAN" and a.valid is not False and _answer(a) is not None
        ),
        key=_said_at,
    )
    latest = {a.name: a for a in answers if _person(a.source.source_id) == reviewer}
    comments = dict.fromkeys(a.rationale for a in latest.values() if a.rationale)
    return Review(
        item=info.tags[ITEM],
        output=int(info.tags.get(OUTPUT, "0")),
        reviewer=reviewer,
        scores={name: _score(_answer(a), judged[name]) for name, a in latest.items()},
        at=max([item.completed_time_ms or 0, *map(_said_at, latest.values())]),
        rationale="\n".join(comments) or None,
        others=tuple(sorted({_person(a.source.source_id) for a in answers} - {reviewer})),
    )


def _person(name: str | None) -> str:
    """A reviewer's name as MLflow keeps it with an item that they completed, its letters spelt as a packet's are."""
    return unicodedata.normalize("NFC", (name or "").strip().lower())


def _said_at(assessment: Any) -> int:
    return assessment.last_update_time_ms or assessment.create_time_ms or 0


def _answer(assessment: Any) -> Any:
    return None if assessment.feedback is None else assessment.feedback.value


def _score(value: Any, criterion: Criterion) -> Score:
    """An answer as a score; what it cannot be read as stays as it is, for the packet's validation to name."""
    if isinstance(value, str):
        if criterion.type == "flag" and value in (YES, NO):
            return value == YES
        try:
            return float(value)
        except ValueError:
            return value  # type: ignore[return-value]
    return value  # type: ignore[no-any-return]
