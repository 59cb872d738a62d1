"""The regression gate: tolerances, baseline files, four outcomes, and how often it is wrong."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from pytest_promptbench import gate
from pytest_promptbench.errors import BaselineError, UsageError
from pytest_promptbench.gate import Baseline, BaselineRow, GateOutcome, Tolerance, evaluate_gate
from pytest_promptbench.gate.verdict import Case, decide
from pytest_promptbench.leaderboard import build_leaderboard
from pytest_promptbench.records import (
    Criterion,
    Fingerprint,
    Judge,
    Leaderboard,
    LoggedCandidate,
    Message,
    Model,
    Prompt,
    Row,
    Rubric,
    Scenario,
    Suite,
    Tier,
    Verdict,
    sha256,
)
from pytest_promptbench.statistics import minimum_detectable_effect

HALF = (Tolerance(metric="composite", amount=0.5),)


def row(scores, *, prompt="v1", model="haiku", tier="auto", judge="j1", metric="composite") -> BaselineRow:
    """A row; ``scores`` is a list for scenarios s00, s01, ... or a mapping."""
    named = scores if isinstance(scores, dict) else {f"s{i:02}": x for i, x in enumerate(scores)}
    filled = {s: {} if x is None else {metric: float(x)} for s, x in named.items()}
    return BaselineRow(model=model, prompt=prompt, tier=tier, judge=judge, scores=filled)


def baseline(*rows: BaselineRow, **changes) -> Baseline:
    plain = Baseline(
        task="tip",
        experiment="tip-bench-2026-11-23",
        rubric="tip-v1",
        rubric_sha256="a" * 64,
        better={"composite": "higher", "relevance": "higher", "overlong": "lower"},
        models={"haiku": "m1"},
        prompts={"v1": "p1", "v2": "p2"},
        scenarios={f"s{i:02}": "same" for i in range(40)},
        rows=rows,
        saved_at="2026-11-23T10:00:00Z",
    )
    return replace(plain, **changes)


SCORES = [12.0, 13.0, 11.0, 14.0, 12.5, 10.0, 13.5, 12.0, 11.5, 13.0, 12.0, 14.0]


def lower(by: float, scores=SCORES) -> list[float]:
    return [x - by - (0.1 if i % 2 else -0.1) for i, x in enumerate(scores)]


# -- tolerances ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected", "points_at_10"),
    [
        ("composite:0.5", Tolerance(metric="composite", amount=0.5), 0.5),
        ("composite:5%", Tolerance(metric="composite", amount=5, percent=True), 0.5),
        (" relevance : .25 ", Tolerance(metric="relevance", amount=0.25), 0.25),
        ("format_ok:0", Tolerance(metric="format_ok", amount=0), 0.0),
        ("a:b:100 %", Tolerance(metric="a:b", amount=100, percent=True), 10.0),
    ],
)
def test_tolerances(text, expected, points_at_10):
    assert gate.parse_tolerance(text) == expected
    assert expected.points(10) == expected.points(-10) == points_at_10


def test_a_tolerance_prints_as_it_is_written():
    assert [str(gate.parse_tolerance(t)) for t in ("composite:0.50", "composite:5%")] == [
        "composite:0.5",
        "composite:5%",
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("composite", "expected METRIC:POINTS or METRIC:PERCENT%, e.g. composite:0.5"),
        (":0.5", "expected METRIC:POINTS"),
        ("composite:", "'' is no drop"),
        ("composite:half", "'half' is no drop; expected points or percent from 0 up"),
        ("composite:-1", "'-1' is no drop"),
        ("composite:nan", "'nan' is no drop"),
        ("composite:1e3", "'1e3' is no drop"),
        ("composite:5%%", "'5%%' is no drop"),
        ("composite:150%", "more than 100% of the baseline's mean is hardly meant; say it in points, e.g. composite:2"),
    ],
)
def test_nonsense_is_refused_by_name(text, says):
    with pytest.raises(UsageError) as caught:
        gate.parse_tolerance(text)
    assert str(caught.value).startswith(f"--bench-compare-fail {text!r}: ")
    assert says in str(caught.value)


# -- the file ------------------------------------------------------------------------------------------------------


def test_a_baseline_reads_well_and_survives():
    saved = baseline(row([12.0, None, 11 / 3], prompt="v2"), row([12.0]), scenarios={"s00": "x"})
    text = gate.baseline_json([saved])
    assert text.startswith('{\n  "schema": "promptbench/baseline/1",\n')
    assert '\n            "s00": {"composite": 12.0},\n            "s01": {},\n' in text
    (read,) = gate.parse_baseline(text)
    assert read == replace(saved, rows=(saved.rows[1], saved.rows[0]))
    assert read.rows[1].scores["s02"]["composite"] == 11 / 3  # raw, not rounded


def test_the_order_of_things_does_not_change_the_file():
    one = baseline(row({"b": 1, "a": 2}), row([3], prompt="v2"))
    other = baseline(row([3], prompt="v2"), row({"a": 2, "b": 1}))
    assert gate.baseline_json([one]) == gate.baseline_json([other])


def test_a_file_holds_several_tasks():
    both = [baseline(row([1])), baseline(row([2]), task="joke")]
    assert [b.task for b in gate.parse_baseline(gate.baseline_json(both))] == ["joke", "tip"]


def broken(change) -> str:
    data = json.loads(gate.baseline_json([baseline(row(SCORES))]))
    change(data)
    return json.dumps(data)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not JSON (line 1, column 1"),
        ('{\n "schema": "promptbench/baseline/1",\n', "not JSON (line 3"),
        ("[1,", "name another file, or, if this was a baseline, delete it and save it anew with --bench-save"),
        (
            '{\n<<<<<<< HEAD\n "suites": []\n=======\n "suites": [1]\n>>>>>>> theirs\n}',
            "holds a merge conflict (line 2); take one side's file, as with git checkout --ours or --theirs, then save",
        ),
        ("[]", "no baseline: its schema is None, expected 'promptbench/baseline/1'"),
        ('{"schema": "promptbench/packet/1"}', "its schema is 'promptbench/packet/1'"),
        ('{"schema": "promptbench/baseline/2"}', "promptbench/baseline/2 is newer than this version reads"),
        ('{"schema": "promptbench/baseline/1", "suites": []}', "suites: expected a list with at least one task"),
        (broken(lambda d: d["suites"][0].pop("rubric_sha256")), "suites[0].rubric_sha256 is None, expected a text"),
        (broken(lambda d: d["suites"][0].update(rows={})), "suites[0].rows is {}, expected a list"),
        (broken(lambda d: d["suites"][0]["rows"][0].pop("model")), "suites[0].rows[0].model is None"),
        (
            broken(lambda d: d["suites"][0]["rows"][0].update(tier=3)),
            "suites[0].rows[0].tier is 3, expected a text or null",
        ),
        (
            broken(lambda d: d["suites"][0]["rows"][0]["scores"]["s00"].update(composite="12")),
            "suites[0].rows[0].scores.s00.composite is '12', expected a number",
        ),
        (
            broken(lambda d: d["suites"][0]["rows"][0]["scores"]["s00"].update(composite=True)),
            "scores.s00.composite is True, expected a number",
        ),
        (
            broken(lambda d: d["suites"][0]["rows"][0]["scores"]["s00"].update(composite=float("nan"))),
            "NaN is no score",
        ),
        (
            gate.baseline_json([baseline(row([7.25]))]).replace("7.25", "1e999"),
            "scores.s00.composite is inf, expected a number",
        ),
        (
            gate.baseline_json([baseline(row([7.25]))]).replace("7.25", "9" * 400),
            "scores.s00.composite is 9999",
        ),
        (
            gate.baseline_json([baseline(row([7.25]))]).replace("7.25", "-7.25e200"),
            "scores.s00.composite is -7.25e+200, and no rubric gives more than 1,000,000",
        ),
        (gate.baseline_json([baseline(row([7.25]))]).replace("7.25", "9" * 5000), "a whole number of thousands"),
        ("[" * 100_000, "it is nested too deeply"),
        (
            gate.baseline_json([baseline(row([7.25]))]).replace('"s00": {', '"s00": {}, "s00": {'),
            "the key 's00' stands twice in one object",
        ),
        (broken(lambda d: d["suites"][0]["better"].update(composite="up")), "better.composite is 'up'"),
        (
            broken(lambda d: d["suites"][0]["rows"].append(d["suites"][0]["rows"][0])),
            "the row haiku x v1 is there twice",
        ),
        (broken(lambda d: d["suites"].append(d["suites"][0])), "the task 'tip' is there twice"),
    ],
)
def test_an_unreadable_baseline_names_the_place(text, says):
    with pytest.raises(BaselineError) as caught:
        gate.parse_baseline(text, source="evals/baseline.json")
    assert str(caught.value).startswith("evals/baseline.json: ")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


# -- the four outcomes ---------------------------------------------------------------------------------------------


def test_the_same_scores_pass():
    found = evaluate_gate(baseline(row(SCORES)), baseline(row(SCORES)), HALF)
    assert (found.outcome, found.exit_code, found.pairs) == ("pass", 0, 12)
    assert found.reasons == ("nothing fell beyond composite:0.5",)
    assert found.comparisons[0].change == 0.0
    assert "every score is unchanged" in found.comparisons[0].reason


def test_a_drop_beyond_the_tolerance_fails():
    found = evaluate_gate(baseline(row(SCORES)), baseline(row(lower(1.0))), HALF)
    assert (found.outcome, found.exit_code) == ("fail", 1)
    (c,) = found.comparisons
    assert (c.n, c.change, c.worse_by, c.tolerance) == (12, pytest.approx(-1.0), pytest.approx(1.0), 0.5)
    assert c.baseline_mean - c.current_mean == pytest.approx(1.0)
    assert c.ci[1] < 0
    assert c.p_value == c.p_adjusted == pytest.approx(2 / 2**12)
    assert c.mde == pytest.approx(0.1, abs=0.02)
    assert found.reasons[0].startswith("haiku x v1 composite: -1.00 points over 12 scenarios, 95 % -1.")
    assert "tolerance 0.5: beyond it, significantly (p = 0.000488; it can find 0." in found.reasons[0]


def test_a_small_drop_that_fails_is_not_written_as_none():
    before = [0.9 - 0.01 * i for i in range(20)]
    after = [x - 0.004 - (0.001 if i % 2 else -0.001) for i, x in enumerate(before)]
    found = evaluate_gate(baseline(row(before)), baseline(row(after)), (Tolerance(metric="composite", amount=0),))
    assert found.outcome == "fail"
    assert "composite: -0.004 points over 20 scenarios, 95 % -0.004 to -0.004, tolerance 0: beyond" in found.reasons[0]


def test_a_drop_within_the_tolerance_passes_however_significant():
    found = evaluate_gate(baseline(row(SCORES)), baseline(row(lower(0.4))), HALF)
    assert found.outcome == "pass"
    assert found.comparisons[0].p_adjusted < 0.001


def test_a_drop_of_exactly_the_tolerance_passes():
    found = evaluate_gate(
        baseline(row(SCORES)), baseline(row([x - 0.1 for x in SCORES])), [gate.parse_tolerance("composite:0.1")]
    )
    assert found.comparisons[0].worse_by == pytest.approx(0.1)
    assert found.outcome == "pass"


def test_an_insignificant_drop_is_inconclusive():
    noisy = [x + (4.0 if i % 2 else -6.0) for i, x in enumerate(SCORES)]
    found = evaluate_gate(baseline(row(SCORES)), baseline(row(noisy)), HALF)
    assert (found.outcome, found.exit_code) == ("inconclusive", 0)
    assert "tolerance 0.5: beyond it, but not significantly (p = " in found.reasons[0]
    strict = evaluate_gate(baseline(row(SCORES)), baseline(row(noisy)), HALF, strict=True)
    assert (strict.outcome, strict.exit_code) == ("inconclusive", 1)


def test_a_drop_that_only_the_other_tests_make_insignificant_says_so():
    """The interval excludes 0 and the row's line says p = 0.0156; the reason said "not significantly (p = 0.0938)"."""
    worse = [x - 1 if i < 7 else x for i, x in enumerate(SCORES)]
    rows = [row(SCORES, prompt=f"v{k}") for k in range(6)]
    found = evaluate_gate(baseline(*rows), baseline(row(worse, prompt="v0"), *rows[1:]), HALF)
    (c,) = (c for c in found.comparisons if c.outcome == "inconclusive")
    assert c.ci[1] < 0
    assert "but not significantly (p = 0.0156 alone, 0.0938 among 6 tests; it can find " in found.reasons[0]


