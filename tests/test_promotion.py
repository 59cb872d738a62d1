"""When a prompt may become champion: pure rules."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from typing import Any

import pytest

from pytest_promptbench.errors import UsageError
from pytest_promptbench.promotion import Policy, Promotion, decide, parse_bound
from pytest_promptbench.records import Criterion, Judge, LoggedCandidate, Rubric, Tier, Verdict
from pytest_promptbench.statistics import mean_interval

RUBRIC = Rubric(
    id="r", text="t", sha256="rubric", criteria=(Criterion(name="score", type="scale", min=0, max=10, weight=1),)
)
EASY = [float(i % 3) for i in range(30)]


def candidate(prompt: str, number: int, *, person: float | None, auto: float | None = None, **details: Any):
    verdicts = [
        Verdict(scores={"score": score}, judge=Judge(tier=tier, name=tier.value), at="2026")
        for tier, score in ((Tier.HUMAN, person), (Tier.AUTO, auto))
        if score is not None
    ]
    given: dict[str, Any] = {
        "model": "m", "scenario": f"s{number}", "cost_usd": 0.01, "latency_s": 1.0, "prompt_sha256": f"sha-{prompt}",
    } | details  # fmt: skip
    return LoggedCandidate(
        run_id=f"{prompt}-{given['model']}-{number}", experiment="e", task="tip", prompt=prompt, cell="c",
        candidate=f"{prompt}{number}", rubric="r", rubric_sha256="rubric", pending=person is None,
        verdicts=tuple(verdicts), **given,
    )  # fmt: skip


def prompt(name: str, scores: list[float | None], *, auto: float | None = 0.0, **details: Any) -> list[LoggedCandidate]:
    """One model's candidates; the automatic judge gives what the person gave, plus ``auto``."""
    return [
        candidate(name, i, person=s, auto=None if auto is None or s is None else s + auto, **details)
        for i, s in enumerate(scores)
    ]


def decided(candidates: list[LoggedCandidate], champion: str | None = "v1", **options: Any) -> Promotion:
    named = (champion, f"sha-{champion}") if champion else None
    return decide(candidates, RUBRIC, task="tip", experiment="e", champion=named, **options)


def unmet(found: Promotion) -> dict[str, str]:
    return {c.name: f"{c.found}; {c.remedy}" for c in found.conditions if not c.met}


def better(by: float, n: int = 20) -> list[float | None]:
    return [EASY[i] + by + (0.1 if i % 2 else -0.1) for i in range(n)]


BASE = EASY[:20]


def test_a_prompt_that_is_ahead_on_both_tiers_is_promoted() -> None:
    found = decided([*prompt("v1", BASE), *prompt("v2", better(1.0))])
    assert (found.winner, found.granted, unmet(found)) == ("v2", True, {})
    names = ["scenarios", "ahead", "labels", "automatic", "judge", "failures", "cost", "latency"]
    assert [c.name for c in found.conditions] == names
    assert re.search(r" points against v1 on 20 scenarios, p < 0\.001, detectable: 0\.\d\d$", found.conditions[1].found)
    assert found.comparison is not None
    assert found.comparison["mean_difference"] == pytest.approx(1.0)


def test_noise_is_refused_and_told_how_many_labels_it_lacks() -> None:
    noisy = [EASY[i] + (2.0 if i % 2 else -1.8) for i in range(20)]
    found = decided([*prompt("v1", BASE), *prompt("v2", noisy)])
    assert set(unmet(found)) == {"ahead"}
    assert "more scenarios would show it (80 % power)" in unmet(found)["ahead"]
    needed = int(unmet(found)["ahead"].split("about ")[1].split()[0])
    assert 1000 < needed < 10_000  # (2.8 x 1.95 / 0.1)**2 is about 3,000


