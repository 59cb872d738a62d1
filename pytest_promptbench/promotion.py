"""May a prompt become champion? Conditions that can each be met or not, with what would meet them.

The unit is the scenario: within it, repeats and then models are averaged, over the (model, scenario) cells that both
prompts have. A prompt is known by the hash of its content, so that an edited file does not pass for the champion.
"""

from __future__ import annotations

import enum
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .errors import UsageError
from .records import LoggedCandidate, Record, Rubric, Verdict, composite

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
    deciding = _automatic if policy is Policy.AUTO else _sit_down
    tables = {key: _table(found, rubric, deciding) for key, found in groups.items()}
    judged = {key: table for key, table in tables.items() if table}
    if not judged:
        how = "--judge-auto" if policy is Policy.AUTO else "--judge-export and --judge-apply"
        raise UsageError(
            f"--bench-promote {task}: nothing of {experiment} is scored by the {_tier(policy)} tier; see {how}"
        )
    reigning = next((key for key in groups if champion is not None and key[1] == champion[1]), None)
    winner = _best(judged, judged.get(reigning) if reigning else None)
    mine = groups[winner]
    conditions: list[Condition] = []
    comparison = None
    if champion is not None and winner[1] != champion[1]:
        theirs = groups.get(reigning, []) if reigning else []
        rivals = sum(key[1] != champion[1] for key in judged)
        comparison = _compared(tables[winner], tables.get(reigning, {}) if reigning else {}, rivals)
        conditions += _against(comparison, champion[0], experiment, policy, rivals)
        if policy is Policy.BOTH:
            conditions.append(_automatic_agrees(mine, theirs, rubric))
        conditions += _no_worse(mine, theirs, {**DEFAULT_BOUNDS, **(bounds or {})})
    elif champion is None:
        conditions.append(_enough(len({s for _, s in tables[winner]}), "the first champion"))
        if policy is Policy.BOTH:
            conditions.append(_automatic_best(groups, winner, rubric))
        failed = sum(c.error is not None for c in mine)
        conditions.append(
            Condition(
                name="failures",
                met=not failed,
                found=f"{failed} of {len(mine)} generations failed",
                remedy="run the evals again until they do not" if failed else None,
            )
        )
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
            "composite": _mean(_by_scenario(_table(mine, rubric, _sit_down)).values()),
            "auto_composite": _mean(_by_scenario(_table(mine, rubric, _automatic)).values()),
            "cost_usd": _mean([c.cost_usd for c in mine if c.cost_usd is not None]),
            "latency_s": _mean([c.latency_s for c in mine if c.latency_s is not None]),
        },
        conditions=tuple(conditions),
        comparison=None if comparison is None else comparison.to_json(),
    )


# -- scores

Cells = Mapping[tuple[str, str], float]
"""(model, scenario) -> composite, repeats averaged."""


def _sit_down(candidate: LoggedCandidate) -> Verdict | None:
    return candidate.sit_down()


def _automatic(candidate: LoggedCandidate) -> Verdict | None:
    return candidate.automatic()


def _tier(policy: Policy) -> str:
    return "automatic" if policy is Policy.AUTO else "sit-down"


def _table(
    candidates: Iterable[LoggedCandidate], rubric: Rubric, of: Callable[[LoggedCandidate], Verdict | None]
) -> Cells:
    values: dict[tuple[str, str], list[float]] = defaultdict(list)
    for c in candidates:
        verdict = of(c) if c.error is None else None
        score = None if verdict is None else composite({**verdict.scores, **c.checks}, rubric)
        if score is not None:
            values[c.model, c.scenario].append(score)
    return {key: math.fsum(v) / len(v) for key, v in values.items()}


def _by_scenario(cells: Cells) -> dict[str, float]:
    values: dict[str, list[float]] = defaultdict(list)
    for (_, scenario), value in cells.items():
        values[scenario].append(value)
    return {s: math.fsum(v) / len(v) for s, v in values.items()}


def _common(a: Cells, b: Cells) -> tuple[dict[str, float], dict[str, float]]:
    both = a.keys() & b.keys()
    return _by_scenario({k: a[k] for k in both}), _by_scenario({k: b[k] for k in both})


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return math.fsum(found) / len(found) if found else None


def _best(judged: Mapping[tuple[str, str], Cells], champion: Cells | None) -> tuple[str, str]:
    """The prompt that is furthest ahead of the champion; without one, the best mean. Ties go by name."""

    def ahead(key: tuple[str, str]) -> float:
        if champion:
            mine, theirs = _common(judged[key], champion)
            return (_mean(mine.values()) or 0.0) - (_mean(theirs.values()) or 0.0) if mine else -math.inf
        return _mean(_by_scenario(judged[key]).values()) or 0.0

    return min(judged, key=lambda key: (-ahead(key), key))


