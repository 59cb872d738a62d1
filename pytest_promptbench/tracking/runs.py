"""MLflow's runs, made, filled and found, one candidate a run.

Where the store is a database of this machine or another's, MLflow's own store is used without its client around it.
``create_run``, ``log_batch``, ``log_spans`` and what else is called here belong to the interface that MLflow documents
for tracking stores (``AbstractStore``), and so does the subclass. It saves what each call does over again:

* an experiment is looked up once a batch, not once a run;
* on SQLite, calls made ``together`` share a session of the store instead of opening one each, three PRAGMAs and a
  commit at a time: a fifth of what a candidate costs;
* runs are read from their tables (:mod:`.tables`).

Where MLflow does not have it so, and for a store behind a server or with workspaces, its client is asked.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from .address import code_of
from .tables import EVERYTHING, READABLE, Run, Tables, Unread, follow_the_file, tables_of

DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
PAGE = 5000
"""The cheapest a run of the pages that MLflow's client has."""
AT_A_TIME = 8
"""So many calls of a server are under way at once: each is spent waiting for it."""
TAGS_AT_ONCE = 100
"""MLflow refuses more of them in one ``log_batch``; a run may have any number."""


def paged(search: Callable[..., Any]) -> Iterator[Any]:
    """All that one of MLflow's searches finds, which takes ``page_token`` and returns a page that has a ``token``."""
    token = None
    while True:
        page = search(page_token=token)
        yield from page
        token = page.token
        if not token:
            return


