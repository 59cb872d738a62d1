"""The server's life as its parent sees it: start, see that it is healthy, stop."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Self

from ..errors import UsageError
from .weights import PREFIX, installed, threads

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

STDERR_BYTES = 16_384


@dataclass(frozen=True)
class Endpoint:
    """A running server: ``api_base`` ends in ``/v1``; ``models`` are its names there, without ``embedded/``."""

    api_base: str
    models: tuple[str, ...]


class LocalServer:
    """The server as a child process: ``start`` it once, or use it as a context manager to have it stopped.

    ``command`` replaces the child's command line, to which ``--serve <model>`` is added; ``timeout`` is how many
    seconds the child may take until it is healthy, ``patience`` how many it gets to end when told to.
    """

    def __init__(self, *, command: Sequence[str] | None = None, timeout: float = 60.0, patience: float = 5.0) -> None:
        # -P: no file of the directory that pytest runs in is taken for a module.
        self._command = command or (sys.executable, "-P", "-m", "pytest_promptbench.localmodels")
        self._timeout = timeout
        self._patience = patience
        self._process: subprocess.Popen[bytes] | None = None
        self._stderr = _Tail()
        self._endpoint: Endpoint | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    def start(self, names: Sequence[str]) -> Endpoint:
        """Serve the embedded models ``names`` (``embedded/...``) and return where, once it answers.

        Asked again while it runs, it returns the same endpoint. ``UsageError`` where a model cannot run here.
        """
        wanted = tuple(dict.fromkeys(names))
        for name in wanted:
            if reason := installed(name):
                raise UsageError(reason)
        if len(wanted) != 1:
            asked = ", ".join(wanted) or "none"
            raise UsageError(f"the embedded server runs one model; asked for: {asked}")
        alias = wanted[0].removeprefix(PREFIX)
        if self._endpoint is not None and self.failure() is None:
            if self._endpoint.models != (alias,):
                raise UsageError(f"the embedded server runs {self._endpoint.models[0]}; asked for: {alias}")
            return self._endpoint
        self.stop()
        threads()  # a mistake in the environment is said here, not in the child's last lines
        address = self._launch(alias)
        self._endpoint = Endpoint(api_base=f"{address}/v1", models=(alias,))
        return self._endpoint

    def stop(self) -> None:
        """End the server and wait for it. Does nothing where none runs."""
        process, self._process, self._endpoint = self._process, None, None
        if process is None:
            return
        assert process.stdin is not None
        assert process.stdout is not None
        for end in (process.stdin.close, process.terminate, process.kill):
            end()
            try:
                process.wait(timeout=self._patience)
                break
            except subprocess.TimeoutExpired:
                continue
        process.stdout.close()  # only now: a thread may still be reading it
        self._stderr.join()

    @property
    def pid(self) -> int | None:
        """The child's process id, None where none was started."""
        return self._process.pid if self._process else None

    def failure(self) -> str | None:
        """None while the server runs; else how it ended, with the last lines that it wrote to standard error."""
        if self._process is None:
            return "the embedded server was not started"
        code = self._process.poll()
        if code is None:
            return None
        self._stderr.join()
        how = f"ended with exit code {code}" if code >= 0 else f"was ended by signal {-code}"
        memory = ", as where memory runs out" if code == -9 else ""
        return f"the embedded server {how}{memory}{self._stderr.quoted()}"

    def _launch(self, alias: str) -> str:
        """Start the child and wait for its one line; its address. Whatever goes wrong, no child is left."""
        self._process = process = subprocess.Popen(
            [*self._command, "--serve", alias],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(os.environ),  # a copy: another thread may be writing to the environment
            start_new_session=True,  # Ctrl-C reaches the parent only, which decides when the server ends
        )
        assert process.stdout is not None
        assert process.stderr is not None
        self._stderr = _Tail(process.stderr)
        lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        threading.Thread(target=_first_line, args=(process.stdout, lines), daemon=True).start()
        try:
            line = lines.get(timeout=self._timeout)
            if not line:  # closed: it is ending
                process.wait(timeout=5)
                raise UsageError(f"cannot start {PREFIX}{alias}: {self.failure()}")
            return _address(line)
        except (queue.Empty, subprocess.TimeoutExpired):
            self.stop()
            raise UsageError(
                f"cannot start {PREFIX}{alias}: not healthy after {self._timeout:g} s{self._stderr.quoted()}"
            ) from None
        except BaseException:
            self.stop()
            raise


def _first_line(stream: IO[bytes], lines: queue.SimpleQueue[bytes]) -> None:
    try:
        lines.put(stream.readline(4096))
    except ValueError:  # closed meanwhile by stop()
        lines.put(b"")


def _address(line: bytes) -> str:
    try:
        return str(json.loads(line)["address"])
    except (ValueError, TypeError, KeyError):
        raise UsageError(f"the embedded server announced {line!r}; expected one JSON line with its address") from None


class _Tail:
    """The last bytes of a stream, read by a thread so that the writer never waits."""

    def __init__(self, stream: IO[bytes] | None = None) -> None:
        self._bytes = b""
        self._thread: threading.Thread | None = None
        if stream is not None:
            self._thread = threading.Thread(target=self._read, args=(stream,), daemon=True)
            self._thread.start()

    def _read(self, stream: IO[bytes]) -> None:
        with stream:
            while chunk := os.read(stream.fileno(), 4096):
                self._bytes = (self._bytes + chunk)[-STDERR_BYTES:]

    def join(self) -> None:
        if self._thread is not None:
            self._thread.join(timeout=5)

    def quoted(self) -> str:
        """The last lines as the end of a message, or nothing where there are none."""
        lines = self._bytes.decode("utf-8", "replace").strip().splitlines()[-12:]
        return ":\n" + "\n".join(f"  {line[-500:]}" for line in lines) if lines else ""
