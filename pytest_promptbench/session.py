"""One pytest session: which cells there are, who generates them, and what comes of it at the end.

Two roles, which one process plays both of where there is no xdist:

* a **Bench** in every process that runs tests: it collects suites, generates ahead and hands candidates to tests;
* the **Desk** in the process that the user started: it runs the recorder and the embedded models' server, shows
  progress, and makes the leaderboards at the end.

They meet in a folder, ``.promptbench/sessions/<id>/``, which is made when the first eval is about to run: the plan
(what was collected), the address of the embedded server, each worker's progress, and a stop sign.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .agreement import Agreement, agreement_report
from .autojudge import Judged, asking, judge_and_write, unscored
from .catalog import Choice, load_suite
from .checks import fill_checks
from .completer import LiteLLMCompleter, spare_loopback_from_proxies
from .errors import CatalogError, PromptbenchError, TrackingError, UsageError
from .generation import Completer, Generator, Limits, Progress
from .grid import cells, shard, unknown_name
from .leaderboard import build_leaderboard, current_candidates
from .ledger import Ledger
from .localmodels import LocalServer, installed
from .locks import LockFile
from .quiet import quiet_environment, without_collections
from .records import Candidate, Cell, Group, Leaderboard, LoggedCandidate, Model, Record, Rubric, Suite
from .settings import Settings
from .tracking.entry import Logged
from .tracking.recorder import Outcome, Recorder, Where
from .tracking.store import TrackingStore, file_name

PROGRESS_EVERY_S = 0.3
STALE_FOLDER_S = 86400.0
EMBEDDED_START_S = 120.0


@dataclass(frozen=True, kw_only=True)
class Task(Record):
    """A suite as this session runs it, and the experiment that its candidates go to."""

    suite: Suite
    experiment: str


@dataclass(frozen=True, kw_only=True)
class Plan(Record):
    """What was collected."""

    tasks: tuple[Task, ...]
    cells: int

    def embedded(self, *, judging: bool) -> tuple[str, ...]:
        """The embedded models that generate and, where the automatic judge is asked, those that judge."""
        judges = [t.suite.judge for t in self.tasks if judging and t.suite.judge is not None]
        models = (*(m for t in self.tasks for m in t.suite.models), *judges)
        return tuple(sorted({m.model for m in models if m.embedded}))


@dataclass(frozen=True, kw_only=True)
class Planned:
    """One test's cell."""

    task: Task
    cell: Cell


