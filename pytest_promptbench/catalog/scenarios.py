"""Scenarios, from a suite's list or from a .yaml, .jsonl or .csv file."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from ..errors import CatalogError
from ..records import Scenario, unique_keys
from .schema import ScenarioFile, ScenariosFile, hint, validate
from .yamlfile import HALF_CHARACTER, MAX_DEPTH, Located, is_file, is_folder, parse, read_text, unmerged

Placed = tuple[str, ScenarioFile]
"""A scenario, and the file and line where it begins."""


def load_scenarios(given: Sequence[ScenarioFile] | str, suite: Located) -> tuple[tuple[Scenario, ...], dict[str, str]]:
    """The scenarios of a suite, unique by id, and where each stands, by id. CatalogError names file and line."""
    if isinstance(given, str):
        located = _from_file(suite.file.parent / given, suite)
    else:
        located = [(f"{suite.file}:{suite.line(('scenarios', i))}", s) for i, s in enumerate(given)]
    seen: dict[str, str] = {}
    for place, scenario in located:
        if scenario.id in seen:
            raise CatalogError(
                f"{place}: the scenario id {scenario.id!r} stands twice, first at {seen[scenario.id]}; rename one"
            )
        seen[scenario.id] = place
    if not located:
        place = f"{suite.file}:{suite.line(('scenarios',))}"
        where = f" in {suite.file.parent / given}" if isinstance(given, str) else ""
        raise CatalogError(f"{place}: there are no scenarios{where}; a suite needs at least one")
    return tuple(Scenario(id=s.id, vars=s.vars, tags=tuple(s.tags)) for _, s in located), seen


def _from_file(file: Path, suite: Located) -> list[Placed]:
    readers = {".yaml": _yaml, ".yml": _yaml, ".jsonl": _jsonl, ".csv": _csv}
    reader = readers.get(file.suffix.lower())
    place = f"{suite.file}:{suite.line(('scenarios',))}"
    if reader is None:
        raise CatalogError(f"{place}: scenarios is {file.name!r}; expected a list, or a .yaml, .jsonl or .csv file")
    if not is_file(file):
        there = file.parent.glob("*") if is_folder(file.parent) else ()
        beside = sorted(f.name for f in there if f.suffix.lower() in readers and f != suite.file)
        raise CatalogError(
            f"{place}: scenarios names {file}, which does not exist{hint(file.name, beside)}; the path is relative to "
            "the suite"
        )
    return list(reader(file))


def _row(item: Any, file: Path, line: int) -> Placed:
    located = Located(file=file, data=item, lines={(): line}, name="the scenario")
    return f"{file}:{line}", validate(ScenarioFile, located)


# -- YAML


def _yaml(file: Path) -> Iterator[Placed]:
    """A list, bare or under the one key ``scenarios``."""
    document = parse(read_text(file), file)
    if isinstance(document.data, list):
        lines = {("scenarios", *where): line for where, line in document.lines.items()}
        document = Located(file=file, data={"scenarios": document.data}, lines=lines)
    elif not isinstance(document.data, dict) or set(document.data) != {"scenarios"}:
        raise CatalogError(f"{file}:{document.line(())}: expected a list of scenarios")
    for i, scenario in enumerate(validate(ScenariosFile, document).scenarios):
        yield f"{file}:{document.line(('scenarios', i))}", scenario


# -- JSON lines


def _jsonl(file: Path) -> Iterator[Placed]:
    """One object a line; empty lines do not count."""
    for number, line in enumerate(read_text(file).split("\n"), start=1):
        if line.strip():
            try:
                item = json.loads(line, parse_constant=_not_finite, parse_float=_finite, object_pairs_hook=unique_keys)
                _refuse_odd(item)
            except json.JSONDecodeError as error:
                raise CatalogError(
                    f"{file}:{number}: is not valid JSON: {error.msg} (column {error.colno}); "
                    "a line holds one scenario as one object"
                ) from None
            except (ValueError, RecursionError) as error:
                if "integer string conversion" in str(error):
                    error = ValueError("holds a whole number of thousands of digits; write it as a text")
                what = f"is nested too deeply; at most {MAX_DEPTH} levels are read"
                raise CatalogError(f"{file}:{number}: {what if isinstance(error, RecursionError) else error}") from None
            yield _row(item, file, number)


def _not_finite(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a finite number")


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _not_finite(text)


def _refuse_odd(value: Any, depth: int = 0) -> None:
    """What JSON can say and neither a store nor a provider takes: half characters, endless nesting."""
    if depth > MAX_DEPTH:
        raise RecursionError
    if isinstance(value, str) and (half := HALF_CHARACTER.search(value)):
        raise ValueError(f"holds {half[0]!r}, which is half a character; write the character itself")
    if isinstance(value, dict):
        for key, inner in value.items():
            _refuse_odd(key, depth + 1)
            _refuse_odd(inner, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            _refuse_odd(inner, depth + 1)


# -- CSV


def _csv(file: Path) -> Iterator[Placed]:
    """The column ``id``, optionally ``tags`` (separated by ``;`` or ``,``), every other column a var, a text.

    Empty rows do not count.
    """
    text = read_text(file)
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise CatalogError(f"{file}:{line}: holds a NUL; save it as plain text")
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))  # a cell may be as long as its file
    reader = csv.reader(io.StringIO(text), strict=True)
    columns: list[str] = []
    line = 1
    try:
        for cells in reader:
            if not any(c.strip() for c in cells):  # an empty row, which a spreadsheet saves as commas alone
                pass
            elif cells[0].startswith("<<<<<<< "):
                raise unmerged(f"{file}:{line}")
            elif not columns:
                columns = _columns(cells, f"{file}:{line}")
            else:
                yield _row(_record(columns, cells, f"{file}:{line}"), file, line)
            line = reader.line_num + 1
    except csv.Error as error:
        raise CatalogError(f"{file}:{reader.line_num}: is not valid CSV: {error}") from None
    if not columns:
        raise CatalogError(f"{file}:1: is empty; the first row names the columns: id, tags, and one for each var")


def _columns(cells: list[str], place: str) -> list[str]:
    columns = [c.strip() for c in cells]
    if "id" not in columns:
        raise CatalogError(
            f"{place}: the column 'id' is missing; there are: {', '.join(columns)} (columns are separated by commas)"
        )
    if len(set(columns)) != len(columns) or "" in columns:
        raise CatalogError(f"{place}: every column needs a name of its own; there are: {', '.join(columns)}")
    return columns


def _record(columns: list[str], cells: list[str], place: str) -> dict[str, Any]:
    if len(cells) < len(columns):
        raise CatalogError(
            f"{place}: the column {columns[len(cells)]!r} is missing in this row; "
            f"it has {len(cells)} of {len(columns)} cells"
        )
    if len(cells) > len(columns):
        raise CatalogError(f"{place}: the row has more cells than there are columns; quote commas in texts")
    row = dict(zip(columns, cells, strict=True))
    tags = [t.strip() for t in re.split("[;,]", row.pop("tags", "")) if t.strip()]
    return {"id": row.pop("id"), "tags": tags, "vars": row}
