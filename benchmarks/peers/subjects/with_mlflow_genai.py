"""mlflow.genai.evaluate over all cells at once; a trace with an assessment for each is its store."""

import os

import litellm
import mlflow
from mlflow.genai.scorers import scorer
from work import CELLS, EXPECTED, messages

mlflow.set_experiment("bench")


@scorer
def contains(outputs: str, expectations: dict[str, str]) -> bool:
    return expectations["expected"] in outputs


def predict(model: str, prompt: str, scenario: str) -> str:
    base = os.environ["OPENAI_BASE_URL"]
    reply = litellm.completion(model=f"openai/{model}", messages=messages(prompt, scenario), api_base=base)
    return reply.choices[0].message.content


mlflow.genai.evaluate(
    data=[
        {"inputs": {"model": m, "prompt": p, "scenario": s}, "expectations": {"expected": EXPECTED}}
        for m, p, s in CELLS
    ],
    predict_fn=predict,
    scorers=[contains],
)
