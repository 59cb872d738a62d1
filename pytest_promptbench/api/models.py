"""The shapes of the API's JSON, as OpenAPI shows them. ``RunRequest`` is closed: an unknown key is an error.

Its fields are made from the parameters of the DAG, so that what passes here is what Airflow takes, and both have one
description.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

from ..airflow.request import PARAMS

MAX_LIMIT = 500


class _Shape(BaseModel):
    model_config = ConfigDict(json_schema_serialization_defaults_required=True)


class Problem(_Shape):
    """RFC 9457."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    errors: list[FieldError] | None = Field(default=None, description="of a body or query that fits no schema")

    model_config = ConfigDict(
        json_schema_serialization_defaults_required=False,
        extra="allow",
        json_schema_extra={
            "examples": [
                {
                    "type": "about:blank",
                    "title": "Not Found",
                    "status": 404,
                    "detail": "MLflow has no experiment nightly; there are: tip-bench-2026-11-23",
                }
            ]
        },
    )


class FieldError(_Shape):
    where: str
    problem: str


class Health(_Shape):
    status: Literal["ok"] = "ok"
    mlflow: bool
    airflow: bool | None = Field(description="null where none is configured")
    version: str

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"status": "ok", "mlflow": True, "airflow": None, "version": "0.1.0"}]}
    )


class Counts(_Shape):
    candidates: int
    judged: int = Field(description="candidates with a verdict of a person or of Claude Code")
    pending: int = Field(description="candidates that wait for a judge; not what an edited prompt or model superseded")
    failed: int


class TaskSummary(Counts):
    task: str
    rubric: str
    rubric_sha256: str = Field(description="of the newest text of the rubric")


class ExperimentSummary(Counts):
    name: str
    tasks: list[TaskSummary]
    problem: str | None = Field(description="why nothing of it can be told, as where somebody spoilt a run's tags")


class ExperimentPage(_Shape):
    experiments: list[ExperimentSummary]
    total: int
    next_offset: int | None = Field(description="offset of the next page; null on the last")

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "experiments": [
                        {
                            "name": "tip-bench-2026-11-23",
                            "candidates": 12,
                            "judged": 10,
                            "pending": 2,
                            "failed": 0,
                            "tasks": [
                                {
                                    "task": "tip",
                                    "rubric": "tip-v1",
                                    "rubric_sha256": "9f2c",
                                    "candidates": 12,
                                    "judged": 10,
                                    "pending": 2,
                                    "failed": 0,
                                }
                            ],
                            "problem": None,
                        }
                    ],
                    "total": 1,
                    "next_offset": None,
                }
            ]
        }
    )


Score = float | bool | None


class VerdictShape(_Shape):
    tier: Literal["human", "claude-code", "auto"]
    judged_by: str
    judged_at: str
    scores: dict[str, Score]
    composite: float | None
    rationale: str | None


class CandidateShape(_Shape):
    run_id: str
    task: str
    model: str
    prompt: str
    scenario: str
    rubric: str
    rubric_sha256: str
    judge_pending: bool = Field(description="it waits for a judge; not what an edited prompt or model superseded")
    judge_kind: str | None = Field(
        description="of the verdict that counts: claude-code, human, the judge model, or checks"
    )
    error: str | None
    checks: dict[str, bool | float]
    verdicts: list[VerdictShape]
    started_at: str
    latency_s: float | None
    prompt_tokens: int | None
    completion_tokens: int | None
    cost_usd: float | None
    carried_from: str | None
    outputs: list[str] | None = Field(description="null unless asked for with texts=true")
    context: dict[str, Any] | None = Field(description="the scenario's vars; null unless asked for with texts=true")


class RunsPage(_Shape):
    experiment: str
    runs: list[CandidateShape]
    matching: int = Field(description="candidates that the filters let pass, on all pages")
    next_cursor: str | None = Field(description="cursor of the next page; null on the last")

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "experiment": "tip-bench-2026-11-23",
                    "runs": [
                        {
                            "run_id": "0f3b9a5c7d1e4f2a8b6c0d9e1f2a3b4c",
                            "task": "tip",
                            "model": "haiku",
                            "prompt": "v3-few-shot",
                            "scenario": "bad-sleep",
                            "rubric": "tip-v1",
                            "rubric_sha256": "9f2c",
                            "judge_pending": False,
                            "judge_kind": "human",
                            "error": None,
                            "checks": {"overlong": False},
                            "verdicts": [
                                {
                                    "tier": "human",
                                    "judged_by": "Ada",
                                    "judged_at": "2026-11-23T14:00:00.000Z",
                                    "scores": {"relevance": 4.0, "format_ok": True, "overlong": False},
                                    "composite": 12.0,
                                    "rationale": None,
                                }
                            ],
                            "started_at": "2026-11-23T12:00:07.000Z",
                            "latency_s": 1.9,
                            "prompt_tokens": 61,
                            "completion_tokens": 38,
                            "cost_usd": 0.0006,
                            "carried_from": None,
                            "outputs": ["Take a walk at noon."],
                            "context": {"situation": "Slept 4 hours, long day ahead"},
                        }
                    ],
                    "matching": 1,
                    "next_cursor": None,
                }
            ]
        }
    )


