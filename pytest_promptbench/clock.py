"""Moments, as they are written down: ISO 8601 in UTC, so that times sort as text. And what a session measures by.

A test may freeze time (freezegun, time-machine) while answers come beside it. What they mock is what ``time.time`` and
``time.monotonic`` say, in every thread; pauses would end in years, and answers would have come long ago.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime

# With the time that the machine slept, where the system has that.
_SINCE_BOOT = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
_BOOTED_AT = time.time() - time.clock_gettime(_SINCE_BOOT)


def steady() -> float:
    """Seconds that only ever go forward, whatever a test does to time: for pauses and durations."""
    return time.clock_gettime(time.CLOCK_MONOTONIC)


def now() -> float:
    """Seconds since the epoch, by what the system's clock said when this process began."""
    return _BOOTED_AT + time.clock_gettime(_SINCE_BOOT)


def iso_utc(seconds: float, *, timespec: str = "milliseconds") -> str:
    """A moment in seconds since the epoch."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec=timespec).replace("+00:00", "Z")


def utc_now(*, timespec: str = "milliseconds") -> str:
    """The moment of the call."""
    return datetime.now(UTC).isoformat(timespec=timespec).replace("+00:00", "Z")
