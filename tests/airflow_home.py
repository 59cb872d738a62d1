"""Airflow for real: one AIRFLOW_HOME, ``dag.test()`` in it, and its processes with their REST API.

Under pytest this module knows of no Airflow. ``python airflow_home.py TASK JSON``, with the interpreter that has it,
runs the part that needs it and writes its answer, JSON too, to the file that the details name.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).parent.parent
DAGS = CHECKOUT / "dags"
USER, PASSWORD = "bench", "bench-password"
COMPONENTS = (
    ("api-server",),
    ("scheduler", "--skip-serve-logs"),  # their log servers listen on every interface, on a fixed port
    ("dag-processor",),
    ("triggerer", "--skip-serve-logs"),
)


def airflow_python() -> str | None:
    """An interpreter with Airflow: the one that PROMPTBENCH_AIRFLOW_PYTHON names, else this one, if it has it."""
    named = os.environ.get("PROMPTBENCH_AIRFLOW_PYTHON")
    # Absolute, as it is started in other folders; not resolved, as an environment is known by its link.
    for python in [str(Path(named).absolute())] if named else [sys.executable]:
        look = "import importlib.util as u, sys; sys.exit(not all(map(u.find_spec, ('airflow', 'pytest_promptbench'))))"
        if subprocess.run([python, "-c", look], check=False, capture_output=True).returncode == 0:
            return python
    return None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def memory_mb(pid: int) -> int:
    """Private memory of a process and all below it: what would be free again without them."""
    total, waiting = 0, [pid]
    while waiting:
        one = Path("/proc") / str(waiting.pop())
        with contextlib.suppress(OSError):
            lines = (one / "smaps_rollup").read_text().splitlines()
            total += sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Clean", "Private_Dirty")))
            waiting += [int(c) for t in (one / "task").iterdir() for c in (t / "children").read_text().split()]
    return total // 1024


@dataclass
class AirflowHome:
    """One installation: its own database, configuration by environment only, no example DAGs.

    ``project``: PROMPTBENCH_ROOT, PROMPTBENCH_PYTHON, MLFLOW_TRACKING_URI, keys, and whatever else workers get.
    """

    root: Path
    python: str
    project: Mapping[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    more: Mapping[str, str] = field(default_factory=dict)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _token: str = ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def environment(self) -> dict[str, str]:
        foreign = ("AIRFLOW", "PYTEST_", "MLFLOW_", "PROMPTBENCH")
        kept = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}
        bundle = {"name": "evals", "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle",
                  "kwargs": {"path": str(DAGS), "refresh_interval": 5}}  # fmt: skip
        secret = self.root / "secret"
        if not secret.exists():
            self.root.mkdir(parents=True, exist_ok=True)
            secret.write_text(secrets.token_hex(48))
        passwords = self.root / "passwords.json"
        passwords.write_text(json.dumps({USER: PASSWORD}))
        return {
            **kept,
            "AIRFLOW_HOME": str(self.root),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{USER}:user",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(passwords),
            "AIRFLOW__CORE__FERNET_KEY": "cHJvbXB0YmVuY2gtdGVzdHMtb25seS0zMi1ieXRlcyE=",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{self.root}/airflow.db",
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(self.port),
            "AIRFLOW__API__BASE_URL": self.url,
            "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__API_AUTH__JWT_SECRET": secret.read_text(),
            "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "5",
            "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps([bundle]),
            "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(self.root / "logs"),
            "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
            **self.project,
            **self.more,
        }

    # -- without a scheduler

    def run(self, task: str, *, timeout: float = 300, log: Path | None = None, **details: Any) -> Any:
        """A part of this module that imports Airflow, in a process of its own: its answer. It writes to ``log``."""
        name = secrets.token_hex(4)
        answer, log = self.root / f"answer-{name}.json", log or self.root / f"answer-{name}.txt"
        command = [self.python, "-uP", str(Path(__file__)), task, json.dumps({**details, "answer": str(answer)})]
        with log.open("wb") as said:
            subprocess.run(
                command, env=self.environment(), cwd=self.root, stdout=said, stderr=said, timeout=timeout, check=False
            )
        text = log.read_text(encoding="utf-8", errors="replace")
        assert answer.exists(), text[-9000:]
        return json.loads(answer.read_text(encoding="utf-8")) | {"log": text}

    def dag_test(self, conf: Mapping[str, Any], **details: Any) -> Any:
        """``dag.test()``: ``state`` of the run, ``tasks`` (id or id/map index -> state), ``xcoms``, ``log``."""
        return self.run("test", conf=dict(conf), **details)

    def migrate(self) -> None:
        done = subprocess.run(
            [self.python, "-m", "airflow", "db", "migrate"], env=self.environment(), cwd=self.root, check=False,
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]

    # -- with all its processes

    def start(self, components: Sequence[Sequence[str]] = COMPONENTS) -> None:
        """Every component as a process of its own, logging into AIRFLOW_HOME; :meth:`stop` ends them."""
        for words in components:
            name = " ".join(words).partition(" --")[0].replace(" ", "-")
            with (self.root / f"{name}.log").open("ab") as log:
                self.processes[name] = subprocess.Popen(
                    [self.python, "-m", "airflow", *words], env=self.environment(), cwd=self.root, stdout=log,
                    stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
                )  # fmt: skip

    def stop(self) -> None:
        """SIGTERM to each component's own group, and SIGKILL to what stays."""
        for process in self.processes.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        for process in self.processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(30)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self.processes.clear()

    def logs(self, last: int = 1500) -> str:
        return "\n".join(f"== {p.name}\n{p.read_text(errors='replace')[-last:]}" for p in self.root.glob("*.log"))

    def until_ready(self, timeout: float = 300) -> None:
        """Until every component answers for its health and the DAG is known."""
        deadline = time.monotonic() + timeout
        while True:
            for name, process in self.processes.items():
                assert process.poll() is None, f"{name} ended\n{self.logs(4000)}"
            with contextlib.suppress(OSError, KeyError, ValueError):
                health = self.api("GET", "/api/v2/monitor/health")[1]
                alive = all(health[c]["status"] == "healthy" for c in ("scheduler", "triggerer", "dag_processor"))
                if alive and self.api("GET", "/api/v2/dags/bench_collect")[0] == 200:
                    return
            assert time.monotonic() < deadline, f"Airflow is not ready\n{self.logs(4000)}"
            time.sleep(1)

    def api(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """A call to Airflow's REST API: status and JSON."""
        if not self._token and path != "/auth/token":
            _, answer = self.api("POST", "/auth/token", {"username": USER, "password": PASSWORD})
            self._token = answer["access_token"]
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self._token}"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, headers=headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return response.status, json.loads(response.read() or b"null")
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read() or b"null")

    def trigger(self, run_id: str, conf: Mapping[str, Any]) -> tuple[int, Any]:
        body = {"logical_date": None, "dag_run_id": run_id, "conf": dict(conf)}
        return self.api("POST", "/api/v2/dags/bench_collect/dagRuns", body)

    def states(self, run_id: str) -> dict[str, str]:
        """Task id, or task id/map index, -> state."""
        _, found = self.api("GET", f"/api/v2/dags/bench_collect/dagRuns/{run_id}/taskInstances?limit=100")
        return {
            t["task_id"] if t["map_index"] < 0 else f"{t['task_id']}/{t['map_index']}": t["state"]
            for t in found["task_instances"]
        }

    def xcom(self, run_id: str, task: str) -> Any:
        """What a task returned."""
        path = f"/api/v2/dags/bench_collect/dagRuns/{run_id}/taskInstances/{task}/xcomEntries/return_value"
        value = self.api("GET", path)[1]["value"]
        return json.loads(value) if isinstance(value, str) else value

    def until(self, run_id: str, task: str, state: str, timeout: float = 400) -> dict[str, str]:
        """Until a task is in a state, or the run itself where ``task`` is empty."""
        deadline = time.monotonic() + timeout
        while True:
            states = self.states(run_id)
            run = self.api("GET", f"/api/v2/dags/bench_collect/dagRuns/{run_id}")[1]["state"]
            if (states.get(task) if task else run) == state:
                return states
            assert time.monotonic() < deadline, f"{task or run_id} is not {state}: {run} {states}\n{self.logs()}"
            assert run in ("queued", "running"), f"{run_id} is {run}: {states}\n{self.logs()}"
            time.sleep(1)


