"""Functions of a user's own that fill criteria of a rubric: from file to leaderboard, and every mistake in one."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_promptbench.catalog import load_rubric
from pytest_promptbench.catalog.rubric import read_rubric
from pytest_promptbench.checks import fill_checks, filled_scores, validate_check, violations
from pytest_promptbench.errors import CatalogError, ScorerError
from pytest_promptbench.records import Rubric
from pytest_promptbench.scorers import load_scorers

from .project import RUBRIC, Project, migrated_database
from .provider import ScriptedProvider
from .test_autojudge import project_in, reply

CRITERIA = """
  - {name: likeness, type: scale, min: 0, max: 1, weight: 2, check: {python: "scorers.py:likeness"}}
  - {name: shouts, type: flag, bad: true, penalty: 3, check: {python: "scorers.py:is_calm"}}
"""
SCORERS = """
    from dataclasses import dataclass


    @dataclass(frozen=True)
    class Text:  # dataclasses look their module up
        words: int


    def likeness(output: str, vars: dict) -> float:
        return len(set(output.split()) & set(vars["situation"].split("-"))) / 2


    def is_calm(output: str, vars: dict) -> bool:
        vars.clear()
        return Text(len(output.split())).words < 99 and not output.isupper()
"""
ALONE = "---\nid: own\ncriteria:" + CRITERIA + "---\nAll of it by programs.\n"


def write(folder: Path, scorers: str = SCORERS, rubric: str = ALONE) -> Path:
    (folder / "scorers.py").write_text(textwrap.dedent(scorers), encoding="utf-8")
    (folder / "own.md").write_text(rubric, encoding="utf-8")
    return folder / "own.md"


def filled(rubric: Rubric, *outputs: str) -> dict[str, bool | float]:
    return fill_checks(rubric, outputs, {"situation": "situation-1"})


def test_scorers_fill_scales_and_flags(tmp_path: Path) -> None:
    rubric = load_rubric(write(tmp_path))
    assert not rubric.judged
    calm = filled(rubric, "the situation")
    assert calm == {"likeness": 0.5, "shouts": False}, "and no scorer sees what another has made of the vars"
    assert filled(rubric, "THE SITUATION 1") == {"likeness": 0.5, "shouts": True}
    several = filled(rubric, "situation 1", "HELP", "none")
    assert several == {"likeness": pytest.approx(1 / 3), "shouts": pytest.approx(1 / 3)}
    assert violations(rubric, ["HELP"], {}, {"likeness": 0.0, "shouts": True}) == [
        'shouts fails python: "scorers.py:is_calm"'
    ]
    assert violations(rubric, ["a"], {}, calm) == []


def test_another_function_is_another_rubric(tmp_path: Path) -> None:
    """Scores of two functions are never compared as if they were of one, also within one process."""
    before = load_rubric(write(tmp_path))
    assert load_rubric(tmp_path / "own.md") == before
    assert filled(before, "situation 1")["likeness"] == 1.0
    after = load_rubric(write(tmp_path, SCORERS.replace("/ 2", "/ 4")))
    assert after.sha256 != before.sha256
    assert filled(after, "situation 1")["likeness"] == 0.5
    assert after.body == before.body, "judges see nothing of it"
    again = read_rubric(after.text, tmp_path / "own.md")
    assert (again.sha256, again.criteria) == (after.sha256, after.criteria), "and it can be read back from MLflow"
    plain = RUBRIC.lstrip("\n").replace("tip-v1", "own")
    (tmp_path / "own.md").write_text(plain, encoding="utf-8")
    assert load_rubric(tmp_path / "own.md").text == plain


@pytest.mark.parametrize(
    ("scorers", "said"),
    [
        ("def is_calm(:", r"own\.md: criterion likeness: check: python: .*scorers\.py:1: invalid syntax"),
        ("\x00", r"criterion likeness: check: python: .*scorers\.py"),
    ],
)
def test_what_python_cannot_read_is_a_mistake_of_the_rubric(tmp_path: Path, scorers: str, said: str) -> None:
    with pytest.raises(CatalogError, match=said):
        load_rubric(write(tmp_path, scorers))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "scorers.py").unlink()
    with pytest.raises(CatalogError, match=r"criterion likeness: check: python: .*/scorers\.py: there is no such file"):
        load_rubric(tmp_path / "own.md")


@pytest.mark.parametrize(
    ("scorers", "said"),
    [
        ("import no_such_package", r"cannot be imported: ModuleNotFoundError: No module named 'no_such_package'"),
        ("raise SystemExit(3)", r"cannot be imported: SystemExit: 3"),
        ("def likeness(output, vars): return 1\nis_calm = 3", r"has no function 'is_calm'; define it there"),
    ],
)
def test_a_scorer_that_cannot_be_imported_is_named(tmp_path: Path, scorers: str, said: str) -> None:
    rubric = load_rubric(write(tmp_path, scorers))
    with pytest.raises(CatalogError, match=r"rubric own: criterion \w+: python: scorers\.py:\w+: .*" + said):
        load_scorers(rubric)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (
            "return 1",
            r"^scorers\.py:is_calm returned 1, for the criterion shouts of the rubric own; it must return True or",
        ),
        ("return None", r"returned None, for"),
        ("raise ValueError('bad \\x1b[31m')", r"raised ValueError: 'bad \\x1b\[31m' \(line 2\)"),
        ("raise SystemExit", r"raised SystemExit"),
        ("return vars['no']", r"raised KeyError: 'no'"),
    ],
)
def test_a_scorer_that_fails_is_named_with_what_it_should_return(tmp_path: Path, body: str, said: str) -> None:
    rubric = load_rubric(write(tmp_path, f"def likeness(output, vars): return 0\ndef is_calm(output, vars): {body}\n"))
    with pytest.raises(ScorerError, match=said):
        filled(rubric, "a")


@pytest.mark.parametrize("given", ["1.5", "float('nan')", "True", "'1'", "-1"])
def test_a_scale_takes_a_number_within_its_ends(tmp_path: Path, given: str) -> None:
    rubric = load_rubric(write(tmp_path, f"def likeness(output, vars): return {given}\ndef is_calm(*_): return True\n"))
    with pytest.raises(ScorerError, match=r"^scorers\.py:likeness returned .*; it must return a number from 0 to 1"):
        filled(rubric, "a")


@pytest.mark.parametrize(
    ("check", "said"),
    [
        ({"python": "scorers.py"}, "it takes a function in a file beside the rubric, as in scorers.py:valid_sql"),
        ({"python": "/tmp/scorers.py:f"}, "it takes a function in a file beside the rubric"),
        ({"python": "scorers:f"}, "it takes a function"),
        ({"python": ["scorers.py:f"]}, "it takes a function"),
        ({"python": "scorers.py:f()"}, "it takes a function"),
        ({"python": "scorers.py:f", "max_words": 3}, "python stands beside max_words; a scorer is a check of its own"),
    ],
)
def test_a_scorer_is_named_by_file_and_function(check: dict[str, Any], said: str) -> None:
    assert said in (validate_check(check) or "")


def test_a_scale_is_filled_by_nothing_but_a_scorer(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match=r"likeness: check: max_words fills a flag; a scale's numbers come from"):
        load_rubric(write(tmp_path, rubric=ALONE.replace('{python: "scorers.py:likeness"}', "{max_words: 3}")))


def test_a_rubric_that_was_read_from_no_file_runs_nothing(tmp_path: Path) -> None:
    """One from MLflow or a packet: what was found is taken from the candidate."""
    text = load_rubric(write(tmp_path)).text
    rubric = read_rubric(text, Path("own.md"))
    assert filled_scores(rubric, "HELP", {}, {"likeness": 0.25, "shouts": True}) == {"likeness": 0.25, "shouts": True}
    assert filled_scores(rubric, "HELP", {}, {}) == {"likeness": None, "shouts": None}
    with pytest.raises(AssertionError, match="a rubric that was read from no file runs nothing"):
        filled(rubric, "HELP")


# -- in a session


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    migrated_database(tmp_path / "mlflow.db")
    with ScriptedProvider() as provider:
        yield Project(tmp_path, provider).write()


def own_rubric(project: Project, scorers: str = SCORERS) -> None:
    rubric = RUBRIC.lstrip("\n").replace("---\n#", CRITERIA.lstrip("\n") + "---\n#")
    project.file("rubrics/tip-v1.md", rubric)
    project.file("rubrics/scorers.py", scorers)


def test_what_scorers_find_goes_through_packets_to_the_leaderboard(project: Project) -> None:
    own_rubric(project)
    project.provider.reply = lambda body: "SITUATION!" if body["model"] == "local" else "a situation"
    assert project.pytest("-n", "2").code == 0
    assert project.pytest("--judge-export", "packet.json").code == 0
    entries = [(i["candidates"][0]["output"], i["candidates"][0]["scores"]) for i in project.packet()["items"]]
    found = {(text, s["likeness"], s["shouts"]) for text, s in entries}
    assert found == {("a situation", 0.5, False), ("SITUATION!", 0.0, True)}
    project.score()
    edited = project.packet()
    edited["items"][0]["candidates"][0]["scores"]["likeness"] = 0.75
    (project.root / "edited.json").write_text(json.dumps(edited))
    refused = project.pytest("--judge-apply", "edited.json")
    assert (refused.code, "likeness is 0.75; a program found" in refused.text) == (4, True), refused.text
    (project.root / "rubrics" / "scorers.py").write_text("def likeness(*_): return 1 / 0\n" * 2)
    changed = project.pytest("--judge-apply", "packet.json")
    assert (changed.code, "the rubric tip-v1 changed since the export" in changed.text) == (4, True), changed.text
    own_rubric(project)
    assert project.pytest("--judge-apply", "packet.json").code == 0
    rows = {(r["model"], r["likeness"], r["shouts"], r["composite"]) for r in project.leaderboard()["rows"]}
    assert rows == {("haiku", 0.5, 0.0, 13.0), ("local", 0.0, 1.0, 9.0)}
    assert {r.data.metrics["likeness"] for r in project.runs()} == {0.5, 0.0}


def test_a_scorer_that_raises_fails_its_test_and_nothing_is_paid_for_twice(project: Project) -> None:
    """The others are logged; once the function is mended, all of them are, from the cache."""
    broken = SCORERS.replace("vars.clear()", 'assert "-1" not in vars["situation"], "no such situation"')
    own_rubric(project, broken)
    first = project.pytest("-n", "2")
    assert (first.code, first.outcomes()) == (1, {"passed": 8, "failed": 4}), first.text
    assert (
        "not scored: scorers.py:is_calm raised AssertionError: no such situation (line 15), for the criterion shouts "
        "of the rubric tip-v1; the answer is kept: mend the function, and run again" in first.text
    )
    assert len(project.runs()) == 8
    own_rubric(project)
    second = project.pytest()
    assert (second.code, second.outcomes(), project.provider.count) == (0, {"passed": 12}, 12), second.text
    assert len(project.runs()) == 20
    assert sum(r["candidates"] for r in project.leaderboard()["rows"]) == 12


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_scorer_that_cannot_be_imported_costs_nothing(project: Project, workers: str) -> None:
    own_rubric(project, "import no_such_package\n")
    refused = project.pytest("-n", workers)
    assert (refused.code, project.provider.count) == (2, 0), refused.text
    assert "scorers.py cannot be imported: ModuleNotFoundError: No module named 'no_such_package'" in refused.text


def test_scorers_alone_need_no_judge(project: Project) -> None:
    project.file("rubrics/tip-v1.md", ALONE.replace("own", "tip-v1"))
    project.file("rubrics/scorers.py", SCORERS)
    project.provider.reply = lambda body: "HELP" if body["model"] == "local" else "a situation"
    assert project.pytest().code == 0
    rows = {(r["model"], r["composite"], r["tier"], r["pending"]) for r in project.leaderboard()["rows"]}
    assert rows == {("haiku", 1.0, "auto", 0), ("local", -3.0, "auto", 0)}
    page = (project.root / ".promptbench" / "report" / "leaderboard.html").read_text()
    assert re.search(r"shouts fails python: &#34;scorers\.py:is_calm&#34;", page)


def test_an_automatic_verdict_has_what_programs_found(tmp_path: Path) -> None:
    """Of scorers, and of a check that compares with the scenario's reference."""
    with ScriptedProvider(reply=reply) as provider:
        project = project_in(tmp_path, provider)
        own_rubric(project)
        rubric = project.root / "rubrics" / "tip-v1.md"
        compared = "  - {name: right, type: flag, bad: false, penalty: 1, check: {contains_var: situation}}\n---\n#"
        rubric.write_text(rubric.read_text().replace("---\n#", compared))
        assert project.pytest("--judge-auto").code == 0
        for run in project.runs():
            found, judged = run.data.metrics, {"format_ok": run.data.params["scenario"] != "s0", "overlong": False}
            assert (found["auto/likeness"], found["auto/shouts"], found["auto/right"]) == (0.0, 0.0, 0.0)
            flags = 2 * (not judged["format_ok"]) + 1
            assert found["auto/composite"] == found["auto/relevance"] + 7 - flags
