"""The files of a run."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

from ..settings import TAG_LIMIT
from .entry import Logged


def file_name(name: str) -> str:
    """A folder's name for any name: readable, and unique even where names differ only in odd characters."""
    plain = "".join(c if c.isalnum() or c in "-_." else "-" for c in name)[:80].strip(".")
    return plain if plain == name else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def files_of(record: Logged) -> dict[str, bytes]:
    """The files of a run. ASCII JSON: it carries any text, lone surrogates included, and reads back the same."""
    cell = record.candidate.cell
    files: dict[str, Any] = {
        "prompt.json": [m.to_json() for m in cell.messages],
        "context.json": cell.scenario.to_json(),
    }
    if not record.candidate.failed:
        files["candidate_outputs.json"] = list(record.candidate.outputs)
    contents = {name: json.dumps(value, indent=1).encode() for name, value in files.items()}
    if len(record.rubric.text) > TAG_LIMIT:
        contents["rubric.md"] = record.rubric.text.encode("utf-8", "replace")
    return contents


def write_files(folder: str, files: Mapping[str, bytes]) -> None:
    """Plain system calls, three a file: pathlib and text files take eight, and there are thousands of files."""
    os.makedirs(folder, exist_ok=True)  # noqa: PTH103
    for name, content in files.items():
        file = os.open(f"{folder}/{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        try:
            left = memoryview(content)
            while left:
                left = left[os.write(file, left) :]
        finally:
            os.close(file)
