"""What a session says while it runs and at its end. Text only: the plugin writes it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from . import regression
from .autojudge import Judged
from .catalog.template import placeholders
from .clock import steady, utc_now
from .errors import UsageError
from .gate import GateResult
from .records import Suite
from .report.text import for_price, plural, visible
from .session import Board, Closing, Desk, Task, about_unread
from .settings import Settings
from .steps import StepResult

Line = tuple[str, Mapping[str, Any]]
_LOUD: Mapping[str, Any] = {"red": True, "bold": True}
_WARN: Mapping[str, Any] = {"yellow": True}
_STATEMENT = re.compile(r"\{%-?\s*\w+.*?%\}", re.DOTALL)


def progress(desk: Desk) -> str:
    """One line: how many cells are done, in flight, waiting; tokens and cost so far."""
    from .report.terminal import progress_line

    p = desk.progress()
    assert desk.plan is not None
    return progress_line(
        done=min(p.done, desk.plan.cells),  # a stolen cell is finished in two processes
        total=desk.plan.cells,
        in_flight=p.in_flight,
        waiting=p.waiting,
        failed=p.failed,
        cached=p.cached,
        tokens=p.tokens,
        cost_usd=p.cost_usd,
        seconds=steady() - desk.started_at,
    )


def summary(closing: Closing, desk: Desk, *, width: int, color: bool) -> Iterator[Line]:
    """The leaderboards, where their files are, and loudly whatever did not reach MLflow."""
    if closing.boards:
        yield from boards(closing.boards, width=width, color=color)
        yield from files(closing.files)
    for line in about_unread(closing.unread):
        yield (line, _WARN)
    if desk.plan is not None:
        if closing.missing:
            were, them = ("was", "it") if closing.missing == 1 else ("were", "them")
            yield (
                f"stopped: {closing.missing} of {desk.plan.cells} cells {were} not generated; the same command goes on "
                f"with {them}",
                _WARN,
            )
        for task in desk.plan.tasks:
            for name, reason in task.suite.skipped.items():
                yield (f"left out: {name} ({reason})", _WARN)
            for name, reason in task.suite.judge_skipped.items():
                yield (f"left out: the judge {name} ({reason})", _WARN)
            yield from _blind_to_scenarios(task.suite)
            yield from _sent_as_it_stands(task.suite)
    if closing.server is not None:
        yield (f"promptbench: {closing.server}", _LOUD)
        yield ("The next session starts it anew and asks only for what is missing.", _LOUD)
    yield from automatic(closing.judged)
    if closing.stuck:
        stay, are = ("It stays", "is") if closing.stuck == 1 else ("They stay", "are")
        yield (
            f"still not in MLflow: {plural(closing.stuck, 'candidate')} of earlier sessions. {closing.stuck_error}. "
            f"{stay} in .promptbench and {are} tried again next time",
            _WARN,
        )
    if closing.problem is not None or closing.unlogged != 0:
        if closing.unlogged != 0:
            count = "some candidates" if closing.unlogged is None else plural(closing.unlogged, "candidate")
            yield (f"NOT IN MLFLOW: {count}. {closing.problem or 'another session is still logging them'}", _LOUD)
            yield (
                "Nothing is lost: they are kept in .promptbench, and the next session that reaches MLflow logs them.",
                _LOUD,
            )
        else:
            yield (f"promptbench: {closing.problem}", _LOUD)


def _blind_to_scenarios(suite: Suite) -> Iterator[Line]:
    """Prompts that ask the same whatever the scenario is: mostly ``{name}`` was written for ``{{ name }}``."""
    names = [p.version for p in suite.prompts if not placeholders(p.messages)]
    if names and len(suite.scenarios) > 1:
        yield (f"{suite.task}: no {{{{ name }}}} in {', '.join(names)}: all scenarios ask the same there", _WARN)


def _sent_as_it_stands(suite: Suite) -> Iterator[Line]:
    """What other tools would evaluate, and a model would be told word for word: Jinja's statements, files as vars."""
    for p in suite.prompts:
        found = next((s for m in p.messages if (s := _STATEMENT.search(m.content))), None)
        if found is not None:
            said = f"{visible(found[0], limit=60)} in {p.version} is sent as it stands"
            yield (f"{suite.task}: {said}: {{{{ name }}}} is all that is replaced", _WARN)
    files = [(s.id, n) for s in suite.scenarios for n, v in s.vars.items() if isinstance(v, str) and v[:7] == "file://"]
    if files:
        scenario, name = files[0]
        more = f", as in {plural(len(files) - 1, 'other var')}" if len(files) > 1 else ""
        said = f"the var {visible(name)} of {visible(scenario)} is sent as it stands{more}"
        yield (f"{suite.task}: {said}: no file:// is read, its text has to be the var's value", _WARN)


