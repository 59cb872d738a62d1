"""What was collected, and the folder in which the processes of one session meet."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..files import replace_file
from ..generation import Progress
from ..records import MARK, Cell, Record, Suite
from ..settings import Settings
from ..tracking.recorder import Where


@dataclass(frozen=True, kw_only=True)
class Task(Record):
    """A suite as this session runs it, and the experiment that its candidates go to.

    ``tests``: the folder of a test that names it, "" where none is known.
    """

    suite: Suite
    experiment: str
    tests: str = field(default="", compare=False)


@dataclass(frozen=True, kw_only=True)
class Plan(Record):
    """What was collected: the suites, and how many cells are expected to be asked for."""

    tasks: tuple[Task, ...]
    cells: int

    def embedded(self, *, judging: bool) -> tuple[str, ...]:
        """The embedded models that generate and, where the automatic judge is asked, those that judge."""
        judges = [t.suite.judge for t in self.tasks if judging and t.suite.judge is not None]
        models = (*(m for t in self.tasks for m in t.suite.models), *judges)
        return tuple(sorted({m.model for m in models if m.embedded}))


@dataclass(frozen=True, kw_only=True)
class Planned:
    """One test's cell. ``skipped``: a mark is sure to keep the test from running."""

    task: Task
    cell: Cell
    skipped: bool = False


def merged(tasks: Iterable[Task]) -> tuple[Task, ...]:
    """One task for each suite file and experiment, with all the models and prompts that its tests name between them."""
    found: dict[tuple[str, str], Task] = {}
    for task in tasks:
        first = found.setdefault((task.suite.path, task.experiment), task)
        if first is not task:
            a, b = first.suite, task.suite
            suite = replace(
                a,
                models=tuple({m.name: m for m in (*a.models, *b.models)}.values()),
                prompts=tuple({p.version: p for p in (*a.prompts, *b.prompts)}.values()),
                skipped={**a.skipped, **b.skipped},
            )
            found[suite.path, task.experiment] = replace(first, suite=suite)
    return tuple(found.values())


class Folder:
    """What the processes of one session share on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, name: str, value: object) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        replace_file(self.path / name, json.dumps(value))

    def read(self, name: str) -> Any:
        """The value of a file; None while it is not there."""
        try:
            return json.loads((self.path / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None

    def progress(self) -> Progress:
        """All workers together."""
        total = Progress()
        for file in self.path.glob("progress-*.json"):
            value = self.read(file.name)
            total += Progress.from_json(value) if value else Progress()
        return total

    def end_progress(self, worker: int) -> None:
        """A worker has ended, however it did: nothing of it is on its way any more."""
        name = f"progress-{worker}.json"
        value = self.read(name)
        if value is not None and (last := Progress.from_json(value)) != last.at_rest():
            self.write(name, last.at_rest().to_json())

    def add_made(self, worker: int, marks: Iterable[str]) -> None:
        """Note cells that a worker has made. A line that was broken off stays by itself.

        In a thread beside tests, of which one may just put ``sys.modules`` back: so nothing is imported here, as the
        codecs of most other encodings would be.
        """
        with (self.path / f"made-{worker}.txt").open("a", encoding="utf-8") as file:
            file.write("\n" + "\n".join(marks))

    def made(self) -> set[str]:
        """The marks of the cells that any worker has made."""
        lines = (line for file in self.path.glob("made-*.txt") for line in file.read_text("utf-8").split("\n"))
        return {line for line in lines if len(line) == MARK}

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


def where(settings: Settings) -> Where:
    """The store of a session, for whoever writes to it."""
    return Where(
        session=settings.identity.session,
        uri=settings.tracking_uri,
        artifact_root=str(settings.artifact_root) if settings.artifact_root else None,
        ledger=str(settings.home / "ledger.sqlite3"),
        locks=str(settings.home / "locks"),
    )
