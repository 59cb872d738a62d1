"""The generating side of a session, in every process that runs tests."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from ..catalog import Choice, load_suite, model_place
from ..clock import steady
from ..completer import LiteLLMCompleter, Redactor, no_provider, spare_loopback_from_proxies, without_provider
from ..errors import CatalogError, PromptbenchError, ScorerError, UsageError
from ..files import try_folder
from ..generation import Completer, Generator, Limits, Progress, make_room
from ..grid import shard, unknown_name
from ..ledger import Ledger
from ..localmodels import installed, lacking, unknown
from ..locks import LockFile
from ..quiet import quiet_environment
from ..records import Candidate, Cell, Group, Model, Suite
from ..scorers import load_scorers
from ..settings import Settings
from ..tracking.address import check_takes_candidates
from ..tracking.entry import Logged
from .plan import Folder, Plan, Planned, Task, merged, where

PROGRESS_EVERY_S = 0.3
EMBEDDED_START_S = 120.0
POSTED_AT_ONCE = 500
"""Candidates handed over in one transaction: each is written with its rubric, so that memory stays that of these."""


class Bench:
    """The generating side of one process. Nothing is written, started or imported from outside before ``start``."""

    def __init__(self, settings: Settings, *, completer: Callable[[Iterable[Model]], Completer] | None = None) -> None:
        self.settings = settings
        self._completer = completer
        self._tasks: dict[tuple[Any, ...], Task] = {}
        self._generator: Generator | None = None
        self._ledger: Ledger | None = None
        self._locks: LockFile | None = None
        self._folder = Folder(settings.folder)
        self._closing = threading.Event()
        self._reporter: threading.Thread | None = None
        self._owners: dict[tuple[str, ...], list[Task]] = {}
        self._unscored: dict[tuple[tuple[str, ...], Group], Candidate] = {}
        self._redact: Callable[[str], str] = str
        self._expected: frozenset[str] = frozenset()
        self._told = 0
        self._pid = os.getpid()

    @property
    def is_fork(self) -> bool:
        """Whether this is a copy in a process that was forked since: it has none of the threads."""
        return os.getpid() != self._pid

    # -- collecting

    def task(
        self,
        path: Path,
        experiment: str | None = None,
        *,
        tests: str = "",
        models: Sequence[str] | None = None,
        prompts: Sequence[str] | None = None,
    ) -> Task:
        """The suite at ``path``, with ``models`` and ``prompts`` in place of its own where a test names them.

        ``tests`` is that test's folder. The suite is narrowed to the models and prompts that this session was asked
        for, where it has any of them. Raises CatalogError for a mistake in its files.
        """
        settings = self.settings
        key = (path, experiment, tuple(models or ()), tuple(prompts or ()))
        if key not in self._tasks:
            choice = Choice(
                models=models,
                prompts=prompts,
                only_models=settings.models,
                only_prompts=settings.prompts,
                asks_models=settings.runs_tests,
                asks_judge=settings.judge_auto or settings.audit is not None,
                defers=True,
            )
            suite = load_suite(path, root=settings.root, environ=os.environ, lacking=lacking, choice=choice)
            self._tasks[key] = Task(suite=suite, experiment=settings.experiment_of(suite.task, experiment), tests=tests)
        return self._tasks[key]

    def select(self, planned: Sequence[Planned], *, asks: bool = True) -> list[Planned]:
        """Of all that was collected what this session was asked for: models, prompts, and its shard of the cells.

        A cell that several tests look at is in one shard, with all of them. UsageError for a name that no suite has,
        CatalogError for two cells of the same name in one experiment; either for a model or judge that cannot be asked,
        unless the session only shows what there is and ``asks`` nobody.
        """
        settings = self.settings
        self._check_names("--bench-models", settings.models, {p.cell.model.name for p in planned}, "models")
        self._check_names("--bench-prompts", settings.prompts, {p.cell.prompt.version for p in planned}, "prompts")
        chosen = [
            p
            for p in planned
            if p.cell.model.name in (settings.models or (p.cell.model.name,))
            and p.cell.prompt.version in (settings.prompts or (p.cell.prompt.version,))
        ]
        places: dict[tuple[str, ...], Planned] = {}
        for p in chosen:
            first = places.setdefault((p.task.experiment, p.cell.task, *p.cell.names), p)
            if first.cell.content != p.cell.content:
                raise CatalogError(
                    f"{p.task.suite.path}: the cell {'-'.join(p.cell.names)} of task {p.cell.task} is another one in "
                    f"{first.task.suite.path}; rename its scenario or model in one of them, or give one test an "
                    "experiment of its own"
                )
        self._check_ready(chosen, asks=asks)
        if settings.shard is None:
            return chosen
        # By name: another plugin may have put the tests into an order of its own, which is another in each shard.
        keys = sorted({(p.task.experiment, *p.cell.names, p.cell.id) for p in chosen})
        mine = set(shard(keys, *settings.shard))
        return [p for p in chosen if (p.task.experiment, *p.cell.names, p.cell.id) in mine]

    def _check_ready(self, chosen: Sequence[Planned], *, asks: bool) -> None:
        """Whoever the selected tests ask can be asked; what -k or a mark leaves out needs no key or price.

        A session that ``asks`` nobody needs none of them; a mistake in a file is one in every session. A judge is asked
        at the end, whichever tests ran.
        """
        settings = self.settings
        if chosen and asks:
            check_takes_candidates(settings.tracking_uri)
        selected: dict[int, tuple[Suite, dict[str, bool]]] = {}
        for p in chosen:
            names = selected.setdefault(id(p.task), (p.task.suite, {}))[1]
            name = p.cell.model.name
            names[name] = names.get(name, False) or not p.skipped
        for suite, names in selected.values():
            models = [m for m in suite.models if settings.runs_tests and m.name in names]
            asked = [m for m in models if names[m.name]]
            unready = [suite.unready[m.name] for m in asked if m.name in suite.unready]
            unready += suite.judge_unready.values()
            if unready and asks:
                raise CatalogError(unready[0])
            judges = self._judges(suite)
            self._check_providers(suite, (*models, *judges))
            # Their server is started for the whole suite, whichever of its models the selected tests ask.
            self._check_embedded(suite, (*(suite.models if asked else ()), *judges), asks=asks)
            self._check_prices(suite, (*(asked if asks else ()), *judges))

    def _check_names(self, option: str, names: Sequence[str] | None, collected: set[str], axis: str) -> None:
        for name in names or ():
            if name not in collected:
                reasons = [t.suite.skipped[name] for t in self.tasks if name in t.suite.skipped]
                if reasons:
                    raise UsageError(f"{option}: {name!r} cannot be used: {reasons[0]}")
                files = list(dict.fromkeys(t.suite.path for t in self.tasks))
                anyone = Choice(asks_models=False, asks_judge=False)
                suites = [load_suite(Path(f), root=self.settings.root, environ={}, choice=anyone) for f in files]
                known = sorted({x.name for suite in suites for x in getattr(suite, axis)})
                if files and name not in known:  # else -k or the like has left its cells out
                    raise UsageError(unknown_name(option, name, known, files))

    @property
    def tasks(self) -> tuple[Task, ...]:
        return tuple(self._tasks.values())

    def _judges(self, suite: Suite) -> tuple[Model, ...]:
        """The automatic judge, where this session is to ask it."""
        if not self.settings.judge_auto or not suite.rubric.judged:
            return ()
        if suite.judge is not None:
            return (suite.judge,)
        left_out = next((f": {name}: {why}" for name, why in suite.judge_skipped.items()), None)
        here = self._askable(suite)
        remedy = (left_out or "") + "; name one" + (" that runs here" if left_out else "")
        remedy += f", as in  judge: {{model: {here[0].name if here else 'haiku'}}}"
        if left_out:
            remedy += f"  (here: {', '.join(m.name for m in here) or 'none'})"
        raise UsageError(f"{suite.path}: --judge-auto needs the suite's automatic judge, and there is none{remedy}")

    def _askable(self, suite: Suite) -> list[Model]:
        """The suite's models that can be asked here, embedded first. A session that asks none has left none out."""
        choice = Choice(only_models=self.settings.models, asks_judge=False, defers=True)
        try:
            suite = load_suite(
                Path(suite.path), root=self.settings.root, environ=os.environ, lacking=lacking, choice=choice
            )
        except CatalogError:  # no model is left
            return []
        return sorted((m for m in suite.models if m.name not in suite.unready), key=lambda m: not m.embedded)

    def _check_embedded(self, suite: Suite, models: Iterable[Model], *, asks: bool) -> None:
        for model in models:
            reason = (installed if asks else unknown)(model.model) if model.embedded else None
            if reason:
                place = model_place(Path(suite.path), self.settings.root, model.name)
                raise CatalogError(f"{place}: model {model.name}: {reason}")

    def _check_providers(self, suite: Suite, models: Sequence[Model]) -> None:
        stranger = without_provider(models) if self._completer is None else None
        if stranger is not None:
            place = model_place(Path(suite.path), self.settings.root, stranger.name)
            raise CatalogError(f"{place}: {no_provider(stranger)}")

    def _check_prices(self, suite: Suite, models: Sequence[Model]) -> None:
        if not models or self.settings.max_cost_usd is None or self.settings.allow_unpriced:
            return
        completer = LiteLLMCompleter(models)
        unknown = [m.name for m in models if not completer.is_priced(m)]
        if unknown:
            raise UsageError(
                f"{suite.path}: --bench-max-cost needs to know prices, and LiteLLM has none for "
                f"{', '.join(unknown)}; leave them out with --bench-models, or accept it with --bench-allow-unpriced"
            )

    # -- generating

    def start(self, planned: Sequence[Planned], ahead: Sequence[Cell]) -> None:
        """Say what was collected, and get ready to generate ``ahead``: the cells whose tests no mark may skip.

        UsageError where the session's end could not write what it was asked for; ScorerError for a scorer that cannot
        be imported; OSError where nobody could begin.
        """
        settings = self.settings
        if self._generator is not None or not planned:
            return
        settings.home.mkdir(parents=True, exist_ok=True)
        _check_places(settings)
        make_room(settings.concurrency)
        quiet_environment()
        tasks = merged({id(p.task): p.task for p in planned}.values())
        self._redact = Redactor([m for t in tasks for m in t.suite.models], os.environ)
        wanted = {cell.identity for cell in ahead}
        for task in merged({id(p.task): p.task for p in planned if p.cell.identity in wanted}.values()):
            problem = self._problem(task)  # before anything is paid for
            if problem is not None:
                raise ScorerError(problem)
        self._expected = frozenset(cell.mark for cell in ahead)
        if self._folder.read("plan.json") is None:
            self._folder.write("plan.json", Plan(tasks=tasks, cells=len(self._expected)).to_json())
        self._ledger = Ledger(settings.home / "ledger.sqlite3")
        self._locks = LockFile(settings.home / "locks")
        models = [m for t in tasks for m in t.suite.models]
        make = self._completer or (lambda them: SessionCompleter(them, folder=self._folder))
        self._owners = owners_of(planned)
        self._generator = Generator(
            completer=make(models),
            ledger=self._ledger,
            locks=self._locks,
            session=settings.identity.session,
            limits=Limits(
                concurrency=settings.concurrency,
                worker=settings.worker,
                workers=settings.identity.workers,
                max_cost_usd=settings.max_cost_usd,
                account=settings.account,
                use_cache=settings.use_cache,
            ),
            landed=self._landed,
        )
        self._generator.start()
        self._look_around()  # before it asks anybody, so that the desk knows whom a stop has to wait for
        self._generator.warm(ahead)
        self._reporter = threading.Thread(target=self._report, name="promptbench-progress", daemon=True)
        self._reporter.start()

    def wait_until_warm(self, *, tick: Callable[[], None] = lambda: None) -> None:
        """Until what generation needs is imported, if it needs anything; ``tick`` is called now and then meanwhile."""
        while self._generator is not None and not self._generator.wait_until_warm(0.25):
            tick()

    def look_ahead(self, cells_: Iterable[Cell]) -> None:
        """Generate these next, in this order."""
        if self._generator is not None:
            self._generator.plan(cells_)

    def candidate(self, planned: Planned, *, again: bool = False, tick: Callable[[], None] = lambda: None) -> Candidate:
        """Wait for a test's candidate; ``tick`` is called now and then meanwhile. ``again``: a failed one anew.

        One that a scorer of the rubric fails on is a failed one, too: ``again``, its answer is scored anew.
        """
        assert self._generator is not None
        problem = self._problem(planned.task)
        if problem is not None:  # of a test that a mark might have skipped
            return Candidate(cell=planned.cell, error=problem, unasked=True)
        future = self._generator.candidate(planned.cell, again=again)
        while True:
            with contextlib.suppress(TimeoutError):
                made = future.result(timeout=0.25)
                break
            tick()
        key = made.cell.identity, planned.task.suite.group
        if again and self._unscored.pop(key, None) is not None:
            self._landed([made])
        return self._unscored.get(key, made)

    def _problem(self, task: Task) -> str | None:
        """Why the scorers of a task cannot be imported."""
        try:
            load_scorers(task.suite.rubric)
        except ScorerError as error:
            return self._redact(str(error))
        return None

    def key(self, planned: Planned, candidate: Candidate) -> str:
        """The candidate's identity in its experiment."""
        return Logged(candidate=candidate, rubric=planned.task.suite.rubric, session="").key

    def expects(self, cell: Cell) -> bool:
        """Whether the cell is one of those that are counted: of a test that no mark may skip."""
        return cell.mark in self._expected

    def _landed(self, candidates: Sequence[Candidate]) -> None:
        assert self._ledger is not None
        store, session = where(self.settings).store_name, self.settings.identity.session
        for start in range(0, len(candidates), POSTED_AT_ONCE):  # a warm session's all land together
            entries = [
                self._logged(task, candidate).entry(task.experiment)
                for candidate in candidates[start : start + POSTED_AT_ONCE]
                for task in self._owners[candidate.cell.identity]
            ]
            self._ledger.post(store, entries, session=session)

    def _logged(self, task: Task, candidate: Candidate) -> Logged:
        rubric, session = task.suite.rubric, self.settings.identity.session
        logged = Logged.of(candidate, rubric, session=session, redact=self._redact, tags=self.settings.tags)
        if logged.candidate is not candidate:
            self._unscored[candidate.cell.identity, task.suite.group] = logged.candidate
        return logged

    def _report(self) -> None:
        while not self._closing.wait(PROGRESS_EVERY_S):
            self._look_around()

    def _look_around(self) -> None:
        """Tell the desk how far this process is, and look for its stop sign."""
        assert self._generator is not None
        with contextlib.suppress(OSError):
            self._tell(self._generator, self._generator.progress())
            if self._folder.read("stop.json") is not None:
                self._generator.halt("the session was stopped")

    def _tell(self, generator: Generator, progress: Progress) -> None:
        """What is made first: the desk counts it as soon as nothing is under way any more."""
        fresh = generator.made(since=self._told)
        if fresh:
            self._folder.add_made(self.settings.worker, [mark for mark in fresh if mark in self._expected])
            self._told += len(fresh)
        self._folder.write(f"progress-{self.settings.worker}.json", progress.to_json())

    def halt(self, reason: str) -> None:
        """Start no further request."""
        if self._generator is not None:
            self._generator.halt(reason)

    def close(self, *, patient: bool = True, say: Callable[[str], None] = lambda _: None) -> None:
        """Stop generating; ``patient`` waits for answers that are paid for, of which ``say`` is told.

        An interrupt meanwhile gives those up.
        """
        if self._generator is None:
            return
        with contextlib.suppress(KeyboardInterrupt):
            self._generator.stop(patient=patient, say=say)
        self._closing.set()
        if self._reporter is not None:
            self._reporter.join(5)
        with contextlib.suppress(OSError):
            self._tell(self._generator, self._generator.progress().at_rest())
        assert self._ledger is not None
        assert self._locks is not None
        self._ledger.close()
        self._locks.close()
        self._generator = None


