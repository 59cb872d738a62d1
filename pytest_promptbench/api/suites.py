"""What can be run: the test files with evals below a project's root, and the baselines there.

A request names one of these; it is compared with what was found, and never joined to a path.
"""

from __future__ import annotations

import ast
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from ..errors import UsageError
from ..gate.baseline import BASELINE_SCHEMA

_DEEPEST = 6
_LARGEST = 2 * 1024 * 1024
_NOT_OURS = {"node_modules", "venv", "build", "dist", "mlruns", "mlartifacts", "__pycache__", "site-packages"}
_TESTS = ("test_*.py", "*_test.py")
_MARKER = "promptbench"


@dataclass(frozen=True, kw_only=True)
class Evals:
    """Paths relative to the root, with forward slashes. ``files``: test file -> the suite files that it names."""

    files: dict[str, tuple[str, ...]]
    baselines: tuple[str, ...]

    @property
    def folders(self) -> tuple[str, ...]:
        """Those that hold test files with evals."""
        return tuple(sorted({f.rpartition("/")[0] for f in self.files} - {""}))

    def test_path(self, suite: str) -> str:
        """The test file or folder that a request's ``suite`` means. UsageError where it is none of those here."""
        for path in (*self.files, *self.folders):
            if suite in (path, f"{path}/"):
                return path
        naming = [f for f, suites in self.files.items() if suite in suites]
        if len(naming) > 1:
            raise UsageError(f"suite: several test files name {suite}: choose one of {', '.join(naming)}")
        if naming:
            return naming[0]
        there = ", ".join([*self.files, *self.folders][:20]) or "none"
        raise UsageError(f"suite: {suite} is no test file with evals, nor their folder; there are: {there}")

    def baseline(self, name: str) -> str:
        """The same name where it is a baseline here, else UsageError."""
        for path in self.baselines:
            if path == name:
                return path
        raise UsageError(f"baseline: {name} is none here; there are: {', '.join(self.baselines[:20]) or 'none'}")


def find_evals(root: Path) -> Evals:
    """Look through the folders of a project. No file is imported."""
    files: dict[str, tuple[str, ...]] = {}
    baselines: list[str] = []
    for path in _walk(root):
        name = path.relative_to(root).as_posix()
        if path.suffix == ".json":
            if _is_baseline(path):
                baselines.append(name)
        elif (suites := _suites(path, root)) is not None:
            files[name] = suites
    return Evals(files=dict(sorted(files.items())), baselines=tuple(sorted(baselines)))


def _walk(root: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(root):
        here = Path(folder)
        deep = len(here.relative_to(root).parts) >= _DEEPEST
        folders[:] = [] if deep else sorted(f for f in folders if not f.startswith(".") and f not in _NOT_OURS)
        for name in sorted(names):
            if name.endswith(".json") or any(fnmatch(name, pattern) for pattern in _TESTS):
                path = here / name
                if path.is_file() and path.stat().st_size <= _LARGEST and path.resolve().is_relative_to(root):
                    yield path


def _is_baseline(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return BASELINE_SCHEMA.rpartition("/")[0].encode() in file.read(300)
    except OSError:
        return False


def _suites(path: Path, root: Path) -> tuple[str, ...] | None:
    """The suite files that a test file's markers name; None where it has no such marker."""
    try:
        text = path.read_text(encoding="utf-8")
        if _MARKER not in text:
            return None
        tree = ast.parse(text)
    except (OSError, SyntaxError, ValueError, RecursionError):
        return None
    found: Counter[str] = Counter()
    marked = False
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == _MARKER:
            marked = True
            argument = node.args[0] if node.args else None
            if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                suite = (path.parent / argument.value).resolve()
                if suite.is_relative_to(root):
                    found[suite.relative_to(root).as_posix()] += 1
    return tuple(found) if marked else None
