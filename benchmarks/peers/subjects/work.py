"""The work, the same for every tool: 4 models x 3 prompts x CELLS / 12 scenarios, and one cheap check of the answer."""

import os

MODELS = ("alpha", "bravo", "charlie", "delta")
PROMPTS = ("brief", "steps", "json")
SCENARIOS = [f"topic {i}" for i in range(int(os.environ["CELLS"]) // (len(MODELS) * len(PROMPTS)))]
CELLS = [(model, prompt, scenario) for model in MODELS for prompt in PROMPTS for scenario in SCENARIOS]
EXPECTED = "."


def messages(prompt: str, scenario: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": f"be {prompt}"}, {"role": "user", "content": f"Tip: {scenario}"}]
