"""Do harm to a session at a random moment, run it once more, and count what was lost.

    python benchmarks/chaos.py --runs 200

Each run is a fresh project of 2 models x 2 prompts x 6 scenarios (30 where the second recorder is killed, which helps
only while more than 40 candidates wait) against a scripted provider on loopback, as ``pytest evals/ -n 2`` with 4
requests in flight, on SQLite or with an ``mlflow server``. At a random moment one of its processes gets SIGKILL, or a
few answers are bad, or the database is locked, or the disk is full, or the processes are stopped and continued again
and again; or the session is one that brings verdicts in, and is killed while it does; or it gets a Ctrl-C, after
which it has to bring to MLflow what was answered, and to say how many cells are missing. Then the same command runs
once more, undisturbed. After that each cell is one FINISHED run with one trace, no question was asked again beyond
those that were in the air (4; none after one Ctrl-C) or badly answered, every verdict is there, and no process is
left.
Run k of a seed is always the same kind and moment, as far as the machine lets it be; a kill that came too late is drawn
anew. Ends with exit code 1 where anything was lost.

Disk full needs the right to mount a tmpfs, and the embedded models' server the extra [local]; without it they are left
out, and the table says so.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import re
import shlex
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pytest_promptbench.localmodels import installed
from tests.project import Project, children_of, migrated_database
from tests.provider import Fault, ScriptedProvider

SCENARIOS = {"second recorder": 30}
"""Of the kinds that have more than 6. Of each, there are four cells."""
IN_FLIGHT = 4
COMMAND = ("-n", "2", "--bench-concurrency", str(IN_FLIGHT), "-q")
KILLS = ("worker", "controller", "recorder", "second recorder", "mlflow server")
JUDGED = ("controller while applying", "controller while judging", "recorder while judging")
SERVED = ("recorder behind a server", "controller applying behind a server")
"""Kills where several candidates or verdicts are on their way to an ``mlflow server`` at a time."""
EMBEDDED = "embedded model server"
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
GOOD = ("slow drip", "10 MiB body")
"""Kinds whose answers are good ones, if odd: they are paid for and kept."""
LOCKED, FULL, TWO = "SQLite locked for 30 s", "disk full", "two sessions at once"
PAUSED = "stopped and continued"
CTRL_C, TWICE = "Ctrl-C", "Ctrl-C twice"
KINDS = (
    *KILLS, *tuple(FAULTS)[:6], *JUDGED, *KILLS, *tuple(FAULTS)[6:], LOCKED, FULL, TWO, EMBEDDED, PAUSED,
    *SERVED, CTRL_C, TWICE,
)  # fmt: skip


@dataclass(kw_only=True)
class Loss:
    """What one run came to, after its rerun; all zero and empty is how it should be."""

    kind: str
    missing: int = 0
    doubled: int = 0
    unfinished: int = 0
    traces: int = 0
    paid_twice: int = 0
    verdicts: int = 0
    orphans: int = 0
    note: str = ""

    @property
    def none(self) -> bool:
        return not (
            self.missing or self.doubled or self.unfinished or self.traces or self.paid_twice or self.verdicts
            or self.orphans or self.note
        )  # fmt: skip


class TooLateError(Exception):
    """The process that was to be killed had ended, or not begun."""


@dataclass(kw_only=True)
class Scene:
    """One project with its provider and, where it has one, its tracking server."""

    kind: str
    root: Path
    provider: ScriptedProvider
    project: Project
    draw: random.Random
    allowed: int = 0
    judge: str | None = None
    late: int = 0
    note: str = ""
    server: subprocess.Popen[str] | None = None
    port: int = field(default=0)

    @property
    def cells(self) -> int:
        return len(self.project.models) * len(self.project.prompts) * self.project.scenarios

    @property
    def database(self) -> Path:
        return self.root / ("server.db" if self.port else "mlflow.db")

    def serve(self) -> None:
        """Start the tracking server, again on the same port if it was there before."""
        self.port = self.port or free_port()
        self.project.environ["MLFLOW_TRACKING_URI"] = f"http://127.0.0.1:{self.port}"
        self.server = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{self.root}/server.db",
             "--artifacts-destination", str(self.root / "served"), "--host", "127.0.0.1", "--port", str(self.port),
             "--workers", "1"],
            cwd=self.root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True, start_new_session=True,
            env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        )  # fmt: skip
        for _ in range(600):
            with (
                contextlib.suppress(OSError),
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=1),
            ):
                return
            time.sleep(0.2)
        raise SystemExit("mlflow server gave no answer within 2 minutes")

    def end_server(self) -> None:
        if self.server is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.server.pid, signal.SIGKILL)
            self.server.wait()
            self.server = None

    def choose(self, process: subprocess.Popen[str], victim: Callable[[int], int | None], *, within_s: float) -> int:
        """One of a session's processes, at a random moment of it.

        The moment lies within seconds of when that process is there; fewer, the more often it was too late.
        """
        while victim(process.pid) is None and process.poll() is None:
            time.sleep(0.02)
        time.sleep(self.draw.uniform(0.0, within_s / (1 + self.late)))
        target = victim(process.pid)
        if target is None or process.poll() is not None:
            process.communicate(timeout=300)
            raise TooLateError
        return target

    def kill(self, process: subprocess.Popen[str], victim: Callable[[int], int | None], *, within_s: float) -> None:
        """SIGKILL to one of a session's processes at a random moment of it; then wait for what is left of it."""
        target = self.choose(process, victim, within_s=within_s)
        os.kill(target, signal.SIGKILL)
        if target == process.pid:
            process.wait()
        else:
            process.communicate(timeout=300)


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def below(pid: int) -> Iterator[tuple[int, int, str]]:
    """(process id, its parent's, command line) of all processes below one, from the top down."""
    todo = [pid]
    while todo:
        parent = todo.pop(0)
        with contextlib.suppress(OSError):
            for child in map(int, Path(f"/proc/{parent}/task/{parent}/children").read_text().split()):
                with contextlib.suppress(OSError):
                    yield child, parent, Path(f"/proc/{child}/cmdline").read_text().replace("\0", " ")
                    todo.append(child)


