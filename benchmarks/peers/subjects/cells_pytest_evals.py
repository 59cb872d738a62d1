from typing import Any

import pytest
from openai import OpenAI
from work import EXPECTED, MODELS, PROMPTS, SCENARIOS, messages

client = OpenAI()


@pytest.mark.eval(name="bench")
@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("model", MODELS)
def test_cell(model: str, prompt: str, scenario: str, eval_bag: Any) -> None:
    reply = client.chat.completions.create(model=model, messages=messages(prompt, scenario))
    eval_bag.output = reply.choices[0].message.content
    eval_bag.ok = EXPECTED in eval_bag.output
    assert eval_bag.ok


@pytest.mark.eval_analysis(name="bench")
def test_analysis(eval_results: Any) -> None:
    assert all(r.result.ok for r in eval_results)
