"""The application: routes under ``/api``, pages beside them, and every error as a problem document."""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
from collections.abc import AsyncIterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from ..airflow.request import IN_WORDS, Project
from ..errors import PromptbenchError, SpoiltError, TrackingError, UsageError
from ..experiments import AmbiguousError, Experiments, NotFoundError, RubricTextError
from ..packet import NoJsonError
from ..tracking.address import sqlite_file
from ..tracking.store import TrackingStore
from . import models
from .airflow import Airflow, AirflowError
from .answers import reply
from .guard import Guard, Tokens
from .jobs import BusyError, FolderError, Jobs, StartError
from .pages import Pages
from .problems import ProblemError
from .routes import api_routes
from .settings import RootError, ServiceSettings
from .start import Runs


def create_app(settings: ServiceSettings) -> FastAPI:
    """The service as an ASGI application. Nothing is opened or started until it serves."""

    def store() -> TrackingStore:
        file = sqlite_file(settings.tracking_uri)
        if file is not None and file.is_relative_to(settings.root):
            settings.check_root()
        return TrackingStore(settings.tracking_uri, artifact_root=settings.artifact_root)

    experiments = Experiments(store)
    tokens = Tokens(settings)
    airflow = Airflow(settings.airflow) if settings.airflow is not None else None
    project = Project(root=settings.root, python=Path(settings.python), tracking_uri=settings.tracking_uri)
    jobs = Jobs(
        project=project,
        folder=settings.home / "jobs",
        environ=settings.environ,
        most=settings.max_jobs,
        open_store=experiments.store,
        poll_s=settings.poll_s,
    )
    runs = Runs(settings=settings, jobs=jobs, airflow=airflow, experiments=experiments)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        def warm() -> None:
            with contextlib.suppress(PromptbenchError):
                experiments.names()  # importing MLflow takes seconds: the first request need not wait for it

        threading.Thread(target=warm, name="warm-up", daemon=True).start()
        runs.watch()
        yield
        await asyncio.get_running_loop().shutdown_default_executor()  # verdicts that are being taken in

    app = FastAPI(
        title="pytest-promptbench",
        version=version("pytest-promptbench"),
        summary="Experiments, leaderboards, judge packets and runs over HTTP.",
        openapi_url=None,  # which would have no ETag
        docs_url=None,  # its page would load scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
        redirect_slashes=False,
    )
    pages = Pages(settings=settings, experiments=experiments, tokens=tokens)
    app.include_router(api_routes(settings=settings, experiments=experiments, runs=runs))
    app.include_router(pages.router)
    _describe(app, settings)

    async def openapi(request: Request) -> Response:
        return reply(request, app.openapi())

    app.add_route("/api/openapi.json", openapi, include_in_schema=False)

    def told(request: Request, problem: ProblemError) -> Response:
        """A page where a person would see it, else a problem document."""
        if not request.url.path.startswith("/api/") and "text/html" in request.headers.get("accept", ""):
            return pages.error(request, problem)
        return problem.response()

    app.add_middleware(Guard, settings=settings, tokens=tokens, told=told)

    async def on_error(request: Request, error: Exception) -> Response:
        return told(request, _problem(error, settings))

    for kind in (PromptbenchError, ProblemError, HTTPException, RequestValidationError, ClientDisconnect, Exception):
        app.add_exception_handler(kind, on_error)
    return app


def _problem(error: Exception, settings: ServiceSettings) -> ProblemError:
    """An exception as what the client is told of it."""
    if isinstance(error, ProblemError):
        return error
    if isinstance(error, RequestValidationError):
        return _invalid(error)
    if isinstance(error, HTTPException):
        headers = dict(error.headers or {})
        detail = str(error.detail)
        if error.status_code == 404:  # the router's; what is not in MLflow is told by name
            detail = "there is nothing at this address; the pages begin at /, and /api/openapi.json has all of the API"
        if error.status_code == 405:
            detail = f"this address takes {' and '.join(sorted(headers['Allow'].split(', ')))}"
        if error.status_code == 400 and error.__cause__ is not None:  # what FastAPI met when it read a body
            detail = f"the body is no JSON: {error.__cause__}"
        return ProblemError(error.status_code, detail, headers=headers)
    if isinstance(error, ClientDisconnect):  # who is told is gone; it is no mistake of ours, with a traceback
        return ProblemError(400, "the connection was closed before the body was whole")
    if isinstance(error, RubricTextError | SpoiltError):  # before what it is one of: MLflow is well
        return ProblemError(409, str(error))
    if isinstance(error, TrackingError):
        return ProblemError(
            503,
            f"{error}. {settings.mlflow_remedy}. Sending the same request again is safe.",
            headers={"Retry-After": "10"},
        )
    if isinstance(error, AirflowError | StartError | FolderError | RootError):
        return ProblemError(503, str(error), headers={"Retry-After": "10"})
    if isinstance(error, BusyError):
        return ProblemError(429, str(error), headers={"Retry-After": "30"})
    if isinstance(error, NotFoundError):
        return ProblemError(404, str(error))
    if isinstance(error, NoJsonError):
        return ProblemError(400, f"the body is no JSON: {error}")
    if isinstance(error, AmbiguousError | UsageError):
        return ProblemError(422, str(error))
    return ProblemError(500, "the service made a mistake; its log has the details")


def _invalid(error: RequestValidationError) -> ProblemError:
    """What fits no schema, by place; the value itself is repeated only where words say what would be right."""
    found = []
    for one in error.errors()[:20]:
        no_json = _no_json(one)
        if no_json is not None:
            return ProblemError(400, f"the body is no JSON: {no_json}")
        where = ".".join(str(part) for part in one["loc"] if part != "body") or "body"
        words = IN_WORDS.get(one.get("ctx", {}).get("pattern", ""))
        said = str(one["msg"]) if words is None else f"{ascii(one['input'])[:200]} is none: expected {words}"
        found.append({"where": where[:200], "problem": said})
    detail = "; ".join(f"{f['where']}: {f['problem']}" for f in found)
    return ProblemError(422, detail, extra={"errors": found})


def _no_json(one: Mapping[str, Any]) -> str | None:
    """How one of FastAPI's errors shows that it is not a value's but the whole body's."""
    if one["type"] == "json_invalid":
        return f"{one['ctx']['error']} (character {one['loc'][-1]})"
    if one["type"] == "missing" and one["loc"] == ("body",):
        return "it is empty"
    number = one.get("input")
    if isinstance(number, float) and not math.isfinite(number):
        return f"{one['loc'][-1]} is no number that JSON has"
    return None


def _describe(app: FastAPI, settings: ServiceSettings) -> None:
    """Say in the OpenAPI document that a bearer token is wanted, where one is, and give the examples as they are."""
    plain = app.openapi

    def described() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = plain()
            for name, shape in document.get("components", {}).get("schemas", {}).items():
                if "examples" in shape:  # FastAPI leaves out what is null, which a shape may require
                    shape["examples"] = getattr(models, name).model_config["json_schema_extra"]["examples"]
            if not settings.open:
                schemes = document.setdefault("components", {}).setdefault("securitySchemes", {})
                schemes["token"] = {"type": "http", "scheme": "bearer"}
                for path, methods in document["paths"].items():
                    for operation in methods.values():
                        if path != "/api/health":
                            operation["security"] = [{"token": []}]
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = described  # type: ignore[method-assign] # FastAPI's own way to change the document
