"""The session's end: nothing is left under way, the exit status says what came of it, and so does the terminal."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable, Sequence
from typing import Any

import pytest

from ..ending import Line, broken_off, no_gate, not_done, settle, step, summary
from ..session import Closing
from .options import undone
from .parts import (
    BENCH,
    CLOSING,
    CRASHED,
    DESK,
    GATE_LINES,
    GIVEN_UP,
    MISTAKEN,
    MISUSED,
    SETTINGS,
    STEP_RESULT,
    TICKER,
    desk,
    is_worker,
    lost_workers,
    only_shows,
    settings,
)
from .watch import say, unhurried

_CLEAN = (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
_SUMMED_UP = (*_CLEAN, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.INTERRUPTED, pytest.ExitCode.USAGE_ERROR)
"""At other codes, as of a test that called ``pytest.exit`` with its own, pytest has nobody write a summary."""
_WENT_THROUGH = (*_CLEAN, pytest.ExitCode.TESTS_FAILED)
"""Nothing broke the session off: neither Ctrl-C, nor a test that called ``pytest.exit`` with a code of its own."""


def finish(session: pytest.Session, exitstatus: int) -> None:
    """End generation and logging, write the reports, and set the exit status. A worse one is never overwritten.

    Ctrl-C meanwhile leaves out the rest, and is told as such: pytest takes none any more, and would end by a traceback.
    """
    config = session.config
    try:
        _finish(session, exitstatus)
    except KeyboardInterrupt:
        session.exitstatus = pytest.ExitCode.INTERRUPTED
        if DESK in config.stash:
            desk(config).close()
        if SETTINGS in config.stash and not is_worker(config):
            config.stash[GATE_LINES] = broken_off(settings(config))
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and exitstatus not in _SUMMED_UP and not is_worker(config):
        reporter.ensure_newline()
        write_summary(reporter, config)


def _finish(session: pytest.Session, exitstatus: int) -> None:
    config = session.config
    at_the_desk = DESK in config.stash and not is_worker(config)
    patient = not config.stash.get(GIVEN_UP, False)
    tell = functools.partial(say, config)
    if at_the_desk and exitstatus not in _WENT_THROUGH:
        lost = functools.partial(lost_workers, config)
        patient = desk(config).stop_workers(say=tell, lost=lost, patient=patient)
    if STEP_RESULT in config.stash and exitstatus in _CLEAN:
        session.exitstatus = exitstatus = config.stash[STEP_RESULT].code  # no test was meant to run
    if BENCH in config.stash:
        with unhurried() if is_worker(config) else contextlib.nullcontext():
            config.stash[BENCH].close(patient=patient, say=tell)
    if at_the_desk:
        exitstatus = _close_desk(session, exitstatus)
    _settle(session, exitstatus)
    if config.stash.get(MISUSED, False) and not is_worker(config):
        session.exitstatus = pytest.ExitCode.USAGE_ERROR


def _close_desk(session: pytest.Session, exitstatus: int) -> int:
    """Returns the exit status as it is then."""
    config = session.config
    if TICKER in config.stash:
        config.stash[TICKER].stop()
    interrupted = exitstatus not in _WENT_THROUGH
    config.stash[CLOSING] = closing = desk(config).finish(
        judge=not interrupted,
        stopped=bool(interrupted or session.shouldstop or session.shouldfail or CRASHED in config.stash),
        say=functools.partial(say, config),
    )
    if closing.interrupted or any(j.interrupted for j in closing.judged):
        session.exitstatus = exitstatus = pytest.ExitCode.INTERRUPTED
    elif any(j.code for j in closing.judged) and exitstatus == pytest.ExitCode.OK:
        session.exitstatus = exitstatus = pytest.ExitCode.TESTS_FAILED
    return exitstatus


def _settle(session: pytest.Session, exitstatus: int) -> None:
    """Baseline and gate of what the session ended with."""
    config = session.config
    if is_worker(config):
        return
    done = config.stash.get(CLOSING, None) or config.stash.get(STEP_RESULT, None)
    if done is None or not (done.boards or done.tasks):
        if not only_shows(config):
            _settle_nothing(session, exitstatus)
        return
    skipped = isinstance(done, Closing) and not done.seen and exitstatus in _CLEAN
    stopped = isinstance(done, Closing) and (exitstatus not in _WENT_THROUGH or done.missing > 0)
    code, config.stash[GATE_LINES] = settle(settings(config), done.boards, done.tasks, skipped=skipped, stopped=stopped)
    misused = code == pytest.ExitCode.USAGE_ERROR and exitstatus == pytest.ExitCode.TESTS_FAILED
    if code and (exitstatus in _CLEAN or misused):
        session.exitstatus = code


def _settle_nothing(session: pytest.Session, exitstatus: int) -> None:
    """Of a session without an eval: what it was asked to do with them is not done, which is no pass."""
    config = session.config
    asked = undone(config)
    if exitstatus not in _CLEAN:  # pytest has said why
        if SETTINGS in config.stash and (asked or MISTAKEN in config.stash):
            config.stash[GATE_LINES] = no_gate(settings(config))
        return
    if not asked or not settings(config).runs_tests:
        return
    config.stash[GATE_LINES] = not_done(settings(config), asked)
    if exitstatus == pytest.ExitCode.OK and settings(config).shard is None:  # a shard may be empty
        session.exitstatus = pytest.ExitCode.USAGE_ERROR


def write_summary(reporter: Any, config: pytest.Config) -> None:
    """Below pytest's own: leaderboards, what was judged, the gate, and what was asked for and not done."""
    closing, result = config.stash.get(CLOSING, None), config.stash.get(STEP_RESULT, None)
    width, color = reporter._tw.fullwidth, reporter._tw.hasmarkup
    if closing is not None and desk(config).plan is not None:
        reporter.section("promptbench")
        _write(reporter, summary(closing, desk(config), width=width, color=color))
    if result is not None:
        reporter.section("promptbench")
        _write(reporter, step(result, width=width, color=color))
    gate: Sequence[Line] = config.stash.get(GATE_LINES, ())
    _write(reporter, gate)
    if only_shows(config) and (left := undone(config)):
        shown = "pytest was to show what there is and to run nothing (--collect-only or the like)"
        _write(reporter, [(f"NOT DONE: {', '.join(left)}; {shown}", {"yellow": True, "bold": True})])


def _write(reporter: Any, lines: Iterable[Line]) -> None:
    for line, markup in lines:
        reporter.write_line(line, **markup)
