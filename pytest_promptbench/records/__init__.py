"""The nouns of the project, as frozen records with a JSON round trip.

Everything that crosses a process, a file or the network is one of these. They hold plain values only, so that
``to_json`` and ``from_json`` lose nothing, and they import nothing but the standard library.
"""

from __future__ import annotations

from .generated import MARK, REPLY_LIMITS, Answer, Candidate, Cell, Request, Usage, reply_limit
from .judged import Draw, Fingerprint, Judge, LoggedCandidate, Score, Tier, Verdict, composite, mean_scores
from .record import DuplicateKeyError, Record, canonical_json, is_number, sha256, unique_keys
from .reported import Leaderboard, Row
from .written import (
    CONVERSATION,
    Criterion,
    Group,
    Message,
    Model,
    Prompt,
    Role,
    Rubric,
    Scenario,
    Source,
    Suite,
    conversation,
    is_message,
)

__all__ = [
    "CONVERSATION",
    "MARK",
    "REPLY_LIMITS",
    "Answer",
    "Candidate",
    "Cell",
    "Criterion",
    "Draw",
    "DuplicateKeyError",
    "Fingerprint",
    "Group",
    "Judge",
    "Leaderboard",
    "LoggedCandidate",
    "Message",
    "Model",
    "Prompt",
    "Record",
    "Request",
    "Role",
    "Row",
    "Rubric",
    "Scenario",
    "Score",
    "Source",
    "Suite",
    "Tier",
    "Usage",
    "Verdict",
    "canonical_json",
    "composite",
    "conversation",
    "is_message",
    "is_number",
    "mean_scores",
    "reply_limit",
    "sha256",
    "unique_keys",
]
