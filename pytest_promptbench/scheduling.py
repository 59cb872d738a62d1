"""How many workers xdist starts, and which distribution it uses, decided once it is known whether there are evals.

xdist chooses its scheduler before anything is collected. Evals want work stealing, because a worker that waits for slow
providers should not hold tests that another could run; other projects must keep what they have. So this scheduler
gathers the workers' collections, and becomes one of xdist's own when they are complete. (The only import of xdist.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


def workers(tx: Sequence[str]) -> int:
    """The number of processes that ``--tx`` asks for, as xdist reads it: ``2*popen`` are two. Without xdist, 1."""
    counts = (spec.partition("*") for spec in tx)
    return max(1, sum(int(count) if star and count.isdecimal() else 1 for count, star, _ in counts))


class LateScheduling:
    """xdist's ``load`` until the tests are known; then ``worksteal`` if ``wants_stealing`` says so."""

    def __init__(self, config: Any, log: Any, *, wants_stealing: Callable[[], bool]) -> None:
        from xdist.scheduler import LoadScheduling

        self._config, self._log, self._wants_stealing = config, log, wants_stealing
        self._inner: Any = LoadScheduling(config, log)
        self._decided = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    @property  # type: ignore[misc] # mypy takes it for a writable attribute; nobody writes it
    def __class__(self) -> Any:
        """What it has become: xdist prints the name."""
        return type(self._inner)

    @property
    def collection_is_completed(self) -> bool:
        """Whether every worker has told its tests; the first time that it is so, the decision falls."""
        complete = bool(self._inner.collection_is_completed)
        if complete and not self._decided:
            self._decided = True
            if self._wants_stealing():
                self._inner = self._stealing(self._inner)
        return complete

    def _stealing(self, gathered: Any) -> Any:
        from xdist.scheduler import WorkStealingScheduling

        scheduling = WorkStealingScheduling(self._config, self._log)
        for node in gathered.nodes:
            scheduling.add_node(node)
        collections: dict[Any, Sequence[str]] = gathered.node2collection
        for node, collection in collections.items():
            scheduling.add_node_collection(node, collection)
        return scheduling
