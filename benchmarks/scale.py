"""How a leaderboard's cost grows: the same experiment of 1,000, 10,000 and 100,000 judged candidates.

    python benchmarks/scale.py --candidates 1000 10000 100000 [--judges 1]
    python benchmarks/scale.py --candidates 1000 10000 --server postgresql://...

A real session logs one candidate with a verdict; its rows are then multiplied in MLflow's tables (writing 100,000 runs
through MLflow would take an hour), each with names and scores of its own: 4 models x 5 prompts x N/20 scenarios. Each
figure is of a fresh process: ``read``, all candidates through MLflow's tables; ``leaderboard``, intervals, comparisons,
ranks; ``agreement``, of its two judges; ``reports``, the JSON, Markdown and HTML files without the candidates' texts;
its peak memory.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

MODELS, PROMPTS = 4, 5
EXPERIMENT = "scale"
TABLES = ("runs", "tags", "params", "metrics", "latest_metrics")
AT_ONCE = 5000


def rubric() -> Any:
    from pytest_promptbench.catalog.rubric import load_rubric

    return load_rubric(Path(__file__).resolve().parent.parent / "rubrics/tip-v1.md")


def log_one(uri: str, root: Path, judges: int) -> str:
    """One candidate with a sit-down verdict and, of two judges, an automatic one; its run id."""
    from pytest_promptbench.records import Answer, Candidate, Judge, Tier, Usage, Verdict
    from pytest_promptbench.tracking.entry import Logged
    from pytest_promptbench.tracking.store import TrackingStore
    from tests.scripted import cell

    answer = Answer(text="drink water", usage=Usage(prompt_tokens=30, completion_tokens=40), started_at=1e9)
    logged = Logged(candidate=Candidate(cell=cell("s0"), answers=(answer,)), rubric=rubric(), session="scale")
    store = TrackingStore(uri, artifact_root=root / "artifacts")
    store.log([logged.entry(EXPERIMENT)])
    scores = {"relevance": 4, "actionability": 3, "tone": 5, "format_ok": True, "overlong": False}
    for tier, name in ((Tier.CLAUDE_CODE, "judge"), (Tier.AUTO, "haiku"))[:judges]:
        (candidate,) = store.read(EXPERIMENT)
        verdict = Verdict(
            judge=Judge(tier=tier, name=name), scores=scores, rationale="clear", at="2026-01-01T00:00:00Z"
        )
        store.record(candidate, verdict, rubric())
    return candidate.run_id


def multiply(uri: str, run_id: str, total: int) -> None:
    """Insert ``total`` - 1 copies of a run's rows, each a cell of its own with scores of its own."""
    import sqlalchemy as sa

    from pytest_promptbench.tracking import entry as names

    engine = sa.create_engine(uri)
    meta = sa.MetaData()
    meta.reflect(engine, only=TABLES)
    draw = random.Random(0)
    with engine.begin() as db:
        if engine.dialect.name == "sqlite":
            db.execute(sa.text("PRAGMA synchronous = OFF"))
        rows = {
            t: [dict(r) for r in db.execute(sa.select(meta.tables[t]).filter_by(run_uuid=run_id)).mappings()]
            for t in TABLES
        }
        for start in range(1, total, AT_ONCE):
            batch: dict[str, list[dict[str, Any]]] = {t: [] for t in TABLES}
            for i in range(start, min(start + AT_ONCE, total)):
                cell, scenario = i % (MODELS * PROMPTS), i // (MODELS * PROMPTS)
                params = {"model": f"m{cell % MODELS}", "prompt": f"v{cell // MODELS}", "scenario": f"s{scenario}"}
                scores = {"relevance": draw.choice((2, 3, 4, 5)), "actionability": draw.choice((2, 3, 4, 5)), "tone": 4}
                composite = sum(scores.values()) / 3
                key = uuid.UUID(int=draw.getrandbits(128)).hex
                for table in TABLES:
                    for row in rows[table]:
                        copy = {**row, "run_uuid": key}
                        if table == "runs":
                            copy |= {"name": key, "start_time": row["start_time"] + i}
                        elif table == "params":
                            copy["value"] = params.get(row["key"], row["value"])
                        elif table == "tags":
                            if row["key"] in (names.CANDIDATE, names.CELL):
                                copy["value"] = key * 2
                            elif row["key"].startswith(names.VERDICT):
                                verdict = json.loads(row["value"])
                                verdict["scores"].update(scores)
                                copy["value"] = json.dumps(verdict)
                        else:
                            plain = row["key"].removeprefix("auto/")
                            value = {**scores, "composite": composite}.get(plain, row["value"])
                            copy["value"] = value
                        batch[table].append(copy)
            for table in TABLES:
                db.execute(sa.insert(meta.tables[table]), batch[table])
        if engine.dialect.name == "postgresql":  # as its autovacuum does within a minute, of its own accord
            db.execute(sa.text("ANALYZE"))
    engine.dispose()