def test_an_improvement_passes():
    found = evaluate_gate(baseline(row(SCORES)), baseline(row([x + 2 + i / 10 for i, x in enumerate(SCORES)])), HALF)
    assert found.outcome == "pass"
    assert found.comparisons[0].p_adjusted == 1.0


@pytest.mark.parametrize("n", [1, 2, 5])
def test_too_few_pairs_are_inconclusive_whatever_they_show(n):
    for scores in (lower(5.0)[:n], [x + 1 for x in SCORES[:n]]):
        found = evaluate_gate(baseline(row(SCORES[:n])), baseline(row(scores)), HALF)
        assert found.outcome == "inconclusive"
        assert f"too few pairs to tell: {n}, and the one test needs 6" in found.reasons[0]
        assert f" points over {n} {'scenario' if n == 1 else 'scenarios'}, " in found.reasons[0]


@pytest.mark.parametrize("rows", [1, 4, 6, 40])
def test_six_scenarios_are_enough_for_any_number_of_rows(rows):
    """All of 4 rows x 7 scenarios fell from 12 to 3, and exit code 0 said that 4 tests together need 8."""

    def outcome(n, fallen):
        before = baseline(*(row(SCORES[:n], prompt=f"v{k}") for k in range(rows)))
        after = baseline(*(row(lower(3.0)[:n] if k in fallen else SCORES[:n], prompt=f"v{k}") for k in range(rows)))
        return evaluate_gate(before, after, HALF)

    for n in (6, 7, 8, 12):
        assert outcome(n, range(rows)).outcome == outcome(n, [0]).outcome == "fail"
    found = outcome(5, range(rows))
    assert found.outcome == "inconclusive"
    assert all("too few pairs to tell: 5, and the one test needs 6" in c.reason for c in found.comparisons)


