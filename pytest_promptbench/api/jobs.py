"""Runs without Airflow: each a process of its own in the background, and a look now and then at those that wait.

A job is a folder: ``job.json`` says what it is, ``state.json`` where it stands (``airflow.alone.State``), ``log.txt``
what pytest says. A lock on ``lock`` is held for as long as its process lives, or the pytest of one that was killed, so
that a service that was started anew sees which jobs still run, and takes over those that wait for a judge.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import secrets
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..airflow import alone
from ..airflow.request import Project
from ..airflow.waiting import pending, still_pending
from ..clock import iso_utc, utc_now
from ..errors import PromptbenchError, TrackingError
from ..locks import alone_in
from ..tracking.store import TrackingStore

TAIL_BYTES = 64 * 1024
POLL_S = 15.0
LOST = (
    "its process ended without a word, as one that is killed. What it has generated and judged is kept: start the run "
    "anew under its experiment, and only the rest is asked for"
)
_LOG = logging.getLogger(__name__)


class BusyError(PromptbenchError):
    """As many jobs run as may run at once."""


class StartError(PromptbenchError):
    """The machine cannot start a job, as with a disk that is full. Nothing of it is left."""


class FolderError(PromptbenchError):
    """The folder of the jobs, or of one of them, cannot be read."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job as its folder shows it. state: running, waiting, success, failed, or lost (how it ended is not known)."""

    id: str
    state: str
    exit_code: int | None
    started_at: str
    ended_at: str | None
    request: Mapping[str, Any]
    steps: Mapping[str, str]
    log: tuple[str, ...]


