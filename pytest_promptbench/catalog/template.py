"""The prompts' template language, all of it: ``{{ name }}`` is replaced by the scenario's value of that name.

No expressions, no filters, no second pass: a value that holds ``{{ x }}`` is text like any other.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..records import Message

PLACEHOLDER = re.compile(r"\{\{([^{}]*)\}\}")
"""Whatever stands between the braces is a name, but for the space around it: values may come from any CSV column."""


def placeholders(messages: Sequence[Message]) -> list[str]:
    """The names that the messages use, in order of their first appearance."""
    return list(dict.fromkeys(m[1].strip() for message in messages for m in PLACEHOLDER.finditer(message.content)))


def stray(text: str) -> str | None:
    """Where two braces open that are no placeholder's, the text from there on; None where there are none."""
    rest = PLACEHOLDER.sub("", text)
    return rest[rest.index("{{") :] if "{{" in rest else None


def render(messages: Sequence[Message], values: Mapping[str, Any]) -> tuple[Message, ...]:
    """The messages with every placeholder filled. KeyError for a name that ``values`` does not have.

    Texts and numbers stand as they are; everything else as JSON.
    """
    return tuple(
        Message(role=m.role, content=PLACEHOLDER.sub(lambda found: _text(values[found[1].strip()]), m.content))
        for m in messages
    )


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return json.dumps(value, ensure_ascii=False)