# -- what runs in Airflow's interpreter


def _dag() -> Any:
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(str(DAGS))  # a fresh one: dag.test() leaks its conf into the DAG
    assert not bag.import_errors, bag.import_errors
    return bag.dags["bench_collect"]


def structure() -> dict[str, Any]:
    """The DAG as Airflow sees it."""
    dag = _dag()
    return {
        "schedule": dag.schedule,
        "tasks": {
            t.task_id: {
                "downstream": sorted(t.downstream_task_ids),
                "rule": str(t.trigger_rule),
                "retries": t.retries,
                "mapped": bool(getattr(t, "is_mapped", False)),
            }
            for t in dag.tasks
        },
        "params": {name: {**param.schema, "default": param.value} for name, param in dag.params.items()},
    }


def validate(values: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Whether Airflow takes each configuration: its message where it does not."""
    from copy import deepcopy

    found = []
    dag = _dag()
    for conf in values:
        params = deepcopy(dag.params)
        try:
            params.update(dict(conf))
            params.validate()
        except Exception as error:
            found.append(" ".join(str(error).split())[:200])
        else:
            found.append(None)
    return {"messages": found}


def run_dag(
    conf: Mapping[str, Any], retry_delay_s: float = 0.1, poll_s: float = 1.0, mark_success: str | None = None
) -> dict[str, Any]:
    """One ``dag.test()``, with brief pauses. ``mark_success``: a pattern of tasks that are not run, as if by hand."""
    from datetime import timedelta

    from airflow.models.taskinstance import TaskInstance
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session
    from sqlalchemy import select

    dag = _dag()
    dag.get_task("collect").partial_kwargs["retry_delay"] = timedelta(seconds=retry_delay_s)
    for name in ("judge", "export", "compare", "wait_for_verdicts"):
        dag.get_task(name).retry_delay = timedelta(seconds=retry_delay_s)
    dag.get_task("wait_for_verdicts").poll_s = poll_s
    run = dag.test(run_conf=dict(conf), mark_success_pattern=mark_success)
    with create_session() as session:
        tis = session.scalars(select(TaskInstance).where(TaskInstance.run_id == run.run_id)).all()
        tasks = {t.task_id if t.map_index < 0 else f"{t.task_id}/{t.map_index}": str(t.state) for t in tis}
        tries = {t.task_id if t.map_index < 0 else f"{t.task_id}/{t.map_index}": t.try_number for t in tis}
        rows = session.scalars(select(XComModel).where(XComModel.run_id == run.run_id)).all()
        xcoms = {
            x.task_id if x.map_index < 0 else f"{x.task_id}/{x.map_index}": XComModel.deserialize_value(x)
            for x in rows
            if x.key == "return_value"
        }
    return {"run_id": run.run_id, "state": str(run.state), "tasks": tasks, "tries": tries, "xcoms": xcoms}


def wait(waits: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What each trigger ends with."""
    import asyncio

    from pytest_promptbench.airflow.triggers import VerdictsTrigger

    async def end(details: Mapping[str, Any]) -> Any:
        path, kwargs = VerdictsTrigger(**details).serialize()
        assert path == "pytest_promptbench.airflow.triggers.VerdictsTrigger"
        return [event.payload async for event in VerdictsTrigger(**kwargs).run()]

    ends = [asyncio.run(end(details)) for details in waits]
    assert all(len(events) == 1 for events in ends)
    return {"events": [events[0] for events in ends]}


def main() -> None:
    task, details = sys.argv[1], json.loads(sys.argv[2])
    answer = Path(details.pop("answer"))
    value = {"structure": structure, "validate": validate, "test": run_dag, "wait": wait}[task](**details)
    answer.write_text(json.dumps(value, default=str), encoding="utf-8")


if __name__ == "__main__":
    main()
