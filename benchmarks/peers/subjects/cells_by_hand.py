"""What one would write by hand: a test and an MLflow run for each cell."""

import os
import time

import litellm
import mlflow
import pytest
from work import EXPECTED, MODELS, PROMPTS, SCENARIOS, messages

mlflow.set_experiment("bench")


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("model", MODELS)
def test_cell(model: str, prompt: str, scenario: str) -> None:
    asked = messages(prompt, scenario)
    with mlflow.start_run(run_name=f"{model}-{prompt}-{scenario}"):
        mlflow.log_params({"model": model, "prompt": prompt, "scenario": scenario})
        start = time.perf_counter()
        reply = litellm.completion(model=f"openai/{model}", messages=asked, api_base=os.environ["OPENAI_BASE_URL"])
        text = reply.choices[0].message.content
        ok = EXPECTED in text
        mlflow.log_text(asked[1]["content"], "prompt.txt")
        mlflow.log_text(text, "output.txt")
        mlflow.log_metrics(
            {
                "latency_s": time.perf_counter() - start,
                "prompt_tokens": reply.usage.prompt_tokens,
                "completion_tokens": reply.usage.completion_tokens,
                "score": float(ok),
            }
        )
        assert ok
