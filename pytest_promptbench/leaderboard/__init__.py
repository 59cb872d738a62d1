"""Candidates with their verdicts -> a leaderboard: one row per (model, prompt), best composite first.

Which candidates count, in this order:

1. those of the task and of this very text of the rubric;
2. of several runs of one candidate (two machines that logged it at once), the one that started first;
3. of each (model, prompt, scenario), those of the content that the files have now, or, where the caller does not know
   it, that started last: an edited prompt or model supersedes what it generated before;
4. a failed candidate only while its cell has no successful one, and then as one failure, never as a score.

A row rests on verdicts of the sit-down tier as soon as it has one, else on automatic ones, never on both as if they
were one scale. Where the sit-down tier has labelled only a part of what the automatic tier has scored, the row's
composite is the sit-down mean of all of it, estimated from both (``statistics.calibrated_mean``): the plain mean of
labels that an audit picked for their disagreement would be biased. Two rows are compared on a tier that both have
(:mod:`.scores`). Repeats of a scenario are averaged first, then scenarios, so that a scenario that was run more often
weighs no more.
"""

from __future__ import annotations

from .build import build_leaderboard
from .counting import current_candidates, newest, pending_candidates
from .document import leaderboard_json, statistics_json

__all__ = [
    "build_leaderboard",
    "current_candidates",
    "leaderboard_json",
    "newest",
    "pending_candidates",
    "statistics_json",
]