def _compared(winner: Cells, champion: Cells, rivals: int) -> PairedComparison:
    """With an interval that allows for the winner being the best of ``rivals`` (Bonferroni)."""
    from .statistics import compare

    return compare(*_common(winner, champion), level=1 - ALPHA / max(1, rivals))


# -- conditions


def _against(c: PairedComparison, champion: str, experiment: str, policy: Policy, rivals: int) -> list[Condition]:
    """Enough common scenarios, and ahead on them by more than chance, which has one go for each of the rivals."""
    if not c.n or c.mean_difference is None:
        return [
            Condition(
                name="scenarios",
                met=False,
                found=f"the champion {champion} has no {_tier(policy)} score in {experiment} to compare with",
                remedy=f"run and judge the champion's own text (prompt {champion}) in this experiment",
            )
        ]
    figures = f"{c.mean_difference:+.2f}"
    if c.ci:
        figures += f" [{c.ci[0]:+.2f}, {c.ci[1]:+.2f}]"
    if c.p_value is not None:
        figures += f", p = {c.p_value:.3f}" + (f" as the best of {rivals} rivals" if rivals > 1 else "")
    ahead = c.p_value is not None and c.p_value * rivals <= ALPHA and c.ci is not None and c.ci[0] > 0
    return [
        _enough(c.n, f"the comparison with {champion}"),
        Condition(
            name="ahead",
            met=ahead,
            found=f"{figures} points against {champion} on {c.n} scenarios",
            remedy=None if ahead else _more(c),
        ),
    ]


def _enough(n: int, what: str) -> Condition:
    from .statistics import fewest_pairs

    least = fewest_pairs(ALPHA)
    return Condition(
        name="scenarios",
        met=n >= least,
        found=f"{what} rests on {n} scenarios",
        remedy=None if n >= least else f"judge {least - n} more scenarios: {least} are the least that can tell",
    )


def _more(c: PairedComparison) -> str:
    """How many more labels a difference like this one would need."""
    if c.mean_difference is None or c.mean_difference <= 0:
        return "it is not ahead: more labels are not what it lacks"
    if c.mde is None:
        return "judge more scenarios"
    needed = math.ceil(c.n * (c.mde / c.mean_difference) ** 2)
    return f"if the difference is real, about {max(1, needed - c.n)} more scenarios would show it (80 % power)"


def _automatic_agrees(mine: Sequence[LoggedCandidate], theirs: Sequence[LoggedCandidate], rubric: Rubric) -> Condition:
    a, b = _common(_table(mine, rubric, _automatic), _table(theirs, rubric, _automatic))
    if not a:
        return Condition(
            name="automatic",
            met=False,
            found="the automatic judge has scored no common scenario",
            remedy="pytest evals/ --judge-auto, or --bench-promote-policy sit-down",
        )
    difference = (_mean(a.values()) or 0.0) - (_mean(b.values()) or 0.0)
    return Condition(
        name="automatic",
        met=difference > 0,
        found=f"the automatic judge sees {difference:+.2f} points on {len(a)} scenarios",
        remedy=None if difference > 0 else "an audit (--judge-audit) shows which of the two tiers is wrong",
    )


def _automatic_best(
    groups: Mapping[tuple[str, str], Sequence[LoggedCandidate]], winner: tuple[str, str], rubric: Rubric
) -> Condition:
    means = {key: _mean(_by_scenario(_table(found, rubric, _automatic)).values()) for key, found in groups.items()}
    own = means[winner]
    if own is None:
        return Condition(
            name="automatic",
            met=False,
            found="the automatic judge has not scored it",
            remedy="pytest evals/ --judge-auto, or --bench-promote-policy sit-down",
        )
    better = [f"{key[0]} ({mean:.2f})" for key, mean in means.items() if mean is not None and mean > own]
    return Condition(
        name="automatic",
        met=not better,
        found=f"the automatic judge gives it {own:.2f}" + (f", and more to {', '.join(better)}" if better else ""),
        remedy="an audit (--judge-audit) shows which of the two tiers is wrong" if better else None,
    )


def _no_worse(
    mine: Sequence[LoggedCandidate], theirs: Sequence[LoggedCandidate], bounds: Mapping[str, float]
) -> list[Condition]:
    """Failures, cost and latency against the champion's; a figure that one side lacks cannot be held against it."""
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
        own, other = (
            _mean(v for c in side if (v := getattr(c, attribute)) is not None and c.error is None)
            for side in (mine, theirs)
        )
        if own is None or not other:
            found.append(Condition(name=name, met=True, found="not known for both"))
            continue
        met = own <= bounds[name] * other
        found.append(
            Condition(
                name=name,
                met=met,
                found=f"{own / other:.2f} times the champion's, {bounds[name]:g} allowed",
                remedy=None
                if met
                else f"allow more with --bench-promote-within {name}:{math.ceil(own / other * 10) / 10:g}x",
            )
        )
    return found
