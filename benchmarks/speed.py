"""How fast a session is, against the physical limit of the provider.

    python benchmarks/speed.py [--cells 240 2400] [--workers 0 2] [--rounds 3] [--warm]
    python benchmarks/speed.py --mlflow-floor   # what MLflow alone costs for the same runs

A scripted OpenAI-compatible provider in a process of its own answers after 500 ms. Each round is a fresh project with a
fresh MLflow database; the wall clock is that of the whole ``python -m pytest`` process. What is claimed is then counted
from outside: requests at the provider, FINISHED runs and traces in the database. Rounds are interleaved, medians shown.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import math
import os
import resource
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
CONCURRENCY = 64
LATENCY_S = 0.5
MODELS = ("alpha", "bravo", "charlie", "delta")
PROMPTS = ("brief", "steps", "json")
RUBRIC = """---
id: tip-v1
criteria:
  - {name: relevance, type: scale, min: 1, max: 5, weight: 1}
  - {name: overlong, type: flag, bad: true, penalty: 1, check: {max_words: 60}}
---
# Anchors
"""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One session. Seconds, MiB and counts."""

    wall: float
    cpu: float
    peak_mib: float
    first_request: float | None
    last_answer: float | None
    requests: int
    runs: int
    traces: int


def project(root: Path, address: str, cells: int) -> None:
    """A suite of 4 models x 3 prompts x ``cells`` / 12 scenarios."""
    for folder in ("evals", "prompts/tip", "rubrics"):
        (root / folder).mkdir(parents=True)
    models = "".join(f"  {m}: {{model: openai/{m}, api_base: '{address}'}}\n" for m in MODELS)
    (root / "evals/models.yaml").write_text(f"models:\n{models}")
    for p in PROMPTS:
        (root / f"prompts/tip/{p}.yaml").write_text(
            f"messages:\n  - {{role: system, content: 'be {p}'}}\n"
            "  - {role: user, content: 'Tip: {{ situation }}'}\n"
        )
    (root / "rubrics/tip-v1.md").write_text(RUBRIC)
    count = cells // (len(MODELS) * len(PROMPTS))
    scenarios = "".join(f"  - {{id: s{i:03d}, vars: {{situation: topic {i}}}}}\n" for i in range(count))
    (root / "evals/tips.yaml").write_text(f"task: tip\nrubric: tip-v1\nscenarios:\n{scenarios}")
    (root / "evals/test_tips.py").write_text(
        "import pytest\n\n@pytest.mark.promptbench('tips.yaml')\ndef test_tip(candidate):\n    assert candidate.text\n"
    )


def stats(address: str) -> dict[str, Any]:
    with urllib.request.urlopen(address.removesuffix("/v1") + "/stats", timeout=10) as reply:
        return dict(json.load(reply))