def test_of_few_scenarios_of_several_rows_it_is_said_what_can_be_found():
    before = baseline(*(row(SCORES[:6], prompt=f"v{k}") for k in range(4)))
    up_and_down = [x - y for x, y in zip(SCORES, (3, 2, -1, 4, 2, 1), strict=False)]
    after = baseline(*(row(up_and_down, prompt=f"v{k}") for k in range(4)))
    found = evaluate_gate(before, after, HALF)
    assert found.outcome == "inconclusive"
    assert all("beyond it, but not significantly" in c.reason for c in found.comparisons)
    least = minimum_detectable_effect([3, 2, -1, 4, 2, 1], alpha=2 / 2**6)
    assert all(c.mde == pytest.approx(least) and "it can find" in c.reason for c in found.comparisons)


def test_a_row_with_enough_scenarios_for_holm_is_corrected_by_it():
    """Four tests: seven scenarios are flipped together, p = 2 / 2**7; eight are enough for 4 x 2 / 2**8."""
    for n, p in ((7, 2 / 2**7), (8, 8 / 2**8)):
        rows = [row(SCORES[:n], prompt=f"v{k}") for k in range(4)]
        found = evaluate_gate(baseline(*rows), baseline(row(lower(3.0)[:n], prompt="v0"), *rows[1:]), HALF)
        assert found.comparisons[0].p_adjusted == pytest.approx(p)
        assert found.outcome == "fail"


def test_a_row_that_can_find_nothing_keeps_no_others_from_being_flipped_together():
    before, after = (
        baseline(*(row(scores[:7], prompt=f"v{k}") for k in range(4)), row(scores[:3], prompt="v9"))
        for scores in (SCORES, lower(3.0))
    )
    *four, few = evaluate_gate(before, after, HALF).comparisons
    assert [(c.outcome, c.p_adjusted) for c in four] == [("fail", 2 / 2**7)] * 4
    assert (few.outcome, few.p_adjusted, few.mde) == ("inconclusive", 1.0, None)
    assert "among" not in few.reason


def test_rows_are_flipped_together_only_where_each_can_be_found():
    """All +, the six scenarios of v2 or the six others of v3 have p = 4 / 2**6 together: more than 5 %."""

    def rows(scores: list[float]) -> Baseline:
        others = {f"s{i:02}": x for i, x in enumerate(scores) if i >= 6}
        seven = (row(scores[:7], prompt=name) for name in ("v0", "v1"))
        return baseline(*seven, row(scores[:6], prompt="v2"), row(others, prompt="v3"))

    found = evaluate_gate(rows(SCORES), rows(lower(3.0)), HALF)
    assert found.outcome == "inconclusive"
    assert "too few pairs to tell: 7, and 4 tests together need 8" in found.reasons[0]


def test_a_scenario_that_each_row_lacks_is_no_reason_to_pass():
    """Four rows over eight scenarios, each without another one, as where an answer of each failed."""

    def rows(scores):
        lacking = [[*scores[:k], None, *scores[k + 1 :]] for k in range(4)]
        return baseline(*(row(some, prompt=f"v{k}") for k, some in enumerate(lacking)))

    found = evaluate_gate(rows(SCORES[:8]), rows(lower(3.0)[:8]), HALF)
    assert found.outcome == "fail", found.reasons
    assert found.comparisons[0].n == 7
    assert {c.outcome for c in found.comparisons} == {"fail"}


def test_rows_of_other_scenarios_each_are_corrected_by_holm():
    """Flipping all 12 together could reject nothing either, and then there are too few pairs to tell."""

    def rows(scores):
        others = {f"s{i:02}": x for i, x in enumerate(scores[6:], 6)}
        return baseline(row(scores[:6], prompt="v0"), row(others, prompt="v1"))

    before, after = rows(SCORES), rows(lower(3.0))
    found = evaluate_gate(before, after, HALF)
    assert found.outcome == "inconclusive"
    assert "6, and 2 tests together need 7" in found.reasons[0]


@pytest.mark.parametrize(("rows", "n", "lacking"), [(4, 6, False), (4, 7, False), (12, 8, False), (4, 8, True)])
def test_few_scenarios_of_many_rows_keep_the_error_rate(rows, n, lacking):
    rng = np.random.default_rng(5)
    shared = rng.normal(size=(2000, 1, n))
    drawn = np.round(shared + rng.normal(size=(2000, rows, n)), 1)
    names = [f"s{i}" for i in range(n)]
    failed = 0
    for session in drawn:
        cases = []
        for k, worse in enumerate(session.tolist()):
            there = [i for i in range(n) if not lacking or i != k]
            cases.append(
                Case(scenarios=[names[i] for i in there], worse=[worse[i] for i in there], tolerance=0, complete=True)
            )
        decisions, _ = decide(cases, seed=0)
        failed += any(d.outcome == "fail" for d in decisions)
    assert failed / 2000 <= 0.025 + 3 * (0.025 * 0.975 / 2000) ** 0.5


def test_unchanged_scores_pass_with_few_pairs_but_only_where_none_is_missing():
    assert evaluate_gate(baseline(row([12, 13])), baseline(row([12, 13])), HALF).outcome == "pass"
    partly = evaluate_gate(baseline(row(SCORES)), baseline(row(SCORES[:2])), HALF)
    assert partly.outcome == "inconclusive"
    assert len(partly.vanished) == 10


def test_scores_that_were_added_up_in_another_order_are_unchanged():
    before, after = 0.4 + 0.3 + 0.6, 0.4 + 0.6 + 0.3
    assert before != after
    found = evaluate_gate(baseline(row([before] * 5)), baseline(row([after] * 5)))
    assert (found.outcome, found.comparisons[0].p_value) == (GateOutcome.PASS, 1.0)


def test_nothing_is_green_on_zero_pairs():
    cases = {
        "no cell": baseline(),
        "other scenarios": baseline(row({"x": 12.0, "y": 13.0})),
        "other prompt": baseline(row(SCORES, prompt="v9")),
        "unscored": baseline(row([None] * 12, tier=None)),
    }
    for current in cases.values():
        found = evaluate_gate(baseline(row(SCORES)), current, HALF)
        assert (found.outcome, found.exit_code, found.pairs) == ("error", 4, 0)
        assert "no cell is scored both in the baseline and now" in found.reasons[0]
    assert evaluate_gate(baseline(), baseline(row(SCORES)), HALF).outcome == "error"
    assert evaluate_gate(baseline(), baseline(), HALF).outcome == "error"


def test_zero_pairs_name_the_cells_and_ask_for_a_judge_only_where_one_is_to_score():
    renamed = evaluate_gate(baseline(row(SCORES)), baseline(row(SCORES, prompt="v9")), HALF).reasons
    assert "scored first" not in renamed[0]
    assert renamed[1].startswith("12 new cells: haiku x v9 x s00 (not in the baseline), ")
    assert renamed[2].startswith("12 vanished cells: haiku x v1 x s00 (only in the baseline), ")
    unscored = evaluate_gate(baseline(row(SCORES)), baseline(row([None] * 12, tier=None)), HALF).reasons
    assert "have this session's candidates scored first" in unscored[0]
    assert unscored[1].startswith("12 unpaired cells: haiku x v1 x s00 (not scored now), ")


def test_nothing_is_green_where_the_metric_was_never_scored():
    tolerance = [gate.parse_tolerance("relevance:0.5")]
    found = evaluate_gate(baseline(row(SCORES)), baseline(row(SCORES)), tolerance)
    assert (found.outcome, found.exit_code) == ("error", 4)
    assert found.reasons == ("no cell has a score of relevance on both sides, so there is nothing to compare",)
    assert [(c.prompt, c.metric, c.n) for c in found.comparisons] == [("v1", "relevance", 0)]


