"""Plugins that a session registers once there are evals: what they see and when they step in."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from .parts import GIVEN_UP, MISTAKEN, MISUSED

if TYPE_CHECKING:
    from ..session import Bench, Desk

_PARENT = os.getppid()


class Mistakes:
    """Ends an xdist session at a mistake in an eval's files, as pytest ends any other; xdist would run the rest."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if getattr(report, "promptbench_mistake", False) and not self._config.option.continue_on_collection_errors:
            self._config.stash[MISTAKEN] = True
            if getattr(report, "promptbench_misuse", False):
                self._config.stash[MISUSED] = True
            controller = self._config.pluginmanager.get_plugin("dsession")
            if controller is not None:
                controller.shouldstop = controller.shouldstop or "a mistake in an eval's files"


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


class Interrupts:
    """Keeps a further Ctrl-C for later while pytest words the first one, which takes seconds on a busy machine.

    It would break that off, and pytest would end the session as one that went through.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_keyboard_interrupt(self) -> Generator[None, object, object]:
        with _taking_interrupts(self._note):
            return (yield)

    def _note(self, *_: object) -> None:
        self._config.stash[GIVEN_UP] = True


@contextlib.contextmanager
def _taking_interrupts(take: Callable[..., None]) -> Iterator[None]:
    """Have ``take`` called at Ctrl-C in place of KeyboardInterrupt.

    Nothing changes where a program has a handler of its own, or pytest runs in a thread beside its main one.
    """
    usual = signal.default_int_handler
    free = signal.getsignal(signal.SIGINT) is usual and threading.current_thread() is threading.main_thread()
    if free:
        signal.signal(signal.SIGINT, take)
    try:
        yield
    finally:
        if free:
            signal.signal(signal.SIGINT, usual)


def unhurried() -> contextlib.AbstractContextManager[None]:
    """Let a worker of xdist's wait undisturbed where the controller is gone.

    execnet sends it a Ctrl-C of its own then, 5 s after that, and ends the process another 10 s later.
    """

    def take(*args: Any) -> None:
        if os.getppid() == _PARENT:
            signal.default_int_handler(*args)

    return _taking_interrupts(take)


class Attendance:
    """Notes which candidates tests have seen, and an interrupt; a plugin of its own, as the hooks name no session.

    Where xdist is to stop (``-x``, ``--maxfail``), whose ``controller`` waits for the tests that its workers are in, no
    worker generates any more: each knows of its own failures only.
    """

    def __init__(self, desk: Desk, *, controller: Any) -> None:
        self._desk, self._controller = desk, controller
        self._halted = False

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        # xdist decides after this hook: it is seen when the failed test reports its teardown.
        if not self._halted and getattr(self._controller, "shouldstop", False):
            self._halted = True
            self._desk.halt()
        about = getattr(report, "promptbench", None)
        if about is not None:
            self._desk.ran(about["experiment"], about["candidate"], about["cell"])

    @pytest.hookimpl(tryfirst=True)
    def pytest_keyboard_interrupt(self) -> None:
        self._desk.halt()


def write_on_its_own(reporter: Any, line: str) -> None:
    """Write a line below whatever dots stand there: of those of xdist, pytest's ``ensure_newline`` does not know.

    It is for now: where the output is no terminal, it would be held back until there is more of it.
    """
    reporter.ensure_newline()
    if reporter._tw.width_of_current_line:
        reporter.write("\n")
    reporter.write_line(line)
    with contextlib.suppress(OSError):  # a full disk is pytest's to report
        reporter.flush()


def say(config: pytest.Config, line: str) -> None:
    """Write a line on its own where there is a terminal, or whatever stands for one."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None:
        write_on_its_own(reporter, line)


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
        from ..clock import steady

        now = steady()
        if self._reporter is None or self._config.option.verbose < 0 or now - self._last < self._every:
            return
        if self._last:
            from ..ending import progress

            line = progress(self._desk)
            if line != self._said:
                self._said = line
                write_on_its_own(self._reporter, line)
        self._last = now

    def tick_uncaptured(self) -> None:
        """Tick from within a test, past pytest's capturing."""
        capture = self._config.pluginmanager.get_plugin("capturemanager")
        if capture is None:
            self.tick()
        else:
            with capture.global_and_fixture_disabled():
                self.tick()
