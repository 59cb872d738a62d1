"""What goes out: JSON that carries any text, ETags, and what is held as the shapes of ``models``."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any, cast

from fastapi import Request, Response

from ..clock import iso_utc
from ..errors import PromptbenchError
from ..experiments import Experiments, Group, Summary
from ..records import LoggedCandidate, Rubric, Tier
from ..scores import verdict_composite
from . import models


def json_answer(value: object, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(_encoded(value), status_code=status, media_type="application/json", headers=headers)


def _encoded(value: object) -> bytes:
    """ASCII JSON, which carries lone surrogates too; what is not a finite number is null."""
    return json.dumps(_finite(value), allow_nan=False).encode("ascii")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    return [_finite(v) for v in value] if isinstance(value, list | tuple) else value


def reply(request: Request, value: object) -> Response:
    """200 with an ETag, or 304 where the client has this very answer."""
    body = _encoded(value)
    tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    headers = {"ETag": tag, "Cache-Control": "private, no-cache"}
    known = [t.strip().removeprefix("W/") for t in request.headers.get("if-none-match", "").split(",")]
    if tag in known or "*" in known:
        return Response(status_code=304, headers=headers)
    return Response(body, media_type="application/json", headers=headers)


def judge_kind_of(candidate: LoggedCandidate) -> str | None:
    """The tag ``judge_kind``: the tier of the verdict that counts, of an automatic judge its model's name."""
    verdict = candidate.verdict()
    if verdict is None:
        return None
    return verdict.judge.name if verdict.judge.tier is Tier.AUTO else verdict.judge.tier.value


def summary_shape(found: Summary) -> models.ExperimentSummary:
    tasks = [
        models.TaskSummary(task=t.task, rubric=t.rubric, rubric_sha256=t.rubric_sha256, **t.counts) for t in found.tasks
    ]
    return models.ExperimentSummary(name=found.name, tasks=tasks, problem=found.problem, **found.counts)


def rubric_of(experiments: Experiments, group: Group) -> Rubric | None:
    try:
        return experiments.rubric(group)
    except PromptbenchError:
        return None  # then there are no composites; the leaderboard says why


def candidate_shape(c: LoggedCandidate, rubric: Rubric | None, *, pending: bool) -> models.CandidateShape:
    verdicts = [
        models.VerdictShape(
            tier=cast("Any", v.judge.tier.value),
            judged_by=v.judge.name,
            judged_at=v.at,
            scores=dict(v.scores),
            composite=verdict_composite(v, c, rubric) if rubric is not None else None,
            rationale=v.rationale,
        )
        for v in c.verdicts
    ]
    same = [
        *("run_id", "task", "model", "prompt", "scenario", "rubric", "rubric_sha256", "error", "latency_s"),
        *("prompt_tokens", "completion_tokens", "cost_usd", "carried_from"),
    ]
    # Unchecked: the values are of the right types, and a text may hold a lone surrogate, which pydantic refuses.
    return models.CandidateShape.model_construct(
        **{name: getattr(c, name) for name in same},
        judge_pending=pending,
        judge_kind=judge_kind_of(c),
        checks=dict(c.checks),
        verdicts=verdicts,
        started_at=iso_utc(c.started_at / 1000),
        outputs=list(c.outputs) if c.outputs is not None else None,
        context=dict(c.context) if c.context is not None else None,
    )
