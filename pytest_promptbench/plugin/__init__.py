"""pytest options, hooks and fixtures: translate, and delegate to the session.

Nothing but pytest is imported until a test with the ``promptbench`` marker is collected, or an option of ours is given.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any

import pytest

from . import options

if TYPE_CHECKING:
    from ..candidate import GeneratedCandidate
    from ..ending import Line
    from ..session import Bench, Closing, Desk, Planned, Task
    from ..settings import Identity, Settings
    from ..sitdown import Sitting
    from .watch import Ticker

MARKER = "promptbench"

_SETTINGS: pytest.StashKey[Settings] = pytest.StashKey()
_IDENTITY: pytest.StashKey[Identity] = pytest.StashKey()
_BENCH: pytest.StashKey[Bench] = pytest.StashKey()
_DESK: pytest.StashKey[Desk] = pytest.StashKey()
_CLOSING: pytest.StashKey[Closing] = pytest.StashKey()
_PLANNED: pytest.StashKey[Planned] = pytest.StashKey()
_REPORT: pytest.StashKey[dict[str, str]] = pytest.StashKey()
_ERROR: pytest.StashKey[str | None] = pytest.StashKey()
_SITTING: pytest.StashKey[Sitting] = pytest.StashKey()
_GATE_LINES: pytest.StashKey[Sequence[Line]] = pytest.StashKey()
_TICKER: pytest.StashKey[Ticker] = pytest.StashKey()
_AHEAD: pytest.StashKey[set[int]] = pytest.StashKey()
_MISUSED: pytest.StashKey[bool] = pytest.StashKey()
"""Whether the mistake is one on the command line: its exit code is pytest's for that."""

_WENT_THROUGH = (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED)
"""Nothing broke the session off: neither Ctrl-C, nor a test that called ``pytest.exit`` with a code of its own."""
_NOT_OUR_WARNINGS = (  # of libraries below us, in threads of theirs beside a running test
    "ignore:::litellm",
    "ignore:::pydantic",
    "ignore:::aiohttp",
    "ignore:::mlflow",
    "ignore:::sqlalchemy",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    options.add(parser)


# -- the session's parts -------------------------------------------------------------------------------------------


def _is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")


def _settings(config: pytest.Config) -> Settings:
    if _SETTINGS not in config.stash:
        from ..errors import UsageError
        from ..settings import Identity, resolve

        worker = getattr(config, "workerinput", None)
        if worker is not None:
            identity = Identity.from_json(worker["promptbench"])
            number = int("".join(c for c in worker["workerid"] if c.isdigit()) or 0)
        else:
            identity, number = _identity(config), 0
        try:
            config.stash[_SETTINGS] = resolve(
                lambda name: options.value(config, name),
                given=lambda name: options.given(config, name),
                root=config.rootpath,
                cwd=config.invocation_params.dir,
                identity=identity,
                worker=number,
            )
        except UsageError as error:
            raise pytest.UsageError(str(error)) from None
    return config.stash[_SETTINGS]


def _identity(config: pytest.Config) -> Identity:
    if _IDENTITY not in config.stash:
        from ..scheduling import workers
        from ..settings import Identity

        config.stash[_IDENTITY] = Identity.new(workers=workers(getattr(config.option, "tx", None) or ()))
    return config.stash[_IDENTITY]


def _bench(config: pytest.Config) -> Bench:
    if _BENCH not in config.stash:
        from ..session import Bench

        config.stash[_BENCH] = Bench(_settings(config))
        for line in _NOT_OUR_WARNINGS:
            config.addinivalue_line("filterwarnings", line)
    return config.stash[_BENCH]


def _desk(config: pytest.Config) -> Desk:
    if _DESK not in config.stash:
        from ..session import Desk

        config.stash[_DESK] = Desk(_settings(config))
    return config.stash[_DESK]


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", f"{MARKER}(suite, experiment=None): run the test for every model x prompt x scenario of a suite file"
    )
    if _is_worker(config):
        return
    if getattr(config.option, "dist", "no") != "no":
        from .watch import Mistakes

        config.pluginmanager.register(Mistakes(config, _MISUSED), "promptbench-mistakes")
    if options.in_use(config):
        settings = _settings(config)  # a mistake in an option is said before anything is collected
        if not settings.runs_tests:
            config.option.dist, config.option.tx, config.option.numprocesses = "no", [], None
        if any(options.given(config, name) for name in ("bench_save", "bench_compare", "bench_compare_fail")):
            _check_gate(settings)


