"""A project whose prompt can be improved, and ``promptbench optimize`` on it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .project import Project, Result, migrated_database
from .provider import ScriptedProvider

SUITE = "prompts: [v1]\nmodels: [writer]\njudge: {model: judge}\n"


def reply(body: dict[str, Any]) -> str:
    """A writer that repeats its system prompt, a judge that likes "concrete", a proposer that finds it in round 2."""
    system, last = body["messages"][0]["content"], body["messages"][-1]["content"]
    if system.startswith("You improve prompts"):
        question = body["messages"][1]["content"]
        wish = "concrete" if "Tried before" in question else "vague"
        return f"It is too general.\n<prompt>be v1 and {wish}, turn {question.count('- round')}</prompt>"
    if system.startswith("You are a careful, impartial judge"):
        text = re.search(r"<text-\w+>\n(.*?)\n</text-", body["messages"][1]["content"], re.DOTALL)[1]
        number = int(re.search(r"situation-(\d+)", text)[1])
        points = 5 if "concrete" in text else 1 if "vague" in text else 3 - number % 2
        scores = {"relevance": points, "actionability": points, "tone": 3 + number % 2, "format_ok": True}
        return json.dumps({"rationale": f"it is worth {points}", **scores})
    return f"{system}: {last}"


def is_judge(body: dict[str, Any]) -> bool:
    return str(body["messages"][0]["content"]).startswith("You are a careful")


def is_proposer(body: dict[str, Any]) -> bool:
    return str(body["messages"][0]["content"]).startswith("You improve prompts")


def loop_project(root: Path, provider: ScriptedProvider, *, priced: bool = False, **more: Any) -> Project:
    """20 scenarios, one prompt, an empty MLflow database. ``priced``: models that LiteLLM knows the price of."""
    given = {"models": ("writer", "judge"), "prompts": ("v1",), "scenarios": 20, "suite": SUITE, **more}
    project = Project(root, provider, **given).write()
    if priced:
        file = root / "evals/models.yaml"
        text = file.read_text().replace("openai/writer", "openai/gpt-4o").replace("openai/judge", "openai/gpt-4o-mini")
        file.write_text(text.replace("api_base", "params: {max_tokens: 60}, api_base"))
    migrated_database(root / "mlflow.db")
    return project


BY_CHECKS = """\
---
id: tip-v1
criteria:
  - {name: right, type: flag, bad: false, penalty: 2, check: {equals_var: label}}
  - {name: wordy, type: flag, bad: true, penalty: 1, check: {max_words: 6}}
---
# The label, and nothing else
"""


def labelling(body: dict[str, Any]) -> str:
    """A writer that gives the label alone where it is told to, and a proposer that does so in round 2."""
    system, last = body["messages"][0]["content"], body["messages"][-1]["content"]
    if system.startswith("You improve prompts"):
        wish = "give the label alone" if "Tried before" in body["messages"][1]["content"] else "explain at length"
        return f"<prompt>be v1 and {wish}</prompt>"
    return str(last).replace("Tip: situation", "label") if "label alone" in system else f"{system}: {last}"


def checked_project(root: Path, provider: ScriptedProvider, **more: Any) -> Project:
    """As ``loop_project``, under a rubric of checks alone, of which one compares with a reference."""
    provider.reply = labelling
    project = loop_project(root, provider, models=("writer",), suite="prompts: [v1]\nmodels: [writer]\n", **more)
    project.file("rubrics/tip-v1.md", BY_CHECKS)
    suite = project.root / "evals" / "tips.yaml"
    suite.write_text(
        re.sub(r"situation: situation-(\d+)", r"situation: situation-\1, label: label-\1", suite.read_text())
    )
    return project


def optimize(project: Project, *args: str) -> Result:
    return project.python("-m", "pytest_promptbench", "optimize", *args)


def loop_of(result: Result) -> str:
    found = re.search(r"--resume ([0-9a-f]{6})", result.out)
    assert found, result.text
    return found[1]


def outcome(project: Project, loop: str) -> dict[str, Any]:
    file = project.root / ".promptbench" / "optimize" / loop / "result.json"
    value: dict[str, Any] = json.loads(file.read_text())
    return value


def score(
    path: Path,
    points: Callable[[str], int] | None = None,
    *,
    kind: str = "claude-code",
    only: Callable[[str], bool] = lambda _: True,
) -> None:
    """Fill a packet as a judge of this ``kind`` would who likes "concrete", or as much of it as ``only`` says."""
    packet = json.loads(path.read_text())
    packet["judge_kind"] = kind
    for item in packet["items"]:
        assert "prompt" not in item
        for entry in item["candidates"]:
            text = entry["output"]
            if not only(text):
                continue
            value = points(text) if points else 5 if "concrete" in text else 1 if "vague" in text else 3
            entry["scores"].update(relevance=value, actionability=value, tone=3, format_ok=True)
    path.write_text(json.dumps(packet))


def asked(provider: ScriptedProvider) -> list[str]:
    return [json.dumps([r["model"], r["messages"]]) for r in provider.requests]
