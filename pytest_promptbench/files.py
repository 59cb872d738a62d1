"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import secrets
from pathlib import Path


def replace_file(path: Path, content: str | bytes) -> None:
    """Write a file, a text as UTF-8, in place of what is there. A reader sees the old file or the new, never a part.

    The draft beside it is hidden, and nobody else's. OSError that names the file, also where it is ``/dev/null`` or
    another thing that is no file and would be gone; ValueError for a path or text that cannot be.
    """
    data = content.encode() if isinstance(content, str) else content
    if path.exists() and not path.is_file() and not path.is_dir():
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    draft = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        draft.write_bytes(data)
        draft.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None  # nobody knows of the draft
    finally:
        with contextlib.suppress(OSError, ValueError):
            draft.unlink()


def try_folder(folder: Path) -> None:
    """Make sure that files can be written into a folder, which is made where it is missing. OSError where they cannot.

    By writing one: what a file system and a container allow is not to be told from permissions.
    """
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f".{secrets.token_hex(8)}.tmp"
    replace_file(draft, "")
    draft.unlink()
