"""Functions of a user's own that fill criteria of a rubric: from file to leaderboard, and every mistake in one."""

from __future__ import annotations

import asyncio
import itertools
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
        (
            "import no_such_package",
            r"cannot be imported: ModuleNotFoundError: No module named 'no_such_package', for the",
        ),
        ("raise SystemExit(3)", r"cannot be imported: SystemExit: 3, for"),
        ("import pytest; pytest.importorskip('no_such_package')", r"cannot be imported: Skipped: could not import"),
        ("def likeness(output, vars): return 1\nis_calm = 3", r"has no function 'is_calm', for .*; define it there"),
    ],
)
def test_a_scorer_that_cannot_be_imported_is_named(tmp_path: Path, scorers: str, said: str) -> None:
    rubric = load_rubric(write(tmp_path, scorers))
    with pytest.raises(ScorerError, match=r"/scorers\.py " + said) as caught:
        load_scorers(rubric)
    assert re.search(r"for the criterion \w+ of the rubric own", str(caught.value))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (
            "return 1",
            r"^scorers\.py:is_calm returned 1\.0, not True or False, for the criterion shouts of the rubric own",
        ),
        ("return None", r"returned None, not True or False, for .*, on the output 'text'$"),
        ("raise ValueError('bad \\x1b[31m')", r"raised ValueError: 'bad \\x1b\[31m' \(line 2\), for"),
        ("raise SystemExit", r"raised SystemExit \(line 2\), for"),
        ("__import__('pytest').fail('no reference')", r"raised Failed: no reference \(line 2\), for"),
        ("return vars['no']", r"raised KeyError: 'no'"),
        ("return type('Odd', (), {'__repr__': lambda self: 1 / 0})()", r"returned <Odd.*>, not True or False"),
        (
            "return type('Odd', (), {'__repr__': lambda self: 'a\\x1b\\udc80\\n'})()",
            r"returned 'a\\x1b\\udc80\\n', not True",
        ),
    ],
)
def test_a_scorer_that_fails_is_named_with_what_it_should_return(tmp_path: Path, body: str, said: str) -> None:
    rubric = load_rubric(write(tmp_path, f"def likeness(output, vars): return 0\ndef is_calm(output, vars): {body}\n"))
    with pytest.raises(ScorerError, match=said):
        filled(rubric, "text")


def returning(folder: Path, given: str, before: str = "") -> Rubric:
    text = f"{before}\ndef likeness(output, vars): return {given}\ndef is_calm(*_): return True\n"
    return load_rubric(write(folder, text))


@pytest.mark.parametrize("given", ["1.5", "float('nan')", "True", "'1'", "-1", "None", "1 + 1e-6"])
def test_a_scale_takes_a_number_within_its_ends(tmp_path: Path, given: str) -> None:
    with pytest.raises(ScorerError, match=r"^scorers\.py:likeness returned .*, not a number from 0 to 1, for the crit"):
        filled(returning(tmp_path, given), "a")


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ("numpy.float32(0.5)", 0.5),
        ("numpy.int64(1)", 1.0),
        ("Fraction(1, 4)", 0.25),
        ("Decimal('0.25')", 0.25),
        ("1.0000000000000002", 1.0),
        ("-1e-17", 0.0),
    ],
)
def test_other_libraries_numbers_are_numbers(tmp_path: Path, given: str, value: float) -> None:
    imports = "import numpy\nfrom decimal import Decimal\nfrom fractions import Fraction"
    found = filled(returning(tmp_path, given, imports), "a")["likeness"]
    assert (found, type(found)) == (value, float)


def test_other_libraries_bools_are_bools(tmp_path: Path) -> None:
    text = "import numpy\ndef likeness(*_): return 0\ndef is_calm(output, vars): return numpy.bool_(output == 'a')\n"
    rubric = load_rubric(write(tmp_path, text))
    assert filled(rubric, "a")["shouts"] is False
    assert filled(rubric, "b")["shouts"] is True


def test_scorers_have_a_thread_of_their_own(tmp_path: Path) -> None:
    """In which they are imported, too, and where an event loop may be begun."""
    text = """
        import asyncio
        import sqlite3

        database = sqlite3.connect(":memory:")


        async def one():
            return 1


        def likeness(output, vars):
            return asyncio.run(one())


        def is_calm(output, vars):
            try:
                return database.execute(output).fetchone() == (1,)
            except sqlite3.OperationalError:
                return False
    """
    rubric = load_rubric(write(tmp_path, text))

    async def landing() -> dict[str, bool | float]:
        return filled(rubric, "SELECT 1")

    assert asyncio.run(landing()) == {"likeness": 1.0, "shouts": False}
    assert filled(rubric, "SELECT FROM") == {"likeness": 1.0, "shouts": True}


