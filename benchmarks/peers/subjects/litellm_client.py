"""LiteLLM in its place, as pytest-promptbench uses it."""

import os

import litellm


async def answer(model: str, messages: list[dict[str, str]]) -> str:
    base = os.environ["OPENAI_BASE_URL"]
    reply = await litellm.acompletion(model=f"openai/{model}", messages=messages, api_base=base)
    return reply.choices[0].message.content
