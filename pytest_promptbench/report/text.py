"""Texts of models, and figures, as a person may safely read them in a terminal, a Markdown table or a page."""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Final

from ..records import Leaderboard, LoggedCandidate, Row, conversation

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


def pytest_command(lb: Leaderboard) -> str:
    """``pytest evals/`` with what finds the same project."""
    return f"{shlex.join(['pytest', *map(visible, lb.found_by)])} {shlex.quote(visible(lb.evals))}/"


def export_command(lb: Leaderboard) -> str:
    """The command that takes a leaderboard's pending candidates to a judge; by default it finds the task's newest."""
    command = f"{pytest_command(lb)} --judge-export packet.json"
    if re.fullmatch(re.escape(lb.task) + r"-bench-\d{4}-\d\d-\d\d", lb.experiment):
        return command
    return f"{command} --bench-experiment {shlex.quote(visible(lb.experiment))}"
