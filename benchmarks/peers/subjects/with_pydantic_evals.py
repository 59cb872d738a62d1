"""pydantic-evals keeps nothing by itself: its report is written to a file with its own adapter."""

import asyncio
from pathlib import Path

from openai import AsyncOpenAI
from pydantic_evals import Case, Dataset
from pydantic_evals.evaluators import Evaluator, EvaluatorContext
from pydantic_evals.reporting import EvaluationReportAdapter
from work import CELLS, EXPECTED, messages

client = AsyncOpenAI()


class Contains(Evaluator):
    def evaluate(self, ctx: EvaluatorContext) -> bool:
        return ctx.expected_output in ctx.output


async def ask(cell: tuple[str, str, str]) -> str:
    model, prompt, scenario = cell
    reply = await client.chat.completions.create(model=model, messages=messages(prompt, scenario))
    return reply.choices[0].message.content


cases = [Case(name="/".join(cell), inputs=cell, expected_output=EXPECTED) for cell in CELLS]
dataset = Dataset(name="bench", evaluators=[Contains()], cases=cases)
report = asyncio.run(dataset.evaluate(ask, max_concurrency=64, progress=False))
Path("report.json").write_bytes(EvaluationReportAdapter.dump_json(report))
