"""pytest options, hooks and fixtures: translate, and delegate to the session.

Nothing but pytest is imported until a test with the ``promptbench`` marker is collected, or an option of ours is given.
"""

from __future__ import annotations

import argparse
import contextlib
import threading
from collections.abc import Generator, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .axes import Axis
    from .candidate import GeneratedCandidate
    from .ending import Line
    from .session import Bench, Closing, Desk, Planned
    from .settings import Identity, Settings
    from .sitdown import Sitting

MARKER = "promptbench"
AXES = ("model", "prompt", "scenario")

_SETTINGS: pytest.StashKey[Settings] = pytest.StashKey()
_IDENTITY: pytest.StashKey[Identity] = pytest.StashKey()
_BENCH: pytest.StashKey[Bench] = pytest.StashKey()
_DESK: pytest.StashKey[Desk] = pytest.StashKey()
_CLOSING: pytest.StashKey[Closing] = pytest.StashKey()
_PLANNED: pytest.StashKey[Planned] = pytest.StashKey()
_REPORT: pytest.StashKey[dict[str, str]] = pytest.StashKey()
_SITTING: pytest.StashKey[Sitting] = pytest.StashKey()
_GATE_LINES: pytest.StashKey[Sequence[Line]] = pytest.StashKey()
_TICKER: pytest.StashKey[Ticker] = pytest.StashKey()


# -- options ------------------------------------------------------------------------------------------------------


