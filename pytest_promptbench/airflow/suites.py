"""What can be run: the test files with evals below a project's root, and the baselines there.

A request names one of these; it is compared with what was found, and never joined to a path.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from ..errors import UsageError
from ..gate.baseline import BASELINE_SCHEMA

# `$` also matches before a last newline, in Python; the lookahead closes that, and JavaScript's `$` does not mind it.
END = r"$(?!\n)"
_REFUSED = r"\\\[\x00-\x1f\x7f;$`'\"<>|&(){}*?!"
PATH = rf"^(?!.*(\.\.|::))[^-./@~{_REFUSED}][^{_REFUSED}]{{0,999}}{END}"
"""A path that a request may name.

pytest would take what begins with @ for a file of arguments, and what follows [ or :: for a test's name. No shell ever
sees a path; marks that would be an order to one are refused all the same.
"""

_DEEPEST = 6
_LARGEST = 2 * 1024 * 1024
"""A test file that is longer is not parsed; of a baseline only the beginning is read."""
_NOT_OURS = {"node_modules", "venv", "build", "dist", "mlruns", "mlartifacts", "__pycache__", "site-packages"}
_TESTS = ("test_*.py", "*_test.py")
_MARKER = "promptbench"


@dataclass(frozen=True, kw_only=True)
class Evals:
    """Paths relative to the root, with forward slashes.

    ``files``: test file -> the suite files that it names. ``tests``: test file -> suite file -> the node ids of its
    tests, or the file itself where all of its tests are that suite's; a suite whose tests cannot be told is left out.
    So is, everywhere, what no request may name: see :data:`PATH`.
    """

    files: dict[str, tuple[str, ...]]
    tests: dict[str, dict[str, tuple[str, ...]]]
    baselines: tuple[str, ...]

    @property
    def folders(self) -> tuple[str, ...]:
        """Those that hold test files with evals."""
        return tuple(sorted({f.rpartition("/")[0] for f in self.files} - {""}))

    def tests_of(self, suite: str) -> tuple[str, ...]:
        """What pytest is to be given for a test file, a folder, or a suite file: of that, the tests alone that name it.

        UsageError where it is none of those here, or where its tests cannot be told from others.
        """
        for path in (*self.files, *self.folders):
            if suite in (path, f"{path}/"):
                return (path,)
        naming = [f for f, suites in self.files.items() if suite in suites]
        if not naming:
            there = ", ".join([*self.files, *self.folders][:20]) or "none"
            raise UsageError(
                f"suite: {suite} is named by no test with evals, nor a file or folder of some; there are: {there}"
            )
        unclear = [f for f in naming if suite not in self.tests[f]]
        if unclear:
            raise UsageError(
                f"suite: which tests of {', '.join(unclear)} are those of {suite} cannot be told without importing it: "
                "name the test file instead"
            )
        return tuple(node for f in naming for node in self.tests[f][suite])

    def baseline(self, name: str) -> str:
        """The same name where it is a baseline here, else UsageError."""
        for path in self.baselines:
            if path == name:
                return path
        raise UsageError(f"baseline: {name} is none here; there are: {', '.join(self.baselines[:20]) or 'none'}")


def find_evals(root: Path) -> Evals:
    """Look through the folders of a project. No file is imported."""
    root = root.resolve()
    files: dict[str, tuple[str, ...]] = {}
    tests: dict[str, dict[str, tuple[str, ...]]] = {}
    baselines: list[str] = []
    for path in _walk(root):
        name = path.relative_to(root).as_posix()
        if not _may_be_named(name):
            continue
        if path.suffix == ".json":
            if _is_baseline(path):
                baselines.append(name)
        elif (found := _markers(path, root)) is not None:
            files[name] = tuple(dict.fromkeys(s for s, _ in found if s is not None and _may_be_named(s)))
            tests[name] = _tests(name, found)
    return Evals(files=dict(sorted(files.items())), tests=tests, baselines=tuple(sorted(baselines)))


def _may_be_named(path: str) -> bool:
    """Not what cannot be typed or sent either: marks that nobody sees, and bytes that are no text."""
    return re.match(PATH, path) is not None and path.isprintable()


def _walk(root: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(root):
        here = Path(folder)
        deep = len(here.relative_to(root).parts) >= _DEEPEST
        folders[:] = [] if deep else sorted(f for f in folders if not f.startswith(".") and f not in _NOT_OURS)
        for name in sorted(names):
            if name.endswith(".json") or any(fnmatch(name, pattern) for pattern in _TESTS):
                path = here / name
                if not path.is_file() or not path.resolve().is_relative_to(root):
                    continue
                if path.suffix == ".json" or path.stat().st_size <= _LARGEST:
                    yield path


def _is_baseline(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return BASELINE_SCHEMA.rpartition("/")[0].encode() in file.read(300)
    except OSError:
        return False


_Marker = tuple[str | None, str | None]
"""A suite file, None where the marker names it by an expression; the test or class that bears it, None for neither."""


def _markers(path: Path, root: Path) -> list[_Marker] | None:
    """The markers of a test file; None where it has none."""
    try:
        text = path.read_text(encoding="utf-8")
        if _MARKER not in text:
            return None
        tree = ast.parse(text)
    except (OSError, SyntaxError, ValueError, RecursionError):
        return None
    bearers: dict[int, str] = {}
    _note_bearers(tree, "", bearers)
    found: list[_Marker] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == _MARKER:
            argument = node.args[0] if node.args else None
            suite = None
            if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                suite = _below(root, path.parent / argument.value)
            found.append((suite, bearers.get(id(node))))
    return found or None


def _below(root: Path, path: Path) -> str | None:
    """A path relative to the root; None where it is not below it, or none that a file can have."""
    try:
        file = path.resolve()
    except (OSError, RuntimeError, ValueError):  # a NUL, links in a circle
        return None
    return file.relative_to(root).as_posix() if file.is_relative_to(root) else None


def _note_bearers(node: ast.AST, inside: str, bearers: dict[int, str]) -> None:
    """Which test or class each decorator belongs to, as pytest's node ids have them."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            name = f"{inside}::{child.name}"
            bearers.update({id(d): name for d in child.decorator_list})
            if isinstance(child, ast.ClassDef):
                _note_bearers(child, name, bearers)


def _tests(file: str, markers: Sequence[_Marker]) -> dict[str, tuple[str, ...]]:
    suites = dict.fromkeys(suite for suite, _ in markers)
    if len(suites) == 1:
        return {suite: (file,) for suite in suites if suite is not None}
    bearers = {b for _, b in markers if b is not None}
    # A marker without a name may be any suite's; a class and a test in it that bear one each may be two suites'.
    unclear = None in suites or any(b.startswith(f"{a}::") for a in bearers for b in bearers)
    found = {}
    for suite in suites:
        nodes = [bearer for named, bearer in markers if named == suite]
        if suite is not None and not unclear and None not in nodes:
            found[suite] = tuple(f"{file}{n}" for n in dict.fromkeys(nodes))
    return found
