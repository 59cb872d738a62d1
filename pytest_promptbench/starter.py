"""``promptbench init``: the evals that are shipped, as a project to begin with."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from pathlib import Path

from .catalog import load_suite
from .errors import CatalogError, UsageError
from .files import replace_file
from .localmodels import EMBEDDED, installed
from .optimize.root import project_root

_MODELS = "evals/models.yaml"
_SUITE = "evals/tips.yaml"
SHIPPED = (
    _MODELS,
    _SUITE,
    "evals/test_tips.py",
    "prompts/tip/v1.yaml",
    "prompts/tip/v2-mentor.yaml",
    "prompts/tip/v3-few-shot.yaml",
    "rubrics/tip-v1.md",
    ".claude/commands/judge-mlflow.md",
)
"""The repository's own, which the wheel has in ``shipped/``."""
_CONFIGURATION = b"# It makes this folder pytest's root, where evals keep what they write.\n[pytest]\n"
_IGNORED = b"""\
# What evals write: answers and reports, MLflow's database and artifacts.
.promptbench/
/mlflow.db*
/mlartifacts/
"""


def init(folder: Path) -> Iterator[str]:
    """Write the files into a folder, which is made where it is missing; what is there stays. Yields what to tell.

    UsageError where one cannot be written, which leaves those before it.
    """
    given, folder = folder, Path(os.path.abspath(folder))  # noqa: PTH100 - a link stays the name that its user knows
    wrote: set[str] = set()
    root = project_root(folder / "evals", cwd=folder)
    for name, content in _files(folder, root):
        path = folder / name
        if os.path.lexists(path):
            yield f"kept   {name}"
            continue
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, content)
        except OSError as error:
            raise UsageError(f"init: {path}: cannot be written: {error.strerror or error}") from None
        wrote.add(name)
        yield f"wrote  {name}"
    lacking = next(filter(None, map(installed, EMBEDDED)), None)
    if _MODELS in wrote and lacking:
        yield f"{_MODELS}: {lacking}; or take its entries out, and set another model's key"
    yield from _unignored(root)
    if _SUITE in wrote and (problem := _problem(folder)):
        yield f"first: {problem}"
    yield "next:"
    if folder != Path.cwd():
        yield f"cd {shlex.quote(str(given))}"
    yield "pytest evals/ -n auto                       # generate, log, and write the leaderboard"
    yield "pytest evals/ --judge-export packet.json    # what waits for a judge; in Claude Code: /judge-mlflow"


def _problem(folder: Path) -> str | None:
    """What keeps the suite from being collected beside files that were there before, as their models and rubric are."""
    try:
        load_suite(folder / _SUITE, root=folder, environ=os.environ, reachable=lambda _: True)
    except CatalogError as error:
        return str(error)
    return None


def _unignored(root: Path) -> Iterator[str]:
    """What Git is to ignore where evals write, and is not told to by the file that is there."""
    file = root / ".gitignore"
    try:
        there = file.read_text(encoding="utf-8", errors="replace").split()
    except OSError:
        there = []
    known = {line.strip("/") for line in there}
    lacking = [line for line in _IGNORED.decode().splitlines()[1:] if line.strip("/") not in known]
    if lacking:
        yield f"{file} lacks what evals write: {' '.join(lacking)}"


def _files(folder: Path, root: Path) -> Iterator[tuple[str, bytes]]:
    here = Path(__file__).parent
    source = here / "shipped" if (here / "shipped").is_dir() else here.parent  # the latter in a checkout
    for name in SHIPPED:
        yield name, (source / name).read_bytes()
    evals = folder / "evals"
    if project_root(evals, cwd=evals) == evals:  # no folder above has a configuration
        yield "pytest.ini", _CONFIGURATION
    if root == folder:  # else evals write to the folder above that has a configuration
        yield ".gitignore", _IGNORED