def _check_gate(settings: Settings) -> None:
    from .. import regression
    from ..errors import UsageError

    try:
        regression.check(settings)
    except UsageError as error:
        raise pytest.UsageError(str(error)) from None


def _check_tasks(config: pytest.Config, tasks: Sequence[Task]) -> None:
    from .. import regression

    regression.check_tasks(_settings(config), list({id(t): t for t in tasks}.values()))


# -- collecting ----------------------------------------------------------------------------------------------------


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    marker = metafunc.definition.get_closest_marker(MARKER)
    if marker is not None:
        from ..errors import PromptbenchError, UsageError

        try:
            _parametrize(metafunc, marker)
        except PromptbenchError as error:
            raise _Mistake(str(error), misuse=isinstance(error, UsageError)) from None


@pytest.hookimpl(specname="pytest_generate_tests", trylast=True)
def pytest_refuse_our_candidate_without_the_marker(metafunc: pytest.Metafunc) -> None:
    """After whoever else may have parametrized a test over candidates of its own."""
    if metafunc.definition.get_closest_marker(MARKER) is None:
        makers = getattr(metafunc, "_arg2fixturedefs", {}).get("candidate")
        if makers and makers[-1].func.__module__ == __name__:
            raise _Mistake(_no_marker(metafunc.definition.nodeid, "candidate"), misuse=False)


class _Mistake(pytest.Collector.CollectError):
    """A mistake in a file of ours or on the command line, as a collection error without a traceback."""

    def __init__(self, message: str, *, misuse: bool) -> None:
        super().__init__(message)
        self.misuse = misuse


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    error = getattr(report.call.excinfo, "value", None) if report.failed else None
    if isinstance(error, _Mistake):
        _mark(report, collector.config, misuse=error.misuse)
    return report


def _mark(report: pytest.CollectReport, config: pytest.Config, *, misuse: bool) -> None:
    """Note what kind of mistake a report tells of, for this process and, with the report, for xdist's controller."""
    report.promptbench_mistake, report.promptbench_misuse = True, misuse  # type: ignore[attr-defined]
    if misuse:
        config.stash[_MISUSED] = True


def _parametrize(metafunc: pytest.Metafunc, marker: pytest.Mark) -> None:
    from .. import axes

    test = metafunc.definition.nodeid
    if "candidate" not in metafunc.fixturenames:
        raise axes.no_candidate(test)
    task, own = _task(metafunc.config, metafunc.definition, marker)
    for group in axes.arrange(task.suite, own, test=test):
        metafunc.parametrize(group.argnames, group.values, ids=group.ids, scope="function")
    parametrize = metafunc.parametrize

    def others(*args: Any, _param_mark: pytest.Mark | None = None, **kwargs: Any) -> None:
        """What pytest itself parametrizes afterwards: all marks but those that have their place already."""
        if not any(_param_mark is m for m in own):
            parametrize(*args, _param_mark=_param_mark, **kwargs)

    metafunc.parametrize = others  # type: ignore[method-assign]


def _task(config: pytest.Config, test: Any, marker: pytest.Mark) -> tuple[Task, list[pytest.Mark]]:
    """What a test's marker names, and the test's own ``parametrize`` marks over axes of it."""
    from .. import axes

    path = axes.suite_path(marker.args, marker.kwargs, test=test.nodeid, file=test.path)
    own = [m for m in test.iter_markers("parametrize") if axes.names_an_axis(m.args, m.kwargs)]
    instead = axes.overridden(own, test=test.nodeid)
    return _bench(config).task(path, marker.kwargs.get("experiment"), **instead), own


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function) and not hasattr(item, "callspec") and item.get_closest_marker(MARKER):
            from .. import axes

            _report_mistake(session, axes.not_spread(item.nodeid))
    if _BENCH not in config.stash:
        return
    from .. import axes
    from ..errors import PromptbenchError

    nothing_left = set()
    known: dict[tuple[object, ...], tuple[Task, list[pytest.Mark]]] = {}  # tests of one function have the same marks
    for item in items:
        marker, spec = item.get_closest_marker(MARKER), getattr(item, "callspec", None)
        if marker is not None and spec is not None:
            key = (item.path, id(marker), *map(id, item.iter_markers("parametrize")))
            if key not in known:
                known[key] = _task(config, item, marker)
            task, own = known[key]
            if all(isinstance(spec.params[a], str) for a in axes.AXES):
                item.stash[_PLANNED] = axes.planned(task, *(spec.params[a] for a in axes.AXES))
            elif axes.left_out(own):  # else nothing was named, and pytest skips the test
                nothing_left.add(item)
    planned = {i: i.stash[_PLANNED] for i in items if _PLANNED in i.stash}
    try:
        chosen = _bench(config).select(list(planned.values()), asks=not _only_shows(config))
        kept = set(map(id, chosen))
        axes.check_ids((i.nodeid, p) for i, p in planned.items() if id(p) in kept)
    except PromptbenchError as error:
        _report_mistake(session, error)
        items[:] = [i for i in items if i not in planned]  # nothing is generated, even where pytest goes on
        return
    dropped = [i for i in items if i in nothing_left or (i in planned and id(planned[i]) not in kept)]
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        gone = set(dropped)
        items[:] = [i for i in items if i not in gone]


