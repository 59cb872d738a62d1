"""Moments, as they are written down: ISO 8601 in UTC, so that times sort as text."""

from __future__ import annotations

from datetime import UTC, datetime


def iso_utc(seconds: float, *, timespec: str = "milliseconds") -> str:
    """A moment in seconds since the epoch."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec=timespec).replace("+00:00", "Z")


def utc_now(*, timespec: str = "milliseconds") -> str:
    """The moment of the call."""
    return datetime.now(UTC).isoformat(timespec=timespec).replace("+00:00", "Z")
