"""Reports: the same leaderboard for a terminal, as Markdown, as a page and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..files import replace_file
from ..quiet import without_collections
from ..records import Leaderboard, LoggedCandidate

if TYPE_CHECKING:
    from ..agreement import Agreement

LEADERBOARD_FILES = ("leaderboard.json", "statistics.json", "leaderboard.md", "leaderboard.html", "agreement.json")


@without_collections()
def write_all(
    directory: Path,
    lb: Leaderboard,
    candidates: Sequence[LoggedCandidate],
    *,
    agreement: Agreement | None = None,
    cells_now: Mapping[tuple[str, str, str], str] | None = None,
    generated_at: str,
) -> list[Path]:
    """Write the leaderboard as JSON, Markdown and HTML, ``statistics.json`` and ``agreement.json`` into ``directory``.

    Whoever reads meanwhile sees the old file or the new one. ``generated_at`` is the ISO 8601 time that the page names,
    ``cells_now`` what ``build_leaderboard`` was given.
    """
    from ..agreement import agreement_json
    from ..leaderboard import leaderboard_json, statistics_json
    from . import html, markdown

    texts = (
        _json(leaderboard_json(lb)),
        _json(statistics_json(lb)),
        markdown.render_leaderboard(lb, agreement),
        html.render_leaderboard(lb, candidates, agreement=agreement, cells_now=cells_now, generated_at=generated_at),
        None if agreement is None else _json(agreement_json(agreement)),
    )
    directory.mkdir(parents=True, exist_ok=True)
    files = {directory / name: text for name, text in zip(LEADERBOARD_FILES, texts, strict=True) if text is not None}
    for path, text in files.items():
        # A lone surrogate has no UTF-8; written as \udXXX it stays valid, and in JSON even the same text.
        replace_file(path, text.encode("utf-8", "backslashreplace"))
    return list(files)


def forget(directory: Path) -> None:
    """Remove what ``write_all`` has written there."""
    for name in LEADERBOARD_FILES:
        (directory / name).unlink(missing_ok=True)


def _json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
