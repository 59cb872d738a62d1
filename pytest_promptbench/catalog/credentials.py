"""Keys and passwords that do not belong into files: found by the name of what holds them, never shown."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from ..redaction import secret_name

_HEADERS = ("extra_headers", "headers", "default_headers", "extra_query")
_CARRIERS = (*_HEADERS, "extra_body")
"""Parameters that are handed on as they are, so that a key may stand in them."""
_SIGNED = re.compile(r"(?:^|_)(?:key|auth|token|sig|signature|code)$")
"""What a header or a query calls a key besides."""
_SCHEMAS = ("response_format", "json_schema", "schema", "guided_json", "properties", "tools")
"""Below these, names are what a model is to write, not what we send."""


def secret_in(params: Mapping[str, Any]) -> str | None:
    """The dotted name of the first parameter that holds a key; None where there is none."""
    for name, value in params.items():
        if secret_name(name):
            return name
        inner = _below(value, header=name in _HEADERS) if name in _CARRIERS else None
        if inner is not None:
            return f"{name}.{inner}"
    return None


def secret_in_address(url: str) -> bool:
    """Whether an address holds a user, a password, or a query with a key. ValueError where it is no address."""
    parts = urlsplit(url)
    names = [name for name, _ in parse_qsl(parts.query, keep_blank_values=True)]
    return "@" in parts.netloc or any(_carries(name, header=True) for name in names)


def _carries(name: str, *, header: bool) -> bool:
    return secret_name(name) or (header and _SIGNED.search(name.replace("-", "_").lower()) is not None)


def _below(value: Any, *, header: bool) -> str | None:
    """The dotted name of the first entry below that holds a key."""
    if isinstance(value, list | tuple):
        return next((found for one in value if (found := _below(one, header=header))), None)
    if not isinstance(value, Mapping):
        return None
    for name, inner in value.items():
        if _carries(str(name), header=header):
            return str(name)
        found = None if name in _SCHEMAS else _below(inner, header=header)
        if found is not None:
            return f"{name}.{found}"
    return None
