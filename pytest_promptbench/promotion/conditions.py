"""The conditions, each with what was found and, where it is not met, with what would meet it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from ..records import LoggedCandidate, Rubric, Tier
from ..scores import automatic_judges, automatic_score, judges_in_words, sit_down_score, tier_scores
from ..statistics import above, detectable, p_text, signed
from .pairs import Cells, Key, by_scenario, difference, fewest, mean, means
from .receipt import ALPHA, Condition, Policy

if TYPE_CHECKING:
    from ..statistics import PairedComparison


def against_champion(
    c: PairedComparison, champion: str, experiment: str, policy: Policy, rivals: int
) -> list[Condition]:
    """Enough common scenarios, and ahead on them by more than chance, which has one go for each of the rivals."""
    if not c.n or c.mean_difference is None or c.p_value is None:
        return [
            Condition(
                name="scenarios",
                met=False,
                found=f"the champion {champion} has no {policy.tier} score in {experiment} to compare with: no tier of "
                "judges has scored a cell of both",
                remedy=f"run the champion's own text (prompt {champion}) in this experiment, from a file with the very "
                "messages that MLflow's prompt registry shows, and params where its tag promptbench.params has some; "
                "and have the same tier judge both",
            )
        ]
    interval = f" [{signed(c.ci[0])}, {signed(c.ci[1])}]" if c.ci else ""
    p = min(1.0, c.p_value * rivals)
    chance = f"p {p_text(p)}" + (f" as the best of {rivals} rivals" if rivals > 1 else "")
    ahead = p <= ALPHA and c.ci is not None and c.ci[0] > 0
    return [
        enough_scenarios(c.n, f"the comparison with {champion}", rivals),
        Condition(
            name="ahead",
            met=ahead,
            found=f"{signed(c.mean_difference)}{interval} points against {champion} on {_scenarios(c.n)}, {chance}, "
            f"detectable: {detectable(c.mde, c.ci)}",
            remedy=None if ahead else _more(c, rivals),
        ),
    ]


def enough_scenarios(n: int, what: str, rivals: int) -> Condition:
    least = fewest(rivals)
    return Condition(
        name="scenarios",
        met=n >= least,
        found=f"{what} rests on {_scenarios(n)}",
        remedy=None if n >= least else f"score {_scenarios(least - n, 'more ')}: {least} are the least that can tell",
    )


def _more(c: PairedComparison, rivals: int) -> str:
    """How many more labels a difference like this one would need, at the error rate that it is tested at."""
    if c.mean_difference is None or c.mean_difference <= 0:
        return "it is not ahead: more labels are not what it lacks"
    if c.mde is None:
        return f"score more scenarios, {fewest(rivals)} at the least"
    needed = math.ceil(c.n * (c.mde / c.mean_difference) ** 2)
    return f"if the difference is real, about {_scenarios(max(1, needed - c.n), 'more ')} would show it (80 % power)"


def whole_labels(sides: Iterable[tuple[str, Sequence[LoggedCandidate]]], rubric: Rubric) -> Condition:
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
    all_left = sum(n for _, n in open_)
    them = "1 candidate" if all_left == 1 else f"{all_left} candidates"
    return Condition(
        name="labels",
        met=not open_,
        found=f"an audit picked the labels, and candidates have none: {listed}"
        if open_
        else "none were left by an audit",
        remedy=f"judge the rest, {them}: pytest evals/ --judge-export packet.json" if open_ else None,
    )


def ahead_of_rivals(sound: Mapping[Key, Cells], winner: Key, policy: Policy) -> Condition:
    """The first champion, or one that is to stay, compares with every other prompt, and is behind none.

    ``sound``: the prompts with a candidate that did not fail, judged or not: one that nobody has judged may be better.
    """
    apart, behind = [], []
    for key, cells in sound.items():
        if key != winner:
            gap = difference(sound[winner], cells, policy.deciding)
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
        remedy="have all prompts scored on the same scenarios, by the same tier" if said else None,
    )


def automatic_agrees(mine: Cells, theirs: Cells) -> Condition:
    gap = difference(mine, theirs, (Tier.AUTO,))
    if gap is None:
        return _not_scored("the automatic judge has scored no common scenario")
    ahead, scenarios = gap
    return Condition(
        name="automatic",
        met=ahead > 0,
        found=f"the automatic judge sees {signed(ahead)} points on {_scenarios(scenarios)}",
        remedy=None if ahead > 0 else "an audit (--judge-audit) shows which of the two tiers is wrong",
    )


def automatic_best(sound: Mapping[Key, Cells], winner: Key) -> Condition:
    own = mean(by_scenario(sound[winner].get(Tier.AUTO, {})).values())
    if own is None:
        return _not_scored("the automatic judge has not scored it")
    gaps = {key: difference(cells, sound[winner], (Tier.AUTO,)) for key, cells in sound.items() if key != winner}
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


def _not_scored(found: str) -> Condition:
    remedy = "pytest evals/ --judge-auto, or --bench-promote-policy sit-down"
    return Condition(name="automatic", met=False, found=found, remedy=remedy)


def one_judge(candidates: Iterable[LoggedCandidate]) -> Condition:
    """One automatic judge's scores against another's would be their strictness against each other's."""
    names = automatic_judges(candidates)
    several = len(names) > 1
    return Condition(
        name="judge",
        met=not several,
        found=f"{len(names)} automatic judges have scored a part each: {judges_in_words(names)}"
        if several
        else f"one automatic judge has scored them: {names[0]}"
        if names
        else "no automatic judge has scored them",
        remedy="have the suite's own score the rest: pytest evals/ --bench-read --judge-auto" if several else None,
    )


def none_failed(mine: Sequence[LoggedCandidate]) -> Condition:
    """The first champion has nobody whose failures its own could be held against."""
    failed = sum(c.error is not None for c in mine)
    return Condition(
        name="failures",
        met=not failed,
        found=f"{failed} of {len(mine)} generations failed",
        remedy="run the evals again until they do not" if failed else None,
    )


def no_worse(
    mine: Sequence[LoggedCandidate], theirs: Sequence[LoggedCandidate], bounds: Mapping[str, float]
) -> list[Condition]:
    """Failures, cost and latency against the champion's, the latter two over the (model, scenario) cells of both.

    A figure that one side lacks cannot be held against it.
    """
    failed = [sum(c.error is not None for c in side) for side in (mine, theirs)]
    met = failed[0] * len(theirs) <= failed[1] * len(mine) if theirs else not failed[0]
    found = [
        Condition(
            name="failures",
            met=met,
            found=f"{failed[0]} of its {len(mine)} generations failed, {failed[1]} of the champion's {len(theirs)}",
            remedy=None if met else "run the evals again: a cell that succeeds replaces its failure",
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
            said = f"{above(own / other, bounds[name], digits=2)} times the champion's"
            remedy = math.ceil(own / other * 10) / 10
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
    return means(((c.model, c.scenario), value) for c, value in known if value is not None)


def _scenarios(n: int, more: str = "") -> str:
    return f"{n} {more}{'scenario' if n == 1 else 'scenarios'}"


def _points(gap: tuple[float, int]) -> str:
    return f"{signed(gap[0])} on {_scenarios(gap[1])}"
