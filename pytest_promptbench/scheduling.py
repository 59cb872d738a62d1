"""All that depends on xdist: how many workers it starts, how it distributes tests, and which a worker has in its queue.

xdist chooses its scheduler before anything is collected. Evals want work stealing, because a worker that waits for slow
providers should not hold tests that another could run; other projects must keep what they have. So the scheduler here
gathers the workers' collections, and becomes one of xdist's own when they are complete and the evals among them known.
(The only import of xdist.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any


def workers(tx: Sequence[str]) -> int:
    """The number of processes that ``--tx`` asks for, as xdist reads it: ``2*popen`` are two. Without xdist, 1."""
    counts = (spec.partition("*") for spec in tx)
    return max(1, sum(int(count) if star and count.isdecimal() else 1 for count, star, _ in counts))


def queued(plugins: Iterable[object]) -> list[int]:
    """The places of the tests that this process was given as a worker and has not begun; none where it is no worker.

    xdist's hooks tell of one test ahead, its worker's queue of all. Where an xdist keeps it otherwise, nothing is known
    ahead, and each test is generated when its turn comes.
    """
    for worker in plugins:
        queue: Any = getattr(worker, "torun", None)
        following = getattr(worker, "nextitem_index", None)
        if hasattr(queue, "lock"):
            with queue.lock() as waiting:
                return [i for i in (following, *waiting) if isinstance(i, int)]
        if hasattr(queue, "mutex"):  # before xdist 3.7
            with queue.mutex:
                return [i for i in (following, *queue.queue) if isinstance(i, int)]
    return []


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
