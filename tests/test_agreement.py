"""Which judges are compared with whom, and what agreement.json says. Its figures: test_statistics_agreement.py."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_promptbench.agreement import Agreement, agreement_json, agreement_report
from pytest_promptbench.experiments import Experiment
from pytest_promptbench.records import (
    Criterion,
    Draw,
    Fingerprint,
    Judge,
    Leaderboard,
    LoggedCandidate,
    Rubric,
    Tier,
    Verdict,
)
from pytest_promptbench.report.tables import all_tables, terminal_tables
from pytest_promptbench.session.boards import Board

RUBRIC = Rubric(
    id="r",
    text="t",
    sha256="rubric",
    criteria=(
        Criterion(name="relevance", type="scale", min=1, max=5, weight=2),
        Criterion(name="ok", type="flag", bad=False, penalty=2),
        Criterion(name="overlong", type="flag", bad=True, penalty=1, check={"max_words": 60}),
    ),
)
ANN, BOB = Judge(tier=Tier.HUMAN, name="ann"), Judge(tier=Tier.HUMAN, name="bob")
BOARD = Leaderboard(experiment="e", task="tip", rubric=RUBRIC, rows=())
CLAUDE, HAIKU = Judge(tier=Tier.CLAUDE_CODE, name="claude-code"), Judge(tier=Tier.AUTO, name="haiku")


def verdict(judge: Judge, relevance: float, ok: bool = True) -> Verdict:
    return Verdict(scores={"relevance": relevance, "ok": ok, "overlong": False}, judge=judge, at="2026-01-01")


def candidate(number: int, *verdicts: Verdict, **details: Any) -> LoggedCandidate:
    return LoggedCandidate(
        run_id=str(number), experiment="e", task="tip", model="m", prompt="v1", scenario=f"s{number % 4}", cell="c",
        candidate=str(number), rubric="r", rubric_sha256="rubric", pending=False, verdicts=verdicts,
        checks={"overlong": False}, **details,
    )  # fmt: skip


def report(candidates: list[LoggedCandidate]) -> Agreement:
    return agreement_report(candidates, RUBRIC, experiment="e", task="tip")


def sides(found: Agreement) -> list[tuple[str, str, str]]:
    return [(p.kind, p.report.a, p.report.b) for p in found.pairs]


def test_every_pair_of_judges_with_common_candidates_people_first() -> None:
    found = report([candidate(i, verdict(HAIKU, 3), verdict(CLAUDE, 4), verdict(ANN, 5)) for i in range(8)])
    assert sides(found) == [
        ("judges", "human: ann", "claude-code"),
        ("judges", "human: ann", "auto: haiku"),
        ("judges", "claude-code", "auto: haiku"),
    ]
    scale = found.pairs[1].report.scales[0]
    assert (scale.criterion, scale.n, scale.scenarios) == ("relevance", 8, 4)
    assert scale.bias.value == 2.0
    assert scale.mean_absolute_difference.value == 2.0


def test_tiers_are_compared_where_a_tier_has_several_judges() -> None:
    found = report(
        [candidate(i, verdict(ANN if i % 2 else BOB, i % 5 + 1), verdict(HAIKU, i % 5 + 1)) for i in range(10)]
    )
    assert sides(found) == [
        ("tiers", "human", "auto"),
        ("judges", "human: ann", "auto: haiku"),
        ("judges", "human: bob", "auto: haiku"),
    ]
    assert found.pairs[0].report.candidates == 10
    assert found.pairs[0].report.scales[0].kappa.value == 1.0


def test_a_judge_is_compared_with_itself_on_hidden_duplicates() -> None:
    found = report(
        [candidate(i, verdict(CLAUDE, i % 5 + 1), second_verdicts=(verdict(CLAUDE, i % 5 + 1),)) for i in range(6)]
    )
    assert sides(found) == [("self", "claude-code", "claude-code again")]


def test_an_automatic_judge_of_another_fingerprint_is_not_this_one_again() -> None:
    old, new = (
        replace(
            verdict(HAIKU, score), fingerprint=Fingerprint(model="m", params=params, rubric_sha256="", prompt_sha256="")
        )
        for score, params in ((1, {}), (5, {"max_tokens": 900}))
    )
    assert sides(report([candidate(i, new, second_verdicts=(new,)) for i in range(6)])) != []
    assert sides(report([candidate(i, new, second_verdicts=(old,)) for i in range(6)])) == []


def test_a_program_and_other_tasks_and_failures_are_left_out() -> None:
    pair = (verdict(ANN, 5), verdict(HAIKU, 5))
    odd = [
        LoggedCandidate.from_json({**candidate(9, *pair).to_json(), "task": "other"}),
        LoggedCandidate.from_json({**candidate(9, *pair).to_json(), "error": "timeout"}),
        LoggedCandidate.from_json({**candidate(9, *pair).to_json(), "rubric_sha256": "old"}),
    ]
    assert report(odd).pairs == ()
    (only,) = report([*odd, *(candidate(i, *pair) for i in range(3))]).pairs
    assert only.report.candidates == 3
    assert [s.criterion for s in only.report.scales] == ["relevance", "composite"]
    assert [f.criterion for f in only.report.flags] == ["ok"]


def test_one_judge_alone_gives_an_empty_report() -> None:
    assert agreement_json(report([candidate(1, verdict(ANN, 5))])) == {
        "schema": "promptbench/agreement/1", "experiment": "e", "task": "tip", "rubric": "r",
        "rubric_sha256": "rubric", "pairs": [],
    }  # fmt: skip


def test_the_file_has_every_figure_with_its_interval_or_a_reason() -> None:
    found = report([candidate(i, verdict(ANN, 5), verdict(HAIKU, i % 5 + 1, i % 2 == 0)) for i in range(12)])
    (pair,) = json.loads(json.dumps(agreement_json(found), allow_nan=False))["pairs"]
    assert (pair["kind"], pair["a"], pair["b"], pair["candidates"]) == ("judges", "human: ann", "auto: haiku", 12)
    scale = pair["scales"][0]
    assert {"kappa", "alpha", "spearman", "mean_absolute_difference", "bias"} <= scale.keys()
    assert scale["spearman"]["value"] is None
    assert "gave every candidate the same score" in scale["spearman"]["reason"]
    assert scale["bias"]["ci"][0] < scale["bias"]["value"] < scale["bias"]["ci"][1]
    (flag,) = pair["flags"]
    assert {"kappa", "ac1", "raw", "base_rate_a", "base_rate_b", "tpr", "tnr"} <= flag.keys()


def test_composites_of_halves_are_compared_as_such() -> None:
    """In whole steps from the worst, right, unsafe and wrong were one point: two who never agree would be as one."""
    criteria = (
        Criterion(name="right", type="flag", bad=False, penalty=1),
        Criterion(name="safe", type="flag", bad=False, penalty=0.5),
    )
    flags = Rubric(id="r", text="t", sha256="rubric", criteria=criteria)
    assert [replace(flags, criteria=c).step for c in (criteria, criteria[:1], ())] == [0.5, 1, 1]

    def of(judge: Judge, right: bool, safe: bool) -> Verdict:
        return Verdict(scores={"right": right, "safe": safe}, judge=judge, at="2026-01-01")

    pairs = [((True, True), (False, True)), ((True, False), (True, True)), ((False, False), (False, False))] * 4
    candidates = [candidate(i, of(ANN, *a), of(BOB, *b)) for i, (a, b) in enumerate(pairs)]
    (pair,) = agreement_report(candidates, flags, experiment="e", task="tip").pairs
    (scale,) = pair.report.scales
    assert scale.rounded == 0
    assert scale.kappa.value == pytest.approx(1 - 3 * (1 + 0.25) / (1 + 2.25 + 0.25 + 0.25 + 1 + 0.25 + 2.25))


def test_what_an_audit_labelled_counts_by_its_sampling_probability() -> None:
    picked = [candidate(i, verdict(ANN, 1), verdict(HAIKU, 5), sampling_probability=1.0) for i in range(4)]
    drawn = [
        candidate(4 + i, verdict(ANN, i % 5 + 1), verdict(HAIKU, i % 5 + 1), sampling_probability=0.1) for i in range(4)
    ]
    left = candidate(8, verdict(HAIKU, 2))
    found = report([*picked, *drawn, left])
    (pair,) = found.pairs
    assert pair.report.weighted
    assert pair.report.candidates == 8
    assert pair.report.scales[0].bias.value == pytest.approx(4 * -4 / 44)
    assert any("weighed by 1 / sampling probability" in t.note for t in all_tables(BOARD, found))


def test_what_a_person_checked_by_an_audit_counts_by_how_that_drew_it() -> None:
    """Claude Code and the automatic judge have judged all; an audit picked where they differ, and drew some others."""

    def audited(number: int, relevance: float, *, random: bool) -> LoggedCandidate:
        drawn = Draw(probability=0.1 if random else 1.0, random=random, round=1, seed=1)
        said = (verdict(ANN, relevance), verdict(CLAUDE, 5), verdict(HAIKU, 5 if random else 1))
        return candidate(number, *said, draws={"a": drawn}, checked="a")

    seen = [audited(i, 1 if i < 4 else 5, random=i >= 4) for i in range(8)]
    rest = [candidate(8 + i, verdict(CLAUDE, 5), verdict(HAIKU, 5)) for i in range(36)]
    found = {(p.report.a, p.report.b): p.report for p in report([*seen, *rest]).pairs}
    assert {sides: r.weighted for sides, r in found.items()} == {
        ("human: ann", "claude-code"): True,
        ("human: ann", "auto: haiku"): True,
        ("claude-code", "auto: haiku"): False,
    }
    assert found["human: ann", "claude-code"].scales[0].bias.value == pytest.approx(4 * -4 / 44)
    assert found["claude-code", "auto: haiku"].scales[0].bias.value == pytest.approx(4 * 4 / 44)


def test_once_everything_is_labelled_each_counts_once() -> None:
    """The rest came by an ordinary packet: what an audit drew stands for nothing else any more."""
    drawn = [candidate(i, verdict(ANN, 4), verdict(HAIKU, 3), sampling_probability=0.5) for i in range(4)]
    rest = [candidate(4 + i, verdict(ANN, 5), verdict(HAIKU, 1)) for i in range(4)]
    (pair,) = report([*drawn, *rest]).pairs
    assert not pair.report.weighted
    assert pair.report.scales[0].bias.value == pytest.approx((4 * 1 + 4 * 4) / 8)


def test_a_label_that_no_audit_could_have_drawn_leaves_nothing_out() -> None:
    drawn = [candidate(i, verdict(ANN, 4), verdict(HAIKU, 3), sampling_probability=0.2 + 0.1 * i) for i in range(4)]
    (pair,) = report([*drawn, candidate(4, verdict(ANN, 5))]).pairs
    assert not pair.report.weighted, "the automatic judge has scored four, and all have a label"


def test_a_judge_that_is_always_asked_twice_is_not_weighed_by_an_audit() -> None:
    """The automatic judge is asked again before an audit draws; a person sees again some of what was drawn."""
    seen = [
        candidate(
            i, verdict(ANN, 4), verdict(HAIKU, 3), second_verdicts=(verdict(ANN, 5 - i % 2), verdict(HAIKU, 3)),
            sampling_probability=0.1 + 0.1 * i,
        )
        for i in range(6)
    ]  # fmt: skip
    seen.append(candidate(6, verdict(HAIKU, 3)))
    weighted = {p.report.a: p.report.weighted for p in report(seen).pairs if p.kind == "self"}
    assert weighted == {"human: ann": True, "auto: haiku": False}


def test_two_automatic_judges_are_not_weighed_by_an_audit() -> None:
    """The second has scored nine of ten; an audit drew one of those, where the two differ, for a person."""
    gpt = Judge(tier=Tier.AUTO, name="gpt")
    both = [candidate(i, verdict(HAIKU, 3), *([verdict(gpt, 5 if i == 0 else 3)] if i < 9 else [])) for i in range(10)]
    both[0] = replace(both[0], verdicts=(*both[0].verdicts, verdict(ANN, 3)), sampling_probability=0.1)
    of_both = next(p.report for p in report(both).pairs if (p.report.a, p.report.b) == ("auto: gpt", "auto: haiku"))
    assert not of_both.weighted
    assert of_both.scales[0].bias.value == pytest.approx(2 / 9)


def test_of_what_an_edit_superseded_nothing_is_compared(tmp_path: Path) -> None:
    """As on the leaderboard beside it, in a session and through the API."""
    old = [candidate(i, verdict(ANN, 1), verdict(HAIKU, 5), started_at=1) for i in range(4)]
    new = [replace(candidate(4 + i, verdict(ANN, 3), verdict(HAIKU, 3), started_at=2), cell="edited") for i in range(4)]
    (pair,) = Board.of((*old, *new), RUBRIC, "e", "tip", folder=tmp_path).agreement.pairs
    assert (pair.report.candidates, pair.report.scales[0].bias.value) == (4, 0.0)
    (group,) = Experiment(name="e", candidates=(*old, *new)).groups
    assert group.current == new


def test_tables_of_it_are_safe_to_read() -> None:
    odd = Judge(tier=Tier.HUMAN, name="eve\x1b[2J")
    found = report([candidate(i, verdict(odd, i % 5 + 1), verdict(HAIKU, 3)) for i in range(6)])
    tables = all_tables(BOARD, found)
    assert [t.title for t in tables] == [
        "Agreement of human: eve␛[2J and auto: haiku: scales",
        "Agreement of human: eve␛[2J and auto: haiku: flags",
    ]


def test_the_table_of_flags_has_the_automatic_judges_rates_against_a_persons() -> None:
    """Ann finds three of eight; the judge finds two of those, and one more."""
    truth, found_by_haiku = (1, 1, 1, 0, 0, 0, 0, 0), (1, 1, 0, 1, 0, 0, 0, 0)

    both = enumerate(zip(truth, found_by_haiku, strict=True))
    found = report([candidate(i, verdict(ANN, 3, bool(a)), verdict(HAIKU, 3, bool(b))) for i, (a, b) in both])
    flags = all_tables(BOARD, found)[1]
    assert flags.head[-2:] == ("TPR", "TNR")
    assert flags.note.endswith("true positive and true negative rate of auto: haiku, with human: ann as the reference.")
    assert [cell.split()[0] for cell in flags.rows[0][-2:]] == ["0.67", "0.80"]


def test_a_terminal_has_a_line_for_each_of_several_pairs_also_where_no_composite_is_common() -> None:
    def of(scores: tuple[Verdict, Verdict, Verdict]) -> list[tuple[str, ...]]:
        (table,) = terminal_tables(BOARD, report([candidate(i, *scores) for i in range(8)]))
        return [row[:2] for row in table.rows]

    names = ["human and auto", "human: ann and human: bob", "human: ann and auto: haiku", "human: bob and auto: haiku"]
    whole = (verdict(ANN, 4), verdict(BOB, 3), verdict(HAIKU, 3))
    assert of(whole) == [(name, "8") for name in names]
    ann, bob, haiku = (replace(v, scores={**v.scores, "relevance": None}) for v in whole)
    assert of((ann, bob, haiku)) == [(name, "0") for name in names]
