"""The test suites of well-known libraries, without the plugin and with it: the same outcome of every test?

    python tests/foreign_suites.py [attrs click jinja2 packaging] [--markdown table.md]

For each library: its newest source distribution from the package index, and two fresh environments that hold the same
versions of pytest, xdist and what the suite needs; into the second, the wheel of this checkout goes too. Both run the
suite plainly and under ``-n 2``. Compared are exit code, the outcome of every single test, pytest's closing line, and
the files that are left behind. It ends with 1 where anything differs. Needs the network, and some minutes.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import xml.etree.ElementTree as ET
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
NEEDS = {
    "attrs": ("hypothesis", "cloudpickle", "pympler"),
    "click": (),
    "itsdangerous": ("freezegun",),
    "jinja2": ("trio",),
    "packaging": ("hypothesis", "pretend", "tomli_w"),
}
"""What each suite needs beside pytest and xdist."""
RUNS = {"plain": (), "-n 2": ("-n", "2")}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One run of one suite; equal where nobody could tell the plugin's presence."""

    code: int
    tests: Counter[tuple[str, str]]  # (id, outcome) of every report in the JUnit file
    summary: str  # pytest's closing line, less its time
    left: frozenset[str]  # files that were not there before

    def differences(self, other: Outcome) -> list[str]:
        found = [
            f"{name}: {getattr(self, name)} without the plugin, {getattr(other, name)} with it"
            for name in ("code", "summary")
            if getattr(self, name) != getattr(other, name)
        ]
        found += [f"only without the plugin: {x}" for x in sorted((self.tests - other.tests).elements())]
        found += [f"only with the plugin: {x}" for x in sorted((other.tests - self.tests).elements())]
        return found + [f"left behind with the plugin only: {x}" for x in sorted(other.left - self.left)]


def run(*command: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run([str(x) for x in command], cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(str(x) for x in command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def environment(folder: Path, *packages: str | Path, constraint: Path | None = None) -> Path:
    """A fresh one; its interpreter."""
    run(sys.executable, "-m", "venv", folder)
    python = folder / "bin" / "python"
    limits = ("-c", constraint) if constraint else ()
    run(python, "-m", "pip", "install", "-q", *limits, *packages)
    return python


def unpacked(archive: Path, folder: Path) -> Path:
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    (root,) = folder.iterdir()
    return root


def suite(python: Path, archive: Path, folder: Path, *args: str) -> Outcome:
    """Run it in a copy of its own, so that no run sees what another left."""
    root = unpacked(archive, folder)
    before = files(root)
    report = folder / "report.xml"
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "TOX_", "PROMPTBENCH_"))}
    command = [python, "-m", "pytest", "-p", "no:cacheprovider", "tests", f"--junitxml={report}", *args]
    done = subprocess.run(
        command, cwd=root, env={**env, "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if not report.exists():
        sys.exit(f"{root.name}: the suite did not run\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    closing = re.sub(r" in [\d.]+s.*", "", done.stdout.rstrip().splitlines()[-1].strip("= "))
    return Outcome(code=done.returncode, tests=outcomes(report), summary=closing, left=files(root) - before)


def files(root: Path) -> frozenset[str]:
    return frozenset(str(x.relative_to(root)) for x in root.rglob("*"))


def outcomes(report: Path) -> Counter[tuple[str, str]]:
    found: Counter[tuple[str, str]] = Counter()
    for case in ET.parse(report).iter("testcase"):
        parts = [f"{x.tag} {x.get('type', '')}".strip() for x in case if x.tag in {"failure", "error", "skipped"}]
        found[f"{case.get('classname')}::{case.get('name')}", " + ".join(parts) or "passed"] += 1
    return found


def compare(library: str, wheel: Path, work: Path) -> tuple[list[str], list[str]]:
    """Rows of the table, and what differs."""
    run(sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", library, "-d", work, library)
    (archive,) = work.glob("*.tar.gz")
    without = environment(work / "without", archive, "pytest", "pytest-xdist", *NEEDS[library])
    frozen = run(without, "-m", "pip", "freeze").splitlines()
    # pip freezes what came from a file by its address; the library itself is the same archive on both sides.
    (work / "same.txt").write_text("\n".join(x for x in frozen if "==" in x))
    plugin = environment(work / "with", archive, wheel, *NEEDS[library], constraint=work / "same.txt")
    if "promptbench" not in run(plugin, "-m", "pytest", "--help", cwd=work):
        sys.exit(f"{library}: the second environment's pytest does not have the plugin")
    rows, differences = [], []
    for name, args in RUNS.items():
        folder = work / name.replace(" ", "")
        one = suite(without, archive, folder / "without", *args)
        two = suite(plugin, archive, folder / "with", *args)
        found = one.differences(two)
        same = "the same" if not found else f"{len(found)} differences"
        rows.append(f"| {archive.name.removesuffix('.tar.gz')} | {name} | {one.summary} | {two.summary} | {same} |")
        differences += [f"{library}, {name}: {x}" for x in found]
        print(rows[-1], flush=True)
    return rows, differences


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("libraries", nargs="*", default=["attrs", "click", "jinja2", "packaging"])
    parser.add_argument("--markdown", type=Path, help="write the table there too")
    given = parser.parse_args()
    if unknown := set(given.libraries) - set(NEEDS):
        parser.error(f"nothing is known of what {', '.join(sorted(unknown))} needs; known are {', '.join(NEEDS)}")
    rows = ["| suite | run | without | with | outcomes |", "| --- | --- | --- | --- | --- |"]
    differences = []
    with tempfile.TemporaryDirectory(prefix="promptbench-foreign-") as temporary:
        work = Path(temporary)
        run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", work, ROOT)
        (wheel,) = work.glob("*.whl")
        for library in given.libraries:
            (work / library).mkdir()
            more, found = compare(library, wheel, work / library)
            rows += more
            differences += found
    if given.markdown:
        given.markdown.write_text("\n".join(rows) + "\n")
    print("\n".join(differences) or "no test tells them apart")
    sys.exit(bool(differences))


if __name__ == "__main__":
    main()
