"""A prompt: one version of a chat template, and whether a suite's scenarios fill it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from ..errors import CatalogError
from ..records import CONVERSATION, Message, Prompt, Role, Scenario, conversation, is_message, sha256
from .schema import PromptFile, hint, name_problem, validate
from .template import placeholders, render, stray
from .yamlfile import Located, check_open, is_file, parse, read_text

_MEANT = re.compile(r"([^.].*)\.(?:yml|yaml)(?:\.txt)?", re.IGNORECASE | re.DOTALL)
"""The name of a file whose writer takes it for a prompt."""


def load_prompt(file: Path, task: str) -> Prompt:
    """Read one version of a prompt; its ``sha256`` covers messages and params, not the description or lineage."""
    return read_prompt(file, task)[0]


def read_prompt(file: Path, task: str) -> tuple[Prompt, Located]:
    """``load_prompt``, and the document, which knows the lines."""
    problem = name_problem(file.stem)
    if problem:
        raise CatalogError(f"{file}: the version {file.stem!r} {problem}; rename the file")
    document = parse(read_text(file), file)
    shape = validate(PromptFile, document)
    messages = tuple(Message(role=m.role, content=m.content) for m in shape.messages)
    content = {"messages": [m.to_json() for m in messages], "params": shape.params}
    prompt = Prompt(task=task, version=file.stem, messages=messages, params=shape.params, sha256=sha256(content))
    return prompt, document


def no_prompt(content: Mapping[str, Any]) -> str | None:
    """Why a file with this content, which stands elsewhere, would be no prompt of any suite; None where it would be."""
    try:
        shape = validate(PromptFile, Located(file=Path("-"), data=dict(content), lines={}, name="the prompt"))
    except CatalogError as error:
        return str(error).splitlines()[0].partition(": ")[2]
    left = next(filter(None, (stray(m.content) for m in shape.messages)), None)
    return None if left is None else f"{left[:40]!r} is no placeholder"


def versions(folder: Path) -> Mapping[str, Path]:
    """The prompts of a folder by version, in the order of their names. Hidden files are an editor's, not a prompt.

    CatalogError for a ``.yml``, ``.YAML`` or ``.yaml.txt``, which its writer takes for one of them (Windows hides what
    its editor puts behind a name), and for a closed folder.
    """
    check_open(folder, os.R_OK | os.X_OK)
    for file in sorted(folder.glob("*")):
        meant = _MEANT.fullmatch(file.name)
        if meant and file.suffix != ".yaml":
            raise CatalogError(f"{file}: a prompt's file ends in .yaml; rename it to {meant[1]}.yaml, or take it away")
    return {f.stem: f for f in sorted(folder.glob("*.yaml")) if not f.name.startswith(".") and is_file(f)}


def check_placeholders(
    prompt: Prompt, document: Located, scenarios: Sequence[Scenario], places: Mapping[str, str]
) -> None:
    """CatalogError for a placeholder that has no end, or no value in a scenario; vars that none uses are fine.

    So it is for a conversation that is no list of messages, and a prompt that leaves none in some scenario. ``places``
    says by scenario id in which file and line it stands.
    """
    for i, message in enumerate(prompt.messages):
        left = stray(message.content)
        if left is not None:
            raise CatalogError(
                f"{document.file}:{document.line(('messages', i, 'content'))}: prompt {prompt.task}/{prompt.version}: "
                f"{left[:40]!r} is no placeholder; expected {{{{ name }}}} with the name of one of "
                "the scenarios' vars (two braces that are meant as such can stand in a var's value)"
            )
        for name in placeholders([message]):
            for scenario in scenarios:
                if scenario.vars.get(name) is None:
                    have = ", ".join(scenario.vars) or "none"
                    why = f"{hint(name, list(scenario.vars))}; its vars are: {have}"
                    if any(re.match(rf"{re.escape(var)}\s*[.|\[]", name) for var in scenario.vars):
                        why = f": a placeholder is the name of a var and nothing more, no part or filter of it{why}"
                    if name in scenario.vars:
                        none = "[] for no message" if message.role == CONVERSATION else '"" for no text'
                        why = f", where it is empty or null; write {none}"
                    raise CatalogError(
                        f"{document.file}:{document.line(('messages', i, 'content'))}: prompt {prompt.task}/"
                        f"{prompt.version}: the placeholder {{{{ {name} }}}} has no value in scenario "
                        f"{scenario.id!r} ({places[scenario.id]}){why}"
                    )
                if message.role == CONVERSATION and conversation(scenario.vars[name]) is None:
                    place = places[scenario.id]
                    csv = "; a CSV has no lists: write its scenarios as a .jsonl or .yaml"
                    raise CatalogError(
                        f"{place}: scenario {scenario.id!r}: {name}, the conversation in prompt {prompt.task}/"
                        f"{prompt.version}, {_no_conversation(scenario.vars[name])}"
                        + (csv if re.search(r"\.csv:\d+$", place, re.IGNORECASE) else "")
                    )
    bare = all(m.role == CONVERSATION for m in prompt.messages)  # only such a prompt can be empty
    empty = next((s for s in scenarios if bare and not render(prompt.messages, s.vars)), None)
    if empty is not None:
        raise CatalogError(
            f"{places[empty.id]}: scenario {empty.id!r}: its conversation is empty, and prompt "
            f"{prompt.task}/{prompt.version} has no message of its own, so there is nothing to ask"
        )


def _no_conversation(value: object) -> str:
    """What keeps a value from being one, and what was expected, to follow its name."""
    messages = "a list of messages, as in [{role: user, content: Hi}, {role: assistant, content: Hello}]"
    if not isinstance(value, list | tuple):
        kind = "the text " if isinstance(value, str) else ""
        return f"is {kind}{value!r:.80}; expected {messages}"
    number, wrong = next((i, m) for i, m in enumerate(value, 1) if not is_message(m))
    if not isinstance(wrong, Mapping):
        return f"has {wrong!r:.80} as message {number}; expected {messages}"
    if set(wrong) != {"role", "content"}:
        return f"has the keys {list(wrong)!r:.80} in message {number}; expected role and content, and no other"
    if wrong["role"] not in get_args(Role):
        return f"has the role {wrong['role']!r:.80} in message {number}; expected one of {', '.join(get_args(Role))}"
    return f"has {wrong['content']!r:.80} as the content of message {number}; expected a text"
