"""One pytest session: which cells there are, who generates them, and what comes of it at the end.

Two roles, which one process plays both of where there is no xdist:

* a **Bench** in every process that runs tests: it collects suites, generates ahead and hands candidates to tests;
* the **Desk** in the process that the user started: it runs the recorder and the embedded models' server, shows
  progress, and makes the leaderboards at the end.

They meet in a folder, ``.promptbench/sessions/<id>/``, which is made when the first eval is about to run: the plan
(what was collected), the address of the embedded server, each worker's progress, and a stop sign.
"""

from __future__ import annotations

from .bench import Bench
from .boards import (
    Board,
    about_unread,
    build_boards,
    by_group,
    cells_now,
    folders_of,
    labels,
    labels_of,
    with_shown_texts,
    with_texts_of_pages,
    write_reports,
)
from .desk import Closing, Desk
from .plan import Plan, Planned, Task, where
from .scoring import score_all

__all__ = [
    "Bench",
    "Board",
    "Closing",
    "Desk",
    "Plan",
    "Planned",
    "Task",
    "about_unread",
    "build_boards",
    "by_group",
    "cells_now",
    "folders_of",
    "labels",
    "labels_of",
    "score_all",
    "where",
    "with_shown_texts",
    "with_texts_of_pages",
    "write_reports",
]
