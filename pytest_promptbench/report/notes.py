"""The sentences below a leaderboard: what it leaves out, and what its signs mean."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from ..records import Leaderboard, Row, Tier
from ..scores import judges_in_words, tiers_in
from .text import plural, pytest_command, ranks, visible

NAMED = 3
"""So many rows one sentence names."""
ENOUGH = 10
"""So many outputs that all violate a check are no chance."""
SURE = 0.05
"""The error rate of a leaderboard's ranks."""


def notes(lb: Leaderboard) -> list[str]:
    """A sentence of each that there is something to say of. Plain text, names made visible."""
    return [said for of in _NOTES if (said := of(lb)) is not None]


def _of_ties(lb: Leaderboard) -> str | None:
    shared = any(r.endswith("=") for r in ranks(lb.rows))
    return "= marks rows that share a rank: their difference may be chance." if shared else None


def _of_ranks_and_p(lb: Leaderboard) -> str | None:
    """A rank that its p seems to contradict."""
    behind = {(row.model, row.prompt) for row in lb.rows if row.rank is not None and row.rank > 1}
    if not any((c["model"], c["prompt"]) in behind and (c["p_holm"] or 0) > SURE for c in lb.comparisons):
        return None
    return (
        f"A row that ranks below the first may have p above {SURE}: ranks go by intervals (Student's t and BCa), "
        "p by sign flips, which need more scenarios."
    )


def _of_estimates(lb: Leaderboard) -> str | None:
    if not any(row.estimated for row in lb.rows):
        return None
    return (
        "~ marks an estimate on the scale of the row's tier: the automatic scores of all candidates, calibrated by "
        "that tier's labels of some. A criterion's figure is the plain mean of those labels."
    )


def _of_estimates_alone(lb: Leaderboard) -> str | None:
    """Those without an interval."""
    if not any(row.estimated and row.composite is not None and row.ci95 is None for row in lb.rows):
        return None
    return (
        "An estimate without an interval has labels of one scenario only, of scenarios that stand for too unequal "
        "shares of all, or none that was drawn at random."
    )


def _of_nothing_in_common(lb: Leaderboard) -> str | None:
    alone = [f"{visible(c['model'])} x {visible(c['prompt'])}" for c in lb.comparisons if c["tier"] is None]
    if not alone:
        return None
    are, both = ("is", "of both") if len(alone) == 1 else ("are", "that it shares with one of them")
    return (
        f"{_first_of(alone)} {are} not compared with the first row: no tier of judges has scored a scenario "
        f"{both}, so their order says nothing."
    )


def _of_several_judges(lb: Leaderboard) -> str | None:
    if len(lb.automatic_judges) < 2:
        return None
    names = visible(judges_in_words(lb.automatic_judges))
    return (
        f"{len(lb.automatic_judges)} automatic judges ({names}) have scored a part each, and may differ in how "
        f"strict they are: {pytest_command(lb)} --bench-read --judge-auto has the suite's own score the rest."
    )


def _of_programs(lb: Leaderboard) -> str | None:
    if lb.rubric.judged or all(row.composite is None for row in lb.rows):
        return None
    return "The checks of the rubric, which are programs, have scored all of this: none of it waits for a judge."


def _of_checks(lb: Leaderboard) -> str | None:
    """Checks that every output violates: most often one that is written the wrong way round."""
    if sum(row.candidates - row.failed for row in lb.rows) < ENOUGH:
        return None
    means = {c.name: {row.criteria.get(c.name) for row in lb.rows} - {None} for c in lb.rubric.flags if c.check}
    always = [visible(c.name) for c in lb.rubric.flags if means.get(c.name) == {float(bool(c.bad))}]
    if not always:
        return None
    return (
        f"Every output violates what is checked for {_first_of(always, 'flag')}, which so tells no rows apart: is it "
        "the right way round, and not too tight?"
    )


def _of_others(lb: Leaderboard) -> str | None:
    """The first two rows with a sit-down tier in common but no judge, as where packets went out model by model."""
    first: dict[tuple[str, ...], Row] = {}  # of many rows few differ in this
    for row in lb.rows:
        if row.tier not in (None, Tier.AUTO):
            first.setdefault((str(row.tier), *row.judges), row)
    for a, b in itertools.combinations(first.values(), 2):
        if tiers_in(a.tier) & tiers_in(b.tier) and set(a.judges).isdisjoint(b.judges):
            (one, by), (another, others) = (
                (f"{visible(row.model)} x {visible(row.prompt)}", visible(", ".join(row.judges))) for row in (a, b)
            )
            return (
                f"{one} was judged by {by}, {another} by {others}, who may differ in how strict they are: give each "
                "judge candidates of all rows, as --bench-shard does."
            )
    return None