@pytest.mark.parametrize(
    ("current", "says"),
    [
        (
            baseline(row(SCORES), rubric_sha256="b" * 64),
            "scored by the rubric tip-v1 (aaaaaaaaaaaa), this session by tip-v1 (bbb",
        ),
        (baseline(row(SCORES), task="joke"), "the baseline is of the task tip, this session ran joke"),
        (baseline(row(SCORES, tier="human")), "haiku x v1: the baseline was judged by auto, this session by human"),
        (
            baseline(row(SCORES, judge="j2")),
            "haiku x v1: the automatic judge has changed since the baseline (j1, now j2)",
        ),
    ],
)
def test_what_does_not_compare_is_an_error(current, says):
    found = evaluate_gate(baseline(row(SCORES)), current, HALF)
    assert (found.outcome, found.exit_code) == ("error", 4)
    (reason,) = found.reasons
    assert says in reason
    assert (
        "save it anew with --bench-save, where the change to be judged is not in yet, as on the base branch" in reason
    )


def test_another_person_is_no_other_judge():
    before, after = (baseline(row(SCORES, tier="human", judge=name)) for name in ("ann", "bob"))
    assert evaluate_gate(before, after, HALF).outcome == "pass"


def test_an_automatic_judge_that_is_not_known_is_no_other_judge():
    known, unknown = baseline(row(SCORES)), baseline(row(SCORES, judge=None))
    assert evaluate_gate(known, unknown, HALF).outcome == evaluate_gate(unknown, known, HALF).outcome == "pass"


def test_a_row_that_only_one_side_has_scored_is_no_error_beside_others():
    whole, part = (
        baseline(row(SCORES), row(scores, prompt="v2", tier=tier))
        for scores, tier in ((SCORES, "auto"), ([None] * 12, None))
    )
    for sides in ((whole, part), (part, whole)):
        found = evaluate_gate(*sides, HALF)
        assert [(c.prompt, c.outcome, c.n) for c in found.comparisons] == [
            ("v1", "pass", 12),
            ("v2", "inconclusive", 0),
        ]
        assert len(found.unpaired) == 12


def test_rows_that_do_not_compare_are_named_in_one_order():
    names = [f"p{k}" for k in (3, 1, 5, 0, 4, 2)]
    before, after = (baseline(*(row(SCORES, prompt=name, judge=judge) for name in names)) for judge in ("j1", "j2"))
    found = evaluate_gate(before, after, HALF)
    assert [reason.split(":")[0] for reason in found.reasons] == [f"haiku x p{k}" for k in range(6)]


# -- several rows and metrics --------------------------------------------------------------------------------------


def test_the_worst_row_decides_and_comes_first():
    noisy = [x + (4.0 if i % 2 else -6.0) for i, x in enumerate(SCORES)]
    before = baseline(*(row(SCORES, prompt=p) for p in ("v1", "v2", "v3")))
    after = baseline(row(SCORES, prompt="v1"), row(noisy, prompt="v2"), row(lower(2.0), prompt="v3"))
    found = evaluate_gate(before, after, HALF)
    assert [c.outcome for c in found.comparisons] == ["pass", "inconclusive", "fail"]
    assert found.outcome == "fail"
    assert [r.split(" composite")[0] for r in found.reasons] == ["haiku x v3", "haiku x v2"]


def test_holm_shares_the_five_percent():
    """p = 2 / 2**6 by itself: enough for one row, not for two."""
    six = SCORES[:6]
    alone = evaluate_gate(baseline(row(six)), baseline(row(lower(2, six))), HALF)
    with_other = evaluate_gate(
        baseline(row(six), row(SCORES, prompt="v2")), baseline(row(lower(2, six)), row(lower(0), prompt="v2")), HALF
    )
    assert alone.comparisons[0].p_adjusted == pytest.approx(2 / 64)
    assert with_other.comparisons[0].p_adjusted == pytest.approx(4 / 64)
    assert alone.comparisons[0].mde is not None
    assert with_other.comparisons[0].mde is None, "of two tests, six scenarios can find nothing"
    worse = [b - a for a, b in zip(lower(0), SCORES, strict=True)]
    assert with_other.comparisons[1].mde == pytest.approx(minimum_detectable_effect(worse, alpha=0.05 / 2))
    assert (alone.outcome, with_other.outcome) == ("fail", "inconclusive")
    assert "(p = 0.0312 alone, 0.0625 among 2 tests)" in with_other.reasons[0]


def test_rows_that_could_never_be_significant_take_no_share():
    tiny = [row(SCORES[:3], prompt=f"t{k}") for k in range(5)]
    found = evaluate_gate(baseline(row(SCORES[:6]), *tiny), baseline(row(lower(2)[:6]), *tiny), HALF)
    assert found.comparisons[-1].p_adjusted == pytest.approx(2 / 64)
    assert found.outcome == "fail"


def test_percent_is_of_the_rows_own_baseline():
    tolerance = [gate.parse_tolerance("composite:10%")]
    before = baseline(row([10.0] * 12), row([20.0] * 12, prompt="v2"))
    after = baseline(row(lower(1.5, [10.0] * 12)), row(lower(1.5, [20.0] * 12), prompt="v2"))
    found = evaluate_gate(before, after, tolerance)
    assert [(c.tolerance, c.outcome) for c in found.comparisons] == [(1.0, "fail"), (2.0, "pass")]


def test_the_smallest_of_several_tolerances_counts():
    tolerances = [gate.parse_tolerance(t) for t in ("composite:50%", "composite:0.5")]
    found = evaluate_gate(baseline(row(SCORES)), baseline(row(lower(1.0))), tolerances)
    assert len(found.comparisons) == 1
    assert found.comparisons[0].tolerance == 0.5


def test_each_metric_has_its_own_tolerance_and_the_scenarios_where_both_sides_have_it():
    def side(composite: list[float], relevance: list[float], start: int) -> Baseline:
        scores: dict[str, dict[str, float]] = {s: dict(v) for s, v in row(composite).scores.items()}
        for s, x in list(zip(scores, relevance, strict=True))[start : start + 10]:
            scores[s]["relevance"] = x
        return baseline(replace(row([]), scores=scores))

    tolerances = [gate.parse_tolerance(t) for t in ("composite:2", "relevance:0.5")]
    found = evaluate_gate(side(SCORES, SCORES, 0), side(lower(1.0), lower(1.0), 2), tolerances)
    assert [(c.metric, c.tolerance, c.n, c.outcome) for c in found.comparisons] == [
        ("composite", 2.0, 12, "pass"),
        ("relevance", 0.5, 8, "fail"),
    ]


def test_directions_are_those_of_the_rubric():
    good = Criterion(name="format_ok", type="flag", bad=False, penalty=2)
    assert gate.directions(replace(RUBRIC, criteria=(*RUBRIC.criteria, good))) == {
        "composite": "higher",
        "relevance": "higher",
        "overlong": "lower",
        "format_ok": "higher",
    }


def test_a_flag_that_is_bad_when_true_gets_worse_by_rising():
    before = row([0.0] * 12, metric="overlong")
    more = row([1.0] * 11 + [0.0], metric="overlong")
    tolerance = [gate.parse_tolerance("overlong:0.2")]
    found = evaluate_gate(baseline(before), baseline(more), tolerance)
    assert found.outcome == "fail"
    assert found.comparisons[0].change == pytest.approx(found.comparisons[0].worse_by) == pytest.approx(11 / 12)
    assert evaluate_gate(baseline(more), baseline(before), tolerance).outcome == "pass"


