"""Runs without Airflow: one pytest process each, in the background, in a session of its own.

A job is a folder: ``job.json`` says what it is, ``log.txt`` what pytest says, ``end.json`` how it ended. The process
holds a lock on ``lock`` for as long as it lives, so that a service that was started anew sees which jobs still run.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..errors import PromptbenchError
from .models import RunRequest

TAIL_BYTES = 64 * 1024
_NOT_FOR_JOBS = ("PYTEST_", "PROMPTBENCH_API_", "PROMPTBENCH_AIRFLOW_")


class BusyError(PromptbenchError):
    """As many jobs run as may run at once."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job as its folder shows it. state: running, success, failed, or lost (how it ended is not known)."""

    id: str
    state: str
    exit_code: int | None
    started_at: str
    ended_at: str | None
    request: Mapping[str, Any]
    log: tuple[str, ...]


def arguments(request: RunRequest, *, test_path: str, baseline: str | None, report: Path) -> list[str]:
    """Pytest's arguments. Every value of the request stands behind the name of its option, in one argument with it."""
    return [
        f"./{test_path}",
        *([f"-k={request.k}"] if request.k else []),
        *([f"--bench-models={','.join(request.models)}"] if request.models else []),
        *([f"--bench-prompts={','.join(request.prompts)}"] if request.prompts else []),
        *([f"--bench-experiment={request.experiment}"] if request.experiment else []),
        *([f"--numprocesses={request.shards}"] if request.shards > 1 else []),
        f"--bench-concurrency={request.concurrency}",
        f"--bench-report={report}",
        *(["--judge-auto"] if request.judge in ("auto", "both") else []),
        *([f"--bench-compare={baseline}"] if baseline else []),
        *([f"--bench-max-cost={request.max_cost:.6f}"] if request.max_cost is not None else []),
    ]


class Jobs:
    """The jobs of one project. ``most``: so many run at once."""

    def __init__(
        self, *, root: Path, folder: Path, python: str, environ: Mapping[str, str], tracking_uri: str, most: int
    ) -> None:
        self._root = root
        self._folder = folder
        self._python = python
        kept = {k: v for k, v in environ.items() if not k.startswith(_NOT_FOR_JOBS)}
        self._environ = {**kept, "MLFLOW_TRACKING_URI": tracking_uri, "PYTHONUNBUFFERED": "1"}
        self._most = most
        self._starting = threading.Lock()
        self._waiting: dict[str, threading.Thread] = {}

    def start(self, request: RunRequest, *, test_path: str, baseline: str | None) -> Job:
        """Start pytest and return at once. BusyError while too many run."""
        with self._starting:
            running = [i for i in self._ids() if self._is_running(i)]
            if len(running) >= self._most:
                raise BusyError(
                    f"{len(running)} runs are going on here, the most at once: wait for {', '.join(running)}"
                )
            job = f"bench-{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(4)}"
            folder = self._folder / job
            folder.mkdir(parents=True)
            args = arguments(request, test_path=test_path, baseline=baseline, report=folder / "report")
            self._start(folder, [self._python, "-m", "pytest", f"--rootdir={self._root}", *args], request)
        found = self.find(job)
        assert found is not None
        return found

    def _start(self, folder: Path, command: Sequence[str], request: RunRequest) -> None:
        asked = request.model_dump(exclude_defaults=True)
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            about = {"command": list(command), "request": asked, "started_at": _now()}
            _write(folder / "job.json", about)
            with (folder / "log.txt").open("wb") as log:
                process = subprocess.Popen(
                    command,
                    cwd=self._root,
                    env=self._environ,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    pass_fds=(lock,),  # held open for its life, which is what holds the lock
                )
            _write(folder / "job.json", {**about, "pid": process.pid})
        finally:
            os.close(lock)
        thread = threading.Thread(target=_wait, args=(process, folder), name=f"wait-{folder.name}", daemon=True)
        self._waiting[folder.name] = thread
        thread.start()

    def find(self, job: str) -> Job | None:
        """The job of this id, None where there is none."""
        if job not in self._ids():
            return None
        folder = self._folder / job
        running = self._is_running(job)
        about, end = _read(folder / "job.json"), _read(folder / "end.json")
        code = end.get("exit_code")
        state = "success" if code == 0 else "failed" if code is not None else "running" if running else "lost"
        return Job(
            id=job,
            state=state,
            exit_code=code,
            started_at=about.get("started_at", ""),
            ended_at=end.get("ended_at"),
            request=about.get("request", {}),
            log=tail(folder / "log.txt"),
        )

    def _ids(self) -> list[str]:
        try:
            return sorted(e.name for e in os.scandir(self._folder) if e.is_dir() and e.name.startswith("bench-"))
        except FileNotFoundError:
            return []

    def _is_running(self, job: str) -> bool:
        folder = self._folder / job
        if (folder / "end.json").exists():
            return False
        if job in self._waiting:
            return self._waiting[job].is_alive()
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


def _wait(process: subprocess.Popen[bytes], folder: Path) -> None:
    code = process.wait()
    _write(folder / "end.json", {"exit_code": code, "ended_at": _now()})


def tail(log: Path, lines: int = 60) -> tuple[str, ...]:
    """The last lines of a log, without terminal colours' escape bytes."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - TAIL_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ()
    return tuple(text.replace("\x1b", "␛").splitlines()[-lines:])


def _write(path: Path, value: Mapping[str, Any]) -> None:
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    draft.write_text(json.dumps(value, indent=1), encoding="utf-8")
    draft.replace(path)


def _read(path: Path) -> dict[str, Any]:
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
