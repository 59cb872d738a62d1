"""A run without Airflow: the DAG's steps one after another, in a process that outlives whoever started it.

    python -m pytest_promptbench.airflow.alone FOLDER collect LOCK      up to the wait for a judge, or to the end
    python -m pytest_promptbench.airflow.alone FOLDER compare LOCK      what comes after the wait

``FOLDER/job.json`` says what the run is, and ``FOLDER/state.json``, a :class:`State`, where it stands. ``LOCK`` is the
descriptor of its lock, which is held until this process and its pytest have ended. What the steps say goes to standard
output. Nobody waits in here: a run that has packets out ends its process in the state ``waiting``, and whoever sees
that nothing is pending any more starts it again with ``compare``.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

from ..clock import iso_utc, utc_now
from ..errors import PromptbenchError
from ..files import replace_file
from ..records import Record
from ..report.text import waiting
from .process import Ending, Finished, PytestProcess
from .request import Project, Request
from .waiting import exported

JOB, STATE, RESERVE = "job.json", "state.json", "reserve"
RESERVED_BYTES = 64 * 1024
"""What a run gives up to say how it ended where the disk is full."""


@dataclass(frozen=True, kw_only=True)
class State(Record):
    """Where a run stands: ``running``, ``waiting``, ``success`` or ``failed``.

    ``steps``: step -> running, success, failed, skipped or waiting, in their order. ``exit_code`` is that of the
    pytest process that the run failed with, else of collect. ``groups``, ``left_out`` and ``deadline`` (epoch seconds)
    are those of the wait. ``reason`` is why it failed; the log says so too, where there was room for it.
    """

    state: str
    steps: Mapping[str, str] = field(default_factory=dict)
    exit_code: int | None = None
    groups: tuple[tuple[str, str], ...] = ()
    left_out: tuple[str, ...] = ()
    deadline: float | None = None
    ended_at: str | None = None
    reason: str | None = None


class StepError(PromptbenchError):
    """A step that ends the run, with pytest's exit code where it was pytest's."""

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code


class Run:
    """One run in its folder."""

    def __init__(self, folder: Path, request: Request, here: Project, lock: int) -> None:
        self._folder, self._request, self._here, self._lock = folder, request, here, lock
        self.state = read_state(folder)

    @classmethod
    def of(cls, folder: Path, lock: int) -> Run:
        """From ``job.json``. UsageError where the project has not got what the request names."""
        about = json.loads((folder / JOB).read_text(encoding="utf-8"))
        here = Project(
            root=Path(about["root"]), python=Path(about["python"]), tracking_uri=os.environ["MLFLOW_TRACKING_URI"]
        )
        place = folder.relative_to(here.root).as_posix()
        request = Request.of(about["request"], run_id=folder.name, day=about["day"], folder=place)
        return cls(folder, here.prepared(request), here, lock)

    def collect(self) -> None:
        """Generate, judge where that is automatic, and write the packets; then wait, or go on to the comparison."""
        request = self._request
        self._note(step=("collect", "running"), state="running")
        if (look := self._run(request.look())).ending is Ending.MISTAKE:
            raise StepError(f"this run cannot end well, so nothing was generated:\n{look.last_words}", look.code)
        done = self._step("collect", request.collect_at_once())
        self._note(exit_code=done.code)
        if request.automatic:
            self._step("judge", request.judge_automatically())
        if request.sits_down:
            packets = (self._here.root / request.packet).parent
            shutil.rmtree(packets, ignore_errors=True)
            packets.mkdir(parents=True)
            self._step("export", request.export())
            found = exported(self._here.store(), request.experiment, packets)
            if found.items:
                deadline = time.time() + request.timeout * 60
                until = iso_utc(deadline, timespec="seconds")
                say(f"== {waiting(found.items)}, until {until}")
                what = {"groups": found.groups, "left_out": found.left_out, "deadline": deadline}
                self._note(step=("wait", "waiting"), state="waiting", **what)
                return
        self.compare()

    def compare(self) -> None:
        """Leaderboard and gate."""
        if "wait" in self.state.steps:
            self._note(step=("wait", "success"), state="running")
        done = self._step("compare", self._request.compare())
        if done.code:
            self._note(step=("compare", "failed"))
            raise StepError(f"the gate against {self._request.baseline} did not pass", done.code)
        self._note(state="success", ended_at=utc_now(timespec="seconds"))

    def _step(self, name: str, arguments: Sequence[str]) -> Finished:
        self._note(step=(name, "running"), state="running")
        done = self._run(arguments, name)
        if done.ending is not Ending.RESULT:
            raise StepError(f"{name} ended with {done.code}:\n{done.last_words}", done.code)
        self._note(step=(name, "success"))
        return done

    def _run(self, arguments: Sequence[str], name: str = "look") -> Finished:
        command = self._here.command(arguments)
        say(f"== {name}: {command}")
        environment = self._here.environment(os.environ)
        return PytestProcess(command, cwd=self._here.root, env=environment, held=[self._lock]).run(say)

    def _note(self, *, step: tuple[str, str] | None = None, **changes: Any) -> None:
        self.state = replace(self.state, steps={**self.state.steps, **dict([step] if step else [])}, **changes)
        write_json(self._folder / STATE, self.state.to_json())


def fail(folder: Path, message: str, code: int | None = None) -> None:
    """The end of a run that cannot go on. ``code``: pytest's, where it was pytest's."""
    (folder / RESERVE).unlink(missing_ok=True)
    state = read_state(folder)
    steps = {n: "failed" if s == "running" else s for n, s in state.steps.items()}
    code = state.exit_code if code is None else code
    over = replace(state, state="failed", steps=steps, exit_code=code, reason=message)
    write_json(folder / STATE, replace(over, ended_at=utc_now(timespec="seconds")).to_json())
    say(f"== failed: {message}")


def read_state(folder: Path) -> State:
    """Where the run of a folder stands; of one that has not written it yet, that it runs."""
    try:
        return State.from_json(json.loads((folder / STATE).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return State(state="running")


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Replace a file of the run's folder as a whole."""
    replace_file(path, json.dumps(value, indent=1))


def say(line: str) -> None:
    """A line of the run's log."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _terminated(*_: object) -> NoReturn:
    raise StepError("the run was ended by a signal")  # which ends the pytest process on its way out


def main() -> None:
    """The command line above."""
    folder, step, lock = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    signal.signal(signal.SIGTERM, _terminated)
    try:
        (folder / RESERVE).write_bytes(b"\0" * RESERVED_BYTES)
        run = Run.of(folder, lock)
        {"collect": run.collect, "compare": run.compare}[step]()
    except PromptbenchError as error:
        fail(folder, str(error), error.code if isinstance(error, StepError) else None)
    except Exception as error:  # whose traceback belongs into the log, and whose run is over all the same
        fail(folder, f"{type(error).__name__}: {error}")
        raise
    finally:
        (folder / RESERVE).unlink(missing_ok=True)


if __name__ == "__main__":
    main()