def first(needle: str, *, forked: bool = False) -> Callable[[int], int | None]:
    """The first process below a session whose command has ``needle`` in it; ``forked``, the fork of that one."""

    def find(session: int) -> int | None:
        found = [(pid, parent) for pid, parent, command in below(session) if needle in command]
        pids = {pid for pid, _ in found}
        return next((pid for pid, parent in found if (parent in pids) == forked), None)

    return find


def itself(session: int) -> int | None:
    return session


VICTIMS: dict[str, Callable[[int], int | None]] = {
    "worker": first("sys.stdin.readline"),
    "controller": itself,
    "recorder": first("tracking.writer"),
    "second recorder": first("tracking.writer", forked=True),
}


# -- the kinds of harm. Each leaves a session that was harmed; the caller runs it once more.


def killed(scene: Scene) -> None:
    scene.allowed = IN_FLIGHT
    if scene.kind == "mlflow server":
        process = scene.project.start(*COMMAND)
        time.sleep(scene.draw.uniform(0.5, 14.0))
        scene.end_server()
        time.sleep(1.0)
        scene.serve()
        process.communicate(timeout=300)
    else:
        scene.kill(scene.project.start(*COMMAND), VICTIMS[scene.kind.partition(" behind")[0]], within_s=12.0)


def badly_answered(scene: Scene) -> None:
    bad = scene.draw.randint(1, 8)
    scene.provider.script("situation", FAULTS[scene.kind], times=bad)
    scene.allowed = 0 if scene.kind in GOOD else bad
    scene.project.start(*COMMAND).communicate(timeout=300)


def locked(scene: Scene) -> None:
    process = scene.project.start(*COMMAND)
    time.sleep(scene.draw.uniform(0.5, 10.0))
    with contextlib.closing(sqlite3.connect(scene.database, isolation_level=None, timeout=60)) as db:
        db.execute("BEGIN IMMEDIATE")
        time.sleep(30.0)
        db.execute("ROLLBACK")
    process.communicate(timeout=300)


def full(scene: Scene) -> None:
    scene.allowed = 2 * IN_FLIGHT  # each of two workers finds it out
    scene.project.start(*COMMAND).communicate(timeout=300)
    subprocess.run(["mount", "-o", "remount,size=300m", str(scene.root)], check=True)


def two_at_once(scene: Scene) -> None:
    for process in [scene.project.start(*COMMAND), scene.project.start(*COMMAND)]:
        process.communicate(timeout=300)


def paused(scene: Scene) -> None:
    """As ``docker pause`` or a debugger does it to any of the processes, with Python's standard streams unbuffered."""
    scene.project.environ["PYTHONUNBUFFERED"] = "1"
    process, deadline = scene.project.start(*COMMAND), time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        target = scene.draw.choice([process.pid, *(pid for pid, _, _ in below(process.pid))])
        with contextlib.suppress(ProcessLookupError):
            os.kill(target, signal.SIGSTOP)
            time.sleep(scene.draw.uniform(0.0, 0.05))
            os.kill(target, signal.SIGCONT)
        time.sleep(scene.draw.uniform(0.0, 0.02))
    if process.poll() is None:
        scene.note = "hung for 2 minutes"
        os.killpg(process.pid, signal.SIGKILL)
    text, _ = process.communicate(timeout=300)
    if process.returncode != 0 and not scene.note:
        scene.note = text[-400:]


