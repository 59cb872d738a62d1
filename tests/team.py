"""A team's whole set-up on one machine: PostgreSQL, MLflow on it, Airflow, and the admin API.

    PROMPTBENCH_AIRFLOW_PYTHON=../airflow-venv/bin/python .venv/bin/python tests/team.py --root team

It runs the commands of docs/deploy.md, "Start, by hand", as they stand there, in one Bash and in a folder that looks
like a checkout; and, on Ctrl-C, SIGTERM or an error, those that stop it all. It listens on 127.0.0.1 only, on free
ports. Started again with the same folder it starts from nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

if __package__:
    from .airflow_home import CHECKOUT, airflow_python, free_port
else:
    from airflow_home import CHECKOUT, airflow_python, free_port

DOCUMENT = CHECKOUT / "docs" / "deploy.md"
PIECES = ("settings", "PostgreSQL", "MLflow", "Airflow", "admin API and all healthy")
NOT_INHERITED = ("AIRFLOW", "PYTEST_", "MLFLOW_", "PROMPTBENCH", "PG")
START_S = 400.0
# PostgreSQL refuses to run as root. In a namespace of its own, root is somebody else to all that runs there.
NOT_AS_ROOT = ["unshare", "--user", "--map-user=1000", "--map-group=1000"] if os.getuid() == 0 else []


class TeamError(Exception):
    """Something is not installed, or a piece did not come up: the message says which, with the last log lines."""


def missing() -> str | None:
    """What this machine lacks to run it; None where it has everything."""
    if not list(Path("/usr/lib/postgresql").glob("*/bin/initdb")):
        return "no PostgreSQL in /usr/lib/postgresql (apt install postgresql)"
    lacking = [name for name in ("curl", "openssl") if shutil.which(name) is None]
    if lacking:
        return f"no {' and no '.join(lacking)}"
    if NOT_AS_ROOT and subprocess.run([*NOT_AS_ROOT, "true"], check=False, capture_output=True).returncode:
        return "root here may make no user namespace, and PostgreSQL does not run as root: be somebody else"
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


def commands(heading: str) -> list[str]:
    """The shell blocks of the document under a heading, in their order."""
    section = DOCUMENT.read_text(encoding="utf-8").split(f"### {heading}\n")[1].split("\n### ")[0]
    return re.findall(r"^```sh\n(.*?)^```$", section, flags=re.MULTILINE | re.DOTALL)


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
        number = waiting.pop()
        one = Path("/proc") / str(number)
        with contextlib.suppress(OSError):
            waiting += children(number)
            try:
                lines = (one / "smaps_rollup").read_text().splitlines()
                total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
            except PermissionError:  # Airflow's tasks hide it from all but root: what they share is left out
                _, resident, shared, *_ = (one / "statm").read_text().split()
                total += (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE") // 1024
    return total


def alive(pid: int) -> bool:
    """Whether a process runs. One that nobody has asked for its end does not: whose child it was may be gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def children(pid: int) -> list[int]:
    return [int(c) for t in Path(f"/proc/{pid}/task").iterdir() for c in (t / "children").read_text().split()]