class Folder:
    """What the processes of one session share on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, name: str, value: object) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        draft = self.path / f"{name}.{os.getpid()}.{threading.get_ident()}.tmp"
        draft.write_text(json.dumps(value), encoding="utf-8")
        draft.replace(self.path / name)

    def read(self, name: str) -> Any:
        """The value of a file; None while it is not there."""
        try:
            return json.loads((self.path / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None

    def progress(self) -> Progress:
        """All workers together."""
        total = Progress()
        for file in self.path.glob("progress-*.json"):
            value = self.read(file.name)
            total += Progress.from_json(value) if value else Progress()
        return total

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


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

    # -- collecting

    def task(
        self,
        path: Path,
        experiment: str | None = None,
        *,
        models: Sequence[str] | None = None,
        prompts: Sequence[str] | None = None,
    ) -> Task:
        """The suite at ``path``, with ``models`` and ``prompts`` in place of its own where a test names them.

        It is narrowed to the models and prompts that this session was asked for, where it has any of them. Raises
        CatalogError for a mistake in its files.
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
            )
            suite = load_suite(path, root=settings.root, environ=os.environ, choice=choice)
            asked = (*suite.models, *self._judges(suite))
            self._check_embedded(suite, asked)
            self._check_prices(suite, asked)
            self._tasks[key] = Task(suite=suite, experiment=settings.experiment_of(suite.task, experiment))
        return self._tasks[key]

    def select(self, planned: Sequence[Planned]) -> list[Planned]:
        """Of all that was collected what this session was asked for: models, prompts, and its shard of the cells.

        A cell that several tests look at is in one shard, with all of them. UsageError for a name that no suite has,
        CatalogError for two cells of the same name in one experiment.
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
            if first.cell.id != p.cell.id:
                raise CatalogError(
                    f"{p.task.suite.path}: the cell {'-'.join(p.cell.names)} of task {p.cell.task} is another one in "
                    f"{first.task.suite.path}; rename its scenario or model in one of them, or give one test an "
                    "experiment of its own"
                )
        if settings.shard is None:
            return chosen
        # By name: another plugin may have put the tests into an order of its own, which is another in each shard.
        keys = sorted({(p.task.experiment, *p.cell.names, p.cell.id) for p in chosen})
        mine = set(shard(keys, *settings.shard))
        return [p for p in chosen if (p.task.experiment, *p.cell.names, p.cell.id) in mine]

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
        if not self.settings.judge_auto:
            return ()
        if suite.judge is not None:
            return (suite.judge,)
        left_out = next((f": {n[6:]}: {why}" for n, why in suite.skipped.items() if n.startswith("judge:")), None)
        here = sorted(suite.models, key=lambda m: not m.embedded)
        remedy = (left_out or "") + "; name one" + (" that runs here" if left_out else "")
        remedy += f", as in  judge: {{model: {here[0].name if here else 'haiku'}}}"
        if left_out:
            remedy += f"  (here: {', '.join(m.name for m in here) or 'none'})"
        raise CatalogError(f"{suite.path}: --judge-auto needs the suite's automatic judge, and there is none{remedy}")

    def _check_embedded(self, suite: Suite, models: Iterable[Model]) -> None:
        for model in models:
            reason = installed(model.model) if model.embedded else None
            if reason:
                raise CatalogError(f"{suite.path}: model {model.name}: {reason}")

    def _check_prices(self, suite: Suite, models: Sequence[Model]) -> None:
        if not models or self.settings.max_cost_usd is None or self.settings.allow_unpriced:
            return
        completer = LiteLLMCompleter(models)
        unknown = [m.name for m in models if not completer.is_priced(m)]
        if unknown:
            raise CatalogError(
                f"{suite.path}: --bench-max-cost needs to know prices, and LiteLLM has none for "
                f"{', '.join(unknown)}; leave them out with --bench-models, or accept it with --bench-allow-unpriced"
            )

    # -- generating

    def start(self, planned: Sequence[Planned]) -> None:
        """Say what was collected, and get ready to generate."""
        settings = self.settings
        if self._generator is not None or not planned:
            return
        quiet_environment()
        tasks = tuple({p.task.suite.path + p.task.experiment: p.task for p in planned}.values())
        if self._folder.read("plan.json") is None:
            self._folder.write("plan.json", Plan(tasks=tasks, cells=len(planned)).to_json())
        self._ledger = Ledger(settings.home / "ledger.sqlite3")
        self._locks = LockFile(settings.home / "locks")
        models = {m.name: m for t in tasks for m in t.suite.models}.values()
        make = self._completer or (lambda them: _SessionCompleter(them, folder=self._folder))
        for p in planned:
            owners = self._owners.setdefault((*p.cell.names, p.cell.id), [])
            if p.task not in owners:
                owners.append(p.task)
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
                use_cache=settings.use_cache,
            ),
            landed=self._landed,
        )
        self._generator.start()
        self._generator.warm([p.cell for p in planned])
        self._reporter = threading.Thread(target=self._report, name="promptbench-progress", daemon=True)
        self._reporter.start()

    def look_ahead(self, cells_: Iterable[Cell]) -> None:
        """Generate these next, in this order."""
        if self._generator is not None:
            self._generator.plan(cells_)

    def candidate(self, planned: Planned, *, tick: Callable[[], None] = lambda: None) -> Candidate:
        """Wait for a test's candidate; ``tick`` is called now and then meanwhile."""
        assert self._generator is not None
        future = self._generator.candidate(planned.cell)
        while True:
            with contextlib.suppress(TimeoutError):
                return future.result(timeout=0.25)
            tick()

    def key(self, planned: Planned, candidate: Candidate) -> str:
        """The candidate's identity in its experiment."""
        return self._logged(planned.task, candidate).key

    def _logged(self, task: Task, candidate: Candidate) -> Logged:
        rubric = task.suite.rubric
        checks = {} if candidate.failed else fill_checks(rubric, candidate.outputs)
        session = self.settings.identity.session
        return Logged(candidate=candidate, rubric=rubric, session=session, checks=checks, tags=self.settings.tags)

    def _landed(self, candidates: Sequence[Candidate]) -> None:
        assert self._ledger is not None
        entries = [
            self._logged(task, candidate).entry(task.experiment)
            for candidate in candidates
            for task in self._owners[*candidate.cell.names, candidate.cell.id]
        ]
        self._ledger.post(where(self.settings).store_name, entries, session=self.settings.identity.session)

    def _report(self) -> None:
        """Tell the desk how far this process is, and look for its stop sign."""
        name = f"progress-{self.settings.worker}.json"
        while not self._closing.wait(PROGRESS_EVERY_S):
            assert self._generator is not None
            with contextlib.suppress(OSError):
                self._folder.write(name, self._generator.progress().to_json())
                if self._folder.read("stop.json") is not None:
                    self._generator.halt("the session was stopped")

    def halt(self, reason: str) -> None:
        """Start no further request."""
        if self._generator is not None:
            self._generator.halt(reason)

    def close(self) -> None:
        """Stop generating, waiting for answers that are paid for. An interrupt meanwhile gives those up."""
        if self._generator is None:
            return
        with contextlib.suppress(KeyboardInterrupt):
            self._generator.stop()
        self._closing.set()
        if self._reporter is not None:
            self._reporter.join(5)
        with contextlib.suppress(OSError):
            done = replace(self._generator.progress(), in_flight=0, waiting=0)
            self._folder.write(f"progress-{self.settings.worker}.json", done.to_json())
        assert self._ledger is not None
        self._ledger.close()
        self._generator = None


