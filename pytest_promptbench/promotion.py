"""May a prompt become champion? Conditions that can each be met or not, with what would meet them.

The unit is the scenario: within it, repeats and then models are averaged, over the (model, scenario) cells that both
prompts have on one tier (:mod:`.scores`). A prompt is known by the hash of its content, so that an edited file does not
pass for the champion.
"""

from __future__ import annotations

import enum
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING, Any

from .errors import UsageError
from .records import LoggedCandidate, Record, Rubric, Tier
from .scores import SIT_DOWN, K, Table, automatic_judges, automatic_score, pair, sit_down_score, table, tier_scores

if TYPE_CHECKING:
    from .statistics import PairedComparison

PROMOTION_SCHEMA = "promptbench/promotion/1"
ALPHA = 0.05
DEFAULT_BOUNDS = {"cost": 2.0, "latency": 2.0}
"""How many times the champion's cost and latency a winner may have, where the user does not say."""


class Policy(enum.StrEnum):
    """Which tiers have to speak for the winner."""

    BOTH = "both"
    SIT_DOWN = "sit-down"
    AUTO = "auto"

    @property
    def deciding(self) -> tuple[Tier, ...]:
        """The tiers on which prompts are compared."""
        return (Tier.AUTO,) if self is Policy.AUTO else SIT_DOWN

    @property
    def tier(self) -> str:
        return "automatic" if self is Policy.AUTO else "sit-down"


@dataclass(frozen=True, kw_only=True)
class Condition(Record):
    """One thing that a promotion asks for. ``remedy`` says what would meet it, where it is not met."""

    name: str
    met: bool
    found: str
    remedy: str | None = None


@dataclass(frozen=True, kw_only=True)
class Promotion(Record):
    """Whether ``winner`` may follow ``champion`` (None: there is none yet), and the receipt of why.

    comparison: winner less champion on the deciding tier, as ``statistics.PairedComparison`` has it.
    """

    task: str
    experiment: str
    rubric: str
    rubric_sha256: str
    policy: Policy
    winner: str
    winner_sha256: str
    champion: str | None
    champion_sha256: str | None
    scores: Mapping[str, float | None] = field(default_factory=dict)
    conditions: tuple[Condition, ...] = ()
    comparison: Mapping[str, Any] | None = None

    @property
    def granted(self) -> bool:
        return all(c.met for c in self.conditions)

    @property
    def stays(self) -> bool:
        """Whether the best prompt is the champion already."""
        return self.winner_sha256 == self.champion_sha256


def parse_bound(text: str, *, option: str = "--bench-promote-within") -> tuple[str, float]:
    """``cost:1.5`` or ``latency:2x`` -> (name, factor of the champion's). UsageError, which names ``option``."""
    name, colon, value = text.partition(":")
    try:
        factor = float(value.removesuffix("x"))
    except ValueError:
        factor = math.nan
    if name not in DEFAULT_BOUNDS or not colon or not 0 < factor < math.inf:
        raise UsageError(
            f"{option} {text!r}: expected cost or latency, a colon, and how many times the champion's "
            "it may be, e.g. cost:1.5x"
        )
    return name, factor


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
    judged = {key: found for key, found in tables.items() if any(tier in found for tier in policy.deciding)}
    sound = {key: found for key, found in tables.items() if any(c.error is None for c in groups[key])}
    if not judged:
        how = "--judge-auto" if policy is Policy.AUTO else "--judge-export and --judge-apply"
        raise UsageError(
            f"--bench-promote {task}: nothing of {experiment} is scored by the {policy.tier} tier; see {how}"
        )
    reigning = next((key for key in groups if champion is not None and key[1] == champion[1]), None)
    winner = _best(judged, judged.get(reigning) if reigning else None, policy)
    mine = groups[winner]
    comparison = None
    if champion is None:
        scenarios = {scenario for tier in policy.deciding for _, scenario in tables[winner].get(tier, {})}
        conditions = [_enough(len(scenarios), "the first champion", 1), _ahead_of_rivals(sound, winner, policy)]
        if policy is not Policy.AUTO:
            conditions.append(_labels([(key[0], groups[key]) for key in judged], rubric))
        if policy is Policy.BOTH:
            conditions.append(_automatic_best(sound, winner))
        if policy is not Policy.SIT_DOWN:
            conditions.append(_one_judge(candidates))
        conditions.append(_none_failed(mine))
    elif winner[1] == champion[1]:
        conditions = [_ahead_of_rivals(sound, winner, policy)]
    else:
        theirs, their_table = (groups[reigning], tables[reigning]) if reigning else ([], {})
        rivals = sum(key[1] != champion[1] for key in judged)
        comparison = _compared(tables[winner], their_table, policy, rivals)
        conditions = _against(comparison, champion[0], experiment, policy, rivals)
        if policy is not Policy.AUTO:
            conditions.append(_labels([(winner[0], mine), (champion[0], theirs)], rubric))
        if policy is Policy.BOTH:
            conditions.append(_automatic_agrees(tables[winner], their_table))
        if policy is not Policy.SIT_DOWN:
            conditions.append(_one_judge([*mine, *theirs]))
        conditions += _no_worse(mine, theirs, {**DEFAULT_BOUNDS, **(bounds or {})})
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
            "composite": _mean(_by_scenario(_sit_down(mine, rubric)).values()),
            "auto_composite": _mean(_by_scenario(tables[winner].get(Tier.AUTO, {})).values()),
            "cost_usd": _mean([c.cost_usd for c in mine if c.cost_usd is not None]),
            "latency_s": _mean([c.latency_s for c in mine if c.latency_s is not None]),
        },
        conditions=tuple(conditions),
        comparison=None if comparison is None else comparison.to_json(),
    )


