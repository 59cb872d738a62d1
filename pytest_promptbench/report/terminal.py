"""A leaderboard in a terminal, and the line that tells how far a session is."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ..records import Leaderboard, Row
from .notes import notes
from .tables import Table, shortened
from .text import amount, composite_text, dollars, duration, export_command, number, ranks, row_points, visible

if TYPE_CHECKING:
    from rich.box import Box
    from rich.console import Console

NARROWEST = 20
_NAME = 20
"""Columns a name may claim before other columns are dropped for it; a longer one is folded where room is short."""


@dataclass(frozen=True, kw_only=True)
class _Column:
    title: str
    cell: Callable[[Row], str]
    justify: Literal["left", "right"] = "right"
    name: bool = False


_COLUMNS = (
    _Column(title="model", cell=lambda r: visible(r.model), justify="left", name=True),
    _Column(title="prompt", cell=lambda r: visible(r.prompt), justify="left", name=True),
    _Column(title="composite", cell=row_points, justify="left"),
    _Column(title="tier", cell=lambda r: visible(r.tier or "-"), justify="left"),
    _Column(title="judged", cell=lambda r: f"{r.judged}/{r.candidates}"),
    _Column(title="pending", cell=lambda r: str(r.pending)),
    _Column(title="failed", cell=lambda r: str(r.failed)),
    _Column(title="auto", cell=lambda r: number(r.auto_composite)),
    _Column(title="cost", cell=lambda r: dollars(r.cost_usd)),
    _Column(title="latency", cell=lambda r: duration(r.latency_s)),
)
DROPPED_FIRST = ("latency", "cost", "auto", "failed", "pending", "tier", "judged")
"""The order in which columns give way in a narrow terminal; after them the composite loses its interval."""


def render_leaderboard(lb: Leaderboard, *, width: int, color: bool) -> str:
    """The leaderboard as text of at most ``width`` columns, 20 at the least; without ``color`` no escapes.

    Where ``width`` is short, columns give way, in the order of ``DROPPED_FIRST`` where a judge scores.
    """
    from rich.table import Table as Grid
    from rich.text import Text

    width = max(width, NARROWEST)
    console = _console(width, color)
    table = Grid(
        box=_box(color), padding=(0, 1, 0, 0), pad_edge=False, show_edge=False, header_style="bold" if color else ""
    )
    table.add_column("#", no_wrap=True, justify="right")
    columns = _fitting(lb, width)
    for column in columns:
        table.add_column(
            Text(column.title), justify=column.justify, no_wrap=not column.name and width >= 2 * _NAME, overflow="fold"
        )
    for rank, row in zip(ranks(lb.rows), lb.rows, strict=True):
        cells = [Text(column.cell(row)) for column in columns]
        if color:
            for column, cell in zip(columns, cells, strict=True):
                cell.stylize(_style(column.title, row))
        table.add_row(Text(rank), *cells)

    def say(text: str, style: str = "") -> None:
        console.print(Text(text, style=style if color else "", overflow="fold"), highlight=False)

    say(
        f"{visible(lb.task)}: composite of {visible(lb.rubric.id)} (best {lb.rubric.top:g}), "
        f"experiment {visible(lb.experiment)}",
        "bold",
    )
    if lb.rows:
        console.print(table)
    else:
        say("no candidates yet")
    pending = sum(row.pending for row in lb.rows)
    if pending:
        say(f"{pending:,} pending: {export_command(lb)}", "yellow")
    for note in notes(lb):
        say(note, "dim")
    return _printed(console)


def render_tables(tables: Sequence[Table], *, width: int, color: bool) -> str:
    """Smaller tables as text of at most ``width`` columns, without ``color`` no escapes.

    Texts are folded between their words only. Where even that does not fit, each row is written out, head by head.
    """
    from rich.padding import Padding
    from rich.table import Table as Grid
    from rich.text import Text

    console = _console(width, color)
    for table in tables:
        rows, left = shortened(table)
        console.print(Text(table.title, style="bold" if color else "", overflow="fold"), highlight=False)
        gap, widths = _layout(table.head, rows, console.width)
        if widths:
            grid = Grid(
                box=_box(color), padding=(0, gap - 1, 0, 0), pad_edge=False, show_edge=False,
                header_style="bold" if color else "",
            )  # fmt: skip
            for i, title in enumerate(table.head):
                side: Literal["left", "right"] = "left" if i < table.names else "right"
                grid.add_column(Text(title), justify=side, overflow="fold", width=widths[i])
            for row in rows:
                grid.add_row(*(Text(cell) for cell in row))
            console.print(grid)
        else:
            for row in rows:
                figures = zip(table.head[table.names :], row[table.names :], strict=True)
                said = ", ".join(f"{title} {cell}" for title, cell in figures if cell)
                console.print(Text(" x ".join(row[: table.names]), overflow="fold"), highlight=False)
                console.print(Padding(Text(said, overflow="fold"), (0, 0, 0, 2)), highlight=False)
        if left:
            console.print(Text(left), highlight=False)
    return _printed(console)


def _layout(head: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> tuple[int, list[int]]:
    """The gap between a table's columns, and their widths, none of which breaks a word; no widths where none fit."""
    from rich.cells import cell_len

    columns = list(zip(head, *rows, strict=True))
    least = [min(max(cell_len(word) for text in c for word in text.split() or [""]), _NAME) for c in columns]
    wanted = [max(cell_len(text) for text in c) for c in columns]
    for gap in (2, 1):
        left = width - sum(least) - gap * len(columns)
        if left >= 0:
            widths = list(least)
            for i in sorted(range(len(columns)), key=lambda i: wanted[i] - least[i]):
                more = min(wanted[i] - least[i], left)
                widths[i], left = least[i] + more, left - more
            return gap, widths
    return 1, []


