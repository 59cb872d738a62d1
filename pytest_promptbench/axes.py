"""How a promptbench test spreads over model, prompt and scenario.

Three axes, each its own parametrization in this order, so that test ids read ``<model>-<prompt>-<scenario>``. A plain
``@pytest.mark.parametrize`` on the test that names an axis takes the place of the suite's.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import CatalogError
from .grid import make_cell
from .records import Suite
from .session import Planned, Task

AXES = ("model", "prompt", "scenario")


@dataclass(frozen=True, kw_only=True)
class Axis:
    """Arguments for one ``metafunc.parametrize`` call."""

    argnames: str | Sequence[str]
    values: Sequence[Any]
    ids: Sequence[str] | None


def suite_path(args: Sequence[Any], kwargs: Mapping[str, Any], *, test: str, file: Path) -> Path:
    """The suite file that a marker names, relative to the test's file. A link to a file stays one."""
    unknown = sorted(set(kwargs) - {"experiment"})
    if unknown:
        raise CatalogError(f"{test}: the promptbench marker takes a suite file and experiment=..., not {unknown[0]!r}")
    if len(args) != 1 or not isinstance(args[0], str | Path):
        raise CatalogError(f'{test}: the promptbench marker wants one suite file, as in promptbench("tips.yaml")')
    if not isinstance(kwargs.get("experiment", ""), str):
        raise CatalogError(f"{test}: the promptbench marker's experiment={kwargs['experiment']!r}; expected a name")
    path = file.parent / args[0]
    if "\0" in str(path):
        raise CatalogError(f"{test}: the promptbench marker names {str(args[0])!r}, which no file can be called")
    return path.parent.resolve() / path.name


def check_there(path: Path, *, test: str) -> None:
    """CatalogError where a marker's suite file is missing; what else may be wrong with it shows when it is read."""
    try:
        path.stat()
    except FileNotFoundError:
        known = {file.stem: file.name for file in path.parent.glob("*.y*ml") if file.name != "models.yaml"}
        close = difflib.get_close_matches(path.stem, known, n=1)  # the endings alone would make any two names alike
        meant = f" (did you mean {known[close[0]]!r}?)" if close else ""
        raise CatalogError(
            f"{test}: the promptbench marker names {path}, which does not exist{meant}; the path is relative to the "
            "test file"
        ) from None
    except OSError:
        pass


def no_candidate(test: str) -> CatalogError:
    """For a test with the marker that would pass without looking at anything."""
    return CatalogError(
        f"{test}: a promptbench test takes what was generated as an argument: def test_...(candidate). Others must not "
        "have the marker, nor must their class or module (pytestmark)"
    )


def not_ours(test: str) -> CatalogError:
    """For a test whose ``candidate`` is somebody else's, which asks for none of the axes."""
    return CatalogError(
        f"{test}: the candidate of this test is a fixture or a parametrize of your own, so nothing is generated for "
        "it; give that another name, or remove the promptbench marker"
    )


def of_two_sources(test: str, axis: str) -> CatalogError:
    """For a test whose fixture of an axis's name is parametrized by itself."""
    return CatalogError(
        f"{test}: the fixture {axis} of your own has params, and the test gets each {axis} of its suite; give it no "
        "params, or another name"
    )


def two_suites(test: str, one: Any, other: Any) -> CatalogError:
    """For a test with two markers side by side: pytest would give one of them, and say nothing of the other."""
    names = " and ".join(f"promptbench({', '.join(map(repr, m.args))})" for m in (one, other))
    return CatalogError(
        f"{test}: the markers {names} stand side by side (above one function, on a class and one that it is based on, "
        "in a module's list, or in a pytest.param), and a test runs one suite; write a test for each"
    )


def not_spread(test: str) -> CatalogError:
    """For a test that pytest never asked to parametrize, which would pass without a candidate."""
    return CatalogError(
        f"{test}: the promptbench marker has no effect here: pytest parametrizes no method of a unittest.TestCase, and "
        "nothing for a marker that a hook adds later or that stands in pytest.param; write it above a function, or a "
        "class without a base, with def test_...(candidate)"
    )


def named(markers: Sequence[Any]) -> set[str]:
    """The axes, model, prompt or scenario, among what ``markers`` (of ``parametrize``) name."""
    return {name for m in markers for name in _argnames(m.args, m.kwargs)} & set(AXES)


