"""When a prompt may become champion: pure rules."""

from __future__ import annotations

import random
from typing import Any

import pytest

from pytest_promptbench.errors import UsageError
from pytest_promptbench.promotion import Policy, Promotion, decide, parse_bound
from pytest_promptbench.records import Criterion, Judge, LoggedCandidate, Rubric, Tier, Verdict

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
    assert [c.name for c in found.conditions] == ["scenarios", "ahead", "automatic", "failures", "cost", "latency"]
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
    assert "judge 2 more scenarios: 6 are the least that can tell" in unmet(found)["scenarios"]


def test_the_automatic_tier_has_to_agree_in_sign_unless_the_policy_says_otherwise() -> None:
    against = [*prompt("v1", BASE), *prompt("v2", better(1.0), auto=-3.0)]
    assert set(unmet(decided(against))) == {"automatic"}
    assert decided(against, policy=Policy.SIT_DOWN).granted
    by_auto = decided(against, policy=Policy.AUTO)
    assert by_auto.winner == "v1"
    assert by_auto.stays


def test_without_automatic_scores_it_says_how_to_get_them() -> None:
    found = decided([*prompt("v1", BASE, auto=None), *prompt("v2", better(1.0), auto=None)])
    assert "pytest evals/ --judge-auto, or --bench-promote-policy sit-down" in unmet(found)["automatic"]


def test_more_failures_are_refused() -> None:
    failed = candidate("v2", 21, person=None, error="timeout")
    found = decided([*prompt("v1", BASE), *prompt("v2", better(1.0)), failed])
    assert unmet(found)["failures"].startswith("5% of its generations failed, 0% of the champion's")


@pytest.mark.parametrize(
    ("details", "name", "remedy"),
    [
        ({"cost_usd": 0.025}, "cost", "--bench-promote-within cost:2.5x"),
        ({"latency_s": 2.01}, "latency", "--bench-promote-within latency:2.1x"),
    ],
)
def test_cost_and_latency_stay_within_their_bounds(details: dict[str, float], name: str, remedy: str) -> None:
    candidates = [*prompt("v1", BASE), *prompt("v2", better(1.0), **details)]
    assert remedy in unmet(decided(candidates))[name]
    assert decided(candidates, bounds={name: 3.0}).granted


def test_an_unknown_price_is_not_held_against_a_prompt() -> None:
    assert decided([*prompt("v1", BASE), *prompt("v2", better(1.0), cost_usd=None)]).granted


def test_the_best_champion_stays() -> None:
    found = decided([*prompt("v1", better(1.0)), *prompt("v2", BASE)])
    assert (found.winner, found.stays) == ("v1", True)


def test_an_edited_champion_is_not_the_champion() -> None:
    edited = prompt("v1", BASE, prompt_sha256="sha-other")
    found = decided([*edited, *prompt("v2", better(1.0))])
    assert "the champion v1 has no sit-down score in e" in unmet(found)["scenarios"]


def test_only_common_cells_are_compared() -> None:
    """v2 looks better because it alone ran on the strong model."""
    strong = prompt("v2", [s + 5 for s in BASE], model="strong")
    found = decided([*prompt("v1", BASE), *prompt("v2", BASE), *strong])
    assert (found.winner, found.stays) == ("v1", True)


def test_the_first_champion_is_the_best_with_enough_scenarios() -> None:
    assert decided([*prompt("v1", BASE), *prompt("v2", better(1.0))], champion=None).granted
    few = decided(prompt("v1", BASE[:3]), champion=None)
    assert "judge 3 more scenarios" in unmet(few)["scenarios"]
    doubted = decided([*prompt("v1", BASE), *prompt("v2", better(1.0), auto=-3)], champion=None)
    assert "and more to v1 (0.95)" in unmet(doubted)["automatic"]


def test_nothing_judged_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match=r"nothing of e is scored by the sit-down tier; see --judge-export"):
        decided(prompt("v1", [None] * 5))


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