class _SessionCompleter(LiteLLMCompleter):
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
        deadline = time.monotonic() + EMBEDDED_START_S
        while time.monotonic() < deadline:
            found = self._folder.read("embedded.json")
            if found is not None:
                if "error" in found:
                    raise PromptbenchError(found["error"])
                return str(found["api_base"])
            time.sleep(0.05)
        raise PromptbenchError(f"the server of the embedded models gave no address within {EMBEDDED_START_S:g} s")


@dataclass(frozen=True, kw_only=True)
class Board:
    """One leaderboard with the candidates behind it, and where its files go."""

    leaderboard: Leaderboard
    candidates: tuple[LoggedCandidate, ...]
    agreement: Agreement
    folder: Path

    @classmethod
    def of(
        cls,
        candidates: tuple[LoggedCandidate, ...],
        rubric: Rubric,
        experiment: str,
        task: str,
        *,
        folder: Path,
        cells_now: Mapping[tuple[str, str, str], str] | None = None,
    ) -> Board:
        """The leaderboard of a task's candidates, read with their texts. ``cells_now`` as for ``build_leaderboard``."""
        return cls(
            leaderboard=build_leaderboard(candidates, rubric, experiment=experiment, task=task, cells_now=cells_now),
            candidates=candidates,
            agreement=agreement_report(candidates, rubric, experiment=experiment, task=task),
            folder=folder,
        )


@dataclass(frozen=True, kw_only=True)
class Closing:
    """What a session has to say at its end."""

    tasks: tuple[Task, ...] = ()
    boards: tuple[Board, ...] = ()
    files: tuple[Path, ...] = ()
    judged: tuple[Judged, ...] = ()
    unlogged: int = 0
    problem: str | None = None
    stuck: int = 0
    stuck_error: str | None = None