# -- scores

Cells = Table[tuple[str, str]]
"""tier -> (model, scenario) -> composite, repeats averaged."""


def _sit_down(candidates: Iterable[LoggedCandidate], rubric: Rubric) -> dict[tuple[str, str], float]:
    """(model, scenario) -> composite of the sit-down verdict that counts."""
    scored = ((c, sit_down_score(tier_scores(c, rubric))) for c in candidates)
    return _means(((c.model, c.scenario), score.value) for c, score in scored if score is not None)


def _by_scenario(cells: Mapping[tuple[str, str], float]) -> dict[str, float]:
    return _means((scenario, value) for (_, scenario), value in cells.items())


def _means(values: Iterable[tuple[K, float]]) -> dict[K, float]:
    found: dict[K, list[float]] = defaultdict(list)
    for key, value in values:
        found[key].append(value)
    return {key: math.fsum(v) / len(v) for key, v in found.items()}


def _common(a: Cells, b: Cells, tiers: Iterable[Tier]) -> tuple[dict[str, float], dict[str, float]]:
    both = pair(a, b, tiers)
    return _by_scenario(both.a), _by_scenario(both.b)


def _difference(a: Cells, b: Cells, tiers: Iterable[Tier]) -> tuple[float, int] | None:
    """Mean of a less b over their common scenarios, and how many these are; None without one."""
    mine, theirs = _common(a, b, tiers)
    return (math.fsum(mine[s] - theirs[s] for s in mine) / len(mine), len(mine)) if mine else None


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return math.fsum(found) / len(found) if found else None


def _best(judged: Mapping[tuple[str, str], Cells], champion: Cells | None, policy: Policy) -> tuple[str, str]:
    """The prompt that is furthest ahead of the champion; without one, ahead of most others. Ties go by name.

    Always in pairs: means over different scenarios would rank the easier ones. Of those that are ahead of the champion,
    the ones that share enough scenarios with it to show anything come first, whatever the lead of others.
    """
    rivals = sum(found is not champion for found in judged.values())

    def against(key: tuple[str, str], found: Cells) -> tuple[float, float, tuple[str, str]]:
        ahead, scenarios = _difference(judged[key], found, policy.deciding) or (-math.inf, 0)
        shown = 0 if scenarios >= _least(rivals) else 1
        return (shown if ahead > 0 else 2), -ahead, key

    if champion is not None:
        return min(judged, key=lambda key: against(key, champion))
    leads: dict[tuple[str, str], list[float]] = {key: [] for key in judged}
    for one, other in combinations(judged, 2):
        if (gap := _difference(judged[one], judged[other], policy.deciding)) is not None:
            leads[one].append(gap[0])
            leads[other].append(-gap[0])
    return min(judged, key=lambda key: (-sum((g > 0) - (g < 0) for g in leads[key]), -math.fsum(leads[key]), key))


def _compared(winner: Cells, champion: Cells, policy: Policy, rivals: int) -> PairedComparison:
    """With an interval that allows for the winner being the best of ``rivals`` (Bonferroni)."""
    from .statistics import compare

    return compare(*_common(winner, champion, policy.deciding), level=1 - ALPHA / max(1, rivals))


# -- conditions