def interrupted(scene: Scene) -> None:
    """By a terminal, which sends Ctrl-C to all of its processes, or by a program, which sends it to the first alone.

    One time in five it may come before anything is asked.
    """
    scene.allowed = IN_FLIGHT if scene.kind == TWICE else 0
    scene.provider.latency_s = 1.0  # for most of the session, answers are on their way
    process = scene.project.start(*COMMAND)
    before = scene.draw.randint(-5, scene.cells)
    while scene.provider.count < before and process.poll() is None:
        time.sleep(0.02)
    scene.choose(process, VICTIMS["worker"], within_s=12.0 if before < 0 else 1.0)
    send = scene.draw.choice([os.kill, os.killpg])
    for _ in range(2 if scene.kind == TWICE else 1):
        with contextlib.suppress(ProcessLookupError):
            send(process.pid, signal.SIGINT)
        time.sleep(scene.draw.uniform(0.0, 2.0))
    text, _ = process.communicate(timeout=300)
    scene.provider.latency_s = 0.1
    if scene.kind == TWICE:
        return
    with contextlib.closing(sqlite3.connect(scene.database)) as db:
        logged = int(db.execute("SELECT COUNT(*) FROM runs WHERE status = 'FINISHED'").fetchone()[0])
    said = re.search(r"stopped: (\d+) of", text)
    missing = int(said[1]) if said else 0
    asked = scene.provider.count
    if asked and (asked + missing != scene.cells or (asked != logged and "NOT IN MLFLOW" not in text)):
        scene.note = f"{asked} asked, {logged} logged, {missing} said to be missing: {text[-400:]}"


def killed_while_judged(scene: Scene) -> None:
    """The verdicts are in danger: all cells are there, and a person's or the automatic judge's scores come in."""
    if scene.project.pytest(*COMMAND).code != 0:
        raise SystemExit("a session that nobody disturbed has failed")
    if "applying" in scene.kind:
        scene.judge = "human"
        scene.project.pytest("--judge-export", "packet.json")
        scene.project.score(judge_kind="human")
        process = scene.project.start("--judge-apply", "packet.json", "-q")
        scene.kill(process, itself, within_s=6.0)
        scene.project.pytest("--judge-apply", "packet.json")
    else:
        scene.judge = "haiku"
        scene.allowed = IN_FLIGHT
        who = itself if scene.kind.startswith("controller") else VICTIMS["recorder"]
        scene.kill(scene.project.start(*COMMAND, "--judge-auto"), who, within_s=12.0)
        scene.project.pytest(*COMMAND, "--judge-auto")


def local_server_killed(scene: Scene) -> None:
    params = "{max_tokens: 24, temperature: 0}"
    models = "".join(f"  {m}: {{model: embedded/smollm2-135m, params: {params}}}\n" for m in ("haiku",))
    scene.project.models, scene.project.scenarios = ("haiku",), 12
    scene.project.write()
    scene.project.file("evals/models.yaml", f"models:\n{models}")
    scene.allowed = scene.cells  # nobody is paid
    scene.kill(scene.project.start(*COMMAND), first("pytest_promptbench.localmodels"), within_s=14.0)


HARMS: dict[str, Callable[[Scene], None]] = {
    **dict.fromkeys(KILLS, killed),
    **dict.fromkeys(FAULTS, badly_answered),
    **dict.fromkeys(JUDGED, killed_while_judged),
    **dict(zip(SERVED, (killed, killed_while_judged), strict=True)),
    LOCKED: locked,
    FULL: full,
    TWO: two_at_once,
    PAUSED: paused,
    **dict.fromkeys((CTRL_C, TWICE), interrupted),
    EMBEDDED: local_server_killed,
}


def judge_reply(body: dict[str, object]) -> str:
    """The scripted provider as an automatic judge, too: valid scores where a JSON schema is asked for."""
    if "response_format" in body:
        return '{"rationale": "fits", "relevance": 4, "actionability": 4, "tone": 4, "format_ok": true}'
    return "take a slow walk and drink water"


def long_reply(_: dict[str, object]) -> str:
    """All of them together are more than a pipe holds, so that who sends them to another process has to wait."""
    return "take a slow walk and drink water; " * 5000


# -- counting