def test_too_few_scenarios_are_refused() -> None:
    found = decided([*prompt("v1", BASE[:4]), *prompt("v2", better(5.0, 4))])
    assert "score 2 more scenarios: 6 are the least that can tell" in unmet(found)["scenarios"]
    assert decided([*prompt("v1", BASE[:6]), *prompt("v2", better(5.0, 6))]).granted


def test_the_automatic_tier_has_to_agree_in_sign_unless_the_policy_says_otherwise() -> None:
    against = [*prompt("v1", BASE), *prompt("v2", better(1.0), auto=-3.0)]
    assert set(unmet(decided(against))) == {"automatic"}
    undecided = [*prompt("v1", BASE), *prompt("v2", better(1.0), auto=-1.0)]
    assert "sees 0.00 points on 20 scenarios; an audit (--judge-audit)" in unmet(decided(undecided))["automatic"]
    assert decided(against, policy=Policy.SIT_DOWN).granted
    by_auto = decided(against, policy=Policy.AUTO)
    assert by_auto.winner == "v1"
    assert by_auto.stays


@pytest.mark.parametrize("champion", ["v1", None])
def test_two_automatic_judges_promote_nothing_as_the_milder_one_would_win(champion: str | None) -> None:
    """The judge was changed, and the new one has come as far as one of the prompts."""
    milder = [
        replace(c, verdicts=tuple(replace(v, judge=Judge(tier=v.judge.tier, name="other")) for v in c.verdicts))
        for c in prompt("v2", better(1.0))
    ]
    found = decided([*prompt("v1", BASE), *milder], champion, policy=Policy.AUTO)
    assert (found.winner, set(unmet(found))) == ("v2", {"judge"})
    assert "2 automatic judges have scored a part each: auto, other; have the suite's own" in unmet(found)["judge"]
    assert decided([*prompt("v1", BASE), *prompt("v2", better(1.0))], champion, policy=Policy.AUTO).granted


def test_without_automatic_scores_it_says_how_to_get_them() -> None:
    found = decided([*prompt("v1", BASE, auto=None), *prompt("v2", better(1.0), auto=None)])
    assert "pytest evals/ --judge-auto, or --bench-promote-policy sit-down" in unmet(found)["automatic"]


WEIGHTED = replace(
    RUBRIC,
    criteria=tuple(
        Criterion(name=name, type="scale", min=1, max=5, weight=weight)
        for name, weight in (("a", 0.4), ("b", 0.3), ("c", 0.3))
    ),
)


def weighted(prompt: str, number: int, person: tuple[int, int, int], auto: tuple[int, int, int]) -> LoggedCandidate:
    verdicts = [
        Verdict(scores=dict(zip("abc", given, strict=True)), judge=Judge(tier=tier, name=tier.value), at="2026")
        for tier, given in ((Tier.HUMAN, person), (Tier.AUTO, auto))
    ]
    return replace(candidate(prompt, number, person=1.0), verdicts=tuple(verdicts))


@pytest.mark.parametrize("champion", ["v1", None])
def test_the_last_bit_of_a_sum_promotes_and_refuses_nothing(champion: str | None) -> None:
    """Of these weights (1, 2, 1) gives 1.3, and (1, 1, 2) a little less."""
    more, less = (1, 2, 1), (1, 1, 2)
    both = [weighted(name, i, given, given) for i in range(8) for name, given in (("v1", less), ("v2", more))]
    if champion is None:  # it is ahead for a person, and level for the automatic judge
        both = [
            weighted(name, i, (points,) * 3, given)
            for i in range(8)
            for name, points, given in (("v1", 3, less), ("v2", 2, more))
        ]
    named = None if champion is None else (champion, f"sha-{champion}")
    found = decide(both, WEIGHTED, task="tip", experiment="e", champion=named)
    assert (found.winner, unmet(found)) == ("v1", {})