def measure(uri: str) -> dict[str, float]:
    """In a process of its own: read, leaderboard, agreement of its two judges, reports."""
    import resource

    from pytest_promptbench.agreement import agreement_report
    from pytest_promptbench.leaderboard import build_leaderboard
    from pytest_promptbench.report import write_all
    from pytest_promptbench.tracking.store import TrackingStore

    store = TrackingStore(uri, artifact_root=None)
    store.open()
    clock = [time.perf_counter()]
    candidates = store.read(EXPERIMENT)
    clock.append(time.perf_counter())
    about = {"experiment": EXPERIMENT, "task": candidates[0].task}
    board = build_leaderboard(candidates, rubric(), **about)
    clock.append(time.perf_counter())
    agreement = agreement_report(candidates, rubric(), **about)
    clock.append(time.perf_counter())
    folder = Path(tempfile.mkdtemp(prefix="promptbench-scale-report-"))
    files = write_all(folder, board, candidates, agreement=agreement, generated_at="2026-01-01T00:00:00Z")
    clock.append(time.perf_counter())
    size = sum(f.stat().st_size for f in files) / 2**20
    shutil.rmtree(folder)
    read, board_s, agreed, reports = (b - a for a, b in itertools.pairwise(clock))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "candidates": len(candidates), "rows": len(board.rows), "read": read, "leaderboard": board_s,
        "agreement": agreed, "reports": reports, "size": size, "peak": peak,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--candidates", type=int, nargs="+", default=[1000, 10000, 100000])
    parser.add_argument(
        "--server", help="an empty PostgreSQL database, instead of SQLite; emptied between sizes by you"
    )
    parser.add_argument("--judges", type=int, choices=(1, 2), default=2, help="of each candidate")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(given.measure)))
        return
    words = ["..." if word == given.server else word for word in sys.argv[1:]]  # it may hold a password
    print(f"python benchmarks/scale.py {' '.join(words)}\n")
    print("| candidates | rows | read s | a candidate ms | leaderboard s | agreement s | reports s | MiB | peak MiB |")
    print("| --- " * 9 + "|")
    for total in given.candidates:
        root = Path(tempfile.mkdtemp(prefix="promptbench-scale-"))
        try:
            uri = given.server or f"sqlite:///{root}/mlflow.db"
            command = [sys.executable, __file__, "--measure", uri]
            multiply(uri, log_one(uri, root, given.judges), total)
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ})
            m = json.loads(done.stdout.splitlines()[-1])
            print(
                f"| {m['candidates']} | {m['rows']} | {m['read']:.1f} | {m['read'] / total * 1e3:.2f} | "
                f"{m['leaderboard']:.1f} | {m['agreement']:.1f} | {m['reports']:.1f} | {m['size']:.1f} | "
                f"{m['peak']:.0f} |",
                flush=True,
            )
        finally:
            with contextlib.suppress(OSError):
                shutil.rmtree(root)


if __name__ == "__main__":
    main()