def _console(width: int, color: bool) -> Console:
    from rich.console import Console

    return Console(
        width=max(width, NARROWEST),
        height=100,
        file=io.StringIO(),
        force_terminal=color,
        force_jupyter=False,
        color_system="standard" if color else None,
        legacy_windows=False,
        _environ={},
    )


def _printed(console: Console) -> str:
    file = console.file
    assert isinstance(file, io.StringIO)
    return "".join(line.rstrip() + "\n" for line in file.getvalue().splitlines())


def progress_line(
    *,
    done: int,
    total: int,
    in_flight: int,
    waiting: int,
    failed: int,
    cached: int,
    tokens: int,
    cost_usd: float | None,
    seconds: float,
) -> str:
    """Where a session stands, in one line; parts that are zero or unknown are left out."""
    parts = [
        f"{done}/{total} cells done",
        f"{in_flight} in flight" if in_flight else "",
        f"{waiting} waiting on a rate limit" if waiting else "",
        f"{failed} failed" if failed else "",
        f"{cached} from cache" if cached else "",
        f"{amount(tokens)} tokens" if tokens else "",
        _money(cost_usd) if cost_usd else "",
        _clock(seconds) if seconds >= 0.5 else "",
    ]
    return "promptbench: " + ", ".join(part for part in parts if part)


def _money(cost: float) -> str:
    return f"${cost:.2f}" if cost >= 0.01 else dollars(cost)


def _clock(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _columns(lb: Leaderboard) -> tuple[list[_Column], Sequence[str]]:
    """The columns of a leaderboard, and which give way first.

    Where programs score everything nobody waits for a judge, and what tells is each check: of a flag the share of true.
    """
    if lb.rubric.judged:
        return list(_COLUMNS), DROPPED_FIRST
    checks = [_of_criterion(c.name) for c in lb.rubric.criteria]
    left = [c for c in _COLUMNS if c.title not in ("tier", "judged", "pending", "auto")]
    return [*left[:3], *checks, *left[3:]], ("latency", "cost", *(c.title for c in reversed(checks)), "failed")


def _of_criterion(name: str) -> _Column:
    return _Column(title=visible(name), cell=lambda row: number(row.criteria.get(name)))


def _fitting(lb: Leaderboard, width: int) -> list[_Column]:
    from rich.cells import cell_len

    def natural(column: _Column) -> int:
        longest = max((cell_len(text) for text in (column.title, *(column.cell(row) for row in lb.rows))), default=0)
        return min(longest, _NAME) if column.name else longest

    columns, dropped_first = _columns(lb)
    first = max((len(rank) for rank in ranks(lb.rows)), default=1)

    def fits() -> bool:
        return first + sum(2 + natural(column) for column in columns) <= width

    for title in dropped_first:
        if fits():
            return columns
        columns = [column for column in columns if column.title != title]
    if not fits():
        bare = _Column(title="composite", cell=composite_text)
        columns = [bare if column.title == "composite" else column for column in columns]
    return columns


def _box(color: bool) -> Box:
    from rich import box

    plain = box.Box("    \n    \n -- \n    \n    \n -- \n    \n    \n", ascii=True)
    return box.SIMPLE_HEAD if color else plain


def _style(title: str, row: Row) -> str:
    if title in {"model", "prompt", "composite"} and row.rank == 1:
        return "bold green"
    if title == "failed" and row.failed:
        return "red"
    if title == "pending" and row.pending:
        return "yellow"
    return "dim" if title in {"tier", "auto", "cost", "latency"} else ""


@contextlib.contextmanager
def live_line() -> Iterator[Callable[[str], None]]:
    """One line on the terminal that is written anew with each call, and stays when it ends."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    with Live(Text(""), console=Console(), refresh_per_second=4) as live:
        yield lambda line: live.update(Text(line))
