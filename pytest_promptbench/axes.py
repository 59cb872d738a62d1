"""How a promptbench test spreads over model, prompt and scenario.

Three axes, each its own parametrization in this order, so that test ids read ``<model>-<prompt>-<scenario>``. A plain
``@pytest.mark.parametrize`` on the test that names an axis takes the place of the suite's.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
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
    """The suite file that a marker names, relative to the test's file."""
    unknown = sorted(set(kwargs) - {"experiment"})
    if unknown:
        raise CatalogError(f"{test}: the promptbench marker takes a suite file and experiment=..., not {unknown[0]!r}")
    if len(args) != 1 or not isinstance(args[0], str | Path):
        raise CatalogError(f'{test}: the promptbench marker wants one suite file, as in promptbench("tips.yaml")')
    return (file.parent / args[0]).resolve()


def no_candidate(test: str) -> CatalogError:
    return CatalogError(f"{test}: a promptbench test takes what was generated as an argument: def test_...(candidate)")


def names_an_axis(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether a ``parametrize`` marker's arguments include model, prompt or scenario."""
    return bool(set(_argnames(args, kwargs)) & set(AXES))


def _argnames(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[str, ...]:
    names = kwargs.get("argnames", args[0] if args else ())
    return tuple(n.strip() for n in names.split(",") if n.strip()) if isinstance(names, str) else tuple(names)


def arrange(suite: Suite, markers: Sequence[Any], *, test: str) -> list[Axis]:
    """One Axis for each axis of the suite, those that ``markers`` (of ``parametrize``) name replaced by theirs.

    Raises CatalogError for a value that is not one of the suite's names.
    """
    known = {
        "model": [m.name for m in suite.models],
        "prompt": [p.version for p in suite.prompts],
        "scenario": [s.id for s in suite.scenarios],
    }
    groups: dict[int, Axis] = {}
    taken: set[str] = set()
    for marker in markers:
        names = _argnames(marker.args, marker.kwargs)
        values = list(marker.kwargs.get("argvalues", marker.args[1] if len(marker.args) > 1 else ()))
        for value in values:
            plain = getattr(value, "values", None)  # pytest.param(...)
            row = tuple(plain) if plain is not None and not callable(plain) else (value,)
            row = row[0] if plain is None and len(names) > 1 else row
            for name, one in zip(names, row, strict=False):
                if name in known and one not in known[name]:
                    raise CatalogError(_unknown(test, suite, name, one, known[name]))
        axes_here = [a for a in AXES if a in names]
        taken.update(axes_here)
        ids = marker.kwargs.get("ids")
        given = marker.kwargs.get("argnames", marker.args[0] if marker.args else names)
        groups[AXES.index(axes_here[0])] = Axis(argnames=given, values=values, ids=ids)
    for position, name in enumerate(AXES):
        if name not in taken:
            groups[position] = Axis(argnames=name, values=known[name], ids=known[name])
    return [groups[position] for position in sorted(groups)]


def _unknown(test: str, suite: Suite, axis: str, value: object, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(str(value), known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"{test}: {suite.path} has no {axis} {value!r}{hint} Known: {', '.join(known)}"


def planned(task: Task, model: str, prompt: str, scenario: str) -> Planned:
    """The cell behind a test's parameters."""
    suite = task.suite
    m = next(x for x in suite.models if x.name == model)
    p = next(x for x in suite.prompts if x.version == prompt)
    s = next(x for x in suite.scenarios if x.id == scenario)
    return Planned(task=task, cell=make_cell(suite, m, p, s))
