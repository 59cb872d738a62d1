"""Verdicts as MLflow holds them: one tag a judge and metrics on the run, feedback on its trace."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple

from ..clock import iso_utc
from ..records import Draw, Fingerprint, Judge, LoggedCandidate, Rubric, Score, Tier, Verdict, composite, sha256
from ..settings import TAG_LIMIT
from . import entry as names
from .entry import storable
from .tables import Run

INVALID_REPLY = "INVALID_REPLY"
BY_CHECKS = Judge(tier=Tier.AUTO, name="checks")
"""Who scores under a rubric that programs fill alone."""
_NOT_SCORES = {"latency_s", "prompt_tokens", "completion_tokens", "cost_usd", "composite"}


# -- what a verdict changes


def changes(
    known: Iterable[Verdict], verdict: Verdict, rubric: Rubric, *, second: bool = False
) -> tuple[dict[str, str], dict[str, Score]]:
    """The tags and metrics that a verdict sets of a run whose candidate has the verdicts ``known``."""
    if second:
        return {names.SECOND_VERDICT + _judge_key(verdict.judge): _as_text(verdict)}, {}
    tier = verdict.judge.tier
    tags = {names.VERDICT + _judge_key(verdict.judge): _as_text(verdict)}
    about = {names.JUDGED_BY: verdict.judge.name, names.JUDGED_AT: verdict.at}
    others = [v for v in known if v.judge != verdict.judge and v.judge.tier is not Tier.AUTO]
    if tier is Tier.AUTO:
        if not others:
            tags |= {names.JUDGE_KIND: verdict.judge.name, **about}
        metrics = {names.AUTO + name: score for name, score in verdict.scores.items()}
        return tags, metrics | {names.AUTO + "composite": composite(verdict.scores, rubric)}
    if any(v.judge.tier.rank < tier.rank for v in others):
        return tags, {}
    tags |= {names.JUDGE_PENDING: "false", names.JUDGE_KIND: tier.value, **about}
    return tags, {**verdict.scores, "composite": composite(verdict.scores, rubric)}


def of_checks(
    checks: Mapping[str, Score], rubric: Rubric, *, rationale: str | None, at: str
) -> tuple[dict[str, str], dict[str, Score]]:
    """Likewise, where programs have filled all of a rubric: an automatic verdict, and nothing left for a judge."""
    about = Fingerprint(model=BY_CHECKS.name, params={}, rubric_sha256=rubric.sha256, prompt_sha256="")
    verdict = Verdict(scores=checks, judge=BY_CHECKS, rationale=rationale, at=at, fingerprint=about)
    tags, metrics = changes((), verdict, rubric)
    return tags | {names.JUDGE_PENDING: "false"}, metrics


def in_order(candidate: LoggedCandidate, verdict: Verdict) -> Verdict:
    """The verdict, later than those that it follows: the latest counts, and a clock may have been set back.

    Or that of the machine that wrote the one before is ahead of this one's.
    """
    given = milliseconds(verdict.at)
    known = [at for v in candidate.verdicts if v != verdict and (at := milliseconds(v.at)) is not None]
    if given is None or not known or given > max(known):
        return verdict
    return dataclasses.replace(verdict, at=iso_utc((max(known) + 1) / 1000))


def with_verdict(candidate: LoggedCandidate, verdict: Verdict, *, second: bool = False) -> LoggedCandidate:
    """The candidate as it reads once the verdict is recorded."""
    if second:
        others = [v for v in candidate.second_verdicts if v.judge != verdict.judge]
        return dataclasses.replace(candidate, second_verdicts=(*others, verdict))
    return dataclasses.replace(
        candidate,
        verdicts=(*(v for v in candidate.verdicts if v.judge != verdict.judge), verdict),
        failed_verdicts={k: v for k, v in candidate.failed_verdicts.items() if k != verdict.judge.name},
        pending=candidate.pending and verdict.judge.tier is Tier.AUTO,
    )


class Ruling(NamedTuple):
    """A verdict on a candidate as it was read, with the rubric. ``second``: its judge saw the candidate once more."""

    candidate: LoggedCandidate
    verdict: Verdict
    rubric: Rubric
    second: bool = False


def sit_down(candidate: LoggedCandidate) -> set[tuple[Judge, str]]:
    """Which sit-down verdicts a candidate has, by judge and moment."""
    return {(v.judge, v.at) for v in candidate.verdicts if v.judge.tier is not Tier.AUTO}


def failed_tag(judge: Judge) -> str:
    return names.FAILED_VERDICT + _judge_key(judge)


def standing(kind: str | None, at: str | None) -> tuple[int, str]:
    """How a sit-down verdict stands among others on the same text: the latest of the highest tier is the highest."""
    return -(Tier(kind).rank if kind in (Tier.HUMAN, Tier.CLAUDE_CODE) else Tier.AUTO.rank), at or ""


def carried_tags(run: Run) -> dict[str, str]:
    """The tags by which a run takes over the sit-down verdicts of ``run``, whose text and rubric are the same.

    How an audit came to label it goes with them: the same label stands for as many candidates as before.
    """
    tags = run.tags
    kept = {k: v for k, v in tags.items() if k.startswith(names.VERDICT) and not k.startswith(names.VERDICT + "auto")}
    about = (names.JUDGE_KIND, names.JUDGED_BY, names.JUDGED_AT, names.SAMPLING, names.AUDITED, names.CHECKED)
    kept |= {k: v for k, v in tags.items() if k in about or k.startswith(names.AUDIT)}
    return kept | {names.JUDGE_PENDING: "false", names.CARRIED_FROM: tags.get(names.CARRIED_FROM, run.run_id)}


def carried(run: Run) -> tuple[Verdict, ...]:
    """The sit-down verdicts of ``run``."""
    found = read(run.tags, run.metrics, {}).verdicts
    return tuple(v for v in found if v.judge.tier is not Tier.AUTO)


def _judge_key(judge: Judge) -> str:
    plain = "".join(c if c.isalnum() or c in "-_." else "-" for c in judge.name)[:60]
    if plain != judge.name:
        plain += "-" + hashlib.sha256(judge.name.encode("utf-8", "replace")).hexdigest()[:8]
    return f"{judge.tier}.{plain}"


def _as_text(verdict: Verdict) -> str:
    """A verdict as a tag's value. A long rationale is cut so that the scores always fit."""
    value: dict[str, Any] = {"judge": verdict.judge.name, "at": verdict.at, "scores": dict(verdict.scores)}
    if verdict.fingerprint is not None:
        value["fingerprint"] = verdict.fingerprint.to_json()
    text = json.dumps(value | {"rationale": verdict.rationale})
    if len(text) > TAG_LIMIT:
        room = max(0, TAG_LIMIT - len(json.dumps(value)) - 100) // 6  # an escaped character takes up to six
        text = json.dumps(value | {"rationale": (verdict.rationale or "")[:room] + "…"})
    return text