def _against(c: PairedComparison, champion: str, experiment: str, policy: Policy, rivals: int) -> list[Condition]:
    """Enough common scenarios, and ahead on them by more than chance, which has one go for each of the rivals."""
    if not c.n or c.mean_difference is None or c.p_value is None:
        return [
            Condition(
                name="scenarios",
                met=False,
                found=f"the champion {champion} has no {policy.tier} score in {experiment} to compare with: no tier of "
                "judges has scored a cell of both",
                remedy=f"run the champion's own text (prompt {champion}) in this experiment, and have the same tier "
                "judge both",
            )
        ]
    from .statistics import detectable, p_text

    figures = f"{c.mean_difference:+.2f}"
    if c.ci:
        figures += f" [{c.ci[0]:+.2f}, {c.ci[1]:+.2f}]"
    p = min(1.0, c.p_value * rivals)
    figures += f", p {p_text(p)}" + (f" as the best of {rivals} rivals" if rivals > 1 else "")
    ahead = p <= ALPHA and c.ci is not None and c.ci[0] > 0
    return [
        _enough(c.n, f"the comparison with {champion}", rivals),
        Condition(
            name="ahead",
            met=ahead,
            found=f"{figures} points against {champion} on {c.n} scenarios, detectable: {detectable(c.mde, c.ci)}",
            remedy=None if ahead else _more(c, rivals),
        ),
    ]


def _least(rivals: int) -> int:
    """The fewest scenarios that can tell anything, where the winner is the best of ``rivals``."""
    from .statistics import fewest_pairs

    return fewest_pairs(ALPHA / max(1, rivals))


def _enough(n: int, what: str, rivals: int) -> Condition:
    least = _least(rivals)
    return Condition(
        name="scenarios",
        met=n >= least,
        found=f"{what} rests on {n} scenarios",
        remedy=None if n >= least else f"judge {least - n} more scenarios: {least} are the least that can tell",
    )


def _more(c: PairedComparison, rivals: int) -> str:
    """How many more labels a difference like this one would need, at the error rate that it is tested at."""
    if c.mean_difference is None or c.mean_difference <= 0:
        return "it is not ahead: more labels are not what it lacks"
    if c.mde is None:
        return f"judge more scenarios, {_least(rivals)} at the least"
    needed = math.ceil(c.n * (c.mde / c.mean_difference) ** 2)
    return f"if the difference is real, about {max(1, needed - c.n)} more scenarios would show it (80 % power)"


def _labels(sides: Iterable[tuple[str, Sequence[LoggedCandidate]]], rubric: Rubric) -> Condition:
    """Labels of a part that an audit picked do not stand for the rest, and so cannot be compared.

    Two sides may have one name: the champion's is that of its promotion, which another text may have by now.
    """
    open_: list[tuple[str, int]] = []
    for name, candidates in sides:
        scores = [tier_scores(c, rubric) for c in candidates]
        labels = [label for s in scores if (label := sit_down_score(s)) is not None]
        if any(label.probability is not None for label in labels):
            left = sum(sit_down_score(s) is None and automatic_score(s) is not None for s in scores)
            if left:
                open_.append((name, left))
    listed = " and ".join(f"{n} of {name}" for name, n in open_)
    return Condition(
        name="labels",
        met=not open_,
        found=f"an audit picked the labels, and candidates have none: {listed}"
        if open_
        else "none were left by an audit",
        remedy=f"judge the rest, {sum(n for _, n in open_)} candidates: pytest evals/ --judge-export packet.json"
        if open_
        else None,
    )


def _ahead_of_rivals(sound: Mapping[tuple[str, str], Cells], winner: tuple[str, str], policy: Policy) -> Condition:
    """The first champion, or one that is to stay, compares with every other prompt, and is behind none.

    ``sound``: the prompts with a candidate that did not fail, judged or not: one that nobody has judged may be better.
    """
    apart, behind = [], []
    for key, cells in sound.items():
        if key != winner:
            gap = _difference(sound[winner], cells, policy.deciding)
            if gap is None:
                apart.append(key[0])
            elif gap[0] < 0:
                behind.append(f"{key[0]} ({_points(gap)})")
    said = [f"it shares no scored scenario with {', '.join(apart)}"] if apart else []
    said += [f"it is behind {', '.join(behind)}"] if behind else []
    return Condition(
        name="rivals",
        met=not said,
        found="; ".join(said) or f"it is behind none of the other prompts ({len(sound) - 1}), pair by pair",
        remedy="have all prompts judged on the same scenarios, by the same tier" if said else None,
    )


def _automatic_agrees(mine: Cells, theirs: Cells) -> Condition:
    gap = _difference(mine, theirs, (Tier.AUTO,))
    if gap is None:
        return Condition(
            name="automatic",
            met=False,
            found="the automatic judge has scored no common scenario",
            remedy="pytest evals/ --judge-auto, or --bench-promote-policy sit-down",
        )
    difference, scenarios = gap
    return Condition(
        name="automatic",
        met=difference > 0,
        found=f"the automatic judge sees {difference:+.2f} points on {scenarios} scenarios",
        remedy=None if difference > 0 else "an audit (--judge-audit) shows which of the two tiers is wrong",
    )