def _check_places(settings: Settings) -> None:
    """Refuse, before anything is paid for, a place that the end of the session could not write to. UsageError."""
    places = {"--bench-report": settings.report}
    if settings.save is not None:
        places["--bench-save"] = settings.save.parent
    for option, folder in places.items():
        try:
            try_folder(folder)
        except OSError as error:
            raise UsageError(
                f"{folder} cannot be written to: {error.strerror or error}; make it writable, or name another place "
                f"with {option}"
            ) from None


def owners_of(planned: Iterable[Planned]) -> dict[tuple[str, ...], list[Task]]:
    """A cell's identity -> the tasks whose experiments it is logged to, equal ones once."""
    equal: dict[int, Task] = {}  # by identity, since comparing two suites compares all of their scenarios
    owners: dict[tuple[str, ...], dict[int, Task]] = {}
    for p in planned:
        if id(p.task) not in equal:
            equal[id(p.task)] = next((t for t in equal.values() if t == p.task), p.task)
        task = equal[id(p.task)]
        owners.setdefault(p.cell.identity, {})[id(task)] = task
    return {key: list(tasks.values()) for key, tasks in owners.items()}


class SessionCompleter(LiteLLMCompleter):
    """LiteLLM, which learns from the session's folder where the embedded models are served."""

    def __init__(self, models: Iterable[Model], *, folder: Folder) -> None:
        self._models = tuple(models)
        super().__init__(self._models)
        self._folder = folder

    def prepare(self) -> None:
        super().prepare()
        if any(m.embedded for m in self._models):
            self._embedded = self._address()
            spare_loopback_from_proxies()

    def _address(self) -> str:
        deadline = steady() + EMBEDDED_START_S
        while steady() < deadline:
            found = self._folder.read("embedded.json")
            if found is not None:
                if "error" in found:
                    raise PromptbenchError(found["error"])
                return str(found["api_base"])
            if self._folder.read("stop.json") is not None:
                raise PromptbenchError("the session was stopped")
            time.sleep(0.05)
        raise PromptbenchError(f"the server of the embedded models gave no address within {EMBEDDED_START_S:g} s")