# -- feedback on the trace


def feedback(verdict: Verdict, rubric: Rubric, *, run_id: str, before: Verdict | None = None) -> list[Any]:
    """A verdict as MLflow feedback, one a criterion and one for the composite.

    ``before`` is what the same judge said before. The ids depend on run, judge and content alone, so that recording a
    verdict again, after a crash in between, makes no second feedback.
    """
    from mlflow.entities import Feedback

    values = {**verdict.scores, "composite": composite(verdict.scores, rubric)}
    metadata = _metadata(verdict.judge, rubric, verdict.fingerprint)
    created = milliseconds(verdict.at)
    found = []
    for name, value in values.items():
        if value is not None:
            one = Feedback(
                name=name,
                value=value,
                source=_source(verdict.judge),
                rationale=storable(verdict.rationale) if verdict.rationale else None,
                metadata=metadata,
                create_time_ms=created,
                last_update_time_ms=created,
            )
            said = [run_id, verdict.judge.to_json(), name, value, verdict.rationale, metadata]
            one.assessment_id = _assessment_id([*said, before.at if before else ""])
            found.append(one)
    return found


def milliseconds(at: str) -> int | None:
    """Since the epoch, of ISO 8601, which without a zone is in UTC; None for what another program wrote otherwise."""
    try:
        moment = datetime.fromisoformat(at)
    except ValueError:
        return None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


