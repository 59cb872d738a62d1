"""Which prompt is the best, and whether it may become champion."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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
from .pairs import Cells, Key, best, by_scenario, compared, mean, sit_down
from .receipt import DEFAULT_BOUNDS, Condition, Policy, Promotion


def decide(
    candidates: Sequence[LoggedCandidate],
    rubric: Rubric,
    *,
    task: str,
    experiment: str,
    champion: Key | None,
    policy: Policy = Policy.BOTH,
    bounds: Mapping[str, float] | None = None,
) -> Promotion:
    """Pick the winner among the prompts of ``candidates`` (those that a leaderboard counts), and weigh it.

    champion: (version, sha256 of its content) as registered. Raises UsageError where nothing is judged at all.
    """
    field = _Field.of(candidates, rubric, champion, policy)
    judged = field.judged
    if not judged:
        how = "see --judge-auto" if policy is Policy.AUTO else "see --judge-export and --judge-apply"
        if not rubric.judged:  # programs fill all of it, as an automatic tier
            how = "run the evals" if policy is Policy.AUTO else "see --bench-promote-policy auto"
        raise UsageError(f"--bench-promote {task}: nothing of {experiment} is scored by the {policy.tier} tier; {how}")
    winner = best(judged, judged.get(field.reigning) if field.reigning else None, policy)
    comparison = None
    if champion is None:
        conditions = field.of_a_first_champion(winner)
    elif winner[1] == champion[1]:
        conditions = [ahead_of_rivals(field.sound, winner, policy)]
    else:
        rivals = sum(key[1] != champion[1] for key in judged)
        comparison = compared(field.tables[winner], field.cells_of_champion, policy, rivals)
        conditions = against_champion(comparison, champion[0], experiment, policy, rivals)
        conditions += field.of_a_successor(winner, champion[0], {**DEFAULT_BOUNDS, **(bounds or {})})
    mine = field.groups[winner]
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
            "auto_composite": mean(by_scenario(field.tables[winner].get(Tier.AUTO, {})).values()),
            "cost_usd": mean([c.cost_usd for c in mine if c.cost_usd is not None]),
            "latency_s": mean([c.latency_s for c in mine if c.latency_s is not None]),
        },
        conditions=tuple(conditions),
        comparison=None if comparison is None else comparison.to_json(),
    )


@dataclass(frozen=True, kw_only=True)
class _Field:
    """The prompts of a decision. ``groups`` holds the candidates of each, ``tables`` their scores.

    reigning: under which name the champion is compared; under others it is in no table.
    """

    rubric: Rubric
    policy: Policy
    groups: Mapping[Key, Sequence[LoggedCandidate]]
    tables: Mapping[Key, Cells]
    reigning: Key | None

    @classmethod
    def of(cls, candidates: Sequence[LoggedCandidate], rubric: Rubric, champion: Key | None, policy: Policy) -> _Field:
        groups: dict[Key, list[LoggedCandidate]] = defaultdict(list)
        for c in candidates:
            groups[c.prompt, c.prompt_sha256].append(c)
        tables = {
            key: table([(c, tier_scores(c, rubric)) for c in found], lambda c: (c.model, c.scenario))
            for key, found in groups.items()
        }
        names = [key for key in groups if champion is not None and key[1] == champion[1]]
        reigning = _reigning(names, tables, champion, policy)
        compared_once = {key: found for key, found in tables.items() if key == reigning or key not in names}
        return cls(rubric=rubric, policy=policy, groups=groups, tables=compared_once, reigning=reigning)

    @property
    def judged(self) -> dict[Key, Cells]:
        """Those that a deciding tier has scored."""
        return {key: found for key, found in self.tables.items() if any(t in found for t in self.policy.deciding)}

    @property
    def sound(self) -> dict[Key, Cells]:
        """Those that have generated anything."""
        return {key: found for key, found in self.tables.items() if any(c.error is None for c in self.groups[key])}

    @property
    def cells_of_champion(self) -> Cells:
        return self.tables[self.reigning] if self.reigning else {}

    def of_a_first_champion(self, winner: Key) -> list[Condition]:
        """What is asked of it where there is none yet."""
        policy, sound = self.policy, self.sound
        scenarios = {scenario for tier in policy.deciding for _, scenario in self.tables[winner].get(tier, {})}
        conditions = [enough_scenarios(len(scenarios), "the first champion", 1), ahead_of_rivals(sound, winner, policy)]
        if policy is not Policy.AUTO:
            conditions.append(whole_labels([(key[0], self.groups[key]) for key in self.judged], self.rubric))
        if policy is Policy.BOTH:
            conditions.append(automatic_best(sound, winner))
        if policy is not Policy.SIT_DOWN:
            conditions.append(one_judge([c for found in self.groups.values() for c in found]))
        return [*conditions, none_failed(self.groups[winner])]

    def of_a_successor(self, winner: Key, champion: str, bounds: Mapping[str, float]) -> list[Condition]:
        """What is asked of it beside being ahead of the champion, whose version is ``champion``."""
        policy, mine = self.policy, self.groups[winner]
        theirs = self.groups[self.reigning] if self.reigning else ()
        conditions = []
        if policy is not Policy.AUTO:
            conditions.append(whole_labels([(winner[0], mine), (champion, theirs)], self.rubric))
        if policy is Policy.BOTH:
            conditions.append(automatic_agrees(self.tables[winner], self.cells_of_champion))
        if policy is not Policy.SIT_DOWN:
            conditions.append(one_judge([*mine, *theirs]))
        return [*conditions, *no_worse(mine, theirs, bounds)]


def _reigning(names: Sequence[Key], tables: Mapping[Key, Cells], champion: Key | None, policy: Policy) -> Key | None:
    """Under which of its ``names`` the champion's text is compared: a file that was renamed has left it under two.

    That by which the deciding tiers have scored most cells; of equals the one that it was promoted by.
    """
    scored = {key: sum(len(tables[key].get(tier, {})) for tier in policy.deciding) for key in names}
    return max(names, key=lambda key: (scored[key], key == champion), default=None)
