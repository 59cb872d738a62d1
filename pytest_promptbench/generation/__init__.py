"""Ask providers for answers: ahead of the tests, as fast as they allow, and never twice for the same thing.

An asyncio loop in a thread of each process works through a plan of cells in order, while the main thread runs tests
and waits only for the candidate that a test asks for. Four rules bound it:

* **Single flight.** One process at a time makes a request (a named lock); the others find its answer in the ledger.
* **Slots.** ``concurrency`` requests are in flight over the whole session. Each worker owns its share of the slots and
  borrows idle ones of the others, so that one busy worker can use them all.
* **Adaptive limit per model.** A 429, 503 or 529 lowers the number in flight to a model by a fifth (once per round
  trip), each success raises it by ``1 / limit``: additive increase, multiplicative decrease.
* **Backoff.** Transient errors are tried again after an exponential pause with full jitter (half of it where the
  provider is busy), or after what Retry-After says if that is longer. A pause holds no slot.

The module knows no LiteLLM: it takes a completer.
"""

from __future__ import annotations

from .budget import OVER_BUDGET
from .completer import Completer
from .generator import PATIENCE, Generator
from .limits import AdaptiveLimit, Limits, RetryPolicy, Slots, make_room
from .progress import Progress

__all__ = [
    "OVER_BUDGET",
    "PATIENCE",
    "AdaptiveLimit",
    "Completer",
    "Generator",
    "Limits",
    "Progress",
    "RetryPolicy",
    "Slots",
    "make_room",
]