class Desk:
    """The side of a session that the user sees. Does nothing until a process has something to generate."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._folder = Folder(settings.folder)
        self._recorder: Recorder | None = None
        self._server = LocalServer()
        self._starter: threading.Thread | None = None
        self.plan: Plan | None = None
        self.started_at = time.monotonic()
        self._keys: list[tuple[str, str]] = []

    def begin(self) -> None:
        """Start what the plan needs, if there is a plan by now. Returns at once, and may be called again."""
        if self.plan is not None:
            return
        value = self._folder.read("plan.json")
        if value is None:
            return
        self.plan = Plan.from_json(value)
        settings = self.settings
        _clear_old_folders(settings)
        self._recorder = Recorder(where(settings))
        self._recorder.start()
        if self.plan.embedded(judging=settings.judge_auto):
            self._starter = threading.Thread(target=self._start_server, name="promptbench-embedded", daemon=True)
            self._starter.start()

    def _start_server(self) -> None:
        assert self.plan is not None
        names = self.plan.embedded(judging=self.settings.judge_auto)
        try:
            self._folder.write("embedded.json", {"api_base": self._server.start(names).api_base})
        except (PromptbenchError, OSError) as error:
            self._folder.write("embedded.json", {"error": str(error)})

    def ran(self, experiment: str, key: str) -> None:
        """A test has seen this candidate, so at the end it has to be in MLflow."""
        self._keys.append((experiment, key))

    def progress(self) -> Progress:
        return self._folder.progress()

    def halt(self) -> None:
        """Have every process start no further request."""
        self._folder.write("stop.json", True)

    def stop_workers(self, *, grace_s: float = 60.0) -> None:
        """Have every process start no further request, and wait for answers that are paid for."""
        if self.plan is None:
            return
        self.halt()
        deadline = time.monotonic() + grace_s
        time.sleep(2 * PROGRESS_EVERY_S)
        while self.progress().in_flight and time.monotonic() < deadline:
            time.sleep(0.1)

    def finish(self, *, judge: bool = True, say: Callable[[str], None] = lambda _: None) -> Closing:
        """Bring everything to MLflow, read it back, have it judged where that was asked for, write the leaderboards.

        ``judge=False`` leaves the automatic judge out, as after an interrupt; ``say`` is told how far it is.
        """
        if self.plan is None or self._recorder is None:
            return Closing()
        tasks = self.plan.tasks
        judged: tuple[Judged, ...] = ()
        imports = threading.Thread(target=_load_what_reports_need, name="promptbench-imports", daemon=True)
        imports.start()
        try:
            outcome = self._recorder.finish(self._keys, list(dict.fromkeys(t.experiment for t in tasks)))
            if judge and self.settings.judge_auto and outcome.unlogged >= 0:
                outcome, judged = self._judge(outcome, say)
        finally:
            self.close()
            imports.join()  # a thread that still imports when Python ends holds locks that its ending needs
        boards = build_boards(tasks, outcome, self.settings.report)
        problem = outcome.error
        files: tuple[Path, ...] = ()
        try:
            files = tuple(write_reports(boards))
        except OSError as error:
            problem = problem or f"the reports could not be written: {error}"
        return Closing(
            tasks=tasks,
            boards=boards,
            files=files,
            judged=judged,
            unlogged=outcome.unlogged,
            problem=problem,
            stuck=outcome.stuck,
            stuck_error=outcome.stuck_error,
        )

    def _judge(self, outcome: Outcome, say: Callable[[str], None]) -> tuple[Outcome, tuple[Judged, ...]]:
        """Ask the suites' automatic judges about what they have not scored; of a shard, about its own candidates."""
        assert self.plan is not None
        assert self._recorder is not None
        groups = by_group(self.plan.tasks)
        judges = [t.suite.judge for t in groups.values() if t.suite.judge is not None]
        mine = {key for _, key in self._keys} if self.settings.shard is not None else None
        everyone = {name: list(found) for name, found in outcome.candidates.items()}
        judged: list[Judged] = []
        with asking(self.settings, _SessionCompleter(judges, folder=self._folder)) as ask:
            for task in groups.values():
                rubric, judge = task.suite.rubric, task.suite.judge
                now = cells_now(self.plan.tasks, task.suite.task)
                found, _ = current_candidates(
                    everyone.get(task.experiment, ()), rubric, task=task.suite.task, cells_now=now
                )
                todo = [c for c in found if mine is None or c.candidate in mine]
                assert judge is not None
                todo = unscored(todo, rubric, judge)
                every = _every(15.0, lambda done, total: say(f"judging: {done}/{total}"))
                try:
                    after, came_to = judge_and_write(todo, rubric, judge, ask, self._recorder.judge, progress=every)
                except TrackingError as error:
                    return replace(outcome, error=str(error)), tuple(judged)
                changed = {c.run_id: c for c in after}
                everyone[task.experiment] = [changed.get(c.run_id, c) for c in everyone.get(task.experiment, ())]
                judged.append(replace(came_to, experiment=task.experiment))
        return replace(outcome, candidates={k: tuple(v) for k, v in everyone.items()}), tuple(judged)

    def close(self) -> None:
        """End what was started."""
        if self._recorder is not None:
            self._recorder.close()
        if self._starter is not None:
            self._starter.join(5)
        self._server.stop()
        self._folder.remove()