def _positive(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return value


def _dollars(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not an amount in US dollars")
    return value


_OPTIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("--bench-experiment", {"metavar": "NAME", "help": "MLflow experiment (default: <task>-bench-<YYYY-MM-DD>)"}),
    ("--bench-models", {"metavar": "A,B", "help": "only these models"}),
    ("--bench-prompts", {"metavar": "A,B", "help": "only these prompt versions"}),
    (
        "--bench-tag",
        {"metavar": "KEY=VALUE", "action": "append", "help": "one more MLflow tag on every run (repeatable)"},
    ),
    (
        "--bench-concurrency",
        {"metavar": "N", "type": _positive, "help": "generations in flight, all workers together (default: 16)"},
    ),
    (
        "--bench-no-cache",
        {"action": "store_true", "help": "generate again even what this exact request was answered before"},
    ),
    ("--bench-report", {"metavar": "DIR", "help": "where leaderboards go (default: .promptbench/report)"}),
    (
        "--bench-save",
        {"metavar": "REF", "nargs": "?", "const": "", "help": "write a baseline (default: evals/baseline.json)"},
    ),
    (
        "--bench-compare",
        {"metavar": "REF", "nargs": "?", "const": "", "help": "compare with a baseline (default: evals/baseline.json)"},
    ),
    (
        "--bench-compare-fail",
        {
            "metavar": "EXPR",
            "action": "append",
            "help": "tolerance: composite:0.5 (points) or composite:5%% (repeatable)",
        },
    ),
    ("--bench-strict", {"action": "store_true", "help": "with --bench-compare: inconclusive fails too"}),
    (
        "--bench-self-test",
        {
            "metavar": "N",
            "type": _positive,
            "help": "compare the baseline N times with itself under resampling, and print how often the gate fails",
        },
    ),
    (
        "--bench-read",
        {
            "action": "store_true",
            "help": "write the leaderboards of what MLflow holds; runs no test and generates nothing",
        },
    ),
    ("--bench-promote", {"metavar": "TASK", "help": "make the task's best prompt its champion, if it has earned it"}),
    (
        "--bench-promote-policy",
        {
            "metavar": "TIERS",
            "choices": ("both", "sit-down", "auto"),
            "help": "with --bench-promote: which tiers decide, both (default), sit-down or auto",
        },
    ),
    (
        "--bench-promote-within",
        {
            "metavar": "EXPR",
            "action": "append",
            "help": "with --bench-promote: cost:1.5x, latency:2x of the champion's at most (default 2x; repeatable)",
        },
    ),
    ("--bench-rollback", {"metavar": "TASK", "help": "make the task's champion before the present one champion again"}),
    ("--bench-shard", {"metavar": "I/N", "help": "only the I-th of N disjoint shards of the selected cells"}),
    (
        "--bench-max-cost",
        {"metavar": "USD", "type": _dollars, "help": "stop generating before the session's known cost passes this"},
    ),
    (
        "--bench-allow-unpriced",
        {"action": "store_true", "help": "with --bench-max-cost: allow models whose price is unknown"},
    ),
    ("--judge-export", {"metavar": "PATH", "help": "write a packet of the pending candidates; runs no test"}),
    ("--judge-apply", {"metavar": "PATH", "help": "take in a scored packet; runs no test"}),
    (
        "--judge-queue",
        {"metavar": "NAME", "help": "put the pending candidates into a review queue of MLflow's own pages"},
    ),
    ("--judge-collect", {"metavar": "NAME", "help": "take in what people completed in that review queue"}),
    ("--judge-auto", {"action": "store_true", "help": "have the suite's automatic judge score what it has not scored"}),
    (
        "--judge-audit",
        {
            "metavar": "N",
            "type": _positive,
            "help": "with --judge-export: only N candidates, chosen to check the automatic judge",
        },
    ),
    (
        "--judge-duplicates",
        {
            "metavar": "K",
            "type": _positive,
            "help": "with --judge-export: K candidates stand there twice, to see how well a judge agrees with itself",
        },
    ),
    ("--judge-reveal", {"action": "store_true", "help": "with --judge-export or --judge-queue: not blind"}),
)
_NOT_OUR_WARNINGS = (  # of libraries below us, while they are imported beside a running test
    "ignore:Items? .* using the `ReadOnly` qualifier:UserWarning",
    "ignore:::litellm",
    "ignore:::pydantic",
    "ignore:::aiohttp",
    "ignore:::mlflow",
    "ignore:::sqlalchemy",
)
_GATE = ("bench_compare", "bench_compare_fail", "bench_strict")
_NO_INI = {
    "judge_export", "judge_apply", "judge_queue", "judge_collect", "judge_audit", "judge_duplicates", "judge_reveal",
    "bench_shard", "bench_read", "bench_self_test", "bench_promote", "bench_rollback",
}  # fmt: skip


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("promptbench", "LLM evals (pytest-promptbench)")
    for flag, details in _OPTIONS:
        group.addoption(flag, default=None, **details)
        name = flag.removeprefix("--").replace("-", "_")
        if name not in _NO_INI:
            kind: Any = {"store_true": "bool", "append": "linelist"}.get(details.get("action", ""), "string")
            for spelling in (name, flag.removeprefix("--")):
                parser.addini(spelling, f"default of {flag}", type=kind, default=None)


def _option(config: pytest.Config, name: str) -> Any:
    """The command line's value of an option, else the ini's, else None."""
    value = config.getoption(name, default=None)
    if value is not None or name in _NO_INI or name not in _INI_NAMES:
        return value
    kind = next(d for f, d in _OPTIONS if f.removeprefix("--").replace("-", "_") == name).get("type")
    for spelling in (name, name.replace("_", "-")):
        text = config.getini(spelling)
        if text not in (None, "", [], False):
            try:
                return kind(text) if kind else text
            except argparse.ArgumentTypeError as error:
                raise pytest.UsageError(f"ini key {spelling}: {error}") from None
    return None


_INI_NAMES = {f.removeprefix("--").replace("-", "_") for f, _ in _OPTIONS} - _NO_INI


# -- the session's parts -------------------------------------------------------------------------------------------


def _is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")


def _settings(config: pytest.Config) -> Settings:
    if _SETTINGS not in config.stash:
        from .errors import UsageError
        from .settings import Identity, resolve

        worker = getattr(config, "workerinput", None)
        if worker is not None:
            identity = Identity.from_json(worker["promptbench"])
            number = int("".join(c for c in worker["workerid"] if c.isdigit()) or 0)
        else:
            identity, number = _identity(config), 0
        try:
            config.stash[_SETTINGS] = resolve(
                lambda name: _option(config, name),
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
        from .settings import Identity

        config.stash[_IDENTITY] = Identity.new(workers=len(getattr(config.option, "tx", None) or ()) or 1)
    return config.stash[_IDENTITY]


def _bench(config: pytest.Config) -> Bench:
    if _BENCH not in config.stash:
        from .session import Bench

        config.stash[_BENCH] = Bench(_settings(config))
        for line in _NOT_OUR_WARNINGS:
            config.addinivalue_line("filterwarnings", line)
    return config.stash[_BENCH]


def _desk(config: pytest.Config) -> Desk:
    if _DESK not in config.stash:
        from .session import Desk

        config.stash[_DESK] = Desk(_settings(config))
    return config.stash[_DESK]


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", f"{MARKER}(suite, experiment=None): run the test for every model x prompt x scenario of a suite file"
    )
    if getattr(config.option, "dist", "no") != "no" and not _is_worker(config):
        config.pluginmanager.register(Mistakes(), "promptbench-mistakes")
    given = [flag for flag, _ in _OPTIONS if config.getoption(flag.removeprefix("--").replace("-", "_")) is not None]
    if given and not _is_worker(config):
        settings = _settings(config)  # a mistake on the command line is said before anything is collected
        if not settings.runs_tests:
            config.option.dist, config.option.tx, config.option.numprocesses = "no", [], None
    if not _is_worker(config) and any(_option(config, n) is not None for n in _GATE):
        from . import regression
        from .errors import UsageError

        try:
            regression.check(_settings(config))
        except UsageError as error:
            raise pytest.UsageError(str(error)) from None


# -- collecting ----------------------------------------------------------------------------------------------------


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    marker = metafunc.definition.get_closest_marker(MARKER)
    if marker is not None:
        from . import axes
        from .errors import PromptbenchError

        try:
            _parametrize(metafunc, marker, axes)
        except PromptbenchError as error:
            raise _Mistake(str(error)) from None


class _Mistake(pytest.Collector.CollectError):
    """A mistake in a file of ours, as a collection error without a traceback."""


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if report.failed and isinstance(getattr(report.call.excinfo, "value", None), _Mistake):
        report.promptbench_mistake = True  # type: ignore[attr-defined] # travels with the report under xdist
    return report


def _parametrize(metafunc: pytest.Metafunc, marker: pytest.Mark, axes: Any) -> None:
    path = axes.suite_path(marker.args, marker.kwargs, test=metafunc.definition.nodeid, file=metafunc.definition.path)
    if "candidate" not in metafunc.fixturenames:
        raise axes.no_candidate(metafunc.definition.nodeid)
    task = _bench(metafunc.config).task(path, marker.kwargs.get("experiment"))
    own = metafunc.definition.own_markers
    given = [m for m in own if m.name == "parametrize" and axes.names_an_axis(m.args, m.kwargs)]
    groups: Sequence[Axis] = axes.arrange(task.suite, given, test=metafunc.definition.nodeid)
    own[:] = [m for m in own if m not in given]  # pytest would parametrize over them once more
    for group in groups:
        metafunc.parametrize(group.argnames, group.values, ids=group.ids, scope="function")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if _BENCH not in config.stash:
        return
    from . import axes
    from .grid import shard

    bench = _bench(config)
    cells: list[pytest.Item] = []
    for item in items:
        marker, spec = item.get_closest_marker(MARKER), getattr(item, "callspec", None)
        if marker is not None and spec is not None:
            path = axes.suite_path(marker.args, marker.kwargs, test=item.nodeid, file=item.path)
            task = bench.task(path, marker.kwargs.get("experiment"))
            item.stash[_PLANNED] = axes.planned(task, *(spec.params[a] for a in AXES))
            cells.append(item)
    settings = _settings(config)
    if settings.shard is not None:
        # By name: another plugin may have put the tests into an order of its own, which is another in each shard.
        kept = set(map(id, shard(sorted(cells, key=lambda i: i.nodeid), *settings.shard)))
        dropped = [i for i in cells if id(i) not in kept]
        if dropped:
            config.hook.pytest_deselected(items=dropped)
            gone = set(map(id, dropped))
            items[:] = [i for i in items if id(i) not in gone]


def pytest_collection_finish(session: pytest.Session) -> None:
    config = session.config
    planned = [i.stash[_PLANNED] for i in session.items if _PLANNED in i.stash]
    if not planned or config.option.collectonly or not _settings(config).runs_tests:
        return
    bench = _bench(config)
    bench.start(planned)
    config.pluginmanager.register(Brake(session, bench), "promptbench-brake")
    if not _is_worker(config):
        bench.look_ahead([p.cell for p in planned])
        _begin(config)


def _begin(config: pytest.Config) -> None:
    desk = _desk(config)
    desk.begin()
    if desk.plan is not None and _TICKER not in config.stash:
        config.stash[_TICKER] = Ticker(config, desk)
        config.pluginmanager.register(Attendance(desk), "promptbench-attendance")
        if config.pluginmanager.hasplugin("dsession"):
            config.stash[_TICKER].start()


# -- running -------------------------------------------------------------------------------------------------------


@pytest.fixture
def model(request: pytest.FixtureRequest) -> Any:
    """The model's name; given by the ``promptbench`` marker."""
    raise pytest.UsageError(f"{request.node.nodeid}: the test has no promptbench marker, so there is no model")


@pytest.fixture
def prompt(request: pytest.FixtureRequest) -> Any:
    """The prompt's version; given by the ``promptbench`` marker."""
    raise pytest.UsageError(f"{request.node.nodeid}: the test has no promptbench marker, so there is no prompt")


@pytest.fixture
def scenario(request: pytest.FixtureRequest) -> Any:
    """The scenario's id; given by the ``promptbench`` marker."""
    raise pytest.UsageError(f"{request.node.nodeid}: the test has no promptbench marker, so there is no scenario")


@pytest.fixture
def candidate(request: pytest.FixtureRequest, model: str, prompt: str, scenario: str) -> GeneratedCandidate:
    """What the test's cell generated: see :class:`pytest_promptbench.candidate.GeneratedCandidate`."""
    from .candidate import GeneratedCandidate

    config, item = request.config, request.node
    bench, planned = _bench(config), item.stash[_PLANNED]
    if _is_worker(config):
        bench.look_ahead(_queue(config, item))
    ticker = config.stash.get(_TICKER, None)
    made = bench.candidate(planned, tick=ticker.tick_uncaptured if ticker else lambda: None)
    item.stash[_REPORT] = {"experiment": planned.task.experiment, "candidate": bench.key(planned, made)}
    if made.failed and made.error is not None and made.error.startswith("not generated"):
        del item.stash[_REPORT]
    return GeneratedCandidate(made)


def _queue(config: pytest.Config, item: pytest.Item) -> Iterable[Any]:
    """The cells that this xdist worker is going to run, as far as it knows: the running test, then its queue."""
    items = item.session.items
    indices: list[int] = []
    for plugin in config.pluginmanager.get_plugins():
        queue = getattr(plugin, "torun", None)
        if queue is not None:
            with queue.lock() as waiting:
                indices = [i for i in (getattr(plugin, "nextitem_index", None), *waiting) if isinstance(i, int)]
    ahead = [item, *(items[i] for i in indices)]
    return [i.stash[_PLANNED].cell for i in ahead if _PLANNED in i.stash]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    made = getattr(item, "funcargs", {}).get("candidate")
    if _PLANNED in item.stash and made is not None and made.error is not None:
        pytest.fail(f"no candidate: {made.error}", pytrace=False)


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
    from . import champions, reading, regression, reviewing, sitdown
    from .errors import PromptbenchError

    settings = _settings(config)
    tasks = config.stash[_BENCH].tasks if _BENCH in config.stash else ()
    if settings.read:  # as a session that runs tests does, it looks at the suites of the selected tests alone
        selected = {id(i.stash[_PLANNED].task) for i in session.items if _PLANNED in i.stash}
        tasks = tuple(t for t in tasks if id(t) in selected)
    steps: dict[str, Any] = {
        "judge_export": sitdown.export_packet,
        "judge_apply": sitdown.apply_packet,
        "judge_queue": reviewing.fill_queue,
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
def pytest_xdist_node_collection_finished(node: Any, ids: Sequence[str]) -> None:
    if any("[" in i for i in ids):
        _begin(node.config)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Work stealing where there are evals and the user chose no distribution; see ``scheduling``."""
    given = any(str(a).startswith(("--dist", "-d")) for a in config.invocation_params.args)
    if config.getoption("dist") != "load" or given or "--dist" in " ".join(config.getini("addopts")):
        return None
    from .scheduling import LateScheduling

    return LateScheduling(config, log, wants_stealing=lambda: _desk_has_plan(config))


def _desk_has_plan(config: pytest.Config) -> bool:
    return _DESK in config.stash and config.stash[_DESK].plan is not None


# -- ending --------------------------------------------------------------------------------------------------------


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    config = session.config
    if _DESK in config.stash and not _is_worker(config):
        desk = config.stash[_DESK]
        if exitstatus == pytest.ExitCode.INTERRUPTED and desk.plan is not None:
            _say(config, "promptbench: waiting for answers that are paid for (Ctrl-C again gives them up)")
            _patiently(desk.stop_workers)
    if _SITTING in config.stash and exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        session.exitstatus = exitstatus = config.stash[_SITTING].code  # no test was meant to run
    if _BENCH in config.stash:
        config.stash[_BENCH].close()
    if _DESK in config.stash and not _is_worker(config):
        if _TICKER in config.stash:
            config.stash[_TICKER].stop()
        interrupted = exitstatus == pytest.ExitCode.INTERRUPTED
        config.stash[_CLOSING] = closing = config.stash[_DESK].finish(
            judge=not interrupted, say=lambda line: _say(config, line)
        )
        if any(j.unavailable for j in closing.judged) and exitstatus == pytest.ExitCode.OK:
            session.exitstatus = exitstatus = pytest.ExitCode.TESTS_FAILED
    _settle(session, exitstatus)


def _settle(session: pytest.Session, exitstatus: int) -> None:
    """Baseline and gate of what the session ended with. A worse exit status is never overwritten."""
    config = session.config
    done = config.stash.get(_CLOSING, None) or config.stash.get(_SITTING, None)
    if done is None or not done.boards or _is_worker(config):
        return
    from .ending import settle

    code, lines = settle(_settings(config), done.boards, done.tasks)
    config.stash[_GATE_LINES] = lines
    clean = exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
    if code and (clean or (code == pytest.ExitCode.USAGE_ERROR and exitstatus == pytest.ExitCode.TESTS_FAILED)):
        session.exitstatus = code


def _patiently(wait: Any) -> None:
    with contextlib.suppress(KeyboardInterrupt):
        wait()


def _say(config: pytest.Config, line: str) -> None:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None:
        reporter.ensure_newline()
        reporter.write_line(line)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    closing, sitting = config.stash.get(_CLOSING, None), config.stash.get(_SITTING, None)
    width, color = terminalreporter._tw.fullwidth, terminalreporter._tw.hasmarkup
    if closing is not None and _desk(config).plan is not None:
        from .ending import summary

        terminalreporter.section("promptbench")
        for line, markup in summary(closing, _desk(config), width=width, color=color):
            terminalreporter.write_line(line, **markup)
    if sitting is not None:
        from .ending import judged

        terminalreporter.section("promptbench")
        for line, markup in judged(sitting, width=width, color=color):
            terminalreporter.write_line(line, **markup)
    for line, markup in config.stash.get(_GATE_LINES, ()):
        terminalreporter.write_line(line, **markup)


class Mistakes:
    """Gives a session whose files have a mistake the exit code 2 under xdist too, which says 1 of collection errors."""

    def __init__(self) -> None:
        self._seen = False

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._seen = self._seen or getattr(report, "promptbench_mistake", False)

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if self._seen and exitstatus in (pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.INTERRUPTED


class Brake:
    """Stops generation as soon as pytest is to stop (``-x``, ``--maxfail``, Ctrl-C), not only when it has stopped."""

    def __init__(self, session: pytest.Session, bench: Bench) -> None:
        self._session, self._bench = session, bench

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self) -> None:
        reason = self._session.shouldfail or self._session.shouldstop
        if reason:
            self._bench.halt(str(reason))

    @pytest.hookimpl(tryfirst=True)
    def pytest_keyboard_interrupt(self) -> None:
        """Before the terminal reporter's, which takes seconds to word a long traceback on a busy machine."""
        self._bench.halt("the session was interrupted")


class Attendance:
    """Notes which candidates tests have seen, and an interrupt; a plugin of its own, as the hooks name no session."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        about = getattr(report, "promptbench", None)
        if about is not None:
            self._desk.ran(about["experiment"], about["candidate"])

    @pytest.hookimpl(tryfirst=True)
    def pytest_keyboard_interrupt(self) -> None:
        self._desk.halt()


class Ticker:
    """Says from time to time how far generation is: a line every few seconds on a terminal, fewer in a log."""

    def __init__(self, config: pytest.Config, desk: Desk) -> None:
        self._config, self._desk = config, desk
        reporter = config.pluginmanager.get_plugin("terminalreporter")
        self._reporter = reporter
        self._every = 2.0 if reporter is not None and reporter.isatty else 10.0
        self._last, self._said = 0.0, ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="promptbench-ticker", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(2)

    def _run(self) -> None:
        while not self._stop.wait(0.25):
            self.tick()

    def tick(self) -> None:
        import time

        now = time.monotonic()
        if self._reporter is None or self._config.option.verbose < 0 or now - self._last < self._every:
            return
        if self._last:
            from .ending import progress

            line = progress(self._desk)
            if line != self._said:
                self._said = line
                if self._reporter._tw.width_of_current_line:  # pytest's dots
                    self._reporter.write("\n")
                self._reporter.write_line(line)
        self._last = now

    def tick_uncaptured(self) -> None:
        """Tick from within a test, past pytest's capturing."""
        capture = self._config.pluginmanager.get_plugin("capturemanager")
        if capture is None:
            self.tick()
        else:
            with capture.global_and_fixture_disabled():
                self.tick()
