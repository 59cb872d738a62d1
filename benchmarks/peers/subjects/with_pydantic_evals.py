"""pydantic-evals keeps nothing by itself: its report is written to a file with its own adapter."""

import asyncio
from pathlib import Path

from client import answer
from pydantic_evals import Case, Dataset
from pydantic_evals.evaluators import Evaluator, EvaluatorContext
from pydantic_evals.reporting import EvaluationReportAdapter
from work import CELLS, EXPECTED, messages


class Contains(Evaluator):
    def evaluate(self, ctx: EvaluatorContext) -> bool:
        return ctx.expected_output in ctx.output


async def ask(cell: tuple[str, str, str]) -> str:
    model, prompt, scenario = cell
    return await answer(model, messages(prompt, scenario))


cases = [Case(name="/".join(cell), inputs=cell, expected_output=EXPECTED) for cell in CELLS]
dataset = Dataset(name="bench", evaluators=[Contains()], cases=cases)
report = asyncio.run(dataset.evaluate(ask, max_concurrency=64, progress=False))
Path("report.json").write_bytes(EvaluationReportAdapter.dump_json(report))
