"""Which prompt is the best, and whether it may become champion."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from ..errors import UsageError
from ..records import LoggedCandidate, Rubric, Tier
from ..scores import table, tier_scores
from .conditions import (
    against_champion,
    ahead_of_rivals,
    automatic_agrees,
    automatic_best,
    enough_scenarios,
    no_worse,
    none_failed,
    one_judge,
    whole_labels,
)
from .pairs import Cells, best, by_scenario, compared, mean, sit_down
from .receipt import DEFAULT_BOUNDS, Policy, Promotion


def decide(
    candidates: Sequence[LoggedCandidate],
    rubric: Rubric,
    *,
    task: str,
    experiment: str,
    champion: tuple[str, str] | None,
    policy: Policy = Policy.BOTH,
    bounds: Mapping[str, float] | None = None,
) -> Promotion:
    """Pick the winner among the prompts of ``candidates`` (those that a leaderboard counts), and weigh it.

    champion: (version, sha256 of its content) as registered. Raises UsageError where nothing is judged at all.
    """
    groups: dict[tuple[str, str], list[LoggedCandidate]] = defaultdict(list)
    for c in candidates:
        groups[c.prompt, c.prompt_sha256].append(c)
    tables = {
        key: table([(c, tier_scores(c, rubric)) for c in found], lambda c: (c.model, c.scenario))
        for key, found in groups.items()
    }
    reigning = _reigning(groups, tables, champion, policy)
    twins = {key for key in groups if champion is not None and key[1] == champion[1]} - {reigning}
    tables = {key: found for key, found in tables.items() if key not in twins}
    judged = {key: found for key, found in tables.items() if any(tier in found for tier in policy.deciding)}
    sound = {key: found for key, found in tables.items() if any(c.error is None for c in groups[key])}
    if not judged:
        how = "--judge-auto" if policy is Policy.AUTO else "--judge-export and --judge-apply"
        raise UsageError(
            f"--bench-promote {task}: nothing of {experiment} is scored by the {policy.tier} tier; see {how}"
        )
    winner = best(judged, judged.get(reigning) if reigning else None, policy)
    mine = groups[winner]
    comparison = None
    if champion is None:
        scenarios = {scenario for tier in policy.deciding for _, scenario in tables[winner].get(tier, {})}
        conditions = [enough_scenarios(len(scenarios), "the first champion", 1), ahead_of_rivals(sound, winner, policy)]
        if policy is not Policy.AUTO:
            conditions.append(whole_labels([(key[0], groups[key]) for key in judged], rubric))
        if policy is Policy.BOTH:
            conditions.append(automatic_best(sound, winner))
        if policy is not Policy.SIT_DOWN:
            conditions.append(one_judge(candidates))
        conditions.append(none_failed(mine))
    elif winner[1] == champion[1]:
        conditions = [ahead_of_rivals(sound, winner, policy)]
    else:
        theirs, their_table = (groups[reigning], tables[reigning]) if reigning else ([], {})
        rivals = sum(key[1] != champion[1] for key in judged)
        comparison = compared(tables[winner], their_table, policy, rivals)
        conditions = against_champion(comparison, champion[0], experiment, policy, rivals)
        if policy is not Policy.AUTO:
            conditions.append(whole_labels([(winner[0], mine), (champion[0], theirs)], rubric))
        if policy is Policy.BOTH:
            conditions.append(automatic_agrees(tables[winner], their_table))
        if policy is not Policy.SIT_DOWN:
            conditions.append(one_judge([*mine, *theirs]))
        conditions += no_worse(mine, theirs, {**DEFAULT_BOUNDS, **(bounds or {})})
    return Promotion(
        task=task,
        experiment=experiment,
        rubric=rubric.id,
        rubric_sha256=rubric.sha256,
        policy=policy,
        winner=winner[0],
        winner_sha256=winner[1],
        champion=champion[0] if champion else None,
        champion_sha256=champion[1] if champion else None,
        scores={
            "composite": mean(by_scenario(sit_down(mine, rubric)).values()),
            "auto_composite": mean(by_scenario(tables[winner].get(Tier.AUTO, {})).values()),
            "cost_usd": mean([c.cost_usd for c in mine if c.cost_usd is not None]),
            "latency_s": mean([c.latency_s for c in mine if c.latency_s is not None]),
        },
        conditions=tuple(conditions),
        comparison=None if comparison is None else comparison.to_json(),
    )


def _reigning(
    names: Iterable[tuple[str, str]],
    tables: Mapping[tuple[str, str], Cells],
    champion: tuple[str, str] | None,
    policy: Policy,
) -> tuple[str, str] | None:
    """Under which name the champion's text is compared: a file that was renamed has left it under two.

    That by which the deciding tiers have scored most cells; of equals the one that it was promoted by.
    """
    mine = [key for key in names if champion is not None and key[1] == champion[1]]
    scored = {key: sum(len(tables[key].get(tier, {})) for tier in policy.deciding) for key in mine}
    return max(mine, key=lambda key: (scored[key], key == champion), default=None)
