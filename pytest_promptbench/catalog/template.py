"""The prompts' template language, all of it: ``{{ name }}`` is replaced by the scenario's value of that name.

No expressions, no filters, no second pass: a value that holds ``{{ x }}`` is text like any other. Where the message's
role is ``placeholder``, the value is a conversation, whose messages take the place of that one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..records import CONVERSATION, Message, conversation

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

    Texts and numbers stand as they are; everything else as JSON. ValueError for a conversation that is none.
    """
    filled: list[Message] = []
    for m in messages:
        if m.role == CONVERSATION:
            (name,) = placeholders([m])
            turns = conversation(values[name])
            if turns is None:
                raise ValueError(f"the var {name!r} is no list of messages")
            filled.extend(turns)
        else:
            text = PLACEHOLDER.sub(lambda found: _text(values[found[1].strip()]), m.content)
            filled.append(Message(role=m.role, content=text))
    return tuple(filled)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return json.dumps(value, ensure_ascii=False)
