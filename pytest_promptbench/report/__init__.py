"""Reports: the same leaderboard for a terminal, as Markdown, as a page and as JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from ..records import Leaderboard, LoggedCandidate


def write_all(
    directory: Path, lb: Leaderboard, candidates: Sequence[LoggedCandidate], *, generated_at: str
) -> list[Path]:
    """Write ``leaderboard.json``, ``.md`` and ``.html`` into ``directory``; whoever reads meanwhile sees old or new.

    ``generated_at`` is the ISO 8601 time that the page names.
    """
    from ..leaderboard import leaderboard_json
    from . import html, markdown

    texts = {
        "leaderboard.json": json.dumps(leaderboard_json(lb), indent=2, ensure_ascii=False, allow_nan=False) + "\n",
        "leaderboard.md": markdown.render_leaderboard(lb),
        "leaderboard.html": html.render_leaderboard(lb, candidates, generated_at=generated_at),
    }
    directory.mkdir(parents=True, exist_ok=True)
    return [_replace(directory / name, text) for name, text in texts.items()]


def _replace(path: Path, text: str) -> Path:
    # A lone surrogate has no UTF-8; written as \udXXX it stays valid, and in JSON even the same text.
    data = text.encode("utf-8", "backslashreplace")
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
