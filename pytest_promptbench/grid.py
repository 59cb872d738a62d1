"""models x prompts x scenarios: narrowing, cells in a stable order, shards."""

from __future__ import annotations

import dataclasses
import difflib
import functools
from collections.abc import Sequence
from typing import TypeVar

from .catalog import placeholders, render
from .errors import UsageError
from .records import Cell, Message, Model, Prompt, Scenario, Suite, sha256

T = TypeVar("T")


def make_cell(suite: Suite, model: Model, prompt: Prompt, scenario: Scenario) -> Cell:
    """One cell: the prompt's messages filled from the scenario; the prompt's params go over the model's."""
    return Cell(
        task=suite.task,
        model=model,
        prompt=prompt,
        scenario=scenario,
        messages=render(prompt.messages, scenario.vars),
        params={**model.params, **prompt.params},
        samples=suite.samples,
        context_sha256=_context(prompt, scenario),
    )


def _context(prompt: Prompt, scenario: Scenario) -> str:
    used = _used(prompt.messages)
    unseen = {name: value for name, value in scenario.vars.items() if name not in used}
    return sha256(unseen) if unseen else ""


@functools.lru_cache(maxsize=256)
def _used(messages: tuple[Message, ...]) -> frozenset[str]:
    return frozenset(placeholders(messages))


def cells(suite: Suite, *, models: Sequence[str] | None = None, prompts: Sequence[str] | None = None) -> list[Cell]:
    """Every cell of a suite, models outermost, scenarios innermost; only those of the named models and prompts.

    UsageError for a name that the suite does not have.
    """
    suite = select(suite, models, prompts)
    return [make_cell(suite, m, p, s) for m in suite.models for p in suite.prompts for s in suite.scenarios]


def select(suite: Suite, models: Sequence[str] | None, prompts: Sequence[str] | None) -> Suite:
    """The suite with only these models and prompts (None: all), in the order of the names; naming one twice is once.

    UsageError for a name that the suite does not have.
    """
    chosen_models = suite.models
    if models is not None:
        known = {m.name: m for m in suite.models}
        chosen_models = tuple(_pick(known, n, "--bench-models", suite) for n in dict.fromkeys(models))
    chosen_prompts = suite.prompts
    if prompts is not None:
        versions = {p.version: p for p in suite.prompts}
        chosen_prompts = tuple(_pick(versions, n, "--bench-prompts", suite) for n in dict.fromkeys(prompts))
    return dataclasses.replace(suite, models=chosen_models, prompts=chosen_prompts)


def _pick(known: dict[str, T], name: str, option: str, suite: Suite) -> T:
    if name in known:
        return known[name]
    if name in suite.skipped:
        raise UsageError(f"{option}: {name!r} cannot be used: {suite.skipped[name]}")
    raise UsageError(unknown_name(option, name, list(known), [suite.path]))


def unknown_name(option: str, name: str, known: Sequence[str], files: Sequence[str]) -> str:
    """What to say of a name that no suite has."""
    close = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    where = list(dict.fromkeys(files))
    have = "has" if len(where) == 1 else "have"
    return f"{option}: {', '.join(where)} {have} no {name!r}.{hint} Known: {', '.join(known)}"


def shard(items: Sequence[T], index: int, count: int) -> list[T]:
    """The ``index``-th (1-based) of ``count`` disjoint parts, dealt round like cards; together they are all items."""
    return list(items[index - 1 :: count])
