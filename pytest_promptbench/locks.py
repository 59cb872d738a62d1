"""Many named locks between processes, in one empty file; and a lock on a folder, for a moment.

Each name is one byte of a sparse file, locked with POSIX record locks. The kernel drops a lock when its process ends,
however it ends, so nothing has to be cleaned up after a crash and a free lock proves that its owner is gone.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self


class LockFile:
    """The locks of one file. Locks are per process: within one, a name that is held is simply not free.

    POSIX drops all of a process's record locks on a file as soon as *any* descriptor of it is closed, so a process
    should hold one LockFile a path and keep it for its life.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._held: set[str] = set()
        self._mutex = threading.Lock()

    def try_acquire(self, name: str) -> bool:
        """Take ``name`` if nobody has it, this process included. Never waits."""
        with self._mutex:
            if name in self._held:
                return False
            try:
                fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _offset(name))
            except OSError:
                return False
            self._held.add(name)
            return True

    def acquire(self, name: str) -> None:
        """Take ``name``, waiting for as long as another process has it."""
        fcntl.lockf(self._fd, fcntl.LOCK_EX, 1, _offset(name))
        with self._mutex:
            self._held.add(name)

    def release(self, name: str) -> None:
        with self._mutex:
            if name in self._held:
                self._held.discard(name)
                fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, _offset(name))

    def is_free(self, name: str) -> bool:
        """Whether no process, this one included, holds ``name`` at this moment."""
        if self.try_acquire(name):
            self.release(name)
            return True
        return False

    def close(self) -> None:
        """Drop every lock this process holds in the file."""
        with self._mutex:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1
            self._held.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """One process at a time, and one thread of it, for what takes a moment.

    SQLite refuses at once, whatever the time-out, who makes a write-ahead log of a new file beside somebody else.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _offset(name: str) -> int:
    """A byte for the name among 2**60: two of a session's names meet with a chance of about 1e-12."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 4
