"""What somebody has scored is kept where another packet takes its place."""

from __future__ import annotations

import itertools
from pathlib import Path

from ..errors import PacketError
from ..files import is_regular
from .document import PACKET_SCHEMA, parse_packet
from .file import read_packet


def set_aside(file: Path, aside: Path) -> Path | None:
    """Move what is no packet, or one that somebody has scored, applied or not; to ``aside``, or a free name like it.

    Where it is now; None where nothing is there that is to be kept. OSError.
    """
    if not is_regular(file) or _is_unscored(file):
        return None
    numbers = itertools.chain([""], (f"-{i}" for i in itertools.count(2)))
    aside = next(p for n in numbers if not (p := aside.with_name(f"{aside.stem}{n}{aside.suffix}")).exists())
    aside.parent.mkdir(exist_ok=True)
    file.rename(aside)
    return aside


def is_foreign(file: Path) -> bool:
    """Whether a file has a text that was never a packet, not even one that editing has spoilt. OSError."""
    content = file.read_bytes() if is_regular(file) else b""
    content = content.replace(b"\0", b"").replace(b"\\/", b"/")  # in UTF-16, too, and as some programs write a slash
    return bool(content.strip()) and PACKET_SCHEMA.rpartition("/")[0].encode() not in content


def _is_unscored(file: Path) -> bool:
    """Whether a file is a packet without a single answer of a judge's."""
    try:
        packet = parse_packet(read_packet(file))
    except PacketError:
        return False  # perhaps hours of somebody's scores and one comma too many
    filled = {c.name for c in packet.rubric.criteria if c.check}
    return all(
        output.rationale is None and all(v is None for k, v in output.scores.items() if k not in filled)
        for item in packet.items
        for output in item.candidates
    )
