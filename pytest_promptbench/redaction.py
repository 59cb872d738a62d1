"""Keys in what others say: the variables that hold one, and how its value may be spelt."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Mapping
from urllib.parse import quote, quote_plus

_SECRET = re.compile(
    r"(?:^|_)(?:api_?key|key_id|secret|password|passwd|authorization|credentials?|cookie)(?:_|$)"
    r"|(?:^|_)(?:access|api|auth|bearer|session|security|ad|hf)_token$"
    r"|^(?:token|bearer)$"
)

_LONG_ENOUGH = 8
"""A key in base64 that is shorter would be found in words that have nothing to do with it."""


def secret_name(name: str) -> bool:
    """Whether something of this name holds a key: ``api_key``, ``X-Api-Key``, ``aws_secret_access_key``..."""
    snake = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name)
    return _SECRET.search(snake.replace("-", "_").lower()) is not None


def keys_in(environ: Mapping[str, str]) -> set[str]:
    """The values of the variables whose names say that they hold a key; none so short that it stands in other words."""
    return {v for k, v in environ.items() if (secret_name(k) or k.endswith("_TOKEN")) and len(v) >= 6}


def spellings(values: Iterable[str]) -> list[str]:
    """These secrets as an error may quote them, the longest first, since one may be a part of another."""
    return sorted({form for v in values for form in _forms(v)}, key=len, reverse=True)


def _forms(value: str) -> set[str]:
    """A secret as an address, JSON and base64 have it; that at each of three offsets, as in ``user:KEY`` of HTTP."""
    data = value.encode("utf-8", "surrogateescape")  # a variable may hold any bytes
    in_json = json.dumps(value)[1:-1]
    forms = {value, quote(data, safe=""), quote_plus(data), in_json, in_json.replace("/", "\\/")}
    for offset in range(3):
        whole = base64.b64encode(bytes(offset) + data).decode()
        sure = whole[(0, 2, 3)[offset] : (len(data) + offset) * 4 // 3]  # without what hangs on what stands beside it
        if len(sure) >= _LONG_ENOUGH:
            forms |= {sure, sure.replace("+", "-").replace("/", "_")}
    return forms
