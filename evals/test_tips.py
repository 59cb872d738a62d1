"""The tip task: one short, practical tip for somebody's situation.

What holds for every tip is asserted here, and passes or fails at once. How good a tip is, a judge says later against
rubrics/tip-v1.md: ``pytest evals/ --judge-export packet.json``, or ``/judge-mlflow`` in Claude Code.
"""

import pytest


@pytest.mark.promptbench("tips.yaml")
def test_tip(candidate):
    assert len(candidate.text.split()) >= 3, "a tip has at least a verb and two words more"
    assert "<|" not in candidate.text, "the model's chat markers have leaked into the text"