def test_an_unknown_metric_is_a_usage_error():
    with pytest.raises(UsageError) as caught:
        evaluate_gate(baseline(row(SCORES)), baseline(row(SCORES)), [gate.parse_tolerance("helpfulness:1")])
    says = "the rubric tip-v1 has no 'helpfulness'; it has composite, relevance, overlong"
    assert str(caught.value) == f"--bench-compare-fail helpfulness:1: {says}"


def test_without_a_tolerance_the_default_holds():
    found = evaluate_gate(baseline(row(SCORES)), baseline(row(SCORES)), [])
    assert found.tolerances == ("composite:5%",)


# -- what does not pair --------------------------------------------------------------------------------------------


def test_new_vanished_and_unpaired_cells_are_named():
    before = baseline(row({**{f"s{i:02}": 12 for i in range(10)}, "gone": 9, "blind": None, "edited": 9, "late": 9}))
    after = baseline(row({**{f"s{i:02}": 12 for i in range(10)}, "fresh": 9, "blind": 9, "edited": 9, "late": None}))
    before = replace(before, scenarios={**before.scenarios, "edited": "old"})
    after = replace(after, scenarios={**after.scenarios, "edited": "new"})
    found = evaluate_gate(before, after, HALF)
    assert [(c.scenario, c.reason) for c in found.new] == [("fresh", "not in the baseline")]
    assert [(c.scenario, c.reason) for c in found.vanished] == [("gone", "only in the baseline")]
    assert [(c.scenario, c.reason) for c in found.unpaired] == [
        ("blind", "not scored in the baseline"),
        ("edited", "the scenario has been changed since"),
        ("late", "not scored now"),
    ]
    assert found.pairs == 10
    assert found.changed == {"scenarios": ("edited",)}
    assert "1 new cell: haiku x v1 x fresh (not in the baseline)" in found.reasons
    assert any(
        r.startswith("3 unpaired cells: haiku x v1 x blind (not scored in the baseline), ") for r in found.reasons
    )


def test_a_scenario_of_which_one_side_has_no_fingerprint_is_not_taken_for_edited():
    """As of a suite that this session did not collect: its scores are there, and its vars are not known."""
    for unknown in (baseline(row(SCORES), scenarios={}), baseline(row(SCORES), scenarios={"s00": "same"})):
        for sides in ((unknown, baseline(row(SCORES))), (baseline(row(SCORES)), unknown)):
            found = evaluate_gate(*sides, HALF)
            assert (found.outcome, found.pairs, found.unpaired, found.changed) == ("pass", 12, (), {})


def test_cells_and_changes_are_named_in_one_order():
    names = [f"p{k}" for k in (3, 1, 5, 0, 4, 2)]
    rows = [row({"s01": 12, "s00": 12}, prompt=name) for name in names]
    before, after = (
        baseline(row(SCORES), *more, prompts=dict.fromkeys(names, text)) for more, text in (((), "old"), (rows, "new"))
    )
    for found, cells in ((evaluate_gate(before, after, HALF), "new"), (evaluate_gate(after, before, HALF), "vanished")):
        assert [(c.prompt, c.scenario) for c in getattr(found, cells)] == [
            (f"p{k}", s) for k in range(6) for s in ("s00", "s01")
        ]
        assert found.changed == {"prompts": tuple(f"p{k}" for k in range(6))}


def test_many_names_are_cut():
    found = evaluate_gate(
        baseline(row(SCORES)), baseline(row({**dict(zip(("s00", "s01"), SCORES, strict=False))})), HALF
    )
    assert found.reasons[-1].endswith("x s07 (only in the baseline) and 4 more")
    six = evaluate_gate(baseline(row(SCORES)), baseline(row(SCORES[:6])), HALF)
    assert six.reasons[-1].endswith("x s11 (only in the baseline)")


def test_a_row_that_vanished_is_not_green():
    before = baseline(row(SCORES), row(SCORES, prompt="v2"))
    found = evaluate_gate(before, baseline(row(SCORES)), HALF)
    assert found.outcome == "inconclusive"
    assert found.reasons[0] == "haiku x v2 composite: no scenario is scored both in the baseline and now"
    assert [(c.model, c.prompt, c.n) for c in found.comparisons] == [("haiku", "v1", 12), ("haiku", "v2", 0)]


def test_a_row_that_nobody_asked_for_is_named_and_not_missed():
    before = baseline(row(SCORES), row(SCORES, prompt="v2"))
    found = evaluate_gate(before, baseline(row(SCORES)), HALF, selected=[("haiku", "v1")])
    assert (found.outcome, found.deselected, found.vanished) == ("pass", ("haiku x v2",), ())


def test_a_new_row_is_named_and_not_judged():
    found = evaluate_gate(baseline(row(SCORES)), baseline(row(SCORES), row([1.0] * 12, prompt="v2")), HALF)
    assert (found.outcome, len(found.comparisons), len(found.new)) == ("pass", 1, 12)


def test_changed_prompts_and_models_are_named():
    after = baseline(row(SCORES), prompts={"v1": "new", "v2": "p2"}, models={"haiku": "new"})
    found = evaluate_gate(baseline(row(SCORES)), after, HALF)
    assert found.changed == {"models": ("haiku",), "prompts": ("v1",)}
    assert found.outcome == "pass"


def test_a_prompt_or_model_that_only_one_side_has_has_not_changed():
    after = baseline(row(SCORES), prompts={"v1": "p1", "v3": "p3"}, models={"haiku": "m1", "local": "m2"})
    for sides in ((baseline(row(SCORES)), after), (after, baseline(row(SCORES)))):
        assert evaluate_gate(*sides, HALF).changed == {}


def test_gate_json():
    found = evaluate_gate(baseline(row(SCORES)), baseline(row(lower(1.0))), HALF, strict=True)
    data = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert list(data)[:4] == ["schema", "outcome", "exit_code", "pairs"]
    assert (data["schema"], data["outcome"], data["exit_code"], data["strict"]) == (
        "promptbench/gate/1",
        "fail",
        1,
        True,
    )
    (c,) = data["comparisons"]
    assert {"model", "prompt", "n", "change", "ci", "p_value", "p_adjusted", "mde", "tolerance"} <= set(c)
    assert gate.GateResult.from_json(data) == found


def test_the_seed_decides():
    rng = np.random.default_rng(1)
    many = rng.normal(12, 1, 30).tolist()
    now = [x + d for x, d in zip(many, rng.normal(-0.3, 1, 30), strict=True)]
    sides = baseline(row(many)), baseline(row(now))
    assert evaluate_gate(*sides, HALF, seed=1) == evaluate_gate(*sides, HALF, seed=1)
    assert evaluate_gate(*sides, HALF, seed=1) != evaluate_gate(*sides, HALF, seed=2)


# -- how often it is wrong -----------------------------------------------------------------------------------------


