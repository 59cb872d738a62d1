"""Candidates and verdicts into MLflow, and candidates with their verdicts out of it.

One run a candidate takes three store calls (create with all tags; parameters and metrics in one batch; finish), its
artifacts one upload, and traces are written many in one call. Which candidates exist is always asked of MLflow itself,
never believed from memory, so a crash at any point is repaired by logging the same entries again.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import tempfile
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from ..errors import TrackingError
from ..ledger import Entry
from ..locks import LockFile
from ..quiet import quiet_environment, without_collections
from ..records import Judge, LoggedCandidate, Rubric, Tier, Verdict
from ..settings import TAG_LIMIT
from . import entry as names
from . import verdicts
from .address import check_database, new_database, sqlite_file, translated
from .artifacts import file_name, files_of, write_files
from .candidates import UNREAD, candidate_of
from .entry import Logged, storable
from .runs import PAGE, ByTag, Runs, paged
from .spans import end_ms, start_ms, trace_id, trace_spans
from .tables import Run, reach


def load_mlflow() -> None:
    """Import MLflow (seconds) without opening any store, so that a process may fork afterwards."""
    quiet_environment()
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # SQLAlchemy's remark on MLflow's own models, once per process.
    warnings.filterwarnings("ignore", "The ``noload`` loader strategy is deprecated")
    with without_collections():
        import mlflow.store.tracking.sqlalchemy_store
        import mlflow.tracing.client
        import mlflow.tracking  # noqa: F401

    logging.getLogger("mlflow").setLevel(logging.ERROR)
    # What goes wrong in a database is raised, and said by us; this logs it too, as a traceback with all values written.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)


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


class TrackingStore:
    """One MLflow store. ``artifact_root`` is where new experiments keep artifacts; None leaves it to a server.

    Everything raises TrackingError where MLflow cannot be reached or refuses.
    """

    def __init__(self, uri: str, *, artifact_root: Path | None, locks: LockFile | None = None) -> None:
        self.uri = uri
        self._artifact_root = artifact_root
        self._locks = locks
        self._client: Any = None
        self._traces: Any = None
        self._runs: Runs | None = None
        self._ids: dict[str, str] = {}
        self._locations: dict[str, str] = {}
        self._known: dict[str, dict[str, _Known]] = {}
        self._judged: dict[str, ByTag] = {}

    # -- opening

    def open(self) -> None:
        """Import MLflow (seconds), and create or migrate the database, one process at a time."""
        if self._client is not None:
            return
        with translated(self.uri):
            load_mlflow()
            from mlflow.tracing.client import TracingClient
            from mlflow.tracking import MlflowClient

            name = f"migrate:{self.uri}"
            if self._locks is not None:
                self._locks.acquire(name)
            try:
                file = sqlite_file(self.uri)
                if file is not None and not file.exists():
                    new_database(file)
                elif file is not None:
                    check_database(file)
                elif self.uri.startswith("postgresql"):
                    reach(self.uri)
                client = MlflowClient(tracking_uri=self.uri)
                client.search_experiments(max_results=1)
            finally:
                if self._locks is not None:
                    self._locks.release(name)
            self._traces = TracingClient(self.uri)
            self._runs = Runs(client, self._traces, self.uri)
            self._client = client

    @property
    def exists(self) -> bool:
        """False where it is an SQLite file that nobody has made yet."""
        file = sqlite_file(self.uri)
        return file is None or file.exists()

    @property
    def client(self) -> Any:
        """MLflow's client, open. For the modules of this package."""
        self.open()
        return self._client

    @property
    def traces(self) -> Any:
        """MLflow's client for traces, open. For the modules of this package."""
        self.open()
        return self._traces

    @property
    def runs(self) -> Runs:
        """MLflow's runs, open. For the modules of this package."""
        self.open()
        assert self._runs is not None
        return self._runs

    def experiment(self, name: str, *, create: bool = False) -> str | None:
        """The id of an experiment, made if asked for; None where there is none of that name."""
        if name in self._ids:
            return self._ids[name]
        self.open()
        with translated(self.uri):
            found = self._client.get_experiment_by_name(name)
            if found is not None and found.lifecycle_stage == "deleted":
                raise TrackingError(
                    f"experiment {name!r} is deleted in MLflow: bring it back with  mlflow experiments restore "
                    f"--experiment-id {found.experiment_id}  or, for evals, name another with --bench-experiment"
                )
            if found is None:
                if not create:
                    return None
                location = None
                if self._artifact_root is not None:
                    location = (self._artifact_root / file_name(name)).absolute().as_uri()
                try:
                    self._ids[name] = str(self._client.create_experiment(name, artifact_location=location))
                except Exception:
                    found = self._client.get_experiment_by_name(name)  # another process was first
                    if found is None:
                        raise
            if found is not None:
                self._ids[name] = str(found.experiment_id)
        return self._ids[name]

    def experiments(self) -> list[str]:
        """The names of all active experiments."""
        self.open()
        with translated(self.uri):
            return [str(e.name) for e in self._experiments()]

    def _experiments(self) -> Iterator[Any]:
        return paged(functools.partial(self._client.search_experiments, max_results=PAGE))

    # -- writing candidates

    def forget(self) -> None:
        """Ask MLflow afresh which candidates exist: another process may have written some."""
        self._known.clear()

    def ping(self) -> None:
        """TrackingError where MLflow cannot be reached at all."""
        self.open()
        with translated(self.uri):
            self._client.search_experiments(max_results=1)

    def log(self, entries: Sequence[Entry]) -> list[str]:
        """Make sure that each entry has its run, complete with artifacts and trace. Returns the run ids, in order.

        A run that is there already gets the tags that the user asked for in this session. An answer completes the run
        of its cell's failure, so it comes after a failure that is among the entries.
        """
        failures = {_cell_of(Logged.from_json(e.record)) for e in entries if _failed(e)}
        if not failures:
            return self._log(entries)
        late = [not _failed(e) and _cell_of(Logged.from_json(e.record)) in failures for e in entries]
        first, then = (
            iter(self._log([e for e, x in zip(entries, late, strict=True) if x is y])) for y in (False, True)
        )
        return [next(then if x else first) for x in late]

    def _log(self, entries: Sequence[Entry]) -> list[str]:
        self.runs.forget()
        with translated(self.uri):
            logged, begun = self._write_runs(entries)
            with self.runs.together():
                self._write_traces(begun)
            for record, _, run_id, carried in begun:
                for verdict in verdicts.carried(carried) if carried is not None else ():
                    self._feedback(run_id, verdicts.feedback(verdict, record.rubric, run_id=run_id))
            with self.runs.together():
                for record, _, run_id, _ in begun:
                    status = "FAILED" if record.candidate.failed else "FINISHED"
                    self.runs.finish(run_id, status, end_time=end_ms(record))
            return logged

    def _write_runs(self, entries: Sequence[Entry]) -> tuple[list[str], list[_Begun]]:
        """The runs of all entries, and those among them that were not there yet, or not whole."""
        logged: list[str] = []
        begun: list[_Begun] = []
        ids = {name: self.experiment(name, create=True) for name in dict.fromkeys(e.experiment for e in entries)}
        records = [None if self._is_whole(e, ids[e.experiment]) else Logged.from_json(e.record) for e in entries]
        judged = self._judged_before(record for record in records if record is not None)
        with self.runs.together():
            for item, record in zip(entries, records, strict=True):
                experiment_id = ids[item.experiment]
                assert experiment_id is not None
                known = self._existing(item.experiment, experiment_id)
                run_id, status, tags = known.get(item.candidate, _Known("", "", {}))
                if not run_id and item.run_id and self._finished(item):
                    run_id, status = item.run_id, "FINISHED"  # another session has logged it since we looked
                if _ended(item, status):
                    asked = {k: str(v) for k, v in item.record.get("tags", {}).items() if tags.get(k) != v}
                    if asked:
                        self.runs.fill(run_id, tags=_storable(asked))
                        tags = {**tags, **asked}
                else:
                    assert record is not None
                    tags, carried = record.tags, judged.get(record.key)
                    run_id = self._write_run(record, experiment_id, run_id or None, known, carried)
                    begun.append(_Begun(record, experiment_id, run_id, carried))
                    if record.candidate.failed:
                        known[_cell_of(record)] = _Known(run_id, "FAILED", tags)
                logged.append(run_id)
                known[item.candidate] = _Known(run_id, "FINISHED", tags)
        return logged, begun

    def _is_whole(self, entry: Entry, experiment_id: str | None) -> bool:
        """Whether MLflow has the run of this entry, with all that belongs to it."""
        assert experiment_id is not None
        known = self._existing(entry.experiment, experiment_id).get(entry.candidate)
        return known is not None and _ended(entry, known.status)

    def _existing(self, name: str, experiment_id: str) -> dict[str, _Known]:
        """Candidate key -> its run in an experiment, and likewise the key of a failed cell -> its run."""
        if name not in self._known:
            known: dict[str, _Known] = {}
            for run in self.runs.find([experiment_id], {names.CANDIDATE: None}, without=UNREAD):
                value = _Known(run.run_id, run.status, run.tags)
                known.setdefault(run.tags[names.CANDIDATE], value)
                if _is_failure(run.status, run.tags):
                    known[_cell_of_run(run)] = value
            self._known[name] = known
        return self._known[name]

    def _finished(self, entry: Entry) -> bool:
        """Whether the run that this entry was logged as before is still there, and whole."""
        try:
            info = self._client.get_run(entry.run_id).info
        except Exception:
            return False
        return _ended(entry, info.status) and info.lifecycle_stage == "active"

    def _write_run(
        self,
        record: Logged,
        experiment_id: str,
        run_id: str | None,
        known: dict[str, _Known],
        carried: Run | None = None,
    ) -> str:
        """Everything of a run but its trace and its end. ``carried``: the run whose sit-down verdicts it takes over."""
        candidate, cell = record.candidate, record.candidate.cell
        tags = {
            **record.tags,
            names.JUDGE_PENDING: "false" if candidate.failed else "true",
            names.RUBRIC: record.rubric.id,
            names.RUBRIC_SHA256: record.rubric.sha256,
            names.RUBRIC_TEXT: record.rubric.text[:TAG_LIMIT],
            names.TASK: cell.task,
            names.CELL: cell.id,
            names.CANDIDATE: record.key,
            names.PROMPT_SHA256: cell.prompt.sha256,
            names.SESSION: record.session,
            **({names.CONTEXT: cell.context_sha256} if cell.context_sha256 else {}),
        }
        metrics: dict[str, float | None] = {
            "latency_s": candidate.latency_s,
            "prompt_tokens": candidate.usage.prompt_tokens,
            "completion_tokens": candidate.usage.completion_tokens,
            "cost_usd": candidate.cost_usd,
            **{name: float(value) for name, value in record.checks.items()},
        }
        if candidate.failed:
            tags[names.ERROR] = candidate.error or ""
        else:
            tags[names.JUDGED_TEXT] = record.judged_text
            if record.checks:
                tags[names.CHECKS] = json.dumps(record.checks)
            if carried is not None:
                tags.update(verdicts.carried_tags(carried))
                judged = {c.name for c in record.rubric.criteria} | {"composite"}
                metrics.update({k: v for k, v in carried.metrics.items() if k in judged})
        tags = _storable(tags)
        run = self._client.get_run(run_id) if run_id is not None else None
        if run is not None and run.data.tags.get(names.CANDIDATE) != record.key:
            run = None  # since we looked, it was taken for an answer
        cell_key = _cell_of(record)
        if run is None and cell_key in known and not candidate.failed:
            # The cell failed in an earlier session and has an answer now: its run is completed, not doubled.
            run = self._client.get_run(known.pop(cell_key).run_id)
            run = run if _is_failure(run.info.status, run.data.tags) else None
        mended, late_tags = False, {}
        if run is not None:
            run_id, artifacts = str(run.info.run_id), str(run.info.artifact_uri)
            mended = not candidate.failed and (run.info.status == "FAILED" or names.ERROR in run.data.tags)
            late_tags = tags if mended else _storable(record.tags)
        else:
            run_id, artifacts = self.runs.create(
                experiment_id,
                start_time=start_ms(record),
                tags=tags,
                name=storable(" · ".join(cell.names))[:250],
            )
        self.runs.fill(
            run_id,
            at=end_ms(record),
            params={
                "model": storable(cell.model.name),
                "prompt": storable(cell.prompt.version),
                "scenario": storable(cell.scenario.id),
            },
            metrics={k: float(v) for k, v in metrics.items() if v is not None},
            tags=late_tags,
        )
        if run is not None and mended:
            # After the tags: where each call is kept by itself, the answer's key is what finds the run again.
            self.runs.reopen(run_id)
            if names.ERROR in run.data.tags:
                self.runs.delete_tag(run_id, names.ERROR)
        self._write_artifacts(run_id, artifacts, files_of(record))
        return run_id

    def _write_artifacts(self, run_id: str, uri: str, files: Mapping[str, bytes]) -> None:
        """Into the run's folder where it is a local one: MLflow's client would read the run back first, to find it."""
        local = _local_folder(uri)
        if local is not None:
            write_files(str(local), files)
            return
        with tempfile.TemporaryDirectory(prefix="promptbench-") as folder:
            write_files(folder, files)
            self._client.log_artifacts(run_id, folder)

    def _judged_before(self, records: Iterable[Logged]) -> dict[str, Run]:
        """Candidate key -> the run, of any experiment, whose same text was judged under the same rubric.

        Of several the one whose verdict counts among theirs: not every run of a text has all verdicts on it.
        """
        by_rubric: dict[str, list[Logged]] = {}
        for record in records:
            if not record.candidate.failed:
                by_rubric.setdefault(record.rubric.sha256, []).append(record)
        found: dict[str, Run] = {}
        for rubric, some in by_rubric.items():
            if rubric not in self._judged:
                ids = [e.experiment_id for e in self._experiments()]
                wanted = {names.JUDGE_PENDING: "false", names.RUBRIC_SHA256: rubric, names.JUDGE_KIND: None}
                about = names.JUDGE_KIND, names.JUDGED_AT
                self._judged[rubric] = self.runs.by_tag(
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
            self.runs.trace(experiment_id, spans)
        for one in begun:
            self.runs.link(trace_id(one.run_id), one.run_id)

    # -- reading

    def read(self, experiment: str, *, tags: Mapping[str, str] | None = None) -> list[LoggedCandidate]:
        """Every complete candidate of an experiment with its verdicts, oldest first, without texts.

        ``tags``: only those that have these tags with these values.
        """
        experiment_id = self.experiment(experiment)
        if experiment_id is None:
            return []
        wanted = {names.CANDIDATE: None, **(tags or {})}
        with translated(self.uri), without_collections():
            found = self.runs.find([experiment_id], wanted, without=UNREAD)
            candidates = [candidate_of(run, experiment) for run in found if run.status in ("FINISHED", "FAILED")]
            return sorted(candidates, key=lambda c: (c.started_at, c.run_id))

    def texts(self, candidates: Sequence[LoggedCandidate]) -> list[LoggedCandidate]:
        """The same candidates with ``outputs`` and ``context`` from their artifacts; failed ones have no outputs.

        Those that have them already are not loaded again.
        """
        self.open()

        def load(candidate: LoggedCandidate) -> LoggedCandidate:
            if candidate.outputs is not None and candidate.context is not None:
                return candidate
            outputs = () if candidate.error else tuple(self._artifact(candidate, "candidate_outputs.json"))
            return dataclasses.replace(
                candidate, outputs=outputs, context=self._artifact(candidate, "context.json")["vars"]
            )

        with translated(self.uri), ThreadPoolExecutor(8) as pool:
            return list(pool.map(load, candidates))

    def messages(self, candidates: Sequence[LoggedCandidate]) -> list[list[dict[str, str]]]:
        """The rendered messages that each candidate's model was sent, from its artifact ``prompt.json``."""
        self.open()
        with translated(self.uri), ThreadPoolExecutor(8) as pool:
            return list(pool.map(lambda c: list(self._artifact(c, "prompt.json")), candidates))

    def _artifact(self, candidate: LoggedCandidate, file: str) -> Any:
        from mlflow.artifacts import load_text

        folder = self._artifact_uri(candidate)
        local = _local_folder(folder)
        return json.loads(load_text(f"{folder}/{file}") if local is None else (local / file).read_text("utf-8"))

    def _artifact_uri(self, candidate: LoggedCandidate) -> str:
        name = candidate.experiment
        if name not in self._locations:
            self._locations[name] = str(self._client.get_experiment(self.experiment(name)).artifact_location)
        return f"{self._locations[name].rstrip('/')}/{candidate.run_id}/artifacts"

    # -- verdicts

    def record(
        self, candidate: LoggedCandidate, verdict: Verdict, rubric: Rubric, *, second: bool = False
    ) -> LoggedCandidate:
        """Keep a verdict with its candidate, on the run and as feedback on its trace; the candidate as it is then.

        The run's own metrics show the verdict that counts of its tier. A ``second`` verdict, of a judge that saw the
        candidate once more, is kept beside the first and changes nothing else. Recording the same verdict again is
        harmless.
        """
        tags, metrics = verdicts.changes(candidate, verdict, rubric, second=second)
        with translated(self.uri), self.runs.together():
            if not second:
                old = next((v for v in candidate.verdicts if v.judge == verdict.judge), None)
                given = verdicts.feedback(verdict, rubric, run_id=candidate.run_id, before=old)
                self._feedback(candidate.run_id, given)
            if verdict.judge.name in candidate.failed_verdicts and verdict.judge.tier is Tier.AUTO:
                self.runs.delete_tag(candidate.run_id, verdicts.failed_tag(verdict.judge))
            self.runs.fill(
                candidate.run_id,
                at=int(time.time() * 1000),
                metrics={k: float(v) for k, v in metrics.items() if v is not None},
                tags=_storable(tags),
            )
        return verdicts.with_verdict(candidate, verdict, second=second)

    def record_failure(self, candidate: LoggedCandidate, judge: Judge, problem: str, rubric: Rubric) -> LoggedCandidate:
        """Keep that an automatic judge gave no valid verdict. An earlier verdict of it stays."""
        problem = problem[:1000]
        tags = {verdicts.failed_tag(judge): json.dumps({"judge": judge.name, "problem": problem})}
        with translated(self.uri), self.runs.together():
            self._feedback(candidate.run_id, verdicts.failed_feedback(judge, problem, rubric, run_id=candidate.run_id))
            self.runs.fill(candidate.run_id, tags=_storable(tags))
        failed = {**candidate.failed_verdicts, judge.name: problem}
        return dataclasses.replace(candidate, failed_verdicts=failed)

    def _feedback(self, run_id: str, feedback: Sequence[Any]) -> None:
        """Log assessments on a run's trace. A run that another program wrote may have no trace of ours."""
        try:
            self.runs.assess(trace_id(run_id), feedback)
        except Exception as error:
            if getattr(error, "error_code", None) != "RESOURCE_DOES_NOT_EXIST":
                raise

    def tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags on a run."""
        with translated(self.uri):
            self.runs.fill(run_id, tags=_storable(tags))

    def rubric_text(self, candidate: LoggedCandidate) -> str:
        """The text of the rubric that a candidate was logged with: from its tag, of a long one from its artifact."""
        self.open()
        from mlflow.artifacts import load_text

        with translated(self.uri):
            text = str(self._client.get_run(candidate.run_id).data.tags.get(names.RUBRIC_TEXT, ""))
            if len(text) < TAG_LIMIT:
                return text
            folder = self._artifact_uri(candidate)
            local = _local_folder(folder)
            if local is not None:
                file = local / "rubric.md"
                return file.read_text(encoding="utf-8") if file.exists() else text
            listed = self._client.list_artifacts(candidate.run_id)
            return str(load_text(f"{folder}/rubric.md")) if any(a.path == "rubric.md" for a in listed) else text


def _local_folder(uri: str) -> Path | None:
    """The folder of an artifact address on this machine; None of any other."""
    return Path(unquote(urlsplit(uri).path)) if uri.startswith("file:") else None


def _storable(tags: Mapping[str, str]) -> dict[str, str]:
    return {k: storable(v)[:TAG_LIMIT] for k, v in tags.items()}


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
