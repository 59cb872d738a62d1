"""Scorers: functions of a user's own that fill a criterion of a rubric, as ``check: {python: scorers.py:valid_sql}``.

They run once, in the process that generates, and what they give is kept with the candidate: packets, judges and reports
take it from there, so that no server and no packet ever runs code that a rubric names.
"""

from __future__ import annotations

import copy
import re
import sys
import traceback
import types
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from .errors import CatalogError, ScorerError
from .records import Criterion, Rubric, sha256

Scorer = Callable[[str, dict[str, Any]], object]
"""A function of an output and the scenario's vars: whether it holds, for a flag; a number, for a scale."""

_SOURCE = re.compile(r"(?P<file>[^:\\]+\.py):(?P<name>[^\W\d]\w*)")


def is_scorer(value: object) -> bool:
    """Whether it names a function in a file beside the rubric: ``scorers.py:valid_sql``."""
    found = _SOURCE.fullmatch(value) if isinstance(value, str) else None
    return found is not None and not PurePosixPath(found["file"]).is_absolute()


def source_of(criterion: Criterion) -> tuple[str, str]:
    """The file of a criterion's scorer, relative to its rubric's, and the function's name."""
    assert criterion.scorer is not None
    file, _, name = criterion.scorer.rpartition(":")
    return file, name


def compiled(text: str, path: Path) -> types.CodeType:
    """The text of a scorers' file. CatalogError where it is no Python."""
    try:
        return compile(text, str(path), "exec", dont_inherit=True)
    except SyntaxError as error:
        raise CatalogError(f"{path}:{error.lineno}: {error.msg}") from None
    except ValueError as error:  # a NUL
        raise CatalogError(f"{path} is no Python file: {error}") from None


def load_scorers(rubric: Rubric) -> Mapping[str, Scorer]:
    """Criterion -> its scorer. CatalogError for one that cannot be imported, or is none."""
    return {c.name: _load(rubric, c) for c in rubric.criteria if c.scorer is not None}


def _load(rubric: Rubric, criterion: Criterion) -> Scorer:
    file, name = source_of(criterion)
    where = f"rubric {rubric.id}: criterion {criterion.name}: python: {criterion.scorer}"
    assert rubric.folder is not None, f"{where}: a rubric that was read from no file runs nothing"
    path = Path(rubric.folder) / file
    try:
        found = getattr(_module(path, rubric.sha256), name, None)
    except (Exception, SystemExit) as error:
        raise CatalogError(f"{where}: {path} cannot be imported: {_said(error)}") from error
    if not callable(found):
        raise CatalogError(f"{where}: {path} has no function {name!r}; define it there")
    return found  # type: ignore[no-any-return]  # callable by now


@cache
def _module(path: Path, rubric_sha256: str) -> types.ModuleType:
    """The file as a module, once for each text of it: the rubric's hash tells them apart."""
    text = path.read_text(encoding="utf-8")
    code = compiled(text, path)
    module = types.ModuleType(f"promptbench_scorers_{sha256([str(path), text])[:12]}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # dataclasses and pickle look their module up there
    try:
        exec(code, module.__dict__)  # noqa: S102 - a file of the project's own, as a conftest is
    except BaseException:
        del sys.modules[module.__name__]
        raise
    return module


def run_scorer(
    scorer: Scorer, rubric: Rubric, criterion: Criterion, text: str, context: Mapping[str, Any]
) -> bool | float:
    """What a scorer gives one output: a flag as :func:`checks.run_check` does, or a scale's number.

    ScorerError where it raises, or gives anything else.
    """
    about = f"the criterion {criterion.name} of the rubric {rubric.id}"
    try:
        given = scorer(text, copy.deepcopy(dict(context)))
    except (Exception, SystemExit) as error:
        line = _line(error, source_of(criterion)[0])
        raise ScorerError(f"{criterion.scorer} raised {_said(error)}{line}, for {about}") from error
    if criterion.type == "flag" and isinstance(given, bool):
        return not criterion.bad if given else bool(criterion.bad)
    if criterion.type == "scale" and criterion.takes(given):
        return float(given)  # type: ignore[arg-type]  # a number by now
    wanted = "True or False" if criterion.type == "flag" else f"a number from {criterion.allowed}"
    raise ScorerError(f"{criterion.scorer} returned {repr(given)[:80]}, for {about}; it must return {wanted}")


def _line(error: BaseException, file: str) -> str:
    """Where in its own file a scorer went wrong."""
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename.endswith(file)]
    return f" (line {lines[-1]})" if lines else ""


def _said(error: BaseException) -> str:
    """An exception in one line that cannot act on a terminal."""
    said = str(error)
    shown = said if said.isprintable() and len(said) <= 200 else repr(said[:200])
    return f"{type(error).__name__}: {shown}" if said else type(error).__name__
