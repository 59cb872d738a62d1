"""Candidates into MLflow, exactly once.

One run a candidate takes three store calls (create with all tags; parameters and metrics in one batch; finish), its
artifacts one upload, and traces are written many in one call. Which candidates exist is always asked of MLflow itself,
never believed from memory, so a crash at any point is repaired by logging the same entries again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ..checks import violations
from ..clock import iso_utc
from ..ledger import Entry
from ..records import composite
from . import entry as names
from . import verdicts
from .address import code_of
from .artifacts import files_of
from .candidates import UNREAD
from .entry import Logged, storable, storable_tags
from .runs import ByTag
from .spans import end_ms, start_ms, trace_id, trace_spans
from .tables import Run

if TYPE_CHECKING:
    from .store import TrackingStore


class _Known(NamedTuple):
    """A run that MLflow has of a candidate."""

    run_id: str
    status: str
    tags: Mapping[str, str]


class _Begun(NamedTuple):
    """A run that is whole but for its trace and its end. ``carried``: the run whose sit-down verdicts it takes over."""

    record: Logged
    experiment_id: str
    run_id: str
    carried: Run | None


class CandidateLog:
    """The candidates that a store has, as far as somebody looked, and those to come. Of one store and one thread."""

    def __init__(self, store: TrackingStore) -> None:
        self._store = store
        self._known: dict[str, dict[str, _Known]] = {}
        self._judged: dict[str, ByTag] = {}
        self._completed: dict[str, str] = {}  # run of a failure -> key of the answer that completes it

    def forget(self) -> None:
        """Ask MLflow afresh which candidates exist: another process may have written some."""
        self._known.clear()
        self._completed.clear()

    def write(self, entries: Sequence[Entry]) -> list[str]:
        """As :meth:`.store.TrackingStore.log` has it."""
        failures = {_cell_of(Logged.from_json(e.record)) for e in entries if _failed(e)}
        if not failures:
            return self._write(entries)
        late = [not _failed(e) and _cell_of(Logged.from_json(e.record)) in failures for e in entries]
        first, then = (
            iter(self._write([e for e, x in zip(entries, late, strict=True) if x is y])) for y in (False, True)
        )
        return [next(then if x else first) for x in late]

    def _write(self, entries: Sequence[Entry]) -> list[str]:
        runs = self._store.runs
        runs.forget()
        logged, begun = self._write_runs(entries)
        with runs.together():
            self._write_traces(begun)
        for record, _, run_id, carried in begun:
            for verdict in verdicts.carried(carried) if carried is not None else ():
                runs.assess(trace_id(run_id), verdicts.feedback(verdict, record.rubric, run_id=run_id))
        with runs.together():
            runs.each(self._end, begun)
        return logged

    def _end(self, one: _Begun) -> None:
        status = "FAILED" if one.record.candidate.failed else "FINISHED"
        self._store.runs.finish(one.run_id, status, end_time=end_ms(one.record))

    def _write_runs(self, entries: Sequence[Entry]) -> tuple[list[str], list[_Begun]]:
        """The runs of all entries, and those among them that were not there yet, or not whole."""
        ids = {name: self._store.experiment(name, create=True) for name in dict.fromkeys(e.experiment for e in entries)}
        records = [None if self._is_whole(e, ids[e.experiment]) else Logged.from_json(e.record) for e in entries]
        judged = self._judged_before(record for record in records if record is not None)

        def write(item: Entry, record: Logged | None) -> tuple[str, _Begun | None]:
            experiment_id = ids[item.experiment]
            assert experiment_id is not None
            return self._write_one(item, record, experiment_id, None if record is None else judged.get(record.key))

        with self._store.runs.together():
            done = self._store.runs.each(lambda one: write(*one), zip(entries, records, strict=True))
        return [run_id for run_id, _ in done], [begun for _, begun in done if begun is not None]

    def _write_one(
        self, item: Entry, record: Logged | None, experiment_id: str, carried: Run | None
    ) -> tuple[str, _Begun | None]:
        """The run of an entry, and what was begun where it was not whole; others are written in other threads."""
        known = self.existing(item.experiment, experiment_id)
        run_id, status, tags = known.get(item.candidate, _Known("", "", {}))
        if not run_id and item.run_id and self._finished(item, experiment_id):
            run_id, status = item.run_id, "FINISHED"  # another session has logged it since we looked
        begun = None
        if _ended(item, status):
            asked = {k: str(v) for k, v in item.record.get("tags", {}).items() if tags.get(k) != v}
            if asked:
                self._store.runs.fill(run_id, tags=storable_tags(asked))
                tags = {**tags, **asked}
        else:
            assert record is not None
            tags = record.tags
            run_id = self._write_run(record, experiment_id, run_id or None, known, carried, item.failure)
            begun = _Begun(record, experiment_id, run_id, carried)
            if record.candidate.failed:
                known[_cell_of(record)] = _Known(run_id, "FAILED", tags)
        known[item.candidate] = _Known(run_id, "FINISHED", tags)
        return run_id, begun

    def _is_whole(self, entry: Entry, experiment_id: str | None) -> bool:
        """Whether MLflow has the run of this entry, with all that belongs to it."""
        assert experiment_id is not None
        known = self.existing(entry.experiment, experiment_id).get(entry.candidate)
        return known is not None and _ended(entry, known.status)

    def existing(self, name: str, experiment_id: str) -> dict[str, _Known]:
        """Candidate key -> its run in an experiment, and likewise the key of a failed cell -> its run."""
        if name not in self._known:
            known: dict[str, _Known] = {}
            for run in self._store.runs.find([experiment_id], {names.CANDIDATE: None}, without=UNREAD):
                value = _Known(run.run_id, run.status, run.tags)
                known.setdefault(run.tags[names.CANDIDATE], value)
                if _is_failure(run.status, run.tags):
                    known[_cell_of_run(run)] = value
            self._known[name] = known
        return self._known[name]

    def _finished(self, entry: Entry, experiment_id: str) -> bool:
        """Whether the run that this entry was logged as before is still there, and whole."""
        assert entry.run_id is not None
        run = self._active(entry.run_id, experiment_id)
        return run is not None and _ended(entry, run.info.status)

    def _active(self, run_id: str, experiment_id: str) -> Any:
        """MLflow's run of that id; None where it was deleted, or its experiment has another name by now."""
        try:
            run = self._store.client.get_run(run_id)
        except Exception as error:
            if code_of(error) != "RESOURCE_DOES_NOT_EXIST":  # else it would be logged a second time
                raise
            return None
        here = str(run.info.experiment_id) == experiment_id
        return run if here and run.info.lifecycle_stage == "active" else None

    def _write_run(
        self,
        record: Logged,
        experiment_id: str,
        run_id: str | None,
        known: dict[str, _Known],
        carried: Run | None = None,
        failure: str | None = None,
    ) -> str:
        """Everything of a run but its trace and its end. ``carried``: the run whose sit-down verdicts it takes over.

        ``failure``: the run of its cell's failure, should another writer have logged that since we looked.
        """
        candidate, cell = record.candidate, record.candidate.cell
        runs, (scored, scores) = self._store.runs, _by_checks(record)
        tags = storable_tags(_tags_of(record, carried) | scored)
        run = self._begun_before(record, experiment_id, run_id, known, failure)
        mended = run is not None and not candidate.failed and _shows_failure(run)
        if run is None:
            name = storable(" · ".join(cell.names))[:250]
            run_id, artifacts = runs.create(experiment_id, start_time=start_ms(record), tags=tags, name=name)
            late_tags: Mapping[str, str] = {}
        else:
            run_id, artifacts = str(run.info.run_id), str(run.info.artifact_uri)
            late_tags = tags if mended else storable_tags(record.tags)
        runs.fill(
            run_id,
            at=end_ms(record),
            params={
                "model": storable(cell.model.name),
                "prompt": storable(cell.prompt.version),
                "scenario": storable(cell.scenario.id),
            },
            metrics=_metrics_of(record, carried) | scores,
            tags=late_tags,
        )
        if run is not None and mended:
            # After the tags: where each call is kept by itself, the answer's key is what finds the run again.
            runs.reopen(run_id)
            if names.ERROR in run.data.tags:
                runs.delete_tag(run_id, names.ERROR)
        self._store.artifacts.write(artifacts, files_of(record))
        return run_id

    def _begun_before(
        self, record: Logged, experiment_id: str, run_id: str | None, known: dict[str, _Known], failure: str | None
    ) -> Any:
        """MLflow's run that this record completes: one that was broken off, or its cell's failure; None for neither."""
        run = self._store.client.get_run(run_id) if run_id is not None else None
        if run is not None and run.data.tags.get(names.CANDIDATE) == record.key:
            return run
        # None, or since we looked it was taken for an answer. Where the cell failed in an earlier session and has an
        # answer now, its run is completed, not doubled.
        if not record.candidate.failed and (failed := known.pop(_cell_of(record), None)) is not None:
            failure = failed.run_id
        # Of several answers of a cell one completes its failure: they may be written at the same time.
        if failure is not None and self._completed.setdefault(failure, record.key) != record.key:
            return None
        run = self._active(failure, experiment_id) if failure is not None else None
        return run if run is not None and _is_failure(run.info.status, run.data.tags) else None

    def _judged_before(self, records: Iterable[Logged]) -> dict[str, Run]:
        """Candidate key -> the run, of any experiment, whose same text was judged under the same rubric.

        Of several the one whose verdict counts among theirs: not every run of a text has all verdicts on it.
        """
        by_rubric: dict[str, list[Logged]] = {}
        for record in records:
            if not record.candidate.failed and record.rubric.judged:
                by_rubric.setdefault(record.rubric.sha256, []).append(record)
        found: dict[str, Run] = {}
        for rubric, some in by_rubric.items():
            if rubric not in self._judged:
                ids = self._store.experiment_ids()
                wanted = {names.JUDGE_PENDING: "false", names.RUBRIC_SHA256: rubric, names.JUDGE_KIND: None}
                about = names.JUDGE_KIND, names.JUDGED_AT
                self._judged[rubric] = self._store.runs.by_tag(
                    ids, wanted, names.JUDGED_TEXT, also=about, place=verdicts.standing, without=UNREAD
                )
            texts = {record.key: record.judged_text for record in some}
            runs = self._judged[rubric].get(texts.values())
            found |= {key: runs[text] for key, text in texts.items() if text in runs}
        return found

    def _write_traces(self, begun: Sequence[_Begun]) -> None:
        """One trace a candidate, linked to its run; many traces in one store call."""
        by_experiment: dict[str, list[Any]] = {}
        for record, experiment_id, run_id, _ in begun:
            by_experiment.setdefault(experiment_id, []).extend(trace_spans(record, trace_id(run_id)))
        for experiment_id, spans in by_experiment.items():
            self._store.runs.trace(experiment_id, spans)
        self._store.runs.each(lambda one: self._store.runs.link(trace_id(one.run_id), one.run_id), begun)


