"""Do harm to a session at a random moment, run it once more, and count what was lost.

    python benchmarks/chaos.py --runs 200

Each run is a fresh project of 2 models x 2 prompts x 6 scenarios against a scripted provider on loopback, as
``pytest evals/ -n 2`` with 4 requests in flight, on SQLite or with an ``mlflow server``. At a random moment one of its
processes gets SIGKILL, or a few answers are bad, or the database is locked, or the disk is full. Then the same command
runs once more, undisturbed. After that each cell is logged exactly once, no question was asked again beyond those that
were in the air (4) or badly answered, and no process is left. Run k of a seed is always the same kind and moment, as
far as the machine lets it be. Disk full needs the right to mount a tmpfs, and is left out without it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.project import Project, children_of, migrated_database
from tests.provider import Fault, ScriptedProvider

CELLS = 24
IN_FLIGHT = 4
KILLS = ("worker", "controller", "recorder", "mlflow server")
FAULTS = {
    "429 with Retry-After": Fault(429, headers={"Retry-After": "0.2"}),
    "429 without": Fault(429),
    "500": Fault(500),
    "connection reset": Fault(kind="reset"),
    "truncated JSON": Fault(kind="truncated"),
    "slow drip": Fault(kind="slow", pause_s=0.05),
    "10 MiB body": Fault(kind="huge"),
    "wrong content type": Fault(kind="html"),
    "empty choices": Fault(kind="no-choices"),
    "content filter": Fault(kind="content-filter"),
    "invalid UTF-8": Fault(kind="invalid-utf8"),
}
OTHERS = ("SQLite locked for 30 s", "disk full", "two sessions at once")
GOOD = ("slow drip", "10 MiB body", "invalid UTF-8")
"""Kinds whose answers are good ones, if odd: they are paid for and kept."""
KINDS = [k for pair in zip(KILLS * 3, (*FAULTS, "SQLite locked for 30 s"), strict=True) for k in pair] + list(
    OTHERS[1:]
)


@dataclass
class Loss:
    """What one run came to, after its rerun."""

    kind: str
    struck: bool
    missing: int = 0
    doubled: int = 0
    paid_twice: int = 0
    orphans: int = 0
    note: str = ""


def tree(pid: int) -> dict[int, str]:
    """Process id -> command line, of a process and all below it."""
    found, todo = {}, [pid]
    while todo:
        one = todo.pop()
        with contextlib.suppress(OSError):
            found[one] = Path(f"/proc/{one}/cmdline").read_text().replace("\0", " ")
            todo += [int(x) for x in Path(f"/proc/{one}/task/{one}/children").read_text().split()]
    return found


def victim(kind: str, session: int, server: subprocess.Popen[str] | None) -> int | None:
    """The process that a kind of kill means, while there is one."""
    if kind == "mlflow server":
        return server.pid if server else None
    if kind == "controller":
        return session
    below = {p: c for p, c in tree(session).items() if p != session}
    wanted = "tracking.recorder" if kind == "recorder" else "sys.stdin.readline"
    return next((p for p, c in below.items() if wanted in c or (kind == "worker" and "execnet" in c)), None)


def serve(root: Path, port: int) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{root}/server.db",
         "--artifacts-destination", str(root / "served"), "--host", "127.0.0.1", "--port", str(port), "--workers", "1"],
        cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True, start_new_session=True,
        env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"},
    )  # fmt: skip
    import urllib.request

    for _ in range(300):
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1):
            return process
        time.sleep(0.2)
    raise SystemExit("mlflow server gave no answer within 60 s")


def end(process: subprocess.Popen[str] | None) -> None:
    if process is not None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def free_port() -> int:
    import socket

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def one(number: int, seed: int) -> Loss | None:
    draw = random.Random(f"{seed}:{number}")
    kind = KINDS[number % len(KINDS)]
    root = Path(tempfile.mkdtemp(prefix="promptbench-chaos-"))
    server, mounted = None, False
    try:
        if kind == "disk full":
            size = f"size={draw.randint(1300, 2500)}k"
            mounted = (
                subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(root)], check=False).returncode == 0
            )
            if not mounted:
                return None
        with ScriptedProvider(latency_s=0.1) as provider:
            project = Project(root, provider, scenarios=6).write()
            migrated_database(root / "mlflow.db")
            port = free_port()
            if kind == "mlflow server":
                migrated_database(root / "server.db")
                server = serve(root, port)
                project.environ["MLFLOW_TRACKING_URI"] = f"http://127.0.0.1:{port}"
            bad = draw.randint(1, 8)
            if kind in FAULTS:
                provider.script("situation", FAULTS[kind], times=bad)
            command = ("-n", "2", "--bench-concurrency", str(IN_FLIGHT), "-q")
            process = project.start(*command)
            second = project.start(*command) if kind == "two sessions at once" else None
            struck = True
            if kind in KILLS:
                time.sleep(draw.uniform(0.5, 14.0))
                target = victim(kind, process.pid, server)
                struck = target is not None and process.poll() is None
                if struck and target is not None:
                    os.kill(target, signal.SIGKILL)
                    if server is not None:
                        end(server)
                        time.sleep(1.0)
                        server = serve(root, port)
            elif kind == "SQLite locked for 30 s":
                time.sleep(draw.uniform(0.5, 10.0))
                with contextlib.closing(sqlite3.connect(root / "mlflow.db", isolation_level=None)) as db:
                    db.execute("BEGIN IMMEDIATE")
                    time.sleep(30.0)
                    db.execute("ROLLBACK")
            for one_of_them in (process, second):
                if one_of_them is not None:
                    one_of_them.communicate(timeout=300)
            if mounted:
                subprocess.run(["mount", "-o", "remount,size=300m", str(root)], check=True)
            again = project.pytest("evals/", *command)
            repeated = sum(Counter(f"{r['model']}{r['messages']}" for r in provider.requests).values()) - CELLS
            if kind in KILLS or kind == "disk full":
                allowed = 2 * IN_FLIGHT if kind == "disk full" else IN_FLIGHT  # each of two workers finds it out
            else:
                allowed = bad if kind in FAULTS and kind not in GOOD else 0
            runs = project.runs()
            cells = Counter(r.data.tags.get("promptbench.cell") for r in runs if r.info.status == "FINISHED")
            end(server)
            server = None
            time.sleep(1.0)
            loss = Loss(
                kind=kind,
                struck=struck,
                missing=CELLS - len(cells),
                doubled=sum(cells.values()) - len(cells),
                paid_twice=max(0, repeated - allowed),
                orphans=len(children_of(root)),
            )
            if again.code != 0:
                loss.note = again.text[-400:]
            return loss
    finally:
        end(server)
        if mounted:
            subprocess.run(["umount", "-l", str(root)], check=False)
        shutil.rmtree(root, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--first", type=int, default=0, help="number of the first run, to go on with an earlier series")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    by_kind: dict[str, list[Loss]] = defaultdict(list)
    for number in range(args.first, args.first + args.runs):
        loss = one(number, args.seed)
        if loss is None:
            continue
        by_kind[loss.kind].append(loss)
        print(number, loss, file=sys.stderr, flush=True)
    print(f"python benchmarks/chaos.py {' '.join(sys.argv[1:])}\n")
    print("| what | runs | struck while running | cells missing | logged twice | paid twice | orphans | rerun failed |")
    print("| --- " * 8 + "|")
    for kind, losses in by_kind.items():
        print(
            f"| {kind} | {len(losses)} | {sum(x.struck for x in losses)} | {sum(x.missing for x in losses)} | "
            f"{sum(x.doubled for x in losses)} | {sum(x.paid_twice for x in losses)} | "
            f"{sum(x.orphans for x in losses)} | {sum(bool(x.note) for x in losses)} |"
        )


if __name__ == "__main__":
    main()
