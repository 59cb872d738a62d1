"""Scorers: functions of a user's own that fill a criterion of a rubric, as ``check: {python: scorers.py:valid_sql}``.

They run where an answer was generated, and what they give is kept with the candidate: packets, judges and reports take
it from there, so that no server and no packet ever runs code that a rubric names.
"""

from __future__ import annotations

import copy
import numbers
import re
import reprlib
import sys
import threading
import traceback
import types
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from decimal import Decimal
from functools import cache, partial
from pathlib import Path, PurePosixPath
from queue import SimpleQueue
from typing import Any, TypeVar

from .errors import CatalogError, ScorerError
from .records import Criterion, Rubric, Source, sha256

T = TypeVar("T")
Scorer = Callable[[str, dict[str, Any]], object]
"""A function of an output and the scenario's vars: whether it holds, for a flag; a number, for a scale."""

_SOURCE = re.compile(r"(?P<file>[^:\\]+\.py):(?P<name>[^\W\d]\w*)")
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 100
_NOISE = 1e-9
"""Of a scale's length: so much beyond an end is a float's rounding, as of a cosine of 1.0000000000000002."""


def is_scorer(value: object) -> bool:
    """Whether it names a function in a file beside the rubric: ``scorers.py:valid_sql``."""
    found = _SOURCE.fullmatch(value) if isinstance(value, str) else None
    return found is not None and found[0].isprintable() and not PurePosixPath(found["file"]).is_absolute()


def file_of(criterion: Criterion) -> str:
    """The file of a criterion's scorer, as the rubric names it."""
    assert criterion.scorer is not None
    return criterion.scorer.rpartition(":")[0]


def compiled(source: Source) -> types.CodeType:
    """CatalogError for what is no Python."""
    try:
        return compile(source.text, source.path, "exec", dont_inherit=True)
    except SyntaxError as error:
        raise CatalogError(f"{source.path}:{error.lineno}: {error.msg}") from None
    except ValueError as error:  # a NUL
        raise CatalogError(f"{source.path} is no Python file: {error}") from None


def load_scorers(rubric: Rubric) -> Mapping[str, Scorer]:
    """Criterion -> its scorer, of the very text that the rubric's hash is of.

    ScorerError for one that cannot be imported, or is no function. ValueError for a rubric that was read from no file.
    """
    return {c.name: _load(rubric, c) for c in rubric.criteria if c.scorer is not None}


def _load(rubric: Rubric, criterion: Criterion) -> Scorer:
    assert criterion.scorer is not None
    file, _, name = criterion.scorer.rpartition(":")
    if file not in rubric.sources:
        raise ValueError(f"the rubric {rubric.id} was read from no file, so its {criterion.scorer} cannot be run")
    source = rubric.sources[file]
    module = _module(source.path, source.text)
    if isinstance(module, BaseException):
        raise ScorerError(f"{source.path} cannot be imported: {_said(module)}, {_about(rubric, criterion)}") from module
    found = getattr(module, name, None)
    if not callable(found):
        raise ScorerError(f"{source.path} has no function {name!r}, {_about(rubric, criterion)}; define it there")
    return found  # type: ignore[no-any-return]  # callable by now


@cache
def _module(path: str, text: str) -> types.ModuleType | BaseException:
    """Once for each text, and what came of it where it cannot be imported."""
    code = compiled(Source(path=path, text=text))
    module = types.ModuleType(f"promptbench_scorers_{sha256([path, text])[:12]}")
    module.__file__ = path
    sys.modules[module.__name__] = module  # dataclasses and pickle look their module up there
    try:
        _apart(partial(exec, code, module.__dict__))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # pytest.importorskip and the like raise no Exception
        del sys.modules[module.__name__]
        return error
    return module


def run_scorer(
    scorer: Scorer, rubric: Rubric, criterion: Criterion, text: str, context: Mapping[str, Any]
) -> bool | float:
    """What a scorer gives one output: a flag as :func:`checks.run_check` does, or a scale's number.

    ScorerError where it raises, or gives anything else.
    """
    try:
        given = _plain(_apart(partial(scorer, text, copy.deepcopy(dict(context)))))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # likewise pytest.fail
        what = f"raised {_said(error)}{_line(error, file_of(criterion))}"
    else:
        if criterion.type == "flag" and isinstance(given, bool):
            return not criterion.bad if given else bool(criterion.bad)
        if criterion.type == "scale" and criterion.takes(inside := _within(given, criterion)):
            return float(inside)
        what = f"returned {_shown(given)}, not "
        what += "True or False" if criterion.type == "flag" else f"a number from {criterion.allowed}"
    raise ScorerError(f"{criterion.scorer} {what}, {_about(rubric, criterion)}, on the output {_shown(text)}")


def _plain(given: Any) -> object:
    """Python's own bool or float, of numpy's and torch's scalars, fractions and decimals too."""
    item = getattr(given, "item", None)
    given = item() if callable(item) else given
    return given if isinstance(given, bool) or not isinstance(given, numbers.Real | Decimal) else float(given)


def _within(given: Any, criterion: Criterion) -> Any:
    """The end of its scale that a number misses by a float's rounding; any other as it is."""
    low, high = criterion.min, criterion.max
    if not isinstance(given, float) or low is None or high is None:
        return given
    noise = _NOISE * (high - low)
    return min(max(given, low), high) if low - noise <= given <= high + noise else given


# -- a thread of their own


@cache
def _calls() -> SimpleQueue[tuple[Callable[[], Any], Future[Any]]]:
    calls: SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = SimpleQueue()

    def work() -> None:
        while True:
            call, done = calls.get()
            try:
                done.set_result(call())
            except BaseException as error:
                done.set_exception(error)

    threading.Thread(target=work, name="promptbench-scorers", daemon=True).start()
    return calls


def _apart(call: Callable[[], T]) -> T:
    """Run it where all scorers are imported and run.

    Those who generate have an event loop, in which nobody can start another, and what a file opened when it was
    imported, as a connection to SQLite, is for that thread alone. A daemon: one that hangs keeps no process alive.
    """
    done: Future[T] = Future()
    _calls().put((call, done))
    return done.result()


# -- in words


def _about(rubric: Rubric, criterion: Criterion) -> str:
    return f"for the criterion {criterion.name} of the rubric {rubric.id}"


def _line(error: BaseException, file: str) -> str:
    """Where in its own file a scorer went wrong."""
    name = Path(file).name
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).name == name]
    return f" (line {lines[-1]})" if lines else ""


def _said(error: BaseException) -> str:
    said = _text(error, str)
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def _shown(value: object) -> str:
    return _text(value, _SHORT.repr)


def _text(value: object, of: Callable[[object], str]) -> str:
    """A value of the user's in one line that cannot act on a terminal. Not cut: half a key is not known for one."""
    try:
        said = of(value)
    except Exception:
        return f"<{type(value).__name__}>"
    return said if said.isprintable() else ascii(said)
