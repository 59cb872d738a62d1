"""One pytest process: started without a shell, heard line by line, ended as a group."""

from __future__ import annotations

import contextlib
import enum
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import warden

TAIL_LINES = 30
ALARMS = ("NOT IN MLFLOW:", "NOT JUDGED:", "ERROR: MLflow at ")
"""How a session's lines begin that tell what its exit code does not: MLflow or the judge's provider was down.

All of it is worth another try, whatever the exit code.
"""
STOPPED = "STOPPED: the task was told to end, as when its worker is shut down"
"""The runner's own alarm: an interrupted pytest ends with 2, as it does for a mistake."""


class Ending(enum.Enum):
    """What an exit code of pytest means for a task."""

    RESULT = "result"
    EMPTY = "empty"
    MISTAKE = "mistake"
    CRASH = "crash"
    """Or something that it needed was down."""


def ending(code: int) -> Ending:
    """0 and 1 are results, 5 an empty selection, 2 to 4 mistakes that a retry repeats; all else a crash.

    A process that a signal ended has the signal's negative number.
    """
    if code in (0, 1):
        return Ending.RESULT
    if code == 5:
        return Ending.EMPTY
    return Ending.MISTAKE if code in (2, 3, 4) else Ending.CRASH


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A pytest process that has ended."""

    code: int
    tail: tuple[str, ...]
    alarms: tuple[str, ...] = ()

    @property
    def ending(self) -> Ending:
        return Ending.CRASH if self.alarms else ending(self.code)

    @property
    def last_words(self) -> str:
        """What pytest said at its end, for an error message: its own ERROR lines, else the last lines."""
        errors = [*self.alarms] or [self._whole(line) for line in self.tail if line.startswith(("ERROR", "E   "))]
        return "\n".join(errors[-5:] or [line for line in self.tail if line.strip()][-5:])

    def _whole(self, line: str) -> str:
        """A line of pytest's summary, which it cuts to the width of a terminal, with what it said of that before."""
        place, _, message = line.removesuffix("...").partition(" - ")
        if not line.endswith("...") or not message:
            return line
        said = (before.removeprefix("E").lstrip() for before in self.tail)
        return next((f"{place} - {text}" for text in said if text.startswith(message)), line)


class PytestProcess:
    """A pytest process in a session of its own, so that :meth:`end` reaches its workers and servers too.

    It ends with this process, however that ends: see :mod:`.warden`. ``held``: descriptors that stay open until then.
    """

    def __init__(self, command: Sequence[str], *, cwd: Path, env: Mapping[str, str], held: Sequence[int] = ()) -> None:
        self._command, self._cwd, self._env, self._held = list(command), cwd, dict(env), tuple(held)
        self._process: subprocess.Popen[bytes] | None = None
        self._here = -1
        self._ending_since: float | None = None

    def run(self, say: Callable[[str], None]) -> Finished:
        """Start, pass every line of output on to ``say``, and wait. Whatever is raised meanwhile ends the process."""
        gone, self._here = os.pipe()
        output, written = os.pipe()
        try:
            with os.fdopen(output, encoding="utf-8", errors="backslashreplace") as lines:
                try:
                    self._process = self._started((gone, output, *self._held), written)
                finally:
                    os.close(gone)
                    os.close(written)
                return self._heard(self._process, lines, say)
        except BaseException:
            self.end()
            raise
        finally:
            os.close(self._here)

    def _started(self, held: Sequence[int], written: int) -> subprocess.Popen[bytes]:
        start = [sys.executable, "-IS", warden.__file__, ",".join(map(str, held))]
        return subprocess.Popen(
            [*start, *self._command],
            cwd=self._cwd,
            env=self._env,
            stdin=subprocess.DEVNULL,
            stdout=written,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=held,
        )

    def _heard(self, process: subprocess.Popen[bytes], lines: Iterable[str], say: Callable[[str], None]) -> Finished:
        tail: deque[str] = deque(maxlen=TAIL_LINES)
        alarms: list[str] = []
        for raw in lines:
            line = raw.rstrip("\n")
            tail.append(line)
            if line.startswith(ALARMS):
                alarms.append(line)
            say(line)
        code = process.wait()
        self._process = None  # its number may be another's from now on
        if self._ending_since is not None and ending(code) is not Ending.RESULT:
            alarms.append(STOPPED)
        return Finished(code=code, tail=tuple(tail), alarms=tuple(alarms))

    def end(self) -> None:
        """End the whole group, as Ctrl-C does first, and by force what is left of it. Harmless when it is over."""
        process, begun = self._process, self._ending_since
        if process is None:
            return
        if begun is None:
            self._ending_since = time.monotonic()
            with contextlib.suppress(OSError):  # nobody reads it: then nobody will go on with it either
                os.write(self._here, b".")  # this process may be killed over it: Airflow waits for 5 s
        warden.end_group(process.pid, meanwhile=process.poll, begun=begun)
