"""What a run waits for: the verdicts that its packets ask for."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import TrackingError
from ..leaderboard import pending_candidates
from ..packet import item_ids, set_aside
from ..records import Group, LoggedCandidate
from ..report.text import plural
from ..tracking.address import redacted
from ..tracking.entry import RUBRIC_SHA256
from ..tracking.store import TrackingStore

SCORED = "scored"
"""The folder below a run's packets that has those of its earlier exports which somebody has scored."""


def cleared(folder: Path) -> list[Path]:
    """Make the folder of a run's packets ready for an export: those of an earlier one are not this one's.

    They are deleted, but for what somebody may have scored: where that is kept now. OSError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kept = []
    for file in sorted(folder.glob("*.json")):
        aside = set_aside(file, folder / SCORED / file.name)
        if aside is None:
            file.unlink()
        else:
            kept.append(aside)
    return kept


@dataclass(frozen=True, kw_only=True)
class Exported:
    """The packets of a run: so many items, of candidates of these groups.

    ``left_out``: runs in no packet that would be waited for, or would supersede what is in one, if times alone counted.
    Mostly there are none; but where an edit was taken back, the packets go by the files, which have the older content.
    """

    packets: tuple[Path, ...]
    items: int
    groups: tuple[Group, ...]
    left_out: tuple[str, ...] = ()


def exported(store: TrackingStore, experiment: str, folder: Path) -> Exported:
    """What ``--judge-export`` has written to a folder of its own. TrackingError.

    A packet is blind to tasks, so which groups its items are of is looked up in MLflow.
    """
    packets = sorted(folder.glob("*.json"))
    items = [i["item"] for p in packets for i in json.loads(p.read_text(encoding="utf-8"))["items"]]
    wanted = set(items)
    found = store.read(experiment)
    offered = {c.run_id for c in found if not wanted.isdisjoint(item_ids(c.run_id))}
    groups = {c.group for c in found if c.run_id in offered}
    return Exported(
        packets=tuple(packets),
        items=len(items),
        groups=tuple(sorted(groups)),
        left_out=_left_out([c for c in found if c.group in groups], offered),
    )


def _left_out(candidates: Sequence[LoggedCandidate], offered: Collection[str]) -> tuple[str, ...]:
    differing = {c.run_id for c in pending_candidates(candidates)} ^ set(offered)
    places = {(c.group, c.names) for c in candidates if c.run_id in differing}
    return tuple(c.run_id for c in candidates if (c.group, c.names) in places and c.run_id not in offered)


def pending(
    store: TrackingStore, experiment: str, groups: Iterable[Sequence[str]], left_out: Collection[str] = ()
) -> int:
    """How many candidates of these groups of an experiment wait for a sit-down verdict. TrackingError.

    So it is where MLflow has not got the experiment, as on a disk that is away for a while: its packets are out, and
    nothing pending would mean that they are judged.

    Not what was generated anew from changed files since, which no packet offers any more, and not what the run's own
    packets have ``left_out``. What is judged is read too: only beside it is seen what is superseded.
    """
    if store.experiment(experiment) is None:
        raise TrackingError(f"MLflow at {redacted(store.uri)} has no experiment {experiment!r}: bring it back")
    wanted, passed_over = {tuple(g) for g in groups}, set(left_out)
    rubrics = sorted({sha for _, sha in wanted})
    found = [c for sha in rubrics for c in store.read(experiment, tags={RUBRIC_SHA256: sha})]
    return len(pending_candidates(c for c in found if c.group in wanted and c.run_id not in passed_over))


def still_pending(count: int | None) -> str:
    """What is said where the time to wait is up; None: nobody could count them."""
    if count is None:
        return "an unknown number of candidates are still pending"
    return f"{plural(count, 'candidate')} {'is' if count == 1 else 'are'} still pending"
