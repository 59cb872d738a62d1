"""YAML that remembers its lines and refuses what surprises.

A YAML 1.2 core reader on PyYAML's parser: only ``true`` and ``false`` are booleans, dates stay text, a key that stands
twice is an error, and aliases or nesting cannot blow up.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..errors import CatalogError

MAX_BYTES = 10 << 20
MAX_NODES = 500_000
MAX_DEPTH = 40

Path_ = tuple[str | int, ...]


class _Loader(yaml.SafeLoader):
    """PyYAML's, with the implicit types of YAML 1.2's core schema."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's own name


for _tag, _pattern, _first in (
    ("tag:yaml.org,2002:null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("tag:yaml.org,2002:bool", r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("tag:yaml.org,2002:int", r"^[-+]?[0-9]+$", list("-+0123456789")),
    (
        "tag:yaml.org,2002:float",
        r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$",
        list("-+0123456789."),
    ),
):
    _Loader.add_implicit_resolver(_tag, re.compile(_pattern), _first)


@dataclass(frozen=True, kw_only=True)
class Located:
    """A document's plain values, and the line at which each key or item stands."""

    file: Path
    data: Any
    lines: Mapping[Path_, int]

    def line(self, where: Path_) -> int:
        """The line of ``where``, or of the nearest thing around it."""
        for end in range(len(where), -1, -1):
            if where[:end] in self.lines:
                return self.lines[where[:end]]
        return 1


def read_text(file: Path) -> str:
    """A user's file as text with plain newlines; CatalogError where it is missing, too large or not UTF-8."""
    try:
        raw = file.read_bytes()
    except FileNotFoundError:
        raise CatalogError(f"{file}: there is no such file") from None
    except OSError as error:
        raise CatalogError(f"{file}: cannot be read: {error.strerror}") from None
    if len(raw) > MAX_BYTES:
        raise CatalogError(f"{file}: has {len(raw):,} bytes; at most {MAX_BYTES:,} are read")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise CatalogError(f"{file}:{line}: is not UTF-8 (byte {raw[error.start]:#04x}); save it as UTF-8") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def parse(text: str, file: Path, *, first_line: int = 1) -> Located:
    """One YAML document. ``first_line`` is where ``text`` begins in ``file``. CatalogError names file and line."""
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = (mark.line if mark else 0) + first_line
        what = " ".join(str(x) for x in (error.context, error.problem) if x)
        raise CatalogError(f"{file}:{line}: is not valid YAML: {what}") from None
    except yaml.YAMLError as error:
        raise CatalogError(f"{file}: is not valid YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise CatalogError(f"{file}: is nested too deeply; at most {MAX_DEPTH} levels are read") from None
    builder = _Builder(file, first_line)
    data = builder.build(node, (), 0) if node is not None else None
    return Located(file=file, data=data, lines=builder.lines)


class _Builder:
    def __init__(self, file: Path, first_line: int) -> None:
        self.file, self.first_line = file, first_line
        self.lines: dict[Path_, int] = {}
        self.nodes = 0

    def fail(self, node: yaml.Node, message: str) -> CatalogError:
        return CatalogError(f"{self.file}:{node.start_mark.line + self.first_line}: {message}")

    def build(self, node: yaml.Node, where: Path_, depth: int) -> Any:
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise self.fail(node, f"holds more than {MAX_NODES:,} values once its aliases are expanded")
        if depth > MAX_DEPTH:
            raise self.fail(node, f"is nested too deeply; at most {MAX_DEPTH} levels are read")
        self.lines.setdefault(where, node.start_mark.line + self.first_line)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, where, depth)
        if isinstance(node, yaml.SequenceNode):
            return [self.build(child, (*where, i), depth + 1) for i, child in enumerate(node.value)]
        return self._scalar(node)

    def _mapping(self, node: yaml.MappingNode, where: Path_, depth: int) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = key_node.value
            if not isinstance(key, str):
                raise self.fail(key_node, "a key must be plain text")
            if key in result:
                first = self.lines[(*where, key)]
                raise self.fail(key_node, f"the key {key!r} stands twice, first at line {first}; remove one")
            self.lines[(*where, key)] = key_node.start_mark.line + self.first_line
            result[key] = self.build(value_node, (*where, key), depth + 1)
        return result

    def _scalar(self, node: yaml.Node) -> Any:
        text: str = node.value
        match node.tag.removeprefix("tag:yaml.org,2002:"):
            case "null":
                return None
            case "bool":
                return text.lower() == "true"
            case "int":
                return int(text)
            case "float":
                value = float(text.replace(".inf", "inf").replace(".nan", "nan"))
                if not math.isfinite(value):
                    raise self.fail(node, f"{text} is not a finite number")
                return value
            case "str":
                return text
        raise self.fail(node, f"the tag {node.tag} is not supported; write plain values")
