"""The evals that are shipped, on the real embedded models."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from pytest_promptbench.catalog import load_suite
from pytest_promptbench.localmodels import installed

from .project import Project, children_of
from .provider import ScriptedProvider

ROOT = Path(__file__).parent.parent


def test_the_suite_is_as_large_and_varied_as_promised() -> None:
    suite = load_suite(ROOT / "evals/tips.yaml", root=ROOT, environ={}, reachable=lambda _: False)
    assert len(suite.scenarios) >= 12
    assert [p.version for p in suite.prompts] == ["v1", "v2-mentor", "v3-few-shot"]
    assert len(suite.models) == 2
    assert all(m.embedded for m in suite.models)
    assert suite.rubric.top == 15
    assert len({t for s in suite.scenarios for t in s.tags}) >= 8
    assert len(suite.rubric.text) <= 8000, "longer, it would not fit into the tag rubric_text"
    keys = {"ANTHROPIC_API_KEY": "x", "OPENAI_API_KEY": "x", "GEMINI_API_KEY": "x"}
    hosted = load_suite(ROOT / "evals/tips.yaml", root=ROOT, environ=keys, reachable=lambda _: True)
    assert len(hosted.models) >= 5
    assert hosted.judge is not None


@pytest.mark.embedded
def test_real_models_answer_real_scenarios_under_three_prompts(tmp_path: Path) -> None:
    reason = installed("embedded/smollm2-135m")
    if reason:
        pytest.skip(reason)
    for folder in ("evals", "prompts", "rubrics"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    with ScriptedProvider() as unused:
        project = Project(tmp_path, unused)
        scenario = json.dumps(load_suite(ROOT / "evals/tips.yaml", root=ROOT, environ=os.environ).scenarios[0].id)[1:-1]
        result = project.pytest("-n", "2", "-k", scenario)
        assert result.code == 0, result.text
        assert result.outcomes() == {"passed": 6}
        candidates = project.store.texts(project.store.read(project.experiment()))
        assert len({c.outputs for c in candidates}) >= 5, "two parameter sets and three prompts give different texts"
        assert all(len((c.outputs or ("",))[0].split()) > 2 for c in candidates)
        assert all(c.cost_usd is None and c.completion_tokens for c in candidates)
        assert "left out: haiku" in result.out
        assert children_of(tmp_path) == [], "the model server ends with the session"
