"""How long a packet takes to export, and its verdicts to apply.

    python benchmarks/packets.py [--cells 120 1200] [--rounds 3]

A real session against the scripted provider (no latency) fills a fresh project; its pending candidates are exported,
scored by rule, and applied, each as a ``pytest`` process of its own whose whole wall clock and peak memory count. Then
the same packet is applied again, which changes nothing. What is claimed is counted from outside, in MLflow's database.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from speed import Provider, command, project, scratch, tree_mib

STEPS = ("session", "export", "apply", "apply again")


def run(root: Path, *options: str) -> tuple[float, float]:
    """Seconds and peak MiB of one pytest process."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "MLFLOW_"))}
    start, peak = time.perf_counter(), 0.0
    with (root / "output.txt").open("w") as output:
        process = subprocess.Popen(
            [sys.executable, *command(0), *options], cwd=root, env=env, stdout=output, stderr=subprocess.STDOUT
        )
        while process.poll() is None:
            peak = max(peak, tree_mib(process.pid))
            time.sleep(0.02)
    if process.returncode != 0:
        raise SystemExit((root / "output.txt").read_text()[-3000:])
    return time.perf_counter() - start, peak


def score(packet: Path) -> int:
    """Fill in every score that is missing; says how many candidates there are."""
    document = json.loads(packet.read_text())
    document["judged_by"] = "benchmark"
    count = 0
    for item in document["items"]:
        for candidate in item["candidates"]:
            candidate["scores"] = {k: 1 + len(candidate["output"]) % 5 if v is None else v
                                   for k, v in candidate["scores"].items()}  # fmt: skip
            count += 1
    packet.write_text(json.dumps(document))
    return count


def measure(folder: Path, cells: int) -> dict[str, tuple[float, float]]:
    root = Path(tempfile.mkdtemp(dir=folder))
    packet = root / "packet.json"
    with Provider(latency_s=0.0) as address:
        project(root, address, cells)
        took = {"session": run(root)}
    took["export"] = run(root, f"--judge-export={packet}")
    if (exported := score(packet)) != cells:
        raise SystemExit(f"{exported} candidates in the packet instead of {cells}")
    took["apply"] = run(root, f"--judge-apply={packet}")
    with contextlib.closing(sqlite3.connect(root / "mlflow.db")) as db:
        query = "SELECT COUNT(*) FROM tags WHERE key = 'judge_pending' AND value = 'false'"
        (judged,) = db.execute(query).fetchone()
    if judged != cells:
        raise SystemExit(f"{judged} judged candidates in MLflow instead of {cells}")
    took["apply again"] = run(root, f"--judge-apply={packet}")
    if f"applied 0, unchanged {cells}" not in (root / "output.txt").read_text():
        raise SystemExit("applying the same packet again changed something")
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, nargs="+", default=[120, 1200])
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    results: dict[int, list[dict[str, tuple[float, float]]]] = {cells: [] for cells in given.cells}
    with scratch("promptbench-packets-") as folder:
        for _ in range(given.rounds):
            for cells in given.cells:
                results[cells].append(measure(folder, cells))
    print(f"python benchmarks/packets.py {' '.join(sys.argv[1:])}\n")
    print(f"| candidates | {' | '.join(f'{step} s' for step in STEPS)} | apply, a verdict ms | peak MiB |")
    print("| --- " * (len(STEPS) + 3) + "|")
    for cells, rounds in results.items():
        seconds = {step: statistics.median(r[step][0] for r in rounds) for step in STEPS}
        peak = max(mib for r in rounds for step, (_, mib) in r.items() if step != "session")
        each = (seconds["apply"] - seconds["apply again"]) / cells * 1e3
        print(f"| {cells} | {' | '.join(f'{seconds[step]:.1f}' for step in STEPS)} | {each:.1f} | {peak:.0f} |")


if __name__ == "__main__":
    main()
