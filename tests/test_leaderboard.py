"""Candidates with their verdicts -> leaderboard: which count, whose verdicts, what is unknown."""

from __future__ import annotations

import dataclasses
import json
import math
import random
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from pytest_promptbench.leaderboard import build_leaderboard, leaderboard_json, statistics_json
from pytest_promptbench.records import (
    Criterion,
    Fingerprint,
    Judge,
    Leaderboard,
    LoggedCandidate,
    Row,
    Rubric,
    Tier,
    Verdict,
)
from pytest_promptbench.report import terminal
from pytest_promptbench.report.markdown import render_leaderboard
from pytest_promptbench.report.notes import notes
from pytest_promptbench.scores import pair

RUBRIC = Rubric(
    id="tip-v1",
    text="tip-v1",
    sha256="tip-sha",
    criteria=(
        Criterion(name="relevance", type="scale", min=1, max=5, weight=2),
        Criterion(name="format_ok", type="flag", bad=False, penalty=2),
        Criterion(name="overlong", type="flag", bad=True, penalty=1, check={"max_words": 60}),
    ),
)


def judged(
    score: float | None, tier: Tier = Tier.CLAUDE_CODE, *, by: str = "j", at: str = "1", **scores: Any
) -> Verdict:
    return Verdict(
        scores={"relevance": score, "format_ok": True, "overlong": False} | scores,
        judge=Judge(tier=tier, name=by),
        at=at,
    )


HUMAN, AUTO = Tier.HUMAN, Tier.AUTO


def candidate(scenario: str = "s1", *verdicts: Verdict, **changes: Any) -> LoggedCandidate:
    model, prompt = changes.get("model", "m"), changes.get("prompt", "v1")
    started = changes.get("started_at", 0)
    cell = changes.get("cell", f"{model}-{prompt}-{scenario}")
    key = f"{model}-{prompt}-{scenario}-{cell}-{started}"
    values: dict[str, Any] = {
        "run_id": f"run-{key}",
        "experiment": "e",
        "task": "tip",
        "model": model,
        "prompt": prompt,
        "scenario": scenario,
        "cell": cell,
        "candidate": f"candidate-{key}",
        "rubric": "tip-v1",
        "rubric_sha256": "tip-sha",
        "pending": not any(v.judge.tier is not AUTO for v in verdicts) and "error" not in changes,
        "verdicts": verdicts,
        "checks": {} if "error" in changes else {"overlong": False},
    }
    return LoggedCandidate(**values | changes)


def spread(values: Sequence[float]) -> tuple[float, float]:
    return min(values), max(values)


def in_order(rows: Sequence[Row]) -> list[int]:
    return [n + 1 for n in range(len(rows))]


def board(*candidates: LoggedCandidate, **options: Any) -> Leaderboard:
    choices: dict[str, Any] = {"experiment": "e", "task": "tip", "interval": spread, "ranks": in_order}
    return build_leaderboard(candidates, RUBRIC, **choices | options)


def row(*candidates: LoggedCandidate) -> Row:
    (only,) = board(*candidates).rows
    return only


def test_a_row_says_all_that_is_known() -> None:
    found = row(
        candidate("s2", judged(4), cost_usd=0.5, latency_s=1.0),
        candidate("s1", judged(2, format_ok=False), cost_usd=0.25, latency_s=2.0, checks={"overlong": True}),
        candidate("s3", checks={"overlong": True}, latency_s=6.0),
        candidate("s4", error="429"),
    )
    assert found == Row(
        rank=1,
        model="m",
        prompt="v1",
        composite=(8 + (4 - 2 - 1)) / 2,
        ci95=(1.0, 8.0),
        tier="claude-code",
        candidates=4,
        judged=2,
        pending=1,
        failed=1,
        criteria={"relevance": 3.0, "format_ok": 0.5, "overlong": 2 / 3},
        auto_composite=None,
        cost_usd=0.75,
        latency_s=3.0,
        scenario_scores={"s1": 1.0, "s2": 8.0},
        judges=("j",),
        by_tier={"claude-code": {"s1": 1.0, "s2": 8.0}},
    )


def test_what_nobody_has_judged_is_unknown_not_zero_and_needs_no_statistics() -> None:
    def never(_: object) -> Any:
        raise AssertionError("nothing is judged")

    (found,) = board(candidate("s1"), candidate("s2"), interval=never, ranks=never).rows
    assert (found.rank, found.composite, found.ci95, found.tier, found.auto_composite) == (None,) * 5
    assert (found.cost_usd, found.latency_s) == (None, None)
    assert found.criteria == {"relevance": None, "format_ok": None, "overlong": 0.0}
    assert (found.judged, found.pending, found.scenario_scores) == (0, 2, {})