class Jobs:
    """The jobs of one project. ``most``: so many run at once; those that wait for a judge do not count.

    ``open_store`` gives the project's MLflow, to see whether something is pending, every ``poll_s``.
    """

    def __init__(
        self,
        *,
        project: Project,
        folder: Path,
        environ: Mapping[str, str],
        most: int,
        open_store: Callable[[], TrackingStore],
        poll_s: float = POLL_S,
    ) -> None:
        self._project = project
        self._folder = folder
        self._environ = project.environment(environ)
        self._most = most
        self._open_store = open_store
        self._poll_s = poll_s
        self._watch: threading.Thread | None = None
        self._passed_over: dict[Path, str] = {}

    def start(self, request: Mapping[str, Any]) -> Job:
        """Start a run and return at once. ``request``: parameters of a run, checked.

        BusyError while too many run, FolderError, StartError where its folder or process cannot be made.
        """
        now = datetime.now(UTC)
        folder = self._folder / f"bench-{now:%Y%m%dT%H%M%S}-{secrets.token_hex(4)}"
        about = {
            "request": dict(request),
            "root": str(self._project.root),
            "python": str(self._project.python),
            "day": now.date().isoformat(),
            "started_at": iso_utc(now.timestamp(), timespec="seconds"),
        }
        self._ids()  # FolderError, before a folder is made there
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with alone_in(self._folder):  # beside other services of this project too
                running = self._running()
                if len(running) >= self._most:
                    raise BusyError(
                        f"{len(running)} runs are going on here, the most at once: wait for {', '.join(running)}"
                    )
                folder.mkdir()
                alone.write_json(folder / alone.JOB, about)
                with _lock(folder, wait=True) as lock:
                    assert lock is not None
                    self._spawn(folder, "collect", lock)
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)  # else it would be a run that is lost
            raise StartError(f"the run was not started: {error}; look after the disk of {self._folder}") from None
        self.watch()
        found = self.find(folder.name)
        assert found is not None
        return found

    def _spawn(self, folder: Path, step: str, lock: int) -> None:
        with (folder / "log.txt").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", alone.__name__, str(folder), step, str(lock)],
                cwd=self._project.root,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=(lock,),  # held open for its life and its pytest's, which is what holds the lock
            )
        threading.Thread(target=process.wait, name=f"reap-{folder.name}", daemon=True).start()
        about = _read(folder / alone.JOB)
        try:
            alone.write_json(folder / alone.JOB, {**about, "pid": process.pid})
        except OSError:
            process.terminate()  # it would spend money where nobody could end it
            raise

    def find(self, job: str) -> Job | None:
        """The job of this id, None where there is none. FolderError where that cannot be told."""
        if job not in self._ids():
            return None
        folder = self._folder / job
        about = _read(folder / alone.JOB)
        try:
            state = self._state(job)
        except Exception as error:  # whatever it holds
            raise FolderError(
                f"the run cannot be read ({type(error).__name__}: {error}): mend or delete {folder / alone.STATE}"
            ) from None
        if state.state == "waiting":
            self.watch()
        return Job(
            id=job,
            state=state.state,
            exit_code=state.exit_code,
            started_at=about.get("started_at", ""),
            ended_at=state.ended_at,
            request=about.get("request", {}),
            steps=state.steps,
            log=_with_reason(tail(folder / "log.txt"), state),
        )

    # -- those that wait

    def watch(self) -> None:
        """See to it that jobs which wait go on once nothing is pending, those of an earlier service too."""
        if self._watch is None:
            self._watch = threading.Thread(target=self._look_on, name="waiting-jobs", daemon=True)
            self._watch.start()

    def _look_on(self) -> None:
        while True:
            time.sleep(self._poll_s)
            try:
                jobs = self._ids()
            except FolderError as error:
                self._pass_over(self._folder, error)
                continue
            for job in jobs:
                self._look_after(job)

    def _look_after(self, job: str) -> None:
        try:
            if self._state(job).state == "waiting":
                self._look_at(self._folder / job)
        except Exception as error:  # whatever its files hold, it holds up no other
            self._pass_over(self._folder / job, error)

    def _pass_over(self, folder: Path, error: Exception) -> None:
        """Say so, once: the next look finds the same."""
        reason = f"{type(error).__name__}: {error}"
        if self._passed_over.get(folder) != reason:
            self._passed_over[folder] = reason
            _LOG.warning("%s is passed over: %s", folder, reason)

    def _look_at(self, folder: Path) -> None:
        state, about = alone.read_state(folder), _read(folder / alone.JOB)
        try:
            left = pending(self._open_store(), about["request"]["experiment"], state.groups, state.left_out)
            waits_for = still_pending(left) if left else None
        except TrackingError as error:  # it may be back at the next look
            waits_for = str(error)
        late = state.deadline is not None and time.time() > state.deadline
        if waits_for is not None and not late:
            return
        with alone_in(self._folder):
            if waits_for is None and len(self._running()) >= self._most:
                return  # one verdict may be the last of many runs
            self._go_on(folder, state, waits_for)

    def _go_on(self, folder: Path, state: alone.State, waits_for: str | None) -> None:
        """To the comparison where it waits for nothing, else to the end, as its time is up."""
        with _lock(folder) as lock:
            if lock is None or alone.read_state(folder).state != "waiting":
                return  # another service was first
            if waits_for is None:
                # Now, as of one that has just started: should its process die without a word, it is lost.
                goes_on = replace(state, state="running", steps={**state.steps, "wait": "success"})
                alone.write_json(folder / alone.STATE, goes_on.to_json())
                try:
                    self._spawn(folder, "compare", lock)
                except OSError:  # none was started: it waits on, for a look that finds memory, or Python back
                    alone.write_json(folder / alone.STATE, state.to_json())
                    raise
                return
            with (folder / "log.txt").open("a", encoding="utf-8") as log:
                log.write(f"== failed: the time to wait is up, and {waits_for}\n")
            steps = {**state.steps, "wait": "failed"}
            over = replace(state, state="failed", steps=steps, ended_at=utc_now(timespec="seconds"))
            alone.write_json(folder / alone.STATE, over.to_json())

    # -- folders

    def _running(self) -> list[str]:
        return [i for i in self._ids() if _is_held(self._folder / i)]

    def _ids(self) -> list[str]:
        try:
            return sorted(e.name for e in os.scandir(self._folder) if e.is_dir() and e.name.startswith("bench-"))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise FolderError(
                f"the runs of this machine are in {self._folder}, which cannot be read ({error.strerror or error}): "
                "make it a folder of the user that this service runs as"
            ) from None

    def _state(self, job: str) -> alone.State:
        """As its folder says; ``running`` while its process lives, and ``lost`` where that died without a word."""
        folder = self._folder / job
        if _is_held(folder):
            return replace(alone.read_state(folder), state="running")
        state = alone.read_state(folder)  # after the lock: it is written before the process ends
        if state.state != "running":
            return state
        steps = {name: "lost" if step == "running" else step for name, step in state.steps.items()}
        return replace(state, state="lost", steps=steps, reason=LOST)


@contextlib.contextmanager
def _lock(folder: Path, *, wait: bool = False) -> Iterator[int | None]:
    """The job's lock, to be handed to a process; None where a process has it, unless ``wait``."""
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield None
        else:
            yield lock
    finally:
        os.close(lock)


def _is_held(folder: Path) -> bool:
    try:
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def tail(log: Path, lines: int = 60) -> tuple[str, ...]:
    """The last lines of a log."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - TAIL_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ()
    return _lines(text)[-lines:]


def _with_reason(log: tuple[str, ...], state: alone.State) -> tuple[str, ...]:
    """A log that says why the run failed, also where the disk had no room for it, or nobody was left to say so."""
    words = _lines(f"== {state.state}: {state.reason}") if state.reason else ()
    return log if not words or words[0] in log else (*log, *words)


def _lines(text: str) -> tuple[str, ...]:
    """Without terminal colours' escape bytes."""
    return tuple(text.replace("\x1b", "␛").splitlines())


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
