import pytest
from contains import Contains
from deepeval import assert_test
from deepeval.test_case import LLMTestCase
from openai import OpenAI
from work import EXPECTED, MODELS, PROMPTS, SCENARIOS, messages

client = OpenAI()


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("model", MODELS)
def test_cell(model: str, prompt: str, scenario: str) -> None:
    reply = client.chat.completions.create(model=model, messages=messages(prompt, scenario))
    case = LLMTestCase(
        name=f"{model}/{prompt}/{scenario}",
        input=scenario,
        actual_output=reply.choices[0].message.content,
        expected_output=EXPECTED,
    )
    assert_test(case, [Contains()])
