"""The options: their table, and a value's way from the command line or the configuration file."""

from __future__ import annotations

import argparse
import os
import shlex
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pytest


def _positive(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return value


def _dollars(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not an amount in US dollars")
    return value


_TABLE: tuple[tuple[str, dict[str, Any]], ...] = (
    ("--bench-experiment", {"metavar": "NAME", "help": "MLflow experiment (default: <task>-bench-<YYYY-MM-DD>)"}),
    ("--bench-models", {"metavar": "A,B", "help": "only these models"}),
    ("--bench-prompts", {"metavar": "A,B", "help": "only these prompt versions"}),
    (
        "--bench-tag",
        {"metavar": "KEY=VALUE", "action": "append", "help": "one more MLflow tag on every run (repeatable)"},
    ),
    (
        "--bench-concurrency",
        {"metavar": "N", "type": _positive, "help": "generations in flight, all workers together (default: 16)"},
    ),
    (
        "--bench-no-cache",
        {"action": "store_true", "help": "generate again even what this exact request was answered before"},
    ),
    ("--bench-report", {"metavar": "DIR", "help": "where leaderboards go (default: .promptbench/report)"}),
    (
        "--bench-save",
        {"metavar": "REF", "nargs": "?", "const": "", "help": "write a baseline (default: evals/baseline.json)"},
    ),
    (
        "--bench-compare",
        {"metavar": "REF", "nargs": "?", "const": "", "help": "compare with a baseline (default: evals/baseline.json)"},
    ),
    (
        "--bench-compare-fail",
        {
            "metavar": "EXPR",
            "action": "append",
            "help": "tolerance: composite:0.5 (points) or composite:5%% (repeatable)",
        },
    ),
    (
        "--bench-strict",
        {"action": "store_true", "help": "with --bench-compare, --bench-self-test: inconclusive fails too"},
    ),
    (
        "--bench-self-test",
        {
            "metavar": "N",
            "type": _positive,
            "help": "compare the baseline N times with itself under resampling, and print how often the gate fails; "
            "runs no test",
        },
    ),
    (
        "--bench-read",
        {
            "action": "store_true",
            "help": "write the leaderboards of what MLflow holds; runs no test and generates nothing",
        },
    ),
    (
        "--bench-promote",
        {"metavar": "TASK", "help": "make the task's best prompt its champion, if it has earned it; runs no test"},
    ),
    (
        "--bench-promote-policy",
        {
            "metavar": "TIERS",
            "choices": ("both", "sit-down", "auto"),
            "help": "with --bench-promote: which tiers decide, both (default), sit-down or auto",
        },
    ),
    (
        "--bench-promote-within",
        {
            "metavar": "EXPR",
            "action": "append",
            "help": "with --bench-promote: cost:1.5x, latency:2x of the champion's at most (default 2x; repeatable)",
        },
    ),
    (
        "--bench-rollback",
        {"metavar": "TASK", "help": "make the task's champion before the present one champion again; runs no test"},
    ),
    ("--bench-shard", {"metavar": "I/N", "help": "only the I-th of N disjoint shards of the selected cells"}),
    (
        "--bench-max-cost",
        {"metavar": "USD", "type": _dollars, "help": "stop generating before the session's known cost passes this"},
    ),
    (
        "--bench-allow-unpriced",
        {"action": "store_true", "help": "with --bench-max-cost: allow models whose price is unknown"},
    ),
    ("--judge-export", {"metavar": "PATH", "help": "write a packet of the pending candidates; runs no test"}),
    ("--judge-apply", {"metavar": "PATH", "help": "take in a scored packet; runs no test"}),
    (
        "--judge-queue",
        {
            "metavar": "NAME",
            "help": "put the pending candidates into a review queue of MLflow's own pages; runs no test",
        },
    ),
    (
        "--judge-collect",
        {"metavar": "NAME", "help": "take in what people completed in that review queue; runs no test"},
    ),
    ("--judge-auto", {"action": "store_true", "help": "have the suite's automatic judge score what it has not scored"}),
    (
        "--judge-audit",
        {
            "metavar": "N",
            "type": _positive,
            "help": "with --judge-export: only N candidates, chosen to check the automatic judge, or Claude Code",
        },
    ),
    (
        "--judge-duplicates",
        {
            "metavar": "K",
            "type": _positive,
            "help": "with --judge-export: K candidates stand there twice, to see how well a judge agrees with itself",
        },
    ),
    ("--judge-reveal", {"action": "store_true", "help": "with --judge-export or --judge-queue: not blind"}),
)
_PATHS = {"bench_report", "bench_save", "bench_compare", "judge_export", "judge_apply"}
OPTIONS = {flag.removeprefix("--").replace("-", "_"): (flag, details) for flag, details in _TABLE}
"""Name, as in the configuration file -> the option and its ``add_argument`` keywords."""


def add(parser: pytest.Parser) -> None:
    """Each option, and a key of the same name for the configuration file, with underscores or as the option has it."""
    group = parser.getgroup("promptbench", "LLM evals (pytest-promptbench)")
    for name, (flag, details) in OPTIONS.items():
        group.addoption(flag, default=None, **details)
        kind: Any = {"store_true": "bool", "append": "linelist"}.get(details.get("action", ""), _one_value(details))
        for spelling in _spellings(name):
            parser.addini(spelling, f"default of {flag}", type=kind, default=None)


def _one_value(details: Mapping[str, Any]) -> Any:
    """The type of a key with one value. Below ``[tool.pytest]`` a number or true is one, where pytest can say so."""
    if pytest.version_tuple < (9, 2):
        return "string"
    if "const" in details:
        return str | bool
    return str | int | float if "type" in details else "string"


def given(config: pytest.Config, name: str) -> bool:
    """Whether the option stands on the command line."""
    return config.getoption(name, default=None) is not None


def typed(config: pytest.Config) -> list[str]:
    """What this session was started with, without what the configuration file adds to every one."""
    return [*map(str, config.invocation_params.args), *shlex.split(os.environ.get("PYTEST_ADDOPTS", ""))]


def project(config: pytest.Config) -> list[str]:
    """The options of pytest's own that this session's root directory and configuration file were chosen by."""
    chosen = (("-c", "inifilename"), ("--rootdir", "rootdir"))
    return [word for flag, name in chosen if (value := config.getoption(name, default=None)) for word in (flag, value)]


def undone(config: pytest.Config) -> list[str]:
    """The options that the session was started with to do something, of one that does nothing or has no evals."""
    from ..settings import STEPS

    deeds = (*STEPS, "judge_auto", "bench_save", "bench_compare")
    return [OPTIONS[name][0] for name in deeds if of_this_session(config, name)]


def of_this_session(config: pytest.Config, name: str) -> bool:
    """Whether this session was started with the option, which the configuration file's ``addopts`` gives to every one.

    What is given and stands in neither of the two stands in a file of arguments: pytest @FILE.
    """
    always = _flags(config.getini("addopts")) - _flags(typed(config))
    return given(config, name) and OPTIONS[name][0] not in always


def check_once(config: pytest.Config) -> None:
    """pytest.UsageError where a step was asked for with two values: the last would be done, the others without a word.

    So it is with a shell's ``--judge-apply packet-*.json``, of which pytest takes all but the first for tests.
    """
    from ..settings import STEPS

    for name in STEPS:
        flag, details = OPTIONS[name]
        values = list(dict.fromkeys(_values(typed(config), flag))) if "metavar" in details else []
        if name == "judge_apply" and values:
            values += [argument for argument in config.args if argument.endswith(".json")]
        if len(values) > 1:
            raise pytest.UsageError(
                f"{flag} is asked for with {' and '.join(values)}: a session does one; start one for each"
            )


def _values(arguments: Sequence[str], flag: str) -> Iterable[str]:
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        name, equals, value = argument.partition("=")
        if name == flag:
            yield value if equals else following


def _flags(arguments: Iterable[str]) -> set[str]:
    return {argument.partition("=")[0] for argument in arguments}


def in_use(config: pytest.Config) -> bool:
    """Whether any option of ours stands on the command line or in the configuration file."""
    return any(given(config, name) or _configured(config, name) is not None for name in OPTIONS)


def value(config: pytest.Config, name: str) -> Any:
    """The command line's value of an option, else the configuration file's, else None. UsageError names a bad key."""
    if given(config, name):
        return config.getoption(name)
    found = _configured(config, name)
    if found is None:
        return None
    spelling, text = found
    details = OPTIONS[name][1]
    if isinstance(text, list) and details.get("action") != "append":  # TOML's lists
        if name not in ("bench_models", "bench_prompts") or not all(isinstance(one, str) for one in text):
            raise pytest.UsageError(f"ini key {spelling}: {text!r}; expected one value, not a list")
        from ..settings import as_names

        text = as_names(text)
    if "choices" in details and text not in details["choices"]:
        raise pytest.UsageError(f"ini key {spelling}: {text!r} is none of {', '.join(details['choices'])}")
    if "const" in details and text.lower() == "true":  # the option without a path
        return details["const"]
    if name in _PATHS:  # relative to the file that says so, as pytest's own
        return str((config.inipath.parent if config.inipath else config.rootpath) / text)
    try:
        return details["type"](text) if "type" in details else text
    except argparse.ArgumentTypeError as error:
        raise pytest.UsageError(f"ini key {spelling}: {error}") from None


def _configured(config: pytest.Config, name: str) -> tuple[str, Any] | None:
    for spelling in _spellings(name):
        try:
            with warnings.catch_warnings():  # pytest has no type for "a text or a list", and warns of each list
                warnings.filterwarnings("ignore", "Passing a value that is not a string", DeprecationWarning)
                text = config.getini(spelling)
        except (pytest.UsageError, TypeError, ValueError) as error:  # which names no key
            expected = "; expected true or false" if OPTIONS[name][1].get("action") == "store_true" else ""
            raise pytest.UsageError(f"ini key {spelling}: {error}{expected}") from None
        if isinstance(text, int | float) and OPTIONS[name][1].get("action") != "store_true":
            text = str(text)  # of TOML
        off = "const" in OPTIONS[name][1] and str(text).lower() == "false"
        if text not in (None, "", [], False) and not off:
            return spelling, text
    return None


def _spellings(name: str) -> tuple[str, str]:
    return name, name.replace("_", "-")
