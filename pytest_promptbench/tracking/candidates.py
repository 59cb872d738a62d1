"""A run of MLflow's, read as the candidate that it holds."""

from __future__ import annotations

import json
import math

from ..errors import SpoiltError
from ..records import LoggedCandidate
from . import entry as names
from . import verdicts
from .spans import trace_id
from .tables import Run, Unread

UNREAD = Unread(tags=(names.RUBRIC_TEXT, "mlflow.runName", "mlflow.user", "mlflow.source.name"), metrics=names.AUTO)
"""What is nothing to whoever reads many runs: a rubric's text is up to 8,000 characters of each."""


def candidate_of(run: Run, experiment: str) -> LoggedCandidate:
    """A complete candidate. SpoiltError, naming the run, where somebody has written what no tag of ours holds."""
    try:
        return _read_run(run, experiment)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise SpoiltError(
            f"run {run.run_id} of experiment {experiment!r}: its promptbench tags cannot be read "
            f"({type(error).__name__}: {error}); mend or delete the run in MLflow"
        ) from error


def _read_run(run: Run, experiment: str) -> LoggedCandidate:
    tags, params, metrics = run.tags, run.params, run.metrics
    failed = run.status == "FAILED"
    checks = json.loads(tags[names.CHECKS]) if names.CHECKS in tags else {}
    said = verdicts.read(tags, metrics, checks)
    probability = tags.get(names.SAMPLING)
    return LoggedCandidate(
        run_id=run.run_id,
        experiment=experiment,
        task=tags.get(names.TASK, ""),
        model=params.get("model", ""),
        prompt=params.get("prompt", ""),
        scenario=params.get("scenario", ""),
        cell=tags.get(names.CELL, ""),
        candidate=tags.get(names.CANDIDATE, ""),
        rubric=tags.get(names.RUBRIC, ""),
        rubric_sha256=tags.get(names.RUBRIC_SHA256, ""),
        pending=not failed and tags.get(names.JUDGE_PENDING) == "true",
        error=tags.get(names.ERROR, "failed") if failed else None,
        verdicts=said.verdicts,
        second_verdicts=said.second,
        failed_verdicts=said.failed,
        checks=checks,
        started_at=run.start_time,
        latency_s=metrics.get("latency_s"),
        prompt_tokens=_whole(metrics.get("prompt_tokens")),
        completion_tokens=_whole(metrics.get("completion_tokens")),
        cost_usd=metrics.get("cost_usd"),
        prompt_sha256=tags.get(names.PROMPT_SHA256, ""),
        trace_id=trace_id(run.run_id),
        session=tags.get(names.SESSION, ""),
        carried_from=tags.get(names.CARRIED_FROM),
        sampling_probability=float(probability) if probability else None,
        draws=said.draws,
        audited=tags.get(names.AUDITED),
        checked=tags.get(names.CHECKED),
        context_sha256=tags.get(names.CONTEXT, ""),
    )


def _whole(value: float | None) -> int | None:
    return None if value is None or not math.isfinite(value) else int(value)
