"""Processes of Python that are forked from one which has imported LiteLLM and MLflow.

Most of the time of a short session is importing the two: in the session, in its recorder, in each worker of xdist, and
in the service. They stay what they are: a process each, real pytest, the plugin loaded by its entry point, a working
folder, an environment, pipes of their own. Python's fork server serves.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import multiprocessing
import os
import runpy
import shlex
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType
from typing import IO, Any, ClassVar, NoReturn

_AT_IMPORT = ("PYTHON", "LITELLM_", "MLFLOW_", "LC_", "LANG")
"""Variables that the interpreter or the libraries read as they start."""
_LATER = {"MLFLOW_TRACKING_URI", "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "PYTHONUNBUFFERED"}
"""But for these."""
_RECORDER = ["-P", "-m", "pytest_promptbench.tracking.writer"]
_WORKER = ["-u", "-c", "import sys;exec(eval(sys.stdin.readline()))"]
"""As the plugin starts the one and execnet the other, behind the interpreter's name."""


def serves(arguments: Sequence[str], environ: Mapping[str, str]) -> bool:
    """Whether a process may be forked: not with other settings of the interpreter or the libraries."""
    special = {k for k in environ if k.startswith(_AT_IMPORT)} - _LATER
    special |= {"--tx", "-W"} & {*arguments}
    return sys.platform == "linux" and "PROMPTBENCH_COLD" not in os.environ and not special


def _output() -> IO[str]:
    """A name that is no UTF-8 comes out of a process as it is, and does not stop who reads it."""
    return tempfile.TemporaryFile("w+", errors="backslashreplace")


def run(
    command: Sequence[str], *, cwd: Path, env: Mapping[str, str], timeout: float
) -> subprocess.CompletedProcess[str]:
    """``python COMMAND``, as :func:`subprocess.run` would with its output captured."""
    with _output() as out, _output() as err:
        process = _launch(command, cwd, env, [out.fileno(), err.fileno()])
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired([*command], timeout)
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess([*command], process.exitcode, out.read(), err.read())


@dataclass(frozen=True)
class Started:
    """A process that runs, as :class:`subprocess.Popen` has it, with its standard output in a pipe."""

    process: BaseProcess
    stdout: IO[str]

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    @property
    def returncode(self) -> int | None:
        return self.process.exitcode

    def poll(self) -> int | None:
        return self.process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def terminate(self) -> None:
        self.process.terminate()

    def communicate(self, timeout: float) -> tuple[str, None]:
        late = threading.Timer(timeout, self.process.kill)
        late.start()
        try:
            return self.stdout.read(), None
        finally:
            late.cancel()
            self.wait(timeout)

    def wait(self, timeout: float) -> int:
        self.process.join(timeout)
        if self.process.exitcode is None:
            raise subprocess.TimeoutExpired(self.process.name, timeout)
        return self.process.exitcode


def start(command: Sequence[str], *, cwd: Path, env: Mapping[str, str], errors: bool = False) -> Started:
    """``python COMMAND``, which goes on until it ends or is ended. ``errors``: the pipe has its standard error too."""
    ours, theirs = os.pipe()
    process = _launch(command, cwd, env, [theirs] * (2 if errors else 1))
    os.close(theirs)
    return Started(process, os.fdopen(ours, encoding="utf-8"))


class _Request(socketserver.BaseRequestHandler):
    """One of a stand-in's: its output and error, command, folder and environment; the answer is the exit code."""

    def handle(self) -> None:
        _, outputs, _, _ = socket.recv_fds(self.request, 1, 2)
        with self.request.makefile() as told:
            command, cwd, env = json.loads(told.read())
        try:
            assert serves(command, {k: v for k, v in env.items() if os.environ.get(k) != v}), command
            process = _launch(command, cwd, env, outputs)
        finally:
            for descriptor in outputs:
                os.close(descriptor)
        process.join()
        self.request.sendall(str(process.exitcode).encode())


_ASK = """#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as line:
    line.connect({address!r})
    socket.send_fds(line, [b"x"], [1, 2])
    line.sendall(json.dumps([{before!r} + sys.argv[1:], os.getcwd(), dict(os.environ)]).encode())
    line.shutdown(socket.SHUT_WR)
    sys.exit(int(line.makefile().read()))
"""


@contextlib.contextmanager
def stand_in(file: Path, *before: str) -> Iterator[Path]:
    """An executable file that is ``python BEFORE``, for what starts a Python by its path: it waits for a forked one.

    Not for what ends processes: a signal would reach the one that waits. With PROMPTBENCH_COLD it is an interpreter.
    """
    with socketserver.ThreadingUnixStreamServer("", _Request) as server:
        if serves(before, {}):
            text = _ASK.format(python=sys.executable, address=server.server_address, before=[*before])
        else:
            text = f'#!/bin/sh\nexec {shlex.join([sys.executable, *before])} "$@"\n'
        file.write_text(text)
        file.chmod(0o755)
        threading.Thread(target=server.serve_forever, args=[0.05]).start()
        try:
            yield file
        finally:
            server.shutdown()


