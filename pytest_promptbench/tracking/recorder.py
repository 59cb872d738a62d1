"""The session's hold on the process that brings candidates from the ledger into MLflow: see ``writer``."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from ..errors import TrackingError
from ..locks import LockFile
from ..quiet import without_collections
from ..records import Judge, LoggedCandidate, Record, Rubric, Verdict
from .address import identity
from .store import TrackingStore
from .verdicts import Ruling

PROCESS = f"{__package__}.writer"


@dataclass(frozen=True, kw_only=True)
class Where(Record):
    """Which store, and which project's ledger and locks. Paths as strings, so that it travels as JSON."""

    session: str
    uri: str
    artifact_root: str | None
    ledger: str
    locks: str

    @property
    def store_name(self) -> str:
        """The store as the ledger knows it: by its address without user and password."""
        return identity(self.uri)

    def begun(self, session: str) -> Path:
        """A file in a session's folder that says that its recorder has had its lock."""
        return Path(self.ledger).parent / "sessions" / session / "recorder"

    def store(self, locks: LockFile | None = None) -> TrackingStore:
        root = Path(self.artifact_root) if self.artifact_root else None
        return TrackingStore(self.uri, artifact_root=root, locks=locks)


@dataclass(frozen=True, kw_only=True)
class Outcome(Record):
    """What a session's recording came to.

    ``unlogged`` candidates are not in MLflow and stay in the ledger for the next session, None where nobody could say
    how many; ``error`` says why.
    ``candidates``: experiment -> all of its candidates, with the texts of those that this project knows.
    ``stuck`` counts those that earlier sessions have left behind and MLflow refuses still; ``stuck_error`` says why.
    ``interrupted``: somebody did not want to wait.
    """

    unlogged: int | None = 0
    error: str | None = None
    candidates: Mapping[str, tuple[LoggedCandidate, ...]] = field(default_factory=dict)
    stuck: int = 0
    stuck_error: str | None = None
    interrupted: bool = False


@dataclass(frozen=True, kw_only=True)
class Judgement(Record):
    """What an automatic judge said of a candidate: a verdict, or the ``problem`` with its replies.

    ``invalid``: there were replies, none of them a valid verdict. ``second``: it saw the candidate once more, which
    shows how well it agrees with itself.
    """

    candidate: LoggedCandidate
    rubric: Rubric
    judge: Judge
    verdict: Verdict | None = None
    problem: str | None = None
    invalid: bool = False
    second: bool = False


def write_judgements(store: TrackingStore, judgements: Sequence[Judgement]) -> list[LoggedCandidate]:
    """Bring them to MLflow; their candidates, each once, as they are then. TrackingError."""
    rulings = [Ruling(j.candidate, j.verdict, j.rubric, j.second) for j in judgements if j.verdict is not None]
    after = {c.run_id: c for c in store.record_all(rulings)}
    for j in judgements:
        if j.verdict is None and not j.second:
            c = after.get(j.candidate.run_id, j.candidate)
            after[c.run_id] = store.record_failure(c, j.judge, j.problem or "no reason given", j.rubric)
        after.setdefault(j.candidate.run_id, j.candidate)
    return list(after.values())


class Recorder:
    """The handle of the recorder process."""

    def __init__(self, where: Where) -> None:
        self._where = where
        self._process: subprocess.Popen[str] | None = None
        self._errors: IO[str] | None = None

    def start(self) -> None:
        """Start the process; returns at once."""
        self._close_pipes()
        if self._errors is None:
            self._errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - see close
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", PROCESS],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            encoding="utf-8",
            env=dict(os.environ),  # a copy: another thread may be importing LiteLLM, which writes to the environment
            start_new_session=True,  # Ctrl-C is for the session to handle
        )
        self._say(self._where.to_json())

    def finish(self, keys: Sequence[tuple[str, str]], experiments: Sequence[str]) -> Outcome:
        """Wait until all candidates are in MLflow, or cannot be, and read the experiments back.

        A recorder that was killed is started anew once: what it had not written is still in the ledger. An interrupt
        gives up.
        """
        try:
            answer = self._ask({"finish": {"keys": [list(k) for k in keys], "experiments": list(experiments)}})
        except TrackingError as error:
            return Outcome(unlogged=None, error=str(error))
        except KeyboardInterrupt:
            self._kill()
            return Outcome(unlogged=None, error="interrupted while they were brought there", interrupted=True)
        with without_collections():
            return Outcome.from_json(answer)

    def judge(self, judgements: Sequence[Judgement]) -> tuple[LoggedCandidate, ...]:
        """Write what an automatic judge said; the candidates as they are then, without texts. TrackingError."""
        try:
            answer = self._ask({"judgements": [j.to_json() for j in judgements]})
        except KeyboardInterrupt:
            self._end()  # the answer that nobody waits for would be taken for that of the next question
            raise
        if answer.get("error"):
            raise TrackingError(answer["error"])
        return tuple(LoggedCandidate.from_json(c) for c in answer["candidates"])

    def texts(self, candidates: Sequence[LoggedCandidate], *, unread: list[str]) -> list[LoggedCandidate]:
        """As :meth:`TrackingStore.texts`. What the process gives no answer about is unread; an interrupt ends it."""
        missing = [c for c in candidates if c.outputs is None or c.context is None]
        if not missing:
            return list(candidates)
        try:
            answer = self._ask({"texts": [c.to_json() for c in missing]})
        except TrackingError as error:
            unread += [str(error)] * len(missing)
            return list(candidates)
        except KeyboardInterrupt:
            self._kill()
            raise
        unread += answer["unread"]
        with without_collections():
            read = {c["run_id"]: LoggedCandidate.from_json(c) for c in answer["candidates"]}
        return [read.get(c.run_id, c) for c in candidates]

    def _ask(self, question: Mapping[str, Any]) -> dict[str, Any]:
        last = "no message"
        for _ in (1, 2):
            if self._process is None or self._process.poll() is not None:
                self.start()
            assert self._process is not None
            assert self._process.stdout is not None
            self._say(question)
            line = self._process.stdout.readline()
            if line.endswith("\n"):
                with without_collections():
                    answer: dict[str, Any] = json.loads(line)
                return answer
            self._process.wait()
            last = self._last_words() or last
        raise TrackingError(f"the recording process ended without an answer: {last}")

    def _last_words(self) -> str:
        assert self._errors is not None
        self._errors.seek(0)
        return (self._errors.read().strip().splitlines() or [""])[-1]

    def close(self) -> None:
        """End the process, if it runs, without waiting for what is left."""
        self._end()
        if self._errors is not None:
            self._errors.close()

    def _end(self) -> None:
        """End the process, if it runs, once it has done what it was asked; at once for who does not want to wait."""
        self._close_pipes()
        if self._process is not None and self._process.poll() is None:
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._kill()
            except KeyboardInterrupt:
                self._kill()
                raise

    def _close_pipes(self) -> None:
        """To the process that was, or is no longer needed."""
        for pipe in (self._process.stdin, self._process.stdout) if self._process is not None else ():
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):  # it ended while it was spoken to
                pipe.close()

    def _kill(self) -> None:
        """End the process, and the second writer with it."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _say(self, value: object) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(value) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it ended; whoever waits for its answer finds out why
