"""A team's whole set-up on one machine, from one command: PostgreSQL, MLflow on it, Airflow, and the admin API.

    PROMPTBENCH_AIRFLOW_PYTHON=../airflow-venv/bin/python .venv/bin/python tests/team.py --root team

It listens on 127.0.0.1 only, prints the addresses, and stops what it started on Ctrl-C, SIGTERM or an error. Started
again with the same folder it goes on with what is there. docs/deploy.md, "The whole path, once", has the same by hand.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

if __package__:
    from .airflow_home import CHECKOUT, PASSWORD, USER, AirflowHome, airflow_python, free_port
else:
    from airflow_home import CHECKOUT, PASSWORD, USER, AirflowHome, airflow_python, free_port

BINARIES = max(Path("/usr/lib/postgresql").glob("*/bin"), default=None, key=lambda p: int(p.parent.name))
QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
NOT_INHERITED = ("AIRFLOW", "PYTEST_", "MLFLOW_", "PROMPTBENCH", "PG")


class TeamError(Exception):
    """Something is not installed, or a piece did not come up: the message says which, with its last log lines."""


def missing() -> str | None:
    """What this machine lacks to run it; None where it has everything."""
    if BINARIES is None:
        return "no PostgreSQL in /usr/lib/postgresql (apt install postgresql)"
    python = airflow_python()
    if python is None:
        return (
            "no Airflow: install pytest-promptbench[airflow] and apache-airflow-providers-postgres into an environment "
            "of its own, and name its interpreter in PROMPTBENCH_AIRFLOW_PYTHON"
        )
    look = "import importlib.util as u, sys; sys.exit(not all(map(u.find_spec, ('psycopg2', 'asyncpg'))))"
    if subprocess.run([python, "-c", look], check=False, capture_output=True).returncode:
        return f"{python} has no driver for PostgreSQL: install apache-airflow-providers-postgres there"
    return None


@dataclass
class Memory:
    """Resident memory of processes with all below them, in MB, shared pages counted once (PSS); its peaks."""

    pids: Callable[[], Mapping[str, int]]
    every_s: float = 1.0
    peak: int = 0
    peaks: dict[str, int] = field(default_factory=dict)
    _done: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Memory:
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def now(self) -> dict[str, int]:
        found = {name: pss_kb(pid) // 1024 for name, pid in self.pids().items()}
        self.peak = max(self.peak, sum(found.values()))
        self.peaks = {name: max(mb, self.peaks.get(name, 0)) for name, mb in found.items()}
        return found

    def _watch(self) -> None:
        while not self._done.wait(self.every_s):
            self.now()


def pss_kb(pid: int) -> int:
    total, waiting = 0, [pid]
    while waiting:
        one = Path("/proc") / str(waiting.pop())
        with contextlib.suppress(OSError):
            waiting += [int(c) for t in (one / "task").iterdir() for c in (t / "children").read_text().split()]
            try:
                lines = (one / "smaps_rollup").read_text().splitlines()
                total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
            except PermissionError:  # Airflow's tasks hide it from all but root: what they share is left out
                _, resident, shared, *_ = (one / "statm").read_text().split()
                total += (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE") // 1024
    return total


class Team:
    """Everything, in one folder. A context manager: what it yields is up, and at its end all of it is down.

    ``project`` is the project whose evals run; left out, a copy of this checkout's own.
    """

    def __init__(self, root: Path, *, project: Path | None = None, say: Callable[[str], None] = lambda _: None) -> None:
        self.root = root.resolve()
        self.project = (project or self.root / "project").resolve()
        self._copied = project is None
        self._say = say
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._airflow: AirflowHome | None = None
        self.seconds: dict[str, float] = {}

    # -- what others need to know

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self._ports['api']}"

    @property
    def mlflow(self) -> str:
        return f"http://127.0.0.1:{self._ports['mlflow']}"

    @property
    def airflow(self) -> str:
        return f"http://127.0.0.1:{self._ports['airflow']}"

    @property
    def token(self) -> str:
        return self._secrets["token"]

    def pids(self) -> dict[str, int]:
        """Each piece's topmost process."""
        airflow = self._airflow.processes if self._airflow is not None else {}
        pieces = {**self._processes, **{f"airflow {name}": p for name, p in airflow.items()}}
        return {name: process.pid for name, process in pieces.items()}

    # -- up and down

    def __enter__(self) -> Team:
        lacking = missing()
        if lacking is not None:
            raise TeamError(lacking)
        try:
            self._prepare()
            for name, start in (
                ("PostgreSQL", self._start_postgres),
                ("MLflow", self._start_mlflow),
                ("Airflow's database", self._migrate_airflow),
                ("Airflow", self._start_airflow),
                ("admin API", self._start_api),
            ):
                began = time.monotonic()
                start()
                self.seconds[name] = time.monotonic() - began
                self._say(f"{name}: {self.seconds[name]:.0f} s")
            self._tell()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        began = time.monotonic()
        self.stop()
        self.seconds["stop"] = time.monotonic() - began

    def stop(self) -> None:
        """End what was started, the last first; each in its own process group."""
        with contextlib.ExitStack() as rest:  # whatever one of them raises, the others are stopped too
            for name in ("PostgreSQL", "MLflow"):
                rest.callback(self._stop, name)
            if self._airflow is not None:
                rest.callback(self._airflow.stop)
            rest.callback(self._stop, "admin API")

    def _stop(self, name: str) -> None:
        process = self._processes.pop(name, None)
        if process is None:
            return
        if name == "PostgreSQL":
            process.send_signal(signal.SIGINT)  # its fast shutdown; it ends its own children
        else:
            _signal_group(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
        _signal_group(process.pid, signal.SIGKILL)
        process.wait()

    # -- the pieces

    def _prepare(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        (self.root / "logs").mkdir(exist_ok=True)
        (self.root / ".gitignore").write_text("*\n")  # secrets and databases
        kept = self.root / "secrets.json"
        if not kept.exists():
            kept.touch(0o600)
            kept.write_text(json.dumps({"token": secrets.token_urlsafe(32), "postgres": secrets.token_hex(16)}))
        self._secrets: dict[str, str] = json.loads(kept.read_text())
        self._ports = {name: free_port() for name in ("postgres", "mlflow", "airflow", "api")}
        if self._copied and not self.project.exists():
            for folder in ("evals", "prompts", "rubrics"):
                ignored = shutil.ignore_patterns("__pycache__")
                shutil.copytree(CHECKOUT / folder, self.project / folder, ignore=ignored)

    def _tell(self) -> None:
        """A file for ``. environment`` in a shell: the names that docs/api.md uses."""
        told = self.root / "environment"
        told.touch(0o600)
        told.write_text(f'API={self.api}/api\nAUTH="Authorization: Bearer {self.token}"\n')

    def _database(self, name: str) -> str:
        return (
            f"postgresql+psycopg2://promptbench:{self._secrets['postgres']}@127.0.0.1:{self._ports['postgres']}/{name}"
        )

    def _start_postgres(self) -> None:
        assert BINARIES is not None
        data = self.root / "postgres"
        owner = pwd.getpwnam("postgres").pw_uid if os.getuid() == 0 else None  # it refuses to run as root
        if not (data / "PG_VERSION").exists():
            data.mkdir(0o700, exist_ok=True)
            password = data.parent / "postgres-password"
            password.touch(0o600)
            password.write_text(self._secrets["postgres"])
            if owner is not None:
                os.chown(data, owner, -1)
                os.chown(password, owner, -1)
            self._once("initdb", [
                BINARIES / "initdb", "-D", data, "-U", "promptbench", "--auth=scram-sha-256", "--pwfile", password,
                "-E", "UTF8",
            ], user=owner)  # fmt: skip
            password.unlink()
        port = str(self._ports["postgres"])
        command = [BINARIES / "postgres", "-D", data, "-p", port]
        command += ["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]
        process = self._start("PostgreSQL", command, user=owner)
        ready = [BINARIES / "pg_isready", "-h", "127.0.0.1", "-p", port]
        self._until(
            "PostgreSQL",
            process,
            lambda: subprocess.run(ready, capture_output=True, check=False).returncode == 0,
        )
        password_of = {"PGPASSWORD": self._secrets["postgres"]}
        to = ["-h", "127.0.0.1", "-p", port, "-U", "promptbench"]
        for name in ("mlflow", "airflow"):
            asked = [
                BINARIES / "psql",
                *to,
                "-d",
                "postgres",
                "-Atc",
                f"SELECT 1 FROM pg_database WHERE datname='{name}'",
            ]
            if not self._once("psql", asked, env=password_of).strip():
                self._once("createdb", [BINARIES / "createdb", *to, name], env=password_of)

    def _start_mlflow(self) -> None:
        process = self._start("MLflow", [
            sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self._ports["mlflow"]),
            "--workers", "2", "--backend-store-uri", self._database("mlflow"),
            "--artifacts-destination", self.root / "artifacts",
        ], env={"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"})  # fmt: skip
        self._until("MLflow", process, lambda: _answers(self.mlflow + "/health"))

    def _migrate_airflow(self) -> None:
        python = airflow_python()
        assert python is not None
        project = {
            "PROMPTBENCH_ROOT": str(self.project),
            "PROMPTBENCH_PYTHON": sys.executable,
            "MLFLOW_TRACKING_URI": self.mlflow,
            **QUIET,
        }
        self._airflow = AirflowHome(
            self.root / "airflow",
            python,
            project,
            port=self._ports["airflow"],
            more={"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": self._database("airflow")},
        )
        self._airflow.root.mkdir(exist_ok=True)
        self._airflow.migrate()

    def _start_airflow(self) -> None:
        assert self._airflow is not None
        self._airflow.start()
        self._airflow.until_ready()

    def _start_api(self) -> None:
        env = {
            "MLFLOW_TRACKING_URI": self.mlflow,
            "PROMPTBENCH_API_TOKEN": self.token,
            "PROMPTBENCH_AIRFLOW_URL": self.airflow,
            "PROMPTBENCH_AIRFLOW_USERNAME": USER,
            "PROMPTBENCH_AIRFLOW_PASSWORD": PASSWORD,
        }
        command = [sys.executable, "-m", "pytest_promptbench", "serve", "--root", self.project]
        process = self._start("admin API", [*command, "--port", str(self._ports["api"])], env=env)
        self._until("admin API", process, lambda: _answers(self.api + "/api/health"))

    # -- processes

    def _environment(self, env: Mapping[str, str]) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(NOT_INHERITED)}
        return {**kept, **QUIET, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1", **env}

    def _log(self, name: str) -> Path:
        return self.root / "logs" / f"{name.replace(' ', '-').lower()}.log"

    def _once(
        self, name: str, command: Sequence[str | Path], *, env: Mapping[str, str] | None = None, user: int | None = None
    ) -> str:
        done = subprocess.run(
            [*map(str, command)], env=self._environment(env or {}), user=user, cwd=self.root, check=False,
            capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode:
            raise TeamError(f"{name} ended with {done.returncode}\n{(done.stdout + done.stderr)[-3000:]}")
        return done.stdout

    def _start(
        self, name: str, command: Sequence[str | Path], *, env: Mapping[str, str] | None = None, user: int | None = None
    ) -> subprocess.Popen[bytes]:
        with self._log(name).open("ab") as log:
            process = subprocess.Popen(
                [*map(str, command)], env=self._environment(env or {}), user=user, cwd=self.root, stdout=log,
                stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        self._processes[name] = process
        return process

    def _until(
        self, name: str, process: subprocess.Popen[bytes], ready: Callable[[], bool], timeout: float = 180
    ) -> None:
        deadline = time.monotonic() + timeout
        while not ready():
            state = "ended" if process.poll() is not None else "did not come up"
            if process.poll() is not None or time.monotonic() > deadline:
                raise TeamError(f"{name} {state}\n{self._log(name).read_text(errors='replace')[-4000:]}")
            time.sleep(0.2)


def _signal_group(pid: int, sign: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, sign)


def _answers(address: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(address, timeout=5) as response:
            return bool(response.status == 200)
    except OSError:  # urllib's own errors are among them
        return False


@contextlib.contextmanager
def signals_end_it() -> Iterator[None]:
    """SIGTERM and SIGHUP end this process as Ctrl-C does, once: what is being stopped then is not interrupted."""

    def end(number: int, _: object) -> None:
        for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(sign, signal.SIG_IGN)
        raise SystemExit(0 if number == signal.SIGINT else 128 + number)

    before = {sign: signal.signal(sign, end) for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for sign, handler in before.items():
            signal.signal(sign, handler)


def main() -> None:
    parser = argparse.ArgumentParser(description="Start PostgreSQL, MLflow, Airflow and the admin API; Ctrl-C stops.")
    parser.add_argument("--root", type=Path, required=True, help="folder that everything is kept in; made if need be")
    parser.add_argument("--project", type=Path, help="project with evals/; left out, a copy of this checkout's own")
    given = parser.parse_args()

    def say(text: str) -> None:
        print(text, flush=True)

    try:
        with signals_end_it(), Team(given.root, project=given.project, say=say) as team:
            say(f"MLflow   {team.mlflow}")
            say(f"Airflow  {team.airflow} (user {USER}, password {PASSWORD})")
            say(f"API      {team.api} (token in {team.root / 'environment'})")
            say("Ctrl-C stops everything.")
            signal.pause()
    except (TeamError, AssertionError) as error:
        sys.exit(f"team: {error}")


if __name__ == "__main__":
    main()
