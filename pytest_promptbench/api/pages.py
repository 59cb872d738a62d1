"""The pages: experiments, one experiment, judging, logging in. Scripts and styles are files of /static."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Annotated, Any, Final
from urllib.parse import parse_qs, urlencode

import jinja2
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from markdown_it import MarkdownIt
from markupsafe import Markup

from ..clock import iso_utc
from ..experiments import Experiments, Group, Summary
from ..records import Leaderboard, LoggedCandidate, Rubric
from ..report import pictures
from ..report.notes import notes
from ..report.tables import all_tables
from ..report.text import by_scenario, number, scrolls, visible
from ..report.views import Card, RowView, card, context_of, placed, places, state_of
from .guard import SESSION_S, WRITE, Tokens, cookie_of, session_of
from .problems import ProblemError
from .settings import ServiceSettings

PAGE_SIZE: Final = 20
_STATIC: Final = {"pages.css": "text/css; charset=utf-8", "judge.js": "text/javascript; charset=utf-8"}

Name = Annotated[str, Query(max_length=500)]


class Pages:
    """The routes that people visit."""

    def __init__(self, *, settings: ServiceSettings, experiments: Experiments, tokens: Tokens) -> None:
        self._settings = settings
        self._experiments = experiments
        self._tokens = tokens
        self.router = APIRouter(include_in_schema=False)
        self.router.add_api_route("/", self.experiments, methods=["GET"])
        self.router.add_api_route("/experiment", self.experiment, methods=["GET"])
        self.router.add_api_route("/judge", self.judge, methods=["GET"])
        # One route: of two, whoever asks by another method would be told the first one's alone.
        self.router.add_api_route("/login", self.login, methods=["GET", "POST"])
        self.router.add_api_route("/logout", self.logout, methods=["POST"])
        self.router.add_api_route("/static/{name}", self.static, methods=["GET"])

    # -- what people look at

    def experiments(self, request: Request, offset: Annotated[int, Query(ge=0, le=1_000_000)] = 0) -> Response:
        names = self._experiments.names()
        shown = [self._experiments.summary(n) for n in names[offset : offset + PAGE_SIZE]]
        rows = [_experiment_row(e) for e in shown if e.tasks or e.problem]
        return self._page(
            request,
            "experiments.html.j2",
            rows=rows,
            total=len(names),
            empty=len(shown) - len(rows),
            earlier=f"/?offset={offset + PAGE_SIZE}" if offset + PAGE_SIZE < len(names) else None,
            later=f"/?offset={max(0, offset - PAGE_SIZE)}" if offset else None,
        )

    def experiment(
        self,
        request: Request,
        name: Name,
        task: Annotated[str | None, Query(max_length=250)] = None,
        rubric: Annotated[str | None, Query(max_length=64)] = None,
        scenario: Annotated[str | None, Query(max_length=500)] = None,
    ) -> Response:
        found = self._experiments.read(name)
        group = found.group(task if task is not None else next(iter(found.tasks), None), rubric)
        text = self._experiments.rubric(group)
        board = group.leaderboard(text)
        scenarios = by_scenario(group.candidates)
        waiting = found.waiting
        chosen = scenario if scenario in scenarios else next(iter(scenarios))
        texts = self._experiments.texts(scenarios[chosen], unread=[])  # a card without a text says so
        agreement = group.agreement(text)
        own = all_tables(board, None)
        return self._page(
            request,
            "experiment.html.j2",
            group=group,
            groups=[_GroupLink.of(g, current=g is group) for g in found.groups],
            counts=group.counts,
            title=visible(name),
            task=visible(group.task),
            rubric_name=visible(group.rubric),
            rubric_html=rubric_html(text),
            judge_link=_link("/judge", name=name, task=group.task),
            **_board(board),
            tables=own,
            agreement=all_tables(board, agreement)[len(own) :],
            notes=notes(board),
            scenarios=[
                _ScenarioLink(
                    name=visible(s),
                    link=_link("/experiment", name=name, task=group.task, rubric=rubric, scenario=s) + "#candidates",
                    note=_states(cs, waiting),
                    current=s == chosen,
                )
                for s, cs in scenarios.items()
            ],
            chosen=visible(chosen),
            context=context_of(texts),
            cards=_cards(texts, board, text, waiting),
        )

    def judge(
        self, request: Request, name: Name, task: Annotated[str | None, Query(max_length=250)] = None
    ) -> Response:
        if request.state.role != WRITE:
            raise ProblemError(403, "this token is read-only, so it cannot send verdicts; log in with another")
        found = self._experiments.read(name)
        group = found.group(task if task is not None else next(iter(found.tasks), None))
        text = self._experiments.rubric(group)
        return self._page(
            request,
            "judge.html.j2",
            name=name,
            task=group.task,
            title=visible(name),
            task_title=visible(group.task),
            rubric_name=visible(group.rubric),
            rubric_html=rubric_html(text),
            pending=len(group.pending),
            back=_link("/experiment", name=name, task=group.task),
        )

    def error(self, request: Request, problem: ProblemError) -> Response:
        """An error as a page."""
        response = self._page(
            request, "error.html.j2", status=problem.status, heading=_heading(problem), detail=visible(problem.detail)
        )
        response.status_code = problem.status
        response.headers.update(problem.headers)
        return response

    # -- who they are

    async def login(self, request: Request, back: Annotated[str, Query(alias="next")] = "/") -> Response:
        return await self._log_in(request) if request.method == "POST" else self._login_form(request, back)

    def _login_form(self, request: Request, back: str) -> Response:
        if self._settings.open or request.state.role is not None:
            return RedirectResponse(_of_here(back), status_code=303)
        return self._page(request, "login.html.j2", problem=None, back=_of_here(back))

    async def _log_in(self, request: Request) -> Response:
        """A known token for a cookie with a session's id."""
        if self._settings.open:
            return RedirectResponse("/", status_code=303)
        try:
            form = parse_qs((await request.body()).decode(), max_num_fields=10)
        except ValueError:
            form = {}
        role = self._tokens.role(form.get("token", [""])[0].strip())
        back = _of_here(form.get("next", ["/"])[0])
        if role is None:
            response = self._page(request, "login.html.j2", problem="This token is not known.", back=back)
            response.status_code = 401
            response.headers["WWW-Authenticate"] = 'Bearer realm="promptbench"'
            return response
        done = RedirectResponse(back, status_code=303)
        done.set_cookie(
            cookie_of(request.headers),
            self._tokens.begin(role),
            max_age=SESSION_S,
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return done

    async def logout(self, request: Request) -> Response:
        session = session_of(request.headers)
        if session:
            self._tokens.end(session)
        done = RedirectResponse("/login" if not self._settings.open else "/", status_code=303)
        done.delete_cookie(cookie_of(request.headers), httponly=True, samesite="strict")
        return done

    # -- files

    def static(self, request: Request, name: str) -> Response:
        kind = _STATIC.get(name)
        if kind is None:
            raise ProblemError(404, "there is no such file")
        text = _asset(f"static/{name}")
        tag = f'"{hashlib.sha256(text.encode()).hexdigest()[:32]}"'
        headers = {"ETag": tag, "Cache-Control": "no-cache"}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(text, headers={**headers, "Content-Type": kind})

    def _page(self, request: Request, template: str, **values: Any) -> Response:
        role = getattr(request.state, "role", None)
        text = (
            _environment()
            .get_template(template)
            .render(
                values, role=role, can_write=role == WRITE, can_log_out=role is not None and not self._settings.open
            )
        )
        return HTMLResponse(text.encode("utf-8", "replace"))


def _heading(problem: ProblemError) -> str:
    return {404: "Not found", 503: "Not available", 403: "Not allowed"}.get(problem.status, "That did not work")


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: _asset(f"templates/{name}")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals.update(number=number, scrolls=scrolls)
    return environment


@cache
def _asset(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _link(path: str, **query: str | None) -> str:
    return f"{path}?{urlencode({k: v for k, v in query.items() if v is not None}, errors='replace')}"


def _of_here(address: str) -> str:
    """An address to go to after the login, if it is a page of this service; else the first page."""
    return address if address.startswith("/") and not address.startswith(("//", "/\\")) else "/"


@cache
def _markdown() -> MarkdownIt:
    """Tables and text; no HTML, no picture and no link, as a rubric comes from a store that others write to."""
    return MarkdownIt("commonmark", {"html": False}).enable("table").disable(["link", "image", "autolink"])


def rubric_html(rubric: Rubric) -> Markup:
    """A rubric's anchors as HTML: its Markdown with everything else escaped, headings two levels lower."""
    tokens = _markdown().parse(visible(rubric.body, multiline=True))
    for token in tokens:
        token.attrs.pop("style", None)
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(6, int(token.tag[1:]) + 2)}"
    return Markup(_markdown().renderer.render(tokens, _markdown().options, {}))  # noqa: S704 - escaped by markdown-it


# -- the list of experiments


@dataclass(frozen=True, kw_only=True)
class _ExperimentRow:
    name: str
    link: str
    judge_link: str
    tasks: str
    counts: Mapping[str, int]
    at: str
    problem: str | None


def _experiment_row(found: Summary) -> _ExperimentRow:
    return _ExperimentRow(
        name=visible(found.name),
        link=_link("/experiment", name=found.name),
        judge_link=_link("/judge", name=found.name, task=found.to_judge),
        tasks=visible(", ".join(t.task for t in found.tasks)),
        counts=found.counts,
        at=_day(found.last_at or 0),
        problem=visible(found.problem) if found.problem is not None else None,
    )


def _day(milliseconds: int) -> str:
    return iso_utc(milliseconds / 1000)[:16].replace("T", " ")


# -- one experiment


@dataclass(frozen=True, kw_only=True)
class _GroupLink:
    name: str
    link: str
    current: bool

    @classmethod
    def of(cls, group: Group, *, current: bool) -> _GroupLink:
        return cls(
            name=f"{visible(group.task)}, {visible(group.rubric)} ({group.rubric_sha256[:8]})",
            link=_link("/experiment", name=group.experiment, task=group.task, rubric=group.rubric_sha256),
            current=current,
        )


@dataclass(frozen=True, kw_only=True)
class _ScenarioLink:
    name: str
    link: str
    note: str
    current: bool


def _board(board: Leaderboard) -> dict[str, Any]:
    scale = pictures.scale(board)
    return {
        "scale": scale,
        "top": f"{board.rubric.top:g}",
        "criteria": [visible(c.name) for c in board.rubric.criteria],
        "by_judges": bool(board.rubric.judged),
        "rows": [RowView.of(row, rank, scale, best=best) for row, rank, best in placed(board)],
        "scored": any(row.composite is not None for row in board.rows),
    }


def _state(candidate: LoggedCandidate, waiting: Set[str]) -> str:
    """``waiting``: the runs that a packet would offer; what else has no verdict is superseded by an edit."""
    if candidate.error is None and candidate.pending:
        return "pending" if candidate.run_id in waiting else "superseded"
    return state_of(candidate)


def _states(candidates: Sequence[LoggedCandidate], waiting: Set[str]) -> str:
    found = Counter(_state(c, waiting) for c in candidates)
    return ", ".join(f"{found[s]} {s}" for s in ("judged", "scored", "pending", "superseded", "failed") if found[s])


def _cards(candidates: Sequence[LoggedCandidate], board: Leaderboard, rubric: Rubric, waiting: Set[str]) -> list[Card]:
    place = places(board)
    ordered = sorted(candidates, key=lambda c: (place.get((c.model, c.prompt), len(place)), c.started_at, c.run_id))
    return [card(c, rubric, state=_state(c, waiting)) for c in ordered]
