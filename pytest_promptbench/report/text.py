"""Texts of models, and figures, as a person may safely read them in a terminal, a Markdown table or a page."""

from __future__ import annotations

import itertools
import json
import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Final

from ..records import Leaderboard, LoggedCandidate, Row, Tier, conversation
from ..scores import judges_in_words, tiers_in

NAMED = 3
"""So many rows one sentence below a leaderboard names."""
ENOUGH = 10
"""So many outputs that all violate a check are no chance."""
SURE = 0.05
"""The error rate of a leaderboard's ranks."""

_UNKNOWN = "\N{REPLACEMENT CHARACTER}"
_INVISIBLE = (
    *range(0x80, 0xA0),  # C1 controls, among them the one-byte CSI
    0x061C,
    *range(0x200B, 0x200C),  # zero-width space; joiners stay, as emoji and several scripts need them
    *range(0x200E, 0x2010),
    *range(0x202A, 0x202F),  # bidi embeddings and overrides
    *range(0x2060, 0x2070),  # invisible operators, bidi isolates, deprecated format characters
    0xFEFF,
    *range(0xFFF9, 0xFFFC),
    0xFFFE,
    0xFFFF,
    *range(0xD800, 0xE000),  # lone surrogates: no UTF-8 for them
    *range(0xE0000, 0xE0080),  # tag characters: a whole hidden alphabet
)
_MULTILINE: Final[dict[int, int | str]] = {
    **{c: 0x2400 + c for c in range(0x20)},  # ESC is shown as its control picture, NUL as its own, and so on
    0x7F: 0x2421,
    **dict.fromkeys(_INVISIBLE, _UNKNOWN),
    0x09: 0x09,
    0x0A: 0x0A,
    0x85: 0x0A,
    0x2028: 0x0A,
    0x2029: 0x0A,
}
_ONE_LINE: Final[dict[int, int | str]] = {**_MULTILINE, **dict.fromkeys((0x09, 0x0A, 0x85, 0x2028, 0x2029), 0x20)}
_MARKDOWN: Final = str.maketrans(
    {**{c: f"\\{c}" for c in "\\`*_[]|~$"}, "<": "&lt;", ">": "&gt;", "&": "&amp;"},
)


def visible(text: str, *, limit: int | None = None, multiline: bool = False) -> str:
    """``text`` with everything that could act unseen replaced by a visible stand-in, at most ``limit`` characters.

    Control characters become their control pictures; C1 controls, bidi controls, zero-width characters and lone
    surrogates become U+FFFD. Newlines and tabs are kept when ``multiline``, else each becomes a space. What is cut
    ends in an ellipsis, which counts towards ``limit``.
    """
    text = text.replace("\r\n", "\n").translate(_MULTILINE if multiline else _ONE_LINE)
    if limit is not None and len(text) > limit:
        text = text[: max(limit - 1, 0)] + "…"
    return text


def cut_note(text: str, limit: int) -> str | None:
    """What stands below a text of which the first ``limit`` characters are shown, where it has more."""
    return f"cut: the first {limit:,} of {len(text):,} characters" if len(text) > limit else None


def beginning(text: str, limit: int) -> str:
    """A text of several lines as ``visible`` shows it; beyond ``limit`` characters it is cut, with a note."""
    note = cut_note(text, limit)
    return visible(text[:limit], multiline=True) + (f"…\n{note}" if note else "")


