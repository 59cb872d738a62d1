"""Candidates and verdicts into MLflow, and candidates with their verdicts out of it.

How candidates come in exactly once is :mod:`.log`'s, the runs below are :mod:`.runs`'s.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ..errors import SpoiltError, TrackingError
from ..ledger import Entry
from ..locks import LockFile, alone_in
from ..quiet import quiet_environment, without_collections
from ..records import Judge, LoggedCandidate, Rubric, Score, Tier, Verdict
from ..settings import TAG_LIMIT
from . import entry as names
from . import verdicts
from .address import check_database, code_of, new_database, sqlite_file, translated
from .artifacts import RUBRIC_FILE, Artifacts, file_name
from .candidates import UNREAD, candidate_of
from .entry import storable_tags
from .log import CandidateLog
from .runs import AT_A_TIME, PAGE, Runs, paged
from .spans import trace_id
from .tables import reach
from .verdicts import Ruling


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
        self._log = CandidateLog(self)
        self.artifacts = Artifacts(self, artifact_root)

    # -- opening

    def open(self) -> None:
        """Import MLflow (seconds), and create or migrate the database, one process at a time."""
        if self._client is not None:
            return
        with translated(self.uri):
            load_mlflow()
            from mlflow.tracing.client import TracingClient
            from mlflow.tracking import MlflowClient

            with self._alone():
                file = sqlite_file(self.uri)
                if file is not None and not file.exists():
                    new_database(file)
                elif file is not None:
                    check_database(file)
                elif self.uri.startswith("postgresql"):
                    reach(self.uri)
                client = MlflowClient(tracking_uri=self.uri)
                client.search_experiments(max_results=1)
            self._traces = TracingClient(self.uri)
            self._runs = Runs(client, self._traces, self.uri)
            self._client = client

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """One process at a time, whoever it is where the store is a file; else of those that share locks."""
        file = sqlite_file(self.uri)
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            with alone_in(file.parent):
                yield
            return
        name = f"migrate:{self.uri}"
        if self._locks is not None:
            self._locks.acquire(name)
        try:
            yield
        finally:
            if self._locks is not None:
                self._locks.release(name)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """For what takes a moment, reads first and writes after: nobody else's such moment comes between, as above."""
        self.open()
        with self._alone():
            yield

    @property
    def exists(self) -> bool:
        """False where it is an SQLite file that nobody has made yet: who only reads finds nothing, and makes none."""
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
        if not create and not self.exists:
            return None
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
        if not self.exists:
            return []
        self.open()
        with translated(self.uri):
            return [str(e.name) for e in self._experiments()]

    def experiment_ids(self) -> list[str]:
        """Their ids."""
        self.open()
        with translated(self.uri):
            return [str(e.experiment_id) for e in self._experiments()]

    def experiment_with(self, task: str) -> str | None:
        """The name of the active experiment that holds the newest candidate of a task, if one does."""
        if not self.exists:
            return None
        ids = self.experiment_ids()
        with translated(self.uri):
            run = next(self.runs.find(ids, {names.TASK: task}, without=UNREAD), None)
            return None if run is None else str(self.client.get_experiment(run.experiment_id).name)

    def _experiments(self) -> Iterator[Any]:
        return paged(functools.partial(self._client.search_experiments, max_results=PAGE))

    # -- writing candidates

    def ping(self) -> None:
        """TrackingError where MLflow cannot be reached at all."""
        self.open()
        with translated(self.uri):
            self._client.search_experiments(max_results=1)

    def forget(self) -> None:
        """Ask MLflow afresh which candidates exist: another process may have written some."""
        self._log.forget()

    def log(self, entries: Sequence[Entry]) -> list[str]:
        """Make sure that each entry has its run, complete with artifacts and trace. Returns the run ids, in order.

        A run that is there already gets the tags that the user asked for in this session. An answer completes the run
        of its cell's failure, so it comes after a failure that is among the entries.
        """
        with translated(self.uri):
            return self._log.write(entries)

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

    def texts(self, candidates: Sequence[LoggedCandidate], *, unread: list[str] | None = None) -> list[LoggedCandidate]:
        """The same candidates with ``outputs`` and ``context`` from their artifacts; failed ones have no outputs.

        Those that have them already are not loaded again. Artifacts that cannot be read are a TrackingError, those that
        are lost a SpoiltError; where ``unread`` is given it takes the reason for each such candidate, which comes back
        as it is.
        """
        self.open()

        def load(candidate: LoggedCandidate) -> LoggedCandidate:
            if candidate.outputs is not None and candidate.context is not None:
                return candidate
            try:
                with translated(self.uri):
                    outputs = () if candidate.error else tuple(self._json(candidate, "candidate_outputs.json"))
                    context = self._json(candidate, "context.json")["vars"]
            except TrackingError as error:
                if unread is not None:
                    unread.append(str(error))
                    return candidate
                if not _is_lost(error.__context__):
                    raise
                remedy = f"bring the artifacts back, or delete the run {candidate.run_id} in MLflow"
                raise SpoiltError(f"{error}; {remedy}") from None
            return dataclasses.replace(candidate, outputs=outputs, context=context)

        with ThreadPoolExecutor(AT_A_TIME) as pool:
            return list(pool.map(load, candidates))

    def messages(self, candidates: Sequence[LoggedCandidate]) -> list[list[dict[str, str]]]:
        """The rendered messages that each candidate's model was sent, from its artifact ``prompt.json``."""
        self.open()
        with translated(self.uri), ThreadPoolExecutor(AT_A_TIME) as pool:
            return list(pool.map(lambda c: list(self._json(c, "prompt.json")), candidates))

    def rubric_text(self, candidate: LoggedCandidate) -> str:
        """The text of the rubric that a candidate was logged with: from its tag, of a long one from its artifact."""
        with translated(self.uri):
            text = str(self.client.get_run(candidate.run_id).data.tags.get(names.RUBRIC_TEXT, ""))
            of_file = (candidate.experiment, candidate.run_id, RUBRIC_FILE)
            long = len(text) >= TAG_LIMIT and self.artifacts.has(*of_file)
            return self.artifacts.text(*of_file) if long else text

    def _json(self, candidate: LoggedCandidate, file: str) -> Any:
        return json.loads(self.artifacts.text(candidate.experiment, candidate.run_id, file))

    # -- verdicts

    def record(
        self, candidate: LoggedCandidate, verdict: Verdict, rubric: Rubric, *, second: bool = False
    ) -> LoggedCandidate:
        """As :meth:`record_all`, of one verdict."""
        return self.record_all([Ruling(candidate, verdict, rubric, second)])[0]

    def record_all(
        self, rulings: Sequence[Ruling], *, each: Callable[[], None] = lambda: None
    ) -> list[LoggedCandidate]:
        """Keep verdicts with their candidates, on the runs and as feedback on their traces; the candidates afterwards.

        A run's own metrics show the verdict that counts of its tier. A ``second`` verdict, of a judge that saw the
        candidate once more, is kept beside the first and changes nothing else. Recording the same verdict again is
        harmless. One that is no later than another's is dated behind it: what was recorded last is the latest.

        What other sessions recorded since the candidates were read, perhaps minutes ago, counts too, and is in what
        comes back. All are looked at once before and once after, so they should be few: until then a run may show the
        wrong one of two verdicts that came at the same moment. ``each`` is called after each verdict, behind a server
        in any thread and order.
        """
        known = self._as_now({r.candidate.run_id: r.candidate for r in rulings})
        firsts: dict[str, Rubric] = {}
        by_run: dict[str, list[Ruling]] = {}
        for ruling in rulings:
            by_run.setdefault(ruling.candidate.run_id, []).append(ruling)

        def record(run_id: str) -> None:
            for one in by_run[run_id]:
                known[run_id] = self._record(known[run_id], one)
                if not one.second:
                    firsts[run_id] = one.rubric
                each()

        try:
            self.runs.each(record, by_run)
        except BaseException:
            with contextlib.suppress(TrackingError):  # what is written, though, is to show what counts
                self._settle(known, firsts)
            raise
        self._settle(known, firsts)
        return [known[r.candidate.run_id] for r in rulings]

    def _record(self, known: LoggedCandidate, ruling: Ruling) -> LoggedCandidate:
        """One verdict. ``known``: the candidate with all that is said of it; what comes back has this one, too."""
        run_id, judge, verdict = known.run_id, ruling.verdict.judge, ruling.verdict
        given: list[Any] = []
        if not ruling.second:
            verdict = verdicts.in_order(known, verdict)
            old = next((v for v in ruling.candidate.verdicts if v.judge == judge), None)
            given = verdicts.feedback(verdict, ruling.rubric, run_id=run_id, before=old)
        tags, metrics = verdicts.changes(known.verdicts, verdict, ruling.rubric, second=ruling.second)

        def fill() -> None:
            if judge.name in known.failed_verdicts and judge.tier is Tier.AUTO:
                self.runs.delete_tag(run_id, verdicts.failed_tag(judge))
            self._show(run_id, tags, metrics, at=verdicts.milliseconds(verdict.at) or 0)

        self._judged(run_id, given, fill)
        return verdicts.with_verdict(known, verdict, second=ruling.second)

    def _as_now(self, candidates: Mapping[str, LoggedCandidate]) -> dict[str, LoggedCandidate]:
        """Candidates, by run, with what judges have said of them until now; of a deleted run as it was."""
        ids = {c.experiment: self.experiment(c.experiment) for c in candidates.values()}
        with translated(self.uri):
            runs = self.runs.get(list(candidates), [i for i in ids.values() if i is not None], without=UNREAD)
        now = dict(candidates)
        for run_id, run in runs.items():
            found = candidate_of(run, now[run_id].experiment)
            now[run_id] = dataclasses.replace(
                now[run_id],
                pending=found.pending,
                verdicts=found.verdicts,
                second_verdicts=found.second_verdicts,
                failed_verdicts=found.failed_verdicts,
            )
        return now

    def _settle(self, known: dict[str, LoggedCandidate], rubrics: Mapping[str, Rubric]) -> None:
        """Have these runs show the verdict that counts, should another session have recorded one at this very moment.

        Each writes its verdicts before it looks, so whoever looks last sees all of them. ``known``, with what this one
        has seen, is brought up to date; ``rubrics``: run id -> its rubric.
        """
        open_ = set(rubrics)
        while open_:
            now = self._as_now({i: known[i] for i in open_})
            open_ = set()
            for run_id, c in now.items():
                counts = c.sit_down()
                if counts is None or verdicts.sit_down(c) <= verdicts.sit_down(known[run_id]):
                    continue
                open_.add(run_id)
                tags, metrics = verdicts.changes(c.verdicts, counts, rubrics[run_id])
                # Not the verdict's own tag: its judge may have a later one by now.
                kept = {k: v for k, v in tags.items() if not k.startswith(names.VERDICT)}
                seen = (*c.verdicts, *known[run_id].verdicts)
                with translated(self.uri):
                    self._show(run_id, kept, metrics, at=1 + max(verdicts.milliseconds(v.at) or 0 for v in seen))
            known |= now

    def _show(self, run_id: str, tags: Mapping[str, str], metrics: Mapping[str, Score], *, at: int) -> None:
        """Set what a verdict changes of its run; ``at``: of two values of a metric, MLflow shows the later one."""
        found = {k: float(v) for k, v in metrics.items() if v is not None}
        self.runs.fill(run_id, at=at, metrics=found, tags=storable_tags(tags))

    def record_failure(self, candidate: LoggedCandidate, judge: Judge, problem: str, rubric: Rubric) -> LoggedCandidate:
        """Keep that an automatic judge gave no valid verdict. An earlier verdict of it stays."""
        problem = problem[:1000]
        tags = {verdicts.failed_tag(judge): json.dumps({"judge": judge.name, "problem": problem})}
        given = verdicts.failed_feedback(judge, problem, rubric, run_id=candidate.run_id)
        self._judged(candidate.run_id, given, lambda: self.runs.fill(candidate.run_id, tags=storable_tags(tags)))
        failed = {**candidate.failed_verdicts, judge.name: problem}
        return dataclasses.replace(candidate, failed_verdicts=failed)

    def _judged(self, run_id: str, given: Sequence[Any], fill: Callable[[], None]) -> None:
        """Feedback on a run's trace, then what ``fill`` sets of the run.

        Two sessions may bring one judge's reply at once: its feedback has one id, and the database refuses the later
        one what both found missing. Then it is there, and all is done over again around it.
        """

        def write() -> None:
            with self.runs.together():
                self.runs.assess(trace_id(run_id), given)
                fill()

        with translated(self.uri):
            try:
                write()
            except Exception:
                there = self.runs.assessed(trace_id(run_id)) or set()
                if there.isdisjoint(one.assessment_id for one in given):
                    raise
                write()

    def tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags on a run."""
        with translated(self.uri):
            self.runs.fill(run_id, tags=storable_tags(tags))


def _is_lost(error: BaseException | None) -> bool:
    """Whether an artifact is gone or no longer what was written, and not MLflow out of reach."""
    if isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError | PermissionError):
        return True
    if isinstance(error, json.JSONDecodeError | UnicodeDecodeError | LookupError):
        return True
    gone = isinstance(error, Exception) and code_of(error) == "RESOURCE_DOES_NOT_EXIST"
    return gone or getattr(getattr(error, "response", None), "status_code", None) == 404