class Provider:
    """The scripted provider as a process; one for each session, so that its counts are that session's."""

    def __init__(self, latency_s: float = LATENCY_S) -> None:
        self._latency_s = latency_s

    def __enter__(self) -> str:
        command = [sys.executable, str(HERE.parent / "tests" / "provider.py"), "--latency", str(self._latency_s)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def __exit__(self, *_: object) -> None:
        self._process.communicate()


def command(workers: int) -> list[str]:
    """``-p no:...``: plugins of this project's own tests, which a user's environment has not."""
    names = [x.name for x in entry_points(group="pytest11") if not x.value.startswith(("pytest_promptbench", "xdist"))]
    foreign = [x for name in names for x in ("-p", f"no:{name}")]
    return ["-m", "pytest", "evals/", "-q", "-n", str(workers), "--bench-concurrency", str(CONCURRENCY), *foreign]


def session(root: Path, address: str, workers: int) -> Measured:
    """Run one session and count what it left, from outside."""
    unusual = ("PYTEST_", "MLFLOW_", "PYTHONDONTWRITEBYTECODE")  # the last: modules would be compiled anew each time
    env = {k: v for k, v in os.environ.items() if not k.startswith(unusual)}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    requests_before = int(stats(address)["count"])
    start, started_at = time.perf_counter(), time.time()
    with (root / "output.txt").open("w") as output:
        process = subprocess.Popen(
            [sys.executable, *command(workers)], cwd=root, env=env, stdout=output, stderr=subprocess.STDOUT
        )
        peak = 0.0
        while process.poll() is None:
            peak = max(peak, tree_mib(process.pid))
            time.sleep(0.05)
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode != 0:
        raise SystemExit((root / "output.txt").read_text()[-3000:])
    seen = stats(address)
    asked = int(seen["count"]) - requests_before
    with contextlib.closing(sqlite3.connect(root / "mlflow.db")) as db:
        runs = db.execute("SELECT COUNT(*) FROM runs WHERE status = 'FINISHED'").fetchone()[0]
        traces = db.execute("SELECT COUNT(*) FROM trace_info").fetchone()[0]
    assert (root / ".promptbench/report/leaderboard.json").exists()
    return Measured(
        wall=wall,
        cpu=after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        peak_mib=peak,
        first_request=seen["first_at"] - started_at if asked else None,
        last_answer=seen["last_at"] - started_at if asked else None,
        requests=asked,
        runs=runs,
        traces=traces,
    )


def tree_mib(pid: int) -> float:
    """Resident memory of a process and all below it (shared pages counted once for each)."""
    total, todo = 0.0, [pid]
    while todo:
        one = todo.pop()
        try:
            todo += [int(x) for x in Path(f"/proc/{one}/task/{one}/children").read_text().split()]
            total += int(Path(f"/proc/{one}/statm").read_text().split()[1]) * 4096 / (1 << 20)
        except OSError:
            continue
    return total


@contextlib.contextmanager
def scratch(prefix: str, *, keep: bool = False) -> Iterator[Path]:
    """A folder for all rounds, which goes at the end of the last.

    Not sooner: ext4 takes up to ten times as long to make files for seconds after thousands were deleted.
    """
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    try:
        yield folder
    finally:
        if keep:
            print(f"kept {folder}", file=sys.stderr)
        else:
            shutil.rmtree(folder, ignore_errors=True)


def measure(folder: Path, cells: int, workers: int, *, warm: bool) -> dict[str, Measured]:
    root = Path(tempfile.mkdtemp(dir=folder))
    with Provider() as address:
        project(root, address, cells)
        results = {"cold": session(root, address, workers)}
        if warm:
            results["warm"] = session(root, address, workers)
    for kind, measured in results.items():
        found = (measured.requests, measured.runs, measured.traces)
        expected = (cells if kind == "cold" else 0, cells, cells)
        if found != expected:
            raise SystemExit(f"{kind}: {found} requests, runs and traces instead of {expected}")
    return results


def row(cells: int, workers: int, kind: str, rounds: list[Measured]) -> str:
    limit = math.ceil(cells / CONCURRENCY) * LATENCY_S
    wall = statistics.median(m.wall for m in rounds)
    ratio = f"{wall / limit:.2f}" if kind == "cold" else "-"
    cpu = statistics.median(m.cpu for m in rounds)
    first = [m.first_request for m in rounds if m.first_request is not None]
    tail = [m.wall - m.last_answer for m in rounds if m.last_answer is not None]
    start, end = (f"{statistics.median(x):.1f}" if x else "-" for x in (first, tail))
    last = rounds[-1]
    return (
        f"| {cells} | {workers} | {kind} | {limit:.1f} | {wall:.1f} | {ratio} | {cpu:.1f} | "
        f"{max(m.peak_mib for m in rounds):.0f} | {start} | {end} | {last.requests} | {last.runs} | {last.traces} |"
    )


def by_hand(count: int = 100, warm_up: int = 10) -> None:
    """What a candidate costs who writes run, batch, artifacts and trace with MLflow's client, one after another."""
    os.environ["MLFLOW_ENABLE_ASYNC_TRACE_LOGGING"] = "false"  # so that a trace's cost is within its time
    import mlflow
    from mlflow.entities import Metric, Param
    from mlflow.tracking import MlflowClient

    root = Path(tempfile.mkdtemp(prefix="promptbench-floor-"))
    mlflow.set_tracking_uri(f"sqlite:///{root}/mlflow.db")  # traces go to the global store, whatever the client's is
    client = MlflowClient()
    experiment = client.create_experiment("floor", artifact_location=(root / "mlartifacts").as_uri())
    tags = {"judge_pending": "true", "rubric": "tip-v1", "rubric_sha256": "0" * 64, "rubric_text": RUBRIC}
    tags |= {f"promptbench.{k}": "0" * 64 for k in ("task", "cell", "prompt_sha256", "session")}
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "Tip: topic 1"}]
    files = {
        "prompt.json": messages,
        "context.json": {"situation": "topic 1"},
        "candidate_outputs.json": ["drink"] * 20,
    }
    spent: dict[str, float] = {}

    def timed(step: str, call: Callable[..., Any], *args: Any, **named: Any) -> Any:
        start = time.perf_counter()
        value = call(*args, **named)
        spent[step] = spent.get(step, 0.0) + time.perf_counter() - start
        return value

    for i in range(warm_up + count):
        if i == warm_up:
            spent.clear()
        run = timed(
            "create_run", client.create_run, experiment, tags=tags, run_name=f"alpha · brief · s{i}"
        ).info.run_id
        metrics = [Metric(k, 1.0, 0, 0) for k in ("latency_s", "prompt_tokens", "completion_tokens")]
        params = [Param(k, "x") for k in ("model", "prompt", "scenario")]
        timed("log_batch", client.log_batch, run, metrics=metrics, params=params)
        for name, value in files.items():
            timed("artifacts", client.log_dict, run, value, name)
        span = timed("trace", client.start_trace, "completion", inputs={"messages": messages}, experiment_id=experiment)
        timed("trace", client.end_trace, span.trace_id, outputs="drink")
        timed("trace", client.link_traces_to_run, [span.trace_id], run)
        timed("set_terminated", client.set_terminated, run)
    with contextlib.closing(sqlite3.connect(root / "mlflow.db")) as db:
        (traces,) = db.execute("SELECT COUNT(*) FROM trace_info").fetchone()
    if traces != warm_up + count:
        raise SystemExit(f"{traces} traces instead of {warm_up + count}")
    parts = ", ".join(f"{step} {seconds / count * 1e3:.1f}" for step, seconds in spent.items())
    print(f"by hand, ms of wall a candidate: {sum(spent.values()) / count * 1e3:.1f} ({parts})")
    shutil.rmtree(root, ignore_errors=True)


