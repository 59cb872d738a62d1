"""Pytest sessions in processes that are forked from one which has imported LiteLLM and MLflow.

Half of the time of a short session is importing the two. The sessions stay what they are: a process each, real pytest,
the plugin loaded by its entry point, a working folder and an environment of their own. Python's fork server serves.
"""

from __future__ import annotations

import atexit
import functools
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

_AT_IMPORT = ("PYTHON", "LITELLM_", "MLFLOW_", "LC_", "LANG")
"""Variables that the interpreter or the libraries read as they start."""
_LATER = {"MLFLOW_TRACKING_URI", "MLFLOW_HTTP_REQUEST_MAX_RETRIES"}
"""But for these."""


def serves(arguments: Sequence[str], environ: Mapping[str, str]) -> bool:
    """Whether a session may be forked: not with workers of xdist, new interpreters anyway, nor with other settings."""
    special = {k for k in environ if k.startswith(_AT_IMPORT)} - _LATER
    special |= {"-n", "--tx", "-W"} & {*arguments}
    return sys.platform == "linux" and "PROMPTBENCH_COLD" not in os.environ and not special


def run(
    arguments: Sequence[str], *, cwd: Path, env: Mapping[str, str], timeout: float
) -> subprocess.CompletedProcess[str]:
    """``python -m pytest ARGUMENTS``, as :func:`subprocess.run` would with its output captured."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["tests.preload"])
        paths = [f"/proc/{os.getpid()}/fd/{x.fileno()}" for x in (out, err)]
        process = context.Process(target=_session, args=(list(arguments), str(cwd), dict(env), paths, _search_path()))
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired(list(arguments), timeout)
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(list(arguments), process.exitcode, out.read(), err.read())


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


def _session(arguments: list[str], cwd: str, env: dict[str, str], outputs: list[str], search: list[str]) -> None:
    for descriptor, path in enumerate(outputs, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), descriptor)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.path[:] = [cwd, *search]
    for name in [x for x in sys.modules if x.split(".")[0] in ("tests", "pytest_promptbench", "conftest")]:
        del sys.modules[name]

    import pytest

    sys.argv = [pytest.__file__, *arguments]
    # pytest would rewrite the asserts of every installed plugin's package, and of those that are imported it warns.
    code = int(pytest.main(["-W", "ignore:Module already imported:pytest.PytestAssertRewriteWarning", *arguments]))
    atexit._run_exitfuncs()  # what is registered runs at the end of a session; multiprocessing would leave it out
    raise SystemExit(code)
