"""What programs fill without a judge: flags by deterministic checks of an output, and what scorers of the user's give.

A flag stands at its ``bad`` value exactly when its check is violated, so ``overlong`` with ``bad: true`` and
``max_words: 60`` is true for 61 words, and ``format_ok`` with ``bad: false`` and ``matches: ...`` is true where
the pattern is found. Several keys in one check must all hold. Those that end in ``_var`` compare with what the scenario
has in the var of that name, as a reference; ``json_equals_var`` does at places of an output that is JSON.

Everything here takes time linear in the output's length, with one exception: ``matches`` and ``not_matches`` run the
rubric author's own pattern with ``re.search``, and one with nested repetition, such as ``(a+)+$``, can take forever.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NoReturn

from .records import Criterion, Rubric, Scenario, Score
from .scorers import is_scorer, load_scorers, run_scorer

_SENTENCE_END = re.compile(
    r"(?<![.!?…])[.!?…]++[\"'”\u2019»)\]]*+(?=\s|$)"  # the lookbehind keeps "....x", a million dots long, linear
    r"|[。\uff01\uff1f]++[」』”\u2019\uff09]*+"  # Chinese and Japanese put no space after it
)


_POSIX_CLASS = re.compile(
    r"(?<!\\)\[:\^?(?:alnum|alpha|blank|cntrl|digit|graph|lower|print|punct|space|upper|word|xdigit):\]"
)
"""What grep and sed know: in Python it is a set of these very letters, so that the check would fail for every text.

Behind a backslash it is a text.
"""


DEEPEST = 500
"""Levels of JSON that are read. How many Python can read hangs on who calls, and a check has to find the same."""
_STRUCTURE = re.compile(r'"(?:[^"\\]|\\.)*+"?|[\[\]{}]', re.DOTALL)
"""A string, or a bracket. A string without an end goes on to the text's: tried from each quote, it took forever."""


def _words(text: str) -> int:
    """White space separates words."""
    return len(text.split())


def _sentences(text: str) -> int:
    """A sentence ends at ``.``, ``!``, ``?`` or ``…`` before white space, and holds a letter: "1." is none."""
    return sum(any(c.isalpha() for c in part) for part in _SENTENCE_END.split(text))


def _lines(text: str) -> int:
    """Blank lines do not count."""
    return sum(not line.isspace() for line in text.splitlines() if line)


def _listed(value: str | Sequence[str]) -> Sequence[str]:
    return [value] if isinstance(value, str) else value


class _Number(float):
    """A number that knows how it was written: a price of 19.90 is the text "19.90"."""

    def __init__(self, text: str) -> None:
        self.text = text


def read_json(text: str, *, parse_float: Callable[[str], float] = float) -> Any:
    """The value of a text that is JSON. ValueError for any other, and for what is nested beyond ``DEEPEST`` levels."""
    if text.count("[") + text.count("{") > DEEPEST and _depth(text) > DEEPEST:
        raise ValueError(f"it is nested beyond {DEEPEST} levels")
    try:
        return json.loads(text, parse_constant=_refuse_constant, parse_float=parse_float)
    except RecursionError:  # called by what is itself as deep
        raise ValueError("it is nested too deeply") from None


