"""What generation needs of whoever asks the providers."""

from __future__ import annotations

from typing import Protocol

from ..records import Answer, Request


class Completer(Protocol):
    """Makes one request of a provider. Raises TransientError or PermanentError, never anything else on purpose."""

    def prepare(self) -> None:
        """Load what is slow to load. Called once, in a thread of its own."""

    async def complete(self, request: Request) -> Answer: ...

    async def close(self) -> None:
        """Close what was opened in the running loop, which is about to end."""

    def worst_cost_usd(self, request: Request) -> float | None:
        """An upper estimate of what the request may cost, in US dollars; None where the price is unknown."""

    def redact(self, text: str) -> str:
        """The text with every known secret's value replaced."""
