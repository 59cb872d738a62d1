"""Candidates -> a packet that tells a judge nothing but what is to be judged."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from ..checks import filled_scores
from ..records import LoggedCandidate, Rubric, Score, Tier, sha256
from .document import PACKET_SCHEMA


def item_id(run_id: str, *, duplicate: bool = False) -> str:
    """The opaque id under which a run stands in a packet: the same on every machine, no way back without the run."""
    return sha256(["promptbench-item", *(["duplicate"] if duplicate else []), run_id])[:20]


def item_ids(run_id: str) -> tuple[str, str]:
    """Both ids under which a run may stand in a packet: its own, and that of its duplicate."""
    return item_id(run_id), item_id(run_id, duplicate=True)


def build_packet(
    candidates: Sequence[LoggedCandidate],
    rubric: Rubric,
    *,
    experiment: str,
    judge_kind: Tier = Tier.CLAUDE_CODE,
    seed: int,
    reveal: bool = False,
    duplicates: int = 0,
    audit: str | None = None,
) -> dict[str, Any]:
    """A packet of these candidates for a judge of this kind, read with their texts; failed ones are left out.

    ``duplicates``: so many of them, drawn at random, stand there a second time under another id, which shows how well
    a judge agrees with itself. Order and draw depend on ``seed`` alone, not on the order of ``candidates``. ``reveal``
    adds model, prompt, scenario and run id to every item. ``audit``: the id of the audit that drew these candidates,
    which the packet then carries. ValueError for candidates without texts or of another rubric.
    """
    exported = sorted({c.run_id: c for c in candidates if c.error is None}.values(), key=lambda c: item_id(c.run_id))
    for c in exported:
        if c.outputs is None or c.context is None:
            raise ValueError(f"run {c.run_id} was read without its texts")
        if c.rubric_sha256 != rubric.sha256:
            raise ValueError(f"run {c.run_id} belongs to another text of rubric {c.rubric}; a packet is for one rubric")
    draw = random.Random(seed)
    twins = draw.sample(exported, min(duplicates, len(exported)))
    items = [_item(c, rubric, reveal=reveal) for c in exported]
    items += [_item(c, rubric, reveal=reveal, duplicate=True) for c in twins]
    draw.shuffle(items)
    return {
        "schema": PACKET_SCHEMA,
        "experiment": experiment,
        "judge_kind": judge_kind.value,
        **({} if audit is None else {"audit": audit}),
        "rubric": {
            "id": rubric.id,
            "sha256": rubric.sha256,
            "text": rubric.text,
            "criteria": [c.to_json() for c in rubric.criteria],
        },
        "items": items,
    }


def _item(candidate: LoggedCandidate, rubric: Rubric, *, reveal: bool, duplicate: bool = False) -> dict[str, Any]:
    item: dict[str, Any] = {
        "item": item_id(candidate.run_id, duplicate=duplicate),
        "context": dict(candidate.context or {}),
        "candidates": [
            {"output": text, "scores": _open_scores(rubric, text, candidate), "rationale": None}
            for text in candidate.outputs or ()
        ],
    }
    if reveal:
        item |= {
            "model": candidate.model,
            "prompt": candidate.prompt,
            "scenario": candidate.scenario,
            "run_id": candidate.run_id,
        }
    return item


def _open_scores(rubric: Rubric, text: str, candidate: LoggedCandidate) -> dict[str, Score]:
    """Null where a judge is to fill in a score; what a program checks is filled already."""
    filled = filled_scores(rubric, text, candidate.context, candidate.checks)
    several = len(candidate.outputs or ()) > 1  # of which a scorer's mean is known, and is no score of this one
    return {c.name: filled.get(c.name) for c in rubric.criteria if not (several and c.scorer is not None)}