def _tags_of(record: Logged, carried: Run | None) -> dict[str, str]:
    candidate, cell = record.candidate, record.candidate.cell
    tags = {
        **record.tags,
        names.JUDGE_PENDING: "false" if candidate.failed else "true",
        names.RUBRIC: record.rubric.id,
        names.RUBRIC_SHA256: record.rubric.sha256,
        names.RUBRIC_TEXT: record.rubric.text,
        names.TASK: cell.task,
        names.CELL: cell.id,
        names.CANDIDATE: record.key,
        names.PROMPT_SHA256: cell.prompt.sha256,
        names.SESSION: record.session,
        **({names.CONTEXT: cell.context_sha256} if cell.context_sha256 else {}),
    }
    if candidate.failed:
        tags[names.ERROR] = candidate.error or ""
    else:
        tags[names.JUDGED_TEXT] = record.judged_text
        if record.checks:
            tags[names.CHECKS] = json.dumps(record.checks)
        if carried is not None:
            tags |= verdicts.carried_tags(carried)
    return tags


def _by_checks(record: Logged) -> tuple[dict[str, str], dict[str, float]]:
    """The tags and metrics of a run that programs have scored: under a rubric that they fill alone."""
    if record.rubric.judged or record.candidate.failed:
        return {}, {}
    rubric, candidate, at = record.rubric, record.candidate, iso_utc(end_ms(record) / 1000)
    why = "\n".join(violations(rubric, candidate.outputs, candidate.cell.scenario.vars, record.checks))
    tags, metrics = verdicts.of_checks(record.checks, rubric, rationale=why or None, at=at)
    return tags, {k: float(v) for k, v in metrics.items() if v is not None}


