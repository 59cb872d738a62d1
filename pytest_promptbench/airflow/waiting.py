"""What a run waits for: the verdicts that its packets ask for."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..packet import item_ids
from ..records import Group, LoggedCandidate
from ..tracking.entry import JUDGE_PENDING
from ..tracking.store import TrackingStore


@dataclass(frozen=True, kw_only=True)
class Exported:
    """The packets of a run: so many items, of candidates of these groups."""

    packets: tuple[Path, ...]
    items: int
    groups: tuple[Group, ...]


def exported(store: TrackingStore, experiment: str, folder: Path) -> Exported:
    """What ``--judge-export`` has written to a folder of its own. TrackingError.

    A packet is blind to tasks, so which groups its items are of is looked up in MLflow.
    """
    packets = sorted(folder.glob("*.json"))
    items = [i["item"] for p in packets for i in json.loads(p.read_text(encoding="utf-8"))["items"]]
    wanted = set(items)
    groups = {c.group for c in _pending(store, experiment) if not wanted.isdisjoint(item_ids(c.run_id))}
    return Exported(packets=tuple(packets), items=len(items), groups=tuple(sorted(groups)))


def pending(store: TrackingStore, experiment: str, groups: Iterable[Sequence[str]]) -> int:
    """How many candidates of these groups of an experiment wait for a sit-down verdict. TrackingError."""
    wanted = {tuple(g) for g in groups}
    return sum(c.group in wanted for c in _pending(store, experiment))


def _pending(store: TrackingStore, experiment: str) -> list[LoggedCandidate]:
    found = store.read(experiment, tags={JUDGE_PENDING: "true"})
    return [c for c in found if c.pending]
