"""While tests run: a test's candidate, what is generated ahead of it, and the steps that stand in place of tests."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from ..candidate import GeneratedCandidate
from ..scheduling import queued
from .parts import ABOUT, BENCH, ERROR, PLANNED, STEP_RESULT, TICKER, bench, is_worker, settings
from .watch import say

_AHEAD: pytest.StashKey[set[int]] = pytest.StashKey()


def wait_until_warm(config: pytest.Config) -> None:
    """Let no test run beside the import of LiteLLM: one may put ``sys.modules`` back, and break it in the middle."""
    bench(config).wait_until_warm(tick=_tick(config))


def candidate(item: pytest.Item) -> GeneratedCandidate:
    """What the test's cell generated; waits for it."""
    config, planned = item.config, item.stash[PLANNED]
    if is_worker(config):
        _look_ahead(config, item.session.items)
    again = item.stash.get(ERROR, None) is not None  # a plugin runs the test once more, as pytest-rerunfailures does
    made = bench(config).candidate(planned, again=again, tick=_tick(config))
    item.stash[ERROR] = made.error  # noted here, since a fixture of the user's may make something else of it
    if not made.unasked:
        key = bench(config).key(planned, made)
        mark = planned.cell.mark if bench(config).expects(planned.cell) else None
        item.stash[ABOUT] = {"experiment": planned.task.experiment, "candidate": key, "cell": mark}
    return GeneratedCandidate(made)


def _tick(config: pytest.Config) -> Callable[[], None]:
    ticker = config.stash.get(TICKER, None)
    return ticker.tick_uncaptured if ticker else lambda: None


def _look_ahead(config: pytest.Config, items: Sequence[pytest.Item]) -> None:
    """Have generated what this xdist worker is going to run: the cells that it has heard of since its last test."""
    known = config.stash.setdefault(_AHEAD, set())
    fresh = [i for i in queued(config.pluginmanager.get_plugins()) if i not in known]
    if fresh:
        known.update(fresh)
        wanted = (items[i] for i in fresh if PLANNED in items[i].stash and not may_skip(items[i]))
        bench(config).look_ahead([item.stash[PLANNED].cell for item in wanted])


def may_skip(item: pytest.Item) -> bool:
    """Whether marks may keep a test from running: then nothing is generated ahead. Should it run, it asks itself."""
    return any(_conditions(item))


def is_skipped(item: pytest.Item) -> bool:
    """Whether marks are sure to keep a test from running: then nobody is asked for it."""
    return any(c for c in _conditions(item) if not isinstance(c, str))


def _conditions(item: pytest.Item) -> Iterator[object]:
    """Each of which, where it is true, keeps a test from running.

    One that is a text is evaluated by pytest alone, once the test's turn has come.
    """
    for m in item.iter_markers():
        unrun = m.name == "xfail" and m.kwargs.get("run") is False and not item.config.getoption("runxfail", True)
        if m.name == "skip":
            yield True
        elif m.name == "skipif" or unrun:
            given = (*m.args, *([m.kwargs["condition"]] if "condition" in m.kwargs else []))
            yield from given or [True]


def end_fork(config: pytest.Config) -> None:
    """End a child that a test forked and that comes back to pytest, as after ``sys.exit()``: nobody generates in it."""
    if BENCH in config.stash and config.stash[BENCH].is_fork:
        os._exit(pytest.ExitCode.TESTS_FAILED)


def take_the_step(session: pytest.Session) -> None:
    """What the options ask for in place of running tests. pytest.UsageError where it cannot be done."""
    from .. import champions, reading, regression, reviewing, sitdown
    from ..errors import PromptbenchError
    from ..settings import STEPS

    config, asked = session.config, settings(session.config)
    tasks = config.stash[BENCH].tasks if BENCH in config.stash else ()
    if asked.read or asked.judge_queue or asked.judge_collect:
        # As a session that runs tests does, these look at the suites of the selected tests alone.
        selected = {id(i.stash[PLANNED].task) for i in session.items if PLANNED in i.stash}
        tasks = tuple(t for t in tasks if id(t) in selected)
    selected_cells = {(p.task.experiment, *p.cell.names) for i in session.items if (p := i.stash.get(PLANNED, None))}
    tell = functools.partial(say, config)
    steps: dict[str, Any] = {
        "judge_export": functools.partial(sitdown.export_packet, selected=selected_cells, say=tell),
        "judge_apply": sitdown.apply_packet,
        "judge_queue": functools.partial(reviewing.fill_queue, selected=selected_cells),
        "judge_collect": reviewing.collect_queue,
        "read": functools.partial(reading.read_back, say=tell),
        "promote": champions.promote,
        "rollback": champions.roll_back,
        "self_test": regression.run_self_test,
    }
    try:
        for name in STEPS.values():
            if getattr(asked, name) is not None:
                config.stash[STEP_RESULT] = steps[name](asked, tasks, getattr(asked, name))
    except PromptbenchError as error:
        raise pytest.UsageError(str(error)) from None