def _metrics_of(record: Logged, carried: Run | None) -> dict[str, float]:
    candidate = record.candidate
    metrics: dict[str, float | None] = {
        "latency_s": candidate.latency_s,
        "prompt_tokens": candidate.usage.prompt_tokens,
        "completion_tokens": candidate.usage.completion_tokens,
        "cost_usd": candidate.cost_usd,
        **{name: float(value) for name, value in record.checks.items()},
    }
    if carried is not None and not candidate.failed:
        # A scorer may find today what it did not when the text was judged, where what its file imports has changed.
        judged = {c.name for c in record.rubric.judged if c.name in carried.metrics}
        scores = {**{name: carried.metrics[name] for name in judged}, **record.checks}
        metrics |= scores | {"composite": composite(scores, record.rubric)}
    return {k: float(v) for k, v in metrics.items() if v is not None}


def _shows_failure(run: Any) -> bool:
    return run.info.status == "FAILED" or names.ERROR in run.data.tags


def _ended(entry: Entry, status: str) -> bool:
    """Whether a run of that status has all that belongs to this entry.

    FAILED is the end of a failure only: the run of one that an answer completes is that until the answer is whole.
    """
    return status == "FINISHED" or (status == "FAILED" and _failed(entry))


def _failed(entry: Entry) -> bool:
    return entry.record["candidate"]["error"] is not None


def _is_failure(status: str, tags: Mapping[str, str]) -> bool:
    """Whether a run is one of a failure, which no answer has begun to complete."""
    return status == "FAILED" and names.JUDGED_TEXT not in tags


def _cell_of(record: Logged) -> str:
    """What a cell's answer and its failure have in common, as :func:`_cell_of_run` reads it from a run."""
    cell = record.candidate.cell
    return _cell_key(cell.task, *(storable(name) for name in cell.names), cell.id, record.rubric.sha256)


def _cell_of_run(run: Run) -> str:
    params, tags = run.params, run.tags
    cell = (params.get(name) for name in ("model", "prompt", "scenario"))
    return _cell_key(tags.get(names.TASK), *cell, tags.get(names.CELL), tags.get(names.RUBRIC_SHA256))


def _cell_key(*parts: str | None) -> str:
    return json.dumps(parts)