def as_a_session(count: int = 200) -> None:
    """The same with the store calls of a session and nothing else, in one process."""
    sys.path.insert(0, str(HERE.parent))
    from pytest_promptbench.records import Answer, Candidate, Usage, sha256
    from pytest_promptbench.tracking.entry import Logged
    from pytest_promptbench.tracking.store import TrackingStore
    from pytest_promptbench.tracking.writer import prefer_speed_over_power_loss
    from tests.scripted import cell
    from tests.test_tracking import RUBRIC as TIP_V1

    root = Path(tempfile.mkdtemp(prefix="promptbench-floor-"))
    prefer_speed_over_power_loss()
    store = TrackingStore(f"sqlite:///{root}/mlflow.db", artifact_root=root / "mlartifacts")
    answer = Answer(text="drink water " * 20, usage=Usage(prompt_tokens=9, completion_tokens=9), started_at=time.time())
    entries = [
        Logged(
            candidate=Candidate(cell=cell(f"s{i}"), answers=(answer,)), rubric=TIP_V1, session=sha256("s"), checks={}
        ).entry("floor")
        for i in range(count + 40)
    ]
    store.log(entries[:40])
    start, cpu = time.perf_counter(), time.process_time()
    for i in range(40, len(entries), 40):
        store.log(entries[i : i + 40])
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    print(f"as a session writes, ms a candidate: {wall / count * 1e3:.1f} wall, {cpu / count * 1e3:.1f} CPU")
    shutil.rmtree(root, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, nargs="+", default=[240, 2400])
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--warm", action="store_true", help="also a second session, where all is known")
    parser.add_argument("--keep", action="store_true", help="keep the project folders and say where they are")
    parser.add_argument("--mlflow-floor", action="store_true", help="only MLflow's own cost of a candidate")
    given = parser.parse_args()
    if given.mlflow_floor:
        by_hand()
        as_a_session()
        return
    results: dict[tuple[int, int, str], list[Measured]] = {}
    with scratch("promptbench-speed-", keep=given.keep) as folder:
        for _, cells, workers in itertools.product(range(given.rounds), given.cells, given.workers):
            for kind, measured in measure(folder, cells, workers, warm=given.warm).items():
                results.setdefault((cells, workers, kind), []).append(measured)
                print(cells, workers, kind, f"{measured.wall:.1f} s", file=sys.stderr, flush=True)
    one = " ".join(command(given.workers[0]))
    print(f"python benchmarks/speed.py {' '.join(sys.argv[1:])}   (a session: python {one})\n")
    print(
        "| cells | -n | session | limit s | wall s | ratio | CPU s | peak MiB | first request s | tail s "
        "| requests | runs | traces |"
    )
    print("| --- " * 13 + "|")
    for (cells, workers, kind), rounds in results.items():
        print(row(cells, workers, kind, rounds))


if __name__ == "__main__":
    main()
