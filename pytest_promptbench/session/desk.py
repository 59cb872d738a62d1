"""The side of a session that the user sees, in the process that was started."""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from ..autojudge import Judged, asking, telling
from ..clock import steady
from ..errors import PromptbenchError, UsageError
from ..generation import PATIENCE, Progress
from ..localmodels import LocalServer
from ..quiet import without_collections, without_warnings
from ..settings import Settings
from ..tracking.recorder import Outcome, Recorder
from .bench import SessionCompleter
from .boards import Board, build_boards, with_texts_of_pages, write_reports
from .plan import Folder, Plan, Task, where
from .scoring import score_all

STALE_FOLDER_S = 86400.0


@dataclass(frozen=True, kw_only=True)
class Closing:
    """What a session has to say at its end."""

    tasks: tuple[Task, ...] = ()
    boards: tuple[Board, ...] = ()
    files: tuple[Path, ...] = ()
    judged: tuple[Judged, ...] = ()
    seen: int = 0  # candidates that tests have looked at; a fixture may skip one whose cell was generated ahead
    unread: tuple[str, ...] = ()  # why the texts of candidates of earlier sessions are not on the page
    missing: int = 0  # cells that a session which was stopped has not generated
    unlogged: int | None = 0  # as the recorder's outcome has it
    problem: str | None = None
    stuck: int = 0
    stuck_error: str | None = None
    interrupted: bool = False  # while it waited for MLflow
    server: str | None = None  # how the embedded models' server ended, where it did so before the session