def pytest_itemcollected(item: pytest.Item) -> None:
    """Let -k find names that are not ASCII: in a test's id pytest writes them with escapes."""
    spec = getattr(item, "callspec", None) if _BENCH in item.config.stash else None
    if spec is not None and item.get_closest_marker(MARKER) is not None:
        from ..axes import AXES

        names = (spec.params.get(axis) for axis in AXES)
        item.extra_keyword_matches.update(n for n in names if isinstance(n, str) and not n.isascii())


def _report_mistake(session: pytest.Session, error: Exception) -> None:
    """A mistake that only shows once everything is collected, told like one in a single file."""
    from ..errors import UsageError

    report = pytest.CollectReport(session.nodeid or "promptbench", "failed", str(error), [])
    _mark(report, session.config, misuse=isinstance(error, UsageError))
    session.ihook.pytest_collectreport(report=report)


@pytest.hookimpl(tryfirst=True)  # before xdist tells the controller, which then looks for the plan
def pytest_collection_finish(session: pytest.Session) -> None:
    config = session.config
    planned = [i.stash[_PLANNED] for i in session.items if _PLANNED in i.stash]
    if not planned or _only_shows(config) or not _settings(config).runs_tests or _broken(session):
        return
    from ..errors import PromptbenchError
    from .watch import Brake

    bench = _bench(config)
    ahead = [i.stash[_PLANNED].cell for i in session.items if _PLANNED in i.stash and not _may_skip(i)]
    try:
        if _settings(config).compare is not None:
            _check_tasks(config, [p.task for p in planned])
        bench.start(planned, ahead)
    except (PromptbenchError, OSError) as error:
        home = _settings(config).home
        _report_mistake(session, OSError(f"{home}: {error}") if isinstance(error, OSError) else error)
        return
    config.pluginmanager.register(Brake(session, bench), "promptbench-brake")
    if not _is_worker(config):
        bench.look_ahead(ahead)
        _begin(config)


def _only_shows(config: pytest.Config) -> bool:
    """Whether this session shows what there is and runs no test."""
    modes = ("collectonly", "showfixtures", "show_fixtures_per_test", "setupplan")
    return any(getattr(config.option, mode, False) for mode in modes)


def _broken(session: pytest.Session) -> bool:
    """Whether a file has a mistake, so that pytest is not going to run any test."""
    return bool(session.testsfailed) and not session.config.option.continue_on_collection_errors


def _begin(config: pytest.Config) -> None:
    from .watch import Attendance, Ticker

    desk = _desk(config)
    desk.begin(runs_tests=not config.pluginmanager.hasplugin("dsession"))
    if desk.plan is not None and _TICKER not in config.stash:
        config.stash[_TICKER] = Ticker(config, desk)
        config.pluginmanager.register(Attendance(desk), "promptbench-attendance")
        if config.pluginmanager.hasplugin("dsession"):
            config.stash[_TICKER].start()


# -- running -------------------------------------------------------------------------------------------------------


@pytest.fixture
def model(request: pytest.FixtureRequest) -> Any:
    """The model's name; given by the ``promptbench`` marker."""
    pytest.fail(_no_marker(request.node.nodeid, "model"), pytrace=False)


@pytest.fixture
def prompt(request: pytest.FixtureRequest) -> Any:
    """The prompt's version; given by the ``promptbench`` marker."""
    pytest.fail(_no_marker(request.node.nodeid, "prompt"), pytrace=False)


@pytest.fixture
def scenario(request: pytest.FixtureRequest) -> Any:
    """The scenario's id; given by the ``promptbench`` marker."""
    pytest.fail(_no_marker(request.node.nodeid, "scenario"), pytrace=False)


def _no_marker(test: str, name: str) -> str:
    return (
        f"{test}: the test has no promptbench marker, so there is no {name}; add one that names a suite file, "
        'as in @pytest.mark.promptbench("tips.yaml")'
    )


