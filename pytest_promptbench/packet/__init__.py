"""Judge packets: pending candidates go out blind, scores come back and are matched with what is stored.

What a packet holds is data from the first step to the last. Outputs are carried and compared, never interpreted; what a
judge wrote is checked against the rubric before any of it becomes a verdict, and one mistake refuses the whole packet.
"""

from __future__ import annotations

from .aside import is_foreign, set_aside
from .build import build_packet, item_id, item_ids
from .document import PACKET_SCHEMA, Packet, PacketItem, PacketOutput, parse_packet
from .file import NoJsonError, decode_packet, read_packet, write_packet
from .matching import Matched, match_verdicts

__all__ = [
    "PACKET_SCHEMA",
    "Matched",
    "NoJsonError",
    "Packet",
    "PacketItem",
    "PacketOutput",
    "build_packet",
    "decode_packet",
    "is_foreign",
    "item_id",
    "item_ids",
    "match_verdicts",
    "parse_packet",
    "read_packet",
    "set_aside",
    "write_packet",
]
