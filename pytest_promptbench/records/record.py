"""The base of the records, and what JSON means here: one text of a value, its hash, no key twice."""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
import math
import types
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Self, Union, get_args, get_origin, get_type_hints


def canonical_json(value: object) -> str:
    """The one JSON text of a value: sorted keys, no spaces, non-ASCII kept. Two equal values give equal texts."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256(value: object) -> str:
    """Hex SHA-256 of a string's UTF-8 bytes, or of any other value's canonical JSON.

    Lone surrogates, which a broken provider may send, are hashed as they are instead of raising.
    """
    text = value if isinstance(value, str) else canonical_json(value)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def is_number(value: object) -> bool:
    """Whether it is a finite JSON number; true and false are none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


class DuplicateKeyError(ValueError):
    """An object of a JSON text has the key ``key`` twice, so that one of its values would be lost in silence."""

    def __init__(self, key: str) -> None:
        super().__init__(f"the key {key!r} stands twice; remove one")
        self.key = key


def unique_keys(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """``object_pairs_hook`` of ``json.loads`` that raises DuplicateKeyError."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise DuplicateKeyError(key)
        found[key] = value
    return found


@cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def _build(hint: Any, value: Any) -> Any:
    """``value``, as it came from JSON, in the shape that the annotation ``hint`` names."""
    if value is None:
        return None
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        for arg in args:
            if isinstance(arg, type) and issubclass(arg, Record):
                return arg.from_json(value)
            if get_origin(arg) in (tuple, Mapping, dict):
                return _build(arg, value)
        return value
    if isinstance(hint, type) and issubclass(hint, Record):
        return hint.from_json(value)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return hint(value)
    if origin is tuple:
        return tuple(_build(args[0], v) for v in value)
    if origin in (Mapping, dict):
        return {k: _build(args[1], v) for k, v in value.items()}
    return value


def plain(value: Any) -> Any:
    if isinstance(value, Record):
        return value.to_json()
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Mapping):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [plain(v) for v in value]
    return value


class Record:
    """Base of the frozen records: ``to_json`` gives plain values, ``from_json`` takes them back."""

    def to_json(self) -> dict[str, Any]:
        return {f.name: plain(getattr(self, f.name)) for f in dataclasses.fields(self)}  # type: ignore[arg-type]

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        hints = _hints(cls)  # type: ignore[arg-type] # a class is hashable, whatever mypy thinks of Self
        return cls(**{k: _build(hints[k], v) for k, v in data.items() if k in hints})
