"""The two rules of docs/architecture.md: imports point downwards, and each third-party world has one door.

And what is imported is what is required.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "pytest_promptbench"

# From the top down. A module may import those below it; modules of one line may not import each other.
LAYERS = [
    ["plugin", "__main__"],
    ["cli"],
    ["starter"],
    ["api", "optimize"],
    ["experiments"],
    ["ending"],
    ["regression", "champions", "reviewing", "reading"],
    ["sitdown", "axes", "scheduling"],
    ["airflow", "steps"],
    ["session"],
    ["autojudge"],
    ["report", "localmodels", "completer", "tracking"],
    ["generation", "leaderboard", "agreement", "promotion", "packet", "gate", "judging", "settings"],
    ["audit"],
    ["scores"],
    ["statistics", "grid", "ledger", "candidate"],
    ["catalog"],
    ["checks", "clock", "files", "locks", "quiet", "redaction"],
    ["scorers"],
    ["records"],
    ["errors"],
]
DOORS = {
    "mlflow": [
        "tracking/store.py",
        "tracking/artifacts.py",
        "tracking/runs.py",
        "tracking/spans.py",
        "tracking/verdicts.py",
        "tracking/registry.py",
        "tracking/rounds.py",
        "tracking/reviews.py",
        "airflow/filing.py",
    ],
    "airflow": ["airflow/operators.py", "airflow/triggers.py"],
    "sqlalchemy": ["tracking/address.py", "tracking/changes.py", "tracking/tables.py", "tracking/writer.py"],
    "litellm": ["completer.py"],
    "xllamacpp": ["localmodels/__main__.py"],
    "xdist": ["scheduling.py"],
    "pytest": [
        "plugin/__init__.py",
        "plugin/closing.py",
        "plugin/collecting.py",
        "plugin/options.py",
        "plugin/parts.py",
        "plugin/running.py",
        "plugin/watch.py",
    ],
    "_pytest": [],
    "rich": ["report/terminal.py"],
    "jinja2": ["report/html.py", "api/pages.py"],
    "markdown_it": ["api/pages.py"],
    "fastapi": [
        "api/answers.py",
        "api/app.py",
        "api/guard.py",
        "api/health.py",
        "api/pages.py",
        "api/problems.py",
        "api/routes.py",
    ],
    "starlette": ["api/app.py", "api/guard.py", "api/routes.py"],
    "uvicorn": ["api/serve.py"],
    "httpx": ["api/airflow.py", "api/health.py"],
    "gepa": ["optimize/search.py"],
}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Every import of a file, lazy ones too, as absolute names; those under TYPE_CHECKING do not count."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    package = ("pytest_promptbench", *path.relative_to(PACKAGE).parent.parts)
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(x for x in (base, node.module) if x)
            if node.module is None or module == "pytest_promptbench":
                for alias in node.names:
                    yield node.lineno, f"{module}.{alias.name}"
            else:
                yield node.lineno, module


def level(name: str) -> int:
    return next(i for i, layer in enumerate(LAYERS) if name in layer)


def unit(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_every_module_has_its_place() -> None:
    units = {unit(p) for p in modules()} - {"__init__"}
    assert units == {name for layer in LAYERS for name in layer}


@pytest.mark.parametrize("path", modules(), ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_imports_point_downwards(path: Path) -> None:
    here = unit(path)
    if here == "__init__":
        return
    for line, name in imports(path):
        if name.startswith("pytest_promptbench."):
            there = name.split(".")[1]
            assert there == here or level(there) > level(here), f"{path.name}:{line}: {here} imports {there} above it"


def test_the_page_lists_every_module_above_what_it_imports() -> None:
    text = (PACKAGE.parent / "docs/architecture.md").read_text(encoding="utf-8")
    order = [line.split()[0].rstrip("/").removesuffix(".py") for line in text.split("```")[1].strip().splitlines()]
    assert {*order, "__init__", "__main__"} == {unit(p) for p in modules()}
    for path in modules():
        for line, name in imports(path):
            here, there = unit(path), name.partition("pytest_promptbench.")[2].partition(".")[0]
            if here != there and here in order and there in order:
                assert order.index(here) < order.index(there), f"{path.name}:{line}: {here} is listed below {there}"


@pytest.mark.parametrize("path", modules(), ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_each_third_party_world_has_one_door(path: Path) -> None:
    place = path.relative_to(PACKAGE).as_posix()
    for line, name in imports(path):
        doors = DOORS.get(name.split(".")[0])
        assert doors is None or place in doors, f"{place}:{line}: {name} is imported in {doors} only"


NAMES = {"yaml": "pyyaml", "markdown_it": "markdown-it-py", "xdist": "pytest-xdist", "airflow": "apache-airflow"}
"""Of distributions that are not called as what they hold."""


def test_what_is_imported_is_required_and_nothing_else_is() -> None:
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    listed = [*project["dependencies"], *extras["local"], *extras["optimize"], *extras["airflow"]]
    required = {re.split(r"[<>=\[]", one)[0] for one in listed}
    required -= {"apache-airflow-providers-standard", "celery"}  # parts of Airflow, of versions that work together
    used = {name.split(".")[0] for path in modules() for _, name in imports(path)}
    used -= {*sys.stdlib_module_names, "pytest_promptbench", "pydantic_core"}  # pydantic's own, whose version it pins
    assert {NAMES.get(name, name) for name in used} == required
