"""What the plugin costs a project without evals: the same pytest run with it and without it, alternating.

    python benchmarks/idle.py --rounds 25

CPU milliseconds (user and system) of ``python -m pytest`` over one trivial test; medians, and their difference.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path


def cpu_ms(folder: str, *args: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "promptbench_idle", *args]
    env = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": folder}
    subprocess.run(command, cwd=folder, env=env, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=25)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "test_plain.py").write_text("def test_it():\n    assert True\n")
        (Path(folder) / "promptbench_idle.py").write_text("")  # both sides load one plugin of ours by name
        found: dict[str, list[float]] = {"without": [], "with": []}
        for _ in range(given.rounds + 1):
            found["without"].append(cpu_ms(folder))
            found["with"].append(cpu_ms(folder, "-p", "pytest_promptbench.plugin"))
    medians = {k: statistics.median(v[1:]) for k, v in found.items()}
    print(f"python benchmarks/idle.py --rounds {given.rounds}")
    more = medians["with"] - medians["without"]
    print(f"without {medians['without']:.0f} ms, with {medians['with']:.0f} ms: {more:.1f} ms")


if __name__ == "__main__":
    main()
