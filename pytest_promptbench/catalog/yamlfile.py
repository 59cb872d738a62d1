"""YAML that remembers its lines and refuses what surprises.

YAML 1.2's core schema on PyYAML's parser (libyaml's where it is there): only ``true`` and ``false`` are booleans, dates
and hexadecimal numbers stay text, a key that stands twice is an error, and neither aliases nor nesting can blow up,
because values are built from the parser's events with a budget, and aliases share what they name.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..errors import CatalogError

MAX_BYTES = 10 << 20
MAX_SIZE = 500_000
"""Of a document with its aliases expanded: one for each value, and one more for every 100 characters of text."""
MAX_DEPTH = 40
MAX_DIGITS = 300  # a number with more does not fit into a float

Where = tuple[str | int, ...]

_PARSER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
HALF_CHARACTER = re.compile("[\ud800-\udfff]")
"""A lone surrogate, which JSON and YAML can write and neither a store nor a provider takes."""
_CORE = "tag:yaml.org,2002:"
_PLAIN = {
    "null": re.compile(r"~|null|Null|NULL|"),
    "bool": re.compile(r"true|True|TRUE|false|False|FALSE"),
    "int": re.compile(r"[-+]?[0-9]+"),
    "float": re.compile(
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
    ),
}
_OURS, _SPLIT, _THEIRS = (re.compile(f"^{mark}", re.MULTILINE) for mark in ("<{7} ", "={7}$", ">{7} "))
"""The marks of a merge that was left undone, at the beginning of their lines."""
_REMEDIES = {
    "cannot start any token": "indent with spaces, not tabs, and put a text that begins with @, ` or % in quotes",
    "tab character": "indent with spaces, not tabs",
    "mapping values are not allowed": "put a text that holds ': ' in quotes",
    "expected ',' or": "close the brace or bracket, and put a text that holds ': ' or a quote in quotes",
}


@dataclass(frozen=True, kw_only=True)
class Located:
    """A document's plain values, and the line at which each key or item stands. ``name``: what to call the whole."""

    file: Path
    data: Any
    lines: Mapping[Where, int]
    name: str = "the file"

    def line(self, where: Where) -> int:
        """The line of ``where``, or of the nearest thing around it."""
        for end in range(len(where), -1, -1):
            if where[:end] in self.lines:
                return self.lines[where[:end]]
        return 1


def is_file(path: Path) -> bool:
    """Whether a file is there; False where the system cannot even look (a name that is too long, a closed folder).

    CatalogError for what is there and is none: its writer takes it for one, and would miss it in what was read.
    """
    if os.path.isfile(path):  # noqa: PTH113 - Path.is_file raises for a name too long
        return True
    if not os.path.lexists(path):
        return False
    what = "a link that leads to no file" if path.is_symlink() else "a folder" if path.is_dir() else "no regular file"
    raise CatalogError(f"{path}: is {what}; expected a file, so put one there or take it away")


def is_folder(path: Path) -> bool:
    """``Path.is_dir``, and False for a name that is too long."""
    return os.path.isdir(path)  # noqa: PTH112 - Path.is_dir raises for it


def check_open(folder: Path, how: int = os.X_OK) -> None:
    """CatalogError for a folder that is there and closed: what is in it would be taken for missing."""
    if is_folder(folder) and not os.access(folder, how):
        raise CatalogError(f"{folder}: cannot be read: Permission denied")


def read_text(file: Path) -> str:
    """A user's file as text with plain newlines; CatalogError where it is missing, too large, not UTF-8 or unmerged."""
    is_file(file)  # a pipe would be waited for
    try:
        with file.open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise CatalogError(f"{file}: there is no such file") from None
    except OSError as error:
        raise CatalogError(f"{file}: cannot be read: {error.strerror}") from None
    if len(raw) > MAX_BYTES:
        raise CatalogError(f"{file}: is larger than {MAX_BYTES:,} bytes, the most that is read; split it")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise CatalogError(f"{file}:{line}: is not UTF-8 (byte {raw[error.start]:#04x}); save it as UTF-8") from None
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if file.suffix.lower() != ".csv":  # whose cells may hold any lines; a row of marks is told where rows are read
        _refuse_unmerged(text, file)
    return text


def _refuse_unmerged(text: str, file: Path) -> None:
    """A rubric's Markdown, or a text of several lines, would take the marks of a merge for its own."""
    ours = _OURS.search(text)
    split = ours and _SPLIT.search(text, ours.end())
    if ours and split and _THEIRS.search(text, split.end()):
        line = text[: ours.start()].count("\n") + 1
        raise unmerged(f"{file}:{line}")


def unmerged(place: str) -> CatalogError:
    return CatalogError(f"{place}: holds a merge conflict; keep what belongs, and remove the lines with its marks")


def parse(text: str, file: Path, *, first_line: int = 1) -> Located:
    """One YAML document. ``first_line`` is where ``text`` begins in ``file``. CatalogError names file and line."""
    bad = _UNPRINTABLE.search(text)
    if bad:
        line = text.count("\n", 0, bad.start()) + first_line
        raise CatalogError(f"{file}:{line}: holds the control character U+{ord(bad[0]):04X}; remove it")
    builder = _Builder(file, first_line)
    events = yaml.parse(text, Loader=_PARSER)
    try:
        data = builder.document(events)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = (mark.line if mark else 0) + first_line
        what = " ".join(str(x) for x in (error.context, error.problem) if x)
        remedy = "".join(f"; {remedy}" for problem, remedy in _REMEDIES.items() if problem in what)
        raise CatalogError(f"{file}:{line}: is not valid YAML: {what}{remedy}") from None
    except yaml.YAMLError as error:
        raise CatalogError(f"{file}: is not valid YAML: {' '.join(str(error).split())}") from None
    return Located(file=file, data=data, lines=builder.lines)


