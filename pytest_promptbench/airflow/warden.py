"""What stands between a pytest process and its runner: a runner that is killed takes its pytest with it.

    python -IS warden.py GONE,OUTPUT,HELD,... COMMAND ...

becomes ``COMMAND``, and leaves a fork of itself behind that reads the pipe ``GONE``, whose other end the runner has.
Its end while the command lives means that nobody hears the command any more, nor ends it; a byte before, that the
runner has begun to end it. ``OUTPUT`` is where the command's output is read: the fork reads on where the runner is
gone, as a pytest that can write nowhere ends at once, with answers on their way that are paid for. ``HELD`` are
descriptors that the fork keeps open meanwhile, such as a lock. Run as a file, in isolation: it needs the standard
library alone.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable

STEPS = ((signal.SIGINT, 20.0), (signal.SIGTERM, 5.0), (signal.SIGKILL, 2.0))
"""As Ctrl-C first: pytest then keeps what is paid for, logs it and ends its workers. In seconds, how long each gets."""

NOT_STARTED = 127
"""Exit code where there is no such command, as a shell's; none of pytest's."""


def end_group(group: int, *, meanwhile: Callable[[], object], begun: float | None = None) -> None:
    """End the processes of a group, each step harder than the last. ``meanwhile`` is called every now and then.

    A dead leader belongs to its group until its parent has asked for its end, so the parent does that meanwhile.
    ``begun``: when this was begun before, by whoever it was; it goes on from there, as a second Ctrl-C would give up
    what the first one has pytest wait for.
    """
    now = time.monotonic()
    deadline = now if begun is None else begun
    for sign, patience_s in STEPS:
        left = _signalled(group, 0 if deadline < now else sign)
        deadline += patience_s
        while left and time.monotonic() < deadline:
            meanwhile()
            left = _signalled(group, 0)
            time.sleep(0.1)
        if not left:
            return


def _signalled(group: int, sign: int) -> bool:
    """Send a signal to a group; False where nobody is left in it."""
    try:
        os.killpg(group, sign)
    except ProcessLookupError:
        return False
    return True


def _watch(gone: int, output: int, leader: int) -> None:
    os.setsid()  # what is meant for the group is not meant for its warden
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):  # who reads the command's output waits for the last who could write there
        os.dup2(null, descriptor)
    begun = None
    while os.read(gone, 1):
        begun = time.monotonic()
    if os.getppid() == leader:  # else it has ended, and its number may be another's
        os.set_blocking(output, False)
        end_group(leader, meanwhile=lambda: _drain(output), begun=begun)


def _drain(output: int) -> None:
    """Read what has been written; nobody hears it any more."""
    try:
        while os.read(output, 65536):
            pass
    except BlockingIOError:
        pass


def main(argv: list[str]) -> None:
    """The command line above. The process has to lead a group of its own."""
    held, command = [int(number) for number in argv[0].split(",")], argv[1:]
    # An ignored SIGINT, which whatever a shell starts with "&" inherits, would go on to the command.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    leader = os.getpid()
    try:
        if os.fork() == 0:
            try:
                _watch(held[0], held[1], leader)
            finally:
                os._exit(0)
        for number in held:
            os.set_inheritable(number, False)
        os.execvp(command[0], command)  # noqa: S606 - a list of arguments, and no shell
    except OSError as error:
        sys.stderr.write(f"ERROR: cannot start {command[0]}: {error.strerror}\n")
        sys.exit(NOT_STARTED)


if __name__ == "__main__":
    main(sys.argv[1:])
