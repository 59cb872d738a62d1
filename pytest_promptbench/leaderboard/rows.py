"""One row: the candidates of a (model, prompt) that count, as means over scenarios."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..records import LoggedCandidate, Row, Rubric, Verdict
from ..scores import Scored, automatic_score, sit_down_score, table, tier_scores, tier_text


class _Means:
    """Means over scenarios, repeats of a scenario averaged first. What is not a finite number is not known."""

    def __init__(self) -> None:
        self._values: dict[str, list[float]] = defaultdict(list)

    def add(self, scenario: str, value: float | bool | None) -> None:
        if value is not None and math.isfinite(value):
            self._values[scenario].append(float(value))

    def by_scenario(self) -> dict[str, float]:
        return {s: math.fsum(v) / len(v) for s, v in sorted(self._values.items())}

    def mean(self) -> float | None:
        values = self._values.values()
        return math.fsum(math.fsum(v) / len(v) for v in values) / len(values) if values else None


@dataclass
class RowTable:
    """The candidates of one (model, prompt) that count. Sums over them are exact, so their order does not matter."""

    failed: list[LoggedCandidate] = field(default_factory=list)
    sound: list[LoggedCandidate] = field(default_factory=list)
    outdated: int = 0

    def add(self, candidate: LoggedCandidate, *, outdated: bool = False) -> None:
        """``outdated``: the files give the cell another content by now, of which nothing is logged."""
        self.outdated += outdated
        (self.sound if candidate.error is None else self.failed).append(candidate)

    def row(self, model: str, prompt: str, rubric: Rubric) -> Row:
        """Everything but rank and interval, which of an estimate is there already."""
        sit_down = [(c, v) for c in self.sound if (v := c.sit_down()) is not None]
        counting = sit_down or [(c, v) for c in self.sound if (v := c.automatic()) is not None]
        scored = [(c, tier_scores(c, rubric)) for c in self.sound]
        scores, automatic = _Means(), _Means()
        for c, of_tiers in scored:
            auto = automatic_score(of_tiers)
            automatic.add(c.scenario, auto and auto.value)
            found = sit_down_score(of_tiers) if sit_down else auto
            scores.add(c.scenario, found and found.value)
        everyone = [*self.sound, *self.failed]
        calibrated = _calibrated(scored)
        estimated = calibrated is not None and _stands_for(calibrated)
        by_tier = table(scored, lambda c: c.scenario)
        return Row(
            rank=None,
            model=model,
            prompt=prompt,
            composite=calibrated["estimate"] if calibrated is not None and estimated else scores.mean(),
            ci95=calibrated["ci"] if calibrated is not None and estimated else None,
            tier=tier_text(v.judge.tier for _, v in counting),
            candidates=len(everyone),
            judged=len(sit_down),
            pending=sum(c.pending for c in self.sound),
            failed=len(self.failed),
            criteria=self._criteria(counting, rubric),
            auto_composite=automatic.mean(),
            cost_usd=_total([c.cost_usd for c in everyone]),
            latency_s=_mean([c.latency_s for c in everyone]),
            scenario_scores=scores.by_scenario(),
            by_tier={tier.value: found for tier, found in by_tier.items()},
            calibrated=calibrated,
            estimated=estimated,
            judges=tuple(sorted({v.judge.name for _, v in counting})),
            auto_judged=sum(automatic_score(of_tiers) is not None for _, of_tiers in scored),
            outdated=self.outdated,
        )

    def _criteria(self, counting: Sequence[tuple[LoggedCandidate, Verdict]], rubric: Rubric) -> dict[str, float | None]:
        """Means of the verdicts that count; of a flag that a program fills, over all candidates, judged or not."""
        means = {c.name: _Means() for c in rubric.criteria}
        for c in self.sound:
            for name, value in c.checks.items():
                if name in means:
                    means[name].add(c.scenario, value)
        for c, verdict in counting:
            for name, mean in means.items():
                if name not in c.checks:
                    mean.add(c.scenario, verdict.scores.get(name))
        return {name: mean.mean() for name, mean in means.items()}


def _calibrated(scored: Sequence[Scored]) -> Mapping[str, Any] | None:
    """The sit-down composite by prediction-powered inference, where the automatic tier has scored more than it has.

    ``audited``: whether an audit drew any of the labels. Then a label without a sampling probability was there whatever
    the audits drew (a packet of all that was pending), and counts as certain; so does one of a candidate that the
    automatic tier has not scored, which stands for itself alone. ``labels_without_auto`` counts those. ``plain_mean``:
    what the labels' own mean would be, repeats averaged first.
    """
    found = [(c, automatic_score(s), sit_down_score(s)) for c, s in scored]
    both = [(c, auto.value, label) for c, auto, label in found if auto is not None]
    labels = [label for _, _, label in both if label is not None]
    if not 0 < len(labels) < len(both):
        return None
    from ..statistics import calibrated_mean

    audited = any(label.probability is not None for label in labels)
    alone = [(c, label) for c, auto, label in found if auto is None and label is not None]
    if audited:
        both += [(c, label.value, label._replace(probability=None)) for c, label in alone]
    estimate = calibrated_mean(
        [auto for _, auto, _ in both],
        [None if label is None else label.value for _, _, label in both],
        [c.scenario for c, _, _ in both],
        [1.0 if label is None else label.probability or 1.0 for _, _, label in both] if audited else None,
    )
    plain = _Means()
    for c, _, label in found:
        plain.add(c.scenario, label and label.value)
    return {
        **estimate.to_json(),
        "audited": audited,
        "labels_without_auto": len(alone),
        "plain_mean": plain.mean(),
    }


def _stands_for(calibrated: Mapping[str, Any]) -> bool:
    """Whether an estimate takes the place of the labels' mean: always after an audit, whose picks bias that mean.

    Of labels that came otherwise, only where there are enough scenarios of them for the automatic scores to be used,
    and every label has one: else the estimate would leave labels out.
    """
    from ..statistics.calibration import FEWEST

    enough = calibrated["clusters"] >= FEWEST and not calibrated["labels_without_auto"]
    return bool(calibrated["audited"] or enough)


def _known(values: Iterable[float | None]) -> list[float]:
    return [v for v in values if v is not None and math.isfinite(v)]


def _total(values: Iterable[float | None]) -> float | None:
    known = _known(values)
    return math.fsum(known) if known else None


def _mean(values: Iterable[float | None]) -> float | None:
    known = _known(values)
    return math.fsum(known) / len(known) if known else None
