"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
from pathlib import Path


def replace_file(path: Path, content: str | bytes) -> None:
    """Write a file, a text as UTF-8, in place of what is there. A reader sees the old file or the new, never a part.

    Where it is a link, the file that it leads to is replaced. The draft beside it is hidden, and nobody else's. OSError
    that names the file, also where it is ``/dev/null`` or another thing that is no file and would be gone; ValueError
    for a path or text that cannot be.
    """
    data = content.encode() if isinstance(content, str) else content
    if path.exists() and not path.is_dir() and not is_regular(path):
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    target = Path(os.path.realpath(path)) if path.is_symlink() else path
    draft = target.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        draft.write_bytes(data)
        draft.replace(target)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None  # nobody knows of the draft
    finally:
        with contextlib.suppress(OSError, ValueError):
            draft.unlink()


def is_regular(path: Path) -> bool:
    """Whether a file is there, under a name of its own.

    ``/dev/stdout`` is none, even where the output goes into a file, as it does while pytest captures it.
    """
    names = [path, path.parent / path.readlink()] if path.is_symlink() else [path]
    return path.is_file() and not any(re.fullmatch(r"/proc/\d+/fd", os.path.realpath(p.parent)) for p in names)


def try_folder(folder: Path) -> None:
    """Make sure that files can be written into a folder, which is made where it is missing. OSError where they cannot.

    By writing one: what a file system and a container allow is not to be told from permissions.
    """
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f".{secrets.token_hex(8)}.tmp"
    replace_file(draft, "")
    draft.unlink()
