"""A leaderboard as a GitHub table, for pull requests and notes."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..records import Leaderboard, Row, Rubric
from .notes import notes
from .tables import Table, all_tables
from .text import dollars, duration, export_command, markdown_cell, number, ranks, row_points

if TYPE_CHECKING:
    from ..agreement import Agreement


def render_leaderboard(lb: Leaderboard, agreement: Agreement | None = None) -> str:
    """The leaderboard with a heading, one table with every criterion's mean, its notes, and what stands behind it."""
    columns = _columns(lb.rubric)
    lines = [
        f"# {markdown_cell(lb.task)}",
        "",
        f"Composite of rubric {markdown_cell(lb.rubric.id)} (`{lb.rubric.sha256[:12]}`, best {lb.rubric.top:g}) "
        f"with 95 % intervals, experiment {markdown_cell(lb.experiment)}.",
        "",
    ]
    if lb.rows:
        lines.append(_line(["#", *(title for title, _ in columns)]))
        lines.append(_line(["---:", *("---" if title in _LEFT else "---:" for title, _ in columns)]))
        for rank, row in zip(ranks(lb.rows), lb.rows, strict=True):
            lines.append(_line([rank, *(cell(row) for _, cell in columns)]))
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


def _columns(rubric: Rubric) -> list[tuple[str, Callable[[Row], str]]]:
    """Titles and cells; how far judges are stands there only where judges score."""
    progress: list[tuple[str, Callable[[Row], str]]] = [
        ("tier", lambda row: markdown_cell(row.tier or "-")),
        ("judged", lambda row: f"{row.judged}/{row.candidates}"),
        ("pending", lambda row: str(row.pending)),
    ]
    auto: list[tuple[str, Callable[[Row], str]]] = [("auto", lambda row: number(row.auto_composite))]
    if not rubric.judged:
        progress, auto = [("candidates", lambda row: str(row.candidates))], []
    return [
        ("model", lambda row: markdown_cell(row.model)),
        ("prompt", lambda row: markdown_cell(row.prompt)),
        ("composite", lambda row: row_points(row).replace("~", "\\~")),  # GitHub strikes out what is between tildes
        *progress,
        ("failed", lambda row: str(row.failed)),
        *((markdown_cell(c.name), _mean_of(c.name)) for c in rubric.criteria),
        *auto,
        ("cost", lambda row: dollars(row.cost_usd)),
        ("latency", lambda row: duration(row.latency_s)),
    ]


def _mean_of(name: str) -> Callable[[Row], str]:
    return lambda row: number(row.criteria.get(name))


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
