"""The endpoints under ``/api``: HTTP in, a record of ``models`` out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response

from ..agreement import agreement_json
from ..experiments import Experiments
from ..leaderboard import leaderboard_json
from ..packet import decode_packet
from ..packet.document import plain
from ..records import DuplicateKeyError, LoggedCandidate, unique_keys
from . import models
from .answers import candidate_shape, json_answer, judge_kind_of, reply, rubric_of, summary_shape
from .guard import VERDICTS
from .health import Health
from .models import MAX_LIMIT
from .problems import MEDIA_TYPE, ProblemError
from .settings import ServiceSettings
from .start import Runs

Text = Annotated[str | None, Query(max_length=250)]
Task = Annotated[str | None, Query(max_length=250, description="needed where the experiment holds several")]
Sha = Annotated[str | None, Query(pattern="^[0-9a-f]{64}$", description="of the rubric; left out, the newest")]
Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT)]


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {
        s: {"model": models.Problem, "description": _MEANING[s], "content": content} for s in (*statuses, 401, 421, 500)
    }


_MEANING = {
    400: "The body is no JSON",
    401: "A token is needed, or this one is not known",
    403: "The token is read-only, or a page of another site asked",
    404: "There is no such experiment, task, rubric or run",
    409: "What MLflow holds of a candidate or rubric cannot be read",
    413: "The body is too large",
    415: "The body is not declared as JSON",
    421: "Asked under a name that is not this machine's, without a token",
    422: "A parameter or the body is wrong: the detail says which and what would be right",
    429: "As many runs are going on as may at once",
    500: "The service made a mistake",
    503: "MLflow or Airflow does not answer: the detail says which, and what to do",
}
_READ = _errors(404, 409, 422, 503) | {304: {"description": "The client has this version (If-None-Match)"}}


def api_routes(*, settings: ServiceSettings, experiments: Experiments, runs: Runs) -> APIRouter:
    """The routes of one service."""
    router = APIRouter(dependencies=[Depends(_known_parameters)])
    health = Health(settings, experiments, runs)

    @router.get("/api/health", response_model=models.Health, responses=_errors(503), tags=["service"])
    def get_health() -> Response:
        """Whether MLflow answers, and Airflow where one is configured. Needs no token."""
        return health.answer()

    @router.get("/api/bench/experiments", response_model=models.ExperimentPage, responses=_READ, tags=["read"])
    def get_experiments(
        request: Request,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        offset: Annotated[int, Query(ge=0, le=1_000_000)] = 0,
    ) -> Response:
        """The experiments of the store, with what they hold."""
        names = experiments.names()
        shown = [summary_shape(experiments.summary(n)) for n in names[offset : offset + limit]]
        after = offset + limit
        page = models.ExperimentPage(
            experiments=shown, total=len(names), next_offset=after if after < len(names) else None
        )
        return reply(request, page.model_dump())

    @router.get("/api/bench/runs/{experiment:path}", response_model=models.RunsPage, responses=_READ, tags=["read"])
    def get_runs(
        request: Request,
        experiment: str,
        judge_pending: bool | None = None,
        judge_kind: Annotated[
            str | None, Query(max_length=250, description="claude-code, human, or an automatic judge's model name")
        ] = None,
        model: Text = None,
        prompt: Text = None,
        scenario: Text = None,
        task: Text = None,
        texts: Annotated[bool, Query(description="outputs and contexts too")] = False,
        limit: Limit = 100,
        cursor: Annotated[str | None, Query(pattern=r"^[0-9]{1,18}-[0-9A-Za-z]{1,64}$")] = None,
    ) -> Response:
        """The candidates of an experiment, oldest first."""
        found = experiments.read(experiment)
        wanted = {"model": model, "prompt": prompt, "scenario": scenario, "task": task}
        waiting = found.waiting
        matching = [
            c
            for c in found.candidates
            if all(v is None or getattr(c, k) == v for k, v in wanted.items())
            and (judge_pending is None or (c.run_id in waiting) == judge_pending)
            and (judge_kind is None or judge_kind_of(c) == judge_kind)
        ]
        rest = [c for c in matching if cursor is None or _place(c) > _parsed(cursor)]
        page: Sequence[LoggedCandidate] = rest[:limit]
        rubrics = {g.rubric_sha256: rubric_of(experiments, g) for g in found.groups}
        if texts:
            page = experiments.texts(page)
        value = models.RunsPage(
            experiment=found.name,
            runs=[candidate_shape(c, rubrics.get(c.rubric_sha256), pending=c.run_id in waiting) for c in page],
            matching=len(matching),
            next_cursor="{}-{}".format(*_place(page[-1])) if len(rest) > limit else None,
        )
        return reply(request, value.model_dump())

    @router.get(
        "/api/bench/leaderboard/{experiment:path}",
        response_model=models.LeaderboardShape,
        responses=_READ,
        tags=["read"],
    )
    def get_leaderboard(request: Request, experiment: str, task: Task = None, rubric_sha256: Sha = None) -> Response:
        """``leaderboard.json`` of a task."""
        found = experiments.leaderboard(experiment, task=task, rubric_sha256=rubric_sha256)
        return reply(request, leaderboard_json(found))

    @router.get(
        "/api/bench/agreement/{experiment:path}", response_model=models.AgreementShape, responses=_READ, tags=["read"]
    )
    def get_agreement(request: Request, experiment: str, task: Task = None, rubric_sha256: Sha = None) -> Response:
        """How far the judges of a task agree."""
        found = experiments.agreement(experiment, task=task, rubric_sha256=rubric_sha256)
        return reply(request, agreement_json(found))

    @router.get(
        "/api/bench/packet/{experiment:path}", response_model=models.PacketShape, responses=_READ, tags=["judge"]
    )
    def get_packet(
        request: Request,
        experiment: str,
        task: Task = None,
        limit: Annotated[int | None, Query(ge=1, le=MAX_LIMIT, description="of the oldest so many only")] = None,
    ) -> Response:
        """A blind packet of what is pending, to be scored and sent to ``/api/bench/verdicts``."""
        return reply(request, experiments.packet(experiment, task=task, limit=limit))

    @router.post(
        VERDICTS,
        response_model=models.Taken,
        responses=_errors(400, 403, 404, 409, 413, 415, 422, 503),
        tags=["judge"],
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/PacketShape"}}},
            }
        },
    )
    async def post_verdicts(request: Request) -> Response:
        """Take a scored packet in, all of it or nothing. What is null stays pending; applying it twice is harmless."""
        body = await request.body()

        def take() -> models.Taken:
            name, applied = experiments.apply(decode_packet(body))
            return models.Taken(
                experiment=name,
                applied=applied.applied,
                unchanged=applied.unchanged,
                pending=applied.pending,
                message=applied.message,
            )

        # In a thread of the loop's own: a service that ends waits for those.
        return json_answer((await asyncio.to_thread(take)).model_dump())

    @router.get("/api/bench/suites", response_model=models.Suites, responses=_READ, tags=["run"])
    def get_suites(request: Request) -> Response:
        """What can be run: test files with evals, their folders, and baselines."""
        evals = runs.evals()
        files = [models.SuiteShape(path=p, suites=list(s)) for p, s in evals.files.items()]
        value = models.Suites(files=files, folders=list(evals.folders), baselines=list(evals.baselines))
        return reply(request, value.model_dump())

    @router.post(
        "/api/bench/run",
        status_code=202,
        response_model=models.RunStarted,
        responses=_errors(400, 403, 413, 415, 422, 429, 503),
        tags=["run"],
        dependencies=[Depends(_no_key_twice)],
    )
    def post_run(body: models.RunRequest) -> Response:
        """Start a run: the DAG ``bench_collect`` where Airflow is configured, else pytest in the background."""
        started = runs.start(body)
        headers = {"Location": f"/api/bench/run/{started.id}"}
        return json_answer(started.model_dump(), status=202, headers=headers)

    @router.get("/api/bench/run/{run_id}", response_model=models.RunState, responses=_READ, tags=["run"])
    def get_run(request: Request, run_id: str) -> Response:
        """How a run goes: its state, and the last lines of its log."""
        found = runs.find(run_id)
        if found is None:
            raise ProblemError(404, "there is no run of this id")
        return reply(request, found.model_dump())

    return router


# -- questions


def _known_parameters(request: Request) -> None:
    """Refuse a query parameter that the endpoint has not got: a misspelt filter would let everything pass.

    One that is given twice too, since the last alone would count.
    """
    known = {p.alias for p in request.scope["route"].dependant.query_params}
    there = ", ".join(sorted(known)) or "none"
    wrong = {}
    for name in request.query_params:
        if name not in known:
            wrong[name] = f"unknown; there are: {there}"
        elif len(request.query_params.getlist(name)) > 1:
            wrong[name] = "given more than once; give it one value"
    if wrong:
        errors = [{"where": f"query.{plain(n)[:200]}", "problem": said} for n, said in list(wrong.items())[:20]]
        detail = "; ".join(f"{e['where']}: {e['problem']}" for e in errors)
        raise ProblemError(422, detail, extra={"errors": errors})


async def _no_key_twice(request: Request) -> None:
    """Refuse a body with a key that is given twice: the last alone would count, of two limits of the cost too."""
    try:
        json.loads(await request.body(), object_pairs_hook=unique_keys)
    except DuplicateKeyError as error:
        found = {"where": plain(error.key)[:200], "problem": "given more than once; give it one value"}
        raise ProblemError(422, f"{found['where']}: {found['problem']}", extra={"errors": [found]}) from None
    except (ValueError, RecursionError):
        pass  # which the schema's reader tells


# -- pages of candidates


def _place(candidate: LoggedCandidate) -> tuple[int, str]:
    return candidate.started_at, candidate.run_id


def _parsed(cursor: str) -> tuple[int, str]:
    at, _, run = cursor.partition("-")
    return int(at), run
