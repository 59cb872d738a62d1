"""Named locks between processes."""

import subprocess
import sys
from pathlib import Path

from pytest_promptbench.locks import LockFile

HOLD = """
import sys
from pathlib import Path
from pytest_promptbench.locks import LockFile
locks = LockFile(Path(sys.argv[1]))
assert locks.try_acquire("a")
print("held", flush=True)
sys.stdin.read()
"""


def hold(path: Path) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_name_is_held_by_one_process_at_a_time(tmp_path: Path) -> None:
    locks = LockFile(tmp_path / "locks")
    other = hold(tmp_path / "locks")
    try:
        assert not locks.try_acquire("a")
        assert locks.try_acquire("b"), "another name must not be affected"
    finally:
        other.communicate()
    assert locks.try_acquire("a")


def test_a_killed_process_leaves_its_locks_free(tmp_path: Path) -> None:
    locks = LockFile(tmp_path / "locks")
    other = hold(tmp_path / "locks")
    assert not locks.is_free("a")
    other.kill()
    other.wait()
    assert locks.is_free("a")


def test_within_a_process_a_held_name_is_not_free(tmp_path: Path) -> None:
    with LockFile(tmp_path / "locks") as locks:
        assert locks.try_acquire("a")
        assert not locks.try_acquire("a")
        locks.release("a")
        assert locks.try_acquire("a")