def _launch(command: Sequence[str], cwd: Path | str, env: Mapping[str, str], outputs: Sequence[int]) -> BaseProcess:
    """``outputs``: its standard output, and perhaps its standard error, else the fork server's."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.preload"])
    handed = [Connection(os.dup(x)) for x in outputs]  # which is how a descriptor gets through a fork server
    process = context.Process(target=_first, args=([*command], str(cwd), dict(env), handed, _search_path()))
    process.start()
    for connection in handed:
        connection.close()
    return process


@functools.cache
def _search_path() -> list[str]:
    """Where a new interpreter looks for modules; this one has tests' folders in its list."""
    done = subprocess.run(
        [sys.executable, "-c", "import sys; print(*sys.path[1:], sep='\\n')"],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


def _first(command: list[str], cwd: str, env: dict[str, str], outputs: list[Connection], search: list[str]) -> None:
    for descriptor, connection in enumerate(outputs, 1):
        os.dup2(connection.fileno(), descriptor)
        connection.close()
    _renew_streams()
    for name in [x for x in sys.modules if x.split(".")[0] in ("tests", "conftest")]:
        del sys.modules[name]
    if command[1] == "pytest":
        # It would rewrite the asserts of every installed plugin's package, and of those that are imported it warns.
        command[2:2] = ["-W", "ignore:Module already imported:pytest.PytestAssertRewriteWarning"]
    for _ in range(1 + _workers([*shlex.split(env.get("PYTEST_ADDOPTS", "")), *command], env)):
        _Popen.spares.append(_Spare(search))
    subprocess.Popen = _Popen  # type: ignore[misc]
    try:
        _interpreter(command, cwd, env, search)
    finally:
        for spare in _Popen.spares:
            spare.dismiss()


def _workers(options: list[str], env: Mapping[str, str]) -> int:
    """How many xdist is told to start."""
    long = [x.partition("=")[2] for x in options if x.startswith("--numprocesses=")]
    said = options[options.index("-n") + 1] if "-n" in options else [*long, "0"][0]
    return int(env["PYTEST_XDIST_AUTO_NUM_WORKERS"] if said == "auto" else said)


def _renew_streams() -> None:
    """Those of Python, for what the process's are now."""
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115


def _interpreter(command: Sequence[str], cwd: str, env: Mapping[str, str], search: list[str]) -> None:
    """Be ``python COMMAND``, whose options end with ``-m MODULE`` or ``-c CODE``."""
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    if "PYTHONUNBUFFERED" in env:
        sys.stdout.reconfigure(write_through=True)
    sys.dont_write_bytecode = "PYTHONDONTWRITEBYTECODE" in env  # the fork server has it of the suite's interpreter
    at = next(i for i, word in enumerate(command) if word in ("-m", "-c"))
    kind, what = command[at : at + 2]
    sys.argv = [kind, *command[at + 2 :]]
    first = [] if "-P" in command[:at] else [cwd if kind == "-m" else ""]
    sys.path[:] = [*first, *search]
    try:
        if kind == "-m":
            runpy.run_module(what, run_name="__main__", alter_sys=True)
        else:
            sys.modules["__main__"] = ModuleType("__main__")
            exec(what, vars(sys.modules["__main__"]))
    finally:  # what an interpreter does at its end and a fork leaves out
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()


class _Spare:
    """A fork of a process before it has opened anything, which waits to become its recorder or a worker of xdist."""

    def __init__(self, search: list[str]) -> None:
        self._line, theirs = socket.socketpair()
        self.pid = os.fork()
        if self.pid == 0:
            for spare in (*_Popen.spares, self):
                spare._line.close()  # its end tells the other one that the process is gone
            self._wait(theirs, search)
        theirs.close()

    def dismiss(self) -> None:
        self._line.close()
        os.waitpid(self.pid, 0)

    def become(self, command: Sequence[str], cwd: str, env: Mapping[str, str], pipes: list[int], leads: bool) -> None:
        """``pipes``: its standard input, output and error. ``leads``: a session, in the system's sense, of its own."""
        socket.send_fds(self._line, [b"x"], pipes)
        self._line.sendall(json.dumps([[*command], cwd, dict(env), leads]).encode())
        self._line.close()

    @staticmethod
    def _wait(line: socket.socket, search: list[str]) -> NoReturn:
        code = 1
        try:
            _, pipes, _, _ = socket.recv_fds(line, 1, 3)
            if not pipes:
                os._exit(0)
            for to, descriptor in enumerate(pipes):
                os.dup2(descriptor, to)
                os.close(descriptor)
            with line, line.makefile() as told:
                command, cwd, env, leads = json.loads(told.read())
            if leads:
                os.setsid()
            _renew_streams()
            _interpreter(command, cwd, env, search)
            sys.stdout.flush()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)


class _Popen(subprocess.Popen):  # type: ignore[type-arg]
    """What a process's spare ones can become, they become. All others that it starts are new interpreters."""

    spares: ClassVar[list[_Spare]] = []

    def _execute_child(self, args: Any, *rest: Any) -> None:
        command = [*args][1:]
        if command not in (_RECORDER, _WORKER) or not _Popen.spares:
            super()._execute_child(args, *rest)  # type: ignore[misc]
            return
        cwd, env, pipes, leads = rest[4], rest[5], rest[9:15], rest[20]
        given = [theirs if theirs != -1 else own for own, theirs in enumerate((pipes[0], pipes[3], pipes[5]))]
        spare = _Popen.spares.pop()
        spare.become(command, cwd or str(Path.cwd()), env or os.environ, given, leads)
        self.pid, self._child_created = spare.pid, True
        self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]
