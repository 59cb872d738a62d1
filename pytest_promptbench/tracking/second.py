"""A second writer beside the first: on a machine with several cores, where more candidates wait than one can write."""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import time
from collections.abc import Iterator

from ..ledger import HEX
from .recorder import Where
from .store import load_mlflow
from .work import SECOND_SHARE, Work, second_lock

HELP_FROM = 40
"""So many candidates have to wait before a second writer helps the first."""
IDLE_S = 0.05


class Second:
    """The second writer, as the first one sees it: a fork that helps where more waits than one can write.

    Both write at once only then, since each waits for the other's transactions. It takes candidates whose key ends in
    one of ``SECOND_SHARE``, and holds a lock meanwhile, without which the first one takes them. It lives until it
    fails or the first one ends.
    """

    def __init__(self, where: Where) -> None:
        self._pid = 0
        self._where = where
        self._at_work = mmap.mmap(-1, 1)  # shared with the fork: whether it is in the middle of its candidates
        self._open = mmap.mmap(-1, 1)  # likewise: whether its store is open
        self._hurry = mmap.mmap(-1, 1)  # likewise: whether the session waits for the last of them
        if (os.cpu_count() or 1) < 2:
            return
        import gc

        load_mlflow()
        gc.freeze()  # what both have imported stays shared, and is not looked through again
        parent = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            try:
                self._live(parent)
            finally:
                os._exit(0)

    def _live(self, parent: int) -> None:
        """The fork's life. Whatever goes wrong ends it: the first writer takes over, and says what it was."""
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1):  # the pipe to the session is the first one's alone
            os.dup2(null, descriptor)
        where, session = self._where, self._where.session
        work = Work(where, share=SECOND_SHARE)
        work.locks.acquire(second_lock(session))  # while it lives, no other session takes over what it may be writing
        while os.getppid() == parent:
            if not work.needs_help(0 if self._hurry[0] else HELP_FROM):
                time.sleep(IDLE_S)
                continue
            work.locks.acquire(_wanted_lock(session))
            work.locks.acquire(_share_lock(session))
            work.locks.release(_wanted_lock(session))
            self._at_work[0] = 1
            work.store.open()
            self._open[0] = 1
            batch = work.mine()
            if batch:
                work.log(batch)
            self._at_work[0] = 0
            work.locks.release(_share_lock(session))
            if not batch:
                time.sleep(IDLE_S)

    @property
    def alive(self) -> bool:
        if self._pid and os.waitpid(self._pid, os.WNOHANG) != (0, 0):
            self._pid = 0
        return self._pid != 0

    def hurry(self) -> None:
        """The session waits: help with what there is, but open no store for it, which takes as long as some of it."""
        self._hurry[0] = self._open[0]

    @contextlib.contextmanager
    def share(self, work: Work) -> Iterator[None]:
        """The share is the first writer's too, unless the second one has it, wants it, or helps with all there is."""
        session = self._where.session
        work.share = HEX.replace(SECOND_SHARE, "")
        taken = (self._hurry[0] and self.alive) or not work.locks.is_free(_wanted_lock(session))
        if taken or not work.locks.try_acquire(_share_lock(session)):
            yield
            return
        try:
            work.share = HEX
            if self._at_work[0]:  # it died in the middle
                self._at_work[0] = 0
                work.store.forget()
            yield
        finally:
            work.locks.release(_share_lock(session))

    def end(self) -> None:
        if self.alive:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)


def _share_lock(session: str) -> str:
    return f"second-share:{session}"


def _wanted_lock(session: str) -> str:
    return f"second-share-wanted:{session}"
