"""What can go wrong, as one tree.

::

    PromptbenchError            anything this package raises on purpose; the message is for a person
    ├── UsageError              the command line or the state it points at cannot be used (exit 4)
    │   ├── PacketError         a judge packet is unreadable, edited or does not fit
    │   └── BaselineError       a baseline is missing, unreadable or not comparable
    ├── CatalogError            a suite, prompt, model, rubric or scenario file is wrong (exit 2 while collecting)
    ├── ScorerError             a rubric's own Python function raised, or returned what its criterion does not take
    ├── GenerationError         a provider gave no usable answer
    │   ├── TransientError      worth another try: rate limit, 5xx, timeout, connection lost
    │   ├── PermanentError      not worth another try: wrong key, unknown model, bad request
    │   └── NotGeneratedError   nobody was asked: the session stopped, or its money is used up
    ├── LedgerError             answers and candidates cannot be kept: the disk is full, or the file cannot be written
    └── TrackingError           MLflow could not be reached or refused
        └── SpoiltError         what it holds of a candidate cannot be read

Every message names the file, key or item, the value found and what would be right.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .records import Answer

__all__ = [
    "BaselineError",
    "CatalogError",
    "GenerationError",
    "LedgerError",
    "NotGeneratedError",
    "PacketError",
    "PermanentError",
    "PromptbenchError",
    "ScorerError",
    "SpoiltError",
    "TrackingError",
    "TransientError",
    "UsageError",
]


class PromptbenchError(Exception):
    """Anything this package raises on purpose."""


class UsageError(PromptbenchError):
    """The command line, or something it points at, cannot be used as it stands."""


class PacketError(UsageError):
    """A judge packet cannot be read, or does not fit the experiment, rubric or candidates."""


class BaselineError(UsageError):
    """A baseline is missing, unreadable, or cannot be compared with this session."""


class CatalogError(PromptbenchError):
    """A file that a user wrote has a mistake; the message names file, line or key, and the remedy."""


class ScorerError(PromptbenchError):
    """A rubric's own Python function raised, or returned what its criterion does not take."""


class GenerationError(PromptbenchError):
    """A provider gave no usable answer for one request.

    ``unpaid`` is true where it answered with an error instead of generating, so that nothing is charged for it.
    """

    def __init__(self, message: str, *, unpaid: bool = False) -> None:
        super().__init__(message)
        self.unpaid = unpaid


class TransientError(GenerationError):
    """Worth another try after a pause.

    ``retry_after`` is what the provider asked for, in seconds; None where it asked for nothing.
    ``throttled`` is true for a rate limit (429, 503, 529), which also lowers the model's concurrency.
    """

    def __init__(
        self, message: str, *, retry_after: float | None = None, throttled: bool = False, unpaid: bool = False
    ) -> None:
        super().__init__(message, unpaid=unpaid)
        self.retry_after = retry_after
        self.throttled = throttled


class PermanentError(GenerationError):
    """Another try would end the same way.

    ``whole_model`` is true where no request to this model can succeed (wrong key, unknown model), so that the
    session need not ask again. ``refused`` is true where the provider refused this request for what is in it (HTTP
    400, 413, 422): the same question put otherwise may be answered. Both are where it may be either (HTTP 403): then it
    is the model that cannot be asked unless it has answered, or does so in the requests that are on their way.
    ``empty`` is its answer where that has no text, and has to be paid for all the same.
    """

    def __init__(
        self, message: str, *, whole_model: bool = False, refused: bool = False, empty: Answer | None = None
    ) -> None:
        super().__init__(message)
        self.whole_model = whole_model
        self.refused = refused
        self.empty = empty


class NotGeneratedError(GenerationError):
    """There is no answer: the session was stopped, it might pass ``--bench-max-cost``, or it was lost. Never logged."""


class LedgerError(PromptbenchError):
    """The ledger cannot be written, so nothing more may be paid for."""


class TrackingError(PromptbenchError):
    """MLflow could not be reached, or refused what was sent."""


class SpoiltError(TrackingError):
    """Somebody has written to a run in MLflow what none of ours holds, or has lost its files. Another try is no use."""