class Runs:
    """The runs of the store at ``uri``; ``client`` is an MlflowClient of it, ``traces`` a TracingClient."""

    def __init__(self, client: Any, traces: Any, uri: str) -> None:
        self._client = client
        self._traces = traces
        self._store: Any = None
        self.tables: Tables | None = None
        dialect = uri.partition(":")[0].partition("+")[0]
        if dialect in DATABASES and "MLFLOW_ENABLE_WORKSPACES" not in os.environ:
            self._store = _thrifty_store(uri, share=dialect == "sqlite")
            if dialect == "sqlite":
                follow_the_file(self._store.engine)
            if dialect in READABLE:
                self.tables = tables_of(self._store.engine)

    def forget(self) -> None:
        """Look experiments up anew: a batch begins."""
        if self._store is not None:
            self._store.experiments.clear()

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """What this thread writes here is cheaper, and the last of it may be kept with the end of the block only.

        MLflow's client must not write within: it would wait for the block to end.
        """
        with contextlib.nullcontext() if self._store is None else self._store.one_session():
            yield

    def each(self, call: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        """What ``call`` makes of each item, in their order: behind a server of several at a time.

        The first that fails is raised, once what is under way has ended; no further one begins.
        """
        if self._store is not None:
            return list(map(call, items))
        pool = ThreadPoolExecutor(AT_A_TIME)
        try:
            return list(pool.map(call, items))
        finally:
            pool.shutdown(cancel_futures=True)

    # -- writing

    def create(self, experiment_id: str, *, start_time: int, tags: Mapping[str, str], name: str) -> tuple[str, str]:
        """A run of that name with these tags, still running; its id and where its artifacts go.

        ``start_time`` is in milliseconds since the epoch.
        """
        if self._store is None:
            run = self._client.create_run(experiment_id, start_time=start_time, tags=dict(tags), run_name=name)
        else:
            run = self._store.create_run(
                experiment_id=experiment_id,
                user_id="unknown",  # as the client says without a tag for it
                start_time=start_time,
                tags=_tags(tags),
                run_name=name,
            )
        return str(run.info.run_id), str(run.info.artifact_uri)

    def fill(
        self,
        run_id: str,
        *,
        at: int = 0,
        params: Mapping[str, str] | None = None,
        metrics: Mapping[str, float] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Set parameters, metrics as of ``at`` (milliseconds since the epoch) and tags of a run."""
        from mlflow.entities import Metric, Param

        all_tags = _tags(tags or {})
        store = self._store or self._client
        for start in range(TAGS_AT_ONCE, len(all_tags), TAGS_AT_ONCE):
            store.log_batch(run_id, tags=all_tags[start : start + TAGS_AT_ONCE], metrics=[], params=[])
        store.log_batch(
            run_id,
            metrics=[Metric(k, v, at, 0) for k, v in (metrics or {}).items()],
            params=[Param(k, v) for k, v in (params or {}).items()],
            tags=all_tags[:TAGS_AT_ONCE],
        )

    def delete_tag(self, run_id: str, name: str) -> None:
        """Take a tag from a run; another session may have done so."""
        try:
            (self._store or self._client).delete_tag(run_id, name)
        except Exception as error:
            if code_of(error) != "RESOURCE_DOES_NOT_EXIST":
                raise

    def trace(self, experiment_id: str, spans: Sequence[Any]) -> None:
        """Write spans, of one trace or many."""
        (self._store or self._traces).log_spans(experiment_id, list(spans))

    def link(self, trace: str, run_id: str) -> None:
        """Show a trace with a run."""
        (self._store or self._client).link_traces_to_run([trace], run_id)

    def assess(self, trace: str, assessments: Sequence[Any]) -> None:
        """Keep assessments with a trace, but for those that it has already.

        A run that another program wrote may have no trace of ours: then there is nothing to keep them with.
        """
        known = self.assessed(trace)
        if known is None:
            return
        for one in assessments:
            if one.assessment_id not in known:
                one.trace_id = trace
                if self._store is None:
                    self._traces.log_assessment(trace, one)
                else:
                    self._store.create_assessment(one)

    def assessed(self, trace: str) -> set[str] | None:
        """The ids of a trace's assessments; None where there is no such trace."""
        try:
            return {a.assessment_id for a in (self._store or self._traces).get_trace_info(trace).assessments}
        except Exception as error:
            if code_of(error) != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None

    def reopen(self, run_id: str) -> None:
        """Show a run that has ended as still running."""
        if self._store is None:
            self._client.update_run(run_id, "RUNNING")
            return
        from mlflow.entities import RunStatus

        self._store.update_run_info(run_id, RunStatus.RUNNING, None, None)

    def finish(self, run_id: str, status: str, *, end_time: int) -> None:
        """End a run as FINISHED or FAILED, at ``end_time`` in milliseconds since the epoch."""
        if self._store is None:
            self._client.set_terminated(run_id, status, end_time=end_time)
            return
        from mlflow.entities import RunStatus

        self._store.update_run_info(run_id, RunStatus.from_string(status), end_time, None)

    # -- reading

    def find(
        self, experiment_ids: Sequence[str], tags: Mapping[str, str | None], *, without: Unread = EVERYTHING
    ) -> Iterator[Run]:
        """The active runs of experiments that have these tags, the newest first, some hundreds at a time.

        ``tags`` maps a name to the value wanted, None to any but an empty one.
        """
        if not experiment_ids:
            return iter(())
        if self.tables is not None:
            return self.tables.find(experiment_ids, tags, without)
        return self.search(experiment_ids, tags)

    def get(
        self, run_ids: Sequence[str], experiment_ids: Sequence[str], *, without: Unread = EVERYTHING
    ) -> dict[str, Run]:
        """Those of these runs, of these experiments, that are active, by id."""
        if self.tables is not None:
            return {run.run_id: run for run in self.tables.get(run_ids, without)}
        found: dict[str, Run] = {}
        for start in range(0, len(run_ids), PAGE):
            names = ", ".join(f"'{run_id}'" for run_id in run_ids[start : start + PAGE])
            runs = self._client.search_runs(list(experiment_ids), f"attributes.run_id IN ({names})", max_results=PAGE)
            found |= {run.info.run_id: _run_of(run) for run in runs}
        return found

    def by_tag(
        self,
        experiment_ids: Sequence[str],
        tags: Mapping[str, str | None],
        name: str,
        *,
        also: Sequence[str] = (),
        place: Callable[..., Any] = lambda: 0,
        without: Unread = EVERYTHING,
    ) -> ByTag:
        """What ``find`` finds, by the value of its tag ``name``; of runs with the same value one.

        That is the one whose ``place``, of its values of the tags ``also``, is the highest, of several the newest.
        """
        if not experiment_ids:
            return ByTag({}, None, without)
        if self.tables is not None:
            rows = list(reversed(self.tables.tagged(experiment_ids, tags, name, also)))
            rows.sort(key=lambda row: place(*row[2:]))
            return ByTag({value: run_id for value, run_id, *_ in rows}, self.tables, without)
        runs = [run for run in self.search(experiment_ids, tags) if name in run.tags]
        runs.reverse()
        runs.sort(key=lambda run: place(*(run.tags.get(key) for key in also)))
        return ByTag({run.tags[name]: run for run in runs}, None, without)

    def search(self, experiment_ids: Sequence[str], tags: Mapping[str, str | None]) -> Iterator[Run]:
        """Likewise through MLflow's client."""
        condition = " and ".join(
            f"tags.`{name}` != ''" if value is None else f"tags.`{name}` = '{value}'" for name, value in tags.items()
        )
        search = functools.partial(self._client.search_runs, list(experiment_ids), condition, max_results=PAGE)
        yield from map(_run_of, paged(search))


class ByTag:
    """Runs by the value of a tag. Of tables, they are read when they are asked for: of many, few ever are."""

    def __init__(self, found: Mapping[str, Run | str], tables: Tables | None, without: Unread) -> None:
        self._found, self._tables, self._without = dict(found), tables, without

    def get(self, values: Iterable[str]) -> dict[str, Run]:
        """The runs of these values, as far as there are any, by value; all of them read at once."""
        wanted = {v: self._found[v] for v in values if v in self._found}
        unread = {run_id: v for v, run_id in wanted.items() if isinstance(run_id, str)}
        if unread and self._tables is not None:
            runs = {unread[run.run_id]: run for run in self._tables.get(list(unread), self._without)}
            self._found |= runs
            wanted |= runs
        return {v: run for v, run in wanted.items() if isinstance(run, Run)}


def _run_of(run: Any) -> Run:
    """A run of MLflow's client."""
    info, data = run.info, run.data
    values = data.params, data.metrics, data.tags
    return Run(info.run_id, str(info.experiment_id), info.status, info.start_time or 0, *values)


def _tags(tags: Mapping[str, str]) -> list[Any]:
    from mlflow.entities import RunTag

    return [RunTag(k, v) for k, v in tags.items()]


def _thrifty_store(uri: str, *, share: bool) -> Any:
    from mlflow.store.tracking import DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    class ThriftyStore(SqlAlchemyStore):  # type: ignore[misc] # MLflow's stores are untyped here
        """``one_session``: the sessions that a thread's calls open meanwhile are one, if ``share``."""

        def __init__(self) -> None:
            self.experiments: dict[str, Any] = {}
            self._shared = threading.local()
            super().__init__(uri, DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH)
            self._open_session: Any = getattr(self, "ManagedSessionMaker", None) if share else None
            if self._open_session is not None:
                self.ManagedSessionMaker = self._session

        @contextlib.contextmanager
        def _session(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
            shared = getattr(self._shared, "session", None)
            if shared is None:
                with self._open_session(*args, **kwargs) as session:
                    yield session
            else:
                yield shared
                shared.flush()  # what is refused is refused to whoever wrote it

        @contextlib.contextmanager
        def one_session(self) -> Iterator[None]:
            if self._open_session is None:
                yield
                return
            with self._open_session(read_only=False) as session:
                self._shared.session = session
                try:
                    yield
                finally:
                    self._shared.session = None

        def get_experiment(self, experiment_id: str) -> Any:
            if experiment_id not in self.experiments:
                self.experiments[experiment_id] = super().get_experiment(experiment_id)
            return self.experiments[experiment_id]

    return ThriftyStore()
