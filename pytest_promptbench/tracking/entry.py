"""What goes from a session's outbox to MLflow, and the names of the tags it becomes there. No MLflow import."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..checks import fill_checks
from ..errors import ScorerError
from ..ledger import Entry
from ..records import Candidate, Record, Rubric, sha256
from ..settings import TAG_LIMIT

JUDGE_PENDING = "judge_pending"
JUDGE_KIND = "judge_kind"
JUDGED_BY = "judged_by"
JUDGED_AT = "judged_at"
RUBRIC = "rubric"
RUBRIC_SHA256 = "rubric_sha256"
RUBRIC_TEXT = "rubric_text"
TASK = "promptbench.task"
CELL = "promptbench.cell"
CONTEXT = "promptbench.context_sha256"
"""Hash of the scenario's vars that the prompt does not use, where there are any: only judges see them."""
CANDIDATE = "promptbench.candidate"
PROMPT_SHA256 = "promptbench.prompt_sha256"
SESSION = "promptbench.session"
ERROR = "promptbench.error"
CARRIED_FROM = "promptbench.carried_from"
CHECKS = "promptbench.checks"
JUDGED_TEXT = "promptbench.judged_text"
"""Hash of all that a verdict is about: rubric, scenario vars, outputs. Equal hashes share verdicts."""
VERDICT = "promptbench.verdict."
"""Prefix of one tag per judge: ``promptbench.verdict.<tier>.<name>``, JSON with scores, time and rationale."""
SECOND_VERDICT = "promptbench.second_verdict."
"""Likewise what the same judge said when it saw the candidate once more."""
FAILED_VERDICT = "promptbench.failed_verdict."
"""Likewise that an automatic judge gave no valid reply, and what was wrong with it."""
AUDIT = "promptbench.audit."
"""Prefix of one tag per audit that drew the candidate, ``promptbench.audit.<id>``: a ``records.Draw`` as JSON."""
AUDITED = "promptbench.audited"
"""The id of the audit whose packet brought the first sit-down verdict."""
CHECKED = "promptbench.checked"
"""The id of the audit whose packet brought a person's first verdict, where Claude Code had judged before."""
SAMPLING = "promptbench.sampling_probability"
MANY = (VERDICT, SECOND_VERDICT, FAILED_VERDICT, AUDIT)
"""The prefixes of which a run may have many tags."""
AUTO = "auto/"
"""Prefix of the metrics that an automatic judge's verdict sets."""
_FAILURE = "failure"


@dataclass(frozen=True, kw_only=True)
class Logged(Record):
    """A candidate with all that its run has to say. ``tags`` are the user's, from ``--bench-tag``."""

    candidate: Candidate
    rubric: Rubric
    session: str
    checks: Mapping[str, bool | float] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        candidate: Candidate,
        rubric: Rubric,
        *,
        session: str,
        redact: Callable[[str], str],
        tags: Mapping[str, str] | None = None,
    ) -> Logged:
        """With what programs fill of the rubric: nothing of a failed candidate, as one is that a scorer fails on.

        ``redact`` cleans what that scorer says of keys.
        """
        checks: Mapping[str, bool | float] = {}
        if not candidate.failed:
            try:
                checks = fill_checks(rubric, candidate.outputs, candidate.cell.scenario.vars)
            except ScorerError as error:
                candidate = candidate.unscored(redact(f"not scored: {error}"))
        return cls(candidate=candidate, rubric=rubric, session=session, checks=checks, tags=tags or {})

    @property
    def key(self) -> str:
        """Identity of the candidate in an experiment: what was asked under which names, what came, who judges by what.

        The last is the rubric, and the scenario's vars that only judges see.
        """
        return self._key(None if self.candidate.failed else list(self.candidate.outputs))

    def _key(self, outputs: list[str] | None) -> str:
        cell = self.candidate.cell
        return sha256([cell.task, *cell.names, cell.content, outputs, self.rubric.sha256])

    @property
    def judged_text(self) -> str:
        return judged_text(self.rubric.sha256, self.candidate.cell.scenario.vars, self.candidate.outputs)

    def entry(self, experiment: str) -> Entry:
        """To be handed over; see :func:`failure_of`."""
        failure = {} if self.candidate.failed else {_FAILURE: self._key(None)}
        record = {**self.to_json(), **failure}
        return Entry(experiment=experiment, candidate=self.key, record=record, session=self.session)


def failure_of(entry: Entry) -> str | None:
    """Of an answer: the key that its cell's failure has, whose run it completes."""
    return entry.record.get(_FAILURE)


def judged_text(rubric_sha256: str, context: Mapping[str, Any], outputs: tuple[str, ...]) -> str:
    """The hash of all that a judge sees: where it is equal, a verdict is carried over (the tag ``JUDGED_TEXT``)."""
    return sha256([rubric_sha256, dict(context), list(outputs)])


def storable(text: str) -> str:
    """Text that every database under MLflow takes: lone surrogates and NUL become visible stand-ins."""
    return text.encode("utf-8", "replace").decode("utf-8").replace("\x00", "\u2400")


def storable_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Likewise, and of a length that MLflow takes."""
    return {k: storable(v)[:TAG_LIMIT] for k, v in tags.items()}