def account(scene: Scene, rerun_failed: str) -> Loss:
    asked = Counter(f"{r['model']}{r['messages']}" for r in scene.provider.requests)
    expected = scene.cells + (scene.cells if scene.judge == "haiku" else 0)
    runs = scene.project.runs()
    cells = Counter(r.data.tags.get("promptbench.cell") for r in runs if r.info.status == "FINISHED")
    scene.end_server()
    with contextlib.closing(sqlite3.connect(scene.database)) as db:
        traces = int(db.execute("SELECT COUNT(*) FROM trace_info").fetchone()[0])
    prefix = {None: "", "human": "promptbench.verdict.human.", "haiku": "promptbench.verdict.auto."}[scene.judge]
    judged = sum(any(k.startswith(prefix) for k in r.data.tags) for r in runs) if scene.judge else scene.cells
    deadline = time.monotonic() + 25  # execnet gives a worker 15 s whose controller is gone
    while (left := children_of(scene.root)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return Loss(
        kind=scene.kind,
        missing=scene.cells - len(cells),
        doubled=sum(cells.values()) - len(cells),
        unfinished=len(runs) - sum(cells.values()),
        traces=abs(scene.cells - traces),
        paid_twice=max(0, sum(asked.values()) - expected - scene.allowed),
        verdicts=scene.cells - judged,
        orphans=len(left),
        note=scene.note or rerun_failed or "; ".join(left),
    )


def one(kind: str, draw: random.Random, *, late: int) -> Loss | None:
    """One run of a kind, whose kill was too ``late`` so many times. None where the machine lacks what it takes."""
    if kind == EMBEDDED and installed("embedded/smollm2-135m") is not None:
        return None
    root = Path(tempfile.mkdtemp(prefix="promptbench-chaos-"))
    mounted = False
    try:
        if kind == FULL:
            size = f"size={draw.randint(1300, 2500)}k"
            mount = ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(root)]
            mounted = subprocess.run(mount, check=False, capture_output=True).returncode == 0
            if not mounted:
                return None
        reply = judge_reply if kind in JUDGED else long_reply if kind == PAUSED else None
        with ScriptedProvider(latency_s=0.1, reply=reply) as provider:
            suite = "judge: {model: haiku}\n" if kind in JUDGED else ""
            project = Project(root, provider, scenarios=SCENARIOS.get(kind, 6), suite=suite).write()
            scene = Scene(kind=kind, root=root, provider=provider, project=project, draw=draw, late=late)
            try:
                if kind == "mlflow server" or kind in SERVED:
                    migrated_database(root / "server.db")
                    scene.serve()
                else:
                    migrated_database(root / "mlflow.db")
                HARMS[kind](scene)
                again = project.pytest("evals/", *COMMAND)
                return account(scene, again.text[-400:] if again.code != 0 else "")
            finally:
                scene.end_server()
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(root)], check=False)
        shutil.rmtree(root, ignore_errors=True)


def numbered(number: int, seed: int, kinds: Sequence[str] = KINDS) -> Loss | None:
    """Run ``number`` of a series, whose kinds take turns: drawn again where a kill came too late."""
    kind = kinds[number % len(kinds)]
    for attempt in range(10):
        with contextlib.suppress(TooLateError):
            return one(kind, random.Random(f"{seed}:{number}:{attempt}"), late=attempt)
    raise SystemExit(f"run {number}: {kind} came too late ten times")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--first", type=int, default=0, help="number of the first run, to go on with an earlier series")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=sorted(HARMS), metavar="HARM", help="only these kinds of harm")
    args = parser.parse_args()
    by_kind: dict[str, list[Loss]] = defaultdict(list)
    left_out: set[str] = set()
    kinds = args.only or KINDS
    for number in range(args.first, args.first + args.runs):
        loss = numbered(number, args.seed, kinds)
        if loss is None:
            left_out.add(kinds[number % len(kinds)])
            continue
        by_kind[loss.kind].append(loss)
        print(number, loss, file=sys.stderr, flush=True)
    print(f"python benchmarks/chaos.py {shlex.join(sys.argv[1:])}\n")
    print("| harm | runs | missing | twice | unfinished | traces | paid twice | verdicts | orphans | hung or failed |")
    print("| --- " * 10 + "|")
    for kind, losses in by_kind.items():
        counts = [
            sum(getattr(x, name) for x in losses)
            for name in ("missing", "doubled", "unfinished", "traces", "paid_twice", "verdicts", "orphans")
        ]
        print(f"| {kind} | {len(losses)} | {' | '.join(map(str, counts))} | {sum(bool(x.note) for x in losses)} |")
    for kind in sorted(left_out):
        print(f"\nLEFT OUT: {kind}; this machine does not have what it takes")
    if not all(loss.none for losses in by_kind.values() for loss in losses):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
