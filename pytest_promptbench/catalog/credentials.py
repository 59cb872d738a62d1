"""Keys and passwords that do not belong into files: found by the name of what holds them, never shown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import parse_qsl, urlsplit

_SECRET = re.compile(
    r"(?:^|_)(?:api_?key|key_id|secret|password|passwd|authorization|credentials?|cookie)(?:_|$)"
    r"|(?:^|_)(?:access|api|auth|bearer|session|security|ad|hf)_token$"
    r"|^(?:token|bearer)$"
)
_CARRIERS = ("extra_headers", "headers", "default_headers", "extra_body", "extra_query")
"""Parameters that are handed on as they are, so that a key may stand right in them; further down are schemas."""


def secret_name(name: str) -> bool:
    """Whether something of this name holds a key: ``api_key``, ``X-Api-Key``, ``aws_secret_access_key``..."""
    snake = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name)
    return _SECRET.search(snake.replace("-", "_").lower()) is not None


def secret_in(params: Mapping[str, Any]) -> str | None:
    """The dotted name of the first parameter that holds a key; None where there is none."""
    for name, value in params.items():
        if secret_name(name):
            return name
        inner = _first(value) if name in _CARRIERS and isinstance(value, Mapping) else None
        if inner is not None:
            return f"{name}.{inner}"
    return None


def secret_in_address(url: str) -> bool:
    """Whether an address holds a user, a password, or a query with a key. ValueError where it is no address."""
    parts = urlsplit(url)
    return "@" in parts.netloc or _first(name for name, _ in parse_qsl(parts.query, keep_blank_values=True)) is not None


def _first(names: Iterable[str]) -> str | None:
    return next((name for name in names if secret_name(name)), None)