def test_more_failures_are_refused() -> None:
    failed = candidate("v2", 21, person=None, error="timeout")
    found = decided([*prompt("v1", BASE), *prompt("v2", better(1.0)), failed])
    assert unmet(found)["failures"].startswith("1 of its 21 generations failed, 0 of the champion's 20")


@pytest.mark.parametrize(
    ("details", "name", "remedy"),
    [
        ({"cost_usd": 0.025}, "cost", "--bench-promote-within cost:2.5x"),
        ({"latency_s": 2.01}, "latency", "--bench-promote-within latency:2.1x"),
        ({"latency_s": 2.001}, "latency", "2.001 times the champion's, 2 allowed"),
    ],
)
def test_cost_and_latency_stay_within_their_bounds(details: dict[str, float], name: str, remedy: str) -> None:
    candidates = [*prompt("v1", BASE), *prompt("v2", better(1.0), **details)]
    assert remedy in unmet(decided(candidates))[name]
    assert decided(candidates, bounds={name: 3.0}).granted


def test_failures_are_compared_as_shares() -> None:
    def with_failures(mine: int, theirs: int) -> dict[str, str]:
        failed = [candidate("v2", 100 + i, person=None, error="timeout") for i in range(mine)]
        failed += [candidate("v1", 100 + i, person=None, error="timeout") for i in range(theirs)]
        return unmet(decided([*prompt("v1", BASE[:10]), *prompt("v2", better(1.0)), *failed]))

    assert with_failures(4, 2) == {}  # 4 of 24, 2 of 12
    assert with_failures(5, 2)["failures"].startswith("5 of its 25 generations failed, 2 of the champion's 12")


def test_a_lead_whose_interval_reaches_zero_is_refused_whatever_its_p() -> None:
    lead = [-3.0, -2.0, 6.0, 6.0, 4.0, 6.0, 6.0, 5.0]
    found = decided([*prompt("v1", [3.0] * 8), *prompt("v2", [3.0 + x for x in lead])])
    assert re.match(
        r"\+3\.50 \[-0\.75, \+5\.75\] points against v1 on 8 scenarios, p = 0\.047, ", unmet(found)["ahead"]
    )


def test_an_unknown_price_is_not_held_against_a_prompt() -> None:
    assert decided([*prompt("v1", BASE), *prompt("v2", better(1.0), cost_usd=None)]).granted


def test_the_best_champion_stays() -> None:
    found = decided([*prompt("v1", better(1.0)), *prompt("v2", BASE)])
    assert (found.winner, found.stays, found.granted) == ("v1", True, True)
    unjudged = decided([*prompt("v1", better(1.0)), *prompt("v2", BASE), *prompt("v3", [None] * 20)])
    assert unjudged.stays
    assert set(unmet(unjudged)) == {"rivals"}, "v3 may be better"


@pytest.mark.parametrize("champion", ["v1", "v2"])
def test_a_champion_that_is_level_with_another_prompt_stays_whatever_it_is_called(champion: str) -> None:
    found = decided([*prompt("v1", BASE), *prompt("v2", BASE)], champion)
    assert (found.winner, found.stays, unmet(found)) == (champion, True, {})


def test_an_edited_champion_is_not_the_champion() -> None:
    edited = prompt("v1", BASE, prompt_sha256="sha-other")
    found = decided([*edited, *prompt("v2", better(1.0))])
    assert "the champion v1 has no sit-down score in e" in unmet(found)["scenarios"]


@pytest.mark.parametrize(
    "twin", [prompt("old", [None] * 20), prompt("old", better(2.0, 10)), prompt("w", better(2.0, 10))]
)
def test_a_champion_under_two_names_is_compared_under_the_one_that_is_scored_most(twin: list[LoggedCandidate]) -> None:
    """Its file was renamed after a run that failed, or that was judged in part."""
    twin = [replace(c, prompt_sha256="sha-v1", error="failed" if c.pending else None) for c in twin]
    found = decided([*twin, *prompt("v1", BASE), *prompt("v2", better(1.0))])
    assert found.granted, unmet(found)
    assert (found.winner, found.champion) == ("v2", "v1")
    assert found.comparison is not None
    assert found.comparison["n"] == 20
    assert "0 of the champion's" in next(c.found for c in found.conditions if c.name == "failures")