def _automatic_best(sound: Mapping[tuple[str, str], Cells], winner: tuple[str, str]) -> Condition:
    own = _mean(_by_scenario(sound[winner].get(Tier.AUTO, {})).values())
    if own is None:
        return Condition(
            name="automatic",
            met=False,
            found="the automatic judge has not scored it",
            remedy="pytest evals/ --judge-auto, or --bench-promote-policy sit-down",
        )
    gaps = {key: _difference(cells, sound[winner], (Tier.AUTO,)) for key, cells in sound.items() if key != winner}
    better = [f"{key[0]} ({_points(gap)})" for key, gap in gaps.items() if gap and gap[0] > 0]
    apart = [key[0] for key, gap in gaps.items() if gap is None]
    remedies = ["an audit (--judge-audit) shows which of the two tiers is wrong"] if better else []
    remedies += ["have the same scenarios of all prompts judged: pytest evals/ --judge-auto"] if apart else []
    return Condition(
        name="automatic",
        met=not remedies,
        found=f"the automatic judge gives it {own:.2f}"
        + (f", and more to {', '.join(better)}" if better else "")
        + (f", and has scored no common scenario of {', '.join(apart)}" if apart else ""),
        remedy="; ".join(remedies) or None,
    )


def _one_judge(candidates: Iterable[LoggedCandidate]) -> Condition:
    """One automatic judge's scores against another's would be their strictness against each other's."""
    names = automatic_judges(candidates)
    several = len(names) > 1
    return Condition(
        name="judge",
        met=not several,
        found=f"{len(names)} automatic judges have scored a part each: {', '.join(names)}"
        if several
        else f"one automatic judge has scored them: {names[0]}"
        if names
        else "no automatic judge has scored them",
        remedy="have the suite's own score the rest: pytest evals/ --bench-read --judge-auto" if several else None,
    )


def _points(gap: tuple[float, int]) -> str:
    return f"{gap[0]:+.2f} on {gap[1]} scenarios"


def _none_failed(mine: Sequence[LoggedCandidate]) -> Condition:
    """The first champion has nobody whose failures its own could be held against."""
    failed = sum(c.error is not None for c in mine)
    return Condition(
        name="failures",
        met=not failed,
        found=f"{failed} of {len(mine)} generations failed",
        remedy="run the evals again until they do not" if failed else None,
    )


def _no_worse(
    mine: Sequence[LoggedCandidate], theirs: Sequence[LoggedCandidate], bounds: Mapping[str, float]
) -> list[Condition]:
    """Failures, cost and latency against the champion's, the latter two over the (model, scenario) cells of both.

    A figure that one side lacks cannot be held against it.
    """
    rates = [sum(c.error is not None for c in side) / len(side) if side else 0.0 for side in (mine, theirs)]
    found = [
        Condition(
            name="failures",
            met=rates[0] <= rates[1],
            found=f"{rates[0]:.0%} of its generations failed, {rates[1]:.0%} of the champion's",
            remedy=None if rates[0] <= rates[1] else "run the evals again: a cell that succeeds replaces its failure",
        )
    ]
    for name, attribute in (("cost", "cost_usd"), ("latency", "latency_s")):
        figures = [_figures(side, attribute) for side in (mine, theirs)]
        common = figures[0].keys() & figures[1].keys()
        if not common:
            found.append(Condition(name=name, met=True, found="not known for both"))
            continue
        own, other = (math.fsum(side[key] for key in sorted(common)) for side in figures)
        met = own <= bounds[name] * other
        if other > 0:
            said, remedy = f"{own / other:.2f} times the champion's", math.ceil(own / other * 10) / 10
            allow = f"allow more with --bench-promote-within {name}:{remedy:g}x"
        else:
            said = "nothing, as the champion's" if met else "more than nothing, which the champion's is"
            allow = "have both generated anew, so that both are counted alike"
        found.append(
            Condition(
                name=name,
                met=met,
                found=f"{said}, {bounds[name]:g} allowed, on {len(common)} common cells",
                remedy=None if met else allow,
            )
        )
    return found


def _figures(candidates: Iterable[LoggedCandidate], attribute: str) -> dict[tuple[str, str], float]:
    """(model, scenario) -> mean cost or latency, where it is known."""
    known = ((c, getattr(c, attribute)) for c in candidates if c.error is None)
    return _means(((c.model, c.scenario), value) for c, value in known if value is not None)
