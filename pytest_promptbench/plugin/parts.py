"""A session's parts, each made when it is first asked for and kept in pytest's stash. Imports nothing but pytest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pytest

from . import options

if TYPE_CHECKING:
    from ..ending import Line
    from ..records import Suite
    from ..session import Bench, Closing, Desk, Planned
    from ..settings import Identity, Settings
    from ..steps import StepResult
    from .watch import Ticker

MARKER = "promptbench"

SETTINGS: pytest.StashKey[Settings] = pytest.StashKey()
IDENTITY: pytest.StashKey[Identity] = pytest.StashKey()
BENCH: pytest.StashKey[Bench] = pytest.StashKey()
DESK: pytest.StashKey[Desk] = pytest.StashKey()
TICKER: pytest.StashKey[Ticker] = pytest.StashKey()
CLOSING: pytest.StashKey[Closing] = pytest.StashKey()
STEP_RESULT: pytest.StashKey[StepResult] = pytest.StashKey()
GATE_LINES: pytest.StashKey[Sequence[Line]] = pytest.StashKey()
MISTAKEN: pytest.StashKey[bool] = pytest.StashKey()
"""Whether a file of ours or the command line has a mistake."""
MISUSED: pytest.StashKey[bool] = pytest.StashKey()
"""Whether a mistake is one on the command line: its exit code is pytest's for that."""
NODES: pytest.StashKey[list[Any]] = pytest.StashKey()
"""xdist's hold on each worker that was started."""
CRASHED: pytest.StashKey[bool] = pytest.StashKey()
"""Whether a worker crashed. After too many, xdist ends the session, and pytest knows of no test that is left."""
GIVEN_UP: pytest.StashKey[bool] = pytest.StashKey()
"""Whether a second Ctrl-C came while pytest was busy with the first: answers on their way are not waited for."""

SUITES: pytest.StashKey[dict[str, Suite]] = pytest.StashKey()
"""Of a module or class: the suites of its tests, by the names of their functions."""
PLANNED: pytest.StashKey[Planned] = pytest.StashKey()
"""Of a test: its cell."""
ABOUT: pytest.StashKey[dict[str, str | None]] = pytest.StashKey()
"""Of a test: which candidate it has seen."""
ERROR: pytest.StashKey[str | None] = pytest.StashKey()
"""Of a test: why there is no candidate."""

_NOT_OUR_WARNINGS = (  # of libraries below us, in threads of theirs beside a running test
    "ignore:::litellm",
    "ignore:::pydantic",
    "ignore:::aiohttp",
    "ignore:::mlflow",
    "ignore:::sqlalchemy",
)


class Mistake(pytest.Collector.CollectError):
    """A mistake in a file of ours or on the command line, as a collection error without a traceback."""

    def __init__(self, message: str, *, misuse: bool) -> None:
        super().__init__(legible(message))
        self.misuse = misuse


def legible(message: str) -> str:
    """A message without lone surrogates, as of a file's name that is no UTF-8: with them xdist loses the worker."""
    return message.encode("utf-8", "backslashreplace").decode()


def is_worker(config: pytest.Config) -> bool:
    """Whether this process is one of xdist's."""
    return hasattr(config, "workerinput")


def number_of(worker: str) -> int:
    """The number of one of xdist's workers, by its name."""
    return int("".join(c for c in worker if c.isdigit()) or 0)


def lost_workers(config: pytest.Config) -> list[int]:
    """The workers whose processes have ended, also where xdist looks after them no more, as after Ctrl-C."""
    return [number_of(n.gateway.id) for n in config.stash.get(NODES, ()) if not n.gateway.hasreceiver()]


def only_shows(config: pytest.Config) -> bool:
    """Whether this session shows what there is and runs no test."""
    modes = ("collectonly", "showfixtures", "show_fixtures_per_test", "setupplan")
    return any(getattr(config.option, mode, False) for mode in modes)


def settings(config: pytest.Config) -> Settings:
    """pytest.UsageError for a mistake in an option."""
    if SETTINGS not in config.stash:
        from ..errors import UsageError
        from ..settings import Identity, resolve

        worker = getattr(config, "workerinput", None)
        if worker is not None:
            who = Identity.from_json(worker["promptbench"])
            number = number_of(worker["workerid"])
        else:
            who, number = identity(config), 0
        try:
            config.stash[SETTINGS] = resolve(
                lambda name: options.value(config, name),
                given=lambda name: options.of_this_session(config, name),
                found_by=options.project(config),
                root=config.rootpath,
                cwd=config.invocation_params.dir,
                identity=who,
                worker=number,
            )
        except UsageError as error:
            raise pytest.UsageError(str(error)) from None
    return config.stash[SETTINGS]


def identity(config: pytest.Config) -> Identity:
    """The session's, which an xdist worker has from its controller."""
    if IDENTITY not in config.stash:
        from ..scheduling import workers
        from ..settings import Identity

        config.stash[IDENTITY] = Identity.new(workers=workers(getattr(config.option, "tx", None) or ()))
    return config.stash[IDENTITY]


def bench(config: pytest.Config) -> Bench:
    if BENCH not in config.stash:
        from ..session import Bench

        config.stash[BENCH] = Bench(settings(config))
        for line in _NOT_OUR_WARNINGS:
            config.addinivalue_line("filterwarnings", line)
    return config.stash[BENCH]


def desk(config: pytest.Config) -> Desk:
    if DESK not in config.stash:
        from ..session import Desk

        config.stash[DESK] = Desk(settings(config))
    return config.stash[DESK]