class Desk:
    """The side of a session that the user sees. Does nothing until a process has something to generate."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._folder = Folder(settings.folder)
        self._recorder: Recorder | None = None
        self._server = LocalServer()
        self._starter: threading.Thread | None = None
        self.plan: Plan | None = None
        self.started_at = steady()
        self._keys: list[tuple[str, str]] = []
        self._seen: set[str] = set()
        self._imports_early = False
        self._imports = threading.Thread(target=_load_what_reports_need, name="promptbench-imports", daemon=True)

    def begin(self, *, runs_tests: bool) -> None:
        """Start what the plan needs, if there is a plan by now. Returns at once, and may be called again.

        ``runs_tests``: this process is the bench, too. What it imports beside a test, the test could disturb.
        """
        if self.plan is not None:
            return
        value = self._folder.read("plan.json")
        if value is None:
            return
        self.plan = Plan.from_json(value)
        self._imports_early = not runs_tests
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

    def ran(self, experiment: str, key: str, cell: str | None) -> None:
        """A test has seen this candidate, so at the end it has to be in MLflow.

        ``cell``: the mark of its cell, where it is one that the plan counts.
        """
        self._keys.append((experiment, key))
        if cell is not None:
            self._seen.add(cell)
        if self._imports_early and self._imports.ident is None:
            self._imports.start()

    def progress(self) -> Progress:
        return self._folder.progress()

    def ended(self, worker: int) -> None:
        """A worker has ended. One that was killed had no time to say that it waits for no answer any more."""
        with contextlib.suppress(OSError):
            self._folder.end_progress(worker)

    def halt(self) -> None:
        """Have every process start no further request."""
        self._folder.write("stop.json", True)

    def stop_workers(
        self,
        *,
        say: Callable[[str], None],
        lost: Callable[[], Iterable[int]] = tuple,
        patient: bool = True,
        grace_s: float = 60.0,
    ) -> bool:
        """Have every process start no further request, and wait until each has handed over what is paid for.

        ``say`` is told where answers are on their way; ``lost`` names workers that have ended. Returns False where
        nobody is to wait any more: who asks is not ``patient``, an interrupt gave up, or ``grace_s`` are over.
        """
        if self.plan is None:
            return patient
        self.halt()
        if not patient:
            return False
        deadline = steady() + grace_s
        said = False
        try:
            while (progress := self._progress_without(lost())).at_work and steady() < deadline:
                if progress.in_flight and not said:
                    say(PATIENCE)
                    said = True
                time.sleep(0.1)
        except KeyboardInterrupt:
            return False
        return not progress.at_work

    def _progress_without(self, lost: Iterable[int]) -> Progress:
        for worker in lost:
            self.ended(worker)
        return self.progress()

    def finish(
        self, *, judge: bool = True, stopped: bool = False, say: Callable[[str], None] = lambda _: None
    ) -> Closing:
        """Bring everything to MLflow, read it back, have it judged where that was asked for, write the leaderboards.

        ``judge=False`` leaves the automatic judge out, as after an interrupt; ``say`` is told how far it is.
        ``stopped``: the session ended before its time. Otherwise a cell that was not generated is a test's own choice.
        """
        if self.plan is None or self._recorder is None:
            return Closing()
        tasks = self.plan.tasks
        made = self._made()
        judged: tuple[Judged, ...] = ()
        if self._imports.ident is None:
            self._imports.start()
        try:
            outcome = self._recorder.finish(self._keys, list(dict.fromkeys(t.experiment for t in tasks)))
            if judge and self.settings.judge_auto and outcome.unlogged is not None:
                outcome, judged = self._judge(outcome, say)
            outcome, unread = self._with_shown_texts(outcome)
        finally:
            server = self._server.failure() if self._server.pid is not None else None
            self.close()
            self._imports.join()  # a thread that still imports when Python ends holds locks that its ending needs
        boards = build_boards(tasks, outcome, self.settings)
        problem = outcome.error
        files: tuple[Path, ...] = ()
        try:
            files = tuple(write_reports(boards))
        except UsageError as error:
            problem = problem or str(error)
        return Closing(
            tasks=tasks,
            boards=boards,
            files=files,
            judged=judged,
            unread=tuple(unread),
            seen=len(set(self._keys)),
            missing=max(0, self.plan.cells - made) if stopped else 0,
            unlogged=outcome.unlogged,
            problem=problem,
            stuck=outcome.stuck,
            stuck_error=outcome.stuck_error,
            interrupted=outcome.interrupted,
            server=server,
        )

    def _made(self) -> int:
        """How many cells were generated: each once, though several workers have it, whose tests look at it.

        A worker that crashed has told of fewer than its tests have seen.
        """
        return len(self._folder.made() | self._seen)

    def _judge(self, outcome: Outcome, say: Callable[[str], None]) -> tuple[Outcome, tuple[Judged, ...]]:
        """Ask the suites' automatic judges about what they have not scored; of a shard, about its own candidates."""
        assert self.plan is not None
        assert self._recorder is not None
        judges = [t.suite.judge for t in self.plan.tasks if t.suite.judge is not None]
        mine = {key for _, key in self._keys} if self.settings.shard is not None else None
        everyone = {name: list(found) for name, found in outcome.candidates.items()}
        with asking(self.settings, SessionCompleter(judges, folder=self._folder), say=say) as ask:
            load = partial(self._recorder.texts, unread=[])  # which of them the judge misses, it says itself
            write = self._recorder.judge
            judged = score_all(self.plan.tasks, everyone, ask, write, load=load, only=mine, progress=telling(say))
        return replace(outcome, candidates={k: tuple(v) for k, v in everyone.items()}), tuple(judged)

    def _with_shown_texts(self, outcome: Outcome) -> tuple[Outcome, list[str]]:
        """The outcome with the texts of others' candidates that the pages show, and why some are missing."""
        assert self.plan is not None
        assert self._recorder is not None
        unread: list[str] = []
        try:
            found = with_texts_of_pages(self._recorder, self.plan.tasks, outcome.candidates, unread)
        except KeyboardInterrupt:
            return replace(outcome, interrupted=True), ["interrupted while they were read"]
        return replace(outcome, candidates=found), unread

    def close(self) -> None:
        """End what was started."""
        if self._recorder is not None:
            self._recorder.close()
        if self._starter is not None:
            self._starter.join(5)
        self._server.stop()
        self._folder.remove()


def _load_what_reports_need() -> None:
    """Half a second of imports, while the session waits. What fails here fails again, aloud, where it is needed."""
    with contextlib.suppress(Exception), without_collections(), without_warnings():
        import scipy.special  # noqa: F401

        from ..report.html import environment

        environment()


def _clear_old_folders(settings: Settings) -> None:
    """Remove what sessions that were killed left behind, once it is a day old."""
    for folder in (settings.home / "sessions").glob("*"):
        with contextlib.suppress(OSError):
            if folder != settings.folder and time.time() - folder.stat().st_mtime > STALE_FOLDER_S:
                shutil.rmtree(folder, ignore_errors=True)