def _given_argnames(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    return kwargs.get("argnames", args[0] if args else ())


def _argnames(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[str, ...]:
    names = _given_argnames(args, kwargs)
    return tuple(n.strip() for n in names.split(",") if n.strip()) if isinstance(names, str) else tuple(names)


def overridden(markers: Sequence[Any], *, test: str) -> dict[str, list[str]]:
    """``models`` and ``prompts`` that ``markers`` (of ``parametrize``) name in place of the suite's.

    Raises CatalogError for a value that is no name, and for values that can be read only once.
    """
    found: dict[str, list[str]] = {}
    for marker in markers:
        values = _argvalues(marker)
        if not isinstance(values, Collection):
            given = ", ".join(_argnames(marker.args, marker.kwargs))
            raise CatalogError(f"{test}: {given} is parametrized with a {type(values).__name__}; make a list of it")
        for axis, value in (pair for row in _rows(marker) for pair in row.items()):
            if not isinstance(value, str):
                raise CatalogError(f"{test}: {axis} is parametrized with {value!r}; expected a name, which is a text")
            if axis != "scenario":
                found.setdefault(f"{axis}s", []).append(value)
    return found


def _rows(marker: Any) -> list[dict[str, Any]]:
    """Axis -> value, for each parameter set of a ``parametrize`` marker."""
    names = _argnames(marker.args, marker.kwargs)
    alone = len(names) == 1 and isinstance(_given_argnames(marker.args, marker.kwargs), str)  # as pytest has it
    rows = []
    for value in _argvalues(marker):
        plain = getattr(value, "values", None)  # pytest.param(...)
        row = tuple(plain) if plain is not None and not callable(plain) else (value,)
        row = row[0] if plain is None and not alone else row
        rows.append({name: one for name, one in zip(names, row, strict=False) if name in AXES})
    return rows


def _argvalues(marker: Any) -> Any:
    return marker.kwargs.get("argvalues", marker.args[1] if len(marker.args) > 1 else ())


def arrange(suite: Suite, markers: Sequence[Any], *, test: str) -> list[Axis]:
    """One Axis for each axis of the suite, those that ``markers`` (of ``parametrize``) name replaced by theirs.

    ``suite`` was loaded with the models and prompts that they name; of these, what it was narrowed to is taken. Raises
    CatalogError for a scenario that it does not have, and for an axis that two of them name.
    """
    known = {
        "model": [m.name for m in suite.models],
        "prompt": [p.version for p in suite.prompts],
        "scenario": [s.id for s in suite.scenarios],
    }
    has = {axis: set(names) for axis, names in known.items()}
    groups: dict[int, Axis] = {}
    taken: set[str] = set()
    for marker in markers:
        names, rows = _argnames(marker.args, marker.kwargs), _rows(marker)
        for row in rows:
            if "scenario" in row and row["scenario"] not in has["scenario"]:
                raise CatalogError(_unknown(test, suite, row["scenario"], known["scenario"]))
        axes_here = [a for a in AXES if a in names]
        twice = next((a for a in axes_here if a in taken), None)
        if twice is not None:  # pytest refuses it too, of what it parametrizes itself
            raise CatalogError(f"{test}: {twice} is parametrized twice (on the test, its class or module); remove one")
        taken.update(axes_here)
        groups[AXES.index(axes_here[0])] = _axis(marker, rows, has)
    for position, name in enumerate(AXES):
        if name not in taken:
            groups[position] = Axis(argnames=name, values=known[name], ids=known[name])
    return [groups[position] for position in sorted(groups)]


def _axis(marker: Any, rows: Sequence[Mapping[str, str]], has: Mapping[str, Collection[str]]) -> Axis:
    """The parameter sets of a ``parametrize`` marker, ``rows``, that name nothing else than what the suite ``has``."""
    chosen = [i for i, row in enumerate(rows) if all(value in has[axis] for axis, value in row.items())]
    values, ids = list(_argvalues(marker)), marker.kwargs.get("ids")
    return Axis(
        argnames=_given_argnames(marker.args, marker.kwargs),
        values=[values[i] for i in chosen],
        ids=[ids[i] for i in chosen] if isinstance(ids, list | tuple) else ids,
    )


def left_out(markers: Sequence[Any]) -> bool:
    """Whether ``markers`` name parameters: then a test that has none has been narrowed to nothing."""
    return bool(markers) and all(_rows(marker) for marker in markers)


def check_ids(tests: Iterable[tuple[str, Planned]]) -> None:
    """CatalogError for two cells whose tests have one id: pytest would run, and remember, both as if they were one."""
    first: dict[str, Planned] = {}
    for test, p in tests:
        other = first.setdefault(test, p)
        if other.cell.names != p.cell.names:
            both = " and ".join(
                "model {!r} with prompt {!r} and scenario {!r}".format(*x.cell.names) for x in (other, p)
            )
            raise CatalogError(f"{test} is the id of two tests, {both}; rename a model, a prompt or a scenario of them")


def _unknown(test: str, suite: Suite, scenario: object, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(str(scenario), known, n=1)
    hint = f"; did you mean {close[0]!r}" if close else ""
    return f"{test}: {suite.path} has no scenario {scenario!r}{hint}. Known: {', '.join(known)}"


def planned(task: Task, model: str, prompt: str, scenario: str, *, skipped: bool = False) -> Planned:
    """The cell behind a test's parameters."""
    suite = task.suite
    m = next(x for x in suite.models if x.name == model)
    p = next(x for x in suite.prompts if x.version == prompt)
    return Planned(task=task, cell=make_cell(suite, m, p, suite.by_id[scenario]), skipped=skipped)