def _load_what_reports_need() -> None:
    """Half a second of imports, while the recorder is at work."""
    with without_collections():
        import scipy.special  # noqa: F401

        from .report.html import environment

        environment()


def _every(seconds: float, tell: Callable[[int, int], None]) -> Callable[[int, int], None]:
    """``tell``, but at most once in so many seconds."""
    last = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= seconds:
            last = time.monotonic()
            tell(done, total)

    return progress


def where(settings: Settings) -> Where:
    """The store of a session, for whoever writes to it."""
    return Where(
        session=settings.identity.session,
        uri=settings.tracking_uri,
        artifact_root=str(settings.artifact_root) if settings.artifact_root else None,
        ledger=str(settings.home / "ledger.sqlite3"),
        locks=str(settings.home / "locks"),
    )


def by_group(tasks: Iterable[Task]) -> dict[tuple[str, Group], Task]:
    """The tasks by what they share a leaderboard, a packet and a judge in: experiment, task and rubric."""
    return {(t.experiment, t.suite.group): t for t in tasks}


def labels(tasks: Sequence[Task]) -> list[str]:
    """A part of a file name for each of several groups: its task, and as much more as tells all of them apart."""
    parts = [(t.suite.task, t.suite.rubric.id, t.suite.rubric.sha256[:8], file_name(t.experiment)) for t in tasks]
    names = [["-".join(p[:n]) for p in parts] for n in (1, 2, 3, 4)]
    return next((found for found in names if len(set(found)) == len(tasks)), names[-1])


def build_boards(tasks: Sequence[Task], outcome: Outcome, report: Path) -> tuple[Board, ...]:
    """One leaderboard per experiment, task and rubric; files in ``report``, or below it where there are several."""
    groups = by_group(t for t in tasks if t.experiment in outcome.candidates)
    names = labels(list(groups.values()))
    boards = []
    for task, name in zip(groups.values(), names, strict=True):
        suite = task.suite
        candidates = tuple(c for c in outcome.candidates[task.experiment] if c.group == suite.group)
        folder = report if len(groups) == 1 else report / name
        now = cells_now(tasks, suite.task)
        boards.append(Board.of(candidates, suite.rubric, task.experiment, suite.task, folder=folder, cells_now=now))
    return tuple(boards)


def with_shown_texts(store: TrackingStore, candidates: Sequence[LoggedCandidate]) -> list[LoggedCandidate]:
    """The same candidates of one leaderboard, with the texts of those that its page shows."""
    from .report.html import first_scenarios

    shown, _ = first_scenarios(candidates)
    loaded = {c.run_id: c for c in store.texts([c for found in shown.values() for c in found])}
    return [loaded.get(c.run_id, c) for c in candidates]


def cells_now(tasks: Iterable[Task], task: str) -> dict[tuple[str, str, str], str]:
    """(model, prompt, scenario) -> the id of the cell that the collected files give today."""
    return {c.names: c.id for t in tasks if t.suite.task == task for c in cells(t.suite)}


def write_reports(boards: Iterable[Board]) -> list[Path]:
    """Write every leaderboard as JSON, Markdown and HTML."""
    from .report import write_all

    now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    return [
        path
        for b in boards
        for path in write_all(b.folder, b.leaderboard, b.candidates, agreement=b.agreement, generated_at=now)
    ]


def _clear_old_folders(settings: Settings) -> None:
    """Remove what sessions that were killed left behind, once it is a day old."""
    for folder in (settings.home / "sessions").glob("*"):
        with contextlib.suppress(OSError):
            if folder != settings.folder and time.time() - folder.stat().st_mtime > STALE_FOLDER_S:
                shutil.rmtree(folder, ignore_errors=True)