def test_an_unjudged_board_imports_no_numpy() -> None:
    code = (
        "import sys; from tests.test_leaderboard import *\n"
        "build_leaderboard([candidate('s1')], RUBRIC, experiment='e', task='tip'); assert 'numpy' not in sys.modules\n"
        "build_leaderboard([candidate('s1', judged(1))], RUBRIC, experiment='e', task='tip')\n"
        "assert 'numpy' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_no_candidates_no_rows() -> None:
    assert board() == Leaderboard(experiment="e", task="tip", rubric=RUBRIC, rows=())


# -- which candidates count


@pytest.mark.parametrize("other", [{"task": "haiku"}, {"rubric_sha256": "old"}])
def test_other_tasks_and_rubric_texts_are_passed_over(other: dict[str, Any]) -> None:
    found = board(candidate("s1", judged(3)), candidate("s1", judged(5), started_at=9, **other))
    assert [r.composite for r in found.rows] == [6.0]
    assert found.superseded == 0


def test_only_the_cell_content_that_started_last_counts() -> None:
    found = board(
        candidate("s1", judged(5), cell="old", started_at=1),
        candidate("s1", judged(4), cell="new", started_at=2),
        candidate("s1", judged(5), cell="old", started_at=3, candidate="another answer"),
        candidate("s1", judged(2), cell="new", started_at=4),
        candidate("s2", judged(1), cell="old", started_at=1),
    )
    assert found.rows[0].scenario_scores == {"s1": 6.0, "s2": 2.0}, "the older content of another scenario still counts"
    assert found.rows[0].candidates == 3
    assert found.superseded == 2


def test_content_that_fails_still_supersedes_what_came_before() -> None:
    found = board(
        candidate("s1", judged(5), cell="old", started_at=1), candidate("s1", cell="new", started_at=2, error="429")
    )
    assert (found.rows[0].composite, found.rows[0].failed, found.superseded) == (None, 1, 1)


def test_scenarios_that_the_files_no_longer_have_count_and_are_named() -> None:
    everyone = [candidate(s, judged(3), cell="c") for s in ("s1", "s2", "s3")]
    found = board(*everyone, cells_now={(everyone[0].model, everyone[0].prompt, "s2"): "c"})
    assert (found.rows[0].candidates, found.strangers) == (3, ("s1", "s3"))
    assert board(*everyone).strangers == (), "what the files have is not known"


def test_candidates_from_before_a_change_of_their_files_count_until_their_cells_run_again_and_are_named() -> None:
    """As after an edited prompt was tried on one scenario with ``-k``: its row is of two prompts."""
    everyone = [candidate(s, judged(3), cell="old") for s in ("s1", "s2", "s3")]
    everyone.append(candidate("s1", judged(5), cell="new", started_at=1))
    now = {c.names: "new" for c in everyone}
    found = board(*everyone, cells_now=now)
    assert (found.rows[0].candidates, found.rows[0].outdated, found.superseded) == (3, 2, 1)
    (said,) = (n for n in notes(found) if "from before a change" in n)
    assert said == (
        "2 candidates count from before a change of their prompt, model or scenario, until their cells run again: "
        "m x v1 has 2 of 3."
    )
    (said,) = (n for n in notes(board(*everyone[1:], cells_now=now | {everyone[2].names: "old"})) if "from before" in n)
    assert "1 candidate counts from before a change of its prompt, model or scenario, until its cell runs" in said
    assert not any("from before" in n for n in notes(board(*everyone))), "what the files have is not known"


def test_a_candidate_that_two_machines_logged_counts_once_the_earliest() -> None:
    twins = {"candidate": "same", "cost_usd": 1.0}
    first = candidate("s1", judged(2), started_at=1, cell="c", **twins)
    second = candidate("s1", judged(4), started_at=2, cell="c", **twins)
    for order in ([first, second], [second, first]):
        assert (row(*order).composite, row(*order).candidates, row(*order).cost_usd) == (4.0, 1, 1.0)
    assert board(first, second).superseded == 0


def test_candidates_without_an_identity_are_told_apart_by_their_runs() -> None:
    assert row(candidate("s1", candidate=""), candidate("s2", candidate="")).candidates == 2


@pytest.mark.parametrize(
    ("answers", "candidates", "failed"), [(0, 1, 1), (1, 1, 0)], ids=["nothing else came", "an answer came"]
)
def test_a_failure_counts_only_while_its_cell_has_no_answer(answers: int, candidates: int, failed: int) -> None:
    good = [candidate("s1", judged(3), cell="c", started_at=1)] * answers
    found = row(*good, candidate("s1", cell="c", started_at=2, error="429", cost_usd=9.0))
    assert (found.candidates, found.failed, found.pending) == (candidates, failed, 0)
    assert found.cost_usd == (9.0 if failed else None)


def test_a_cell_that_failed_again_and_again_is_one_failure() -> None:
    first = candidate("s1", cell="c", started_at=1, error="429", candidate="one", cost_usd=1.0)
    last = candidate("s1", cell="c", started_at=2, error="timeout", candidate="two", cost_usd=2.0)
    for order in ([first, last], [last, first]):
        found = row(*order)
        assert (found.candidates, found.failed, found.pending, found.cost_usd) == (1, 1, 0, 2.0)


# -- whose verdicts


@pytest.mark.parametrize(
    ("verdicts", "tier", "composite", "auto"),
    [
        ([[judged(2, AUTO)], [judged(4, AUTO)]], "auto", 6.0, 6.0),
        ([[judged(2, AUTO)], [judged(4)]], "claude-code", 8.0, 4.0),
        ([[judged(2), judged(1, AUTO)], [judged(4, HUMAN)]], "claude-code+human", 6.0, 2.0),
        ([[judged(2), judged(5, HUMAN)], [judged(4, HUMAN)]], "human", 9.0, None),
        ([[judged(2, at="2"), judged(3, at="3", by="k")], []], "claude-code", 6.0, None),
        ([[judged(2, AUTO, at="2"), judged(3, AUTO, at="3", by="k")], []], "auto", 6.0, 6.0),
        ([[], []], None, None, None),
    ],
)
def test_a_row_rests_on_the_sit_down_tier_as_soon_as_it_has_one(
    verdicts: list[list[Verdict]], tier: str | None, composite: float | None, auto: float | None
) -> None:
    found = row(candidate("s1", *verdicts[0]), candidate("s2", *verdicts[1]))
    assert (found.tier, found.composite, found.auto_composite) == (tier, composite, auto)
    assert found.criteria["relevance"] == (None if composite is None else composite / 2)


def test_judged_means_by_somebody_at_a_desk() -> None:
    found = row(candidate("s1", judged(2, AUTO)), candidate("s2", judged(2, HUMAN)))
    assert (found.judged, found.pending) == (1, 1)


def test_a_half_filled_verdict_scores_its_criteria_and_no_composite() -> None:
    found = row(candidate("s1", judged(None)), candidate("s2", judged(4)))
    assert found.scenario_scores == {"s2": 8.0}
    assert found.judged == 2
    only = row(candidate("s1", judged(None)))
    assert (only.rank, only.composite, only.tier, only.criteria["format_ok"]) == (None, None, "claude-code", 1.0)


def test_figures_that_are_no_numbers_are_not_known() -> None:
    found = row(candidate("s1", judged(math.nan), cost_usd=math.nan, latency_s=math.inf), candidate("s2", judged(3)))
    assert (found.composite, found.criteria["relevance"], found.cost_usd, found.latency_s) == (6.0, 3.0, None, None)


# -- means


def test_repeats_are_averaged_within_their_scenario_first() -> None:
    found = row(
        candidate("s1", judged(1, format_ok=False), started_at=1),
        candidate("s1", judged(3), started_at=2, cell="m-v1-s1"),
        candidate("s1", judged(5), started_at=3, cell="m-v1-s1"),
        candidate("s2", judged(5)),
    )
    assert found.scenario_scores == {"s1": pytest.approx((2 - 2 + 6 + 10) / 3), "s2": 10.0}
    assert found.composite == pytest.approx((16 / 3 + 10) / 2)
    assert found.criteria == {"relevance": 4.0, "format_ok": pytest.approx((2 / 3 + 1) / 2), "overlong": 0.0}


def test_shares_of_several_outputs_cost_their_share_of_the_penalty() -> None:
    found = row(candidate("s1", judged(3, format_ok=0.75, overlong=0.25), checks={"overlong": 0.25}))
    assert found.composite == 6 - 2 * 0.25 - 0.25
    assert found.criteria["overlong"] == 0.25


def test_a_flag_that_a_program_fills_is_known_of_every_candidate_and_judged_flags_of_judged_ones() -> None:
    found = row(
        candidate("s1", judged(3, format_ok=False), checks={"overlong": True}),
        candidate("s2", checks={"overlong": False}),
        candidate("s3", judged(3, format_ok=False, overlong=True), checks={}),
    )
    assert found.criteria["overlong"] == pytest.approx(2 / 3), "where the run has no check, the verdict's word is taken"
    assert found.criteria["format_ok"] == 0.0


def test_costs_are_summed_and_latencies_averaged_over_what_is_known() -> None:
    found = row(
        candidate("s1", cost_usd=0.1, latency_s=1.0), candidate("s2", latency_s=4.0), candidate("s3", cost_usd=0)
    )
    assert (found.cost_usd, found.latency_s) == (0.1, 2.5)
    assert row(candidate("s1", cost_usd=0.0)).cost_usd == 0.0, "free is not unknown"


def test_an_interval_needs_two_scenarios_and_gets_their_scores_in_order() -> None:
    asked: list[Sequence[float]] = []

    def record(values: Sequence[float]) -> tuple[float, float]:
        asked.append(values)
        return 0.0, 1.0

    found = board(
        candidate("s2", judged(1)),
        candidate("s1", judged(2)),
        candidate("s1", judged(5), prompt="v2"),
        interval=record,
    )
    assert [r.ci95 for r in found.rows] == [None, (0.0, 1.0)]
    assert asked == [[4.0, 2.0]]


# -- ranks


def test_rows_stand_best_first_the_unjudged_last_and_equals_by_name() -> None:
    asked: list[list[Mapping[str, float]]] = []

    def ties(rows: Sequence[Row]) -> list[int]:
        asked.append([r.scenario_scores for r in rows])
        return [1, 1, 3]

    cells = [
        candidate("s1", model="z", prompt="v0"),
        candidate("s1", judged(3), model="b", prompt="v1"),
        candidate("s1", judged(3), model="a", prompt="v2"),
        candidate("s1", judged(1), model="c", prompt="v1"),
        candidate("s1", error="429", model="a", prompt="v1"),
    ]
    random.Random(1).shuffle(cells)
    found = board(*cells, ranks=ties)
    assert [(r.rank, r.model, r.prompt) for r in found.rows] == [
        (1, "a", "v2"), (1, "b", "v1"), (3, "c", "v1"), (None, "a", "v1"), (None, "z", "v0")
    ]  # fmt: skip
    assert asked == [[{"s1": 6.0}, {"s1": 6.0}, {"s1": 2.0}]]
    assert [c["model"] for c in found.comparisons] == ["b", "c"], "what nobody has judged has nothing to compare"


def test_the_order_of_the_candidates_does_not_matter() -> None:
    draw = random.Random(3)
    cells = [
        candidate(f"s{n % 7}", judged(draw.random() * 5), prompt=f"v{n % 3}", started_at=n, cost_usd=draw.random())
        for n in range(60)
    ]
    first = board(*cells)
    for _ in range(5):
        draw.shuffle(cells)
        assert board(*cells) == first


def test_the_projects_own_statistics_are_the_default() -> None:
    scores = [
        (n, p, s) for n in range(10) for p, s in (("good", 4 + n % 2), ("same", 4 + (n + 1) % 2), ("bad", 1 + n % 2))
    ]
    cells = [candidate(f"s{n}", judged(s), prompt=p) for n, p, s in scores]
    found = build_leaderboard(cells, RUBRIC, experiment="e", task="tip")
    assert [(r.rank, r.prompt) for r in found.rows] == [(1, "good"), (1, "same"), (3, "bad")]
    for r in found.rows:
        assert r.ci95 is not None
        assert r.composite is not None
        assert r.ci95[0] < r.composite < r.ci95[1]


# -- rows of different tiers


def ranked(*candidates: LoggedCandidate, **options: Any) -> Leaderboard:
    """The leaderboard by the project's own statistics."""
    return build_leaderboard(candidates, RUBRIC, experiment="e", task="tip", **options)


def test_rows_of_different_tiers_are_compared_on_the_tier_that_both_have() -> None:
    """Claude Code's scale is 4 points kinder; by the automatic judge, which saw both, the two are equal."""
    noise = [0.3 * (i % 3) for i in range(12)]
    kind = [candidate(f"s{i}", judged(4.0 + n), judged(3 + n, AUTO), prompt="kind") for i, n in enumerate(noise)]
    strict = [
        candidate(f"s{i}", judged(2.0 + n, HUMAN), judged(3 + n, AUTO), prompt="strict") for i, n in enumerate(noise)
    ]
    found = ranked(*kind, *strict)
    assert [(r.rank, r.prompt, r.tier) for r in found.rows] == [(1, "kind", "claude-code"), (1, "strict", "human")]
    (difference,) = found.comparisons
    assert (difference["tier"], difference["mean_difference"], difference["n"]) == ("auto", 0.0, 12)


def test_one_sit_down_tier_on_both_sides_goes_before_the_automatic_one() -> None:
    """A person saw half of it, Claude Code all of it: each scenario on the highest tier that both have there."""
    mine = [
        candidate(f"s{i}", judged(4), judged(5, AUTO), *([judged(3, HUMAN)] if i < 6 else []), prompt="v1")
        for i in range(12)
    ]
    theirs = [
        candidate(f"s{i}", judged(1 + 0.1 * i), judged(5, AUTO), *([judged(2, HUMAN)] if i < 3 else []), prompt="v2")
        for i in range(12)
    ]
    found = ranked(*mine, *theirs)
    (difference,) = found.comparisons
    assert difference["tier"] == "claude-code+human"
    expected = [-2.0] * 3 + [2 * (1 + 0.1 * i - 4) for i in range(3, 12)]
    assert difference["mean_difference"] == pytest.approx(sum(expected) / 12)
    assert [r.rank for r in found.rows] == [1, 2]


def test_rows_without_a_tier_in_common_are_tied_and_named() -> None:
    mine = [candidate(f"s{i}", judged(5), prompt="v1") for i in range(12)]
    theirs = [candidate(f"s{i}", judged(1, AUTO), prompt="v2") for i in range(12)]
    found = ranked(*mine, *theirs)
    assert [r.rank for r in found.rows] == [1, 1]
    (difference,) = found.comparisons
    assert (difference["tier"], difference["n"], difference["mean_difference"]) == (None, 0, None)
    assert len(difference["unpaired_a"]) == 12
    said = " ".join(notes(found))
    assert "m x v2 is not compared with the first row: no tier of judges has scored a scenario of both" in said
    assert "none in common" in render_leaderboard(found)


# -- labels of a part


def audited(prompt: str, quality: float, *, seed: int, labelled: bool = True) -> list[LoggedCandidate]:
    """40 scenarios. A person has labelled every fourth, picked where the judge is 5 points too kind, and 8 more.

    The person's mean of everything is 2 * quality - 0.5 points.
    """
    draw = random.Random(seed)
    found = []
    chosen = set(draw.sample([i for i in range(40) if i % 4], 8))
    for i in range(40):
        truth = quality + draw.choice([-0.5, 0.0, 0.5])
        auto = truth + (1.5 if i % 4 == 0 else 0.0)
        picked, drawn = i % 4 == 0, i in chosen
        known = labelled and (picked or drawn)
        found.append(
            candidate(
                f"s{i}", judged(auto, AUTO), *([judged(truth - (1.0 if picked else 0.0), HUMAN)] if known else []),
                prompt=prompt, sampling_probability=(1.0 if picked else 8 / 30) if known else None,
            )
        )  # fmt: skip
    return found


def test_after_an_audit_the_composite_is_the_calibrated_estimate_with_its_interval() -> None:
    """A person gives 3.0 x 2 where the judge is right, and 1 point x 2 less where the audit looked: 5.5 of all."""
    found = ranked(*audited("v1", 3.0, seed=1))
    (row,) = found.rows
    assert row.calibrated is not None
    assert row.estimated
    assert (row.composite, row.ci95) == (row.calibrated["estimate"], row.calibrated["ci"])
    assert row.composite == pytest.approx(5.5, abs=0.4)
    assert row.calibrated["plain_mean"] == pytest.approx(4.9, abs=0.3), "what the picked labels would have said"
    assert row.tier == "human"
    assert row.judged == 18
    (entry,) = statistics_json(found)["calibrated"]
    assert entry["is_composite"] is True
    assert entry["estimate"] == row.composite
    assert list(leaderboard_json(found)["rows"][0])[3:6] == ["composite", "ci95", "tier"]
    text = render_leaderboard(found)
    assert f"\\~{row.composite:.2f} [" in text
    assert "\\~ marks an estimate on the scale of the row's tier" in text
    assert f"~{row.composite:.2f} [" in terminal.render_leaderboard(found, width=120, color=False)


def test_labels_that_no_audit_drew_calibrate_from_four_scenarios_on() -> None:
    def part(count: int) -> Row:
        return ranked(
            *(
                candidate(f"s{i}", judged(2 + i % 3, AUTO), *([judged(1 + i % 3, HUMAN)] if i < count else []))
                for i in range(12)
            ),
            candidate("neither"),
        ).rows[0]

    assert part(0).calibrated is None
    assert part(1).calibrated is not None
    three, four = part(3), part(4)
    assert (three.estimated, three.composite) == (False, pytest.approx(4.0))
    assert three.calibrated is not None
    assert four.estimated
    assert four.composite == four.calibrated["estimate"]  # type: ignore[index]
    assert part(12).calibrated is None


def test_no_label_is_left_out_where_the_automatic_judge_has_scored_only_a_part() -> None:
    labelled = [candidate(f"a{i}", judged(5, HUMAN)) for i in range(14)]
    both = [candidate(f"b{i}", judged(1 + i % 2, AUTO), judged(1 + i % 2, HUMAN)) for i in range(5)]
    (row,) = ranked(*labelled, *both, candidate("c", judged(2, AUTO))).rows
    assert row.calibrated is not None
    assert (row.calibrated["labels_without_auto"], row.estimated, row.judged) == (14, False, 19)
    assert row.composite == pytest.approx((14 * 10 + 2 * 2 + 4 + 2 * 4 + 2 - 4) / 19, abs=0.3)
    assert row.composite == row.calibrated["plain_mean"]


@pytest.mark.parametrize("drawn", [None, 0.1])
def test_after_an_audit_a_label_without_an_automatic_score_stands_for_itself(drawn: float | None) -> None:
    """40 audited scenarios come to 5.5 points, and a person gave ten others 10 that the judge has not seen."""
    others = [candidate(f"x{i}", judged(5, HUMAN), sampling_probability=drawn) for i in range(10)]
    (alone,), (row,) = (ranked(*audited("v1", 3.0, seed=1), *more).rows for more in ((), others))
    assert alone.composite is not None
    assert row.composite == pytest.approx((40 * alone.composite + 10 * 10) / 50, abs=0.15)
    assert row.calibrated is not None
    assert (row.estimated, row.calibrated["n_labels"]) == (True, 28)


def test_two_equal_labels_do_not_show_that_there_is_no_spread() -> None:
    def row(prompt: str, label: float) -> list[LoggedCandidate]:
        return [
            candidate(
                f"s{i}", judged(2 + i % 3, AUTO), *([judged(label, HUMAN)] if i < 2 else []),
                prompt=prompt, sampling_probability=0.1 if i < 2 else None,
            )
            for i in range(20)
        ]  # fmt: skip

    found = ranked(*row("v1", 4), *row("v2", 3.5))
    assert [r.estimated for r in found.rows] == [True, True]
    assert [r.rank for r in found.rows] == [1, 1]
    assert found.comparisons[0]["p_value"] > 0.05


def test_differences_are_corrected_for_all_pairs_of_rows() -> None:
    """The first row is first by looking: of 12 equal ones, an eighth of boards had a p < 0.05 against it."""
    rows = [candidate(f"s{i}", judged(s - (i % 2)), prompt=f"v{s}") for s in (5, 4, 3) for i in range(12)]
    assert [c["p_value"] for c in board(*rows).comparisons] == [2 / 2**12] * 2
    assert [c["p_holm"] for c in board(*rows).comparisons] == pytest.approx([6 / 2**12] * 2)


def test_a_row_that_does_not_compare_takes_no_place_in_the_correction_of_the_others() -> None:
    best, last = ([candidate(f"s{i}", judged(s - i % 2), prompt=f"v{s}") for i in range(12)] for s in (5, 2))
    apart = [candidate(f"x{i}", judged(3), prompt="v3") for i in range(12)]
    none, some = board(*best, *apart, *last).comparisons
    assert (none["prompt"], none["p_value"], none["p_holm"]) == ("v3", None, None)
    assert (some["prompt"], some["p_value"], some["p_holm"]) == ("v2", 2 / 2**12, pytest.approx(6 / 2**12))


def test_scenarios_that_only_one_of_two_rows_has_are_named_in_order() -> None:
    first, row = (
        [candidate(s, judged(score), prompt=f"v{score}") for s in names]
        for score, names in ((5, ("z", "s", "a", "m")), (1, ("y", "s", "b", "n")))
    )
    (found,) = board(*first, *row).comparisons
    assert (found["n"], found["unpaired_a"], found["unpaired_b"]) == (1, ["b", "n", "y"], ["a", "m", "z"])


def test_weights_of_ten_rank_as_weights_of_one() -> None:
    """One point of the scale, at both of two scenarios: rounding alone can do that, whatever the point is worth."""

    def ranks(weight: float) -> list[int | None]:
        scale = Criterion(name="relevance", type="scale", min=1, max=5, weight=weight)
        rows = [candidate(f"s{i}", judged(score), prompt=f"v{score}") for i in range(2) for score in (4, 3)]
        rubric = replace(RUBRIC, criteria=(scale, *RUBRIC.criteria[1:]))
        return [r.rank for r in build_leaderboard(rows, rubric, experiment="e", task="tip").rows]

    assert ranks(1.0) == ranks(10.0) == ranks(0.1) == [1, 1]


@pytest.mark.parametrize("certain", [1.0, None], ids=["picked", "there before"])
def test_a_small_audit_leaves_a_row_an_estimate_without_an_interval(certain: float | None) -> None:
    """One label that is certain and one that stands for 19: the board said 7.90 [-1e21, 1e21]."""
    found = ranked(
        *(
            candidate(
                f"s{i}", judged(2 + i % 3, AUTO), *([judged((3, 4)[i], HUMAN)] if i < 2 else []),
                sampling_probability=(certain, 1 / 19)[i] if i < 2 else None,
            )
            for i in range(20)
        )
    )  # fmt: skip
    (row,) = found.rows
    assert (row.composite, row.ci95) == (pytest.approx((6 + 19 * 8) / 20), None)
    assert "no interval" in statistics_json(found)["calibrated"][0]["reason"]


def test_calibrated_rows_are_told_apart_by_their_estimates() -> None:
    far = ranked(*audited("good", 4.5, seed=1), *audited("bad", 2.0, seed=2))
    assert [(r.rank, r.prompt) for r in far.rows] == [(1, "good"), (2, "bad")]
    (difference,) = far.comparisons
    assert difference["tier"] == "calibrated"
    assert difference["mean_difference"] == pytest.approx(far.rows[1].composite - far.rows[0].composite)  # type: ignore[operator]
    near = ranked(*audited("good", 3.0, seed=1), *audited("bad", 2.9, seed=2))
    assert [r.rank for r in near.rows] == [1, 1]


def test_a_calibrated_row_is_compared_with_the_mean_of_one_that_is_labelled_whole() -> None:
    """Of which the standard error is the plain one, sd / sqrt(n), and the degrees of freedom n - 1."""
    from scipy.stats import t

    scores = [4.5, 4.0, 5.0, 4.5, 3.5]
    whole = [candidate(f"s{i}", judged(s, AUTO), judged(s, HUMAN), prompt="whole") for i, s in enumerate(scores)]
    found = ranked(*whole, *audited("audited", 3.0, seed=1))
    assert [(r.prompt, r.estimated) for r in found.rows] == [("whole", False), ("audited", True)]
    part = found.rows[1].calibrated
    assert part is not None
    points = [2 * s for s in scores]
    difference = part["estimate"] - statistics.mean(points)
    se = math.hypot(part["se"], statistics.stdev(points) / math.sqrt(5))
    reach = t.ppf(0.975, 4) * se
    (compared,) = found.comparisons
    assert (compared["tier"], compared["n"]) == ("calibrated", 5)
    assert compared["mean_difference"] == pytest.approx(difference)
    assert compared["ci"] == pytest.approx((difference - reach, difference + reach))
    assert compared["p_value"] == pytest.approx(2 * t.sf(abs(difference) / se, 4))
    assert [r.rank for r in found.rows] == [1, 2]
    alone = ranked(whole[0], *audited("audited", 3.0, seed=1))
    assert [(c["tier"], c["n"]) for c in alone.comparisons] == [("auto", 1)], "one label has no standard error"
    two = ranked(*whole[:2], *audited("audited", 3.0, seed=1))
    assert [(c["tier"], c["n"]) for c in two.comparisons] == [("calibrated", 2)]


def test_the_mean_of_equal_labels_that_a_calibrated_row_is_compared_with_is_known_to_a_rounding() -> None:
    """Both of two labels are 4, at 2 points each: 2 / sqrt(12 * 2) is left open, and Student's t has one degree."""
    from scipy.stats import t

    whole = [candidate(f"s{i}", judged(4, AUTO), judged(4, HUMAN), prompt="whole") for i in range(2)]
    found = ranked(*whole, *audited("audited", 3.0, seed=1))
    part, (compared,) = found.rows[1].calibrated, found.comparisons
    assert part is not None
    reach = t.ppf(0.975, 1) * math.hypot(part["se"], 2 / math.sqrt(24))
    difference = part["estimate"] - 8.0
    assert compared["ci"] == pytest.approx((difference - reach, difference + reach))


def test_a_row_that_is_no_estimate_is_compared_with_one_by_the_mean_of_all_its_labels() -> None:
    """As the board shows it: 14 of its 19 labels have no automatic score, and an estimate would leave them out."""
    labelled = [candidate(f"a{i}", judged(1, HUMAN), prompt="plain") for i in range(14)]
    both = [candidate(f"b{i}", judged(2, AUTO), judged(2, HUMAN), prompt="plain") for i in range(5)]
    more = candidate("c", judged(2, AUTO), prompt="plain")
    found = ranked(*audited("audited", 4.5, seed=1), *labelled, *both, more)
    (first, row), (compared,) = found.rows, found.comparisons
    assert first.composite is not None
    assert (row.prompt, row.estimated, row.composite) == ("plain", False, pytest.approx(48 / 19))
    assert compared["tier"] == "calibrated"
    assert compared["mean_difference"] == pytest.approx(48 / 19 - first.composite)


def test_a_calibrated_row_is_told_apart_from_a_worse_one_that_is_labelled_whole() -> None:
    low = [candidate(f"s{i}", judged(1 + i % 2, AUTO), judged(1 + i % 2, HUMAN), prompt="whole") for i in range(5)]
    found = ranked(*audited("audited", 4.5, seed=1), *low)
    assert [(r.rank, r.prompt, r.estimated) for r in found.rows] == [(1, "audited", True), (2, "whole", False)]
    assert [c["tier"] for c in found.comparisons] == ["calibrated"]
    alone = ranked(*audited("audited", 4.5, seed=1), low[0])
    assert [(r.rank, r.prompt) for r in alone.rows] == [(1, "audited"), (1, "whole")], "one label has no standard error"


def test_a_calibrated_row_and_one_of_another_tier_are_compared_by_the_automatic_judge() -> None:
    found = ranked(*audited("audited", 3.0, seed=1), *audited("not", 2.0, seed=2, labelled=False))
    assert {r.prompt: r.tier for r in found.rows} == {"audited": "human", "not": "auto"}
    (difference,) = found.comparisons
    assert (difference["tier"], difference["n"]) == ("auto", 40)


def test_estimates_on_the_scales_of_two_tiers_rank_by_the_automatic_judge() -> None:
    """Claude Code gives 1.5 points more than the person does, to answers of which the automatic judge says the same."""
    milder = [
        replace(c, verdicts=(c.verdicts[0], *(judged(float(v.scores["relevance"] or 0) + 1.5) for v in c.verdicts[1:])))
        for c in audited("mild", 3.0, seed=1)
    ]
    found = ranked(*audited("strict", 3.0, seed=1), *milder)
    assert [(r.prompt, r.tier, r.estimated) for r in found.rows] == [
        ("mild", "claude-code", True),
        ("strict", "human", True),
    ]
    assert [r.rank for r in found.rows] == [1, 1]
    (difference,) = found.comparisons
    assert (difference["tier"], difference["mean_difference"]) == ("auto", 0.0)
    # Claude Code has labelled the strict one's scenarios, too: an audit's picks, which stand for themselves alone.
    both = [
        replace(c, verdicts=(*c.verdicts, judged(1.0))) if len(c.verdicts) > 1 else c
        for c in audited("strict", 3.0, seed=1)
    ]
    found = ranked(*both, *milder)
    (difference,) = found.comparisons
    assert (difference["tier"], difference["n"], difference["mean_difference"]) == ("auto", 40, 0.0)
    assert [r.rank for r in found.rows] == [1, 1]


def test_both_ways_to_pair_two_sides_are_one_rule() -> None:
    """What the ranks rest on (arrays, many rows at once) and what comparisons rest on (two tables)."""
    draw = random.Random(5)
    for _ in range(50):
        tables = [
            {t: {f"s{i}": draw.random() for i in range(6) if draw.random() < 0.4} for t in Tier if draw.random() < 0.7}
            for _ in range(2)
        ]
        found = pair(tables[0], tables[1])
        for group in ((Tier.HUMAN, Tier.CLAUDE_CODE), (Tier.AUTO,)):
            expected = {
                s: t for t in reversed(group) for s in tables[0].get(t, {}).keys() & tables[1].get(t, {}).keys()
            }
            if expected:
                break
        assert found.tiers == expected
        assert found.a == {s: tables[0][t][s] for s, t in expected.items()}
        assert found.b == {s: tables[1][t][s] for s, t in expected.items()}


# -- its file


def test_the_file_has_exactly_the_contracts_shape() -> None:
    found = board(
        candidate("s1", judged(10 / 3), judged(2, AUTO), cost_usd=0.0000001234, latency_s=1.23456789),
        candidate("s2", judged(4, HUMAN), latency_s=1.0),
        candidate("s1", cell="older", started_at=-1),
        candidate("s1", prompt="v0"),
    )
    data = leaderboard_json(found)
    assert data == {
        "schema": "promptbench/leaderboard/1",
        "experiment": "e",
        "task": "tip",
        "rubric": "tip-v1",
        "rubric_sha256": "tip-sha",
        "rows": [
            {
                "rank": 1, "model": "m", "prompt": "v1", "composite": 7.333333, "ci95": [6.666667, 8.0],
                "tier": "claude-code+human", "candidates": 2, "judged": 2, "pending": 0, "failed": 0,
                "relevance": 3.666667, "format_ok": 1.0, "overlong": 0.0,
                "auto_composite": 4.0, "cost_usd": 1.234e-07, "latency_s": 1.117284,
            },
            {
                "rank": None, "model": "m", "prompt": "v0", "composite": None, "ci95": None,
                "tier": None, "candidates": 1, "judged": 0, "pending": 1, "failed": 0,
                "relevance": None, "format_ok": None, "overlong": 0.0,
                "auto_composite": None, "cost_usd": None, "latency_s": None,
            },
        ],
    }  # fmt: skip
    assert list(data["rows"][0]) == [
        "rank", "model", "prompt", "composite", "ci95", "tier", "candidates", "judged", "pending", "failed",
        "relevance", "format_ok", "overlong", "auto_composite", "cost_usd", "latency_s",
    ]  # fmt: skip


def test_nothing_in_the_file_is_nan_or_minus_zero() -> None:
    odd = Row(
        rank=1, model="m", prompt="v1", composite=-1e-9, ci95=(-math.inf, math.nan), tier="auto",
        candidates=1, judged=0, pending=1, failed=0, criteria={"relevance": math.nan}, cost_usd=math.inf,
    )  # fmt: skip
    data = leaderboard_json(Leaderboard(experiment="e", task="tip", rubric=RUBRIC, rows=(odd,)))
    (found,) = json.loads(json.dumps(data, allow_nan=False))["rows"]
    assert str(found["composite"]) == "0.0"
    assert (found["ci95"], found["relevance"], found["cost_usd"]) == ([None, None], None, None)


def test_a_criterion_never_takes_the_place_of_a_rows_own_figure() -> None:
    odd = Row(
        rank=1, model="m", prompt="v1", composite=1.0, ci95=None, tier="auto",
        candidates=1, judged=0, pending=1, failed=0, criteria={"rank": 5.0, "latency_s": 5.0, "tone": 5.0},
    )  # fmt: skip
    (found,) = leaderboard_json(Leaderboard(experiment="e", task="tip", rubric=RUBRIC, rows=(odd,)))["rows"]
    assert (found["rank"], found["latency_s"], found["tone"]) == (1, None, 5.0)


def test_going_back_to_an_earlier_prompt_counts_its_candidates_again() -> None:
    """A -> B -> A on one day logs nothing new for A, so the newest content would be B."""
    first = candidate("s1", judged(5), run_id="1", cell="A", candidate="1", started_at=1)
    second = candidate("s1", judged(1), run_id="2", cell="B", candidate="2", started_at=2)
    place = (first.model, first.prompt, first.scenario)
    board = build_leaderboard([first, second], RUBRIC, experiment="e", task=first.task, cells_now={place: "A"})
    assert board.superseded == 1
    assert (board.rows[0].candidates, board.rows[0].composite) == (1, 10.0)


def test_one_judge_before_and_after_a_change_is_named_once() -> None:
    """Its params were changed, and of one candidate it gave no valid verdict since: there the earlier one counts."""
    prints = [Fingerprint(model="m", params={"top_k": k}, rubric_sha256="r", prompt_sha256="p") for k in (1, 2)]
    first, second = (replace(judged(4, AUTO, by="haiku"), fingerprint=one) for one in prints)
    mixed = board(candidate("s1", first), candidate("s2", second))
    assert any("2 automatic judges (haiku in 2 versions) have scored a part each" in note for note in notes(mixed))


def test_automatic_judges_that_scored_a_part_each_are_named() -> None:
    """The judge was changed, and the new one stopped half way: rows may be scored by one, others by the other."""
    first, second = judged(5, AUTO, by="haiku"), judged(3, AUTO, by="gpt", at="2")
    mixed = board(candidate("s1", first), candidate("s2", first, second))
    assert mixed.automatic_judges == ("gpt", "haiku")
    assert any("2 automatic judges (gpt, haiku) have scored a part each" in note for note in notes(mixed))
    assert any("strict they are: pytest evals/ --bench-read --judge-auto has" in note for note in notes(mixed))
    whole = board(candidate("s1", first, second), candidate("s2", first, second))
    assert not any("automatic judges" in note for note in notes(whole))


def test_a_row_that_the_automatic_judge_has_scored_in_part_is_named() -> None:
    """Its replies about the others were no verdicts; ``judged`` counts the sit-down tier alone."""

    def said(*candidates: LoggedCandidate) -> list[str]:
        return [note for note in notes(board(*candidates)) if "without an automatic score" in note]

    scored = judged(5, AUTO)
    whole = [candidate(s, scored) for s in ("s1", "s2")]
    part = [candidate("s1", scored, prompt="v2"), candidate("s2", prompt="v2")]
    assert said(*whole) == []
    assert said(*whole, *part) == [
        "1 candidate without an automatic score counts in no automatic figure: m x v2 has 1 of 2."
    ]
    assert said(*whole, candidate("s3", error="429")) == [], "a failure has no text to score"
    assert said(*whole, candidate("s1", prompt="v3")) == [], "a row without any has none to be misread"
    assert said(candidate("s1", scored, judged(4)), candidate("s2", judged(4))), "the figure under auto"
    many = [candidate(s, *([scored] if s == "s1" else []), model=f"m{i}") for i in range(5) for s in ("s1", "s2")]
    third = [candidate(s, *([scored] if s == "s1" else []), model="z") for s in ("s1", "s2", "s3")]
    assert ": z x v1 has 1 of 3, m0 x v1 has 1 of 2, " in said(*many, *third)[0], "the least first"
    assert said(*many)[0].endswith("m0 x v1 has 1 of 2, m1 x v1 has 1 of 2, m2 x v1 has 1 of 2, and 2 rows more.")


def test_a_judge_that_is_one_of_the_models_is_named_while_its_verdicts_decide() -> None:
    def said(*candidates: LoggedCandidate) -> list[str]:
        return [note for note in notes(board(*candidates)) if "favour" in note]

    scored = judged(5, AUTO, by="haiku")
    own, other = candidate("s1", scored, model="haiku"), candidate("s1", scored, model="local")
    (note,) = said(own, other)
    assert note.startswith("haiku has judged its own texts beside others', and models tend to favour their own")
    assert said(own, candidate("s1", scored, model="haiku", prompt="v2")) == [], "nobody else stands beside it"
    assert said(other, candidate("s1", scored, model="gpt")) == []
    gpt = judged(5, AUTO, by="gpt")
    assert said(candidate("s1", gpt, model="haiku"), other) == [], "another scored its texts"
    both = [candidate(s, v, model=m) for m in ("gpt", "haiku") for s, v in (("s1", gpt), ("s2", scored))]
    assert said(*both)[0].startswith("gpt, haiku have judged their own texts beside others'")
    label = judged(4, HUMAN)
    labelled = [candidate("s1", scored, label, model=model) for model in ("haiku", "local")]
    assert said(*labelled) == [], "a person decides"
    by_name = [candidate("s1", judged(4, HUMAN, by="haiku"), model=model) for model in ("haiku", "local")]
    assert said(*by_name) == [], "and is no model, whatever the name"
    by_checks = [candidate("s1", judged(5, AUTO, by="checks"), model=model) for model in ("checks", "local")]
    lb = dataclasses.replace(board(*by_checks), rubric=dataclasses.replace(RUBRIC, criteria=RUBRIC.criteria[2:]))
    assert not any("favour" in note for note in notes(lb)), "and a program is none"
    assert any(
        note.startswith("The checks of the rubric, which are programs, have scored all of this") for note in notes(lb)
    )


def test_rows_that_no_judge_has_in_common_are_named() -> None:
    """Packets went out model by model: who is strict makes the model weak, and no tier tells them apart."""

    def said(*by: tuple[str, Tier, str]) -> list[str]:
        seen = [candidate(f"s{i}", judged(5, tier, by=name), model=model) for i, (model, tier, name) in enumerate(by)]
        return [note for note in notes(board(*seen)) if "was judged by" in note]

    (note,) = said(("haiku", HUMAN, "ann"), ("local", HUMAN, "bob"), ("local", HUMAN, "eva"))
    assert note.startswith(
        "haiku x v1 was judged by ann, local x v1 by bob, eva, who may differ in how strict they are"
    )
    assert said(("haiku", HUMAN, "ann"), ("local", HUMAN, "bob"), ("local", HUMAN, "ann")) == []
    assert said(("haiku", HUMAN, "ann"), ("haiku", HUMAN, "bob")) == [], "one row"
    also = (("haiku", HUMAN, "ann"), ("local", HUMAN, "bob"), ("local", Tier.CLAUDE_CODE, "opus"))
    assert said(*also)[0].startswith("haiku x v1 was judged by ann, local x v1 by bob, opus, who"), "a tier in common"
    assert said(("haiku", HUMAN, "ann"), ("local", Tier.CLAUDE_CODE, "opus")) == [], "they are not compared"
    assert said(("haiku", AUTO, "gpt"), ("local", AUTO, "opus")) == [], "that has a sentence of its own"


def test_a_row_that_a_person_has_checked_in_part_is_said_to_be_of_two_judges() -> None:
    def said(*checked: str, models: tuple[str, ...] = ("haiku", "local")) -> list[str]:
        seen = [candidate(s, judged(4), model=m) for m in models for s in ("s1", "s2")]
        seen += [candidate("s3", judged(4), *[judged(2, HUMAN)] * (m in checked), model=m) for m in models]
        return [note for note in notes(board(*seen)) if "Composites of" in note]

    (note,) = said("local")
    assert note.startswith("Composites of claude-code+human are of judges who may differ in how strict they are")
    assert said() == said("haiku", models=("haiku",)) == []


def test_rows_that_share_no_scenario_with_the_first_are_one_sentence_which_is_true() -> None:
    """A person who judged a few of each at random: all of it is on one scale."""

    def said(rows: int) -> str:
        seen = [candidate(f"s{i}", judged(5 - i % 2, HUMAN), model=f"m{i}") for i in range(rows)]
        (note,) = [note for note in notes(board(*seen)) if "not compared" in note]
        return note

    why = "with the first row: no tier of judges has scored a scenario"
    assert said(2) == f"m1 x v1 is not compared {why} of both, so their order says nothing."
    assert said(6) == (
        f"m2 x v1, m4 x v1, m1 x v1, and 2 rows more are not compared {why} that it shares with one of them, "
        "so their order says nothing."
    )


# -- by tag


TAGS = {"s1": ("health", "work"), "s2": ("health",), "s3": ("work",), "s4": ()}


def test_rows_are_shown_by_tag_too() -> None:
    found = board(
        candidate("s1", judged(5)), candidate("s2", judged(3)), candidate("s4", judged(1)),
        candidate("s1", judged(1), prompt="v2"), candidate("s3", judged(2), prompt="v2"), candidate("s2", prompt="v2"),
        candidate("s1", prompt="v3"),
        tags=TAGS,
    )  # fmt: skip
    figures = [(s["tag"], s["prompt"], s["composite"], s["ci95"], s["scored"], s["scenarios"]) for s in found.by_tag]
    assert figures == [
        ("health", "v1", 8.0, (6.0, 10.0), 2, 2),
        ("health", "v2", 2.0, None, 1, 2),
        ("work", "v1", 10.0, None, 1, 2),
        ("work", "v2", 3.0, (2.0, 4.0), 2, 2),
    ], "v3 has nothing that is scored, and s4 no tag"
    assert {s["tier"] for s in found.by_tag} == {"claude-code"}
    assert statistics_json(found)["by_tag"][0]["composite"] == 8.0


def test_a_tag_whose_scenarios_a_row_has_no_score_of_is_unknown_there_not_zero() -> None:
    found = board(candidate("s4", judged(1)), tags=TAGS)
    assert [(s["tag"], s["composite"], s["tier"], s["scored"]) for s in found.by_tag] == [
        ("health", None, None, 0),
        ("work", None, None, 0),
    ]
    assert board(candidate("s1"), tags=TAGS).by_tag == ()


def test_of_an_audited_row_tags_have_the_automatic_scores() -> None:
    """Of the labels half were picked for their disagreement."""
    rows = audited("v1", 3.0, seed=1)
    found = ranked(*rows, tags={c.scenario: ("all",) for c in rows})
    (row,), (slice_,) = found.rows, found.by_tag
    assert row.estimated
    assert (slice_["tier"], slice_["scored"], slice_["scenarios"]) == ("auto", 40, 40)
    assert slice_["composite"] == pytest.approx(row.auto_composite)


def test_of_many_tags_those_with_the_most_scenarios_are_looked_at() -> None:
    tags = {f"s{i}": (f"ticket-{i:03}", "all", f"half-{i % 2}") for i in range(100)}
    found = board(*(candidate(s, judged(3)) for s in tags), tags=tags)
    names = [s["tag"] for s in found.by_tag]
    assert (len(names), names[:3]) == (30, ["all", "half-0", "half-1"])
    assert statistics_json(found)["tags_left_out"] == 73
    assert "by chance. Left out: 73 more tags." in render_leaderboard(found)


def test_of_many_rows_fewer_tags_are_looked_at() -> None:
    """An interval takes milliseconds: those of 200 rows by 30 tags took half a minute."""
    everyone = [candidate(s, judged(3), prompt=f"v{i}") for s in ("s1", "s2") for i in range(60)]
    found = board(*everyone, tags={"s1": [f"t{i:02}" for i in range(25)], "s2": ["t03"]})
    assert len(found.by_tag) == 60 * 16
    assert (found.tags_left_out, {s["tag"] for s in found.by_tag} >= {"t00", "t03", "t14"}) == (9, True)
    assert {s["tag"] for s in found.by_tag if s["scenarios"] == 2} == {"t03"}