def test_what_is_hashed_is_what_runs(tmp_path: Path) -> None:
    """Though somebody saves the file once it has been read."""
    rubric = returning(tmp_path, "0.25")
    returning(tmp_path, "0.75")
    assert filled(rubric, "a")["likeness"] == 0.25


def test_a_byte_order_mark_is_nothing(tmp_path: Path) -> None:
    write(tmp_path)
    plain = load_rubric(tmp_path / "own.md")
    (tmp_path / "scorers.py").write_bytes(b"\xef\xbb\xbf" + (tmp_path / "scorers.py").read_bytes())
    marked = load_rubric(tmp_path / "own.md")
    assert marked.sha256 == plain.sha256
    assert filled(marked, "situation")["likeness"] == 0.5


@pytest.mark.parametrize(
    ("check", "said"),
    [
        ({"python": "scorers.py"}, "it takes a function in a file beside the rubric, as in scorers.py:valid_sql"),
        ({"python": "/tmp/scorers.py:f"}, "it takes a function in a file beside the rubric"),
        ({"python": "scorers:f"}, "it takes a function"),
        ({"python": ["scorers.py:f"]}, "it takes a function"),
        ({"python": "scorers.py:f()"}, "it takes a function"),
        ({"python": "a\u2028b.py:f"}, "it takes a function"),
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
    with pytest.raises(ValueError, match=r"own was read from no file, so its scorers\.py:likeness cannot be run"):
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


@pytest.mark.parametrize("body", ['assert "-1" not in vars["situation"], "oh no"', "pytest.fail('oh no')"])
def test_an_answer_that_a_scorer_fails_on_is_a_failed_candidate(project: Project, body: str) -> None:
    """Counted as that, with what it cost. Once the function is mended, all are logged anew, and none is paid again."""
    if "fail" in body:
        body = f'if "-1" in vars["situation"]: {body}'
    own_rubric(project, "import pytest\n" + textwrap.dedent(SCORERS).replace("vars.clear()", body))
    first = project.pytest("-n", "2")
    assert (first.code, first.outcomes()) == (1, {"passed": 8, "failed": 4}), first.text
    assert "no candidate: not scored: scorers.py:is_calm raised " in first.text
    assert re.search(
        r": oh no \(line 1\d\), for the criterion shouts of the rubric tip-v1, on the output '", first.text
    )
    assert [(r["candidates"], r["failed"]) for r in project.leaderboard()["rows"]] == [(3, 1)] * 4
    unscored = [r for r in project.runs() if r.info.status == "FAILED"]
    assert len(unscored) == 4
    assert all(r.data.metrics["completion_tokens"] > 0 for r in unscored)
    again = project.pytest()
    assert (again.code, len(project.runs()), project.provider.count) == (1, 12, 12), again.text
    own_rubric(project)
    mended = project.pytest()
    assert (mended.code, mended.outcomes(), project.provider.count) == (0, {"passed": 12}, 12), mended.text
    assert [(r["candidates"], r["failed"]) for r in project.leaderboard()["rows"]] == [(3, 0)] * 4


def test_a_scorer_that_works_again_completes_what_it_failed_on(project: Project) -> None:
    """Where the file is the same, as after a service was down."""
    own_rubric(project, SCORERS.replace("vars.clear()", 'open("service").close()'))
    assert project.pytest().outcomes() == {"failed": 12}
    project.file("service", "")
    again = project.pytest()
    assert (again.code, project.provider.count) == (0, 12), again.text
    assert {r.info.status for r in project.runs()} == {"FINISHED"}
    assert len(project.runs()) == 12


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_scorer_that_cannot_be_imported_costs_nothing(project: Project, workers: str) -> None:
    own_rubric(project, "import no_such_package\n")
    refused = project.pytest("-n", workers)
    assert (refused.code, project.provider.count) == (2, 0), refused.text
    assert "scorers.py cannot be imported: ModuleNotFoundError: No module named 'no_such_package'" in refused.text


def test_a_rerun_of_a_failed_test_scores_the_answer_again(project: Project) -> None:
    fails_once = """
        import pathlib


        def likeness(output, vars):
            return 0.5


        def is_calm(output, vars):
            mark = pathlib.Path("asked-" + vars["situation"])
            if not mark.exists():
                mark.touch()
                raise OSError("no service")
            return True
    """
    own_rubric(project, fails_once)
    done = project.pytest("-p", "rerunfailures", "--reruns", "1", "--bench-models", "haiku", "--bench-prompts", "v1")
    assert (done.code, project.provider.count) == (0, 3), done.text
    assert "3 passed" in done.out
    assert "3 rerun" in done.out
    assert [r.info.status for r in project.runs()] == ["FINISHED"] * 3
    assert [r["failed"] for r in project.leaderboard()["rows"]] == [0]


def test_keys_in_what_a_scorer_says_are_taken_out(project: Project) -> None:
    """Of one that fails, and of one that cannot be imported."""
    key = project.environment()["SCRIPTED_KEY"]
    said = 'raise OSError("GET " + "x" * 172 + " https://x/?key=" + __import__("os").environ["SCRIPTED_KEY"])'
    own_rubric(project, SCORERS.replace("vars.clear()", said))
    first = project.pytest()
    assert first.outcomes() == {"failed": 12}
    project.file("rubrics/scorers.py", 'import os\nraise OSError(os.environ["SCRIPTED_KEY"])\n')
    second = project.pytest()
    assert (second.code, "OSError: ***" in second.text) == (2, True), second.text
    assert "?key=***" in first.text
    assert key not in first.text + second.text
    written = [p for p in project.root.rglob("*") if p.is_file()]
    assert not [p for p in written if key.encode() in p.read_bytes()]
    assert key[:12] not in first.text, "nor the half of one, where a long message was cut"


def test_a_condition_that_pytest_evaluates_last_pays_nothing_for_what_cannot_be_scored(project: Project) -> None:
    own_rubric(project, "import no_such_package\n")
    test = project.root / "evals" / "test_tips.py"
    test.write_text(test.read_text().replace("@pytest", '@pytest.mark.skipif("1 > 2", reason="no")\n@pytest', 1))
    done = project.pytest()
    assert (done.outcomes(), project.provider.count) == ({"failed": 12}, 0), done.text
    assert "no candidate: " in done.text
    assert "cannot be imported: ModuleNotFoundError" in done.text


def test_a_verdict_that_is_carried_over_has_what_the_scorer_finds_today(project: Project) -> None:
    """What its file imports may have changed: the run says what the leaderboard says."""
    one = ("--bench-models", "haiku", "--bench-prompts", "v1")
    own_rubric(project, SCORERS.replace("/ 2", '/ float(open("divisor").read())'))
    project.file("divisor", "2")
    project.provider.reply = lambda _: "a situation"
    assert project.pytest(*one).code == 0
    assert project.pytest("--judge-export", "packet.json").code == 0
    project.score()
    assert project.pytest("--judge-apply", "packet.json").code == 0
    assert {r["composite"] for r in project.leaderboard()["rows"]} == {13.0}
    project.file("divisor", "1")
    assert project.pytest(*one, "--bench-experiment", "second").code == 0
    assert [r["composite"] for r in project.leaderboard()["rows"]] == [14.0]
    metrics = [r.data.metrics for r in project.runs("second")]
    assert {(m["likeness"], m["relevance"], m["composite"]) for m in metrics} == {(1.0, 4.0, 14.0)}


def test_a_skipped_test_needs_no_scorer(project: Project) -> None:
    project.second_suite(rubric="joke-v1")
    rubric = project.root / "rubrics" / "joke-v1.md"
    own = RUBRIC.lstrip("\n").replace("tip-v1", "joke-v1").replace("---\n#", CRITERIA.lstrip("\n") + "---\n#")
    rubric.write_text(own)
    project.file("rubrics/scorers.py", "import no_such_package\n")
    test = project.root / "evals" / "test_tips.py"
    test.write_text(
        test.read_text().replace(
            '@pytest.mark.promptbench("jokes', '@pytest.mark.skip\n@pytest.mark.promptbench("jokes'
        )
    )
    done = project.pytest()
    assert (done.code, done.outcomes()) == (0, {"passed": 12, "skipped": 8}), done.text


def test_of_several_outputs_a_packet_has_no_scorers_mean(project: Project) -> None:
    """It is no score of any of them; the candidate has it."""
    own_rubric(project)
    suite = project.root / "evals" / "tips.yaml"
    suite.write_text("samples: 2\n" + suite.read_text())
    replies = itertools.cycle(["SITUATION!", "a situation"])
    project.provider.reply = lambda _: next(replies)
    assert project.pytest("--bench-models", "haiku", "--bench-prompts", "v1").code == 0
    assert project.pytest("--judge-export", "packet.json").code == 0
    names = {frozenset(e["scores"]) for i in project.packet()["items"] for e in i["candidates"]}
    assert names == {frozenset({"relevance", "actionability", "tone", "format_ok", "overlong"})}
    project.score()
    assert project.pytest("--judge-apply", "packet.json").code == 0
    assert [(r["likeness"], r["shouts"], r["composite"]) for r in project.leaderboard()["rows"]] == [(0.25, 0.5, 11.0)]


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