def _depth(text: str) -> int:
    depth = deepest = 0
    for token in _STRUCTURE.finditer(text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(token[0], 0)
        deepest = max(deepest, depth)
    return deepest


def _is_json(text: str) -> bool:
    try:
        read_json(text)
    except ValueError:
        return False
    return True


def _equals_in_json(path: str, text: str, wanted: Sequence[str]) -> bool:
    """Whether the output is JSON with one of these texts, or what is written so, at ``path``: ``calls.0.name``."""
    try:
        found = read_json(text, parse_float=_Number)
    except ValueError:
        return False
    for part in path.split("."):
        if isinstance(found, list) and part.isdecimal() and int(part) < len(found):
            found = found[int(part)]
        elif isinstance(found, dict) and part in found:
            found = found[part]
        else:
            return False
    if isinstance(found, _Number):
        return found.text in wanted
    return (found.strip() if isinstance(found, str) else json.dumps(found)) in wanted


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is JavaScript, not JSON")


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
_REFERENCES: Mapping[str, Callable[[str, Sequence[str]], bool]] = {
    "equals_var": lambda text, wanted: text.strip() in wanted,
    "contains_var": lambda text, wanted: all(w in text for w in wanted),
    "not_contains_var": lambda text, banned: not any(w in text for w in banned),
}
_IN_JSON = "json_equals_var"
_SCORER = "python"
_ALL = ", ".join([*_CHECKS, *_REFERENCES, _IN_JSON, _SCORER])


def validate_check(check: Mapping[str, Any], *, scale: bool = False) -> str | None:
    """None for a check that can be run, and that fills a flag or a scale; else one line with what is wrong."""
    if not check:
        return f"the check is empty; give one of {_ALL}"
    for key, value in check.items():
        problem = _wrong_value(key, value) if key in _TAKES else f"{key!r} is no check; there are {_ALL}"
        if problem:
            return problem
    if scale and _SCORER not in check:
        return (
            f"{next(iter(check))} fills a flag; a scale's numbers come from a judge, or from a function of yours, as "
            "in {python: scorers.py:similarity}"
        )
    if _SCORER in check and len(check) > 1:
        others = ", ".join(key for key in check if key != _SCORER)
        return f"{_SCORER} stands beside {others}; a scorer is a check of its own, so make two criteria of them"
    for unit in ("words", "chars"):
        least, most = check.get(f"min_{unit}", 0), check.get(f"max_{unit}")
        if most is not None and least > most:
            return f"min_{unit} is {least} and max_{unit} is {most}; no text holds both"
    return None


def _wrong_value(key: str, value: Any) -> str | None:
    fits, expected = _TAKES[key]
    if not fits(value):
        return f"{key} is {value!r}; it takes {expected}"
    return _wrong_pattern(key, value) if key in ("matches", "not_matches") else None


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_named(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _are_texts(value: Any) -> bool:
    texts = [value] if isinstance(value, str) else value
    return isinstance(texts, list | tuple) and bool(texts) and all(map(_is_named, texts))


def _are_places(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(_is_named(x) for pair in value.items() for x in pair)


_TAKES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    **{key: (_is_count, "a whole number from 0") for key in _CHECKS if key.startswith(("max_", "min_"))},
    **dict.fromkeys(("contains", "not_contains"), (_are_texts, "a text, or a list of texts")),
    **dict.fromkeys(("matches", "not_matches"), (lambda value: isinstance(value, str), "a regular expression")),
    "is_json": (lambda value: isinstance(value, bool), "true or false"),
    **dict.fromkeys(_REFERENCES, (_is_named, "the name of a var")),
    _IN_JSON: (_are_places, "places with names of vars, as in {label: expected}"),
    _SCORER: (is_scorer, "a function in a file beside the rubric, as in scorers.py:valid_sql"),
}
"""What every check takes: whether a value is that, and in words."""


def _wrong_pattern(key: str, pattern: str) -> str | None:
    posix = _POSIX_CLASS.search(pattern)
    if posix:
        return f"{key} is {pattern!r}; Python has no {posix[0]}, spell the class out, as in [A-Za-z], \\d or \\s"
    try:
        re.compile(pattern)
    except FutureWarning as warning:  # where the session makes errors of warnings
        return f"{key} is {pattern!r}, which is ambiguous: {warning}; write a backslash before the character"
    except (re.error, OverflowError, RecursionError) as error:
        return f"{key} is {pattern!r}, which is no regular expression: {error}"
    return None


def lacking_reference(rubric: Rubric, scenario: Scenario) -> str | None:
    """What is wrong with a var that a check of the rubric compares with; None where nothing is."""
    checks = ((c, key, value) for c in rubric.criteria for key, value in (c.check or {}).items())
    references = ((c, key, name) for c, key, value in checks for _, name, _ in _compared(key, value))
    for c, key, name in references:
        value = scenario.vars.get(name)
        if not _reference(value):
            have = ", ".join(scenario.vars) or "none"
            why = repr(value) if name in scenario.vars else f"missing; its vars are: {have}"
            return (
                f"{key} of the rubric {rubric.id} fills the flag {c.name} by the var {name!r}, which is {why}. Give it "
                "a text, a whole number, or a list of these"
            )
    return None


def _reference(value: Any) -> Sequence[str]:
    """The texts that a var has to compare with; none where it is nothing of the kind.

    Without white space around them: a block of YAML ends with a line break.
    """
    values = value if isinstance(value, list | tuple) else [value]
    texts = [str(v).strip() for v in values if isinstance(v, str | int) and not isinstance(v, bool)]
    return texts if all(texts) and len(texts) == len(values) else ()


def run_check(criterion: Criterion, text: str, context: Mapping[str, Any] | None = None) -> bool:
    """The value of a checked flag for one output: ``bad`` where the check is violated, else the other value.

    ``context``: the scenario's vars.
    """
    holds = next(_violated(criterion, text, context or {}), None) is None
    return not criterion.bad if holds else bool(criterion.bad)


def _violated(criterion: Criterion, text: str, context: Mapping[str, Any]) -> Iterator[str]:
    """The keys of its check that do not hold, each in words."""
    assert criterion.check is not None, f"{criterion.name} has no check"
    for key, value in criterion.check.items():
        if key in _CHECKS and not _CHECKS[key](text, value):
            yield term(key, value)
        for said, name, holds in _compared(key, value):
            if not holds(text, _reference(context.get(name))):
                yield f"{said}, which is {json.dumps(context.get(name), ensure_ascii=False)}"


def _compared(key: str, value: Any) -> Iterator[tuple[str, str, Callable[[str, Sequence[str]], bool]]]:
    """What one key of a check compares with vars: in words, the var's name, and whether an output holds it."""
    if key in _REFERENCES:
        yield term(key, value), value, _REFERENCES[key]
    elif key == _IN_JSON:
        for path, name in value.items():
            yield term(key, {path: name}), name, partial(_equals_in_json, path)


def term(key: str, value: Any) -> str:
    """One key of a check as a rubric has it: ``max_words: 60``."""
    return f"{key}: {json.dumps(value, ensure_ascii=False)}"


def violations(
    rubric: Rubric, outputs: Sequence[str], context: Mapping[str, Any] | None, found: Mapping[str, Score]
) -> list[str]:
    """What the checks of a rubric have against these outputs, a line for each flag; of several outputs, for each.

    ``found``: what :func:`fill_checks` gave; of scorers nothing else is known, neither why nor, of several, of which.
    """
    lines = []
    for number, text in enumerate(outputs, 1):
        where = f"output {number}: " if len(outputs) > 1 else ""
        for c in rubric.flags:
            if c.check is not None and c.scorer is None:
                against = list(_violated(c, text, context or {}))
                lines += [f"{where}{c.name} fails {' and '.join(against)}"] if against else []
    failing = [c for c in rubric.flags if c.scorer is not None and found.get(c.name) not in (None, not c.bad)]
    return lines + [f"{c.name} fails {term(_SCORER, c.scorer)}" for c in failing]


def fill_checks(
    rubric: Rubric, outputs: Sequence[str], context: Mapping[str, Any] | None = None
) -> dict[str, bool | float]:
    """Every criterion of a rubric that programs fill: what they found in one output, the mean over several.

    The mean of flags is the share of true ones. Nothing where nothing came. ScorerError of a scorer.
    """
    scorers = load_scorers(rubric)
    filled: dict[str, bool | float] = {}
    for c in rubric.criteria:
        if c.check is not None and outputs:
            values: list[bool | float] = [
                run_check(c, text, context)
                if c.scorer is None
                else run_scorer(scorers[c.name], rubric, c, text, context or {})
                for text in outputs
            ]
            filled[c.name] = values[0] if len(values) == 1 else math.fsum(values) / len(values)
    return filled


def filled_scores(
    rubric: Rubric, text: str, context: Mapping[str, Any] | None, found: Mapping[str, Score]
) -> dict[str, Score]:
    """What programs say of one output that was logged before.

    A check is run on it; a scorer is not run again, but what it gave then is among ``found``, for all outputs together.
    """
    programs = [c for c in rubric.criteria if c.check is not None]
    return {c.name: found.get(c.name) if c.scorer is not None else run_check(c, text, context) for c in programs}
