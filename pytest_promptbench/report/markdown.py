"""A leaderboard as a GitHub table, for pull requests and notes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ..records import Leaderboard, Row
from .tables import Table, all_tables
from .text import dollars, duration, export_command, markdown_cell, notes, number, ranks, row_points

if TYPE_CHECKING:
    from ..agreement import Agreement

_HEAD = ("#", "model", "prompt", "composite", "tier", "judged", "pending", "failed")
_TAIL = ("auto", "cost", "latency")


def render_leaderboard(lb: Leaderboard, agreement: Agreement | None = None) -> str:
    """The leaderboard with a heading, one table with every criterion's mean, its notes, and what stands behind it."""
    names = [c.name for c in lb.rubric.criteria]
    head = [*_HEAD, *(markdown_cell(name) for name in names), *_TAIL]
    lines = [
        f"# {markdown_cell(lb.task)}",
        "",
        f"Composite of rubric {markdown_cell(lb.rubric.id)} (`{lb.rubric.sha256[:12]}`, best {lb.rubric.top:g}) "
        f"with 95 % intervals, experiment {markdown_cell(lb.experiment)}.",
        "",
    ]
    if lb.rows:
        lines += [_line(head), _line(["---" if t in _LEFT else "---:" for t in head])]
        lines += [_line(_cells(rank, row, names)) for rank, row in zip(ranks(lb.rows), lb.rows, strict=True)]
    else:
        lines.append("No candidates yet.")
    pending = sum(row.pending for row in lb.rows)
    remarks = [f"{pending:,} pending: {_code(export_command(lb))}"] if pending else []
    remarks += [markdown_cell(note) for note in notes(lb)]
    if remarks:
        lines += ["", *(f"- {remark}" for remark in remarks)]
    for table in all_tables(lb, agreement):
        lines += ["", *_table(table)]
    return "\n".join(lines) + "\n"


def _code(text: str) -> str:
    """A code span; GitHub ends one at as many backticks as it began with."""
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{text}{fence}"


def _table(table: Table) -> list[str]:
    marks = ["---" if i < table.names else "---:" for i in range(len(table.head))]
    return [
        f"## {markdown_cell(table.title)}",
        "",
        markdown_cell(table.note),
        "",
        *(_line(row) for row in ([markdown_cell(c) for c in table.head], marks)),
        *(_line([markdown_cell(cell) for cell in row]) for row in table.rows),
    ]


_LEFT = frozenset({"model", "prompt", "composite", "tier"})


def _cells(rank: str, row: Row, names: list[str]) -> list[str]:
    return [
        rank,
        markdown_cell(row.model),
        markdown_cell(row.prompt),
        row_points(row).replace("~", "\\~"),  # GitHub strikes out what stands between tildes
        markdown_cell(row.tier or "-"),
        f"{row.judged}/{row.candidates}",
        str(row.pending),
        str(row.failed),
        *(number(row.criteria.get(name)) for name in names),
        number(row.auto_composite),
        dollars(row.cost_usd),
        duration(row.latency_s),
    ]


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