def scrolls(text: str) -> bool:
    """Whether a page may show ``text`` in a box that scrolls, which then has to be reached by keyboard.

    Boxes hold 17 lines (``max-height`` of the style sheets), of as few as 28 characters on a small screen. That is not
    said of all texts: of thousands, each would be one more stop on the way.
    """
    return sum(-(-len(line) // 28) or 1 for line in text.split("\n")) > 16


def var_text(value: object) -> str:
    """A scenario's var: a text as it is, a conversation message by message, JSON of anything else."""
    turns = conversation(value)
    if turns:
        return "\n".join(f"{m.role}: {m.content}" for m in turns)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def markdown_cell(text: str) -> str:
    """``text`` as the literal content of one cell of a GitHub table: one line, nothing of it markup or HTML."""
    return visible(text).translate(_MARKDOWN)


# -- figures -----------------------------------------------------------------------------------------------------


def number(value: float | None, digits: int = 2) -> str:
    """A figure with fixed decimals, ``-`` where nobody has it; never ``-0.00``."""
    if value is None:
        return "-"
    text = f"{value:.{digits}f}"
    return text[1:] if re.fullmatch(r"-[0.]+", text) else text


def interval(ci95: Sequence[float] | None) -> str:
    return "" if not ci95 else f"[{', '.join(number(x) for x in ci95)}]"


def composite_text(row: Row) -> str:
    """``12.75``, ``~12.75`` where it is an estimate; ``-`` for what nobody has judged."""
    return ("~" if row.estimated else "") + number(row.composite)


def points(composite: float | None, ci95: Sequence[float] | None) -> str:
    """``12.75 [12.10, 13.30]``; ``-`` for what nobody has judged."""
    return " ".join(x for x in (number(composite), interval(ci95) if composite is not None else "") if x)


def unscored(row: Row) -> str:
    """What is said of a row that has no composite: failed is not pending."""
    return "all failed" if row.candidates and row.failed == row.candidates else "not judged yet"


def row_points(row: Row) -> str:
    """``points`` of a row, with the sign of an estimate."""
    return ("~" if row.estimated else "") + points(row.composite, row.ci95)


def dollars(value: float | None) -> str:
    """``$0.0120``, with two decimals from one dollar on; ``-`` where the price is unknown."""
    if value is None:
        return "-"
    if 0 < value < 0.00005:
        return "<$0.0001"
    return f"${value:.2f}" if value >= 1 else f"${value:.4f}"


def for_price(value: float | None) -> str:
    """`` for $0.0120``; nothing where nothing was paid, or the price is unknown."""
    return f" for {dollars(value)}" if value else ""


def duration(value: float | None) -> str:
    """Seconds as ``1.9 s``, below a tenth as ``42 ms``; ``-`` where unknown."""
    if value is None:
        return "-"
    return f"{value:.1f} s" if value >= 0.1 or value == 0 else f"{value * 1000:.0f} ms"


def percent(share: float) -> str:
    """``8%``; what rounds to none or to all and is not is ``<1%`` or ``>99%``."""
    text = f"{share:.0%}"
    if text == "0%" and share > 0:
        return "<1%"
    return ">99%" if text == "100%" and share < 1 else text


def amount(value: int) -> str:
    """A count in few letters: ``950``, ``45.2k``, ``3.1M``."""
    if value < 1000:
        return str(value)
    return f"{value / 1000:.1f}k" if value < 999_950 else f"{value / 1_000_000:.1f}M"


def plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def waiting(count: int) -> str:
    """``1 candidate waits for a judge``."""
    return f"{plural(count, 'candidate')} {'waits' if count == 1 else 'wait'} for a judge"


def by_scenario(candidates: Iterable[LoggedCandidate]) -> dict[str, list[LoggedCandidate]]:
    """The candidates of each scenario by its name, in the order of a reader: ``s2`` before ``s10``."""
    found: defaultdict[str, list[LoggedCandidate]] = defaultdict(list)
    for c in candidates:
        found[c.scenario].append(c)
    return {name: found[name] for name in sorted(found, key=_reading_order)}


def _reading_order(name: str) -> tuple[list[str], str]:
    """Digits go by the number that they write. Of any length, which ``int`` would not read."""
    parts = re.split("([0-9]+)", name)
    digits = (p.lstrip("0") for p in parts[1::2])
    parts[1::2] = [f"{len(d):06}{d}" for d in digits]
    return parts, name


def ranks(rows: Iterable[Row]) -> list[str]:
    """What stands in the column ``#``: ``1``, ``2=`` where several rows share the rank, ``-`` without one."""
    found = [row.rank for row in rows]
    counts = Counter(found)
    return ["-" if r is None else f"{r}=" if counts[r] > 1 else str(r) for r in found]


def notes(lb: Leaderboard) -> list[str]:
    """The sentences below a leaderboard: what it leaves out and what its signs mean. Plain text, names made visible."""
    found = []
    failed = sum(row.failed for row in lb.rows)
    if any(r.endswith("=") for r in ranks(lb.rows)):
        found.append("= marks rows that share a rank: their difference may be chance.")
    behind = {(row.model, row.prompt) for row in lb.rows if row.rank is not None and row.rank > 1}
    if any((c["model"], c["prompt"]) in behind and (c["p_holm"] or 0) > SURE for c in lb.comparisons):
        found.append(
            f"A row that ranks below the first may have p above {SURE}: ranks go by intervals (Student's t and BCa), "
            "p by sign flips, which need more scenarios."
        )
    estimated = [row for row in lb.rows if row.estimated]
    if estimated:
        found.append(
            "~ marks an estimate on the scale of the row's tier: the automatic scores of all candidates, calibrated by "
            "that tier's labels of some. A criterion's figure is the plain mean of those labels."
        )
    if any(row.composite is not None and row.ci95 is None for row in estimated):
        found.append(
            "An estimate without an interval has labels of one scenario only, of scenarios that stand for too unequal "
            "shares of all, or none that was drawn at random."
        )
    alone = [f"{visible(c['model'])} x {visible(c['prompt'])}" for c in lb.comparisons if c["tier"] is None]
    if alone:
        are, both = ("is", "of both") if len(alone) == 1 else ("are", "that it shares with one of them")
        found.append(
            f"{_first_of(alone)} {are} not compared with the first row: no tier of judges has scored a scenario "
            f"{both}, so their order says nothing."
        )
    if len(lb.automatic_judges) > 1:
        names = visible(judges_in_words(lb.automatic_judges))
        found.append(
            f"{len(lb.automatic_judges)} automatic judges ({names}) have scored a part each, and may differ in how "
            f"strict they are: {_pytest(lb)} --bench-read --judge-auto has the suite's own score the rest."
        )
    if not lb.rubric.judged and any(row.composite is not None for row in lb.rows):
        found.append(
            "The checks of the rubric, which are programs, have scored all of this: none of it waits for a judge."
        )
    found += _of_checks(lb)
    found += _of_others(lb)
    found += _of_several_tiers(lb)
    found += _of_a_part(lb)
    found += _of_its_own(lb)
    if failed:
        found.append(f"{plural(failed, 'generation')} failed and {'is' if failed == 1 else 'are'} not scored.")
    if lb.superseded:
        one = lb.superseded == 1
        found.append(
            f"{plural(lb.superseded, 'candidate')} left out: {'its cell was' if one else 'their cells were'} "
            "generated anew from changed files since."
        )
    found += _of_changed_files(lb)
    if lb.strangers:
        count = "counts" if len(lb.strangers) == 1 else "count"
        found.append(
            f"{plural(len(lb.strangers), 'scenario')} {count} that no collected suite has: "
            f"{_first_of([visible(s) for s in lb.strangers], 'scenario')}. One that was renamed counts under both "
            "names, until another experiment (--bench-experiment) begins."
        )
    return found


def _of_changed_files(lb: Leaderboard) -> list[str]:
    """Rows of candidates from before an edit whose cells have not run since, as where ``-k`` chose some others."""
    rows = [row for row in lb.rows if row.outdated]
    if not rows:
        return []
    some = [f"{visible(row.model)} x {visible(row.prompt)} has {row.outdated} of {row.candidates}" for row in rows]
    count = sum(row.outdated for row in rows)
    counts, its, cells_run = ("counts", "its", "cell runs") if count == 1 else ("count", "their", "cells run")
    return [
        f"{plural(count, 'candidate')} {counts} from before a change of {its} prompt, model or scenario, "
        f"until {its} {cells_run} again: {_first_of(some)}."
    ]


def _of_checks(lb: Leaderboard) -> list[str]:
    """Checks that every output violates: most often one that is written the wrong way round."""
    if sum(row.candidates - row.failed for row in lb.rows) < ENOUGH:
        return []
    means = {c.name: {row.criteria.get(c.name) for row in lb.rows} - {None} for c in lb.rubric.flags if c.check}
    always = [visible(c.name) for c in lb.rubric.flags if means.get(c.name) == {float(bool(c.bad))}]
    if not always:
        return []
    return [
        f"Every output violates what is checked for {_first_of(always, 'flag')}, which so tells no rows apart: is it "
        "the right way round, and not too tight?"
    ]


def _of_others(lb: Leaderboard) -> list[str]:
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
            return [
                f"{one} was judged by {by}, {another} by {others}, who may differ in how strict they are: give each "
                "judge candidates of all rows, as --bench-shard does."
            ]
    return []


def _of_several_tiers(lb: Leaderboard) -> list[str]:
    """Rows of which a person judged some and Claude Code others, as after spot checks: not all of each as many."""
    tiers = next((row.tier for row in lb.rows if not row.estimated and len(tiers_in(row.tier)) > 1), None)
    if tiers is None or len(lb.rows) == 1:
        return []
    return [
        f"Composites of {tiers} are of judges who may differ in how strict they are, with more of one or the other in "
        "this row or that: compare such rows by their difference, which is of one tier at each scenario."
    ]


def _of_a_part(lb: Leaderboard) -> list[str]:
    """Rows of which the automatic judge has scored a part, as where its replies were invalid.

    Else nothing says so: ``judged`` counts the sit-down tier alone.
    """
    counted = [(row, row.auto_judged, row.candidates - row.failed) for row in lb.rows]
    partly = [(row, scored, sound) for row, scored, sound in counted if 0 < scored < sound]
    if not partly:
        return []
    left = sum(sound - scored for _, scored, sound in partly)
    some = [
        f"{visible(row.model)} x {visible(row.prompt)} has {scored} of {sound}"
        for row, scored, sound in sorted(partly, key=lambda one: one[1] / one[2])
    ]
    counts = "counts" if left == 1 else "count"
    return [
        f"{plural(left, 'candidate')} without an automatic score {counts} in no automatic figure: {_first_of(some)}."
    ]


def _first_of(named: Sequence[str], noun: str = "row") -> str:
    more = f", and {plural(len(named) - NAMED, noun)} more" if len(named) > NAMED else ""
    return ", ".join(named[:NAMED]) + more


def _of_its_own(lb: Leaderboard) -> list[str]:
    """Judges that stand among the models, where the automatic tier decides: beside others, their own rows may gain."""
    if not lb.rubric.judged:  # a model may be called as the checks are
        return []
    own = sorted({row.model for row in lb.rows if row.tier == Tier.AUTO and row.model in row.judges})
    if not own or len({row.model for row in lb.rows}) == 1:
        return []
    its = "its own texts" if len(own) == 1 else "their own texts"
    have = "has" if len(own) == 1 else "have"
    return [
        f"{visible(', '.join(own))} {have} judged {its} beside others', and models tend to favour their own: an audit "
        "(--judge-audit) tells."
    ]


def _pytest(lb: Leaderboard) -> str:
    return f"{shlex.join(['pytest', *map(visible, lb.found_by)])} {shlex.quote(visible(lb.evals))}/"


def export_command(lb: Leaderboard) -> str:
    """The command that takes a leaderboard's pending candidates to a judge; by default it finds the task's newest."""
    command = f"{_pytest(lb)} --judge-export packet.json"
    if re.fullmatch(re.escape(lb.task) + r"-bench-\d{4}-\d\d-\d\d", lb.experiment):
        return command
    return f"{command} --bench-experiment {shlex.quote(visible(lb.experiment))}"
