"""Flags that a program fills."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pytest_promptbench.checks import fill_checks, lacking_reference, run_check, validate_check, violations
from pytest_promptbench.records import Criterion, Rubric, Scenario

NUMBER = "it takes a whole number from 0"
TEXTS = "it takes a text, or a list of texts"
PLACES = "it takes places with names of vars, as in {label: expected}"
ALL = (
    "max_words, min_words, max_chars, min_chars, max_sentences, max_lines, "
    "contains, not_contains, matches, not_matches, is_json, equals_var, contains_var, not_contains_var, "
    "json_equals_var, python"
)


def flag(check: dict[str, Any] | None, *, name: str = "flag", bad: bool = True) -> Criterion:
    return Criterion(name=name, type="flag", bad=bad, penalty=1, check=check)


@pytest.mark.parametrize(
    ("check", "holds", "violates"),
    [
        ({"max_words": 3}, "one two\n\tthree ", "one two three four"),
        ({"max_words": 0}, " \n", "one"),
        ({"min_words": 2}, "one\u00a0two", "one"),
        ({"max_chars": 2}, "é🙂", "abc"),
        ({"min_chars": 2}, "é🙂", "a"),
        ({"max_sentences": 1}, "Drink water.", "Drink water. Sleep!"),
        ({"max_sentences": 1}, "Take 3.5 litres", 'She said "go." Then she left'),
        ({"max_sentences": 1}, "He said (really?!)", "Really?! Yes"),
        ({"max_sentences": 1}, "1. Drink water.", "1. Drink. 2. Sleep."),
        ({"max_sentences": 1}, "喝水。", "喝水。睡觉。"),
        ({"max_sentences": 0}, "", "a"),
        ({"max_lines": 2}, "a\n\n \nb\n", "a\nb\r\nc"),
        ({"contains": "water"}, "drink water", "drink Water"),
        ({"contains": ["a", "b"]}, "ba", "a"),
        ({"not_contains": "AI"}, "ai", "as an AI"),
        ({"not_contains": ["x", "y"]}, "z", "only y"),
        ({"matches": r"^Tip: \w+"}, "Tip: drink", "A Tip: drink"),
        ({"matches": r"\[:digit:]"}, "class [:digit:]", "d1:"),
        ({"not_matches": r"(?i)sorry"}, "gladly", "I am SORRY"),
        ({"is_json": True}, ' {"a": [1, null]}\n', "{'a': 1}"),
        ({"is_json": True}, "3", "NaN"),
        ({"is_json": True}, "[]", "[" * 100_000),
        ({"is_json": True}, "[" * 500 + "]" * 500, "[" * 501 + "]" * 501),
        ({"is_json": True}, json.dumps([["[{" * 501, '"\\']] * 501), "[" * 501 + '"' + '\\"' * 500_000),
        ({"is_json": False}, "plain", "{}"),
        ({"min_words": 2, "max_words": 3, "contains": "b"}, "a b", "a c"),
        ({"min_words": 2, "max_words": 3, "contains": "b"}, "a b c", "b"),
    ],
)
def test_a_flag_stands_at_its_bad_value_exactly_when_its_check_is_violated(
    check: dict[str, Any], holds: str, violates: str
) -> None:
    assert validate_check(check) is None
    assert run_check(flag(check, bad=True), violates) is True
    assert run_check(flag(check, bad=True), holds) is False
    assert run_check(flag(check, bad=False), violates) is False
    assert run_check(flag(check, bad=False), holds) is True


@pytest.mark.parametrize(
    ("check", "problem"),
    [
        ({}, f"the check is empty; give one of {ALL}"),
        ({"max_word": 3}, f"'max_word' is no check; there are {ALL}"),
        ({"max_words": 3, "polite": True}, f"'polite' is no check; there are {ALL}"),
        ({1: 2}, f"1 is no check; there are {ALL}"),
        ({"equals_var": ["label"]}, "equals_var is ['label']; it takes the name of a var"),
        ({"contains_var": ""}, "contains_var is ''; it takes the name of a var"),
        ({"json_equals_var": "label"}, f"json_equals_var is 'label'; {PLACES}"),
        ({"json_equals_var": {}}, f"json_equals_var is {{}}; {PLACES}"),
        ({"json_equals_var": {0: "label"}}, f"json_equals_var is {{0: 'label'}}; {PLACES}"),
        ({"json_equals_var": {"label": ["a"]}}, f"json_equals_var is {{'label': ['a']}}; {PLACES}"),
        ({"max_words": "60"}, f"max_words is '60'; {NUMBER}"),
        ({"max_words": True}, f"max_words is True; {NUMBER}"),
        ({"min_chars": -1}, f"min_chars is -1; {NUMBER}"),
        ({"max_lines": 1.5}, f"max_lines is 1.5; {NUMBER}"),
        ({"max_sentences": None}, f"max_sentences is None; {NUMBER}"),
        ({"min_words": 5, "max_words": 4}, "min_words is 5 and max_words is 4; no text holds both"),
        ({"contains": ""}, f"contains is ''; {TEXTS}"),
        ({"contains": []}, f"contains is []; {TEXTS}"),
        ({"not_contains": ["a", 1]}, f"not_contains is ['a', 1]; {TEXTS}"),
        ({"not_contains": {"a": 1}}, f"not_contains is {{'a': 1}}; {TEXTS}"),
        ({"matches": 3}, "matches is 3; it takes a regular expression"),
        (
            {"not_matches": "(a"},
            "not_matches is '(a', which is no regular expression: "
            "missing ), unterminated subpattern at position 0",
        ),
        (
            {"matches": "a{99999999999}"},
            "matches is 'a{99999999999}', which is no regular expression: the repetition number is too large",
        ),
        (
            {"matches": "^[[:alpha:]]+$"},
            r"matches is '^[[:alpha:]]+$'; Python has no [:alpha:], spell the class out, as in [A-Za-z], \d or \s",
        ),
        (
            {"matches": "[[a]"},
            "matches is '[[a]', which is ambiguous: Possible nested set at position 1; write a backslash before the "
            "character",
        ),
        ({"is_json": "yes"}, "is_json is 'yes'; it takes true or false"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("error")
def test_a_check_that_cannot_be_run_is_named_with_what_is_allowed(check: dict[str, Any], problem: str) -> None:
    assert validate_check(check) == problem


@pytest.mark.parametrize(
    "text",
    ["." * 1_000_000 + "x", '"' * 1_000_000 + "x", '."' * 500_000 + "x", "。」" * 500_000 + "x"],
    ids=["dots", "quotes", "both", "chinese"],
)
def test_counting_sentences_stays_linear_for_hostile_outputs(text: str) -> None:
    """Quadratic counting would take longer here than the suite lets a test run."""
    assert run_check(flag({"max_sentences": 0}), text) is True
    assert run_check(flag({"max_sentences": 1}), text) is False


def rubric(*criteria: Criterion) -> Rubric:
    return Rubric(id="r", text="r", criteria=criteria, sha256="r")


def test_filling_gives_a_bool_for_one_output_and_a_share_for_several() -> None:
    r = rubric(
        Criterion(name="tone", type="scale", min=1, max=5, weight=1),
        flag(None, name="by_a_judge"),
        flag({"max_words": 1}, name="overlong"),
        flag({"matches": "^a"}, name="begins", bad=False),
    )
    assert fill_checks(r, ["a"]) == {"overlong": False, "begins": True}
    assert type(fill_checks(r, ["a"])["overlong"]) is bool
    assert fill_checks(r, ["a", "a b", "c", "d"]) == {"overlong": 0.25, "begins": 0.5}
    assert type(fill_checks(r, ["a", "a"])["begins"]) is float
    assert fill_checks(r, []) == {}, "nothing came, so nothing is known"


@pytest.mark.parametrize(
    ("key", "reference", "holds", "violates"),
    [
        ("equals_var", "billing", "\n billing ", "Billing"),
        ("equals_var", ["billing", "invoice"], "invoice", "billing, invoice"),
        ("equals_var", 42, "42", "42.0"),
        ("contains_var", "42 EUR", "It costs 42 EUR.", "It costs 42 eur."),
        ("contains_var", "42\n", "42 EUR", "4 2"),
        ("contains_var", ["Ada", 1815], "Ada was born in 1815", "Ada was born"),
        ("not_contains_var", ["badly", "worse"], "fine", "worse"),
    ],
)
def test_a_check_may_compare_with_a_var_of_the_scenario(key: str, reference: Any, holds: str, violates: str) -> None:
    right = flag({key: "label"}, bad=False)
    assert validate_check({key: "label"}) is None
    assert run_check(right, holds, {"label": reference, "other": "x"}) is True
    assert run_check(right, violates, {"label": reference}) is False
    rubric = Rubric(id="r", text="", sha256="0", criteria=(right,))
    assert fill_checks(rubric, [holds, violates], {"label": reference}) == {"flag": 0.5}
    assert lacking_reference(rubric, Scenario(id="s", vars={"label": reference})) is None


@pytest.mark.parametrize(
    ("output", "right"),
    [
        ({"label": "billing", "why": "no bug", "calls": [{}, {"to": {"desk": 3}}]}, True),
        ({"label": " invoice\n", "calls": [0, {"to": {"desk": "3"}}], "more": None}, True),
        ({"label": "bug", "why": "billing", "calls": [{}, {"to": {"desk": 3}}]}, False),
        ({"label": "billing", "calls": [{}, {"to": {"desk": 3.0}}]}, False),
        ({"label": "billing", "calls": [{"to": {"desk": 3}}]}, False),
        ({"label": "billing", "calls": {"1": {"to": {"desk": 3}}}}, True),
        ({"label": ["billing"], "calls": [{}, {"to": {"desk": 3}}]}, False),
        ({"label": "billing", "calls": "ab"}, False),
        (["billing"], False),
    ],
)
def test_a_check_may_compare_places_of_an_output_that_is_json_with_vars(output: Any, right: bool) -> None:
    check = {"json_equals_var": {"label": "topic", "calls.1.to.desk": "desk"}}
    assert validate_check(check) is None
    context = {"topic": ["billing", "invoice"], "desk": "3"}
    assert run_check(flag(check, bad=False), json.dumps(output), context) is right
    assert run_check(flag(check, bad=False), f"```json\n{json.dumps(output)}\n```", context) is False
    assert run_check(flag(check, bad=False), "[" * 100_000, context) is False


@pytest.mark.parametrize("written", ["19.90", "1e2", "-0.0", "12345678901234567890.5"])
def test_numbers_of_a_json_output_count_as_they_are_written(written: str) -> None:
    check = flag({"json_equals_var": {"price": "price"}}, bad=False)
    assert run_check(check, f'{{"price": {written}}}', {"price": written}) is True
    assert run_check(check, f'{{"price": "{written}"}}', {"price": written}) is True
    assert run_check(check, f'{{"price": {written}0}}', {"price": written}) is False


@pytest.mark.parametrize("frames", range(0, 400, 50))
def test_a_check_finds_the_same_however_deep_it_is_called(frames: int) -> None:
    """A verdict's checks are run in a session's thread, at an export and as a packet is taken in."""
    deep = "[" * 700 + "]" * 700

    def found(more: int) -> bool:
        return found(more - 1) if more else run_check(flag({"is_json": True}, bad=False), deep)

    assert found(frames) is False


def test_each_place_of_a_json_output_that_is_wrong_is_told_with_its_reference() -> None:
    r = rubric(flag({"json_equals_var": {"label": "topic", "by": "desk"}}, name="right", bad=False))
    assert violations(r, ['{"label": "bug", "by": true}'], {"topic": "billing", "desk": "true"}, {}) == [
        'right fails json_equals_var: {"label": "topic"}, which is "billing"'
    ]
    assert lacking_reference(r, Scenario(id="s", vars={"topic": "bug"})) == (
        "json_equals_var of the rubric r fills the flag right by the var 'desk', which is missing; its vars are: "
        "topic. Give it a text, a whole number, or a list of these"
    )


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"situation": "x"}, "missing; its vars are: situation"),
        ({}, "missing; its vars are: none"),
        ({"label": None}, "None"),
        ({"label": ""}, "''"),
        ({"label": " \n"}, r"' \n'"),
        ({"label": []}, "[]"),
        ({"label": 1.5}, "1.5"),
        ({"label": True}, "True"),
        ({"label": ["a", {"b": 1}]}, "['a', {'b': 1}]"),
    ],
)
def test_a_var_that_a_check_cannot_compare_with_is_named(given: dict[str, Any], why: str) -> None:
    rubric = Rubric(
        id="r", text="", sha256="0", criteria=(flag({"max_words": 9, "equals_var": "label"}, name="right"),)
    )
    assert lacking_reference(rubric, Scenario(id="s", vars=given)) == (
        f"equals_var of the rubric r fills the flag right by the var 'label', which is {why}. Give it a text, a whole "
        "number, or a list of these"
    )


def test_what_fails_is_told_by_flag_and_output() -> None:
    r = rubric(
        flag(None, name="by_a_judge"),
        flag({"min_words": 2, "max_words": 3, "contains": ["ä", '"']}, name="form"),
        flag({"equals_var": "label"}, name="right", bad=False),
    )
    context = {"label": 'ä " b', "other": 1}
    assert violations(r, ['ä " b'], context, {}) == []
    assert violations(r, ["b"], context, {}) == [
        'form fails min_words: 2 and contains: ["ä", "\\""]',
        'right fails equals_var: "label", which is "ä \\" b"',
    ]
    assert violations(r, ['ä " b', 'ä "'], context, {}) == [
        'output 2: right fails equals_var: "label", which is "ä \\" b"'
    ]
    assert violations(r, [], context, {}) == []
