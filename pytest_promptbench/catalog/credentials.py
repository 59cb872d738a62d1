"""Keys and passwords that do not belong into files: found by the name of what holds them, never shown."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from ..redaction import secret_name

_HEADERS = ("extra_headers", "headers", "default_headers", "extra_query")
_SIGNED = re.compile(r"(?:^|_)(?:key|auth|token|sig|signature|code)$")
"""What a header or a query calls a key besides."""
_SCHEMAS = frozenset(
    {
        "response_format", "json_schema", "schema", "guided_json", "properties", "patternProperties", "$defs",
        "definitions", "default", "examples",
    }
)  # fmt: skip
"""Below these, names are what a model is to write, not what we send."""


def secret_in(params: Mapping[str, Any]) -> str | None:
    """The dotted name of the first parameter that holds a key, as one of an MCP server; None where there is none."""
    return _below(params, header=False)


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
        if _carries(str(name), header=header) or _is_secret_address(name, inner):
            return str(name)
        found = None if name in _SCHEMAS else _below(inner, header=header or name in _HEADERS)
        if found is not None:
            return f"{name}.{found}"
    return None


def _is_secret_address(name: str, value: Any) -> bool:
    try:
        return name.endswith("url") and isinstance(value, str) and secret_in_address(value)
    except ValueError:  # whoever is sent it will say that it is none
        return False
