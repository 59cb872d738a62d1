"""Scenarios, from a suite's list or from a .yaml, .jsonl or .csv file."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from ..errors import CatalogError
from ..records import Scenario
from .schema import ScenarioFile, validate
from .yamlfile import Located, parse, read_text


def load_scenarios(given: list[ScenarioFile] | str, suite: Located) -> tuple[Scenario, ...]:
    """The scenarios of a suite, unique by id. CatalogError names file and line."""
    if isinstance(given, str):
        located = _from_file(suite.file.parent / given, suite)
    else:
        located = [(f"{suite.file}:{suite.line(('scenarios', i))}", s) for i, s in enumerate(given)]
    seen: dict[str, str] = {}
    for place, scenario in located:
        if scenario.id in seen:
            raise CatalogError(f"{place}: the scenario id {scenario.id!r} stands twice, first at {seen[scenario.id]}")
        seen[scenario.id] = place
    if not located:
        place = f"{suite.file}:{suite.line(('scenarios',))}"
        raise CatalogError(f"{place}: there are no scenarios; a suite needs at least one")
    return tuple(Scenario(id=s.id, vars=s.vars, tags=tuple(s.tags)) for _, s in located)


def _from_file(file: Path, suite: Located) -> list[tuple[str, ScenarioFile]]:
    readers = {".yaml": _yaml, ".yml": _yaml, ".jsonl": _jsonl, ".csv": _csv}
    reader = readers.get(file.suffix.lower())
    place = f"{suite.file}:{suite.line(('scenarios',))}"
    if reader is None:
        raise CatalogError(f"{place}: scenarios is {file.name!r}; expected a list, or a .yaml, .jsonl or .csv file")
    if not file.is_file():
        raise CatalogError(f"{place}: scenarios names {file}, which does not exist")
    return reader(file)


def _yaml(file: Path) -> list[tuple[str, ScenarioFile]]:
    document = parse(read_text(file), file)
    if isinstance(document.data, dict) and set(document.data) == {"scenarios"}:
        lines = {k[1:]: v for k, v in document.lines.items() if k[:1] == ("scenarios",)}
        document = Located(file=file, data=document.data["scenarios"], lines=lines)
    if not isinstance(document.data, list):
        raise CatalogError(f"{file}:1: expected a list of scenarios")
    return [
        (f"{file}:{document.line((i,))}", _one(item, file, document.line((i,)), _below(document, i)))
        for i, item in enumerate(document.data)
    ]


def _below(document: Located, index: int) -> dict[Any, int]:
    return {k[1:]: v for k, v in document.lines.items() if k[:1] == (index,)}


def _jsonl(file: Path) -> list[tuple[str, ScenarioFile]]:
    rows = []
    for number, line in enumerate(read_text(file).split("\n"), start=1):
        if line.strip():
            try:
                item = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise CatalogError(f"{file}:{number}: is not valid JSON: {error}") from None
            rows.append((f"{file}:{number}", _one(item, file, number)))
    return rows


def _one(item: Any, file: Path, line: int, lines: dict[Any, int] | None = None) -> ScenarioFile:
    return validate(ScenarioFile, Located(file=file, data=item, lines={(): line, **(lines or {})}))


def _csv(file: Path) -> list[tuple[str, ScenarioFile]]:
    """The column ``id``, optionally ``tags`` (separated by ``;``), every other column a var."""
    reader = csv.DictReader(io.StringIO(read_text(file)), strict=True)
    try:
        columns = [c.strip() for c in reader.fieldnames or ()]
        if "id" not in columns:
            raise CatalogError(f"{file}:1: the column 'id' is missing; there are: {', '.join(columns) or 'none'}")
        if len(set(columns)) != len(columns) or "" in columns:
            raise CatalogError(f"{file}:1: every column needs a name of its own; there are: {', '.join(columns)}")
        reader.fieldnames = columns
        rows = []
        for row in reader:
            line = reader.line_num
            missing = [c for c in columns if row.get(c) is None]
            if missing:
                raise CatalogError(f"{file}:{line}: the column {missing[0]!r} is missing in this row")
            if None in row:
                raise CatalogError(
                    f"{file}:{line}: the row has more cells than there are columns; quote commas in texts"
                )
            tags = [t.strip() for t in (row.get("tags") or "").split(";") if t.strip()]
            item = {"id": row["id"], "tags": tags, "vars": {c: row[c] for c in columns if c not in ("id", "tags")}}
            rows.append((f"{file}:{line}", _one(item, file, line)))
    except csv.Error as error:
        raise CatalogError(f"{file}:{reader.line_num}: is not valid CSV: {error}") from None
    return rows