class LeaderboardRow(_Shape):
    """One (model, prompt). Each criterion of the rubric is a further key, with its mean."""

    rank: int | None
    model: str
    prompt: str
    composite: float | None
    ci95: list[float] | None
    tier: str | None
    candidates: int
    judged: int
    pending: int
    failed: int
    auto_composite: float | None
    cost_usd: float | None
    latency_s: float | None

    model_config = ConfigDict(extra="allow")


class LeaderboardShape(_Shape):
    schema_: Literal["promptbench/leaderboard/1"] = Field(alias="schema")
    experiment: str
    task: str
    rubric: str
    rubric_sha256: str
    rows: list[LeaderboardRow]

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "schema": "promptbench/leaderboard/1",
                    "experiment": "tip-bench-2026-11-23",
                    "task": "tip",
                    "rubric": "tip-v1",
                    "rubric_sha256": "9f2c",
                    "rows": [
                        {
                            "rank": 1,
                            "model": "haiku",
                            "prompt": "v3-few-shot",
                            "composite": 12.75,
                            "ci95": [12.1, 13.3],
                            "tier": "claude-code",
                            "candidates": 20,
                            "judged": 20,
                            "pending": 0,
                            "failed": 0,
                            "relevance": 4.4,
                            "auto_composite": 12.9,
                            "cost_usd": 0.012,
                            "latency_s": 1.9,
                        }
                    ],
                }
            ]
        }
    )


class AgreementShape(_Shape):
    """One entry of ``pairs`` for every two judges: kappa, alpha and their intervals by criterion."""

    schema_: Literal["promptbench/agreement/1"] = Field(alias="schema")
    experiment: str
    task: str
    rubric: str
    rubric_sha256: str
    pairs: list[dict[str, Any]]

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "schema": "promptbench/agreement/1",
                    "experiment": "tip-bench-2026-11-23",
                    "task": "tip",
                    "rubric": "tip-v1",
                    "rubric_sha256": "9f2c",
                    "pairs": [
                        {
                            "kind": "tiers",
                            "a": "human",
                            "b": "auto",
                            "candidates": 20,
                            "scenarios": 10,
                            "level": 0.95,
                            "weighted": True,
                            "scales": [
                                {
                                    "criterion": "relevance",
                                    "n": 20,
                                    "scenarios": 10,
                                    "rounded": 0,
                                    "kappa": {"value": 0.71, "ci": [0.48, 0.86], "reason": None},
                                }
                            ],
                            "flags": [],
                        }
                    ],
                }
            ]
        }
    )


class RubricShape(_Shape):
    id: str
    sha256: str
    text: str
    criteria: list[dict[str, Any]]


class OutputShape(_Shape):
    output: str
    scores: dict[str, Score] = Field(description="a judge replaces the nulls: all of an item, or none")
    rationale: str | None = None

    model_config = ConfigDict(extra="forbid")


class ItemShape(_Shape):
    item: str = Field(description="opaque")
    context: dict[str, Any] = Field(description="the scenario's vars")
    candidates: list[OutputShape] = Field(min_length=1)


class PacketShape(_Shape):
    """A judge packet. A blind one names no model, prompt, scenario or run."""

    schema_: Literal["promptbench/packet/1"] = Field(alias="schema")
    experiment: str
    judge_kind: Literal["claude-code", "human"]
    judged_by: str | None = Field(default=None, max_length=200)
    rubric: RubricShape
    items: list[ItemShape]

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "schema": "promptbench/packet/1",
                    "experiment": "tip-bench-2026-11-23",
                    "judge_kind": "human",
                    "judged_by": "Ada",
                    "rubric": {
                        "id": "tip-v1",
                        "sha256": "9f2c",
                        "text": "---\nid: tip-v1\n...",
                        "criteria": [{"name": "relevance", "type": "scale", "min": 1, "max": 5, "weight": 1}],
                    },
                    "items": [
                        {
                            "item": "4be8a7f0c1d2e3f40516",
                            "context": {"situation": "Slept 4 hours, long day ahead"},
                            "candidates": [
                                {"output": "Take a walk at noon.", "scores": {"relevance": 4}, "rationale": None}
                            ],
                        }
                    ],
                }
            ]
        }
    )