def failed_feedback(judge: Judge, problem: str, rubric: Rubric, *, run_id: str) -> list[Any]:
    """That an automatic judge gave no valid verdict, as MLflow shows an error of a judge."""
    from mlflow.entities import AssessmentError, Feedback

    one = Feedback(
        name="composite",
        error=AssessmentError(error_code=INVALID_REPLY, error_message=storable(problem)),
        source=_source(judge),
        metadata=_metadata(judge, rubric, None),
    )
    one.assessment_id = _assessment_id([run_id, judge.to_json(), problem])
    return [one]


def _source(judge: Judge) -> Any:
    from mlflow.entities import AssessmentSource

    kind = "HUMAN" if judge.tier is Tier.HUMAN else "LLM_JUDGE"
    return AssessmentSource(source_type=kind, source_id=storable(judge.name))


def _metadata(judge: Judge, rubric: Rubric, fingerprint: Fingerprint | None) -> dict[str, str]:
    about = {"tier": judge.tier.value, "rubric": rubric.id, "rubric_sha256": rubric.sha256}
    if fingerprint is not None:
        about |= {
            "judge_model": fingerprint.model,
            "judge_params": json.dumps(dict(fingerprint.params), sort_keys=True),
            "judge_prompt_sha256": fingerprint.prompt_sha256,
            "judge_fingerprint": fingerprint.sha256,
        }
    return {f"promptbench.{name}": storable(value) for name, value in about.items()}


def _assessment_id(content: list[Any]) -> str:
    return "a-" + sha256(["promptbench-feedback", *content])[:32]


# -- reading


class Said(NamedTuple):
    """What a run's tags hold of judges and audits.

    ``verdicts``: the latest of every judge; ``second``: of those who saw the candidate twice; ``failed``: judge ->
    what was wrong with its reply; ``draws``: audit -> how it came to draw the candidate.
    """

    verdicts: tuple[Verdict, ...]
    second: tuple[Verdict, ...]
    failed: Mapping[str, str]
    draws: Mapping[str, Draw]


def read(tags: Mapping[str, str], metrics: Mapping[str, float], checks: Mapping[str, Any]) -> Said:
    """Everything at once: a leaderboard reads 100,000 runs."""
    found: list[Verdict] = []
    second: list[Verdict] = []
    failed, draws = {}, {}
    for key, text in tags.items():
        if not key.startswith(names.MANY):
            continue
        value = json.loads(text)
        if key.startswith(names.VERDICT):
            found.append(_verdict(key[len(names.VERDICT) :], value))
        elif key.startswith(names.SECOND_VERDICT):
            second.append(_verdict(key[len(names.SECOND_VERDICT) :], value))
        elif key.startswith(names.FAILED_VERDICT):
            failed[value["judge"]] = value["problem"]
        else:
            draws[key[len(names.AUDIT) :]] = Draw.from_json(value)
    kind = tags.get(names.JUDGE_KIND)
    pending = tags.get(names.JUDGE_PENDING) == "true"  # then the kind is an automatic judge's name, whatever it is
    if kind in (Tier.HUMAN, Tier.CLAUDE_CODE) and not pending and all(v.judge.tier != kind for v in found):
        # Written by another program that keeps to the public names; a packet may have brought a lower tier's since.
        scores = {k: v for k, v in metrics.items() if k not in _NOT_SCORES and not k.startswith(names.AUTO)}
        judge = Judge(tier=Tier(kind), name=tags.get(names.JUDGED_BY, kind))
        found.append(Verdict(scores={**scores, **checks}, judge=judge, at=tags.get(names.JUDGED_AT, "")))
    return Said(tuple(found), tuple(second), failed, draws)


@lru_cache(maxsize=1024)
def _judge(tier: str, name: str) -> Judge:
    return Judge(tier=Tier(tier), name=name)


def _verdict(judge_key: str, value: Mapping[str, Any]) -> Verdict:
    """A verdict of a judge whose key begins with its tier."""
    given, scores = value.get("fingerprint"), value["scores"]
    for name, score in scores.items():
        if score is not None and not isinstance(score, (int, float)):
            raise TypeError(f"the score {name} is {score!r:.80}, expected a number, true, false or null")
    return Verdict(
        scores=scores,
        judge=_judge(judge_key.partition(".")[0], value["judge"]),
        rationale=value.get("rationale"),
        at=value["at"],
        fingerprint=Fingerprint.from_json(given) if given else None,
    )
