"""deepeval's own asynchronous way."""

import asyncio

from contains import Contains
from deepeval.dataset import EvaluationDataset, Golden
from deepeval.evaluate.configs import AsyncConfig, DisplayConfig
from deepeval.test_case import LLMTestCase
from deepeval.tracing import observe, update_current_span
from openai import AsyncOpenAI
from work import CELLS, EXPECTED, messages

client = AsyncOpenAI()


@observe(metrics=[Contains()])
async def app(model: str, prompt: str, scenario: str) -> str:
    reply = await client.chat.completions.create(model=model, messages=messages(prompt, scenario))
    text = reply.choices[0].message.content
    update_current_span(test_case=LLMTestCase(input=scenario, actual_output=text, expected_output=EXPECTED))
    return text


dataset = EvaluationDataset(goldens=[Golden(input=str(i), expected_output=EXPECTED) for i in range(len(CELLS))])
for golden in dataset.evals_iterator(
    async_config=AsyncConfig(run_async=True, max_concurrent=64),
    display_config=DisplayConfig(show_indicator=False, print_results=False),
):
    dataset.evaluate(asyncio.create_task(app(*CELLS[int(golden.input)])))