class Taken(_Shape):
    experiment: str
    applied: int = Field(description="verdicts that are new, or differ from the same judge's earlier one")
    unchanged: int
    pending: int = Field(description="candidates of this rubric that still wait for a verdict")
    message: str

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "experiment": "tip-bench-2026-11-23",
                    "applied": 12,
                    "unchanged": 0,
                    "pending": 3,
                    "message": "applied 12, unchanged 0, still pending 3",
                }
            ]
        }
    )


class SuiteShape(_Shape):
    path: str = Field(description="a test file with evals, relative to the project")
    suites: list[str] = Field(description="the suite files that it names")


class Suites(_Shape):
    """What ``POST /api/bench/run`` may name."""

    files: list[SuiteShape]
    folders: list[str]
    baselines: list[str]

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "files": [{"path": "evals/test_tips.py", "suites": ["evals/tips.yaml"]}],
                    "folders": ["evals"],
                    "baselines": ["evals/baseline.json"],
                }
            ]
        }
    )


class RunForm(BaseModel):
    """What to run. Whatever is left out is the suite's own choice."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        regex_engine="python-re",  # the DAG's patterns look ahead
        json_schema_extra={
            "examples": [
                {"suite": "evals/tips.yaml", "models": ["haiku"], "prompts": ["v1", "v2-mentor"], "max_cost": 0.5}
            ]
        },
    )

    suite: str
    experiment: str | None
    baseline: str | None
    tolerances: list[str]
    strict: bool
    wait: str


def _field(name: str, schema: Mapping[str, Any]) -> tuple[Any, Any]:
    """A parameter of the DAG as a field of the form. What is run is named; everything else has the DAG's default."""
    limits = {"minimum": "ge", "maximum": "le", "maxItems": "max_length"}
    details = {limits[k]: v for k, v in schema.items() if k in limits}
    types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    kind: Any = {"string": _text(schema), "integer": int, "number": float, "boolean": bool}.get(types[0])
    if kind is None:
        kind = list[_text(schema["items"])]  # type: ignore[misc]  # a type made from a schema
    if types[0] == "number":
        details["allow_inf_nan"] = False
    if "null" in types:
        kind = kind | None
    default = ... if name == "suite" else schema["default"]
    return kind, Field(default=default, description=schema["description"], **details)


def _text(schema: Mapping[str, Any]) -> Any:
    if "enum" in schema:
        return Literal[tuple(schema["enum"])]
    return Annotated[str, Field(pattern=schema.get("pattern"))]


if TYPE_CHECKING:
    RunRequest = RunForm
else:
    RunRequest = create_model(
        "RunRequest",
        __base__=RunForm,
        __doc__=RunForm.__doc__,
        **{name: _field(name, schema) for name, schema in PARAMS.items()},
    )


class RunStarted(_Shape):
    id: str
    where: Literal["airflow", "local"]
    state: str
    experiment: str = Field(description="the MLflow experiment that the candidates go to")

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "bench-20261123T120000-3fa2c1aa",
                    "where": "local",
                    "state": "running",
                    "experiment": "bench-2026-11-23",
                }
            ]
        }
    )


class TaskState(_Shape):
    task: str
    state: str | None


class RunState(_Shape):
    id: str
    where: Literal["airflow", "local"]
    state: str = Field(
        description="queued, running, success or failed; of a local run also waiting (for its judge), and lost: its "
        "process was killed, so how it ended is not known"
    )
    experiment: str | None = Field(description="the MLflow experiment that the candidates go to")
    exit_code: int | None = Field(
        description="of a local run: of the pytest process that it failed with, else of collect, whose failing "
        "assertions are a result (1)"
    )
    started_at: str | None
    ended_at: str | None
    request: dict[str, Any]
    tasks: list[TaskState] = Field(description="Airflow's tasks, or a local run's steps")
    log: list[str] = Field(description="the last lines")

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "bench-20261123T120000-3fa2c1aa",
                    "where": "local",
                    "state": "waiting",
                    "experiment": "bench-2026-11-23",
                    "exit_code": 0,
                    "started_at": "2026-11-23T12:00:00Z",
                    "ended_at": None,
                    "request": {"suite": "evals/tips.yaml", "experiment": "bench-2026-11-23"},
                    "tasks": [
                        {"task": "collect", "state": "success"},
                        {"task": "export", "state": "success"},
                        {"task": "wait", "state": "waiting"},
                    ],
                    "log": ["== 12 candidates wait for their judge, until 2026-11-24T12:00:31Z"],
                }
            ]
        }
    )


Problem.model_rebuild()