@dataclass(frozen=True)
class _Anchored:
    """What an alias stands for: the value, its size, and how many levels it holds."""

    value: Any
    size: int
    height: int


class _Builder:
    """Parser events -> plain values, keeping count of lines, size and depth."""

    def __init__(self, file: Path, first_line: int) -> None:
        self.file, self.first_line = file, first_line
        self.lines: dict[Where, int] = {}
        self.anchors: dict[str, _Anchored] = {}
        self.size = 0
        self.deepest = 0

    def fail(self, event: Any, message: str) -> CatalogError:
        return CatalogError(f"{self.file}:{self.line(event)}: {message}")

    def line(self, event: Any) -> int:
        line: int = event.start_mark.line
        return line + self.first_line

    def document(self, events: Iterator[Any]) -> Any:
        """The only document of a stream; None for an empty one."""
        data = None
        documents = 0
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise self.fail(event, "another document begins here; a file holds one, so remove the second '---'")
                data = self.build(next(events), events, (), 0)
        return data

    def build(self, event: Any, events: Iterator[Any], where: Where, depth: int) -> Any:
        """The value that begins with ``event``; takes the rest of it from ``events``."""
        self.lines.setdefault(where, self.line(event))
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, depth)
        before, outer = self.size, self.deepest
        self._spend(event, 1, depth)
        self.deepest = depth
        if isinstance(event, yaml.MappingStartEvent):
            self._plain_tag(event, "map")
            value: Any = self._mapping(events, where, depth)
        elif isinstance(event, yaml.SequenceStartEvent):
            self._plain_tag(event, "seq")
            value = self._sequence(events, where, depth)
        else:
            self._spend(event, len(event.value) // 100, depth)
            value = self._scalar(event)
        if event.anchor is not None:
            self.anchors[event.anchor] = _Anchored(value, self.size - before, self.deepest - depth)
        self.deepest = max(outer, self.deepest)
        return value

    def _spend(self, event: Any, size: int, depth: int) -> None:
        self.size += size
        if depth > MAX_DEPTH:
            raise self.fail(event, f"is nested too deeply; at most {MAX_DEPTH} levels are read")
        if self.size > MAX_SIZE:
            raise self.fail(event, f"holds more than {MAX_SIZE:,} values once its aliases are expanded; split it")

    def _alias(self, event: Any, depth: int) -> Any:
        known = self.anchors.get(event.anchor)
        if known is None:
            raise self.fail(event, f"the alias *{event.anchor} names nothing that ends above it; write the value out")
        self._spend(event, known.size, depth + known.height)
        self.deepest = max(self.deepest, depth + known.height)
        return known.value

    def _plain_tag(self, event: Any, kind: str) -> None:
        if event.tag not in (None, "!", _CORE + kind):
            raise self._unsupported(event)

    def _unsupported(self, event: Any) -> CatalogError:
        tag = event.tag.replace(_CORE, "!!")
        return self.fail(event, f"the tag {tag} is not supported; write plain values")

    def _sequence(self, events: Iterator[Any], where: Where, depth: int) -> list[Any]:
        result: list[Any] = []
        while not isinstance(event := next(events), yaml.SequenceEndEvent):
            result.append(self.build(event, events, (*where, len(result)), depth + 1))
        return result

    def _mapping(self, events: Iterator[Any], where: Where, depth: int) -> dict[str, Any]:
        result: dict[str, Any] = {}
        while not isinstance(event := next(events), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent):
                raise self.fail(event, "a key must be plain text; put a text that begins with { or [ in quotes")
            key: str = event.value
            if key == "<<" and event.implicit[0]:
                raise self.fail(event, "merge keys (<<) are not supported; write the keys out")
            if key in result:
                first = self.lines[(*where, key)]
                raise self.fail(event, f"the key {key!r} stands twice, first at line {first}; remove one")
            self.lines[(*where, key)] = self.line(event)
            result[key] = self.build(next(events), events, (*where, key), depth + 1)
        return result

    def _scalar(self, event: Any) -> Any:
        text: str = event.value
        if half := HALF_CHARACTER.search(text):
            raise self.fail(event, f"holds {half[0]!r}, which is half a character; write the character itself")
        if event.tag is None:
            plain = event.implicit[0]
            kind = next((k for k, pattern in _PLAIN.items() if pattern.fullmatch(text)), "str") if plain else "str"
        else:
            kind = "str" if event.tag == "!" else event.tag.removeprefix(_CORE)
            if kind != "str" and (kind not in _PLAIN or not event.tag.startswith(_CORE)):
                raise self._unsupported(event)
            if kind != "str" and not _PLAIN[kind].fullmatch(text):
                raise self.fail(event, f"{text!r} does not fit its tag !!{kind}; write plain values")
        match kind:
            case "null":
                return None
            case "bool":
                return text.lower() == "true"
            case "int":
                if len(text) > MAX_DIGITS:
                    raise self.fail(
                        event, f"a number of {len(text):,} digits is too large; put it in quotes if it is a text"
                    )
                return int(text)
            case "float":
                value = float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
                if not math.isfinite(value):
                    raise self.fail(event, f"{text} is not a finite number")
                return value
        return text