@pytest.mark.parametrize(("promoted_as", "scored", "ahead"), [("v1", 20, 1.0), ("w", 20, 0.5), ("w", 19, 1.0)])
def test_of_two_names_that_are_scored_alike_it_is_the_one_that_was_promoted(
    promoted_as: str, scored: int, ahead: float
) -> None:
    twin = [replace(c, prompt_sha256="sha-v1") for c in prompt("w", better(0.5, scored))]
    found = decide(
        [*twin, *prompt("v1", BASE), *prompt("v2", better(1.0))],
        RUBRIC, task="tip", experiment="e", champion=(promoted_as, "sha-v1"),
    )  # fmt: skip
    assert found.comparison is not None
    assert found.comparison["mean_difference"] == pytest.approx(ahead)


def test_only_common_cells_are_compared() -> None:
    """v2 looks better because it alone ran on the strong model."""
    strong = prompt("v2", [s + 5 for s in BASE], model="strong")
    found = decided([*prompt("v1", BASE), *prompt("v2", BASE), *strong])
    assert (found.winner, found.stays) == ("v1", True)


def test_the_first_champion_is_the_best_with_enough_scenarios() -> None:
    assert decided([*prompt("v1", BASE), *prompt("v2", better(1.0))], champion=None).granted
    few = decided(prompt("v1", BASE[:3]), champion=None)
    assert "score 3 more scenarios" in unmet(few)["scenarios"]
    automatic_alone = [candidate("v1", i, person=5.0 if i < 3 else None, auto=5.0) for i in range(20)]
    assert "rests on 3 scenarios" in unmet(decided(automatic_alone, champion=None))["scenarios"]
    failed = replace(candidate("v1", 20, person=None), error="Timeout", pending=False)
    assert unmet(decided([*prompt("v1", BASE), failed], champion=None)) == {
        "failures": "1 of 21 generations failed; run the evals again until they do not"
    }
    doubted = decided([*prompt("v1", BASE), *prompt("v2", better(1.0), auto=-3)], champion=None)
    assert "and more to v1 (+2.00 on 20 scenarios)" in unmet(doubted)["automatic"]


def test_a_first_champion_has_no_rival_that_nobody_has_judged() -> None:
    unjudged = prompt("v3", [None] * 20)
    both = [*prompt("v1", BASE), *prompt("v2", better(1.0))]
    found = decided([*both, *unjudged], champion=None)
    assert "it shares no scored scenario with v3; have all prompts scored" in unmet(found)["rivals"]
    assert "and has scored no common scenario of v3; have the same" in unmet(found)["automatic"]
    by_people = [*both, *prompt("v3", BASE, auto=None)]
    assert set(unmet(decided(by_people, champion=None))) == {"automatic"}
    assert decided(by_people, champion=None, policy=Policy.SIT_DOWN).granted
    failed = [replace(c, error="Timeout", pending=False) for c in unjudged]
    assert decided([*both, *failed], champion=None).granted, "what nothing came of is no rival"


def test_a_rival_that_is_hardly_judged_does_not_stand_before_one_that_is() -> None:
    lucky = prompt("v3", [9.0])
    found = decided([*prompt("v1", BASE), *prompt("v2", better(1.0)), *lucky])
    assert (found.winner, found.granted) == ("v2", True)
    alone = decided([*prompt("v1", BASE), *lucky])
    assert alone.winner == "v3"
    assert "score 5 more scenarios" in unmet(alone)["scenarios"]


