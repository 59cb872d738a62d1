"""The files of runs."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from ..settings import TAG_LIMIT
from .entry import Logged

if TYPE_CHECKING:
    from .store import TrackingStore

RUBRIC_FILE = "rubric.md"
"""There only where the text is too long for its tag."""


def file_name(name: str) -> str:
    """A folder's name for any name: readable, and unique even where names differ only in odd characters."""
    plain = "".join(c if c.isalnum() or c in "-_." else "-" for c in name)[:80].strip(".")
    return plain if plain == name else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def as_file(value: Any) -> bytes:
    """ASCII JSON: it carries any text, lone surrogates included, and reads back the same."""
    return json.dumps(value, indent=1).encode()


def files_of(record: Logged) -> dict[str, bytes]:
    """The files of a candidate's run."""
    cell = record.candidate.cell
    files: dict[str, Any] = {
        "prompt.json": [m.to_json() for m in cell.messages],
        "context.json": cell.scenario.to_json(),
    }
    if not record.candidate.failed:
        files["candidate_outputs.json"] = list(record.candidate.outputs)
    contents = {name: as_file(value) for name, value in files.items()}
    if len(record.rubric.text) > TAG_LIMIT:
        contents[RUBRIC_FILE] = record.rubric.text.encode("utf-8", "replace")
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


class Artifacts:
    """The files of a store's runs, read and written in their folders where these are on this machine.

    MLflow keeps a folder's whole path. Of a project that was moved since, they are read below ``root``, its own, and
    written there where the old path is gone.
    """

    def __init__(self, store: TrackingStore, root: Path | None) -> None:
        self._store, self._root = store, root
        self._locations: dict[str, str] = {}

    def write(self, uri: str, files: Mapping[str, bytes]) -> None:
        """Files of the run whose artifacts go to ``uri``. MLflow's client would read the run back first, to find it."""
        local = _local_folder(uri)
        if local is not None:
            if self._root is not None and _is_gone(local, like=self._root):
                local = _below(self._root, local)
            write_files(str(local), files)
            return
        with tempfile.TemporaryDirectory(prefix="promptbench-") as folder:
            write_files(folder, files)
            self._repository(uri).log_artifacts(folder)

    def keep(self, experiment: str, run_id: str, files: Mapping[str, bytes]) -> None:
        """Files of a run of this experiment."""
        self.write(self._folder(experiment, run_id), files)

    def text(self, experiment: str, run_id: str, name: str) -> str:
        folder = self._folder(experiment, run_id)
        local = self._local(folder)
        if local is not None:
            return (local / name).read_text(encoding="utf-8")
        with tempfile.TemporaryDirectory(prefix="promptbench-") as kept:
            # What every kind of artifact store has to have. MLflow's load_text asks first whether it is a folder.
            self._repository(folder)._download_file(name, f"{kept}/{name}")
            return Path(kept, name).read_text(encoding="utf-8")

    def _repository(self, folder: str) -> Any:
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        return get_artifact_repository(folder, tracking_uri=self._store.uri)

    def has(self, experiment: str, run_id: str, name: str) -> bool:
        local = self._local(self._folder(experiment, run_id))
        if local is not None:
            return (local / name).exists()
        return any(a.path == name for a in self._store.client.list_artifacts(run_id))

    def _local(self, folder: str) -> Path | None:
        """Where the files of a run are that are kept on this machine; None where they are elsewhere."""
        kept = _local_folder(folder)
        if kept is None or self._root is None or kept.exists():
            return kept
        moved = _below(self._root, kept)
        return moved if moved.exists() else kept

    def _folder(self, experiment: str, run_id: str) -> str:
        if experiment not in self._locations:
            found = self._store.client.get_experiment(self._store.experiment(experiment))
            self._locations[experiment] = str(found.artifact_location)
        return f"{self._locations[experiment].rstrip('/')}/{run_id}/artifacts"


def _below(root: Path, folder: Path) -> Path:
    """The same run's folder below another root: ROOT/experiment/run/artifacts."""
    return root.joinpath(*folder.parts[-3:])


def _is_gone(folder: Path, *, like: Path) -> bool:
    """Whether the root of a run's folder was a project's own, called as ``like``, and is there no more."""
    return len(folder.parts) > 3 and (root := folder.parents[2]).name == like.name and not root.exists()


def _local_folder(uri: str) -> Path | None:
    """The folder of an artifact address on this machine; None of any other."""
    return Path(unquote(urlsplit(uri).path)) if uri.startswith("file:") else None