def automatic(judged_: tuple[Judged, ...]) -> Iterator[Line]:
    """What the automatic judges did, and loudly what they could not do."""
    for j in judged_:
        yield (f"automatic judge {j.judge}: {j.scored} scored in {j.experiment}{for_price(j.cost_usd)}", {})
        if j.failed:
            none = "NOT JUDGED: none of its verdicts is valid. " if j.useless else ""
            which = "which counts as unscored" if j.failed == 1 else "which count as unscored; the first"
            yield (f"{none}{j.failed} without a valid verdict, {which}: {j.problem}", _LOUD if none else _WARN)
            again = "Its invalid replies are kept. To ask it again: --bench-read --judge-auto --bench-no-cache"
            if not j.invalid:  # a refusal is not kept
                again = "To ask it again: --bench-read --judge-auto"
            yield (again, _WARN)
        if j.unavailable:
            yield (f"NOT JUDGED: {j.unavailable}", _LOUD)


def settle(
    settings: Settings,
    boards_: tuple[Board, ...],
    tasks: tuple[Task, ...],
    *,
    skipped: bool = False,
    stopped: bool = False,
) -> tuple[int, list[Line]]:
    """Save and compare as asked for: the exit code that follows (0: none), and what to say.

    Nothing is compared or saved, and that is not green, where ``boards_`` is empty, as the candidates of ``tasks``
    could not be read back, and where every eval was ``skipped``, whatever MLflow holds of earlier sessions. A session
    that was ``stopped`` saves nothing: the scenarios that it has not come to would be gone from the baseline.
    """
    if skipped or not boards_:
        asked = [
            flag for flag, path in (("--bench-compare", settings.compare), ("--bench-save", settings.save)) if path
        ]
        why = "every selected eval was skipped" if skipped else "nothing of this session could be read back from MLflow"
        problem = without_a_gate(settings, f"{why}, so there is nothing to compare or save")
        return (4, [(f"{' and '.join(asked)}: ERROR: {problem}", _LOUD)]) if asked else (0, [])
    said: list[Line] = []
    results: tuple[GateResult, ...] = ()
    code = 0
    try:
        if settings.compare is not None:
            results, left = regression.compare(settings, boards_, tasks)
            said += regression.lines(results)
            said += [(line, _WARN) for line in regression.not_compared(left)]
            code = max(r.exit_code for r in results)
        if settings.save is not None and stopped:
            said.append(
                (f"baseline: {settings.save} is not written, as this session was stopped before its end", _WARN)
            )
        elif settings.save is not None and code and regression.compared_with_itself(settings):
            kept = f"baseline: {settings.save} stays as it was, since this session did not pass against it; to take "
            said.append((kept + "its scores all the same, give --bench-save without --bench-compare", _WARN))
        elif settings.save is not None:
            said += [(line, {}) for line in regression.save(settings, boards_, tasks, now=utc_now())]
    except UsageError as error:
        return 4, [*said, (f"gate: ERROR: {error}", _LOUD)]
    said += [(line, _WARN) for line in regression.step_summary(boards_, results)]
    return code, said


def broken_off(settings: Settings) -> list[Line]:
    """Of a session that was interrupted at its end: what it has left out, and that it can be made good."""
    said = "interrupted while the session ended, and the rest of its reports left out. Nothing is lost: --bench-read "
    return [(f"NOT DONE: {said}makes them from what MLflow holds", _LOUD), *no_gate(settings)]


def not_done(settings: Settings, asked: Sequence[str]) -> list[Line]:
    """What a session that selected no eval has left undone."""
    problem = without_a_gate(settings, "no eval was selected")
    return [(f"NOT DONE: {', '.join(asked)}; {problem}", _LOUD)]


def without_a_gate(settings: Settings, problem: str) -> str:
    """Why nothing was compared, and what keeps the gate of an earlier session in place, if anything does."""
    return "; ".join([problem, *(line for line, _ in no_gate(settings))])


def no_gate(settings: Settings) -> list[Line]:
    """Remove the gate of an earlier session where this one was to make its own; what keeps it in place, if anything."""
    if settings.compare is not None:
        try:
            regression.forget(settings, ())
        except UsageError as error:
            return [(str(error), _LOUD)]
    return []


def files(paths: tuple[Path, ...]) -> Iterator[Line]:
    """Where to look."""
    for path in paths:
        if path.suffix == ".html":
            yield (f"leaderboard: {path}", {})


def boards(boards_: tuple[Board, ...], *, width: int, color: bool) -> Iterator[Line]:
    """Each leaderboard as text."""
    from .report.tables import terminal_tables
    from .report.terminal import render_leaderboard, render_tables

    for board in boards_:
        text = render_leaderboard(board.leaderboard, width=width, color=color)
        text += render_tables(terminal_tables(board.leaderboard, board.agreement), width=width, color=color)
        for line in text.rstrip("\n").split("\n"):
            yield (line, {})


def step(result: StepResult, *, width: int, color: bool) -> Iterator[Line]:
    """What a step in place of tests did, and the leaderboards that follow from it."""
    yield from boards(result.boards, width=width, color=color)
    yield from files(result.files)
    yield from automatic(result.judged)
    yield (result.message, _LOUD if result.code else {"bold": True})
    for line in result.lines:
        yield (line, {})
