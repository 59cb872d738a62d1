"""From the marker to the session's plan: parametrize tests, select their cells, and begin to generate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from .. import axes, regression
from ..errors import PromptbenchError, UsageError
from ..records import Suite
from ..session import Task
from .parts import (
    MARKER,
    MISTAKEN,
    MISUSED,
    PLANNED,
    SUITES,
    TICKER,
    Mistake,
    bench,
    desk,
    is_worker,
    legible,
    only_shows,
    settings,
)
from .running import is_skipped, may_skip
from .watch import Attendance, Brake, Interrupts, Ticker


def spread(metafunc: pytest.Metafunc, marker: pytest.Mark) -> None:
    """Parametrize a test over model, prompt and scenario."""
    try:
        _parametrize(metafunc, marker)
    except PromptbenchError as error:
        raise Mistake(str(error), misuse=isinstance(error, UsageError)) from None


def _parametrize(metafunc: pytest.Metafunc, marker: pytest.Mark) -> None:
    test = metafunc.definition.nodeid
    _check_alone(metafunc.definition)
    if "candidate" not in metafunc.fixturenames:
        raise axes.no_candidate(test)
    missing = [axis for axis in axes.AXES if axis not in metafunc.fixturenames]
    if missing and not _reaches_ours(metafunc):
        raise axes.not_ours(test)
    metafunc.fixturenames += missing
    axes.check_there(_suite_file(metafunc.definition, marker), test=test)
    task, own = _task(metafunc.config, metafunc.definition, marker)
    _suites(metafunc.definition)[metafunc.definition.name] = task.suite
    for axis in {*axes.AXES} - axes.named(own):
        for fixture in reversed(metafunc._arg2fixturedefs.get(axis, ())):
            if fixture.params is not None:
                raise axes.of_two_sources(test, axis)
            if axis not in fixture.argnames:  # else pytest parametrizes by that which this one stands before, too
                break
    for group in axes.arrange(task.suite, own, test=test):
        metafunc.parametrize(group.argnames, group.values, ids=group.ids, scope="function")
    parametrize = metafunc.parametrize

    def others(*args: Any, _param_mark: pytest.Mark | None = None, **kwargs: Any) -> None:
        """What pytest itself parametrizes afterwards: all marks but those that have their place already."""
        if not any(_param_mark is m for m in own):
            parametrize(*args, _param_mark=_param_mark, **kwargs)

    metafunc.parametrize = others  # type: ignore[method-assign]


def _reaches_ours(metafunc: pytest.Metafunc) -> bool:
    """Whether each ``candidate`` of the user's asks for the one that it stands before, down to the plugin's.

    Older pytests (8.3 is one) look at what the nearest asks for alone, and find none of the axes.
    """
    ours, *nearer = metafunc._arg2fixturedefs.get("candidate", (None,))
    mine = ours is not None and ours.func.__module__ == __package__
    return mine and all("candidate" in fixture.argnames for fixture in nearer)


def _check_alone(test: pytest.Item) -> None:
    """A marker nearer to a test goes over one further away, as on its class. Of two on one node neither is nearer."""
    (node, marker), *further = test.iter_markers_with_node(MARKER)
    other = next((m for n, m in further if n is node and m != marker), None)
    if other is not None:
        raise axes.two_suites(test.nodeid, marker, other)


def _suite_file(test: Any, marker: pytest.Mark) -> Path:
    return axes.suite_path(marker.args, marker.kwargs, test=test.nodeid, file=test.path)


def _task(config: pytest.Config, test: Any, marker: pytest.Mark) -> tuple[Task, list[pytest.Mark]]:
    """What a test's marker names, and the test's own ``parametrize`` marks over axes of it."""
    path = _suite_file(test, marker)
    own = [m for m in test.iter_markers("parametrize") if axes.named([m])]
    instead = axes.overridden(own, test=test.nodeid)
    folder = str(test.path.parent)
    return bench(config).task(path, marker.kwargs.get("experiment"), tests=folder, **instead), own


def add_keywords(item: pytest.Item) -> None:
    """Let -k find a scenario's tags, and names that are not ASCII: in a test's id pytest writes them with escapes."""
    spec = getattr(item, "callspec", None)
    if spec is not None and item.get_closest_marker(MARKER) is not None:
        names = {axis: name for axis in axes.AXES if isinstance(name := spec.params.get(axis), str)}
        item.extra_keyword_matches.update(n for n in names.values() if not n.isascii())
        suite = _suites(item).get(item.originalname)  # type: ignore[attr-defined] # of a pytest.Function
        if suite is not None and names.get("scenario") in suite.by_id:
            item.extra_keyword_matches.update(suite.by_id[names["scenario"]].tags)


def _suites(test: pytest.Item) -> dict[str, Suite]:
    """The suites of the tests beside this one, by the names of their functions."""
    assert test.parent is not None
    return test.parent.stash.setdefault(SUITES, {})


def select(session: pytest.Session, items: list[pytest.Item]) -> None:
    """Give each test its cell, and deselect those that the options leave out."""
    config = session.config
    nothing_left = _plan(config, items)
    planned = {i: i.stash[PLANNED] for i in items if PLANNED in i.stash}
    try:
        chosen = bench(config).select(list(planned.values()), asks=not only_shows(config))
        kept = set(map(id, chosen))
        axes.check_ids((i.nodeid, p) for i, p in planned.items() if id(p) in kept)
    except PromptbenchError as error:
        report_mistake(session, error)
        _leave_out_evals(items)
        return
    dropped = [i for i in items if i in nothing_left or (i in planned and id(planned[i]) not in kept)]
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        gone = set(dropped)
        items[:] = [i for i in items if i not in gone]


def _plan(config: pytest.Config, items: Sequence[pytest.Item]) -> set[pytest.Item]:
    """Note each test's cell. Returns the tests whose own ``parametrize`` the options have left without a cell."""
    nothing_left = set()
    known: dict[tuple[object, ...], tuple[Task, list[pytest.Mark]]] = {}  # tests of one function have the same marks
    for item in items:
        marker = item.get_closest_marker(MARKER)
        if marker is not None and _is_spread(item):
            params = item.callspec.params  # type: ignore[attr-defined] # of a pytest.Function that is parametrized
            key = (item.path, id(marker), *map(id, item.iter_markers("parametrize")))
            if key not in known:
                known[key] = _task(config, item, marker)
            task, own = known[key]
            if all(isinstance(params[a], str) for a in axes.AXES):
                item.stash[PLANNED] = axes.planned(task, *(params[a] for a in axes.AXES), skipped=is_skipped(item))
            elif axes.left_out(own):  # else nothing was named, and pytest skips the test
                nothing_left.add(item)
    return nothing_left