def test_it_seldom_fails_on_nothing_and_finds_what_is_there():
    """200 sessions of six rows: at most 5 % fail without a change, at least 95 % with a drop of three points."""
    rng = np.random.default_rng(2)
    false = found = 0
    nothing = (Tolerance(metric="composite", amount=0.0),)
    for _ in range(200):
        scenario = rng.normal(12, 1, 15)
        before, after = (np.round(scenario + rng.normal(0, 1, (6, 15))) for _ in range(2))
        sides = [baseline(*(row(r.tolist(), prompt=f"v{k}") for k, r in enumerate(s))) for s in (before, after)]
        false += evaluate_gate(*sides, nothing).outcome == "fail"
        worse = baseline(row((after[0] - 3).tolist(), prompt="v0"), *sides[1].rows[1:])
        found += evaluate_gate(sides[0], worse, HALF).comparisons[0].outcome == "fail"
    assert false / 200 <= 0.05
    assert found / 200 >= 0.95


def test_self_test():
    rng = np.random.default_rng(3)
    scenario = rng.normal(12, 2, 20)
    rows = (row(np.round(scenario + k + rng.normal(0, 1, 20)).tolist(), prompt=f"v{k}") for k in range(4))
    found = gate.self_test(baseline(*rows), 300, seed=1, tolerances=[Tolerance(metric="composite", amount=0.0)])
    assert found.n == 300
    assert found.rate == found.failures / 300 <= 0.05
    assert found.ci[0] <= found.rate <= found.ci[1]
    assert found.inconclusive > 200  # any drop at all is beyond a tolerance of 0
    assert gate.self_test(baseline(row(SCORES)), 50, seed=1) == gate.self_test(baseline(row(SCORES)), 50, seed=1)


def test_self_test_makes_noise():
    """Were both sides the same, nothing could ever be inconclusive."""
    found = gate.self_test(baseline(row(SCORES)), 100, tolerances=HALF)
    assert found.inconclusive > 5
    strict = gate.self_test(baseline(row(SCORES)), 100, tolerances=HALF, strict=True)
    assert strict.failures == found.failures + found.inconclusive, "a strict gate fails where it cannot tell"
    assert strict.rate == strict.failures / 100


def test_self_test_fills_gaps():
    rows = row({"s00": 12, "s01": 13, "s02": None, "s03": 11}), row({"s01": 12, "s02": 10, "s03": 9}, prompt="v2")
    assert gate.self_test(baseline(*rows), 20).failures == 0


@pytest.mark.parametrize(
    ("make", "n", "says"),
    [
        (lambda: baseline(row(SCORES)), 0, "--bench-self-test 0: expected a number of repetitions"),
        (baseline, 10, "needs scores of at least two scenarios"),
        (lambda: baseline(row([12.0])), 10, "needs scores of at least two scenarios"),
    ],
)
def test_self_test_refuses(make, n, says):
    with pytest.raises(UsageError, match=says):
        gate.self_test(make(), n)


# -- from a session ------------------------------------------------------------------------------------------------

RUBRIC = Rubric(
    id="tip-v1",
    text="text",
    sha256="a" * 64,
    criteria=(
        Criterion(name="relevance", type="scale", min=1, max=5, weight=2),
        Criterion(name="overlong", type="flag", bad=True, penalty=1, check={"max_words": 60}),
    ),
)


JUDGE = Fingerprint(model="openai/judge", params={"temperature": 0}, rubric_sha256="a" * 64, prompt_sha256="p")


def candidate(scenario, relevance, *, prompt="v1", overlong=False, tier=Tier.AUTO, number=0) -> LoggedCandidate:
    verdicts = (
        ()
        if relevance is None
        else (
            Verdict(
                scores={"relevance": relevance},
                judge=Judge(tier=tier, name="h"),
                fingerprint=JUDGE if tier is Tier.AUTO else None,
            ),
        )
    )
    return LoggedCandidate(
        run_id=f"{prompt}-{scenario}-{number}",
        experiment="e",
        task="tip",
        model="haiku",
        prompt=prompt,
        scenario=scenario,
        cell="c",
        candidate=f"{prompt}-{scenario}-{number}",
        rubric="tip-v1",
        rubric_sha256="a" * 64,
        pending=relevance is None,
        verdicts=verdicts,
        checks={"overlong": overlong},
    )


def board(**scores) -> Leaderboard:
    """Rows v1 and v2 of the model haiku, judged automatically: prompt -> scenario -> composite."""
    rows = tuple(
        Row(
            rank=1,
            model="haiku",
            prompt=p,
            composite=None,
            ci95=None,
            tier="auto",
            candidates=1,
            judged=0,
            pending=0,
            failed=0,
            scenario_scores=scores.get(p, {}),
        )
        for p in ("v2", "v1")
    )
    return Leaderboard(experiment="e", task="tip", rubric=RUBRIC, rows=rows)


SUITE = Suite(
    name="tips",
    path="evals/tips.yaml",
    task="tip",
    rubric=RUBRIC,
    prompts=(Prompt(task="tip", version="v1", messages=(Message(role="user", content="x"),), sha256="p1"),),
    models=(Model(name="haiku", model="anthropic/haiku", params={"temperature": 0.5}),),
    scenarios=(Scenario(id="a", vars={"x": 1}), Scenario(id="b", vars={"x": 2})),
)


def test_a_snapshot_of_a_session():
    candidates = [
        candidate("a", 4, number=1),
        candidate("a", 5, number=2, overlong=True),
        candidate("b", None),
        candidate("a", 3, prompt="v2"),
        candidate("b", 3, prompt="v2", tier=Tier.HUMAN),
        candidate("a", 3, prompt="elsewhere"),
    ]
    leaderboard = board(v1={"a": 8.5}, v2={"a": 6.0})
    found = gate.snapshot(leaderboard, candidates, [SUITE], saved_at="2026-11-23T10:00:00Z")
    assert [r.name for r in found.rows] == [("haiku", "v1"), ("haiku", "v2")]
    assert found.rows[0].scores == {"a": {"composite": 8.5, "relevance": 4.5, "overlong": 0.5}, "b": {}}
    assert found.rows[1].scores["b"] == {}  # judged by another tier than the row rests on
    assert found.rows[0].judge == JUDGE.sha256
    assert found.better == {"composite": "higher", "relevance": "higher", "overlong": "lower"}
    assert found.prompts == {"v1": "p1"}
    assert found.saved_at == "2026-11-23T10:00:00Z"
    assert set(found.scenarios) == {"a", "b"}
    assert found.scenarios["a"] != found.scenarios["b"]
    (read,) = gate.parse_baseline(gate.baseline_json([found]))
    assert read == found


def test_a_snapshot_is_the_leaderboards():
    """The real leaderboard's composites, one by one: repeats averaged, sit-down verdicts before automatic ones."""
    candidates = [
        candidate("a", 4, number=1, tier=Tier.HUMAN),
        candidate("a", 5, number=2, tier=Tier.CLAUDE_CODE),
        candidate("b", 2, number=3, overlong=True, tier=Tier.HUMAN),
        candidate("c", 5, number=4),
    ]
    found = gate.snapshot(build_leaderboard(candidates, RUBRIC, experiment="e", task="tip"), candidates, [SUITE])
    (only,) = found.rows
    assert (only.tier, only.judge, only.aside) == ("claude-code+human", None, 0)
    assert only.tiers == {"a": "claude-code+human", "b": "human"}
    assert only.scores == {
        "a": {"composite": 9.0, "relevance": 4.5, "overlong": 0.0},
        "b": {"composite": 3.0, "relevance": 2.0, "overlong": 1.0},
        "c": {},
    }


