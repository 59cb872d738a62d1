"""A proposed prompt as an ordinary file with its lineage, and its difference from its parent."""

from __future__ import annotations

import difflib
import re
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ..catalog import load_prompt
from ..errors import CatalogError, UsageError
from ..files import replace_file
from ..records import Prompt

_WIDTH = 100
_ODD_BREAKS = re.compile("[\x85\u2028\u2029]")
"""They end a line of a block too, and a reader makes plain newlines of some: only in quotes do they stay themselves."""


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as blocks, so that a person can read and edit them."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    number = text[:1] in tuple("+-.0123456789")  # or would be one to a reader of YAML 1.2
    style = "|" if "\n" in text else ">" if len(text) > _WIDTH else '"' if number else None
    if _ODD_BREAKS.search(text):
        style = '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def as_yaml(prompt: Prompt, lineage: Mapping[str, Any]) -> str:
    """The file's text: a prompt like any other, with where it comes from under ``lineage``."""
    content: dict[str, Any] = {"messages": [m.to_json() for m in prompt.messages]}
    if prompt.params:
        content["params"] = dict(prompt.params)
    content["lineage"] = dict(lineage)
    head = f"# Proposed by promptbench optimize, round {lineage.get('round')} of loop {lineage.get('loop')}.\n"
    return head + yaml.dump(
        content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=_WIDTH, default_flow_style=False
    )


def write_prompt(folder: Path, prompt: Prompt, lineage: Mapping[str, Any]) -> Path:
    """``<version>.yaml`` in the task's folder. A file that is there stays; UsageError where it holds another text."""
    path = folder / f"{prompt.version}.yaml"
    if not path.exists():
        replace_file(path, as_yaml(prompt, lineage))
    try:
        same = load_prompt(path, prompt.task).sha256 == prompt.sha256
    except CatalogError:
        same = False
    if not same:
        raise UsageError(f"{path}: there is another prompt of that name; move it away, and resume the loop")
    return path


def origin(folder: Path, version: str) -> str | None:
    """The loop that a prompt's file says it comes from; None where it says nothing, or there is no file."""
    try:
        found = yaml.safe_load((folder / f"{version}.yaml").read_text(encoding="utf-8"))["lineage"]["loop"]
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError):
        return None
    return str(found)


def difference(before: Prompt, after: Prompt) -> str:
    """A unified diff of the messages, long lines wrapped so that a changed sentence is a changed line."""
    lines = difflib.unified_diff(
        _lines(before), _lines(after), fromfile=before.version, tofile=after.version, lineterm="", n=2
    )
    return "\n".join(lines)


def _lines(prompt: Prompt) -> list[str]:
    lines = []
    for m in prompt.messages:
        lines.append(f"[{m.role}]")
        for paragraph in m.content.split("\n"):
            lines.extend(textwrap.wrap(paragraph, _WIDTH, break_long_words=False, break_on_hyphens=False) or [""])
    return lines