@pytest.fixture
def candidate(request: pytest.FixtureRequest, model: str, prompt: str, scenario: str) -> GeneratedCandidate:
    """What the test's cell generated: see :class:`pytest_promptbench.candidate.GeneratedCandidate`."""
    from ..candidate import GeneratedCandidate

    config, item = request.config, request.node
    bench, planned = _bench(config), item.stash[_PLANNED]
    if _is_worker(config):
        _look_ahead(config, item.session.items)
    ticker = config.stash.get(_TICKER, None)
    made = bench.candidate(planned, tick=ticker.tick_uncaptured if ticker else lambda: None)
    item.stash[_ERROR] = made.error  # noted here, since a fixture of the user's may make something else of it
    item.stash[_REPORT] = {"experiment": planned.task.experiment, "candidate": bench.key(planned, made)}
    if made.failed and made.error is not None and made.error.startswith("not generated"):
        del item.stash[_REPORT]
    return GeneratedCandidate(made)


def _look_ahead(config: pytest.Config, items: Sequence[pytest.Item]) -> None:
    """Have generated what this xdist worker is going to run: the cells that it has heard of since its last test."""
    known = config.stash.setdefault(_AHEAD, set())
    fresh: list[int] = []
    for plugin in config.pluginmanager.get_plugins():
        queue = getattr(plugin, "torun", None)
        if queue is not None:
            lock = queue.lock() if hasattr(queue, "lock") else queue.mutex  # before xdist 3.7 it is a plain queue.Queue
            with lock as found:
                waiting = found if hasattr(queue, "lock") else queue.queue
                ahead = (getattr(plugin, "nextitem_index", None), *waiting)
                fresh = [i for i in ahead if isinstance(i, int) and i not in known]
    if fresh:
        known.update(fresh)
        wanted = (items[i] for i in fresh if _PLANNED in items[i].stash and not _may_skip(items[i]))
        _bench(config).look_ahead([item.stash[_PLANNED].cell for item in wanted])


def _may_skip(item: pytest.Item) -> bool:
    """Whether marks may skip a test: then nothing is generated for it ahead. Should it run after all, it asks itself.

    A condition that is a text is evaluated by pytest alone, once the test's turn has come.
    """
    if item.get_closest_marker("skip") is not None:
        return True
    conditions = [
        c
        for m in item.iter_markers("skipif")
        for c in (*m.args, *([m.kwargs["condition"]] if "condition" in m.kwargs else []))
    ]
    return any(conditions)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> None:
    _end_fork(item.config)