def test_scenarios_that_another_tier_has_judged_since_do_not_pair():
    """Both rows rest on claude-code and human, and each tier has judged the other half: their strictness differs."""

    def judged(by: dict[str, tuple[Tier, int]]) -> Baseline:
        candidates = [candidate(s, score, tier=tier) for s, (tier, score) in by.items()]
        board = build_leaderboard(candidates, RUBRIC, experiment="e", task="tip")
        (read,) = gate.parse_baseline(gate.baseline_json([gate.snapshot(board, candidates, [SUITE])]))
        return read

    strict, kind = (Tier.HUMAN, 3), (Tier.CLAUDE_CODE, 5)
    before = judged({s: kind if s < "g" else strict for s in "abcdefghijkl"})
    after = judged({s: strict if s < "f" else kind for s in "abcdefghijkl"})
    assert before.rows[0].tier == after.rows[0].tier == "claude-code+human"
    result = evaluate_gate(before, after, HALF)
    assert result.outcome is not GateOutcome.FAIL
    assert [c.scenario for c in result.unpaired] == list("abcdeghijkl")
    assert result.unpaired[0].reason == "judged by claude-code in the baseline, by human now"
    assert result.pairs == 1
    assert evaluate_gate(before, before, HALF).pairs == 12
    assert judged(dict.fromkeys("ab", strict)).rows[0].tiers == {}
    corrected = evaluate_gate(
        judged(dict.fromkeys("abcdefghijkl", kind)),
        judged({s: strict if s == "a" else kind for s in "abcdefghijkl"}),
        HALF,
    )
    assert (corrected.outcome, corrected.pairs) == ("pass", 11), "one verdict of a person's does not spoil the others"
    assert [c.reason for c in corrected.unpaired] == ["judged by claude-code in the baseline, by human now"]


def checked(*scenarios: str, repeats: int = 1) -> tuple[Leaderboard, list[LoggedCandidate]]:
    """Twelve scenarios that Claude Code gave 4, of which a person has given ``scenarios`` 2."""
    candidates = [candidate(s, 4, tier=Tier.CLAUDE_CODE, number=n) for s in "abcdefghijkl" for n in range(repeats)]
    person = candidate("x", 2, tier=Tier.HUMAN).verdicts
    candidates = [
        replace(c, verdicts=(*c.verdicts, *person)) if c.scenario in scenarios and not c.candidate.endswith("1") else c
        for c in candidates
    ]
    return build_leaderboard(candidates, RUBRIC, experiment="e", task="tip"), candidates


@pytest.mark.parametrize("scenarios", ["a", "abcdefg", "abcdefghijkl"])
def test_cells_that_a_person_has_checked_pair_by_claude_codes_verdicts(scenarios):
    before = gate.snapshot(*checked(), [SUITE])
    result = evaluate_gate(before, gate.snapshot(*checked(*scenarios), [SUITE], like=before), HALF)
    assert (result.outcome, result.pairs, result.unpaired) == (GateOutcome.PASS, 12, ())
    n = len(scenarios)
    assert result.reasons[-1] == (
        "haiku x v1 is compared by Claude Code's verdicts where the baseline has those: a person's on "
        f"{n} {'candidate' if n == 1 else 'candidates'} are left aside"
    )
    repeated = gate.snapshot(*checked(*scenarios, repeats=2), [SUITE], like=before)
    assert (repeated.rows[0].tier, repeated.rows[0].tiers, repeated.rows[0].aside) == ("claude-code", {}, n)


def test_a_persons_cells_of_a_baseline_pair_with_a_persons():
    people = gate.snapshot(*checked(*"abcdefg"), [SUITE])
    assert people.rows[0].tier_of("a") == "human"
    result = evaluate_gate(people, gate.snapshot(*checked(*"abc"), [SUITE], like=people), HALF)
    assert [c.scenario for c in result.unpaired] == list("defg"), "Claude Code's would be another judge's"
    assert (result.outcome, result.pairs) == (GateOutcome.PASS, 8)


def test_a_row_is_saved_with_claude_codes_verdicts_until_a_person_has_judged_half_of_it():
    (few,), (half,) = (gate.snapshot(*checked(*scenarios), [SUITE]).rows for scenarios in ("abcde", "abcdef"))
    assert (few.tier, few.tiers, few.aside, few.scores["a"]["composite"]) == ("claude-code", {}, 5, 8.0)
    assert (half.tier, half.tier_of("a"), half.tier_of("g")) == ("claude-code+human", "human", "claude-code")
    board, candidates = checked("a", "b")
    partly = [replace(c, verdicts=c.verdicts[1:]) if c.scenario == "a" else c for c in candidates]
    (mixed,) = gate.snapshot(build_leaderboard(partly, RUBRIC, experiment="e", task="tip"), partly, [SUITE]).rows
    assert (mixed.tier, mixed.aside) == ("claude-code+human", 1), "Claude Code has not judged the whole row"
    assert (mixed.tier_of("a"), mixed.tier_of("b")) == ("human", "claude-code"), "and counts where it has"
    assert board.rows[0].tier == "claude-code+human", "the leaderboard counts the person's"


def test_a_snapshot_knows_the_scenarios_of_every_suite_of_its_leaderboard():
    other = replace(SUITE, scenarios=(Scenario(id="h", vars={"x": 3}), Scenario(id="a", vars={"x": 1})))
    clash = replace(SUITE, scenarios=(Scenario(id="a", vars={"x": 9}),))
    prints = [gate.snapshot(board(), [], suites).scenarios for suites in ([SUITE], [SUITE, other], [SUITE, clash])]
    assert set(prints[1]) == {"a", "b", "h"}
    assert prints[0]["a"] == prints[1]["a"] != prints[2]["a"]
    texts = [replace(SUITE, prompts=(replace(SUITE.prompts[0], sha256=f"p{k}"),)) for k in (3, 1, 5, 0, 4, 2)]
    assert gate.snapshot(board(), [], texts).prompts == {"v1": sha256([f"p{k}" for k in range(6)])}, "in one order"


def test_criteria_are_those_of_the_verdict_that_gave_the_composite():
    """A person's that is not whole gives no composite, so that Claude Code's counts, with its criteria."""
    whole = candidate("a", 4, tier=Tier.CLAUDE_CODE)
    damaged = Verdict(scores={"relevance": math.nan}, judge=Judge(tier=Tier.HUMAN, name="p"), at="2")
    candidates = [replace(whole, verdicts=(*whole.verdicts, damaged))]
    lb = build_leaderboard(candidates, RUBRIC, experiment="e", task="tip")
    (found,) = gate.snapshot(lb, candidates, [SUITE]).rows
    assert found.scores["a"]["relevance"] == 4
    assert gate.baseline_json([gate.snapshot(lb, candidates, [SUITE])])


def test_what_another_content_scored_is_not_scored_now():
    """v1 was edited after it had been judged, and its new text was not generated in this session."""
    candidates = [candidate("a", 4, number=1), candidate("b", 5, number=2)]
    leaderboard = build_leaderboard(candidates, RUBRIC, experiment="e", task="tip")
    now = {("haiku", "v1", "a"): "c", ("haiku", "v1", "b"): "another"}
    found = gate.snapshot(leaderboard, candidates, [SUITE], cells_now=now)
    assert found.rows[0].scores["a"]["composite"] == 8.0
    assert found.rows[0].scores["b"] == {}
    everything = gate.snapshot(leaderboard, candidates, [SUITE])
    result = evaluate_gate(everything, found, HALF)
    assert [(c.scenario, c.reason) for c in result.unpaired] == [("b", "not scored now")]
    assert result.outcome is GateOutcome.INCONCLUSIVE
    gone = gate.snapshot(leaderboard, candidates, [SUITE], cells_now={})
    assert evaluate_gate(everything, gone, HALF).outcome is GateOutcome.ERROR


