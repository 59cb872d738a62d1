"""The base of the records, and what JSON means here: one text of a value, its hash, no key twice."""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
import math
import types
from collections.abc import Callable, Mapping, Sequence
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
def _names(cls: type) -> tuple[str, ...]:
    return tuple(f.name for f in dataclasses.fields(cls))


@cache
def _readers(cls: type) -> Mapping[str, Callable[[Any], Any] | None]:
    return {name: _reader(hint) for name, hint in get_type_hints(cls).items()}


@cache
def _reader(hint: Any) -> Callable[[Any], Any] | None:
    """How a value that came from JSON takes the shape that the annotation ``hint`` names; None where it has it."""
    if isinstance(hint, type) and issubclass(hint, Record):
        return hint.from_json
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return hint
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return next(filter(None, map(_reader, args)), None)
    if origin is tuple:
        of = _reader(args[0])
        return tuple if of is None else lambda values: tuple(map(of, values))
    if origin in (Mapping, dict):
        to = _reader(args[1])
        return dict if to is None else lambda items: {k: to(v) for k, v in items.items()}
    return None


_PLAIN = frozenset({str, int, float, bool, type(None)})


def plain(value: Any) -> Any:
    if type(value) in _PLAIN:  # most are, and asking whether something is a Mapping takes long
        return value
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
        return {name: plain(getattr(self, name)) for name in _names(type(self))}  # type: ignore[arg-type] # a class is hashable

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        readers = _readers(cls)  # type: ignore[arg-type] # likewise
        given = {k: v for k, v in data.items() if k in readers}
        return cls(**{k: v if v is None or (read := readers[k]) is None else read(v) for k, v in given.items()})