def test_prices_are_compared_where_both_prompts_ran() -> None:
    """The champion also ran on a dear model; on the one that both have, the winner costs five times as much."""
    dear = prompt("v1", BASE, model="dear", cost_usd=1.0)
    candidates = [*prompt("v1", BASE), *dear, *prompt("v2", better(1.0), cost_usd=0.05)]
    assert "5.00 times the champion's, 2 allowed, on 20 common cells" in unmet(decided(candidates))["cost"]
    free = [*prompt("v1", BASE, cost_usd=0.0), *prompt("v2", better(1.0), cost_usd=0.05)]
    assert "more than nothing, which the champion's is" in unmet(decided(free))["cost"]
    assert decided([replace(c, cost_usd=0.0) for c in free]).granted


def by(tier: Tier, candidates: list[LoggedCandidate]) -> list[LoggedCandidate]:
    """The same candidates, judged at the desk by another tier."""

    def moved(v: Verdict) -> Verdict:
        return v if v.judge.tier is Tier.AUTO else replace(v, judge=Judge(tier=tier, name=tier.value))

    return [replace(c, verdicts=tuple(moved(v) for v in c.verdicts)) for c in candidates]


def test_a_winner_of_another_tier_than_the_champions_is_refused() -> None:
    """Claude Code is a point kinder than the person: that is no gain."""
    found = decided([*prompt("v1", BASE), *by(Tier.CLAUDE_CODE, prompt("v2", better(1.0)))])
    assert (found.winner, found.stays) == ("v1", True)
    assert "it shares no scored scenario with v2" in unmet(found)["rivals"]
    elsewhere = decided(by(Tier.CLAUDE_CODE, prompt("v2", better(1.0))))
    assert "no tier of judges has scored a cell of both" in unmet(elsewhere)["scenarios"]
    assert decided([*prompt("v1", BASE), *by(Tier.CLAUDE_CODE, prompt("v2", better(1.0)))], policy=Policy.AUTO).granted


def test_labels_that_an_audit_picked_of_a_part_are_refused_until_the_rest_is_judged() -> None:
    def audited(name: str, scores: list[float | None], labelled: int) -> list[LoggedCandidate]:
        return [
            replace(c, verdicts=c.verdicts if i < labelled else c.verdicts[1:], sampling_probability=0.5)
            for i, c in enumerate(prompt(name, scores))
        ]

    found = decided([*audited("v1", BASE, 20), *audited("v2", better(1.0), 14)])
    assert set(unmet(found)) == {"labels"}
    assert "an audit picked the labels, and candidates have none: 6 of v2" in unmet(found)["labels"]
    assert "judge the rest, 6 candidates: pytest evals/ --judge-export packet.json" in unmet(found)["labels"]
    assert decided([*audited("v1", BASE, 20), *audited("v2", better(1.0), 20)]).granted
    assert "6 of v1" in unmet(decided([*audited("v1", BASE, 14), *audited("v2", better(1.0), 20)]))["labels"]
    first = decided([*audited("v1", BASE, 20), *audited("v2", better(1.0), 14)], champion=None)
    assert set(unmet(first)) == {"labels"}
    for champion in ("v1", None):
        by_judge = decided([*audited("v1", BASE, 20), *audited("v2", better(1.0), 14)], champion, policy=Policy.AUTO)
        assert by_judge.granted, "no label decides"
    # The champion's text was v2 when it was promoted; its file is v1 now, and v2 is another text.
    renamed = [*audited("v1", BASE, 20), *audited("v2", better(1.0), 14)]
    found = decide(renamed, RUBRIC, task="tip", experiment="e", champion=("v2", "sha-v1"))
    assert set(unmet(found)) == {"labels"}
    assert "6 of v2" in unmet(found)["labels"]