class Team:
    """Everything, in one folder. A context manager: what it yields is up, and at its end all of it is down."""

    def __init__(self, root: Path, *, say: Callable[[str], None] = lambda _: None) -> None:
        self.checkout = root.resolve() / "checkout"
        self._say = say
        self._bash: subprocess.Popen[str] | None = None
        self.seconds: dict[str, float] = {}

    @property
    def _home(self) -> Path:
        return self.checkout / "team"

    def settings(self) -> dict[str, str]:
        """What the document's commands exported, and its ``API`` and ``AUTH``."""
        text = (self._home / "settings").read_text() + (self._home / "environment").read_text()
        return {k: v.strip('"') for k, v in re.findall(r'([A-Z_]+)=("[^"]*"|\S+)', text)}

    def pids(self) -> dict[str, int]:
        """Each piece's topmost process."""
        assert self._bash is not None
        found = {"PostgreSQL": int((self._home / "postgres/postmaster.pid").read_text().split()[0])}
        for pid in children(self._bash.pid):
            with contextlib.suppress(OSError):
                line = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").replace("_", "-")
                words = ("mlflow server", "api-server", "scheduler", "dag-processor", "triggerer", "promptbench serve")
                found |= {w: pid for w in words if w in line}
        return found

    # -- up and down

    def __enter__(self) -> Team:
        lacking = missing()
        if lacking is not None:
            raise TeamError(lacking)
        self._lay_out()
        *start, stop = commands("Start, by hand")
        assert len(start) == len(PIECES), "a block of docs/deploy.md has no name here"
        script = f"stop() {{\n{stop}}}\ntrap stop EXIT\n"
        script += "".join(f"{block}\necho '@ {name}'\n" for name, block in zip(PIECES, start, strict=True))
        script += "read -r _ || true\n"
        with (self.checkout.parent / "log.txt").open("ab") as log:
            self._bash = subprocess.Popen(
                [*NOT_AS_ROOT, "bash", "-euo", "pipefail", "-c", script], cwd=self.checkout, env=self._environment(),
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True,
            )  # fmt: skip
        try:
            self._wait_until_up()
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
        """Have Bash run the commands that stop everything, and end what is left of its group."""
        bash, self._bash = self._bash, None
        if bash is None:
            return
        assert bash.stdin is not None
        bash.stdin.close()  # what it waits for
        with contextlib.suppress(subprocess.TimeoutExpired):
            bash.wait(120)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(bash.pid, signal.SIGKILL)
        bash.wait()

    def _wait_until_up(self) -> None:
        assert self._bash is not None
        assert self._bash.stdout is not None
        late = threading.Timer(START_S, self._bash.terminate)
        late.start()
        began = time.monotonic()
        left = list(PIECES)
        for line in self._bash.stdout:
            name = line.strip().rpartition("@ ")[2]
            if left and name == left[0]:
                self.seconds[left.pop(0)] = (now := time.monotonic()) - began
                self._say(f"{name}: {now - began:.0f} s")
                began = now
            if not left:
                break
        late.cancel()
        if left:
            logs = [self.checkout.parent / "log.txt", *self._home.glob("*.log")]
            said = "\n".join(f"== {p.name}\n{p.read_text(errors='replace')[-1500:]}" for p in logs)
            raise TeamError(f"{left[0]} did not come up\n{said}")
        # What else it says, nobody reads; it must not wait for that.
        threading.Thread(target=self._bash.stdout.read, daemon=True).start()

    def _lay_out(self) -> None:
        """A folder as the document has it: a checkout, its environment in it, Airflow's beside it."""
        root = self.checkout.parent
        root.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(self.checkout, ignore_errors=True)
        (root / ".gitignore").write_text("*\n")  # secrets and databases
        for folder in ("evals", "prompts", "rubrics", "dags"):
            shutil.copytree(CHECKOUT / folder, self.checkout / folder, ignore=shutil.ignore_patterns("__pycache__"))
        python = airflow_python()
        assert python is not None
        beside = root / "airflow-venv"
        beside.unlink(missing_ok=True)
        beside.symlink_to(Path(python).parent.parent)
        (self.checkout / ".venv").symlink_to(sys.prefix)

    def _environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(NOT_INHERITED)}
        ports = {name: str(free_port()) for name in ("PG_AT", "MLFLOW_AT", "AIRFLOW_AT", "API_AT")}
        here = {"HOME": str(self.checkout.parent), "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
        return {**kept, **here, **ports}


@contextlib.contextmanager
def signals_end_it() -> Iterator[None]:
    """SIGTERM as Ctrl-C."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            yield
    finally:
        signal.signal(signal.SIGTERM, before)


def main() -> None:
    parser = argparse.ArgumentParser(description="A team's set-up on this machine, until Ctrl-C.")
    parser.add_argument("--root", type=Path, default=Path("team"), help="folder for all of it (default: team)")
    given = parser.parse_args()

    def say(text: str) -> None:
        print(text, flush=True)

    try:
        with signals_end_it(), Team(given.root, say=say) as team:
            settings = team.settings()
            say(f"folder   {team.checkout} (the run's commands go there)")
            say(f"MLflow   {settings['MLFLOW_TRACKING_URI']}")
            say(f"Airflow  {settings['PROMPTBENCH_AIRFLOW_URL']} (user and password in team/settings there)")
            say(f"API      {settings['API']} (token in team/environment there)")
            say("Ctrl-C stops everything.")
            signal.pause()
    except TeamError as error:
        sys.exit(f"team: {error}")


if __name__ == "__main__":
    main()