def begin(session: pytest.Session) -> None:
    """Start to generate what the selected tests want, if there are any and pytest is going to run them."""
    config = session.config
    planned = [i.stash[PLANNED] for i in session.items if PLANNED in i.stash]
    if not planned or only_shows(config) or not settings(config).runs_tests or is_broken(session):
        return
    ahead = [i.stash[PLANNED].cell for i in session.items if PLANNED in i.stash and not may_skip(i)]
    try:
        regression.check(settings(config))
        regression.check_tasks(settings(config), list({id(p.task): p.task for p in planned}.values()))
        bench(config).start(planned, ahead)
    except (PromptbenchError, OSError) as error:
        report_mistake(session, _no_home(settings(config).home, error) if isinstance(error, OSError) else error)
        _leave_out_evals(session.items)
        return
    config.pluginmanager.register(Brake(session, bench(config)), "promptbench-brake")
    if is_worker(config):
        config.pluginmanager.register(Interrupts(config), "promptbench-interrupts")
    else:
        bench(config).look_ahead(ahead)
        open_desk(config)


def _no_home(home: Path, error: OSError) -> OSError:
    reason = f"{error.filename or home}: {error.strerror or error}"
    return OSError(
        f"{reason}; answers are kept in {home}, before a test sees them: make it a folder that can be written to, or "
        "have another root directory by --rootdir"
    )


def _leave_out_evals(items: list[pytest.Item]) -> None:
    """Nothing is generated, even where pytest goes on after a mistake."""
    items[:] = [i for i in items if PLANNED not in i.stash]


def open_desk(config: pytest.Config) -> None:
    """In the controller or the only process: follow the session's plan, once there is one."""
    here = desk(config)
    here.begin(runs_tests=not config.pluginmanager.hasplugin("dsession"))
    if here.plan is not None and TICKER not in config.stash:
        config.stash[TICKER] = Ticker(config, here)
        controller = config.pluginmanager.get_plugin("dsession")
        config.pluginmanager.register(Attendance(here, controller=controller), "promptbench-attendance")
        config.pluginmanager.register(Interrupts(config), "promptbench-interrupts")
        if controller is not None:
            config.stash[TICKER].start()


def is_broken(session: pytest.Session) -> bool:
    """Whether a file has a mistake, so that no test is going to run. xdist goes on, but for a mistake of ours."""
    config = session.config
    found = config.stash.get(MISTAKEN, False) if is_worker(config) else bool(session.testsfailed)
    return found and not config.option.continue_on_collection_errors


def refuse_unspread(session: pytest.Session, items: Sequence[pytest.Function]) -> set[pytest.Item]:
    """A mistake for each of these tests with the marker that were not parametrized, or not by this marker alone.

    Returns the latter: which of its suites such a test is to run, nobody knows.
    """
    refused: set[pytest.Item] = set()
    told = set()
    for item in items:
        function = (item.parent, item.originalname)
        if not _is_spread(item):
            report_mistake(session, axes.not_spread(item.nodeid))
            continue
        try:
            _check_alone(item)
        except PromptbenchError as error:
            refused.add(item)
            if function not in told:  # which is many tests
                told.add(function)
                report_mistake(session, error)
    return refused


def _is_spread(item: pytest.Item) -> bool:
    """Whether a test has its place on all axes."""
    spec = getattr(item, "callspec", None)
    return spec is not None and spec.params.keys() >= {*axes.AXES}


def report_mistake(session: pytest.Session, error: Exception) -> None:
    """A mistake that only shows once everything is collected, told like one in a single file."""
    report = pytest.CollectReport(session.nodeid or "promptbench", "failed", legible(str(error)), [])
    mark(report, session.config, misuse=isinstance(error, UsageError))
    session.ihook.pytest_collectreport(report=report)


def mark(report: pytest.CollectReport, config: pytest.Config, *, misuse: bool) -> None:
    """Note what kind of mistake a report tells of, for this process and, with the report, for xdist's controller."""
    report.promptbench_mistake, report.promptbench_misuse = True, misuse  # type: ignore[attr-defined]
    config.stash[MISTAKEN] = True
    if misuse:
        config.stash[MISUSED] = True