def test_the_first_champion_is_picked_in_pairs_and_not_by_means_of_other_scenarios() -> None:
    """v1 was judged on easy scenarios beside those that both have, and there v2 is better."""
    easy = [candidate("v1", 100 + i, person=10.0, auto=10.0) for i in range(20)]
    found = decided([*prompt("v1", BASE), *easy, *prompt("v2", better(1.0))], champion=None)
    assert (found.winner, found.granted) == ("v2", True)
    apart = [candidate("v3", 200 + i, person=9.0, auto=9.0) for i in range(10)]
    unclear = decided([*prompt("v1", BASE), *prompt("v2", better(1.0)), *apart], champion=None)
    assert "it shares no scored scenario with v3" in unmet(unclear)["rivals"]
    assert "have all prompts scored on the same scenarios" in unmet(unclear)["rivals"]


def test_several_rivals_are_corrected_for_in_what_is_said_too() -> None:
    noisy = [EASY[i] + (2.4 if i % 2 else -1.2) for i in range(12)]
    others = [*prompt("v3", BASE[:12]), *prompt("v4", BASE[:12])]
    one = decided([*prompt("v1", BASE[:12]), *prompt("v2", noisy)])
    three = decided([*prompt("v1", BASE[:12]), *prompt("v2", noisy), *others])
    assert one.comparison is not None
    assert three.comparison is not None
    assert f"p = {min(1.0, 3 * three.comparison['p_value']):.3f} as the best of 3 rivals" in unmet(three)["ahead"]
    gaps = [a - b for a, b in zip(noisy, BASE[:12], strict=True)]
    assert three.comparison["ci"] == pytest.approx(mean_interval(gaps, level=1 - 0.05 / 3))

    def asked(found: Promotion) -> int:
        return int(unmet(found)["ahead"].split("about ")[1].split()[0])

    assert asked(three) > asked(one), "each of three rivals is tested at a third of the error rate"
    few = decided(
        [*prompt("v1", BASE[:6]), *prompt("v2", better(3.0, 6)), *prompt("v3", BASE[:6]), *prompt("v4", BASE)]
    )
    assert "score 1 more scenario: 7 are the least" in unmet(few)["scenarios"]
    assert "detectable: none: too few pairs" in unmet(few)["ahead"]


def test_nothing_judged_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match=r"nothing of e is scored by the sit-down tier; see --judge-export"):
        decided(prompt("v1", [None] * 5))
    right = Criterion(name="right", type="flag", bad=False, penalty=1, check={"equals_var": "label"})
    programs = replace(RUBRIC, criteria=(right,))
    for policy, remedy in ((Policy.AUTO, "run the evals"), (Policy.BOTH, "see --bench-promote-policy auto")):
        with pytest.raises(UsageError, match=rf"nothing of e is scored by the .* tier; {remedy}$"):
            decide([], programs, task="tip", experiment="e", champion=None, policy=policy)


@pytest.mark.parametrize(
    ("text", "value"), [("cost:1.5", ("cost", 1.5)), ("latency:2x", ("latency", 2.0)), ("cost:0.5x", ("cost", 0.5))]
)
def test_bounds(text: str, value: tuple[str, float]) -> None:
    assert parse_bound(text) == value


@pytest.mark.parametrize("text", ["cost", "cost:", "price:2x", "cost:-1", "cost:nan", "cost:inf", "latency:2s"])
def test_a_wrong_bound_is_named(text: str) -> None:
    with pytest.raises(UsageError, match=r"expected cost or latency, a colon, and how many times"):
        parse_bound(text)


def test_false_promotions_stay_below_their_level() -> None:
    """Five prompts of the same quality, 300 times: the luckiest is promoted in at most 5 %."""
    promoted = 0
    for seed in range(300):
        rng = random.Random(seed)
        drawn = [[float(round(rng.gauss(5, 1.5))) for _ in range(14)] for _ in range(5)]
        found = decided([c for i, d in enumerate(drawn, 1) for c in prompt(f"v{i}", d)], policy=Policy.SIT_DOWN)
        promoted += found.granted and not found.stays
    assert promoted <= 15