def _of_several_tiers(lb: Leaderboard) -> str | None:
    """Rows of which a person judged some and Claude Code others, as after spot checks: not all of each as many."""
    tiers = next((row.tier for row in lb.rows if not row.estimated and len(tiers_in(row.tier)) > 1), None)
    if tiers is None or len(lb.rows) == 1:
        return None
    return (
        f"Composites of {tiers} are of judges who may differ in how strict they are, with more of one or the other in "
        "this row or that: compare such rows by their difference, which is of one tier at each scenario."
    )


def _of_a_part(lb: Leaderboard) -> str | None:
    """Rows of which the automatic judge has scored a part, as where its replies were invalid.

    Else nothing says so: ``judged`` counts the sit-down tier alone.
    """
    counted = [(row, row.auto_judged, row.candidates - row.failed) for row in lb.rows]
    partly = [(row, scored, sound) for row, scored, sound in counted if 0 < scored < sound]
    if not partly:
        return None
    left = sum(sound - scored for _, scored, sound in partly)
    some = [
        f"{visible(row.model)} x {visible(row.prompt)} has {scored} of {sound}"
        for row, scored, sound in sorted(partly, key=lambda one: one[1] / one[2])
    ]
    counts = "counts" if left == 1 else "count"
    return f"{plural(left, 'candidate')} without an automatic score {counts} in no automatic figure: {_first_of(some)}."


def _of_its_own(lb: Leaderboard) -> str | None:
    """Judges that stand among the models, where the automatic tier decides: beside others, their own rows may gain."""
    if not lb.rubric.judged:  # a model may be called as the checks are
        return None
    own = sorted({row.model for row in lb.rows if row.tier == Tier.AUTO and row.model in row.judges})
    if not own or len({row.model for row in lb.rows}) == 1:
        return None
    its = "its own texts" if len(own) == 1 else "their own texts"
    have = "has" if len(own) == 1 else "have"
    return (
        f"{visible(', '.join(own))} {have} judged {its} beside others', and models tend to favour their own: an audit "
        "(--judge-audit) tells."
    )


def _of_failures(lb: Leaderboard) -> str | None:
    failed = sum(row.failed for row in lb.rows)
    return f"{plural(failed, 'candidate')} failed and {'is' if failed == 1 else 'are'} not scored." if failed else None


def _of_superseded(lb: Leaderboard) -> str | None:
    if not lb.superseded:
        return None
    cells = "its cell was" if lb.superseded == 1 else "their cells were"
    return f"{plural(lb.superseded, 'candidate')} left out: {cells} generated anew from changed files since."


def _of_changed_files(lb: Leaderboard) -> str | None:
    """Rows of candidates from before an edit whose cells have not run since, as where ``-k`` chose some others."""
    rows = [row for row in lb.rows if row.outdated]
    if not rows:
        return None
    some = [f"{visible(row.model)} x {visible(row.prompt)} has {row.outdated} of {row.candidates}" for row in rows]
    count = sum(row.outdated for row in rows)
    counts, its, cells_run = ("counts", "its", "cell runs") if count == 1 else ("count", "their", "cells run")
    return (
        f"{plural(count, 'candidate')} {counts} from before a change of {its} prompt, model or scenario, "
        f"until {its} {cells_run} again: {_first_of(some)}."
    )


def _of_strangers(lb: Leaderboard) -> str | None:
    """Scenarios that the files no longer have."""
    if not lb.strangers:
        return None
    count = "counts" if len(lb.strangers) == 1 else "count"
    return (
        f"{plural(len(lb.strangers), 'scenario')} {count} that no collected suite has: "
        f"{_first_of([visible(s) for s in lb.strangers], 'scenario')}. One that was renamed counts under both "
        "names, until another experiment (--bench-experiment) begins."
    )


def _first_of(named: Sequence[str], noun: str = "row") -> str:
    more = f", and {plural(len(named) - NAMED, noun)} more" if len(named) > NAMED else ""
    return ", ".join(named[:NAMED]) + more


_NOTES: Sequence[Callable[[Leaderboard], str | None]] = (
    _of_ties,
    _of_ranks_and_p,
    _of_estimates,
    _of_estimates_alone,
    _of_nothing_in_common,
    _of_several_judges,
    _of_programs,
    _of_checks,
    _of_others,
    _of_several_tiers,
    _of_a_part,
    _of_its_own,
    _of_failures,
    _of_superseded,
    _of_changed_files,
    _of_strangers,
)
"""In the order that they are said."""
