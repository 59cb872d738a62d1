"""A packet's file: JSON in UTF-8, written whole or not at all, read with suspicion."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import PacketError
from ..files import replace_file
from ..records import DuplicateKeyError, unique_keys
from .document import check_schema, plain, shown

MAX_BYTES = 200 * 1024 * 1024
MAX_WRITTEN_BYTES = MAX_BYTES * 3 // 4
"""What is written leaves room for a judge's scores and rationales: a packet must be readable once it is scored."""
LINE = 120
"""Scores stand on one line of the file where it has at most so many characters."""

_UNSEEN = re.compile(
    "[\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb\ufffe\uffff\U000e0000-\U000e007f]"
)
"""Controls, ends of lines that JSON does not have, what turns a line's direction or has no width (joiners stay, which
emoji are made with), halves of characters. In JSON they stand in texts alone.
"""

_REMEDIES = {
    r"\|(?i:true|false)\b": "write true or false, in small letters",
    r"\|(?i:none|n/a)\b": "a score that is not known is null",
    r"\|['\u2018-\u201f]": "put texts in straight double quotes",
    r",\|[0-9]": "a number has a decimal point, no comma",
    r",\|[}\]]|Illegal trailing comma": "take the comma before the bracket away",
    r"Expecting ',' delimiter": r"a comma is missing, or the backslash of a quote inside a text (\")",
    r"Invalid control character": r"a text stays on its line; a new line in it is \n",
}
"""What people make of JSON by hand: the reader's message, the last character before the place, ``|``, what follows."""


class NoJsonError(PacketError):
    """A packet's text is no JSON, or none that can be read."""


def write_packet(path: Path, packet: Mapping[str, Any], *, max_bytes: int = MAX_WRITTEN_BYTES) -> None:
    """Write a packet, making the folder where there is none. A reader sees the old file or the new, never a part.

    PacketError where the place cannot be written to, or the packet holds what JSON cannot, or more than could be read
    back.
    """
    try:
        data = _encoded(packet)
    except (TypeError, ValueError, RecursionError) as error:
        raise PacketError(f"{path}: this packet cannot be written as JSON: {error}") from None
    if len(data) > max_bytes:
        parts = "export it in parts, with --bench-shard 1/2 and so on"
        if packet.get("audit") is not None:  # which draws from all, whatever the shard
            parts = "draw fewer, with a smaller --judge-audit, and again when these are scored"
        raise PacketError(
            f"{path}: the packet would have {len(data):,} bytes, and at most {max_bytes:,} can be brought back with "
            f"scores: {parts}"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, data)
    except FileExistsError:
        raise PacketError(f"{path}: the packet cannot be written: its folder is a file") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise PacketError(f"{path}: the packet cannot be written: {_reason(error)}") from None


def _encoded(packet: Mapping[str, Any]) -> bytes:
    """Readable, but for what an editor would act upon instead of showing, and half characters: these as escapes."""
    return _UNSEEN.sub(lambda found: json.dumps(found[0])[1:-1], _laid_out(packet)).encode()


def _laid_out(packet: Mapping[str, Any]) -> str:
    """Each output's scores on one line: a judge reads, and an editor replaces, that instead of one line a criterion."""
    text = json.dumps(packet, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    return re.sub(r'^ +"scores": \{\n[^{}]*\}', _on_one_line, text, flags=re.MULTILINE)


def _on_one_line(lines: re.Match[str]) -> str:
    """An object's text without line breaks, if it is short. No text changes: in JSON, none holds a line break."""
    first, *inner, last = lines[0].split("\n")
    joined = first + " ".join(line.strip() for line in inner) + last.strip()
    return joined if len(joined) <= LINE else lines[0]


def read_packet(path: Path, *, max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """The object in a packet's file, of a version that can be read; ``parse_packet`` looks at the rest.

    Stricter than JSON's readers are: no NaN, no Infinity, no key twice. PacketError says in one line what is wrong.
    """
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            raise PacketError(f"{path}: is no regular file, expected a packet's file")  # a pipe would be waited for
        with path.open("rb") as file:
            raw = file.read(max_bytes + 1)
    except FileNotFoundError:
        raise PacketError(f"{path}: there is no such packet") from None
    except IsADirectoryError:
        raise PacketError(f"{path}: is a folder, expected a packet's file") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise PacketError(f"{path}: the packet cannot be read: {_reason(error)}") from None
    if len(raw) > max_bytes:
        raise PacketError(f"{path}: the packet is too large; at most {max_bytes:,} bytes are read")
    try:
        return decode_packet(raw)
    except PacketError as error:
        raise type(error)(f"{path}: {error}") from None


def decode_packet(raw: bytes) -> dict[str, Any]:
    """What ``read_packet`` gives, of a packet that came without a file."""
    return check_schema(_decoded(raw))


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _decoded(raw: bytes) -> object:
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise NoJsonError(f"not UTF-8 (line {line}, byte {raw[error.start]:#04x}); save it as UTF-8") from None
    beyond: list[str] = []

    def number(written: str) -> float:
        value = float(written)
        if not math.isfinite(value):
            beyond.append(written)
        return value

    try:
        data = json.loads(text, object_pairs_hook=unique_keys, parse_constant=number, parse_float=number)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        if error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated string"):
            raise NoJsonError(f"not complete JSON: it ends too early or a string is open ({where})") from None
        around = f"{error.msg}: {text[: error.pos].rstrip()[-1:]}|{text[error.pos : error.pos + 10]}"
        remedy = next((f"; {remedy}" for sign, remedy in _REMEDIES.items() if re.search(sign, around)), "")
        raise NoJsonError(f"not JSON ({where}: {error.msg}){remedy}") from None
    except DuplicateKeyError as error:
        raise PacketError(f"the key {shown(error.key)} stands twice in one object") from None
    except ValueError:  # CPython's limit on the digits of an integer
        raise NoJsonError("not a packet: it holds a whole number of thousands of digits") from None
    except RecursionError:
        raise NoJsonError("not a packet: it is nested too deeply") from None
    if beyond:
        where, written = _first_not_finite(data), beyond[0]
        if written[-1].isdigit():
            raise PacketError(f"{where}the number {written[:80]} is too large")
        raise NoJsonError(f"{where}{written} is not JSON; a score that is not known is null")
    return data


def _first_not_finite(data: object) -> str:
    """The item and key of the first number that JSON does not have, as a message begins with them."""
    todo: list[tuple[str, str, object]] = [("", "", data)]
    while todo:
        item, key, value = todo.pop()
        if isinstance(value, dict):
            item = f"item {plain(value['item'])}: " if isinstance(value.get("item"), str) else item
            todo += [(item, f"{plain(k)}: ", v) for k, v in reversed(value.items())]
        elif isinstance(value, list):
            todo += [(item, key, v) for v in reversed(value)]
        elif isinstance(value, float) and not math.isfinite(value):
            return item + key
    return ""
