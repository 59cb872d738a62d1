"""Flags that a program fills: deterministic checks of an output, without a judge.

A flag stands at its ``bad`` value exactly when its check is violated, so ``overlong`` with ``bad: true`` and
``max_words: 60`` is true for 61 words, and ``format_ok`` with ``bad: false`` and ``matches: ...`` is true where
the pattern is found. Several keys in one check must all hold.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .records import Criterion, Rubric


def _words(text: str) -> int:
    return len(text.split())


def _sentences(text: str) -> int:
    return len([s for s in re.split(r"[.!?…。\uff01\uff1f]+(?:\s|$)", text.strip()) if s.strip()])


def _lines(text: str) -> int:
    return len([x for x in text.splitlines() if x.strip()])


def _listed(value: str | Sequence[str]) -> Sequence[str]:
    return [value] if isinstance(value, str) else value


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


_CHECKS: Mapping[str, Callable[[str, Any], bool]] = {
    "max_words": lambda text, n: _words(text) <= n,
    "min_words": lambda text, n: _words(text) >= n,
    "max_chars": lambda text, n: len(text) <= n,
    "min_chars": lambda text, n: len(text) >= n,
    "max_sentences": lambda text, n: _sentences(text) <= n,
    "max_lines": lambda text, n: _lines(text) <= n,
    "contains": lambda text, want: all(w in text for w in _listed(want)),
    "not_contains": lambda text, banned: not any(w in text for w in _listed(banned)),
    "matches": lambda text, pattern: re.search(pattern, text) is not None,
    "not_matches": lambda text, pattern: re.search(pattern, text) is None,
    "is_json": lambda text, wanted: _is_json(text) is wanted,
}


def validate_check(check: Mapping[str, Any]) -> str | None:
    """None for a check that can be run, else one line with what is wrong and what is allowed."""
    if not check:
        return f"the check is empty; give one of {', '.join(_CHECKS)}"
    for key, value in check.items():
        if key not in _CHECKS:
            return f"{key!r} is no check; there are {', '.join(_CHECKS)}"
        if key.startswith(("max_", "min_")):
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                return f"{key} is {value!r}; it takes a whole number from 0"
        elif key == "is_json":
            if not isinstance(value, bool):
                return f"{key} is {value!r}; it takes true or false"
        elif key in ("matches", "not_matches"):
            if not isinstance(value, str):
                return f"{key} is {value!r}; it takes a regular expression"
            try:
                re.compile(value)
            except re.error as error:
                return f"{key} is {value!r}, which is no regular expression: {error}"
        elif not (isinstance(value, str) and value) and not (
            isinstance(value, list | tuple) and value and all(isinstance(v, str) and v for v in value)
        ):
            return f"{key} is {value!r}; it takes a text, or a list of texts"
    return None


def run_check(criterion: Criterion, text: str) -> bool:
    """The value of a checked flag for one output."""
    assert criterion.check is not None
    holds = all(_CHECKS[key](text, value) for key, value in criterion.check.items())
    return not criterion.bad if holds else bool(criterion.bad)


def fill_checks(rubric: Rubric, outputs: Sequence[str]) -> dict[str, bool | float]:
    """Every checked flag of a rubric: a bool for one output, the share of true ones for several."""
    filled: dict[str, bool | float] = {}
    for c in rubric.flags:
        if c.check is not None:
            values = [run_check(c, text) for text in outputs]
            filled[c.name] = values[0] if len(values) == 1 else sum(values) / len(values)
    return filled