def _end_fork(config: pytest.Config) -> None:
    """End a child that a test forked and that comes back to pytest, as after ``sys.exit()``: nobody generates in it."""
    if _BENCH in config.stash and config.stash[_BENCH].is_fork:
        os._exit(pytest.ExitCode.TESTS_FAILED)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    error = item.stash.get(_ERROR, None)
    if error is not None:
        pytest.fail(f"no candidate: {error}", pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if _REPORT in item.stash and report.when == "setup":
        report.promptbench = item.stash[_REPORT]  # type: ignore[attr-defined] # travels with the report under xdist
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    config = session.config
    if _is_worker(config) or _SETTINGS not in config.stash or _settings(config).runs_tests:
        return None
    if _only_shows(config) or _broken(session):
        return None
    from .. import champions, reading, regression, reviewing, sitdown
    from ..errors import PromptbenchError

    settings = _settings(config)
    tasks = config.stash[_BENCH].tasks if _BENCH in config.stash else ()
    if settings.read or settings.judge_queue or settings.judge_collect:
        # As a session that runs tests does, these look at the suites of the selected tests alone.
        selected = {id(i.stash[_PLANNED].task) for i in session.items if _PLANNED in i.stash}
        tasks = tuple(t for t in tasks if id(t) in selected)
    selected_cells = {(p.task.experiment, *p.cell.names) for i in session.items if (p := i.stash.get(_PLANNED, None))}
    steps: dict[str, Any] = {
        "judge_export": functools.partial(sitdown.export_packet, selected=selected_cells),
        "judge_apply": sitdown.apply_packet,
        "judge_queue": functools.partial(reviewing.fill_queue, selected=selected_cells),
        "judge_collect": reviewing.collect_queue,
        "read": reading.read_back,
        "promote": champions.promote,
        "rollback": champions.roll_back,
        "self_test": regression.run_self_test,
    }
    try:
        for name, step in steps.items():
            if getattr(settings, name) is not None:
                config.stash[_SITTING] = step(settings, tasks, getattr(settings, name))
    except PromptbenchError as error:
        raise pytest.UsageError(str(error)) from None
    return True


# -- under xdist, in the controller --------------------------------------------------------------------------------


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    node.workerinput["promptbench"] = _identity(node.config).to_json()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_node_collection_finished(node: Any) -> None:
    if _identity(node.config).folder(node.config.rootpath).exists():
        _begin(node.config)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Work stealing where there are evals and the user chose no distribution; see ``scheduling``."""
    by_variable = os.environ.get("PYTEST_ADDOPTS", "").split()
    args = (*map(str, config.invocation_params.args), *config.getini("addopts"), *by_variable)
    if config.getoption("dist") != "load" or any(a.startswith(("--dist", "-d")) for a in args):
        return None
    from ..scheduling import LateScheduling

    return LateScheduling(config, log, wants_stealing=lambda: _desk_has_plan(config))


def _desk_has_plan(config: pytest.Config) -> bool:
    return _DESK in config.stash and config.stash[_DESK].plan is not None


# -- ending --------------------------------------------------------------------------------------------------------


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    config = session.config
    _end_fork(config)
    if _DESK in config.stash and not _is_worker(config):
        desk = config.stash[_DESK]
        if exitstatus not in _WENT_THROUGH and desk.plan is not None:
            from ..session import PATIENCE

            _say(config, PATIENCE)
            with contextlib.suppress(KeyboardInterrupt):
                desk.stop_workers()
    if _SITTING in config.stash and exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        session.exitstatus = exitstatus = config.stash[_SITTING].code  # no test was meant to run
    if _BENCH in config.stash:
        config.stash[_BENCH].close()
    if _DESK in config.stash and not _is_worker(config):
        if _TICKER in config.stash:
            config.stash[_TICKER].stop()
        interrupted = exitstatus not in _WENT_THROUGH
        config.stash[_CLOSING] = closing = config.stash[_DESK].finish(
            judge=not interrupted,
            stopped=bool(interrupted or session.shouldstop or session.shouldfail),
            say=lambda line: _say(config, line),
        )
        if any(j.interrupted for j in closing.judged):
            session.exitstatus = exitstatus = pytest.ExitCode.INTERRUPTED
        elif any(j.unavailable for j in closing.judged) and exitstatus == pytest.ExitCode.OK:
            session.exitstatus = exitstatus = pytest.ExitCode.TESTS_FAILED
    _settle(session, exitstatus)
    if config.stash.get(_MISUSED, False) and not _is_worker(config):
        session.exitstatus = pytest.ExitCode.USAGE_ERROR


def _settle(session: pytest.Session, exitstatus: int) -> None:
    """Baseline and gate of what the session ended with. A worse exit status is never overwritten."""
    config = session.config
    done = config.stash.get(_CLOSING, None) or config.stash.get(_SITTING, None)
    if done is None or not (done.boards or done.tasks) or _is_worker(config):
        return
    from ..ending import settle

    code, lines = settle(_settings(config), done.boards, done.tasks)
    config.stash[_GATE_LINES] = lines
    clean = exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
    if code and (clean or (code == pytest.ExitCode.USAGE_ERROR and exitstatus == pytest.ExitCode.TESTS_FAILED)):
        session.exitstatus = code


def _say(config: pytest.Config, line: str) -> None:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None:
        from .watch import write_on_its_own

        write_on_its_own(reporter, line)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    closing, sitting = config.stash.get(_CLOSING, None), config.stash.get(_SITTING, None)
    width, color = terminalreporter._tw.fullwidth, terminalreporter._tw.hasmarkup
    if closing is not None and _desk(config).plan is not None:
        from ..ending import summary

        terminalreporter.section("promptbench")
        for line, markup in summary(closing, _desk(config), width=width, color=color):
            terminalreporter.write_line(line, **markup)
    if sitting is not None:
        from ..ending import judged

        terminalreporter.section("promptbench")
        for line, markup in judged(sitting, width=width, color=color):
            terminalreporter.write_line(line, **markup)
    for line, markup in config.stash.get(_GATE_LINES, ()):
        terminalreporter.write_line(line, **markup)
    if _only_shows(config) and (undone := options.undone(config)):
        shown = "pytest was to show what there is and to run nothing (--collect-only or the like)"
        terminalreporter.write_line(f"NOT DONE: {', '.join(undone)}; {shown}", yellow=True, bold=True)