def test_a_row_of_which_an_audit_labelled_a_part_rests_on_its_automatic_scores():
    both = [
        replace(c, verdicts=(*c.verdicts, *candidate("x", 1, tier=Tier.HUMAN).verdicts), sampling_probability=1.0)
        for c in (candidate("a", 4), candidate("b", 4))
    ]
    candidates = [*both, *(candidate(s, 4) for s in "cdefghij")]
    leaderboard = build_leaderboard(candidates, RUBRIC, experiment="e", task="tip")
    found = gate.snapshot(leaderboard, candidates, [SUITE])
    (only,) = found.rows
    assert (only.tier, only.judge, only.aside) == ("auto", JUDGE.sha256, 2)
    assert {s: v["composite"] for s, v in only.scores.items()} == dict.fromkeys("abcdefghij", 8.0)
    result = evaluate_gate(found, found, HALF)
    assert result.outcome is GateOutcome.PASS
    assert result.reasons[-1] == (
        "haiku x v1 is compared by its automatic scores, on which the baseline rests: its 2 sit-down labels are left "
        "aside"
    )
    uncounted = [replace(c, sampling_probability=None) for c in candidates]
    (labels,) = gate.snapshot(build_leaderboard(uncounted, RUBRIC, experiment="e", task="tip"), uncounted, [SUITE]).rows
    assert (labels.tier, labels.aside) == ("human", 0), "no audit drew them, so they were not picked"
    other = evaluate_gate(baseline(row(SCORES)), baseline(row(SCORES), replace(only, prompt="v2")), HALF)
    assert not any("aside" in reason for reason in other.reasons), "a new row is not compared"


def test_labels_that_came_since_do_not_part_a_row_from_its_automatic_baseline():
    """A person has labelled one candidate, or all of them: their automatic scores are what both sides have."""
    plain = [candidate(s, 4) for s in "abcdefghij"]
    labelled = [replace(c, verdicts=(*c.verdicts, *candidate("x", 2, tier=Tier.HUMAN).verdicts)) for c in plain]
    before = gate.snapshot(build_leaderboard(plain, RUBRIC, experiment="e", task="tip"), plain, [SUITE])
    for now, said in ((labelled[:1] + plain[1:], "1 sit-down label is"), (labelled, "10 sit-down labels are")):
        leaderboard = build_leaderboard(now, RUBRIC, experiment="e", task="tip")
        result = evaluate_gate(before, gate.snapshot(leaderboard, now, [SUITE], by_automatic={("haiku", "v1")}), HALF)
        assert (result.outcome, result.pairs) == (GateOutcome.PASS, 10)
        assert said in result.reasons[-1]
    people = [replace(c, verdicts=c.verdicts[1:]) for c in labelled]
    leaderboard = build_leaderboard(people, RUBRIC, experiment="e", task="tip")
    other = evaluate_gate(before, gate.snapshot(leaderboard, people, [SUITE], by_automatic={("haiku", "v1")}), HALF)
    assert "the baseline was judged by auto, this session by human" in other.reasons[0]


def test_other_people_are_named_and_no_error():
    def judged_by(name: str) -> list[LoggedCandidate]:
        found = []
        for s in "abcdefgh":
            c = candidate(s, 4, tier=Tier.HUMAN)
            found.append(replace(c, verdicts=(replace(c.verdicts[0], judge=Judge(tier=Tier.HUMAN, name=name)),)))
        return found

    ann, bob = (
        gate.snapshot(build_leaderboard(c, RUBRIC, experiment="e", task="tip"), c, [SUITE])
        for c in (judged_by("ann"), judged_by("bob"))
    )
    assert ann.rows[0].judges == {"human": ("ann",)}
    (read,) = gate.parse_baseline(gate.baseline_json([ann]))
    result = evaluate_gate(read, bob, HALF)
    assert result.outcome is GateOutcome.PASS
    assert result.changed == {"judges": ("haiku x v1: human ann, now human bob",)}
    assert evaluate_gate(read, ann, HALF).changed == {}


def test_people_are_other_people_only_where_both_sides_know_theirs():
    plain = row(SCORES, tier="claude-code+human", judge=None)
    some, same, others = (
        baseline(*(replace(plain, prompt=f"p{k}", judges=judges) for k in (3, 1, 5, 0, 4, 2)))
        for judges in (
            {"human": ("ann",), "claude-code": ("opus",)},
            {"claude-code": ("opus",), "human": ("ann",)},
            {"claude-code": ("opus",), "human": ("ann", "bob")},
        )
    )
    unknown = baseline(*(replace(r, judges={}) for r in some.rows))
    for sides in ((some, same), (some, unknown), (unknown, some)):
        assert evaluate_gate(*sides, HALF).changed == {}
    assert evaluate_gate(some, others, HALF).changed == {
        "judges": tuple(
            f"haiku x p{k}: claude-code opus and human ann, now claude-code opus and human ann, bob" for k in range(6)
        )
    }


def snapshot_row(*verdicts: Verdict) -> BaselineRow:
    """The row of candidates with a verdict each."""
    candidates = [replace(candidate(s, 4), verdicts=(v,)) for s, v in zip("abcdefgh", verdicts, strict=False)]
    leaderboard = build_leaderboard(candidates, RUBRIC, experiment="e", task="tip")
    (only,) = gate.snapshot(leaderboard, candidates, [SUITE]).rows
    return only


def test_a_row_names_who_judged_in_each_tier():
    people = ((Tier.HUMAN, "bob"), (Tier.CLAUDE_CODE, "opus"), (Tier.HUMAN, "ann"))
    found = snapshot_row(*(Verdict(scores={"relevance": 4}, judge=Judge(tier=t, name=name)) for t, name in people))
    assert found.judges == {"claude-code": ("opus",), "human": ("ann", "bob")}


def test_several_automatic_judges_of_a_row_are_another_than_each_of_them():
    hotter = replace(JUDGE, params={"temperature": 1})

    def judge(*prints: Fingerprint | None) -> str | None:
        auto = Judge(tier=Tier.AUTO, name="h")
        return snapshot_row(*(Verdict(scores={"relevance": 4}, judge=auto, fingerprint=f) for f in prints)).judge

    assert judge(None) is None
    assert judge(JUDGE, None) == JUDGE.sha256
    assert judge(JUDGE, hotter) == judge(hotter, JUDGE)
    assert judge(JUDGE, hotter) not in (None, JUDGE.sha256, hotter.sha256)


def test_a_snapshot_knows_a_changed_model():
    hotter = replace(SUITE, models=(replace(SUITE.models[0], params={"temperature": 0.9}),))
    assert gate.snapshot(board(), [], [SUITE]).models != gate.snapshot(board(), [], [hotter]).models
    longer = replace(SUITE, models=(replace(SUITE.models[0], timeout=9.0),))
    assert gate.snapshot(board(), [], [SUITE]).models == gate.snapshot(board(), [], [longer]).models


def test_the_outcomes_are_ordered_from_good_to_bad():
    assert [o.value for o in GateOutcome] == ["pass", "inconclusive", "fail", "error"]
