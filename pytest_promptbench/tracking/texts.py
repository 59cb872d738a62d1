"""What candidates say, for pages and judges: a text that was logged or read once is not asked of MLflow again."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from ..errors import LedgerError, UsageError
from ..ledger import Ledger
from ..records import LoggedCandidate
from .recorder import Where
from .store import TrackingStore


class Reader(Protocol):
    """Who knows texts: an MLflow store, a recorder that has one, or ``Texts``."""

    def texts(self, candidates: Sequence[LoggedCandidate], *, unread: list[str]) -> list[LoggedCandidate]:
        """As :meth:`TrackingStore.texts`."""


class Texts:
    """The texts of a store's candidates, as the project's ledger has them, and else from the store."""

    def __init__(self, store: TrackingStore, ledger: Ledger, where: Where) -> None:
        self._store, self._ledger, self._where = store, ledger, where

    def known(self, candidates: Sequence[LoggedCandidate]) -> list[LoggedCandidate]:
        """The same candidates, with the texts that the ledger has."""
        keys: dict[str, list[str]] = {}
        for c in candidates:
            keys.setdefault(c.experiment, []).append(c.candidate)
        kept: dict[tuple[str, str], str] = {}
        for experiment, some in keys.items():
            kept |= self._ledger.texts(self._where.store_name, experiment, some)
        return [_fill(c, kept.get((c.run_id, c.candidate))) for c in candidates]

    def texts(self, candidates: Sequence[LoggedCandidate], *, unread: list[str]) -> list[LoggedCandidate]:
        """As :meth:`TrackingStore.texts`. A ledger that fails is done without."""
        with contextlib.suppress(LedgerError):
            candidates = self.known(candidates)
        missing = {c.run_id for c in candidates if c.outputs is None}
        whole = self._store.texts(candidates, unread=unread)
        with contextlib.suppress(LedgerError):
            self._keep([c for c in whole if c.run_id in missing])
        return whole

    def _keep(self, read: Collection[LoggedCandidate]) -> None:
        """For the next time; but what has failed may be completed yet."""
        kept = [
            (c.experiment, c.candidate, c.run_id, text_of(c.outputs, c.context or {}))
            for c in read
            if c.outputs and c.error is None
        ]
        if kept:
            self._ledger.know(self._where.store_name, kept, session=self._where.session)


@contextlib.contextmanager
def texts_of(store: TrackingStore, where: Where) -> Iterator[Reader]:
    """The ``Texts`` of a store; itself where the project's ledger cannot be opened."""
    try:
        ledger = Ledger(Path(where.ledger))
    except UsageError:
        yield store
        return
    try:
        yield Texts(store, ledger, where)
    finally:
        ledger.close()


def text_of(outputs: Sequence[str], context: Mapping[str, Any]) -> str:
    """What a candidate says, as the ledger keeps it."""
    return json.dumps({"outputs": list(outputs), "context": dict(context)})


def _fill(candidate: LoggedCandidate, kept: str | None) -> LoggedCandidate:
    if kept is None or candidate.outputs is not None:
        return candidate
    texts = json.loads(kept)
    return dataclasses.replace(candidate, outputs=tuple(texts["outputs"]), context=texts["context"])
