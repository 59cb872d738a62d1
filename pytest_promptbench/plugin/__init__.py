"""pytest options, hooks and fixtures: translate, and delegate.

Nothing but pytest is imported until a test with the ``promptbench`` marker is collected, or an option of ours is given;
by xdist's controller a few modules of ours, which import nothing heavy.
"""

from __future__ import annotations

import shutil
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import pytest

from . import options, parts
from .parts import MARKER, Mistake

if TYPE_CHECKING:
    from ..candidate import GeneratedCandidate


def pytest_addoption(parser: pytest.Parser) -> None:
    options.add(parser)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        f"{MARKER}(suite, experiment=None): run the test for every model x prompt x scenario of a suite file, whose "
        "path is relative to the test file; experiment is the MLflow experiment's name",
    )
    if parts.is_worker(config):
        return
    if getattr(config.option, "dist", "no") != "no":
        from .watch import Mistakes

        config.pluginmanager.register(Mistakes(config), "promptbench-mistakes")
    if options.in_use(config):
        _check_options(config)


def _check_options(config: pytest.Config) -> None:
    """A mistake in an option is said before anything is collected; one in ``addopts`` waits until there are evals."""
    options.check_once(config)
    settings = parts.settings(config)
    if not settings.runs_tests:
        config.option.dist, config.option.tx, config.option.numprocesses = "no", [], None
    if any(options.of_this_session(config, name) for name in ("bench_save", "bench_compare", "bench_compare_fail")):
        from .. import ending, regression
        from ..errors import UsageError

        try:
            regression.check(settings)
        except UsageError as error:
            said = str(error) if parts.only_shows(config) else ending.without_a_gate(settings, str(error))
            raise pytest.UsageError(said) from None


# -- collecting ----------------------------------------------------------------------------------------------------


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    marker = metafunc.definition.get_closest_marker(MARKER)
    if marker is not None:
        from . import collecting

        collecting.spread(metafunc, marker)


@pytest.hookimpl(specname="pytest_generate_tests", trylast=True)
def pytest_refuse_our_candidate_without_the_marker(metafunc: pytest.Metafunc) -> None:
    """After whoever else may have parametrized a test over candidates of its own."""
    if metafunc.definition.get_closest_marker(MARKER) is None:
        makers = getattr(metafunc, "_arg2fixturedefs", {}).get("candidate")
        if makers and makers[-1].func.__module__ == __name__:
            raise Mistake(_no_marker(metafunc.definition.nodeid, "candidate"), misuse=False)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    error = getattr(report.call.excinfo, "value", None) if report.failed else None
    if isinstance(error, Mistake):
        from . import collecting

        collecting.mark(report, collector.config, misuse=error.misuse)
    return report


def pytest_itemcollected(item: pytest.Item) -> None:
    if parts.BENCH in item.config.stash:
        from . import collecting

        collecting.add_keywords(item)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    marked = [i for i in items if isinstance(i, pytest.Function) and i.get_closest_marker(MARKER)]
    if marked or parts.BENCH in config.stash:
        from . import collecting

        refused = collecting.refuse_unspread(session, marked)
        items[:] = [i for i in items if i not in refused]
        if parts.BENCH in config.stash:
            collecting.select(session, items)


@pytest.hookimpl(tryfirst=True)  # before xdist tells the controller, which then looks for the plan
def pytest_collection_finish(session: pytest.Session) -> None:
    if parts.BENCH in session.config.stash:
        from . import collecting

        collecting.begin(session)


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
    """What the test's cell generated: text, outputs, model, prompt, scenario, usage, cost_usd, latency_s, error.
    Its type, for annotations, is ``pytest_promptbench.candidate.GeneratedCandidate``.
    """  # noqa: D205 - pytest --fixtures shows the first paragraph
    from . import running

    return running.candidate(request.node)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> None:
    if parts.BENCH in item.config.stash:
        from . import running

        running.end_fork(item.config)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    error = item.stash.get(parts.ERROR, None)
    if error is not None:
        pytest.fail(f"no candidate: {error}", pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if parts.ABOUT in item.stash and report.when == "setup":
        report.promptbench = item.stash[parts.ABOUT]  # type: ignore[attr-defined] # travels with the report under xdist
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    config = session.config
    if parts.is_worker(config) or parts.SETTINGS not in config.stash or parts.settings(config).runs_tests:
        if parts.BENCH in config.stash:
            from . import running

            running.wait_until_warm(config)
        return None
    from . import collecting, running

    if parts.only_shows(config) or collecting.is_broken(session):
        return None
    running.take_the_step(session)
    return True


# -- under xdist, in the controller --------------------------------------------------------------------------------


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    node.workerinput["promptbench"] = parts.identity(node.config).to_json()
    node.config.stash.setdefault(parts.NODES, []).append(node)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_node_collection_finished(node: Any) -> None:
    if parts.identity(node.config).folder(node.config.rootpath).exists():
        from . import collecting

        collecting.open_desk(node.config)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object | None) -> None:
    if error:
        node.config.stash[parts.CRASHED] = True
    if parts.DESK in node.config.stash:
        parts.desk(node.config).ended(parts.number_of(node.gateway.id))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Work stealing where there are evals and the user chose no distribution; see ``scheduling``."""
    args = (*options.typed(config), *config.getini("addopts"))
    if config.getoption("dist") != "load" or any(a.startswith(("--dist", "-d")) for a in args):
        return None
    from ..scheduling import LateScheduling

    return LateScheduling(config, log, wants_stealing=lambda: _has_plan(config))


def _has_plan(config: pytest.Config) -> bool:
    return parts.DESK in config.stash and parts.desk(config).plan is not None


# -- ending --------------------------------------------------------------------------------------------------------


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if _is_used(session.config):
        from . import closing, running

        running.end_fork(session.config)
        closing.finish(session, exitstatus)


@pytest.hookimpl(specname="pytest_sessionfinish", trylast=True)
def pytest_leave_no_folder_of_workers(session: pytest.Session) -> None:
    """Once xdist has ended them: one that outlived the session's end, as it does Ctrl-C, writes there until then."""
    if parts.NODES in session.config.stash:
        shutil.rmtree(parts.identity(session.config).folder(session.config.rootpath), ignore_errors=True)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if _is_used(config):
        from . import closing

        closing.write_summary(terminalreporter, config)


def _is_used(config: pytest.Config) -> bool:
    return parts.SETTINGS in config.stash or parts.MISUSED in config.stash
